// The driver of a guest that measures switches: it offers more than any switch can take, and counts by itself what
// arrives, what is missing, what comes late, and how old it is.
//
// index.ts writes every descriptor, as real drivers do, and then the generator is the limit and not the switch. Here,
// on split rings, descriptors and avail entries are written once (prepare); a packet costs the guest one store into
// its payload, and one load where it arrives. On packed rings the driver has to write descriptors, so it does.
// The rings are used in order, which every known back-end does for packets of one buffer.
//
// A guest that is the wire of an underlay has a tunnel's headers before each frame, both ways (GT_OUTER). They are part
// of the template; only the outer UDP source port varies with the flow, as every tunnel end has it.

import {
  GR_BUFFER_SIZE,
  GR_BUFFERS,
  GR_CONTINUE,
  GR_DONE,
  GR_HEADER,
  GR_NEXT,
  GR_PACKED,
  GR_RECORD,
  GR_SIZE,
  GT_BATCH,
  GT_CREDIT,
  GT_EXPECTED,
  GT_FLOWS,
  GT_FRAME_LEN,
  GT_GSO_SIZE,
  GT_IMIX,
  GT_LAST,
  GT_LOST,
  GT_MODE,
  GT_NOW,
  GT_OURS,
  GT_OUTER,
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
  GT_SPREAD,
  GT_TEMPLATE,
  GUEST_CONTROL,
  GUEST_HISTOGRAMS,
  GUEST_RINGS,
  HISTOGRAM_BUCKETS,
  HISTOGRAM_BYTES,
  HISTOGRAM_PER_MS,
  MARK,
  PAYLOAD,
  SPREAD_BITS,
  SPREAD_CONNECTION,
  SPREAD_PORT,
  SPREAD_REPLY,
  TCP_MORE,
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

/** Where, among the ring records, the result of loads goes that are made for their effect on the cache. */
const TOUCHED: u32 = GR_RECORD - 4;
const IP_CHECKSUM: u32 = 24;
const IP_SOURCE: u32 = 26;
const IP_SOURCE_LOW: u32 = 28;
const IP_DESTINATION_LOW: u32 = 32;
const IP_LENGTH: u32 = 16;
const UDP_SOURCE: u32 = 34;
const UDP_DESTINATION: u32 = 36;
const UDP_LENGTH: u32 = 38;

function add(address: u32, value: f64): void {
  store<f64>(address, load<f64>(address) + value);
}

let lowNs: u32 = 0;

/**
 * The time goes on. Only the low half of the host's clock is handed over (src/sys/clock.ts): a call with a number that is not a
 * small integer allocates it, and collections are pauses.
 */
export function tick(low: u32): void {
  add(GUEST_CONTROL + GT_NOW, <f64>(low - lowNs) / 1e6);
  lowNs = low;
}

function now(): f64 {
  return load<f64>(GUEST_CONTROL + GT_NOW);
}

function ringAt(index: u32): u32 {
  return GUEST_RINGS + index * GR_RECORD;
}

function trafficOf(pair: u32): u32 {
  return GUEST_CONTROL + pair * GT_RECORD;
}

/** Gives all receive buffers to the device. Once, after the handshake. */
export function start(pair: u32): void {
  const rx = ringAt(pair * 2);
  interrupts(rx, false);
  interrupts(ringAt(pair * 2 + 1), false);
  const n = freeCount(rx);
  const next = load<u32>(rx, GR_NEXT);
  const length = load<u32>(rx, GR_BUFFER_SIZE);
  for (let i: u32 = 0; i < n; i++) fill(rx, next + i, length, true);
  publish(rx, n, true);
}

/**
 * Writes headers, frames and (split ring) descriptors of all transmit buffers: after every change of the profile, and
 * only while the device has none of them. Returns false if it has.
 */
export function prepare(pair: u32): bool {
  const tx = ringAt(pair * 2 + 1);
  done(tx, returned(tx));
  const size = load<u32>(tx, GR_SIZE);
  if (freeCount(tx) !== size) return false;
  const traffic = trafficOf(pair);
  const header = load<u32>(tx, GR_HEADER);
  const next = load<u32>(tx, GR_NEXT);
  const split = load<u32>(tx, GR_PACKED) === 0;
  const payload = payloadOf(traffic);
  for (let i: u32 = 0; i < size; i++) {
    const buffer = bufferAt(tx, next + i);
    memory.fill(buffer, 0, header);
    memory.copy(buffer + header, traffic + GT_TEMPLATE, payload);
    store<u32>(buffer + header + payload, MARK);
    const segment = load<u32>(traffic, GT_GSO_SIZE);
    if (segment !== 0) writeOffload(buffer, segment);
    const length = lengthOf(traffic, (next + i) & (size - 1));
    setLength(buffer + header, load<u32>(traffic, GT_FRAME_LEN), length);
    if (split) fill(tx, next + i, header + length, false);
  }
  return true;
}

/** Where mark, sequence number and time stand in the frames. */
function payloadOf(traffic: u32): u32 {
  const more: u32 = load<u32>(traffic, GT_GSO_SIZE) === 0 ? 0 : TCP_MORE;
  return load<u32>(traffic, GT_OUTER) + PAYLOAD + more;
}

/** virtio-net header of a TCP segment over IPv4 that is longer than the wire allows (virtio 1.2, 5.1.6). */
function writeOffload(at: u32, segment: u32): void {
  store<u8>(at, 1); // NEEDS_CSUM
  store<u8>(at, 1, 1); // GSO_TCPV4
  store<u16>(at, 54, 2);
  store<u16>(at, <u16>segment, 4);
  store<u16>(at, 34, 6);
  store<u16>(at, 16, 8);
}

/** Length of the frame in buffer `slot`. IMIX: seven frames of 64 bytes (with FCS), four of 570, one of 1518. */
function lengthOf(traffic: u32, slot: u32): u32 {
  if (load<u32>(traffic, GT_IMIX) === 0) return load<u32>(traffic, GT_FRAME_LEN);
  const turn = slot % 12;
  return turn < 7 ? 60 : turn < 11 ? 566 : 1514;
}

/** Corrects the lengths of a frame whose template is for `old` bytes. */
function setLength(frame: u32, old: u32, length: u32): void {
  if (length === old) return;
  store<u16>(frame, bswap<u16>(<u16>(length - 14)), IP_LENGTH);
  store<u16>(frame, bswap<u16>(<u16>(length - 34)), UDP_LENGTH);
  addToChecksum(frame, load<u16>(frame, IP_CHECKSUM), length - old);
}

/** Writes the IPv4 checksum of a header that had checksum `old` (network order) before its words grew by `more`. */
function addToChecksum(frame: u32, old: u16, more: u32): void {
  let sum: u32 = (<u32>~bswap<u16>(old) & 0xffff) + more;
  sum = (sum & 0xffff) + (sum >> 16);
  store<u16>(frame, bswap<u16>(<u16>~sum), IP_CHECKSUM);
}

/** Sets counters, histogram and sequence numbers of a pair to zero. */
export function reset(pair: u32): void {
  const traffic = trafficOf(pair);
  memory.fill(traffic + GT_SENT, 0, GT_BATCH - GT_SENT);
  memory.fill(GUEST_HISTOGRAMS + pair * HISTOGRAM_BYTES, 0, HISTOGRAM_BYTES);
}

/** The peer's frames are numbered from `sequence` on. */
export function expect(pair: u32, sequence: u32): void {
  store<u32>(trafficOf(pair), sequence, GT_EXPECTED);
}

/** One look at the receive ring of a pair. Returns the frames received. */
export function receive(pair: u32): u32 {
  const nowMs = now();
  const rx = ringAt(pair * 2);
  const traffic = trafficOf(pair);
  const n = min(returned(rx), load<u32>(traffic, GT_BATCH));
  if (n === 0) return 0;
  const first = load<u32>(rx, GR_DONE);
  const header = load<u32>(rx, GR_HEADER);
  const histogram = GUEST_HISTOGRAMS + pair * HISTOGRAM_BYTES;
  const buffers = load<u32>(rx, GR_BUFFERS);
  const bufferSize = load<u32>(rx, GR_BUFFER_SIZE);
  const payload = header + payloadOf(traffic);
  const mask = load<u32>(rx, GR_SIZE) - 1;
  // All lines set out at once; one after the other they would take ten times as long.
  let touched: u32 = 0;
  for (let i: u32 = 0; i < n; i++) {
    touched ^= load<u32>(buffers + ((first + i) & mask) * bufferSize + payload);
  }
  store<u32>(GUEST_RINGS + TOUCHED, touched);
  let expected = load<u32>(traffic, GT_EXPECTED);
  let more = load<u32>(rx, GR_CONTINUE);
  let frames: u32 = 0;
  let ours: u32 = 0;
  let bytes: f64 = 0;
  let ages: f64 = 0;
  let oldest = load<f64>(traffic, GT_RTT_MAX);
  for (let i: u32 = 0; i < n; i++) {
    const length = takenLength(rx, first + i);
    bytes += length;
    if (more !== 0) {
      more--;
      continue;
    }
    const buffer = buffers + ((first + i) & mask) * bufferSize;
    const mark = buffer + payload;
    frames++;
    bytes -= header;
    // A frame that goes on in further buffers fills this one; else its header is not looked at: a line less.
    if (length === bufferSize && header >= 12) {
      const count = <u32>load<u16>(buffer, 10);
      if (count > 1) more = count - 1;
    }
    if (load<u32>(mark) !== <u32>MARK) continue;
    ours++;
    const sequence = load<u32>(mark, 4);
    const jump = <i32>(sequence - expected);
    if (jump >= 0) {
      if (jump > 0) add(traffic + GT_LOST, jump);
      expected = sequence + 1;
    } else add(traffic + GT_REORDERED, 1);
    const age = nowMs - load<f64>(mark, 8);
    ages += age;
    oldest = max(oldest, age);
    const bucket = histogram + bucketOf(age) * 4;
    store<u32>(bucket, load<u32>(bucket) + 1);
  }
  store<u32>(rx, more, GR_CONTINUE);
  store<u32>(traffic, expected, GT_EXPECTED);
  store<f64>(traffic, oldest, GT_RTT_MAX);
  add(traffic + GT_RECEIVED, frames);
  add(traffic + GT_RECEIVED_BYTES, bytes);
  add(traffic + GT_OURS, ours);
  add(traffic + GT_RTT_COUNT, ours);
  add(traffic + GT_RTT_SUM, ages);
  done(rx, n);
  if (load<u32>(rx, GR_PACKED) !== 0) {
    const next = load<u32>(rx, GR_NEXT);
    const length = load<u32>(rx, GR_BUFFER_SIZE);
    for (let i: u32 = 0; i < n; i++) fill(rx, next + i, length, true);
  }
  publish(rx, n, true);
  return frames;
}

function bucketOf(ageMs: f64): u32 {
  if (!(ageMs > 0)) return 0;
  const units = <u64>(ageMs * HISTOGRAM_PER_MS);
  if (units < 8) return <u32>units;
  const octave = 63 - <u32>clz<u64>(units);
  const bucket = (octave - 2) * 8 + (<u32>(units >> (octave - 3)) & 7);
  return min<u32>(bucket, HISTOGRAM_BUCKETS - 1);
}

/** Fills the transmit ring of a pair as far as its rate allows. Returns the frames sent. */
export function send(pair: u32): u32 {
  const nowMs = now();
  const tx = ringAt(pair * 2 + 1);
  const traffic = trafficOf(pair);
  const gone = returned(tx);
  if (gone !== 0) {
    done(tx, gone);
    add(traffic + GT_SENT_DONE, gone);
  }
  if ((load<u32>(traffic, GT_MODE) & TRAFFIC_SEND) === 0) return 0;
  let n = min(freeCount(tx), load<u32>(traffic, GT_BATCH));
  const perMs = load<f64>(traffic, GT_PER_MS);
  if (perMs > 0) {
    // Time lost beyond a millisecond is not made up for: that would be a burst that nobody asked for.
    const elapsed = min<f64>(nowMs - load<f64>(traffic, GT_LAST), 1);
    store<f64>(traffic, nowMs, GT_LAST);
    const credit = load<f64>(traffic, GT_CREDIT) + max<f64>(elapsed, 0) * perMs;
    n = min(n, <u32>credit);
    store<f64>(traffic, min<f64>(credit - n, max<f64>(perMs, 1)), GT_CREDIT);
  }
  if (n === 0) return 0;
  const header = load<u32>(tx, GR_HEADER);
  const flows = load<u32>(traffic, GT_FLOWS);
  const next = load<u32>(tx, GR_NEXT);
  const split = load<u32>(tx, GR_PACKED) === 0;
  const buffers = load<u32>(tx, GR_BUFFERS) + header;
  const bufferSize = load<u32>(tx, GR_BUFFER_SIZE);
  const mask = load<u32>(tx, GR_SIZE) - 1;
  const payload = payloadOf(traffic);
  const outer = load<u32>(traffic, GT_OUTER);
  const template = traffic + GT_TEMPLATE + outer;
  let sequence = load<u32>(traffic, GT_SEQUENCE);
  let flow = sequence % flows;
  // The answer to a single flow is another frame, too.
  const vary = flows > 1 || load<u32>(traffic, GT_SPREAD) === SPREAD_REPLY;
  for (let i: u32 = 0; i < n; i++) {
    const frame = buffers + ((next + i) & mask) * bufferSize;
    if (vary) {
      setFlow(frame + outer, traffic, template, flow);
      if (outer !== 0) setEntropy(frame, flow);
    }
    if (++flow === flows) flow = 0;
    store<u32>(frame + payload, sequence++, 4);
    store<f64>(frame + payload, nowMs, 8);
    if (!split) {
      fill(tx, next + i, header + lengthOf(traffic, (next + i) & mask), false);
    }
  }
  publish(tx, n, false);
  store<u32>(traffic, sequence, GT_SEQUENCE);
  add(traffic + GT_SENT, n);
  return n;
}

/** Source port of the outer UDP header: from the upper half, different for most flows. */
function setEntropy(outer: u32, flow: u32): void {
  store<u16>(outer, bswap<u16>(<u16>(0x8000 | ((flow * 40503) & 0x7fff))), UDP_SOURCE);
}

/** Makes the frame one of flow number `flow`. */
function setFlow(frame: u32, traffic: u32, template: u32, flow: u32): void {
  const spread = load<u32>(traffic, GT_SPREAD);
  if (spread === SPREAD_PORT) {
    store<u16>(frame, bswap<u16>(<u16>(1024 + flow)), UDP_SOURCE);
    return;
  }
  if (spread === SPREAD_BITS) {
    // The checksum is wrong then; switches do not look at it.
    const address = bswap<u32>(load<u32>(template, IP_SOURCE)) ^ (1 << (flow & 31));
    store<u32>(frame, bswap<u32>(address), IP_SOURCE);
    const ports = bswap<u32>(load<u32>(template, UDP_SOURCE));
    const bits = (0x10000 << ((flow >> 5) & 15)) | (1 << ((flow >> 9) & 15));
    store<u32>(frame, bswap<u32>(ports ^ bits), UDP_SOURCE);
    return;
  }
  if (spread === SPREAD_CONNECTION || spread === SPREAD_REPLY) {
    setConnection(frame, template, flow, spread === SPREAD_REPLY);
    return;
  }
  // The template's source address ends in 0.0 and its checksum covers that.
  store<u16>(frame, bswap<u16>(<u16>flow), IP_SOURCE_LOW);
  store<u16>(frame, bswap<u16>(<u16>(1024 + ((flow * 40503) & 0x3fff))), UDP_SOURCE);
  addToChecksum(frame, load<u16>(template, IP_CHECKSUM), flow);
}

/** Makes the frame one of connection number `flow`, or the answer to it. All addresses of templates end in 0.0. */
function setConnection(frame: u32, template: u32, flow: u32, reply: bool): void {
  const low = flow & 0xffff;
  const port = bswap<u16>(<u16>(1024 + (flow >> 16)));
  if (reply) {
    // The template's ports are those of a request.
    const service = load<u16>(template, UDP_DESTINATION);
    store<u16>(frame, bswap<u16>(<u16>low), IP_DESTINATION_LOW);
    store<u16>(frame, port, UDP_DESTINATION);
    store<u16>(frame, service, UDP_SOURCE);
  } else {
    store<u16>(frame, bswap<u16>(<u16>low), IP_SOURCE_LOW);
    store<u16>(frame, port, UDP_SOURCE);
  }
  addToChecksum(frame, load<u16>(template, IP_CHECKSUM), low);
}
