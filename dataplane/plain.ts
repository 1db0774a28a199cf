// Plain packets: untagged TCP and UDP over IPv4, no options, no fragments, just received: nearly all that there is. They are
// looked up and sent without a flow key: their own first 48 bytes are compared with those of a megaflow
// (src/engine/plainLine.ts), so a packet costs its own line, one line of the flow and that of its counters.
//
// What pays is a burst whose packets are all plain and do nothing but leave by a port: then no packet is touched twice.
// In other bursts the packets that have found their flow so go on without a key where they need none, as simple matches do
// (simple.ts), and the rest are parsed. A queue most of whose packets need more (connection tracking, tunnels) is left to the
// parser for a while.

import { K_TCP_FLAGS } from '../contract/key.ts';
import { CONTROL_BASE, CTL_CACHE_INSERT_INV_PROB, WK_CACHE_HITS } from '../contract/memory.ts';
import {
  BURST_MAX,
  PKT_FLOW,
  PKT_HASH,
  PKT_HEAD,
  PKT_KEY,
  PKT_LEN,
  PKT_MARK,
  PKT_SIZE,
  PV_IO,
} from '../contract/packet.ts';
import { Q_NOT_PLAIN } from '../contract/port.ts';
import { FP_BYTES, FP_MASK, FP_NONE, FP_OUTPUT, FP_PORT } from '../contract/table.ts';
import { IO_SIMPLE } from '../contract/virtqueue.ts';
import { actByFlow, countFlow, finishBurst } from './burst.ts';
import { outputInRuns } from './direct.ts';
import { cached, lookup, lookupMissed } from './lookup.ts';
import { MARK_UNPARSED } from './mark.ts';
import { NOT_PLAIN, parseOne, plainFlags } from './parse.ts';
import { keepTouched } from './port/receive.ts';
import { S_BURST, S_DIRECT, S_MISSED, S_SIMPLE_MISSED } from './scratch.ts';
import { addStat, countersOf, privateBase } from './worker.ts';

// Scratch: TCP flags and hash of each packet, then its flow, 0 = none yet.
const WORDS: u32 = PV_IO + IO_SIMPLE;
const FLOWS: u32 = WORDS + BURST_MAX * 8;

/** Bursts that a queue is left to the parser. */
const REST: u32 = 63;

/** Runs the `n` packets of S_BURST, which have come in at `port` and stand at `first`, to the end; or does nothing: false. */
export function plainBurst(q: u32, first: u32, n: i32, port: u32): bool {
  const rest = load<u32>(q, Q_NOT_PLAIN);
  if (rest !== 0) {
    store<u32>(q, rest - 1, Q_NOT_PLAIN);
    return false;
  }
  const inverse = load<u32>(CONTROL_BASE + CTL_CACHE_INSERT_INV_PROB);
  if (inverse === 0) return false;
  hashAll(first, n, port);
  findAll(n);
  let direct = compareAll(first, n, port);
  if (direct === n) {
    countAll(first, n);
    outputInRuns(privateBase + S_BURST, n);
  } else {
    const odd = findOthers(first, n, inverse);
    direct = separate(first, n);
    if (n - direct + odd > n >> 1) store<u32>(q, REST, Q_NOT_PLAIN);
    outputInRuns(privateBase + S_BURST, direct);
    if (direct < n) actByFlow(privateBase + S_SIMPLE_MISSED, n - direct, true);
  }
  finishBurst();
  return true;
}

/** TCP flags and hash of each packet; NOT_PLAIN in place of the flags of those that are not. */
function hashAll(first: u32, n: i32, port: u32): void {
  let at = privateBase + WORDS;
  const end = first + n * PKT_SIZE;
  const seed = <u64>port * 0x9e3779b97f4a7c15;
  for (let pkt = first; pkt < end; pkt += PKT_SIZE) {
    const head = load<u32>(pkt, PKT_HEAD);
    store<u32>(at, hashPlain(head, seed));
    store<u32>(at, plainFlags(pkt, head), 4);
    at += 8;
  }
}

/** Addresses, protocol, TOS and ports; what changes from packet to packet of a connection is left out. */
function hashPlain(head: u32, seed: u64): u32 {
  const a =
    (load<u64>(head) ^ seed) * 0xbf58476d1ce4e5b9 +
    (load<u64>(head, 8) ^ 0xc2b2ae3d27d4eb4f) * 0x94d049bb133111eb;
  const b =
    ((load<u64>(head, 22) & 0xffffffff0000ff00) ^ 0x165667b19e3779f9) * 0xd6e8feb86659fd93 +
    (load<u64>(head, 30) ^ 0x27d4eb2f165667c5) * 0xff51afd7ed558ccd;
  let h = a ^ (b >> 29);
  h = (h + b) ^ (a >> 32);
  h *= 0xd6e8feb86659fd93;
  return <u32>(h ^ (h >> 32));
}

/** What the cache remembers of each packet. First all buckets, then all flows, so that the misses of packets overlap. */
function findAll(n: i32): void {
  const words = privateBase + WORDS;
  const flows = privateBase + FLOWS;
  for (let i = 0; i < n; i++) {
    const plain = load<u32>(words + (i << 3), 4) !== NOT_PLAIN;
    store<u32>(flows + (i << 2), plain ? cached(load<u32>(words + (i << 3))) : 0);
  }
  let sum: u32 = 0;
  let last: u32 = 0;
  for (let i = 0; i < n; i++) {
    const flow = load<u32>(flows + (i << 2));
    if (flow === last || flow === 0) continue;
    last = flow;
    sum ^= load<u32>(flow, FP_PORT) ^ load<u32>(countersOf(flow));
  }
  keepTouched(sum);
}

/** Forgets flows that are not the packets'. Returns how many packets have nothing to do but to be output (S_DIRECT). */
function compareAll(first: u32, n: i32, port: u32): i32 {
  const words = privateBase + WORDS;
  const flows = privateBase + FLOWS;
  const ports = privateBase + S_DIRECT;
  let hits = 0;
  let direct = 0;
  for (let i = 0; i < n; i++) {
    const flow = load<u32>(flows + (i << 2));
    if (flow === 0) continue;
    const pkt = first + i * PKT_SIZE;
    if (!isPlainOf(flow, load<u32>(pkt, PKT_HEAD), port)) {
      store<u32>(flows + (i << 2), 0);
      continue;
    }
    hits++;
    const to = atomic.load<u32>(flow, FP_OUTPUT);
    store<u32>(ports + (i << 2), to);
    if (to !== FP_NONE) direct++;
    else {
      store<u32>(pkt, load<u32>(words + (i << 3), 4), PKT_HASH);
      store<u32>(pkt, MARK_UNPARSED, PKT_MARK);
    }
  }
  addStat(WK_CACHE_HITS, <f64>hits);
  return direct;
}

function isPlainOf(flow: u32, head: u32, port: u32): bool {
  if (atomic.load<u32>(flow, FP_PORT) !== port) return false;
  const mask = load<u32>(flow, FP_MASK);
  const difference = v128.or(
    v128.or(
      v128.xor(v128.and(v128.load(head), v128.load(mask)), v128.load(flow, FP_BYTES)),
      v128.xor(v128.and(v128.load(head, 16), v128.load(mask, 16)), v128.load(flow, FP_BYTES + 16)),
    ),
    v128.xor(v128.and(v128.load(head, 32), v128.load(mask, 32)), v128.load(flow, FP_BYTES + 32)),
  );
  return !v128.any_true(difference);
}

function countAll(first: u32, n: i32): void {
  const words = privateBase + WORDS;
  const flows = privateBase + FLOWS;
  for (let i = 0; i < n; i++) {
    const length = load<u32>(first + i * PKT_SIZE, PKT_LEN);
    countFlow(load<u32>(flows + (i << 2)), 1, length, load<u32>(words + (i << 3), 4));
  }
}

/**
 * Parses packets that have no flow yet, and finds it: those that are plain by the hash that they have. Returns how many are not.
 */
function findOthers(first: u32, n: i32, inverse: u32): i32 {
  const words = privateBase + WORDS;
  const flows = privateBase + FLOWS;
  const ports = privateBase + S_DIRECT;
  const plain = privateBase + S_MISSED;
  const odd = privateBase + S_SIMPLE_MISSED;
  let plains = 0;
  let odds = 0;
  for (let i = 0; i < n; i++) {
    if (load<u32>(flows + (i << 2)) !== 0) continue;
    const pkt = first + i * PKT_SIZE;
    parseOne(pkt);
    if (load<u32>(words + (i << 3), 4) === NOT_PLAIN) {
      store<u32>(odd + (odds << 2), pkt);
      odds++;
    } else {
      store<u32>(pkt, load<u32>(words + (i << 3)), PKT_HASH);
      store<u32>(plain + (plains << 2), pkt);
      plains++;
    }
  }
  if (plains > 0) lookupMissed(plain, plains, inverse);
  if (odds > 0) lookup(odd, odds);
  for (let i = 0; i < n; i++) {
    if (load<u32>(flows + (i << 2)) !== 0) continue;
    const pkt = first + i * PKT_SIZE;
    const flow = load<u32>(pkt, PKT_FLOW);
    store<u32>(flows + (i << 2), flow);
    store<u32>(ports + (i << 2), flow === 0 ? FP_NONE : atomic.load<u32>(flow, FP_OUTPUT));
    store<u32>(words + (i << 3), load<u16>(load<u32>(pkt, PKT_KEY) + K_TCP_FLAGS), 4);
  }
  return odds;
}

/**
 * Packets that have nothing to do but to be output stay in S_BURST, counted; the others go into S_SIMPLE_MISSED. Returns how
 * many stay.
 */
function separate(first: u32, n: i32): i32 {
  const words = privateBase + WORDS;
  const flows = privateBase + FLOWS;
  const ports = privateBase + S_DIRECT;
  const burst = privateBase + S_BURST;
  const others = privateBase + S_SIMPLE_MISSED;
  let direct = 0;
  for (let i = 0; i < n; i++) {
    const pkt = first + i * PKT_SIZE;
    const flow = load<u32>(flows + (i << 2));
    const to = load<u32>(ports + (i << 2));
    if (to === FP_NONE) {
      store<u32>(pkt, flow, PKT_FLOW);
      store<u32>(others + ((i - direct) << 2), pkt);
      continue;
    }
    countFlow(flow, 1, load<u32>(pkt, PKT_LEN), load<u32>(words + (i << 3), 4));
    store<u32>(burst + (direct << 2), pkt);
    store<u32>(ports + (direct << 2), to);
    direct++;
  }
  return direct;
}
