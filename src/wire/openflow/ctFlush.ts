// Which tracked connections a flush is about: NXT_CT_FLUSH (ovs-ofctl(8), "ct-flush") and dpctl/flush-conntrack name them
// by parts of the tuples of both directions; what is left out matches everything.
//
// On the wire each tuple is a property with nested ones; addresses take 16 bytes, IPv4 ones mapped (::ffff:a.b.c.d).

import type { Reader, Writer } from './buffer.ts';
import { putProp, readProps } from './prop.ts';
import { OfError } from './types.ts';

/** Parts of a tuple; addresses of 4 or 16 bytes. Ports and ICMP fields that are 0 match everything, but for ICMP. */
export interface CtPartialTuple {
  src: Uint8Array | undefined;
  dst: Uint8Array | undefined;
  srcPort: number;
  dstPort: number;
  icmpId: number;
  icmpType: number;
  icmpCode: number;
}

export interface CtFlushMatch {
  /** IP protocol, 0 = any. */
  proto: number;
  orig: CtPartialTuple;
  reply: CtPartialTuple;
}

const ORIG_TUPLE = 0;
const REPLY_TUPLE = 1;
const ZONE_ID = 2;
const TUPLE_SRC = 0;
const TUPLE_DST = 1;
const TUPLE_SRC_PORT = 2;
const TUPLE_DST_PORT = 3;
const TUPLE_ICMP_ID = 4;
const TUPLE_ICMP_TYPE = 5;
const TUPLE_ICMP_CODE = 6;

export function anyTuple(): CtPartialTuple {
  return {
    src: undefined,
    dst: undefined,
    srcPort: 0,
    dstPort: 0,
    icmpId: 0,
    icmpType: 0,
    icmpCode: 0,
  };
}

export function isAnyTuple(tuple: CtPartialTuple): boolean {
  const { src, dst, srcPort, dstPort, icmpId, icmpType, icmpCode } = tuple;
  return (
    src === undefined && dst === undefined && !(srcPort | dstPort | icmpId | icmpType | icmpCode)
  );
}

/** 0, 4 or 6: the address family that the match names. */
export function familyOf({ orig, reply }: CtFlushMatch): 0 | 4 | 6 {
  const address = orig.src ?? orig.dst ?? reply.src ?? reply.dst;
  return address === undefined ? 0 : address.length === 4 ? 4 : 6;
}

function readAddress(body: Reader): Uint8Array | undefined {
  if (body.left < 16) throw new OfError('OFPBPC_BAD_LEN');
  const bytes = body.copy(16);
  if (bytes.every((byte) => byte === 0)) return undefined;
  const mapped =
    bytes.subarray(0, 10).every((byte) => byte === 0) && bytes[10] === 0xff && bytes[11] === 0xff;
  return mapped ? bytes.slice(12) : bytes;
}

/** Longer payloads are padding: Open vSwitch writes four bytes for 16 bits. */
function number(body: Reader, bytes: 1 | 2): number {
  if (body.left < bytes) throw new OfError('OFPBPC_BAD_LEN');
  return bytes === 1 ? body.u8() : body.u16();
}

function readTuple(r: Reader, family: (address: Uint8Array | undefined) => void): CtPartialTuple {
  const tuple = anyTuple();
  if (r.left < 4) throw new OfError('OFPBPC_BAD_LEN');
  r.skip(4);
  for (const { type, body } of readProps(r)) {
    switch (type) {
      case TUPLE_SRC:
        tuple.src = readAddress(body);
        family(tuple.src);
        break;
      case TUPLE_DST:
        tuple.dst = readAddress(body);
        family(tuple.dst);
        break;
      case TUPLE_SRC_PORT:
        tuple.srcPort = number(body, 2);
        break;
      case TUPLE_DST_PORT:
        tuple.dstPort = number(body, 2);
        break;
      case TUPLE_ICMP_ID:
        tuple.icmpId = number(body, 2);
        break;
      case TUPLE_ICMP_TYPE:
        tuple.icmpType = number(body, 1);
        break;
      case TUPLE_ICMP_CODE:
        tuple.icmpCode = number(body, 1);
        break;
    }
  }
  return tuple;
}

/** Body of NXT_CT_FLUSH. `zone` -1 = all zones; no `match` = all connections. */
export function decodeCtFlush(r: Reader): { zone: number; match?: CtFlushMatch } {
  const proto = r.u8();
  r.mustBeZero(7, 'NXBRC_MUST_BE_ZERO');
  const match: CtFlushMatch = { proto, orig: anyTuple(), reply: anyTuple() };
  let zone = -1;
  let bytes = 0;
  const family = (address: Uint8Array | undefined): void => {
    if (address === undefined) return;
    if (bytes !== 0 && bytes !== address.length) throw new OfError('OFPBPC_BAD_VALUE');
    bytes = address.length;
  };
  for (const { type, body } of readProps(r)) {
    if (type === ORIG_TUPLE) match.orig = readTuple(body, family);
    else if (type === REPLY_TUPLE) match.reply = readTuple(body, family);
    else if (type === ZONE_ID) zone = number(body, 2);
  }
  const all = proto === 0 && isAnyTuple(match.orig) && isAnyTuple(match.reply);
  return all ? { zone } : { zone, match };
}

function putAddress(w: Writer, type: number, address: Uint8Array | undefined): void {
  if (address === undefined) return;
  putProp(w, type, () => {
    if (address.length === 4) w.zeros(10).u16(0xffff);
    for (const byte of address) w.u8(byte);
  });
}

function putTuple(w: Writer, type: number, tuple: CtPartialTuple): void {
  if (isAnyTuple(tuple)) return;
  putProp(w, type, () => {
    w.zeros(4);
    putAddress(w, TUPLE_SRC, tuple.src);
    putAddress(w, TUPLE_DST, tuple.dst);
    const put16 = (prop: number, value: number): void => {
      if (value !== 0) putProp(w, prop, () => w.u16(value).zeros(2));
    };
    const put8 = (prop: number, value: number): void => {
      if (value !== 0) putProp(w, prop, () => w.u8(value));
    };
    put16(TUPLE_SRC_PORT, tuple.srcPort);
    put16(TUPLE_DST_PORT, tuple.dstPort);
    put16(TUPLE_ICMP_ID, tuple.icmpId);
    put8(TUPLE_ICMP_TYPE, tuple.icmpType);
    put8(TUPLE_ICMP_CODE, tuple.icmpCode);
  });
}

export function encodeCtFlush(w: Writer, message: { zone: number; match?: CtFlushMatch }): void {
  const { zone, match } = message;
  w.u8(match?.proto ?? 0).zeros(7);
  if (match !== undefined) {
    putTuple(w, ORIG_TUPLE, match.orig);
    putTuple(w, REPLY_TUPLE, match.reply);
  }
  if (zone >= 0) putProp(w, ZONE_ID, () => w.u16(zone).zeros(2));
}
