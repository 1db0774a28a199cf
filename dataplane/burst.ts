// A burst through the pipeline: look up → group by flow → act → (recirculated packets again) → transmit.

import { UPCALL_MISS } from '../contract/action.ts';
import { DROP_RECIRC_LIMIT, DROP_UPCALL_NO_FLOW } from '../contract/drop.ts';
import { K_TCP_FLAGS } from '../contract/key.ts';
import { CONTROL_BASE, CTL_UPCALLS_ENABLED } from '../contract/memory.ts';
import { PKT_FLOW, PKT_HASH, PKT_IN_PORT, PKT_KEY, PKT_LEN, PKT_MARK } from '../contract/packet.ts';
import { FC_BYTES, FC_PACKETS, FC_TCP_FLAGS, FC_USED_MS, FL_PROGRAM } from '../contract/table.ts';
import { execute, takeRecirculated } from './act.ts';
import { flushBatches, release } from './batch.ts';
import { outputDirectly } from './direct.ts';
import { countDrop } from './drop.ts';
import { lookup } from './lookup.ts';
import { MARK_REWRITTEN, MARK_UNPARSED } from './mark.ts';
import { parseAgain, parseOne } from './parse.ts';
import { S_BURST, S_GROUP_OF, S_GROUP_TABLE, S_GROUPS, S_SORTED } from './scratch.ts';
import { isKeyless } from './simple.ts';
import { upcall } from './upcall.ts';
import { countersOf, nowMs, privateBase } from './worker.ts';

const GROUP_TABLE_SIZE: u32 = 1024;
const RECIRC_MAX = 8; // look-ups of one packet after the first, as in the Linux datapath
const CHUNK = 256; // packets grouped at a time: the table of groups never fills

let stamp: u32 = 0;

/** At the start of a worker: what an instance before this one has left in the table of groups means nothing. */
export function resetGroups(): void {
  stamp = 0;
  memory.fill(privateBase + S_GROUP_TABLE, 0, GROUP_TABLE_SIZE * 8);
}

/** Runs the `n` parsed packets of S_BURST to the end; every batch has been transmitted on return. */
export function runBurst(n: i32): void {
  const burst = privateBase + S_BURST;
  lookupAndAct(burst, n);
  finishBurst();
}

/** Looks up what was recirculated, until nothing is left, and transmits. */
export function finishBurst(): void {
  const burst = privateBase + S_BURST;
  for (let round = 0; ; round++) {
    const n = takeRecirculated(burst);
    if (n === 0) break;
    if (round === RECIRC_MAX) {
      for (let i = 0; i < n; i++) {
        const pkt = load<u32>(burst + (i << 2));
        countDrop(load<u32>(pkt + PKT_IN_PORT), DROP_RECIRC_LIMIT);
        release(pkt);
      }
      break;
    }
    for (let i = 0; i < n; i++) parseRewritten(load<u32>(burst + (i << 2)));
    for (let i = 0; i < n; i += CHUNK) lookupAndAct(burst + (i << 2), min(CHUNK, n - i));
  }
  flushBatches();
}

function lookupAndAct(list: u32, n: i32): void {
  lookup(list, n);
  const only = sameFlow(list, n);
  if (only !== 0) {
    countPackets(only, list, n);
    execute(atomic.load<u32>(only + FL_PROGRAM), list, n);
    return;
  }
  actByFlow(list, n, false);
}

/** Runs the programs of the packets' flows (PKT_FLOW). `marked`: some may not have been parsed (MARK_UNPARSED). */
export function actByFlow(list: u32, n: i32, marked: bool): void {
  if (outputDirectly(list, n)) return;
  const groups = groupByFlow(list, n);
  const group = privateBase + S_GROUPS;
  const sorted = privateBase + S_SORTED;
  for (let g = 0; g < groups; g++) {
    const at = group + (g << 4);
    const flow = load<u32>(at);
    const count = <i32>load<u32>(at, 4);
    const start = sorted + (load<u32>(at, 8) << 2);
    if (flow === 0) {
      miss(start, count);
    } else {
      countPackets(flow, start, count);
      const program = atomic.load<u32>(flow + FL_PROGRAM);
      if (marked && !isKeyless(program)) {
        for (let i = 0; i < count; i++) parseMarked(load<u32>(start + (i << 2)));
      }
      execute(program, start, count);
    }
  }
}

/** The flow of all packets, 0 if they have several or none. */
function sameFlow(list: u32, n: i32): u32 {
  const flow = load<u32>(load<u32>(list) + PKT_FLOW);
  for (let i = 1; i < n; i++) {
    if (load<u32>(load<u32>(list + (i << 2)) + PKT_FLOW) !== flow) return 0;
  }
  return flow;
}

/**
 * Sorts the packets by flow, keeping their order within a flow (a counting sort). Groups come in the order of their
 * first packets. Returns the number of groups; flow 0 is a group like any other.
 */
function groupByFlow(list: u32, n: i32): i32 {
  const groups = privateBase + S_GROUPS;
  const table = privateBase + S_GROUP_TABLE;
  const groupOf = privateBase + S_GROUP_OF;
  const sorted = privateBase + S_SORTED;
  let count: u32 = 0;
  stamp = (stamp + 1) & 0xffff;
  if (stamp === 0) {
    memory.fill(table, 0, GROUP_TABLE_SIZE * 8);
    stamp = 1;
  }
  let previousFlow: u32 = ~0;
  let previousGroup: u32 = 0;
  for (let i = 0; i < n; i++) {
    const flow = load<u32>(load<u32>(list + (i << 2)) + PKT_FLOW);
    if (flow !== previousFlow) {
      previousFlow = flow;
      let slot = ((flow >> 7) * 0x9e3779b1) >> 22;
      while (true) {
        const entry = table + slot * 8;
        const value = load<u32>(entry, 4);
        if (value >> 16 !== stamp) {
          store<u32>(entry, flow);
          store<u32>(entry, (stamp << 16) | count, 4);
          store<u32>(groups + (count << 4), flow);
          store<u32>(groups + (count << 4), 0, 4);
          previousGroup = count++;
          break;
        }
        if (load<u32>(entry) === flow) {
          previousGroup = value & 0xffff;
          break;
        }
        slot = (slot + 1) & (GROUP_TABLE_SIZE - 1);
      }
    }
    store<u16>(groupOf + (i << 1), <u16>previousGroup);
    const size = groups + (previousGroup << 4);
    store<u32>(size, load<u32>(size, 4) + 1, 4);
  }
  let start: u32 = 0;
  for (let g: u32 = 0; g < count; g++) {
    const at = groups + (g << 4);
    store<u32>(at, start, 8);
    store<u32>(at, start, 12); // where the next packet of the group goes
    start += load<u32>(at, 4);
  }
  for (let i = 0; i < n; i++) {
    const at = groups + ((<u32>load<u16>(groupOf + (i << 1))) << 4);
    const place = load<u32>(at, 12);
    store<u32>(sorted + (place << 2), load<u32>(list + (i << 2)));
    store<u32>(at, place + 1, 12);
  }
  return <i32>count;
}

/** Parses a simple match after all: it is a packet like any other from then on. */
export function parseMarked(pkt: u32): void {
  const mark = load<u32>(pkt + PKT_MARK);
  if ((mark & MARK_UNPARSED) === 0) return;
  parseOne(pkt);
  store<u32>(pkt + PKT_MARK, mark & ~MARK_UNPARSED);
}

/** Parses a packet that is looked up again, unless nothing but metadata has changed since it was parsed. */
function parseRewritten(pkt: u32): void {
  const mark = load<u32>(pkt + PKT_MARK);
  if ((mark & MARK_REWRITTEN) === 0) return;
  parseAgain(pkt);
  store<u32>(pkt + PKT_MARK, mark & ~MARK_REWRITTEN);
}

function countPackets(flow: u32, list: u32, n: i32): void {
  let bytes: u32 = 0;
  let tcpFlags: u32 = 0;
  for (let i = 0; i < n; i++) {
    const pkt = load<u32>(list + (i << 2));
    bytes += load<u32>(pkt + PKT_LEN);
    tcpFlags |=
      load<u32>(pkt + PKT_MARK) & MARK_UNPARSED
        ? load<u32>(pkt + PKT_HASH)
        : load<u16>(load<u32>(pkt + PKT_KEY) + K_TCP_FLAGS);
  }
  countFlow(flow, n, bytes, tcpFlags);
}

/** `tcpFlags` as they stand in the packet. */
export function countFlow(flow: u32, n: i32, bytes: u32, tcpFlags: u32): void {
  const counters = countersOf(flow);
  store<f64>(counters + FC_PACKETS, load<f64>(counters + FC_PACKETS) + <f64>n);
  store<f64>(counters + FC_BYTES, load<f64>(counters + FC_BYTES) + <f64>bytes);
  store<f64>(counters + FC_USED_MS, nowMs);
  if (tcpFlags !== 0) {
    const flags: u32 = bswap<u16>(<u16>tcpFlags);
    store<u32>(counters + FC_TCP_FLAGS, load<u32>(counters + FC_TCP_FLAGS) | flags);
  }
}

function miss(list: u32, n: i32): void {
  const enabled = load<u32>(CONTROL_BASE + CTL_UPCALLS_ENABLED) !== 0;
  for (let i = 0; i < n; i++) {
    const pkt = load<u32>(list + (i << 2));
    if (enabled) {
      upcall(pkt, UPCALL_MISS, 0, 0xffff);
    } else {
      countDrop(load<u32>(pkt + PKT_IN_PORT), DROP_UPCALL_NO_FLOW);
    }
    release(pkt);
  }
}
