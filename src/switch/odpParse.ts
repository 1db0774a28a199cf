// Parses datapath flow text (odpText.ts writes it) into a flow key: what is left out is zero. ofproto/trace ignores masks
// ("/…"); dpctl/add-flow wants them, too: what is left out is looked at by nobody. Throws SyntaxError with the text that
// ovs-appctl shows.

import {
  ETH_TYPE_NONE,
  FRAG_ANY,
  FRAG_LATER,
  K_CT_MARK,
  K_DP_HASH,
  K_ETH_TYPE,
  K_IN_PORT,
  K_PACKET_TYPE,
  K_PKT_MARK,
  K_PRIORITY,
  K_RECIRC_ID,
  K_TCP_FLAGS,
  K_VLAN0_TCI,
  K_VLAN1_TCI,
  KEY_SIZE,
  VLAN_PRESENT,
} from '../../contract/key.ts';
import { be16, be32, isVlanType, putBe16, putBe32 } from './flow.ts';
import { parseCtField } from './odpCt.ts';
import { formatBytes, ODP_GROUPS, type OdpField, TCP_FLAG_NAMES } from './odpFields.ts';
import { parseNsh } from './odpNsh.ts';
import { parseMpls, parseTunnel } from './odpTunnel.ts';
import { parseIpv4, parseIpv6, parseMac } from './textAddress.ts';

/** Fields that are one 32-bit number. */
const NUMBERS: ReadonlyMap<string, number> = new Map([
  ['skb_priority', K_PRIORITY],
  ['skb_mark', K_PKT_MARK],
  ['recirc_id', K_RECIRC_ID],
  ['dp_hash', K_DP_HASH],
  ['ct_mark', K_CT_MARK],
]);
/** Accepted when wildcarded or zero: nothing of the kind exists yet. */
const IGNORED = ['ufid'];

function fail(text: string): never {
  throw new SyntaxError(`syntax error at ${text}`);
}

export function odpNumber(text: string, max: number): number {
  const value = /^(0x[0-9a-f]+|\d+)$/i.test(text) ? Number(text) : Number.NaN;
  if (!(value >= 0 && value <= max)) fail(text);
  return value;
}

const SEPARATOR = /[,\s]/;

/** Splits "a(b,c(d)),e f" at top-level commas and white space, as Open vSwitch takes either. */
export function splitTop(text: string): string[] {
  const parts: string[] = [];
  let depth = 0;
  let start = 0;
  for (let i = 0; i <= text.length; i++) {
    const c = text[i];
    if (c === '(') depth++;
    else if (c === ')') depth--;
    else if ((c === undefined || SEPARATOR.test(c)) && depth === 0) {
      const part = text.slice(start, i).trim();
      if (part !== '') parts.push(part);
      start = i + 1;
    }
    if (depth < 0) fail(text.slice(i));
  }
  if (depth !== 0) fail(text);
  return parts;
}

export function putField(key: Uint8Array, field: OdpField, text: string): void {
  const { offset, format } = field;
  switch (format) {
    case 'mac':
      key.set(parseMac(text) ?? fail(text), offset);
      return;
    case 'ipv4':
      key.set(parseIpv4(text) ?? fail(text), offset);
      return;
    case 'ipv6':
      key.set(parseIpv6(text) ?? fail(text), offset);
      return;
    case 'frag':
      key[offset] =
        text === 'no'
          ? 0
          : text === 'first'
            ? FRAG_ANY
            : text === 'later'
              ? FRAG_ANY | FRAG_LATER
              : fail(text);
      return;
    case 'label':
      putBe32(key, offset, odpNumber(text, 0xfffff));
      return;
    case 'dec16':
      putBe16(key, offset, odpNumber(text, 0xffff));
      return;
    case 'icmp':
      putBe16(key, offset, odpNumber(text, 0xff));
      return;
    default:
      key[offset] = odpNumber(text, formatBytes(format) === 1 ? 0xff : 0xffff);
  }
}

/** The n-th VLAN header's place. */
function vlanSlot(depth: number): number {
  return depth === 0 ? K_VLAN0_TCI : K_VLAN1_TCI;
}

function parseVlan(key: Uint8Array, depth: number, body: string, mask?: Uint8Array): void {
  let tci = VLAN_PRESENT;
  let bits = VLAN_PRESENT;
  for (const part of splitTop(body)) {
    const [name, value = ''] = part.split('=');
    const [plain, covered] = value.split('/') as [string, string?];
    if (name === 'vid') {
      tci |= odpNumber(plain, 0xfff);
      bits |= covered === undefined ? 0xfff : odpNumber(covered, 0xfff);
    } else if (name === 'pcp') {
      tci |= odpNumber(plain, 7) << 13;
      bits |= (covered === undefined ? 7 : odpNumber(covered, 7)) << 13;
    } else if (name === 'cfi') tci = plain === '0' ? tci & ~VLAN_PRESENT : tci;
    else fail(part);
  }
  putBe16(key, vlanSlot(depth), tci);
  if (mask !== undefined) putBe16(mask, vlanSlot(depth), bits);
}

/** "+syn-ack" covers the flags it names, a plain value all of them. */
function tcpFlagsMask(body: string): number {
  const [, bits] = body.split('/');
  if (bits !== undefined) return odpNumber(bits, 0xfff);
  return /[+-]/.test(body) ? tcpFlags(body.replaceAll('-', '+')) : 0xfff;
}

/** A field's value and, into `mask`, what stands behind the slash: all of it if nothing does. */
export function putMasked(
  key: Uint8Array,
  mask: Uint8Array | undefined,
  field: OdpField,
  text: string,
): void {
  const [value, bits] = text.split('/') as [string, string?];
  putField(key, field, value);
  if (mask === undefined) return;
  const { offset, format } = field;
  if (format === 'frag') mask[offset] = FRAG_ANY | FRAG_LATER;
  else if (bits === undefined) mask.fill(0xff, offset, offset + formatBytes(format));
  else putField(mask, field, bits);
}

function tcpFlags(body: string): number {
  if (/^(0x)?[0-9a-f]+(\/.*)?$/i.test(body) && !TCP_FLAG_NAMES.includes(body)) {
    return odpNumber(body.split('/')[0]!, 0xfff);
  }
  let flags = 0;
  for (const [, sign, name] of body.matchAll(/([+\-|]?)([a-z]+)/g)) {
    const bit = TCP_FLAG_NAMES.indexOf(name!);
    if (bit < 0) fail(body);
    if (sign !== '-') flags |= 1 << bit;
  }
  return flags;
}

/** Text of the mask of a ct_… field that was given without one. */
function ctExact(name: string, text: string): string {
  if (name === 'ct_state') return /[+-]/.test(text) ? text.replaceAll('-', '+') : '0xff';
  return name === 'ct_zone' ? '0xffff' : `0x${'f'.repeat(32)}`;
}

function parseParts(
  key: Uint8Array,
  text: string,
  depth: number,
  portByName: (name: string) => number | undefined,
  mask?: Uint8Array,
): void {
  let from = 0;
  for (const part of splitTop(text)) {
    // An error shows all that could not be read.
    from = Math.max(from, text.indexOf(part, from));
    const rest = (): never => fail(text.slice(from));
    const open = part.indexOf('(');
    if (open < 0 || !part.endsWith(')')) {
      if (part.startsWith('ufid:')) continue;
      rest();
    }
    const name = part.slice(0, open);
    const body = part.slice(open + 1, -1);
    const [plain, bits] = body.split('/') as [string, string?];
    const group = ODP_GROUPS.get(name);
    const offset = NUMBERS.get(name);
    if (group !== undefined) {
      for (const item of splitTop(body)) {
        const [fieldName, value = ''] = item.split('=');
        const field = group.fields.find((f) => f.name === fieldName) ?? fail(item);
        putMasked(key, mask, field, value);
      }
    } else if (offset !== undefined) {
      putBe32(key, offset, odpNumber(plain, 0xffffffff));
      if (mask)
        putBe32(mask, offset, bits === undefined ? 0xffffffff : odpNumber(bits, 0xffffffff));
    } else if (name === 'in_port') {
      const port = /^\d+$/.test(plain) ? Number(plain) : portByName(plain);
      putBe32(key, K_IN_PORT, port ?? rest());
      if (mask)
        putBe32(mask, K_IN_PORT, bits === undefined ? 0xffffffff : odpNumber(bits, 0xffffffff));
    } else if (name === 'eth_type') {
      const type = odpNumber(plain, 0xffff);
      // The type around a VLAN header is the header's TPID.
      if (isVlanType(type) && depth < 2 && /(^|,)\s*vlan\(/.test(text)) {
        putBe16(key, vlanSlot(depth) + 2, type);
      } else {
        putBe16(key, K_ETH_TYPE, type);
      }
    } else if (name === 'tunnel') {
      parseTunnel(key, splitTop(body));
    } else if (name === 'mpls') {
      parseMpls(key, splitTop(body));
    } else if (name === 'nsh') {
      parseNsh(key, splitTop(body), mask);
    } else if (name === 'packet_type') {
      const [, ns, id] = /^ns=(\w+),id=(\w+)$/.exec(body.replace(/\/\w+/g, '')) ?? [];
      if (Number(ns) === 1) putBe32(key, K_PACKET_TYPE, (1 << 16) | odpNumber(id ?? '', 0xffff));
    } else if (name === 'vlan') {
      parseVlan(key, depth, body, mask);
    } else if (name === 'encap') {
      parseParts(key, body, depth + 1, portByName, mask);
    } else if (name === 'tcp_flags') {
      putBe16(key, K_TCP_FLAGS, tcpFlags(body));
      if (mask) putBe16(mask, K_TCP_FLAGS, tcpFlagsMask(body));
    } else if (parseCtField(key, name, plain)) {
      if (mask) parseCtField(mask, name, bits ?? ctExact(name, plain));
    } else if (!IGNORED.includes(name)) {
      rest();
    }
  }
}

/** KEY_SIZE bytes. `portByName` resolves names of datapath ports. `mask`: a record of zeros, for the mask. */
export function parseOdpFlow(
  text: string,
  portByName: (name: string) => number | undefined = () => undefined,
  mask?: Uint8Array,
): Uint8Array {
  const key = new Uint8Array(KEY_SIZE);
  // dpif/dump-flows -m writes the megaflow's name in front. White space may be anywhere between words.
  const plain = text
    .replace(/^\s*ufid:[-0-9a-f]+[\s,]*/, '')
    .replace(/\s+(?=[=(),/])|(?<=[=(,/])\s+/g, '');
  parseParts(key, plain, 0, portByName, mask);
  if (be32(key, K_PACKET_TYPE) !== 0) putBe16(key, K_ETH_TYPE, be16(key, K_PACKET_TYPE + 2));
  if (be16(key, K_ETH_TYPE) === 0) putBe16(key, K_ETH_TYPE, ETH_TYPE_NONE);
  return key;
}
