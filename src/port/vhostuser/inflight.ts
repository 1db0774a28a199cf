// The inflight region: memory that outlives us and says which chains we had taken and not given back
// (vhost-user specification, "Inflight I/O tracking").
//
//   split  (per queue, 64-byte aligned)                  packed
//   0  u64 features          12 u16 last_batch_head      0  u64 features     16 u16 used_idx
//   8  u16 version           14 u16 used_idx             8  u16 version      18 u16 old_used_idx
//   10 u16 desc_num          16 entries of 16 bytes      10 u16 desc_num     20 u8 used_wrap, 21 u8 old_used_wrap
//                                                        12 u16 free_head    32 entries of 32 bytes
//                                                        14 u16 old_free_head
//
// xvio completes chains in the order in which it takes them, and a burst is given back before the next is taken. So
// all that can be in flight when the process dies are the chains after the used index, and recovery is: go on at the
// used index (of a packed ring: packedPosition.ts, packedTear.ts). No entry is ever marked: the used index says all
// that marks could. The header is kept honest (version, size, used index) when a ring starts and stops, and another
// back-end that takes over the region after a crash finds nothing to resubmit, corrects the region's used index by the
// ring's, and goes on there. Marks of a predecessor are not read: one that completes in order leaves none that count.

import { writeSync } from 'node:fs';
import { checkFileRange } from './regions.ts';
import type { BackendState, InflightRegion } from './state.ts';
import { isPacked } from './state.ts';

const ALIGN = 64;
const QUEUE_SIZE_MAX = 32768;
const VERSION = 1;

function queueBytes(packed: boolean, queueSize: number): number {
  const bytes = packed ? 32 + 32 * queueSize : 16 + 16 * queueSize;
  return (bytes + ALIGN - 1) & ~(ALIGN - 1);
}

/** Bytes of a region for so many queues; a reason if the numbers are out of range. */
export function inflightBytes(
  state: BackendState,
  numQueues: number,
  queueSize: number,
): bigint | string {
  if (numQueues < 1 || numQueues > state.rings.length) return `${numQueues} queues`;
  if (queueSize < 1 || queueSize > QUEUE_SIZE_MAX) return `queue size ${queueSize}`;
  return BigInt(numQueues * queueBytes(isPacked(state), queueSize));
}

/** Reason to refuse the region that a front-end hands (back) to us. */
export function checkInflight(state: BackendState, region: InflightRegion): string | undefined {
  const { file, size, offset, numQueues, queueSize } = region;
  const needed = inflightBytes(state, numQueues, queueSize);
  if (typeof needed === 'string') return needed;
  if (size < needed) return `${size} bytes for ${numQueues} queues of ${queueSize}`;
  const bad = checkFileRange(file, offset, size);
  if (bad !== undefined) return bad;
  const larger = state.rings.findIndex((ring) => ring.num > queueSize);
  if (larger >= 0) {
    return `queue size ${queueSize}, ring ${larger} has ${state.rings[larger]!.num}`;
  }
  return undefined;
}

/** Writes the header of queue `index`; `usedIndex` as in the half word of SET_VRING_BASE. Rings beyond are ignored. */
export function writeInflightHeader(
  state: BackendState,
  index: number,
  num: number,
  usedIndex: number,
): void {
  const region = state.inflight;
  if (region === undefined || index >= region.numQueues) return;
  const packed = isPacked(state);
  const header = Buffer.alloc(packed ? 22 : 16);
  header.writeUInt16LE(VERSION, 8);
  header.writeUInt16LE(num, 10);
  if (packed) {
    const used = usedIndex & 0x7fff;
    const wrap = (usedIndex >> 15) & 1;
    header.writeUInt16LE(used, 16);
    header.writeUInt16LE(used, 18);
    header.writeUInt8(wrap, 20);
    header.writeUInt8(wrap, 21);
  } else header.writeUInt16LE(usedIndex & 0xffff, 14);
  const at = Number(region.offset) + index * queueBytes(packed, region.queueSize);
  try {
    writeSync(region.file.fd, header, 0, header.length, at);
  } catch {
    // The region is the front-end's; if it has sealed or broken it, that is its own loss.
  }
}
