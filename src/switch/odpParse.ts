// Parses datapath flow text (odpText.ts writes it) into a flow key, for ofproto/trace: what is left out is zero, masks
// ("/…") are ignored. Throws SyntaxError with the text that ovs-appctl shows.

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

function number(text: string, max: number): number {
  const value = /^(0x[0-9a-f]+|\d+)$/i.test(text) ? Number(text) : Number.NaN;
  if (!(value >= 0 && value <= max)) fail(text);
  return value;
}

const SEPARATOR = /[,\s]/;

/** Splits "a(b,c(d)),e f" at top-level commas and white space, as Open vSwitch takes either. */
function splitTop(text: string): string[] {
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

function putField(key: Uint8Array, field: OdpField, text: string): void {
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
      putBe32(key, offset, number(text, 0xfffff));
      return;
    case 'dec16':
      putBe16(key, offset, number(text, 0xffff));
      return;
    case 'icmp':
      putBe16(key, offset, number(text, 0xff));
      return;
    default:
      key[offset] = number(text, formatBytes(format) === 1 ? 0xff : 0xffff);
  }
}

/** The n-th VLAN header's place. */
function vlanSlot(depth: number): number {
  return depth === 0 ? K_VLAN0_TCI : K_VLAN1_TCI;
}

function parseVlan(key: Uint8Array, depth: number, body: string): void {
  let tci = VLAN_PRESENT;
  for (const part of splitTop(body)) {
    const [name, value = ''] = part.split('=');
    const plain = value.split('/')[0]!;
    if (name === 'vid') tci |= number(plain, 0xfff);
    else if (name === 'pcp') tci |= number(plain, 7) << 13;
    else if (name === 'cfi') tci = plain === '0' ? tci & ~VLAN_PRESENT : tci;
    else fail(part);
  }
  putBe16(key, vlanSlot(depth), tci);
}

function tcpFlags(body: string): number {
  if (/^(0x)?[0-9a-f]+(\/.*)?$/i.test(body) && !TCP_FLAG_NAMES.includes(body)) {
    return number(body.split('/')[0]!, 0xfff);
  }
  let flags = 0;
  for (const [, sign, name] of body.matchAll(/([+\-|]?)([a-z]+)/g)) {
    const bit = TCP_FLAG_NAMES.indexOf(name!);
    if (bit < 0) fail(body);
    if (sign !== '-') flags |= 1 << bit;
  }
  return flags;
}

function parseParts(
  key: Uint8Array,
  text: string,
  depth: number,
  portByName: (name: string) => number | undefined,
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
    const plain = body.split('/')[0]!;
    const group = ODP_GROUPS.get(name);
    const offset = NUMBERS.get(name);
    if (group !== undefined) {
      for (const item of splitTop(body)) {
        const [fieldName, value = ''] = item.split('=');
        const field = group.fields.find((f) => f.name === fieldName) ?? fail(item);
        putField(key, field, value.split('/')[0]!);
      }
    } else if (offset !== undefined) {
      putBe32(key, offset, number(plain, 0xffffffff));
    } else if (name === 'in_port') {
      const port = /^\d+$/.test(plain) ? Number(plain) : portByName(plain);
      putBe32(key, K_IN_PORT, port ?? rest());
    } else if (name === 'eth_type') {
      const type = number(plain, 0xffff);
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
    } else if (name === 'packet_type') {
      const [, ns, id] = /^ns=(\w+),id=(\w+)$/.exec(body.replace(/\/\w+/g, '')) ?? [];
      if (Number(ns) === 1) putBe32(key, K_PACKET_TYPE, (1 << 16) | number(id ?? '', 0xffff));
    } else if (name === 'vlan') {
      parseVlan(key, depth, body);
    } else if (name === 'encap') {
      parseParts(key, body, depth + 1, portByName);
    } else if (name === 'tcp_flags') {
      putBe16(key, K_TCP_FLAGS, tcpFlags(body));
    } else if (parseCtField(key, name, plain)) {
      // done
    } else if (!IGNORED.includes(name)) {
      rest();
    }
  }
}

/** KEY_SIZE bytes. `portByName` resolves names of datapath ports. */
export function parseOdpFlow(
  text: string,
  portByName: (name: string) => number | undefined = () => undefined,
): Uint8Array {
  const key = new Uint8Array(KEY_SIZE);
  // dpif/dump-flows -m writes the megaflow's name in front. White space may be anywhere between words.
  const plain = text
    .replace(/^\s*ufid:[-0-9a-f]+[\s,]*/, '')
    .replace(/\s+(?=[=(),/])|(?<=[=(,/])\s+/g, '');
  parseParts(key, plain, 0, portByName);
  if (be32(key, K_PACKET_TYPE) !== 0) putBe16(key, K_ETH_TYPE, be16(key, K_PACKET_TYPE + 2));
  if (be16(key, K_ETH_TYPE) === 0) putBe16(key, K_ETH_TYPE, ETH_TYPE_NONE);
  return key;
}
