// The Internet checksum (RFC 1071) over packets that lie in pieces, and the completion of partial checksums.
//
// A partial checksum (virtio 1.2, 5.1.6.2) is the folded sum of the pseudo-header, stored in the checksum field. The
// sum of everything from csum_start to the end of the frame, that field included, is then the complement of the final
// checksum. Sums are kept in little-endian words: the one's complement sum does not mind, and so nothing is swapped.

import {
  PKT_CSUM_OFFSET,
  PKT_CSUM_START,
  PKT_HEAD,
  PKT_HEAD_LEN,
  PKT_LEN,
  PKT_SEG_COUNT,
  PKT_SEGS,
  PKT_VNET_FLAGS,
} from '../../contract/packet.ts';

/** Folds a sum to 16 bits. */
export function fold(sum: u64): u32 {
  let folded = (sum & 0xffffffff) + (sum >> 32);
  folded = (folded & 0xffffffff) + (folded >> 32);
  let word = (<u32>folded & 0xffff) + (<u32>folded >> 16);
  word = (word & 0xffff) + (word >> 16);
  return (word & 0xffff) + (word >> 16);
}

/** Sum of the little-endian 16-bit words of `bytes` (below 512 KiB) bytes, as if followed by a zero byte. */
export function sumBytes(at: u32, bytes: u32): u64 {
  let lanes = i32x4.splat(0);
  let left = bytes;
  let from = at;
  for (; left >= 16; left -= 16, from += 16) {
    lanes = i32x4.add(lanes, i32x4.extadd_pairwise_i16x8_u(v128.load(from)));
  }
  let sum =
    <u64>(<u32>i32x4.extract_lane(lanes, 0)) +
    <u64>(<u32>i32x4.extract_lane(lanes, 1)) +
    <u64>(<u32>i32x4.extract_lane(lanes, 2)) +
    <u64>(<u32>i32x4.extract_lane(lanes, 3));
  for (; left >= 2; left -= 2, from += 2) sum += load<u16>(from);
  if (left !== 0) sum += load<u8>(from);
  return sum;
}

/** Folded sum of a packet's bytes from offset `start` (in the head) to the end. */
export function sumPacket(packet: u32, start: u32): u32 {
  const headBytes = load<u32>(packet, PKT_HEAD_LEN);
  let sum = sumBytes(load<u32>(packet, PKT_HEAD) + start, headBytes - start);
  let odd = (headBytes - start) & 1;
  const end = packet + PKT_SEGS + load<u32>(packet, PKT_SEG_COUNT) * 8;
  for (let segment = packet + PKT_SEGS; segment < end; segment += 8) {
    const bytes = load<u32>(segment, 4);
    const part = fold(sumBytes(load<u32>(segment), bytes));
    // A piece that begins at an odd place contributes with its bytes exchanged.
    sum += odd !== 0 ? ((part & 0xff) << 8) | (part >> 8) : part;
    odd ^= bytes & 1;
  }
  return fold(sum);
}

/**
 * Replaces the partial checksum of a packet by the final one. False if the checksum field is not in the head (only
 * a wrong action can have done that).
 */
export function completeChecksum(packet: u32): bool {
  const start = <u32>load<u16>(packet, PKT_CSUM_START);
  const field = start + load<u16>(packet, PKT_CSUM_OFFSET);
  if (field + 2 > load<u32>(packet, PKT_HEAD_LEN) || load<u32>(packet, PKT_LEN) < field + 2) {
    return false;
  }
  const value = ~sumPacket(packet, start) & 0xffff;
  // UDP: zero would mean "no checksum". TCP may use either representation of zero.
  store<u16>(load<u32>(packet, PKT_HEAD) + field, <u16>(value === 0 ? 0xffff : value));
  store<u8>(packet, 0, PKT_VNET_FLAGS);
  return true;
}

/** Writes the checksum of an IPv4 header of `bytes` bytes. */
export function ipv4Checksum(header: u32, bytes: u32): void {
  store<u16>(header, 0, 10);
  store<u16>(header, <u16>~fold(sumBytes(header, bytes)), 10);
}

/** The checksum-field value `old` (big-endian u16 as loaded) after a 16-bit word of what it covers changed. */
export function adjustSum(old: u32, from: u32, to: u32): u32 {
  return fold(<u64>(old + (~from & 0xffff) + to));
}
