// Connection tracking: the ct action (contract/action.ts) on the packets of a burst, and the control plane's door.
//
//   extract all tuples → touch all buckets → touch all connections → track each
//
// Each of the first loops brings the memory that the next one needs, for all packets at once, so that cache misses
// overlap; the last one does the work, one packet after the other, in their order.

import { CT_CLEAR, CT_FORCE } from '../../contract/action.ts';
import {
  CN_META,
  CN_REPLY_PORTS,
  CS_INV,
  CS_TRK,
  CTK_LOOKUPS,
  TU_FLAGS,
  TU_HASH,
  TU_SIZE,
} from '../../contract/ct.ts';
import { PKT_KEY } from '../../contract/packet.ts';
import { extract } from './extract.ts';
import { count, recover, scratch, setHolder } from './lock.ts';
import { clearFields, forget, remembered, rememberedRevision, writeFields } from './metadata.ts';
import { bucketOf, connectionOf } from './table.ts';
import { setClock } from './timeout.ts';
import { again, track } from './track.ts';

/** Behind the tuple: what is wrong with the packet (CTK_INV_*), and what the touching loops have read. */
const TU_INVALID: u32 = 48;
const TU_TOUCHED: u32 = 52;
/** Tuples of this many packets are in hand at a time. */
const CHUNK = 256;

/** At the start of an instance: `holder` is the worker, or CT_CONTROL_PLANE. */
export function startTracking(holder: u32): void {
  setHolder(holder);
  recover();
}

/** The ct action on `n` packets; none leaves the list. */
export function conntrack(list: u32, n: i32, program: u32, nowMs: f64): void {
  if (load<u32>(program) & CT_CLEAR) {
    for (let i = 0; i < n; i++) clearFields(load<u32>(load<u32>(list + (i << 2)) + PKT_KEY));
    return;
  }
  setClock(nowMs);
  count(CTK_LOOKUPS, <f64>n);
  for (let i = 0; i < n; i += CHUNK) trackAll(list + (i << 2), min(CHUNK, n - i), program);
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
  for (let i = 0; i < n; i++) {
    const tuple = scratch + i * TU_SIZE;
    const link = load<u32>(tuple, TU_TOUCHED);
    if (link === 0) continue;
    const conn = connectionOf(link);
    store<u32>(tuple, load<u32>(conn, CN_META) + load<u32>(conn, CN_REPLY_PORTS), TU_TOUCHED);
  }
  for (let i = 0; i < n; i++) {
    trackOne(load<u32>(list + (i << 2)), scratch + i * TU_SIZE, program, zone);
  }
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
