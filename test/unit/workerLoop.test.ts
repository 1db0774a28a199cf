// The host loop of a worker and its clock: they must not allocate, for a garbage collection stops the worker for as long
// as it takes to forward thousands of packets (src/sys/clock.ts).

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { getHeapStatistics } from 'node:v8';
import { Worker } from 'node:worker_threads';
import { FQ_ENTRIES, FQ_EPOCH, FQ_FD, FQ_STYLE, FRAME_TAP } from '../../contract/frame.ts';
import {
  CONTROL_BASE,
  CTL_PATIENCE_US,
  WK_ACK,
  WK_POLLS,
  WK_RXQ,
  WK_RXQ_COUNT,
  WK_STOP,
  WORKER_BASE,
} from '../../contract/memory.ts';
import { Q_KIND, QUEUE_FRAME, queueAddress } from '../../contract/port.ts';
import { dataPlaneImports } from '../../src/engine/dataPlane.ts';
import { HostIo } from '../../src/engine/hostio.ts';
import { type DataPlane, HostLoop } from '../../src/engine/hostLoop.ts';
import { SteadyClock } from '../../src/sys/clock.ts';
import { eventfdCreate } from '../../src/sys/eventfd.ts';
import { closeFd } from '../../src/sys/fd.ts';

test('the clock of a loop agrees with hrtime and never goes back', () => {
  const origin = process.hrtime.bigint() - 5_000_000_000n;
  const clock = new SteadyClock(origin);
  let last = clock.time[0]!;
  for (let i = 0; i < 50_000; i++) {
    const before = Number(process.hrtime.bigint() - origin);
    clock.tick();
    const now = clock.time[0]!;
    const after = Number(process.hrtime.bigint() - origin);
    assert.ok(now >= last, `${now} after ${last}`);
    // What passes between two calls of a whole reading is left out, and made up for by the next.
    assert.ok(now <= after, `${now} is ahead of ${after}`);
    if (i % 5000 === 0) {
      clock.readWhole();
      assert.ok(clock.time[0]! >= before, `${clock.time[0]} is behind ${before}`);
    }
    last = clock.time[0]!;
  }
});

test('a worker that polls queues allocates nothing', async () => {
  const memory = new WebAssembly.Memory({ initial: 65536, maximum: 65536, shared: true });
  const words = new Int32Array(memory.buffer);
  const stats = new Float64Array(memory.buffer);
  const set = (address: number, value: number): number => (words[address >> 2] = value);

  // A silent device: reads say "try again". The generation is another one, so that the loop looks at its queues.
  const silentFd = eventfdCreate();
  const queue = queueAddress(1);
  set(queue + Q_KIND, QUEUE_FRAME);
  set(queue + FQ_FD, silentFd);
  set(queue + FQ_STYLE, FRAME_TAP);
  set(queue + FQ_ENTRIES, 64);
  set(queue + FQ_EPOCH, 1);
  set(WORKER_BASE + WK_RXQ_COUNT, 1);
  set(WORKER_BASE + WK_RXQ, 1);
  set(WORKER_BASE + WK_ACK, 7);
  set(CONTROL_BASE, 7);
  set(CONTROL_BASE + CTL_PATIENCE_US, 1e9);

  const module = new WebAssembly.Module(readFileSync('build/dataplane.wasm'));
  const imports = dataPlaneImports(memory, () => 0);
  const dataPlane = new WebAssembly.Instance(module, imports).exports as unknown as DataPlane;
  const clock = new SteadyClock(process.hrtime.bigint());
  const io = new HostIo(memory, 0, clock.time);
  const [bellFd, mainFd] = [eventfdCreate(), eventfdCreate()];
  const loop = new HostLoop({ words, worker: 0, bellFd, mainFd, io, clock });
  dataPlane.start(0, 0);

  const stop = WORKER_BASE + WK_STOP;
  const stopper = new Worker(
    `const { workerData: { memory, at, clockAt } } = require('node:worker_threads');
     const words = new Int32Array(memory.buffer);
     setInterval(() => Atomics.store(words, at, 1), 300);`,
    { eval: true, workerData: { memory, at: stop >> 2 } },
  );
  try {
    const polls = (): number => stats[(WORKER_BASE + WK_POLLS) >> 3]!;
    const allocated = (): number => getHeapStatistics().total_allocated_bytes;
    let bytesPerTurn = Number.POSITIVE_INFINITY;
    // The compiler takes its time on a busy machine; before it has been there, any number costs memory.
    for (const end = Date.now() + 30_000; bytesPerTurn > 1 && Date.now() < end; ) {
      set(stop, 0);
      const [bytes, turns] = [allocated(), polls()];
      loop.run(dataPlane);
      const ran = polls() - turns;
      if (ran > 1000) bytesPerTurn = (allocated() - bytes) / ran;
    }
    assert.ok(bytesPerTurn <= 1, `${bytesPerTurn} bytes a turn`);
  } finally {
    await stopper.terminate();
    for (const fd of [silentFd, bellFd, mainFd]) closeFd(fd);
  }
});
