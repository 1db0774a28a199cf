// Network service headers (RFC 8300): parse, set, push and pop. A rare branch of parse.ts and act.ts.
//
//   | version 2, flags 2, TTL 6, length 6 (in words) | 0, type of metadata | next protocol | path 24, index 8 | context … |
//
// The header stands behind an Ethernet header (type 0x894f), or is the first of a packet that has none (K_PACKET_TYPE).
// Only metadata of type 1 (four words) has fields in the key; others are carried along.

import {
  K_ETH_TYPE,
  K_NSH,
  K_NSH_CONTEXT,
  K_NSH_FLAGS,
  K_NSH_MDTYPE,
  K_NSH_NP,
  K_NSH_PATH,
  K_NSH_TTL,
  K_PACKET_TYPE,
} from '../contract/key.ts';
import { PKT_HEAD, PKT_HEAD_LEN, PKT_KEY, PKT_L3, PKT_L4, PKT_LEN } from '../contract/packet.ts';
import {
  ETH_TYPE_NSH,
  NSH_BASE_BYTES,
  NSH_ETHERNET,
  NSH_IPV4,
  NSH_IPV6,
  NSH_MD1_BYTES,
  NSH_NSH,
  PACKET_TYPE_ETHERTYPE,
  PACKET_TYPE_NSH,
} from '../contract/tunnel.ts';
import { LINE2, LINE4, markLines } from './key.ts';
import { grow, refill, shrink } from './tunnel/head.ts';

const NONE: u32 = 0xffff;
const BE_NSH: u32 = 0x4f89;
const ETH_BYTES: u32 = 14;
const ETH_IPV4: u32 = 0x0800;
const ETH_IPV6: u32 = 0x86dd;

/** Bytes of the header at `at`. */
function bytesOf(at: u32): u32 {
  return (<u32>load<u8>(at, 1) & 63) << 2;
}

/** Nothing is stored for a header that is cut short, of another version, or that lies about its length. */
export function parseNsh(key: u32, at: u32, end: u32, size: i32): void {
  if (size < <i32>NSH_BASE_BYTES || at + NSH_BASE_BYTES > end) return;
  const first: u32 = load<u8>(at);
  const bytes = bytesOf(at);
  if (first >> 6 !== 0 || <i32>bytes > size) return;
  const type: u32 = load<u8>(at, 2);
  if (type === 1) {
    if (bytes !== <u32>NSH_MD1_BYTES || at + NSH_MD1_BYTES > end) return;
    v128.store(key + K_NSH_CONTEXT, v128.load(at, 8));
  } else if (type === 2 && bytes < <u32>NSH_BASE_BYTES) return;
  store<u8>(key + K_NSH_FLAGS, <u8>((first >> 4) & 3));
  store<u8>(key + K_NSH_TTL, <u8>(((first & 15) << 2) | (<u32>load<u8>(at, 1) >> 6)));
  store<u8>(key + K_NSH_MDTYPE, <u8>type);
  store<u8>(key + K_NSH_NP, load<u8>(at, 3));
  store<u32>(key + K_NSH_PATH, load<u32>(at, 4));
  markLines(key, LINE4);
}

export function clearNsh(key: u32): void {
  const zero = i64x2.splat(0);
  v128.store(key + K_NSH, zero);
  store<u64>(key + K_NSH + 16, 0);
}

function setPacketType(key: u32, type: u32): void {
  store<u32>(key + K_PACKET_TYPE, bswap<u32>(type));
  store<u16>(key + K_ETH_TYPE, bswap<u16>(<u16>type));
  markLines(key, LINE2);
}

/** The header that `operands` hold, in front of the whole packet. False: there is no room. */
export function pushNsh(pkt: u32, operands: u32): bool {
  const bytes = bytesOf(operands);
  const l4: u32 = load<u16>(pkt + PKT_L4);
  if (bytes < <u32>NSH_BASE_BYTES || !grow(pkt, bytes)) return false;
  memory.copy(load<u32>(pkt + PKT_HEAD), operands, bytes);
  store<u16>(pkt + PKT_L3, 0);
  store<u16>(pkt + PKT_L4, <u16>(l4 === NONE ? NONE : l4 + bytes));
  setPacketType(load<u32>(pkt + PKT_KEY), PACKET_TYPE_NSH);
  return true;
}

/** Address of the packet's header if all of its first `wanted` bytes are in reach, else 0. */
function headerOf(pkt: u32, wanted: u32): u32 {
  const l3: u32 = load<u16>(pkt + PKT_L3);
  if (l3 === NONE || load<u16>(load<u32>(pkt + PKT_KEY) + K_ETH_TYPE) !== BE_NSH) return 0;
  if (l3 + wanted > load<u32>(pkt + PKT_HEAD_LEN)) return 0;
  return load<u32>(pkt + PKT_HEAD) + l3;
}

/** Takes the header off a packet that begins with it. False: it does not, or nobody knows what is inside, or it is no frame. */
export function popNsh(pkt: u32): bool {
  const at = headerOf(pkt, NSH_BASE_BYTES);
  if (at === 0 || load<u16>(pkt + PKT_L3) !== 0) return false;
  const bytes = bytesOf(at);
  if (bytes < <u32>NSH_BASE_BYTES || bytes > load<u32>(pkt + PKT_HEAD_LEN)) return false;
  const next: u32 = load<u8>(at, 3);
  const key = load<u32>(pkt + PKT_KEY);
  if (next === <u32>NSH_ETHERNET) {
    if (load<u32>(pkt + PKT_LEN) - bytes < ETH_BYTES) return false;
    store<u32>(key + K_PACKET_TYPE, 0);
  } else if (next === <u32>NSH_IPV4) setPacketType(key, PACKET_TYPE_ETHERTYPE | ETH_IPV4);
  else if (next === <u32>NSH_IPV6) setPacketType(key, PACKET_TYPE_ETHERTYPE | ETH_IPV6);
  else if (next === <u32>NSH_NSH) setPacketType(key, PACKET_TYPE_ETHERTYPE | ETH_TYPE_NSH);
  else return false;
  shrink(pkt, bytes);
  refill(pkt);
  return true;
}

/** A packet without a sane header stays as it is: its fields are zero in the key, so it may meet such a program. */
export function setNsh(pkt: u32, operands: u32): bool {
  if (load<u16>(load<u32>(pkt + PKT_KEY) + K_ETH_TYPE) !== BE_NSH) return false;
  const at = headerOf(pkt, NSH_BASE_BYTES);
  if (at === 0 || bytesOf(at) < <u32>NSH_BASE_BYTES) return true;
  const mask = operands + 24;
  const value = flagsAndTtl(operands);
  const bits = flagsAndTtl(mask);
  const had: u32 = bswap<u16>(load<u16>(at));
  store<u16>(at, bswap<u16>(<u16>((had & ~bits) | (value & bits))));
  blend(at + 4, operands + 4, mask + 4);
  if (load<u8>(at, 2) !== 1 || headerOf(pkt, NSH_MD1_BYTES) === 0) return true;
  for (let i: u32 = 8; i < <u32>NSH_MD1_BYTES; i += 4) blend(at + i, operands + i, mask + i);
  return true;
}

/** The bits of the header's first two bytes. */
function flagsAndTtl(fields: u32): u32 {
  return ((<u32>load<u8>(fields) & 3) << 12) | ((<u32>load<u8>(fields, 1) & 63) << 6);
}

function blend(at: u32, value: u32, mask: u32): void {
  const bits = load<u32>(mask);
  store<u32>(at, (load<u32>(at) & ~bits) | (load<u32>(value) & bits));
}
