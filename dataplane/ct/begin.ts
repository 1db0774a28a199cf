// Beginning a connection: limits, the choice of its translation, its record, and what it inherits if it was expected.

import { CT_NAT, CT_NAT_DST, CT_NAT_SRC } from '../../contract/action.ts';
import {
  CN_DST,
  CN_FLAGS,
  CN_LABEL,
  CN_MARK,
  CN_META,
  CN_PARENT_DST,
  CN_PARENT_PORTS,
  CN_PARENT_SRC,
  CN_PEERS,
  CN_POLICY,
  CN_PORTS,
  CN_REPLY_DST,
  CN_REPLY_PORTS,
  CN_REPLY_SRC,
  CN_SRC,
  CNF_DNAT,
  CNF_EXPECTED,
  CNF_LABEL,
  CNF_SNAT,
  CT_CONTROL,
  CT_TM_ICMP_FIRST,
  CT_TM_OTHER_FIRST,
  CT_ZONE_SIZE,
  CT_ZONES,
  CTC_COUNT,
  CTC_DEFAULT_LIMITED,
  CTC_DEFAULT_ZONE_LIMIT,
  CTC_LIMIT,
  CTK_CREATED,
  CTK_EXPECTED,
  CTK_FULL,
  CTK_NAT_EXHAUSTED,
  CTK_ZONE_FULL,
  CZ_COUNT,
  CZ_LIMIT,
  CZ_LIMITED,
  connectionAddress,
  TU_DST,
  TU_META,
  TU_PORTS,
  TU_SRC,
} from '../../contract/ct.ts';
import {
  EX_FLAGS,
  EX_LABEL,
  EX_MARK,
  EX_NAT_ADDRESS,
  EX_NAT_PORT,
  EX_PARENT_DST,
  EX_PARENT_PORTS,
  EX_PARENT_SRC,
  EXF_LABEL,
  EXF_SNAT,
} from '../../contract/ctExpect.ts';
import { PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP } from '../rewrite.ts';
import { helperFor } from './helper.ts';
import { count, scratch } from './lock.ts';
import { chooseTranslation } from './nat.ts';
import { freeRecord, takeRecord } from './pool.ts';
import { INSERTED, insert, ORIGINAL_EXISTS, REPLY_EXISTS } from './table.ts';
import { tcpBegin } from './tcp.ts';
import { setTimeoutKind } from './timeout.ts';
import { hashTuple, protoOf, reverseTuple } from './tuple.ts';

/** Attempts to commit while other workers take the tuples that were free a moment ago. */
export const ATTEMPTS = 8;

/** Behind the tuples of a burst: the tuple of the replies to a new connection. */
const REPLY_TUPLE: u32 = 0xf000;

export const EXISTS: u32 = 1;

/** A new connection, locked; 0 = refused, and counted; EXISTS = another worker has just made it. */
export function commit(
  pkt: u32,
  tuple: u32,
  program: u32,
  flags: u32,
  zone: u32,
  expected: u32,
): u32 {
  if (isZoneFull(CT_ZONES + zone * CT_ZONE_SIZE)) {
    count(CTK_ZONE_FULL);
    return 0;
  }
  if (atomic.load<u32>(CT_CONTROL + CTC_COUNT) >= atomic.load<u32>(CT_CONTROL + CTC_LIMIT)) {
    count(CTK_FULL);
    return 0;
  }
  const number = takeRecord();
  if (number < 0) {
    count(CTK_FULL);
    return 0;
  }
  const conn = connectionAddress(number);
  const translated =
    (flags & CT_NAT) !== 0 && (expected !== 0 || (flags & (CT_NAT_SRC | CT_NAT_DST)) !== 0);
  const reply = scratch + REPLY_TUPLE;
  if (!translated) reverseTuple(reply, tuple);
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    let side = translated ? translationOf(flags) : 0;
    if (translated && expected !== 0) side = expectedTranslation(expected, tuple, reply);
    else if (translated && !chooseTranslation(program, flags, tuple, reply)) break;
    fill(conn, tuple, reply, program, side | helperFor(load<u32>(tuple, TU_META), flags));
    if (expected !== 0) inherit(conn, expected);
    begin(conn, pkt);
    const result = insert(conn, tuple, reply, translated);
    if (result === INSERTED) {
      count(CTK_CREATED);
      if (expected !== 0) count(CTK_EXPECTED);
      return conn;
    }
    if (expected !== 0 && result === REPLY_EXISTS) break; // there is no other choice
    if (result === ORIGINAL_EXISTS) {
      freeRecord(number);
      return EXISTS;
    }
  }
  freeRecord(number);
  count(CTK_NAT_EXHAUSTED);
  return 0;
}

function isZoneFull(zoneAt: u32): bool {
  const connections = atomic.load<u32>(zoneAt + CZ_COUNT);
  if (atomic.load<u32>(zoneAt + CZ_LIMITED) !== 0) {
    return connections >= atomic.load<u32>(zoneAt + CZ_LIMIT);
  }
  if (atomic.load<u32>(CT_CONTROL + CTC_DEFAULT_LIMITED) === 0) return false;
  return connections >= atomic.load<u32>(CT_CONTROL + CTC_DEFAULT_ZONE_LIMIT);
}

function translationOf(flags: u32): u32 {
  return flags & CT_NAT_SRC ? CNF_SNAT : flags & CT_NAT_DST ? CNF_DNAT : 0;
}

/** An expected connection is translated as the one that announced it. Returns CNF_SNAT or CNF_DNAT. */
function expectedTranslation(expected: u32, tuple: u32, reply: u32): u32 {
  reverseTuple(reply, tuple);
  const snat = (load<u32>(expected, EX_FLAGS) & EXF_SNAT) !== 0;
  v128.store(reply + (snat ? TU_DST : TU_SRC), v128.load(expected, EX_NAT_ADDRESS));
  const port = load<u16>(expected, EX_NAT_PORT);
  if (port !== 0) store<u16>(reply, port, TU_PORTS);
  hashTuple(reply);
  return snat ? CNF_SNAT : CNF_DNAT;
}

/** Mark, label and the original tuple of the connection that announced it. */
function inherit(conn: u32, expected: u32): void {
  const label: u32 = (load<u32>(expected, EX_FLAGS) & EXF_LABEL) !== 0 ? CNF_LABEL : 0;
  store<u32>(conn, load<u32>(conn, CN_FLAGS) | CNF_EXPECTED | label, CN_FLAGS);
  store<u32>(conn, load<u32>(expected, EX_MARK), CN_MARK);
  v128.store(conn, v128.load(expected, EX_LABEL), CN_LABEL);
  v128.store(conn, v128.load(expected, EX_PARENT_SRC), CN_PARENT_SRC);
  v128.store(conn, v128.load(expected, EX_PARENT_DST), CN_PARENT_DST);
  store<u32>(conn, load<u32>(expected, EX_PARENT_PORTS), CN_PARENT_PORTS);
}

/** `flags`: CNF_*. */
function fill(conn: u32, tuple: u32, reply: u32, program: u32, flags: u32): void {
  v128.store(conn, v128.load(tuple, TU_SRC), CN_SRC);
  v128.store(conn, v128.load(tuple, TU_DST), CN_DST);
  store<u32>(conn, load<u32>(tuple, TU_PORTS), CN_PORTS);
  store<u32>(conn, load<u32>(tuple, TU_META), CN_META);
  v128.store(conn, v128.load(reply, TU_SRC), CN_REPLY_SRC);
  v128.store(conn, v128.load(reply, TU_DST), CN_REPLY_DST);
  store<u32>(conn, load<u32>(reply, TU_PORTS), CN_REPLY_PORTS);
  store<u32>(conn, flags, CN_FLAGS);
  store<u32>(conn, 0, CN_MARK);
  v128.store(conn, i64x2.splat(0), CN_LABEL);
  store<u8>(conn, load<u8>(program, 8), CN_POLICY);
}

/** State of the protocol after the first packet. */
function begin(conn: u32, pkt: u32): void {
  const proto = protoOf(load<u32>(conn, CN_META));
  if (proto === PROTO_TCP) {
    tcpBegin(conn, pkt);
    return;
  }
  store<u8>(conn, 0, CN_PEERS);
  const icmp = proto === PROTO_ICMP || proto === PROTO_ICMPV6;
  setTimeoutKind(conn, icmp ? CT_TM_ICMP_FIRST : CT_TM_OTHER_FIRST);
}
