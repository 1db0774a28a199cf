// Text of tunnels in datapath flows, as dpctl/dump-flows writes it and ofproto/trace reads it:
//
//   tunnel(tun_id=0x7b,src=1.1.2.92,dst=1.1.2.88,geneve({class=0x102,type=0x80,len=4,0xa}),flags(-df-csum+key))
//
// And of what goes with them: MPLS label stacks. Text of pushes: odpTunnelPush.ts.

import {
  K_CT_IPV6_SRC,
  K_MPLS_COUNT,
  K_MPLS_LSE,
  K_TUN_DST,
  K_TUN_ERSPAN,
  K_TUN_FLAGS,
  K_TUN_GBP_FLAGS,
  K_TUN_GBP_ID,
  K_TUN_GTPU_FLAGS,
  K_TUN_GTPU_MSGTYPE,
  K_TUN_ID,
  K_TUN_IPV6_DST,
  K_TUN_IPV6_SRC,
  K_TUN_OPTS,
  K_TUN_OPTS_LEN,
  K_TUN_SRC,
  K_TUN_TOS,
  K_TUN_TP_SRC,
  K_TUN_TTL,
  KEY_SIZE,
  TUN_CSUM,
  TUN_DF,
  TUN_KEY,
  TUN_OAM,
  TUN_OPTS_MAX,
} from '../../contract/key.ts';
import { ERSPAN_HWID, ERSPAN_INDEX } from '../../contract/tunnel.ts';
import { be16, be32, isZero, putBe16, putBe32 } from './flow.ts';
import { ipv6Text } from './odpFields.ts';
import { parseIpv4, parseIpv6 } from './textAddress.ts';
import { hasTunnel } from './tunnel/record.ts';

const hex = (value: number | bigint): string =>
  Number(value) === 0 ? '0' : `0x${value.toString(16)}`;
const numberOf = (bytes: Uint8Array): bigint => BigInt(`0x${bytes.toHex()}`);
const FORMATS = {
  hex: (bytes: Uint8Array) => hex(numberOf(bytes)),
  decimal: (bytes: Uint8Array) => String(numberOf(bytes)),
  ipv4: (bytes: Uint8Array) => [...bytes].join('.'),
  ipv6: ipv6Text,
};

const FLAG_NAMES: readonly (readonly [bit: number, name: string])[] = [
  [TUN_OAM, 'oam'],
  [TUN_DF, 'df'],
  [TUN_CSUM, 'csum'],
  [TUN_KEY, 'key'],
];
const ALL_FLAGS = TUN_OAM | TUN_DF | TUN_CSUM | TUN_KEY;

function flagsText(flags: number, mask: number): string {
  const shown = FLAG_NAMES.filter(([bit]) => (mask & bit) !== 0);
  if (mask === ALL_FLAGS) {
    return shown.flatMap(([bit, name]) => ((flags & bit) === 0 ? [] : [name])).join('|');
  }
  return shown.map(([bit, name]) => `${(flags & bit) === 0 ? '-' : '+'}${name}`).join('');
}

function full(mask: Uint8Array, offset: number, bytes: number): boolean {
  for (let i = offset; i < offset + bytes; i++) if (mask[i] !== 0xff) return false;
  return true;
}

/** "{class=0xffff,type=0x80,len=4,0xa/0xf}…"; without `mask`: everything is exact. */
export function optionsText(
  options: Uint8Array,
  mask: Uint8Array | undefined,
  verbose: boolean,
): string {
  let text = '';
  for (let at = 0; at + 4 <= options.length; ) {
    const bytes = 4 * (options[at + 3]! & 31);
    const parts: string[] = [];
    const looked = (offset: number, count: number): boolean =>
      verbose || mask === undefined || !isZero(mask, at + offset, count);
    if (looked(0, 2)) parts.push(`class=${hex(be16(options, at))}`);
    if (looked(2, 1)) parts.push(`type=${hex(options[at + 2]!)}`);
    if (looked(3, 1)) parts.push(`len=${bytes}`);
    if (bytes > 0 && looked(4, bytes)) {
      const value = (record: Uint8Array): string =>
        `0x${numberOf(record.subarray(at + 4, at + 4 + bytes)).toString(16)}`;
      const exact = mask === undefined || full(mask, at + 4, bytes);
      parts.push(exact ? value(options) : `${value(options)}/${value(mask)}`);
    }
    text += `{${parts.join(',')}}`;
    at += 4 + bytes;
  }
  return text;
}

type Format = keyof typeof FORMATS;
const FIELDS: readonly (readonly [name: string, offset: number, bytes: number, format: Format])[] =
  [
    ['src', K_TUN_SRC, 4, 'ipv4'],
    ['dst', K_TUN_DST, 4, 'ipv4'],
    ['ipv6_src', K_TUN_IPV6_SRC, 16, 'ipv6'],
    ['ipv6_dst', K_TUN_IPV6_DST, 16, 'ipv6'],
    ['tos', K_TUN_TOS, 1, 'hex'],
    ['ttl', K_TUN_TTL, 1, 'decimal'],
    ['tp_src', K_TUN_TP_SRC, 2, 'decimal'],
  ];

/** "erspan(…)"; without `mask`: everything is exact. */
function erspanParts(key: Uint8Array, mask: Uint8Array | undefined, verbose: boolean): string[] {
  const word = be32(key, K_TUN_ERSPAN);
  const version = word >>> 28;
  if (version !== 1 && version !== 2) return [];
  const looked = mask === undefined ? 0xffffffff : be32(mask, K_TUN_ERSPAN);
  const parts: string[] = [];
  const field = (name: string, shift: number, bits: number, text: (n: number) => string): void => {
    const m = (looked >>> shift) & bits;
    if (m === 0 && !verbose) return;
    const value = text((word >>> shift) & bits);
    parts.push(`${name}=${value}${m === bits ? '' : `/0x${m.toString(16)}`}`);
  };
  field('ver', 28, 15, String);
  if (version === 1) {
    field('idx', 8, ERSPAN_INDEX, hex);
  } else {
    field('dir', 6, 1, String);
    field('hwid', 0, ERSPAN_HWID, hex);
  }
  return parts.length === 0 ? [] : [`erspan(${parts.join(',')})`];
}

/** "tunnel(…)" of a flow's key and mask, nothing for one without tunnel. What is zero is not shown, as if it were not there. */
export function tunnelKeyParts(key: Uint8Array, mask: Uint8Array, verbose: boolean): string[] {
  if (!hasTunnel(key)) return [];
  const parts: string[] = [];
  const masked = (offset: number, bytes: number, format: Format): string => {
    const value = FORMATS[format](key.subarray(offset, offset + bytes));
    if (full(mask, offset, bytes)) return value;
    return `${value}/${FORMATS[format](mask.subarray(offset, offset + bytes))}`;
  };
  const flags = be16(key, K_TUN_FLAGS);
  let flagMask = be16(mask, K_TUN_FLAGS) & ~TUN_KEY;
  if ((flags & TUN_KEY) !== 0 || !isZero(key, K_TUN_ID, 8)) {
    flagMask |= TUN_KEY;
    if (verbose || !isZero(mask, K_TUN_ID, 8)) {
      parts.push(`tun_id=${masked(K_TUN_ID, 8, 'hex').replace(/^0(?!x)/, '0x0')}`);
    }
  }
  for (const [name, offset, bytes, format] of FIELDS) {
    if (isZero(key, offset, bytes) || (!verbose && isZero(mask, offset, bytes))) continue;
    parts.push(`${name}=${masked(offset, bytes, format)}`);
  }
  if (!isZero(key, K_TUN_GBP_ID, 3) && (verbose || !isZero(mask, K_TUN_GBP_ID, 3))) {
    parts.push(`vxlan(gbp(id=${be16(key, K_TUN_GBP_ID)},flags=${hex(key[K_TUN_GBP_FLAGS]!)}))`);
  }
  const end = K_TUN_OPTS + key[K_TUN_OPTS_LEN]!;
  if (end > K_TUN_OPTS && (verbose || mask[K_TUN_OPTS_LEN] !== 0)) {
    const options = optionsText(
      key.subarray(K_TUN_OPTS, end),
      mask.subarray(K_TUN_OPTS, end),
      verbose,
    );
    parts.push(`geneve(${options})`);
  }
  parts.push(...erspanParts(key, mask, verbose));
  if (key[K_TUN_GTPU_MSGTYPE] !== 0) {
    const text = `flags=${hex(key[K_TUN_GTPU_FLAGS]!)},msgtype=${key[K_TUN_GTPU_MSGTYPE]}`;
    parts.push(`gtpu(${verbose ? text : ''})`);
  }
  if (verbose || flagMask !== 0) parts.push(`flags(${flagsText(flags, flagMask)})`);
  return [`tunnel(${parts.join(',')})`];
}

/** "set(tunnel(…))" of ACT_SET_TUNNEL. */
export function setTunnelText(operands: Uint32Array): string {
  const bytes = new Uint8Array(operands.slice(1).buffer);
  const key = new Uint8Array(KEY_SIZE);
  const fields = K_CT_IPV6_SRC - K_TUN_ID;
  key.set(bytes.subarray(0, fields), K_TUN_ID);
  const flags = be16(key, K_TUN_FLAGS);
  const parts =
    (flags & TUN_KEY) === 0
      ? []
      : [`tun_id=0x${numberOf(key.subarray(K_TUN_ID, K_TUN_ID + 8)).toString(16)}`];
  for (const [name, offset, size, format] of FIELDS) {
    if (isZero(key, offset, size)) continue;
    parts.push(`${name}=${FORMATS[format](key.subarray(offset, offset + size))}`);
  }
  if (operands[0] !== 0) parts.push(`tp_dst=${operands[0]}`);
  if (!isZero(key, K_TUN_GBP_ID, 3)) {
    parts.push(`vxlan(gbp(id=${be16(key, K_TUN_GBP_ID)},flags=${hex(key[K_TUN_GBP_FLAGS]!)}))`);
  }
  const options = bytes.subarray(fields, fields + key[K_TUN_OPTS_LEN]!);
  if (options.length > 0) parts.push(`geneve(${optionsText(options, undefined, false)})`);
  parts.push(...erspanParts(key, undefined, true));
  if ((flags & ALL_FLAGS) !== 0) parts.push(`flags(${flagsText(flags, ALL_FLAGS)})`);
  return `set(tunnel(${parts.join(',')}))`;
}

function fail(text: string): never {
  throw new SyntaxError(`syntax error at ${text}`);
}

/** Parses the inside of "tunnel(…)", already split at its top level. */
export function parseTunnel(key: Uint8Array, items: readonly string[]): void {
  for (const item of items) {
    const group = /^(\w+)\((.*)\)$/s.exec(item);
    if (group !== null) {
      parseGroup(key, group[1]!, group[2]!, item);
      continue;
    }
    const [name, value = ''] = item.split('=');
    const plain = value.split('/')[0]!;
    const number = (): bigint =>
      /^(0x[0-9a-f]{1,16}|\d{1,19})$/i.test(plain) ? BigInt(plain) : fail(item);
    if (name === 'tun_id') {
      new DataView(key.buffer, key.byteOffset).setBigUint64(K_TUN_ID, number());
      putBe16(key, K_TUN_FLAGS, be16(key, K_TUN_FLAGS) | TUN_KEY);
      continue;
    }
    if (name === 'tp_dst') {
      number();
      continue;
    }
    const [, offset, bytes, format] = FIELDS.find(([known]) => known === name) ?? fail(item);
    if (format === 'ipv4') {
      key.set(parseIpv4(plain) ?? fail(item), offset);
    } else if (format === 'ipv6') {
      key.set(parseIpv6(plain) ?? fail(item), offset);
    } else {
      const result = number();
      if (result >= 1n << BigInt(8 * bytes)) fail(item);
      if (bytes === 1) key[offset] = Number(result);
      else putBe16(key, offset, Number(result));
    }
  }
}

function parseGroup(key: Uint8Array, name: string, body: string, item: string): void {
  if (name === 'flags') {
    let flags = be16(key, K_TUN_FLAGS);
    for (const [, sign, flag] of body.matchAll(/([+\-|]?)([a-z]+)/g)) {
      const bit = FLAG_NAMES.find(([, known]) => known === flag)?.[0] ?? fail(item);
      if (sign !== '-') flags |= bit;
    }
    putBe16(key, K_TUN_FLAGS, flags);
  } else if (name === 'geneve') {
    parseOptions(key, body, item);
  } else if (name === 'erspan') {
    parseErspan(key, body, item);
  } else if (name === 'vxlan' || name === 'gtpu') {
    for (const [, field, value] of body.matchAll(/(\w+)=(\w+)/g)) {
      if (field === 'id') putBe16(key, K_TUN_GBP_ID, Number(value));
      else if (field === 'msgtype') key[K_TUN_GTPU_MSGTYPE] = Number(value);
      else if (field === 'flags') {
        key[name === 'vxlan' ? K_TUN_GBP_FLAGS : K_TUN_GTPU_FLAGS] = Number(value);
      } else fail(item);
    }
  } else {
    fail(item);
  }
}

function parseErspan(key: Uint8Array, body: string, item: string): void {
  const value = (name: string, most: number): number => {
    const text = new RegExp(`\\b${name}=(0x[0-9a-f]+|\\d+)`, 'i').exec(body)?.[1] ?? '0';
    return Number(text) <= most ? Number(text) : fail(item);
  };
  const version = value('ver', 2);
  const rest =
    version === 1
      ? value('idx', ERSPAN_INDEX) << 8
      : (value('dir', 1) << 6) | value('hwid', ERSPAN_HWID);
  putBe32(key, K_TUN_ERSPAN, ((version << 28) | rest) >>> 0);
}

function parseOptions(key: Uint8Array, body: string, item: string): void {
  let length = 0;
  for (const [, option] of body.matchAll(/\{([^}]*)\}/g)) {
    let bytes = 0;
    let value = '';
    const at = K_TUN_OPTS + length;
    for (const part of option!.split(',')) {
      const [name, text = ''] = part.split('=');
      const plain = text.split('/')[0]!;
      if (name === 'class') putBe16(key, at, Number(plain));
      else if (name === 'type') key[at + 2] = Number(plain);
      else if (name === 'len') bytes = Number(plain);
      else value = part.split('/')[0]!.replace(/^0x/i, '');
    }
    const fits = bytes >= 0 && bytes % 4 === 0 && length + 4 + bytes <= TUN_OPTS_MAX;
    if (!fits || value.length > 2 * bytes || /[^0-9a-f]/i.test(value)) fail(item);
    key[at + 3] = bytes / 4;
    key.set(Uint8Array.fromHex(value.padStart(2 * bytes, '0')), at + 4);
    length += 4 + bytes;
  }
  key[K_TUN_OPTS_LEN] = length;
}

// ---- MPLS

const ENTRY_FIELDS: readonly (readonly [name: string, shift: number, bits: number])[] = [
  ['label', 12, 0xfffff],
  ['tc', 9, 7],
  ['ttl', 0, 0xff],
  ['bos', 8, 1],
];

function maskedEntry(entry: number, mask: number, verbose: boolean): string {
  return ENTRY_FIELDS.flatMap(([name, shift, bits]) => {
    const m = (mask >>> shift) & bits;
    if (m === 0 && !verbose) return [];
    const value = (entry >>> shift) & bits;
    return [`${name}=${value}${m === bits ? '' : `/0x${m.toString(16)}`}`];
  }).join(',');
}

/** Entry and mask; all parts, however little of them is looked at. */
function looseEntry(entry: number, mask: number): string {
  const part = (shift: number, bits: number, digits: (value: number) => string): string =>
    `${(entry >>> shift) & bits}/${digits((mask >>> shift) & bits)}`;
  const prefixed = (value: number): string => `0x${value.toString(16)}`;
  const plain = (value: number): string => value.toString(16);
  return (
    `label=${part(12, 0xfffff, prefixed)},tc=${part(9, 7, plain)},` +
    `ttl=${part(0, 0xff, prefixed)},bos=${part(8, 1, plain)}`
  );
}

/** "mpls(…)" of a key: its entries one after the other, with masks unless all of all is looked at. */
export function mplsKeyParts(key: Uint8Array, mask: Uint8Array, verbose: boolean): string[] {
  const count = be16(key, K_MPLS_COUNT);
  const places = Array.from({ length: count }, (_, i) => K_MPLS_LSE + 4 * i);
  if (count === 0 || (!verbose && places.every((at) => be32(mask, at) === 0))) return [];
  const whole = places.every((at) => be32(mask, at) === 0xffffffff);
  const entries = places.map((at) =>
    whole
      ? maskedEntry(be32(key, at), 0xffffffff, true)
      : looseEntry(be32(key, at), be32(mask, at)),
  );
  return [`mpls(${entries.join(',')})`];
}

export function pushMplsText([entry, ethertype]: Uint32Array, name = 'push_mpls'): string {
  return `${name}(${maskedEntry(entry!, 0xffffffff, true)},eth_type=0x${ethertype!.toString(16)})`;
}

export function setMplsText([entry, mask]: Uint32Array): string {
  return `set(mpls(${maskedEntry(entry!, mask!, false)}))`;
}

/** Parses the inside of "mpls(…)": entries one after the other, or as numbers by their places (lse0, lse1, lse2). */
export function parseMpls(key: Uint8Array, items: readonly string[]): void {
  const entries: number[] = [];
  for (const item of items) {
    const [name, value = ''] = item.split('=');
    const plain = Number(value.split('/')[0]);
    const index = /^lse([0-2])$/.exec(name!)?.[1];
    if (index !== undefined) {
      entries[Number(index)] = plain >>> 0;
      continue;
    }
    const field = ENTRY_FIELDS.find(([known]) => known === name) ?? fail(item);
    if (!(plain >= 0 && plain <= field[2])) fail(item);
    // Each entry begins with its label.
    if (name === 'label' || entries.length === 0) entries.push(0);
    if (entries.length > 3) fail(item);
    const last = entries.length - 1;
    entries[last] = (entries[last]! | (plain << field[1])) >>> 0;
  }
  for (let i = 0; i < entries.length; i++) putBe32(key, K_MPLS_LSE + 4 * i, entries[i] ?? 0);
  putBe16(key, K_MPLS_COUNT, entries.length);
}
