// Mapping files into the shared WebAssembly.Memory, and files in memory (memfd).
//
// A shared WebAssembly memory never moves: its whole maximum is reserved when it is made. So parts of it can be
// replaced by other mappings (MAP_FIXED), and the data plane reaches guest memory or the rings of a socket with plain
// loads and stores. Offsets, lengths and file offsets are multiples of the page size; for huge pages, multiples of
// theirs, counted from the real address.

import { fstatSync, readFileSync } from 'node:fs';
import { addressOf, c, check, cString, errno, SysError } from './ffi.ts';

const PROT_READ = 1;
const PROT_WRITE = 2;
const MAP_SHARED = 0x01;
const MAP_PRIVATE = 0x02;
const MAP_FIXED = 0x10;
const MAP_ANONYMOUS = 0x20;
const MAP_NORESERVE = 0x4000;
const MAP_POPULATE = 0x8000;
const MADV_HUGEPAGE = 14;
const MLOCK_ONFAULT = 1;
const MAP_FAILED = 0xffffffffffffffffn;

const MFD_CLOEXEC = 1;
const MFD_ALLOW_SEALING = 2;
const MFD_HUGETLB = 4;
const F_ADD_SEALS = 1033;
const F_GET_SEALS = 1034;
export const F_SEAL_SEAL = 1;
export const F_SEAL_SHRINK = 2;
export const F_SEAL_GROW = 4;
export const F_SEAL_WRITE = 8;

export const PAGE_SIZE = 4096;

/** Real address of byte 0 of a shared memory. */
export function memoryBase(memory: WebAssembly.Memory): bigint {
  return addressOf(memory.buffer);
}

function mapAt(
  address: bigint,
  length: number,
  prot: number,
  flags: number,
  fd: number,
  fileOffset: number | bigint,
): void {
  const mapped = c.mmap(address, BigInt(length), prot, flags, fd, BigInt(fileOffset));
  if (mapped === MAP_FAILED) throw new SysError('mmap', errno());
  if (mapped !== address) throw new Error('mmap: MAP_FIXED was not honoured');
}

/**
 * Maps `length` bytes of a file at a fixed real address, shared. With `populate` the pages are present at once (no
 * fault in the data plane). Throws SysError and leaves the old mapping, unless the kernel had begun to replace it.
 */
export function mapFixed(
  address: bigint,
  fd: number,
  fileOffset: number | bigint,
  length: number,
  options: { readOnly?: boolean; populate?: boolean } = {},
): void {
  const prot = options.readOnly ? PROT_READ : PROT_READ | PROT_WRITE;
  const flags = MAP_SHARED | MAP_FIXED | (options.populate ? MAP_POPULATE : 0);
  mapAt(address, length, prot, flags, fd, fileOffset);
}

/** Fresh zero pages instead of whatever is mapped there: what the arena and unused windows look like. */
export function mapAnonymous(address: bigint, length: number): void {
  const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
  mapAt(address, length, PROT_READ | PROT_WRITE, flags, -1, 0);
}

/**
 * Nothing at all: an access is a fault, which V8 turns into a WebAssembly trap ("memory access out of bounds").
 */
export function mapNone(address: bigint, length: number): void {
  mapAt(address, length, 0, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
}

/**
 * Asks for huge pages where anonymous pages are going to be touched. Nothing but time depends on it: kernels without them, or
 * told to give none (/sys/kernel/mm/transparent_hugepage/enabled), go on with small ones.
 */
export function adviseHuge(address: bigint, length: number): void {
  c.madvise(address, BigInt(length), MADV_HUGEPAGE);
}

/** Pages of the range stay in memory from their first use on: what is never used costs nothing. Throws SysError. */
export function lockOnFault(address: bigint, length: number): void {
  check(c.mlock2(address, BigInt(length), MLOCK_ONFAULT), 'mlock2');
}

/** The same for what is mapped from files by now: the program's code, and that of its libraries. */
export function lockProgram(): void {
  for (const line of readFileSync('/proc/self/maps', 'utf8').split('\n')) {
    const range = /^([0-9a-f]+)-([0-9a-f]+) .* \//.exec(line);
    if (range === null) continue;
    const [from, to] = [BigInt(`0x${range[1]}`), BigInt(`0x${range[2]}`)];
    lockOnFault(from, Number(to - from));
  }
}

/** A file in memory: descriptor, closed on exec. `huge`: in huge pages of the default size. */
export function memfdCreate(name: string, bytes = 0, sealing = true, huge = false): number {
  const text = cString(name);
  const flags = MFD_CLOEXEC | (sealing ? MFD_ALLOW_SEALING : 0) | (huge ? MFD_HUGETLB : 0);
  const fd = check(c.memfd_create(text.address, flags), 'memfd_create');
  if (bytes > 0) {
    try {
      truncateFd(fd, bytes);
    } catch (thrown) {
      c.close(fd);
      throw thrown;
    }
  }
  return fd;
}

export function truncateFd(fd: number, bytes: number | bigint): void {
  check(c.ftruncate(fd, BigInt(bytes)), 'ftruncate');
}

/** Size of a file in bytes. Throws (EBADF) if it is no open descriptor. */
export function fileSize(fd: number): number {
  return fstatSync(fd).size;
}

export function addSeals(fd: number, seals: number): void {
  check(c.fcntl(fd, F_ADD_SEALS, BigInt(seals)), 'fcntl F_ADD_SEALS');
}

/** F_SEAL_* bits; 0 for files that know no seals (hugetlbfs of old kernels, plain files). */
export function getSeals(fd: number): number {
  return Math.max(c.fcntl(fd, F_GET_SEALS, 0n), 0);
}

/** A mapping of its own, outside the WebAssembly memory; unmapped by dispose. */
export class Mapping implements Disposable {
  readonly address: bigint;
  readonly length: number;
  private mapped = true;

  constructor(fd: number, fileOffset: number | bigint, length: number) {
    const result = c.mmap(
      0n,
      BigInt(length),
      PROT_READ | PROT_WRITE,
      fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED,
      fd,
      BigInt(fileOffset),
    );
    if (result === MAP_FAILED) throw new SysError('mmap', errno());
    this.address = result;
    this.length = length;
  }

  [Symbol.dispose](): void {
    if (this.mapped) c.munmap(this.address, BigInt(this.length));
    this.mapped = false;
  }
}
