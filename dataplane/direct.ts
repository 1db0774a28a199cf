// Bursts of many flows whose programs are all "output to a port" or "into a tunnel, then output to a port", the most
// common of all: no packet has to be sorted to its flow. Each packet is counted, and encapsulated, on its own and goes to
// its port's batch in the order in which it came.

import { ACT_END, ACT_OUTPUT, ACT_TUNNEL_PUSH } from '../contract/action.ts';
import { DROP_NONE } from '../contract/drop.ts';
import { K_TCP_FLAGS } from '../contract/key.ts';
import { PKT_FLOW, PKT_HASH, PKT_IN_PORT, PKT_KEY, PKT_LEN, PKT_MARK } from '../contract/packet.ts';
import { FL_PROGRAM } from '../contract/table.ts';
import { outputList, release } from './batch.ts';
import { countFlow, parseMarked } from './burst.ts';
import { countDrop } from './drop.ts';
import { MARK_UNPARSED } from './mark.ts';
import { S_DIRECT, S_DIRECT_PUSH } from './scratch.ts';
import { isSegmented, push } from './tunnel/push.ts';
import { privateBase } from './worker.ts';

const OUTPUT: u32 = (ACT_OUTPUT as u32) | (2 << 16);
const END: u32 = (ACT_END as u32) | (1 << 16);

/** Does all that is to be done with the packets of `list`, or nothing: false if a flow has another program, or none. */
export function outputDirectly(list: u32, n: i32): bool {
  const ports = privateBase + S_DIRECT;
  const pushes = privateBase + S_DIRECT_PUSH;
  let anyPush = false;
  for (let i = 0; i < n; i++) {
    const pkt = load<u32>(list + (i << 2));
    const flow = load<u32>(pkt + PKT_FLOW);
    if (flow === 0) return false;
    let program = atomic.load<u32>(flow + FL_PROGRAM);
    const header = load<u32>(program);
    let operands: u32 = 0;
    if ((header & 0xffff) === ACT_TUNNEL_PUSH) {
      // One packet becomes several.
      if (isSegmented(pkt)) return false;
      operands = program + 4;
      program += (header >> 16) << 2;
      anyPush = true;
    }
    if (load<u32>(program) !== OUTPUT || load<u32>(program, 8) !== END) return false;
    store<u32>(ports + (i << 2), load<u32>(program, 4));
    store<u32>(pushes + (i << 2), operands);
  }
  for (let i = 0; i < n; i++) {
    const pkt = load<u32>(list + (i << 2));
    const tcpFlags =
      load<u32>(pkt + PKT_MARK) & MARK_UNPARSED
        ? load<u32>(pkt + PKT_HASH)
        : load<u16>(load<u32>(pkt + PKT_KEY) + K_TCP_FLAGS);
    countFlow(load<u32>(pkt + PKT_FLOW), 1, load<u32>(pkt + PKT_LEN), tcpFlags);
  }
  outputInRuns(list, anyPush ? pushEach(list, n) : n);
  return true;
}

/** Outputs the packets of `list` to their ports (S_DIRECT), runs of the same port together. */
export function outputInRuns(list: u32, n: i32): void {
  const ports = privateBase + S_DIRECT;
  let from = 0;
  while (from < n) {
    const port = load<u32>(ports + (from << 2));
    let to = from + 1;
    while (to < n && load<u32>(ports + (to << 2)) === port) to++;
    outputList(list + (from << 2), to - from, port);
    from = to;
  }
}

/** Encapsulates the packets that have to be. Those that cannot be are dropped and leave the list. Returns how many are left. */
function pushEach(list: u32, n: i32): i32 {
  const ports = privateBase + S_DIRECT;
  const pushes = privateBase + S_DIRECT_PUSH;
  let kept = 0;
  for (let i = 0; i < n; i++) {
    const pkt = load<u32>(list + (i << 2));
    const operands = load<u32>(pushes + (i << 2));
    if (operands !== 0) {
      parseMarked(pkt);
      const reason = push(pkt, operands);
      if (reason !== DROP_NONE) {
        countDrop(load<u32>(pkt + PKT_IN_PORT), reason);
        release(pkt);
        continue;
      }
    }
    store<u32>(list + (kept << 2), pkt);
    store<u32>(ports + (kept << 2), load<u32>(ports + (i << 2)));
    kept++;
  }
  return kept;
}
