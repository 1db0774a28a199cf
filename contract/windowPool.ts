// The host's side of windows that are mapped on demand (contract/window.ts): where the bytes of a region come from,
// and the pool of free window chunks from which a worker's fault takes one.
//
//   fault(port, chunk):  region of the chunk -> file and block -> free chunk -> mmap -> chunk table
//
// The pool is filled by the main thread, which unmaps the chunks used least; workers only take. Both hold the lock.

import { CONTROL_BASE } from './memory.ts';

/** Per region record (contract/window.ts), 16 bytes. */
export const REGION_SOURCES = 0x00f00000;
export const REGION_SOURCE_SIZE = 16;
export const RS_FD = 0; // i32 file that backs the region
export const RS_BLOCK = 4; // u32 the region's first chunk in the file, in units of CHUNK_SIZE
export const RS_CHUNKS = 8; // u32 entries in the chunk table, 0 = mapped whole

export const WINDOW_POOL = CONTROL_BASE + 0x4000;
export const WP_LOCK = 0; // u32: 1 = held
export const WP_COUNT = 4; // u32 free chunks
export const WP_FAULTS = 8; // u32 chunks mapped on demand since start
export const WP_FAILED = 12; // u32 faults that found no free chunk, or a file that does not map
export const WP_CHUNKS = 16; // u32 x WINDOW_POOL_MAX: memory offsets
export const WINDOW_POOL_MAX = 1536;

/** Address of the source of region record `region`. */
export function regionSourceAddress(region: u32): u32 {
  return REGION_SOURCES + region * REGION_SOURCE_SIZE;
}
