// A packet on its way through the data plane, private to one worker.
//
// The first PKT_HEAD_COPY bytes are copied once out of guest (or device) memory into the head buffer, are parsed and
// modified there, and are never read from the guest again: a guest that changes its buffer under our feet changes
// only payload. The rest stays where it is, described by segments, and is copied once, into the destination. Of a long
// frame in one buffer only PKT_HEAD_FIRST bytes are copied until somebody needs more (dataplane/port/receive.ts, deepen).
//
//   packet record (PKT_SIZE bytes)
//   +--------+-----------------------------+---------------------------------+
//   | fields | segments: up to 64 (addr,len)| head: headroom 128 | copy 256   |
//   +--------+-----------------------------+---------------------------------+
//   0        64                            576                  704          960
//
// PKT_HEAD points to the first byte of the frame inside the head buffer; push and pop move it.

import { PRIVATE_BASE, PRIVATE_SIZE } from './memory.ts';

export const PKT_SIZE = 1024;
export const PKT_SEG_MAX = 64;
export const PKT_SEGS = 64;
export const PKT_HEADROOM = 576;
export const PKT_HEAD_START = 704;
export const PKT_HEAD_COPY = 256;
export const PKT_HEAD_FIRST = 64;

export const PKT_HEAD = 0; // u32 address of the first byte of the frame
export const PKT_HEAD_LEN = 4; // u32 bytes of the frame that are in the head buffer
export const PKT_LEN = 8; // u32 bytes of the whole frame
export const PKT_SEG_COUNT = 12; // u32 segments that follow the head
export const PKT_VNET_FLAGS = 16; // u8 VNET_NEEDS_CSUM | VNET_DATA_VALID
export const PKT_GSO_TYPE = 17; // u8 VNET_GSO_*, 0 = none
export const PKT_GSO_SIZE = 18; // u16
export const PKT_CSUM_START = 20; // u16 offset from the start of the frame (moves with push and pop)
export const PKT_CSUM_OFFSET = 22; // u16
export const PKT_IN_PORT = 24; // u32 datapath port
export const PKT_RXQ = 28; // u32 queue number
export const PKT_HASH = 32; // u32 hash of the key
export const PKT_FLOW = 36; // u32 address of the megaflow, 0 = none
export const PKT_KEY = 40; // u32 address of the packet's flow key
export const PKT_L3 = 44; // u16 offset of the L3 header from PKT_HEAD, 0xffff = none (moves with push and pop)
export const PKT_L4 = 46; // u16 offset of the L4 header from PKT_HEAD, 0xffff = none
export const PKT_TRUNC = 48; // u32 bytes that the next output may send, 0 = all
export const PKT_OUT_PORT = 52; // u32 used while batching
export const PKT_MARK = 56; // u32 flags private to the executor

// virtio-net header
export const VNET_NEEDS_CSUM = 1;
export const VNET_DATA_VALID = 2;
export const VNET_GSO_TCPV4 = 1;
export const VNET_GSO_UDP = 3;
export const VNET_GSO_TCPV6 = 4;
export const VNET_GSO_UDP_L4 = 5; // datagrams of gso_size bytes with the same headers; from kernel devices only
export const VNET_GSO_ECN = 0x80;

/** Packets of one receive burst; records BURST_MAX .. POOL_MAX-1 are for clones. */
export const BURST_MAX = 256;
export const POOL_MAX = 1024;

// Private memory of a worker: packet records, then keys, then batches and scratch.
export const PV_PACKETS = 0; // POOL_MAX x PKT_SIZE = 1 MiB
export const PV_KEYS = 0x100000; // POOL_MAX x 576 = 576 KiB
/** An odd number of cache lines, so that the first lines of keys do not all fall into the same sets of a cache. */
export const KEY_STRIDE = 576;
export const PV_LOOKUP = 0x190000; // 128 KiB scratch of parse, lookup and act
export const PV_IO = 0x1b0000; // 320 KiB scratch of receive and transmit (batches per port, segmentation)

/** Private memory of `worker`. */
export function privateAddress(worker: u32): u32 {
  return PRIVATE_BASE + worker * PRIVATE_SIZE;
}
