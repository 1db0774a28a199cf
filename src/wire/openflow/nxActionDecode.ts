// Nicira extension actions from the wire (vendor 0x00002320). Layouts and argument checks are those of Open vSwitch;
// ovs-actions(7) says what they mean. All numbers that Open vSwitch 3.1 knows are decoded; the two debugging actions with
// --enable-dummy only, else they get OFPBAC_BAD_VENDOR_TYPE as unknown numbers do.

import { PACKET_TYPE_NSH } from '../../../contract/tunnel.ts';
import { checkOutputPort, decodeActions, legacySet, moveFrom, pushMpls } from './actionDecode.ts';
import type { Reader } from './buffer.ts';
import { decodeCt, decodeNat } from './ctDecode.ts';
import { readEncapProps } from './encapProps.ts';
import { port10To11 } from './fieldAccess.ts';
import { decodeLearn } from './learnCodec.ts';
import type { CodecContext } from './oxm.ts';
import { readActionEntry, readActionField, readNxmHeader } from './oxm.ts';
import { readProps } from './prop.ts';
import { checkDst, checkSrc, decodeBits, decodeOffset } from './subfield.ts';
import type { Action } from './types.ts';
import { OfError } from './types.ts';

/** Length of the fixed-size actions, minimum length (negative) of the others. */
const LENGTHS: Readonly<Record<number, number>> = {
  1: 16,
  2: 16,
  4: 16,
  5: 16,
  6: -24,
  7: 24,
  8: -16,
  9: 24,
  10: 32,
  12: -32,
  13: -32,
  14: 16,
  15: 24,
  16: -32,
  17: 16,
  18: 16,
  19: 16,
  20: 16,
  21: -16,
  22: 32,
  23: 16,
  24: 16,
  25: 16,
  26: 16,
  27: 24,
  28: 24,
  29: 24,
  30: 16,
  31: 16,
  32: 24,
  33: -16,
  34: 16,
  35: -24,
  36: -16,
  37: -16,
  38: 32,
  39: 16,
  40: 16,
  41: 32,
  42: -16,
  43: 16,
  44: 16,
  45: -40,
  46: -16,
  47: -16,
  48: 16,
  49: -24,
  50: 24,
};

/** Actions of Open vSwitch's test suite. */
const DEBUG_SLOW = 254;
const DEBUG_RECIRC = 255;

/** Only OpenFlow 1.0 needs these: later versions have standard actions. */
const ONLY_10 = new Set([4, 18, 23, 24, 25, 26, 30, 31, 40]);
/** Superseded by set_field and copy_field in OpenFlow 1.5. */
const UNTIL_14 = new Set([6, 7, 33]);
/** Packet types came with OpenFlow 1.3. */
const SINCE_13 = new Set([46, 47, 48]);

/** Whether the version has the action. */
export function isNxAction(subtype: number, version: number): boolean {
  return (
    LENGTHS[subtype] !== undefined &&
    !(version > 1 && ONLY_10.has(subtype)) &&
    !(version < 4 && SINCE_13.has(subtype)) &&
    !(version > 5 && UNTIL_14.has(subtype))
  );
}

/** `r` starts behind the subtype; `length` is that of the whole action. */
export function decodeNxAction(
  r: Reader,
  subtype: number,
  length: number,
  ctx: CodecContext,
  depth: number,
): Action {
  const isDebugging = subtype === DEBUG_SLOW || subtype === DEBUG_RECIRC;
  const expected = isDebugging ? 16 : (LENGTHS[subtype] ?? 0);
  const isKnown = isDebugging ? ctx.debugActions === true : isNxAction(subtype, ctx.version);
  if (!isKnown) throw new OfError('OFPBAC_BAD_VENDOR_TYPE');
  if (expected > 0 ? length !== expected : length < -expected) throw new OfError('OFPBAC_BAD_LEN');
  switch (subtype) {
    case 1:
      return { type: 'resubmit', inPort: port10To11(r.u16()), table: 0xff };
    case 2:
      r.skip(2);
      return legacySet('set_tunnel', 'tun_id', BigInt(r.u32()));
    case 4:
      r.skip(2);
      return { type: 'set_queue', queue: r.u32() };
    case 5:
      return { type: 'pop_queue' };
    case 6: {
      const bits = r.u16();
      const srcOffset = r.u16();
      return moveFrom(r, ctx, bits, srcOffset, r.u16());
    }
    case 7:
      return regLoad(r, ctx);
    case 8:
      return { type: 'note', data: r.rest() };
    case 9:
      r.skip(6);
      return legacySet('set_tunnel64', 'tun_id', r.u64());
    case 10:
      return multipath(r, ctx);
    case 12:
      return bundle(r, ctx, false);
    case 13:
      return bundle(r, ctx, true);
    case 14:
    case 44: {
      const inPort = port10To11(r.u16());
      const table = r.u8();
      r.mustBeZero(3, 'OFPBAC_BAD_ARGUMENT');
      return { type: 'resubmit', inPort, table, ...(subtype === 44 ? { withCt: true } : {}) };
    }
    case 15: {
      const ofsNbits = r.u16();
      const f = readNxmHeader(r, ctx);
      const maxLen = r.u16();
      r.mustBeZero(6, 'OFPBAC_BAD_ARGUMENT');
      const source = checkSrc(f, decodeOffset(ofsNbits), decodeBits(ofsNbits));
      return { type: 'output_reg', source, maxLen };
    }
    case 16:
    case 45:
      return decodeLearn(r, ctx, subtype === 45);
    case 17:
      return { type: 'exit' };
    case DEBUG_SLOW:
    case DEBUG_RECIRC:
      r.mustBeZero(6, 'OFPBAC_BAD_ARGUMENT');
      return { type: subtype === DEBUG_SLOW ? 'debug_slow' : 'debug_recirc' };
    case 18:
      return { type: 'dec_ttl', controllerIds: [0] };
    case 19:
      return { type: 'fin_timeout', idleTimeout: r.u16(), hardTimeout: r.u16() };
    case 20: {
      const maxLen = r.u16();
      const controllerId = r.u16();
      return { type: 'controller', maxLen, controllerId, reason: r.u8() };
    }
    case 21:
      return decTtl(r);
    case 22: {
      r.mustBeZero(6, 'NXBRC_MUST_BE_ZERO');
      return { type: 'write_metadata', metadata: r.u64(), mask: r.u64() };
    }
    case 23:
      return pushMpls(r.u16());
    case 24:
      return { type: 'pop_mpls', ethertype: r.u16() };
    case 25:
      return legacySet('set_mpls_ttl', 'mpls_ttl', BigInt(r.u8()));
    case 26:
      return { type: 'dec_mpls_ttl' };
    case 27:
    case 28:
      return stack(r, ctx, subtype === 27);
    case 29:
    case 38:
    case 41:
      return sample(r, subtype);
    case 30:
      r.skip(2);
      return legacySet('set_mpls_label', 'mpls_label', BigInt(r.u32() & 0xfffff));
    case 31:
      return legacySet('set_mpls_tc', 'mpls_tc', BigInt(r.u8() & 7));
    case 32: {
      const ofsNbits = r.u16();
      const maxLen = r.u16();
      const f = readActionField(r, ctx);
      if (!r.restIsZero()) throw new OfError('NXBRC_MUST_BE_ZERO');
      const source = checkSrc(f, decodeOffset(ofsNbits), decodeBits(ofsNbits));
      return { type: 'output_reg', source, maxLen };
    }
    case 33:
      return regLoad2(r, ctx);
    case 34: {
      const clause = r.u8();
      const nClauses = r.u8();
      if (nClauses < 2 || nClauses > 64 || clause >= nClauses)
        throw new OfError('NXBAC_BAD_CONJUNCTION');
      return { type: 'conjunction', id: r.u32(), clause, nClauses };
    }
    case 35:
      return decodeCt(r, ctx, depth);
    case 36:
      return decodeNat(r);
    case 37:
      return controller2(r);
    case 39: {
      const port = checkOutputPort(port10To11(r.u16()));
      const maxLen = r.u32();
      if (maxLen < 14) throw new OfError('OFPBAC_BAD_ARGUMENT');
      return { type: 'output_trunc', port, maxLen };
    }
    case 40:
      r.skip(2);
      return { type: 'group', group: r.u32() };
    case 42:
      r.skip(6);
      return { type: 'clone', actions: decodeActions(r, ctx, depth + 1) };
    case 43:
      return { type: 'ct_clear' };
    case 46:
      return encap(r);
    case 47:
      r.skip(2);
      if (length > 16) throw new OfError('NXBAC_UNKNOWN_ED_PROP');
      return { type: 'decap', packetType: r.u32() };
    case 48:
      return { type: 'dec_nsh_ttl' };
    case 49: {
      const pktLen = r.u16();
      const offset = r.u16();
      const f = readActionField(r, ctx);
      if (!r.restIsZero()) throw new OfError('NXBRC_MUST_BE_ZERO');
      return { type: 'check_pkt_larger', pktLen, dst: checkDst(f, offset, 1) };
    }
    default:
      return deleteField(r, ctx);
  }
}

/** Ethernet, MPLS unicast, MPLS multicast, NSH. */
const ENCAPSULATIONS = new Set([0, 0x18847, 0x18848, PACKET_TYPE_NSH]);

function encap(r: Reader): Action {
  r.skip(2); // size of the header, if it matters
  const packetType = r.u32();
  if (!ENCAPSULATIONS.has(packetType)) throw new OfError('NXBAC_BAD_HEADER_TYPE');
  const properties = readEncapProps(r);
  return { type: 'encap', packetType, ...(properties.length === 0 ? {} : { properties }) };
}

/** Only options of a tunnel can be taken away. */
function deleteField(r: Reader, ctx: CodecContext): Action {
  const f = readActionField(r, ctx);
  if (f.tlvIndex === undefined) throw new OfError('OFPBAC_BAD_ARGUMENT');
  return { type: 'delete_field', field: f.name };
}

function regLoad(r: Reader, ctx: CodecContext): Action {
  const ofsNbits = r.u16();
  const f = readNxmHeader(r, ctx);
  const value = r.u64();
  const dst = checkDst(f, decodeOffset(ofsNbits), decodeBits(ofsNbits));
  if (value >> BigInt(dst.bits) !== 0n) throw new OfError('OFPBAC_BAD_ARGUMENT');
  return { type: 'load', dst, value };
}

function regLoad2(r: Reader, ctx: CodecContext): Action {
  const e = readActionEntry(r, ctx);
  if (!r.restIsZero() || !e.field.writable) throw new OfError('OFPBAC_BAD_SET_ARGUMENT');
  const mask = e.mask ?? new Uint8Array(e.field.bytes).fill(0xff);
  return { type: 'set_field', field: e.field.name, value: e.value, mask, load2: true };
}

function decTtl(r: Reader): Action {
  const n = r.u16();
  r.mustBeZero(4, 'NXBRC_MUST_BE_ZERO');
  const controllerIds: number[] = [];
  for (let i = 0; i < n; i++) controllerIds.push(r.u16());
  return { type: 'dec_ttl', controllerIds, explicitIds: true };
}

function stack(r: Reader, ctx: CodecContext, push: boolean): Action {
  const offset = r.u16();
  const f = readActionField(r, ctx);
  const bits = r.u16();
  if (!r.restIsZero()) throw new OfError('NXBRC_MUST_BE_ZERO');
  return push
    ? { type: 'stack_push', subfield: checkSrc(f, offset, bits) }
    : { type: 'stack_pop', subfield: checkDst(f, offset, bits) };
}

/** Numbers of NX_HASH_FIELDS_*. */
const MAX_HASH_FIELDS = 6;

function multipath(r: Reader, ctx: CodecContext): Action {
  const fields = r.u16();
  const basis = r.u16();
  r.skip(2);
  const algorithm = r.u16();
  const maxLink = r.u16();
  const arg = r.u32();
  r.skip(2);
  const ofsNbits = r.u16();
  const f = readNxmHeader(r, ctx);
  const bits = decodeBits(ofsNbits);
  if (fields > MAX_HASH_FIELDS || algorithm > 3 || 2 ** bits < maxLink + 1)
    throw new OfError('OFPBAC_BAD_ARGUMENT');
  const dst = checkDst(f, decodeOffset(ofsNbits), bits);
  return { type: 'multipath', fields, basis, algorithm, maxLink, arg, dst };
}

const NXM_OF_IN_PORT = 0x00000002;
const BUNDLE_MAX_MEMBERS = 2048;

function bundle(r: Reader, ctx: CodecContext, load: boolean): Action {
  const algorithm = r.u16();
  const fields = r.u16();
  const basis = r.u16();
  const memberType = r.u32();
  const n = r.u16();
  const ofsNbits = r.u16();
  const dstAt = r.offset;
  const dstHeader = r.u32();
  r.mustBeZero(4, 'OFPBAC_BAD_ARGUMENT');
  if (fields > MAX_HASH_FIELDS || n > BUNDLE_MAX_MEMBERS || algorithm > 1)
    throw new OfError('OFPBAC_BAD_ARGUMENT');
  if (memberType !== NXM_OF_IN_PORT) throw new OfError('OFPBAC_BAD_ARGUMENT');
  const members: number[] = [];
  const list = r.sub(r.left);
  for (let i = 0; i < n; i++) members.push(port10To11(list.u16()));
  for (const m of members) checkMember(m);
  if (!load) {
    if (ofsNbits !== 0 || dstHeader !== 0) throw new OfError('OFPBAC_BAD_ARGUMENT');
    return { type: 'bundle', fields, basis, algorithm, members };
  }
  r.offset = dstAt;
  const f = readNxmHeader(r, ctx);
  r.offset = r.end;
  const bits = decodeBits(ofsNbits);
  if (bits < 16) throw new OfError('OFPBAC_BAD_ARGUMENT');
  const dst = checkDst(f, decodeOffset(ofsNbits), bits);
  return { type: 'bundle', fields, basis, algorithm, members, dst };
}

function checkMember(port: number): void {
  // Unlike an output, a member may be OFPP_NONE: "no port".
  if (port !== 0xffffffff) checkOutputPort(port);
}

function sample(r: Reader, subtype: number): Action {
  const probability = r.u16();
  const collectorSetId = r.u32();
  const obsDomainId = r.u32();
  const obsPointId = r.u32();
  let samplingPort = 0xffffffff;
  let direction = 0;
  if (subtype !== 29) {
    samplingPort = port10To11(r.u16());
    const d = r.u8();
    if (subtype === 41) {
      r.mustBeZero(5, 'NXBRC_MUST_BE_ZERO');
      if (d > 2) throw new OfError('OFPBAC_BAD_ARGUMENT');
      direction = d;
    }
  }
  if (probability === 0) throw new OfError('OFPBAC_BAD_ARGUMENT');
  return {
    type: 'sample',
    probability,
    collectorSetId,
    obsDomainId,
    obsPointId,
    samplingPort,
    direction,
  };
}

function controller2(r: Reader): Action {
  r.mustBeZero(6, 'NXBRC_MUST_BE_ZERO');
  const action: Action & { type: 'controller' } = {
    type: 'controller',
    maxLen: 0xffff,
    controllerId: 0,
    reason: 1,
  };
  for (const { type, body } of readProps(r)) {
    if (type === 0) action.maxLen = body.u16();
    else if (type === 1) action.controllerId = body.u16();
    else if (type === 2) action.reason = body.u8();
    else if (type === 3) action.userdata = body.rest();
    else if (type === 4) action.pause = true;
    else if (type === 5) action.meterId = body.u32();
    else throw new OfError('OFPBPC_BAD_TYPE');
  }
  return action;
}
