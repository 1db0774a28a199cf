// Simple match: packets of a port all of whose megaflows look at nothing but ports, the Ethernet header, VLAN tags and
// whether the packet is a fragment (contract/table.ts, ST_SIMPLE). They are looked up without a parse and without a
// flow key: 32 bytes, made from the Ethernet header, stand for it. It is what most packets of `in_port → output` and
// NORMAL need; Open vSwitch has its "simple match" there.
//
//   byte 0        4          8                14               20        22    24    26    28    30  31
//        in_port  recirc_id  eth dst          eth src          eth type  tci   tpid  tci   tpid  0   frag
//        4        4 (0)      6                6                2         2     2     2     2     1   1 (0)
//
// These are the first 32 bytes of a flow key (contract/key.ts); of the others a simple subtable looks only at metadata,
// which are zero in a packet just received. So the megaflow table's own hash and comparison work on them, but only for
// subtables that are simple: each one is asked, since the port's word (PT_SIMPLE) is a hint that may be older than the
// table. Odd packets (fragments, IPv6 extension headers, 802.2, two tags) and misses
// are parsed and go the long way (burst.ts); so are those whose program needs a key or the place of a header.

import {
  ACT_DROP,
  ACT_END,
  ACT_METER,
  ACT_OUTPUT,
  ACT_POP_VLAN,
  ACT_PUSH_VLAN,
  ACT_SET_ETH,
  ACT_TRUNC,
} from '../contract/action.ts';
import { K_ETH_DST, K_VLAN0_TCI } from '../contract/key.ts';
import { CONTROL_BASE, CTL_VLAN_LIMIT, WK_SIMPLE_HITS } from '../contract/memory.ts';
import {
  BURST_MAX,
  KEY_STRIDE,
  PKT_FLOW,
  PKT_HASH,
  PKT_HEAD,
  PKT_HEAD_LEN,
  PKT_LEN,
  PKT_MARK,
  PKT_SIZE,
  PV_IO,
} from '../contract/packet.ts';
import { FL_KEY, FL_PROGRAM, FL_SUBTABLE, ST_MASK } from '../contract/table.ts';
import { IO_SIMPLE } from '../contract/virtqueue.ts';
import { execute } from './act.ts';
import { actByFlow, countFlow, finishBurst } from './burst.ts';
import { findSimple, lookup } from './lookup.ts';
import { MARK_UNPARSED } from './mark.ts';
import { parseOne } from './parse.ts';
import { tcpFlagsIpv4, tcpFlagsIpv6 } from './parseIp.ts';
import { deepen } from './port/receive.ts';
import { S_BURST, S_SIMPLE_MISSED } from './scratch.ts';
import { addStat, privateBase } from './worker.ts';

const RECORD: u32 = 32;
// Scratch: the burst's records, a word for each, and a flow key that is zero but for its first 32 bytes.
const RECORDS: u32 = PV_IO + IO_SIMPLE;
const WORDS: u32 = RECORDS + BURST_MAX * RECORD;
const KEY: u32 = WORDS + BURST_MAX * 4;
/** In the word that goes with a record, besides TCP flags: the record is not all there, the packet must be parsed. */
const ODD: u32 = 0x10000;

const BE_IPV4: u32 = 0x0008;
const BE_IPV6: u32 = 0xdd86;
const BE_VLAN: u32 = 0x0081;
const BE_QINQ: u32 = 0xa888;
/** Shortest head in which an IP header without options can stand behind a tag. */
const HEAD_MIN: u32 = 38;

let burstBytes: u32 = 0;
let burstWords: u32 = 0;

/** At the start of a worker. */
export function resetSimple(): void {
  memory.fill(privateBase + KEY, 0, KEY_STRIDE);
}

/** The simple flow of a record, 0 = none. */
function find(record: u32): u32 {
  const key = privateBase + KEY;
  v128.store(key, v128.load(record));
  v128.store(key, v128.load(record, 16), 16);
  return findSimple(key);
}

/** Runs the `n` packets of S_BURST, which have come in at `port` and stand at `first`, to the end. */
export function simpleBurst(first: u32, n: i32, port: u32): void {
  const records = privateBase + RECORDS;
  const inPort = bswap<u32>(port);
  makeRecords(first, 1, records, inPort);
  const flow = burstWords & ODD ? 0 : find(records);
  if (flow !== 0 && (n === 1 || likeFirst(first, n, flow))) {
    addStat(WK_SIMPLE_HITS, <f64>n);
    countFlow(flow, n, burstBytes, burstWords);
    const program = atomic.load<u32>(flow + FL_PROGRAM);
    if (!isKeyless(program)) parseAll(first, n);
    execute(program, privateBase + S_BURST, n);
  } else {
    makeRecords(first, n, records, inPort);
    lookupEach(first, n, records);
    actByFlow(privateBase + S_BURST, n, true);
  }
  finishBurst();
}

/**
 * Are all packets of the first one's flow, which is `flow`? Only untagged ones are: their first 14 bytes stand for a record.
 * Sums up lengths and words.
 */
function likeFirst(first: u32, n: i32, flow: u32): bool {
  const subtable = load<u32>(flow + FL_SUBTABLE);
  const mask = ofFrame(subtable + ST_MASK);
  const key = ofFrame(flow + FL_KEY);
  if (load<u16>(flow, FL_KEY + K_VLAN0_TCI) !== 0) return false;
  let difference = i64x2.splat(0);
  let bytes: u32 = 0;
  let words: u32 = 0;
  const end = first + n * PKT_SIZE;
  for (let pkt = first; pkt < end; pkt += PKT_SIZE) {
    const head = load<u32>(pkt, PKT_HEAD);
    const frame = v128.load(head);
    difference = v128.or(difference, v128.xor(v128.and(frame, mask), key));
    bytes += load<u32>(pkt, PKT_LEN);
    const type: u32 = load<u16>(head, 12);
    if (load<u32>(pkt, PKT_HEAD_LEN) < HEAD_MIN) words = ODD;
    else if (type === BE_IPV4 || type === BE_IPV6) words |= wordOfIp(pkt, head, 14, type);
    else if (type === BE_VLAN || type === BE_QINQ || bswap<u16>(<u16>type) < 0x600) words = ODD;
  }
  burstBytes = bytes;
  burstWords = words;
  return (words & ODD) === 0 && !v128.any_true(difference);
}

/** Of a key or mask the bytes that stand first in an untagged frame: addresses and type. Two bytes of zero behind them. */
function ofFrame(key: u32): v128 {
  return i16x8.replace_lane(v128.load(key, K_ETH_DST), 7, 0);
}

/** What stands for the key of each packet; sums up lengths and words on the way. */
function makeRecords(first: u32, n: i32, records: u32, inPort: u32): void {
  const words = privateBase + WORDS;
  let bytes: u32 = 0;
  let all: u32 = 0;
  for (let i = 0; i < n; i++) {
    const pkt = first + i * PKT_SIZE;
    const record = records + i * RECORD;
    const head = load<u32>(pkt + PKT_HEAD);
    const length = load<u32>(pkt + PKT_LEN);
    const ethernet = load<u64>(head, 8);
    const type = <u32>(ethernet >> 32) & 0xffff;
    let word: u32 = 0;
    bytes += length;
    store<u64>(record, inPort);
    store<u64>(record, load<u64>(head), 8);
    store<u64>(record, ethernet & 0xffffffffffff, 16);
    store<u64>(record, 0, 24);
    if (load<u32>(pkt + PKT_HEAD_LEN) < HEAD_MIN) word = ODD;
    else if (type === BE_IPV4 || type === BE_IPV6) word = wordOfIp(pkt, head, 14, type);
    else if (type === BE_VLAN || type === BE_QINQ) word = tag(pkt, head, record, type);
    else if (bswap<u16>(<u16>type) < 0x600) word = ODD;
    store<u32>(words + (i << 2), word);
    all |= word;
  }
  burstBytes = bytes;
  burstWords = all;
}

/** TCP flags, or ODD for what may be a fragment. An IP header that lies makes no fragment, as in parseIp.ts. */
function wordOfIp(pkt: u32, head: u32, l3: u32, type: u32): u32 {
  const at = head + l3;
  if (type === BE_IPV4) {
    if ((load<u16>(at, 6) & 0xff3f) !== 0) return ODD;
    return load<u8>(at, 9) === 6 ? tcpFlagsIpv4(pkt, at) : 0;
  }
  const next: u32 = load<u8>(at, 6);
  if (next === 6) {
    deepen(pkt);
    return tcpFlagsIpv6(pkt, at);
  }
  return next === 0 || next === 43 || next === 44 || next === 51 || next === 60 ? ODD : 0;
}

/** Adds a tag to the record. A second one may be part of the key (vlan-limit): that is for the parser. */
function tag(pkt: u32, head: u32, record: u32, tpid: u32): u32 {
  if (load<u32>(CONTROL_BASE + CTL_VLAN_LIMIT) === 0) return ODD;
  const type: u32 = load<u16>(head, 16);
  if (type === BE_VLAN || type === BE_QINQ || bswap<u16>(<u16>type) < 0x600) return ODD;
  store<u16>(record, <u16>type, 20);
  store<u16>(record, load<u16>(head, 14) | 0x0010, 22); // VLAN_PRESENT
  store<u16>(record, <u16>tpid, 24);
  return type === BE_IPV4 || type === BE_IPV6 ? wordOfIp(pkt, head, 18, type) : 0;
}

function matches(record: u32, flow: u32): bool {
  const subtable = load<u32>(flow + FL_SUBTABLE);
  const difference = v128.or(
    v128.xor(v128.and(v128.load(record), v128.load(subtable, ST_MASK)), v128.load(flow, FL_KEY)),
    v128.xor(
      v128.and(v128.load(record, 16), v128.load(subtable, ST_MASK + 16)),
      v128.load(flow, FL_KEY + 16),
    ),
  );
  return !v128.any_true(difference);
}

/** Sets PKT_FLOW of packets of several flows; parses those that no simple flow matches. */
function lookupEach(first: u32, n: i32, records: u32): void {
  const words = privateBase + WORDS;
  const missed = privateBase + S_SIMPLE_MISSED;
  let misses = 0;
  let last: u32 = 0;
  for (let i = 0; i < n; i++) {
    const pkt = first + i * PKT_SIZE;
    const record = records + i * RECORD;
    const word = load<u32>(words + (i << 2));
    let flow: u32 = 0;
    if ((word & ODD) === 0) {
      flow = last !== 0 && matches(record, last) ? last : find(record);
    }
    if (flow === 0) {
      parseOne(pkt);
      store<u32>(missed + (misses << 2), pkt);
      misses++;
      continue;
    }
    last = flow;
    store<u32>(pkt + PKT_FLOW, flow);
    store<u32>(pkt + PKT_HASH, word);
    store<u32>(pkt + PKT_MARK, MARK_UNPARSED);
  }
  addStat(WK_SIMPLE_HITS, <f64>(n - misses));
  if (misses > 0) lookup(missed, misses);
}

function parseAll(first: u32, n: i32): void {
  for (let i = 0; i < n; i++) parseOne(first + i * PKT_SIZE);
}

/** Whether a program does nothing for which a packet must have a key, or its L3 and L4 headers must be known. */
export function isKeyless(program: u32): bool {
  let at = program;
  while (true) {
    const header = load<u32>(at);
    const op = header & 0xffff;
    const keyless =
      op === ACT_OUTPUT ||
      op === ACT_DROP ||
      op === ACT_TRUNC ||
      op === ACT_PUSH_VLAN ||
      op === ACT_POP_VLAN ||
      op === ACT_SET_ETH ||
      op === ACT_METER;
    if (!keyless) return op === ACT_END;
    at += (header >> 16) << 2;
  }
}
