// Actions that hold programs of their own: ACT_CLONE, ACT_SAMPLE and ACT_CHECK_PKT_LEN. The nested program runs on a clone of the
// packet, with a key of its own, or on the packet itself when nothing comes after it. One packet at a time: outputs are
// gathered per port all the same.

import { DROP_BAD_ACTION, DROP_RECIRC_LIMIT } from '../contract/drop.ts';
import { PKT_IN_PORT, PKT_LEN, PKT_TRUNC } from '../contract/packet.ts';
import { execute } from './act.ts';
import { cloneWithKey, release } from './batch.ts';
import { countDrop } from './drop.ts';
import { NEST_MAX, S_NEST } from './scratch.ts';
import { nowMs, privateBase } from './worker.ts';

let depth: u32 = 0;
/** Which packets are sampled must not repeat with the pattern of the traffic; nobody has to be unable to guess it. */
let randomState: u32 = 1;

function random(): u32 {
  randomState = randomState * 1664525 + 1013904223 + <u32>nowMs;
  return randomState ^ (randomState >> 16);
}

/** At the start of a worker. */
export function resetNested(): void {
  depth = 0;
}

function run(program: u32, pkt: u32, last: bool, modified: bool): void {
  const copy = last ? pkt : cloneWithKey(pkt);
  if (copy === 0 || depth === NEST_MAX) {
    countDrop(load<u32>(pkt + PKT_IN_PORT), copy === 0 ? DROP_RECIRC_LIMIT : DROP_BAD_ACTION);
    if (copy !== 0) release(copy);
    return;
  }
  const list = privateBase + S_NEST + depth * 4;
  store<u32>(list, copy);
  depth++;
  execute(program, list, 1, modified);
  depth--;
  if (!last) store<u32>(pkt + PKT_TRUNC, 0);
}

/** Runs ACT_CLONE's program for each packet. */
export function cloneAll(operands: u32, list: u32, n: i32, last: bool, modified: bool): void {
  for (let i = 0; i < n; i++) run(operands + 4, load<u32>(list + (i << 2)), last, modified);
}

/** Runs ACT_SAMPLE's program on clones of some of the packets. */
export function sampleAll(operands: u32, list: u32, n: i32, modified: bool): void {
  const probability = load<u32>(operands);
  for (let i = 0; i < n; i++) {
    if (random() > probability) continue;
    run(operands + 4, load<u32>(list + (i << 2)), false, modified);
  }
}

/** Runs, for each packet, the program of ACT_CHECK_PKT_LEN that its length chooses. */
export function checkLengthAll(operands: u32, list: u32, n: i32, last: bool, modified: bool): void {
  const length = load<u32>(operands);
  const larger = operands + 8;
  const others = larger + (load<u32>(operands, 4) << 2);
  for (let i = 0; i < n; i++) {
    const pkt = load<u32>(list + (i << 2));
    run(load<u32>(pkt + PKT_LEN) > length ? larger : others, pkt, last, modified);
  }
}
