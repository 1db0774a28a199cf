// The virtio-net header (virtio 1.2, 5.1.6): offload fields in and out.
//
//   0 flags u8 | 1 gso_type u8 | 2 hdr_len u16 | 4 gso_size u16 | 6 csum_start u16 | 8 csum_offset u16 | 10 num_buffers
//
// Receive: the words were read from the guest once; whatever they say is checked against the frame before anything
// believes it (hostile-guest cases G12 to G15). csum_start counts from the start of the frame, as in PKT_CSUM_START.

import { DROP_NONE, DROP_RX_BAD_VNET } from '../../contract/drop.ts';
import {
  PKT_CSUM_OFFSET,
  PKT_CSUM_START,
  PKT_GSO_SIZE,
  PKT_GSO_TYPE,
  PKT_HEAD,
  PKT_HEAD_LEN,
  PKT_LEN,
  PKT_VNET_FLAGS,
  VNET_DATA_VALID,
  VNET_GSO_ECN,
  VNET_GSO_TCPV4,
  VNET_GSO_TCPV6,
  VNET_GSO_UDP,
  VNET_NEEDS_CSUM,
} from '../../contract/packet.ts';
import { OFFLOAD_CSUM } from '../../contract/port.ts';
import {
  VF_CSUM,
  VF_GSO,
  VF_HOST_TSO4,
  VF_HOST_TSO6,
  VF_HOST_UFO,
} from '../../contract/virtqueue.ts';
import { ipVersion, l4, locate, PROTOCOL_TCP, PROTOCOL_UDP, protocol } from './headers.ts';

/**
 * Fills the offload fields of a received packet (head and lengths are set already) from the first 8 bytes of the
 * header and csum_offset. Returns DROP_NONE or why the packet must be dropped. A driver that did not acknowledge
 * checksum offload has nothing to say here: its header is ignored.
 */
export function vnetReceive(packet: u32, words: u64, csumOffset: u32, features: u32): u32 {
  store<u64>(packet, 0, PKT_VNET_FLAGS);
  if (<u16>words === 0 || (features & VF_CSUM) === 0) return DROP_NONE;
  const flags = <u32>words & 0xff;
  const gso = <u32>(words >> 8) & 0xff;
  if ((flags & VNET_NEEDS_CSUM) === 0) {
    // DATA_VALID is for the other direction, and a sender's word about its own checksum is worth nothing.
    return gso === 0 ? DROP_NONE : DROP_RX_BAD_VNET;
  }
  const csumStart = <u32>(words >> 48);
  const length = load<u32>(packet, PKT_LEN);
  // The field must be in the head: then every later stage can complete it without touching guest memory.
  if (csumStart < 14 || csumStart + csumOffset + 2 > load<u32>(packet, PKT_HEAD_LEN)) {
    return DROP_RX_BAD_VNET;
  }
  store<u8>(packet, VNET_NEEDS_CSUM, PKT_VNET_FLAGS);
  store<u16>(packet, <u16>csumStart, PKT_CSUM_START);
  store<u16>(packet, <u16>csumOffset, PKT_CSUM_OFFSET);
  if (gso === 0) return DROP_NONE;
  const headerBytes = <u32>(words >> 16) & 0xffff;
  const gsoSize = <u32>(words >> 32) & 0xffff;
  if (gsoSize === 0 || gsoSize > length || headerBytes === 0 || headerBytes > length) {
    return DROP_RX_BAD_VNET;
  }
  const payload = gsoHeaders(packet, gso, csumStart, csumOffset, features);
  if (payload === 0) return DROP_RX_BAD_VNET;
  // A single segment is an ordinary packet, whatever the sender called it.
  if (length - payload <= gsoSize) return DROP_NONE;
  store<u8>(packet, <u8>gso, PKT_GSO_TYPE);
  store<u16>(packet, <u16>gsoSize, PKT_GSO_SIZE);
  return DROP_NONE;
}

/** Offset of the payload to be segmented, 0 if the headers are not those that gso_type promises. */
function gsoHeaders(packet: u32, gso: u32, start: u32, offset: u32, features: u32): u32 {
  const frame = load<u32>(packet, PKT_HEAD);
  const bytes = load<u32>(packet, PKT_HEAD_LEN);
  if (!locate(frame, bytes) || l4 !== start) return 0;
  if (gso === VNET_GSO_UDP) {
    const allowed = features & (VF_HOST_UFO | VF_GSO);
    return allowed !== 0 && protocol === PROTOCOL_UDP && offset === 6 && l4 + 8 <= bytes ? l4 : 0;
  }
  const type = gso & ~VNET_GSO_ECN;
  const version: u32 = type === VNET_GSO_TCPV4 ? 4 : type === VNET_GSO_TCPV6 ? 6 : 0;
  const feature = version === 4 ? VF_HOST_TSO4 | VF_GSO : VF_HOST_TSO6 | VF_GSO;
  if (version !== ipVersion || (features & feature) === 0) return 0;
  if (protocol !== PROTOCOL_TCP || offset !== 16 || l4 + 20 > bytes) return 0;
  const header = <u32>(load<u8>(frame + l4, 12) >> 4) * 4;
  return header >= 20 && l4 + header <= bytes ? l4 + header : 0;
}

/** The first 8 bytes of the header for a packet to a peer that accepts `offloads` (OFFLOAD_*). */
export function vnetWords(packet: u32, offloads: u32): u64 {
  const flags = <u32>load<u8>(packet, PKT_VNET_FLAGS);
  if (flags === 0 || (offloads & OFFLOAD_CSUM) === 0) return 0;
  if ((flags & VNET_NEEDS_CSUM) === 0) return flags & VNET_DATA_VALID;
  const start = <u64>load<u16>(packet, PKT_CSUM_START);
  const words = <u64>VNET_NEEDS_CSUM | (start << 48);
  const gso = <u64>load<u8>(packet, PKT_GSO_TYPE);
  if (gso === 0) return words;
  const l4Bytes: u64 =
    gso === VNET_GSO_UDP ? 8 : (load<u8>(load<u32>(packet, PKT_HEAD) + <u32>start, 12) >> 4) * 4;
  const size = <u64>load<u16>(packet, PKT_GSO_SIZE);
  return words | (gso << 8) | ((start + l4Bytes) << 16) | (size << 32);
}

/** csum_offset of the header that starts with these words. */
export function vnetCsumOffset(packet: u32, words: u64): u32 {
  return (words & VNET_NEEDS_CSUM) !== 0 ? load<u16>(packet, PKT_CSUM_OFFSET) : 0;
}
