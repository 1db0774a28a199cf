// Actions from the wire, standard ones of all versions: OpenFlow 1.0.1 §5.2.4, 1.1 §A.2.5, 1.3 §7.2.4, 1.5.1 §7.2.6.
// Nicira's are in nxActionDecode.ts. The checks that need no match or switch are made here, with Open vSwitch's error
// codes; those that do (prerequisites, existing tables and ports) belong to the switch.
//
//     0      2      4
//    +------+------+------------------------+      type 0xffff: 4 bytes of vendor, 2 bytes of subtype follow
//    | type | len  | argument, padded to 8  |
//    +------+------+------------------------+

import type { Reader } from './buffer.ts';
import { fromBytes, port10To11, toBytes } from './fieldAccess.ts';
import { fieldByName } from './fields.ts';
import { isValueValid } from './match.ts';
import { decodeNxAction, isNxAction } from './nxActionDecode.ts';
import type { CodecContext } from './oxm.ts';
import { readActionEntry, readActionField } from './oxm.ts';
import { isMpls, isVlanType } from './prereq.ts';
import { checkDst, checkSrc } from './subfield.ts';
import type { Action } from './types.ts';
import * as t from './types.ts';
import { OfError } from './types.ts';

const VENDOR = 0xffff;
export const NX_VENDOR = 0x00002320;
export const ONF_VENDOR = 0x4f4e4600;

/** Actions may nest (clone, ct, write_actions); no sane controller comes near this. */
const MAX_DEPTH = 64;

/** Reads actions to the end of `r`. */
export function decodeActions(r: Reader, ctx: CodecContext, depth = 0): Action[] {
  if (depth > MAX_DEPTH) throw new OfError('OFPBAC_TOO_MANY', 'actions nested too deeply');
  if (r.left % 8 !== 0) throw new OfError('OFPBRC_BAD_LEN');
  const actions: Action[] = [];
  while (r.left > 0) actions.push(decodeAction(r, ctx, depth));
  return actions;
}

function decodeAction(r: Reader, ctx: CodecContext, depth: number): Action {
  const type = r.u16();
  const length = r.u16();
  if (length < 8 || length % 8 !== 0 || length - 4 > r.left) throw badLength(r, type, ctx.version);
  const body = r.sub(length - 4, 'OFPBAC_BAD_LEN');
  if (type === VENDOR) {
    const vendor = body.u32();
    if (vendor !== NX_VENDOR && vendor !== ONF_VENDOR) throw new OfError('OFPBAC_BAD_VENDOR');
    const subtype = body.u16();
    if (vendor === NX_VENDOR) return decodeNxAction(body, subtype, length, ctx, depth);
    if (subtype === 3200 && (ctx.version === 4 || ctx.version === 5)) {
      body.skip(2);
      return copyField(body, ctx, 2);
    }
    throw new OfError('OFPBAC_BAD_VENDOR_TYPE');
  }
  return ctx.version === 1 ? decode10(body, type, length) : decode11(body, type, length, ctx);
}

/** A type that does not exist is worse than a bad length. */
function badLength(r: Reader, type: number, version: number): OfError {
  if (type === VENDOR && r.left >= 6) {
    const vendor = r.u32();
    if (vendor !== NX_VENDOR && vendor !== ONF_VENDOR) return new OfError('OFPBAC_BAD_VENDOR');
    if (vendor === NX_VENDOR && !isNxAction(r.u16(), version))
      return new OfError('OFPBAC_BAD_VENDOR_TYPE');
  } else if (type !== VENDOR) {
    const known =
      version === 1
        ? type <= 11
        : HAS_WORD.has(type) ||
          [0, 3, 4].includes(type) ||
          (type === 25 && version >= 3) ||
          ((type === 28 || type === 29) && version >= 6);
    if (!known) return new OfError('OFPBAC_BAD_TYPE');
  }
  return new OfError('OFPBAC_BAD_LEN');
}

function exactly(length: number, expected: number): void {
  if (length !== expected) throw new OfError('OFPBAC_BAD_LEN');
}

/** OFPP_NONE and port numbers between the ranges cannot be output to. */
export function checkOutputPort(port: number): number {
  if (port < 0xff00 || (port >= t.OFPP_IN_PORT && port !== t.OFPP_NONE)) return port;
  throw new OfError('OFPBAC_BAD_OUT_PORT');
}

/** A 32-bit port number of OpenFlow 1.1 and later. */
export function checkPort11(port: number): number {
  if (port >= 0xff00 && port < t.OFPP_MAX) throw new OfError('OFPBAC_BAD_OUT_PORT');
  return port;
}

/** A set_field action that remembers the older name it was given by. */
export function legacySet(legacy: string, field: string, value: bigint): Action {
  const f = fieldByName(field);
  return {
    type: 'set_field',
    field,
    value: toBytes(value, f.bytes),
    mask: new Uint8Array(f.bytes).fill(0xff),
    legacy,
  };
}

function dlAddr(r: Reader, legacy: string, field: string, length: number): Action {
  exactly(length, 16);
  return legacySet(legacy, field, fromBytes(r.copy(6)));
}

function setTos(tos: number): Action {
  if ((tos & 3) !== 0) throw new OfError('OFPBAC_BAD_ARGUMENT');
  return legacySet('mod_nw_tos', 'ip_dscp', BigInt(tos >> 2));
}

function decode10(r: Reader, type: number, length: number): Action {
  switch (type) {
    case 0: {
      exactly(length, 8);
      const port = checkOutputPort(port10To11(r.u16()));
      return { type: 'output', port, maxLen: r.u16() };
    }
    case 1:
      exactly(length, 8);
      return setVlanVid(r.u16(), true);
    case 2:
      exactly(length, 8);
      return setVlanPcp(r.u8(), true);
    case 3:
      exactly(length, 8);
      return { type: 'strip_vlan', legacy: true };
    case 4:
      return dlAddr(r, 'mod_dl_src', 'eth_src', length);
    case 5:
      return dlAddr(r, 'mod_dl_dst', 'eth_dst', length);
    case 6:
      exactly(length, 8);
      return legacySet('mod_nw_src', 'ip_src', BigInt(r.u32()));
    case 7:
      exactly(length, 8);
      return legacySet('mod_nw_dst', 'ip_dst', BigInt(r.u32()));
    case 8:
      exactly(length, 8);
      return setTos(r.u8());
    case 9:
      exactly(length, 8);
      return legacySet('mod_tp_src', 'tcp_src', BigInt(r.u16()));
    case 10:
      exactly(length, 8);
      return legacySet('mod_tp_dst', 'tcp_dst', BigInt(r.u16()));
    case 11: {
      exactly(length, 16);
      const port = port10To11(r.u16());
      r.skip(6);
      if (port >= 0xff00 && port !== t.OFPP_IN_PORT && port !== t.OFPP_LOCAL)
        throw new OfError('OFPBAC_BAD_OUT_PORT');
      return { type: 'enqueue', port, queue: r.u32() };
    }
    default:
      throw new OfError('OFPBAC_BAD_TYPE');
  }
}

function setVlanVid(vid: number, pushIfNeeded: boolean): Action {
  if (vid > 0xfff) throw new OfError('OFPBAC_BAD_ARGUMENT');
  return { type: 'set_vlan_vid', vid, pushIfNeeded };
}

function setVlanPcp(pcp: number, pushIfNeeded: boolean): Action {
  if (pcp > 7) throw new OfError('OFPBAC_BAD_ARGUMENT');
  return { type: 'set_vlan_pcp', pcp, pushIfNeeded };
}

export function pushMpls(ethertype: number): Action {
  if (!isMpls(ethertype)) throw new OfError('OFPBAC_BAD_ARGUMENT');
  return { type: 'push_mpls', ethertype };
}

function decode11(r: Reader, type: number, length: number, ctx: CodecContext): Action {
  switch (type) {
    case 0: {
      exactly(length, 16);
      const port = checkOutputPort(checkPort11(r.u32()));
      return { type: 'output', port, maxLen: r.u16() };
    }
    case 3:
      return dlAddr(r, 'mod_dl_src', 'eth_src', length);
    case 4:
      return dlAddr(r, 'mod_dl_dst', 'eth_dst', length);
    case 25:
      return setField(r, ctx);
    case 28:
      if (ctx.version < 6) break;
      return copyField(r, ctx, 2);
    case 29:
      if (ctx.version < 6) break;
      exactly(length, 8);
      return { type: 'meter', meterId: r.u32() };
  }
  if (!HAS_WORD.has(type)) throw new OfError('OFPBAC_BAD_TYPE');
  exactly(length, 8);
  return decode11Word(r, type);
}

const HAS_WORD = new Set([1, 2, 5, 6, 7, 8, 9, 10, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24]);

/** The actions whose argument fits into 4 bytes. */
function decode11Word(r: Reader, type: number): Action {
  switch (type) {
    case 1:
      return setVlanVid(r.u16(), false);
    case 2:
      return setVlanPcp(r.u8(), false);
    case 5:
      return legacySet('mod_nw_src', 'ip_src', BigInt(r.u32()));
    case 6:
      return legacySet('mod_nw_dst', 'ip_dst', BigInt(r.u32()));
    case 7:
      return setTos(r.u8());
    case 8: {
      const ecn = r.u8();
      if (ecn > 3) throw new OfError('OFPBAC_BAD_ARGUMENT');
      return legacySet('mod_nw_ecn', 'nw_ecn', BigInt(ecn));
    }
    case 9:
      return legacySet('mod_tp_src', 'tcp_src', BigInt(r.u16()));
    case 10:
      return legacySet('mod_tp_dst', 'tcp_dst', BigInt(r.u16()));
    case 13:
      return legacySet('set_mpls_label', 'mpls_label', BigInt(r.u32() & 0xfffff));
    case 14:
      return legacySet('set_mpls_tc', 'mpls_tc', BigInt(r.u8() & 7));
    case 15:
      return legacySet('set_mpls_ttl', 'mpls_ttl', BigInt(r.u8()));
    case 16:
      return { type: 'dec_mpls_ttl' };
    case 17: {
      const ethertype = r.u16();
      if (!isVlanType(ethertype)) throw new OfError('OFPBAC_BAD_ARGUMENT');
      return { type: 'push_vlan', ethertype };
    }
    case 18:
      return { type: 'strip_vlan' };
    case 19:
      return pushMpls(r.u16());
    case 20:
      return { type: 'pop_mpls', ethertype: r.u16() };
    case 21:
      return { type: 'set_queue', queue: r.u32() };
    case 22:
      return { type: 'group', group: r.u32() };
    case 23:
      return legacySet('mod_nw_ttl', 'nw_ttl', BigInt(r.u8()));
    default:
      return { type: 'dec_ttl', controllerIds: [0] };
  }
}

function setField(r: Reader, ctx: CodecContext): Action {
  if (ctx.version < 3) throw new OfError('OFPBAC_BAD_TYPE');
  const e = readActionEntry(r, ctx);
  const f = e.field;
  // Masks came with OpenFlow 1.5.
  if (e.mask !== undefined && ctx.version < 6) throw new OfError('OFPBAC_BAD_SET_MASK');
  const mask = e.mask ?? new Uint8Array(f.bytes).fill(0xff);
  if (!r.restIsZero()) throw new OfError('OFPBAC_BAD_SET_ARGUMENT');
  if (f.name === 'in_port_oxm' || !f.writable) throw new OfError('OFPBAC_BAD_SET_ARGUMENT');
  const value = fromBytes(e.value);
  if (!isValueValid(f, value)) throw new OfError('OFPBAC_BAD_SET_ARGUMENT');
  if (f.name === 'vlan_vid' && (fromBytes(mask) & value & 0x1000n) === 0n)
    throw new OfError('OFPBAC_BAD_SET_ARGUMENT');
  return { type: 'set_field', field: f.name, value: e.value, mask };
}

/** Three offsets, `pad` bytes, then the OXM headers of source and destination. */
function copyField(r: Reader, ctx: CodecContext, pad: number): Action {
  const bits = r.u16();
  const srcOffset = r.u16();
  const dstOffset = r.u16();
  r.skip(pad);
  return moveFrom(r, ctx, bits, srcOffset, dstOffset);
}

export function moveFrom(
  r: Reader,
  ctx: CodecContext,
  bits: number,
  srcOffset: number,
  dstOffset: number,
): Action {
  const src = readActionField(r, ctx);
  const dst = readActionField(r, ctx);
  if (!r.restIsZero()) throw new OfError('NXBRC_MUST_BE_ZERO');
  return {
    type: 'move',
    src: checkSrc(src, srcOffset, bits),
    dst: checkDst(dst, dstOffset, bits),
  };
}

/** Actions of `length` bytes; the length of a packet-out or of a nested list. */
export function pullActions(r: Reader, length: number, ctx: CodecContext): Action[] {
  if (length > r.left || length % 8 !== 0) throw new OfError('OFPBRC_BAD_LEN');
  return decodeActions(r.sub(length, 'OFPBAC_BAD_LEN'), ctx);
}
