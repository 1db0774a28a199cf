// File descriptors: close, read, write, ioctl, poll(2), and an owner for `using`.

import { c, check, cString, EAGAIN, EINTR, errno, type NativeBuffer, SysError } from './ffi.ts';

export const O_RDONLY = 0;
export const O_RDWR = 2;
export const O_CREAT = 0x40;
export const O_NONBLOCK = 0x800;
export const O_DIRECTORY = process.arch === 'arm64' ? 0x4000 : 0x10000;
export const O_CLOEXEC = 0x80000;
export const O_PATH = 0x200000;

const F_GETFL = 3;
const F_SETFL = 4;

/** Opens a path; the descriptor is closed on exec. Throws SysError. */
export function openPath(path: string, flags: number, mode = 0): number {
  const name = cString(path);
  return check(c.open(name.address, flags | O_CLOEXEC, mode), `open ${path}`);
}

/** Closes; a descriptor that is not open is no error here (there is nothing left to release). */
export function closeFd(fd: number): void {
  if (fd >= 0) c.close(fd);
}

/** Owner of a descriptor: `using owned = new OwnedFd(fd)`. */
export class OwnedFd implements Disposable {
  fd: number;

  constructor(fd: number) {
    this.fd = fd;
  }

  /** Gives the descriptor to somebody else. */
  release(): number {
    const fd = this.fd;
    this.fd = -1;
    return fd;
  }

  [Symbol.dispose](): void {
    closeFd(this.release());
  }
}

/** Makes a descriptor non-blocking (or blocking again). */
export function setNonBlocking(fd: number, on = true): void {
  const flags = check(c.fcntl(fd, F_GETFL, 0n), 'fcntl F_GETFL');
  const wanted = on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK;
  check(c.fcntl(fd, F_SETFL, BigInt(wanted)), 'fcntl F_SETFL');
}

/** Bytes read, 0 at the end, -1 when it would block. */
export function readFd(fd: number, into: NativeBuffer, bytes = into.bytes.length): number {
  return transferred(c.read(fd, into.address, BigInt(bytes)), 'read');
}

/** Bytes written, -1 when it would block. */
export function writeFd(fd: number, from: NativeBuffer, bytes = from.bytes.length): number {
  return transferred(c.write(fd, from.address, BigInt(bytes)), 'write');
}

/** Result of a transfer: bytes, or -1 for EAGAIN and EINTR (try again later), or SysError. */
export function transferred(result: number, syscall: string): number {
  if (result >= 0) return result;
  const number = errno();
  if (number === EAGAIN || number === EINTR) return -1;
  throw new SysError(syscall, number);
}

/** ioctl with a pointer or an integer argument. Gives back what the call gives back. */
export function ioctl(
  fd: number,
  request: number,
  argument: NativeBuffer | bigint,
  what: string,
): number {
  const value = typeof argument === 'bigint' ? argument : argument.address;
  return check(c.ioctl(fd, BigInt(request), value), what);
}

export const POLLIN = 1;
export const POLLOUT = 4;
export const POLLERR = 8;
export const POLLHUP = 16;

/**
 * poll(2) on an array of struct pollfd (fd i32, events i16, revents i16: 8 bytes each) at a raw address: for worker
 * threads, which sleep in the kernel. timeoutMs -1 = for ever. Returns the number of ready descriptors; a signal
 * counts as none.
 */
export function pollRaw(pollfds: bigint, count: number, timeoutMs: number): number {
  const result = c.poll(pollfds, BigInt(count), timeoutMs);
  if (result >= 0) return result;
  const number = errno();
  if (number === EINTR) return 0;
  throw new SysError('poll', number);
}

/** Makes `to` refer to what `from` does (dup2). */
export function duplicateFd(from: number, to: number): void {
  check(c.dup2(from, to), 'dup2');
}
