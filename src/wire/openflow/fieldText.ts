// Values of match fields as text, both ways: what ovs-ofctl shows and takes (ovs-fields(7)), also in set_field, learn
// and ofproto/trace. Errors are TextError with Open vSwitch's words.

import {
  formatIpv4,
  formatIpv6,
  formatMasked,
  hex2,
  parseIpv4,
  parseIpv6,
  parseMac,
  prefixMask,
} from './address.ts';
import { fromBytes, port10To11, port11To10 } from './fieldAccess.ts';
import type { Field } from './fields.ts';
import { findField, oxmIdFor } from './fields.ts';
import type { Subfield } from './types.ts';
import * as t from './types.ts';

/** Text that cannot be parsed; the message is for the user. */
export class TextError extends Error {}

const PORT_NAMES: readonly (readonly [string, number])[] = [
  ['IN_PORT', t.OFPP_IN_PORT],
  ['TABLE', t.OFPP_TABLE],
  ['NORMAL', t.OFPP_NORMAL],
  ['FLOOD', t.OFPP_FLOOD],
  ['ALL', t.OFPP_ALL],
  ['CONTROLLER', t.OFPP_CONTROLLER],
  ['LOCAL', t.OFPP_LOCAL],
  ['ANY', t.OFPP_NONE],
  ['UNSET', t.OFPP_UNSET],
  ['NONE', t.OFPP_NONE],
];

/** Port names that a caller knows (of a bridge). */
export interface PortMap {
  byName?(name: string): number | undefined;
  byNumber?(port: number): string | undefined;
}

export function formatPort(port: number, map?: PortMap): string {
  const reserved = PORT_NAMES.find(([, n]) => n === port);
  return reserved?.[0] ?? map?.byNumber?.(port) ?? String(port < 0xff00 ? port : port11To10(port));
}

/** Number or name, undefined when it is neither. */
export function parsePort(text: string, map?: PortMap): number | undefined {
  if (/^(0x[0-9a-f]+|\d+)$/i.test(text)) {
    const n = Number(text);
    if (n < 0xff00) return n;
    // 16-bit reserved numbers are accepted as their 32-bit equals.
    if (n <= 0xffff) return port10To11(n);
    return n >= t.OFPP_MAX && n <= 0xffffffff ? n : undefined;
  }
  const reserved = PORT_NAMES.find(([name]) => name === text.toUpperCase());
  return reserved?.[1] ?? map?.byName?.(text.replace(/^"(.*)"$/, '$1'));
}

export const CT_STATES = ['new', 'est', 'rel', 'rpl', 'inv', 'trk', 'snat', 'dnat'];
export const TCP_FLAGS = [
  'fin',
  'syn',
  'rst',
  'psh',
  'ack',
  'urg',
  'ece',
  'cwr',
  'ns',
  '[200]',
  '[400]',
  '[800]',
];
export const TUN_FLAGS = ['oam', 'df', 'csum', 'key'];

/** Names joined by '|', 0 for none. */
export function formatFlags(names: readonly string[], flags: number): string {
  if (flags === 0) return '0';
  const parts: string[] = [];
  let bad = 0;
  for (let bit = 0; bit < 32; bit++) {
    if ((flags & (1 << bit)) === 0) continue;
    const name = names[bit];
    if (name === undefined) bad |= 1 << bit;
    else parts.push(name);
  }
  if (bad !== 0) parts.push(`0x${(bad >>> 0).toString(16)}`);
  return parts.join('|');
}

/** +name-name for a partial mask, names joined by '|' for the whole. */
export function formatFlagsMasked(
  names: readonly string[],
  flags: number,
  mask: number,
  whole: number,
): string {
  if (mask === whole) return formatFlags(names, flags);
  if (mask === 0) return '0/0';
  let text = '';
  for (let bit = 0; bit < 32; bit++) {
    if ((mask & (1 << bit)) !== 0)
      text += `${(flags & (1 << bit)) !== 0 ? '+' : '-'}${names[bit] ?? '[Unknown]'}`;
  }
  return text;
}

function parseFlags(text: string, names: readonly string[], what: string): [bigint, bigint] {
  const numbers = /^(0x[0-9a-f]+|\d+)(?:\/(0x[0-9a-f]+|\d+))?$/i.exec(text);
  const whole = (1 << names.length) - 1;
  if (numbers !== null) {
    const value = Number(numbers[1]);
    const mask = numbers[2] === undefined ? whole : Number(numbers[2]);
    if ((value & ~whole) !== 0 || (mask & ~whole) !== 0)
      throw new TextError(`${text}: unknown ${what} flag(s)`);
    return [BigInt(value), BigInt(mask)];
  }
  let value = 0;
  let mask = 0;
  if (/^[+-]/.test(text)) {
    for (const part of text.match(/[+-][^+-]*/g) ?? []) {
      const bit = names.indexOf(part.slice(1));
      if (bit < 0) throw new TextError(`${text}: unknown ${what} flag(s)`);
      if ((mask & (1 << bit)) !== 0)
        throw new TextError(`${text}: Each ${what} flag can be specified only once`);
      mask |= 1 << bit;
      if (part[0] === '+') value |= 1 << bit;
    }
    return [BigInt(value), BigInt(mask)];
  }
  for (const name of text.split('|')) {
    const bit = names.indexOf(name);
    if (bit < 0) throw new TextError(`${text}: unknown ${what} flag(s)`);
    value |= 1 << bit;
  }
  return [BigInt(value), BigInt(whole)];
}

const FRAGS: readonly (readonly [string, value: number, mask: number])[] = [
  ['no', 0, 3],
  ['first', 1, 3],
  ['later', 3, 3],
  ['no', 0, 1],
  ['yes', 1, 1],
  ['not_later', 0, 2],
  ['later', 2, 2],
];

export function formatFrag(value: number, mask: number): string {
  return FRAGS.find(([, v, m]) => v === (value & mask) && m === mask)?.[0] ?? '<error>';
}

/** Zero has no prefix. */
const hex = (value: bigint): string => (value === 0n ? '0' : `0x${value.toString(16)}`);

/** Text of a value (bytes as in a TLV); `mask` undefined or all ones: exact. */
export function formatField(f: Field, value: Uint8Array, mask?: Uint8Array, map?: PortMap): string {
  if (mask?.every((b) => b === 0)) return 'ANY';
  const exact = mask === undefined || mask.every((b) => b === 0xff);
  const whole = exact ? new Uint8Array(f.bytes).fill(0xff) : mask;
  const v = fromBytes(value);
  switch (f.format) {
    case 'ethernet':
      return formatMasked(value, whole, hex2);
    case 'ipv4':
      return formatMasked(value, whole, formatIpv4);
    case 'ipv6':
      return formatMasked(value, whole, formatIpv6);
    case 'port10':
      return exact ? formatPort(port10To11(Number(v)), map) : integer(v, whole, false);
    case 'port11':
      return exact ? formatPort(Number(v), map) : integer(v, whole, false);
    case 'frag':
      return formatFrag(Number(v), Number(fromBytes(whole)) & 3);
    case 'tcp_flags':
      return formatFlagsMasked(TCP_FLAGS, Number(v), Number(fromBytes(whole)) & 0xfff, 0xfff);
    case 'tun_flags':
      return formatFlagsMasked(TUN_FLAGS, Number(v), Number(fromBytes(whole)) & 1, 1);
    case 'ct_state':
      return formatFlagsMasked(CT_STATES, Number(v), Number(fromBytes(whole)) & 0xff, 0xff);
    case 'packet_type':
      return v === 0n && exact ? 'eth' : `packet_type=(${v >> 16n},${hex(v & 0xffffn)})`;
    default: {
      const number = f.format === 'hex' ? hex(v) : String(v);
      return exact ? number : `${number}/${hex(fromBytes(whole))}`;
    }
  }
}

function integer(value: bigint, mask: Uint8Array, asHex: boolean): string {
  return `${asHex ? hex(value) : value}/${hex(fromBytes(mask))}`;
}

function parseInteger(text: string): bigint | undefined {
  if (/^0x[0-9a-f]+$/i.test(text)) return BigInt(text);
  if (/^0[0-7]*$/.test(text)) return BigInt(`0o${text}`);
  return /^\d+$/.test(text) ? BigInt(text) : undefined;
}

function parseNumber(f: Field, text: string): [bigint, bigint] {
  const slash = text.indexOf('/');
  const part = (s: string, what: string): bigint => {
    const n = parseInteger(s);
    if (n === undefined) throw new TextError(`${text}: bad syntax for ${f.name} ${what}`);
    if (n >> BigInt(8 * f.bytes) !== 0n)
      throw new TextError(`${text}: ${what} too large for ${f.bytes}-byte field ${f.name}`);
    return n;
  };
  if (slash < 0) return [part(text, 'value'), (1n << BigInt(8 * f.bytes)) - 1n];
  return [part(text.slice(0, slash), 'value'), part(text.slice(slash + 1), 'mask')];
}

function parseAddress(
  text: string,
  bytes: number,
  parse: (s: string) => Uint8Array | undefined,
  what: string,
): [bigint, bigint] {
  const slash = text.indexOf('/');
  const address = parse(slash < 0 ? text : text.slice(0, slash));
  if (address === undefined) throw new TextError(`${text}: invalid ${what} address`);
  let mask: Uint8Array | undefined = new Uint8Array(bytes).fill(0xff);
  if (slash >= 0) {
    const rest = text.slice(slash + 1);
    if (/^\d+$/.test(rest) && bytes !== 6) {
      if (Number(rest) > 8 * bytes)
        throw new TextError(`${text}: ${what} network prefix bits not between 0 and ${8 * bytes}`);
      mask = prefixMask(Number(rest), bytes);
    } else {
      mask = parse(rest);
    }
    if (mask === undefined) throw new TextError(`${text}: invalid ${what} address`);
  }
  return [fromBytes(address), fromBytes(mask)];
}

/** Value and mask as numbers of f.bytes bytes. Throws TextError. */
export function parseField(f: Field, text: string, map?: PortMap): [bigint, bigint] {
  if (text === '*') return [0n, 0n];
  const [value, mask] = parseAny(f, text, map);
  const whole = (1n << BigInt(8 * f.bytes)) - 1n;
  if (!f.maskable && mask !== whole && mask !== 0n && f.format !== 'frag')
    throw new TextError(`${text}: invalid mask for field ${f.name}`);
  return [value, mask];
}

function parseAny(f: Field, text: string, map?: PortMap): [bigint, bigint] {
  const whole = (1n << BigInt(8 * f.bytes)) - 1n;
  switch (f.format) {
    case 'ethernet':
      return parseAddress(text, 6, parseMac, 'Ethernet');
    case 'ipv4':
      return parseAddress(text, 4, parseIpv4, 'IP');
    case 'ipv6':
      return parseAddress(text, 16, parseIpv6, 'IPv6');
    case 'port10':
    case 'port11': {
      const port = parsePort(text, map);
      if (port === undefined)
        throw new TextError(
          f.format === 'port10'
            ? `${text}: invalid or unknown port for ${f.name}`
            : `${text}: port value out of range for ${f.name}`,
        );
      return [BigInt(f.format === 'port10' ? port11To10(port) : port), whole];
    }
    case 'frag': {
      const frag = FRAGS.find(([name]) => name === text.toLowerCase());
      if (frag === undefined)
        throw new TextError(
          `${text}: unknown fragment type (valid types are "no", "yes", "first", "later", "not_later"`,
        );
      return [BigInt(frag[1]), frag[2] === 3 ? whole : BigInt(frag[2])];
    }
    case 'tcp_flags':
      return widen(parseFlags(text, TCP_FLAGS, 'TCP'), 0xfffn, whole);
    case 'tun_flags':
      return widen(parseFlags(text, TUN_FLAGS.slice(0, 1), 'tunnel'), 1n, whole);
    case 'ct_state':
      return widen(parseFlags(text, CT_STATES, 'ct_state'), 0xffn, whole);
    case 'packet_type': {
      const m = /^\((0x[0-9a-f]+|\d+),(0x[0-9a-f]+|\d+)\)$/i.exec(text);
      if (m === null) throw new TextError(`${text}: bad syntax for packet type missing '('`);
      return [(BigInt(m[1]!) << 16n) | BigInt(m[2]!), whole];
    }
    default:
      return parseNumber(f, text);
  }
}

/** All flags known: an exact match. */
function widen([value, mask]: [bigint, bigint], all: bigint, whole: bigint): [bigint, bigint] {
  return [value, mask === all ? whole : mask];
}

// ---- subfields

/** NXM name of the field when it has one, with [], [bit] or [first..last]. */
export function formatSubfield(s: Subfield): string {
  const f = findField(s.field);
  const name = (f && oxmIdFor(f, 0)?.name) ?? s.field;
  if (f !== undefined && s.offset === 0 && s.bits === f.bits) return `${name}[]`;
  if (s.bits === 1) return `${name}[${s.offset}]`;
  return `${name}[${s.offset}..${s.offset + s.bits - 1}]`;
}

/** FIELD, FIELD[], FIELD[n] or FIELD[a..b]. Throws TextError. */
export function parseSubfield(text: string): Subfield {
  const m = /^([^[-]*)(?:\[(?:(\d+)(?:\.\.(\d+))?)?\])?(.*)$/s.exec(text)!;
  const f = findField(m[1]!);
  if (f === undefined) throw new TextError(`${text}: unknown field \`${m[1]}'`);
  if (m[4] !== '')
    throw new TextError(
      m[4]!.startsWith('[')
        ? `${text}: syntax error expecting [] or [<bit>] or [<start>..<end>]`
        : `${text}: extra text following field name`,
    );
  const start = m[2] === undefined ? 0 : Number(m[2]);
  const end = m[3] !== undefined ? Number(m[3]) : m[2] === undefined ? f.bits - 1 : start;
  if (start > end) throw new TextError(`${text}: starting bit ${start} is after ending bit ${end}`);
  if (start >= f.bits)
    throw new TextError(
      `${text}: starting bit ${start} is not valid because field is only ${f.bits} bits wide`,
    );
  if (end >= f.bits)
    throw new TextError(
      `${text}: ending bit ${end} is not valid because field is only ${f.bits} bits wide`,
    );
  return { field: f.name, offset: start, bits: end - start + 1 };
}
