// Frames as the conntrack model reads and rewrites them: untagged IPv4 and IPv6 without extension headers.

import { hex } from './ctRig.ts';
import { be16, bytes, onesSum, pseudo4, pseudo6 } from './frames.ts';

export interface ModelTuple {
  v6: boolean;
  proto: number;
  /** Hexadecimal. */
  src: string;
  dst: string;
  /** Ports; of ICMP the id and type << 8 | code. */
  sp: number;
  dp: number;
  icmp: boolean;
}

/** The packet that an ICMP error quotes: where its IP header begins in the frame. */
export interface Inner {
  at: number;
}

export interface Layers {
  v6: boolean;
  ip: number;
  l4: number;
  end: number;
  proto: number;
}

const ANSWERS: Readonly<Record<number, number>> = {
  8: 0,
  0: 8,
  13: 14,
  14: 13,
  15: 16,
  16: 15,
  128: 129,
  129: 128,
};

export function reverse(t: ModelTuple): ModelTuple {
  const flipped = { ...t, src: t.dst, dst: t.src };
  if (t.icmp) return { ...flipped, dp: ((ANSWERS[t.dp >> 8] ?? t.dp >> 8) << 8) | (t.dp & 0xff) };
  return { ...flipped, sp: t.dp, dp: t.sp };
}

export function sameTuple(a: ModelTuple, b: ModelTuple): boolean {
  return (
    a.v6 === b.v6 &&
    a.proto === b.proto &&
    a.src === b.src &&
    a.dst === b.dst &&
    a.sp === b.sp &&
    a.dp === b.dp
  );
}

export function word16(frame: Uint8Array, at: number): number {
  return (frame[at]! << 8) | frame[at + 1]!;
}

/** The IP packet at `ip`; undefined: none, or a fragment. */
export function layers(frame: Uint8Array, ip: number): Layers | undefined {
  const version = frame[ip]! >> 4;
  if (version === 4) {
    if ((word16(frame, ip + 6) & 0x3fff) !== 0) return undefined;
    const l4 = ip + (frame[ip]! & 15) * 4;
    return { v6: false, ip, l4, end: ip + word16(frame, ip + 2), proto: frame[ip + 9]! };
  }
  if (version !== 6 || frame[ip + 6] === 44) return undefined;
  return { v6: true, ip, l4: ip + 40, end: ip + 40 + word16(frame, ip + 4), proto: frame[ip + 6]! };
}

function addresses(frame: Uint8Array, l: Layers): [number[], number[]] {
  const [at, size] = l.v6 ? [l.ip + 8, 16] : [l.ip + 12, 4];
  return [[...frame.subarray(at, at + size)], [...frame.subarray(at + size, at + 2 * size)]];
}

function isIcmp(l: Layers): boolean {
  return l.proto === (l.v6 ? 58 : 1);
}

function pseudo(frame: Uint8Array, l: Layers): Uint8Array {
  const [src, dst] = addresses(frame, l);
  return (l.v6 ? pseudo6 : pseudo4)(src, dst, l.proto, l.end - l.l4);
}

function sumIsRight(frame: Uint8Array, l: Layers): boolean {
  const body = frame.subarray(l.l4, l.end);
  return (l.proto === 1 ? onesSum(body) : onesSum(pseudo(frame, l), body)) === 0xffff;
}

/** Tuple of a packet; undefined: invalid. `trusted`: its checksum was not computed yet, or has been checked. */
export function readTuple(
  frame: Uint8Array,
  trusted: boolean,
): { tuple: ModelTuple; inner: Inner | undefined } | undefined {
  const type = word16(frame, 12);
  if (type !== 0x0800 && type !== 0x86dd) return undefined;
  const l = layers(frame, 14);
  if (!l) return undefined;
  if (!l.v6 && onesSum(frame.subarray(l.ip, l.l4)) !== 0xffff) return undefined;
  const size = l.end - l.l4;
  const sealed = l.proto === 6 || l.proto === 17 || isIcmp(l);
  if (sealed && size < (l.proto === 6 ? 20 : 8)) return undefined;
  if (l.proto === 17 && word16(frame, l.l4 + 4) > size) return undefined;
  const unsummed = l.proto === 17 && !l.v6 && word16(frame, l.l4 + 6) === 0;
  if (sealed && !trusted && !unsummed && !sumIsRight(frame, l)) return undefined;
  if (isIcmp(l) && (l.v6 ? [1, 2, 3, 4] : [3, 4, 5, 11, 12]).includes(frame[l.l4]!)) {
    const quoted = layers(frame, l.l4 + 8);
    if (!quoted) return undefined;
    if (hex(addresses(frame, quoted)[0]) !== hex(addresses(frame, l)[1])) return undefined;
    const tuple = tupleOf(frame, quoted);
    return tuple && { tuple: reverse(tuple), inner: { at: quoted.ip } };
  }
  const tuple = tupleOf(frame, l);
  return tuple && { tuple, inner: undefined };
}

function tupleOf(frame: Uint8Array, l: Layers): ModelTuple | undefined {
  const [src, dst] = addresses(frame, l).map(hex) as [string, string];
  const base = { v6: l.v6, proto: l.proto, src, dst, icmp: isIcmp(l) };
  if (l.proto === 6 || l.proto === 17) {
    const [sp, dp] = [word16(frame, l.l4), word16(frame, l.l4 + 2)];
    return sp === 0 || dp === 0 ? undefined : { ...base, sp, dp };
  }
  if (!base.icmp) return { ...base, sp: 0, dp: 0 };
  const type = frame[l.l4]!;
  const queries = l.v6 ? [128, 129] : [0, 8, 13, 14, 15, 16];
  if (!queries.includes(type) || frame[l.l4 + 1] !== 0) return undefined;
  return { ...base, sp: word16(frame, l.l4 + 4), dp: type << 8 };
}

/**
 * The frame with its source or destination (and its ports) as in `to`. With `inner` (an ICMP error) the outer address of
 * that side changes, and in the quoted packet, which went the other way, address and ports of the other side.
 */
export function rewrite(
  frame: Uint8Array,
  to: ModelTuple,
  side: 'src' | 'dst',
  inner: Inner | undefined,
): Uint8Array {
  const out = frame.slice();
  const l = layers(out, 14)!;
  const address = Buffer.from(side === 'src' ? to.src : to.dst, 'hex');
  setAddress(out, l, side, address);
  if (inner) {
    const quoted = layers(out, inner.at)!;
    const whole = quoted.end <= out.length && sumIsRight(out, quoted);
    setAddress(out, quoted, side === 'src' ? 'dst' : 'src', address);
    // A checksum that was wrong stays as wrong as it was, which the tests do not look at.
    if (to.proto === 6 || to.proto === 17) {
      out.set([...be16(to.dp), ...be16(to.sp)], quoted.l4);
    }
    seal(out, quoted, whole);
  } else if (to.proto === 6 || to.proto === 17) {
    out.set([...be16(to.sp), ...be16(to.dp)], l.l4);
  }
  seal(out, l);
  return out;
}

function setAddress(out: Uint8Array, l: Layers, side: 'src' | 'dst', address: Uint8Array): void {
  const size = address.length;
  out.set(address, (l.v6 ? l.ip + 8 : l.ip + 12) + (side === 'dst' ? size : 0));
}

/** Checksums anew, of IP and of the transport header if all of it is there. */
function seal(out: Uint8Array, l: Layers, whole = true): void {
  if (!l.v6) {
    out.set([0, 0], l.ip + 10);
    out.set(be16(~onesSum(out.subarray(l.ip, l.l4)) & 0xffff), l.ip + 10);
  }
  const field = l.proto === 6 ? 16 : l.proto === 17 ? 6 : isIcmp(l) ? 2 : undefined;
  if (field === undefined || !whole) return;
  if (l.proto === 17 && word16(out, l.l4 + 6) === 0) return;
  out.set([0, 0], l.l4 + field);
  const body = out.subarray(l.l4, l.end);
  const sum = ~(l.proto === 1 ? onesSum(body) : onesSum(pseudo(out, l), body)) & 0xffff;
  out.set(be16(sum === 0 && l.proto === 17 ? 0xffff : sum), l.l4 + field);
}

/** The packet without Ethernet header. */
export function ipPacket(frame: Uint8Array): Uint8Array {
  return bytes(frame.subarray(14));
}
