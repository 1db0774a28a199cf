// Parses datapath actions in text (odpText.ts writes them) into a program, for dpctl/add-flow, mod-flow and parse-actions.
//
// Known is what has a meaning without the rest of the switch: outputs, sets of headers, VLAN tags, meters, connection
// tracking without NAT, hashes, recirculation, and what nests other actions. Actions that name a translation's leavings (userspace, tunnels) and those that
// change what a packet is (MPLS, Ethernet headers) come from the flow tables only. Throws SyntaxError.

import {
  ACT_CHECK_PKT_LEN,
  ACT_CLONE,
  ACT_CT,
  ACT_CT_WORDS,
  ACT_END,
  ACT_HASH,
  ACT_METER,
  ACT_OUTPUT,
  ACT_POP_VLAN,
  ACT_PUSH_VLAN,
  ACT_RECIRC,
  ACT_SAMPLE,
  ACT_SET_ARP,
  ACT_SET_ETH,
  ACT_SET_IPV4,
  ACT_SET_IPV6,
  ACT_SET_META,
  ACT_SET_TP,
  ACT_SET_VLAN,
  ACT_TRUNC,
  ACTIONS_MAX_WORDS,
  CT_CLEAR,
  CT_COMMIT,
  CT_FORCE,
  CT_HAS_LABEL,
  CT_HAS_MARK,
  HASH_L4,
  HASH_L4_SYMMETRIC,
} from '../../contract/action.ts';
import {
  FRAG_LATER,
  K_ETH_TYPE,
  K_NW_FRAG,
  K_PKT_MARK,
  K_PRIORITY,
  K_VLAN0_TCI,
  K_VLAN1_TCI,
  KEY_SIZE,
  VLAN_PRESENT,
} from '../../contract/key.ts';
import { METERS_MAX } from '../../contract/meter.ts';
import { MAX_PORTS } from '../../contract/port.ts';
import { be16, ETH_TYPE_ARP, ETH_TYPE_IP, ETH_TYPE_IPV6, ETH_TYPE_RARP, isIp } from './flow.ts';
import { ODP_GROUPS } from './odpFields.ts';
import { odpNumber, putMasked, splitTop } from './odpParse.ts';
import { SET_PLACES, transportGroup } from './odpText.ts';

/** Nested programs: the data plane runs a few. */
const DEPTH_MAX = 4;
/** Shortest frame that trunc leaves, and the longest that there can be. */
const TRUNC_MIN = 14;
const TRUNC_MAX = 0xffff;

const fail = (text: string): never => {
  throw new SyntaxError(`syntax error at ${text}`);
};

/** The sets of header fields: group of odpFields.ts, and whether a packet with this key has such a header. */
const SETS: ReadonlyMap<string, readonly [op: number, fits: (key: Uint8Array) => boolean]> =
  (() => {
    const type = (key: Uint8Array): number => be16(key, K_ETH_TYPE);
    const transport = (name: string) => (key: Uint8Array) =>
      isIp(key) && (key[K_NW_FRAG]! & FRAG_LATER) === 0 && transportGroup(key)?.name === name;
    return new Map<string, readonly [number, (key: Uint8Array) => boolean]>([
      ['eth', [ACT_SET_ETH, () => true]],
      ['ipv4', [ACT_SET_IPV4, (key) => type(key) === ETH_TYPE_IP]],
      ['ipv6', [ACT_SET_IPV6, (key) => type(key) === ETH_TYPE_IPV6]],
      ['arp', [ACT_SET_ARP, (key) => type(key) === ETH_TYPE_ARP || type(key) === ETH_TYPE_RARP]],
      ...['tcp', 'udp', 'sctp', 'icmp', 'icmpv6'].map(
        (name) => [name, [ACT_SET_TP, transport(name)]] as const,
      ),
    ]);
  })();

class Parser {
  readonly #key: Uint8Array | undefined;
  #tags: number;
  #depth = 0;

  /** `key`: of the packets, which have to have the headers that are changed; none: it is about the text only. */
  constructor(key: Uint8Array | undefined) {
    this.#key = key;
    const tags = key && [K_VLAN0_TCI, K_VLAN1_TCI].filter((at) => be16(key, at) & VLAN_PRESENT);
    this.#tags = tags?.length ?? 1;
  }

  list(text: string): number[] {
    if (++this.#depth > DEPTH_MAX) fail(text);
    const parts = splitTop(text);
    const words = parts.join() === 'drop' ? [] : parts.flatMap((part) => this.#action(part));
    this.#depth--;
    return [...words, ACT_END | (1 << 16)];
  }

  #action(part: string): number[] {
    const found = /^(\w+)(?:\((.*)\))?$/s.exec(part) ?? fail(part);
    const name = found[1]!;
    const body = found[2];
    if (/^\d+$/.test(name) && body === undefined) {
      return op(ACT_OUTPUT, odpNumber(name, MAX_PORTS - 1));
    }
    if (name === 'pop_vlan' && body === undefined) return this.#popVlan(part);
    if (name === 'ct_clear' && body === undefined) return this.#ct(part, [CT_CLEAR]);
    if (name === 'ct') return this.#ct(part, ctWords(body ?? ''));
    if (body === undefined) return fail(part);
    switch (name) {
      case 'trunc': {
        const max = odpNumber(body, TRUNC_MAX);
        return max < TRUNC_MIN ? fail(part) : op(ACT_TRUNC, max);
      }
      case 'push_vlan':
        if (++this.#tags > 2) fail(part);
        return op(ACT_PUSH_VLAN, vlanWord(body, part));
      case 'meter':
        return op(ACT_METER, odpNumber(body, METERS_MAX - 1));
      case 'recirc':
        return op(ACT_RECIRC, odpNumber(body, 0xffffffff));
      case 'hash': {
        const [, kind, basis] = /^(l4|sym_l4)\((\w+)\)$/.exec(body) ?? fail(part);
        const hash = kind === 'l4' ? HASH_L4 : HASH_L4_SYMMETRIC;
        return op(ACT_HASH, hash, odpNumber(basis!, 0xffffffff));
      }
      case 'set':
        return this.#set(body);
      case 'clone':
        return op(ACT_CLONE, 0, ...this.#nested(body));
      case 'sample': {
        const [, share, actions] = /^sample=([\d.]+)%,actions\((.*)\)$/s.exec(body) ?? fail(part);
        const percentage = Number(share);
        if (!(percentage > 0 && percentage <= 100)) fail(part);
        return op(
          ACT_SAMPLE,
          Math.floor((percentage / 100) * 0xffffffff),
          ...this.#nested(actions!),
        );
      }
      case 'check_pkt_len': {
        const [size, larger, others, ...more] = splitTop(body);
        const [, bytes] = /^size=(\d+)$/.exec(size ?? '') ?? fail(part);
        const [, first] = /^gt\((.*)\)$/s.exec(larger ?? '') ?? fail(part);
        const [, second] = /^le\((.*)\)$/s.exec(others ?? '') ?? fail(part);
        if (more.length > 0) fail(part);
        const program = this.#nested(first!);
        const other = this.#nested(second!);
        return op(
          ACT_CHECK_PKT_LEN,
          odpNumber(bytes!, 0xffff),
          program.length,
          ...program,
          ...other,
        );
      }
      default:
        return fail(part);
    }
  }

  /** Actions on a clone: tags that they push or pop are the clone's. */
  #nested(text: string): number[] {
    const tags = this.#tags;
    const words = this.list(text);
    this.#tags = tags;
    return words;
  }

  #popVlan(part: string): number[] {
    if (this.#tags === 0) fail(part);
    this.#tags--;
    return op(ACT_POP_VLAN);
  }

  #ct(part: string, words: readonly number[]): number[] {
    if (this.#key !== undefined && !isIp(this.#key)) fail(part);
    const operands = [...words];
    while (operands.length < ACT_CT_WORDS - 1) operands.push(0);
    return op(ACT_CT, ...operands);
  }

  #set(body: string): number[] {
    const [, name, inner] = /^(\w+)\((.*)\)$/s.exec(body) ?? fail(body);
    if (name === 'skb_mark' || name === 'skb_priority') {
      const [value, mask] = inner!.split('/') as [string, string?];
      const words = [value, mask ?? '0xffffffff'].map((text) =>
        bigEndian(odpNumber(text, 0xffffffff)),
      );
      return op(ACT_SET_META, name === 'skb_mark' ? K_PKT_MARK : K_PRIORITY, ...words);
    }
    if (name === 'vlan') {
      if (this.#tags === 0) fail(body);
      return op(ACT_SET_VLAN, (vlanTci(inner!, body) | 0xefff0000) >>> 0);
    }
    const [code, fits] = SETS.get(name!) ?? fail(body);
    if (this.#key !== undefined && !fits(this.#key)) fail(body);
    const value = new Uint8Array(KEY_SIZE);
    const mask = new Uint8Array(KEY_SIZE);
    const places = SET_PLACES.get(code)!;
    for (const item of splitTop(inner!)) {
      const [fieldName, text = ''] = item.split('=');
      const field = ODP_GROUPS.get(name!)!.fields.find((one) => one.name === fieldName);
      // Fields that nobody sets (the protocol) have no place.
      if (field === undefined || !places.some(([offset]) => offset === field.offset)) fail(item);
      putMasked(value, mask, field!, text);
    }
    const words = { [ACT_SET_ETH]: 3, [ACT_SET_IPV4]: 3, [ACT_SET_IPV6]: 10, [ACT_SET_ARP]: 6 }[
      code
    ];
    const bytes = new Uint8Array(8 * (words ?? 1));
    for (const [record, base] of [
      [value, 0],
      [mask, bytes.length / 2],
    ] as const) {
      for (const [offset, length, at] of places) {
        bytes.set(record.subarray(offset, offset + length), base + at);
      }
    }
    return op(code, ...new Uint32Array(bytes.buffer));
  }
}

function op(code: number, ...operands: number[]): number[] {
  return [(code | ((operands.length + 1) << 16)) >>> 0, ...operands];
}

/** The word in which the bytes stand in network order. */
function bigEndian(value: number): number {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value);
  return new Uint32Array(bytes.buffer)[0]!;
}

/** "vid=5,pcp=3" as a tag without its presence bit. */
function vlanTci(body: string, part: string): number {
  let tci = 0;
  for (const item of splitTop(body)) {
    const [name, value = ''] = item.split('=');
    if (name === 'vid') tci |= odpNumber(value, 0xfff);
    else if (name === 'pcp') tci |= odpNumber(value, 7) << 13;
    else fail(part);
  }
  return tci;
}

/** tpid | tci << 16. */
function vlanWord(body: string, part: string): number {
  const [, tpid, rest] = /^(?:tpid=(\w+),)?(.*)$/s.exec(body)!;
  const type = tpid === undefined ? 0x8100 : odpNumber(tpid, 0xffff);
  if (type !== 0x8100 && type !== 0x88a8) fail(part);
  return ((vlanTci(rest!, part) << 16) | type) >>> 0;
}

/** Operands of ACT_CT. */
function ctWords(body: string): number[] {
  const words = new Array<number>(ACT_CT_WORDS - 1).fill(0);
  for (const item of splitTop(body)) {
    const [name, value = ''] = item.split('=');
    const [text, bits] = value.split('/') as [string, string?];
    if (item === 'commit') words[0]! |= CT_COMMIT;
    else if (item === 'force_commit') words[0]! |= CT_COMMIT | CT_FORCE;
    else if (name === 'zone') words[1] = odpNumber(value, 0xffff);
    else if (name === 'mark') {
      words[0]! |= CT_HAS_MARK;
      const mask = bits === undefined ? 0xffffffff : odpNumber(bits, 0xffffffff);
      words[3] = bigEndian(odpNumber(text, 0xffffffff));
      words[4] = bigEndian(mask);
    } else if (name === 'label') {
      words[0]! |= CT_HAS_LABEL;
      for (const [at, one] of [
        [5, text],
        [9, bits ?? `0x${'f'.repeat(32)}`],
      ] as const) {
        if (!/^0x[0-9a-f]{1,32}$/i.test(one)) fail(item);
        const bytes = Uint8Array.fromHex(one.slice(2).padStart(32, '0'));
        words.splice(at, 4, ...new Uint32Array(bytes.buffer));
      }
    } else fail(item);
  }
  if ((words[0]! & (CT_HAS_MARK | CT_HAS_LABEL)) !== 0 && (words[0]! & CT_COMMIT) === 0) fail(body);
  return words;
}

/** A program. `key`: of the packets that it is for, which have to have what it changes. */
export function parseOdpActions(text: string, key?: Uint8Array): Uint32Array {
  if (text.trim() === '') fail(text);
  const plain = text.replace(/\s+(?=[=(),/])|(?<=[=(,/])\s+/g, '');
  const words = new Parser(key).list(plain);
  if (words.length > ACTIONS_MAX_WORDS) fail(text);
  return Uint32Array.from(words);
}
