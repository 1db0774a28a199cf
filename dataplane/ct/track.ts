// One packet through the connection table: find or make its connection, advance the connection's state, translate, and
// write what tables may match on into the packet's key. The order of the steps, and what each case leaves in ct_state,
// is that of Open vSwitch's userspace conntrack.

import {
  CT_COMMIT,
  CT_FORCE,
  CT_HAS_LABEL,
  CT_HAS_MARK,
  CT_NAT,
  CT_NAT_DST,
  CT_NAT_SRC,
} from '../../contract/action.ts';
import {
  CN_CREATED,
  CN_DST,
  CN_FLAGS,
  CN_LABEL,
  CN_LOCK,
  CN_MARK,
  CN_META,
  CN_PEERS,
  CN_POLICY,
  CN_PORTS,
  CN_REPLY_DST,
  CN_REPLY_PORTS,
  CN_REPLY_SRC,
  CN_REVISION,
  CN_SRC,
  CNF_DNAT,
  CNF_SNAT,
  CS_DNAT,
  CS_EST,
  CS_INV,
  CS_NEW,
  CS_REL,
  CS_RPL,
  CS_SNAT,
  CS_TRK,
  CT_CONTROL,
  CT_ICMP_FIRST,
  CT_ICMP_REPLY,
  CT_OTHER_BIDIR,
  CT_OTHER_FIRST,
  CT_OTHER_MULTIPLE,
  CT_TM_ICMP_FIRST,
  CT_TM_ICMP_REPLY,
  CT_TM_OTHER_BIDIR,
  CT_TM_OTHER_FIRST,
  CT_TM_OTHER_MULTIPLE,
  CT_ZONE_SIZE,
  CT_ZONES,
  CTC_COUNT,
  CTC_DEFAULT_ZONE_LIMIT,
  CTC_LIMIT,
  CTK_CREATED,
  CTK_FULL,
  CTK_HITS,
  CTK_INV_ICMP,
  CTK_INV_NEW,
  CTK_INV_TCP,
  CTK_NAT_EXHAUSTED,
  CTK_RACE,
  CTK_ZONE_FULL,
  CZ_COUNT,
  CZ_LIMIT,
  TU_DST,
  TU_FLAGS,
  TU_META,
  TU_PORTS,
  TU_SRC,
} from '../../contract/ct.ts';
import { K_CT_STATE, K_CT_ZONE } from '../../contract/key.ts';
import { PKT_HEAD, PKT_HEAD_LEN, PKT_KEY, PKT_L4 } from '../../contract/packet.ts';
import { PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP } from '../rewrite.ts';
import { count, scratch, unlock } from './lock.ts';
import { forget, remember, writeFields, writeLabel, writeMark } from './metadata.ts';
import { chooseTranslation } from './nat.ts';
import {
  acquire,
  acquireRecord,
  allocate,
  flush,
  foundReply,
  free,
  INSERTED,
  insert,
  ORIGINAL_EXISTS,
} from './table.ts';
import { tcpBegin, tcpUpdate, tcpValidNew } from './tcp.ts';
import { now, setTimeoutKind, UPDATE_INVALID, UPDATE_VALID, UPDATE_VALID_NEW } from './timeout.ts';
import { translate } from './translate.ts';
import { protoOf, RELATED, reverseTuple, tupleOf } from './tuple.ts';

const NATTED = CS_SNAT | CS_DNAT;
/** Attempts to commit while other workers take the tuples that were free a moment ago. */
const ATTEMPTS = 8;

/** Behind the tuples of a burst: the tuple of the replies to a new connection. */
const REPLY_TUPLE: u32 = 0xf000;

/**
 * The packet went through the table in this zone already, and its connection is known (as Open vSwitch caches it): its
 * state does not advance a second time. False: it is not, the packet has to be looked up.
 */
export function again(
  pkt: u32,
  conn: u32,
  revision: u32,
  reply: bool,
  related: bool,
  program: u32,
): bool {
  const flags = load<u32>(program);
  if (!acquireRecord(conn, revision)) return false;
  const key = load<u32>(pkt + PKT_KEY);
  if (flags & CT_NAT) {
    // Needs the place of a quoted packet, which only extract() knows: the slow way.
    if (related) {
      unlock(conn + CN_LOCK);
      return false;
    }
    const state = natState(bswap<u32>(load<u32>(key + K_CT_STATE)), pkt, conn, reply, related);
    store<u32>(key + K_CT_STATE, bswap<u32>(state));
    forget(key);
  }
  writeMark(key, conn, program, flags & CT_HAS_MARK);
  writeLabel(key, conn, program, flags & CT_HAS_LABEL);
  unlock(conn + CN_LOCK);
  return true;
}

/** Tracks a packet whose tuple has been extracted. `program` points behind the action's header. */
export function track(pkt: u32, tuple: u32, program: u32): void {
  const key = load<u32>(pkt + PKT_KEY);
  const flags = load<u32>(program);
  const zone = load<u32>(program, 4);
  const related = (load<u32>(tuple, TU_FLAGS) & RELATED) !== 0;
  let state = bswap<u32>(load<u32>(key + K_CT_STATE));
  if (bswap<u16>(load<u16>(key + K_CT_ZONE)) !== <u16>zone) state = 0;
  let conn: u32 = 0;
  let reply = false;
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    conn = lookup(tuple, (state & NATTED) !== 0);
    reply = inReply;
    if (reply && (flags & CT_FORCE) !== 0) {
      end(conn);
      conn = 0;
    }
    let create = conn === 0 && !related;
    if (conn !== 0) {
      if (related) {
        state |= CS_REL | (reply ? CS_RPL : 0);
      } else {
        const result = update(conn, pkt, reply);
        if (result === UPDATE_VALID) {
          state = (state & ~CS_NEW) | CS_EST | (reply ? CS_RPL : 0);
        } else if (result === UPDATE_VALID_NEW) {
          state |= CS_NEW;
        } else if (result === UPDATE_INVALID) {
          state = CS_INV;
          count(CTK_INV_TCP);
        } else {
          end(conn);
          conn = 0;
          create = true;
        }
      }
      if (conn !== 0) {
        count(CTK_HITS);
        if (flags & CT_NAT) state = natState(state, pkt, conn, reply, related);
      }
    } else if (related) {
      state = CS_INV;
      count(CTK_INV_ICMP);
    }
    if (!create) break;
    if (!validNew(pkt, tuple)) {
      state = CS_INV;
      count(CTK_INV_NEW);
      break;
    }
    state = CS_NEW;
    reply = false;
    if ((flags & (CT_COMMIT | CT_FORCE)) === 0) break;
    conn = commit(pkt, tuple, program, flags, zone);
    if (conn !== EXISTS) {
      if (conn !== 0 && (load<u32>(conn, CN_FLAGS) & (CNF_SNAT | CNF_DNAT)) !== 0) {
        state |= translate(pkt, conn, false, false);
      }
      break;
    }
    // Another worker was faster: its connection is ours.
    count(CTK_RACE);
    conn = 0;
    state = 0;
  }
  writeFields(key, state | CS_TRK, zone, tuple, conn);
  if (conn === 0) {
    forget(key);
    return;
  }
  writeMark(key, conn, program, flags & CT_HAS_MARK);
  writeLabel(key, conn, program, flags & CT_HAS_LABEL);
  if (flags & CT_NAT) forget(key);
  else remember(key, conn, load<u32>(conn, CN_REVISION), reply, related);
  unlock(conn + CN_LOCK);
}

/** Direction of the connection in which lookup() has found the packet to travel. */
let inReply = false;

/** The connection of the packet, locked. A packet that was translated here before is found by what answers it. */
function lookup(tuple: u32, natted: bool): u32 {
  if (!natted) {
    const found = acquire(tuple);
    inReply = found !== 0 && foundReply;
    return found;
  }
  reverseTuple(tuple, tuple);
  const conn = acquire(tuple);
  if (conn === 0) {
    reverseTuple(tuple, tuple);
    inReply = false;
    return 0;
  }
  inReply = !foundReply;
  tupleOf(tuple, conn, inReply);
  return conn;
}

function end(conn: u32): void {
  const revision = load<u32>(conn, CN_REVISION);
  unlock(conn + CN_LOCK);
  flush(conn, revision);
}

/** A packet is translated once in a zone. */
function natState(state: u32, pkt: u32, conn: u32, reply: bool, related: bool): u32 {
  if ((load<u32>(conn, CN_FLAGS) & (CNF_SNAT | CNF_DNAT)) === 0) return state;
  if ((state & NATTED) !== 0) return state;
  return state | translate(pkt, conn, reply, related);
}

function update(conn: u32, pkt: u32, reply: bool): i32 {
  const proto = protoOf(load<u32>(conn, CN_META));
  if (proto === PROTO_TCP) return tcpUpdate(conn, pkt, reply);
  const state: u32 = load<u8>(conn, CN_PEERS);
  if (proto === PROTO_ICMP || proto === PROTO_ICMPV6) {
    const next = reply ? CT_ICMP_REPLY : state;
    store<u8>(conn, <u8>next, CN_PEERS);
    setTimeoutKind(conn, next === CT_ICMP_REPLY ? CT_TM_ICMP_REPLY : CT_TM_ICMP_FIRST);
    return next === CT_ICMP_FIRST ? UPDATE_VALID_NEW : UPDATE_VALID;
  }
  const next = reply ? CT_OTHER_BIDIR : state === CT_OTHER_FIRST ? CT_OTHER_MULTIPLE : state;
  store<u8>(conn, <u8>next, CN_PEERS);
  setTimeoutKind(conn, next === CT_OTHER_BIDIR ? CT_TM_OTHER_BIDIR : CT_TM_OTHER_MULTIPLE);
  return next === CT_OTHER_BIDIR ? UPDATE_VALID : UPDATE_VALID_NEW;
}

/** Whether the packet may begin a connection. */
function validNew(pkt: u32, tuple: u32): bool {
  const proto = protoOf(load<u32>(tuple, TU_META));
  if (proto === PROTO_TCP) return tcpValidNew(pkt);
  if (proto !== PROTO_ICMP && proto !== PROTO_ICMPV6) return true;
  const l4: u32 = load<u16>(pkt + PKT_L4);
  if (l4 >= load<u32>(pkt + PKT_HEAD_LEN)) return false;
  const type: u32 = load<u8>(load<u32>(pkt + PKT_HEAD) + l4);
  return proto === PROTO_ICMP ? type === 8 || type === 13 || type === 15 : type === 128;
}

const EXISTS: u32 = 1;

/** A new connection, locked; 0 = refused, and counted; EXISTS = another worker has just made it. */
function commit(pkt: u32, tuple: u32, program: u32, flags: u32, zone: u32): u32 {
  const zoneAt = CT_ZONES + zone * CT_ZONE_SIZE;
  const own = atomic.load<u32>(zoneAt + CZ_LIMIT);
  const limit = own !== 0 ? own : atomic.load<u32>(CT_CONTROL + CTC_DEFAULT_ZONE_LIMIT);
  if (limit !== 0 && atomic.load<u32>(zoneAt + CZ_COUNT) >= limit - 1) {
    count(CTK_ZONE_FULL);
    return 0;
  }
  if (atomic.load<u32>(CT_CONTROL + CTC_COUNT) >= atomic.load<u32>(CT_CONTROL + CTC_LIMIT)) {
    count(CTK_FULL);
    return 0;
  }
  const conn = allocate();
  if (conn === 0) {
    count(CTK_FULL);
    return 0;
  }
  const translated = (flags & CT_NAT) !== 0 && (flags & (CT_NAT_SRC | CT_NAT_DST)) !== 0;
  const reply = scratch + REPLY_TUPLE;
  if (!translated) reverseTuple(reply, tuple);
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    if (translated && !chooseTranslation(program, flags, tuple, reply)) break;
    fill(conn, tuple, reply, program, translated ? flags : 0);
    begin(conn, pkt);
    const result = insert(conn, tuple, reply, translated);
    if (result === INSERTED) {
      count(CTK_CREATED);
      return conn;
    }
    if (result === ORIGINAL_EXISTS) {
      free(conn);
      return EXISTS;
    }
  }
  free(conn);
  count(CTK_NAT_EXHAUSTED);
  return 0;
}

function fill(conn: u32, tuple: u32, reply: u32, program: u32, flags: u32): void {
  v128.store(conn, v128.load(tuple, TU_SRC), CN_SRC);
  v128.store(conn, v128.load(tuple, TU_DST), CN_DST);
  store<u32>(conn, load<u32>(tuple, TU_PORTS), CN_PORTS);
  store<u32>(conn, load<u32>(tuple, TU_META), CN_META);
  v128.store(conn, v128.load(reply, TU_SRC), CN_REPLY_SRC);
  v128.store(conn, v128.load(reply, TU_DST), CN_REPLY_DST);
  store<u32>(conn, load<u32>(reply, TU_PORTS), CN_REPLY_PORTS);
  store<u32>(conn, flags & CT_NAT_SRC ? CNF_SNAT : flags & CT_NAT_DST ? CNF_DNAT : 0, CN_FLAGS);
  store<u32>(conn, 0, CN_MARK);
  v128.store(conn, i64x2.splat(0), CN_LABEL);
  store<u32>(conn, load<u32>(program, 8), CN_POLICY);
  store<u32>(conn, now, CN_CREATED);
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
