// Files of guests that shrink under their mapping: what would be the death of the process is a wait (signal(7), SIGBUS).
//
// A page of a mapped file that the file no longer has (ftruncate by its owner, a huge page pool that ran dry, a full
// tmpfs, a broken memory cell) is a SIGBUS for the thread that touches it, whose default is the end of the process. No
// JavaScript can run in a signal handler, but a C function that only waits can *be* the handler: usleep(3), which gets
// the signal's number, 7, as its microseconds. So the thread repeats its instruction every 60 microseconds or so until
// somebody has mapped something else there. That somebody is the main thread (src/engine/lostMemory.ts): it must never
// touch guest memory itself but through readMapped(), and it blocks the signal, so that a mistake kills, not hangs.
//
//   worker       load → SIGBUS → usleep → load → SIGBUS → … → load (zeros): goes on
//   main thread  file is smaller, or worker stands still → anonymous pages there → the front-end is disconnected

import { readFileSync } from 'node:fs';
import { c, check, functionAddress, NativeBuffer, SysError } from './ffi.ts';

const SIGBUS = 7;
/** usleep has no use for it, but without it the frame does not say where. */
const SA_SIGINFO = 4;
const SA_ONSTACK = 0x08000000;
const SA_RESTART = 0x10000000;
const SIG_BLOCK = 0;
const SIG_UNBLOCK = 1;
const SYS_CLOCK_NANOSLEEP = process.arch === 'arm64' ? 115 : 230;
/** Bytes above the stack pointer of a waiting thread in which its signal frame lies (4 KiB with AVX-512 state). */
const FRAME_BYTES = 8192;
const SIGINFO_ADDRESS = 16;

function maskSignal(how: number): void {
  const set = new NativeBuffer(128);
  set.view.setUint8((SIGBUS - 1) >> 3, 1 << ((SIGBUS - 1) & 7));
  // The one function here that returns its error instead of setting errno.
  const error = c.pthread_sigmask(how, set.address, 0n);
  if (error !== 0) throw new SysError('pthread_sigmask', error);
}

/**
 * Makes SIGBUS a wait in threads that call acceptBusErrors(). Called by the main thread, which (like all threads that it
 * starts and that do not accept) still dies of one. May be called again.
 */
export function surviveBusErrors(): void {
  // struct sigaction of glibc: handler, sigset_t of 128 bytes, i32 flags, restorer.
  const action = new NativeBuffer(152);
  action.view.setBigUint64(0, functionAddress('usleep'), true);
  action.view.setInt32(136, SA_SIGINFO | SA_ONSTACK | SA_RESTART, true);
  check(c.sigaction(SIGBUS, action.address, 0n), 'sigaction');
  maskSignal(SIG_BLOCK);
}

/** The calling thread waits in a SIGBUS instead of dying of it. */
export function acceptBusErrors(): void {
  maskSignal(SIG_UNBLOCK);
}

/**
 * Copies bytes of our own address space that may have gone (process_vm_readv(2)): SysError EFAULT instead of a signal.
 */
export function readMapped(address: bigint, bytes: number): DataView {
  const data = new NativeBuffer(bytes);
  transfer('process_vm_readv', data, address, bytes);
  return new DataView(data.buffer, 0, bytes);
}

/** The same in the other direction (process_vm_writev(2)). */
export function writeMapped(address: bigint, bytes: Uint8Array): void {
  const data = new NativeBuffer(bytes.length);
  new Uint8Array(data.buffer).set(bytes);
  transfer('process_vm_writev', data, address, bytes.length);
}

function transfer(
  call: 'process_vm_readv' | 'process_vm_writev',
  data: NativeBuffer,
  address: bigint,
  bytes: number,
): void {
  const vectors = new NativeBuffer(32);
  vectors.view.setBigUint64(0, data.address, true);
  vectors.view.setBigUint64(8, BigInt(bytes), true);
  vectors.view.setBigUint64(16, address, true);
  vectors.view.setBigUint64(24, BigInt(bytes), true);
  const [local, remote] = [vectors.address, vectors.address + 16n];
  const count = check(Number(c[call](process.pid, local, 1n, remote, 1n, 0n)), call);
  if (count !== bytes) throw new SysError(call, 14); // EFAULT behind the first page
}

/**
 * The address at which a thread of this process waits in a SIGBUS; undefined if it does not. Found in the signal frame
 * that the kernel has put on the thread's stack (siginfo_t: i32 signal, i32 errno 0, i32 code 1 … 5, pad, u64 address).
 */
export function busErrorAddress(tid: number): bigint | undefined {
  let words: string[];
  try {
    // "number arguments[6] stack-pointer instruction-pointer", or "running"
    words = readFileSync(`/proc/self/task/${tid}/syscall`, 'utf8').trim().split(' ');
  } catch {
    return undefined;
  }
  if (words.length < 9 || Number(words[0]) !== SYS_CLOCK_NANOSLEEP) return undefined;
  const stack = readStack(BigInt(words[7]!));
  for (let at = 0; stack !== undefined && at + 24 <= stack.byteLength; at += 8) {
    if (stack.getInt32(at, true) !== SIGBUS || stack.getInt32(at + 4, true) !== 0) continue;
    const code = stack.getInt32(at + 8, true);
    if (code >= 1 && code <= 5) return stack.getBigUint64(at + SIGINFO_ADDRESS, true);
  }
  return undefined;
}

/** The frame may lie close to the end of the stack's mapping. */
function readStack(pointer: bigint): DataView | undefined {
  for (let bytes = FRAME_BYTES; bytes >= 512; bytes >>= 1) {
    try {
      return readMapped(pointer, bytes);
    } catch {
      // less of it, then
    }
  }
  return undefined;
}
