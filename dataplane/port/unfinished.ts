// Frames of the local kernel that arrive through XDP, where nothing says what the kernel has left undone.
//
// Unfinished checksum: Linux stores the folded sum of the pseudo-header (not inverted) in the checksum field of a TCP or
// UDP packet and leaves the rest to the device (CHECKSUM_PARTIAL). So a field that equals that sum is taken for
// unfinished. A finished checksum that happens to have the same value is no harm: computing it again gives it again.
//
// Larger than a segment: in generic mode a GSO packet comes through whole, as several UMEM frames. Longer than the MTU can
// only mean that; its segment size is what the MTU leaves. For TCP that is what the sender would have used or more than
// it may use only if the path's MSS is smaller than the device's; the receiver takes either.

import { DROP_RX_TOO_LONG } from '../../contract/drop.ts';
import {
  PKT_CSUM_OFFSET,
  PKT_CSUM_START,
  PKT_GSO_SIZE,
  PKT_GSO_TYPE,
  PKT_HEAD,
  PKT_HEAD_LEN,
  PKT_LEN,
  PKT_VNET_FLAGS,
  VNET_GSO_TCPV4,
  VNET_GSO_TCPV6,
  VNET_NEEDS_CSUM,
} from '../../contract/packet.ts';

const ETH_8021Q: u16 = 0x8100;
const ETH_8021AD: u16 = 0x88a8;
const ETH_IPV4: u16 = 0x0800;
const ETH_IPV6: u16 = 0x86dd;
const TCP: u32 = 6;
const UDP: u32 = 17;

function be16(at: u32): u32 {
  return bswap<u16>(load<u16>(at));
}

/** Sum of big-endian 16-bit words, not folded. */
function sumWords(at: u32, bytes: u32): u32 {
  let sum: u32 = 0;
  for (let i: u32 = 0; i < bytes; i += 2) sum += be16(at + i);
  return sum;
}

/**
 * Describes what the kernel left undone in the packet's offload fields. Returns a DROP_* reason for a packet that is too
 * long for the device and cannot be segmented, else 0.
 */
export function inferOffload(record: u32, mtu: u32): u32 {
  const head = load<u32>(record + PKT_HEAD);
  const length = load<u32>(record + PKT_HEAD_LEN);
  const total = load<u32>(record + PKT_LEN);
  let l3: u32 = 14;
  let type = <u16>be16(head + 12);
  for (let tags = 0; tags < 2 && (type === ETH_8021Q || type === ETH_8021AD); tags++) {
    if (length < l3 + 4) return 0;
    type = <u16>be16(head + l3 + 2);
    l3 += 4;
  }
  const oversized = mtu !== 0 && total > mtu + l3;
  const otherwise: u32 = oversized ? DROP_RX_TOO_LONG : 0;

  let protocol: u32 = 0;
  let l4: u32 = 0;
  let l4Length: u32 = 0;
  let sum: u32 = 0;
  if (type === ETH_IPV4 && length >= l3 + 20) {
    const headerLength = <u32>(load<u8>(head + l3) & 15) * 4;
    const ipLength = be16(head + l3 + 2);
    if (headerLength < 20 || ipLength < headerLength || l3 + ipLength > total) return otherwise;
    if (be16(head + l3 + 6) & 0x3fff) return otherwise; // fragments are finished
    protocol = load<u8>(head + l3 + 9);
    l4 = l3 + headerLength;
    l4Length = ipLength - headerLength;
    sum = sumWords(head + l3 + 12, 8);
  } else if (type === ETH_IPV6 && length >= l3 + 40) {
    protocol = load<u8>(head + l3 + 6);
    l4 = l3 + 40;
    l4Length = be16(head + l3 + 4);
    if (l4 + l4Length > total) return otherwise;
    sum = sumWords(head + l3 + 8, 32);
  } else return otherwise;

  const tcp = protocol === TCP;
  if (!tcp && protocol !== UDP) return otherwise;
  const minimum: u32 = tcp ? 20 : 8;
  if (length < l4 + minimum || l4Length < minimum) return otherwise;
  const offset: u32 = tcp ? 16 : 6;
  sum += protocol + (l4Length & 0xffff) + (l4Length >> 16);
  sum = (sum & 0xffff) + (sum >> 16);
  sum = (sum & 0xffff) + (sum >> 16);
  if (be16(head + l4 + offset) !== sum) return otherwise;
  store<u8>(record + PKT_VNET_FLAGS, VNET_NEEDS_CSUM);
  store<u16>(record + PKT_CSUM_START, <u16>l4);
  store<u16>(record + PKT_CSUM_OFFSET, <u16>offset);
  if (!oversized) return 0;

  const headers = l4 - l3 + <u32>(load<u8>(head + l4 + 12) >> 4) * 4;
  if (!tcp || mtu <= headers) return DROP_RX_TOO_LONG;
  store<u8>(record + PKT_GSO_TYPE, <u8>(type === ETH_IPV4 ? VNET_GSO_TCPV4 : VNET_GSO_TCPV6));
  store<u16>(record + PKT_GSO_SIZE, <u16>(mtu - headers));
  return 0;
}
