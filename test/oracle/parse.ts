// Oracle of the parser: the flow key of a frame, the slow and obvious way. Written against ovs-fields(7) and the RFCs
// of the protocols, with Open vSwitch's answers where they leave a choice. Compare dataplane/parse.ts.

import {
  FRAG_ANY,
  FRAG_LATER,
  K_ARP_SHA,
  K_ARP_THA,
  K_ETH_DST,
  K_ETH_TYPE,
  K_IN_PORT,
  K_IPV6_DST,
  K_IPV6_LABEL,
  K_IPV6_SRC,
  K_MPLS_COUNT,
  K_MPLS_LSE,
  K_ND_OPTIONS_TYPE,
  K_ND_RESERVED,
  K_ND_TARGET,
  K_NSH,
  K_NSH_CONTEXT,
  K_NW_DST,
  K_NW_FRAG,
  K_NW_PROTO,
  K_NW_SRC,
  K_NW_TOS,
  K_NW_TTL,
  K_TCP_FLAGS,
  K_TP_DST,
  K_TP_SRC,
  K_VLAN0_TCI,
  K_VLAN0_TPID,
  K_VLAN1_TCI,
  K_VLAN1_TPID,
  KEY_SIZE,
  VLAN_PRESENT,
} from '../../contract/key.ts';
import { PKT_HEAD_COPY } from '../../contract/packet.ts';

/** What the parser found out besides the key. */
export interface Parsed {
  key: Uint8Array;
  /** Offsets in the frame, -1 = none. */
  l3: number;
  l4: number;
  /** Bytes of the IP packet behind l4 (0 without l4). */
  l4Bytes: number;
}

/** `headBytes`: how many bytes of the frame the data plane looks at. */
export function parseFrame(
  frame: Uint8Array,
  inPort: number,
  vlanLimit = 1,
  headBytes = PKT_HEAD_COPY,
): Parsed {
  const key = new Uint8Array(KEY_SIZE);
  const out = new DataView(key.buffer);
  const head = frame.subarray(0, headBytes);
  const view = new DataView(head.buffer, head.byteOffset, head.length);
  const parsed: Parsed = { key, l3: -1, l4: -1, l4Bytes: 0 };
  out.setUint32(K_IN_PORT, inPort);
  if (frame.length < 14) return parsed;
  key.set(head.subarray(0, 12), K_ETH_DST);

  let at = 12;
  const tags = [
    [K_VLAN0_TCI, K_VLAN0_TPID],
    [K_VLAN1_TCI, K_VLAN1_TPID],
  ] as const;
  for (const [tci, tpid] of tags.slice(0, vlanLimit)) {
    const type = view.getUint16(at);
    if ((type !== 0x8100 && type !== 0x88a8) || frame.length - at < 6) break;
    out.setUint16(tpid, type);
    out.setUint16(tci, view.getUint16(at + 2) | VLAN_PRESENT);
    at += 4;
  }
  let type = view.getUint16(at);
  at += 2;
  if (type < 0x600) {
    type = 0x05ff;
    const isSnap =
      head.length - at >= 8 && [0xaa, 0xaa, 3, 0, 0, 0].every((byte, i) => head[at + i] === byte);
    if (isSnap) {
      const inner = view.getUint16(at + 6);
      at += 8;
      if (inner >= 0x600) type = inner;
    }
  }
  out.setUint16(K_ETH_TYPE, type);

  if (type === 0x8847 || type === 0x8848) {
    let count = 0;
    while (head.length - at >= 4) {
      const entry = view.getUint32(at);
      if (count < 3) out.setUint32(K_MPLS_LSE + 4 * count, entry);
      count++;
      at += 4;
      if (entry & 0x100) break;
    }
    out.setUint16(K_MPLS_COUNT, Math.min(count, 3));
  }

  parsed.l3 = at;
  const rest = { head, view, out, key, at, length: frame.length - at };
  if (type === 0x0800) parseIpv4(parsed, rest);
  if (type === 0x86dd) parseIpv6(parsed, rest);
  if (type === 0x0806 || type === 0x8035) parseArp(rest);
  if (type === 0x894f) parseNsh(rest);
  return parsed;
}

interface Rest {
  head: Uint8Array;
  view: DataView;
  out: DataView;
  key: Uint8Array;
  at: number;
  /** Bytes of the frame from `at` on. */
  length: number;
}

function parseNsh({ head, view, key, at, length }: Rest): void {
  if (head.length - at < 8) return;
  const [version, flags, ttl, bytes] = [
    head[at]! >> 6,
    (head[at]! >> 4) & 3,
    (view.getUint16(at) >> 6) & 63,
    4 * (head[at + 1]! & 63),
  ] as const;
  const type = head[at + 2]!;
  if (version !== 0 || bytes > length) return;
  if (type === 2 && bytes < 8) return;
  if (type === 1 && (bytes !== 24 || head.length - at < 24)) return;
  key.set([flags, ttl, ...head.subarray(at + 2, at + 8)], K_NSH);
  if (type === 1) key.set(head.subarray(at + 8, at + 24), K_NSH_CONTEXT);
}

function parseArp({ head, view, out, key, at }: Rest): void {
  if (head.length - at < 28) return;
  if (view.getUint16(at) !== 1 || view.getUint16(at + 2) !== 0x0800) return;
  if (head[at + 4] !== 6 || head[at + 5] !== 4) return;
  const op = view.getUint16(at + 6);
  if (op <= 255) key[K_NW_PROTO] = op;
  key.set(head.subarray(at + 8, at + 14), K_ARP_SHA);
  out.setUint32(K_NW_SRC, view.getUint32(at + 14));
  key.set(head.subarray(at + 18, at + 24), K_ARP_THA);
  out.setUint32(K_NW_DST, view.getUint32(at + 24));
}

function parseIpv4(parsed: Parsed, rest: Rest): void {
  const { head, view, out, key, at, length } = rest;
  if (head.length - at < 20) return;
  const headerLength = (head[at]! & 15) * 4;
  const totalLength = view.getUint16(at + 2);
  if (headerLength < 20 || headerLength > totalLength || totalLength > length) return;
  if (length - totalLength > 65535) return;
  out.setUint32(K_NW_SRC, view.getUint32(at + 12));
  out.setUint32(K_NW_DST, view.getUint32(at + 16));
  key[K_NW_TOS] = head[at + 1]!;
  key[K_NW_TTL] = head[at + 8]!;
  key[K_NW_PROTO] = head[at + 9]!;
  const fragment = view.getUint16(at + 6);
  const isLater = (fragment & 0x1fff) !== 0;
  if (isLater) key[K_NW_FRAG] = FRAG_ANY | FRAG_LATER;
  else if (fragment & 0x2000) key[K_NW_FRAG] = FRAG_ANY;
  parsed.l4 = at + headerLength;
  parsed.l4Bytes = totalLength - headerLength;
  if (!isLater) parseTransport(parsed, rest, head[at + 9]!);
}

function parseIpv6(parsed: Parsed, rest: Rest): void {
  const { head, view, out, key, at, length } = rest;
  if (head.length - at < 40) return;
  const payload = view.getUint16(at + 4);
  if (40 + payload > length || length - 40 - payload > 65535) return;
  key.set(head.subarray(at + 8, at + 24), K_IPV6_SRC);
  key.set(head.subarray(at + 24, at + 40), K_IPV6_DST);
  let next = head[at + 6]!;
  let cursor = at + 40;
  let left = payload;
  let frag = 0;
  while ([0, 43, 44, 51, 60].includes(next)) {
    if (left < 8 || head.length - cursor < 8) return;
    const isFragment = next === 44;
    const words = head[cursor + 1]!;
    const bytes = isFragment ? 8 : next === 51 ? (words + 2) * 4 : (words + 1) * 8;
    if (bytes > left) return;
    const offset = view.getUint16(cursor + 2);
    next = head[cursor]!;
    cursor += bytes;
    left -= bytes;
    if (isFragment && offset !== 0) {
      frag = FRAG_ANY;
      if (offset >> 3 !== 0) {
        frag = FRAG_ANY | FRAG_LATER;
        next = 44;
        break;
      }
    }
  }
  const first = view.getUint32(at);
  out.setUint32(K_IPV6_LABEL, first & 0xfffff);
  key[K_NW_TOS] = (first >>> 20) & 0xff;
  key[K_NW_TTL] = head[at + 7]!;
  key[K_NW_PROTO] = next;
  key[K_NW_FRAG] = frag;
  parsed.l4 = cursor;
  parsed.l4Bytes = left;
  if (!(frag & FRAG_LATER)) parseTransport(parsed, rest, next);
}

function parseTransport({ l4, l4Bytes }: Parsed, rest: Rest, proto: number): void {
  const { head, view, out, key } = rest;
  const needed: Record<number, number> = { 6: 20, 17: 8, 132: 12, 1: 8, 2: 8, 58: 8 };
  const bytes = needed[proto];
  if (bytes === undefined || l4Bytes < bytes || head.length - l4 < bytes) return;
  if (proto === 6) {
    const headerLength = (head[l4 + 12]! >> 4) * 4;
    if (headerLength < 20 || headerLength > l4Bytes) return;
    out.setUint16(K_TCP_FLAGS, view.getUint16(l4 + 12) & 0xfff);
  }
  if (proto === 6 || proto === 17 || proto === 132) {
    out.setUint16(K_TP_SRC, view.getUint16(l4));
    out.setUint16(K_TP_DST, view.getUint16(l4 + 2));
    return;
  }
  const type = head[l4]!;
  out.setUint16(K_TP_SRC, type);
  out.setUint16(K_TP_DST, head[l4 + 1]!);
  if (proto === 58 && head[l4 + 1] === 0 && (type === 135 || type === 136)) {
    out.setUint32(K_ND_RESERVED, view.getUint32(l4 + 4));
    parseNeighbour(head, key, l4 + 8, l4 + l4Bytes);
  }
}

function parseNeighbour(head: Uint8Array, key: Uint8Array, start: number, end: number): void {
  const available = Math.min(end, head.length);
  if (available - start < 16) return;
  key.set(head.subarray(start, start + 16), K_ND_TARGET);
  const isZero = (at: number, bytes: number): boolean =>
    key.subarray(at, at + bytes).every((byte) => byte === 0);
  for (let at = start + 16; available - at >= 8; ) {
    const type = head[at]!;
    const bytes = head[at + 1]! * 8;
    if (bytes === 0 || bytes > end - at) return;
    if (bytes === 8 && (type === 1 || type === 2)) {
      const field = type === 1 ? K_ARP_SHA : K_ARP_THA;
      if (!isZero(field, 6)) {
        key.fill(0, K_ND_TARGET, K_ND_TARGET + 16);
        key.fill(0, K_ARP_SHA, K_ARP_SHA + 12);
        return;
      }
      key.set(head.subarray(at + 2, at + 8), field);
      if (key[K_ND_OPTIONS_TYPE] === 0) key[K_ND_OPTIONS_TYPE] = type;
    }
    at += bytes;
  }
}
