// IP fragments that wait for the rest of their datagram, so that connection tracking sees it whole. Shared by all workers
// under one lock: fragments of a datagram may come by different queues.
//
//   control     64 bytes
//   heads       1 024 x u32        first datagram of a chain, number + 1, 0 = none
//   datagrams   4 096 x 128        what is known of each, and the list of its fragments in the order in which they came
//   slots       5 000 x 10 KiB     fragments: facts, flow key, frame
//
// Limits and defaults are those of Open vSwitch's ipf.

import { CT_BASE } from './memory.ts';

export const FRAGMENTS_BASE = CT_BASE + 0x27000000;
export const FRAGMENT_HEADS = FRAGMENTS_BASE + 0x1000;
export const FRAGMENT_HEAD_COUNT = 1024;
export const DATAGRAMS = FRAGMENTS_BASE + 0x4000;
export const DATAGRAM_SIZE = 128;
export const DATAGRAMS_MAX = 4096;
export const FRAGMENT_SLOTS = FRAGMENTS_BASE + 0x100000;
export const FRAGMENT_SLOT_SIZE = 10240;
export const FRAGMENT_SLOTS_MAX = 5000;

// Control words, offsets from FRAGMENTS_BASE
export const FG_LOCK = 0; // u32
export const FG_FREE_SLOT = 4; // u32 first free slot, number + 1
export const FG_USED_SLOTS = 8; // u32 slots used ever
export const FG_FREE_DATAGRAM = 12; // u32
export const FG_USED_DATAGRAMS = 16; // u32
export const FG_WAITING = 20; // u32 fragments that wait now
export const FG_MAX = 24; // u32 fragments that may wait
export const FG_ENABLED = 28; // u32: 1 = IPv4, 2 = IPv6
export const FG_MIN_V4 = 32; // u32 least bytes of an IPv4 packet that is a fragment and not the last one
export const FG_MIN_V6 = 36; // u32 the same for IPv6

export const FRAGMENTS_DEFAULT_MAX = 1000;
export const FRAGMENT_DEFAULT_MIN_V4 = 1200;
export const FRAGMENT_DEFAULT_MIN_V6 = 1280;
export const FRAGMENT_TIMEOUT_MS = 15000;
/** Fragments of one datagram: 64 KiB in pieces of 1200 bytes, and no more than segments of a packet record. */
export const FRAGMENTS_PER_DATAGRAM = 60;

// Datagram
export const DG_NEXT = 0; // u32 next of the chain, or next free: number + 1
export const DG_FIRST = 4; // u32 address of its first slot, 0 = the record is free
export const DG_LAST = 8; // u32 address of its last slot
export const DG_COUNT = 12; // u32 fragments
export const DG_BYTES = 16; // u32 bytes of payload so far
export const DG_END = 20; // u32 bytes of the whole payload, 0 = not known yet
export const DG_EXPIRES = 24; // u32 ms
export const DG_TUPLE = 32; // 48 bytes: addresses, id in TU_PORTS, zone and protocol in TU_META, hash

// Slot
export const SL_NEXT = 0; // u32 address of the next fragment in order of arrival; next free: number + 1
export const SL_OFFSET = 4; // u32 place of its payload in the datagram's
export const SL_BYTES = 8; // u32 bytes of payload
export const SL_LENGTH = 12; // u32 bytes of the frame
export const SL_L3 = 16; // u32 offset of the IP header in the frame
export const SL_PAYLOAD = 20; // u32 offset of the payload in the frame
export const SL_IN_PORT = 24; // u32
export const SL_RXQ = 28; // u32
export const SL_CUT = 32; // u32 IPv6: offset of the fragment header in the frame
export const SL_KEY = 64; // KEY_STRIDE bytes
export const SL_FRAME = 640;
export const SLOT_FRAME_MAX = 9600;
