// The network driver and the traffic generator of one of our own guests: compiled to build/guest.wasm.
//
// It fills rings as a fast guest would (bursts, no copies beyond the headers), marks its frames with a sequence number
// and the time, and counts what comes back: loss, reordering, latency. Or it echoes: MAC and IP addresses swapped. The
// host (worker.ts) calls poll() in a loop, writes the kick eventfds of rings that say so, and sleeps when told.

import {
  FRAME_MIN,
  GR_BUFFER_SIZE,
  GR_CONTINUE,
  GR_DONE,
  GR_HEADER,
  GR_NEXT,
  GR_RECORD,
  GT_BATCH,
  GT_CREDIT,
  GT_ECHO_FULL,
  GT_ECHOED,
  GT_EXPECTED,
  GT_FLOWS,
  GT_FRAME_LEN,
  GT_LAST,
  GT_LIMIT,
  GT_LOST,
  GT_MODE,
  GT_OURS,
  GT_PER_MS,
  GT_RECEIVED,
  GT_RECEIVED_BYTES,
  GT_RECORD,
  GT_REORDERED,
  GT_RTT_COUNT,
  GT_RTT_MAX,
  GT_RTT_SUM,
  GT_SENT,
  GT_SENT_DONE,
  GT_SEQUENCE,
  GT_TEMPLATE,
  GT_TWICE,
  GUEST_CONTROL,
  GUEST_RINGS,
  GUEST_SEEN,
  MARK,
  PAYLOAD,
  SEEN_BYTES,
  SEEN_WINDOW,
  TRAFFIC_ECHO,
  TRAFFIC_SEND,
} from './layout.ts';
import {
  bufferAt,
  done,
  fill,
  freeCount,
  interrupts,
  publish,
  returned,
  takenLength,
} from './ring.ts';

const UDP_SOURCE: u32 = 34;
const CATCH_UP_MS: f64 = 10;

function add(address: u32, value: f64): void {
  store<f64>(address, load<f64>(address) + value);
}

function ringAt(index: u32): u32 {
  return GUEST_RINGS + index * GR_RECORD;
}

/** Gives all free receive buffers of a pair to the device. */
export function start(pair: u32): void {
  const rx = ringAt(pair * 2);
  interrupts(rx, false);
  interrupts(ringAt(pair * 2 + 1), false);
  repost(rx);
}

function repost(rx: u32): void {
  const n = freeCount(rx);
  const next = load<u32>(rx, GR_NEXT);
  const length = load<u32>(rx, GR_BUFFER_SIZE);
  for (let i: u32 = 0; i < n; i++) fill(rx, next + i, length, true);
  publish(rx, n, true);
}

/** One look at both rings of a pair at time `nowMs`; returns how many frames were received and sent. */
export function poll(pair: u32, nowMs: f64): u32 {
  const tx = ringAt(pair * 2 + 1);
  const traffic = GUEST_CONTROL + pair * GT_RECORD;
  const gone = returned(tx);
  done(tx, gone);
  add(traffic + GT_SENT_DONE, gone);
  const received = receive(pair, traffic, nowMs);
  const sent = (load<u32>(traffic, GT_MODE) & TRAFFIC_SEND) !== 0 ? send(tx, traffic, nowMs) : 0;
  return received + sent;
}

/** Interrupts on; true if there is nothing to do, so that the host may sleep. */
export function sleep(pair: u32): bool {
  const rx = ringAt(pair * 2);
  interrupts(rx, true);
  return returned(rx) === 0;
}

export function wake(pair: u32): void {
  interrupts(ringAt(pair * 2), false);
}

function receive(pair: u32, traffic: u32, nowMs: f64): u32 {
  const rx = ringAt(pair * 2);
  const tx = ringAt(pair * 2 + 1);
  const header = load<u32>(rx, GR_HEADER);
  const echo = (load<u32>(traffic, GT_MODE) & TRAFFIC_ECHO) !== 0;
  const n = min(returned(rx), load<u32>(traffic, GT_BATCH));
  if (n === 0) return 0;
  const first = load<u32>(rx, GR_DONE);
  let bytes: u32 = 0;
  let frames: u32 = 0;
  let echoes: u32 = 0;
  for (let i: u32 = 0; i < n; i++) {
    const index = first + i;
    const length = takenLength(rx, index);
    const buffer = bufferAt(rx, index);
    const more = load<u32>(rx, GR_CONTINUE);
    if (more !== 0) {
      store<u32>(rx, more - 1, GR_CONTINUE);
      bytes += length;
      continue;
    }
    if (length < header) continue;
    frames++;
    bytes += length - header;
    if (header >= 12) {
      const buffers = <u32>load<u16>(buffer, 10);
      if (buffers > 1) store<u32>(rx, buffers - 1, GR_CONTINUE);
    }
    const frame = buffer + header;
    if (length - header < <u32>FRAME_MIN || load<u32>(frame, PAYLOAD) !== <u32>MARK) continue;
    if (echo) echoes += reply(tx, echoes, frame, length - header, traffic);
    else account(frame, traffic, GUEST_SEEN + pair * SEEN_BYTES, nowMs);
  }
  publish(tx, echoes, false);
  done(rx, n);
  repost(rx);
  add(traffic + GT_RECEIVED, frames);
  add(traffic + GT_RECEIVED_BYTES, bytes);
  add(traffic + GT_ECHOED, echoes);
  return n;
}

/** Puts the frame, sender and receiver exchanged, into the `ahead`th free transmit buffer. Returns 1, or 0 if full. */
function reply(tx: u32, ahead: u32, frame: u32, length: u32, traffic: u32): u32 {
  const header = load<u32>(tx, GR_HEADER);
  if (freeCount(tx) <= ahead || length + header > load<u32>(tx, GR_BUFFER_SIZE)) {
    add(traffic + GT_ECHO_FULL, 1);
    return 0;
  }
  const index = load<u32>(tx, GR_NEXT) + ahead;
  const buffer = bufferAt(tx, index);
  memory.fill(buffer, 0, header);
  const copy = buffer + header;
  memory.copy(copy, frame, length);
  memory.copy(copy, frame + 6, 6);
  memory.copy(copy + 6, frame, 6);
  store<u32>(copy, load<u32>(frame, 30), 26);
  store<u32>(copy, load<u32>(frame, 26), 30);
  store<u16>(copy, load<u16>(frame, 36), 34);
  store<u16>(copy, load<u16>(frame, 34), 36);
  fill(tx, index, header + length, false);
  return 1;
}

/** Sets or clears the bit of a sequence number; returns whether it was set. */
function mark(seen: u32, sequence: u32, on: bool): bool {
  const at = seen + ((sequence % SEEN_WINDOW) >> 3);
  const bit = <u8>((<u32>1) << (sequence & 7));
  const before = load<u8>(at);
  store<u8>(at, on ? before | bit : before & ~bit);
  return (before & bit) !== 0;
}

/** Sequence and latency of one of our frames. */
function account(frame: u32, traffic: u32, seen: u32, nowMs: f64): void {
  const sequence = load<u32>(frame, PAYLOAD + 4);
  const expected = load<u32>(traffic, GT_EXPECTED);
  add(traffic + GT_OURS, 1);
  const jump = <i32>(sequence - expected);
  if (sequence === 0 || jump >= <i32>SEEN_WINDOW) memory.fill(seen, 0, SEEN_BYTES);
  else for (let n = expected; <i32>(sequence - n) >= 0; n++) mark(seen, n, false);
  if (jump > -(<i32>SEEN_WINDOW) && mark(seen, sequence, true)) add(traffic + GT_TWICE, 1);
  if (sequence === 0 || jump >= 0) {
    // Number 0: the peer has started anew.
    if (sequence !== 0 && jump > 0) add(traffic + GT_LOST, jump);
    store<u32>(traffic, sequence + 1, GT_EXPECTED);
  } else add(traffic + GT_REORDERED, 1);
  const age = nowMs - load<f64>(frame, PAYLOAD + 8);
  add(traffic + GT_RTT_COUNT, 1);
  add(traffic + GT_RTT_SUM, age);
  if (age > load<f64>(traffic, GT_RTT_MAX)) store<f64>(traffic, age, GT_RTT_MAX);
}

/** Frames that the rate allows and the ring has room for. */
function send(tx: u32, traffic: u32, nowMs: f64): u32 {
  let n = min(freeCount(tx), load<u32>(traffic, GT_BATCH));
  const perMs = load<f64>(traffic, GT_PER_MS);
  if (perMs > 0) {
    // Time lost (a sleeping process) is not made up for by bursts that no ring takes.
    const elapsed = min<f64>(nowMs - load<f64>(traffic, GT_LAST), CATCH_UP_MS);
    store<f64>(traffic, nowMs, GT_LAST);
    const credit = load<f64>(traffic, GT_CREDIT) + max<f64>(elapsed, 0) * perMs;
    n = min(n, <u32>credit);
    store<f64>(traffic, min<f64>(credit - n, max<f64>(perMs * CATCH_UP_MS, 1)), GT_CREDIT);
  }
  const header = load<u32>(tx, GR_HEADER);
  const length = load<u32>(traffic, GT_FRAME_LEN);
  const flows = load<u32>(traffic, GT_FLOWS);
  const next = load<u32>(tx, GR_NEXT);
  let sequence = load<u32>(traffic, GT_SEQUENCE);
  const limit = load<u32>(traffic, GT_LIMIT);
  if (limit !== 0) n = min(n, limit - sequence);
  for (let i: u32 = 0; i < n; i++) {
    const buffer = bufferAt(tx, next + i);
    memory.fill(buffer, 0, header);
    const frame = buffer + header;
    memory.copy(frame, traffic + GT_TEMPLATE, PAYLOAD);
    const port = <u16>(1024 + (sequence % flows));
    store<u16>(frame, bswap<u16>(port), UDP_SOURCE);
    store<u32>(frame, MARK, PAYLOAD);
    store<u32>(frame, sequence++, PAYLOAD + 4);
    store<f64>(frame, nowMs, PAYLOAD + 8);
    fill(tx, next + i, header + length, false);
  }
  publish(tx, n, false);
  store<u32>(traffic, sequence, GT_SEQUENCE);
  add(traffic + GT_SENT, n);
  return n;
}
