// Used entries that wait: what a breath gives to guests becomes visible together with the chains in which it came.
//
// A ring says by itself where a successor goes on (src/port/vhostuser/device.ts). But a packet lies in two rings: a process
// that is killed after the receiver can see it and before the sender has its buffer back leaves it to be sent twice, one
// that is killed in between the other way round has lost it. There is no store to two rings at once, so the next best:
//
//   txBurst  copies, writes used entries, but not the word that makes them visible; the queue stays locked
//   rxDone   writes the used entries of the burst; then those words, one behind the other, its own the last
//
// The word: the used index of a split ring; the first of the used descriptors of a packed one, before which a driver does not
// look at the others. Queues that workers share are not held: their lock would be held for as long as the breath takes.
//
// The list is in the worker's private memory, since it has to outlive an instance that trapped (abandon()).

import { CONTROL_BASE, CTL_WORKERS } from '../../contract/memory.ts';
import { PV_IO } from '../../contract/packet.ts';
import { Q_KIND, Q_LOCK, QUEUE_SPLIT } from '../../contract/port.ts';
import {
  HELD_ENTRY,
  HELD_MAX,
  IO_HELD,
  VQ_DESC,
  VQ_DESC_GPA,
  VQ_HELD,
  VQ_LAST_USED,
  VQ_LOG_RING,
  VQ_USED,
} from '../../contract/virtqueue.ts';
import { privateBase, worker } from '../worker.ts';
import { isLogging, logBytes, logUsed } from './dirty.ts';
import { packedCall, splitCall } from './notify.ts';

// Header of the list: how many entries, and whether their words have been written already.
const COUNT: u32 = PV_IO + IO_HELD;
const VISIBLE: u32 = PV_IO + IO_HELD + 4;
const ENTRIES: u32 = PV_IO + IO_HELD + 16;
// Entry
const QUEUE: u32 = 0;
const BEFORE: u32 = 4; // where the ring stood: used index, or position of the descriptor whose word is missing
const WORD: u32 = 8; // u64, packed: the word
const MOVED: u32 = 16; // packed: descriptors given back

/** Is there a burst in hand, with which things can become visible? */
let inBurst: bool = false;
/** May the queue at hand wait? */
let allowed: bool = false;

/** A burst is in hand, until heldFinish(). */
export function heldBegin(): void {
  inBurst = true;
}

/** Transmission to a port with so many queues begins. */
export function heldFor(queues: u32): void {
  allowed = inBurst && queues >= load<u32>(CONTROL_BASE + CTL_WORKERS);
}

/** Has this worker locked the queue earlier in the breath? */
export function isHeld(q: u32): bool {
  return load<u32>(q, VQ_HELD) !== 0 && load<u32>(q, Q_LOCK) === worker + 1;
}

function entryAt(number: u32): u32 {
  return privateBase + ENTRIES + number * HELD_ENTRY;
}

/**
 * The used entries behind `before` are written, except for the word. True: it will be written later, and the driver be
 * interrupted. Not to be called for a queue that waits already.
 */
export function hold(q: u32, before: u32, word: u64, moved: u32): bool {
  const count = load<u32>(privateBase + COUNT);
  if (!allowed || count === HELD_MAX) return false;
  const entry = entryAt(count);
  store<u32>(entry, q, QUEUE);
  store<u32>(entry, before, BEFORE);
  store<u64>(entry, word, WORD);
  store<u32>(entry, moved, MOVED);
  store<u32>(privateBase + COUNT, count + 1);
  store<u32>(q, count + 1, VQ_HELD);
  return true;
}

/** More used descriptors behind those that wait. */
export function holdMore(q: u32, moved: u32): void {
  const entry = entryAt(load<u32>(q, VQ_HELD) - 1);
  store<u32>(entry, load<u32>(entry, MOVED) + moved, MOVED);
}

/** Writes the words: plain stores, since one that waits for its line would keep the next from following. */
export function heldVisible(): void {
  const count = load<u32>(privateBase + COUNT);
  if (count === 0 || load<u32>(privateBase + VISIBLE) !== 0) return;
  // Sequentially consistent: a fence behind which are all the entries.
  atomic.store<u32>(privateBase + VISIBLE, 1);
  for (let i: u32 = 0; i < count; i++) {
    const entry = entryAt(i);
    const q = load<u32>(entry, QUEUE);
    if (load<u32>(q, Q_KIND) === QUEUE_SPLIT) {
      store<u16>(load<u32>(q, VQ_USED), <u16>load<u32>(q, VQ_LAST_USED), 2);
    } else {
      const index = load<u32>(entry, BEFORE) & 0x7fff;
      store<u64>(load<u32>(q, VQ_DESC) + index * 16, load<u64>(entry, WORD), 8);
    }
  }
}

/** What is left to do for the rings that waited: dirty log, interrupts, locks. The lock of `kept` stays with the caller. */
export function heldFinish(kept: u32): void {
  if (kept === 0) inBurst = false;
  const count = load<u32>(privateBase + COUNT);
  if (count === 0) return;
  heldVisible();
  // A fence again: drivers are asked whether they sleep when they can see what there is.
  atomic.store<u32>(privateBase + COUNT, 0);
  for (let i: u32 = 0; i < count; i++) {
    const entry = entryAt(i);
    const q = load<u32>(entry, QUEUE);
    const before = load<u32>(entry, BEFORE);
    const after = load<u32>(q, VQ_LAST_USED);
    const log = isLogging(q);
    if (load<u32>(q, Q_KIND) === QUEUE_SPLIT) {
      if (log) logUsed(q, 0, 4);
      splitCall(q, before, after);
    } else {
      if (log && load<u32>(q, VQ_LOG_RING) !== 0) {
        logBytes(q, load<u64>(q, VQ_DESC_GPA) + (before & 0x7fff) * 16, 16);
      }
      packedCall(q, load<u32>(entry, MOVED), after);
    }
    store<u32>(q, 0, VQ_HELD);
    // After a trap it may be another worker's by now.
    if (q !== kept) atomic.cmpxchg<u32>(q + Q_LOCK, worker + 1, 0);
  }
  store<u32>(privateBase + VISIBLE, 0);
}
