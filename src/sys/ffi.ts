// System calls from JavaScript: the only file of xvio that imports node:ffi.
//
// Everything else in src/sys wraps these functions in types, units and errors. node:ffi (Node 26, doc/api/ffi.md) has
// no errno API, so errno is read through __errno_location at once after the call, before anything else may touch it.
// Pointers and 64-bit integers are bigints. test/unit/sys.test.ts asserts each behaviour that we rely on; if node:ffi
// ever changes or goes, this file is the one to port.

import {
  dlopen,
  getCurrentEventLoop,
  getInt32,
  getRawPointer,
  toString as stringAt,
  toArrayBuffer,
} from 'node:ffi';
import { constants } from 'node:os';
import { setFlagsFromString } from 'node:v8';
import { isMainThread } from 'node:worker_threads';

// A worker that ends frees what V8 knows of its C functions (CFunctionInfo) before its isolate cancels the compilations
// that run in the background (Node 26.10). One that is at a call of such a function reads freed memory then: SIGSEGV or
// int3 in a compiler thread, or code that jumps anywhere. Calls that the compiler does not inline cost some 50 ns more
// (we make them per batch) and have none of that. A flag of the whole process, so it is set once, before any worker is.
if (isMainThread) setFlagsFromString('--no-turbo-fast-api-calls');

const { lib, functions } = dlopen(null, {
  __errno_location: { arguments: [], return: 'pointer' },
  strerror: { arguments: ['int32'], return: 'pointer' },
  malloc: { arguments: ['uint64'], return: 'pointer' },
  free: { arguments: ['pointer'], return: 'void' },
  // descriptors. Results of type ssize_t are taken as int32: no transfer of ours exceeds 2 GiB
  open: { arguments: ['pointer', 'int32', 'int32'], return: 'int32' },
  close: { arguments: ['int32'], return: 'int32' },
  dup: { arguments: ['int32'], return: 'int32' },
  dup2: { arguments: ['int32', 'int32'], return: 'int32' },
  read: { arguments: ['int32', 'pointer', 'uint64'], return: 'int32' },
  write: { arguments: ['int32', 'pointer', 'uint64'], return: 'int32' },
  readv: { arguments: ['int32', 'pointer', 'int32'], return: 'int32' },
  writev: { arguments: ['int32', 'pointer', 'int32'], return: 'int32' },
  ioctl: { arguments: ['int32', 'uint64', 'pointer'], return: 'int32' },
  fcntl: { arguments: ['int32', 'int32', 'uint64'], return: 'int32' },
  poll: { arguments: ['pointer', 'uint64', 'int32'], return: 'int32' },
  eventfd: { arguments: ['uint32', 'int32'], return: 'int32' },
  // memory
  mmap: {
    arguments: ['uint64', 'uint64', 'int32', 'int32', 'int32', 'int64'],
    return: 'uint64',
  },
  munmap: { arguments: ['uint64', 'uint64'], return: 'int32' },
  madvise: { arguments: ['uint64', 'uint64', 'int32'], return: 'int32' },
  mlock2: { arguments: ['uint64', 'uint64', 'uint32'], return: 'int32' },
  memfd_create: { arguments: ['pointer', 'uint32'], return: 'int32' },
  ftruncate: { arguments: ['int32', 'int64'], return: 'int32' },
  // sockets
  socket: { arguments: ['int32', 'int32', 'int32'], return: 'int32' },
  socketpair: { arguments: ['int32', 'int32', 'int32', 'pointer'], return: 'int32' },
  bind: { arguments: ['int32', 'pointer', 'uint32'], return: 'int32' },
  listen: { arguments: ['int32', 'int32'], return: 'int32' },
  accept4: { arguments: ['int32', 'pointer', 'pointer', 'int32'], return: 'int32' },
  connect: { arguments: ['int32', 'pointer', 'uint32'], return: 'int32' },
  getsockopt: { arguments: ['int32', 'int32', 'int32', 'pointer', 'pointer'], return: 'int32' },
  setsockopt: { arguments: ['int32', 'int32', 'int32', 'pointer', 'uint32'], return: 'int32' },
  getsockname: { arguments: ['int32', 'pointer', 'pointer'], return: 'int32' },
  shutdown: { arguments: ['int32', 'int32'], return: 'int32' },
  recvmsg: { arguments: ['int32', 'pointer', 'int32'], return: 'int32' },
  sendmsg: { arguments: ['int32', 'pointer', 'int32'], return: 'int32' },
  recvmmsg: { arguments: ['int32', 'pointer', 'uint32', 'int32', 'pointer'], return: 'int32' },
  sendmmsg: { arguments: ['int32', 'pointer', 'uint32', 'int32'], return: 'int32' },
  recvfrom: {
    arguments: ['int32', 'pointer', 'uint64', 'int32', 'pointer', 'pointer'],
    return: 'int32',
  },
  sendto: {
    arguments: ['int32', 'pointer', 'uint64', 'int32', 'pointer', 'uint32'],
    return: 'int32',
  },
  // process
  getpid: { arguments: [], return: 'int32' },
  gettid: { arguments: [], return: 'int32' },
  kill: { arguments: ['int32', 'int32'], return: 'int32' },
  sigaction: { arguments: ['int32', 'pointer', 'pointer'], return: 'int32' },
  pthread_sigmask: { arguments: ['int32', 'pointer', 'pointer'], return: 'int32' },
  process_vm_readv: {
    arguments: ['int32', 'pointer', 'uint64', 'pointer', 'uint64', 'uint64'],
    return: 'int64',
  },
  process_vm_writev: {
    arguments: ['int32', 'pointer', 'uint64', 'pointer', 'uint64', 'uint64'],
    return: 'int64',
  },
  prctl: { arguments: ['int32', 'uint64', 'uint64', 'uint64', 'uint64'], return: 'int32' },
  sched_setaffinity: { arguments: ['int32', 'uint64', 'pointer'], return: 'int32' },
  sched_getaffinity: { arguments: ['int32', 'uint64', 'pointer'], return: 'int32' },
  clock_gettime: { arguments: ['int32', 'pointer'], return: 'int32' },
  unshare: { arguments: ['int32'], return: 'int32' },
  syscall: {
    arguments: ['int64', 'int64', 'int64', 'int64', 'int64', 'int64', 'int64'],
    return: 'int64',
  },
  // libuv, exported by the node binary itself
  uv_hrtime: { arguments: [], return: 'int32' }, // the low half of a uint64: see src/sys/clock.ts
  uv_handle_size: { arguments: ['int32'], return: 'uint64' },
  uv_poll_init: { arguments: ['pointer', 'pointer', 'int32'], return: 'int32' },
  uv_poll_start: { arguments: ['pointer', 'int32', 'pointer'], return: 'int32' },
  uv_poll_stop: { arguments: ['pointer'], return: 'int32' },
  uv_close: { arguments: ['pointer', 'pointer'], return: 'void' },
  uv_ref: { arguments: ['pointer'], return: 'void' },
  uv_unref: { arguments: ['pointer'], return: 'void' },
});

/** The C functions, as they are: prefer the typed wrappers of the other files of src/sys. */
export const c = functions;

// errno is thread-local; a worker thread has its own instance of this module.
const errnoAddress = functions.__errno_location();

const ERRNO_NAMES = new Map<number, string>(
  Object.entries(constants.errno).map(([name, number]) => [number, name]),
);
ERRNO_NAMES.set(constants.errno.EAGAIN, 'EAGAIN'); // not its other name, EWOULDBLOCK
ERRNO_NAMES.set(constants.errno.EOPNOTSUPP, 'EOPNOTSUPP'); // not ENOTSUP

export const EPERM = 1;
export const ENOENT = 2;
export const EINTR = 4;
export const ENXIO = 6;
export const EBADF = 9;
export const EAGAIN = 11;
export const EBUSY = 16;
export const EEXIST = 17;
export const ENODEV = 19;
export const EINVAL = 22;
export const EMSGSIZE = 90;
export const EOPNOTSUPP = 95;
export const ENETDOWN = 100;
export const ENOBUFS = 105;

/**
 * errno of the last failed call of this thread. Read it at once. If V8 has to wait for a lock of its own between the call and
 * this (seen once in a million calls, on a busy machine), it is EAGAIN: whoever takes that as "not now" asks again.
 */
export function errno(): number {
  return getInt32(errnoAddress);
}

/** The C library's words for an errno: "No such device". */
export function strerror(number: number): string {
  return stringAt(functions.strerror(number)) ?? `Unknown error ${number}`;
}

/** A failed system call. `code` is the errno's name, `text` its strerror. */
export class SysError extends Error {
  readonly errno: number;
  readonly code: string;
  readonly text: string;
  readonly syscall: string;

  constructor(syscall: string, number: number) {
    const text = strerror(number);
    super(`${syscall}: ${text}`);
    this.name = 'SysError';
    this.errno = number;
    this.code = ERRNO_NAMES.get(number) ?? `E${number}`;
    this.text = text;
    this.syscall = syscall;
  }
}

/** Gives back `result`, or throws SysError if it is negative. Call it around the system call itself. */
export function check(result: number, syscall: string): number {
  if (result < 0) throw new SysError(syscall, errno());
  return result;
}

// A buffer of which only the address is used any more could be collected before the call that gets the address: the last
// few are kept alive here.
const RECENT = 64;
const recent: ArrayBuffer[] = [];
let recentAt = 0;

/**
 * Bytes outside the JavaScript heap whose address never changes, for structures handed to the kernel. The object must
 * be kept alive as long as the kernel or a later call may use the address.
 */
export class NativeBuffer {
  readonly buffer: ArrayBuffer;
  readonly bytes: Uint8Array;
  readonly view: DataView;
  readonly address: bigint;

  constructor(size: number) {
    this.buffer = new ArrayBuffer(Math.max(size, 8));
    recent[recentAt++ & (RECENT - 1)] = this.buffer;
    this.bytes = new Uint8Array(this.buffer);
    this.view = new DataView(this.buffer);
    this.address = getRawPointer(this.buffer);
  }
}

/** Address of byte 0 of the buffer (a shared WebAssembly memory too) or view. */
export function addressOf(source: ArrayBufferLike | NodeJS.ArrayBufferView): bigint {
  return getRawPointer(source as ArrayBuffer);
}

/** A view of foreign memory, without a copy and without a keeper: the caller knows how long it lives. */
export function bytesAt(address: bigint, length: number): Uint8Array {
  return new Uint8Array(toArrayBuffer(address, length, false));
}

/** A zero-terminated string for the kernel. */
export function cString(text: string): NativeBuffer {
  const encoded = Buffer.from(text, 'utf8');
  const buffer = new NativeBuffer(encoded.length + 1);
  buffer.bytes.set(encoded);
  return buffer;
}

/** A C function that calls `callback`, on this thread only. Lives as long as the thread. */
export function pollCallback(
  callback: (handle: bigint, status: number, events: number) => void,
): bigint {
  const signature = { arguments: ['pointer', 'int32', 'int32'], return: 'void' } as const;
  // A pointer arrives as bigint; the declared type is that of a pointer argument, which may be more.
  return lib.registerCallback(signature, (handle, status, events) =>
    callback(handle as bigint, status as number, events as number),
  );
}

/** Address of a function of the C library. */
export function functionAddress(name: string): bigint {
  return lib.getSymbol(name);
}

/** uv_loop_t of this thread. */
export function eventLoop(): bigint {
  return getCurrentEventLoop();
}
