// Bursts of many flows whose programs are all "output to a port", the most common of all: no packet has to be sorted to
// its flow. Each packet is counted on its own and goes to its port's batch in the order in which it came.

import { ACT_END, ACT_OUTPUT } from '../contract/action.ts';
import { K_TCP_FLAGS } from '../contract/key.ts';
import { PKT_FLOW, PKT_HASH, PKT_KEY, PKT_LEN, PKT_MARK } from '../contract/packet.ts';
import { FL_PROGRAM } from '../contract/table.ts';
import { outputList } from './batch.ts';
import { countFlow, MARK_UNPARSED } from './burst.ts';
import { S_DIRECT } from './scratch.ts';
import { privateBase } from './worker.ts';

const OUTPUT: u32 = (ACT_OUTPUT as u32) | (2 << 16);
const END: u32 = (ACT_END as u32) | (1 << 16);

/** Does all that is to be done with the packets of `list`, or nothing: false if a flow has another program, or none. */
export function outputDirectly(list: u32, n: i32): bool {
  const ports = privateBase + S_DIRECT;
  for (let i = 0; i < n; i++) {
    const flow = load<u32>(load<u32>(list + (i << 2)) + PKT_FLOW);
    if (flow === 0) return false;
    const program = atomic.load<u32>(flow + FL_PROGRAM);
    if (load<u32>(program) !== OUTPUT || load<u32>(program, 8) !== END) return false;
    store<u32>(ports + (i << 2), load<u32>(program, 4));
  }
  for (let i = 0; i < n; i++) {
    const pkt = load<u32>(list + (i << 2));
    const tcpFlags =
      load<u32>(pkt + PKT_MARK) & MARK_UNPARSED
        ? load<u32>(pkt + PKT_HASH)
        : load<u16>(load<u32>(pkt + PKT_KEY) + K_TCP_FLAGS);
    countFlow(load<u32>(pkt + PKT_FLOW), 1, load<u32>(pkt + PKT_LEN), tcpFlags);
  }
  let from = 0;
  while (from < n) {
    const port = load<u32>(ports + (from << 2));
    let to = from + 1;
    while (to < n && load<u32>(ports + (to << 2)) === port) to++;
    outputList(list + (from << 2), to - from, port);
    from = to;
  }
  return true;
}
