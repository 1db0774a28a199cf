// A worker thread that sleeps wakes for whatever comes: a guest sends some packets and is silent, twenty thousand times, while
// the main thread injects packets and changes what workers have to acknowledge. What would be a second for a packet (the time
// after which a sleeper looks by itself) must not happen, whatever the load of the machine: it is not time that is measured,
// but whether the thread is asleep in the kernel with a packet before it.
//
// workerSleep.test.ts goes through all orders of the calls; this finds what is between the instructions.

import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { ACT_END } from '../../contract/action.ts';
import { WK_SLEEPS, WK_STATE, WORKER_BASE } from '../../contract/memory.ts';
import { Q_ENABLED, QUEUE_PACKED, QUEUE_SPLIT, queueAddress } from '../../contract/port.ts';
import { build } from '../../scripts/build.ts';
import { createEngine, type DataPlaneEngine } from '../../src/engine/engine.ts';
import { eventfdCreate } from '../../src/sys/eventfd.ts';
import { closeFd } from '../../src/sys/fd.ts';
import { GUEST_BYTES, KickingGuest, RING_KINDS } from '../net/kickingGuest.ts';

const ROUNDS = 7000;
/** Or as many as there is time for: a machine may be busy. */
const TIME_MS = 4000;
const PATIENCE_MS = 50;
/** Rounds in which packets met a worker that slept. */
const ASLEEP_LEAST = 50;

let engine: DataPlaneEngine;
const silence = new Int32Array(new SharedArrayBuffer(4));

before(async () => {
  await build();
  engine = createEngine({ onUpcall: () => {} });
  engine.setPatience(0);
});
after(() => engine.close());

/** The thread of worker 0, R, S and so on: state in /proc/<pid>/task/<tid>/stat. */
function workerStat(): string {
  for (const tid of readdirSync('/proc/self/task')) {
    const stat = readFileSync(`/proc/self/task/${tid}/stat`, 'utf8');
    if (stat.includes('(xvio-pmd0)'))
      return stat.slice(stat.lastIndexOf(')') + 2, stat.lastIndexOf(')') + 3);
  }
  throw new Error('no thread of a worker');
}

for (const kind of RING_KINDS) {
  test(`a guest that sends now and then, ${kind}`, async () => {
    const port = engine.addPort();
    const kickFd = eventfdCreate();
    const queue = engine.addQueue(port, {
      direction: 'rx',
      index: 0,
      kind: kind === 'packed' ? QUEUE_PACKED : QUEUE_SPLIT,
      waitFd: kickFd,
    });
    const base = engine.allocArena(GUEST_BYTES, 4096);
    new Uint8Array(engine.memory.buffer, base, GUEST_BYTES).fill(0);
    const view = new DataView(engine.memory.buffer);
    view.setUint32(queueAddress(queue) + Q_ENABLED, 1, true);
    const guest = new KickingGuest(engine.memory, base, kind, queueAddress(queue), port, kickFd);
    engine.setPort(port, { relay: port });
    engine.attachQueue(queue);
    await engine.quiesce();

    const state = (): number => view.getInt32(WORKER_BASE + WK_STATE, true);
    const sleeps = (): number => view.getFloat64(WORKER_BASE + WK_SLEEPS, true);
    /** Asleep, now and a while later, and not awake in between. */
    const isLost = (): boolean => {
      const before = sleeps();
      for (let look = 0; look < 5; look++) {
        if (look > 0) Atomics.wait(silence, 0, 0, 10);
        if (state() !== 2 || workerStat() !== 'S' || sleeps() !== before) return false;
      }
      return guest.pending() > 0;
    };
    const actions = Uint32Array.of(ACT_END | (1 << 16));
    const frame = new Uint8Array(60);
    const endMs = performance.now() + TIME_MS;
    let metAsleep = 0;
    let rounds = 0;
    for (; rounds < ROUNDS && performance.now() < endMs; rounds++) {
      // Some microseconds: the way to sleep is about as long.
      for (let left = Math.random() * 2000; left > 0; left--) state();
      if (rounds % 7 === 0) engine.inject({ inPort: port, frame, actions });
      if (rounds % 50 === 0) void engine.quiesce();
      if (rounds % 50 === 25) await new Promise((resolve) => setImmediate(resolve));
      if (state() === 2) metAsleep++;
      guest.publish(1 + Math.floor(Math.random() * 50));
      guest.kick();
      const sentMs = performance.now();
      for (let looks = 0; guest.pending() > 0; looks++) {
        // On a machine with one free core the worker needs this one.
        if (looks > 2000) Atomics.wait(silence, 0, 0, 0.05);
        if (looks % 1000 !== 999 || performance.now() - sentMs < PATIENCE_MS) continue;
        assert.ok(!isLost(), `asleep with ${guest.pending()} packets before it, round ${rounds}`);
      }
    }
    assert.ok(metAsleep >= Math.min(ASLEEP_LEAST, rounds / 10), `${metAsleep} of ${rounds} rounds`);
    await engine.detachQueue(queue);
    engine.removeQueue(queue);
    engine.freeArena(base);
    closeFd(kickFd);
    await engine.removePort(port);
  });
}
