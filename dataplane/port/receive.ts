// Receive, the part that is common to split and packed rings: from pieces of guest memory to packet records.
//
// split.ts or packed.ts has walked the descriptor chains of the burst and left, in each packet record, the pieces of
// the chain as segments (PKT_SEGS) and their total length (PKT_LEN). Here the burst goes through two short loops
// (loop fission: many cache misses of a loop overlap, a long loop body hides them from each other):
//
//   touch   load one byte of each packet, so that the lines travel from the guest's core at the same time
//   finish  read the virtio-net header, copy the head of the frame, keep the rest as segments
//
// A bad packet is counted and leaves no gap: later packets move up.

import {
  DROP_NONE,
  DROP_RX_BAD_DESC,
  DROP_RX_RUNT,
  DROP_RX_TOO_LONG,
} from '../../contract/drop.ts';
import { QUEUE_BASE } from '../../contract/memory.ts';
import {
  PKT_GSO_TYPE,
  PKT_HASH,
  PKT_HEAD,
  PKT_HEAD_COPY,
  PKT_HEAD_FIRST,
  PKT_HEAD_LEN,
  PKT_HEAD_START,
  PKT_IN_PORT,
  PKT_LEN,
  PKT_MARK,
  PKT_RXQ,
  PKT_SEG_COUNT,
  PKT_SEG_MAX,
  PKT_SEGS,
  PKT_SIZE,
  PKT_TRUNC,
  PKT_VNET_FLAGS,
} from '../../contract/packet.ts';
import {
  PT_RELAY,
  PT_SIMPLE,
  portAddress,
  Q_NOT_PLAIN,
  Q_PORT,
  QUEUE_SIZE,
} from '../../contract/port.ts';
import { VQ_FEATURES, VQ_HEADER, VQ_STALLED } from '../../contract/virtqueue.ts';
import { countDrop } from '../drop.ts';
import { nowMs } from '../worker.ts';
import { copyBytes, copyFrame } from './copy.ts';
import { countBegin, countFrame, countReceived } from './count.ts';
import { vnetReceive } from './vnet.ts';
import { runAt, runBytes, runError } from './window.ts';

/** Longest frame: an IP packet of 65535 bytes, Ethernet header, two VLAN tags. */
export const FRAME_MAX: u32 = 65535 + 14 + 8;
/** Descriptors looked at in one chain: more than a packet can need (hostile-guest case G6). */
export const CHAIN_STEPS: u32 = 128;

/** Frames up to this length go into the head whole: a segment costs more than to copy the rest twice. */
const SHORT: u32 = 128;

/** How long a receive queue waits for window space before its packets are dropped: the host needs a few ms. */
const WINDOW_WAIT_MS: f64 = 50;

/**
 * A packet lies in a chunk for which there is no window space (DROP_NO_WINDOW). True: leave its chain in the ring
 * and try again, space is being made; only this queue waits. False: that has gone on for too long.
 */
export function waitForWindow(q: u32): boolean {
  const since = load<f64>(q, VQ_STALLED);
  if (since === 0) store<f64>(q, nowMs + 1, VQ_STALLED);
  return since === 0 || nowMs + 1 - since < WINDOW_WAIT_MS;
}

/** A burst had all its chunks. */
export function windowFound(q: u32): void {
  if (load<f64>(q, VQ_STALLED) !== 0) store<f64>(q, 0, VQ_STALLED);
}

/** Keeps the touching loads alive: the compiler must not see that nobody needs them. */
export let touched: u32 = 0;
export function keepTouched(value: u32): void {
  touched = value;
}

// The pieces of the packet whose chain is being walked.
let packet: u32 = 0;
let pieces: u32 = 0;
let total: u32 = 0;

/** Starts to collect pieces for the packet record at `record`. */
export function piecesBegin(record: u32): void {
  packet = record;
  pieces = 0;
  total = 0;
}

/** Adds a buffer that the guest described. Returns DROP_NONE or the reason why the packet is bad. */
export function pieceAdd(gpa: u64, length: u32): u32 {
  if (length === 0) return DROP_NONE;
  if (gpa + length < gpa) return DROP_RX_BAD_DESC;
  total += length;
  if (length > FRAME_MAX + 12 || total > FRAME_MAX + 12) return DROP_RX_TOO_LONG;
  let at = gpa;
  let left = length;
  while (left !== 0) {
    const address = runAt(at, left);
    if (address === 0) return runError;
    if (pieces === <u32>PKT_SEG_MAX) return DROP_RX_TOO_LONG;
    store<u32>(packet + pieces * 8, address, PKT_SEGS);
    store<u32>(packet + pieces * 8, runBytes, PKT_SEGS + 4);
    pieces++;
    at += runBytes;
    left -= runBytes;
  }
  return DROP_NONE;
}

/** The common case, all of a packet in one buffer, which PKT_HEAD alone describes (a line less to write and read): `length` has been checked against the limits of piecesEnd(). */
export function pieceSingle(record: u32, address: u32, length: u32): void {
  store<u32>(record, address, PKT_HEAD);
  store<u32>(record, 1, PKT_SEG_COUNT);
  store<u32>(record, length, PKT_LEN);
}

/** Ends the collection. Returns DROP_NONE or the reason why this is no packet. */
export function piecesEnd(header: u32): u32 {
  if (total < header + 14) return DROP_RX_RUNT;
  if (total > header + FRAME_MAX) return DROP_RX_TOO_LONG;
  store<u32>(packet, load<u32>(packet, PKT_SEGS), PKT_HEAD);
  store<u32>(packet, pieces, PKT_SEG_COUNT);
  store<u32>(packet, total, PKT_LEN);
  return DROP_NONE;
}

/** Loads the first bytes of `n` packets whose pieces have been collected. */
export function touchPackets(first: u32, n: u32): void {
  let sum: u32 = 0;
  const end = first + n * PKT_SIZE;
  for (let at = first; at < end; at += PKT_SIZE) {
    const head = load<u32>(at, PKT_HEAD);
    // Header and frame in one buffer: its first two lines. A buffer for the header alone: the frame's first line.
    let second = head;
    if (load<u32>(at, PKT_SEG_COUNT) > 1) second = load<u32>(at, PKT_SEGS + 8);
    else if (load<u32>(at, PKT_LEN) > 64) second = head + 64;
    sum ^= <u32>load<u8>(head) ^ <u32>load<u8>(second);
  }
  keepTouched(sum);
}

/** Makes packets of `n` collected records; returns how many are good, from `first` on without gaps. */
export function finishPackets(q: u32, first: u32, n: u32): u32 {
  const port = load<u32>(q, Q_PORT);
  const number = (q - QUEUE_BASE) / QUEUE_SIZE;
  const header = load<u32>(q, VQ_HEADER);
  const features = load<u32>(q, VQ_FEATURES);
  const depth = headDepth(q, port);
  let gso: u32 = 0;
  let to = first;
  countBegin();
  const end = first + n * PKT_SIZE;
  for (let from = first; from < end; from += PKT_SIZE) {
    const whole = load<u32>(from, PKT_SEG_COUNT) === 1;
    const reason = whole
      ? finishWhole(from, to, header, features, depth)
      : finishPieces(from, to, header, features);
    if (reason !== DROP_NONE) {
      countDrop(port, reason);
      continue;
    }
    store<u32>(to, port, PKT_IN_PORT);
    store<u32>(to, number, PKT_RXQ);
    store<u64>(to, 0, PKT_HASH); // and PKT_FLOW
    store<u64>(to, 0, PKT_TRUNC); // and PKT_OUT_PORT
    store<u32>(to, 0, PKT_MARK);
    gso += load<u8>(to, PKT_GSO_TYPE) !== 0 ? 1 : 0;
    countFrame(to + PKT_HEAD_START, load<u32>(to, PKT_LEN));
    to += PKT_SIZE;
  }
  countReceived(q, port, gso);
  return (to - first) / PKT_SIZE;
}

/** Bytes to be copied of long frames: the queues of which most are going to be parsed need them all. */
function headDepth(q: u32, port: u32): u32 {
  const record = portAddress(port);
  const shallow =
    load<u32>(q, Q_NOT_PLAIN) === 0 ||
    load<u32>(record, PT_SIMPLE) !== 0 ||
    load<u32>(record, PT_RELAY) !== 0;
  return shallow ? PKT_HEAD_FIRST : PKT_HEAD_COPY;
}

/** Copies what is missing of the head of a long frame that finishWhole() has left shallow. */
export function deepen(packet: u32): void {
  if (load<u32>(packet, PKT_HEAD_LEN) !== PKT_HEAD_FIRST) return;
  if (load<u32>(packet, PKT_SEG_COUNT) !== 1) return;
  // One that has lost headers has less room.
  if (load<u32>(packet, PKT_HEAD) !== packet + PKT_HEAD_START) return;
  const from = load<u32>(packet, PKT_SEGS);
  const left = load<u32>(packet, PKT_SEGS + 4);
  const bytes = min<u32>(left, PKT_HEAD_COPY - PKT_HEAD_FIRST);
  copyBytes(load<u32>(packet, PKT_HEAD) + PKT_HEAD_FIRST, from, bytes);
  store<u32>(packet, PKT_HEAD_FIRST + bytes, PKT_HEAD_LEN);
  store<u32>(packet, from + bytes, PKT_SEGS);
  store<u32>(packet, left - bytes, PKT_SEGS + 4);
  store<u32>(packet, left === bytes ? 0 : 1, PKT_SEG_COUNT);
}

/**
 * Turns the one piece at `from` into a packet at `to` (the same record or an earlier one). `depth`: bytes of a long frame
 * that go into the head.
 */
function finishWhole(from: u32, to: u32, header: u32, features: u32, depth: u32): u32 {
  const address = load<u32>(from, PKT_HEAD);
  const words = load<u64>(address);
  const frame = address + header;
  const length = load<u32>(from, PKT_LEN) - header;
  const headBytes = length > SHORT ? min<u32>(length, depth) : length;
  const head = to + PKT_HEAD_START;
  store<u32>(to, head, PKT_HEAD);
  store<u32>(to, headBytes, PKT_HEAD_LEN);
  store<u32>(to, length, PKT_LEN);
  copyFrame(head, frame, headBytes);
  if (length > headBytes) {
    store<u32>(to, 1, PKT_SEG_COUNT);
    store<u32>(to, frame + headBytes, PKT_SEGS);
    store<u32>(to, length - headBytes, PKT_SEGS + 4);
  } else store<u32>(to, 0, PKT_SEG_COUNT);
  store<u64>(to, 0, PKT_VNET_FLAGS);
  return <u16>words === 0 ? DROP_NONE : finishOffload(to, words, load<u16>(address, 8), features);
}

/** Fields to be completed may lie anywhere in the head. */
function finishOffload(packet: u32, words: u64, csumOffset: u32, features: u32): u32 {
  deepen(packet);
  return vnetReceive(packet, words, csumOffset, features);
}

/** The same for several pieces. */
function finishPieces(from: u32, to: u32, header: u32, features: u32): u32 {
  const count = load<u32>(from, PKT_SEG_COUNT);
  const length = load<u32>(from, PKT_LEN) - header;
  const head = to + PKT_HEAD_START;
  const headBytes = min<u32>(length, PKT_HEAD_COPY);
  store<u32>(to, head, PKT_HEAD);
  store<u32>(to, headBytes, PKT_HEAD_LEN);
  store<u32>(to, length, PKT_LEN);

  let piece = from + PKT_SEGS;
  const end = piece + count * 8;
  let address = load<u32>(piece);
  let left = load<u32>(piece, 4);
  // The header goes where the frame will be; it is read from the guest once, here.
  let got: u32 = 0;
  let words: u64 = 0;
  let csumOffset: u32 = 0;
  if (left >= header) {
    words = load<u64>(address);
    csumOffset = load<u16>(address, 8);
    address += header;
    left -= header;
  } else {
    while (got < header) {
      const part = min(left, header - got);
      copyBytes(head + got, address, part);
      got += part;
      address += part;
      left -= part;
      if (left === 0 && got < header) {
        piece += 8;
        address = load<u32>(piece);
        left = load<u32>(piece, 4);
      }
    }
    words = load<u64>(head);
    csumOffset = load<u16>(head, 8);
  }
  got = 0;
  for (;;) {
    const part = min(left, headBytes - got);
    copyBytes(head + got, address, part);
    got += part;
    address += part;
    left -= part;
    if (got === headBytes) break;
    piece += 8;
    address = load<u32>(piece);
    left = load<u32>(piece, 4);
  }
  // What is left are the segments. They are written behind the place that is read.
  let segment = to + PKT_SEGS;
  if (left !== 0) {
    store<u32>(segment, address);
    store<u32>(segment, left, 4);
    segment += 8;
  }
  for (piece += 8; piece < end; piece += 8) {
    const bytes = load<u32>(piece, 4);
    store<u32>(segment, load<u32>(piece));
    store<u32>(segment, bytes, 4);
    segment += 8;
  }
  store<u32>(to, (segment - to - PKT_SEGS) >> 3, PKT_SEG_COUNT);
  return vnetReceive(to, words, csumOffset, features);
}
