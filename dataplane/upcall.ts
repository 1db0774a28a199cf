// Upcalls: packets that the control plane has to see. Producer of the worker's upcall ring (contract/ring.ts).
//
// A full ring, or a port that has filled its share of it, loses the packet under a name; the worker never waits for
// the control plane.

import { UPCALL_MISS } from '../contract/action.ts';
import { DROP_UPCALL_FULL } from '../contract/drop.ts';
import { UPCALL_BASE, WK_LOST, WK_MISSES, WK_UPCALLS_POSTED } from '../contract/memory.ts';
import {
  PKT_HEAD,
  PKT_HEAD_LEN,
  PKT_IN_PORT,
  PKT_KEY,
  PKT_LEN,
  PKT_SEG_COUNT,
  PKT_SEGS,
  PKT_TRUNC,
  PKT_VNET_FLAGS,
} from '../contract/packet.ts';
import { MAX_PORTS } from '../contract/port.ts';
import {
  RING_DATA,
  RING_DATA_SIZE,
  RING_FILLER,
  RING_HEAD,
  RING_TAIL,
  UC_COOKIE,
  UC_DATA,
  UC_DATA_LEN,
  UC_HASH,
  UC_IN_PORT,
  UC_KEY,
  UC_LENGTH,
  UC_LINES,
  UC_PACKET_LEN,
  UC_TYPE,
  UC_VNET,
  UPCALL_HANDLED,
  UPCALL_POSTED,
  UPCALL_RING_SIZE,
} from '../contract/ring.ts';
import { countDrop } from './drop.ts';
import { copyLines, keyHash } from './key.ts';
import { addStat, worker, workerRecord } from './worker.ts';

/** Posts the first `max` bytes of a packet (PKT_TRUNC applies too). The packet stays the caller's. */
export function upcall(pkt: u32, reason: u32, cookie: u32, max: u32): void {
  const ring = UPCALL_BASE + worker * UPCALL_RING_SIZE;
  const length = load<u32>(pkt + PKT_LEN);
  let bytes = length;
  const trunc = load<u32>(pkt + PKT_TRUNC);
  if (trunc !== 0) bytes = min<u32>(bytes, trunc);
  if (max < 0xffff) bytes = min<u32>(bytes, max);
  const inPort = load<u32>(pkt + PKT_IN_PORT);
  const size: u32 = (UC_DATA + bytes + 15) & ~15;
  const posted = ring + UPCALL_POSTED + (inPort & (MAX_PORTS - 1)) * 4;
  const pending = load<u32>(posted) - atomic.load<u32>(posted + UPCALL_HANDLED - UPCALL_POSTED);
  const used = load<u32>(ring + RING_HEAD) - atomic.load<u32>(ring + RING_TAIL);
  // No port may have more there than is free, so that there is something left for all others.
  const record = pending + size + used > <u32>RING_DATA_SIZE ? 0 : reserve(ring, size);
  if (record === 0) {
    addStat(WK_LOST, 1);
    countDrop(inPort, DROP_UPCALL_FULL);
    return;
  }
  store<u32>(posted, load<u32>(posted) + size);
  store<u32>(record + UC_TYPE, reason);
  store<u32>(record + UC_COOKIE, cookie);
  store<u32>(record + UC_IN_PORT, inPort);
  store<u32>(record + UC_PACKET_LEN, length);
  store<u32>(record + UC_DATA_LEN, bytes);
  store<u64>(record + UC_VNET, load<u64>(pkt + PKT_VNET_FLAGS));
  const key = load<u32>(pkt + PKT_KEY);
  store<u32>(record + UC_HASH, keyHash(key));
  store<u32>(record + UC_LINES, copyLines(record + UC_KEY, key));
  copyFrame(record + UC_DATA, pkt, bytes);
  atomic.store<u32>(ring + RING_HEAD, load<u32>(ring + RING_HEAD) + load<u32>(record + UC_LENGTH));
  const bell = workerRecord + WK_UPCALLS_POSTED;
  store<u32>(bell, load<u32>(bell) + 1);
  if (reason === UPCALL_MISS) addStat(WK_MISSES, 1);
}

/** Copies the first `bytes` bytes of the frame. */
export function copyFrame(to: u32, pkt: u32, bytes: u32): void {
  let n = min<u32>(bytes, load<u32>(pkt + PKT_HEAD_LEN));
  memory.copy(to, load<u32>(pkt + PKT_HEAD), n);
  to += n;
  bytes -= n;
  let segment = pkt + PKT_SEGS;
  const end = segment + (load<u32>(pkt + PKT_SEG_COUNT) << 3);
  while (bytes > 0 && segment < end) {
    n = min<u32>(bytes, load<u32>(segment, 4));
    memory.copy(to, load<u32>(segment), n);
    to += n;
    bytes -= n;
    segment += 8;
  }
}

/** Room for a record of `size` bytes (a multiple of 16) in one piece, its length set; 0 = full. */
function reserve(ring: u32, size: u32): u32 {
  let head = load<u32>(ring + RING_HEAD);
  const used = head - atomic.load<u32>(ring + RING_TAIL);
  const at = head & (RING_DATA_SIZE - 1);
  const toEnd: u32 = RING_DATA_SIZE - at;
  const filler: u32 = toEnd < size ? toEnd : 0;
  if (used + size + filler > <u32>RING_DATA_SIZE) return 0;
  if (filler > 0) {
    store<u32>(ring + RING_DATA + at + UC_LENGTH, filler);
    store<u32>(ring + RING_DATA + at + UC_TYPE, RING_FILLER);
    head += filler;
    atomic.store<u32>(ring + RING_HEAD, head);
  }
  const record = ring + RING_DATA + (head & (RING_DATA_SIZE - 1));
  store<u32>(record + UC_LENGTH, size);
  return record;
}
