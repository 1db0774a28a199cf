// Connection tracking: the ct action (contract/action.ts) on the packets of a burst, and the control plane's door.
//
//   extract all tuples → touch all buckets → touch all connections → track each
//
// Each of the first loops brings the memory that the next one needs, for all packets at once, so that cache misses
// overlap; the last one does the work, one packet after the other, in their order.

import { CT_CLEAR, CT_COMMIT, CT_FORCE, CT_NAT } from '../../contract/action.ts';
import {
  CN_META,
  CN_PARENT_PORTS,
  CN_PORTS,
  CN_REPLY_PORTS,
  CS_INV,
  CS_TRK,
  CTK_LOOKUPS,
  TU_FLAGS,
  TU_HASH,
  TU_SIZE,
} from '../../contract/ct.ts';
import { FRAGMENTS_PER_DATAGRAM } from '../../contract/ctFragments.ts';
import { K_NW_FRAG } from '../../contract/key.ts';
import { PKT_KEY } from '../../contract/packet.ts';
import { release } from '../batch.ts';
import { extract } from './extract.ts';
import { completed, HELD, holdFragment, resetFragments, spend } from './fragments.ts';
import { count, recover, scratch, setHolder } from './lock.ts';
import { clearFields, forget, remembered, rememberedRevision, writeFields } from './metadata.ts';
import { recordAhead, startPool } from './pool.ts';
import { buildWhole, dropFragments, emitFragments } from './reassemble.ts';
import { keepLengths } from './replace.ts';
import { bucketOf, connectionOf } from './table.ts';
import { setClock } from './timeout.ts';
import { again, track } from './track.ts';
import { reverseTuple } from './tuple.ts';

/** Behind the tuple: what is wrong with the packet (CTK_INV_*), and what the touching loops have read. */
const TU_INVALID: u32 = 48;
const TU_TOUCHED: u32 = 52;
/** Tuples of this many packets are in hand at a time. */
const CHUNK = 256;

/** In the scratch: a tuple for one packet, one for the replies to it, and the fragments that go on. */
const ONE_TUPLE: u32 = 0xf080;
const REPLY_TUPLE: u32 = 0xf000;
const RELEASED: u32 = 0x8000;
const RELEASED_MAX = 1024;

let released = 0;

/** At the start of an instance: `holder` is the worker, or CT_CONTROL_PLANE. */
export function startTracking(holder: u32): void {
  setHolder(holder);
  startPool(holder);
  recover();
  resetFragments();
  released = 0;
}

/**
 * The ct action on `n` packets. Returns how many stay in the list: fragments leave it. When a datagram is complete, all
 * of its fragments come back in a list of their own, for which the rest of the program has to be run: releasedFrom().
 */
export function conntrack(list: u32, n: i32, program: u32, nowMs: f64): i32 {
  if (load<u32>(program) & CT_CLEAR) {
    for (let i = 0; i < n; i++) clearFields(load<u32>(load<u32>(list + (i << 2)) + PKT_KEY));
    return n;
  }
  setClock(nowMs);
  count(CTK_LOOKUPS, <f64>n);
  n = hold(list, n, program);
  for (let i = 0; i < n; i += CHUNK) trackAll(list + (i << 2), min(CHUNK, n - i), program);
  return n;
}

/** Fragments that go on: their number now, and the list of those from number `first` on. */
export function releasedCount(): i32 {
  return released;
}
export function releasedFrom(first: i32): u32 {
  return scratch + RELEASED + (first << 2);
}
/** Those from `first` on have been run. */
export function forgetReleased(first: i32): void {
  released = first;
}

/** Keeps fragments until their datagram is complete. Returns how many packets are left. */
function hold(list: u32, n: i32, program: u32): i32 {
  let kept = 0;
  for (let i = 0; i < n; i++) {
    const pkt = load<u32>(list + (i << 2));
    const key = load<u32>(pkt + PKT_KEY);
    if (load<u8>(key + K_NW_FRAG) !== 0) {
      if (holdFragment(pkt, load<u32>(program, 4), scratch + ONE_TUPLE) === HELD) {
        if (completed !== 0) trackWhole(completed, program);
        release(pkt);
        continue;
      }
    }
    store<u32>(list + (kept << 2), pkt);
    kept++;
  }
  return kept;
}

function trackWhole(first: u32, program: u32): void {
  const room = RELEASED_MAX - released >= FRAGMENTS_PER_DATAGRAM;
  const whole = room ? buildWhole(first) : 0;
  if (whole === 0) {
    dropFragments(first);
  } else {
    const zone = load<u32>(program, 4);
    const tuple = scratch + ONE_TUPLE;
    store<u32>(tuple, extract(whole, zone, tuple), TU_INVALID);
    keepLengths(true);
    trackOne(whole, tuple, program, zone);
    keepLengths(false);
    const translated = (load<u32>(program) & CT_NAT) !== 0;
    released += emitFragments(whole, first, releasedFrom(released), translated);
    release(whole);
  }
  spend(first);
}

function trackAll(list: u32, n: i32, program: u32): void {
  const zone = load<u32>(program, 4);
  for (let i = 0; i < n; i++) {
    const tuple = scratch + i * TU_SIZE;
    const invalid = extract(load<u32>(list + (i << 2)), zone, tuple);
    store<u32>(tuple, invalid, TU_INVALID);
    if (invalid !== 0) store<u32>(tuple, 0, TU_HASH);
  }
  for (let i = 0; i < n; i++) {
    const tuple = scratch + i * TU_SIZE;
    store<u32>(tuple, load<u32>(bucketOf(load<u32>(tuple, TU_HASH))), TU_TOUCHED);
  }
  // Packets that will begin connections need records, and the buckets of what answers them.
  const begins = (load<u32>(program) & (CT_COMMIT | CT_FORCE)) !== 0;
  let ahead: u32 = 0;
  for (let i = 0; i < n; i++) {
    const tuple = scratch + i * TU_SIZE;
    const link = load<u32>(tuple, TU_TOUCHED);
    if (link === 0) {
      if (begins && load<u32>(tuple, TU_INVALID) === 0) touchRecord(tuple, ahead++);
      continue;
    }
    const conn = connectionOf(link);
    store<u32>(tuple, load<u32>(conn, CN_META) + load<u32>(conn, CN_REPLY_PORTS), TU_TOUCHED);
  }
  for (let i = 0; i < n; i++) {
    trackOne(load<u32>(list + (i << 2)), scratch + i * TU_SIZE, program, zone);
  }
}

/** Written, not read: a store does not wait, and a page that was never used is made once. Nobody reads free records. */
function touchRecord(tuple: u32, ahead: u32): void {
  const record = recordAhead(ahead);
  if (record === 0) return;
  store<u32>(record, 0, CN_PORTS);
  store<u32>(record, 0, CN_REPLY_PORTS);
  store<u32>(record, 0, CN_PARENT_PORTS);
  const reply = scratch + REPLY_TUPLE;
  reverseTuple(reply, tuple);
  store<u32>(tuple, load<u32>(bucketOf(load<u32>(reply, TU_HASH))), TU_TOUCHED);
}

function trackOne(pkt: u32, tuple: u32, program: u32, zone: u32): void {
  const key = load<u32>(pkt + PKT_KEY);
  const known = remembered(key, zone);
  if (known !== 0 && (load<u32>(program) & CT_FORCE) === 0) {
    const revision = rememberedRevision(key);
    if (again(pkt, known & ~3, revision, (known & 1) !== 0, (known & 2) !== 0, program)) return;
  }
  const invalid = load<u32>(tuple, TU_INVALID);
  if (invalid !== 0) {
    count(invalid);
    writeFields(key, CS_INV | CS_TRK, zone, 0, 0);
    forget(key);
    return;
  }
  // Where the quoted packet of an ICMP error stands is known only of the last one extracted.
  if (load<u32>(tuple, TU_FLAGS) !== 0) extract(pkt, zone, tuple);
  track(pkt, tuple, program);
}
