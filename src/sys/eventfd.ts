// Event descriptors (eventfd(2)): doorbells between threads, and between xvio and guests (kick and call).

import { c, check, EAGAIN, EINTR, errno, NativeBuffer, SysError } from './ffi.ts';

const EFD_NONBLOCK = 0x800;
const EFD_CLOEXEC = 0x80000;

const one = new NativeBuffer(8);
one.view.setBigUint64(0, 1n, true);
const scratch = new NativeBuffer(8);

/** A non-blocking event descriptor with counter 0. */
export function eventfdCreate(initial = 0): number {
  return check(c.eventfd(initial, EFD_NONBLOCK | EFD_CLOEXEC), 'eventfd');
}

/**
 * Adds 1. A full counter (EAGAIN) means that the bell is ringing already. Returns false if the descriptor is of no
 * use: a guest may send anything as its call descriptor, and that must not cost more than its own interrupts.
 */
export function eventfdSignal(fd: number): boolean {
  if (c.write(fd, one.address, 8n) === 8) return true;
  const number = errno();
  return number === EAGAIN || number === EINTR;
}

/** Takes the counter and resets it; 0 if it was not signalled. */
export function eventfdTake(fd: number): number {
  if (c.read(fd, scratch.address, 8n) === 8) return Number(scratch.view.getBigUint64(0, true));
  const number = errno();
  if (number === EAGAIN || number === EINTR) return 0;
  throw new SysError('read eventfd', number);
}
