// Small accessors for the flow record (contract/key.ts): big-endian reads and writes at byte offsets, and the
// questions about a packet's class that half of this folder asks. A mask is a record of the same layout.

import {
  FLOW_SIZE,
  FRAG_LATER,
  K_ETH_TYPE,
  K_NW_FRAG,
  K_NW_PROTO,
  K_TP_DST,
  K_TP_SRC,
  K_VLAN0_TCI,
  VLAN_PRESENT,
} from '../../contract/key.ts';

export const ETH_TYPE_IP = 0x0800;
export const ETH_TYPE_ARP = 0x0806;
export const ETH_TYPE_RARP = 0x8035;
export const ETH_TYPE_IPV6 = 0x86dd;
export const ETH_TYPE_VLAN = 0x8100;
export const ETH_TYPE_QINQ = 0x88a8;
export const IPPROTO_ICMP = 1;
export const IPPROTO_IGMP = 2;
export const IPPROTO_TCP = 6;
export const IPPROTO_UDP = 17;
export const IPPROTO_ICMPV6 = 58;
export const IPPROTO_SCTP = 132;
export const ND_SOLICIT = 135;
export const ND_ADVERT = 136;

export function be16(record: Uint8Array, offset: number): number {
  return (record[offset]! << 8) | record[offset + 1]!;
}

/** Unsigned. */
export function be32(record: Uint8Array, offset: number): number {
  return (
    ((record[offset]! << 24) |
      (record[offset + 1]! << 16) |
      (record[offset + 2]! << 8) |
      record[offset + 3]!) >>>
    0
  );
}

export function putBe16(record: Uint8Array, offset: number, value: number): void {
  record[offset] = value >>> 8;
  record[offset + 1] = value;
}

export function putBe32(record: Uint8Array, offset: number, value: number): void {
  record[offset] = value >>> 24;
  record[offset + 1] = value >>> 16;
  record[offset + 2] = value >>> 8;
  record[offset + 3] = value;
}

// Fields are a few bytes: for those, TypedArray.prototype.fill costs three times what a loop does.

/** Marks all bits of a field as looked at. */
export function exact(mask: Uint8Array, offset: number, bytes: number): void {
  for (let i = offset; i < offset + bytes; i++) mask[i] = 0xff;
}

/** The opposite. */
export function clearField(mask: Uint8Array, offset: number, bytes: number): void {
  for (let i = offset; i < offset + bytes; i++) mask[i] = 0;
}

/** The same for many bytes, from and to offsets that are multiples of four. */
export function clearWords(words: Int32Array, from: number, to: number): void {
  for (let i = from >> 2; i < to >> 2; i++) words[i] = 0;
}

/** Or-s bits of a 16-bit field into a mask. */
export function or16(mask: Uint8Array, offset: number, bits: number): void {
  mask[offset]! |= bits >>> 8;
  mask[offset + 1]! |= bits & 0xff;
}

export function isZero(record: Uint8Array, offset: number, bytes: number): boolean {
  for (let i = offset; i < offset + bytes; i++) if (record[i] !== 0) return false;
  return true;
}

export function equal(a: Uint8Array, b: Uint8Array, offset: number, bytes: number): boolean {
  for (let i = offset; i < offset + bytes; i++) if (a[i] !== b[i]) return false;
  return true;
}

export function isIp(flow: Uint8Array): boolean {
  const type = be16(flow, K_ETH_TYPE);
  return type === ETH_TYPE_IP || type === ETH_TYPE_IPV6;
}

export function isVlanType(type: number): boolean {
  return type === ETH_TYPE_VLAN || type === ETH_TYPE_QINQ;
}

/** The questions below note in `mask` what they looked at; the Ethernet type is in every mask already. */
export function isIpProtocol(flow: Uint8Array, mask: Uint8Array, protocol: number): boolean {
  if (!isIp(flow)) return false;
  mask[K_NW_PROTO] = 0xff;
  return flow[K_NW_PROTO] === protocol;
}

export function isVlanTagged(flow: Uint8Array, mask: Uint8Array): boolean {
  mask[K_VLAN0_TCI]! |= VLAN_PRESENT >> 8;
  return (flow[K_VLAN0_TCI]! & (VLAN_PRESENT >> 8)) !== 0;
}

export function isIcmpv6(flow: Uint8Array, mask: Uint8Array): boolean {
  if (be16(flow, K_ETH_TYPE) !== ETH_TYPE_IPV6) return false;
  mask[K_NW_PROTO] = 0xff;
  return flow[K_NW_PROTO] === IPPROTO_ICMPV6;
}

export function isIcmpv4(flow: Uint8Array, mask: Uint8Array): boolean {
  if (be16(flow, K_ETH_TYPE) !== ETH_TYPE_IP) return false;
  mask[K_NW_PROTO] = 0xff;
  return flow[K_NW_PROTO] === IPPROTO_ICMP;
}

/** Neighbour solicitation or advertisement; its type, or 0. */
export function neighborDiscoveryType(flow: Uint8Array, mask: Uint8Array): number {
  if (!isIcmpv6(flow, mask)) return 0;
  exact(mask, K_TP_DST, 2);
  if (be16(flow, K_TP_DST) !== 0) return 0;
  exact(mask, K_TP_SRC, 2);
  const type = be16(flow, K_TP_SRC);
  return type === ND_SOLICIT || type === ND_ADVERT ? type : 0;
}

export function isLaterFragment(flow: Uint8Array): boolean {
  return (flow[K_NW_FRAG]! & FRAG_LATER) !== 0;
}

/** All fields zero. TypedArray.prototype.set() of it costs a third of what fill(0) does. */
export const EMPTY_RECORD = newRecord();

/** A fresh record that can be viewed as 32-bit words too. */
export function newRecord(): Uint8Array {
  return new Uint8Array(FLOW_SIZE);
}
