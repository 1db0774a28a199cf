// Rewriting packets of translated connections (NAT, RFC 3022; ICMP errors: RFC 5508), with their checksums.

import {
  CN_DST,
  CN_FLAGS,
  CN_META,
  CN_PORTS,
  CN_REPLY_DST,
  CN_REPLY_PORTS,
  CN_REPLY_SRC,
  CN_SRC,
  CNF_SNAT,
  CS_DNAT,
  CS_SNAT,
} from '../../contract/ct.ts';
import { PKT_HEAD, PKT_HEAD_LEN, PKT_L3, PKT_L4, PKT_MARK } from '../../contract/packet.ts';
import { MARK_REWRITTEN } from '../mark.ts';
import { fold, sumBytes } from '../port/checksum.ts';
import {
  delta32,
  fixChecksum,
  fixPseudoHeader,
  fixTransport,
  ipEnd,
  PROTO_ICMP,
  PROTO_ICMPV6,
  PROTO_TCP,
  PROTO_UDP,
  setWord,
} from '../rewrite.ts';
import { innerIp, innerL4 } from './extract.ts';
import { hasPorts, isV6, protoOf } from './tuple.ts';

/**
 * Translates a packet of a connection, whose direction is `reply`; `related`: an ICMP error about it, just extracted.
 * Returns the bit for ct_state.
 *
 * What goes out in one direction is what comes in in the other, reversed:  source = other direction's destination.
 */
export function translate(pkt: u32, conn: u32, reply: bool, related: bool): u32 {
  store<u32>(pkt + PKT_MARK, load<u32>(pkt + PKT_MARK) | MARK_REWRITTEN);
  const other: u32 = reply ? 0 : 1; // the direction whose tuple says what to write
  const source = ((load<u32>(conn, CN_FLAGS) & CNF_SNAT) !== 0) !== reply;
  const v6 = isV6(load<u32>(conn, CN_META));
  const from = source ? (other ? CN_REPLY_DST : CN_DST) : other ? CN_REPLY_SRC : CN_SRC;
  const ip = load<u32>(pkt + PKT_HEAD) + load<u16>(pkt + PKT_L3);
  writeAddress(pkt, ip, source, conn + from, v6);
  const ports = load<u32>(conn + (other ? CN_REPLY_PORTS : CN_PORTS));
  if (related) translateInner(pkt, conn, source, conn + from, ports, v6);
  else if (hasPorts(load<u32>(conn, CN_META))) writePorts(pkt, conn, rotl<u32>(ports, 16));
  return source ? CS_SNAT : CS_DNAT;
}

function writeAddress(pkt: u32, ip: u32, source: bool, from: u32, v6: bool): void {
  let delta: u32 = 0;
  if (v6) {
    const at = ip + (source ? 8 : 24);
    for (let i: u32 = 0; i < 16; i += 4) delta += setWord(at + i, load<u32>(from + i), ~0);
  } else {
    delta = setWord(ip + (source ? 12 : 16), load<u32>(from), ~0);
    fixChecksum(ip + 10, delta);
  }
  fixPseudoHeader(pkt, delta); // the header is in the head: extract() has seen it
}

function writePorts(pkt: u32, conn: u32, ports: u32): void {
  const l4 = load<u32>(pkt + PKT_HEAD) + load<u16>(pkt + PKT_L4);
  const before = load<u32>(l4);
  if (before === ports) return;
  store<u32>(l4, ports);
  const proto = protoOf(load<u32>(conn, CN_META));
  fixTransport(pkt, l4 + (proto === PROTO_TCP ? 16 : 6), proto, delta32(before, ports));
}

/**
 * The quoted packet travelled against the error: where the outer source is translated, its destination is. The ICMP
 * checksum changes by what the quoted headers have changed.
 */
function translateInner(pkt: u32, conn: u32, source: bool, from: u32, ports: u32, v6: bool): void {
  const head = load<u32>(pkt + PKT_HEAD);
  const end = head + min<u32>(load<u32>(pkt + PKT_HEAD_LEN), ipEnd(pkt));
  const bytes = min<u32>(innerL4 + 20, end) - innerIp;
  const before = fold(sumBytes(innerIp, bytes));
  const proto = protoOf(load<u32>(conn, CN_META));
  let delta: u32 = 0;
  if (v6) {
    const at = innerIp + (source ? 24 : 8);
    for (let i: u32 = 0; i < 16; i += 4) delta += setWord(at + i, load<u32>(from + i), ~0);
  } else {
    delta = setWord(innerIp + (source ? 16 : 12), load<u32>(from), ~0);
    fixChecksum(innerIp + 10, delta);
  }
  if (proto === PROTO_TCP || proto === PROTO_UDP) {
    delta += setWord(innerL4, ports, ~0);
    const field = innerL4 + (proto === PROTO_TCP ? 16 : 6);
    if (field + 2 <= end && (proto === PROTO_TCP || load<u16>(field) !== 0)) {
      fixChecksum(field, delta);
      if (proto === PROTO_UDP && load<u16>(field) === 0) store<u16>(field, 0xffff);
    }
  } else if (proto === PROTO_ICMPV6 && v6 && innerL4 + 4 <= end) {
    fixChecksum(innerL4 + 2, delta);
  }
  const after = fold(sumBytes(innerIp, bytes));
  const l4 = head + load<u16>(pkt + PKT_L4);
  fixTransport(pkt, l4 + 2, v6 ? PROTO_ICMPV6 : PROTO_ICMP, (~before & 0xffff) + after);
}
