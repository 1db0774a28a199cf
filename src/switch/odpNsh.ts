// Network service headers (RFC 8300) in the text of datapath flows:
//
//   nsh(flags=0,ttl=63,mdtype=1,np=3,spi=0x1234,si=255,c1=0x11223344,…), push_nsh(… ,md2=0x…), set(nsh(si=254))

import {
  K_NSH,
  K_NSH_CONTEXT,
  K_NSH_FLAGS,
  K_NSH_MDTYPE,
  K_NSH_NP,
  K_NSH_PATH,
  K_NSH_TTL,
  NSH_KEY_BYTES,
} from '../../contract/key.ts';
import { NSH_BASE_BYTES } from '../../contract/tunnel.ts';
import { be16, be32, putBe32 } from './flow.ts';

/** Bits of the number at `offset` of the key. The shift takes off what is behind them. */
interface NshField {
  readonly name: string;
  readonly offset: number;
  readonly bits: 8 | 24 | 32;
}

const FIELDS: readonly NshField[] = [
  { name: 'flags', offset: K_NSH_FLAGS, bits: 8 },
  { name: 'ttl', offset: K_NSH_TTL, bits: 8 },
  { name: 'mdtype', offset: K_NSH_MDTYPE, bits: 8 },
  { name: 'np', offset: K_NSH_NP, bits: 8 },
  { name: 'spi', offset: K_NSH_PATH, bits: 24 },
  { name: 'si', offset: K_NSH_PATH + 3, bits: 8 },
  ...[1, 2, 3, 4].map(
    (n) => ({ name: `c${n}`, offset: K_NSH_CONTEXT + 4 * (n - 1), bits: 32 }) as const,
  ),
];

function get(record: Uint8Array, { offset, bits }: NshField): number {
  return bits === 8 ? record[offset]! : be32(record, offset) >>> (32 - bits);
}

function put(record: Uint8Array, { offset, bits }: NshField, value: number): void {
  if (bits === 8) record[offset] = value;
  else if (bits === 32) putBe32(record, offset, value);
  else putBe32(record, offset, ((value << 8) | record[offset + 3]!) >>> 0);
}

const whole = ({ bits }: NshField): number => 2 ** bits - 1;
const hex = (value: number, digits = 1): string => `0x${value.toString(16).padStart(digits, '0')}`;

function fieldText(field: NshField, key: Uint8Array, mask: Uint8Array): string {
  const value = get(key, field);
  const bits = get(mask, field);
  if (field.bits === 8) {
    const text = bits === 0xff ? String(value) : `${hex(value, 2)}/${hex(bits, 2)}`;
    return `${field.name}=${text}`;
  }
  return `${field.name}=${hex(value)}${bits === whole(field) ? '' : `/${hex(bits, 8)}`}`;
}

/** "nsh(…)", or nothing if all of it is wildcarded. */
export function nshKeyParts(key: Uint8Array, mask: Uint8Array, verbose: boolean): string[] {
  const shown = FIELDS.filter((field) => {
    if (field.offset >= K_NSH_CONTEXT && key[K_NSH_MDTYPE] !== 1) return false;
    return get(mask, field) !== 0;
  });
  if (shown.length === 0) return verbose ? ['nsh()'] : [];
  return [`nsh(${shown.map((field) => fieldText(field, key, mask)).join(',')})`];
}

export function setNshText(operands: Uint32Array): string {
  const bytes = new Uint8Array(operands.slice().buffer);
  const key = new Uint8Array(K_NSH + NSH_KEY_BYTES);
  const mask = key.slice();
  key.set(bytes.subarray(0, NSH_KEY_BYTES), K_NSH);
  mask.set(bytes.subarray(NSH_KEY_BYTES), K_NSH);
  const shown = FIELDS.filter((field) => get(mask, field) !== 0);
  return `set(nsh(${shown.map((field) => fieldText(field, key, mask)).join(',')}))`;
}

export function pushNshText(operands: Uint32Array): string {
  const header = new Uint8Array(operands.slice().buffer);
  const word = be16(header, 0);
  const path = be32(header, 4);
  const type = header[2]!;
  const texts = [
    `flags=${(word >>> 12) & 3},ttl=${(word >>> 6) & 63},mdtype=${type},np=${header[3]}`,
    `spi=${hex(path >>> 8)},si=${path & 0xff}`,
  ];
  if (type === 1) {
    for (let i = 0; i < 4; i++) {
      texts.push(`c${i + 1}=${hex(be32(header, NSH_BASE_BYTES + 4 * i))}`);
    }
  } else {
    const digits = header.subarray(NSH_BASE_BYTES).toHex().replace(/^0+/, '');
    texts.push(`md2=0x${digits === '' ? '0' : digits}`);
  }
  return `push_nsh(${texts.join(',')})`;
}

/** Items of "nsh(…)". */
export function parseNsh(key: Uint8Array, items: readonly string[], mask?: Uint8Array): void {
  for (const item of items) {
    const found = /^(\w+)=(0x[0-9a-f]+|\d+)(?:\/(0x[0-9a-f]+|\d+))?$/i.exec(item);
    const field = FIELDS.find(({ name }) => name === found?.[1]);
    const value = Number(found?.[2]);
    const bits = found?.[3] === undefined ? undefined : Number(found[3]);
    if (field === undefined || value > whole(field))
      throw new SyntaxError(`syntax error at ${item}`);
    put(key, field, value);
    if (mask !== undefined) put(mask, field, Math.min(bits ?? whole(field), whole(field)));
  }
}
