// fault(): maps a 2 MiB chunk of a large guest into the window space, in the worker that needs it (contract/windowPool.ts).
//
// Called by the data plane with a chunk that its region check has found to be inside the port's regions; looked up
// again here, because what is mapped is decided by the tables alone.

import { PT_REGION_COUNT, PT_REGIONS, portAddress } from '../../contract/port.ts';
import { CHUNK_SIZE, chunkAddress, RG_CHUNK, regionAddress } from '../../contract/window.ts';
import {
  RS_BLOCK,
  RS_CHUNKS,
  RS_FD,
  regionSourceAddress,
  WINDOW_POOL,
  WP_CHUNKS,
  WP_COUNT,
  WP_FAILED,
  WP_FAULTS,
  WP_LOCK,
} from '../../contract/windowPool.ts';
import { mapFixed, memoryBase } from '../sys/memory.ts';
import type { Fault } from './dataPlane.ts';

/**
 * When fewer chunks than this are free, the main thread is rung to unmap some. More than a breath can need on its way
 * from one guest to another, a chunk for each packet on each side, or packets would be lost while it does.
 */
export const POOL_LOW = 384;

/** Spins: the lock is held for a few stores, or one mmap. */
export function lockPool(words: Int32Array): void {
  while (Atomics.compareExchange(words, (WINDOW_POOL + WP_LOCK) >> 2, 0, 1) !== 0) {}
}

export function unlockPool(words: Int32Array): void {
  Atomics.store(words, (WINDOW_POOL + WP_LOCK) >> 2, 0);
}

export function createFault(memory: WebAssembly.Memory, ringMain: () => void): Fault {
  const words = new Int32Array(memory.buffer);
  const base = memoryBase(memory);

  /** File and block of a chunk of this port. */
  function source(port: number, chunk: number): { fd: number; block: number } | undefined {
    const at = portAddress(port) >> 2;
    const first = words[at + (PT_REGIONS >> 2)]!;
    const count = words[at + (PT_REGION_COUNT >> 2)]!;
    for (let region = first; region < first + count; region++) {
      const from = words[(regionAddress(region) + RG_CHUNK) >> 2]! >>> 0;
      const description = regionSourceAddress(region) >> 2;
      const chunks = words[description + (RS_CHUNKS >> 2)]!;
      if (chunk < from || chunk >= from + chunks) continue;
      const block = words[description + (RS_BLOCK >> 2)]! >>> 0;
      return { fd: words[description + (RS_FD >> 2)]!, block: block + chunk - from };
    }
    return undefined;
  }

  function map(chunk: number, from: { fd: number; block: number }): number {
    const entry = chunkAddress(chunk) >> 2;
    const already = Atomics.load(words, entry) >>> 0;
    if (already !== 0) return already; // another worker was faster
    const count = words[(WINDOW_POOL + WP_COUNT) >> 2]!;
    if (count === 0) return 0;
    const address = words[((WINDOW_POOL + WP_CHUNKS) >> 2) + count - 1]! >>> 0;
    try {
      mapFixed(
        base + BigInt(address),
        from.fd,
        BigInt(from.block) * BigInt(CHUNK_SIZE),
        CHUNK_SIZE,
      );
    } catch {
      return 0;
    }
    words[(WINDOW_POOL + WP_COUNT) >> 2] = count - 1;
    Atomics.store(words, entry, address | 0);
    return address;
  }

  return (port, chunk) => {
    const from = source(port >>> 0, chunk >>> 0);
    if (from === undefined) return 0;
    lockPool(words);
    const address = map(chunk >>> 0, from);
    const free = words[(WINDOW_POOL + WP_COUNT) >> 2]!;
    words[(WINDOW_POOL + (address === 0 ? WP_FAILED : WP_FAULTS)) >> 2]! += 1;
    unlockPool(words);
    if (free < POOL_LOW) ringMain();
    return address | 0;
  };
}
