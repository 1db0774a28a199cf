// Layout of the PV_LOOKUP scratch (128 KiB of a worker's private memory) that lookup, act and batch share, and the
// lists of packets in it. A list is an array of u32 addresses of packet records.
//
//   0x00000  the burst in hand            1 024 x u32
//   0x01000  the burst sorted by flow     1 024 x u32
//   0x02000  group number of each packet  1 024 x u16
//   0x02800  packets missed               1 024 x u32
//   0x04000  groups: flow, count, start     256 x 16
//   0x05000  hash table flow -> group     1 024 x 8
//   0x07000  output slot of each port     1 024 x u32
//   0x08000  output slots: port, count       64 x 8
//   0x08400  free clone records             768 x u32
//   0x09000  packets to recirculate       1 024 x u32
//   0x0a000  queues that had packets in the last poll: queue, packets   2 048 x 8
//   0x0e000  flow key of a packet that goes to the control plane    KEY_STRIDE
//   0x0e300  segments of a packet on its way into a tunnel    SEGMENTS_LIST x u32
//   0x0f000  lists of one packet for nested programs                NEST_MAX x u32
//   0x0f100  simple matches missed       256 x u32
//   0x0f500  output ports of a burst     256 x u32
//   0x0f900  pushes into tunnels of a burst: operands, 0 = none   256 x u32
//   0x10000  output batches of the slots     64 x 256 x u32

import { PV_LOOKUP } from '../contract/packet.ts';

export const S_BURST: u32 = PV_LOOKUP;
export const S_SORTED: u32 = PV_LOOKUP + 0x1000;
export const S_GROUP_OF: u32 = PV_LOOKUP + 0x2000;
export const S_MISSED: u32 = PV_LOOKUP + 0x2800;
export const S_GROUPS: u32 = PV_LOOKUP + 0x4000;
export const S_GROUP_TABLE: u32 = PV_LOOKUP + 0x5000;
export const S_PORT_SLOT: u32 = PV_LOOKUP + 0x7000;
export const S_SLOTS: u32 = PV_LOOKUP + 0x8000;
export const S_FREE: u32 = PV_LOOKUP + 0x8400;
export const S_RECIRC: u32 = PV_LOOKUP + 0x9000;
export const S_BUSY: u32 = PV_LOOKUP + 0xa000;
export const S_UPCALL_KEY: u32 = PV_LOOKUP + 0xe000;
export const S_NEST: u32 = PV_LOOKUP + 0xf000;
export const S_SIMPLE_MISSED: u32 = PV_LOOKUP + 0xf100;
export const S_DIRECT: u32 = PV_LOOKUP + 0xf500;
export const S_DIRECT_PUSH: u32 = PV_LOOKUP + 0xf900;
export const S_SEGMENTS: u32 = PV_LOOKUP + 0xe300;
export const S_BATCHES: u32 = PV_LOOKUP + 0x10000;

/** Programs inside of programs. */
export const NEST_MAX: u32 = 64;

/** Segments of one packet. */
export const SEGMENTS_LIST: u32 = 704;

/** Most packets in any list. */
export const LIST_MAX: i32 = 1024;
