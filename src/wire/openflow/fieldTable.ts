// The rows of the table of match fields: see fields.ts for what the columns mean.

import {
  F_ACTSET_OUTPUT,
  F_CONJ_ID,
  F_IN_PORT,
  F_METADATA,
  F_REGS,
  F_TUN_METADATA,
  K_ARP_SHA,
  K_ARP_THA,
  K_CT_IPV6_DST,
  K_CT_IPV6_SRC,
  K_CT_LABEL,
  K_CT_MARK,
  K_CT_NW_DST,
  K_CT_NW_PROTO,
  K_CT_NW_SRC,
  K_CT_STATE,
  K_CT_TP_DST,
  K_CT_TP_SRC,
  K_CT_ZONE,
  K_DP_HASH,
  K_ETH_DST,
  K_ETH_SRC,
  K_ETH_TYPE,
  K_IPV6_DST,
  K_IPV6_LABEL,
  K_IPV6_SRC,
  K_MPLS_LSE,
  K_ND_OPTIONS_TYPE,
  K_ND_RESERVED,
  K_ND_TARGET,
  K_NSH_CONTEXT,
  K_NSH_FLAGS,
  K_NSH_MDTYPE,
  K_NSH_NP,
  K_NSH_PATH,
  K_NSH_TTL,
  K_NW_DST,
  K_NW_FRAG,
  K_NW_PROTO,
  K_NW_SRC,
  K_NW_TOS,
  K_NW_TTL,
  K_PACKET_TYPE,
  K_PKT_MARK,
  K_PRIORITY,
  K_RECIRC_ID,
  K_TCP_FLAGS,
  K_TP_DST,
  K_TP_SRC,
  K_TUN_DST,
  K_TUN_ERSPAN,
  K_TUN_FLAGS,
  K_TUN_GBP_FLAGS,
  K_TUN_GBP_ID,
  K_TUN_GTPU_FLAGS,
  K_TUN_GTPU_MSGTYPE,
  K_TUN_ID,
  K_TUN_IPV6_DST,
  K_TUN_IPV6_SRC,
  K_TUN_SRC,
  K_TUN_TOS,
  K_TUN_TTL,
  K_VLAN0_TCI,
} from '../../../contract/key.ts';
import type { Field, FieldFormat, OxmId, Prereq } from './fields.ts';

const NX_EXPERIMENTER = 0x00002320;
const ONF_EXPERIMENTER = 0x4f4e4600;
const NSH_EXPERIMENTER = 0x005ad650;

const OXM_PREFIXES: readonly [prefix: string, oxmClass: number, experimenter: number][] = [
  ['NXM_OF_', 0x0000, 0],
  ['NXM_NX_', 0x0001, 0],
  ['OXM_OF_PKT_REG', 0x8001, 0],
  ['OXM_OF_', 0x8000, 0],
  ['ONFOXM_ET_', 0xffff, ONF_EXPERIMENTER],
  ['ERICOXM_OF_', 0x1000, 0],
  ['NXOXM_NSH_', 0xffff, NSH_EXPERIMENTER],
  ['NXOXM_ET_', 0xffff, NX_EXPERIMENTER],
];

/** 'OXM_OF_IN_PORT:0@3' = name, number, first wire version. */
function oxmId(text: string): OxmId {
  const [name = '', rest = ''] = text.split(':');
  const [number, since] = rest.split('@');
  const prefix = OXM_PREFIXES.find(([p]) => name.startsWith(p))!;
  return {
    name,
    number: Number(number),
    since: Number(since ?? 0),
    oxmClass: prefix[1],
    experimenter: prefix[2],
  };
}

interface Extra {
  aliases?: string[];
  bytes?: number;
  valueBits?: number;
  size?: number;
  shift?: number;
  widen?: boolean;
  present?: number;
  tlvIndex?: number;
  masksItself?: boolean;
}

/** Rows: name, offset, bits, access (r/rw, m = maskable), prerequisite, format, OXM ids, exceptions. */
function field(
  name: string,
  offset: number,
  bits: number,
  access: 'r' | 'rm' | 'rw' | 'rwm',
  prereq: Prereq,
  format: FieldFormat,
  oxm: string,
  extra: Extra = {},
): Field {
  const bytes = extra.bytes ?? Math.ceil(bits / 8);
  return {
    name,
    aliases: extra.aliases ?? [],
    bits,
    bytes,
    valueBits: extra.valueBits ?? bits,
    offset,
    size: extra.size ?? bytes,
    shift: extra.shift ?? 0,
    widen: extra.widen ?? false,
    present: extra.present ?? 0,
    masksItself: extra.masksItself ?? false,
    maskable: access.endsWith('m'),
    writable: access.startsWith('rw'),
    prereq,
    format,
    oxm: oxm === '' ? [] : oxm.split(' ').map(oxmId),
    ...(extra.tlvIndex === undefined ? {} : { tlvIndex: extra.tlvIndex }),
  };
}

const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i);
const VLAN = { size: 2, present: 0x1000 };
const LSE = { size: 4 };
const ERSPAN = { size: 4, masksItself: true };

/** In Open vSwitch's order, which is the order of table features and of prerequisites. */
export const FIELDS: readonly Field[] = [
  field('dp_hash', K_DP_HASH, 32, 'rm', 'none', 'hex', 'NXM_NX_DP_HASH:35 NXOXM_ET_DP_HASH:0'),
  field('recirc_id', K_RECIRC_ID, 32, 'r', 'none', 'decimal', 'NXM_NX_RECIRC_ID:36'),
  field('packet_type', K_PACKET_TYPE, 32, 'r', 'none', 'packet_type', 'OXM_OF_PACKET_TYPE:44@6'),
  field('conj_id', F_CONJ_ID, 32, 'r', 'none', 'decimal', 'NXM_NX_CONJ_ID:37'),
  field('tun_id', K_TUN_ID, 64, 'rwm', 'none', 'hex', 'NXM_NX_TUN_ID:16 OXM_OF_TUNNEL_ID:38@4', {
    aliases: ['tunnel_id'],
  }),
  field('tun_src', K_TUN_SRC, 32, 'rwm', 'none', 'ipv4', 'NXM_NX_TUN_IPV4_SRC:31'),
  field('tun_dst', K_TUN_DST, 32, 'rwm', 'none', 'ipv4', 'NXM_NX_TUN_IPV4_DST:32'),
  field('tun_ipv6_src', K_TUN_IPV6_SRC, 128, 'rwm', 'none', 'ipv6', 'NXM_NX_TUN_IPV6_SRC:109'),
  field('tun_ipv6_dst', K_TUN_IPV6_DST, 128, 'rwm', 'none', 'ipv6', 'NXM_NX_TUN_IPV6_DST:110'),
  field('tun_flags', K_TUN_FLAGS, 1, 'rwm', 'none', 'tun_flags', 'NXM_NX_TUN_FLAGS:104', {
    bytes: 2,
  }),
  field('tun_ttl', K_TUN_TTL, 8, 'r', 'none', 'decimal', ''),
  field('tun_tos', K_TUN_TOS, 8, 'r', 'none', 'decimal', ''),
  field('tun_gbp_id', K_TUN_GBP_ID, 16, 'rwm', 'none', 'decimal', 'NXM_NX_TUN_GBP_ID:38'),
  field('tun_gbp_flags', K_TUN_GBP_FLAGS, 8, 'rwm', 'none', 'hex', 'NXM_NX_TUN_GBP_FLAGS:39'),
  field('tun_erspan_idx', K_TUN_ERSPAN, 20, 'rwm', 'none', 'hex', 'NXOXM_ET_ERSPAN_IDX:11', {
    bytes: 4,
    size: 4,
    shift: 8,
  }),
  field('tun_erspan_ver', K_TUN_ERSPAN, 4, 'rwm', 'none', 'decimal', 'NXOXM_ET_ERSPAN_VER:12', {
    ...ERSPAN,
    shift: 28,
  }),
  field('tun_erspan_dir', K_TUN_ERSPAN, 1, 'rwm', 'none', 'decimal', 'NXOXM_ET_ERSPAN_DIR:13', {
    ...ERSPAN,
    shift: 6,
  }),
  field(
    'tun_erspan_hwid',
    K_TUN_ERSPAN,
    6,
    'rwm',
    'none',
    'hex',
    'NXOXM_ET_ERSPAN_HWID:14',
    ERSPAN,
  ),
  field('tun_gtpu_flags', K_TUN_GTPU_FLAGS, 8, 'rm', 'none', 'hex', 'NXOXM_ET_GTPU_FLAGS:15', {
    aliases: ['gtpu_flags'],
    masksItself: true,
  }),
  field(
    'tun_gtpu_msgtype',
    K_TUN_GTPU_MSGTYPE,
    8,
    'rm',
    'none',
    'decimal',
    'NXOXM_ET_GTPU_MSGTYPE:16',
    {
      aliases: ['gtpu_msgtype'],
      masksItself: true,
    },
  ),
  ...range(64).map((i) =>
    field(
      `tun_metadata${i}`,
      F_TUN_METADATA,
      124 * 8,
      'rwm',
      'none',
      'hex',
      `NXM_NX_TUN_METADATA${i}:${40 + i}`,
      { tlvIndex: i },
    ),
  ),
  field('metadata', F_METADATA, 64, 'rwm', 'none', 'hex', 'OXM_OF_METADATA:2@3'),
  field('in_port', F_IN_PORT, 16, 'rw', 'none', 'port10', 'NXM_OF_IN_PORT:0', { size: 4 }),
  field('in_port_oxm', F_IN_PORT, 32, 'rw', 'none', 'port11', 'OXM_OF_IN_PORT:0@3'),
  field(
    'actset_output',
    F_ACTSET_OUTPUT,
    32,
    'r',
    'none',
    'port11',
    'ONFOXM_ET_ACTSET_OUTPUT:43@4 OXM_OF_ACTSET_OUTPUT:43@6',
  ),
  field('skb_priority', K_PRIORITY, 32, 'r', 'none', 'hex', ''),
  field('pkt_mark', K_PKT_MARK, 32, 'rwm', 'none', 'hex', 'NXM_NX_PKT_MARK:33'),
  field('ct_state', K_CT_STATE, 32, 'rm', 'none', 'ct_state', 'NXM_NX_CT_STATE:105', {
    valueBits: 8,
  }),
  field('ct_zone', K_CT_ZONE, 16, 'r', 'none', 'hex', 'NXM_NX_CT_ZONE:106'),
  field('ct_mark', K_CT_MARK, 32, 'rwm', 'none', 'hex', 'NXM_NX_CT_MARK:107'),
  field('ct_label', K_CT_LABEL, 128, 'rwm', 'none', 'hex', 'NXM_NX_CT_LABEL:108'),
  field('ct_nw_proto', K_CT_NW_PROTO, 8, 'r', 'ct', 'decimal', 'NXM_NX_CT_NW_PROTO:119'),
  field('ct_nw_src', K_CT_NW_SRC, 32, 'rm', 'ct', 'ipv4', 'NXM_NX_CT_NW_SRC:120'),
  field('ct_nw_dst', K_CT_NW_DST, 32, 'rm', 'ct', 'ipv4', 'NXM_NX_CT_NW_DST:121'),
  field('ct_ipv6_src', K_CT_IPV6_SRC, 128, 'rm', 'ct', 'ipv6', 'NXM_NX_CT_IPV6_SRC:122'),
  field('ct_ipv6_dst', K_CT_IPV6_DST, 128, 'rm', 'ct', 'ipv6', 'NXM_NX_CT_IPV6_DST:123'),
  field('ct_tp_src', K_CT_TP_SRC, 16, 'rm', 'ct', 'decimal', 'NXM_NX_CT_TP_SRC:124'),
  field('ct_tp_dst', K_CT_TP_DST, 16, 'rm', 'ct', 'decimal', 'NXM_NX_CT_TP_DST:125'),
  ...range(16).map((i) =>
    field(`reg${i}`, F_REGS + 4 * i, 32, 'rwm', 'none', 'hex', `NXM_NX_REG${i}:${i}`),
  ),
  ...range(8).map((i) =>
    field(`xreg${i}`, F_REGS + 8 * i, 64, 'rwm', 'none', 'hex', `OXM_OF_PKT_REG${i}:${i}@4`),
  ),
  ...range(4).map((i) =>
    field(`xxreg${i}`, F_REGS + 16 * i, 128, 'rwm', 'none', 'hex', `NXM_NX_XXREG${i}:${111 + i}`),
  ),
  field(
    'eth_src',
    K_ETH_SRC,
    48,
    'rwm',
    'ethernet',
    'ethernet',
    'NXM_OF_ETH_SRC:2 OXM_OF_ETH_SRC:4@3',
    { aliases: ['dl_src'] },
  ),
  field(
    'eth_dst',
    K_ETH_DST,
    48,
    'rwm',
    'ethernet',
    'ethernet',
    'NXM_OF_ETH_DST:1 OXM_OF_ETH_DST:3@3',
    { aliases: ['dl_dst'] },
  ),
  field(
    'eth_type',
    K_ETH_TYPE,
    16,
    'r',
    'ethernet',
    'hex',
    'NXM_OF_ETH_TYPE:3 OXM_OF_ETH_TYPE:5@3',
    { aliases: ['dl_type'] },
  ),
  field('vlan_tci', K_VLAN0_TCI, 16, 'rwm', 'ethernet', 'hex', 'NXM_OF_VLAN_TCI:4'),
  field('dl_vlan', K_VLAN0_TCI, 12, 'rw', 'ethernet', 'decimal', '', VLAN),
  field('vlan_vid', K_VLAN0_TCI, 12, 'rwm', 'ethernet', 'decimal', 'OXM_OF_VLAN_VID:6@3', {
    size: 2,
    valueBits: 13,
  }),
  field('dl_vlan_pcp', K_VLAN0_TCI, 3, 'rw', 'ethernet', 'decimal', '', { ...VLAN, shift: 13 }),
  field('vlan_pcp', K_VLAN0_TCI, 3, 'rw', 'vlan', 'decimal', 'OXM_OF_VLAN_PCP:7@3', {
    ...VLAN,
    shift: 13,
  }),
  field('mpls_label', K_MPLS_LSE, 20, 'rw', 'mpls', 'decimal', 'OXM_OF_MPLS_LABEL:34@3', {
    ...LSE,
    bytes: 4,
    shift: 12,
  }),
  field('mpls_tc', K_MPLS_LSE, 3, 'rw', 'mpls', 'decimal', 'OXM_OF_MPLS_TC:35@3', {
    ...LSE,
    shift: 9,
  }),
  field('mpls_bos', K_MPLS_LSE, 1, 'r', 'mpls', 'decimal', 'OXM_OF_MPLS_BOS:36@4', {
    ...LSE,
    shift: 8,
  }),
  field('mpls_ttl', K_MPLS_LSE, 8, 'rw', 'mpls', 'decimal', 'NXM_NX_MPLS_TTL:30', LSE),
  field('ip_src', K_NW_SRC, 32, 'rwm', 'ipv4', 'ipv4', 'NXM_OF_IP_SRC:7 OXM_OF_IPV4_SRC:11@3', {
    aliases: ['nw_src'],
  }),
  field('ip_dst', K_NW_DST, 32, 'rwm', 'ipv4', 'ipv4', 'NXM_OF_IP_DST:8 OXM_OF_IPV4_DST:12@3', {
    aliases: ['nw_dst'],
  }),
  field(
    'ipv6_src',
    K_IPV6_SRC,
    128,
    'rwm',
    'ipv6',
    'ipv6',
    'NXM_NX_IPV6_SRC:19 OXM_OF_IPV6_SRC:26@3',
  ),
  field(
    'ipv6_dst',
    K_IPV6_DST,
    128,
    'rwm',
    'ipv6',
    'ipv6',
    'NXM_NX_IPV6_DST:20 OXM_OF_IPV6_DST:27@3',
  ),
  field(
    'ipv6_label',
    K_IPV6_LABEL,
    20,
    'rwm',
    'ipv6',
    'hex',
    'NXM_NX_IPV6_LABEL:27 OXM_OF_IPV6_FLABEL:28@3',
    { bytes: 4 },
  ),
  field('nw_proto', K_NW_PROTO, 8, 'r', 'ip', 'decimal', 'NXM_OF_IP_PROTO:6 OXM_OF_IP_PROTO:10@3', {
    aliases: ['ip_proto'],
  }),
  // The whole TOS byte with the ECN bits zero; ip_dscp is the same six bits, shifted down.
  field('nw_tos', K_NW_TOS, 8, 'rw', 'ip', 'decimal', 'NXM_OF_IP_TOS:5'),
  field('ip_dscp', K_NW_TOS, 6, 'rw', 'ip', 'decimal', 'OXM_OF_IP_DSCP:8@3', { shift: 2 }),
  field('nw_ecn', K_NW_TOS, 2, 'rw', 'ip', 'decimal', 'NXM_NX_IP_ECN:28 OXM_OF_IP_ECN:9@3', {
    aliases: ['ip_ecn'],
  }),
  field('nw_ttl', K_NW_TTL, 8, 'rw', 'ip', 'decimal', 'NXM_NX_IP_TTL:29'),
  field('ip_frag', K_NW_FRAG, 2, 'rm', 'ip', 'frag', 'NXM_NX_IP_FRAG:26', {
    aliases: ['nw_frag'],
  }),
  field('arp_op', K_NW_PROTO, 16, 'rw', 'arp', 'decimal', 'NXM_OF_ARP_OP:15 OXM_OF_ARP_OP:21@3', {
    size: 1,
    valueBits: 8,
  }),
  field('arp_spa', K_NW_SRC, 32, 'rwm', 'arp', 'ipv4', 'NXM_OF_ARP_SPA:16 OXM_OF_ARP_SPA:22@3'),
  field('arp_tpa', K_NW_DST, 32, 'rwm', 'arp', 'ipv4', 'NXM_OF_ARP_TPA:17 OXM_OF_ARP_TPA:23@3'),
  field(
    'arp_sha',
    K_ARP_SHA,
    48,
    'rwm',
    'arp',
    'ethernet',
    'NXM_NX_ARP_SHA:17 OXM_OF_ARP_SHA:24@3',
  ),
  field(
    'arp_tha',
    K_ARP_THA,
    48,
    'rwm',
    'arp',
    'ethernet',
    'NXM_NX_ARP_THA:18 OXM_OF_ARP_THA:25@3',
  ),
  field('tcp_src', K_TP_SRC, 16, 'rwm', 'tcp', 'decimal', 'NXM_OF_TCP_SRC:9 OXM_OF_TCP_SRC:13@3', {
    aliases: ['tp_src'],
  }),
  field('tcp_dst', K_TP_DST, 16, 'rwm', 'tcp', 'decimal', 'NXM_OF_TCP_DST:10 OXM_OF_TCP_DST:14@3', {
    aliases: ['tp_dst'],
  }),
  field(
    'tcp_flags',
    K_TCP_FLAGS,
    12,
    'rm',
    'tcp',
    'tcp_flags',
    'NXM_NX_TCP_FLAGS:34 ONFOXM_ET_TCP_FLAGS:42@4 OXM_OF_TCP_FLAGS:42@6',
  ),
  field('udp_src', K_TP_SRC, 16, 'rwm', 'udp', 'decimal', 'NXM_OF_UDP_SRC:11 OXM_OF_UDP_SRC:15@3'),
  field('udp_dst', K_TP_DST, 16, 'rwm', 'udp', 'decimal', 'NXM_OF_UDP_DST:12 OXM_OF_UDP_DST:16@3'),
  field('sctp_src', K_TP_SRC, 16, 'rwm', 'sctp', 'decimal', 'OXM_OF_SCTP_SRC:17@3'),
  field('sctp_dst', K_TP_DST, 16, 'rwm', 'sctp', 'decimal', 'OXM_OF_SCTP_DST:18@3'),
  field(
    'icmp_type',
    K_TP_SRC,
    8,
    'rw',
    'icmp4',
    'decimal',
    'NXM_OF_ICMP_TYPE:13 OXM_OF_ICMPV4_TYPE:19@3',
    { size: 2, widen: true },
  ),
  field(
    'icmp_code',
    K_TP_DST,
    8,
    'rw',
    'icmp4',
    'decimal',
    'NXM_OF_ICMP_CODE:14 OXM_OF_ICMPV4_CODE:20@3',
    { size: 2, widen: true },
  ),
  field(
    'icmpv6_type',
    K_TP_SRC,
    8,
    'rw',
    'icmp6',
    'decimal',
    'NXM_NX_ICMPV6_TYPE:21 OXM_OF_ICMPV6_TYPE:29@3',
    { size: 2, widen: true },
  ),
  field(
    'icmpv6_code',
    K_TP_DST,
    8,
    'rw',
    'icmp6',
    'decimal',
    'NXM_NX_ICMPV6_CODE:22 OXM_OF_ICMPV6_CODE:30@3',
    { size: 2, widen: true },
  ),
  field(
    'nd_target',
    K_ND_TARGET,
    128,
    'rwm',
    'nd',
    'ipv6',
    'NXM_NX_ND_TARGET:23 OXM_OF_IPV6_ND_TARGET:31@3',
  ),
  field(
    'nd_sll',
    K_ARP_SHA,
    48,
    'rwm',
    'nd_solicit',
    'ethernet',
    'NXM_NX_ND_SLL:24 OXM_OF_IPV6_ND_SLL:32@3',
  ),
  field(
    'nd_tll',
    K_ARP_THA,
    48,
    'rwm',
    'nd_advert',
    'ethernet',
    'NXM_NX_ND_TLL:25 OXM_OF_IPV6_ND_TLL:33@3',
  ),
  field('nd_reserved', K_ND_RESERVED, 32, 'rw', 'nd', 'decimal', 'ERICOXM_OF_ICMPV6_ND_RESERVED:1'),
  field(
    'nd_options_type',
    K_ND_OPTIONS_TYPE,
    8,
    'rw',
    'nd',
    'decimal',
    'ERICOXM_OF_ICMPV6_ND_OPTIONS_TYPE:2',
  ),
  field('nsh_flags', K_NSH_FLAGS, 8, 'rwm', 'nsh', 'decimal', 'NXOXM_NSH_FLAGS:1'),
  field('nsh_mdtype', K_NSH_MDTYPE, 8, 'r', 'nsh', 'decimal', 'NXOXM_NSH_MDTYPE:2'),
  field('nsh_np', K_NSH_NP, 8, 'r', 'nsh', 'decimal', 'NXOXM_NSH_NP:3'),
  field('nsh_spi', K_NSH_PATH, 24, 'rw', 'nsh', 'hex', 'NXOXM_NSH_SPI:4', {
    aliases: ['nsp'],
    bytes: 4,
    size: 4,
    shift: 8,
  }),
  field('nsh_si', K_NSH_PATH + 3, 8, 'rw', 'nsh', 'decimal', 'NXOXM_NSH_SI:5', {
    aliases: ['nsi'],
  }),
  ...range(4).map((i) =>
    field(
      `nsh_c${i + 1}`,
      K_NSH_CONTEXT + 4 * i,
      32,
      'rwm',
      'nsh',
      'hex',
      `NXOXM_NSH_C${i + 1}:${6 + i}`,
      { aliases: [`nshc${i + 1}`] },
    ),
  ),
  field('nsh_ttl', K_NSH_TTL, 8, 'rw', 'nsh', 'decimal', 'NXOXM_NSH_TTL:10'),
];
