// The megaflow table: tuple-space search in shared memory. Written by the main thread alone (src/engine/flowTable.ts),
// read by all workers without locks (dataplane/lookup.ts).
//
//   flow records   FLOWS_MAX x 576 bytes       header line, then the masked key, then the line of plain packets
//   flow index     2^19 buckets of u32         address of the first flow of a chain, 0 = none; hash over the masked key
//   subtables      SUBTABLES_MAX x 576 bytes   one for each mask
//   subtable hits  per worker, u32 each        lookups that ended in the subtable, for the order of the port lists
//   port lists     per port, two copies        subtables that hold flows of the input port, most used first, 0 ends
//
// Publication: a record is complete before its address is stored atomically where a worker can find it. Removal: the
// record is marked dead and unlinked, and reused only when every worker has acknowledged a later generation (WK_ACK)
// or sleeps. A chain link of a dead record stays intact for that time, so a worker that stands on it finds the rest.
//
// The flow counters have one 32-byte record per worker and flow, written by that worker alone.

import { FLOW_COUNTERS_BASE, FLOW_TABLE_BASE } from './memory.ts';

export const FLOWS_MAX = 262144;
export const FLOW_RECORD_SIZE = 576; // an odd number of cache lines, as KEY_STRIDE
export const FLOW_RECORDS_BASE = FLOW_TABLE_BASE;

// Flow record
export const FL_STATE = 0; // u32: 0 free or dead, 1 live
export const FL_HASH = 4; // u32 hash of the masked key
export const FL_SUBTABLE = 8; // u32 address
export const FL_NEXT = 12; // u32 address of the next flow in the chain, 0 = end
export const FL_PROGRAM = 16; // u32 address of the action program
export const FL_INDEX = 20; // u32 number of the record: its place in the counters
export const FL_LINES = 24; // u32: bit n = line n of the masked key is not all zero
export const FL_INLINE = 28; // 9 words: a short program lives in the record itself
export const FL_INLINE_WORDS = 9;
export const FL_KEY = 64; // KEY_SIZE bytes, masked

// Last line of a flow record: all that dataplane/plain.ts needs of the flow, in one cache line.
export const FL_PLAIN = 512;
export const FP_PORT = FL_PLAIN; // u32 input port; FP_NONE: dead, or no plain packet can be of this flow
export const FP_MASK = FL_PLAIN + 4; // u32 address of the mask (ST_PLAIN of the subtable)
export const FP_OUTPUT = FL_PLAIN + 8; // u32 port, if the program does nothing but output to it; otherwise FP_NONE
export const FP_BYTES = FL_PLAIN + 16; // PLAIN_BYTES, masked
export const FP_NONE = 0xffffffff;
/** The first bytes of a plain frame: Ethernet, IPv4 without options, ports; TCP flags are in the last two. */
export const PLAIN_BYTES = 48;

export const FLOW_INDEX_BASE = FLOW_TABLE_BASE + 0x9000000;
export const FLOW_INDEX_BUCKETS = 0x80000;

export const SUBTABLES_MAX = 2048;
export const SUBTABLE_SIZE = 576;
export const SUBTABLES_BASE = FLOW_TABLE_BASE + 0x9200000;

// Subtable record
export const ST_INDEX = 0; // u32
export const ST_SEED = 4; // u32: makes the hashes of equal values under different masks differ
export const ST_BLOCKS = 8; // u32: number of 16-byte blocks of the mask that are not zero
export const ST_SIMPLE = 12; // u32: 1 = looks at nothing but what dataplane/simple.ts knows of a packet
export const ST_BLOCK = 16; // u16 x 28: offsets of these blocks in key and mask
export const ST_MASK = 80; // KEY_SIZE bytes
export const ST_PLAIN = 528; // PLAIN_BYTES: what of it lies in a plain frame, where it lies there

export const SUBTABLE_HITS_BASE = FLOW_TABLE_BASE + 0x9340000;

export const PORT_LISTS_BASE = FLOW_TABLE_BASE + 0x9400000;
export const PORT_LIST_SIZE = 0x2000; // one copy: up to 2047 subtable addresses and the end

export const FLOW_COUNTER_SIZE = 32;
export const FLOW_COUNTERS_PER_WORKER = FLOWS_MAX * FLOW_COUNTER_SIZE;

// Flow counters
export const FC_PACKETS = 0; // f64
export const FC_BYTES = 8; // f64
export const FC_USED_MS = 16; // f64, 0 = never
export const FC_TCP_FLAGS = 24; // u32, host order

/** Address of the counters of flow number `index` written by `worker`. */
export function flowCountersAddress(worker: u32, index: u32): u32 {
  return FLOW_COUNTERS_BASE + worker * FLOW_COUNTERS_PER_WORKER + index * FLOW_COUNTER_SIZE;
}

// Microflow cache of a worker: buckets of four signatures and four flow addresses (32 bytes), two in a cache line.
export const CACHE_BUCKETS = 0x20000; // x 4 entries x 8 bytes = 4 MiB
export const CACHE_BUCKET_SIZE = 32;
