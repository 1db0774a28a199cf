// Split virtqueues (virtio 1.2, 2.7): take chains from the avail ring, give them back through the used ring.
//
//   descriptors  addr u64, len u32, flags u16, next u16          x size
//   avail        flags u16, idx u16, ring u16 x size, used_event u16
//   used         flags u16, idx u16, ring (id u32, len u32) x size, avail_event u16
//
// Indices run free, modulo 2^16. An entry of IO_CHAINS is a used element, ready to be copied into the ring.

import { PC_TX_RETRIES } from '../../contract/counters.ts';
import {
  DROP_NO_WINDOW,
  DROP_NONE,
  DROP_RX_BAD_DESC,
  DROP_TX_BAD_DESC,
  DROP_TX_NO_BUFFER,
  DROP_TX_RING_FULL,
} from '../../contract/drop.ts';
import { PKT_LEN, PKT_SIZE, PV_IO } from '../../contract/packet.ts';
import { PT_TX_RETRIES, portAddress, Q_BROKEN, Q_PORT } from '../../contract/port.ts';
import {
  DESC_F_INDIRECT,
  DESC_F_NEXT,
  IO_BURST,
  IO_CHAINS,
  VF_MRG_RXBUF,
  VFH_IN_ORDER,
  VQ_AVAIL,
  VQ_BURST,
  VQ_DESC,
  VQ_FEATURES,
  VQ_FEATURES_HIGH,
  VQ_HEADER,
  VQ_HELD,
  VQ_LAST_AVAIL,
  VQ_LAST_USED,
  VQ_SIZE,
  VQ_USED,
} from '../../contract/virtqueue.ts';
import { countDrop } from '../drop.ts';
import { privateBase } from '../worker.ts';
import { addBuffer, addIndirect, splitFlags } from './chain.ts';
import { copyBytes } from './copy.ts';
import { countOne } from './count.ts';
import {
  chainBegin,
  chainCount,
  chainEnd,
  deliverAll,
  deliverSingle,
  destinationBegin,
  destinationCommit,
  destinationComplete,
  destinationRollback,
  destinationWaste,
  isFirstChain,
  OWN_MIN,
  ownBuffer,
  planBegin,
  planHasRoom,
} from './deliver.ts';
import { isLogging, logUsed } from './dirty.ts';
import { heldFinish, heldVisible, hold } from './held.ts';
import { splitCall } from './notify.ts';
import {
  CHAIN_STEPS,
  FRAME_MAX,
  finishPackets,
  keepTouched,
  pieceSingle,
  piecesBegin,
  piecesEnd,
  touchPackets,
  waitForWindow,
  windowFound,
} from './receive.ts';
import { otherRun, wholeRun } from './window.ts';

/** NEXT, WRITE and INDIRECT in the second half of a descriptor. */
const CHAIN_FLAGS: u64 = 7 << 32;
const WRITE_FLAG: u64 = 2 << 32;

/** Entries that the driver has added since we looked, 0 if none or if the ring turns out to be invalid. */
function pending(q: u32): u32 {
  const size = load<u32>(q, VQ_SIZE);
  const avail = load<u32>(q, VQ_AVAIL);
  const used = load<u32>(q, VQ_USED);
  const desc = load<u32>(q, VQ_DESC);
  if (size === 0 || desc === 0) return 0;
  if (((avail & 1) | (used & 3) | (size & (size - 1))) !== 0 || size > 32768) {
    atomic.store<u32>(q + Q_BROKEN, DROP_RX_BAD_DESC);
    return 0;
  }
  const index = <u32>atomic.load<u16>(avail + 2);
  const count = (index - load<u32>(q, VQ_LAST_AVAIL)) & 0xffff;
  if (count <= size) return count;
  // A guest that is being reset may zero its rings before its front-end tells us: that is not an attack (G26).
  if (index === 0 && load<u16>(used, 2) === 0) return 0;
  atomic.store<u32>(q + Q_BROKEN, DROP_RX_BAD_DESC);
  return 0;
}

/** Loads the head descriptors of `n` avail entries from `position` on, so that their lines travel together. */
function touchDescriptors(q: u32, position: u32, n: u32): void {
  const mask = load<u32>(q, VQ_SIZE) - 1;
  const avail = load<u32>(q, VQ_AVAIL) + 4;
  const desc = load<u32>(q, VQ_DESC);
  let sum: u32 = 0;
  for (let i: u32 = 0; i < n; i++) {
    const id = <u32>load<u16>(avail + ((position + i) & mask) * 2);
    sum ^= load<u32>(desc + (id & mask) * 16, 12);
  }
  keepTouched(sum);
}

/** Asks for the first lines of the frames in the buffers of `n` avail entries from `position` on; see ownBuffer(). */
function ownBuffers(q: u32, position: u32, n: u32, header: u32): void {
  const mask = load<u32>(q, VQ_SIZE) - 1;
  const avail = load<u32>(q, VQ_AVAIL) + 4;
  const desc = load<u32>(q, VQ_DESC);
  for (let i: u32 = 0; i < n; i++) {
    const id = <u32>load<u16>(avail + ((position + i) & mask) * 2);
    if (id > mask) continue;
    const address = load<u64>(desc + id * 16);
    const word = load<u64>(desc + id * 16, 8);
    if ((word & CHAIN_FLAGS) === WRITE_FLAG) ownBuffer(address, <u32>word, header);
  }
}

/** Adds the buffers of the chain whose first descriptor the caller has read. */
function walk(q: u32, firstAddress: u64, firstWord: u64, write: bool): u32 {
  const desc = load<u32>(q, VQ_DESC);
  const size = load<u32>(q, VQ_SIZE);
  let address = firstAddress;
  let word = firstWord;
  for (let step: u32 = 0; step < CHAIN_STEPS; step++) {
    const flags = splitFlags(word);
    if ((flags & DESC_F_INDIRECT) !== 0) {
      return addIndirect(q, write, false, address, <u32>word, flags);
    }
    const reason = addBuffer(write, address, <u32>word, flags);
    if (reason !== DROP_NONE || (flags & DESC_F_NEXT) === 0) return reason;
    if (write && destinationComplete()) return DROP_NONE;
    const index = <u32>(word >> 48);
    if (index >= size) return DROP_RX_BAD_DESC;
    address = load<u64>(desc + index * 16);
    word = load<u64>(desc + index * 16, 8);
  }
  return DROP_RX_BAD_DESC;
}

/** Takes up to `max` chains; see rxBurst (index.ts). */
export function splitReceive(q: u32, first: u32, max: u32): u32 {
  let n = min(pending(q), max);
  if (n === 0) return 0;
  const size = load<u32>(q, VQ_SIZE);
  const avail = load<u32>(q, VQ_AVAIL) + 4;
  const position = load<u32>(q, VQ_LAST_AVAIL);
  const port = load<u32>(q, Q_PORT);
  const header = load<u32>(q, VQ_HEADER);
  const desc = load<u32>(q, VQ_DESC);
  const shortest = header + 14;
  touchDescriptors(q, position, n);
  const chains = privateBase + (PV_IO + IO_BURST);
  let taken: u32 = 0;
  let packet = first;
  let found = true;
  for (let i: u32 = 0; i < n; i++) {
    const id = <u32>load<u16>(avail + ((position + i) & (size - 1)) * 2);
    if (id >= size) {
      // Nothing that could be given back (G7).
      countDrop(port, DROP_RX_BAD_DESC);
      continue;
    }
    store<u64>(chains + taken * 8, id);
    const address = load<u64>(desc + id * 16);
    const word = load<u64>(desc + id * 16, 8);
    const length = <u32>word;
    if ((word & CHAIN_FLAGS) === 0 && length - shortest <= FRAME_MAX - 14) {
      let at = wholeRun(address, length);
      if (at === 0) at = otherRun(address, length);
      if (at !== 0) {
        pieceSingle(packet, at, length);
        packet += PKT_SIZE;
        taken++;
        continue;
      }
    }
    piecesBegin(packet);
    let reason = walk(q, address, word, false);
    if (reason === DROP_NO_WINDOW) {
      found = false;
      if (waitForWindow(q)) {
        n = i;
        break;
      }
    }
    taken++;
    if (reason === DROP_NONE) reason = piecesEnd(header);
    if (reason !== DROP_NONE) countDrop(port, reason);
    else packet += PKT_SIZE;
  }
  if (found) windowFound(q);
  store<u32>(q, (position + n) & 0xffff, VQ_LAST_AVAIL);
  store<u32>(q, taken, VQ_BURST);
  const collected = (packet - first) / PKT_SIZE;
  touchPackets(first, collected);
  return finishPackets(q, first, collected);
}

/** Gives the chains of the burst back. */
export function splitReceiveDone(q: u32): void {
  const n = load<u32>(q, VQ_BURST);
  if (n === 0) return;
  store<u32>(q, 0, VQ_BURST);
  const before = load<u32>(q, VQ_LAST_USED);
  // In order, one element stands for the whole batch (2.7.9): it names the last chain, in the place of the first.
  const batch = (load<u32>(q, VQ_FEATURES_HIGH) & VFH_IN_ORDER) !== 0;
  const chains = privateBase + (PV_IO + IO_BURST);
  if (batch) publish(q, chains + (n - 1) * 8, 1, n, false);
  else publish(q, chains, n, n, false);
  splitCall(q, before, load<u32>(q, VQ_LAST_USED));
}

/**
 * Writes the `count` used elements at `chains`, then moves the used index by `moved`: at once, and that of the rings that
 * wait for it (held.ts), or `later`, if it may wait, too.
 */
function publish(q: u32, chains: u32, count: u32, moved: u32, later: bool): void {
  const used = load<u32>(q, VQ_USED);
  const size = load<u32>(q, VQ_SIZE);
  const position = load<u32>(q, VQ_LAST_USED);
  const start = position & (size - 1);
  const log = isLogging(q);
  let done: u32 = 0;
  let at = start;
  while (done < count) {
    const part = min(count - done, size - at);
    if (part === 1) store<u64>(used + 4 + at * 8, load<u64>(chains + done * 8));
    else copyBytes(used + 4 + at * 8, chains + done * 8, part * 8);
    if (log) logUsed(q, 4 + at * 8, part * 8);
    done += part;
    at = 0;
  }
  const index = (position + moved) & 0xffff;
  store<u32>(q, index, VQ_LAST_USED);
  if (later) {
    if (load<u32>(q, VQ_HELD) !== 0 || hold(q, position, 0, 0)) return;
  } else heldVisible();
  atomic.store<u16>(used + 2, <u16>index);
  // The index is data like any other: a bit set before it could be taken, and the page copied, before the index is there.
  if (log) logUsed(q, 0, 4);
}

// The transmit call: next avail entry, how many are left, and how often a full ring may be looked at again.
let next: u32 = 0;
let left: u32 = 0;
let retries: u32 = 0;

/** Delivers `n` packets whose records are listed at `list`; see txBurst (index.ts). */
export function splitTransmit(q: u32, list: u32, n: u32, offloads: u32): void {
  const port = load<u32>(q, Q_PORT);
  const header = load<u32>(q, VQ_HEADER);
  const before = load<u32>(q, VQ_LAST_USED);
  const mask = load<u32>(q, VQ_SIZE) - 1;
  const avail = load<u32>(q, VQ_AVAIL) + 4;
  const desc = load<u32>(q, VQ_DESC);
  left = pending(q);
  next = load<u32>(q, VQ_LAST_AVAIL);
  retries = load<u32>(portAddress(port) + PT_TX_RETRIES);
  touchDescriptors(q, next, min(left, n));
  const log = isLogging(q);
  if (n >= OWN_MIN && !log) ownBuffers(q, next, min(left, n), header);
  planBegin();
  for (let i: u32 = 0; i < n; i++) {
    if (!planHasRoom()) flush(q, header, offloads);
    const packet = load<u32>(list + i * 4);
    const length = load<u32>(packet, PKT_LEN);
    if (left !== 0) {
      // The common case: one buffer that holds the packet.
      const id = <u32>load<u16>(avail + (next & mask) * 2);
      const address = load<u64>(desc + (id & mask) * 16);
      const word = load<u64>(desc + (id & mask) * 16, 8);
      if ((word & CHAIN_FLAGS) === WRITE_FLAG && <u32>word >= header + length && id <= mask) {
        let at = wholeRun(address, header + length);
        if (at === 0) at = otherRun(address, header + length);
        if (at !== 0) {
          deliverSingle(packet, at, header, length, address, id, offloads, log);
          next = (next + 1) & 0xffff;
          left--;
          continue;
        }
      }
    }
    const reason = reserve(q, header, length);
    if (reason === DROP_NONE) destinationCommit(packet);
    else if (reason === DROP_TX_RING_FULL && again(q, header, offloads)) i--;
    else countDrop(port, reason);
  }
  flush(q, header, offloads);
  const after = load<u32>(q, VQ_LAST_USED);
  if (after !== before && load<u32>(q, VQ_HELD) === 0) splitCall(q, before, after);
}

function flush(q: u32, header: u32, offloads: u32): void {
  store<u32>(q, next, VQ_LAST_AVAIL);
  if (chainCount === 0) return;
  deliverAll(header, offloads, isLogging(q) ? q : 0);
  publish(q, privateBase + (PV_IO + IO_CHAINS), chainCount, chainCount, true);
  planBegin();
}

/**
 * The ring is full: makes visible what is planned and looks whether the driver has added buffers meanwhile, as often as
 * the port allows. Only after progress: a guest that does not take anything costs one look a burst.
 */
function again(q: u32, header: u32, offloads: u32): bool {
  if (retries === 0 || chainCount === 0) return false;
  retries--;
  countOne(load<u32>(q, Q_PORT), PC_TX_RETRIES, 1);
  flush(q, header, offloads);
  heldFinish(q);
  const before = left;
  left = pending(q);
  return left > before;
}

/** Takes chains for a frame of `length` bytes. Returns DROP_NONE or why the packet must be dropped. */
function reserve(q: u32, header: u32, length: u32): u32 {
  const size = load<u32>(q, VQ_SIZE);
  const avail = load<u32>(q, VQ_AVAIL) + 4;
  const desc = load<u32>(q, VQ_DESC);
  const mergeable = (load<u32>(q, VQ_FEATURES) & VF_MRG_RXBUF) !== 0;
  const firstEntry = next;
  const firstLeft = left;
  let reason: u32 = DROP_NONE;
  destinationBegin(header + length);
  for (;;) {
    if (left === 0) {
      reason = DROP_TX_RING_FULL;
      break;
    }
    const id = <u32>load<u16>(avail + (next & (size - 1)) * 2);
    next = (next + 1) & 0xffff;
    left--;
    if (id >= size || !chainBegin()) {
      destinationWaste();
      return DROP_TX_BAD_DESC;
    }
    const address = load<u64>(desc + id * 16);
    const word = load<u64>(desc + id * 16, 8);
    reason = walk(q, address, word, true);
    if (reason === DROP_NO_WINDOW) break;
    const bytes = chainEnd(id);
    if (reason !== DROP_NONE || (bytes < header && isFirstChain())) {
      destinationWaste();
      return reason === DROP_TX_NO_BUFFER ? reason : DROP_TX_BAD_DESC;
    }
    if (destinationComplete()) return DROP_NONE;
    if (!mergeable) {
      reason = DROP_TX_NO_BUFFER;
      break;
    }
  }
  destinationRollback();
  next = firstEntry;
  left = firstLeft;
  return reason;
}
