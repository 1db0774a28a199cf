// Delivery into a guest, the part that is common to split and packed rings.
//
// A transmit call begins by asking for the lines that a larger burst is going to be written to (ownBuffer()). Then it
// runs in three loops. First split.ts or packed.ts reserves: for each packet it takes as many chains of the driver as
// the packet needs (one, or with mergeable buffers several) and notes their pieces. Then all packets are copied; stores
// to different lines overlap. Then the used entries are written, and one index makes them visible.
//
//   plan    512 x { record u32, first piece u32, pieces u32, chains u32 }       one per packet
//   pieces 4096 x { address u32, bytes u32, guest physical address u64 }
//   chains 2048 x { id u32, bytes written u32 }    in ring order; packed: id in the low half, descriptors in the high
//
// All or nothing: a packet for which there is not enough room is dropped and takes no chain (G18, G19). A chain that
// is invalid goes back with length 0, together with those taken before it for the same packet (G17).

import { DROP_NONE, DROP_RX_BAD_DESC, DROP_TX_NO_BUFFER } from '../../contract/drop.ts';
import {
  PKT_HEAD,
  PKT_HEAD_LEN,
  PKT_LEN,
  PKT_SEG_COUNT,
  PKT_SEGS,
  PKT_VNET_FLAGS,
  PV_IO,
} from '../../contract/packet.ts';
import { IO_CHAINS, IO_PIECES, IO_PLAN } from '../../contract/virtqueue.ts';
import { privateBase } from '../worker.ts';
import { copyBytes, copyFrame } from './copy.ts';
import { countFrame } from './count.ts';
import { logBytes } from './dirty.ts';
import { vnetCsumOffset, vnetWords } from './vnet.ts';
import { otherRun, runAt, runBytes, runError, wholeRun } from './window.ts';

/** Chains and pieces that one packet may take at most. */
const PACKET_PIECES: u32 = 1024;
const PACKET_CHAINS: u32 = 1024;

/** Chains reserved so far. */
export let chainCount: u32 = 0;
let pieceCount: u32 = 0;
let planCount: u32 = 0;
// The packet at hand.
let firstChain: u32 = 0;
let firstPiece: u32 = 0;
let capacity: u32 = 0;
let needed: u32 = 0;
let chainStart: u32 = 0;

export function planBegin(): void {
  chainCount = 0;
  pieceCount = 0;
  planCount = 0;
}

/** Is there room for one more packet, however it is cut up? */
export function planHasRoom(): bool {
  return pieceCount <= 4096 - PACKET_PIECES && chainCount <= 2048 - PACKET_CHAINS;
}

/** Starts to reserve `bytes` (header and frame). */
export function destinationBegin(bytes: u32): void {
  firstChain = chainCount;
  firstPiece = pieceCount;
  capacity = 0;
  needed = bytes;
}

/** Does the packet fit into the chains taken so far? */
export function destinationComplete(): bool {
  return capacity >= needed;
}

/** Adds a buffer of the driver. */
export function destinationAdd(gpa: u64, length: u32): u32 {
  if (length === 0) return DROP_NONE;
  if (gpa + length < gpa) return DROP_RX_BAD_DESC;
  let at = gpa;
  let left = min(length, needed - capacity);
  while (left !== 0) {
    const address = runAt(at, left);
    if (address === 0) return runError;
    if (pieceCount - firstPiece === PACKET_PIECES) return DROP_TX_NO_BUFFER;
    const piece = privateBase + (PV_IO + IO_PIECES) + pieceCount * 16;
    store<u32>(piece, address);
    store<u32>(piece, runBytes, 4);
    store<u64>(piece, at, 8);
    pieceCount++;
    capacity += runBytes;
    at += runBytes;
    left -= runBytes;
  }
  return DROP_NONE;
}

/** Ends a chain; returns the bytes that the packet can put into it. */
export function chainEnd(id: u32): u32 {
  const bytes = capacity - chainStart;
  const chain = privateBase + (PV_IO + IO_CHAINS) + chainCount * 8;
  store<u32>(chain, id);
  store<u32>(chain, bytes, 4);
  chainCount++;
  return bytes;
}

/** Begins a chain. False if the packet has taken more chains than any packet may. */
export function chainBegin(): bool {
  chainStart = capacity;
  return chainCount - firstChain < PACKET_CHAINS;
}

/** Is this the first chain of the packet? */
export function isFirstChain(): bool {
  return chainCount - firstChain <= 1;
}

/** Gives up the packet: the chains taken for it stay in the ring. */
export function destinationRollback(): void {
  chainCount = firstChain;
  pieceCount = firstPiece;
}

/** Gives up the packet: the chains taken for it go back to the driver unused. */
export function destinationWaste(): void {
  pieceCount = firstPiece;
  for (let i = firstChain; i < chainCount; i++) {
    store<u32>(privateBase + (PV_IO + IO_CHAINS) + i * 8, 0, 4);
  }
}

/** Packets of a burst from which on it pays to ask for the lines of their destinations first. */
export const OWN_MIN: u32 = 4;

/**
 * Writes to the first line of the frame in a buffer of the driver, of `length` bytes at `gpa`, which is ours until it is given back.
 * The driver has read that line, so its core has to give it up before ours can write to it, and stores leave a core in order: with
 * the rest of a copy between them each line would be waited for on its own. The lines of a burst are asked for together, in a loop that
 * stores nothing else. Only when no pages are logged: what is not delivered in the end would be missing there.
 */
export function ownBuffer(gpa: u64, length: u32, header: u32): void {
  const bytes = header + 14;
  if (length < bytes) return;
  let at = wholeRun(gpa, bytes);
  if (at === 0) at = otherRun(gpa, bytes);
  if (at !== 0) store<u64>(at + header, 0);
}

/** The common case: the whole packet goes into one chain of one buffer, of which it takes `bytes`. */
function destinationSingle(packet: u32, at: u32, bytes: u32, gpa: u64, id: u32): void {
  const piece = privateBase + (PV_IO + IO_PIECES) + pieceCount * 16;
  store<u32>(piece, at);
  store<u32>(piece, bytes, 4);
  store<u64>(piece, gpa, 8);
  const chain = privateBase + (PV_IO + IO_CHAINS) + chainCount * 8;
  store<u32>(chain, id);
  store<u32>(chain, bytes, 4);
  const plan = privateBase + (PV_IO + IO_PLAN) + planCount * 16;
  store<u32>(plan, packet);
  store<u32>(plan, pieceCount, 4);
  store<u32>(plan, 1, 8);
  store<u32>(plan, 1, 12);
  pieceCount++;
  chainCount++;
  planCount++;
}

/**
 * The whole packet, `length` bytes, goes into one chain of one buffer at `at`: written at once if it has one part or two and nobody
 * has to be told which pages it touches (`log`), otherwise with the plan.
 */
export function deliverSingle(
  packet: u32,
  at: u32,
  header: u32,
  length: u32,
  gpa: u64,
  id: u32,
  offloads: u32,
  log: bool,
): void {
  const bytes = header + length;
  if (!log && load<u32>(packet, PKT_HEAD_LEN) === length) {
    chainSingle(id, bytes);
    deliverNow(packet, at, header, length, length, offloads);
  } else if (!log && isHeadAndTail(packet, length)) {
    chainSingle(id, bytes);
    deliverBoth(packet, at, header, length, offloads);
  } else destinationSingle(packet, at, bytes, gpa, id);
}

/** A chain of one buffer that deliverNow() fills with `bytes`. */
function chainSingle(id: u32, bytes: u32): void {
  const chain = privateBase + (PV_IO + IO_CHAINS) + chainCount * 8;
  store<u32>(chain, id);
  store<u32>(chain, bytes, 4);
  chainCount++;
}

/** Copies the head of a frame of `length` bytes, or all of it if it is in the head, behind its virtio-net header to `to`. */
function deliverNow(
  packet: u32,
  to: u32,
  header: u32,
  headBytes: u32,
  length: u32,
  offloads: u32,
): void {
  const from = load<u32>(packet, PKT_HEAD);
  const words = load<u8>(packet, PKT_VNET_FLAGS) === 0 ? 0 : vnetWords(packet, offloads);
  store<u64>(to, words);
  const rest = words === 0 ? 0x10000 : vnetCsumOffset(packet, words) | 0x10000;
  if (header === 12) store<u32>(to, rest, 8);
  else store<u16>(to, <u16>rest, 8);
  copyFrame(to + header, from, headBytes);
  countFrame(from, length);
}

/** Is the packet a head and one segment, together `length` bytes? Most long frames are. */
function isHeadAndTail(packet: u32, length: u32): bool {
  if (load<u32>(packet, PKT_SEG_COUNT) !== 1) return false;
  const headBytes = load<u32>(packet, PKT_HEAD_LEN);
  return headBytes < length && load<u32>(packet, PKT_SEGS + 4) === length - headBytes;
}

/** Copies such a frame, behind its virtio-net header, to `to`. */
function deliverBoth(packet: u32, to: u32, header: u32, length: u32, offloads: u32): void {
  const headBytes = load<u32>(packet, PKT_HEAD_LEN);
  const tail = load<u32>(packet, PKT_SEGS);
  deliverNow(packet, to, header, headBytes, length, offloads);
  copyBytes(to + header + headBytes, tail, length - headBytes);
}

/** The packet has its place. */
export function destinationCommit(packet: u32): void {
  const plan = privateBase + (PV_IO + IO_PLAN) + planCount * 16;
  store<u32>(plan, packet);
  store<u32>(plan, firstPiece, 4);
  store<u32>(plan, pieceCount - firstPiece, 8);
  store<u32>(plan, chainCount - firstChain, 12);
  planCount++;
}

// Where the next byte of the packet being copied goes.
let piece: u32 = 0;
let target: u32 = 0;
let space: u32 = 0;
let lastPiece: u32 = 0;

/** Copies all reserved packets. `header`: bytes of the virtio-net header; `log`: the queue if it is logged, else 0. */
export function deliverAll(header: u32, offloads: u32, log: u32): void {
  const end = privateBase + (PV_IO + IO_PLAN) + planCount * 16;
  for (let plan = privateBase + (PV_IO + IO_PLAN); plan < end; plan += 16) {
    const packet = load<u32>(plan);
    const length = load<u32>(packet, PKT_LEN);
    const pieceNumber = load<u32>(plan, 4);
    piece = privateBase + (PV_IO + IO_PIECES) + pieceNumber * 16;
    if (load<u32>(plan, 8) === 1 && load<u32>(packet, PKT_HEAD_LEN) === length) {
      // One buffer, all of the frame in the head.
      deliverNow(packet, load<u32>(piece), header, length, length, offloads);
      if (log !== 0) logBytes(log, load<u64>(piece, 8), load<u32>(piece, 4));
      continue;
    }
    lastPiece = piece + (load<u32>(plan, 8) - 1) * 16;
    target = load<u32>(piece);
    space = load<u32>(piece, 4);
    putHeader(packet, header, offloads, load<u32>(plan, 12));
    const head = load<u32>(packet, PKT_HEAD);
    const headBytes = load<u32>(packet, PKT_HEAD_LEN);
    put(head, headBytes);
    const segmentEnd = packet + PKT_SEGS + load<u32>(packet, PKT_SEG_COUNT) * 8;
    for (let segment = packet + PKT_SEGS; segment < segmentEnd; segment += 8) {
      put(load<u32>(segment), load<u32>(segment, 4));
    }
    countFrame(head, length);
    if (log !== 0) {
      const begin = privateBase + (PV_IO + IO_PIECES) + pieceNumber * 16;
      for (let i = begin; i <= lastPiece; i += 16) {
        logBytes(log, load<u64>(i, 8), load<u32>(i, 4));
      }
    }
  }
}

/** The virtio-net header, 10 or 12 bytes, in the first pieces of the packet. */
function putHeader(packet: u32, header: u32, offloads: u32, chains: u32): void {
  const words = vnetWords(packet, offloads);
  const csumOffset = vnetCsumOffset(packet, words);
  if (space >= header) {
    store<u64>(target, words);
    if (header === 12) store<u32>(target, csumOffset | (chains << 16), 8);
    else store<u16>(target, csumOffset, 8);
    target += header;
    space -= header;
    return;
  }
  for (let i: u32 = 0; i < header; i++) {
    const byte = i < 8 ? <u32>(words >> (i * 8)) : (csumOffset | (chains << 16)) >> ((i - 8) * 8);
    if (space === 0 && !nextPiece()) return;
    store<u8>(target, <u8>byte);
    target++;
    space--;
  }
}

/** False after the last piece: a record whose parts are longer than its length must not write beyond the plan. */
function nextPiece(): bool {
  if (piece === lastPiece) return false;
  piece += 16;
  target = load<u32>(piece);
  space = load<u32>(piece, 4);
  return true;
}

function put(from: u32, length: u32): void {
  let at = from;
  let left = length;
  while (left !== 0) {
    if (space === 0 && !nextPiece()) return;
    const part = min(left, space);
    copyBytes(target, at, part);
    target += part;
    space -= part;
    at += part;
    left -= part;
  }
}
