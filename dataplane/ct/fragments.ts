// Fragments in connection tracking: each waits until its datagram is complete; the whole is tracked as one packet that
// is never sent; then the fragments go on as they came, each with what tracking has said, and translated
// (RFC 791, section 3.2; RFC 8200, section 4.5).
//
//   fragment → slot (copy of frame and key) … last one → packet record over the slots → track → fragments again
//
// Slots are read until the burst has been transmitted, so they are freed at the start of the next breath.

import {
  CTK_FRAG_ACCEPTED,
  CTK_FRAG_COMPLETED,
  CTK_FRAG_OVERLAP,
  CTK_FRAG_REASSEMBLED,
  CTK_FRAG_TOO_SMALL,
  FRAGMENT_V6,
  TU_DST,
  TU_META,
  TU_PORTS,
  TU_SRC,
} from '../../contract/ct.ts';
import {
  DG_BYTES,
  DG_COUNT,
  DG_END,
  DG_EXPIRES,
  DG_FIRST,
  DG_LAST,
  FG_ENABLED,
  FG_MAX,
  FG_MIN_V4,
  FG_MIN_V6,
  FG_WAITING,
  FRAGMENT_TIMEOUT_MS,
  FRAGMENTS_BASE,
  FRAGMENTS_PER_DATAGRAM,
  SL_BYTES,
  SL_CUT,
  SL_FRAME,
  SL_IN_PORT,
  SL_KEY,
  SL_L3,
  SL_LENGTH,
  SL_NEXT,
  SL_OFFSET,
  SL_PAYLOAD,
  SL_RXQ,
  SLOT_FRAME_MAX,
} from '../../contract/ctFragments.ts';
import { K_ETH_TYPE } from '../../contract/key.ts';
import {
  KEY_STRIDE,
  PKT_HEAD,
  PKT_HEAD_COPY,
  PKT_HEAD_LEN,
  PKT_IN_PORT,
  PKT_KEY,
  PKT_L3,
  PKT_L4,
  PKT_LEN,
  PKT_RXQ,
} from '../../contract/packet.ts';
import { fold, sumBytes } from '../port/checksum.ts';
import { copyFrame } from '../upcall.ts';
import {
  datagramOf,
  family,
  freeSlot,
  lockFragments,
  removeDatagram,
  takeSlot,
  unlockFragments,
} from './fragmentPool.ts';
import { count } from './lock.ts';
import { now } from './timeout.ts';
import { hashTuple } from './tuple.ts';

const BE_IPV4: u32 = 0x0008;

/** Slots of datagrams that have gone on: free when their burst has been sent. */
let spent: u32 = 0;

/** holdFragment() keeps the packet: its record may be reused. */
export const HELD = 0;
/** It stays in the list, and is invalid. */
const NOT_HELD = 1;

/** The datagram that the fragment held last has completed: address of its first slot (in order of arrival), else 0. */
export let completed: u32 = 0;

/** At the start of a breath. */
export function freeSpent(): void {
  if (spent === 0) return;
  lockFragments();
  while (spent !== 0) {
    const next = load<u32>(spent, SL_NEXT);
    freeSlot(spent);
    spent = next;
  }
  unlockFragments();
}

/** At the start of an instance: what its predecessor had not freed is lost, at most a burst. */
export function resetFragments(): void {
  spent = 0;
}

/** The slots of a completed datagram stay readable until the next breath. */
export function spend(first: u32): void {
  let last = first;
  while (load<u32>(last, SL_NEXT) !== 0) last = load<u32>(last, SL_NEXT);
  store<u32>(last, spent, SL_NEXT);
  spent = first;
}

// What place() has found out about a fragment.
let payload: u32 = 0;
let bytes: u32 = 0;
let offset: u32 = 0;
let more = false;
let cut: u32 = 0;

/** Keeps a fragment, if it is a good one and there is room. `tuple` is scratch. */
export function holdFragment(pkt: u32, zone: u32, tuple: u32): i32 {
  completed = 0;
  const v4 = <u32>load<u16>(load<u32>(pkt + PKT_KEY) + K_ETH_TYPE) === BE_IPV4;
  if (!place(pkt, zone, tuple, v4)) return NOT_HELD;
  hashTuple(tuple);
  lockFragments();
  const result = add(pkt, tuple);
  unlockFragments();
  if (result === HELD) count(CTK_FRAG_ACCEPTED + family(tuple));
  return result;
}

/** Reads the fragment's headers. False: it lies, is too small, or reassembly is off. */
function place(pkt: u32, zone: u32, tuple: u32, v4: bool): bool {
  const enabled = load<u32>(FRAGMENTS_BASE + FG_ENABLED);
  const l3: u32 = load<u16>(pkt + PKT_L3);
  const l4: u32 = load<u16>(pkt + PKT_L4);
  const length = load<u32>(pkt + PKT_LEN);
  if ((enabled & (v4 ? 1 : 2)) === 0) return false;
  if (l3 === 0xffff || l4 === 0xffff || l4 > load<u32>(pkt + PKT_HEAD_LEN)) return false;
  if (length > <u32>SLOT_FRAME_MAX) return false;
  const ip = load<u32>(pkt + PKT_HEAD) + l3;
  let end: u32 = 0;
  if (v4) {
    if (fold(sumBytes(ip, l4 - l3)) !== 0xffff) return false;
    const word: u32 = bswap<u16>(load<u16>(ip, 6));
    offset = (word & 0x1fff) << 3;
    more = (word & 0x2000) !== 0;
    payload = l4;
    cut = 0;
    end = l3 + bswap<u16>(load<u16>(ip, 2));
    v128.store(tuple, i32x4(load<u32>(ip, 12), 0, 0, 0), TU_SRC);
    v128.store(tuple, i32x4(load<u32>(ip, 16), 0, 0, 0), TU_DST);
    store<u32>(tuple, load<u16>(ip, 4), TU_PORTS);
    store<u32>(tuple, zone | ((<u32>load<u8>(ip, 9)) << 16) | 0x04000000, TU_META);
    if (more && end - l3 < load<u32>(FRAGMENTS_BASE + FG_MIN_V4)) {
      count(CTK_FRAG_TOO_SMALL);
      return false;
    }
  } else {
    const header = fragmentHeader(ip, load<u32>(pkt + PKT_HEAD) + load<u32>(pkt + PKT_HEAD_LEN));
    if (header === 0) return false;
    const word: u32 = bswap<u16>(load<u16>(header, 2));
    offset = word & 0xfff8;
    more = (word & 1) !== 0;
    cut = header - load<u32>(pkt + PKT_HEAD);
    payload = cut + 8;
    end = l3 + 40 + bswap<u16>(load<u16>(ip, 4));
    v128.store(tuple, v128.load(ip, 8), TU_SRC);
    v128.store(tuple, v128.load(ip, 24), TU_DST);
    store<u32>(tuple, load<u32>(header, 4), TU_PORTS);
    store<u32>(tuple, zone | ((<u32>load<u8>(header)) << 16) | 0x06000000, TU_META);
    if (more && end - l3 < load<u32>(FRAGMENTS_BASE + FG_MIN_V6)) {
      count(CTK_FRAG_TOO_SMALL + FRAGMENT_V6);
      return false;
    }
  }
  if (end > length || payload >= end) return false;
  // Tags pushed before may have moved long headers beyond what the head of the whole has room for.
  if (payload > <u32>PKT_HEAD_COPY) return false;
  bytes = end - payload;
  if (more && (bytes & 7) !== 0) return false;
  // The whole packet, its own headers included, has a length of 16 bits.
  return offset + bytes + (payload - l3) <= 0xffff;
}

/** Address of the fragment header, behind any other extension headers; 0 = out of reach. */
function fragmentHeader(ip: u32, end: u32): u32 {
  let next: u32 = load<u8>(ip, 6);
  let at = ip + 40;
  while (at + 8 <= end) {
    if (next === 44) return at;
    if (next !== 0 && next !== 43 && next !== 51 && next !== 60) return 0;
    const units: u32 = load<u8>(at, 1);
    const size: u32 = next === 51 ? (units + 2) << 2 : (units + 1) << 3;
    next = load<u8>(at);
    at += size;
  }
  return 0;
}

/** Under the lock. */
function add(pkt: u32, tuple: u32): i32 {
  const waiting = load<u32>(FRAGMENTS_BASE + FG_WAITING);
  if (waiting >= load<u32>(FRAGMENTS_BASE + FG_MAX)) return NOT_HELD;
  const datagram = datagramOf(tuple);
  if (datagram === 0) return NOT_HELD;
  const end = load<u32>(datagram, DG_END);
  let fits: boolean = load<u32>(datagram, DG_COUNT) < <u32>FRAGMENTS_PER_DATAGRAM;
  if (end !== 0) fits = fits && more && offset + bytes <= end;
  let overlaps = false;
  let beyond = false; // with the last fragment known, none may reach further
  for (let s = load<u32>(datagram, DG_FIRST); s !== 0; s = load<u32>(s, SL_NEXT)) {
    const from = load<u32>(s, SL_OFFSET);
    const to = from + load<u32>(s, SL_BYTES);
    if (offset < to && from < offset + bytes) overlaps = true;
    if (to > offset + bytes) beyond = true;
  }
  if (overlaps) count(CTK_FRAG_OVERLAP + family(tuple));
  const slot = fits && !overlaps && (more || !beyond) ? takeSlot() : 0;
  if (slot === 0) {
    if (load<u32>(datagram, DG_COUNT) === 0) removeDatagram(datagram);
    return NOT_HELD;
  }
  fill(slot, pkt);
  const last = load<u32>(datagram, DG_LAST);
  if (last === 0) {
    store<u32>(datagram, slot, DG_FIRST);
    store<u32>(datagram, now + FRAGMENT_TIMEOUT_MS, DG_EXPIRES);
  } else {
    store<u32>(last, slot, SL_NEXT);
  }
  store<u32>(datagram, slot, DG_LAST);
  store<u32>(datagram, load<u32>(datagram, DG_COUNT) + 1, DG_COUNT);
  store<u32>(datagram, load<u32>(datagram, DG_BYTES) + bytes, DG_BYTES);
  if (!more) store<u32>(datagram, offset + bytes, DG_END);
  store<u32>(FRAGMENTS_BASE + FG_WAITING, waiting + 1);
  if (load<u32>(datagram, DG_BYTES) === load<u32>(datagram, DG_END)) {
    completed = load<u32>(datagram, DG_FIRST);
    removeDatagram(datagram);
    count(CTK_FRAG_REASSEMBLED);
    count(CTK_FRAG_COMPLETED + family(tuple), <f64>load<u32>(datagram, DG_COUNT));
  }
  return HELD;
}

function fill(slot: u32, pkt: u32): void {
  store<u32>(slot, 0, SL_NEXT);
  store<u32>(slot, offset, SL_OFFSET);
  store<u32>(slot, bytes, SL_BYTES);
  store<u32>(slot, load<u32>(pkt + PKT_LEN), SL_LENGTH);
  store<u32>(slot, load<u16>(pkt + PKT_L3), SL_L3);
  store<u32>(slot, payload, SL_PAYLOAD);
  store<u32>(slot, cut, SL_CUT);
  store<u32>(slot, load<u32>(pkt + PKT_IN_PORT), SL_IN_PORT);
  store<u32>(slot, load<u32>(pkt + PKT_RXQ), SL_RXQ);
  memory.copy(slot + SL_KEY, load<u32>(pkt + PKT_KEY), KEY_STRIDE);
  copyFrame(slot + SL_FRAME, pkt, load<u32>(pkt + PKT_LEN));
}
