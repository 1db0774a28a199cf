// The actions ct (NXAST_CT, 35) and nat (NXAST_NAT, 36) from the wire; ovs-actions(7), "The ct action".

import { decodeActions } from './actionDecode.ts';
import type { Reader } from './buffer.ts';
import { fromBytes } from './fieldAccess.ts';
import type { CodecContext } from './oxm.ts';
import { readNxmHeader } from './oxm.ts';
import { checkSrc, decodeBits, decodeOffset } from './subfield.ts';
import type { Action, Subfield } from './types.ts';
import { OfError } from './types.ts';

export const CT_COMMIT = 1;
export const CT_FORCE = 2;

/** Range words that are present, in this order. */
const IPV4_MIN = 1;
const IPV4_MAX = 2;
const IPV6_MIN = 4;
const IPV6_MAX = 8;
const PROTO_MIN = 16;
const PROTO_MAX = 32;

export function decodeCt(r: Reader, ctx: CodecContext, depth: number): Action {
  const bad = new OfError('OFPBAC_BAD_ARGUMENT');
  const flags = r.u16();
  if ((flags & CT_FORCE) !== 0 && (flags & CT_COMMIT) === 0) throw bad;
  const zone = ctZone(r, ctx);
  const table = r.u8();
  r.skip(3);
  const alg = r.u16();
  const actions = decodeActions(r, ctx, depth + 1);
  for (const a of actions) checkNested(a);
  if ((flags & CT_COMMIT) === 0) {
    // Without commit only a bare nat makes sense: "apply the connection's translation".
    for (const a of actions) {
      if (a.type !== 'nat' || a.flags !== 0 || a.addressMin !== undefined) throw bad;
    }
  }
  return { type: 'ct', flags, zone, table, alg, actions };
}

function ctZone(r: Reader, ctx: CodecContext): number | Subfield {
  const at = r.offset;
  if (r.u32() === 0) return r.u16();
  r.offset = at;
  const f = readNxmHeader(r, ctx);
  const ofsNbits = r.u16();
  const zone = checkSrc(f, decodeOffset(ofsNbits), decodeBits(ofsNbits));
  if (zone.bits !== 16) throw new OfError('OFPBAC_BAD_SET_LEN');
  return zone;
}

function checkNested(a: Action): void {
  if (a.type === 'nat') return;
  const field =
    a.type === 'set_field' ? a.field : a.type === 'load' || a.type === 'move' ? a.dst.field : '';
  if (field !== 'ct_mark' && field !== 'ct_label') throw new OfError('OFPBAC_BAD_ARGUMENT');
}

export function decodeNat(r: Reader): Action {
  const bad = new OfError('OFPBAC_BAD_ARGUMENT');
  r.skip(2);
  const flags = r.u16();
  const present = r.u16();
  if ((flags & ~0x1f) !== 0 || (flags & 3) === 3 || (flags & 24) === 24) throw bad;
  const word = (bytes: number): Uint8Array => {
    if (r.left < bytes) throw bad;
    return r.copy(bytes);
  };
  const nat: Action & { type: 'nat' } = { type: 'nat', flags, portMin: 0, portMax: 0 };
  const v4 = (present & (IPV4_MIN | IPV4_MAX)) !== 0;
  const v6 = (present & (IPV6_MIN | IPV6_MAX)) !== 0;
  if (v4 && v6) throw bad;
  if (v4 || v6) {
    if ((present & (v4 ? IPV4_MIN : IPV6_MIN)) === 0) throw bad;
    nat.addressMin = word(v4 ? 4 : 16);
    if (nat.addressMin.every((b) => b === 0)) throw bad;
    if ((present & (v4 ? IPV4_MAX : IPV6_MAX)) !== 0) {
      nat.addressMax = word(v4 ? 4 : 16);
      if (fromBytes(nat.addressMax) < fromBytes(nat.addressMin)) throw bad;
    }
  }
  if ((present & PROTO_MIN) !== 0) {
    if (!v4 && !v6) throw bad;
    nat.portMin = Number(fromBytes(word(2)));
    if (nat.portMin === 0) throw bad;
    if ((present & PROTO_MAX) !== 0) {
      nat.portMax = Number(fromBytes(word(2)));
      if (nat.portMax < nat.portMin) throw bad;
    }
  } else if ((present & PROTO_MAX) !== 0) {
    throw bad;
  }
  return nat;
}
