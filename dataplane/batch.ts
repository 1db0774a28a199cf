// Output batches: packets on their way to a port, gathered over all flows of a burst so that each port is served by
// one transmit call, in the order in which they came. And the pool of clone records, which live only as long as they
// stand in a batch or wait to be recirculated.

import { DROP_NO_PORT } from '../contract/drop.ts';
import {
  BURST_MAX,
  KEY_STRIDE,
  PKT_HEAD,
  PKT_HEAD_LEN,
  PKT_IN_PORT,
  PKT_KEY,
  PKT_SEG_COUNT,
  PKT_SEGS,
  PKT_SIZE,
  POOL_MAX,
  PV_KEYS,
  PV_PACKETS,
} from '../contract/packet.ts';
import { MAX_PORTS, PT_STATE, portAddress } from '../contract/port.ts';
import { countDrop } from './drop.ts';
import { txBurst } from './port/index.ts';
import { S_BATCHES, S_FREE, S_PORT_SLOT, S_SLOTS } from './scratch.ts';
import { privateBase } from './worker.ts';

const SLOTS: u32 = 64;
const BATCH: u32 = 256;
/** Clone records. */
const CLONES: u32 = POOL_MAX - BURST_MAX;

let slotsUsed: u32 = 0;
let free: u32 = 0;

/** Called once at the start of a worker. */
export function resetBatches(): void {
  slotsUsed = 0;
  memory.fill(privateBase + S_PORT_SLOT, 0xff, MAX_PORTS * 4);
  free = 0;
  for (let i: u32 = BURST_MAX; i < <u32>POOL_MAX; i++) {
    store<u32>(privateBase + S_FREE + free * 4, privateBase + PV_PACKETS + i * PKT_SIZE);
    free++;
  }
}

/** The key slot that belongs to a packet record. */
export function keyOf(pkt: u32): u32 {
  return privateBase + PV_KEYS + ((pkt - privateBase - PV_PACKETS) / PKT_SIZE) * KEY_STRIDE;
}

/** A copy of the packet (its own head, shared payload and key). 0 = no record left. */
export function clone(pkt: u32): u32 {
  if (free === 0) flushBatches();
  if (free === 0) return 0;
  free--;
  const copy = load<u32>(privateBase + S_FREE + free * 4);
  const head = load<u32>(pkt + PKT_HEAD);
  const offset = head - pkt;
  memory.copy(copy, pkt, PKT_SEGS);
  memory.copy(copy + PKT_SEGS, pkt + PKT_SEGS, load<u32>(pkt + PKT_SEG_COUNT) << 3);
  memory.copy(copy + offset, head, load<u32>(pkt + PKT_HEAD_LEN));
  store<u32>(copy + PKT_HEAD, copy + offset);
  return copy;
}

/** Are there `n` records, after a transmission if need be? */
export function freeRecords(n: u32): bool {
  if (free < n) flushBatches();
  return free >= n;
}

/** An unused record, 0 = none left. Nothing is transmitted to get one. */
export function takeRecord(): u32 {
  if (free === 0) return 0;
  free--;
  return load<u32>(privateBase + S_FREE + free * 4);
}

/** A clone with a key of its own. */
export function cloneWithKey(pkt: u32): u32 {
  const copy = clone(pkt);
  if (copy === 0) return 0;
  const key = keyOf(copy);
  memory.copy(key, load<u32>(pkt + PKT_KEY), KEY_STRIDE);
  store<u32>(copy + PKT_KEY, key);
  return copy;
}

/** The packet has left: gives a clone record back; records of the burst need nothing. */
export function release(pkt: u32): void {
  if (pkt < privateBase + PV_PACKETS + BURST_MAX * PKT_SIZE) return;
  store<u32>(privateBase + S_FREE + free * 4, pkt);
  free++;
}

/** Puts a packet, which belongs to the batch from now on, on its way to a port. */
export function output(pkt: u32, port: u32): void {
  if (port >= <u32>MAX_PORTS || load<u32>(portAddress(port) + PT_STATE) === 0) {
    countDrop(load<u32>(pkt + PKT_IN_PORT), DROP_NO_PORT);
    release(pkt);
    return;
  }
  const slotAt = privateBase + S_PORT_SLOT + port * 4;
  let slot = load<u32>(slotAt);
  if (slot >= SLOTS) {
    if (slotsUsed === SLOTS) flushBatches();
    slot = slotsUsed++;
    store<u32>(slotAt, slot);
    store<u32>(privateBase + S_SLOTS + slot * 8, port);
    store<u32>(privateBase + S_SLOTS + slot * 8 + 4, 0);
  }
  const header = privateBase + S_SLOTS + slot * 8;
  let count = load<u32>(header, 4);
  if (count === BATCH) {
    transmit(slot);
    count = 0;
  }
  store<u32>(privateBase + S_BATCHES + (slot * BATCH + count) * 4, pkt);
  store<u32>(header, count + 1, 4);
}

/** The same for a whole list of packets. */
export function outputList(list: u32, n: i32, port: u32): void {
  let from = 0;
  // The first one finds a slot for the port, or why there is none.
  while (from < n) {
    output(load<u32>(list + (from << 2)), port);
    from++;
    if (port >= <u32>MAX_PORTS) continue;
    const slot = load<u32>(privateBase + S_PORT_SLOT + port * 4);
    if (slot >= SLOTS) continue;
    const header = privateBase + S_SLOTS + slot * 8;
    const count = load<u32>(header, 4);
    const more = min<u32>(BATCH - count, n - from);
    const batch = privateBase + S_BATCHES + (slot * BATCH + count) * 4;
    // Of a packet that comes alone there are none: a call for nothing.
    if (more !== 0) memory.copy(batch, list + (from << 2), more << 2);
    store<u32>(header, count + more, 4);
    from += more;
  }
}

function transmit(slot: u32): void {
  const header = privateBase + S_SLOTS + slot * 8;
  const count = load<u32>(header, 4);
  if (count === 0) return;
  const list = privateBase + S_BATCHES + slot * BATCH * 4;
  txBurst(load<u32>(header), list, <i32>count);
  store<u32>(header, 0, 4);
  if (free === CLONES) return; // None is in use, so none is among them.
  for (let i: u32 = 0; i < count; i++) release(load<u32>(list + i * 4));
}

/** Sends everything: before the payload of the burst goes back to its owner. */
export function flushBatches(): void {
  for (let slot: u32 = 0; slot < slotsUsed; slot++) {
    transmit(slot);
    store<u32>(privateBase + S_PORT_SLOT + load<u32>(privateBase + S_SLOTS + slot * 8) * 4, ~0);
  }
  slotsUsed = 0;
}
