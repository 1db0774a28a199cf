// Text of datapath flows, as dpctl/dump-flows writes them:
//
//   recirc_id(0),in_port(2),packet_type(ns=0,id=0),eth(src=…,dst=…),eth_type(0x0800),ipv4(frag=no), packets:0,
//   bytes:0, used:never, actions:set(eth(dst=…)),3

import {
  ACT_ADD_MPLS,
  ACT_CHECK_PKT_LEN,
  ACT_CLONE,
  ACT_CT,
  ACT_DROP,
  ACT_END,
  ACT_HASH,
  ACT_METER,
  ACT_OUTPUT,
  ACT_POP_ETH,
  ACT_POP_MPLS,
  ACT_POP_NSH,
  ACT_POP_VLAN,
  ACT_PUSH_ETH,
  ACT_PUSH_MPLS,
  ACT_PUSH_NSH,
  ACT_PUSH_VLAN,
  ACT_RECIRC,
  ACT_SAMPLE,
  ACT_SET_ARP,
  ACT_SET_ETH,
  ACT_SET_IPV4,
  ACT_SET_IPV6,
  ACT_SET_META,
  ACT_SET_MPLS,
  ACT_SET_ND,
  ACT_SET_NSH,
  ACT_SET_TP,
  ACT_SET_TUNNEL,
  ACT_SET_VLAN,
  ACT_TRUNC,
  ACT_TUNNEL_POP,
  ACT_TUNNEL_PUSH,
  ACT_USERSPACE,
  CLONE_SAMPLE,
  HASH_L4,
  UPCALL_CONTROLLER,
  UPCALL_SAMPLE,
  UPCALL_SLOW,
} from '../../contract/action.ts';
import {
  ETH_TYPE_NONE,
  FRAG_ANY,
  FRAG_LATER,
  K_DP_HASH,
  K_ETH_TYPE,
  K_IN_PORT,
  K_NW_FRAG,
  K_NW_PROTO,
  K_PACKET_TYPE,
  K_PKT_MARK,
  K_PRIORITY,
  K_RECIRC_ID,
  K_TCP_FLAGS,
  K_TP_DST,
  K_TP_SRC,
  K_VLAN0_TCI,
  K_VLAN1_TCI,
  KEY_SIZE,
  VLAN_PRESENT,
} from '../../contract/key.ts';
import type { FlowStats } from '../engine/types.ts';
import { ETH_TYPE_NSH, isMpls } from '../wire/openflow/prereq.ts';
import {
  be16,
  be32,
  ETH_TYPE_ARP,
  ETH_TYPE_IP,
  ETH_TYPE_IPV6,
  ETH_TYPE_RARP,
  IPPROTO_ICMP,
  IPPROTO_ICMPV6,
  IPPROTO_SCTP,
  IPPROTO_TCP,
  IPPROTO_UDP,
  isZero,
  ND_ADVERT,
  ND_SOLICIT,
} from './flow.ts';
import { ctActionText, ctKeyParts, ctTupleGroup } from './odpCt.ts';
import {
  formatBytes,
  ipv6Text,
  macText,
  ODP_ARP,
  ODP_ETH,
  ODP_GROUPS,
  ODP_ICMP,
  ODP_ICMPV6,
  ODP_IPV4,
  ODP_IPV6,
  ODP_ND,
  ODP_SCTP,
  ODP_TCP,
  ODP_UDP,
  type OdpField,
  type OdpGroup,
  TCP_FLAG_NAMES,
} from './odpFields.ts';
import { nshKeyParts, pushNshText, setNshText } from './odpNsh.ts';
import {
  mplsKeyParts,
  pushMplsText,
  setMplsText,
  setTunnelText,
  tunnelKeyParts,
} from './odpTunnel.ts';
import { tunnelPushText } from './odpTunnelPush.ts';
import { slowNames } from './protocolPort.ts';
import type { PacketInSpec, Sample } from './translate/types.ts';

const REASON_NUMBERS: readonly PacketInSpec['reason'][] = [
  'no_match',
  'action',
  'invalid_ttl',
  'action_set',
  'group',
  'packet_out',
  'explicit_miss',
  'implicit_miss',
];

/** How to name ports and packet-ins; numbers when absent. */
export interface OdpNames {
  portName?: (port: number) => string | undefined;
  packetIn?: (cookie: number) => PacketInSpec | undefined;
  /** ofproto/trace without a packet sends nothing. */
  dontSend?: boolean;
}

const hex = (value: number): string => (value === 0 ? '0' : `0x${value.toString(16)}`);

function allOnes(mask: Uint8Array, offset: number, bytes: number): boolean {
  for (let i = offset; i < offset + bytes; i++) if (mask[i] !== 0xff) return false;
  return true;
}

function fragText(frag: number): string {
  if ((frag & FRAG_ANY) === 0) return 'no';
  return (frag & FRAG_LATER) === 0 ? 'first' : 'later';
}

/** "name=value[/mask]", or nothing if the field is wildcarded and `verbose` is not set. */
function fieldText(
  field: OdpField,
  key: Uint8Array,
  mask: Uint8Array,
  verbose: boolean,
): string | undefined {
  const { name, offset, format } = field;
  const bytes = formatBytes(format);
  if (!verbose && isZero(mask, offset, bytes)) return undefined;
  const exact = allOnes(mask, offset, bytes);
  const at = (record: Uint8Array): Uint8Array => record.subarray(offset, offset + bytes);
  const join = (value: string, bits: string, full = exact): string =>
    `${name}=${value}${full ? '' : `/${bits}`}`;
  switch (format) {
    case 'mac':
      return join(macText(at(key)), macText(at(mask)));
    case 'ipv4':
      return join([...at(key)].join('.'), [...at(mask)].join('.'));
    case 'ipv6':
      return join(ipv6Text(at(key)), ipv6Text(at(mask)));
    case 'dec8':
      return join(String(key[offset]), hex(mask[offset]!));
    case 'hex8':
      return join(hex(key[offset]!), hex(mask[offset]!));
    case 'dec16':
      return join(String(be16(key, offset)), hex(be16(mask, offset)));
    case 'arpOp':
      return join(String(key[offset]), hex(mask[offset]!));
    case 'icmp':
      return join(String(key[offset + 1]), hex(mask[offset + 1]!), mask[offset + 1] === 0xff);
    case 'label':
      return join(
        hex(be32(key, offset)),
        hex(be32(mask, offset)),
        (be32(mask, offset) & 0xfffff) === 0xfffff,
      );
    case 'frag':
      return `frag=${fragText(key[offset]!)}`;
  }
}

/** "group(…)"; undefined when all of it is wildcarded. */
function groupText(
  group: OdpGroup,
  key: Uint8Array,
  mask: Uint8Array,
  verbose: boolean,
): string | undefined {
  const fields = group.fields
    .map((field) => fieldText(field, key, mask, verbose))
    .filter((text) => text !== undefined);
  return fields.length === 0 ? undefined : `${group.name}(${fields.join(',')})`;
}

/** Group of the transport header, by protocol. */
export function transportGroup(key: Uint8Array): OdpGroup | undefined {
  const type = be16(key, K_ETH_TYPE);
  switch (key[K_NW_PROTO]) {
    case IPPROTO_TCP:
      return ODP_TCP;
    case IPPROTO_UDP:
      return ODP_UDP;
    case IPPROTO_SCTP:
      return ODP_SCTP;
    case IPPROTO_ICMP:
      return type === ETH_TYPE_IP ? ODP_ICMP : undefined;
    case IPPROTO_ICMPV6:
      return type === ETH_TYPE_IPV6 ? ODP_ICMPV6 : undefined;
    default:
      return undefined;
  }
}

export function tcpFlagsText(flags: number): string {
  const names = TCP_FLAG_NAMES.filter((_, bit) => (flags & (1 << bit)) !== 0);
  return names.length === 0 ? '0' : names.join('|');
}

function tcpFlagsMaskedText(flags: number, mask: number): string {
  if ((mask & 0xfff) === 0xfff) return tcpFlagsText(flags);
  return TCP_FLAG_NAMES.map((name, bit) =>
    (mask & (1 << bit)) === 0 ? '' : (flags & (1 << bit)) === 0 ? `-${name}` : `+${name}`,
  ).join('');
}

function vlanText(tci: number, mask: number, verbose: boolean): string {
  const parts: string[] = [];
  const vid = tci & 0xfff;
  const vidMask = mask & 0xfff;
  const pcp = tci >> 13;
  const pcpMask = mask >> 13;
  if (verbose || vid !== 0 || vidMask !== 0) {
    parts.push(`vid=${vid}${vidMask === 0xfff ? '' : `/0x${vidMask.toString(16)}`}`);
  }
  if (verbose || pcp !== 0 || pcpMask !== 0) {
    parts.push(`pcp=${pcp}${pcpMask === 7 ? '' : `/0x${pcpMask.toString(16)}`}`);
  }
  if ((tci & VLAN_PRESENT) === 0) parts.push('cfi=0');
  return parts.join(',');
}

/** L3 and L4 part of a key. */
function networkParts(key: Uint8Array, mask: Uint8Array, verbose: boolean): string[] {
  const parts: (string | undefined)[] = [];
  const type = be16(key, K_ETH_TYPE);
  if (type === ETH_TYPE_IP || type === ETH_TYPE_IPV6) {
    parts.push(groupText(type === ETH_TYPE_IP ? ODP_IPV4 : ODP_IPV6, key, mask, verbose));
    const group = transportGroup(key);
    if (group !== undefined && (key[K_NW_FRAG]! & FRAG_LATER) === 0) {
      parts.push(groupText(group, key, mask, verbose));
      const flagMask = be16(mask, K_TCP_FLAGS);
      if (group === ODP_TCP && (verbose || flagMask !== 0)) {
        parts.push(`tcp_flags(${tcpFlagsMaskedText(be16(key, K_TCP_FLAGS), flagMask)})`);
      }
      const nd = be16(key, K_TP_SRC);
      if (group === ODP_ICMPV6 && (nd === ND_SOLICIT || nd === ND_ADVERT)) {
        if (be16(key, K_TP_DST) === 0) parts.push(groupText(ODP_ND, key, mask, verbose));
      }
    }
  } else if (type === ETH_TYPE_ARP || type === ETH_TYPE_RARP) {
    parts.push(groupText(ODP_ARP, key, mask, verbose));
  } else if (isMpls(type)) {
    parts.push(...mplsKeyParts(key, mask, verbose));
  } else if (type === ETH_TYPE_NSH) {
    parts.push(...nshKeyParts(key, mask, verbose));
  }
  return parts.filter((part) => part !== undefined);
}

function typeParts(key: Uint8Array, mask: Uint8Array, verbose: boolean): string[] {
  const type = be16(key, K_ETH_TYPE);
  if (type === ETH_TYPE_NONE) return ['eth_type(0/0xffff)'];
  return [`eth_type(0x${type.toString(16).padStart(4, '0')})`, ...networkParts(key, mask, verbose)];
}

/** Ethernet type, VLAN headers around it, and what they encapsulate. */
function encapsulated(key: Uint8Array, mask: Uint8Array, verbose: boolean, depth = 0): string[] {
  const at = depth === 0 ? K_VLAN0_TCI : K_VLAN1_TCI;
  const tci = be16(key, at);
  if (depth === 2 || (tci & VLAN_PRESENT) === 0) return typeParts(key, mask, verbose);
  const bits = be16(mask, at);
  const tpid = be16(key, at + 2)
    .toString(16)
    .padStart(4, '0');
  const vlan =
    verbose || (bits & ~VLAN_PRESENT) !== 0 ? [`vlan(${vlanText(tci, bits, verbose)})`] : [];
  return [
    `eth_type(0x${tpid})`,
    ...vlan,
    `encap(${encapsulated(key, mask, verbose, depth + 1).join(',')})`,
  ];
}

function numberPart(
  name: string,
  key: Uint8Array,
  mask: Uint8Array,
  offset: number,
  verbose: boolean,
): string[] {
  const bits = be32(mask, offset);
  if (!verbose && bits === 0) return [];
  return [`${name}(${hex(be32(key, offset))}${bits === 0xffffffff ? '' : `/${hex(bits)}`})`];
}

function ctTupleParts(key: Uint8Array, mask: Uint8Array, verbose: boolean): string[] {
  const name = ctTupleGroup(key);
  const text = name && groupText(ODP_GROUPS.get(name)!, key, mask, verbose);
  return text === undefined ? [] : [text];
}

function packetTypeText(type: number): string {
  const id = type & 0xffff;
  return `packet_type(ns=${type >>> 16},id=${id === 0 ? '0' : `0x${id.toString(16)}`})`;
}

/** A datapath flow's key and mask. `verbose` prints wildcarded fields too (dpctl/dump-flows -m). */
export function formatOdpFlow(
  key: Uint8Array,
  mask: Uint8Array,
  verbose: boolean,
  names: OdpNames = {},
): string {
  const port = be32(key, K_IN_PORT);
  const type = be32(mask, K_PACKET_TYPE);
  const parts = [
    ...numberPart('skb_priority', key, mask, K_PRIORITY, verbose),
    ...tunnelKeyParts(key, mask, verbose),
    ...numberPart('skb_mark', key, mask, K_PKT_MARK, verbose),
    ...ctKeyParts(key, mask, verbose),
    ...ctTupleParts(key, mask, verbose),
    ...numberPart('recirc_id', key, mask, K_RECIRC_ID, verbose),
    ...numberPart('dp_hash', key, mask, K_DP_HASH, verbose),
    `in_port(${names.portName?.(port) ?? port})`,
    ...(verbose || type !== 0 ? [packetTypeText(be32(key, K_PACKET_TYPE))] : []),
  ];
  if (be32(key, K_PACKET_TYPE) !== 0) return [...parts, ...typeParts(key, mask, verbose)].join(',');
  const eth = groupText(ODP_ETH, key, mask, verbose);
  if (eth !== undefined) parts.push(eth);
  else if (type === 0) parts.push('eth()');
  return [...parts, ...encapsulated(key, mask, verbose)].join(',');
}

/** The record that a set action's value (or mask) stands for. */
function recordOf(words: Uint32Array, places: readonly Place[]) {
  const record = new Uint8Array(KEY_SIZE);
  const bytes = new Uint8Array(words.slice().buffer);
  for (const [offset, length, at] of places) {
    record.set(bytes.subarray(at, at + length), offset);
  }
  return record;
}

/** [offset in the key, bytes, offset in the action's value] of each set action (contract/action.ts). */
export type Place = readonly [offset: number, bytes: number, at: number];
export const SET_PLACES: ReadonlyMap<number, readonly Place[]> = new Map<number, readonly Place[]>([
  [ACT_SET_ETH, ODP_ETH.fields.map((f, i) => [f.offset, 6, i === 0 ? 6 : 0] as const)],
  [ACT_SET_IPV4, [0, 4, -1, 8, 9].flatMap((at, i) => place(ODP_IPV4, i, at))],
  [ACT_SET_IPV6, [0, 16, 32, -1, 36, 37].flatMap((at, i) => place(ODP_IPV6, i, at))],
  [ACT_SET_TP, [0, 2].flatMap((at, i) => place(ODP_TCP, i, at))],
  [ACT_SET_ARP, [0, 4, 21, 8, 14].flatMap((at, i) => place(ODP_ARP, i, at))],
  [ACT_SET_ND, [0, 16, 22].flatMap((at, i) => place(ODP_ND, i, at))],
]);

function place(group: OdpGroup, index: number, at: number): [number, number, number][] {
  const { offset, format } = group.fields[index]!;
  return at < 0 ? [] : [[offset, formatBytes(format), at]];
}

const SET_GROUPS: ReadonlyMap<number, OdpGroup> = new Map([
  [ACT_SET_ETH, ODP_ETH],
  [ACT_SET_IPV4, ODP_IPV4],
  [ACT_SET_IPV6, ODP_IPV6],
  [ACT_SET_ARP, ODP_ARP],
  [ACT_SET_ND, ODP_ND],
]);

function setText(op: number, operands: Uint32Array, key: Uint8Array): string {
  const half = operands.length / 2;
  const places = SET_PLACES.get(op)!;
  const value = recordOf(operands.subarray(0, half), places);
  const mask = recordOf(operands.subarray(half), places);
  const group = SET_GROUPS.get(op) ?? transportGroup(key) ?? ODP_TCP;
  return `set(${groupText(group, value, mask, false) ?? `${group.name}()`})`;
}

function metaText(operands: Uint32Array): string {
  const name = operands[0] === K_PKT_MARK ? 'skb_mark' : 'skb_priority';
  const bytes = new Uint8Array(operands.slice(1, 3).buffer);
  const mask = be32(bytes, 4);
  return `set(${name}(${hex(be32(bytes, 0))}${mask === 0xffffffff ? '' : `/${hex(mask)}`}))`;
}

function sampleText(sample: Sample, names: OdpNames): string {
  if (sample.kind === 'sflow') {
    const { vlanTci, output } = sample;
    return `sFlow(vid=${vlanTci & 0xfff},pcp=${(vlanTci >> 13) & 7},output=${output}),actions`;
  }
  const { outputPort } = sample;
  if (sample.kind === 'bridge') {
    return `ipfix(output_port=${names.portName?.(outputPort) ?? outputPort})`;
  }
  const { probability, collectorSetId, obsDomainId, obsPointId, direction } = sample;
  return (
    `flow_sample(probability=${probability},collector_set_id=${collectorSetId},obs_domain_id=${obsDomainId},` +
    `obs_point_id=${obsPointId},output_port=${names.portName?.(outputPort) ?? outputPort}` +
    `${['', ',ingress', ',egress'][direction]})`
  );
}

function userspaceText(operands: Uint32Array, names: OdpNames): string {
  const [reason, cookie, maxLen] = operands;
  if (reason === UPCALL_SLOW) return `userspace(pid=0,slow_path(${slowNames(cookie!)}))`;
  const spec = names.packetIn?.(cookie!);
  if (reason === UPCALL_SAMPLE && spec?.sample !== undefined) {
    return `userspace(pid=0,${sampleText(spec.sample, names)})`;
  }
  if (reason !== UPCALL_CONTROLLER) return 'userspace(pid=0)';
  const rule = spec?.cookie ?? 0n;
  return (
    `userspace(pid=0,controller(reason=${REASON_NUMBERS.indexOf(spec?.reason ?? 'action')},` +
    `dont_send=${names.dontSend ? 1 : 0},continuation=${spec?.paused === undefined ? 0 : 1},recirc_id=${cookie},` +
    `rule_cookie=${rule === 0n ? '0' : `0x${rule.toString(16)}`},` +
    `controller_id=${spec?.controllerId ?? 0},max_len=${spec?.maxLen ?? maxLen}))`
  );
}

/** A program. `key`: that of the megaflow, which tells what a transport port belongs to. */
export function formatOdpActions(
  program: Uint32Array,
  key: Uint8Array,
  names: OdpNames = {},
): string {
  const parts: string[] = [];
  for (let at = 0; at < program.length; ) {
    const op = program[at]! & 0xffff;
    const length = program[at]! >>> 16;
    if (op === ACT_END || length === 0) break;
    const operands = program.subarray(at + 1, at + length);
    // Why a packet goes no further although samples of it went up: Open vSwitch has no word for that.
    if (op !== ACT_DROP || parts.length === 0) parts.push(actionText(op, operands, key, names));
    at += length;
  }
  return parts.length === 0 ? 'drop' : parts.join(',');
}

function actionText(op: number, operands: Uint32Array, key: Uint8Array, names: OdpNames): string {
  const first = operands[0] ?? 0;
  switch (op) {
    case ACT_OUTPUT:
      return names.portName?.(first) ?? String(first);
    case ACT_TRUNC:
      return `trunc(${first})`;
    case ACT_PUSH_VLAN: {
      const tpid = first & 0xffff;
      const prefix = tpid === 0x8100 ? '' : `tpid=0x${tpid.toString(16).padStart(4, '0')},`;
      return `push_vlan(${prefix}${vlanText((first >>> 16) | VLAN_PRESENT, 0xffff, false)})`;
    }
    case ACT_POP_VLAN:
      return 'pop_vlan';
    case ACT_TUNNEL_PUSH:
      return tunnelPushText(operands, (port) => names.portName?.(port) ?? String(port));
    case ACT_SET_TUNNEL:
      return setTunnelText(operands);
    case ACT_TUNNEL_POP:
      return `tnl_pop(${names.portName?.(first) ?? first})`;
    case ACT_PUSH_MPLS:
      return pushMplsText(operands);
    case ACT_ADD_MPLS:
      return pushMplsText(operands, 'add_mpls');
    case ACT_POP_MPLS:
      return `pop_mpls(eth_type=0x${first.toString(16)})`;
    case ACT_SET_MPLS:
      return setMplsText(operands);
    case ACT_PUSH_ETH: {
      const bytes = new Uint8Array(operands.slice().buffer);
      return `push_eth(src=${macText(bytes.subarray(6, 12))},dst=${macText(bytes.subarray(0, 6))})`;
    }
    case ACT_POP_ETH:
      return 'pop_eth';
    case ACT_PUSH_NSH:
      return pushNshText(operands);
    case ACT_POP_NSH:
      return 'pop_nsh()';
    case ACT_SET_NSH:
      return setNshText(operands);
    case ACT_SET_VLAN:
      return `set(vlan(${vlanText((first & 0xffff) | VLAN_PRESENT, first >>> 16, false)}))`;
    case ACT_SET_META:
      return metaText(operands);
    case ACT_USERSPACE:
      return userspaceText(operands, names);
    case ACT_CLONE: {
      const body = formatOdpActions(operands.subarray(1), key, names);
      return first === CLONE_SAMPLE ? `sample(sample=100.0%,actions(${body}))` : `clone(${body})`;
    }
    case ACT_SAMPLE: {
      const percentage = ((100 * first) / 0xffffffff).toFixed(1);
      const body = formatOdpActions(operands.subarray(1), key, names);
      return `sample(sample=${percentage}%,actions(${body}))`;
    }
    case ACT_CHECK_PKT_LEN: {
      const [size, words] = operands;
      const larger = formatOdpActions(operands.subarray(2, 2 + words!), key, names);
      const others = formatOdpActions(operands.subarray(2 + words!), key, names);
      return `check_pkt_len(size=${size},gt(${larger}),le(${others}))`;
    }
    case ACT_METER:
      return `meter(${first})`;
    case ACT_HASH:
      return `hash(${first === HASH_L4 ? 'l4' : 'sym_l4'}(${operands[1]}))`;
    case ACT_CT:
      return ctActionText(operands);
    case ACT_RECIRC:
      return `recirc(${hex(first)})`;
    case ACT_DROP:
      return 'drop';
    default:
      return setText(op, operands, key);
  }
}

/** "packets:0, bytes:0, used:never[, flags:…]". */
export function formatOdpStats(stats: FlowStats, nowMs: number): string {
  const used =
    stats.packets === 0 ? 'never' : `${(Math.max(0, nowMs - stats.usedMs) / 1000).toFixed(3)}s`;
  const flags = stats.tcpFlags === 0 ? '' : `, flags:${packetFlags(stats.tcpFlags)}`;
  return `packets:${stats.packets}, bytes:${stats.bytes}, used:${used}${flags}`;
}

/** One letter a flag, as statistics show them. */
function packetFlags(flags: number): string {
  const letters = ['F', 'S', 'R', 'P', '.', 'U', 'E', 'C', 'N'];
  const known = letters.filter((_, bit) => (flags & (1 << bit)) !== 0).join('');
  return (flags & 0xe00) === 0 ? known : `${known}[${(flags >> 9) & 7}]`;
}
