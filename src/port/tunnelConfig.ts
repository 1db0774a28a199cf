// Options of a tunnel interface (ovs-vswitchd.conf.db(5), "Tunnel Options"), checked as the real daemon does: what makes no
// sense is warned of and left out, what makes the tunnel impossible is an error with its text for Interface.error.

import {
  TUNNEL_BAREUDP,
  TUNNEL_ERSPAN,
  TUNNEL_GENEVE,
  TUNNEL_GRE,
  TUNNEL_GTPU,
  TUNNEL_IP6ERSPAN,
  TUNNEL_IP6GRE,
  TUNNEL_VXLAN,
} from '../../contract/tunnel.ts';
import { formatIpv6, parseIpv4, parseIpv6 } from '../wire/openflow/address.ts';
import { mapped } from '../wire/rtnetlinkRoute.ts';
import { type ErspanConfig, erspanArguments, parseErspan } from './erspanConfig.ts';
import { NetdevError } from './types.ts';

/** Whether a port's packets have Ethernet headers; "ptap": both kinds, the bridge sees which. */
export type PacketTypeMode = 'legacy_l2' | 'legacy_l3' | 'ptap';

export interface TunnelConfig {
  readonly type: string;
  /** Addresses are 16 bytes, IPv4 mapped; all zero: none. */
  readonly remote: Uint8Array;
  readonly remoteFlow: boolean;
  readonly local: Uint8Array;
  readonly localFlow: boolean;
  readonly inKey: bigint;
  readonly inKeyPresent: boolean;
  readonly inKeyFlow: boolean;
  readonly outKey: bigint;
  readonly outKeyPresent: boolean;
  readonly outKeyFlow: boolean;
  readonly dstPort: number;
  readonly ttl: number;
  readonly ttlInherit: boolean;
  readonly tos: number;
  readonly tosInherit: boolean;
  readonly dontFragment: boolean;
  readonly csum: boolean;
  readonly sequence: boolean;
  readonly gbp: boolean;
  readonly gpe: boolean;
  readonly egressMark: number | undefined;
  readonly erspan: ErspanConfig;
  readonly mode: PacketTypeMode;
  /** bareudp: Ethernet type of what is inside. */
  readonly payloadType: number;
}

interface Kind {
  /** Number in programs; absent: the userspace datapath does not have it. */
  readonly encapsulation?: number;
  /** Name of the datapath's port, without UDP port. */
  readonly device: string;
  readonly udpPort?: number;
  readonly layers: 'L2' | 'L3' | 'both';
}

/** Interface types that are tunnels. */
export const TUNNEL_KINDS: Readonly<Record<string, Kind>> = {
  vxlan: { encapsulation: TUNNEL_VXLAN, device: 'vxlan_sys', udpPort: 4789, layers: 'L2' },
  geneve: { encapsulation: TUNNEL_GENEVE, device: 'genev_sys', udpPort: 6081, layers: 'L2' },
  gre: { encapsulation: TUNNEL_GRE, device: 'gre_sys', layers: 'both' },
  ip6gre: { encapsulation: TUNNEL_IP6GRE, device: 'ip6gre_sys', layers: 'L2' },
  erspan: { encapsulation: TUNNEL_ERSPAN, device: 'erspan_sys', layers: 'L2' },
  ip6erspan: { encapsulation: TUNNEL_IP6ERSPAN, device: 'ip6erspan_sys', layers: 'L2' },
  gtpu: { encapsulation: TUNNEL_GTPU, device: 'gtpu_sys', udpPort: 2152, layers: 'L3' },
  bareudp: { encapsulation: TUNNEL_BAREUDP, device: 'bareudp_sys', udpPort: 0, layers: 'L3' },
  // As with Open vSwitch's userspace datapath, such ports can be made, but carry nothing.
  lisp: { device: 'lisp_sys', udpPort: 4341, layers: 'L3' },
  stt: { device: 'stt_sys', udpPort: 7471, layers: 'L2' },
};

const DEFAULT_TTL = 64;
const NONE = new Uint8Array(16);
const IPSEC = ['remote_cert', 'remote_name', 'psk'];
/** GRE is the only encapsulation whose header may have a checksum and a sequence number of its own. */
const isGre = (type: string): boolean => type.includes('gre');

/** strtol(3) as far as options need it: a number at the front of the text. */
function leadingNumber(text: string): number {
  const match = /^\s*([-+]?)(0x[0-9a-f]+|\d+)/i.exec(text);
  if (!match) return 0;
  const digits = match[2]!;
  const octal = /^0\d+$/.test(digits);
  return (match[1] === '-' ? -1 : 1) * (octal ? Number.parseInt(digits, 8) : Number(digits));
}

function parseKey(text: string | undefined): { key: bigint; present: boolean; flow: boolean } {
  if (text === undefined) return { key: 0n, present: false, flow: false };
  if (text === 'flow') return { key: 0n, present: true, flow: true };
  const match = /^\s*(0x[0-9a-f]+|\d+)/i.exec(text);
  return { key: match ? BigInt.asUintN(64, BigInt(match[1]!)) : 0n, present: true, flow: false };
}

interface Address {
  readonly flow: boolean;
  readonly bytes: Uint8Array;
  readonly family: 0 | 4 | 6;
}

function parseAddress(text: string): Address | 'bad' | 'multicast' {
  if (text === 'flow') return { flow: true, bytes: NONE, family: 0 };
  const v4 = parseIpv4(text);
  const bytes = v4 ?? parseIpv6(text);
  if (bytes === undefined) return 'bad';
  const multicast = v4 === undefined ? bytes[0] === 0xff : bytes[0]! >> 4 === 0xe;
  if (multicast) return 'multicast';
  return { flow: false, bytes: mapped(bytes), family: v4 === undefined ? 6 : 4 };
}

/** `warn` gets what the log of the real daemon says of options that it does not take. */
export function parseTunnelConfig(
  name: string,
  type: string,
  options: Readonly<Record<string, string>>,
  warn: (text: string) => void,
): TunnelConfig {
  const kind = TUNNEL_KINDS[type]!;
  const problems: string[] = [];
  const fail = (text: string): never => {
    problems.push(text);
    throw new NetdevError(problems.join('\n'));
  };
  let remote: Address = { flow: false, bytes: NONE, family: 0 };
  let local = remote;
  let tos = 0;
  let dstPort = kind.udpPort ?? 0;
  let exts = new Set<string>();
  let egressMark: number | undefined;
  let payloadType = 0x8847;
  for (const [option, value] of Object.entries(options)) {
    switch (option) {
      case 'remote_ip':
      case 'local_ip': {
        const address = parseAddress(value);
        if (address === 'bad') problems.push(`${name}: bad ${type} '${option}'`);
        else if (address === 'multicast') {
          if (option === 'remote_ip') fail(`${name}: multicast remote_ip=${value} not allowed`);
        } else if (option === 'remote_ip') remote = address;
        else local = address;
        break;
      }
      case 'tos':
        if (value === 'inherit') break;
        tos = /^\s*[-+]?(0x[0-9a-f]+|\d+)$/i.test(value) ? leadingNumber(value) : -1;
        if (tos !== (tos & 0xfc)) {
          problems.push(`${name}: invalid TOS ${value}`);
          tos = 0;
        }
        break;
      case 'dst_port':
        if (kind.udpPort === undefined)
          problems.push(`${name}: unknown ${type} argument 'dst_port'`);
        else dstPort = leadingNumber(value) & 0xffff;
        break;
      case 'exts':
        if (type !== 'vxlan') {
          problems.push(`${name}: unknown ${type} argument 'exts'`);
          break;
        }
        exts = new Set(value.split(',').filter((ext) => ext !== ''));
        for (const ext of exts) {
          if (ext !== 'gbp' && ext !== 'gpe') problems.push(`${name}: unknown extension '${ext}'`);
        }
        break;
      case 'egress_pkt_mark':
        egressMark = Number(/^\s*\d+/.exec(value)?.[0] ?? 0) >>> 0;
        break;
      case 'payload_type':
        if (value === 'mpls') payloadType = 0x8847;
        else if (value === 'ip') payloadType = 0x0800;
        else if (/^(0x[0-9a-f]{1,4}|\d{1,5})$/i.test(value)) payloadType = Number(value) & 0xffff;
        else fail(`${name}: invalid payload_type '${value}'`);
        break;
      default:
        if (!isKnown(type, option)) problems.push(`${name}: unknown ${type} argument '${option}'`);
    }
  }
  const erspan = parseErspan(name, options, fail);
  const mode = parseMode(name, type, exts.has('gpe'), options.packet_type, fail);
  if (remote.bytes === NONE && !remote.flow) {
    fail(`${name}: ${type} type requires valid 'remote_ip' argument`);
  }
  if (local.flow && !remote.flow) {
    fail(`${name}: ${type} type requires 'remote_ip=flow' with 'local_ip=flow'`);
  }
  if (local.family !== 0 && remote.family !== 0 && local.family !== remote.family) {
    fail(`${name}: 'remote_ip' and 'local_ip' has to be of the same address family`);
  }
  if (problems.length > 0) warn(problems.join('\n'));
  const inKey = parseKey(options.in_key ?? options.key);
  const outKey = parseKey(options.out_key ?? options.key);
  const ttl =
    options.ttl === undefined || options.ttl === 'inherit' ? 0 : leadingNumber(options.ttl);
  return {
    type,
    remote: remote.bytes,
    remoteFlow: remote.flow,
    local: local.bytes,
    localFlow: local.flow,
    inKey: inKey.key,
    inKeyPresent: inKey.present,
    inKeyFlow: inKey.flow,
    outKey: outKey.key,
    outKeyPresent: outKey.present,
    outKeyFlow: outKey.flow,
    dstPort,
    ttl: ttl & 0xff || DEFAULT_TTL,
    ttlInherit: options.ttl === 'inherit',
    tos,
    tosInherit: options.tos === 'inherit',
    dontFragment: options.df_default !== 'false',
    csum: options.csum === 'true' && hasChecksum(type),
    sequence: options.seq === 'true' && isGre(type),
    gbp: exts.has('gbp'),
    gpe: exts.has('gpe'),
    egressMark,
    erspan,
    mode,
    payloadType,
  };
}

const hasChecksum = (type: string): boolean => !/^(gtpu|bareudp|(ip6)?erspan)$/.test(type);

function isKnown(type: string, option: string): boolean {
  if (option === 'csum') return hasChecksum(type);
  if (option === 'seq') return isGre(type);
  return (
    ['ttl', 'df_default', 'key', 'in_key', 'out_key', 'packet_type', ...IPSEC].includes(option) ||
    /^erspan_(idx|ver|dir|hwid)$/.test(option)
  );
}

function parseMode(
  name: string,
  type: string,
  gpe: boolean,
  text: string | undefined,
  fail: (text: string) => never,
): PacketTypeMode {
  const layers = type === 'vxlan' && gpe ? 'both' : TUNNEL_KINDS[type]!.layers;
  const full = type !== 'vxlan' ? type : gpe ? 'VXLAN-GPE' : 'VXLAN (without GPE)';
  switch (text) {
    case undefined:
      return layers === 'L3' ? 'legacy_l3' : 'legacy_l2';
    case 'legacy_l2':
      if (layers === 'L3') {
        fail(`${name}: legacy_l2 configured on ${full} tunnel that cannot carry L2 traffic`);
      }
      return text;
    case 'legacy_l3':
      if (layers === 'L2') {
        fail(`${name}: legacy_l3 configured on ${full} tunnel that cannot carry L3 traffic`);
      }
      return text;
    case 'ptap':
      return text;
    default:
      return fail(`${name}: unknown packet_type '${text}'`);
  }
}

/** Name of the datapath's port that the tunnel shares with others of its kind. */
export function tunnelDevice({ type, dstPort }: TunnelConfig): string {
  const { device, udpPort } = TUNNEL_KINDS[type]!;
  return udpPort === undefined ? device : `${device}_${dstPort}`;
}

/** The settings as dpif/show tells them, in the order of their names. */
export function tunnelArguments(config: TunnelConfig): [string, string][] {
  const { type } = config;
  const list: [string, string | undefined][] = [
    ['remote_ip', config.remoteFlow ? 'flow' : addressText(config.remote)],
    ['local_ip', config.localFlow ? 'flow' : addressText(config.local)],
  ];
  const inKey = config.inKeyFlow ? 'flow' : config.inKeyPresent ? String(config.inKey) : undefined;
  const outKey = config.outKeyFlow
    ? 'flow'
    : config.outKeyPresent
      ? String(config.outKey)
      : undefined;
  if (inKey !== undefined && inKey === outKey) list.push(['key', inKey]);
  else list.push(['in_key', inKey], ['out_key', outKey]);
  if (config.ttlInherit) list.push(['ttl', 'inherit']);
  else if (config.ttl !== DEFAULT_TTL) list.push(['ttl', String(config.ttl)]);
  if (config.tosInherit) list.push(['tos', 'inherit']);
  else if (config.tos !== 0) list.push(['tos', `0x${config.tos.toString(16)}`]);
  const kind = TUNNEL_KINDS[type]!;
  if (config.dstPort !== 0 && config.dstPort !== kind.udpPort) {
    list.push(['dst_port', String(config.dstPort)]);
  }
  if (type.endsWith('erspan')) list.push(...erspanArguments(config.erspan));
  if (config.csum) list.push(['csum', 'true']);
  if (config.sequence) list.push(['seq', 'true']);
  const layers = type === 'vxlan' && config.gpe ? 'both' : kind.layers;
  if (config.mode !== (layers === 'L3' ? 'legacy_l3' : 'legacy_l2')) {
    list.push(['packet_type', config.mode]);
  }
  if (!config.dontFragment) list.push(['df_default', 'false']);
  if (config.egressMark !== undefined) list.push(['egress_pkt_mark', String(config.egressMark)]);
  return list
    .filter((entry): entry is [string, string] => entry[1] !== undefined)
    .sort(([a], [b]) => (a < b ? -1 : 1));
}

function addressText(address: Uint8Array): string | undefined {
  if (address.every((byte) => byte === 0)) return undefined;
  return isMapped(address) ? [...address.subarray(12)].join('.') : formatIpv6(address);
}

function isMapped(address: Uint8Array): boolean {
  return (
    address.subarray(0, 10).every((byte) => byte === 0) &&
    address[10] === 0xff &&
    address[11] === 0xff
  );
}
