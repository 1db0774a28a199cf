// Fragments that wait (contract/ctFragments.ts): records of datagrams, slots, search, expiry. All under one lock.

import { CTK_FRAG_PURGED, FRAGMENT_V6, TU_HASH, TU_META } from '../../contract/ct.ts';
import {
  DATAGRAM_SIZE,
  DATAGRAMS,
  DATAGRAMS_MAX,
  DG_COUNT,
  DG_EXPIRES,
  DG_FIRST,
  DG_NEXT,
  DG_TUPLE,
  FG_FREE_DATAGRAM,
  FG_FREE_SLOT,
  FG_LOCK,
  FG_USED_DATAGRAMS,
  FG_USED_SLOTS,
  FG_WAITING,
  FRAGMENT_HEAD_COUNT,
  FRAGMENT_HEADS,
  FRAGMENT_SLOT_SIZE,
  FRAGMENT_SLOTS,
  FRAGMENT_SLOTS_MAX,
  FRAGMENTS_BASE,
  SL_NEXT,
} from '../../contract/ctFragments.ts';
import { count, lock, unlock } from './lock.ts';
import { now } from './timeout.ts';
import { isV6, sameTuple } from './tuple.ts';

export function lockFragments(): void {
  lock(FRAGMENTS_BASE + FG_LOCK);
}

export function unlockFragments(): void {
  unlock(FRAGMENTS_BASE + FG_LOCK);
}

function get(offset: u32): u32 {
  return load<u32>(FRAGMENTS_BASE + offset);
}

function put(offset: u32, value: u32): void {
  store<u32>(FRAGMENTS_BASE + offset, value);
}

export function takeSlot(): u32 {
  const free = get(FG_FREE_SLOT);
  if (free !== 0) {
    const slot = FRAGMENT_SLOTS + (free - 1) * FRAGMENT_SLOT_SIZE;
    put(FG_FREE_SLOT, load<u32>(slot, SL_NEXT));
    return slot;
  }
  const used = get(FG_USED_SLOTS);
  if (used >= <u32>FRAGMENT_SLOTS_MAX) return 0;
  put(FG_USED_SLOTS, used + 1);
  return FRAGMENT_SLOTS + used * FRAGMENT_SLOT_SIZE;
}

export function freeSlot(slot: u32): void {
  store<u32>(slot, get(FG_FREE_SLOT), SL_NEXT);
  put(FG_FREE_SLOT, (slot - FRAGMENT_SLOTS) / FRAGMENT_SLOT_SIZE + 1);
}

function headOf(tuple: u32): u32 {
  return FRAGMENT_HEADS + (load<u32>(tuple, TU_HASH) & (FRAGMENT_HEAD_COUNT - 1)) * 4;
}

function datagramAddress(number: u32): u32 {
  return DATAGRAMS + number * DATAGRAM_SIZE;
}

/** The datagram of `tuple`, made if there is none yet. 0 = no room. */
export function datagramOf(tuple: u32): u32 {
  const head = headOf(tuple);
  for (let link = load<u32>(head); link !== 0; ) {
    const datagram = datagramAddress(link - 1);
    if (sameTuple(datagram + DG_TUPLE, tuple)) return datagram;
    link = load<u32>(datagram, DG_NEXT);
  }
  let number = get(FG_FREE_DATAGRAM);
  if (number !== 0) {
    put(FG_FREE_DATAGRAM, load<u32>(datagramAddress(number - 1), DG_NEXT));
  } else {
    if (get(FG_USED_DATAGRAMS) >= <u32>DATAGRAMS_MAX) return 0;
    number = get(FG_USED_DATAGRAMS) + 1;
    put(FG_USED_DATAGRAMS, number);
  }
  const datagram = datagramAddress(number - 1);
  memory.fill(datagram, 0, DATAGRAM_SIZE);
  memory.copy(datagram + DG_TUPLE, tuple, 48);
  store<u32>(datagram, load<u32>(head), DG_NEXT);
  store<u32>(head, number);
  return datagram;
}

/** Forgets a datagram, whose slots are the caller's from now on. */
export function removeDatagram(datagram: u32): void {
  const number = (datagram - DATAGRAMS) / DATAGRAM_SIZE + 1;
  let at = headOf(datagram + DG_TUPLE);
  for (let link = load<u32>(at); link !== 0; link = load<u32>(at)) {
    if (link === number) {
      store<u32>(at, load<u32>(datagram, DG_NEXT));
      break;
    }
    at = datagramAddress(link - 1) + DG_NEXT;
  }
  put(FG_WAITING, get(FG_WAITING) - load<u32>(datagram, DG_COUNT));
  store<u32>(datagram, 0, DG_FIRST);
  store<u32>(datagram, get(FG_FREE_DATAGRAM), DG_NEXT);
  put(FG_FREE_DATAGRAM, number);
}

/** What to add to a counter CTK_FRAG_* for the family of a datagram. */
export function family(tuple: u32): u32 {
  return isV6(load<u32>(tuple, TU_META)) ? FRAGMENT_V6 : 0;
}

/** Throws away datagrams that have waited too long for the rest. */
export function expireFragments(): void {
  if (get(FG_WAITING) === 0) return;
  lockFragments();
  const used = get(FG_USED_DATAGRAMS);
  for (let i: u32 = 0; i < used; i++) {
    const datagram = datagramAddress(i);
    let slot = load<u32>(datagram, DG_FIRST);
    if (slot === 0 || <i32>(now - load<u32>(datagram, DG_EXPIRES)) < 0) continue;
    count(CTK_FRAG_PURGED + family(datagram + DG_TUPLE), <f64>load<u32>(datagram, DG_COUNT));
    removeDatagram(datagram);
    while (slot !== 0) {
      const next = load<u32>(slot, SL_NEXT);
      freeSlot(slot);
      slot = next;
    }
  }
  unlockFragments();
}
