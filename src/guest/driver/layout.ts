// Memory of one of our own guests, as its two halves see it: the TypeScript side (guest.ts) and the driver in
// AssemblyScript. One shared WebAssembly.Memory; the first `memory size` bytes of it are the guest's physical memory (a
// memfd that the back-end maps too), so a guest physical address is an offset in the memory, and the driver reaches
// everything with plain loads and stores.
//
//   0x0000_0000  64 KiB  nothing
//   0x0001_0000  32 KiB  control: traffic profile, counters (below)
//   0x0001_8000  32 KiB  latency histograms, one KiB for each pair
//   0x0002_0000  64 KiB  records of rings, 64 x RG_SIZE
//   0x0003_0000 256 KiB  sequence numbers seen, a bit each, 8 KiB for each pair
//   0x0010_0000          rings, then packet buffers
//
// Everything in here is guest memory: whoever holds the other side of the vhost-user socket can read and write it.

export const GUEST_CONTROL = 0x10000;
export const GUEST_HISTOGRAMS = 0x18000;
export const GUEST_RINGS = 0x20000;
export const GUEST_SEEN = 0x30000;
export const GUEST_DYNAMIC = 0x100000;

// Ring record, offsets from GUEST_RINGS + ring * GR_RECORD. Even = receive, odd = transmit, as in vhost-user.
export const GR_RECORD = 512;
export const GR_SIZE = 0; // u32 entries, a power of two
export const GR_PACKED = 4; // u32 1 = packed ring
export const GR_DESC = 8; // u32 addresses of the three areas
export const GR_AVAIL = 12; // u32
export const GR_USED = 16; // u32
export const GR_BUFFERS = 20; // u32 first buffer; buffer i belongs to descriptor i for good
export const GR_BUFFER_SIZE = 24; // u32
export const GR_IN_ORDER = 28; // u32
export const GR_EVENT_IDX = 32; // u32
export const GR_HEADER = 36; // u32 bytes of the virtio-net header
// Position, written by the driver. Indices run freely (u32); entry = index % size, wrap = index / size even or odd.
export const GR_NEXT = 64; // u32 next buffer to make available
export const GR_DONE = 68; // u32 next buffer that the device has to give back
export const GR_KICK = 76; // u32 1 = the host loop shall write the kick eventfd
export const GR_CONTINUE = 84; // u32 buffers of a merged packet still to come

// Traffic of a queue pair, offsets from GUEST_CONTROL + pair * GT_RECORD.
export const GT_RECORD = 1024;
export const GT_MODE = 0; // u32 TRAFFIC_*, or-ed
export const GT_FRAME_LEN = 4; // u32 bytes of a generated frame, 60 … 1514
export const GT_FLOWS = 8; // u32 UDP source ports to go through, 1 … 65535
export const GT_PER_MS = 16; // f64 packets per millisecond, 0 = as many as fit
export const GT_CREDIT = 24; // f64 packets that may be sent now
export const GT_LAST = 32; // f64 time of the last poll, milliseconds
export const GT_SEQUENCE = 40; // u32 next sequence number to send
export const GT_EXPECTED = 44; // u32 next sequence number expected
export const GT_SENT = 64; // f64 frames given to the device
export const GT_SENT_DONE = 72; // f64 frames that the device has taken
export const GT_RECEIVED = 80; // f64 frames received, of any kind
export const GT_RECEIVED_BYTES = 88; // f64
export const GT_OURS = 96; // f64 frames with our mark and a sequence number
export const GT_LOST = 104; // f64 sequence numbers jumped over
export const GT_REORDERED = 112; // f64 sequence numbers that came late (each was counted as lost before)
export const GT_ECHOED = 120; // f64 frames sent back
export const GT_ECHO_FULL = 128; // f64 frames that could not be sent back: transmit ring full
export const GT_RTT_COUNT = 136; // f64 echoes of our own frames
export const GT_RTT_SUM = 144; // f64 milliseconds
export const GT_RTT_MAX = 152; // f64 milliseconds
export const GT_BATCH = 160; // u32 frames per burst, at most 256
export const GT_SPREAD = 164; // u32 how flows differ: SPREAD_*
export const GT_IMIX = 168; // u32 1 = sizes of IMIX in turn instead of GT_FRAME_LEN
export const GT_TWICE = 176; // f64 frames whose sequence number had come before
export const GT_GSO_SIZE = 172; // u32 not 0 = frames are TCP, to be cut into segments of so many bytes by whoever must
export const GT_OUTER = 184; // u32 bytes of a tunnel's headers before each frame, 0 = none
export const GT_LIMIT = 188; // u32 sequence number before which the sender stops, 0 = none (what nobody may lose is counted by it)
export const GT_NOW = 192; // f64 of pair 0: the time, milliseconds, of saturate.ts, which keeps it
/** Template of the frame: headers of a tunnel, if any; Ethernet, IPv4, UDP; then the mark. */
export const GT_TEMPLATE = 256;

export const TRAFFIC_SEND = 1;
export const TRAFFIC_ECHO = 2;

export const SPREAD_PORT = 0; // in the UDP source port
export const SPREAD_ADDRESS = 1; // in the source address, and in the port with it
export const SPREAD_BITS = 2; // each in one other bit of source address, source port and destination port (8 192)
export const SPREAD_CONNECTION = 3; // in source address (low 16 bits) and source port (the rest): up to 4 million
export const SPREAD_REPLY = 4; // the answers to those: the same in destination address and port

// Latency histogram of a pair: u32 x 256, in units of 1/16 microsecond, eight buckets an octave.
export const HISTOGRAM_BYTES = 1024;
export const HISTOGRAM_BUCKETS = 256;
export const HISTOGRAM_PER_MS = 16000;

// Sequence numbers seen of a pair: bit n % SEEN_WINDOW for number n, for the latest SEEN_WINDOW numbers.
export const SEEN_BYTES = 8192;
export const SEEN_WINDOW = 65536;

// UDP payload of a generated frame, at offset 42: u32 mark, u32 sequence number, f64 time in milliseconds.
export const PAYLOAD = 42;
/** TCP's header is so much longer than UDP's: the payload begins later. */
export const TCP_MORE = 12;
export const MARK = 0x6f697678; // "xvio"
export const FRAME_MIN = 60;
