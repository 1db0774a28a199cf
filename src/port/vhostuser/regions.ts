// Arithmetic on regions of guest memory: is a table sane, where does a ring lie (pure).
//
// Everything here comes from the front-end and is hostile until checked: sizes of 0, sums that wrap at 2^64, ranges
// beyond the end of the file (an access there is SIGBUS, the death of the daemon), overlaps.

import type { MemoryRegion } from '../../wire/vhostuser/codec.ts';
import type { BackendState, FdInfo, Region, Ring } from './state.ts';
import { isPacked, wantsToRun } from './state.ts';

const LIMIT = 1n << 64n;
const PAGE = 4096n;

function overlaps(a: bigint, aSize: bigint, b: bigint, bSize: bigint): boolean {
  return a < b + bSize && b < a + aSize;
}

/** Is [offset, offset + size) inside the file? Returns the reason if not. */
export function checkFileRange(file: FdInfo, offset: bigint, size: bigint): string | undefined {
  if (file.kind !== 'file') return 'the descriptor is no file that can be mapped';
  if (size === 0n) return 'size 0';
  if (offset + size >= LIMIT) return 'offset + size overflows';
  if (offset + size > file.size) {
    return `range ${offset}+${size} is beyond the end of the file (${file.size} bytes)`;
  }
  return undefined;
}

/** Checks a region on its own and against others; a reason, or the region with its file. */
export function checkRegion(
  wanted: MemoryRegion,
  file: FdInfo,
  others: readonly Region[],
): Region | string {
  const { guestAddress, size, userAddress, mmapOffset } = wanted;
  const bad = checkFileRange(file, mmapOffset, size);
  if (bad !== undefined) return bad;
  if (guestAddress + size > LIMIT) return 'guest address + size overflows';
  if (userAddress + size > LIMIT) return 'user address + size overflows';
  if (mmapOffset % PAGE !== 0n) return 'mmap offset is no multiple of the page size';
  for (const other of others) {
    if (overlaps(guestAddress, size, other.guestAddress, other.size)) {
      return 'guest addresses overlap with another region';
    }
    if (overlaps(userAddress, size, other.userAddress, other.size)) {
      return 'user addresses overlap with another region';
    }
  }
  return { guestAddress, size, userAddress, mmapOffset, file };
}

/** Same range of the same file at the same addresses? */
export function sameRegion(a: Region, b: Region): boolean {
  return (
    a.guestAddress === b.guestAddress &&
    a.size === b.size &&
    a.userAddress === b.userAddress &&
    a.mmapOffset === b.mmapOffset &&
    a.file.id === b.file.id
  );
}

/** A contiguous piece of guest memory: region by index, bytes from its start. */
export interface Location {
  readonly region: number;
  readonly offset: bigint;
  readonly size: bigint;
}

/** Where a ring's three areas lie. */
export interface RingLocation {
  readonly desc: Location;
  readonly avail: Location;
  readonly used: Location;
}

function locate(
  state: BackendState,
  what: string,
  address: bigint,
  size: bigint,
  align: bigint,
): Location | string {
  if (address % align !== 0n) return `${what} 0x${address.toString(16)} is not aligned to ${align}`;
  const index = state.regions.findIndex(
    (region) => address >= region.userAddress && address + size <= region.userAddress + region.size,
  );
  if (index < 0) return `${what} 0x${address.toString(16)} (${size} bytes) is outside guest memory`;
  return { region: index, offset: address - state.regions[index]!.userAddress, size };
}

/** Sizes of the areas of a ring of `num` entries (virtio 1.2, 2.7 and 2.8): descriptors, driver's, device's. */
export function ringSizes(
  packed: boolean,
  num: number,
): { desc: number; avail: number; used: number } {
  return packed
    ? { desc: 16 * num, avail: 4, used: 4 }
    : { desc: 16 * num, avail: 6 + 2 * num, used: 6 + 8 * num };
}

/** Finds the areas of a ring with known num and addresses; a reason if one is not wholly in one region. */
export function locateRing(state: BackendState, ring: Ring): RingLocation | string {
  const { addresses, num } = ring;
  if (addresses === undefined || num === 0) return 'ring without addresses or size';
  const packed = isPacked(state);
  const sizes = ringSizes(packed, num);
  const desc = locate(state, 'descriptor area', addresses.desc, BigInt(sizes.desc), 16n);
  if (typeof desc === 'string') return desc;
  const avail = locate(
    state,
    'driver area',
    addresses.avail,
    BigInt(sizes.avail),
    packed ? 4n : 2n,
  );
  if (typeof avail === 'string') return avail;
  const used = locate(state, 'device area', addresses.used, BigInt(sizes.used), 4n);
  if (typeof used === 'string') return used;
  return { desc, avail, used };
}

/**
 * Does the data plane work on this ring? One whose memory went away (QEMU removes and adds a region that grows) rests
 * until the memory is back.
 */
export function isRunning(state: BackendState, ring: Ring): boolean {
  return wantsToRun(state, ring) && typeof locateRing(state, ring) !== 'string';
}

/** Bytes of dirty log that cover all regions: one bit for each 4 KiB page. */
export function logBytesFor(regions: readonly Region[]): bigint {
  let end = 0n;
  for (const region of regions) {
    const regionEnd = region.guestAddress + region.size;
    if (regionEnd > end) end = regionEnd;
  }
  return (end + PAGE * 8n - 1n) / (PAGE * 8n);
}
