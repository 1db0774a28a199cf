// Telling systemd how we are (sd_notify(3)): one datagram to the socket that NOTIFY_SOCKET names.
//
//   READY=1  STOPPING=1  WATCHDOG=1  STATUS=…  MAINPID=…      lines, any number of them in a datagram
//
// A name that begins with @ is in the abstract name space (a zero byte instead of the @, no zero at the end).

import { closeFd } from './fd.ts';
import { c, NativeBuffer } from './ffi.ts';

const AF_UNIX = 1;
const SOCK_DGRAM = 2;
const SOCK_NONBLOCK = 0x800;
const SOCK_CLOEXEC = 0x80000;
const MSG_NOSIGNAL = 0x4000;
const PATH_ROOM = 107;

/** Sends the lines. False: nobody to tell, or the service manager does not listen; never throws. */
export function sdNotify(
  lines: readonly string[],
  socket: string | undefined = process.env.NOTIFY_SOCKET,
): boolean {
  if (socket === undefined || !/^[@/]/.test(socket)) return false;
  const name = Buffer.from(socket, 'utf8');
  if (name.length > PATH_ROOM) return false;
  const isAbstract = name[0] === 0x40;
  if (isAbstract) name[0] = 0;
  const address = new NativeBuffer(110);
  address.view.setUint16(0, AF_UNIX, true);
  address.bytes.set(name, 2);
  const text = Buffer.from(lines.join('\n'), 'utf8');
  const data = new NativeBuffer(text.length);
  data.bytes.set(text);
  const fd = c.socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return false;
  const length = 2 + name.length + (isAbstract ? 0 : 1);
  const sent = c.sendto(
    fd,
    data.address,
    BigInt(text.length),
    MSG_NOSIGNAL,
    address.address,
    length,
  );
  closeFd(fd);
  return sent === text.length;
}
