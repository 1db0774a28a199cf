// Rings between workers and control plane: single producer, single consumer, records of variable length.
//
//   0   u32 head   producer: bytes written, modulo 2^32     (own cache line)
//   64  u32 tail   consumer: bytes read                     (own cache line)
//   128 data       RING_DATA_SIZE bytes, a power of two; records are 16-byte aligned and never wrap: a record that
//                  does not fit before the end is preceded by a filler (type RING_FILLER)
//
// Record: u32 length (with header, multiple of 16), u32 type, then the fields below.

export const UPCALL_RING_SIZE = 0x400000; // 4 MiB each
export const INJECT_RING_SIZE = 0x400000;
export const RING_HEAD = 0;
export const RING_TAIL = 64;
export const RING_DATA = 128;
export const RING_DATA_SIZE = 0x200000;
export const RING_FILLER = 0xffff;

// Behind the data of an upcall ring: bytes of records by input port, modulo 2^32, u32 x MAX_PORTS each. What a port has
// posted and the control plane has not yet handled may be as much as is free: half of the ring for one port alone, and n ports
// that flood it leave one part in n + 1 to those that do not (dynamic thresholds, Choudhury and Hahne, 1998).
export const UPCALL_POSTED = 0x300000; // W
export const UPCALL_HANDLED = 0x310000; // main thread

// Upcall record: worker to control plane. type = UPCALL_* (contract/action.ts)
export const UC_LENGTH = 0; // u32
export const UC_TYPE = 4; // u32
export const UC_COOKIE = 8; // u32
export const UC_IN_PORT = 12; // u32 datapath port
export const UC_PACKET_LEN = 16; // u32 bytes of the frame on the wire
export const UC_DATA_LEN = 20; // u32 bytes of the frame that follow (less if truncated by the action)
export const UC_VNET = 24; // 8 bytes: flags, gso_type, gso_size, csum_start, csum_offset as in packet.ts
export const UC_HASH = 32; // u32
export const UC_LINES = 36; // u32: bit n = line n (64 bytes) of the key is written; the others are zero
export const UC_KEY = 64; // KEY_SIZE bytes
export const UC_DATA = 512; // the frame

// Inject record: control plane to worker. The worker runs the program on the frame, or looks it up.
export const IN_LENGTH = 0; // u32
export const IN_TYPE = 4; // u32 INJECT_*
export const IN_ACTIONS = 8; // u32 words of the program that follow the key (0 with INJECT_LOOKUP)
export const IN_IN_PORT = 12; // u32 datapath port
export const IN_DATA_LEN = 16; // u32
export const IN_VNET = 24; // 8 bytes
export const IN_KEY_META = 64; // KEY_SIZE bytes: metadata fields (in_port, recirc_id, marks, ct, tunnel) are taken over
export const IN_PROGRAM = 512; // program, then the frame, 16-byte aligned
export const INJECT_EXECUTE = 1; // run the program
export const INJECT_LOOKUP = 2; // look up as if received: a miss is an upcall, whose packet comes back with a program
