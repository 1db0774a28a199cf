// A frame with the headers of a flow, for ofproto/trace -generate: lengths and checksums right, payload counting up.

import {
  FRAG_ANY,
  FRAG_LATER,
  K_ARP_SHA,
  K_ARP_THA,
  K_ETH_DST,
  K_ETH_TYPE,
  K_IPV6_DST,
  K_IPV6_LABEL,
  K_IPV6_SRC,
  K_MPLS_LSE,
  K_ND_TARGET,
  K_NW_DST,
  K_NW_FRAG,
  K_NW_PROTO,
  K_NW_SRC,
  K_NW_TOS,
  K_NW_TTL,
  K_TCP_FLAGS,
  K_TP_SRC,
  K_VLAN0_TCI,
  VLAN_PRESENT,
} from '../../contract/key.ts';
import {
  be16,
  be32,
  ETH_TYPE_ARP,
  ETH_TYPE_IP,
  ETH_TYPE_IPV6,
  ETH_TYPE_RARP,
  ETH_TYPE_VLAN,
  IPPROTO_ICMP,
  IPPROTO_ICMPV6,
  IPPROTO_IGMP,
  IPPROTO_SCTP,
  IPPROTO_TCP,
  IPPROTO_UDP,
  ND_ADVERT,
  ND_SOLICIT,
} from './flow.ts';

const ETH_TYPE_MPLS = 0x8847;
const ETH_TYPE_MPLS_MULTICAST = 0x8848;
const TCP_FIN = 1;
const TCP_SYN = 2;
const TCP_RST = 4;

function sum(bytes: readonly number[]): number {
  let total = 0;
  for (let i = 0; i < bytes.length; i += 2) total += (bytes[i]! << 8) | (bytes[i + 1] ?? 0);
  while (total > 0xffff) total = (total & 0xffff) + (total >>> 16);
  return total;
}

const two = (value: number): number[] => [(value >> 8) & 0xff, value & 0xff];

function checksummed(
  segment: number[],
  at: number,
  pseudo: readonly number[],
  isUdp: boolean,
): number[] {
  let check = ~sum([...pseudo, ...segment]) & 0xffff;
  if (isUdp && check === 0) check = 0xffff;
  segment.splice(at, 2, ...two(check));
  return segment;
}

/** Transport header and payload: for protocols and types that Open vSwitch knows to have one. */
function transport(
  flow: Uint8Array,
  payload: readonly number[],
  pseudo: (length: number) => number[],
): number[] {
  const get = (offset: number, bytes: number): number[] => [
    ...flow.subarray(offset, offset + bytes),
  ];
  const isV4 = be16(flow, K_ETH_TYPE) === ETH_TYPE_IP;
  const ports = get(K_TP_SRC, 4);
  const seal = (segment: number[], at: number, withPseudo = true, isUdp = false): number[] =>
    checksummed(segment, at, withPseudo ? pseudo(segment.length) : [], isUdp);
  /** Only echoes carry anything. */
  const echoed = (types: readonly number[]): readonly number[] =>
    types.includes(ports[1]!) && ports[3] === 0 ? payload : [];
  if ((flow[K_NW_FRAG]! & FRAG_LATER) !== 0) return [];
  switch (flow[K_NW_PROTO]) {
    case IPPROTO_TCP: {
      const flags = be16(flow, K_TCP_FLAGS) | 0x5000;
      const zeros = new Array<number>(8).fill(0);
      // Segments that open or close a connection carry nothing.
      const data = (flags & (TCP_FIN | TCP_SYN | TCP_RST)) === 0 ? payload : [];
      return seal([...ports, ...zeros, ...two(flags), 0, 0, 0, 0, 0, 0, ...data], 16);
    }
    case IPPROTO_UDP:
      return seal([...ports, ...two(8 + payload.length), 0, 0, ...payload], 6, true, true);
    case IPPROTO_SCTP:
      return [...ports, 0, 0, 0, 0, 0, 0, 0, 0];
    case IPPROTO_ICMP:
    case IPPROTO_IGMP:
      if (!isV4) return [];
      return seal([ports[1]!, ports[3]!, 0, 0, 0, 0, 0, 0, ...echoed([0, 8])], 2, false);
    case IPPROTO_ICMPV6: {
      if (isV4) return [];
      const [type, code] = [ports[1]!, ports[3]!];
      const isNd = code === 0 && (type === ND_SOLICIT || type === ND_ADVERT);
      if (!isNd) return seal([type, code, 0, 0, 0, 0, 0, 0, ...echoed([128, 129])], 2);
      const option = (number: number, at: number): number[] => {
        const mac = get(at, 6);
        return mac.some((byte) => byte !== 0) ? [number, 1, ...mac] : [];
      };
      const options = [...option(1, K_ARP_SHA), ...option(2, K_ARP_THA)];
      return seal([type, code, 0, 0, 0, 0, 0, 0, ...get(K_ND_TARGET, 16), ...options], 2);
    }
    default:
      return [];
  }
}

function ipv4(flow: Uint8Array, payload: readonly number[]): number[] {
  const frag = flow[K_NW_FRAG]!;
  const addresses = [
    ...flow.subarray(K_NW_SRC, K_NW_SRC + 4),
    ...flow.subarray(K_NW_DST, K_NW_DST + 4),
  ];
  const offset = (frag & FRAG_LATER) !== 0 ? 100 : (frag & FRAG_ANY) !== 0 ? 0x2000 : 0;
  const protocol = flow[K_NW_PROTO]!;
  const pseudo = (length: number): number[] => [...addresses, 0, protocol, ...two(length)];
  const body = transport(flow, payload, pseudo);
  const header = [
    0x45,
    flow[K_NW_TOS]!,
    ...two(20 + body.length),
    0,
    0,
    ...two(offset),
    flow[K_NW_TTL]!,
    protocol,
    0,
    0,
    ...addresses,
  ];
  header.splice(10, 2, ...two(~sum(header) & 0xffff));
  return [...header, ...body];
}

function ipv6(flow: Uint8Array, payload: readonly number[]): number[] {
  const addresses = [
    ...flow.subarray(K_IPV6_SRC, K_IPV6_SRC + 16),
    ...flow.subarray(K_IPV6_DST, K_IPV6_DST + 16),
  ];
  const protocol = flow[K_NW_PROTO]!;
  const pseudo = (length: number): number[] => [
    ...addresses,
    ...two(length >>> 16),
    ...two(length),
    0,
    0,
    0,
    protocol,
  ];
  const body = transport(flow, payload, pseudo);
  const tos = flow[K_NW_TOS]!;
  const label = be32(flow, K_IPV6_LABEL);
  return [
    0x60 | (tos >> 4),
    ((tos & 15) << 4) | ((label >> 16) & 15),
    ...two(label),
    ...two(body.length),
    protocol,
    flow[K_NW_TTL]!,
    ...addresses,
    ...body,
  ];
}

function arp(flow: Uint8Array): number[] {
  const get = (offset: number, bytes: number): number[] => [
    ...flow.subarray(offset, offset + bytes),
  ];
  return [
    ...[0, 1, 8, 0, 6, 4, 0, flow[K_NW_PROTO]!],
    ...get(K_ARP_SHA, 6),
    ...get(K_NW_SRC, 4),
    ...get(K_ARP_THA, 6),
    ...get(K_NW_DST, 4),
  ];
}

/** The label stack, down to its bottom if that is known. */
function labels(flow: Uint8Array): number[] {
  const stack: number[] = [];
  for (let at = K_MPLS_LSE; at < K_MPLS_LSE + 12; at += 4) {
    stack.push(...flow.subarray(at, at + 4));
    if ((flow[at + 2]! & 1) !== 0) break;
  }
  return stack;
}

/** `payload`: bytes behind the transport header. */
export function composeFrame(flow: Uint8Array, payload: Uint8Array): Uint8Array {
  const head = [...flow.subarray(K_ETH_DST, K_ETH_DST + 12)];
  for (let i = 0; i < 2; i++) {
    const at = K_VLAN0_TCI + 4 * i;
    const tci = be16(flow, at);
    if ((tci & VLAN_PRESENT) === 0) break;
    head.push(...two(be16(flow, at + 2) || ETH_TYPE_VLAN), ...two(tci & ~VLAN_PRESENT));
  }
  const type = be16(flow, K_ETH_TYPE);
  let body: number[] = [];
  if (type === ETH_TYPE_IP) body = ipv4(flow, [...payload]);
  else if (type === ETH_TYPE_IPV6) body = ipv6(flow, [...payload]);
  else if (type === ETH_TYPE_ARP || type === ETH_TYPE_RARP) body = arp(flow);
  else if (type === ETH_TYPE_MPLS || type === ETH_TYPE_MPLS_MULTICAST) body = labels(flow);
  if (type < 0x600) {
    // IEEE 802.3: a length instead of a type, and that of the headers alone, as Open vSwitch has it.
    return Uint8Array.of(...flow.subarray(K_ETH_DST, K_ETH_DST + 12), ...two(14));
  }
  return Uint8Array.of(...head, ...two(type), ...body);
}

/** Payload of generated packets: 0, 1, 2 … */
export function countingPayload(bytes: number): Uint8Array {
  return Uint8Array.from({ length: bytes }, (_, i) => i);
}
