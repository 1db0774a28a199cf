// Packet-outs: OpenFlow 1.0.1 §5.3.6, 1.1 §A.3.7, 1.5.1 §7.3.6 (metadata of the packet as a match).

import { F_IN_PORT, FLOW_SIZE } from '../../../contract/key.ts';
import { pullActions } from './actionDecode.ts';
import { encodeActions } from './actionEncode.ts';
import type { Reader, Writer } from './buffer.ts';
import type { BodyContext, Codecs } from './codec.ts';
import { emptyMatch, port10To11, port11To10 } from './fieldAccess.ts';
import { NO_BUFFER } from './flowMod.ts';
import { verifyActions } from './instruction.ts';
import { pullMatch, putMatch } from './match.ts';
import { checkPort } from './port.ts';
import { get32, put32 } from './prereq.ts';
import type { Match, PacketOut } from './types.ts';
import * as t from './types.ts';
import { OfError } from './types.ts';

/** The match that an input port alone makes. */
export function inPortMatch(port: number): Match {
  const match = emptyMatch(FLOW_SIZE);
  put32(match.key, F_IN_PORT, port);
  put32(match.mask, F_IN_PORT, 0xffffffff);
  return match;
}

function decode(r: Reader, ctx: BodyContext): PacketOut {
  const v = ctx.version;
  const bufferId = r.u32();
  let match: Match;
  let actionsLen: number;
  if (v >= 6) {
    actionsLen = r.u16();
    r.skip(2);
    match = pullMatch(r, ctx, { loose: true, pipelineOnly: true });
    if (get32(match.mask, F_IN_PORT) === 0) throw new OfError('OFPBRC_BAD_PORT');
  } else {
    match = inPortMatch(v === 1 ? port10To11(r.u16()) : checkPort(r.u32()));
    actionsLen = r.u16();
    if (v > 1) r.skip(6);
  }
  const actions = pullActions(r, actionsLen, ctx);
  verifyActions(actions, v);
  const inPort = get32(match.key, F_IN_PORT);
  if (
    inPort >= 0xff00 &&
    inPort !== t.OFPP_LOCAL &&
    inPort !== t.OFPP_NONE &&
    inPort !== t.OFPP_CONTROLLER
  )
    throw new OfError('OFPBRC_BAD_PORT');
  const rest = r.rest();
  const data = bufferId === NO_BUFFER ? rest : new Uint8Array(0);
  return { bufferId, inPort, match, actions, data };
}

function encode(w: Writer, p: PacketOut, ctx: BodyContext): void {
  const v = ctx.version;
  w.u32(p.bufferId);
  let lengthAt: number;
  if (v >= 6) {
    lengthAt = w.length;
    w.u16(0).zeros(2);
    putMatch(w, p.match, ctx);
  } else if (v === 1) {
    w.u16(port11To10(p.inPort));
    lengthAt = w.length;
    w.u16(0);
  } else {
    w.u32(p.inPort);
    lengthAt = w.length;
    w.u16(0).zeros(6);
  }
  const start = w.length;
  encodeActions(w, p.actions, ctx);
  w.patchLength(lengthAt, start);
  w.put(p.data);
}

export const packetOutCodecs: Codecs = {
  packet_out: {
    decode: (r, ctx) => ({ type: 'packet_out', packetOut: decode(r, ctx) }),
    encode: (w, m, ctx) => encode(w, m.packetOut, ctx),
  },
};
