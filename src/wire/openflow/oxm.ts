// OXM and NXM entries: type-length-value triples that name a field of fields.ts, OpenFlow 1.5.1 §7.2.3.
//
//      0        2      3       4               8
//     +--------+------+-------+---------------+-------+------+
//     | class  |f:7 |m| length| experimenter  | value | mask |    experimenter only if class = 0xffff
//     +--------+------+-------+---------------+-------+------+
//                   m = 1: a mask as long as the value follows
//
// `length` counts what follows the first 4 bytes. The Nicira headers in old actions (reg_load, learn …) are the first
// 4 bytes alone.

import type { Reader, Writer } from './buffer.ts';
import { resolveField } from './fieldAccess.ts';
import type { Field } from './fields.ts';
import { fieldByOxm, oxmIdFor } from './fields.ts';
import type { TlvMapping } from './messages.ts';
import { OfError } from './types.ts';

/** What a decoder or encoder has to know beside the bytes. */
export interface CodecContext {
  /** Wire version, 1 … 6. */
  version: number;
  /** The TLV table, for tun_metadataN. */
  tlvs?: readonly TlvMapping[];
  /** Actions of the test suite are known, too. */
  debugActions?: boolean;
}

/** NXM_NX_COOKIE, only in the matches of NXT_FLOW_MOD and NXST_FLOW requests. */
export const COOKIE_CLASS = 0x0001;
export const COOKIE_NUMBER = 30;

export interface OxmHeader {
  /** undefined: unknown, or the cookie pseudo-field. */
  field: Field | undefined;
  isCookie: boolean;
  /** The number is known, but not with this length. */
  badLength: boolean;
  masked: boolean;
  /** Bytes of value and mask together. */
  payload: number;
}

/** Reads a header; does not judge whether the field is known. */
export function readOxmHeader(r: Reader, ctx: CodecContext): OxmHeader {
  if (r.left < 4) throw new OfError('OFPBMC_BAD_LEN');
  const oxmClass = r.u16();
  const typeAndMask = r.u8();
  let payload = r.u8();
  let experimenter = 0;
  if (oxmClass === 0xffff) {
    if (r.left < 4 || payload < 4) throw new OfError('OFPBMC_BAD_LEN');
    experimenter = r.u32();
    payload -= 4;
  }
  const masked = (typeAndMask & 1) !== 0;
  const number = typeAndMask >> 1;
  const width = masked ? payload / 2 : payload;
  const isCookie = oxmClass === COOKIE_CLASS && number === COOKIE_NUMBER && width === 8;
  let field = fieldByOxm(oxmClass, number, experimenter);
  // A known number with a length that the field does not have is an unknown field to Open vSwitch.
  const badLength = field !== undefined && field.tlvIndex === undefined && width !== field.bytes;
  if (badLength) field = undefined;
  if (field?.tlvIndex !== undefined) field = resolveField(field, ctx.tlvs);
  return { field, isCookie, badLength, masked, payload };
}

/** A header that names the source or destination of an action; Open vSwitch judges it like one in a match. */
export function readActionField(r: Reader, ctx: CodecContext): Field {
  const header = readOxmHeader(r, ctx);
  if (header.field === undefined) throw new OfError('OFPBMC_BAD_FIELD');
  if (header.masked) throw new OfError('OFPBMC_BAD_MASK');
  return header.field;
}

export interface OxmEntry {
  field: Field | undefined;
  isCookie: boolean;
  /** Right-aligned to the field's length. */
  value: Uint8Array;
  mask: Uint8Array | undefined;
}

/** The entry of an action that sets a field: as readOxmEntry, but an unknown field ends it at once. */
export function readActionEntry(r: Reader, ctx: CodecContext): OxmEntry & { field: Field } {
  const at = r.offset;
  const header = readOxmHeader(r, ctx);
  if (header.field === undefined)
    throw new OfError(header.badLength ? 'OFPBAC_BAD_SET_LEN' : 'OFPBAC_BAD_SET_TYPE');
  r.offset = at;
  return { ...readOxmEntry(r, ctx), field: header.field };
}

/** Reads header, value and mask. OFPBMC_BAD_LEN, OFPBMC_BAD_WILDCARDS. */
export function readOxmEntry(r: Reader, ctx: CodecContext): OxmEntry {
  const h = readOxmHeader(r, ctx);
  if (r.left < h.payload) throw new OfError('OFPBMC_BAD_LEN');
  const width = h.masked ? h.payload >> 1 : h.payload;
  let value = r.copy(width);
  let mask = h.masked ? r.copy(width) : undefined;
  if (h.masked && (h.payload & 1) !== 0) r.skip(1);
  if (mask !== undefined) {
    for (let i = 0; i < width; i++)
      if ((value[i]! & ~mask[i]!) !== 0) throw new OfError('OFPBMC_BAD_WILDCARDS');
  }
  if (h.field?.tlvIndex !== undefined) {
    value = fit(value, h.field.bytes);
    if (mask !== undefined) mask = fit(mask, h.field.bytes);
  }
  return { field: h.field, isCookie: h.isCookie, value, mask };
}

/** Variable-length fields are right-aligned: the low-order bytes survive. */
function fit(bytes: Uint8Array, length: number): Uint8Array {
  if (bytes.length === length) return bytes;
  const out = new Uint8Array(length);
  if (bytes.length < length) out.set(bytes, length - bytes.length);
  else out.set(bytes.subarray(bytes.length - length));
  return out;
}

/**
 * Writes the header of a field as Open vSwitch does for this version (0: NXM preferred).
 * Throws RangeError for a field that no TLV names: callers keep those out of messages.
 */
export function writeOxmHeader(
  w: Writer,
  f: Field,
  version: number,
  masked: boolean,
  bytes = f.bytes,
): void {
  const id = oxmIdFor(f, version);
  if (id === undefined) throw new RangeError(`field ${f.name} has no OXM`);
  const payload = masked ? 2 * bytes : bytes;
  w.u16(id.oxmClass).u8((id.number << 1) | (masked ? 1 : 0));
  if (id.oxmClass === 0xffff) w.u8(payload + 4).u32(id.experimenter);
  else w.u8(payload);
}

/** Bytes as in a TLV; `mask` undefined or all ones: an exact entry. */
export function writeOxmEntry(
  w: Writer,
  f: Field,
  version: number,
  value: Uint8Array,
  mask?: Uint8Array,
): void {
  const masked = mask?.some((b) => b !== 0xff) ?? false;
  writeOxmHeader(w, f, version, masked, value.length);
  w.put(value);
  if (masked) w.put(mask!);
}

/** True when the field has an NXM or non-experimenter OXM header, as the old Nicira actions need. */
export function hasNxmHeader(f: Field): boolean {
  const id = oxmIdFor(f, 0);
  return id !== undefined && id.oxmClass !== 0xffff;
}

/** The 4-byte header of old Nicira actions; throws OfError for an unknown field. */
export function readNxmHeader(r: Reader, ctx: CodecContext): Field {
  const oxmClass = r.u16();
  const typeAndMask = r.u8();
  const length = r.u8();
  const f = fieldByOxm(oxmClass, typeAndMask >> 1, 0);
  if (f === undefined) throw new OfError('OFPBAC_BAD_SET_TYPE');
  if (f.tlvIndex !== undefined) return resolveField(f, ctx.tlvs);
  if (length !== f.bytes || (typeAndMask & 1) !== 0) throw new OfError('OFPBAC_BAD_SET_TYPE');
  return f;
}
