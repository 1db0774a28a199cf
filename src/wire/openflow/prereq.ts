// Prerequisites of match fields (OpenFlow 1.5.1 §7.2.3.6, ovs-fields(7)): tcp_dst needs eth_type and ip_proto, and so
// on. Judged on the key of a match (or on a flow), never on its mask: the fields that decide cannot be masked, except
// for ct_state.

import {
  FRAG_LATER,
  K_CT_STATE,
  K_ETH_TYPE,
  K_NW_FRAG,
  K_NW_PROTO,
  K_PACKET_TYPE,
  K_TP_DST,
  K_TP_SRC,
  K_VLAN0_TCI,
  VLAN_PRESENT,
} from '../../../contract/key.ts';
import { ETH_TYPE_NSH } from '../../../contract/tunnel.ts';
import type { Prereq } from './fields.ts';

export { ETH_TYPE_NSH };

export const ETH_TYPE_IP = 0x0800;
export const ETH_TYPE_ARP = 0x0806;
export const ETH_TYPE_RARP = 0x8035;
export const ETH_TYPE_IPV6 = 0x86dd;
export const ETH_TYPE_MPLS = 0x8847;
export const ETH_TYPE_MPLS_MCAST = 0x8848;
export const ETH_TYPE_VLAN = 0x8100;
export const ETH_TYPE_QINQ = 0x88a8;
export const IPPROTO_ICMP = 1;
export const IPPROTO_TCP = 6;
export const IPPROTO_UDP = 17;
export const IPPROTO_ICMPV6 = 58;
export const IPPROTO_SCTP = 132;
export const ND_NEIGHBOR_SOLICIT = 135;
export const ND_NEIGHBOR_ADVERT = 136;

export function get16(record: Uint8Array, offset: number): number {
  return (record[offset]! << 8) | record[offset + 1]!;
}

export function put16(record: Uint8Array, offset: number, value: number): void {
  record[offset] = value >> 8;
  record[offset + 1] = value;
}

export function get32(record: Uint8Array, offset: number): number {
  return ((get16(record, offset) << 16) | get16(record, offset + 2)) >>> 0;
}

export function put32(record: Uint8Array, offset: number, value: number): void {
  put16(record, offset, value >>> 16);
  put16(record, offset + 2, value & 0xffff);
}

/** Ethernet type of the flow; of a packet type in the EtherType name space (1, type) that type. */
export function dlType(key: Uint8Array): number {
  if (get16(key, K_PACKET_TYPE) === 1) return get16(key, K_PACKET_TYPE + 2);
  return get16(key, K_ETH_TYPE);
}

export function isIp(type: number): boolean {
  return type === ETH_TYPE_IP || type === ETH_TYPE_IPV6;
}

export function isArp(type: number): boolean {
  return type === ETH_TYPE_ARP || type === ETH_TYPE_RARP;
}

export function isMpls(type: number): boolean {
  return type === ETH_TYPE_MPLS || type === ETH_TYPE_MPLS_MCAST;
}

export function isVlanType(type: number): boolean {
  return type === ETH_TYPE_VLAN || type === ETH_TYPE_QINQ;
}

const CT_VALID = 0xcf; // new, est, rel, rpl, snat, dnat
const CT_TRK = 0x20;
const CT_INV = 0x10;

/** `mask`: the match's, absent for a flow. */
export function prereqOk(prereq: Prereq, key: Uint8Array, mask?: Uint8Array): boolean {
  switch (prereq) {
    case 'none':
      return true;
    case 'ethernet':
      return get32(key, K_PACKET_TYPE) === 0;
    case 'vlan':
      return (get16(key, K_VLAN0_TCI) & VLAN_PRESENT) !== 0;
    case 'arp':
      return isArp(dlType(key));
    case 'ipv4':
      return dlType(key) === ETH_TYPE_IP;
    case 'ipv6':
      return dlType(key) === ETH_TYPE_IPV6;
    case 'ip':
      return isIp(dlType(key));
    case 'mpls':
      return isMpls(dlType(key));
    case 'nsh':
      return dlType(key) === ETH_TYPE_NSH;
    case 'ct': {
      const state = get32(key, K_CT_STATE);
      if (mask === undefined) return (state & 0x0b) !== 0;
      if ((state & CT_VALID) !== 0) return true;
      const known = get32(mask, K_CT_STATE);
      return (state & CT_TRK) !== 0 && (known & CT_INV) !== 0 && (state & CT_INV) === 0;
    }
    case 'tcp':
      return transport(key, IPPROTO_TCP);
    case 'udp':
      return transport(key, IPPROTO_UDP);
    case 'sctp':
      return transport(key, IPPROTO_SCTP);
    case 'icmp4':
      return dlType(key) === ETH_TYPE_IP && key[K_NW_PROTO] === IPPROTO_ICMP;
    case 'icmp6':
      return isIcmp6(key);
    case 'nd':
      return isNd(key, ND_NEIGHBOR_SOLICIT) || isNd(key, ND_NEIGHBOR_ADVERT);
    case 'nd_solicit':
      return isNd(key, ND_NEIGHBOR_SOLICIT);
    case 'nd_advert':
      return isNd(key, ND_NEIGHBOR_ADVERT);
  }
}

function transport(key: Uint8Array, proto: number): boolean {
  return isIp(dlType(key)) && key[K_NW_PROTO] === proto && (key[K_NW_FRAG]! & FRAG_LATER) === 0;
}

export function isIcmp6(key: Uint8Array): boolean {
  return dlType(key) === ETH_TYPE_IPV6 && key[K_NW_PROTO] === IPPROTO_ICMPV6;
}

function isNd(key: Uint8Array, type: number): boolean {
  return isIcmp6(key) && get16(key, K_TP_SRC) === type && get16(key, K_TP_DST) === 0;
}
