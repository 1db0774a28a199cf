// Oracle of the actions: runs a datapath program on one frame, the slow and obvious way. Header fields are written,
// and checksums that were there are computed again from scratch. Compare dataplane/act.ts and dataplane/set.ts.
//
// Frames must come with right checksums: the data plane corrects checksums by differences, so a wrong one stays wrong.

import {
  ACT_DROP,
  ACT_END,
  ACT_OUTPUT,
  ACT_POP_VLAN,
  ACT_PUSH_VLAN,
  ACT_RECIRC,
  ACT_SET_ARP,
  ACT_SET_ETH,
  ACT_SET_IPV4,
  ACT_SET_IPV6,
  ACT_SET_META,
  ACT_SET_ND,
  ACT_SET_TP,
  ACT_SET_VLAN,
  ACT_TRUNC,
  ACT_USERSPACE,
} from '../../contract/action.ts';
import { DROP_BAD_ACTION, DROP_FLOW_EXPLICIT } from '../../contract/drop.ts';
import {
  FRAG_LATER,
  K_ETH_DST,
  K_ETH_TYPE,
  K_IN_PORT,
  K_MPLS_COUNT,
  K_ND_RESERVED,
  K_NW_FRAG,
  K_NW_PROTO,
  K_RECIRC_ID,
  KEY_SIZE,
} from '../../contract/key.ts';
import { PKT_HEAD_COPY } from '../../contract/packet.ts';
import { checksum, crc32c, onesSum, pseudo4, pseudo6 } from './frames.ts';
import { type Parsed, parseFrame } from './parse.ts';

/** A frame in the middle of execution. */
export interface OraclePacket {
  frame: Uint8Array;
  /** Checksum-partial: offset of the transport header whose checksum is still to be computed. */
  csumStart: number | undefined;
  /** How many bytes of the frame the data plane has in its head buffer. */
  headBytes: number;
  /** The destination that the transport checksum covers where that is not the one in the header (routing header). */
  finalDst: Uint8Array | undefined;
  /** Metadata of the flow key: in_port, recirc_id, marks, ct, tunnel (KEY_SIZE bytes). */
  meta: Uint8Array;
}

export type Event =
  | { type: 'output'; port: number; frame: Uint8Array; csumStart: number | undefined }
  | { type: 'upcall'; reason: number; cookie: number; frame: Uint8Array; key: Uint8Array }
  | { type: 'recirc'; packet: OraclePacket }
  | { type: 'drop'; reason: number };

export function newPacket(frame: Uint8Array, inPort: number, csumStart?: number): OraclePacket {
  const meta = new Uint8Array(KEY_SIZE);
  new DataView(meta.buffer).setUint32(K_IN_PORT, inPort);
  const headBytes = Math.min(frame.length, PKT_HEAD_COPY);
  const packet = { frame: frame.slice(), csumStart, headBytes, meta };
  const { key, l3, l4 } = parseFrame(frame, 0, 2);
  const isIpv6 = key[K_ETH_TYPE] === 0x86 && key[K_ETH_TYPE + 1] === 0xdd;
  const routed = isIpv6 && l4 >= 0 && segmentsLeft(frame, l3, l4);
  return { ...packet, finalDst: routed ? frame.slice(l3 + 24, l3 + 40) : undefined };
}

/** The flow key that the packet has when it is looked up (again). */
export function keyOf(packet: OraclePacket, vlanLimit = 1): Uint8Array {
  const { key } = parseFrame(packet.frame, 0, vlanLimit, packet.headBytes);
  const out = packet.meta.slice();
  const copy = (from: number, to: number): void => out.set(key.subarray(from, to), from);
  copy(K_ETH_DST, 48);
  copy(K_MPLS_COUNT, K_MPLS_COUNT + 2);
  copy(64, 128);
  copy(K_ND_RESERVED, 188);
  return out;
}

/** Runs a program; events in the order in which they happen. The packet given is not changed. */
export function execute(program: Uint32Array, start: OraclePacket, vlanLimit = 1): Event[] {
  const events: Event[] = [];
  let packet = clone(start);
  // Which headers a packet has is what the look-up before the program saw.
  const key = keyOf(packet, vlanLimit);
  let trunc = 0;
  const cut = (frame: Uint8Array, max = 0xffff): Uint8Array => {
    let bytes = frame.length;
    if (trunc !== 0) bytes = Math.min(bytes, trunc);
    if (max < 0xffff) bytes = Math.min(bytes, max);
    return frame.slice(0, bytes);
  };
  for (let at = 0; ; at += program[at]! >>> 16) {
    const op = program[at]! & 0xffff;
    const operand = program.subarray(at + 1);
    const bytes = new Uint8Array(operand.slice().buffer);
    if (op === ACT_END) break;
    if (op === ACT_OUTPUT) {
      const frame = cut(packet.frame);
      events.push({ type: 'output', port: operand[0]!, frame, csumStart: packet.csumStart });
      trunc = 0;
    } else if (op === ACT_TRUNC) {
      trunc = operand[0]!;
    } else if (op === ACT_USERSPACE) {
      const frame = cut(packet.frame, operand[2]!);
      const now = keyOf(packet, vlanLimit);
      events.push({ type: 'upcall', reason: operand[0]!, cookie: operand[1]!, frame, key: now });
      trunc = 0;
    } else if (op === ACT_RECIRC) {
      const again = clone(packet);
      new DataView(again.meta.buffer).setUint32(K_RECIRC_ID, operand[0]!);
      events.push({ type: 'recirc', packet: again });
    } else if (op === ACT_DROP) {
      events.push({ type: 'drop', reason: operand[0]! });
      return events;
    } else if (op === ACT_SET_META) {
      for (let i = 0; i < 4; i++)
        setByte(packet.meta, operand[0]! + i, bytes[4 + i]!, bytes[8 + i]!);
    } else {
      const changed = rewrite(op, bytes, operand[0]!, packet, key);
      if (changed === undefined) {
        events.push({ type: 'drop', reason: DROP_BAD_ACTION });
        return events;
      }
      packet = changed;
    }
  }
  if (events.length === 0) events.push({ type: 'drop', reason: DROP_FLOW_EXPLICIT });
  return events;
}

function clone(packet: OraclePacket): OraclePacket {
  return { ...packet, frame: packet.frame.slice(), meta: packet.meta.slice() };
}

function setByte(target: Uint8Array, at: number, value: number, mask: number): void {
  target[at] = (target[at]! & ~mask) | (value & mask);
}

/** Writes `length` bytes of an action's value under its mask. */
function put(
  target: Uint8Array,
  at: number,
  bytes: Uint8Array,
  from: number,
  mask: number,
  length: number,
): void {
  for (let i = 0; i < length; i++) setByte(target, at + i, bytes[from + i]!, bytes[mask + i]!);
}

/** The packet after a set, push or pop action; undefined = of another type, or the header lies out of reach. */
function rewrite(
  op: number,
  bytes: Uint8Array,
  word: number,
  before: OraclePacket,
  key: Uint8Array,
): OraclePacket | undefined {
  const packet = clone(before);
  const { frame } = packet;
  const type = (key[K_ETH_TYPE]! << 8) | key[K_ETH_TYPE + 1]!;
  const proto = key[K_NW_PROTO]!;
  const isLater = (key[K_NW_FRAG]! & FRAG_LATER) !== 0;
  // Offsets move with tags; the key stays that of the look-up, so parse with as many tags as there are.
  const tagged = isTag(frame, 12) && packet.headBytes >= 18;
  switch (op) {
    case ACT_SET_ETH:
      put(frame, 0, bytes, 0, 12, 12);
      return packet;
    case ACT_PUSH_VLAN:
      return shift(packet, Uint8Array.of(word >> 8, word, word >>> 24, word >>> 16), 4);
    case ACT_POP_VLAN:
      return tagged ? shift(packet, new Uint8Array(), -4) : packet;
    case ACT_SET_VLAN: {
      if (!tagged) return undefined;
      const tci = (frame[14]! << 8) | frame[15]!;
      const changed = (tci & ~(word >>> 16)) | (word & (word >>> 16));
      frame[14] = changed >> 8;
      frame[15] = changed;
      return packet;
    }
  }
  const parsed = offsets(packet, key);
  if (parsed === undefined) return undefined;
  const { l3, l4, l4Bytes } = parsed;
  const inFrame = (at: number, length: number): boolean => at + length <= frame.length;
  const inHead = (at: number, length: number): boolean =>
    at >= 0 && at + length <= packet.headBytes;
  const needed = proto === 6 ? 20 : proto === 132 ? 12 : 8;
  const hasTransport = l4 >= 0 && !isLater && l4Bytes >= needed;
  // Headers that are cut short are left alone.
  switch (op) {
    case ACT_SET_IPV4: {
      if (type !== 0x0800) return undefined;
      if (l4 < 0) return packet;
      put(frame, l3 + 12, bytes, 0, 12, 8);
      put(frame, l3 + 1, bytes, 8, 20, 1);
      put(frame, l3 + 8, bytes, 9, 21, 1);
      const touched = bytes.subarray(12, 20).some((b) => b !== 0);
      if (touched && covers(proto, type) && hasTransport && !inHead(l4, needed)) return undefined;
      break;
    }
    case ACT_SET_IPV6: {
      if (type !== 0x86dd) return undefined;
      if (!inFrame(l3, 40)) return packet;
      if (!inHead(l3, 40)) return undefined;
      put(frame, l3 + 8, bytes, 0, 40, 32);
      const view = new DataView(frame.buffer, l3, 4);
      const values = new DataView(bytes.buffer);
      const mask = (values.getUint32(72) & 0xfffff) | (bytes[76]! << 20);
      const value = (values.getUint32(32) & 0xfffff) | (bytes[36]! << 20);
      view.setUint32(0, (view.getUint32(0) & ~mask) | (value & mask));
      put(frame, l3 + 7, bytes, 37, 77, 1);
      const touched = bytes.subarray(40, 72).some((b) => b !== 0);
      if (touched && covers(proto, type) && hasTransport && !inHead(l4, needed)) return undefined;
      break;
    }
    case ACT_SET_TP: {
      if (![1, 6, 17, 58, 132].includes(proto)) return undefined;
      if (!hasTransport) return packet;
      if (!inHead(l4, needed)) return undefined;
      if (proto === 6 && (frame[l4 + 12]! >> 4 < 5 || (frame[l4 + 12]! >> 4) * 4 > l4Bytes)) {
        return packet;
      }
      if (proto === 6 || proto === 17 || proto === 132) {
        put(frame, l4, bytes, 0, 4, 4);
      } else if (proto === (type === 0x0800 ? 1 : 58)) {
        setByte(frame, l4, bytes[1]!, bytes[5]!);
        setByte(frame, l4 + 1, bytes[3]!, bytes[7]!);
      } else return undefined;
      break;
    }
    case ACT_SET_ARP:
      if (type !== 0x0806 && type !== 0x8035) return undefined;
      if (!inFrame(l3, 28)) return packet;
      if (!inHead(l3, 28)) return undefined;
      put(frame, l3 + 14, bytes, 0, 24, 4);
      put(frame, l3 + 24, bytes, 4, 28, 4);
      put(frame, l3 + 8, bytes, 8, 32, 6);
      put(frame, l3 + 18, bytes, 14, 38, 6);
      put(frame, l3 + 6, bytes, 20, 44, 2);
      return packet;
    case ACT_SET_ND: {
      if (proto !== 58) return undefined;
      if (l4 < 0 || isLater || l4Bytes < 24) return packet;
      if (!inHead(l4, 24)) return undefined;
      put(frame, l4 + 8, bytes, 0, 28, 16);
      const end = Math.min(l4 + l4Bytes, packet.headBytes);
      for (let at = l4 + 24; end - at >= 8; at += frame[at + 1]! * 8) {
        if (frame[at + 1] === 0) break;
        if (frame[at + 1] !== 1) continue;
        if (frame[at] === 1) put(frame, at + 2, bytes, 16, 44, 6);
        if (frame[at] === 2) put(frame, at + 2, bytes, 22, 50, 6);
      }
      break;
    }
    default:
      return undefined;
  }
  fixChecksums(before, packet, { type, proto, l3, l4, l4Bytes, hasTransport });
  return packet;
}

function isTag(frame: Uint8Array, at: number): boolean {
  const type = (frame[at]! << 8) | frame[at + 1]!;
  return type === 0x8100 || type === 0x88a8;
}

/** Puts bytes in behind the addresses, or takes four out. */
function shift(packet: OraclePacket, tag: Uint8Array, by: number): OraclePacket {
  const { frame } = packet;
  const rest = frame.subarray(by < 0 ? 16 : 12);
  const out = new Uint8Array(12 + tag.length + rest.length);
  out.set(frame.subarray(0, 12));
  out.set(tag, 12);
  out.set(rest, 12 + tag.length);
  return {
    ...packet,
    frame: out,
    headBytes: packet.headBytes + by,
    csumStart: packet.csumStart === undefined ? undefined : packet.csumStart + by,
  };
}

/** Offsets of the headers that the key describes, in the frame as it is now. */
function offsets(packet: OraclePacket, key: Uint8Array): Parsed | undefined {
  const type = (key[K_ETH_TYPE]! << 8) | key[K_ETH_TYPE + 1]!;
  // The look-up's tag limit does not matter here: find the tag depth at which the type is the key's.
  for (let depth = 0; depth <= 8; depth++) {
    const at = 12 + depth * 4;
    const inner = new Uint8Array(packet.frame.length - depth * 4);
    inner.set(packet.frame.subarray(0, 12));
    inner.set(packet.frame.subarray(at), 12);
    const parsed = parseFrame(inner, 0, 0, packet.headBytes - depth * 4);
    const found = (parsed.key[K_ETH_TYPE]! << 8) | parsed.key[K_ETH_TYPE + 1]!;
    if (found === type) {
      const move = (offset: number): number => (offset < 0 ? -1 : offset + depth * 4);
      return { ...parsed, l3: move(parsed.l3), l4: move(parsed.l4) };
    }
    if (!isTag(packet.frame, at)) return undefined;
  }
  return undefined;
}

/** Protocols whose checksum covers the addresses. */
function covers(proto: number, type: number): boolean {
  return proto === 6 || proto === 17 || (proto === 58 && type === 0x86dd);
}

interface Layout {
  type: number;
  proto: number;
  l3: number;
  l4: number;
  l4Bytes: number;
  hasTransport: boolean;
}

function fixChecksums(before: OraclePacket, packet: OraclePacket, layout: Layout): void {
  const { type, proto, l3, l4, l4Bytes, hasTransport } = layout;
  const { frame } = packet;
  const put16 = (at: number, value: number): void => {
    frame[at] = value >> 8;
    frame[at + 1] = value;
  };
  if (type === 0x0800) {
    const header = frame.subarray(l3, l3 + (frame[l3]! & 15) * 4);
    put16(l3 + 10, 0);
    put16(l3 + 10, checksum(header));
  }
  if (!hasTransport) return;
  const segment = frame.subarray(l4, l4 + l4Bytes);
  if (proto === 132) {
    const ports = (p: OraclePacket): string => p.frame.subarray(l4, l4 + 4).join();
    if (ports(before) === ports(packet)) return;
    segment.fill(0, 8, 12);
    const crc = crc32c(segment);
    segment.set([crc & 0xff, (crc >> 8) & 0xff, (crc >> 16) & 0xff, crc >>> 24], 8);
    return;
  }
  const offset = { 6: 16, 17: 6, 58: 2, 1: 2 }[proto];
  if (offset === undefined || proto === (type === 0x0800 ? 58 : 1)) return;
  const field = l4 + offset;
  if (proto === 17 && frame[field] === 0 && frame[field + 1] === 0 && packet.csumStart !== l4)
    return;
  let pseudo: Uint8Array = new Uint8Array();
  if (type === 0x0800 && proto !== 1) {
    pseudo = pseudo4(
      [...frame.subarray(l3 + 12, l3 + 16)],
      [...frame.subarray(l3 + 16, l3 + 20)],
      proto,
      l4Bytes,
    );
  } else if (type === 0x86dd) {
    const dst = packet.finalDst ?? frame.subarray(l3 + 24, l3 + 40);
    pseudo = pseudo6([...frame.subarray(l3 + 8, l3 + 24)], [...dst], proto, l4Bytes);
  }
  if (packet.csumStart === l4) {
    put16(field, onesSum(pseudo));
    return;
  }
  put16(field, 0);
  const sum = checksum(pseudo, segment);
  put16(field, proto === 17 && sum === 0 ? 0xffff : sum);
}

export function segmentsLeft(frame: Uint8Array, l3: number, l4: number): boolean {
  let next = frame[l3 + 6]!;
  for (let at = l3 + 40; at + 8 <= l4; ) {
    if (next === 43 && frame[at + 3] !== 0) return true;
    const words = frame[at + 1]!;
    const length = next === 44 ? 8 : next === 51 ? (words + 2) * 4 : (words + 1) * 8;
    next = frame[at]!;
    at += length;
  }
  return false;
}
