// Counting packets: a burst is summed up in local variables and added to the counters once.
//
// The size histogram of a burst is one u64: seven fields of 9 bits, enough for bursts of BURST_MAX packets.

import {
  PC_RX_BROADCAST,
  PC_RX_BYTES,
  PC_RX_GSO,
  PC_RX_MULTICAST,
  PC_RX_PACKETS,
  PC_RX_SIZES,
  PC_TX_BROADCAST,
  PC_TX_BYTES,
  PC_TX_MULTICAST,
  PC_TX_PACKETS,
  PC_TX_SIZES,
  PORT_COUNTERS_SIZE,
} from '../../contract/counters.ts';
import { Q_BYTES, Q_PACKETS } from '../../contract/port.ts';
import { portCountersBase } from '../worker.ts';

// The sums of the burst at hand.
let packets: u32 = 0;
let bytes: u64 = 0;
let sizes: u64 = 0;
let multicast: u32 = 0; // with broadcast
let broadcast: u32 = 0;

export function countBegin(): void {
  packets = 0;
  bytes = 0;
  sizes = 0;
  multicast = 0;
  broadcast = 0;
}

/** Counts one frame of `length` bytes that starts at `frame`; at most 511 between countBegin() and the end. */
export function countFrame(frame: u32, length: u32): void {
  packets++;
  bytes += length;
  const bucket: u32 = length <= 64 ? 0 : length > 1522 ? 6 : 26 - clz<u32>(length);
  sizes += (<u64>1) << (bucket * 9);
  if (load<u8>(frame) & 1) countGroup(frame);
}

/** On its own, so that the most common frame is counted without. */
function countGroup(frame: u32): void {
  multicast++;
  broadcast += (load<u64>(frame) & 0xffffffffffff) === 0xffffffffffff ? 1 : 0;
}

/** Adds to one f64 counter (PC_*) of a port. */
export function countOne(port: u32, counter: u32, amount: u32): void {
  add(portCountersBase + port * PORT_COUNTERS_SIZE + counter, amount);
}

/** Adds the burst to the receive counters of the port and to the queue's. */
export function countReceived(q: u32, port: u32, gso: u32): void {
  const at = portCountersBase + port * PORT_COUNTERS_SIZE;
  if (gso !== 0) add(at + PC_RX_GSO, gso);
  finish(q, at, PC_RX_PACKETS, PC_RX_BYTES, PC_RX_SIZES, PC_RX_MULTICAST, PC_RX_BROADCAST);
}

/** Adds the burst to the transmit counters of the port and to the queue's. */
export function countTransmitted(q: u32, port: u32): void {
  const at = portCountersBase + port * PORT_COUNTERS_SIZE;
  finish(q, at, PC_TX_PACKETS, PC_TX_BYTES, PC_TX_SIZES, PC_TX_MULTICAST, PC_TX_BROADCAST);
}

function finish(q: u32, at: u32, p: u32, b: u32, s: u32, m: u32, bc: u32): void {
  if (packets === 0) return;
  add(at + p, packets);
  store<f64>(at + b, load<f64>(at + b) + <f64>bytes);
  add(q + Q_PACKETS, packets);
  store<f64>(q + Q_BYTES, load<f64>(q + Q_BYTES) + <f64>bytes);
  if (multicast !== 0) {
    add(at + m, multicast - broadcast);
    add(at + bc, broadcast);
  }
  for (let bucket = at + s; sizes !== 0; bucket += 8, sizes >>= 9) {
    add(bucket, <u32>sizes & 511);
  }
}

function add(at: u32, amount: u32): void {
  store<f64>(at, load<f64>(at) + <f64>amount);
}
