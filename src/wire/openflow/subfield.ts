// Subfields in Nicira actions: bits [offset, offset + bits) of a field, and the 16-bit form `offset << 6 | bits - 1`.

import type { Field } from './fields.ts';
import type { Subfield } from './types.ts';
import { OfError } from './types.ts';

/** OFPBAC_BAD_SET_LEN when the bits are not in the field. */
export function checkSrc(f: Field, offset: number, bits: number): Subfield {
  if (bits === 0 || offset + bits > f.bits) throw new OfError('OFPBAC_BAD_SET_LEN');
  return { field: f.name, offset, bits };
}

/** As checkSrc; OFPBAC_BAD_SET_ARGUMENT when the field is read-only. */
export function checkDst(f: Field, offset: number, bits: number): Subfield {
  const s = checkSrc(f, offset, bits);
  if (!f.writable) throw new OfError('OFPBAC_BAD_SET_ARGUMENT');
  return s;
}

export function decodeOffset(ofsNbits: number): number {
  return ofsNbits >> 6;
}

export function decodeBits(ofsNbits: number): number {
  return (ofsNbits & 0x3f) + 1;
}

export function encodeOfsNbits(s: Subfield): number {
  return (s.offset << 6) | (s.bits - 1);
}
