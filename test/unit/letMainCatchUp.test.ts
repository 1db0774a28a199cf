// When a worker leaves its core to the main thread: a pile of upcalls, and next to nothing else to do.

import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import {
  CONTROL_BASE,
  CTL_STARVED,
  UPCALL_BASE,
  WK_FLOW_HITS,
  WK_MISSES,
  WK_STOP,
  WORKER_BASE,
} from '../../contract/memory.ts';
import { RING_HEAD } from '../../contract/ring.ts';
import { HostIo } from '../../src/engine/hostio.ts';
import { type DataPlane, HostLoop } from '../../src/engine/hostLoop.ts';
import { EngineMemory } from '../../src/engine/memory.ts';
import type { SteadyClock } from '../../src/sys/clock.ts';

const PILE = 80 * 1024;

interface Turn {
  hits: number;
  misses: number;
}

/** How often a worker naps in turns 0.1 ms apart that meet so many packets. */
function naps(t: TestContext, pile: number, starved: boolean, turns: readonly Turn[]): number {
  const mem = new EngineMemory();
  const stats = new Float64Array(mem.memory.buffer);
  const wait = t.mock.method(Atomics, 'wait', () => 'timed-out' as const);
  mem.set(UPCALL_BASE + RING_HEAD, pile);
  mem.set(CONTROL_BASE + CTL_STARVED, starved ? 1 : 0);
  let lowNs = 1e9;
  const clock = {
    get lowNs() {
      return lowNs;
    },
    look: () => {
      lowNs = (lowNs + 100_000) | 0;
      return false;
    },
    readWhole: () => lowNs,
  } as SteadyClock;
  const io = new HostIo(mem.memory, 0, clock);
  const loop = new HostLoop({ words: mem.i32, worker: 0, bellFd: -1, mainFd: -1, io, clock });
  let turn = 0;
  const dataPlane: Partial<DataPlane> = {
    setTime: () => {},
    poll: () => {
      const { hits, misses } = turns[turn++]!;
      stats[(WORKER_BASE + WK_FLOW_HITS) >> 3]! += hits;
      stats[(WORKER_BASE + WK_MISSES) >> 3]! += misses;
      if (turn === turns.length) mem.store(WORKER_BASE + WK_STOP, 1);
      return hits + misses;
    },
  };
  loop.run(dataPlane as DataPlane);
  assert.equal(turn, turns.length);
  for (const { arguments: given } of wait.mock.calls) {
    assert.ok((given[3] as number) < 1, 'no nap is without an end');
  }
  const count = wait.mock.callCount();
  wait.mock.restore();
  return count;
}

const of = (hits: number, misses: number): Turn[] => Array(50).fill({ hits, misses });

test('nothing but new flows, and a pile of them: a nap in each turn', (t) => {
  assert.equal(naps(t, PILE, false, of(0, 32)), 50);
  assert.equal(naps(t, PILE, true, of(0, 32)), 50);
});

test('no pile, no nap', (t) => {
  assert.equal(naps(t, 1024, true, of(0, 32)), 0);
  assert.equal(naps(t, 1024, true, of(1, 32)), 0);
});

test('packets of known flows keep a worker awake as long as the main thread has its core', (t) => {
  assert.equal(naps(t, PILE, false, of(1, 32)), 0);
  assert.equal(naps(t, PILE, false, of(0, 0)), 0);
});

test('a starved main thread is let in between a few of them, not between many', (t) => {
  assert.ok(naps(t, PILE, true, of(1, 32)) > 25);
  // 320 000 a second; a worker that has known no rate yet may take the first turn for a quiet one.
  assert.ok(naps(t, PILE, true, of(32, 32)) <= 1);
});
