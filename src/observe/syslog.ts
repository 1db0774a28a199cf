// Ways to syslog: --syslog-method=libc|null|unix:FILE|udp:IP:PORT and --syslog-target (ovs-vswitchd(8)).

import { createSocket } from 'node:dgram';
import { c, NativeBuffer } from '../sys/ffi.ts';

export type SyslogSend = (line: string, severity: number) => void;

const AF_UNIX = 1;
const SOCK_DGRAM = 2;
const SOCK_CLOEXEC = 0x80000;
const SOCK_NONBLOCK = 0x800;
const LOG_DAEMON = 3;

/** Sends datagrams to a Unix socket such as /dev/log; silently nothing while nobody listens there. */
function unixDatagrams(path: string): (bytes: Buffer) => void {
  const fd = c.socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  const name = Buffer.from(path);
  const address = new NativeBuffer(2 + name.length + 1);
  address.view.setUint16(0, AF_UNIX, true);
  address.bytes.set(name, 2);
  return (bytes) => {
    const buffer = new NativeBuffer(bytes.length);
    buffer.bytes.set(bytes);
    c.sendto(fd, buffer.address, BigInt(bytes.length), 0, address.address, address.bytes.length);
  };
}

function udpDatagrams(target: string): ((bytes: Buffer) => void) | undefined {
  const match = /^\[?([^\]]+?)\]?:(\d+)$/.exec(target);
  if (!match) return undefined;
  const [, host, port] = match;
  const socket = createSocket(host!.includes(':') ? 'udp6' : 'udp4');
  socket.unref();
  socket.on('error', () => {});
  return (bytes) => socket.send(bytes, Number(port), host);
}

/**
 * The sender for a method ('' or undefined: libc, that is /dev/log). Returns undefined for `null`;
 * throws Error with a text for a method that does not exist.
 */
export function syslogSender(program: string, method: string | undefined): SyslogSend | undefined {
  const name = method || 'libc';
  if (name === 'null') return undefined;
  let send: ((bytes: Buffer) => void) | undefined;
  if (name === 'libc') send = unixDatagrams('/dev/log');
  else if (name.startsWith('unix:')) send = unixDatagrams(name.slice(5));
  else if (name.startsWith('udp:')) send = udpDatagrams(name.slice(4));
  if (!send) throw new Error(`unsupported syslog method '${name}'`);
  return (line, severity) =>
    send(Buffer.from(`<${LOG_DAEMON * 8 + severity}>${program}[${process.pid}]: ${line}`));
}
