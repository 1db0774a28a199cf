// The outer headers of a tunnel, as a program brings them (contract/tunnel.ts): everything but lengths, source port, sequence
// number and the checksums that depend on the packet.
//
//   | dst smac type | IPv4 20 or IPv6 40 | UDP 8 | VXLAN 8 / Geneve 8 + options / GTP-U 8 … |        or | GRE 4 … 16 | or | GRE 8 | ERSPAN 8, 12 |

import {
  K_PACKET_TYPE,
  K_TUN_ERSPAN,
  K_TUN_FLAGS,
  K_TUN_GBP_FLAGS,
  K_TUN_GBP_ID,
  K_TUN_GTPU_FLAGS,
  K_TUN_GTPU_MSGTYPE,
  K_TUN_ID,
  K_TUN_TOS,
  K_TUN_TTL,
  TUN_CSUM,
  TUN_DF,
  TUN_OAM,
} from '../../../contract/key.ts';
import {
  ERSPAN_HWID,
  ERSPAN_INDEX,
  ERSPAN_SESSION,
  ERSPAN1_BYTES,
  ERSPAN2_BYTES,
  ETH_TYPE_ERSPAN1,
  ETH_TYPE_ERSPAN2,
  ETH_TYPE_NSH,
  ETH_TYPE_TEB,
  GPE_ETHERNET,
  GPE_IPV4,
  GPE_IPV6,
  GPE_NSH,
  GRE_CSUM,
  GRE_KEY,
  GRE_SEQ,
  GTPU_FLAGS_DEFAULT,
  GTPU_MESSAGE_GPDU,
  VXLAN_GBP,
  VXLAN_GPE,
  VXLAN_I,
} from '../../../contract/tunnel.ts';
import type { TunnelConfig } from '../../port/tunnelConfig.ts';
import { be16, be32, ETH_TYPE_IP, ETH_TYPE_IPV6, putBe16, putBe32 } from '../flow.ts';

const IPPROTO_UDP = 17;
const IPPROTO_GRE = 47;
const GTPU_SEQUENCE = 2;

export interface HeaderParameters {
  readonly config: TunnelConfig;
  /** The flow with its tunnel fields set. */
  readonly flow: Uint8Array;
  /** 16 bytes each, both IPv4 mapped or neither. */
  readonly source: Uint8Array;
  readonly destination: Uint8Array;
  readonly isIpv6: boolean;
  readonly sourceMac: Uint8Array;
  readonly nextMac: Uint8Array;
  /** Geneve. */
  readonly options: Uint8Array;
}

export function isGreType(type: string): boolean {
  return type === 'gre' || type === 'ip6gre';
}

export function isErspanType(type: string): boolean {
  return type === 'erspan' || type === 'ip6erspan';
}

/** In IP, without UDP. */
const isBare = (type: string): boolean => isGreType(type) || isErspanType(type);

export function ipProtocolOf(type: string): number {
  return isBare(type) ? IPPROTO_GRE : IPPROTO_UDP;
}

/** RFC 1071. */
function checksum(bytes: Uint8Array): number {
  let sum = 0;
  for (let i = 0; i < bytes.length; i += 2) sum += be16(bytes, i);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}

function ipHeader({ flow, source, destination, isIpv6, config }: HeaderParameters): Uint8Array {
  const protocol = ipProtocolOf(config.type);
  const tos = flow[K_TUN_TOS]!;
  const ttl = flow[K_TUN_TTL]!;
  const flags = be16(flow, K_TUN_FLAGS);
  if (isIpv6) {
    const ip = new Uint8Array(40);
    putBe32(ip, 0, (0x60000000 | (tos << 20)) >>> 0);
    ip[6] = protocol;
    ip[7] = ttl;
    ip.set(source, 8);
    ip.set(destination, 24);
    return ip;
  }
  const ip = new Uint8Array(20);
  ip[0] = 0x45;
  ip[1] = tos;
  putBe16(ip, 6, (flags & TUN_DF) !== 0 ? 0x4000 : 0);
  ip[8] = ttl;
  ip[9] = protocol;
  ip.set(source.subarray(12), 12);
  ip.set(destination.subarray(12), 16);
  putBe16(ip, 10, checksum(ip));
  return ip;
}

/** Ethernet type of a packet without Ethernet header, 0 = it has one. */
function bareType(flow: Uint8Array): number {
  return be32(flow, K_PACKET_TYPE) === 0 ? 0 : be16(flow, K_PACKET_TYPE + 2);
}

function gre({ config, flow }: HeaderParameters): Uint8Array {
  const words: number[] = [];
  let flags = 0;
  if ((be16(flow, K_TUN_FLAGS) & TUN_CSUM) !== 0) {
    flags |= GRE_CSUM;
    words.push(0);
  }
  if (config.outKeyPresent) {
    flags |= GRE_KEY;
    words.push(be32(flow, K_TUN_ID + 4));
  }
  if (config.sequence) {
    flags |= GRE_SEQ;
    words.push(0);
  }
  const header = new Uint8Array(4 + 4 * words.length);
  putBe16(header, 0, flags);
  putBe16(header, 2, bareType(flow) || ETH_TYPE_TEB);
  for (const [i, word] of words.entries()) putBe32(header, 4 + 4 * i, word);
  return header;
}

/** The data plane fills in the sequence number and, of version 2, the timestamp. */
function erspan({ flow }: HeaderParameters): Uint8Array | undefined {
  const word = be32(flow, K_TUN_ERSPAN);
  const version = word >>> 28;
  const session = be32(flow, K_TUN_ID + 4);
  if ((version !== 1 && version !== 2) || session > ERSPAN_SESSION) return undefined;
  const header = new Uint8Array(version === 1 ? ERSPAN1_BYTES : ERSPAN2_BYTES);
  putBe16(header, 0, GRE_SEQ);
  putBe16(header, 2, version === 1 ? ETH_TYPE_ERSPAN1 : ETH_TYPE_ERSPAN2);
  putBe32(header, 8, ((version << 28) | session) >>> 0);
  if (version === 1) putBe32(header, 12, (word >>> 8) & ERSPAN_INDEX);
  else putBe16(header, 18, ((word & ERSPAN_HWID) << 4) | (((word >>> 6) & 1) << 3));
  return header;
}

function vxlan({ config, flow }: HeaderParameters): Uint8Array | undefined {
  const header = new Uint8Array(8);
  let flags = VXLAN_I;
  const bare = bareType(flow);
  if (config.gpe) {
    const next =
      bare === 0 || bare === ETH_TYPE_TEB
        ? GPE_ETHERNET
        : bare === ETH_TYPE_IP
          ? GPE_IPV4
          : bare === ETH_TYPE_IPV6
            ? GPE_IPV6
            : bare === ETH_TYPE_NSH
              ? GPE_NSH
              : 0;
    if (next === 0) return undefined;
    flags |= VXLAN_GPE | next;
  } else if (config.gbp) {
    const id = be16(flow, K_TUN_GBP_ID);
    const bits = flow[K_TUN_GBP_FLAGS]!;
    if (id !== 0 || bits !== 0) flags = (flags | VXLAN_GBP | (bits << 16) | id) >>> 0;
  }
  putBe32(header, 0, flags >>> 0);
  putBe32(header, 4, (be32(flow, K_TUN_ID + 4) << 8) >>> 0);
  return header;
}

/** Does one of the options have to be understood by the receiver? */
function hasCritical(options: Uint8Array): boolean {
  for (let at = 0; at < options.length; at += 4 + 4 * (options[at + 3]! & 31)) {
    if ((options[at + 2]! & 0x80) !== 0) return true;
  }
  return false;
}

function geneve({ flow, options }: HeaderParameters): Uint8Array {
  const header = new Uint8Array(8 + options.length);
  header[0] = options.length / 4;
  header[1] =
    ((be16(flow, K_TUN_FLAGS) & TUN_OAM) !== 0 ? 0x80 : 0) | (hasCritical(options) ? 0x40 : 0);
  putBe16(header, 2, ETH_TYPE_TEB);
  putBe32(header, 4, (be32(flow, K_TUN_ID + 4) << 8) >>> 0);
  header.set(options, 8);
  return header;
}

function gtpu({ flow }: HeaderParameters): Uint8Array {
  const header = new Uint8Array(8);
  // A sequence number is optional, and we have none to offer.
  header[0] = (flow[K_TUN_GTPU_FLAGS]! || GTPU_FLAGS_DEFAULT) & ~(GTPU_SEQUENCE | 5);
  header[1] = flow[K_TUN_GTPU_MSGTYPE]! || GTPU_MESSAGE_GPDU;
  putBe32(header, 4, be32(flow, K_TUN_ID + 4));
  return header;
}

function inner(parameters: HeaderParameters): Uint8Array | undefined {
  switch (parameters.config.type) {
    case 'vxlan':
      return vxlan(parameters);
    case 'geneve':
      return geneve(parameters);
    case 'gtpu':
      return gtpu(parameters);
    case 'bareudp':
      return new Uint8Array(0);
    case 'erspan':
    case 'ip6erspan':
      return erspan(parameters);
    case 'lisp':
    case 'stt':
      return undefined;
    default:
      return gre(parameters);
  }
}

/** The whole header; undefined when the tunnel cannot carry such a packet. */
export function buildHeader(parameters: HeaderParameters): Uint8Array | undefined {
  const { config, flow, isIpv6 } = parameters;
  const last = inner(parameters);
  if (last === undefined) return undefined;
  const ip = ipHeader(parameters);
  const isUdp = !isBare(config.type);
  const header = new Uint8Array(14 + ip.length + (isUdp ? 8 : 0) + last.length);
  header.set(parameters.nextMac, 0);
  header.set(parameters.sourceMac, 6);
  putBe16(header, 12, isIpv6 ? ETH_TYPE_IPV6 : ETH_TYPE_IP);
  header.set(ip, 14);
  let at = 14 + ip.length;
  if (isUdp) {
    putBe16(header, at + 2, config.dstPort);
    // A sum that is not zero says that there is to be one. Over IPv6 there has to be (RFC 6935 has exceptions).
    const wanted = isIpv6 || (be16(flow, K_TUN_FLAGS) & TUN_CSUM) !== 0;
    if (wanted) putBe16(header, at + 6, 0xffff);
    at += 8;
  }
  header.set(last, at);
  return header;
}
