// One packet through the connection table: find or make its connection, advance the connection's state, translate, and
// write what tables may match on into the packet's key. The order of the steps, and what each case leaves in ct_state,
// is that of Open vSwitch's userspace conntrack.

import { CT_COMMIT, CT_FORCE, CT_HAS_LABEL, CT_HAS_MARK, CT_NAT } from '../../contract/action.ts';
import {
  CN_FLAGS,
  CN_LOCK,
  CN_META,
  CN_PEERS,
  CN_REVISION,
  CNF_ADJUST,
  CNF_DNAT,
  CNF_EXPECTED,
  CNF_FTP,
  CNF_SNAT,
  CNF_TFTP,
  CS_DNAT,
  CS_EST,
  CS_INV,
  CS_NEW,
  CS_REL,
  CS_RPL,
  CS_SNAT,
  CS_TRK,
  CT_ICMP_FIRST,
  CT_ICMP_REPLY,
  CT_OTHER_BIDIR,
  CT_OTHER_FIRST,
  CT_OTHER_MULTIPLE,
  CT_TM_ICMP_FIRST,
  CT_TM_ICMP_REPLY,
  CT_TM_OTHER_BIDIR,
  CT_TM_OTHER_MULTIPLE,
  CTK_HITS,
  CTK_INV_ICMP,
  CTK_INV_NEW,
  CTK_INV_TCP,
  CTK_RACE,
  TU_FLAGS,
  TU_META,
} from '../../contract/ct.ts';
import { K_CT_STATE, K_CT_ZONE } from '../../contract/key.ts';
import { PKT_HEAD, PKT_HEAD_LEN, PKT_KEY, PKT_L4 } from '../../contract/packet.ts';
import { PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP } from '../rewrite.ts';
import { adjustAcknowledgement, adjustSequence } from './adjust.ts';
import { ATTEMPTS, commit, EXISTS } from './begin.ts';
import { expectationOf } from './expect.ts';
import { help, helperOf } from './helper.ts';
import { count, unlock } from './lock.ts';
import { forget, remember, writeExpected, writeFields, writeLabel, writeMark } from './metadata.ts';
import { acquire, acquireRecord, flush, foundReply } from './table.ts';
import { tcpUpdate, tcpValidNew } from './tcp.ts';
import { setTimeoutKind, UPDATE_INVALID, UPDATE_VALID, UPDATE_VALID_NEW } from './timeout.ts';
import { translate } from './translate.ts';
import { protoOf, RELATED, reverseTuple, tupleOf } from './tuple.ts';

const NATTED = CS_SNAT | CS_DNAT;

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
  // A helper reads each packet each time.
  if ((load<u32>(conn, CN_FLAGS) & (CNF_FTP | CNF_TFTP)) !== 0) {
    unlock(conn + CN_LOCK);
    return false;
  }
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
  let expected: u32 = 0;
  let helper: u32 = 0;
  let seq: u32 = 0;
  // Numbers are adjusted once in a zone, with the translation.
  const adjusts = (flags & CT_NAT) !== 0 && !related && (state & NATTED) === 0;
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
        const own = load<u32>(conn, CN_FLAGS);
        if ((own & CNF_EXPECTED) !== 0) state |= CS_REL;
        if ((own & (CNF_FTP | CNF_TFTP)) !== 0) {
          helper = helperOf(conn, pkt, flags);
          seq = sequenceOf(pkt);
          if (adjusts && (own & CNF_ADJUST) !== 0) adjustAcknowledgement(pkt, conn, reply);
        }
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
          helper = 0;
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
    expected = expectationOf(tuple);
    state = CS_NEW | (expected !== 0 ? CS_REL : 0);
    reply = false;
    if ((flags & (CT_COMMIT | CT_FORCE)) === 0) break;
    conn = commit(pkt, tuple, program, flags, zone, expected);
    if (conn !== EXISTS) {
      if (conn === 0) break;
      const own = load<u32>(conn, CN_FLAGS);
      if ((own & (CNF_FTP | CNF_TFTP)) !== 0) helper = helperOf(conn, pkt, flags);
      if ((own & (CNF_SNAT | CNF_DNAT)) !== 0) state |= translate(pkt, conn, false, false);
      break;
    }
    // Another worker was faster: its connection is ours.
    count(CTK_RACE);
    conn = 0;
    state = 0;
    expected = 0;
  }
  writeFields(key, state | CS_TRK, zone, tuple, conn);
  if (conn === 0) {
    if (expected !== 0) writeExpected(key, expected);
    forget(key);
    return;
  }
  writeMark(key, conn, program, flags & CT_HAS_MARK);
  writeLabel(key, conn, program, flags & CT_HAS_LABEL);
  if (helper !== 0 && (state & CS_INV) === 0) {
    const good = help(pkt, conn, reply, helper, seq, (flags & CT_NAT) !== 0);
    if (!good) store<u32>(key + K_CT_STATE, bswap<u32>(state | CS_TRK | CS_INV));
  }
  if (adjusts && (load<u32>(conn, CN_FLAGS) & CNF_ADJUST) !== 0) {
    adjustSequence(pkt, conn, reply);
  }
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

/** The TCP sequence number as its sender wrote it; of other packets it means nothing. */
function sequenceOf(pkt: u32): u32 {
  const l4 = load<u32>(pkt + PKT_HEAD) + load<u16>(pkt + PKT_L4);
  return bswap<u32>(load<u32>(l4, 4));
}
