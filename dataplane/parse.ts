// Parse: packet record to flow key (contract/key.ts). Second stage of a packet's way.
//
// The semantics are those of Open vSwitch, bit for bit, because OpenFlow rules are written against them: what counts
// as a VLAN, when an IP header that lies about its length makes the packet "an Ethernet frame of type IP, nothing
// more", which ICMPv6 messages have neighbour discovery fields. test/oracle/parse.ts says the same slowly.
//
// Lengths are those of the frame; bytes are read only from the head (PKT_HEAD_COPY), so a header that lies beyond it
// (behind 200 bytes of IPv6 extension headers, say) is treated as absent.
//
//   | dst 6 | src 6 | [tpid tci] x 0…2 | type 2 | [LLC/SNAP 8] | [MPLS 4 x n] | L3, or NSH (nsh.ts) | L4
//
// Ethernet: IEEE 802.3; VLAN: 802.1Q, 802.1ad; IPv4: RFC 791; ARP: RFC 826; IPv6: RFC 8200; ND: RFC 4861.

import {
  ETH_TYPE_NONE,
  K_ARP_SHA,
  K_ARP_THA,
  K_CT_STATE,
  K_ETH_DST,
  K_ETH_TYPE,
  K_IN_PORT,
  K_MPLS_COUNT,
  K_MPLS_LSE,
  K_ND_RESERVED,
  K_NW_DST,
  K_NW_PROTO,
  K_NW_SRC,
  K_NW_TOS,
  K_PACKET_TYPE,
  K_VLAN0_TCI,
  K_VLAN1_TCI,
} from '../contract/key.ts';
import { CONTROL_BASE, CTL_VLAN_LIMIT } from '../contract/memory.ts';
import {
  PKT_HEAD,
  PKT_HEAD_LEN,
  PKT_IN_PORT,
  PKT_KEY,
  PKT_L3,
  PKT_LEN,
  PKT_SIZE,
} from '../contract/packet.ts';
import {
  clearLine,
  KEY_LINES,
  LINE1,
  LINE2,
  LINE3,
  LINE4,
  LINE5,
  LINE6,
  markLines,
} from './key.ts';
import { clearNsh, parseNsh } from './nsh.ts';
import { parseIpv4, parseIpv6 } from './parseIp.ts';
import { deepen } from './port/receive.ts';

// Ethernet types as a little-endian load sees them.
const BE_IPV4: u32 = 0x0008;
const BE_IPV6: u32 = 0xdd86;
const BE_ARP: u32 = 0x0608;
const BE_RARP: u32 = 0x3580;
const BE_VLAN: u32 = 0x0081;
const BE_QINQ: u32 = 0xa888;
const BE_MPLS: u32 = 0x4788;
const BE_MPLS_MULTICAST: u32 = 0x4888;
const BE_NSH: u32 = 0x4f89;

export const NOT_PLAIN: u32 = 0xffffffff;

/** Parses `n` packets of a burst whose keys are to be made from nothing. */
export function parseBurst(first: u32, n: i32): void {
  for (let i = 0; i < n; i++) parseOne(first + i * PKT_SIZE);
}

/** Parses one packet whose key is to be made from nothing. */
export function parseOne(pkt: u32): void {
  deepen(pkt);
  const key = load<u32>(pkt + PKT_KEY);
  if (parsePlain(pkt, key)) return;
  clearKey(key);
  store<u32>(key + K_IN_PORT, bswap<u32>(load<u32>(pkt + PKT_IN_PORT)));
  parse(pkt, key);
}

/**
 * Is it plain: TCP or UDP over IPv4 without tags, options and fragments, with headers that do not lie? The TCP flags, as they
 * stand in the packet, 0 for UDP; NOT_PLAIN for all others.
 */
export function plainFlags(pkt: u32, head: u32): u32 {
  // Type 0x0800, version 4, a header of 20 bytes.
  if ((load<u32>(head, 12) & 0xffffff) !== 0x450008) return NOT_PLAIN;
  if ((load<u16>(head, 20) & 0xff3f) !== 0) return NOT_PLAIN;
  const proto: u32 = load<u8>(head, 23);
  const headBytes = load<u32>(pkt + PKT_HEAD_LEN);
  const total: u32 = bswap<u16>(load<u16>(head, 16));
  // What the frame has behind the IP packet; much, if the packet claims to be longer.
  const padding = load<u32>(pkt + PKT_LEN) - 14 - total;
  if (proto === 17) {
    return headBytes < 42 || total < 28 || padding > 0xffff ? NOT_PLAIN : 0;
  }
  if (proto !== 6 || headBytes < 54 || total < 40 || padding > 0xffff) return NOT_PLAIN;
  const tcpBytes = (<u32>(load<u8>(head, 46) >> 4)) << 2;
  return tcpBytes < 20 || tcpBytes > total - 20 ? NOT_PLAIN : load<u16>(head, 46) & 0xff0f;
}

/**
 * The key's first line in eight stores, of whole words, for the line is loaded in words and longer. False: the packet is not
 * plain; nothing has been done.
 */
function parsePlain(pkt: u32, key: u32): bool {
  const head = load<u32>(pkt + PKT_HEAD);
  const plain = plainFlags(pkt, head);
  if (plain === NOT_PLAIN) return false;
  const flags: u64 = plain;
  const ethernet = load<u64>(head, 8);
  const proto: u64 = load<u8>(head, 23);
  if (load<u32>(key + KEY_LINES) !== 0) clearKey(key);
  const tos: u64 = load<u8>(head, 15);
  const ttl: u64 = load<u8>(head, 22);
  store<u64>(key, bswap<u32>(load<u32>(pkt + PKT_IN_PORT)), K_IN_PORT);
  store<u64>(key, load<u64>(head), K_ETH_DST);
  store<u64>(key, ethernet & 0xffffffffffff, K_ETH_DST + 8);
  store<u64>(key, proto << 48, K_ETH_DST + 16);
  store<u64>(key, tos | (ttl << 8) | ((<u64>load<u32>(head, 34)) << 16) | (flags << 48), K_NW_TOS);
  store<u64>(key, load<u64>(head, 26), K_NW_SRC);
  store<u64>(key, 0, K_CT_STATE);
  store<u64>(key, 0, K_CT_STATE + 8);
  store<u32>(pkt, 14 | (34 << 16), PKT_L3); // and PKT_L4
  return true;
}

/** Parses a packet again, after its headers changed: what the packet carries anew, metadata stays. */
export function parseAgain(pkt: u32): void {
  const key = load<u32>(pkt + PKT_KEY);
  clearHeaders(key);
  parse(pkt, key);
}

/**
 * Parses a packet that is another one now (it has got outer headers): nothing of its key stays, it is as if it had come in by
 * `port`.
 */
export function parseFresh(pkt: u32, port: u32): void {
  const key = load<u32>(pkt + PKT_KEY);
  clearKey(key);
  store<u32>(key + K_IN_PORT, bswap<u32>(port));
  parse(pkt, key);
}

export function clearKey(key: u32): void {
  clearLine(key);
  const lines = load<u32>(key + KEY_LINES);
  if (lines === 0) return;
  if (lines & LINE1) clearLine(key + 64);
  if (lines & LINE2) clearLine(key + 128);
  if (lines & LINE3) clearLine(key + 192);
  if (lines & LINE4) clearLine(key + 256);
  if (lines & LINE5) clearLine(key + 320);
  if (lines & LINE6) clearLine(key + 384);
  store<u32>(key + KEY_LINES, 0);
}

/** Zeroes everything that comes from the packet's bytes, for a key whose metadata stay. */
function clearHeaders(key: u32): void {
  // K_ETH_DST … K_NW_DST and K_ND_RESERVED … K_MPLS_LSE. A call of memory.fill would cost more than the stores.
  const zero = i64x2.splat(0);
  v128.store(key + K_ETH_DST, zero);
  v128.store(key + K_ETH_DST + 16, zero);
  store<u64>(key + K_ETH_DST + 32, 0);
  store<u16>(key + K_MPLS_COUNT, 0);
  const lines = load<u32>(key + KEY_LINES);
  if (lines & LINE1) clearLine(key + 64);
  if (lines & LINE2) {
    v128.store(key + K_ND_RESERVED, zero);
    store<u32>(key + K_ND_RESERVED + 16, 0);
  }
  if (lines & LINE4) clearNsh(key);
}

function parse(pkt: u32, key: u32): void {
  const head = load<u32>(pkt + PKT_HEAD);
  const end = head + load<u32>(pkt + PKT_HEAD_LEN);
  let size = <i32>load<u32>(pkt + PKT_LEN);
  store<u32>(pkt + PKT_L3, 0xffffffff); // L3 and L4: none
  if ((load<u32>(key + KEY_LINES) & LINE2) !== 0 && load<u32>(key + K_PACKET_TYPE) !== 0) {
    const bare = bswap<u32>(load<u32>(key + K_PACKET_TYPE)) & 0xffff;
    parseNetwork(pkt, key, head, head, end, size, bswap<u16>(<u16>bare));
    return;
  }
  if (size < 14 || end < head + 14) return;

  store<u64>(key + K_ETH_DST, load<u64>(head));
  store<u32>(key + K_ETH_DST + 8, load<u32>(head + 8));
  let at = head + 12;
  size -= 12;
  let type: u32 = load<u16>(at);
  if (type === BE_VLAN || type === BE_QINQ) {
    const limit = load<u32>(CONTROL_BASE + CTL_VLAN_LIMIT);
    let slot = K_VLAN0_TCI;
    for (let i: u32 = 0; i < limit && size >= 6 && at + 6 <= end; i++) {
      store<u16>(key + slot, load<u16>(at + 2) | 0x0010); // VLAN_PRESENT
      store<u16>(key + slot + 2, <u16>type);
      at += 4;
      size -= 4;
      slot = K_VLAN1_TCI;
      type = load<u16>(at);
      if (type !== BE_VLAN && type !== BE_QINQ) break;
    }
  }
  at += 2;
  size -= 2;
  if (bswap<u16>(<u16>type) < 0x600) {
    // 802.2: the type is a length. Only SNAP with OUI 0 names a type (RFC 1042).
    type = bswap<u16>(<u16>ETH_TYPE_NONE);
    if (size >= 8 && at + 8 <= end && isSnap(at)) {
      const inner: u16 = load<u16>(at + 6);
      at += 8;
      size -= 8;
      if (bswap<u16>(inner) >= 0x600) type = inner;
    }
  }
  parseNetwork(pkt, key, head, at, end, size, type);
}

/** What follows the Ethernet type, or a packet without Ethernet header. */
function parseNetwork(
  pkt: u32,
  key: u32,
  head: u32,
  at: u32,
  end: u32,
  size: i32,
  type: u32,
): void {
  store<u16>(key + K_ETH_TYPE, <u16>type);
  store<u16>(pkt + PKT_L3, <u16>(at - head));
  if (type === BE_MPLS || type === BE_MPLS_MULTICAST) {
    const start = at;
    let count: u32 = 0;
    while (size >= 4 && at + 4 <= end) {
      const entry = load<u32>(at);
      if (count < 3) store<u32>(key + K_MPLS_LSE + count * 4, entry);
      count++;
      at += 4;
      size -= 4;
      if (entry & 0x00010000) break; // bottom of stack: bit 8 of the entry
    }
    if (at !== start) markLines(key, LINE2);
    store<u16>(key + K_MPLS_COUNT, bswap<u16>(<u16>min<u32>(count, 3)));
  }

  if (type === BE_IPV4) parseIpv4(pkt, key, head, at, end, size);
  else if (type === BE_IPV6) parseIpv6(pkt, key, head, at, end, size);
  else if (type === BE_ARP || type === BE_RARP) parseArp(key, at, end, size);
  else if (type === BE_NSH) parseNsh(key, at, end, size);
}

function isSnap(at: u32): bool {
  return load<u32>(at) === 0x0003aaaa && load<u16>(at + 4) === 0;
}

function parseArp(key: u32, at: u32, end: u32, size: i32): void {
  if (size < 28 || at + 28 > end) return;
  // hardware type 1, protocol type 0x0800, lengths 6 and 4
  if (load<u64>(at) << 16 !== 0x0406000801000000) return;
  store<u32>(key + K_NW_SRC, load<u32>(at + 14));
  store<u32>(key + K_NW_DST, load<u32>(at + 24));
  if (load<u8>(at + 6) === 0) store<u8>(key + K_NW_PROTO, load<u8>(at + 7));
  store<u32>(key + K_ARP_SHA, load<u32>(at + 8));
  store<u16>(key + K_ARP_SHA + 4, load<u16>(at + 12));
  store<u32>(key + K_ARP_THA, load<u32>(at + 18));
  store<u16>(key + K_ARP_THA + 4, load<u16>(at + 22));
  markLines(key, LINE1);
}
