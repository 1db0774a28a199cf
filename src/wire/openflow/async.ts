// Which asynchronous messages a controller wants: NXT_SET_ASYNC_CONFIG(2), OFPT_SET_ASYNC and OFPT_GET_ASYNC of
// OpenFlow 1.3 (six words) and 1.4 (properties). OpenFlow 1.3 §7.3.10, 1.4.1 §7.3.10.

import type { Reader, Writer } from './buffer.ts';
import type { BodyContext, Codecs } from './codec.ts';
import { empty } from './codec.ts';
import type { AsyncMasks } from './messages.ts';
import { putProp, readProps } from './prop.ts';
import { OfError } from './types.ts';

type Masks = [Partial<AsyncMasks>, Partial<AsyncMasks>];

/** In the order of the property types: 2i for secondaries, 2i + 1 for others. Allowed bits before and from 1.4. */
const FIELDS: readonly (readonly [keyof AsyncMasks, before14: number, from14: number])[] = [
  ['packetIn', 0x07, 0x3f],
  ['portStatus', 0x07, 0x07],
  ['flowRemoved', 0x3f, 0x3f],
  ['roleStatus', 0x07, 0x07],
  ['tableStatus', 0x18, 0x18],
  ['requestForward', 0x03, 0x03],
];
const LEGACY_FIELDS = 3;

const EXPLICIT_MISS = 1 << 6;
const IMPLICIT_MISS = 1 << 7;

/** "No match" means both kinds of miss; from OpenFlow 1.3 on, a miss without a flow is no message. */
function widen(name: keyof AsyncMasks, mask: number, version: number): number {
  if (name !== 'packetIn' || (mask & 1) === 0) return mask;
  return mask | EXPLICIT_MISS | (version < 4 ? IMPLICIT_MISS : 0);
}

/** Bits that the version does not know are dropped from the old forms, refused in the new ones. */
function decodeWords(r: Reader, version: number): Masks {
  const masks: Masks = [{}, {}];
  for (const [name, before, from] of FIELDS.slice(0, LEGACY_FIELDS)) {
    for (const i of [0, 1] as const)
      masks[i][name] = widen(name, r.u32() & (version >= 5 ? from : before), version);
  }
  return masks;
}

function decodeProps(r: Reader, version: number): Masks {
  const masks: Masks = [{}, {}];
  for (const p of readProps(r)) {
    const entry = FIELDS[p.type >> 1];
    if (entry === undefined) throw new OfError('OFPACFC_UNSUPPORTED');
    const [name, before, from] = entry;
    const mask = p.body.u32();
    if ((mask & ~(version >= 5 ? from : before)) !== 0) throw new OfError('OFPACFC_INVALID');
    masks[(p.type & 1) === 1 ? 0 : 1][name] = widen(name, mask, version);
  }
  return masks;
}

function encodeWords(w: Writer, masks: Masks, version: number): void {
  for (const [name, before, from] of FIELDS.slice(0, LEGACY_FIELDS))
    for (const i of [0, 1] as const) w.u32((masks[i][name] ?? 0) & (version >= 5 ? from : before));
}

function encodeProps(w: Writer, masks: Masks, version: number): void {
  for (const [i, [name, before, from]] of FIELDS.entries()) {
    for (const primary of [false, true]) {
      const mask = masks[primary ? 0 : 1][name];
      if (mask === undefined) continue;
      putProp(w, 2 * i + (primary ? 1 : 0), () => w.u32(mask & (version >= 5 ? from : before)));
    }
  }
}

const SET_ASYNC_CONFIG2 = 27;

function inProps(ctx: BodyContext): boolean {
  return ctx.kind === 'nx' ? ctx.number === SET_ASYNC_CONFIG2 : ctx.version >= 5;
}

export const asyncCodecs: Codecs = {
  get_async_request: empty({ type: 'get_async_request' }),
  get_async_reply: {
    decode: (r, ctx) => {
      const none = {
        packetIn: 0,
        portStatus: 0,
        flowRemoved: 0,
        roleStatus: 0,
        tableStatus: 0,
        requestForward: 0,
      };
      const [a, b] = inProps(ctx) ? decodeProps(r, ctx.version) : decodeWords(r, ctx.version);
      return {
        type: 'get_async_reply',
        masks: [
          { ...none, ...a },
          { ...none, ...b },
        ],
      };
    },
    encode: (w, m, ctx) =>
      inProps(ctx) ? encodeProps(w, m.masks, ctx.version) : encodeWords(w, m.masks, ctx.version),
  },
  set_async: {
    decode: (r, ctx) => ({
      type: 'set_async',
      masks: inProps(ctx) ? decodeProps(r, ctx.version) : decodeWords(r, ctx.version),
    }),
    encode: (w, m, ctx) =>
      inProps(ctx) ? encodeProps(w, m.masks, ctx.version) : encodeWords(w, m.masks, ctx.version),
  },
};
