// Memory map of the one shared WebAssembly.Memory (4 GiB reserved, committed page by page as it is touched).
//
//   0x0000_0000  64 KiB   nothing: a null pointer stays harmless
//   0x0001_0000  64 KiB   control block (below)
//   0x0010_0000   1 MiB   worker records        MAX_WORKERS x WORKER_SIZE
//   0x0020_0000   1 MiB   port records          MAX_PORTS x PORT_SIZE          (contract/port.ts)
//   0x0030_0000   4 MiB   queue records         MAX_QUEUES x QUEUE_SIZE        (contract/port.ts)
//   0x0080_0000   8 MiB   guest memory regions and chunk tables                (contract/window.ts)
//   0x0100_0000  16 MiB   port counters         MAX_WORKERS x MAX_PORTS x PORT_COUNTERS_SIZE
//   0x0200_0000  32 MiB   private memory of the workers (packets, keys, batches)  MAX_WORKERS x 2 MiB
//   0x0400_0000  64 MiB   upcall rings          MAX_WORKERS x UPCALL_RING_SIZE (contract/ring.ts)
//   0x0800_0000  64 MiB   inject rings          MAX_WORKERS x INJECT_RING_SIZE
//   0x0c00_0000  64 MiB   action programs
//   0x1000_0000 168 MiB   megaflow records, subtables, hash index              (contract/table.ts)
//   0x1a80_0000 128 MiB   flow counters         per worker
//   0x2280_0000  64 MiB   microflow caches      MAX_WORKERS x 4 MiB
//   0x2680_0000  32 MiB   meters                                            (contract/meter.ts)
//   0x2880_0000 416 MiB   arena of the control plane: frame slots of kernel ports, AF_XDP UMEM and rings
//   0x4280_0000 768 MiB   connection tracking: connections, index, locks        (contract/ct.ts)
//   0x7280_0000 2.21 GiB  windows on guest memory, 2 MiB chunks aligned by the memory's real address
//
// Who writes what: the control plane's main thread writes everything except: a worker writes its own worker record
// (the words marked W), its counters, its private memory, its cache, its end of its rings, the W words of the
// queues that it owns (receive side) or has locked (transmit side). Guests write the windows.

export const CONTROL_BASE = 0x00010000;
export const WORKER_BASE = 0x00100000;
export const PORT_BASE = 0x00200000;
export const QUEUE_BASE = 0x00300000;
export const WINDOW_TABLE_BASE = 0x00800000;
export const PORT_COUNTERS_BASE = 0x01000000;
export const PRIVATE_BASE = 0x02000000;
export const UPCALL_BASE = 0x04000000;
export const INJECT_BASE = 0x08000000;
export const ACTIONS_BASE = 0x0c000000;
export const ACTIONS_SIZE = 0x04000000;
export const FLOW_TABLE_BASE = 0x10000000;
export const FLOW_TABLE_SIZE = 0x0a800000;
export const FLOW_COUNTERS_BASE = 0x1a800000;
export const FLOW_COUNTERS_SIZE = 0x08000000;
export const CACHE_BASE = 0x22800000;
export const METER_BASE = 0x26800000;
export const ARENA_BASE = 0x28800000;
export const ARENA_SIZE = 0x1a000000;
export const CT_BASE = 0x42800000;
export const CT_SIZE = 0x30000000;
export const WINDOW_BASE = 0x72800000;

export const MAX_WORKERS = 16;
export const WORKER_SIZE = 0x10000; // 64 KiB
export const PRIVATE_SIZE = 0x00200000; // 2 MiB
export const CACHE_SIZE = 0x00400000; // 4 MiB

// Control block, offsets from CONTROL_BASE. One writer, the main thread, unless said.
export const CTL_GENERATION = 0; // u32: raised after every change; see WK_ACK
export const CTL_WORKERS = 4; // u32: number of workers running
export const CTL_VLAN_LIMIT = 8; // u32: 1 or 2 VLAN headers parsed
export const CTL_CACHE_INSERT_INV_PROB = 12; // u32: 0 = no microflow cache, 1 = every flow goes into it, n = one in n
export const CTL_UPCALLS_ENABLED = 16; // u32: 0 = a miss is dropped (no control plane yet)
export const CTL_UPCALL_ARMED = 20; // u32: 1 = the main thread sleeps, the host loop of a worker has to wake it
export const CTL_PATIENCE_US = 24; // u32: how long a worker polls empty queues before it goes to sleep
export const CTL_WATCHES_WANTED = 28; // u32: raised by host loops, taken by the main thread: look for WATCH_WANTED (contract/frame.ts)
export const CTL_STARVED = 40; // u32: 1 = the main thread has upcalls to handle and lacks a core
export const CTL_CLOCK_SKEW_NS = 32; // f64: added to the workers' clocks; 0 unless a test has stopped the time

// Worker record, offsets from WORKER_BASE + worker * WORKER_SIZE. W = written by the worker.
export const WK_ACK = 0; // u32 W: the generation seen at the last start of a burst (published between two bursts)
export const WK_STATE = 4; // u32 W: 0 not running, 1 polling, 2 about to sleep or asleep (RCU-quiescent)
export const WK_BUSY_NS = 8; // f64 W: time spent in polls that found packets
export const WK_IDLE_NS = 16; // f64 W: time spent in polls that found none
export const WK_POLLS = 24; // f64 W
export const WK_PACKETS = 32; // f64 W
export const WK_BATCHES = 40; // f64 W: receive bursts that were not empty
export const WK_CACHE_HITS = 48; // f64 W
export const WK_FLOW_HITS = 56; // f64 W: cache missed, megaflow found
export const WK_FLOW_PROBES = 64; // f64 W: subtables probed for that
export const WK_MISSES = 72; // f64 W: upcalls of reason UPCALL_MISS sent
export const WK_LOST = 80; // f64 W: upcalls lost to a full ring
export const WK_SLEEPS = 88; // f64 W
export const WK_RECIRC = 96; // f64 W: packets recirculated
export const WK_CLEAR = 104; // u32: raised by the main thread to ask the worker to zero its statistics (pmd-stats-clear)
export const WK_STOP = 108; // u32: 1 = leave the loop
export const WK_CURRENT_RXQ = 112; // u32 W: queue number of the burst that is being run, 0xffffffff = none
export const WK_SIMPLE_HITS = 120; // f64 W: found without a parse (dataplane/simple.ts)
export const WK_RXQ_COUNT = 128; // u32: queues polled by this worker
export const WK_RXQ = 132; // u32 x MAX_QUEUES_PER_WORKER: queue numbers
export const MAX_QUEUES_PER_WORKER = 2048;
// Doorbells: what the worker's host loop has to do after a poll. Reset by the host loop.
export const WK_CALL_COUNT = 8448; // u32 W: eventfds to signal
export const WK_CALL = 8452; // i32 x 1024 W: file descriptors
export const MAX_CALLS: u32 = 1024;
export const WK_FLUSH_COUNT = 12576; // u32 W: queues (frame or XDP transmit) that need a system call
export const WK_FLUSH = 12580; // u32 x 1024 W: queue numbers
export const WK_BUSY_POLLS = 16712; // f64 W: polls that found packets
export const WK_UPCALLS_POSTED = 16704; // u32 W: upcalls posted since the host loop last looked; it wakes the main thread
