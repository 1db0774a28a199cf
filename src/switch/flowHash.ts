// Hashes of flows that OpenFlow controllers can see the effect of: which bucket, link or member is chosen. They give
// the numbers that Open vSwitch gives on x86-64 without SSE 4.2 (as Debian builds it): MurmurHash3 (x86, 32 bits) and
// Bob Jenkins's lookup3, both in the public domain, over little-endian words.

import {
  K_ETH_DST,
  K_ETH_SRC,
  K_ETH_TYPE,
  K_IPV6_DST,
  K_IPV6_SRC,
  K_NW_DST,
  K_NW_FRAG,
  K_NW_PROTO,
  K_NW_SRC,
  K_TP_DST,
  K_TP_SRC,
  K_VLAN0_TCI,
  K_VLAN1_TCI,
} from '../../contract/key.ts';
import {
  be16,
  ETH_TYPE_IP,
  ETH_TYPE_IPV6,
  exact,
  IPPROTO_SCTP,
  IPPROTO_TCP,
  IPPROTO_UDP,
  isIp,
  isLaterFragment,
  or16,
} from './flow.ts';

/** NX_HASH_FIELDS_*. */
export const HASH_ETH_SRC = 0;
export const HASH_SYMMETRIC_L4 = 1;
export const HASH_SYMMETRIC_L3L4 = 2;
export const HASH_SYMMETRIC_L3L4_UDP = 3;
export const HASH_NW_SRC = 4;
export const HASH_NW_DST = 5;
export const HASH_SYMMETRIC_L3 = 6;

function rotate(x: number, k: number): number {
  return (x << k) | (x >>> (32 - k));
}

/** Murmur: one word into the hash. */
export function hashAdd(hash: number, word: number): number {
  const mixed = Math.imul(rotate(Math.imul(word, 0xcc9e2d51), 15), 0x1b873593);
  return (Math.imul(rotate(hash ^ mixed, 13), 5) + 0xe6546b64) | 0;
}

/** Murmur: the end. Unsigned. */
export function hashFinish(hash: number, length: number): number {
  let h = hash ^ length;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

export function hashTwoWords(x: number, y: number): number {
  return hashFinish(hashAdd(hashAdd(x, 0), y), 8);
}

/** Of a 64-bit number. */
export function hashUint64(value: bigint): number {
  const low = Number(value & 0xffffffffn);
  return hashFinish(hashAdd(hashAdd(0, low), Number((value >> 32n) & 0xffffffffn)), 8);
}

function wordAt(bytes: Uint8Array, at: number): number {
  return (
    (bytes[at] ?? 0) |
    ((bytes[at + 1] ?? 0) << 8) |
    ((bytes[at + 2] ?? 0) << 16) |
    ((bytes[at + 3] ?? 0) << 24)
  );
}

/** Murmur of bytes; the last word is filled up with zeros. */
export function hashBytes(bytes: Uint8Array, basis: number): number {
  let hash = basis | 0;
  for (let i = 0; i < bytes.length; i += 4) hash = hashAdd(hash, wordAt(bytes, i));
  return hashFinish(hash, bytes.length);
}

/** lookup3 of bytes. Unsigned. */
export function jenkinsBytes(bytes: Uint8Array, basis: number): number {
  let a = (0xdeadbeef + bytes.length + basis) | 0;
  let b = a;
  let c = a;
  let at = 0;
  for (; bytes.length - at >= 12; at += 12) {
    a = (a + wordAt(bytes, at)) | 0;
    b = (b + wordAt(bytes, at + 4)) | 0;
    c = (c + wordAt(bytes, at + 8)) | 0;
    a = ((a - c) ^ rotate(c, 4)) | 0;
    c = (c + b) | 0;
    b = ((b - a) ^ rotate(a, 6)) | 0;
    a = (a + c) | 0;
    c = ((c - b) ^ rotate(b, 8)) | 0;
    b = (b + a) | 0;
    a = ((a - c) ^ rotate(c, 16)) | 0;
    c = (c + b) | 0;
    b = ((b - a) ^ rotate(a, 19)) | 0;
    a = (a + c) | 0;
    c = ((c - b) ^ rotate(b, 4)) | 0;
    b = (b + a) | 0;
  }
  if (at < bytes.length) {
    a = (a + wordAt(bytes, at)) | 0;
    b = (b + wordAt(bytes, at + 4)) | 0;
    c = (c + wordAt(bytes, at + 8)) | 0;
    c = ((c ^ b) - rotate(b, 14)) | 0;
    a = ((a ^ c) - rotate(c, 11)) | 0;
    b = ((b ^ a) - rotate(a, 25)) | 0;
    c = ((c ^ b) - rotate(b, 16)) | 0;
    a = ((a ^ c) - rotate(c, 4)) | 0;
    b = ((b ^ a) - rotate(a, 14)) | 0;
    c = ((c ^ b) - rotate(b, 24)) | 0;
  }
  return c >>> 0;
}

/** `count` bytes of source xor destination. */
function xored(flow: Uint8Array, a: number, b: number, count: number): Uint8Array {
  const bytes = new Uint8Array(count);
  for (let i = 0; i < count; i++) bytes[i] = flow[a + i]! ^ flow[b + i]!;
  return bytes;
}

/**
 * The same for both directions of a connection. UDP's ports do not count: they need not be symmetric.
 *
 *   0 address (4 or 16 bytes)   16 Ethernet type   18 VLAN   20 ports   22 MAC addresses   28 protocol   29 zero to 32
 */
export function hashSymmetricL4(flow: Uint8Array, basis: number): number {
  const fields = new Uint8Array(32);
  const type = be16(flow, K_ETH_TYPE);
  fields.set(xored(flow, K_ETH_SRC, K_ETH_DST, 6), 22);
  const vlan = (be16(flow, K_VLAN0_TCI) ^ be16(flow, K_VLAN1_TCI)) & 0x0fff;
  fields[18] = vlan >> 8;
  fields[19] = vlan;
  fields[16] = type >> 8;
  fields[17] = type;
  if (type === ETH_TYPE_IP) fields.set(xored(flow, K_NW_SRC, K_NW_DST, 4));
  else if (type === ETH_TYPE_IPV6) fields.set(xored(flow, K_IPV6_SRC, K_IPV6_DST, 16));
  if (isIp(flow)) {
    const protocol = flow[K_NW_PROTO]!;
    fields[28] = protocol;
    if (protocol === IPPROTO_TCP || protocol === IPPROTO_SCTP) {
      fields.set(xored(flow, K_TP_SRC, K_TP_DST, 2), 20);
    }
  }
  return jenkinsBytes(fields, basis);
}

function hashSymmetricL2(flow: Uint8Array, basis: number): number {
  const fields = new Uint8Array(12);
  const type = be16(flow, K_ETH_TYPE);
  const vlan = (be16(flow, K_VLAN0_TCI) ^ be16(flow, K_VLAN1_TCI)) & 0x0fff;
  fields.set([type >> 8, type, vlan >> 8, vlan]);
  fields.set(xored(flow, K_ETH_SRC, K_ETH_DST, 6), 4);
  let hash = basis;
  for (let i = 0; i < 12; i += 4) hash = hashAdd(hash, wordAt(fields, i));
  return hashFinish(hash, basis);
}

function addAddresses(flow: Uint8Array, basis: number): number {
  const v6 = be16(flow, K_ETH_TYPE) === ETH_TYPE_IPV6;
  const bytes = v6 ? xored(flow, K_IPV6_SRC, K_IPV6_DST, 16) : xored(flow, K_NW_SRC, K_NW_DST, 4);
  let hash = basis;
  for (let i = 0; i < bytes.length; i += 4) hash = hashAdd(hash, wordAt(bytes, i));
  return hash;
}

function hashSymmetricL3L4(flow: Uint8Array, basis: number, withUdp: boolean): number {
  if (!isIp(flow)) return hashSymmetricL2(flow, basis);
  const protocol = flow[K_NW_PROTO]!;
  let hash = hashAdd(addAddresses(flow, basis), protocol);
  const ports =
    protocol === IPPROTO_TCP || protocol === IPPROTO_SCTP || (withUdp && protocol === IPPROTO_UDP);
  if (ports && flow[K_NW_FRAG] === 0) {
    hash = hashAdd(hash, wordAt(xored(flow, K_TP_SRC, K_TP_DST, 2), 0));
  }
  return hashFinish(hash, basis);
}

/** 0 addresses (4 or 16 bytes)   16 Ethernet type   18 zero to 20 */
function hashSymmetricL3(flow: Uint8Array, basis: number): number {
  const fields = new Uint8Array(20);
  const type = be16(flow, K_ETH_TYPE);
  fields[16] = type >> 8;
  fields[17] = type;
  if (type === ETH_TYPE_IP) fields.set(xored(flow, K_NW_SRC, K_NW_DST, 4));
  else if (type === ETH_TYPE_IPV6) fields.set(xored(flow, K_IPV6_SRC, K_IPV6_DST, 16));
  return jenkinsBytes(fields, basis);
}

function hashAddress(flow: Uint8Array, v4: number, v6: number, basis: number): number {
  const type = be16(flow, K_ETH_TYPE);
  if (type === ETH_TYPE_IP) return jenkinsBytes(flow.subarray(v4, v4 + 4), basis);
  if (type === ETH_TYPE_IPV6) return jenkinsBytes(flow.subarray(v6, v6 + 16), basis);
  return basis;
}

/** Hash of the fields that a multipath or bundle action names. Unsigned. */
export function hashFields(flow: Uint8Array, fields: number, basis: number): number {
  switch (fields) {
    case HASH_ETH_SRC:
      return jenkinsBytes(flow.subarray(K_ETH_SRC, K_ETH_SRC + 6), basis);
    case HASH_SYMMETRIC_L4:
      return hashSymmetricL4(flow, basis);
    case HASH_SYMMETRIC_L3L4:
      return hashSymmetricL3L4(flow, basis, false);
    case HASH_SYMMETRIC_L3L4_UDP:
      return hashSymmetricL3L4(flow, basis, true);
    case HASH_NW_SRC:
      return hashAddress(flow, K_NW_SRC, K_IPV6_SRC, basis);
    case HASH_NW_DST:
      return hashAddress(flow, K_NW_DST, K_IPV6_DST, basis);
    default:
      return hashSymmetricL3(flow, basis);
  }
}

function coverAddresses(flow: Uint8Array, mask: Uint8Array, src: boolean, dst: boolean): void {
  const type = be16(flow, K_ETH_TYPE);
  if (type === ETH_TYPE_IP) {
    if (src) exact(mask, K_NW_SRC, 4);
    if (dst) exact(mask, K_NW_DST, 4);
  } else if (type === ETH_TYPE_IPV6) {
    if (src) exact(mask, K_IPV6_SRC, 16);
    if (dst) exact(mask, K_IPV6_DST, 16);
  }
}

function coverL2(mask: Uint8Array): void {
  exact(mask, K_ETH_DST, 6);
  exact(mask, K_ETH_SRC, 6);
  or16(mask, K_VLAN0_TCI, 0x1fff);
  or16(mask, K_VLAN1_TCI, 0x1fff);
}

/** Notes what hashFields() has looked at. */
export function coverHashFields(flow: Uint8Array, mask: Uint8Array, fields: number): void {
  const protocol = flow[K_NW_PROTO]!;
  switch (fields) {
    case HASH_ETH_SRC:
      exact(mask, K_ETH_SRC, 6);
      break;
    case HASH_SYMMETRIC_L4:
      coverL2(mask);
      coverAddresses(flow, mask, true, true);
      if (!isIp(flow)) break;
      mask[K_NW_PROTO] = 0xff;
      if (protocol !== IPPROTO_UDP && !isLaterFragment(flow)) exact(mask, K_TP_SRC, 4);
      break;
    case HASH_SYMMETRIC_L3L4:
    case HASH_SYMMETRIC_L3L4_UDP:
      if (!isIp(flow)) {
        coverL2(mask); // Open vSwitch forgets these, which makes its megaflows too wide
        break;
      }
      coverAddresses(flow, mask, true, true);
      mask[K_NW_PROTO] = 0xff;
      if (flow[K_NW_FRAG] !== 0) break;
      if (
        protocol === IPPROTO_TCP ||
        protocol === IPPROTO_SCTP ||
        (protocol === IPPROTO_UDP && fields === HASH_SYMMETRIC_L3L4_UDP)
      ) {
        exact(mask, K_TP_SRC, 4);
      }
      break;
    case HASH_NW_SRC:
      coverAddresses(flow, mask, true, false);
      break;
    case HASH_NW_DST:
      coverAddresses(flow, mask, false, true);
      break;
    default:
      coverAddresses(flow, mask, true, true);
  }
}
