// Free records of connections. Each holder (contract/ct.ts) has some at hand and takes and gives without a lock; only when
// it has none left, or too many, it exchanges half of its room with the list that all share, under the pool's lock. So
// workers that begin connections, and the sweep that ends them, seldom meet. In shared memory, so that a worker that starts
// again finds what its predecessor had.

import {
  CN_NEXT,
  CT_CONTROL,
  CT_MAX,
  CT_POOL_ROOM,
  CT_POOL_SIZE,
  CT_POOLS,
  CTC_FREE,
  CTC_HIGH,
  CTC_POOL_LOCK,
  connectionAddress,
  PL_COUNT,
  PL_RECORDS,
} from '../../contract/ct.ts';
import { lock, unlock } from './lock.ts';

const HALF: u32 = CT_POOL_ROOM / 2;
const GUARD: u32 = CT_CONTROL + CTC_POOL_LOCK;

/** The records at hand. */
let pool: u32 = 0;

/** At the start of an instance. */
export function startPool(holder: u32): void {
  pool = CT_POOLS + holder * CT_POOL_SIZE;
  if (load<u32>(pool, PL_COUNT) > <u32>CT_POOL_ROOM) store<u32>(pool, 0, PL_COUNT);
}

/** Takes up to half a pool from the list of all, those used last first, and then such as never were. */
function refill(): void {
  let count = load<u32>(pool, PL_COUNT);
  lock(GUARD);
  let head = load<u32>(CT_CONTROL, CTC_FREE);
  const high = load<u32>(CT_CONTROL, CTC_HIGH);
  let fresh = min<u32>(HALF, <u32>CT_MAX - high);
  for (; head !== 0 && count < HALF; count++) {
    store<u32>(pool + (count << 2), head - 1, PL_RECORDS);
    head = load<u32>(connectionAddress(head - 1), CN_NEXT);
  }
  store<u32>(CT_CONTROL, head, CTC_FREE);
  // In descending order: the lowest is used first.
  fresh = min<u32>(fresh, HALF - count);
  for (let i: u32 = 0; i < fresh; i++) {
    store<u32>(pool + ((count + i) << 2), high + fresh - 1 - i, PL_RECORDS);
  }
  if (fresh !== 0) atomic.store<u32>(CT_CONTROL + CTC_HIGH, high + fresh);
  store<u32>(pool, count + fresh, PL_COUNT);
  unlock(GUARD);
}

/** The number of a free record, -1 = there is none. Nobody else writes it until it is inserted or given back. */
export function takeRecord(): i32 {
  let count = load<u32>(pool, PL_COUNT);
  if (count === 0) {
    refill();
    count = load<u32>(pool, PL_COUNT);
    if (count === 0) return -1;
  }
  store<u32>(pool, count - 1, PL_COUNT);
  return load<u32>(pool + ((count - 1) << 2), PL_RECORDS);
}

/** Gives a record back that is not, or no longer, in the index. */
export function freeRecord(number: u32): void {
  let count = load<u32>(pool, PL_COUNT);
  if (count === <u32>CT_POOL_ROOM) {
    lock(GUARD);
    let head = load<u32>(CT_CONTROL, CTC_FREE);
    while (count > HALF) {
      count--;
      const given = load<u32>(pool + (count << 2), PL_RECORDS);
      store<u32>(connectionAddress(given), head, CN_NEXT);
      head = given + 1;
    }
    store<u32>(CT_CONTROL, head, CTC_FREE);
    store<u32>(pool, count, PL_COUNT);
    unlock(GUARD);
  }
  store<u32>(pool + (count << 2), number, PL_RECORDS);
  store<u32>(pool, count + 1, PL_COUNT);
}

/** Address of the record that will be taken after `n` others, 0 = not known: for touching it ahead. */
export function recordAhead(n: u32): u32 {
  const count = load<u32>(pool, PL_COUNT);
  return n < count ? connectionAddress(load<u32>(pool + ((count - 1 - n) << 2), PL_RECORDS)) : 0;
}
