// The main thread's turns with upcalls: what it tells the workers about itself, and that none gets lost.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CONTROL_BASE, CTL_STARVED, CTL_UPCALL_ARMED, UPCALL_BASE } from '../../contract/memory.ts';
import { RING_TAIL } from '../../contract/ring.ts';
import { UpcallReader } from '../../src/engine/upcallReader.ts';
import { ethernet, ipv4, udp } from '../oracle/frames.ts';
import { Rig } from '../oracle/rig.ts';

const FRAME = ethernet(0x0800, ipv4(17, udp(1, 2, new Uint8Array(20))));

/** A rig with as many upcalls in its ring, and a reader for them with a clock by hand. */
async function reader(upcalls: number, onUpcall: () => void) {
  const rig = await Rig.create();
  const port = rig.addPort();
  const miss = (n: number): void => {
    for (let i = 0; i < n; i++) rig.send(port, FRAME);
    rig.poll();
  };
  miss(upcalls);
  const log: string[] = [];
  const time = { now: 1000, cpu: 10 };
  const turns = new UpcallReader(
    rig.memory,
    { onUpcall, log: (_, text) => log.push(text) },
    { nowMs: () => time.now, cpuMs: () => time.cpu },
  );
  turns.addWorker(0);
  const control = (offset: number): number => rig.memory.load(CONTROL_BASE + offset);
  return { rig, miss, turns, time, control, log };
}

test('a turn in which others had the core says so for a while, others do not', async () => {
  let spend: () => void = () => {};
  const { miss, turns, time, control } = await reader(2, () => spend());
  spend = () => {
    time.now += 1;
    time.cpu += 0.99;
  };
  turns.turn();
  assert.equal(control(CTL_STARVED), 0);
  // Too short to tell.
  spend = () => {
    time.now += 0.05;
  };
  miss(2);
  turns.turn();
  assert.equal(control(CTL_STARVED), 0);
  spend = () => {
    time.now += 1;
    time.cpu += 0.6;
  };
  miss(2);
  turns.turn();
  assert.equal(control(CTL_STARVED), 1);
  time.now += 90;
  turns.turn();
  assert.equal(control(CTL_STARVED), 1);
  time.now += 20;
  turns.turn();
  assert.equal(control(CTL_STARVED), 0);
  turns.close();
});

test('an upcall that fails costs itself, and the ring is read to its end', async () => {
  let handled = 0;
  const { rig, turns, control, log } = await reader(100, () => {
    if (++handled % 2 === 0) throw new Error('stumbled');
  });
  turns.turn();
  assert.equal(handled, 100);
  assert.equal(log.length, 50);
  assert.match(log[0]!, /^upcall of port \d+: Error: stumbled/);
  assert.equal(turns.waiting, false);
  assert.equal(control(CTL_UPCALL_ARMED), 1);
  assert.notEqual(rig.memory.load(UPCALL_BASE + RING_TAIL), 0);
  turns.close();
});
