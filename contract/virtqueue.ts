// A virtqueue: the part of the queue record (contract/port.ts) of the kinds QUEUE_SPLIT and QUEUE_PACKED.
//
// Written by the port's control plane (src/port/vhostuser) from the vhost-user messages before the queue is attached;
// words marked W belong to the worker that polls the queue (receive) or holds its lock (transmit) while it is
// attached. Words marked L may be changed by the control plane at any moment (u32 stores). Virtio 1.2, sections 2.7
// (split), 2.8 (packed), 5.1.6 (network header); vhost-user for the meaning of index words and of the dirty log.
//
//   split    VQ_DESC  descriptor table   16 x size                packed   VQ_DESC  descriptor ring       16 x size
//            VQ_AVAIL avail ring         6 + 2 x size                      VQ_AVAIL driver event suppression   4
//            VQ_USED  used ring          6 + 8 x size                      VQ_USED  device event suppression   4
//
// The three areas are memory offsets; each area must be mapped contiguously and stay mapped (pinned chunks, or a
// mapping of its own), aligned to 16, 2 and 4 bytes (packed: 16, 4, 4). A misaligned area makes the queue broken.

export const VQ_SIZE = 64; // u32 number of descriptors, 1 … 32768 (split: a power of two)
export const VQ_FEATURES = 68; // u32 L virtio feature bits 0-31 as acknowledged by the driver (VF_*)
export const VQ_FEATURES_HIGH = 72; // u32 bits 32-63 (VFH_*)
export const VQ_HEADER = 76; // u32 bytes of the virtio-net header: 12, or 10 without VERSION_1 and MRG_RXBUF
export const VQ_DESC = 80; // u32 memory offset of the descriptors
export const VQ_AVAIL = 84; // u32 memory offset of the driver's area
export const VQ_USED = 88; // u32 memory offset of the device's area
export const VQ_CALL_FD = 92; // i32 L eventfd that interrupts the driver, -1 none. Close an old one only after quiescence

// Ring position, in the halves of the vhost-user SET_VRING_BASE word. Split: 16-bit free running indices; both start
// at the base. Packed: bits 0-14 index, bit 15 wrap counter.  base = packed ? LAST_AVAIL | LAST_USED << 16 : LAST_AVAIL
export const VQ_LAST_AVAIL = 96; // u32 W next entry or descriptor to take
export const VQ_LAST_USED = 100; // u32 W next entry or descriptor to give back

export const VQ_NOTIFY = 104; // u32 W kicks of the driver: NOTIFY_UNKNOWN (initial value) | NOTIFY_OFF | NOTIFY_ON
export const VQ_CALL_PENDING = 108; // u32 W 1 = an interrupt is owed. Write 1 at start: the driver may have missed one
export const VQ_BURST = 112; // u32 W chains taken by rxBurst and not yet given back by rxDone (one burst a worker)
export const VQ_HELD = 116; // u32 W transmit: not 0 = used entries are written, but not visible yet (dataplane/port/held.ts)
export const VQ_INTERRUPTS = 120; // f64 W interrupts asked for
export const VQ_STALLED = 160; // f64 W engine's clock + 1 ms since when a chunk could not be mapped, 0 = can (receive)

// Dirty log of a live migration: bit p % 8 of byte p / 8 for guest page p of 4 KiB. Active while VF_LOG_ALL is set
// in VQ_FEATURES and VQ_LOG is not 0. To change it: clear the bit, quiesce, change, set the bit.
export const VQ_LOG = 128; // u32 L memory offset of the mapped log, 0 = none
export const VQ_LOG_BYTES = 132; // u32 L size of the log: pages beyond it are not logged
export const VQ_LOG_RING = 136; // u32 L 1 = the ring itself is logged too (flag LOG of SET_VRING_ADDR)
export const VQ_USED_GPA = 144; // u64 L guest physical address of VQ_USED (log_guest_addr of SET_VRING_ADDR)
export const VQ_DESC_GPA = 152; // u64 guest physical address of VQ_DESC (only packed rings write there)

export const NOTIFY_UNKNOWN = 0;
export const NOTIFY_OFF = 1;
export const NOTIFY_ON = 2;

export const VIRTQUEUE_MAX_SIZE = 32768;

// Bits of VQ_FEATURES
export const VF_CSUM = 0x1; // the driver may send partial checksums
export const VF_GUEST_CSUM = 0x2; // the driver takes partial checksums
export const VF_GSO = 0x40; // legacy: any segmentation offload towards us
export const VF_GUEST_TSO4 = 0x80;
export const VF_GUEST_TSO6 = 0x100;
export const VF_GUEST_ECN = 0x200;
export const VF_GUEST_UFO = 0x400;
export const VF_HOST_TSO4 = 0x800;
export const VF_HOST_TSO6 = 0x1000;
export const VF_HOST_ECN = 0x2000;
export const VF_HOST_UFO = 0x4000;
export const VF_MRG_RXBUF = 0x8000;
export const VF_LOG_ALL = 0x4000000;
export const VF_INDIRECT_DESC = 0x10000000;
export const VF_EVENT_IDX = 0x20000000;
// Bits of VQ_FEATURES_HIGH
export const VFH_VERSION_1 = 0x1;
export const VFH_RING_PACKED = 0x4;
export const VFH_IN_ORDER = 0x8;

// Descriptors, the same 16 bytes in both rings: addr u64, len u32, then split: flags u16, next u16; packed: id u16,
// flags u16.
export const DESC_SIZE = 16;
export const DESC_ADDR = 0;
export const DESC_LEN = 8;
export const SPLIT_FLAGS = 12;
export const SPLIT_NEXT = 14;
export const PACKED_ID = 12;
export const PACKED_FLAGS = 14;
export const DESC_F_NEXT = 1;
export const DESC_F_WRITE = 2;
export const DESC_F_INDIRECT = 4;
export const DESC_F_AVAIL = 0x80;
export const DESC_F_USED = 0x8000;

// Event suppression
export const AVAIL_F_NO_INTERRUPT = 1; // split, flags word of the avail ring
export const USED_F_NO_NOTIFY = 1; // split, flags word of the used ring
export const EVENT_ENABLE = 0; // packed, u16 after the u16 offset and wrap
export const EVENT_DISABLE = 1;
export const EVENT_DESC = 2;

// The data plane's scratch at PV_IO of each worker's private memory (contract/packet.ts).
export const IO_CHAINS = 0x00000; // 2048 x 8: chains of the transmit call
export const IO_PLAN = 0x04000; // 512 x 16: packets of the transmit call and their pieces
export const IO_LIST = 0x06000; // 512 x 4: addresses of packet records ready for the wire
export const IO_BURST = 0x06800; // BURST_MAX x 8: chains of the receive burst, until rxDone
export const IO_PIECES = 0x08000; // 4096 x 16: destination pieces of the transmit call
export const IO_SEGMENTS = 0x18000; // 128 x PKT_SIZE: records of segments and of packets completed in software
export const IO_SIMPLE = 0x40000; // 12 KiB: records of dataplane/simple.ts, or of plain.ts
export const IO_HELD = 0x43000; // 16 + HELD_MAX x HELD_ENTRY: rings whose used entries are not visible yet
export const HELD_MAX = 64;
export const HELD_ENTRY = 24;
export const IO_END = 0x43800; // the rest of PV_IO is free for other kinds of port
