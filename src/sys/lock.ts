// POSIX record locks (fcntl(2)): what ovs-appctl and other daemons look at in a pidfile or database file.
//
// They belong to the process: closing ANY descriptor of the file in this process drops the lock.
//
//   struct flock   0 i16 type   2 i16 whence   8 i64 start   16 i64 len   24 i32 pid   (32 bytes)

import { c, check, EAGAIN, errno, NativeBuffer, SysError } from './ffi.ts';

const F_GETLK = 5;
const F_SETLK = 6;
const F_WRLCK = 1;
const F_UNLCK = 2;
const EACCES = 13;

function wholeFile(type: number): NativeBuffer {
  const flock = new NativeBuffer(32);
  flock.view.setInt16(0, type, true);
  return flock;
}

/** Locks the whole file for writing, without waiting. False if another process holds it. */
export function tryLock(fd: number): boolean {
  const flock = wholeFile(F_WRLCK);
  if (c.fcntl(fd, F_SETLK, flock.address) === 0) return true;
  const number = errno();
  if (number === EAGAIN || number === EACCES) return false;
  throw new SysError('fcntl F_SETLK', number);
}

/** Process that holds a lock which would stop us, or undefined. Our own lock does not count. */
export function lockHolder(fd: number): number | undefined {
  const flock = wholeFile(F_WRLCK);
  check(c.fcntl(fd, F_GETLK, flock.address), 'fcntl F_GETLK');
  return flock.view.getInt16(0, true) === F_UNLCK ? undefined : flock.view.getInt32(24, true);
}
