// AF_UNIX stream sockets that carry file descriptors (unix(7), SCM_RIGHTS): the transport of vhost-user.
//
// Everything is non-blocking. node:net cannot receive descriptors, hence this file. A path longer than sockaddr_un
// holds (108 bytes) is reached through /proc/self/fd/DIRECTORY/NAME.
//
//   struct msghdr (56 bytes)  0 name  8 namelen u32  16 iov  24 iovlen u64  32 control  40 controllen u64  48 flags i32
//   struct cmsghdr            0 len u64  8 level i32  12 type i32  16 data, padded to 8

import { lstatSync, rmSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { closeFd, O_DIRECTORY, O_PATH, openPath, transferred } from './fd.ts';
import { c, check, EAGAIN, errno, NativeBuffer, SysError } from './ffi.ts';

const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOCK_SEQPACKET = 5;
const SOCK_NONBLOCK = 0x800;
const SOCK_CLOEXEC = 0x80000;
const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;
const MSG_CTRUNC = 0x08;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const MSG_CMSG_CLOEXEC = 0x40000000;
const ECONNREFUSED = 111;
const ECONNABORTED = 103;
const PATH_ROOM = 107;
/** The kernel passes at most SCM_MAX_FD descriptors in one message. */
const MAX_FDS = 253;

/** Calls `use` with a sockaddr_un for the path; a directory that has to be held open is closed afterwards. */
function withAddress<T>(path: string, use: (address: bigint, length: number) => T): T {
  let directory = -1;
  let name = Buffer.from(path, 'utf8');
  if (name.length > PATH_ROOM) {
    directory = openPath(dirname(path), O_PATH | O_DIRECTORY);
    name = Buffer.from(`/proc/self/fd/${directory}/${basename(path)}`, 'utf8');
  }
  try {
    if (name.length > PATH_ROOM) throw new SysError(`bind ${path}`, 36); // ENAMETOOLONG
    const address = new NativeBuffer(110);
    address.view.setUint16(0, AF_UNIX, true);
    address.bytes.set(name, 2);
    return use(address.address, 2 + name.length + 1);
  } finally {
    closeFd(directory);
  }
}

/** Two connected descriptors that keep the boundaries of packets (SOCK_SEQPACKET). Throws SysError. */
export function packetPair(): [number, number] {
  const pair = new NativeBuffer(8);
  const type = SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC;
  check(c.socketpair(AF_UNIX, type, 0, pair.address), 'socketpair');
  return [pair.view.getInt32(0, true), pair.view.getInt32(4, true)];
}

function newSocket(): number {
  return check(c.socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), 'socket');
}

/**
 * Listens at `path` and returns the descriptor. A socket file that nobody listens on any more is replaced; one that is
 * in use gives SysError EADDRINUSE. Other errors as bind(2).
 */
export function unixListen(path: string, backlog = 64): number {
  const fd = newSocket();
  try {
    withAddress(path, (address, length) => {
      if (c.bind(fd, address, length) < 0) {
        const number = errno();
        // connect(2) refuses other files, too: those stay.
        const stale = number === 98 && lstatSync(path).isSocket() && isStale(address, length);
        if (!stale) throw new SysError(`bind ${path}`, number);
        rmSync(path);
        check(c.bind(fd, address, length), `bind ${path}`);
      }
    });
    check(c.listen(fd, backlog), `listen ${path}`);
    return fd;
  } catch (thrown) {
    closeFd(fd);
    throw thrown;
  }
}

function isStale(address: bigint, length: number): boolean {
  const probe = newSocket();
  const result = c.connect(probe, address, length);
  const number = result < 0 ? errno() : 0;
  closeFd(probe);
  return number === ECONNREFUSED;
}

/** Next waiting connection, -1 if there is none. */
export function unixAccept(listenFd: number): number {
  const fd = c.accept4(listenFd, 0n, 0n, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd >= 0) return fd;
  const number = errno();
  if (number === EAGAIN || number === ECONNABORTED || number === 4) return -1;
  throw new SysError('accept', number);
}

/**
 * Connects at once or throws SysError: ENOENT (no file), ECONNREFUSED (nobody listens), EAGAIN (the listener's queue
 * is full: try later). A local stream socket never stays "in progress".
 */
export function unixConnect(path: string): number {
  const fd = newSocket();
  try {
    withAddress(path, (address, length) =>
      check(c.connect(fd, address, length), `connect ${path}`),
    );
    return fd;
  } catch (thrown) {
    closeFd(fd);
    throw thrown;
  }
}

export interface Received {
  /** Bytes received: a view of the receiver's buffer, valid until the next call. Empty = the peer has closed. */
  data: Uint8Array;
  /** Descriptors that came along; they belong to the caller. */
  fds: number[];
  /** Control data did not fit or the descriptor table was full: some descriptors are lost. */
  truncated: boolean;
}

/** Buffers for messages with descriptors; one for each connection or one for all of a thread. */
export class FdMessenger {
  private readonly header = new NativeBuffer(56);
  private readonly iov = new NativeBuffer(16);
  private readonly control = new NativeBuffer(16 + MAX_FDS * 4 + 8);
  private readonly data: NativeBuffer;

  constructor(capacityBytes = 65536) {
    this.data = new NativeBuffer(capacityBytes);
    this.iov.view.setBigUint64(0, this.data.address, true);
    this.header.view.setBigUint64(16, this.iov.address, true);
    this.header.view.setBigUint64(24, 1n, true);
  }

  /** Receives up to `maxBytes`; undefined = nothing there now. Throws SysError (ECONNRESET …). */
  receive(fd: number, maxBytes = this.data.bytes.length): Received | undefined {
    const want = Math.min(maxBytes, this.data.bytes.length);
    this.iov.view.setBigUint64(8, BigInt(want), true);
    this.header.view.setBigUint64(32, this.control.address, true);
    this.header.view.setBigUint64(40, BigInt(this.control.bytes.length), true);
    this.header.view.setInt32(48, 0, true);
    const flags = MSG_DONTWAIT | MSG_CMSG_CLOEXEC;
    const length = transferred(c.recvmsg(fd, this.header.address, flags), 'recvmsg');
    if (length < 0) return undefined;
    return {
      data: this.data.bytes.subarray(0, length),
      fds: this.receivedFds(),
      truncated: (this.header.view.getInt32(48, true) & MSG_CTRUNC) !== 0,
    };
  }

  private receivedFds(): number[] {
    const fds: number[] = [];
    const end = Number(this.header.view.getBigUint64(40, true));
    const view = this.control.view;
    for (let at = 0; at + 16 <= end; ) {
      const length = Number(view.getBigUint64(at, true));
      if (length < 16 || at + length > end) break;
      if (
        view.getInt32(at + 8, true) === SOL_SOCKET &&
        view.getInt32(at + 12, true) === SCM_RIGHTS
      ) {
        for (let i = at + 16; i + 4 <= at + length; i += 4) fds.push(view.getInt32(i, true));
      }
      at += (length + 7) & ~7;
    }
    return fds;
  }

  /**
   * Sends bytes, and with their first byte the descriptors (which stay open here). Returns how many bytes were taken;
   * -1 = none, the socket is full. If fewer than all were taken, send the rest without descriptors.
   */
  send(fd: number, data: Uint8Array, fds: readonly number[] = []): number {
    if (fds.length > MAX_FDS) throw new RangeError('too many file descriptors in one message');
    const length = Math.min(data.length, this.data.bytes.length);
    this.data.bytes.set(data.subarray(0, length));
    this.iov.view.setBigUint64(8, BigInt(length), true);
    const view = this.control.view;
    const controlLength = 16 + fds.length * 4;
    view.setBigUint64(0, BigInt(controlLength), true);
    view.setInt32(8, SOL_SOCKET, true);
    view.setInt32(12, SCM_RIGHTS, true);
    for (let i = 0; i < fds.length; i++) view.setInt32(16 + i * 4, fds[i]!, true);
    const header = this.header.view;
    header.setBigUint64(32, fds.length > 0 ? this.control.address : 0n, true);
    header.setBigUint64(40, BigInt(fds.length > 0 ? (controlLength + 7) & ~7 : 0), true);
    header.setInt32(48, 0, true);
    return transferred(c.sendmsg(fd, this.header.address, MSG_DONTWAIT | MSG_NOSIGNAL), 'sendmsg');
  }
}
