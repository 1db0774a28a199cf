// Windows on guest memory: how a guest physical address becomes an address of the one shared memory.
//
// THE SECURITY BOUNDARY. WebAssembly does not separate guests from each other, nor from the tables of the switch:
// what keeps them apart is that every address a guest writes passes through these tables, once, in
// dataplane/port/window.ts. Nothing outside the regions of a port is ever read or written on its behalf.
//
//   port record                region record                      chunk table (u32 per 2 MiB)
//   PT_REGIONS  ------------>  gpa, size                          +-----------+
//   PT_REGION_COUNT            base   (whole region contiguous)   | 0x4020000 | memory offset of the chunk
//                              chunk, skew ---------------------> | 0         | not mapped: fault() maps it
//                                                                 +-----------+
//
// A region is mapped whole (RG_BASE not 0: the usual case) or chunk by chunk. Chunk i of a region holds the bytes of
// the guest's file from  i * CHUNK_SIZE - skew  of the region on: `skew` = (file offset of the region) modulo
// CHUNK_SIZE, so that chunks stay aligned in the file, which huge pages need. Bytes of the first and last chunk that
// are outside the region are never touched.
//
// Writer: the main thread. A region may be changed only while no worker uses the port's queues; a chunk may be
// unmapped only after its entry was zeroed and every worker has acknowledged a later generation (workers keep no
// translation from one burst to the next).

import { WINDOW_TABLE_BASE } from './memory.ts';

export const MAX_REGIONS_PER_PORT = 64;
export const MAX_REGIONS = 0x10000;
export const REGION_SIZE = 32;

export const CHUNK_SHIFT = 21;
export const CHUNK_SIZE = 0x200000;
/** Entries of the chunk table: 2 TiB of guest memory in chunks, over all ports. */
export const MAX_CHUNKS = 0x100000;

// Region record, offsets from regionAddress(). PT_REGIONS of a port is the NUMBER of its first record.
export const RG_GPA = 0; // u64 first guest physical address
export const RG_BYTES = 8; // u64 size, never 0
export const RG_BASE = 16; // u32 memory offset of the first byte if the region is mapped whole, else 0
export const RG_CHUNK = 20; // u32 index of the region's first entry in the chunk table (unused if RG_BASE is set)
export const RG_SKEW = 24; // u32 offset of the region's first byte in its first chunk

/** 2 MiB: region records. */
export const REGION_TABLE = WINDOW_TABLE_BASE;
/** 4 MiB: u32 memory offset of each chunk (multiple of CHUNK_SIZE relative to the real address), 0 = not mapped. */
export const CHUNK_TABLE = 0x00a00000;
/** 1 MiB: u8 per chunk, set to 1 by workers when they use it, cleared by the main thread (to find the least used). */
export const CHUNK_TOUCHED = 0x00e00000;

/** Address of region record `region` (0 … MAX_REGIONS-1). */
export function regionAddress(region: u32): u32 {
  return REGION_TABLE + region * REGION_SIZE;
}
/** Address of the entry of chunk `chunk` (0 … MAX_CHUNKS-1). */
export function chunkAddress(chunk: u32): u32 {
  return CHUNK_TABLE + chunk * 4;
}
