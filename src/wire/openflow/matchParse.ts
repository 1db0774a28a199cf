// Matches from text: flow keys as ovs-ofctl and ofproto/trace take them (ovs-fields(7), ovs-ofctl(8) "Flow Syntax").
// parseFlowText() is the loose form of flows, with masks and what is not a field given back; parseExactFlow() is the
// strict one of ofproto/trace, which describes a packet: no masks, prerequisites first.

import { F_IN_PORT, FLOW_SIZE, K_ETH_TYPE, K_NW_PROTO } from '../../../contract/key.ts';
import { emptyMatch, fieldIsMatched, getField, matchField, setField } from './fieldAccess.ts';
import { fieldByName, findField } from './fields.ts';
import type { PortMap } from './fieldText.ts';
import { parseField, parseSubfield, TextError } from './fieldText.ts';
import { isValueValid } from './match.ts';
import { get16, get32, prereqOk, put16, put32 } from './prereq.ts';
import type { Match } from './types.ts';
import { OFPP_NONE } from './types.ts';

const PROTOCOLS: Readonly<Record<string, readonly [type: number, proto: number]>> = {
  ip: [0x0800, 0],
  ipv4: [0x0800, 0],
  ip4: [0x0800, 0],
  arp: [0x0806, 0],
  icmp: [0x0800, 1],
  tcp: [0x0800, 6],
  udp: [0x0800, 17],
  sctp: [0x0800, 132],
  ipv6: [0x86dd, 0],
  ip6: [0x86dd, 0],
  icmp6: [0x86dd, 58],
  tcp6: [0x86dd, 6],
  udp6: [0x86dd, 17],
  sctp6: [0x86dd, 132],
  rarp: [0x8035, 0],
  mpls: [0x8847, 0],
  mplsm: [0x8848, 0],
};

/** key, key=value, key:value and key(value), separated by commas or white space. */
export function splitKeyValues(text: string): [key: string, value: string][] {
  const pairs: [string, string][] = [];
  let i = 0;
  const isSeparator = (c: string): boolean => /[,\s]/.test(c);
  while (i < text.length) {
    if (isSeparator(text[i]!)) {
      i++;
      continue;
    }
    const start = i;
    while (i < text.length && !/[:=(,\s]/.test(text[i]!)) i++;
    const key = text.slice(start, i);
    const delimiter = text[i] ?? ',';
    if (isSeparator(delimiter)) {
      pairs.push([key, '']);
      continue;
    }
    i++;
    const valueStart = i;
    let depth = delimiter === '(' ? 1 : 0;
    while (i < text.length) {
      const c = text[i]!;
      if (c === '(') depth++;
      else if (c === ')' && --depth <= 0 && delimiter === '(') break;
      else if (depth <= 0 && isSeparator(c)) break;
      i++;
    }
    pairs.push([key, text.slice(valueStart, i)]);
    if (delimiter === '(') i++;
  }
  return pairs;
}

function setProtocol(match: Match, [type, proto]: readonly [number, number]): void {
  put16(match.key, K_ETH_TYPE, type);
  put16(match.mask, K_ETH_TYPE, 0xffff);
  if (proto === 0) return;
  match.key[K_NW_PROTO] = proto;
  match.mask[K_NW_PROTO] = 0xff;
}

/** tp_src and tp_dst mean the ports of the protocol that the match names. */
function fieldFor(name: string, key: Uint8Array): ReturnType<typeof findField> {
  const field = findField(name);
  if (name !== 'tp_src' && name !== 'tp_dst') return field;
  const proto = key[K_NW_PROTO];
  const l4 = proto === 17 ? 'udp' : proto === 132 ? 'sctp' : proto === 1 ? 'icmp' : 'tcp';
  if (l4 === 'icmp') return fieldByName(name === 'tp_src' ? 'icmp_type' : 'icmp_code');
  if (proto === 58) return fieldByName(name === 'tp_src' ? 'icmpv6_type' : 'icmpv6_code');
  return fieldByName(`${l4}_${name.slice(3)}`);
}

export interface FlowText {
  match: Match;
  /** Keys that are no fields (priority, table, cookie …), in order. */
  others: [string, string][];
}

/** Fields with masks; prerequisites are not checked (the switch refuses what lacks them). Throws TextError. */
export function parseFlowText(text: string, ports?: PortMap): FlowText {
  const match = emptyMatch(FLOW_SIZE);
  const others: [string, string][] = [];
  for (const [key, value] of splitKeyValues(text)) {
    const protocol = PROTOCOLS[key];
    if (protocol !== undefined && value === '') {
      setProtocol(match, protocol);
      continue;
    }
    if (key === 'eth' && value === '') continue;
    if (key === 'dl_vlan' && value === '0xffff') {
      matchField(match, fieldByName('vlan_tci'), 0n);
      continue;
    }
    const f = fieldFor(key, match.key);
    if (f !== undefined) {
      const [v, m] = parseField(f, value, ports);
      if (f.tlvIndex === undefined && !isValueValid(f, v & m))
        throw new TextError(`${value}: invalid value for field ${f.name}`);
      matchField(match, f, v, m);
    } else if (key.includes('[')) {
      const s = parseSubfield(key);
      const sf = fieldByName(s.field);
      const [v] = parseField({ ...sf, format: 'hex', maskable: true }, value);
      if (v >> BigInt(s.bits) !== 0n)
        throw new TextError(`${key}: value ${value} does not fit into ${s.bits} bits`);
      const shift = BigInt(s.offset);
      matchField(match, sf, v << shift, ((1n << BigInt(s.bits)) - 1n) << shift);
    } else {
      others.push([key, value]);
    }
  }
  return { match, others };
}

/** A match and nothing else; throws TextError for unknown keys. */
export function parseMatch(text: string, ports?: PortMap): Match {
  const { match, others } = parseFlowText(text, ports);
  const unknown = others[0];
  if (unknown !== undefined) throw new TextError(`unknown keyword ${unknown[0]}`);
  return match;
}

/**
 * A packet's headers: the record of a flow (FLOW_SIZE bytes); in_port is OFPP_NONE if not given. As in Open vSwitch,
 * tp_src and tp_dst are names of TCP's ports here, whatever the protocol, and a protocol's value is not looked at.
 */
export function parseExactFlow(text: string, ports?: PortMap): Uint8Array {
  const match = emptyMatch(FLOW_SIZE);
  const flow = match.key;
  for (const [key, value] of splitKeyValues(text)) {
    const protocol = PROTOCOLS[key];
    if (protocol !== undefined) {
      if (get16(flow, K_ETH_TYPE) !== 0)
        throw new TextError(`${text}: Ethernet type set multiple times`);
      if (protocol[1] !== 0 && flow[K_NW_PROTO] !== 0)
        throw new TextError(`${text}: network protocol set multiple times`);
      setProtocol(match, protocol);
      continue;
    }
    const f = findField(key.replace(/^tp_(?=src$|dst$)/, 'tcp_'));
    if (f === undefined) throw new TextError(`${text}: unknown field ${key}`);
    if (!prereqOk(f.prereq, flow))
      throw new TextError(`${text}: prerequisites not met for setting ${key}`);
    if (getField(flow, f) !== 0n || fieldIsMatched(match, f))
      throw new TextError(`${text}: field ${key} set multiple times`);
    try {
      const [v, m] = parseField(f, value, ports);
      if (m !== (1n << BigInt(8 * f.bytes)) - 1n)
        throw new TextError(`${value}: wildcards not allowed here`);
      setField(flow, f, v);
    } catch (error) {
      if (!(error instanceof TextError)) throw error;
      throw new TextError(`${text}: bad value for ${key} (${error.message})`);
    }
  }
  if (get32(flow, F_IN_PORT) === 0) put32(flow, F_IN_PORT, OFPP_NONE);
  return flow;
}
