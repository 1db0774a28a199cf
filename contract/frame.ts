// QUEUE_FRAME: queues of kernel devices (tap, AF_PACKET), filled and drained by system calls of the worker's host loop.
//
// A ring of entries. Each entry is one struct mmsghdr with one struct iovec, so that AF_PACKET moves a whole burst with
// one recvmmsg/sendmmsg, and no JavaScript runs per packet; a tap has only read and write, and fills in msg_len itself.
//
//   receive: entry i has slot i, of fixed size           transmit: frames one behind the other in a byte ring
//   +--------------+------+-------+----------+           +------+-------+--+------+-------+-------------+
//   | unused       | vnet | frame             |           | vnet | frame |  | vnet | frame | free ...    |
//   +--------------+------+-------+----------+           +------+-------+--+------+-------+-------------+
//   0      64-FQ_VNET     64      FQ_DATA_SIZE            16-byte aligned; a frame never wraps
//
// Positions are counts modulo 2^32; entry = position & (FQ_ENTRIES - 1).
//   receive:  FQ_HEAD (host loop: received) >= FQ_TAKEN (in a burst) >= FQ_TAIL (done, slot free again)
//   transmit: FQ_HEAD (data plane, under Q_LOCK) >= FQ_TAIL (host loop: sent, or dropped and counted)
//
// The iovecs hold real addresses, because the kernel wants them: the data plane writes iov_base of transmit entries
// (FQ_REAL + offset). Packets received are counted by the caller of frameRxBurst, drops where they happen.

export const FQ_FD = 64; // i32
export const FQ_STYLE = 68; // u32 FRAME_TAP | FRAME_PACKET
export const FQ_ENTRIES = 72; // u32, a power of two
export const FQ_MSGS = 76; // u32 address of struct mmsghdr x entries
export const FQ_IOVS = 80; // u32 address of struct iovec x entries
export const FQ_CONTROL = 84; // u32 address of control buffers x entries (receive, AF_PACKET), 0 = none
export const FQ_DATA = 88; // u32 address of the slots or of the byte ring
export const FQ_DATA_SIZE = 92; // u32 bytes of a slot (receive) or of the byte ring (transmit)
export const FQ_VNET = 96; // u32 bytes of the virtio-net header: 10 (AF_PACKET) or 12 (tap)
export const FQ_OFFSETS = 100; // u32 address of u32 x entries: where in the byte ring the entry starts (transmit)
export const FQ_REAL = 104; // u64 real address of byte 0 of the memory
export const FQ_EPOCH = 112; // u32 different for each set-up of a queue: host loops cache addresses by it
export const FQ_WATCH = 116; // u32 receive: WATCH_*, who waits for a silent device (src/engine/silentDevices.ts)
export const FQ_HEAD = 128; // u32
export const FQ_TAKEN = 132; // u32 W (data plane)
export const FQ_BYTE_HEAD = 136; // u32 W (data plane) next free byte of the byte ring
export const FQ_TAIL = 192; // u32
export const FQ_FLUSHING = 196; // u32 W: host loops that want this transmit queue flushed; the first one does it

export const WATCH_NONE = 0; // the host loop asks the device
export const WATCH_WANTED = 1; // it does, and would rather not
export const WATCH_SET = 2; // the main thread waits for it
export const WATCH_NEVER = 3; // and cannot

export const FRAME_TAP = 0;
export const FRAME_PACKET = 1;

/** Bytes before the frame in a receive slot. */
export const FRAME_SLOT_HEAD = 64;
/** Longest frame: 64 KiB of IP, Ethernet header, two VLAN tags, rounded up. */
export const FRAME_MAX = 65600;

// struct mmsghdr and its struct msghdr (64-bit ABI)
export const MMSG_SIZE = 64;
export const MMSG_IOV = 16; // u64
export const MMSG_IOVLEN = 24; // u64
export const MMSG_CONTROL = 32; // u64
export const MMSG_CONTROLLEN = 40; // u64
export const MMSG_FLAGS = 48; // i32
export const MMSG_LEN = 56; // u32
export const IOV_SIZE = 16;
export const CONTROL_SIZE = 64;
