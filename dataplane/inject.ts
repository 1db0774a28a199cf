// Packets from the control plane: packet-outs, and packets of upcalls that come back with the program that was made
// for them. And those without a program, which a port says in its guest's name (the announcement of one that has moved):
// they are looked up as if they had been received, and a miss is an upcall. Consumer of the worker's inject ring (contract/ring.ts).

import { K_IN_PORT, KEY_SIZE } from '../contract/key.ts';
import { INJECT_BASE } from '../contract/memory.ts';
import {
  BURST_MAX,
  PKT_HEAD,
  PKT_HEAD_COPY,
  PKT_HEAD_LEN,
  PKT_HEAD_START,
  PKT_IN_PORT,
  PKT_KEY,
  PKT_LEN,
  PKT_RXQ,
  PKT_SEG_COUNT,
  PKT_SEGS,
  PKT_TRUNC,
  PKT_VNET_FLAGS,
  PV_PACKETS,
} from '../contract/packet.ts';
import {
  IN_ACTIONS,
  IN_DATA_LEN,
  IN_IN_PORT,
  IN_KEY_META,
  IN_LENGTH,
  IN_PROGRAM,
  IN_TYPE,
  IN_VNET,
  INJECT_EXECUTE,
  INJECT_RING_SIZE,
  RING_DATA,
  RING_DATA_SIZE,
  RING_FILLER,
  RING_HEAD,
  RING_TAIL,
} from '../contract/ring.ts';
import { execute } from './act.ts';
import { keyOf } from './batch.ts';
import { finishBurst, runBurst } from './burst.ts';
import { scanLines } from './key.ts';
import { parseAgain } from './parse.ts';
import { S_BURST } from './scratch.ts';
import { privateBase, worker } from './worker.ts';

/** Whether the ring holds nothing. */
export function injectEmpty(): bool {
  const ring = INJECT_BASE + worker * INJECT_RING_SIZE;
  return atomic.load<u32>(ring + RING_HEAD) === load<u32>(ring + RING_TAIL);
}

/** Where the next injection will be put. */
export function injectHead(): u32 {
  return atomic.load<u32>(INJECT_BASE + worker * INJECT_RING_SIZE + RING_HEAD);
}

/** Whether everything in front of this position has been run. */
export function injectedUpTo(head: u32): bool {
  return <i32>(load<u32>(INJECT_BASE + worker * INJECT_RING_SIZE + RING_TAIL) - head) >= 0;
}

/** Runs what is in the ring, up to a burst. Returns the number of packets. */
export function injectBurst(): i32 {
  const ring = INJECT_BASE + worker * INJECT_RING_SIZE;
  const head = atomic.load<u32>(ring + RING_HEAD);
  let tail = load<u32>(ring + RING_TAIL);
  let n = 0;
  while (tail !== head && n < BURST_MAX) {
    const record = ring + RING_DATA + (tail & (RING_DATA_SIZE - 1));
    if (load<u32>(record + IN_TYPE) !== RING_FILLER) {
      run(record);
      n++;
    }
    tail += load<u32>(record + IN_LENGTH);
    // One packet at a time: its payload lies in the ring until it has been transmitted.
    atomic.store<u32>(ring + RING_TAIL, tail);
  }
  return n;
}

function run(record: u32): void {
  const pkt = privateBase + PV_PACKETS;
  const words = load<u32>(record + IN_ACTIONS);
  const program = record + IN_PROGRAM;
  const data = program + ((words * 4 + 15) & ~15);
  const length = load<u32>(record + IN_DATA_LEN);
  const inHead = min<u32>(length, PKT_HEAD_COPY);
  memory.fill(pkt, 0, PKT_SEGS);
  const head = pkt + PKT_HEAD_START;
  memory.copy(head, data, inHead);
  store<u32>(pkt + PKT_HEAD, head);
  store<u32>(pkt + PKT_HEAD_LEN, inHead);
  store<u32>(pkt + PKT_LEN, length);
  if (length > inHead) {
    store<u32>(pkt + PKT_SEG_COUNT, 1);
    store<u32>(pkt + PKT_SEGS, data + inHead);
    store<u32>(pkt + PKT_SEGS, length - inHead, 4);
  }
  store<u64>(pkt + PKT_VNET_FLAGS, load<u64>(record + IN_VNET));
  store<u32>(pkt + PKT_IN_PORT, load<u32>(record + IN_IN_PORT));
  store<u32>(pkt + PKT_RXQ, ~0);
  store<u32>(pkt + PKT_TRUNC, 0);
  const key = keyOf(pkt);
  store<u32>(pkt + PKT_KEY, key);
  memory.copy(key, record + IN_KEY_META, KEY_SIZE);
  store<u32>(key + K_IN_PORT, bswap<u32>(load<u32>(record + IN_IN_PORT)));
  scanLines(key);
  parseAgain(pkt);
  const burst = privateBase + S_BURST;
  store<u32>(burst, pkt);
  if (load<u32>(record + IN_TYPE) === INJECT_EXECUTE) {
    execute(program, burst, 1);
    finishBurst();
  } else {
    runBurst(1);
  }
}
