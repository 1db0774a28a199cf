// Expectations (contract/ctExpect.ts): made when a helper reads an announcement, looked up when a connection begins,
// forgotten with the control connection or when their time is up. All under one lock, which only control messages and
// new connections take, and these only if their chain is not empty.

import {
  CN_DST,
  CN_EXPECTATIONS,
  CN_FLAGS,
  CN_LABEL,
  CN_MARK,
  CN_META,
  CN_PORTS,
  CN_REPLY_DST,
  CN_REPLY_SRC,
  CN_SRC,
  CNF_DNAT,
  CNF_EXPECTS,
  CNF_LABEL,
  CTK_EXPECT_EXPIRED,
  CTK_EXPECT_FULL,
  CTK_EXPECT_REPLACED,
  CTK_EXPECTATIONS,
  TU_DST,
  TU_FLAGS,
  TU_HASH,
  TU_META,
  TU_PORTS,
  TU_SRC,
} from '../../contract/ct.ts';
import {
  EX_EXPIRES,
  EX_FLAGS,
  EX_LABEL,
  EX_MARK,
  EX_NAT_ADDRESS,
  EX_NAT_PORT,
  EX_NEXT,
  EX_OLDER,
  EX_PARENT,
  EX_PARENT_DST,
  EX_PARENT_PORTS,
  EX_PARENT_SRC,
  EXC_COUNT,
  EXC_FREE,
  EXC_LOCK,
  EXC_USED,
  EXF_LABEL,
  EXF_SNAT,
  EXPECT_BASE,
  EXPECT_HEAD_COUNT,
  EXPECT_HEADS,
  EXPECT_MAX,
  EXPECT_PER_CONNECTION,
  EXPECT_RECORDS,
  EXPECT_SIZE,
  EXPECT_TIMEOUT_MS,
} from '../../contract/ctExpect.ts';
import { count, lock, scratch, unlock } from './lock.ts';
import { now } from './timeout.ts';
import { hashTuple, sameTuple } from './tuple.ts';

/** In the scratch: a tuple to look up, and a copy of the expectation found. */
const TUPLE: u32 = 0xf200;
const FOUND: u32 = 0xf300;
const GUARD: u32 = EXPECT_BASE + EXC_LOCK;

function get(offset: u32): u32 {
  return load<u32>(EXPECT_BASE + offset);
}

function put(offset: u32, value: u32): void {
  store<u32>(EXPECT_BASE + offset, value);
}

function recordOf(link: u32): u32 {
  return EXPECT_RECORDS + (link - 1) * EXPECT_SIZE;
}

function linkOf(record: u32): u32 {
  return (record - EXPECT_RECORDS) / EXPECT_SIZE + 1;
}

function headOf(tuple: u32): u32 {
  return EXPECT_HEADS + (load<u32>(tuple, TU_HASH) & (EXPECT_HEAD_COUNT - 1)) * 4;
}

function find(tuple: u32): u32 {
  for (let link = load<u32>(headOf(tuple)); link !== 0; ) {
    const record = recordOf(link);
    if (sameTuple(record, tuple)) return record;
    link = load<u32>(record, EX_NEXT);
  }
  return 0;
}

/**
 * A connection is announced by a packet of connection `conn` (locked) that travels in direction `reply`: from the other
 * end's address to the sender's, from any port to `port`. `natPort`: the port behind a translated destination. Both in
 * network order.
 */
export function expect(conn: u32, reply: bool, port: u32, natPort: u32): void {
  const tuple = scratch + TUPLE;
  v128.store(tuple, v128.load(conn + (reply ? CN_SRC : CN_REPLY_SRC)), TU_SRC);
  v128.store(tuple, v128.load(conn + (reply ? CN_DST : CN_REPLY_DST)), TU_DST);
  store<u32>(tuple, port << 16, TU_PORTS);
  store<u32>(tuple, load<u32>(conn, CN_META), TU_META);
  store<u32>(tuple, 0, TU_FLAGS);
  hashTuple(tuple);
  lock(GUARD);
  const same = find(tuple);
  if (same !== 0) {
    // Announced once more: a retransmission.
    if (load<u32>(same, EX_PARENT) === conn) {
      store<u32>(same, now + EXPECT_TIMEOUT_MS, EX_EXPIRES);
    }
  } else {
    makeRoom(conn);
    const record = take();
    if (record === 0) {
      count(CTK_EXPECT_FULL);
    } else {
      fill(record, conn, reply, natPort);
      count(CTK_EXPECTATIONS);
    }
  }
  unlock(GUARD);
}

function take(): u32 {
  const link = get(EXC_FREE);
  if (link !== 0) {
    put(EXC_FREE, load<u32>(recordOf(link), EX_NEXT));
    return recordOf(link);
  }
  const used = get(EXC_USED);
  if (used >= <u32>EXPECT_MAX) return 0;
  put(EXC_USED, used + 1);
  return recordOf(used + 1);
}

/** A control connection that announces much and uses nothing forgets its oldest announcement. */
function makeRoom(conn: u32): void {
  if ((load<u32>(conn, CN_FLAGS) & CNF_EXPECTS) === 0) return;
  let oldest: u32 = 0;
  let n: u32 = 0;
  for (let link = load<u32>(conn, CN_EXPECTATIONS); link !== 0; n++) {
    oldest = recordOf(link);
    link = load<u32>(oldest, EX_OLDER);
  }
  if (n < <u32>EXPECT_PER_CONNECTION) return;
  removeOne(oldest);
  count(CTK_EXPECT_REPLACED);
}

function fill(record: u32, conn: u32, reply: bool, natPort: u32): void {
  const flags = load<u32>(conn, CN_FLAGS);
  const link = linkOf(record);
  const tuple = scratch + TUPLE;
  const head = headOf(tuple);
  memory.copy(record, tuple, EX_NEXT);
  store<u32>(record, load<u32>(head), EX_NEXT);
  store<u32>(head, link);
  const newest: u32 = (flags & CNF_EXPECTS) !== 0 ? load<u32>(conn, CN_EXPECTATIONS) : 0;
  store<u32>(record, newest, EX_OLDER);
  store<u32>(conn, link, CN_EXPECTATIONS);
  store<u32>(conn, flags | CNF_EXPECTS, CN_FLAGS);
  store<u32>(record, conn, EX_PARENT);
  store<u32>(record, now + EXPECT_TIMEOUT_MS, EX_EXPIRES);
  v128.store(record, v128.load(conn, CN_SRC), EX_PARENT_SRC);
  v128.store(record, v128.load(conn, CN_DST), EX_PARENT_DST);
  store<u32>(record, load<u32>(conn, CN_PORTS), EX_PARENT_PORTS);
  store<u32>(record, load<u32>(conn, CN_MARK), EX_MARK);
  v128.store(record, v128.load(conn, CN_LABEL), EX_LABEL);
  // The new connection goes the way of the control connection, or back: what is translated there, is translated here.
  const dnat = (flags & CNF_DNAT) !== 0;
  const snat = reply ? !dnat : dnat;
  const address = reply ? (dnat ? CN_REPLY_SRC : CN_REPLY_DST) : dnat ? CN_DST : CN_SRC;
  v128.store(record, v128.load(conn + address), EX_NAT_ADDRESS);
  store<u32>(record, snat ? 0 : natPort, EX_NAT_PORT);
  const label: u32 = (flags & CNF_LABEL) !== 0 ? EXF_LABEL : 0;
  store<u32>(record, (snat ? EXF_SNAT : 0) | label, EX_FLAGS);
  atomic.store<u32>(EXPECT_BASE + EXC_COUNT, get(EXC_COUNT) + 1);
}

/** Takes an expectation out of its chain and out of its control connection's list. Under the lock. */
function removeOne(record: u32): void {
  const link = linkOf(record);
  const older = load<u32>(record, EX_OLDER);
  let at = load<u32>(record, EX_PARENT) + CN_EXPECTATIONS;
  for (let next = load<u32>(at); next !== 0; next = load<u32>(at)) {
    if (next === link) {
      store<u32>(at, older);
      break;
    }
    at = recordOf(next) + EX_OLDER;
  }
  release(record);
}

function release(record: u32): void {
  const link = linkOf(record);
  let at = headOf(record);
  for (let next = load<u32>(at); next !== 0; next = load<u32>(at)) {
    if (next === link) {
      store<u32>(at, load<u32>(record, EX_NEXT));
      break;
    }
    at = recordOf(next) + EX_NEXT;
  }
  store<u32>(record, 0, EX_PARENT);
  store<u32>(record, get(EXC_FREE), EX_NEXT);
  put(EXC_FREE, link);
  atomic.store<u32>(EXPECT_BASE + EXC_COUNT, get(EXC_COUNT) - 1);
}

/** Whether a connection that begins with `tuple` is expected: address of a copy of the expectation, 0 = no. */
export function expectationOf(tuple: u32): u32 {
  if (atomic.load<u32>(EXPECT_BASE + EXC_COUNT) === 0) return 0;
  const wanted = scratch + TUPLE;
  memory.copy(wanted, tuple, EX_NEXT);
  store<u16>(wanted, 0, TU_PORTS);
  hashTuple(wanted);
  if (atomic.load<u32>(headOf(wanted)) === 0) return 0;
  let found: u32 = 0;
  lock(GUARD);
  const record = find(wanted);
  if (record !== 0 && <i32>(now - load<u32>(record, EX_EXPIRES)) < 0) {
    found = scratch + FOUND;
    memory.copy(found, record, EXPECT_SIZE);
  }
  unlock(GUARD);
  return found;
}

/** A control connection, which is locked, ends. */
export function forgetExpectations(conn: u32): void {
  lock(GUARD);
  for (let link = load<u32>(conn, CN_EXPECTATIONS); link !== 0; ) {
    const record = recordOf(link);
    link = load<u32>(record, EX_OLDER);
    release(record);
  }
  store<u32>(conn, 0, CN_EXPECTATIONS);
  unlock(GUARD);
}

/** Control plane: ends those whose time is up. */
export function expireExpectations(): void {
  if (atomic.load<u32>(EXPECT_BASE + EXC_COUNT) === 0) return;
  lock(GUARD);
  const end = get(EXC_USED);
  for (let link: u32 = 1; link <= end; link++) {
    const record = recordOf(link);
    if (load<u32>(record, EX_PARENT) === 0) continue;
    if (<i32>(now - load<u32>(record, EX_EXPIRES)) < 0) continue;
    removeOne(record);
    count(CTK_EXPECT_EXPIRED);
  }
  unlock(GUARD);
}
