// Connection tracking: the table of connections in shared memory, used by all workers and by the control plane through
// its own instance of the module (dataplane/ct/). Semantics are those of Open vSwitch's userspace conntrack.
//
//   connections  CT_MAX x 192 bytes      record (below); number of a connection = its place
//   index        2^23 buckets of u32     first entry of a chain, 0 = none
//   locks        2^16 x u32              one for the buckets whose number has the same low bits
//   zones        2^16 x 16               connections now, limit
//   policies     256 x 64                timeouts
//   counters     17 x 4 KiB              per worker, and one for the control plane
//   pools        17 x 4 KiB              free records that a holder has at hand
//   scratch      17 x 64 KiB             tuples of the burst in hand
//
// A connection stands in the index twice, under the tuple of each direction as its packets carry it: the original one,
// and that of the replies, which differs from the original reversed where there is NAT. An index entry, and each link
// of a chain, is  number << 1 | direction, plus 1 << 31 so that it is never 0; each direction has its own link.
//
// Locks: a chain is changed under the lock of its bucket, a record under its own (CN_LOCK); bucket locks are taken in
// the order of their numbers and before record locks. Look-ups walk without a lock and compare again under the lock of
// the record; only a look-up that found nothing, and wants to commit, walks again under the bucket's lock. A lock word
// holds 0 or the number of its holder + 1, so that what a crashed worker held can be freed.

import { CT_BASE, MAX_WORKERS } from './memory.ts';

/** Connections there is room for, whatever the limit (CTC_LIMIT) says. */
export const CT_MAX = 0x300000;
export const CT_DEFAULT_LIMIT = 3000000;

export const CT_RECORDS = CT_BASE;
export const CN_SIZE = 192;
export const CT_INDEX = CT_BASE + 0x24000000;
export const CT_BUCKETS = 0x800000;
export const CT_LOCKS = CT_BASE + 0x26000000;
export const CT_LOCK_COUNT = 0x10000;
export const CT_ZONES = CT_BASE + 0x26100000;
export const CT_POLICIES = CT_BASE + 0x26200000;
export const CT_CONTROL = CT_BASE + 0x26210000;
export const CT_COUNTERS = CT_BASE + 0x26220000;
export const CT_COUNTERS_SIZE = 0x1000;
export const CT_SCRATCH = CT_BASE + 0x26300000;
export const CT_SCRATCH_SIZE = 0x10000;
/** Free records of a holder: how many (PL_COUNT), and their numbers, the next one to be used last (PL_RECORDS). */
export const CT_POOLS = CT_BASE + 0x26420000;
export const CT_POOL_SIZE = 0x1000;
export const CT_POOL_ROOM = 512;
export const PL_COUNT = 0; // u32
export const PL_RECORDS = 4; // u32 x CT_POOL_ROOM
/** Holder number of the control plane's instance; workers are 0 … MAX_WORKERS-1. */
export const CT_CONTROL_PLANE = MAX_WORKERS;

// Connection record
export const CN_LOCK = 0; // u32
export const CN_STATE = 4; // u32 CN_FREE, CN_LIVE
export const CN_META = 8; // u32 zone | IP protocol << 16 | (4 or 6) << 24
export const CN_EXPIRES = 12; // u32 ms of the engine's clock, modulo 2^32
// Tuple of the original direction. Ports as on the wire; ICMP: source port = id, destination port = type, code (bytes).
export const CN_SRC = 16; // 16 bytes, IPv4 in the first four, rest zero
export const CN_DST = 32; // 16 bytes
export const CN_PORTS = 48; // u32: source port, destination port
export const CN_NEXT = 52; // u32 link of the original direction's chain; next free record
export const CN_REVISION = 56; // u32 raised each time the record is given to a new connection
export const CN_FLAGS = 60; // u32 CNF_*, and in its third byte:
export const CN_POLICY = 62; // u8 timeout policy
export const CN_REPLY_SRC = 64; // 16 bytes
export const CN_REPLY_DST = 80; // 16 bytes
export const CN_REPLY_PORTS = 96; // u32
export const CN_MARK = 100; // u32 network order
/** TCP: state of both ends, original sender first. Others: byte 0 is the state (CT_OTHER_*, CT_ICMP_*). */
export const CN_PEERS = 104; // 2 x PEER_SIZE
export const CN_LABEL = 128; // 16 bytes
export const CN_HASH = 144; // u32 of the original tuple
export const CN_REPLY_HASH = 148; // u32
export const CN_REPLY_NEXT = 156; // u32 link of the reply direction's chain
// A connection that was expected (CNF_EXPECTED): original tuple of the connection that announced it.
export const CN_PARENT_PORTS = 152; // u32
export const CN_PARENT_SRC = 160; // 16 bytes
export const CN_PARENT_DST = 176; // 16 bytes
// Any other: what it expects (contract/ctExpect.ts), and by how much its sequence numbers are off where a helper has
// changed the length of the text (SEQ_*), original direction first.
export const CN_EXPECTATIONS = 152; // u32 newest expectation, number + 1
export const CN_ADJUST = 160; // 2 x ADJUST_SIZE

export const CN_FREE = 0;
export const CN_LIVE = 1;

export const CNF_SNAT = 1; // the source of packets in the original direction is translated
export const CNF_DNAT = 2;
export const CNF_LABEL = 4; // CN_LABEL may be other than zero
export const CNF_FTP = 8; // committed with this helper
export const CNF_TFTP = 16;
export const CNF_EXPECTED = 32; // a data connection that a helper has seen announced
export const CNF_ADJUST = 64; // sequence numbers are adjusted
export const CNF_EXPECTS = 128; // it may have expectations
export const CNF_TIMEOUT_SHIFT = 8; // the timeout in force: CT_TM_* << 8
export const CNF_TIMEOUT_MASK = 0xf00;

// Adjustment of the sequence numbers of one direction: those after a place are off by more than those before it.
export const ADJUST_SIZE = 12;
export const AD_PLACE = 0; // u32 sequence number, as its sender counts
export const AD_BEFORE = 4; // i32
export const AD_AFTER = 8; // i32

// TCP peer
export const PEER_SIZE = 12;
export const PEER_SEQ_LO = 0; // u32 highest sequence number sent (host order)
export const PEER_SEQ_HI = 4; // u32 highest sequence number that the other side's window allows
export const PEER_MAX_WIN = 8; // u16
export const PEER_WSCALE = 10; // u8: scale | WSCALE_*
export const PEER_STATE = 11; // u8 CT_TCP_*

export const WSCALE_FLAG = 0x80; // the SYN had the option
export const WSCALE_UNKNOWN = 0x40; // picked up in mid-stream
export const WSCALE_MASK = 0x0f;

// State of a TCP peer, in Open vSwitch's order and words (names: dumps)
export const CT_TCP_CLOSED = 0;
export const CT_TCP_LISTEN = 1;
export const CT_TCP_SYN_SENT = 2;
export const CT_TCP_SYN_RECV = 3;
export const CT_TCP_ESTABLISHED = 4;
export const CT_TCP_CLOSE_WAIT = 5;
export const CT_TCP_FIN_WAIT_1 = 6;
export const CT_TCP_CLOSING = 7;
export const CT_TCP_LAST_ACK = 8;
export const CT_TCP_FIN_WAIT_2 = 9;
export const CT_TCP_TIME_WAIT = 10;

export const CT_OTHER_FIRST = 0;
export const CT_OTHER_MULTIPLE = 1;
export const CT_OTHER_BIDIR = 2;
export const CT_ICMP_FIRST = 0;
export const CT_ICMP_REPLY = 1;

// Timeouts of a policy: u32 seconds x CT_TM_COUNT; the record of policy 0 holds the defaults.
export const CT_POLICY_MAX = 256;
export const CT_POLICY_SIZE = 64;
export const CT_TM_TCP_FIRST_PACKET = 0;
export const CT_TM_TCP_OPENING = 1;
export const CT_TM_TCP_ESTABLISHED = 2;
export const CT_TM_TCP_CLOSING = 3;
export const CT_TM_TCP_FIN_WAIT = 4;
export const CT_TM_TCP_CLOSED = 5;
export const CT_TM_OTHER_FIRST = 6;
export const CT_TM_OTHER_MULTIPLE = 7;
export const CT_TM_OTHER_BIDIR = 8;
export const CT_TM_ICMP_FIRST = 9;
export const CT_TM_ICMP_REPLY = 10;
export const CT_TM_COUNT = 11;

// Zone record
export const CT_ZONE_SIZE = 16;
export const CZ_COUNT = 0; // u32 connections now
export const CZ_LIMIT = 4; // u32 own limit, if it is limited
export const CZ_LIMITED = 8; // u32 1 = it has a limit of its own, 0 = the default limit applies

// Control words, offsets from CT_CONTROL. Each on a line of its own where workers write.
export const CTC_LIMIT = 0; // u32 connections allowed
export const CTC_DEFAULT_ZONE_LIMIT = 4; // u32 limit of zones without their own, if they are limited
export const CTC_LIBERAL = 8; // u32 1 = TCP sequence numbers are not checked
export const CTC_DEFAULT_LIMITED = 12; // u32 1 = CTC_DEFAULT_ZONE_LIMIT applies
export const CTC_SEED = 192; // u32 x CTC_SEED_WORDS: keys of the hash, random at start
export const CTC_SEED_WORDS = 12;
export const CTC_COUNT = 64; // u32 connections now
export const CTC_POOL_LOCK = 128; // u32
export const CTC_FREE = 132; // u32 first free record (number + 1), 0 = none
export const CTC_HIGH = 136; // u32 records used ever: those from here on are untouched

// Counters of a worker, f64 each, offsets from its CT_COUNTERS page; names in src/engine/conntrack.ts.
export const CTK_LOOKUPS = 0; // packets of ct actions
export const CTK_HITS = 8;
export const CTK_CREATED = 16;
export const CTK_EXPIRED = 24;
export const CTK_FLUSHED = 32; // by commands, force, and TCP connections that begin anew
export const CTK_INV_NOT_IP = 40;
export const CTK_INV_L3 = 48; // IP header invalid
export const CTK_INV_L3_CSUM = 56;
export const CTK_INV_L4 = 64; // transport header invalid
export const CTK_INV_L4_CSUM = 72;
export const CTK_INV_FRAGMENT = 80;
export const CTK_INV_TCP = 88; // out of window, or flags that fit no connection
export const CTK_INV_NEW = 96; // cannot begin a connection
export const CTK_INV_ICMP = 104; // error about a connection that does not exist
export const CTK_FULL = 112; // refused: limit of connections
export const CTK_ZONE_FULL = 120; // refused: limit of the zone
export const CTK_NAT_EXHAUSTED = 128; // refused: no address and port left
export const CTK_RACE = 136; // two workers committed the same connection; the second one found it
export const CTK_FRAG_REASSEMBLED = 144; // datagrams completed
export const CTK_EXPECTATIONS = 152; // data connections announced
export const CTK_EXPECTED = 160; // connections made that had been announced
export const CTK_EXPECT_EXPIRED = 168; // announced, and did not come in time
export const CTK_EXPECT_REPLACED = 176; // the oldest announcement of a connection that makes too many
export const CTK_EXPECT_FULL = 184; // no room for an expectation
export const CTK_INV_HELPER = 192; // control message that lies, or cannot be understood
export const CTK_INV_REWRITE = 200; // control message whose address cannot be rewritten
// Fragments, IPv4 and IPv6 (FRAGMENT_V6 further on), as dpctl/ipf-get-status shows them.
export const CTK_FRAG_ACCEPTED = 208;
export const CTK_FRAG_COMPLETED = 216; // went on, their datagram being complete
export const CTK_FRAG_EXPIRED = 224; // went on, the rest not having come: this data plane drops them instead
export const CTK_FRAG_TOO_SMALL = 232;
export const CTK_FRAG_OVERLAP = 240;
export const CTK_FRAG_PURGED = 248; // dropped, the rest not having come
export const FRAGMENT_V6 = 48;
export const CTK_COUNT = 38;

// Tuple: what a packet is looked up by (scratch of dataplane/ct, and of flushes by tuple)
export const TU_SRC = 0; // 16 bytes, as CN_SRC
export const TU_DST = 16; // 16 bytes
export const TU_PORTS = 32; // u32, as CN_PORTS
export const TU_META = 36; // u32, as CN_META
export const TU_HASH = 40; // u32
export const TU_FLAGS = 44; // u32 private
export const TU_SIZE = 64;

// ct_state
export const CS_NEW = 0x01;
export const CS_EST = 0x02;
export const CS_REL = 0x04;
export const CS_RPL = 0x08;
export const CS_INV = 0x10;
export const CS_TRK = 0x20;
export const CS_SNAT = 0x40;
export const CS_DNAT = 0x80;

/** Address of connection number `n`. */
export function connectionAddress(n: u32): u32 {
  return CT_RECORDS + n * CN_SIZE;
}
/** Counters written by holder `n`: a worker, or CT_CONTROL_PLANE. */
export function ctCountersAddress(n: u32): u32 {
  return CT_COUNTERS + n * CT_COUNTERS_SIZE;
}
