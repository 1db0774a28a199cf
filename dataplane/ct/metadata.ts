// What connection tracking leaves in a packet's key: the fields that tables match on, and behind them, in the key's
// stride where no table looks, the connection itself, for the next ct action on the same packet.

import {
  CN_DST,
  CN_FLAGS,
  CN_LABEL,
  CN_MARK,
  CN_META,
  CN_PARENT_DST,
  CN_PARENT_PORTS,
  CN_PARENT_SRC,
  CN_PORTS,
  CN_SRC,
  CNF_EXPECTED,
  CNF_LABEL,
  TU_DST,
  TU_META,
  TU_PORTS,
  TU_SRC,
} from '../../contract/ct.ts';
import {
  EX_LABEL,
  EX_MARK,
  EX_PARENT_DST,
  EX_PARENT_PORTS,
  EX_PARENT_SRC,
} from '../../contract/ctExpect.ts';
import {
  K_CT_IPV6_DST,
  K_CT_IPV6_SRC,
  K_CT_LABEL,
  K_CT_MARK,
  K_CT_NW_DST,
  K_CT_NW_PROTO,
  K_CT_NW_SRC,
  K_CT_STATE,
  K_CT_TP_SRC,
  K_CT_ZONE,
} from '../../contract/key.ts';
import { KEY_LINES, LINE2, LINE4, markLines } from '../key.ts';
import { PROTO_ICMP, PROTO_ICMPV6 } from '../rewrite.ts';
import { isV6, protoOf } from './tuple.ts';

/** A bit of KEY_LINES above those of the lines: the two words behind it are valid. Cleared with the key. */
const REMEMBERED: u32 = 0x100;
const K_CONNECTION: u32 = KEY_LINES + 8; // u32 address of the record | reply | related << 1
const K_REVISION: u32 = KEY_LINES + 12; // u32

const REPLY: u32 = 1;
const OF_ERROR: u32 = 2;

/** The connection that a ct action of the same zone has found for this packet: address | REPLY | OF_ERROR, 0 = none. */
export function remembered(key: u32, zone: u32): u32 {
  if ((load<u32>(key + KEY_LINES) & REMEMBERED) === 0) return 0;
  const word = load<u32>(key + K_CONNECTION);
  return (load<u32>(word & ~3, CN_META) & 0xffff) === zone ? word : 0;
}

export function rememberedRevision(key: u32): u32 {
  return load<u32>(key + K_REVISION);
}

export function remember(key: u32, conn: u32, revision: u32, reply: bool, related: bool): void {
  store<u32>(key + K_CONNECTION, conn | (reply ? REPLY : 0) | (related ? OF_ERROR : 0));
  store<u32>(key + K_REVISION, revision);
  store<u32>(key + KEY_LINES, load<u32>(key + KEY_LINES) | REMEMBERED);
}

export function forget(key: u32): void {
  store<u32>(key + KEY_LINES, load<u32>(key + KEY_LINES) & ~REMEMBERED);
}

/** ct_clear: the packet is as if it had never been tracked. */
export function clearFields(key: u32): void {
  store<u32>(key + K_CT_STATE, 0);
  store<u16>(key + K_CT_ZONE, 0);
  store<u32>(key + K_CT_MARK, 0);
  v128.store(key + K_CT_LABEL, i64x2.splat(0));
  v128.store(key + K_CT_NW_SRC, i64x2.splat(0));
  clearOriginal6(key);
  forget(key);
}

function clearOriginal6(key: u32): void {
  if ((load<u32>(key + KEY_LINES) & LINE4) === 0) return;
  v128.store(key + K_CT_IPV6_SRC, i64x2.splat(0));
  v128.store(key + K_CT_IPV6_DST, i64x2.splat(0));
}

/**
 * State, zone, and the original tuple: that of the connection, of the packet (`tuple`) if it has none, nothing if
 * neither is known (both 0). Mark and label are zero until written.
 */
export function writeFields(key: u32, state: u32, zone: u32, tuple: u32, conn: u32): void {
  store<u32>(key + K_CT_STATE, bswap<u32>(state));
  store<u16>(key + K_CT_ZONE, bswap<u16>(<u16>zone));
  store<u32>(key + K_CT_MARK, 0);
  v128.store(key + K_CT_LABEL, i64x2.splat(0));
  if (conn !== 0 && (load<u32>(conn, CN_FLAGS) & CNF_EXPECTED) !== 0) {
    const ports = load<u32>(conn, CN_PARENT_PORTS);
    const meta = load<u32>(conn, CN_META);
    writeOriginal(key, meta, conn + CN_PARENT_SRC, conn + CN_PARENT_DST, ports);
  } else if (conn !== 0) {
    const ports = load<u32>(conn, CN_PORTS);
    writeOriginal(key, load<u32>(conn, CN_META), conn + CN_SRC, conn + CN_DST, ports);
  } else if (tuple !== 0) {
    const ports = load<u32>(tuple, TU_PORTS);
    writeOriginal(key, load<u32>(tuple, TU_META), tuple + TU_SRC, tuple + TU_DST, ports);
  } else {
    v128.store(key + K_CT_NW_SRC, i64x2.splat(0));
    clearOriginal6(key);
  }
}

/** A packet that would begin an expected connection has what the connection would inherit. */
export function writeExpected(key: u32, expected: u32): void {
  store<u32>(key + K_CT_MARK, load<u32>(expected, EX_MARK));
  v128.store(key + K_CT_LABEL, v128.load(expected, EX_LABEL));
  const ports = load<u32>(expected, EX_PARENT_PORTS);
  const source = expected + EX_PARENT_SRC;
  writeOriginal(key, load<u32>(expected, TU_META), source, expected + EX_PARENT_DST, ports);
}

/** ICMP has type and code in the place of the ports. */
function writeOriginal(key: u32, meta: u32, source: u32, destination: u32, ports: u32): void {
  const proto = protoOf(meta);
  const v6 = isV6(meta);
  if (proto === (v6 ? PROTO_ICMPV6 : PROTO_ICMP)) {
    ports = (((ports >> 16) & 0xff) << 8) | (ports & 0xff000000);
  }
  store<u32>(key + K_CT_TP_SRC, ports);
  store<u32>(key + K_CT_NW_PROTO, proto);
  if (v6) {
    store<u64>(key + K_CT_NW_SRC, 0);
    v128.store(key + K_CT_IPV6_SRC, v128.load(source));
    v128.store(key + K_CT_IPV6_DST, v128.load(destination));
    markLines(key, LINE2 | LINE4);
  } else {
    store<u32>(key + K_CT_NW_SRC, load<u32>(source));
    store<u32>(key + K_CT_NW_DST, load<u32>(destination));
    clearOriginal6(key);
    markLines(key, LINE2);
  }
}

/**
 * ct_mark of the connection to the packet, after the action's own mark (words 4 and 5) went to both. Expected connections
 * keep what they have inherited.
 */
export function writeMark(key: u32, conn: u32, program: u32, set: u32): void {
  let mark = load<u32>(conn, CN_MARK);
  if (set !== 0 && (load<u32>(conn, CN_FLAGS) & CNF_EXPECTED) === 0) {
    const mask = load<u32>(program, 16);
    mark = (mark & ~mask) | (load<u32>(program, 12) & mask);
    store<u32>(conn, mark, CN_MARK);
  }
  store<u32>(key + K_CT_MARK, mark);
}

/** The same for ct_label (words 6 to 13). Its line of the record is not touched if there is nothing in it. */
export function writeLabel(key: u32, conn: u32, program: u32, set: u32): void {
  const flags = load<u32>(conn, CN_FLAGS);
  if (set === 0 && (flags & CNF_LABEL) === 0) {
    v128.store(key + K_CT_LABEL, i64x2.splat(0));
    return;
  }
  let label = v128.load(conn, CN_LABEL);
  if (set !== 0 && (flags & CNF_EXPECTED) === 0) {
    label = v128.bitselect(v128.load(program, 20), label, v128.load(program, 36));
    v128.store(conn, label, CN_LABEL);
    store<u32>(conn, flags | CNF_LABEL, CN_FLAGS);
  }
  v128.store(key + K_CT_LABEL, label);
  markLines(key, LINE2);
}

/** What tracking has said about one packet, for another one with the same headers: fields and remembered connection. */
export function copyTracking(key: u32, from: u32): void {
  store<u32>(key + K_CT_STATE, load<u32>(from + K_CT_STATE));
  store<u16>(key + K_CT_ZONE, load<u16>(from + K_CT_ZONE));
  store<u32>(key + K_CT_MARK, load<u32>(from + K_CT_MARK));
  v128.store(key + K_CT_LABEL, v128.load(from + K_CT_LABEL));
  v128.store(key + K_CT_NW_SRC, v128.load(from + K_CT_NW_SRC));
  v128.store(key + K_CT_IPV6_SRC, v128.load(from + K_CT_IPV6_SRC));
  v128.store(key + K_CT_IPV6_DST, v128.load(from + K_CT_IPV6_DST));
  store<u64>(key + K_CONNECTION, load<u64>(from + K_CONNECTION));
  const lines = load<u32>(from + KEY_LINES) & (LINE2 | LINE4 | REMEMBERED);
  store<u32>(key + KEY_LINES, (load<u32>(key + KEY_LINES) & ~REMEMBERED) | lines);
}
