// Packed virtqueues (virtio 1.2, 2.8): one ring of descriptors that both sides write.
//
//   descriptor  addr u64, len u32, id u16, flags u16
//
// A descriptor is available if its AVAIL flag equals the wrap counter of our lap and its USED flag does not; it is
// used if both equal the counter. A chain occupies consecutive descriptors, the last one carries the id; one used
// descriptor, in the place of the chain's first, gives all of them back. An entry of IO_BURST or IO_CHAINS is
// id | descriptors << 16, bytes written. Positions have the wrap counter in bit 15.
//
// A used burst becomes visible at once: the flags of its first descriptor are written last.

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
  DESC_F_AVAIL,
  DESC_F_INDIRECT,
  DESC_F_NEXT,
  DESC_F_USED,
  DESC_F_WRITE,
  IO_BURST,
  IO_CHAINS,
  VF_MRG_RXBUF,
  VFH_IN_ORDER,
  VQ_AVAIL,
  VQ_BURST,
  VQ_DESC,
  VQ_DESC_GPA,
  VQ_FEATURES,
  VQ_FEATURES_HIGH,
  VQ_HEADER,
  VQ_HELD,
  VQ_LAST_AVAIL,
  VQ_LAST_USED,
  VQ_LOG_RING,
  VQ_SIZE,
  VQ_USED,
} from '../../contract/virtqueue.ts';
import { countDrop } from '../drop.ts';
import { privateBase } from '../worker.ts';
import { addBuffer, addIndirect, packedFlags } from './chain.ts';
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
import { isLogging, logBytes } from './dirty.ts';
import { heldFinish, heldVisible, hold, holdMore } from './held.ts';
import { packedAvailable, packedCall } from './notify.ts';
import {
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
const CHAIN_FLAGS: u64 = 7 << 48;
const WRITE_FLAG: u64 = 2 << 48;

/** Is the record complete? Marks the queue broken if its areas cannot be used. */
function usable(q: u32): bool {
  const size = load<u32>(q, VQ_SIZE);
  const desc = load<u32>(q, VQ_DESC);
  if (size === 0 || desc === 0) return false;
  const areas = load<u32>(q, VQ_AVAIL) | load<u32>(q, VQ_USED);
  const position = load<u32>(q, VQ_LAST_AVAIL) & 0x7fff;
  if ((desc & 15) === 0 && (areas & 3) === 0 && size <= 32768 && position < size) return true;
  atomic.store<u32>(q + Q_BROKEN, DROP_RX_BAD_DESC);
  return false;
}

/** The position `count` (at most the size of the ring) descriptors further on. */
function advance(position: u32, count: u32, size: u32): u32 {
  const index = (position & 0x7fff) + count;
  return index < size
    ? (position & 0x8000) | index
    : ((position & 0x8000) ^ 0x8000) | (index - size);
}

/** The position `count` (at most the size of the ring) descriptors before. */
function retreat(position: u32, count: u32, size: u32): u32 {
  const index = position & 0x7fff;
  return index >= count
    ? (position & 0x8000) | (index - count)
    : ((position & 0x8000) ^ 0x8000) | (index + size - count);
}

// The chain that walk() went through.
let chainId: u32 = 0;
let chainDescriptors: u32 = 0;

/**
 * Walks the chain whose first descriptor (at `position`, second half `word`) is available, adding its buffers. The
 * walk goes on to the end of the chain even if it is bad, to find its id; `limit` descriptors at most: more would
 * be a chain longer than the ring, and chainDescriptors is 0 then.
 */
function walk(q: u32, position: u32, first: u64, limit: u32, write: bool): u32 {
  const desc = load<u32>(q, VQ_DESC);
  const size = load<u32>(q, VQ_SIZE);
  let index = position & 0x7fff;
  let word = first;
  let reason: u32 = DROP_NONE;
  for (let step: u32 = 1; step <= limit; step++) {
    const flags = packedFlags(word);
    if (reason === DROP_NONE && !(write && destinationComplete())) {
      const address = load<u64>(desc + index * 16);
      reason =
        (flags & DESC_F_INDIRECT) !== 0
          ? addIndirect(q, write, true, address, <u32>word, flags)
          : addBuffer(write, address, <u32>word, flags);
    }
    if ((flags & DESC_F_NEXT) === 0) {
      chainId = <u32>(word >> 32) & 0xffff;
      chainDescriptors = step;
      return reason;
    }
    index++;
    if (index === size) index = 0;
    word = load<u64>(desc + index * 16, 8);
  }
  chainDescriptors = 0;
  return DROP_RX_BAD_DESC;
}

/** Second half of the descriptor at `position`; the caller asks packedAvailable() about its flags. */
function loadWord(q: u32, position: u32): u64 {
  return atomic.load<u64>(load<u32>(q, VQ_DESC) + (position & 0x7fff) * 16 + 8);
}

/** Loads `n` descriptors from `position` on, so that their lines travel together. */
function touchDescriptors(q: u32, position: u32, n: u32): void {
  const size = load<u32>(q, VQ_SIZE);
  const desc = load<u32>(q, VQ_DESC) + 8;
  let index = position & 0x7fff;
  let sum: u32 = 0;
  // Four descriptors share a line.
  for (let i: u32 = 0; i < n; i += 4) {
    sum ^= load<u32>(desc + index * 16);
    index += 4;
    if (index >= size) break;
  }
  keepTouched(sum);
}

/** Asks for the first lines of the frames in the next `n` buffers from `position` on, as far as there are any; see ownBuffer(). */
function ownBuffers(q: u32, position: u32, n: u32, header: u32): void {
  const size = load<u32>(q, VQ_SIZE);
  const desc = load<u32>(q, VQ_DESC);
  let at = position;
  for (let i: u32 = 0; i < n; i++) {
    const word = loadWord(q, at);
    if ((word & CHAIN_FLAGS) !== WRITE_FLAG || !packedAvailable(packedFlags(word), at)) return;
    ownBuffer(load<u64>(desc + (at & 0x7fff) * 16), <u32>word, header);
    at = advance(at, 1, size);
  }
}

/** Takes up to `max` chains; see rxBurst (index.ts). */
export function packedReceive(q: u32, first: u32, max: u32): u32 {
  if (!usable(q)) return 0;
  const size = load<u32>(q, VQ_SIZE);
  let position = load<u32>(q, VQ_LAST_AVAIL);
  let word = loadWord(q, position);
  if (!packedAvailable(packedFlags(word), position)) return 0;
  touchDescriptors(q, position, max);
  const port = load<u32>(q, Q_PORT);
  const header = load<u32>(q, VQ_HEADER);
  const desc = load<u32>(q, VQ_DESC);
  const shortest = header + 14;
  const chains = privateBase + (PV_IO + IO_BURST);
  let taken: u32 = 0;
  let budget = size;
  let packet = first;
  let found = true;
  while (taken < max && budget !== 0) {
    word = loadWord(q, position);
    if (!packedAvailable(packedFlags(word), position)) break;
    const length = <u32>word;
    if ((word & CHAIN_FLAGS) === 0 && length - shortest <= FRAME_MAX - 14) {
      // The common case: one buffer.
      let at = wholeRun(load<u64>(desc + (position & 0x7fff) * 16), length);
      if (at === 0) at = otherRun(load<u64>(desc + (position & 0x7fff) * 16), length);
      if (at !== 0) {
        pieceSingle(packet, at, length);
        packet += PKT_SIZE;
        store<u64>(chains + taken * 8, ((word >> 32) & 0xffff) | 0x10000);
        taken++;
        budget--;
        position = advance(position, 1, size);
        continue;
      }
    }
    piecesBegin(packet);
    let reason = walk(q, position, word, budget, false);
    if (chainDescriptors === 0) {
      // Longer than the ring, or into descriptors that were not given back yet (G23).
      countDrop(port, reason);
      atomic.store<u32>(q + Q_BROKEN, DROP_RX_BAD_DESC);
      break;
    }
    if (reason === DROP_NO_WINDOW) {
      found = false;
      if (waitForWindow(q)) break;
    }
    if (reason === DROP_NONE) reason = piecesEnd(header);
    if (reason !== DROP_NONE) countDrop(port, reason);
    else packet += PKT_SIZE;
    store<u64>(chains + taken * 8, chainId | (chainDescriptors << 16));
    taken++;
    budget -= chainDescriptors;
    position = advance(position, chainDescriptors, size);
  }
  if (found) windowFound(q);
  store<u32>(q, position, VQ_LAST_AVAIL);
  store<u32>(q, taken, VQ_BURST);
  const collected = (packet - first) / PKT_SIZE;
  touchPackets(first, collected);
  return finishPackets(q, first, collected);
}

/** Gives the chains of the burst back. */
export function packedReceiveDone(q: u32): void {
  const n = load<u32>(q, VQ_BURST);
  if (n === 0) return;
  store<u32>(q, 0, VQ_BURST);
  const chains = privateBase + (PV_IO + IO_BURST);
  if (n > 1 && (load<u32>(q, VQ_FEATURES_HIGH) & VFH_IN_ORDER) !== 0) {
    // In order, one used descriptor stands for the whole batch (2.8.9): it names the last chain, in the place of
    // the first, and all descriptors in between are skipped.
    let moved: u32 = 0;
    for (let i: u32 = 0; i < n; i++) moved += load<u32>(chains + i * 8) >> 16;
    const id = load<u32>(chains + (n - 1) * 8) & 0xffff;
    store<u64>(chains, id | (moved << 16));
    // The count may need all 16 bits: a batch is never longer than the ring.
    publish(q, chains, 1, false);
  } else {
    publish(q, chains, n, false);
  }
}

/**
 * Writes used descriptors for the `n` chains at `chains` and interrupts the driver if it wants that: at once, with those
 * of the rings that wait for it (held.ts), or `later`, if it may wait, too.
 *
 * From the last one back to the first, before which the driver does not look at the others. If we are killed in between,
 * our successor sees used descriptors behind available ones, and knows (src/port/vhostuser/packedPosition.ts): buffers
 * that we were giving back are all done with, those that we were filling have not been delivered.
 */
function publish(q: u32, chains: u32, n: u32, later: bool): void {
  const desc = load<u32>(q, VQ_DESC);
  const size = load<u32>(q, VQ_SIZE);
  const start = load<u32>(q, VQ_LAST_USED);
  const log = isLogging(q) && load<u32>(q, VQ_LOG_RING) !== 0;
  const descGpa = load<u64>(q, VQ_DESC_GPA);
  let moved: u32 = 0;
  for (let i: u32 = 0; i < n; i++) moved += load<u32>(chains + i * 8) >> 16;
  const end = advance(start, moved, size);
  if (!later) heldVisible();
  let position = end;
  for (let i: u32 = n - 1; i !== 0; i--) {
    position = retreat(position, load<u32>(chains + i * 8) >> 16, size);
    store<u64>(desc + (position & 0x7fff) * 16, usedWord(chains + i * 8, position), 8);
    if (log) logBytes(q, descGpa + (position & 0x7fff) * 16, 16);
  }
  const word = usedWord(chains, start);
  store<u32>(q, end, VQ_LAST_USED);
  if (load<u32>(q, VQ_HELD) !== 0) holdMore(q, moved);
  else if (later && hold(q, start, word, moved)) return;
  atomic.store<u64>(desc + (start & 0x7fff) * 16 + 8, word);
  if (log) logBytes(q, descGpa + (start & 0x7fff) * 16, 16);
  if (load<u32>(q, VQ_HELD) === 0) packedCall(q, moved, end);
}

/** Second half of the used descriptor of the chain at `chain`, at this position. */
function usedWord(chain: u32, position: u32): u64 {
  const bytes = load<u32>(chain, 4);
  let flags: u32 = (position & 0x8000) !== 0 ? DESC_F_AVAIL | DESC_F_USED : 0;
  if (bytes !== 0) flags |= DESC_F_WRITE;
  return <u64>bytes | ((<u64>(load<u32>(chain) & 0xffff)) << 32) | ((<u64>flags) << 48);
}

// The transmit call: next descriptor, how many may still be taken, and how often a full ring may be looked at again.
let next: u32 = 0;
let left: u32 = 0;
let retries: u32 = 0;

/** Delivers `n` packets whose records are listed at `list`; see txBurst (index.ts). */
export function packedTransmit(q: u32, list: u32, n: u32, offloads: u32): void {
  const port = load<u32>(q, Q_PORT);
  const header = load<u32>(q, VQ_HEADER);
  if (!usable(q)) {
    countDrop(port, DROP_TX_BAD_DESC, n);
    return;
  }
  const size = load<u32>(q, VQ_SIZE);
  const desc = load<u32>(q, VQ_DESC);
  next = load<u32>(q, VQ_LAST_AVAIL);
  left = size;
  retries = load<u32>(portAddress(port) + PT_TX_RETRIES);
  touchDescriptors(q, next, n);
  const log = isLogging(q);
  if (n >= OWN_MIN && !log) ownBuffers(q, next, min(n, size), header);
  planBegin();
  for (let i: u32 = 0; i < n; i++) {
    if (!planHasRoom()) flush(q, header, offloads);
    const packet = load<u32>(list + i * 4);
    const length = load<u32>(packet, PKT_LEN);
    const word = left === 0 ? 0 : loadWord(q, next);
    const single = (word & CHAIN_FLAGS) === WRITE_FLAG && <u32>word >= header + length;
    if (single && packedAvailable(packedFlags(word), next)) {
      // The common case: one buffer that holds the packet.
      const address = load<u64>(desc + (next & 0x7fff) * 16);
      let at = wholeRun(address, header + length);
      if (at === 0) at = otherRun(address, header + length);
      if (at !== 0) {
        const id = (<u32>(word >> 32) & 0xffff) | 0x10000;
        deliverSingle(packet, at, header, length, address, id, offloads, log);
        next = advance(next, 1, size);
        left--;
        continue;
      }
    }
    const reason = reserve(q, header, length);
    if (reason === DROP_NONE) destinationCommit(packet);
    else if (reason === DROP_TX_RING_FULL && again(q, header, offloads)) i--;
    else countDrop(port, reason);
  }
  flush(q, header, offloads);
}

function flush(q: u32, header: u32, offloads: u32): void {
  store<u32>(q, next, VQ_LAST_AVAIL);
  if (chainCount === 0) return;
  deliverAll(header, offloads, isLogging(q) ? q : 0);
  publish(q, privateBase + (PV_IO + IO_CHAINS), chainCount, true);
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
  left = load<u32>(q, VQ_SIZE);
  return true;
}

/** Takes chains for a frame of `length` bytes. Returns DROP_NONE or why the packet must be dropped. */
function reserve(q: u32, header: u32, length: u32): u32 {
  const size = load<u32>(q, VQ_SIZE);
  const mergeable = (load<u32>(q, VQ_FEATURES) & VF_MRG_RXBUF) !== 0;
  const firstNext = next;
  const firstLeft = left;
  let reason: u32 = DROP_NONE;
  destinationBegin(header + length);
  for (;;) {
    const word = left === 0 ? 0 : loadWord(q, next);
    if (left === 0 || !packedAvailable(packedFlags(word), next)) {
      reason = DROP_TX_RING_FULL;
      break;
    }
    if (!chainBegin()) {
      destinationWaste();
      return DROP_TX_BAD_DESC;
    }
    reason = walk(q, next, word, left, true);
    if (chainDescriptors === 0) {
      atomic.store<u32>(q + Q_BROKEN, DROP_TX_BAD_DESC);
      reason = DROP_TX_BAD_DESC;
      break;
    }
    if (reason === DROP_NO_WINDOW) break;
    next = advance(next, chainDescriptors, size);
    left -= chainDescriptors;
    const bytes = chainEnd(chainId | (chainDescriptors << 16));
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
  next = firstNext;
  left = firstLeft;
  return reason;
}
