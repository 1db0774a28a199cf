// Replacing a piece of a TCP segment's payload by one of another length. What stands before it moves, into the headroom
// of the packet's head, so that nothing behind it has to: length of IP, checksums (RFC 1071) and pseudo header follow.

import {
  PKT_HEAD,
  PKT_HEAD_LEN,
  PKT_HEADROOM,
  PKT_L3,
  PKT_L4,
  PKT_LEN,
} from '../../contract/packet.ts';
import { fold, sumBytes } from '../port/checksum.ts';
import { delta16, fixChecksum, ipEnd, isIpv6, isPartial, PROTO_TCP } from '../rewrite.ts';
import { sumRange } from './extract.ts';

/** A datagram whose fragments will go on as they came cannot change its length. */
let rigid: bool = false;

export function keepLengths(keep: bool): void {
  rigid = keep;
}

/** Replaces `bytes` bytes at offset `at` of the frame. False: they are out of reach, or there is no room. */
export function replaceText(pkt: u32, at: u32, bytes: u32, text: u32, textBytes: u32): bool {
  const delta = textBytes - bytes; // modulo 2^32
  const headBytes = load<u32>(pkt + PKT_HEAD_LEN);
  const head = load<u32>(pkt + PKT_HEAD);
  if (at + bytes > headBytes || (rigid && delta !== 0)) return false;
  const moved = head - delta;
  const end = ipEnd(pkt);
  const ipBytes = end - load<u16>(pkt + PKT_L3) + delta;
  if (moved < pkt + PKT_HEADROOM || ipBytes > 0xffff) return false;
  memory.copy(moved, head, at);
  memory.copy(moved + at, text, textBytes);
  store<u32>(pkt + PKT_HEAD, moved);
  store<u32>(pkt + PKT_HEAD_LEN, headBytes + delta);
  store<u32>(pkt + PKT_LEN, load<u32>(pkt + PKT_LEN) + delta);
  const ip = moved + load<u16>(pkt + PKT_L3);
  const v6 = isIpv6(pkt);
  const field = ip + (v6 ? 4 : 2);
  const before: u32 = load<u16>(field);
  const after: u32 = bswap<u16>(<u16>(ipBytes - (v6 ? 40 : 0)));
  store<u16>(field, <u16>after);
  if (!v6) fixChecksum(ip + 10, delta16(before, after));
  sumAgain(pkt, ip, v6, end + delta, end);
  return true;
}

/** The checksum of a segment that ends at offset `end` now, and at `endBefore` before. */
function sumAgain(pkt: u32, ip: u32, v6: bool, end: u32, endBefore: u32): void {
  const l4: u32 = load<u16>(pkt + PKT_L4);
  const at = load<u32>(pkt + PKT_HEAD) + l4 + 16;
  const bytes = end - l4;
  if (isPartial(pkt)) {
    const before: u32 = bswap<u16>(<u16>(endBefore - l4));
    const after: u32 = bswap<u16>(<u16>bytes);
    store<u16>(at, <u16>fold(<u64>load<u16>(at) + delta16(before, after)));
    return;
  }
  store<u16>(at, 0);
  let sum = <u64>sumRange(pkt, l4, bytes);
  sum += v6 ? sumBytes(ip + 8, 32) : sumBytes(ip + 12, 8);
  sum += <u32>bswap<u16>(<u16>PROTO_TCP) + <u32>bswap<u16>(<u16>bytes);
  store<u16>(at, <u16>~fold(sum));
}
