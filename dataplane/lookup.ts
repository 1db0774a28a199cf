// Look up: which megaflow a packet belongs to. Third stage of a packet's way, a whole burst at a time.
//
//   1. microflow cache of the worker: signature of the whole key -> flow. Sound without storing the key: the flow is
//      compared with the packet under the flow's own mask, and megaflows never overlap.
//   2. tuple-space search over the subtables that hold flows of the packet's input port, most used first.
//   3. nothing found: the caller makes an upcall.
//
// Each loop touches one kind of memory for all packets of the burst, so that the cache misses of different packets
// overlap: first buckets, then flows, then (rarely) subtables.

import { ACT_TUNNEL_POP } from '../contract/action.ts';
import { K_IN_PORT } from '../contract/key.ts';
import {
  CACHE_BASE,
  CACHE_SIZE,
  CONTROL_BASE,
  CTL_CACHE_INSERT_INV_PROB,
  WK_CACHE_HITS,
  WK_FLOW_HITS,
  WK_FLOW_PROBES,
} from '../contract/memory.ts';
import { PKT_FLOW, PKT_HASH, PKT_KEY } from '../contract/packet.ts';
import { MAX_PORTS, PT_MASKS, portAddress } from '../contract/port.ts';
import {
  CACHE_BUCKET_SIZE,
  CACHE_BUCKETS,
  FL_HASH,
  FL_KEY,
  FL_NEXT,
  FL_PROGRAM,
  FL_STATE,
  FL_SUBTABLE,
  FLOW_INDEX_BASE,
  FLOW_INDEX_BUCKETS,
  ST_INDEX,
  ST_SIMPLE,
  SUBTABLE_HITS_BASE,
  SUBTABLES_MAX,
} from '../contract/table.ts';
import { hashSimple, KEY_LINES, keyHash, LINE1, LINE3 } from './key.ts';
import { keepTouched } from './port/receive.ts';
import { S_MISSED } from './scratch.ts';
import { flowHash, flowMatches } from './table/flow.ts';
import { addStat, countersOf, privateBase, worker } from './worker.ts';

/** Packets of a burst from which on it is worth a look whether they are alike. */
const ALIKE_MIN = 16;

let insertions: u32 = 0;
let probes: u32 = 0;

/** Sets PKT_FLOW of the `n` packets of `list`, 0 where there is none. */
export function lookup(list: u32, n: i32): void {
  const inverse = load<u32>(CONTROL_BASE + CTL_CACHE_INSERT_INV_PROB);
  if (inverse === 0) {
    lookupMissed(list, n, inverse);
    return;
  }
  if (n >= ALIKE_MIN) {
    const alike = likeFirst(list, n);
    addStat(WK_CACHE_HITS, <f64>alike);
    if (alike === n) return;
    list += alike << 2;
    n -= alike;
  }
  for (let i = 0; i < n; i++) {
    const pkt = load<u32>(list + (i << 2));
    store<u32>(pkt + PKT_HASH, keyHash(load<u32>(pkt + PKT_KEY)));
  }
  for (let i = 0; i < n; i++) {
    const pkt = load<u32>(list + (i << 2));
    store<u32>(pkt + PKT_FLOW, cached(load<u32>(pkt + PKT_HASH)));
  }
  touchFlows(list, n);
  const missed = privateBase + S_MISSED;
  let misses = 0;
  for (let i = 0; i < n; i++) {
    const pkt = load<u32>(list + (i << 2));
    const flow = load<u32>(pkt + PKT_FLOW);
    if (isOf(flow, load<u32>(pkt + PKT_KEY))) continue;
    store<u32>(missed + (misses << 2), pkt);
    misses++;
  }
  addStat(WK_CACHE_HITS, <f64>(n - misses));
  if (misses > 0) lookupMissed(missed, misses, inverse);
}

/**
 * Sets PKT_FLOW of the packets at the front of the list that belong to the megaflow of the first. Returns how many they
 * are. The outer headers of a tunnel differ in the source port, but have one megaflow.
 */
function likeFirst(list: u32, n: i32): i32 {
  const first = load<u32>(list);
  const key = load<u32>(first + PKT_KEY);
  let flow = cached(keyHash(key));
  if (!isOf(flow, key)) flow = search(key);
  if (flow === 0) return 0;
  let i = 0;
  for (; i < n; i++) {
    const pkt = load<u32>(list + (i << 2));
    if (!flowMatches(load<u32>(pkt + PKT_KEY), flow)) break;
    store<u32>(pkt + PKT_FLOW, flow);
  }
  return i;
}

/** Loads a word of each line of flows and counters that is going to be needed, so that the misses overlap. */
function touchFlows(list: u32, n: i32): void {
  let sum: u32 = 0;
  let last: u32 = 0;
  for (let i = 0; i < n; i++) {
    const pkt = load<u32>(list + (i << 2));
    const flow = load<u32>(pkt + PKT_FLOW);
    if (flow === last || flow === 0) continue;
    last = flow;
    sum ^= load<u32>(flow + FL_STATE) ^ load<u32>(flow + FL_KEY) ^ load<u32>(countersOf(flow));
    // Behind a tunnel, and with IPv6, another line counts.
    const lines = load<u32>(load<u32>(pkt + PKT_KEY) + KEY_LINES);
    if (lines & LINE1) sum ^= load<u32>(flow + FL_KEY + 64);
    if (lines & LINE3) sum ^= load<u32>(flow + FL_KEY + 192);
  }
  keepTouched(sum);
}

/**
 * Sets PKT_FLOW of packets that the cache does not know by PKT_HASH. `inverse`: 0 = without the microflow cache; n = one flow in n
 * goes into it.
 */
export function lookupMissed(missed: u32, n: i32, inverse: u32): void {
  let hits = 0;
  probes = 0;
  for (let i = 0; i < n; i++) {
    const pkt = load<u32>(missed + (i << 2));
    const key = load<u32>(pkt + PKT_KEY);
    const hash = load<u32>(pkt + PKT_HASH);
    // An earlier packet of this burst may have brought the flow into the cache.
    let flow = inverse === 0 ? 0 : cached(hash);
    if (!isOf(flow, key)) {
      flow = search(key);
      if (flow !== 0 && inverse !== 0 && !isOuter(flow)) insert(hash, flow, inverse);
    }
    if (flow !== 0) hits++;
    store<u32>(pkt + PKT_FLOW, flow);
  }
  addStat(WK_FLOW_HITS, <f64>hits);
  addStat(WK_FLOW_PROBES, <f64>probes);
}

function isOf(flow: u32, key: u32): bool {
  return flow !== 0 && isLive(flow) && flowMatches(key, flow);
}

function isLive(flow: u32): bool {
  return atomic.load<u32>(flow + FL_STATE) === 1;
}

/**
 * Does the flow strip a tunnel's headers? There are as many source ports as flows inside, and all would take places in the
 * cache that those need; to search is quick for them, and likeFirst() spares most of that.
 */
function isOuter(flow: u32): bool {
  return (load<u32>(atomic.load<u32>(flow + FL_PROGRAM)) & 0xffff) === ACT_TUNNEL_POP;
}

function bucketOf(hash: u32): u32 {
  return CACHE_BASE + worker * CACHE_SIZE + (hash & (CACHE_BUCKETS - 1)) * CACHE_BUCKET_SIZE;
}

/** Four signatures, then four flow addresses. What finds no place in its bucket may stand in the other one of the cache line. */
export function cached(hash: u32): u32 {
  let bucket = bucketOf(hash);
  let equal = ways(bucket, hash);
  if (equal === 0) {
    bucket ^= CACHE_BUCKET_SIZE;
    equal = ways(bucket, hash);
    if (equal === 0) return 0;
  }
  return load<u32>(bucket + (ctz<u32>(equal) << 2), 16);
}

/** A bit for each place of a bucket that has the signature. */
function ways(bucket: u32, hash: u32): u32 {
  return i32x4.bitmask(i32x4.eq(v128.load(bucket), i32x4.splat(hash)));
}

/** A place that is free, or has a dead flow, is taken at once; one flow in `inverse` drives another one out. */
function insert(hash: u32, flow: u32, inverse: u32): void {
  const own = bucketOf(hash);
  const other = own ^ CACHE_BUCKET_SIZE;
  let place = placeOf(own, hash);
  if (place === 0) place = placeOf(other, hash);
  if (place === 0) place = freePlace(own);
  if (place === 0) place = freePlace(other);
  if (place === 0) {
    if (++insertions < inverse) return;
    insertions = 0;
    place = own + ((hash >> 30) << 2);
  }
  store<u32>(place, hash);
  store<u32>(place, flow, 16);
}

/** Where a bucket has the signature, 0 = nowhere. */
function placeOf(bucket: u32, hash: u32): u32 {
  const equal = ways(bucket, hash);
  return equal === 0 ? 0 : bucket + (ctz<u32>(equal) << 2);
}

function freePlace(bucket: u32): u32 {
  for (let place = bucket; place < bucket + 16; place += 4) {
    const flow = load<u32>(place, 16);
    if (flow === 0 || !isLive(flow)) return place;
  }
  return 0;
}

/** The simple flow (contract/table.ts) of a key, 0 = none, or not to be found so. */
export function findSimple(key: u32): u32 {
  const inverse = load<u32>(CONTROL_BASE + CTL_CACHE_INSERT_INV_PROB);
  if (inverse === 0) return search(key, true);
  const hash = hashSimple(key);
  let flow = cached(hash);
  if (flow !== 0 && isLive(flow) && isSimple(flow) && flowMatches(key, flow)) return flow;
  flow = search(key, true);
  if (flow !== 0) insert(hash, flow, inverse);
  return flow;
}

function isSimple(flow: u32): bool {
  return load<u32>(load<u32>(flow + FL_SUBTABLE) + ST_SIMPLE) !== 0;
}

/** The megaflow of `key`, 0 = none. `simple`: nothing beyond Ethernet was parsed, which must do. */
export function search(key: u32, simple: bool = false): u32 {
  const port = bswap<u32>(load<u32>(key + K_IN_PORT));
  if (port >= <u32>MAX_PORTS) return 0;
  let list = atomic.load<u32>(portAddress(port) + PT_MASKS);
  if (list === 0) return 0;
  while (true) {
    const subtable = atomic.load<u32>(list);
    if (subtable === 0) return 0;
    if (simple && load<u32>(subtable + ST_SIMPLE) === 0) return 0;
    list += 4;
    probes++;
    const hash = flowHash(key, subtable);
    let flow = atomic.load<u32>(FLOW_INDEX_BASE + (hash & (FLOW_INDEX_BUCKETS - 1)) * 4);
    while (flow !== 0) {
      if (
        load<u32>(flow + FL_HASH) === hash &&
        load<u32>(flow + FL_SUBTABLE) === subtable &&
        isLive(flow) &&
        flowMatches(key, flow)
      ) {
        const hits =
          SUBTABLE_HITS_BASE + (worker * SUBTABLES_MAX + load<u32>(subtable + ST_INDEX)) * 4;
        store<u32>(hits, load<u32>(hits) + 1);
        return flow;
      }
      flow = atomic.load<u32>(flow + FL_NEXT);
    }
  }
}
