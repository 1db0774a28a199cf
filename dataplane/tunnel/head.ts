// Room in front of a packet: what pushes and pops of whole headers have in common.
//
// A head buffer has 128 bytes of headroom, then the 256 bytes that were copied (contract/packet.ts), then 64 bytes that are
// free. A header longer than what is left in front shifts the copied bytes to the back; a packet whose head has become
// short by pops gets more of its payload copied in, so that inner headers are in reach.

import {
  PKT_CSUM_START,
  PKT_HEAD,
  PKT_HEAD_LEN,
  PKT_HEAD_START,
  PKT_HEADROOM,
  PKT_L3,
  PKT_LEN,
  PKT_SEG_COUNT,
  PKT_SEGS,
  PKT_SIZE,
  PKT_VNET_FLAGS,
  VNET_NEEDS_CSUM,
} from '../../contract/packet.ts';

/** Bytes of head that a parser wants if the packet has them: Ethernet, two tags, IPv6 with options, TCP. */
const WANTED: u32 = 128;

/** Puts `bytes` uninitialized bytes in front. False: there is no room. Offsets of L3 and L4 are the caller's. */
export function grow(pkt: u32, bytes: u32): bool {
  const length = load<u32>(pkt + PKT_HEAD_LEN);
  let head = load<u32>(pkt + PKT_HEAD);
  if (head < pkt + PKT_HEADROOM + bytes) {
    const shift = pkt + PKT_HEADROOM + bytes - head;
    if (head + length + shift > pkt + PKT_SIZE) return false;
    memory.copy(head + shift, head, length);
    head += shift;
  }
  store<u32>(pkt + PKT_HEAD, head - bytes);
  store<u32>(pkt + PKT_HEAD_LEN, length + bytes);
  store<u32>(pkt + PKT_LEN, load<u32>(pkt + PKT_LEN) + bytes);
  if (load<u8>(pkt + PKT_VNET_FLAGS) & VNET_NEEDS_CSUM) {
    store<u16>(pkt + PKT_CSUM_START, <u16>(<u32>load<u16>(pkt + PKT_CSUM_START) + bytes));
  }
  return true;
}

/** Takes `bytes` bytes, which are in the head, off the front. A partial checksum that began in them is gone. */
export function shrink(pkt: u32, bytes: u32): void {
  store<u32>(pkt + PKT_HEAD, load<u32>(pkt + PKT_HEAD) + bytes);
  store<u32>(pkt + PKT_HEAD_LEN, load<u32>(pkt + PKT_HEAD_LEN) - bytes);
  store<u32>(pkt + PKT_LEN, load<u32>(pkt + PKT_LEN) - bytes);
  store<u32>(pkt + PKT_L3, 0xffffffff); // and L4
  const flags = load<u8>(pkt + PKT_VNET_FLAGS);
  if (flags === 0) return;
  const start: u32 = load<u16>(pkt + PKT_CSUM_START);
  if ((flags & VNET_NEEDS_CSUM) === 0 || start < bytes) store<u64>(pkt + PKT_VNET_FLAGS, 0);
  else store<u16>(pkt + PKT_CSUM_START, <u16>(start - bytes));
}

/** Copies payload into a head that has become short. Each byte is read once, and is the head's from then on. */
export function refill(pkt: u32): void {
  const had = load<u32>(pkt + PKT_HEAD_LEN);
  const wanted = min<u32>(WANTED, load<u32>(pkt + PKT_LEN));
  if (had >= wanted) return;
  const head = pkt + PKT_HEAD_START;
  memory.copy(head, load<u32>(pkt + PKT_HEAD), had);
  store<u32>(pkt + PKT_HEAD, head);
  let length = had;
  let segments = load<u32>(pkt + PKT_SEG_COUNT);
  let used: u32 = 0;
  while (length < wanted && used < segments) {
    const segment = pkt + PKT_SEGS + used * 8;
    const from = load<u32>(segment);
    const bytes = load<u32>(segment, 4);
    const part = min<u32>(bytes, wanted - length);
    memory.copy(head + length, from, part);
    length += part;
    if (part < bytes) {
      store<u32>(segment, from + part);
      store<u32>(segment, bytes - part, 4);
      break;
    }
    used++;
  }
  if (used > 0) {
    segments -= used;
    memory.copy(pkt + PKT_SEGS, pkt + PKT_SEGS + used * 8, segments * 8);
    store<u32>(pkt + PKT_SEG_COUNT, segments);
  }
  store<u32>(pkt + PKT_HEAD_LEN, length);
}

/** Cuts the packet to `length` bytes, which it has. Offload fields are the caller's. */
export function cut(pkt: u32, length: u32): void {
  store<u32>(pkt + PKT_LEN, length);
  const inHead = min<u32>(length, load<u32>(pkt + PKT_HEAD_LEN));
  store<u32>(pkt + PKT_HEAD_LEN, inHead);
  let left = length - inHead;
  let segment = pkt + PKT_SEGS;
  for (; left !== 0; segment += 8) {
    const bytes = min<u32>(left, load<u32>(segment, 4));
    store<u32>(segment, bytes, 4);
    left -= bytes;
  }
  store<u32>(pkt + PKT_SEG_COUNT, (segment - pkt - PKT_SEGS) >> 3);
}
