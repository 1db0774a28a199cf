// The table of connections: look-up, insertion, removal (contract/ct.ts describes layout and locks).

import {
  CN_EXPIRES,
  CN_FLAGS,
  CN_FREE,
  CN_HASH,
  CN_LIVE,
  CN_LOCK,
  CN_META,
  CN_NEXT,
  CN_REPLY_HASH,
  CN_REPLY_NEXT,
  CN_REVISION,
  CN_SIZE,
  CN_STATE,
  CNF_EXPECTS,
  CT_BUCKETS,
  CT_CONTROL,
  CT_INDEX,
  CT_LOCK_COUNT,
  CT_LOCKS,
  CT_RECORDS,
  CT_ZONE_SIZE,
  CT_ZONES,
  CTC_COUNT,
  CTK_EXPIRED,
  CTK_FLUSHED,
  CZ_COUNT,
  connectionAddress,
  TU_HASH,
} from '../../contract/ct.ts';
import { forgetExpectations } from './expect.ts';
import { count, lock, unlock } from './lock.ts';
import { freeRecord } from './pool.ts';
import { now } from './timeout.ts';
import { matches } from './tuple.ts';

/** A walk without the lock that takes longer than this may run in circles among records that are being reused. */
const STEPS_MAX = 64;
const LINKED: u32 = 0x80000000;

/** Direction of the connection that find() or acquire() has found. */
export let foundReply = false;

export function bucketOf(hash: u32): u32 {
  return CT_INDEX + (hash & (CT_BUCKETS - 1)) * 4;
}

function lockOf(hash: u32): u32 {
  return CT_LOCKS + (hash & (CT_LOCK_COUNT - 1)) * 4;
}

export function connectionOf(link: u32): u32 {
  return connectionAddress((link & ~LINKED) >> 1);
}

function numberOf(conn: u32): u32 {
  return (conn - CT_RECORDS) / CN_SIZE;
}

function linkOf(conn: u32, reply: bool): u32 {
  return LINKED | (numberOf(conn) << 1) | (reply ? 1 : 0);
}

/** Address of the word that holds the link after `link`. */
function nextOf(link: u32): u32 {
  return connectionOf(link) + ((link & 1) !== 0 ? CN_REPLY_NEXT : CN_NEXT);
}

export function isExpired(conn: u32): bool {
  return <i32>(now - load<u32>(conn, CN_EXPIRES)) >= 0;
}

/** The connection that `tuple` belongs to, in whichever direction, dead or alive; 0 = none. Holds nothing. */
function find(tuple: u32): u32 {
  const hash = load<u32>(tuple, TU_HASH);
  let link = atomic.load<u32>(bucketOf(hash));
  if (link === 0) return 0;
  for (let steps = 0; link !== 0 && steps < STEPS_MAX; steps++) {
    const conn = connectionOf(link);
    if (matches(conn, (link & 1) !== 0, tuple)) {
      foundReply = (link & 1) !== 0;
      return conn;
    }
    link = atomic.load<u32>(nextOf(link));
  }
  // A record that moved to another chain under our feet leads astray: sure is only who holds the lock.
  const guard = lockOf(hash);
  lock(guard);
  const conn = findLocked(tuple);
  unlock(guard);
  return conn;
}

/** The same, under the lock of the bucket. */
function findLocked(tuple: u32): u32 {
  let link = atomic.load<u32>(bucketOf(load<u32>(tuple, TU_HASH)));
  while (link !== 0) {
    const conn = connectionOf(link);
    if (matches(conn, (link & 1) !== 0, tuple)) {
      foundReply = (link & 1) !== 0;
      return conn;
    }
    link = atomic.load<u32>(nextOf(link));
  }
  return 0;
}

/** The live connection of `tuple`, locked; foundReply says in which direction. 0 = none. Removes an expired one. */
export function acquire(tuple: u32): u32 {
  while (true) {
    const conn = find(tuple);
    if (conn === 0) return 0;
    const reply = foundReply;
    lock(conn + CN_LOCK);
    if (load<u32>(conn, CN_STATE) !== CN_LIVE || !matches(conn, reply, tuple)) {
      unlock(conn + CN_LOCK); // ended, and perhaps another connection by now
      continue;
    }
    if (!isExpired(conn)) {
      foundReply = reply;
      return conn;
    }
    const revision = load<u32>(conn, CN_REVISION);
    unlock(conn + CN_LOCK);
    if (remove(conn, revision, true)) count(CTK_EXPIRED);
  }
}

/** Locks a connection by its record and revision, if it is still that one. */
export function acquireRecord(conn: u32, revision: u32): bool {
  lock(conn + CN_LOCK);
  if (
    load<u32>(conn, CN_STATE) === CN_LIVE &&
    load<u32>(conn, CN_REVISION) === revision &&
    !isExpired(conn)
  ) {
    return true;
  }
  unlock(conn + CN_LOCK);
  return false;
}

/** Whether a tuple is in use. */
export function isTaken(tuple: u32): bool {
  const conn = acquire(tuple);
  if (conn === 0) return false;
  unlock(conn + CN_LOCK);
  return true;
}

export const INSERTED = 0;
export const ORIGINAL_EXISTS = 1;
export const REPLY_EXISTS = 2;

/**
 * Puts a complete, free record into the index and makes it live; it is locked then. The original tuple must be new;
 * that of the replies too if `unique` (a translated connection). Of equal tuples the original one is found first.
 */
export function insert(conn: u32, original: u32, reply: u32, unique: bool): i32 {
  const hash = load<u32>(original, TU_HASH);
  const replyHash = load<u32>(reply, TU_HASH);
  lockBuckets(hash, replyHash);
  let result = INSERTED;
  if (findLocked(original) !== 0) result = ORIGINAL_EXISTS;
  else if (unique && findLocked(reply) !== 0) result = REPLY_EXISTS;
  if (result === INSERTED) {
    store<u32>(conn, hash, CN_HASH);
    store<u32>(conn, replyHash, CN_REPLY_HASH);
    lock(conn + CN_LOCK);
    store<u32>(conn, load<u32>(conn, CN_REVISION) + 1, CN_REVISION);
    store<u32>(conn, 0, CN_REPLY_NEXT);
    atomic.store<u32>(conn + CN_STATE, CN_LIVE);
    const bucket = bucketOf(hash);
    atomic.store<u32>(conn + CN_NEXT, atomic.load<u32>(bucket));
    atomic.store<u32>(bucket, linkOf(conn, false));
    let last = bucketOf(replyHash);
    for (let link = atomic.load<u32>(last); link !== 0; link = atomic.load<u32>(last))
      last = nextOf(link);
    atomic.store<u32>(last, linkOf(conn, true));
    atomic.add<u32>(CT_CONTROL + CTC_COUNT, 1);
    atomic.add<u32>(zoneOf(conn) + CZ_COUNT, 1);
  }
  unlockBuckets(hash, replyHash);
  return result;
}

/** Ends a connection if it is still the one of this revision, and has expired if it has to. Nothing may be locked. */
export function remove(conn: u32, revision: u32, ifExpired: bool): bool {
  const hash = load<u32>(conn, CN_HASH);
  const replyHash = load<u32>(conn, CN_REPLY_HASH);
  lockBuckets(hash, replyHash);
  lock(conn + CN_LOCK);
  // The hashes are those of this revision if the revision is right now: both change under the lock only while free.
  const same =
    load<u32>(conn, CN_STATE) === CN_LIVE &&
    load<u32>(conn, CN_REVISION) === revision &&
    load<u32>(conn, CN_HASH) === hash &&
    load<u32>(conn, CN_REPLY_HASH) === replyHash &&
    (!ifExpired || isExpired(conn));
  if (same) {
    unlink(hash, linkOf(conn, false));
    unlink(replyHash, linkOf(conn, true));
    if ((load<u32>(conn, CN_FLAGS) & CNF_EXPECTS) !== 0) forgetExpectations(conn);
    atomic.store<u32>(conn + CN_STATE, CN_FREE);
    atomic.sub<u32>(zoneOf(conn) + CZ_COUNT, 1);
    atomic.sub<u32>(CT_CONTROL + CTC_COUNT, 1);
  }
  unlock(conn + CN_LOCK);
  unlockBuckets(hash, replyHash);
  if (same) freeRecord(numberOf(conn));
  return same;
}

/** The same for an end that is not expiry. */
export function flush(conn: u32, revision: u32): bool {
  const done = remove(conn, revision, false);
  if (done) count(CTK_FLUSHED);
  return done;
}

function unlink(hash: u32, link: u32): void {
  let at = bucketOf(hash);
  for (let next = atomic.load<u32>(at); next !== 0; next = atomic.load<u32>(at)) {
    if (next === link) {
      atomic.store<u32>(at, atomic.load<u32>(nextOf(link)));
      return;
    }
    at = nextOf(next);
  }
}

function lockBuckets(a: u32, b: u32): void {
  const first = min<u32>(lockOf(a), lockOf(b));
  const second = max<u32>(lockOf(a), lockOf(b));
  lock(first);
  if (second !== first) lock(second);
}

function unlockBuckets(a: u32, b: u32): void {
  unlock(lockOf(a));
  if (lockOf(b) !== lockOf(a)) unlock(lockOf(b));
}

export function zoneOf(conn: u32): u32 {
  return CT_ZONES + (load<u32>(conn, CN_META) & 0xffff) * CT_ZONE_SIZE;
}
