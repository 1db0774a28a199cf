// The learn action (NXAST_LEARN 16, NXAST_LEARN2 45) on the wire. Behind the fixed part comes a list of specs that ends
// with a zero header, the action's end, or padding:
//
//     0        2
//    +--------+-----------------------------------+----------------------------+
//    | header | src: NXM header, offset           | dst: NXM header, offset    |
//    |        | or constant, padded to 16 bits    | absent for "output"        |
//    +--------+-----------------------------------+----------------------------+
//      bits 0-9 n_bits, 11-12 destination (0 match, 1 load, 2 output), 13 constant, the rest is ignored

import type { Reader, Writer } from './buffer.ts';
import { fromBytes, toBytes } from './fieldAccess.ts';
import { fieldByName } from './fields.ts';
import type { CodecContext } from './oxm.ts';
import { readNxmHeader, readOxmHeader, writeOxmHeader } from './oxm.ts';
import type { Action, LearnSpec, Subfield } from './types.ts';
import { OfError } from './types.ts';

const F_WRITE_RESULT = 4;
const KINDS = ['match', 'load', 'output'] as const;
const SRC_IMMEDIATE = 1 << 13;

type Learn = Action & { type: 'learn' };

/** `r` starts behind the subtype. */
export function decodeLearn(r: Reader, ctx: CodecContext, isLearn2: boolean): Action {
  const bad = new OfError('OFPBAC_BAD_ARGUMENT');
  const idleTimeout = r.u16();
  const hardTimeout = r.u16();
  const priority = r.u16();
  const cookie = r.u64();
  const flags = r.u16();
  const table = r.u8();
  if (r.u8() !== 0 || table === 0xff) throw bad;
  const finIdleTimeout = r.u16();
  const finHardTimeout = r.u16();
  const learn: Learn = {
    type: 'learn',
    idleTimeout,
    hardTimeout,
    finIdleTimeout,
    finHardTimeout,
    priority,
    cookie,
    flags,
    table,
    limit: 0,
    specs: [],
  };
  if (isLearn2) readLearn2(r, ctx, learn);
  else if ((flags & ~3) !== 0) throw bad;
  readSpecs(r, ctx, learn.specs);
  return learn;
}

function readLearn2(r: Reader, ctx: CodecContext, learn: Learn): void {
  learn.limit = r.u32();
  const offset = r.u16();
  if (r.u16() !== 0) throw new OfError('NXBAC_MUST_BE_ZERO');
  if ((learn.flags & ~7) !== 0) throw new OfError('OFPBAC_BAD_ARGUMENT');
  if ((learn.flags & F_WRITE_RESULT) !== 0) {
    const { field } = readOxmHeader(r, ctx);
    if (field === undefined) throw new OfError('OFPBMC_BAD_FIELD');
    if (!field.writable) throw new OfError('OFPBAC_BAD_SET_ARGUMENT');
    if (offset >= field.bits) throw new OfError('OFPBAC_BAD_SET_LEN');
    learn.resultDst = { field: field.name, offset, bits: 1 };
  } else if (offset !== 0) {
    throw new OfError('OFPBAC_BAD_ARGUMENT');
  }
}

function readSpecs(r: Reader, ctx: CodecContext, specs: LearnSpec[]): void {
  while (r.left >= 2) {
    const header = r.u16();
    if (header === 0) break;
    const bits = header & 0x3ff;
    const kind = KINDS[(header >> 11) & 3];
    const immediate = (header & SRC_IMMEDIATE) !== 0;
    if (kind === undefined || (kind === 'output' && immediate))
      throw new OfError('OFPBAC_BAD_ARGUMENT');
    let src: Subfield | bigint;
    if (immediate) {
      const bytes = r.copy(2 * Math.ceil(bits / 16));
      src = fromBytes(bytes.subarray(bytes.length - Math.ceil(bits / 8)));
    } else {
      src = readSubfield(r, ctx, bits);
    }
    if (kind === 'output') specs.push({ kind, bits, src });
    else specs.push({ kind, bits, src, dst: readSubfield(r, ctx, bits) });
  }
  if (!r.restIsZero()) throw new OfError('OFPBAC_BAD_ARGUMENT');
}

function readSubfield(r: Reader, ctx: CodecContext, bits: number): Subfield {
  const f = readNxmHeader(r, ctx);
  const offset = r.u16();
  if (bits === 0 || offset + bits > f.bits) throw new OfError('OFPBAC_BAD_SET_LEN');
  return { field: f.name, offset, bits };
}

export function isLearn2(a: Learn): boolean {
  return a.limit !== 0 || a.resultDst !== undefined;
}

/** Writes what follows the subtype; the caller pads and sets the length. */
export function encodeLearn(w: Writer, a: Learn): void {
  w.u16(a.idleTimeout).u16(a.hardTimeout).u16(a.priority).u64(a.cookie).u16(a.flags);
  w.u8(a.table).u8(0).u16(a.finIdleTimeout).u16(a.finHardTimeout);
  if (isLearn2(a)) {
    w.u32(a.limit)
      .u16(a.resultDst?.offset ?? 0)
      .u16(0);
    if (a.resultDst !== undefined) writeOxmHeader(w, fieldByName(a.resultDst.field), 0, false);
  }
  for (const s of a.specs) {
    const immediate = typeof s.src === 'bigint';
    w.u16(s.bits | (KINDS.indexOf(s.kind) << 11) | (immediate ? SRC_IMMEDIATE : 0));
    if (typeof s.src === 'bigint') w.put(toBytes(s.src, 2 * Math.ceil(s.bits / 16)));
    else putSubfield(w, s.src);
    if (s.dst !== undefined) putSubfield(w, s.dst);
  }
}

function putSubfield(w: Writer, s: Subfield): void {
  writeOxmHeader(w, fieldByName(s.field), 0, false);
  w.u16(s.offset);
}
