// Rewriting header fields under a mask, with the checksums that cover them (RFC 1624, equation 3: the one that never
// turns a sum into the wrong zero).
//
// A checksum-partial packet (VNET_NEEDS_CSUM, virtio 1.2 section 5.1.6.2) has no checksum yet but the sum of its
// pseudo header: that is adjusted when an address changes, and left alone when the transport header changes, which
// the offload will sum up itself.

import { FRAG_LATER, K_NW_FRAG, K_NW_PROTO } from '../contract/key.ts';
import {
  PKT_CSUM_START,
  PKT_HEAD,
  PKT_HEAD_LEN,
  PKT_KEY,
  PKT_L3,
  PKT_L4,
  PKT_VNET_FLAGS,
  VNET_NEEDS_CSUM,
} from '../contract/packet.ts';

export const PROTO_ICMP: u32 = 1;
export const PROTO_TCP: u32 = 6;
export const PROTO_UDP: u32 = 17;
export const PROTO_ICMPV6: u32 = 58;
export const PROTO_SCTP: u32 = 132;

/** What to add to a ones' complement sum when a word changes from `before` to `after`: ~m + m'. */
export function delta32(before: u32, after: u32): u32 {
  const inverse = ~before;
  return (inverse & 0xffff) + (inverse >> 16) + (after & 0xffff) + (after >> 16);
}

export function delta16(before: u32, after: u32): u32 {
  return (~before & 0xffff) + after;
}

function fold(sum: u32): u32 {
  sum = (sum & 0xffff) + (sum >> 16);
  return (sum & 0xffff) + (sum >> 16);
}

/** Corrects the checksum field at `at` by the sum of deltas. Ones' complement sums do not mind the byte order. */
export function fixChecksum(at: u32, delta: u32): void {
  store<u16>(at, <u16>~fold((~(<u32>load<u16>(at)) & 0xffff) + delta));
}

/** Rewrites a 32-bit word under a mask and returns the delta of the change. */
export function setWord(at: u32, value: u32, mask: u32): u32 {
  const before = load<u32>(at);
  const after = (before & ~mask) | (value & mask);
  store<u32>(at, after);
  return delta32(before, after);
}

/** Rewrites a word and drops the delta: no checksum covers it. */
export function setPlain(at: u32, value: u32, mask: u32): void {
  store<u32>(at, (load<u32>(at) & ~mask) | (value & mask));
}

export function isPartial(pkt: u32): bool {
  return (
    (load<u8>(pkt + PKT_VNET_FLAGS) & VNET_NEEDS_CSUM) !== 0 &&
    load<u16>(pkt + PKT_CSUM_START) === load<u16>(pkt + PKT_L4)
  );
}

/** transport(): the header exists but lies beyond the head, out of reach. */
export const TOO_FAR: u32 = 1;

/** Offset from the start of the frame at which the IP packet ends; what follows is padding. Needs an L4 offset. */
export function ipEnd(pkt: u32): u32 {
  const l3: u32 = load<u16>(pkt + PKT_L3);
  const ip = load<u32>(pkt + PKT_HEAD) + l3;
  if (load<u8>(ip) >> 4 === 4) return l3 + bswap<u16>(load<u16>(ip + 2));
  return l3 + 40 + bswap<u16>(load<u16>(ip + 4));
}

export function isIpv6(pkt: u32): bool {
  return load<u8>(load<u32>(pkt + PKT_HEAD) + load<u16>(pkt + PKT_L3)) >> 4 === 6;
}

/** Address of the transport header if the packet has one of at least `bytes` bytes; 0 if not; TOO_FAR. */
export function transport(pkt: u32, bytes: u32): u32 {
  const offset: u32 = load<u16>(pkt + PKT_L4);
  if (offset === 0xffff) return 0;
  if (load<u8>(load<u32>(pkt + PKT_KEY) + K_NW_FRAG) & FRAG_LATER) return 0;
  if (offset + bytes > ipEnd(pkt)) return 0;
  if (offset + bytes > load<u32>(pkt + PKT_HEAD_LEN)) return TOO_FAR;
  return load<u32>(pkt + PKT_HEAD) + offset;
}

/** Offset of the checksum in the transport header of `proto`, 0 = it has none that covers the pseudo header. */
function checksumOffset(proto: u32): u32 {
  if (proto === PROTO_TCP) return 16;
  if (proto === PROTO_UDP) return 6;
  if (proto === PROTO_ICMPV6) return 2;
  return 0;
}

/**
 * Addresses of the IP header changed: corrects the transport checksum for its pseudo header. False: it has one, but
 * out of reach.
 */
export function fixPseudoHeader(pkt: u32, delta: u32): bool {
  const proto: u32 = load<u8>(load<u32>(pkt + PKT_KEY) + K_NW_PROTO);
  const offset = proto === PROTO_ICMPV6 && !isIpv6(pkt) ? 0 : checksumOffset(proto);
  if (offset === 0) return true;
  const l4 = transport(pkt, proto === PROTO_TCP ? 20 : 8);
  if (l4 <= TOO_FAR) return l4 === 0;
  const at = l4 + offset;
  if (isPartial(pkt)) {
    store<u16>(at, <u16>fold(<u32>load<u16>(at) + delta));
    return true;
  }
  if (proto === PROTO_UDP) fixUdp(at, delta);
  else fixChecksum(at, delta);
  return true;
}

/** Bytes of the transport header or its payload changed. */
export function fixTransport(pkt: u32, at: u32, proto: u32, delta: u32): void {
  if (isPartial(pkt)) return;
  if (proto === PROTO_UDP) fixUdp(at, delta);
  else fixChecksum(at, delta);
}

/** UDP: 0 means "no checksum" and stays; a sum that comes out as 0 is sent as 0xffff (RFC 768). */
function fixUdp(at: u32, delta: u32): void {
  if (load<u16>(at) === 0) return;
  fixChecksum(at, delta);
  if (load<u16>(at) === 0) store<u16>(at, 0xffff);
}

const CRC32C: u32 = 0x82f63b78; // reflected polynomial, RFC 9260 appendix A

/** Product of two polynomials modulo CRC32C's, bit-reflected. */
function multiplyModulo(a: u32, b: u32): u32 {
  let product: u32 = 0;
  for (let bit: u32 = 0x80000000; bit !== 0; bit >>= 1) {
    if (a & bit) product ^= b;
    b = (b & 1) !== 0 ? (b >> 1) ^ CRC32C : b >> 1;
  }
  return product;
}

/**
 * SCTP's CRC32C after the first word of the header (the ports) changed by `difference` (xor), in a packet of `bytes`
 * bytes of SCTP. A CRC is linear: the change of the sum is the sum of the change, followed by zeros.
 */
export function crcChange(difference: u32, bytes: u32): u32 {
  let change = difference;
  for (let i = 0; i < 32; i++) change = (change & 1) !== 0 ? (change >> 1) ^ CRC32C : change >> 1;
  // times x^(8 * zeros)
  let zeros = bytes - 4;
  let power: u32 = 0x00800000; // x^8
  while (zeros !== 0) {
    if (zeros & 1) change = multiplyModulo(power, change);
    power = multiplyModulo(power, power);
    zeros >>= 1;
  }
  return change;
}
