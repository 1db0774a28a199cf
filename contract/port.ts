// Ports and queues as the data plane knows them.
//
// A port has receive queues (we take packets from them) and transmit queues. Each queue record is one ring of one
// kind. For a vhost-user port, the guest's TX ring is our receive queue and its RX ring our transmit queue.

import { PORT_BASE, QUEUE_BASE } from './memory.ts';

export const MAX_PORTS = 1024;
export const PORT_SIZE = 512;
export const MAX_QUEUES = 8192;
export const QUEUE_SIZE = 512;
export const MAX_QUEUES_PER_PORT = 32; // in each direction

/** Address of the record of datapath port `port`. */
export function portAddress(port: u32): u32 {
  return PORT_BASE + port * PORT_SIZE;
}
/** Address of queue record `queue`. */
export function queueAddress(queue: u32): u32 {
  return QUEUE_BASE + queue * QUEUE_SIZE;
}

// Port record
export const PT_STATE = 0; // u32: 0 free, 1 in use
export const PT_FLAGS = 4; // u32: PORT_*
export const PT_MTU = 8; // u32: largest L3 packet; frames up to mtu + 14 + 8 (two VLAN tags) pass
export const PT_OFFLOADS = 12; // u32: OFFLOAD_*: what the peer accepts from us
export const PT_KEY_PORT = 16; // u32: this port's number in network byte order, ready for K_IN_PORT
export const PT_RXQ_COUNT = 20; // u32
export const PT_TXQ_COUNT = 24; // u32: usable transmit queues now (0 = DROP_TX_NOT_READY)
export const PT_MASKS_COUNT = 28; // reserved for the flow table (contract/table.ts)
export const PT_MASKS = 32; // reserved for the flow table
export const PT_REGIONS = 36; // u32: first region record of this port's guest memory (contract/window.ts)
export const PT_REGION_COUNT = 40; // u32
export const PT_TX_RETRIES = 44; // u32: how often a burst looks again at a full ring of a guest (tx-retries-max)
export const PT_RELAY = 48; // u32: port + 1 to which all packets go unparsed (other_config:relay), 0 = none
export const PT_SIMPLE = 52; // u32: 1 = all megaflows of its packets are simple (ST_SIMPLE), a hint; see dataplane/simple.ts
export const PT_TUNNEL_SEQUENCE = 56; // u32 W: next GRE sequence number of a tunnel port
export const PT_RXQ = 64; // u32 x 32: queue numbers
export const PT_TXQ = 192; // u32 x 32

export const PORT_UP = 1; // admin up: else packets to it are DROP_TX_LINK_DOWN, packets from it discarded
export const PORT_NO_RX = 2; // OFPPC_NO_RECV
export const PORT_NO_TX = 4; // OFPPC_NO_FWD

export const OFFLOAD_CSUM = 1; // accepts packets whose L4 checksum is still partial
export const OFFLOAD_TSO4 = 2;
export const OFFLOAD_TSO6 = 4;
export const OFFLOAD_ECN = 8;
export const OFFLOAD_UFO = 16;
export const OFFLOAD_USO = 32;

// Kinds of queue
export const QUEUE_FREE = 0;
export const QUEUE_SPLIT = 1; // virtio split ring in guest memory
export const QUEUE_PACKED = 2; // virtio packed ring in guest memory
export const QUEUE_FRAME = 3; // slots filled and drained by system calls of the worker's host loop (tap, AF_PACKET)
export const QUEUE_XDP = 4; // AF_XDP rings

// Queue record, part common to all kinds. The parts of each kind are in contract/virtqueue.ts, frame.ts and xdp.ts.
export const Q_KIND = 0; // u32
export const Q_PORT = 4; // u32 datapath port
export const Q_INDEX = 8; // u32 index of the queue in its port and direction
export const Q_DIR = 12; // u32: 0 = receive, 1 = transmit
export const Q_ENABLED = 16; // u32: 0 = taken and thrown away (receive) or nothing delivered (transmit)
export const Q_LOCK = 20; // u32 W: spin lock of transmit queues shared by workers
export const Q_WAIT_FD = 24; // i32: fd that becomes readable when there is work (kick eventfd, tap, socket), -1 none
export const Q_BROKEN = 28; // u32 W: not 0 = the ring was found invalid (a DROP_* reason); the control plane acts on it
export const Q_PACKETS = 32; // f64 W
export const Q_BYTES = 40; // f64 W
export const Q_BUSY_NS = 48; // f64 W: time spent on this queue while it had packets (pmd-rxq-show)
export const Q_NOT_PLAIN = 56; // u32 W: bursts still to be received before plain.ts tries again
export const Q_SPECIFIC = 64; // start of the part of the kind
