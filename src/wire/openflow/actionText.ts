// Actions as text, exactly as ovs-ofctl shows them (ovs-actions(7)): "mod_dl_dst:…,resubmit(,10),output:2". The opposite
// direction is actionParse.ts.

import { PACKET_TYPE_NSH } from '../../../contract/tunnel.ts';
import { formatIpv4, formatIpv6, hex2 } from './address.ts';
import { formatEncapProps } from './encapProps.ts';
import { fromBytes, resolveField, toBytes } from './fieldAccess.ts';
import { fieldByName } from './fields.ts';
import type { PortMap } from './fieldText.ts';
import { formatField, formatPort, formatSubfield } from './fieldText.ts';
import type { TlvMapping } from './messages.ts';
import type { Action, LearnSpec } from './types.ts';
import * as t from './types.ts';

export interface ActionTextOptions {
  ports?: PortMap;
  tlvs?: readonly TlvMapping[];
}

/** printf's %#x: zero has no prefix. */
const hex = (value: number | bigint): string => (value ? `0x${value.toString(16)}` : '0');
const hex4 = (value: number): string => `0x${value.toString(16).padStart(4, '0')}`;

export function formatActions(actions: readonly Action[], options: ActionTextOptions = {}): string {
  return actions.length === 0 ? 'drop' : actions.map((a) => formatAction(a, options)).join(',');
}

export function formatAction(a: Action, options: ActionTextOptions = {}): string {
  const port = (n: number): string => formatPort(n, options.ports);
  switch (a.type) {
    case 'output':
      if (a.port < 0xff00) return `output:${port(a.port)}`;
      return a.port === t.OFPP_CONTROLLER ? `CONTROLLER:${a.maxLen}` : port(a.port);
    case 'output_reg':
      return `output:${formatSubfield(a.source)}`;
    case 'output_trunc':
      return `output(port=${port(a.port)},max_len=${a.maxLen})`;
    case 'controller':
      return formatController(a);
    case 'enqueue':
      return `enqueue:${port(a.port)}:${a.queue}`;
    case 'set_queue':
      return `set_queue:${a.queue}`;
    case 'set_field':
      return formatSetField(a, options);
    case 'load':
      return `load:${hex(a.value)}->${formatSubfield(a.dst)}`;
    case 'move':
      return `move:${formatSubfield(a.src)}->${formatSubfield(a.dst)}`;
    case 'strip_vlan':
      return a.legacy ? 'strip_vlan' : 'pop_vlan';
    case 'push_vlan':
      return `push_vlan:${hex(a.ethertype)}`;
    case 'set_vlan_vid':
      return `${a.pushIfNeeded ? 'mod_vlan_vid' : 'set_vlan_vid'}:${a.vid}`;
    case 'set_vlan_pcp':
      return `${a.pushIfNeeded ? 'mod_vlan_pcp' : 'set_vlan_pcp'}:${a.pcp}`;
    case 'dec_ttl':
      return a.explicitIds ? `dec_ttl(${a.controllerIds.join(',')})` : 'dec_ttl';
    case 'resubmit':
      return formatResubmit(a, port);
    case 'group':
      return `group:${a.group}`;
    case 'note':
      return `note:${hex2(a.data, '.')}`;
    case 'push_mpls':
      return `push_mpls:${hex4(a.ethertype)}`;
    case 'pop_mpls':
      return `pop_mpls:${hex4(a.ethertype)}`;
    case 'stack_push':
      return `push:${formatSubfield(a.subfield)}`;
    case 'stack_pop':
      return `pop:${formatSubfield(a.subfield)}`;
    case 'fin_timeout':
      return `fin_timeout(${present([
        ['idle_timeout', a.idleTimeout],
        ['hard_timeout', a.hardTimeout],
      ])})`;
    case 'conjunction':
      return `conjunction(${a.id},${a.clause + 1}/${a.nClauses})`;
    case 'clone':
      return `clone(${a.actions.map((b) => formatAction(b, options)).join(',')})`;
    case 'ct':
      return formatCt(a, options);
    case 'nat':
      return formatNat(a);
    case 'learn':
      return formatLearn(a, options);
    case 'multipath':
      return `multipath(${HASH_FIELDS[a.fields]},${a.basis},${MULTIPATH[a.algorithm]},${
        a.maxLink + 1
      },${a.arg},${formatSubfield(a.dst)})`;
    case 'bundle':
      return formatBundle(a, port);
    case 'sample':
      return formatSample(a, port);
    case 'check_pkt_larger':
      return `check_pkt_larger(${a.pktLen})->${formatSubfield(a.dst)}`;
    case 'delete_field':
      return `delete_field:${a.field}`;
    case 'encap':
      return `encap(${ENCAPSULATIONS.get(a.packetType)}${formatEncapProps(a.properties)})`;
    case 'decap':
      return `decap(${a.packetType === NEXT_PROTOCOL ? '' : packetTypeText(a.packetType)})`;
    case 'debug_recirc':
    case 'debug_slow':
      return a.type;
    case 'bond_output':
      return `bond_output(${a.bundle})`;
    case 'unroll_xlate':
      return `unroll_xlate(table=${a.table}, cookie=${a.cookie})`;
    case 'meter':
      return `meter:${a.meterId}`;
    case 'write_actions':
      return `write_actions(${a.actions.length === 0 ? 'drop' : formatActions(a.actions, options)})`;
    case 'write_metadata': {
      const whole = a.mask === 0xffffffffffffffffn;
      return `write_metadata:${hex(a.metadata)}${whole ? '' : `/${hex(a.mask)}`}`;
    }
    case 'goto_table':
      return `goto_table:${a.table}`;
    default:
      // pop_queue, exit, ct_clear, dec_mpls_ttl, dec_nsh_ttl, clear_actions
      return a.type;
  }
}

const ENCAPSULATIONS: ReadonlyMap<number, string> = new Map([
  [0, 'ethernet'],
  [0x18847, 'mpls'],
  [0x18848, 'mpls_mc'],
  [PACKET_TYPE_NSH, 'nsh'],
]);
/** decap without a packet type: that of the next header. */
const NEXT_PROTOCOL = 0xfffe;

function packetTypeText(packetType: number): string {
  return `packet_type(ns=${packetType >>> 16},type=${hex(packetType & 0xffff)})`;
}

const HASH_FIELDS = [
  'eth_src',
  'symmetric_l4',
  'symmetric_l3l4',
  'symmetric_l3l4+udp',
  'nw_src',
  'nw_dst',
  'symmetric_l3',
];
const MULTIPATH = ['modulo_n', 'hash_threshold', 'hrw', 'iter_hash'];

/** name=value for what is not zero. */
function present(pairs: readonly (readonly [string, number])[]): string {
  return pairs
    .filter(([, value]) => value !== 0)
    .map(([name, value]) => `${name}=${value}`)
    .join(',');
}

const REASONS = ['no_match', 'action', 'invalid_ttl', 'action_set', 'group', 'packet_out', '', ''];

function formatController(a: Action & { type: 'controller' }): string {
  const parts: string[] = [];
  if (a.reason !== 1) parts.push(`reason=${REASONS[a.reason] ?? a.reason}`);
  const plain =
    a.reason === 1 && !a.controllerId && !a.userdata && !a.pause && a.meterId === undefined;
  if (plain) return `CONTROLLER:${a.maxLen}`;
  if (a.maxLen !== 0xffff) parts.push(`max_len=${a.maxLen}`);
  if (a.controllerId !== 0) parts.push(`id=${a.controllerId}`);
  if (a.userdata?.length) parts.push(`userdata=${hex2(a.userdata, '.')}`);
  if (a.pause) parts.push('pause');
  if (a.meterId !== undefined) parts.push(`meter_id=${a.meterId}`);
  return `controller(${parts.join(',')})`;
}

function formatSetField(a: Action & { type: 'set_field' }, options: ActionTextOptions): string {
  const f = resolveField(fieldByName(a.field), options.tlvs);
  const value = fromBytes(a.value);
  switch (a.legacy) {
    case undefined:
      return `set_field:${formatField(f, a.value, a.mask, options.ports)}->${f.name}`;
    case 'mod_nw_tos':
      return `mod_nw_tos:${value << 2n}`;
    case 'set_tunnel':
    case 'set_tunnel64':
      return `${value >> 32n !== 0n ? 'set_tunnel64' : a.legacy}:${hex(value)}`;
    case 'set_mpls_label':
    case 'set_mpls_tc':
    case 'set_mpls_ttl':
      return `${a.legacy}(${value})`;
    default:
      return `${a.legacy}:${formatField(f, a.value)}`;
  }
}

function formatResubmit(a: Action & { type: 'resubmit' }, port: (n: number) => string): string {
  if (a.inPort !== t.OFPP_IN_PORT && a.table === 255) return `resubmit:${port(a.inPort)}`;
  const inPort = a.inPort === t.OFPP_IN_PORT ? '' : port(a.inPort);
  return `resubmit(${inPort},${a.table === 255 ? '' : a.table}${a.withCt ? ',ct' : ''})`;
}

const ALGS: Readonly<Record<number, string>> = { 21: 'ftp', 69: 'tftp' };

function formatCt(a: Action & { type: 'ct' }, options: ActionTextOptions): string {
  const parts: string[] = [];
  if (a.flags & 1) parts.push('commit');
  if (a.flags & 2) parts.push('force');
  if (a.table !== 255) parts.push(`table=${a.table}`);
  if (typeof a.zone !== 'number') parts.push(`zone=${formatSubfield(a.zone)}`);
  else if (a.zone !== 0) parts.push(`zone=${a.zone}`);
  let rest = a.actions;
  if (rest[0]?.type === 'nat') {
    parts.push(formatNat(rest[0]));
    rest = rest.slice(1);
  }
  if (rest.length > 0) parts.push(`exec(${rest.map((b) => formatAction(b, options)).join(',')})`);
  if (a.alg !== 0) parts.push(`alg=${ALGS[a.alg] ?? a.alg}`);
  return `ct(${parts.join(',')})`;
}

function formatNat(a: Action & { type: 'nat' }): string {
  if ((a.flags & 3) === 0) return 'nat';
  const parts = [a.flags & 1 ? 'src' : 'dst'];
  if (a.addressMin !== undefined) {
    const v6 = a.addressMin.length === 16;
    const address = (b: Uint8Array): string =>
      v6 ? (a.portMin ? `[${formatIpv6(b)}]` : formatIpv6(b)) : formatIpv4(b);
    let range = address(a.addressMin);
    const max = a.addressMax;
    if (max !== undefined && fromBytes(max) !== 0n && fromBytes(max) !== fromBytes(a.addressMin))
      range += `-${address(max)}`;
    if (a.portMin) {
      range += `:${a.portMin}`;
      if (a.portMax && a.portMax !== a.portMin) range += `-${a.portMax}`;
    }
    parts[0] += `=${range}`;
    if (a.flags & 4) parts.push('persistent');
    if (a.flags & 8) parts.push('hash');
    if (a.flags & 16) parts.push('random');
  }
  return `nat(${parts.join(',')})`;
}

function formatLearn(a: Action & { type: 'learn' }, options: ActionTextOptions): string {
  const parts = [`table=${a.table}`];
  const timeouts = present([
    ['idle_timeout', a.idleTimeout],
    ['hard_timeout', a.hardTimeout],
    ['fin_idle_timeout', a.finIdleTimeout],
    ['fin_hard_timeout', a.finHardTimeout],
  ]);
  if (timeouts !== '') parts.push(timeouts);
  if (a.priority !== 0x8000) parts.push(`priority=${a.priority}`);
  if (a.flags & 1) parts.push('send_flow_rem');
  if (a.flags & 2) parts.push('delete_learned');
  if (a.cookie !== 0n) parts.push(`cookie=${hex(a.cookie)}`);
  if (a.limit !== 0) parts.push(`limit=${a.limit}`);
  if (a.resultDst !== undefined) parts.push(`result_dst=${formatSubfield(a.resultDst)}`);
  for (const s of a.specs) parts.push(formatSpec(s, options));
  return `learn(${parts.join(',')})`;
}

function formatSpec(s: LearnSpec, options: ActionTextOptions): string {
  const src = typeof s.src === 'bigint' ? hex(s.src) : formatSubfield(s.src);
  if (s.dst === undefined) return `output:${src}`;
  if (s.kind === 'load') return `load:${src}->${formatSubfield(s.dst)}`;
  const f = resolveField(fieldByName(s.dst.field), options.tlvs);
  if (typeof s.src === 'bigint') {
    if (s.dst.offset === 0 && s.dst.bits === f.bits)
      return `${f.name}=${formatField(f, toBytes(s.src, f.bytes), undefined, options.ports)}`;
    return `${formatSubfield(s.dst)}=${src}`;
  }
  const same = s.src.field === s.dst.field && s.src.offset === s.dst.offset;
  return same ? formatSubfield(s.dst) : `${formatSubfield(s.dst)}=${src}`;
}

function formatBundle(a: Action & { type: 'bundle' }, port: (n: number) => string): string {
  const algorithm = a.algorithm === 0 ? 'active_backup' : 'hrw';
  const dst = a.dst === undefined ? '' : `${formatSubfield(a.dst)},`;
  const name = a.dst === undefined ? 'bundle' : 'bundle_load';
  const members = a.members.map(port).join(',');
  return `${name}(${HASH_FIELDS[a.fields]},${a.basis},${algorithm},ofport,${dst}members:${members})`;
}

function formatSample(a: Action & { type: 'sample' }, port: (n: number) => string): string {
  let text = `sample(probability=${a.probability},collector_set_id=${a.collectorSetId}`;
  text += `,obs_domain_id=${a.obsDomainId},obs_point_id=${a.obsPointId}`;
  if (a.samplingPort !== t.OFPP_NONE) text += `,sampling_port=${port(a.samplingPort)}`;
  if (a.direction !== 0) text += a.direction === 1 ? ',ingress' : ',egress';
  return `${text})`;
}
