// From a packet to the tuple of its connection, with the checks of Open vSwitch's userspace conntrack: IP and transport
// headers complete, checksums right, no fragment, no port 0. An ICMP error yields the tuple of the packet that it quotes,
// reversed: the error travels against that packet, in the direction of the replies to it (RFC 792, RFC 4443, RFC 5508).
//
// Bytes come from the head alone; a transport header beyond it (behind 200 bytes of extension headers) is invalid.

import {
  CTK_INV_FRAGMENT,
  CTK_INV_L3,
  CTK_INV_L3_CSUM,
  CTK_INV_L4,
  CTK_INV_L4_CSUM,
  CTK_INV_NOT_IP,
  TU_DST,
  TU_FLAGS,
  TU_META,
  TU_PORTS,
  TU_SRC,
} from '../../contract/ct.ts';
import { K_ETH_TYPE, K_NW_FRAG, K_NW_PROTO } from '../../contract/key.ts';
import {
  PKT_HEAD,
  PKT_HEAD_LEN,
  PKT_KEY,
  PKT_L3,
  PKT_L4,
  PKT_LEN,
  PKT_SEG_COUNT,
  PKT_SEGS,
  PKT_VNET_FLAGS,
  VNET_DATA_VALID,
} from '../../contract/packet.ts';
import { fold, sumBytes } from '../port/checksum.ts';
import { ipEnd, isPartial, PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP } from '../rewrite.ts';
import { hashTuple, RELATED, reverseTuple } from './tuple.ts';

const BE_IPV4: u32 = 0x0008;
const BE_IPV6: u32 = 0xdd86;
const META_IPV4: u32 = 0x04000000;
const META_IPV6: u32 = 0x06000000;

/** Where the quoted packet of the last ICMP error begins, and its transport header. */
export let innerIp: u32 = 0;
export let innerL4: u32 = 0;

/** Fills `tuple` (hash included). Returns 0, or the counter CTK_INV_* of what is wrong with the packet. */
export function extract(pkt: u32, zone: u32, tuple: u32): u32 {
  const key = load<u32>(pkt + PKT_KEY);
  const type: u32 = load<u16>(key + K_ETH_TYPE);
  if (type !== BE_IPV4 && type !== BE_IPV6) return CTK_INV_NOT_IP;
  const l3: u32 = load<u16>(pkt + PKT_L3);
  const l4: u32 = load<u16>(pkt + PKT_L4);
  const headBytes = load<u32>(pkt + PKT_HEAD_LEN);
  if (l3 === 0xffff || l4 === 0xffff || l4 > headBytes) return CTK_INV_L3;
  if (load<u8>(key + K_NW_FRAG) !== 0) return CTK_INV_FRAGMENT;
  const head = load<u32>(pkt + PKT_HEAD);
  const ip = head + l3;
  const meta = ((<u32>load<u8>(key + K_NW_PROTO)) << 16) | zone;
  if (type === BE_IPV4) {
    const sum = l4 - l3 === 20 ? sumPlainHeader(ip) : sumBytes(ip, l4 - l3);
    if (fold(sum) !== 0xffff) return CTK_INV_L3_CSUM;
    addresses4(tuple, ip);
    store<u32>(tuple, meta | META_IPV4, TU_META);
  } else {
    addresses6(tuple, ip);
    store<u32>(tuple, meta | META_IPV6, TU_META);
  }
  store<u32>(tuple, 0, TU_PORTS);
  store<u32>(tuple, 0, TU_FLAGS);
  const end = min<u32>(ipEnd(pkt), load<u32>(pkt + PKT_LEN));
  const invalid = transportOf(pkt, tuple, head, l4, end, type === BE_IPV4);
  if (invalid !== 0) return invalid;
  if (load<u32>(tuple, TU_FLAGS) === 0) hashTuple(tuple);
  return 0;
}

/** Sum of an IPv4 header without options. */
function sumPlainHeader(ip: u32): u64 {
  return (
    <u64>load<u32>(ip) +
    <u64>load<u32>(ip, 4) +
    <u64>load<u32>(ip, 8) +
    <u64>load<u32>(ip, 12) +
    <u64>load<u32>(ip, 16)
  );
}

function addresses4(tuple: u32, ip: u32): void {
  v128.store(tuple, v128.load_zero<u32>(ip, 12), TU_SRC);
  v128.store(tuple, v128.load_zero<u32>(ip, 16), TU_DST);
}

function addresses6(tuple: u32, ip: u32): void {
  v128.store(tuple, v128.load(ip, 8), TU_SRC);
  v128.store(tuple, v128.load(ip, 24), TU_DST);
}

/** The transport header of the packet itself: `l4` … `end` are offsets in the frame. */
function transportOf(pkt: u32, tuple: u32, head: u32, l4: u32, end: u32, v4: bool): u32 {
  const proto = (load<u32>(tuple, TU_META) >> 16) & 0xff;
  const at = head + l4;
  const size = end - l4;
  const reach = load<u32>(pkt + PKT_HEAD_LEN) - l4;
  if (proto === PROTO_TCP) {
    if (size < 20 || reach < 20) return CTK_INV_L4;
    const headerBytes = (<u32>(load<u8>(at, 12) >> 4)) << 2;
    if (headerBytes < 20 || headerBytes > size) return CTK_INV_L4;
  } else if (proto === PROTO_UDP) {
    if (size < 8 || reach < 8) return CTK_INV_L4;
    const bytes: u32 = bswap<u16>(load<u16>(at, 4));
    if (bytes < 8 || bytes > size) return CTK_INV_L4;
    if (load<u16>(at, 6) === 0 && v4) return ports(tuple, at);
  } else if (proto === (v4 ? PROTO_ICMP : PROTO_ICMPV6)) {
    if (size < 8 || reach < 8) return CTK_INV_L4;
  } else {
    return 0; // no ports are tracked
  }
  if (!isPartial(pkt) && (load<u8>(pkt + PKT_VNET_FLAGS) & VNET_DATA_VALID) === 0) {
    let sum = <u64>sumRange(pkt, l4, size);
    if (proto !== PROTO_ICMP) {
      sum += v4
        ? sumBytes(head + load<u16>(pkt + PKT_L3) + 12, 8)
        : sumBytes(head + load<u16>(pkt + PKT_L3) + 8, 32);
      // Each widened before it is added: the sum of two u16 is a u16.
      sum += <u64>bswap<u16>(<u16>proto) + <u64>bswap<u16>(<u16>size);
      sum += <u64>bswap<u16>(<u16>(size >> 16));
    }
    if (fold(sum) !== 0xffff) return CTK_INV_L4_CSUM;
  }
  if (proto === PROTO_TCP || proto === PROTO_UDP) return ports(tuple, at);
  return v4
    ? icmp4(tuple, at, min<u32>(size, reach), size)
    : icmp6(tuple, at, min<u32>(size, reach), size);
}

/** Port 0 is invalid. */
function ports(tuple: u32, at: u32): u32 {
  const both = load<u32>(at);
  store<u32>(tuple, both, TU_PORTS);
  return (both & 0xffff) === 0 || both >> 16 === 0 ? CTK_INV_L4 : 0;
}

/** Id and type (contract/ct.ts, CN_PORTS). */
function query(tuple: u32, at: u32): u32 {
  if (load<u8>(at, 1) !== 0) return CTK_INV_L4;
  store<u32>(tuple, <u32>load<u16>(at, 4) | ((<u32>load<u8>(at)) << 16), TU_PORTS);
  return 0;
}

function isQuery4(type: u32): bool {
  return type === 0 || type === 8 || (type >= 13 && type <= 16);
}

/** `reach` bytes of the message are in the head, of `size`. */
function icmp4(tuple: u32, at: u32, reach: u32, size: u32): u32 {
  const type: u32 = load<u8>(at);
  if (isQuery4(type)) return query(tuple, at);
  if (type !== 3 && type !== 4 && type !== 5 && type !== 11 && type !== 12) return CTK_INV_L4;
  const ip = at + 8;
  if (size < 28 || reach < 28) return CTK_INV_L4;
  const headerBytes: u32 = (<u32>load<u8>(ip) & 15) << 2;
  if (headerBytes < 20 || headerBytes + 8 > reach) return CTK_INV_L4;
  if ((load<u16>(ip, 6) & 0xff3f) !== 0) return CTK_INV_FRAGMENT;
  // The error goes to the sender of what it quotes.
  if (load<u32>(ip, 12) !== load<u32>(tuple, TU_DST)) return CTK_INV_L4;
  addresses4(tuple, ip);
  return quoted(tuple, ip, headerBytes, load<u8>(ip, 9), at + reach, 8);
}

function icmp6(tuple: u32, at: u32, reach: u32, size: u32): u32 {
  const type: u32 = load<u8>(at);
  if (type === 128 || type === 129) return query(tuple, at);
  if (type === 0 || type > 4) return CTK_INV_L4;
  const ip = at + 8;
  if (size < 48 || reach < 48) return CTK_INV_L4;
  const same = v128.xor(v128.load(ip, 8), v128.load(tuple, TU_DST));
  if (v128.any_true(same)) return CTK_INV_L4;
  addresses6(tuple, ip);
  // Extension headers of the quoted packet (RFC 8200, section 4).
  const end = at + reach;
  let proto: u32 = load<u8>(ip, 6);
  let next = ip + 40;
  while (proto === 0 || proto === 43 || proto === 44 || proto === 51 || proto === 60) {
    if (next + 8 > end) return CTK_INV_L4;
    if (proto === 44 && (load<u16>(next, 2) & 0xf9ff) !== 0) return CTK_INV_FRAGMENT;
    const units: u32 = load<u8>(next, 1);
    const bytes: u32 = proto === 44 ? 8 : proto === 51 ? (units + 2) << 2 : (units + 1) << 3;
    proto = load<u8>(next);
    next += bytes;
  }
  if (next > end) return CTK_INV_L4;
  return quoted(tuple, ip, next - ip, proto, end, 20);
}

/** Ports of the quoted packet, of which an ICMP error carries 8 bytes at least; then the tuple is reversed. */
function quoted(tuple: u32, ip: u32, headerBytes: u32, proto: u32, end: u32, tcpBytes: u32): u32 {
  const at = ip + headerBytes;
  const v4 = load<u8>(ip) >> 4 === 4;
  const meta = (load<u32>(tuple, TU_META) & 0xff00ffff) | (proto << 16);
  store<u32>(tuple, meta, TU_META);
  let invalid: u32 = 0;
  if (proto === PROTO_TCP || proto === PROTO_UDP) {
    invalid = at + (proto === PROTO_TCP ? tcpBytes : 8) > end ? CTK_INV_L4 : ports(tuple, at);
  } else if (proto === (v4 ? PROTO_ICMP : PROTO_ICMPV6)) {
    if (at + 8 > end) return CTK_INV_L4;
    const type: u32 = load<u8>(at);
    const isQuery = v4 ? isQuery4(type) : type === 128 || type === 129;
    invalid = isQuery ? query(tuple, at) : CTK_INV_L4;
  }
  if (invalid !== 0) return invalid;
  innerIp = ip;
  innerL4 = at;
  store<u32>(tuple, RELATED, TU_FLAGS);
  reverseTuple(tuple, tuple);
  return 0;
}

/** Folded sum of `bytes` bytes of the frame from offset `start`, which is in the head. */
export function sumRange(pkt: u32, start: u32, bytes: u32): u32 {
  const headBytes = min<u32>(load<u32>(pkt + PKT_HEAD_LEN) - start, bytes);
  let sum = sumBytes(load<u32>(pkt + PKT_HEAD) + start, headBytes);
  let left = bytes - headBytes;
  let odd = headBytes & 1;
  const end = pkt + PKT_SEGS + load<u32>(pkt + PKT_SEG_COUNT) * 8;
  for (let segment = pkt + PKT_SEGS; segment < end && left !== 0; segment += 8) {
    const size = min<u32>(load<u32>(segment, 4), left);
    const part = fold(sumBytes(load<u32>(segment), size));
    // A piece that begins at an odd place contributes with its bytes exchanged.
    sum += odd !== 0 ? ((part & 0xff) << 8) | (part >> 8) : part;
    odd ^= size & 1;
    left -= size;
  }
  return fold(sum);
}
