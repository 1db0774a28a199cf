// The set actions (contract/action.ts): each rewrites one header of one packet in its head buffer.
//
// A header that is cut short is left as it is, as Open vSwitch does: its fields are zero in the key, so the packet can
// meet a program made for one whose fields are zero. False, which the caller drops as DROP_BAD_ACTION: the packet is of
// another type (translation matches on the type before it sets a field, so that is no translated program), or the
// header lies behind the head, out of reach.
//
// `program` points to the action's first word after its header.

import { K_ETH_TYPE, K_NW_PROTO } from '../contract/key.ts';
import {
  PKT_CSUM_START,
  PKT_HEAD,
  PKT_HEAD_LEN,
  PKT_HEADROOM,
  PKT_KEY,
  PKT_L3,
  PKT_L4,
  PKT_LEN,
  PKT_VNET_FLAGS,
  VNET_NEEDS_CSUM,
} from '../contract/packet.ts';
import {
  crcChange,
  delta32,
  fixChecksum,
  fixPseudoHeader,
  fixTransport,
  ipEnd,
  isIpv6,
  PROTO_ICMP,
  PROTO_ICMPV6,
  PROTO_SCTP,
  PROTO_TCP,
  PROTO_UDP,
  setPlain,
  setWord,
  TOO_FAR,
  transport,
} from './rewrite.ts';

const BE_IPV4: u32 = 0x0008;
const BE_IPV6: u32 = 0xdd86;

/** Type of the packet, in network order. */
function ethType(pkt: u32): u32 {
  return load<u16>(load<u32>(pkt + PKT_KEY) + K_ETH_TYPE);
}

/** Address of the L3 header if the packet has `bytes` of it; 0 if not; TOO_FAR. */
function network(pkt: u32, bytes: u32): u32 {
  const offset: u32 = load<u16>(pkt + PKT_L3);
  if (offset === 0xffff || offset + bytes > load<u32>(pkt + PKT_LEN)) return 0;
  if (offset + bytes > load<u32>(pkt + PKT_HEAD_LEN)) return TOO_FAR;
  return load<u32>(pkt + PKT_HEAD) + offset;
}

function proto(pkt: u32): u32 {
  return load<u8>(load<u32>(pkt + PKT_KEY) + K_NW_PROTO);
}

export function setEth(pkt: u32, program: u32): bool {
  if (load<u32>(pkt + PKT_HEAD_LEN) < 14) return false;
  const head = load<u32>(pkt + PKT_HEAD);
  for (let i: u32 = 0; i < 12; i += 4) {
    setPlain(head + i, load<u32>(program + i), load<u32>(program + i, 12));
  }
  return true;
}

export function setIpv4(pkt: u32, program: u32): bool {
  if (ethType(pkt) !== BE_IPV4) return false;
  // A packet whose IP header is not sane has no L4 offset.
  if (load<u16>(pkt + PKT_L4) === 0xffff) return true;
  const ip = network(pkt, 20);
  if (ip <= TOO_FAR) return ip === 0;
  const addresses =
    setWord(ip + 12, load<u32>(program), load<u32>(program, 12)) +
    setWord(ip + 16, load<u32>(program, 4), load<u32>(program, 16));
  const touched = (load<u32>(program, 12) | load<u32>(program, 16)) !== 0;
  if (touched && !fixPseudoHeader(pkt, addresses)) return false;
  // tos is byte 1 of the header, ttl byte 8
  const value = load<u32>(program, 8);
  const mask = load<u32>(program, 20);
  const others =
    setWord(ip, (value & 0xff) << 8, (mask & 0xff) << 8) +
    setWord(ip + 8, (value >> 8) & 0xff, (mask >> 8) & 0xff);
  fixChecksum(ip + 10, addresses + others);
  return true;
}

export function setIpv6(pkt: u32, program: u32): bool {
  if (ethType(pkt) !== BE_IPV6) return false;
  const ip = network(pkt, 40);
  if (ip <= TOO_FAR) return ip === 0;
  let source: u32 = 0;
  let destination: u32 = 0;
  let touched: u32 = 0;
  for (let i: u32 = 0; i < 16; i += 4) {
    source += setWord(ip + 8 + i, load<u32>(program + i), load<u32>(program + i, 40));
    destination += setWord(ip + 24 + i, load<u32>(program + i, 16), load<u32>(program + i, 56));
    touched |= load<u32>(program + i, 40) | load<u32>(program + i, 56);
  }
  if (touched !== 0) {
    const covered = hasRouting(pkt, ip) ? source : source + destination;
    if (!fixPseudoHeader(pkt, covered)) return false;
  }
  // | version 4 | traffic class 8 | flow label 20 |
  const value = load<u32>(program, 36);
  const mask = load<u32>(program, 76);
  const labelMask = load<u32>(program, 72) & bswap<u32>(0x000fffff);
  setPlain(ip, load<u32>(program, 32), labelMask);
  setPlain(ip, bswap<u32>((value & 0xff) << 20), bswap<u32>((mask & 0xff) << 20));
  setPlain(ip + 4, ((value >> 8) & 0xff) << 24, ((mask >> 8) & 0xff) << 24);
  return true;
}

/** With segments left in a routing header, the checksum covers the final destination, not the one in the header. */
function hasRouting(pkt: u32, ip: u32): bool {
  const l4: u32 = load<u16>(pkt + PKT_L4);
  if (l4 === 0xffff) return false;
  const head = load<u32>(pkt + PKT_HEAD);
  const end = head + min<u32>(l4, load<u32>(pkt + PKT_HEAD_LEN));
  let next: u32 = load<u8>(ip + 6);
  let at = ip + 40;
  while (at + 8 <= end) {
    if (next === 43 && load<u8>(at + 3) !== 0) return true;
    const units: u32 = load<u8>(at + 1);
    const length = next === 51 ? (units + 2) << 2 : next === 44 ? 8 : (units + 1) << 3;
    next = load<u8>(at);
    at += length;
  }
  return false;
}

export function setTransport(pkt: u32, program: u32): bool {
  const value = load<u32>(program);
  const mask = load<u32>(program, 4);
  const protocol = proto(pkt);
  if (protocol === PROTO_TCP) {
    const l4 = transport(pkt, 20);
    if (l4 <= TOO_FAR) return l4 === 0;
    const length = (<u32>(load<u8>(l4, 12) >> 4)) << 2;
    if (length < 20 || load<u16>(pkt + PKT_L4) + length > ipEnd(pkt)) return true;
    fixTransport(pkt, l4 + 16, protocol, setWord(l4, value, mask));
  } else if (protocol === PROTO_UDP) {
    const l4 = transport(pkt, 8);
    if (l4 <= TOO_FAR) return l4 === 0;
    fixTransport(pkt, l4 + 6, protocol, setWord(l4, value, mask));
  } else if (protocol === PROTO_SCTP) {
    const l4 = transport(pkt, 12);
    if (l4 <= TOO_FAR) return l4 === 0;
    const before = load<u32>(l4);
    setPlain(l4, value, mask);
    const length = ipEnd(pkt) - load<u16>(pkt + PKT_L4);
    store<u32>(l4 + 8, load<u32>(l4 + 8) ^ crcChange(before ^ load<u32>(l4), length));
  } else if (protocol === PROTO_ICMP || protocol === PROTO_ICMPV6) {
    const l4 = transport(pkt, 8);
    if (l4 <= TOO_FAR) return l4 === 0;
    if (isIpv6(pkt) !== (protocol === PROTO_ICMPV6)) return false;
    // type and code are the low bytes of the two 16-bit fields of the key, adjacent bytes in the packet
    const typeCode = ((value >> 8) & 0xff) | ((value >> 16) & 0xff00);
    const typeCodeMask = ((mask >> 8) & 0xff) | ((mask >> 16) & 0xff00);
    const before: u32 = load<u16>(l4);
    const after = (before & ~typeCodeMask) | (typeCode & typeCodeMask);
    store<u16>(l4, <u16>after);
    fixTransport(pkt, l4 + 2, protocol, delta32(before, after));
  } else {
    return false;
  }
  return true;
}

export function setArp(pkt: u32, program: u32): bool {
  const type = ethType(pkt);
  if (type !== 0x0608 && type !== 0x3580) return false;
  const arp = network(pkt, 28);
  if (arp <= TOO_FAR) return arp === 0;
  setPlain(arp + 14, load<u32>(program), load<u32>(program, 24));
  setPlain(arp + 24, load<u32>(program, 4), load<u32>(program, 28));
  // sha at 8, tha at 18: six bytes each
  setPlain(arp + 8, load<u32>(program, 8), load<u32>(program, 32));
  setHalf(arp + 12, load<u16>(program, 12), load<u16>(program, 36));
  setPlain(arp + 18, load<u32>(program, 14), load<u32>(program, 38));
  setHalf(arp + 22, load<u16>(program, 18), load<u16>(program, 42));
  setHalf(arp + 6, load<u16>(program, 20), load<u16>(program, 44));
  return true;
}

function setHalf(at: u32, value: u32, mask: u32): u32 {
  const before: u32 = load<u16>(at);
  const after = (before & ~mask) | (value & mask);
  store<u16>(at, <u16>after);
  return delta32(before, after);
}

export function setNeighbour(pkt: u32, program: u32): bool {
  if (proto(pkt) !== PROTO_ICMPV6) return false;
  const nd = transport(pkt, 24);
  if (nd <= TOO_FAR) return nd === 0;
  const end = load<u32>(pkt + PKT_HEAD) + min<u32>(load<u32>(pkt + PKT_HEAD_LEN), ipEnd(pkt));
  let delta: u32 = 0;
  for (let i: u32 = 0; i < 16; i += 4) {
    delta += setWord(nd + 8 + i, load<u32>(program + i), load<u32>(program + i, 28));
  }
  let at = nd + 24;
  while (at + 8 <= end) {
    const type = load<u8>(at);
    const units: u32 = load<u8>(at + 1);
    if (units === 0) break;
    if (units === 1 && (type === 1 || type === 2)) {
      const from = program + (type === 1 ? 16 : 22);
      delta += setWord(at + 2, load<u32>(from), load<u32>(from, 28));
      delta += setHalf(at + 6, load<u16>(from, 4), load<u16>(from, 32));
    }
    at += units << 3;
  }
  fixTransport(pkt, nd + 2, PROTO_ICMPV6, delta);
  return true;
}

/** Inserts a tag behind the addresses: the head grows to the front. */
export function pushVlan(pkt: u32, tag: u32): bool {
  const head = load<u32>(pkt + PKT_HEAD) - 4;
  if (head < pkt + PKT_HEADROOM || load<u32>(pkt + PKT_HEAD_LEN) < 14) return false;
  const low = load<u64>(head, 4);
  const high = load<u32>(head, 12);
  store<u64>(head, low);
  store<u32>(head, high, 8);
  store<u16>(head, bswap<u16>(<u16>tag), 12);
  store<u16>(head, bswap<u16>(<u16>(tag >> 16)), 14);
  moveHead(pkt, head, 4);
  return true;
}

/** Removes the outermost tag; a packet without one stays as it is. */
export function popVlan(pkt: u32): bool {
  const head = load<u32>(pkt + PKT_HEAD);
  if (!isTagged(pkt, head)) return true;
  const low = load<u64>(head);
  const high = load<u32>(head, 8);
  store<u64>(head, low, 4);
  store<u32>(head, high, 12);
  moveHead(pkt, head + 4, -4);
  return true;
}

export function setVlan(pkt: u32, valueAndMask: u32): bool {
  const head = load<u32>(pkt + PKT_HEAD);
  if (!isTagged(pkt, head)) return false;
  const mask = valueAndMask >> 16;
  const tci: u32 = bswap<u16>(load<u16>(head, 14));
  store<u16>(head, bswap<u16>(<u16>((tci & ~mask) | (valueAndMask & mask))), 14);
  return true;
}

function isTagged(pkt: u32, head: u32): bool {
  if (load<u32>(pkt + PKT_HEAD_LEN) < 18) return false;
  const tpid = load<u16>(head, 12);
  return tpid === 0x0081 || tpid === 0xa888;
}

/** Everything that counts from the start of the frame moves with it. */
function moveHead(pkt: u32, head: u32, by: i32): void {
  store<u32>(pkt + PKT_HEAD, head);
  store<u32>(pkt + PKT_HEAD_LEN, load<u32>(pkt + PKT_HEAD_LEN) + by);
  store<u32>(pkt + PKT_LEN, load<u32>(pkt + PKT_LEN) + by);
  const l3: u32 = load<u16>(pkt + PKT_L3);
  if (l3 !== 0xffff) store<u16>(pkt + PKT_L3, <u16>(l3 + by));
  const l4: u32 = load<u16>(pkt + PKT_L4);
  if (l4 !== 0xffff) store<u16>(pkt + PKT_L4, <u16>(l4 + by));
  if (load<u8>(pkt + PKT_VNET_FLAGS) & VNET_NEEDS_CSUM) {
    store<u16>(pkt + PKT_CSUM_START, load<u16>(pkt + PKT_CSUM_START) + <u16>by);
  }
}
