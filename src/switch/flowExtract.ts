// A frame as a flow key, for packets that the control plane itself sends or traces. The same semantics as the data
// plane's parse (dataplane/parse.ts): IEEE 802.3, 802.1Q, RFC 791, 826, 8200, 4861; headers behind the first
// PKT_HEAD_COPY bytes count as absent.

import {
  ETH_TYPE_NONE,
  FRAG_ANY,
  FRAG_LATER,
  K_ARP_SHA,
  K_ARP_THA,
  K_ETH_DST,
  K_ETH_TYPE,
  K_IPV6_LABEL,
  K_IPV6_SRC,
  K_MPLS_COUNT,
  K_MPLS_LSE,
  K_ND_OPTIONS_TYPE,
  K_ND_RESERVED,
  K_ND_TARGET,
  K_NSH_CONTEXT,
  K_NSH_FLAGS,
  K_NSH_MDTYPE,
  K_NSH_TTL,
  K_NW_DST,
  K_NW_FRAG,
  K_NW_PROTO,
  K_NW_SRC,
  K_NW_TOS,
  K_NW_TTL,
  K_PACKET_TYPE,
  K_TCP_FLAGS,
  K_TP_DST,
  K_TP_SRC,
  K_VLAN0_TCI,
  K_VLAN1_TCI,
  VLAN_PRESENT,
} from '../../contract/key.ts';
import { PKT_HEAD_COPY } from '../../contract/packet.ts';
import { ETH_TYPE_NSH, NSH_BASE_BYTES, NSH_MD1_BYTES } from '../../contract/tunnel.ts';
import {
  be16,
  be32,
  ETH_TYPE_ARP,
  ETH_TYPE_IP,
  ETH_TYPE_IPV6,
  ETH_TYPE_RARP,
  IPPROTO_ICMP,
  IPPROTO_ICMPV6,
  IPPROTO_IGMP,
  IPPROTO_SCTP,
  IPPROTO_TCP,
  IPPROTO_UDP,
  isVlanType,
  ND_ADVERT,
  ND_SOLICIT,
  putBe16,
  putBe32,
} from './flow.ts';

const IPPROTO_HOPOPTS = 0;
const IPPROTO_ROUTING = 43;
const IPPROTO_FRAGMENT = 44;
const IPPROTO_AH = 51;
const IPPROTO_DSTOPTS = 60;
const EXTENSIONS = [
  IPPROTO_HOPOPTS,
  IPPROTO_ROUTING,
  IPPROTO_FRAGMENT,
  IPPROTO_AH,
  IPPROTO_DSTOPTS,
];

/** Where parsing stands: `size` bytes of the packet follow `at`; bytes from `end` on are not looked at. */
interface Cursor {
  readonly frame: Uint8Array;
  readonly end: number;
  at: number;
  size: number;
}

function has(c: Cursor, bytes: number): boolean {
  return c.size >= bytes && c.at + bytes <= c.end;
}

function skip(c: Cursor, bytes: number): void {
  c.at += bytes;
  c.size -= bytes;
}

function copy(record: Uint8Array, offset: number, c: Cursor, from: number, bytes: number): void {
  record.set(c.frame.subarray(c.at + from, c.at + from + bytes), offset);
}

/**
 * Fills the packet's fields of `record`, which must be zero there but for the packet type, which says where the packet
 * begins. `vlanLimit`: headers that are parsed, 1 or 2.
 */
export function extractFlow(record: Uint8Array, frame: Uint8Array, vlanLimit = 1): void {
  const c: Cursor = {
    frame,
    end: Math.min(frame.length, PKT_HEAD_COPY),
    at: 0,
    size: frame.length,
  };
  if (be32(record, K_PACKET_TYPE) !== 0) {
    const bare = be16(record, K_PACKET_TYPE + 2);
    putBe16(record, K_ETH_TYPE, bare);
    extractNetwork(record, c, bare);
    return;
  }
  if (!has(c, 14)) return;
  copy(record, K_ETH_DST, c, 0, 12);
  skip(c, 12);
  let type = be16(frame, c.at);
  for (let i = 0; i < vlanLimit && isVlanType(type) && has(c, 6); i++) {
    const slot = i === 0 ? K_VLAN0_TCI : K_VLAN1_TCI;
    putBe16(record, slot, be16(frame, c.at + 2) | VLAN_PRESENT);
    putBe16(record, slot + 2, type);
    skip(c, 4);
    type = be16(frame, c.at);
  }
  skip(c, 2);
  if (type < 0x600) type = extractLlc(c);
  putBe16(record, K_ETH_TYPE, type);
  extractNetwork(record, c, type);
}

function extractNetwork(record: Uint8Array, c: Cursor, type: number): void {
  if (type === 0x8847 || type === 0x8848) extractMpls(record, c);
  else if (type === ETH_TYPE_IP) extractIpv4(record, c);
  else if (type === ETH_TYPE_IPV6) extractIpv6(record, c);
  else if (type === ETH_TYPE_ARP || type === ETH_TYPE_RARP) extractArp(record, c);
  else if (type === ETH_TYPE_NSH) extractNsh(record, c);
}

/** RFC 8300. Nothing of a header that is cut short or lies; only metadata of type 1 has fields. */
function extractNsh(record: Uint8Array, c: Cursor): void {
  if (!has(c, NSH_BASE_BYTES)) return;
  const { frame, at } = c;
  const word = be16(frame, at);
  const bytes = (word & 63) * 4;
  const type = frame[at + 2]!;
  if (word >>> 14 !== 0 || bytes > c.size || (type === 2 && bytes < NSH_BASE_BYTES)) return;
  if (type === 1) {
    if (bytes !== NSH_MD1_BYTES || !has(c, bytes)) return;
    copy(record, K_NSH_CONTEXT, c, 8, 16);
  }
  record[K_NSH_FLAGS] = (word >>> 12) & 3;
  record[K_NSH_TTL] = (word >>> 6) & 63;
  copy(record, K_NSH_MDTYPE, c, 2, 6); // and next protocol and path
}

/** 802.2: only SNAP with OUI 0 names a type (RFC 1042). */
function extractLlc(c: Cursor): number {
  const { frame, at } = c;
  if (!has(c, 8) || be32(frame, at) !== 0xaaaa0300 || be16(frame, at + 4) !== 0) {
    return ETH_TYPE_NONE;
  }
  const type = be16(frame, at + 6);
  skip(c, 8);
  return type >= 0x600 ? type : ETH_TYPE_NONE;
}

function extractMpls(record: Uint8Array, c: Cursor): void {
  let count = 0;
  while (has(c, 4)) {
    if (count < 3) copy(record, K_MPLS_LSE + 4 * count, c, 0, 4);
    count++;
    const bottom = (c.frame[c.at + 2]! & 1) !== 0;
    skip(c, 4);
    if (bottom) break;
  }
  putBe16(record, K_MPLS_COUNT, Math.min(count, 3));
}

function extractArp(record: Uint8Array, c: Cursor): void {
  const { frame, at } = c;
  if (!has(c, 28) || be32(frame, at) !== 0x00010800 || be16(frame, at + 4) !== 0x0604) return;
  copy(record, K_NW_SRC, c, 14, 4);
  copy(record, K_NW_DST, c, 24, 4);
  if (frame[at + 6] === 0) record[K_NW_PROTO] = frame[at + 7]!;
  copy(record, K_ARP_SHA, c, 8, 6);
  copy(record, K_ARP_THA, c, 18, 6);
}

function extractIpv4(record: Uint8Array, c: Cursor): void {
  if (!has(c, 20)) return;
  const { frame, at } = c;
  const headerLen = (frame[at]! & 15) * 4;
  const totalLen = be16(frame, at + 2);
  if (headerLen < 20 || headerLen > totalLen || totalLen > c.size) return;
  if (c.size - totalLen > 0xffff) return;
  copy(record, K_NW_SRC, c, 12, 8);
  const offset = be16(frame, at + 6) & 0x3fff;
  let frag = 0;
  if (offset !== 0) frag = (offset & 0x1fff) !== 0 ? FRAG_ANY | FRAG_LATER : FRAG_ANY;
  record[K_NW_PROTO] = frame[at + 9]!;
  record[K_NW_FRAG] = frag;
  record[K_NW_TOS] = frame[at + 1]!;
  record[K_NW_TTL] = frame[at + 8]!;
  c.size = totalLen;
  skip(c, headerLen);
  if ((frag & FRAG_LATER) === 0) extractTransport(record, c);
}

function extractIpv6(record: Uint8Array, c: Cursor): void {
  if (!has(c, 40)) return;
  const { frame, at } = c;
  const payload = be16(frame, at + 4);
  if (payload + 40 > c.size || c.size - (payload + 40) > 0xffff) return;
  copy(record, K_IPV6_SRC, c, 8, 32);
  const word = be32(frame, at);
  let protocol = frame[at + 6]!;
  let frag = 0;
  skip(c, 40);
  c.size = payload;
  while (EXTENSIONS.includes(protocol)) {
    if (!has(c, 8)) return;
    const fragment = protocol === IPPROTO_FRAGMENT;
    let length = 8;
    if (protocol === IPPROTO_AH) length = (frame[c.at + 1]! + 2) * 4;
    else if (!fragment) length = (frame[c.at + 1]! + 1) * 8;
    if (length > c.size) return;
    const offset = be16(frame, c.at + 2);
    protocol = frame[c.at]!;
    skip(c, length);
    if (fragment && offset !== 0) {
      frag = FRAG_ANY;
      if ((offset & 0xfff8) !== 0) {
        frag |= FRAG_LATER;
        protocol = IPPROTO_FRAGMENT;
        break;
      }
    }
  }
  putBe32(record, K_IPV6_LABEL, word & 0xfffff);
  record[K_NW_PROTO] = protocol;
  record[K_NW_FRAG] = frag;
  record[K_NW_TOS] = (word >>> 20) & 0xff;
  record[K_NW_TTL] = frame[at + 7]!;
  if ((frag & FRAG_LATER) === 0) extractTransport(record, c);
}

function extractTransport(record: Uint8Array, c: Cursor): void {
  const { frame, at } = c;
  switch (record[K_NW_PROTO]) {
    case IPPROTO_TCP: {
      if (!has(c, 20)) return;
      const headerLen = (frame[at + 12]! >> 4) * 4;
      if (headerLen < 20 || headerLen > c.size) return;
      copy(record, K_TP_SRC, c, 0, 4);
      putBe16(record, K_TCP_FLAGS, be16(frame, at + 12) & 0x0fff);
      return;
    }
    case IPPROTO_UDP:
      if (has(c, 8)) copy(record, K_TP_SRC, c, 0, 4);
      return;
    case IPPROTO_SCTP:
      if (has(c, 12)) copy(record, K_TP_SRC, c, 0, 4);
      return;
    case IPPROTO_ICMP:
    case IPPROTO_IGMP:
    case IPPROTO_ICMPV6: {
      if (!has(c, 8)) return;
      record[K_TP_SRC + 1] = frame[at]!;
      record[K_TP_DST + 1] = frame[at + 1]!;
      const isNd = frame[at + 1] === 0 && (frame[at] === ND_SOLICIT || frame[at] === ND_ADVERT);
      if (record[K_NW_PROTO] === IPPROTO_ICMPV6 && isNd) extractNeighbor(record, c);
      return;
    }
  }
}

/** Target and link-layer addresses; the same option twice makes them invalid (zero). */
function extractNeighbor(record: Uint8Array, c: Cursor): void {
  copy(record, K_ND_RESERVED, c, 4, 4);
  if (!has(c, 24)) return;
  copy(record, K_ND_TARGET, c, 8, 16);
  skip(c, 24);
  while (has(c, 8)) {
    const type = c.frame[c.at]!;
    const length = c.frame[c.at + 1]! * 8;
    if (length === 0 || length > c.size) return;
    if (length === 8 && (type === 1 || type === 2)) {
      const field = type === 1 ? K_ARP_SHA : K_ARP_THA;
      if ((be32(record, field) | be16(record, field + 4)) !== 0) {
        record.fill(0, K_ND_TARGET, K_ND_TARGET + 16);
        record.fill(0, K_ARP_SHA, K_ARP_THA + 6);
        return;
      }
      copy(record, field, c, 2, 6);
      if (record[K_ND_OPTIONS_TYPE] === 0) record[K_ND_OPTIONS_TYPE] = type;
    }
    skip(c, length);
  }
}
