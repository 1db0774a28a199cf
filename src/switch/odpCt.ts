// Datapath flow text of connection tracking: "ct_state(+est+trk),ct_zone(0x5),ct_label(0x1/0x1)" in keys, and
// "ct(commit,zone=5,mark=0x1/0xff,nat(src=10.0.0.1))" in actions. Open vSwitch's odp-util has the words.

import {
  CT_ALG_FTP,
  CT_ALG_TFTP,
  CT_CLEAR,
  CT_COMMIT,
  CT_FORCE,
  CT_HAS_LABEL,
  CT_HAS_MARK,
  CT_NAT,
  CT_NAT_DST,
  CT_NAT_HASH,
  CT_NAT_PERSISTENT,
  CT_NAT_RANDOM,
  CT_NAT_SRC,
  CT_NAT_V6,
} from '../../contract/action.ts';
import {
  K_CT_LABEL,
  K_CT_MARK,
  K_CT_NW_PROTO,
  K_CT_STATE,
  K_CT_ZONE,
  K_ETH_TYPE,
} from '../../contract/key.ts';
import { be16, be32, ETH_TYPE_IP, isZero, putBe16, putBe32 } from './flow.ts';
import { ipv6Text } from './odpFields.ts';

/** By bit. */
export const CT_STATE_NAMES: readonly string[] = [
  'new',
  'est',
  'rel',
  'rpl',
  'inv',
  'trk',
  'snat',
  'dnat',
];

const hex = (value: number): string => (value === 0 ? '0' : `0x${value.toString(16)}`);

/** "new|trk", or 0. */
export function ctStateText(state: number): string {
  const names = CT_STATE_NAMES.filter((_, bit) => (state & (1 << bit)) !== 0);
  return names.length === 0 ? '0' : names.join('|');
}

function stateText(state: number, mask: number, verbose: boolean): string {
  // Open vSwitch has no flags above these in a key, and so none of them in a mask.
  if (verbose) return `${hex(state)}/${hex(mask & 0xff)}`;
  return CT_STATE_NAMES.map((name, bit) =>
    (mask & (1 << bit)) === 0 ? '' : `${(state & (1 << bit)) === 0 ? '-' : '+'}${name}`,
  ).join('');
}

function bytesHex(bytes: Uint8Array): string {
  const digits = bytes.toHex().replace(/^0+/, '');
  return digits === '' ? '0' : `0x${digits}`;
}

function labelText(value: Uint8Array, mask: Uint8Array): string {
  const exact = mask.every((byte) => byte === 0xff);
  return `${bytesHex(value)}${exact ? '' : `/${bytesHex(mask)}`}`;
}

/** The part of a key up to recirc_id that is about connection tracking; original tuples are groups of odpFields.ts. */
export function ctKeyParts(key: Uint8Array, mask: Uint8Array, verbose: boolean): string[] {
  const parts: string[] = [];
  const state = be32(mask, K_CT_STATE);
  if (verbose || state !== 0) {
    parts.push(
      `ct_state(${stateText(be32(key, K_CT_STATE) & (verbose ? -1 : state), state, verbose)})`,
    );
  }
  const zone = be16(mask, K_CT_ZONE);
  if (verbose || zone !== 0) {
    parts.push(`ct_zone(${hex(be16(key, K_CT_ZONE))}${zone === 0xffff ? '' : `/${hex(zone)}`})`);
  }
  const mark = be32(mask, K_CT_MARK);
  if (verbose || mark !== 0) {
    parts.push(
      `ct_mark(${hex(be32(key, K_CT_MARK))}${mark === 0xffffffff ? '' : `/${hex(mark)}`})`,
    );
  }
  if (verbose || !isZero(mask, K_CT_LABEL, 16)) {
    const label = (record: Uint8Array): Uint8Array => record.subarray(K_CT_LABEL, K_CT_LABEL + 16);
    parts.push(`ct_label(${labelText(label(key), label(mask))})`);
  }
  return parts;
}

/** Name of the group that shows the original tuple; undefined if the packet has none. */
export function ctTupleGroup(key: Uint8Array): 'ct_tuple4' | 'ct_tuple6' | undefined {
  if (key[K_CT_NW_PROTO] === 0) return undefined;
  return be16(key, K_ETH_TYPE) === ETH_TYPE_IP ? 'ct_tuple4' : 'ct_tuple6';
}

function natText(operands: Uint32Array, bytes: Uint8Array): string {
  const flags = operands[0]!;
  if ((flags & (CT_NAT_SRC | CT_NAT_DST)) === 0) return 'nat';
  const length = (flags & CT_NAT_V6) !== 0 ? 16 : 4;
  const ports = operands[21]!;
  const portMin = ports & 0xffff;
  const portMax = ports >>> 16;
  const addressText = (at: number): string => {
    const address = bytes.subarray(at, at + length);
    if (length === 4) return address.join('.');
    return portMin === 0 ? ipv6Text(address) : `[${ipv6Text(address)}]`;
  };
  let text = (flags & CT_NAT_SRC) !== 0 ? 'src' : 'dst';
  if (!isZero(bytes, 52, length)) {
    const min = addressText(52);
    const max = addressText(68);
    text += `=${min}${max === min ? '' : `-${max}`}`;
    if (portMin !== 0) text += `:${portMin}${portMax === portMin ? '' : `-${portMax}`}`;
  }
  if ((flags & CT_NAT_PERSISTENT) !== 0) text += ',persistent';
  if ((flags & CT_NAT_HASH) !== 0) text += ',hash';
  else if ((flags & CT_NAT_RANDOM) !== 0) text += ',random';
  return `nat(${text})`;
}

/** Open vSwitch keeps mark and its mask as host numbers in the action. */
function hostHex(bytes: Uint8Array, at: number): string {
  return hex(be32(bytes, at));
}

/** ACT_CT; `operands`: the words behind the header (contract/action.ts). */
export function ctActionText(operands: Uint32Array): string {
  const flags = operands[0]!;
  if ((flags & CT_CLEAR) !== 0) return 'ct_clear';
  const bytes = new Uint8Array(operands.slice().buffer);
  const parts: string[] = [];
  if ((flags & CT_FORCE) !== 0) parts.push('force_commit');
  else if ((flags & CT_COMMIT) !== 0) parts.push('commit');
  if (operands[1] !== 0) parts.push(`zone=${operands[1]}`);
  if ((flags & CT_HAS_MARK) !== 0) parts.push(`mark=${hostHex(bytes, 12)}/${hostHex(bytes, 16)}`);
  if ((flags & CT_HAS_LABEL) !== 0) {
    parts.push(`label=${labelText(bytes.subarray(20, 36), bytes.subarray(36, 52))}`);
  }
  if ((flags & CT_ALG_FTP) !== 0) parts.push('helper=ftp');
  else if ((flags & CT_ALG_TFTP) !== 0) parts.push('helper=tftp');
  if (operands[2] !== 0) parts.push(`timeout=${operands[2]}`);
  if ((flags & CT_NAT) !== 0) parts.push(natText(operands, bytes));
  return parts.length === 0 ? 'ct' : `ct(${parts.join(',')})`;
}

/** "+est-new", "new|trk" or a number; undefined when it is none of them. */
export function parseCtState(text: string): number | undefined {
  if (/^(0x[0-9a-f]+|\d+)$/i.test(text)) return Number(text);
  let state = 0;
  let rest = text;
  while (rest !== '') {
    const found = /^[,|]?\s*([+-]?)([a-z]+)\s*/.exec(rest);
    const bit = found === null ? -1 : CT_STATE_NAMES.indexOf(found[2]!);
    if (bit < 0) return undefined;
    if (found![1] !== '-') state |= 1 << bit;
    rest = rest.slice(found![0].length);
  }
  return state;
}

/** Reads a field of connection tracking into a key; false if the name is none or the text is bad. */
export function parseCtField(key: Uint8Array, name: string, text: string): boolean {
  switch (name) {
    case 'ct_state': {
      const state = parseCtState(text);
      if (state !== undefined) putBe32(key, K_CT_STATE, state);
      return state !== undefined;
    }
    case 'ct_zone':
      if (!/^(0x[0-9a-f]{1,4}|\d{1,5})$/i.test(text) || Number(text) > 0xffff) return false;
      putBe16(key, K_CT_ZONE, Number(text));
      return true;
    case 'ct_label': {
      if (!/^(0x[0-9a-f]{1,32}|\d{1,38})$/i.test(text)) return false;
      key.set(Uint8Array.fromHex(BigInt(text).toString(16).padStart(32, '0')), K_CT_LABEL);
      return true;
    }
    default:
      return false;
  }
}
