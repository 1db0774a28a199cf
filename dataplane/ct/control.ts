// Connection tracking, the control plane's part: the main thread has an instance of the module of its own, with the
// holder number CT_CONTROL_PLANE, and sweeps and flushes with it (src/engine/conntrack.ts). Workers never sweep, so
// expiry costs them no pause.

import {
  CN_FLAGS,
  CN_LIVE,
  CN_LOCK,
  CN_REVISION,
  CN_STATE,
  CNF_DNAT,
  CNF_SNAT,
  CT_CONTROL,
  CTC_HIGH,
  CTK_EXPIRED,
  connectionAddress,
} from '../../contract/ct.ts';
import { expireExpectations } from './expect.ts';
import { expireFragments } from './fragmentPool.ts';
import { count, scratch, unlock } from './lock.ts';
import { acquire, flush, foundReply, isExpired, remove } from './table.ts';
import { setClock } from './timeout.ts';
import { hashTuple } from './tuple.ts';

/**
 * Control plane: ends what has expired among `n` records from number `first` on. Returns how many. One look at a live
 * record costs a cache line, an end the locks of its two buckets.
 */
export function sweepConnections(first: u32, n: u32, nowMs: f64): u32 {
  setClock(nowMs);
  if (first === 0) {
    expireFragments();
    expireExpectations();
  }
  const end = min<u32>(first + n, atomic.load<u32>(CT_CONTROL + CTC_HIGH));
  let expired: u32 = 0;
  for (let i = first; i < end; i++) {
    const conn = connectionAddress(i);
    if (atomic.load<u32>(conn + CN_STATE) !== CN_LIVE) continue;
    const revision = load<u32>(conn, CN_REVISION);
    if (isExpired(conn) && remove(conn, revision, true)) {
      count(CTK_EXPIRED);
      expired++;
    }
  }
  return expired;
}

/** Control plane: ends connection number `n` if it is still the one of `revision`. */
export function flushConnection(n: u32, revision: u32): bool {
  return flush(connectionAddress(n), revision);
}

/**
 * Control plane: ends the connection whose tuple stands at the start of its scratch (without hash). The tuple is that of
 * the original direction; of a connection without translation, that of the replies will do, as in Open vSwitch.
 */
export function flushTuple(nowMs: f64): bool {
  setClock(nowMs);
  hashTuple(scratch);
  const conn = acquire(scratch);
  if (conn === 0) return false;
  const reply = foundReply;
  const revision = load<u32>(conn, CN_REVISION);
  const translated = (load<u32>(conn, CN_FLAGS) & (CNF_SNAT | CNF_DNAT)) !== 0;
  unlock(conn + CN_LOCK);
  return !(reply && translated) && flush(conn, revision);
}
