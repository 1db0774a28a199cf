// Expectations of connection tracking: data connections that a control connection (FTP, TFTP) has announced. One table
// for all workers, under one lock.
//
//   control     64 bytes
//   heads       4 096 x u32        first expectation of a chain, number + 1, 0 = none
//   records     8 192 x 192        what is expected, and what a connection that fits inherits
//
// An expectation belongs to a live connection, whose newest one CN_EXPECTATIONS names; each names the next older one. It
// ends with that connection, and after EXPECT_TIMEOUT_MS. Locks: that of a connection's record comes before this one.

import { CT_BASE } from './memory.ts';

export const EXPECT_BASE = CT_BASE + 0x2b000000;
export const EXPECT_HEADS = EXPECT_BASE + 0x1000;
export const EXPECT_HEAD_COUNT = 4096;
export const EXPECT_RECORDS = EXPECT_BASE + 0x10000;
export const EXPECT_SIZE = 192;
export const EXPECT_MAX = 8192;

// Control words, offsets from EXPECT_BASE
export const EXC_LOCK = 0; // u32
export const EXC_FREE = 4; // u32 first free record, number + 1
export const EXC_USED = 8; // u32 records used ever
export const EXC_COUNT = 12; // u32 expectations now

/** Open vSwitch keeps an expectation as long as its control connection; Linux, whose time this is, does not. */
export const EXPECT_TIMEOUT_MS = 300000;
/** Expectations of one control connection: the oldest gives way. */
export const EXPECT_PER_CONNECTION = 16;

// Expectation
export const EX_TUPLE = 0; // TU_*: the first packet; source port 0 means any. 48 bytes
export const EX_NEXT = 48; // u32 next of the chain, or next free: number + 1
export const EX_OLDER = 52; // u32 next older one of the same control connection, number + 1
export const EX_PARENT = 56; // u32 address of the control connection's record, 0 = free
export const EX_EXPIRES = 60; // u32 ms
export const EX_PARENT_SRC = 64; // 16 bytes: original tuple of the control connection
export const EX_PARENT_DST = 80; // 16 bytes
export const EX_PARENT_PORTS = 96; // u32
export const EX_MARK = 100; // u32 network order
export const EX_FLAGS = 104; // u32 EXF_*
export const EX_NAT_PORT = 108; // u16 port for the replies' source where it is translated, network order; 0 = keep
export const EX_LABEL = 112; // 16 bytes
/** Where the connection is translated (ct with nat): the address for its replies' source, or destination. */
export const EX_NAT_ADDRESS = 128; // 16 bytes

export const EXF_SNAT = 1; // EX_NAT_ADDRESS is the replies' destination: the connection's source is translated
export const EXF_LABEL = 2; // EX_LABEL may be other than zero
