// The vocabulary of datapath flow text ("eth(src=…),ipv4(src=…,proto=6)"): which fields a group has, where they are in
// the key, how their values are written. One table for printing and parsing. Open vSwitch's odp-util has the words.

import {
  K_ARP_SHA,
  K_ARP_THA,
  K_CT_IPV6_DST,
  K_CT_IPV6_SRC,
  K_CT_NW_DST,
  K_CT_NW_PROTO,
  K_CT_NW_SRC,
  K_CT_TP_DST,
  K_CT_TP_SRC,
  K_ETH_DST,
  K_ETH_SRC,
  K_IPV6_DST,
  K_IPV6_LABEL,
  K_IPV6_SRC,
  K_ND_TARGET,
  K_NW_DST,
  K_NW_FRAG,
  K_NW_PROTO,
  K_NW_SRC,
  K_NW_TOS,
  K_NW_TTL,
  K_TP_DST,
  K_TP_SRC,
} from '../../contract/key.ts';

export type OdpFormat =
  | 'mac'
  | 'ipv4'
  | 'ipv6'
  | 'dec8'
  | 'hex8'
  | 'dec16'
  | 'label'
  | 'frag'
  | 'arpOp'
  | 'icmp';

export interface OdpField {
  readonly name: string;
  readonly offset: number;
  readonly format: OdpFormat;
}

export interface OdpGroup {
  readonly name: string;
  readonly fields: readonly OdpField[];
}

const TRANSPORT_FIELDS: readonly OdpField[] = [
  { name: 'src', offset: K_TP_SRC, format: 'dec16' },
  { name: 'dst', offset: K_TP_DST, format: 'dec16' },
];
const ICMP_FIELDS: readonly OdpField[] = [
  { name: 'type', offset: K_TP_SRC, format: 'icmp' },
  { name: 'code', offset: K_TP_DST, format: 'icmp' },
];

export const ODP_ETH: OdpGroup = {
  name: 'eth',
  fields: [
    { name: 'src', offset: K_ETH_SRC, format: 'mac' },
    { name: 'dst', offset: K_ETH_DST, format: 'mac' },
  ],
};
export const ODP_IPV4: OdpGroup = {
  name: 'ipv4',
  fields: [
    { name: 'src', offset: K_NW_SRC, format: 'ipv4' },
    { name: 'dst', offset: K_NW_DST, format: 'ipv4' },
    { name: 'proto', offset: K_NW_PROTO, format: 'dec8' },
    { name: 'tos', offset: K_NW_TOS, format: 'hex8' },
    { name: 'ttl', offset: K_NW_TTL, format: 'dec8' },
    { name: 'frag', offset: K_NW_FRAG, format: 'frag' },
  ],
};
export const ODP_IPV6: OdpGroup = {
  name: 'ipv6',
  fields: [
    { name: 'src', offset: K_IPV6_SRC, format: 'ipv6' },
    { name: 'dst', offset: K_IPV6_DST, format: 'ipv6' },
    { name: 'label', offset: K_IPV6_LABEL, format: 'label' },
    { name: 'proto', offset: K_NW_PROTO, format: 'dec8' },
    { name: 'tclass', offset: K_NW_TOS, format: 'hex8' },
    { name: 'hlimit', offset: K_NW_TTL, format: 'dec8' },
    { name: 'frag', offset: K_NW_FRAG, format: 'frag' },
  ],
};
export const ODP_ARP: OdpGroup = {
  name: 'arp',
  fields: [
    { name: 'sip', offset: K_NW_SRC, format: 'ipv4' },
    { name: 'tip', offset: K_NW_DST, format: 'ipv4' },
    { name: 'op', offset: K_NW_PROTO, format: 'arpOp' },
    { name: 'sha', offset: K_ARP_SHA, format: 'mac' },
    { name: 'tha', offset: K_ARP_THA, format: 'mac' },
  ],
};
export const ODP_ND: OdpGroup = {
  name: 'nd',
  fields: [
    { name: 'target', offset: K_ND_TARGET, format: 'ipv6' },
    { name: 'sll', offset: K_ARP_SHA, format: 'mac' },
    { name: 'tll', offset: K_ARP_THA, format: 'mac' },
  ],
};
export const ODP_TCP: OdpGroup = { name: 'tcp', fields: TRANSPORT_FIELDS };
export const ODP_UDP: OdpGroup = { name: 'udp', fields: TRANSPORT_FIELDS };
export const ODP_SCTP: OdpGroup = { name: 'sctp', fields: TRANSPORT_FIELDS };
export const ODP_ICMP: OdpGroup = { name: 'icmp', fields: ICMP_FIELDS };
export const ODP_ICMPV6: OdpGroup = { name: 'icmpv6', fields: ICMP_FIELDS };

/** Original tuples of connection tracking. */
export const ODP_CT_TUPLE4: OdpGroup = {
  name: 'ct_tuple4',
  fields: [
    { name: 'src', offset: K_CT_NW_SRC, format: 'ipv4' },
    { name: 'dst', offset: K_CT_NW_DST, format: 'ipv4' },
    { name: 'proto', offset: K_CT_NW_PROTO, format: 'dec8' },
    { name: 'tp_src', offset: K_CT_TP_SRC, format: 'dec16' },
    { name: 'tp_dst', offset: K_CT_TP_DST, format: 'dec16' },
  ],
};
export const ODP_CT_TUPLE6: OdpGroup = {
  name: 'ct_tuple6',
  fields: [
    { name: 'src', offset: K_CT_IPV6_SRC, format: 'ipv6' },
    { name: 'dst', offset: K_CT_IPV6_DST, format: 'ipv6' },
    { name: 'proto', offset: K_CT_NW_PROTO, format: 'dec8' },
    { name: 'src_port', offset: K_CT_TP_SRC, format: 'dec16' },
    { name: 'dst_port', offset: K_CT_TP_DST, format: 'dec16' },
  ],
};

/** Groups of plain fields, by name. */
export const ODP_GROUPS: ReadonlyMap<string, OdpGroup> = new Map(
  [
    ODP_ETH,
    ODP_IPV4,
    ODP_IPV6,
    ODP_ARP,
    ODP_ND,
    ODP_TCP,
    ODP_UDP,
    ODP_SCTP,
    ODP_ICMP,
    ODP_ICMPV6,
    ODP_CT_TUPLE4,
    ODP_CT_TUPLE6,
  ].map((group) => [group.name, group]),
);

export const TCP_FLAG_NAMES = ['fin', 'syn', 'rst', 'psh', 'ack', 'urg', 'ece', 'cwr', 'ns'];

/** Bytes that a field of this format takes in the key. */
export function formatBytes(format: OdpFormat): number {
  switch (format) {
    case 'mac':
      return 6;
    case 'ipv4':
    case 'label':
      return 4;
    case 'ipv6':
      return 16;
    case 'dec16':
    case 'icmp':
      return 2;
    default:
      return 1;
  }
}

export function macText(bytes: Uint8Array): string {
  return [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join(':');
}

/** RFC 5952. */
export function ipv6Text(bytes: Uint8Array): string {
  const groups: number[] = [];
  for (let i = 0; i < 16; i += 2) groups.push((bytes[i]! << 8) | bytes[i + 1]!);
  let best = -1;
  let bestLength = 1;
  for (let i = 0; i < 8; i++) {
    let length = 0;
    while (i + length < 8 && groups[i + length] === 0) length++;
    if (length > bestLength) {
      best = i;
      bestLength = length;
    }
  }
  const hex = (list: number[]): string => list.map((group) => group.toString(16)).join(':');
  if (best < 0) return hex(groups);
  // inet_ntop writes ::a.b.c.d and ::ffff:a.b.c.d with the last four bytes as an IPv4 address.
  const mapped = best === 0 && bestLength === 5 && groups[5] === 0xffff;
  if (best === 0 && (bestLength === 6 || mapped)) {
    return `::${mapped ? 'ffff:' : ''}${[...bytes.subarray(12)].join('.')}`;
  }
  return `${hex(groups.slice(0, best))}::${hex(groups.slice(best + bestLength))}`;
}
