// Who this instance is for the connection table, and its spin locks (contract/ct.ts). Holders are the workers and the
// control plane; a lock word names its holder, so that recover() can free what a crashed predecessor held.

import {
  CN_LOCK,
  CT_CONTROL,
  CT_LOCK_COUNT,
  CT_LOCKS,
  CT_SCRATCH,
  CT_SCRATCH_SIZE,
  CTC_HIGH,
  CTC_POOL_LOCK,
  connectionAddress,
  ctCountersAddress,
} from '../../contract/ct.ts';
import { EXC_LOCK, EXPECT_BASE } from '../../contract/ctExpect.ts';
import { FG_LOCK, FRAGMENTS_BASE } from '../../contract/ctFragments.ts';

/** Value of a lock that this instance holds. */
let self: u32 = 0;
/** Its scratch: tuples of the burst in hand. */
export let scratch: u32 = 0;
let counters: u32 = 0;

const SPINS = 1000;
const WAIT_NS: i64 = 50000;

export function setHolder(holder: u32): void {
  self = holder + 1;
  scratch = CT_SCRATCH + holder * CT_SCRATCH_SIZE;
  counters = ctCountersAddress(holder);
}

/** Frees the locks of an instance of this holder that has crashed: at the start of an instance. */
export function recover(): void {
  const end: u32 = CT_LOCKS + CT_LOCK_COUNT * 4;
  for (let at: u32 = CT_LOCKS; at < end; at += 4) release(at);
  release(CT_CONTROL + CTC_POOL_LOCK);
  release(FRAGMENTS_BASE + FG_LOCK);
  release(EXPECT_BASE + EXC_LOCK);
  const high = atomic.load<u32>(CT_CONTROL + CTC_HIGH);
  for (let n: u32 = 0; n < high; n++) release(connectionAddress(n) + CN_LOCK);
}

function release(at: u32): void {
  if (atomic.load<u32>(at) === self) atomic.store<u32>(at, 0);
}

/** Spins; if the holder seems to have lost its core, sleeps a little between two looks. */
export function lock(at: u32): void {
  if (atomic.cmpxchg<u32>(at, 0, self) === 0) return;
  for (let spins = 0; ; spins++) {
    const holder = atomic.load<u32>(at);
    if (holder === 0) {
      if (atomic.cmpxchg<u32>(at, 0, self) === 0) return;
    } else if (spins > SPINS) {
      atomic.wait<i32>(at, <i32>holder, WAIT_NS);
    }
  }
}

export function unlock(at: u32): void {
  atomic.store<u32>(at, 0);
}

/** Adds to one of the counters CTK_*. */
export function count(counter: u32, amount: f64 = 1): void {
  store<f64>(counters + counter, load<f64>(counters + counter) + amount);
}
