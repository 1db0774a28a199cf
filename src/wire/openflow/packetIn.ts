// Packet-ins in all their forms, and NXT_RESUME, which brings one back. OpenFlow 1.0.1 §5.4.1, 1.1 §A.4.1, 1.2 §A.4.1,
// 1.3 §7.4.1; NXT_PACKET_IN (17), NXT_PACKET_IN2 (30), NXT_RESUME (28).
//
//    1.0:   buffer 4, total_len 2, in_port 2, reason 1, pad 1, data
//    1.1:   buffer 4, in_port 4, phy_port 4, total_len 2, reason 1, table 1, data
//    1.2:   buffer 4, total_len 2, reason 1, table 1, [1.3: cookie 8], match, pad 2, data
//    NXT:   buffer 4, total_len 2, reason 1, table 1, cookie 8, match_len 2, pad 6, match, pad 2, data
//    NXT2:  properties

import { F_IN_PORT } from '../../../contract/key.ts';
import type { Reader, Writer } from './buffer.ts';
import type { BodyContext, Codecs } from './codec.ts';
import { decodeContinuation, encodeContinuation } from './continuation.ts';
import { port10To11, port11To10 } from './fieldAccess.ts';
import { pullMatch, pullNxMatch, pullOxmList, putMatch, putNxMatch, putOxmList } from './match.ts';
import { inPortMatch } from './packetOut.ts';
import { checkPort } from './port.ts';
import { get32 } from './prereq.ts';
import { putProp, readProps } from './prop.ts';
import type { PacketIn, PacketInReason } from './types.ts';
import { OfError } from './types.ts';

const REASONS: readonly PacketInReason[] = [
  'no_match',
  'action',
  'invalid_ttl',
  'action_set',
  'group',
  'packet_out',
];

/** Number on the wire: OpenFlow 1.4 split "action"; how a miss came about is Open vSwitch's own distinction. */
export function encodeReason(reason: PacketInReason, version: number): number {
  if (reason === 'implicit_miss') return 0;
  if (reason === 'explicit_miss') return version < 4 ? 1 : 0;
  const number = REASONS.indexOf(reason);
  return version < 5 && number > 2 ? 1 : number;
}

function decodeReason(number: number): PacketInReason {
  const reason = REASONS[number];
  if (reason === undefined) throw new OfError('NXBRC_BAD_REASON');
  return reason;
}

const NO_COOKIE = 0xffffffffffffffffn;
const LOOSE = { loose: true };

function decodeStandard(r: Reader, ctx: BodyContext): PacketIn {
  const v = ctx.version;
  const bufferId = r.u32();
  if (v === 1) {
    const totalLen = r.u16();
    const match = inPortMatch(port10To11(r.u16()));
    const reason = decodeReason(r.u8());
    r.skip(1);
    return { bufferId, totalLen, reason, table: 0xff, cookie: NO_COOKIE, match, data: r.rest() };
  }
  if (v === 2) {
    const match = inPortMatch(checkPort(r.u32()));
    r.skip(4);
    const totalLen = r.u16();
    const reason = decodeReason(r.u8());
    const table = r.u8();
    return { bufferId, totalLen, reason, table, cookie: NO_COOKIE, match, data: r.rest() };
  }
  const totalLen = r.u16();
  const reason = decodeReason(r.u8());
  const table = r.u8();
  const cookie = v >= 4 ? r.u64() : NO_COOKIE;
  const match = pullMatch(r, ctx, LOOSE);
  r.skip(2);
  return { bufferId, totalLen, reason, table, cookie, match, data: r.rest() };
}

function encodeStandard(w: Writer, p: PacketIn, ctx: BodyContext): void {
  const v = ctx.version;
  const inPort = get32(p.match.key, F_IN_PORT);
  const reason = encodeReason(p.reason, v);
  w.u32(p.bufferId);
  if (v === 1) {
    w.u16(p.totalLen).u16(port11To10(inPort)).u8(reason).zeros(1);
  } else if (v === 2) {
    w.u32(inPort).u32(inPort).u16(p.totalLen).u8(reason).u8(p.table);
  } else {
    w.u16(p.totalLen).u8(reason).u8(p.table);
    if (v >= 4) w.u64(p.cookie);
    putMatch(w, p.match, ctx);
    w.zeros(2);
  }
  w.put(p.data);
}

function decodeNxt(r: Reader, ctx: BodyContext): PacketIn {
  const bufferId = r.u32();
  const totalLen = r.u16();
  const reason = decodeReason(r.u8());
  const table = r.u8();
  const cookie = r.u64();
  const matchLen = r.u16();
  r.skip(6);
  const { match } = pullNxMatch(r, matchLen, ctx, LOOSE);
  r.skip(2);
  return { bufferId, totalLen, reason, table, cookie, match, data: r.rest() };
}

function encodeNxt(w: Writer, p: PacketIn, ctx: BodyContext): void {
  w.u32(p.bufferId).u16(p.totalLen).u8(encodeReason(p.reason, ctx.version)).u8(p.table);
  w.u64(p.cookie);
  const at = w.length;
  w.u16(0).zeros(6);
  w.patch16(at, putNxMatch(w, p.match, ctx));
  w.zeros(2).put(p.data);
}

// Properties of NXT_PACKET_IN2.
const PACKET = 0;
const FULL_LEN = 1;
const BUFFER_ID = 2;
const TABLE_ID = 3;
const COOKIE = 4;
const REASON = 5;
const METADATA = 6;
const USERDATA = 7;
const CONTINUATION = 8;

/** `resume`: from a controller, whose metadata has to be right. */
function decodeProps(r: Reader, ctx: BodyContext, resume: boolean): PacketIn {
  const p: PacketIn = {
    bufferId: 0xffffffff,
    totalLen: 0,
    reason: 'action',
    table: 0,
    cookie: NO_COOKIE,
    match: inPortMatch(0),
    data: new Uint8Array(0),
  };
  p.match.mask.fill(0);
  let fullLen: number | undefined;
  for (const { type, body } of readProps(r)) {
    if (type === PACKET) p.data = body.rest();
    else if (type === FULL_LEN) fullLen = body.u32();
    else if (type === BUFFER_ID) p.bufferId = body.u32();
    else if (type === TABLE_ID) p.table = body.u8();
    else if (type === COOKIE) p.cookie = readCookie(body);
    else if (type === REASON) p.reason = decodeReason(body.u8());
    else if (type === METADATA) p.match = pullOxmList(body, ctx, LOOSE).match;
    else if (type === USERDATA) p.userdata = body.rest();
    else if (type === CONTINUATION) p.continuation = decodeContinuation(body, ctx, !resume);
    else if (resume) throw new OfError('OFPBPC_BAD_TYPE');
  }
  if (p.data.length === 0) throw new OfError('OFPBPC_BAD_LEN');
  p.totalLen = fullLen ?? p.data.length;
  if (p.totalLen < p.data.length) throw new OfError('OFPBPC_BAD_LEN');
  return p;
}

/** 64-bit values of properties are aligned. */
function readCookie(body: Reader): bigint {
  body.skip(4);
  return body.u64();
}

function encodeProps(w: Writer, p: PacketIn, ctx: BodyContext): void {
  putProp(w, PACKET, () => w.put(p.data));
  if (p.totalLen !== p.data.length) putProp(w, FULL_LEN, () => w.u32(p.totalLen));
  if (p.bufferId !== 0xffffffff) putProp(w, BUFFER_ID, () => w.u32(p.bufferId));
  putProp(w, TABLE_ID, () => w.u8(p.table));
  if (p.cookie !== NO_COOKIE) putProp(w, COOKIE, () => w.zeros(4).u64(p.cookie));
  putProp(w, REASON, () => w.u8(encodeReason(p.reason, ctx.version)));
  // Open vSwitch writes OXM here even in OpenFlow 1.0.
  putProp(w, METADATA, () => putOxmList(w, p.match, ctx, ctx.version < 3 ? 0 : ctx.version));
  if (p.userdata !== undefined) putProp(w, USERDATA, () => w.put(p.userdata!));
  const { continuation } = p;
  if (continuation === undefined) return;
  putProp(w, CONTINUATION, () => encodeContinuation(w, continuation, ctx));
}

/** NXT_PACKET_IN and NXT_PACKET_IN2 by their numbers. */
export const packetInCodecs: Codecs = {
  packet_in: {
    decode: (r, ctx) => {
      if (ctx.kind === 'of')
        return { type: 'packet_in', format: 'standard', packetIn: decodeStandard(r, ctx) };
      return ctx.number === 17
        ? { type: 'packet_in', format: 'nxt_packet_in', packetIn: decodeNxt(r, ctx) }
        : { type: 'packet_in', format: 'nxt_packet_in2', packetIn: decodeProps(r, ctx, false) };
    },
    encode: (w, m, ctx) => {
      if (m.format === 'standard') encodeStandard(w, m.packetIn, ctx);
      else if (m.format === 'nxt_packet_in') encodeNxt(w, m.packetIn, ctx);
      else encodeProps(w, m.packetIn, ctx);
    },
  },
  resume: {
    decode: (r, ctx) => ({ type: 'resume', packetIn: decodeProps(r, ctx, true) }),
    encode: (w, m, ctx) => encodeProps(w, m.packetIn, ctx),
  },
};
