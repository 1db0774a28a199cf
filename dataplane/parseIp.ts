// Parse, the part from IP upwards: IPv4 (RFC 791), IPv6 and its extension headers (RFC 8200), TCP, UDP, SCTP, ICMP,
// IGMP, ICMPv6 and neighbour discovery (RFC 4861).
//
// A packet whose IP lengths contradict the frame's keeps its Ethernet fields only. Padding behind the IP packet is
// not part of it. A later fragment has no transport header; a later IPv6 fragment has protocol 44, as in Open vSwitch.

import {
  FRAG_ANY,
  FRAG_LATER,
  K_ARP_SHA,
  K_ARP_THA,
  K_IPV6_DST,
  K_IPV6_LABEL,
  K_IPV6_SRC,
  K_ND_OPTIONS_TYPE,
  K_ND_RESERVED,
  K_ND_TARGET,
  K_NW_FRAG,
  K_NW_PROTO,
  K_NW_SRC,
  K_NW_TOS,
  K_NW_TTL,
  K_TCP_FLAGS,
  K_TP_DST,
  K_TP_SRC,
} from '../contract/key.ts';
import { PKT_HEAD, PKT_HEAD_LEN, PKT_L4, PKT_LEN } from '../contract/packet.ts';
import { LINE1, LINE2, markLines } from './key.ts';

const PROTO_HOPOPTS: u32 = 0;
const PROTO_ICMP: u32 = 1;
const PROTO_IGMP: u32 = 2;
const PROTO_TCP: u32 = 6;
const PROTO_UDP: u32 = 17;
const PROTO_ROUTING: u32 = 43;
const PROTO_FRAGMENT: u32 = 44;
const PROTO_AH: u32 = 51;
const PROTO_ICMPV6: u32 = 58;
const PROTO_DSTOPTS: u32 = 60;
const PROTO_SCTP: u32 = 132;

const ND_SOLICIT: u32 = 135;
const ND_ADVERT: u32 = 136;
const ND_OPT_SOURCE: u32 = 1;
const ND_OPT_TARGET: u32 = 2;

export function parseIpv4(pkt: u32, key: u32, head: u32, at: u32, end: u32, size: i32): void {
  if (size < 20 || at + 20 > end) return;
  const headerLen = (<i32>(load<u8>(at) & 15)) << 2;
  const totalLen = <i32>bswap<u16>(load<u16>(at + 2));
  if (headerLen < 20 || headerLen > totalLen || totalLen > size || size - totalLen > 0xffff) return;
  store<u64>(key + K_NW_SRC, load<u64>(at + 12)); // source and destination
  const proto: u32 = load<u8>(at + 9);
  const offset = load<u16>(at + 6) & 0xff3f; // more-fragments bit and offset, in network order
  let frag: u32 = 0;
  if (offset !== 0) frag = (offset & 0xff1f) !== 0 ? FRAG_ANY | FRAG_LATER : FRAG_ANY;
  store<u8>(key + K_NW_PROTO, <u8>proto);
  store<u8>(key + K_NW_FRAG, <u8>frag);
  store<u8>(key + K_NW_TOS, load<u8>(at + 1));
  store<u8>(key + K_NW_TTL, load<u8>(at + 8));
  at += headerLen;
  store<u16>(pkt + PKT_L4, <u16>(at - head));
  if (frag & FRAG_LATER) return;
  parseTransport(key, at, end, totalLen - headerLen, proto);
}

export function parseIpv6(pkt: u32, key: u32, head: u32, at: u32, end: u32, size: i32): void {
  if (size < 40 || at + 40 > end) return;
  const payload = <i32>bswap<u16>(load<u16>(at + 4));
  if (payload + 40 > size || size - (payload + 40) > 0xffff) return;
  v128.store(key + K_IPV6_SRC, v128.load(at + 8));
  v128.store(key + K_IPV6_DST, v128.load(at + 24));
  markLines(key, LINE1);
  const word = bswap<u32>(load<u32>(at));
  const hopLimit = load<u8>(at + 7);
  let proto: u32 = load<u8>(at + 6);
  let frag: u32 = 0;
  at += 40;
  size = payload;
  // Extension headers. Each has at least 8 bytes, the next protocol first and its length (if any) second.
  while (
    proto === PROTO_HOPOPTS ||
    proto === PROTO_ROUTING ||
    proto === PROTO_DSTOPTS ||
    proto === PROTO_AH ||
    proto === PROTO_FRAGMENT
  ) {
    if (size < 8 || at + 8 > end) return;
    const next: u32 = load<u8>(at);
    let length = 8;
    if (proto === PROTO_AH) length = (<i32>load<u8>(at + 1) + 2) << 2;
    else if (proto !== PROTO_FRAGMENT) length = (<i32>load<u8>(at + 1) + 1) << 3;
    if (length > size) return;
    const offset = bswap<u16>(load<u16>(at + 2));
    const fragment = proto === PROTO_FRAGMENT;
    proto = next;
    at += length;
    size -= length;
    if (fragment && offset !== 0) {
      frag = FRAG_ANY;
      if ((offset & 0xfff8) !== 0) {
        frag |= FRAG_LATER;
        proto = PROTO_FRAGMENT;
        break;
      }
    }
  }
  store<u32>(key + K_IPV6_LABEL, bswap<u32>(word & 0x000fffff));
  store<u8>(key + K_NW_PROTO, <u8>proto);
  store<u8>(key + K_NW_FRAG, <u8>frag);
  store<u8>(key + K_NW_TOS, <u8>(word >> 20));
  store<u8>(key + K_NW_TTL, hopLimit);
  store<u16>(pkt + PKT_L4, at - head < 0xffff ? <u16>(at - head) : 0xffff);
  if (frag & FRAG_LATER) return;
  parseTransport(key, at, end, size, proto);
}

/** TCP flags of a packet of TCP over IPv4 whose header stands at `at`, complete; 0 if the headers lie. */
export function tcpFlagsIpv4(pkt: u32, at: u32): u32 {
  const head = load<u32>(pkt + PKT_HEAD);
  const size = <i32>(load<u32>(pkt + PKT_LEN) - (at - head));
  const headerLen = (<i32>(load<u8>(at) & 15)) << 2;
  const totalLen = <i32>bswap<u16>(load<u16>(at + 2));
  if (headerLen < 20 || headerLen > totalLen || totalLen > size || size - totalLen > 0xffff) {
    return 0;
  }
  return tcpFlags(at + headerLen, head + load<u32>(pkt + PKT_HEAD_LEN), totalLen - headerLen);
}

/** The same over IPv6, without extension headers. The IPv6 header may be cut off. */
export function tcpFlagsIpv6(pkt: u32, at: u32): u32 {
  const head = load<u32>(pkt + PKT_HEAD);
  const end = head + load<u32>(pkt + PKT_HEAD_LEN);
  const size = <i32>(load<u32>(pkt + PKT_LEN) - (at - head));
  const payload = <i32>bswap<u16>(load<u16>(at + 4));
  if (size < 40 || at + 40 > end) return 0;
  if (payload + 40 > size || size - (payload + 40) > 0xffff) return 0;
  return tcpFlags(at + 40, end, payload);
}

function tcpFlags(at: u32, end: u32, size: i32): u32 {
  if (size < 20 || at + 20 > end) return 0;
  const headerLen = (<i32>(load<u8>(at + 12) >> 4)) << 2;
  return headerLen < 20 || headerLen > size ? 0 : load<u16>(at + 12) & 0xff0f;
}

/** `size` bytes of IP payload stand at `at`. */
function parseTransport(key: u32, at: u32, end: u32, size: i32, proto: u32): void {
  if (proto === PROTO_TCP) {
    if (size < 20 || at + 20 > end) return;
    const headerLen = (<i32>(load<u8>(at + 12) >> 4)) << 2;
    if (headerLen < 20 || headerLen > size) return;
    store<u32>(key + K_TP_SRC, load<u32>(at));
    store<u16>(key + K_TCP_FLAGS, load<u16>(at + 12) & 0xff0f);
  } else if (proto === PROTO_UDP) {
    if (size < 8 || at + 8 > end) return;
    store<u32>(key + K_TP_SRC, load<u32>(at));
  } else if (proto === PROTO_SCTP) {
    if (size < 12 || at + 12 > end) return;
    store<u32>(key + K_TP_SRC, load<u32>(at));
  } else if (proto === PROTO_ICMP || proto === PROTO_IGMP) {
    if (size < 8 || at + 8 > end) return;
    storeTypeCode(key, at);
  } else if (proto === PROTO_ICMPV6) {
    if (size < 8 || at + 8 > end) return;
    storeTypeCode(key, at);
    const type: u32 = load<u8>(at);
    if (load<u8>(at + 1) === 0 && (type === ND_SOLICIT || type === ND_ADVERT)) {
      parseNeighbour(key, at, end, size);
    }
  }
}

/** Type and code take the place of the ports, in the low bytes. */
function storeTypeCode(key: u32, at: u32): void {
  store<u8>(key + K_TP_SRC + 1, load<u8>(at));
  store<u8>(key + K_TP_DST + 1, load<u8>(at + 1));
}

/**
 * Neighbour solicitation or advertisement:
 *   | type code checksum | flags 4 | target 16 | option: type, length in 8 bytes, address 6 | …
 * The same link-layer option twice makes target and addresses invalid (zero).
 */
function parseNeighbour(key: u32, at: u32, end: u32, size: i32): void {
  store<u32>(key + K_ND_RESERVED, load<u32>(at + 4));
  markLines(key, LINE2);
  if (size < 24 || at + 24 > end) return;
  v128.store(key + K_ND_TARGET, v128.load(at + 8));
  at += 24;
  size -= 24;
  while (size >= 8 && at + 8 <= end) {
    const type: u32 = load<u8>(at);
    const length = (<i32>load<u8>(at + 1)) << 3;
    if (length === 0 || length > size) return;
    if (length === 8 && (type === ND_OPT_SOURCE || type === ND_OPT_TARGET)) {
      const field = key + (type === ND_OPT_SOURCE ? K_ARP_SHA : K_ARP_THA);
      if ((load<u32>(field) | load<u16>(field + 4)) !== 0) {
        v128.store(key + K_ND_TARGET, i64x2.splat(0));
        memory.fill(key + K_ARP_SHA, 0, 12);
        return;
      }
      store<u32>(field, load<u32>(at + 2));
      store<u16>(field + 4, load<u16>(at + 6));
      if (load<u8>(key + K_ND_OPTIONS_TYPE) === 0) store<u8>(key + K_ND_OPTIONS_TYPE, <u8>type);
    }
    at += length;
    size -= length;
  }
}
