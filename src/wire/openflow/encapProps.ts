// Properties of the encap action (ONF EXT-382): what a header is to have. Only network service headers have some.
//
//    | class 16 = 4 | type 8 | length 8 |  …  |  padded to 8 bytes; the length of a TLV's counts its padding
//      type 1: | type of metadata 8 |
//      type 2: | class 16 | type 8 | bytes 8 | value, padded to 8 bytes |
//
// Text: md_type=1, tlv(0x1000,10,0x12345678).

import { PACKET_TYPE_NSH } from '../../../contract/tunnel.ts';
import type { Reader, Writer } from './buffer.ts';
import { TextError } from './fieldText.ts';
import type { EncapProperty } from './types.ts';
import { OfError } from './types.ts';

const NSH_CLASS = 4;
const MD_TYPE = 1;
const TLV = 2;
/** Digits that a TLV's value may have. */
const DIGITS_MAX = 251;

const padded = (bytes: number): number => (bytes + 7) & ~7;

/** To the end of `r`. */
export function readEncapProps(r: Reader): EncapProperty[] {
  const properties: EncapProperty[] = [];
  while (r.left > 0) {
    const start = r.offset;
    const space = r.left;
    const classNumber = r.u16();
    const type = r.u8();
    const length = r.u8();
    if (length < 4 || padded(length) > space) throw new OfError('OFPBAC_BAD_LEN');
    if (classNumber !== NSH_CLASS) throw new OfError('NXBAC_UNKNOWN_ED_PROP');
    if (type === MD_TYPE) {
      if (length > 8) throw new OfError('NXBAC_BAD_ED_PROP');
      properties.push({ kind: 'md_type', mdType: r.u8() });
    } else if (type === TLV) {
      const tlvClass = r.u16();
      const tlvType = r.u8();
      const bytes = r.u8();
      if (length !== 8 + padded(bytes)) throw new OfError('NXBAC_BAD_ED_PROP');
      properties.push({ kind: 'tlv', tlvClass, tlvType, value: r.copy(bytes) });
    } else {
      throw new OfError('NXBAC_UNKNOWN_ED_PROP');
    }
    r.offset = start + padded(length);
  }
  return properties;
}

export function writeEncapProps(w: Writer, properties: readonly EncapProperty[]): void {
  for (const property of properties) {
    w.u16(NSH_CLASS);
    if (property.kind === 'md_type') {
      w.u8(MD_TYPE).u8(5).u8(property.mdType).zeros(3);
      continue;
    }
    const { tlvClass, tlvType, value } = property;
    const bytes = padded(value.length);
    w.u8(TLV).u8(8 + bytes);
    w.u16(tlvClass).u8(tlvType).u8(value.length).put(value);
    w.zeros(bytes - value.length);
  }
}

export function formatEncapProps(properties: readonly EncapProperty[] | undefined): string {
  if (properties === undefined || properties.length === 0) return '';
  const texts = properties.map((property) => {
    if (property.kind === 'md_type') return `md_type=${property.mdType}`;
    const tlvClass = property.tlvClass.toString(16).padStart(4, '0');
    return `tlv(0x${tlvClass},${property.tlvType},${hexText(property.value)})`;
  });
  return `(${texts.join(',')})`;
}

/** Without leading zeros, as Open vSwitch writes bytes. */
export function hexText(bytes: Uint8Array): string {
  return `0x${bytes.toHex().replace(/^0+(?=.)/, '')}`;
}

/** What stands between the parentheses of encap(nsh(…)). */
export function parseEncapProps(packetType: number, text: string): EncapProperty[] {
  const properties: EncapProperty[] = [];
  const pattern = /\s*,?\s*([a-z_0-9]+)\s*(?:=\s*([^,()]*)|\(([^()]*)\))?/gy;
  const plain = text.trim();
  while (pattern.lastIndex < plain.length) {
    const found = pattern.exec(plain);
    if (found === null) throw new TextError(`Invalid property: ${text}`);
    const name = found[1]!;
    const value = found[2] ?? found[3];
    if (packetType !== PACKET_TYPE_NSH || (name !== 'md_type' && name !== 'tlv'))
      throw new TextError(`Invalid property: ${name}`);
    if (value === undefined) throw new TextError(`Missing the value for property: ${name}`);
    if (value === '') throw new TextError('Value missing for encap property');
    properties.push(name === 'md_type' ? mdType(value) : tlv(value));
  }
  return properties;
}

function mdType(text: string): EncapProperty {
  const mdType = /^(0x[0-9a-f]+|\d+)$/i.test(text) ? Number(text) : Number.NaN;
  if (!(mdType <= 255)) throw new TextError(`invalid md_type "${text}"`);
  if (mdType < 1 || mdType > 2) throw new TextError('invalid md_type');
  return { kind: 'md_type', mdType };
}

function tlv(text: string): EncapProperty {
  const found = /^0x([0-9a-f]{1,4}),(\d{1,3}),0x([0-9a-f]+)$/i.exec(text);
  const digits = found?.[3] ?? '';
  if (found === null || Number(found[2]) > 255 || digits.length > DIGITS_MAX)
    throw new TextError(`Invalid NSH TLV header: ${text}`);
  // An odd digit at the end stands for no byte.
  return {
    kind: 'tlv',
    tlvClass: Number.parseInt(found[1]!, 16),
    tlvType: Number(found[2]),
    value: Uint8Array.fromHex(digits.slice(0, digits.length & ~1)),
  };
}
