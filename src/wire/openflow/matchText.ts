// Matches as text, exactly as ovs-ofctl, ovs-appctl and the logs of Open vSwitch show them: "tcp,in_port=1,
// nw_src=10.0.0.0/8,tp_dst=80". The order of the fields is part of the format.

import * as K from '../../../contract/key.ts';
import {
  F_ACTSET_OUTPUT,
  F_CONJ_ID,
  F_IN_PORT,
  F_METADATA,
  F_REGS,
} from '../../../contract/key.ts';
import { formatIpv4, formatIpv6, formatMasked, hex2 } from './address.ts';
import { fromBytes, getField, matchMask, resolveField } from './fieldAccess.ts';
import { FIELDS } from './fields.ts';
import type { PortMap } from './fieldText.ts';
import {
  CT_STATES,
  formatFlagsMasked,
  formatFrag,
  formatPort,
  TCP_FLAGS,
  TUN_FLAGS,
} from './fieldText.ts';
import type { TlvMapping } from './messages.ts';
import { dlType, ETH_TYPE_NSH, get16, get32, isArp, isIcmp6, isIp } from './prereq.ts';
import type { Match } from './types.ts';

export interface MatchTextOptions {
  /** Shown when it is not 32768. */
  priority?: number;
  ports?: PortMap;
  tlvs?: readonly TlvMapping[];
  /** What is said of tun_metadata0 … 63: that the flow does not have it. */
  isMissing?: (index: number) => boolean;
}

const IP_NAMES: Readonly<Record<number, string>> = { 1: 'icmp', 6: 'tcp', 17: 'udp', 132: 'sctp' };
const IPV6_NAMES: Readonly<Record<number, string>> = {
  58: 'icmp6',
  6: 'tcp6',
  17: 'udp6',
  132: 'sctp6',
};
const TYPE_NAMES: Readonly<Record<number, string>> = {
  2048: 'ip',
  34525: 'ipv6',
  2054: 'arp',
  32821: 'rarp',
  34887: 'mpls',
  34888: 'mplsm',
};

/** printf's %#x: zero has no prefix. */
const hex = (value: number | bigint): string => (value ? `0x${value.toString(16)}` : '0');
const pad = (value: number, digits: number): string =>
  `0x${value.toString(16).padStart(digits, '0')}`;

export function formatMatch(match: Match, options: MatchTextOptions = {}): string {
  const out: string[] = [];
  const { key, mask } = match;
  if (options.priority !== undefined && options.priority !== 0x8000)
    out.push(`priority=${options.priority}`);
  const shown = new Printer(match, out);
  shown.hex32('pkt_mark', K.K_PKT_MARK);
  shown.hex32('recirc_id', K.K_RECIRC_ID);
  shown.hex32('dp_hash', K.K_DP_HASH);
  if (get32(mask, F_CONJ_ID)) out.push(`conj_id=${get32(key, F_CONJ_ID)}`);
  if (get32(mask, K.K_PRIORITY)) out.push(`skb_priority=${hex(get32(key, K.K_PRIORITY))}`);
  if (get32(mask, F_ACTSET_OUTPUT))
    out.push(`actset_output=${formatPort(get32(key, F_ACTSET_OUTPUT), options.ports)}`);
  formatCt(shown, match, out);
  const type = dlType(key);
  if (get32(mask, K.K_PACKET_TYPE) && get32(key, K.K_PACKET_TYPE))
    out.push(
      `packet_type=(${get16(key, K.K_PACKET_TYPE)},${hex(get16(key, K.K_PACKET_TYPE + 2))})`,
    );
  // Only megaflows match on both, and they always know that the packet is an Ethernet frame.
  else if (get32(mask, K.K_RECIRC_ID) && get32(mask, F_IN_PORT)) out.push('eth');
  const { skipType, skipProto } = formatProtocol(match, type, out);
  for (let i = 0; i < 16; i++) shown.hex32(`reg${i}`, F_REGS + 4 * i);
  formatTunnel(shown, match, options, out);
  shown.hex64('metadata', F_METADATA);
  if (get32(mask, F_IN_PORT))
    out.push(`in_port=${formatPort(get32(key, F_IN_PORT), options.ports)}`);
  formatVlan(match, 0, '', out);
  if (get16(mask, K.K_VLAN0_TCI)) formatVlan(match, 1, '1', out);
  shown.mac('dl_src', K.K_ETH_SRC);
  shown.mac('dl_dst', K.K_ETH_DST);
  if (!skipType && get16(mask, K.K_ETH_TYPE)) out.push(`dl_type=${pad(type, 4)}`);
  formatL3(shown, match, type, skipProto, out);
  formatL4(shown, match, type, out);
  return out.join(',');
}

/** Prints single fields, each only when it is matched. */
class Printer {
  readonly match: Match;
  readonly out: string[];

  constructor(match: Match, out: string[]) {
    // A packed match makes its key anew each time.
    this.match = { key: match.key, mask: match.mask };
    this.out = out;
  }

  #part(record: Uint8Array, offset: number, size: number): Uint8Array {
    return record.subarray(offset, offset + size);
  }

  hex32(name: string, offset: number): void {
    this.#hex(name, offset, 4);
  }

  hex64(name: string, offset: number): void {
    this.#hex(name, offset, 8);
  }

  #hex(name: string, offset: number, size: number): void {
    const mask = fromBytes(this.#part(this.match.mask, offset, size));
    if (mask === 0n) return;
    const value = hex(fromBytes(this.#part(this.match.key, offset, size)));
    const whole = mask === (1n << BigInt(8 * size)) - 1n;
    this.out.push(`${name}=${value}${whole ? '' : `/${hex(mask)}`}`);
  }

  /** Decimal when exact, hexadecimal with its mask otherwise. */
  dec16(name: string, offset: number): void {
    const mask = get16(this.match.mask, offset);
    if (mask === 0) return;
    const value = get16(this.match.key, offset);
    this.out.push(`${name}=${mask === 0xffff ? value : `0x${value.toString(16)}/${hex(mask)}`}`);
  }

  /** Decimal when exact; else value and mask in two digits. */
  dec8(name: string, offset: number): void {
    const mask = this.match.mask[offset]!;
    if (mask === 0) return;
    const value = this.match.key[offset]!;
    this.out.push(`${name}=${mask === 0xff ? value : `${pad(value, 2)}/${pad(mask, 2)}`}`);
  }

  mac(name: string, offset: number): void {
    this.#address(name, offset, 6, hex2);
  }

  ipv4(name: string, offset: number): void {
    this.#address(name, offset, 4, formatIpv4);
  }

  ipv6(name: string, offset: number): void {
    this.#address(name, offset, 16, formatIpv6);
  }

  #address(name: string, offset: number, size: number, format: (b: Uint8Array) => string): void {
    const mask = this.#part(this.match.mask, offset, size);
    if (mask.every((b) => b === 0)) return;
    this.out.push(
      `${name}=${formatMasked(this.#part(this.match.key, offset, size), mask, format)}`,
    );
  }
}

function formatCt(shown: Printer, { key, mask }: Match, out: string[]): void {
  const state = get32(mask, K.K_CT_STATE);
  if (state)
    out.push(`ct_state=${formatFlagsMasked(CT_STATES, get32(key, K.K_CT_STATE), state, 0xff)}`);
  shown.dec16('ct_zone', K.K_CT_ZONE);
  shown.hex32('ct_mark', K.K_CT_MARK);
  const label = fromBytes(mask.subarray(K.K_CT_LABEL, K.K_CT_LABEL + 16));
  if (label !== 0n) {
    const value = hex(fromBytes(key.subarray(K.K_CT_LABEL, K.K_CT_LABEL + 16)));
    const whole = label === (1n << 128n) - 1n;
    out.push(`ct_label=${value}${whole ? '' : `/${hex(label)}`}`);
  }
  shown.ipv4('ct_nw_src', K.K_CT_NW_SRC);
  shown.ipv6('ct_ipv6_src', K.K_CT_IPV6_SRC);
  shown.ipv4('ct_nw_dst', K.K_CT_NW_DST);
  shown.ipv6('ct_ipv6_dst', K.K_CT_IPV6_DST);
  if (mask[K.K_CT_NW_PROTO]) {
    out.push(`ct_nw_proto=${key[K.K_CT_NW_PROTO]}`);
    shown.dec16('ct_tp_src', K.K_CT_TP_SRC);
    shown.dec16('ct_tp_dst', K.K_CT_TP_DST);
  }
}

/** "tcp", "ip", "arp" … in place of dl_type and nw_proto. */
function formatProtocol(
  { key, mask }: Match,
  type: number,
  out: string[],
): { skipType: boolean; skipProto: boolean } {
  if (get16(mask, K.K_ETH_TYPE) === 0) return { skipType: false, skipProto: false };
  const name = TYPE_NAMES[type];
  if (name === undefined) return { skipType: false, skipProto: false };
  if (isIp(type) && mask[K.K_NW_PROTO]) {
    const names = type === 0x0800 ? IP_NAMES : IPV6_NAMES;
    const proto = names[key[K.K_NW_PROTO]!];
    out.push(proto ?? name);
    return { skipType: true, skipProto: proto !== undefined };
  }
  out.push(name);
  return { skipType: true, skipProto: false };
}

/** As in Open vSwitch without masks, and only what the version has. */
function formatErspan(value: number, mask: number, out: string[]): void {
  const version = value >>> 28;
  if (mask >>> 28) out.push(`tun_erspan_ver=${version}`);
  if (version === 1 && (mask >>> 8) & 0xfffff) {
    out.push(`tun_erspan_idx=${hex((value >>> 8) & 0xfffff)}`);
  }
  if (version === 2 && mask & 0x40) out.push(`tun_erspan_dir=${(value >>> 6) & 1}`);
  if (version === 2 && mask & 0x3f) out.push(`tun_erspan_hwid=${hex(value & 0x3f)}`);
}

function formatTunnel(
  shown: Printer,
  match: Match,
  options: MatchTextOptions,
  out: string[],
): void {
  const { key, mask } = match;
  shown.hex64('tun_id', K.K_TUN_ID);
  shown.ipv4('tun_src', K.K_TUN_SRC);
  shown.ipv4('tun_dst', K.K_TUN_DST);
  shown.ipv6('tun_ipv6_src', K.K_TUN_IPV6_SRC);
  shown.ipv6('tun_ipv6_dst', K.K_TUN_IPV6_DST);
  shown.dec16('tun_gbp_id', K.K_TUN_GBP_ID);
  if (mask[K.K_TUN_GBP_FLAGS]) out.push(`tun_gbp_flags=${hex(key[K.K_TUN_GBP_FLAGS]!)}`);
  if (mask[K.K_TUN_TOS]) out.push(`tun_tos=${key[K.K_TUN_TOS]!.toString(16)}`);
  if (mask[K.K_TUN_TTL]) out.push(`tun_ttl=${key[K.K_TUN_TTL]}`);
  formatErspan(get32(key, K.K_TUN_ERSPAN), get32(mask, K.K_TUN_ERSPAN), out);
  if (mask[K.K_TUN_GTPU_FLAGS]) out.push(`gtpu_flags=${hex(key[K.K_TUN_GTPU_FLAGS]!)}`);
  if (mask[K.K_TUN_GTPU_MSGTYPE]) out.push(`gtpu_msgtype=${key[K.K_TUN_GTPU_MSGTYPE]}`);
  const flags = get16(mask, K.K_TUN_FLAGS) & 15;
  if (flags)
    out.push(
      `tun_flags=${formatFlagsMasked(TUN_FLAGS, get16(key, K.K_TUN_FLAGS) & 15, flags, 15)}`,
    );
  for (const t of options.tlvs ?? []) {
    const f = resolveField(FIELDS.find((x) => x.tlvIndex === t.index)!, options.tlvs);
    const m = matchMask(match, f);
    if (m === 0n) continue;
    const whole = m === (1n << BigInt(f.bits)) - 1n;
    if (options.isMissing?.(t.index)) out.push(`${f.name}=NP`);
    else out.push(`${f.name}=${hex(getField(key, f))}${whole ? '' : `/${hex(m)}`}`);
  }
}

const VID = 0xfff;
const CFI = 0x1000;
const PCP = 0xe000;

function formatVlan({ key, mask }: Match, i: number, suffix: string, out: string[]): void {
  const offset = i === 0 ? K.K_VLAN0_TCI : K.K_VLAN1_TCI;
  const m = get16(mask, offset);
  if (m === 0) return;
  const tci = get16(key, offset);
  const vid = m & VID;
  const pcp = m & PCP;
  const tagged = (m & CFI) !== 0 && (tci & CFI) !== 0;
  if (tagged && (vid === 0 || vid === VID) && (pcp === 0 || pcp === PCP) && vid + pcp !== 0) {
    if (vid) out.push(`dl_vlan${suffix}=${tci & VID}`);
    if (pcp) out.push(`dl_vlan_pcp${suffix}=${tci >> 13}`);
  } else {
    out.push(`vlan_tci${suffix}=${pad(tci, 4)}${m === 0xffff ? '' : `/${pad(m, 4)}`}`);
  }
}

function formatL3(
  shown: Printer,
  { key, mask }: Match,
  type: number,
  skipProto: boolean,
  out: string[],
): void {
  const arp = isArp(type);
  if (type === 0x86dd) {
    shown.ipv6('ipv6_src', K.K_IPV6_SRC);
    shown.ipv6('ipv6_dst', K.K_IPV6_DST);
    const label = get32(mask, K.K_IPV6_LABEL) & 0xfffff;
    if (label) {
      const value = pad(get32(key, K.K_IPV6_LABEL), 5);
      out.push(`ipv6_label=${value}${label === 0xfffff ? '' : `/${pad(label, 5)}`}`);
    }
  } else if (type === ETH_TYPE_NSH) {
    formatNsh(shown, key, mask);
  } else {
    shown.ipv4(arp ? 'arp_spa' : 'nw_src', K.K_NW_SRC);
    shown.ipv4(arp ? 'arp_tpa' : 'nw_dst', K.K_NW_DST);
  }
  if (!skipProto && mask[K.K_NW_PROTO])
    out.push(`${arp ? 'arp_op' : 'nw_proto'}=${key[K.K_NW_PROTO]}`);
  if (arp) {
    shown.mac('arp_sha', K.K_ARP_SHA);
    shown.mac('arp_tha', K.K_ARP_THA);
  }
  const tos = mask[K.K_NW_TOS]!;
  if (tos & 0xfc) out.push(`nw_tos=${key[K.K_NW_TOS]! & 0xfc}`);
  if (tos & 3) out.push(`nw_ecn=${key[K.K_NW_TOS]! & 3}`);
  if (mask[K.K_NW_TTL]) out.push(`nw_ttl=${key[K.K_NW_TTL]}`);
  formatMpls(key, mask, out);
  const frag = mask[K.K_NW_FRAG]! & 3;
  if (frag) out.push(`nw_frag=${formatFrag(key[K.K_NW_FRAG]!, frag)}`);
}

function formatNsh(shown: Printer, key: Uint8Array, mask: Uint8Array): void {
  shown.dec8('nsh_flags', K.K_NSH_FLAGS);
  shown.dec8('nsh_ttl', K.K_NSH_TTL);
  shown.dec8('nsh_mdtype', K.K_NSH_MDTYPE);
  shown.dec8('nsh_np', K.K_NSH_NP);
  const spi = get32(mask, K.K_NSH_PATH) >>> 8;
  if (spi !== 0) {
    const value = (get32(key, K.K_NSH_PATH) >>> 8).toString(16);
    shown.out.push(`nsh_spi=0x${value}${spi === 0xffffff ? '' : `/0x${spi.toString(16)}`}`);
  }
  shown.dec8('nsh_si', K.K_NSH_PATH + 3);
  if (mask[K.K_NSH_MDTYPE] !== 0xff || key[K.K_NSH_MDTYPE] !== 1) return;
  for (let i = 0; i < 4; i++) {
    const bits = get32(mask, K.K_NSH_CONTEXT + 4 * i);
    if (bits === 0) continue;
    const value = get32(key, K.K_NSH_CONTEXT + 4 * i).toString(16);
    shown.out.push(
      `nsh_c${i + 1}=0x${value}${bits === 0xffffffff ? '' : `/0x${bits.toString(16)}`}`,
    );
  }
}

function formatMpls(key: Uint8Array, mask: Uint8Array, out: string[]): void {
  const lse = get32(key, K.K_MPLS_LSE);
  const m = get32(mask, K.K_MPLS_LSE);
  if (m >>> 12) out.push(`mpls_label=${lse >>> 12}`);
  if (m & 0xe00) out.push(`mpls_tc=${(lse >>> 9) & 7}`);
  if (m & 0xff) out.push(`mpls_ttl=${lse & 0xff}`);
  if (m & 0x100) out.push(`mpls_bos=${(lse >>> 8) & 1}`);
  for (const i of [1, 2]) {
    const more = get32(mask, K.K_MPLS_LSE + 4 * i);
    if (more === 0) continue;
    const value = get32(key, K.K_MPLS_LSE + 4 * i);
    const text = more === 0xffffffff ? String(value) : `${pad(value, 8)}/${pad(more, 8)}`;
    out.push(`mpls_lse${i}=${text}`);
  }
}

function formatL4(shown: Printer, { key, mask }: Match, type: number, out: string[]): void {
  const icmp4 = type === 0x0800 && key[K.K_NW_PROTO] === 1;
  if (icmp4 || isIcmp6(key)) {
    shown.dec16('icmp_type', K.K_TP_SRC);
    shown.dec16('icmp_code', K.K_TP_DST);
    if (!icmp4) {
      shown.ipv6('nd_target', K.K_ND_TARGET);
      shown.mac('nd_sll', K.K_ARP_SHA);
      shown.mac('nd_tll', K.K_ARP_THA);
      if (get32(mask, K.K_ND_RESERVED)) out.push(`nd_reserved=${get32(key, K.K_ND_RESERVED)}`);
      if (mask[K.K_ND_OPTIONS_TYPE]) out.push(`nd_options_type=${key[K.K_ND_OPTIONS_TYPE]}`);
    }
  } else {
    shown.dec16('tp_src', K.K_TP_SRC);
    shown.dec16('tp_dst', K.K_TP_DST);
  }
  const flags = get16(mask, K.K_TCP_FLAGS) & 0xfff;
  if (isIp(type) && key[K.K_NW_PROTO] === 6 && flags)
    out.push(`tcp_flags=${formatFlagsMasked(TCP_FLAGS, get16(key, K.K_TCP_FLAGS), flags, 0xfff)}`);
}
