// The host loop of a worker and its clock: they must not allocate, for a garbage collection stops the worker for as long
// as it takes to forward thousands of packets (src/sys/clock.ts).

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import path from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { ACT_DROP, ACT_END } from '../../contract/action.ts';
import { DROP_NONE } from '../../contract/drop.ts';
import {
  CONTROL_BASE,
  CTL_CLOCK_SKEW_NS,
  CTL_PATIENCE_US,
  CTL_UPCALLS_ENABLED,
  WK_BUSY_NS,
  WK_IDLE_NS,
  WK_RXQ,
  WORKER_BASE,
} from '../../contract/memory.ts';
import { Q_BROKEN, Q_KIND, QUEUE_SPLIT, queueAddress } from '../../contract/port.ts';
import { SteadyClock } from '../../src/sys/clock.ts';
import type { Turns } from '../net/silentLoop.ts';
import { ethernet } from '../oracle/frames.ts';
import { Rig } from '../oracle/rig.ts';

const loopFile = path.join(import.meta.dirname, '..', 'net', 'silentLoop.ts');

test('the clock of a loop agrees with hrtime and never goes back', () => {
  const origin = process.hrtime.bigint() - 5_000_000_000n;
  const clock = new SteadyClock(origin);
  let last = clock.readWhole();
  let low = clock.lowNs;
  let whole = 0;
  for (let i = 0; i < 50_000; i++) {
    const before = Number(process.hrtime.bigint() - origin);
    const due = clock.look();
    // What passes between the two calls of a whole reading is left out, and made up for by the next.
    const isExact = due || i % 5000 === 0;
    const now = isExact ? clock.readWhole() : last + ((clock.lowNs - low) >>> 0);
    const after = Number(process.hrtime.bigint() - origin);
    assert.ok(now >= last, `${now} after ${last}`);
    assert.ok(now <= after, `${now} is ahead of ${after}`);
    if (isExact) assert.ok(now >= before, `${now} is behind ${before}`);
    if (due) whole++;
    last = now;
    low = clock.lowNs;
  }
  // The whole time is due a few times a second, not in each turn.
  assert.ok(whole <= 1 + (last - 5e9) / 1e8, `${whole} in ${last - 5e9} ns`);
});

test('the data plane adds up the low halves of the clock, past their end and past a new whole', async () => {
  const { dataPlane, memory } = await Rig.create();
  const stat = (offset: number): number => memory.f64[(WORKER_BASE + offset) >> 3]!;
  memory.store(CONTROL_BASE + CTL_PATIENCE_US, 1_000);
  dataPlane.start(0, 5e9, 0x7ffffff0);
  assert.equal(dataPlane.poll(-0x7ffffff0), 0); // 32 ns later, with a sign by now
  assert.equal(stat(WK_IDLE_NS), 32);
  assert.equal(dataPlane.poll(-16), -1); // two seconds without a packet
  assert.equal(stat(WK_IDLE_NS), 0x80000000);
  assert.equal(dataPlane.poll(16), -1); // from negative to positive
  assert.equal(stat(WK_IDLE_NS), 0x80000020);
  dataPlane.setTime(25e9, 7);
  dataPlane.poll(8);
  assert.equal(stat(WK_IDLE_NS), 20e9 + 1);
  // Asleep for a second: neither busy nor idle, and one patience from the end.
  dataPlane.wakeUp(8 + 1e9);
  assert.equal(dataPlane.poll(8 + 1e9 + 1_000_000), 0);
  assert.equal(dataPlane.poll(8 + 1e9 + 1_000_001), -1);
  assert.equal(stat(WK_IDLE_NS), 20e9 + 1 + 1_000_001);
});

test('what stops the time in tests moves the use of flows, not the times that are measured', async () => {
  const rig = await Rig.create();
  const port = rig.addPort();
  const { key, mask } = Rig.matchPort(port);
  const flow = rig.flows.put(key, mask, Uint32Array.of(ACT_DROP | (2 << 16), DROP_NONE, ACT_END));
  const { f64 } = rig.memory;
  f64[(CONTROL_BASE + CTL_CLOCK_SKEW_NS) >> 3] = 3e12;
  rig.send(port, ethernet(0x0800, new Uint8Array(46)));
  assert.equal(rig.poll(), 1);
  assert.equal(rig.flows.stats(flow).usedMs, rig.nowNs / 1e6 + 3e6);
  rig.poll();
  assert.equal(f64[(WORKER_BASE + WK_BUSY_NS) >> 3], 1000);
});

test('a breath that has met few packets looks again, and does not count that look as work', async () => {
  const rig = await Rig.create();
  const port = rig.addPort();
  const { key, mask } = Rig.matchPort(port);
  rig.flows.put(key, mask, Uint32Array.of(ACT_DROP | (2 << 16), DROP_NONE, ACT_END));
  const { f64 } = rig.memory;
  const busyAsOf = (packets: number): number => {
    const before = f64[(WORKER_BASE + WK_BUSY_NS) >> 3]!;
    for (let i = 0; i < packets; i++) rig.send(port, ethernet(0x0800, new Uint8Array(46)));
    assert.equal(rig.poll(), packets);
    assert.equal(rig.poll(), 0);
    return f64[(WORKER_BASE + WK_BUSY_NS) >> 3]! - before;
  };
  // A microsecond for eight looks at one queue.
  for (let i = 0; i < 500; i++) rig.poll();
  assert.equal(Math.round(busyAsOf(1)), 125);
  assert.equal(Math.round(busyAsOf(9)), 1000);
  // Whom the main thread has to be told of does not wait for another look.
  rig.set(CTL_UPCALLS_ENABLED, 1);
  const stranger = rig.addPort();
  const idle = f64[(WORKER_BASE + WK_IDLE_NS) >> 3]!;
  rig.send(stranger, ethernet(0x0800, new Uint8Array(46)));
  assert.equal(rig.poll(), 1);
  const last = f64[(WORKER_BASE + WK_IDLE_NS) >> 3]!;
  assert.ok(last - idle >= 1000, 'of the breath before');
  rig.poll();
  assert.equal(f64[(WORKER_BASE + WK_IDLE_NS) >> 3], last);
});

test('a worker that has devices of the kernel alone gives its core back five times as soon, however long it was awake', async () => {
  const rig = await Rig.create();
  const port = rig.addPort();
  rig.set(CTL_PATIENCE_US, 100);
  for (let i = 0; i < 50_000; i++) {
    if (i % 50 === 0) rig.send(port, ethernet(0x0800, new Uint8Array(46)));
    rig.poll();
  }
  rig.send(port, ethernet(0x0800, new Uint8Array(46)));
  assert.equal(rig.poll(), 1);
  const { dataPlane } = rig;
  dataPlane.setTime(rig.nowNs + 19_000, 0);
  assert.equal(dataPlane.poll(0), 0);
  assert.equal(dataPlane.poll(2000), -1);
  // With a guest among its queues, which would have to kick it, it waits as long as for any other packet.
  rig.addPort();
  const guest = queueAddress(rig.memory.get(WORKER_BASE + WK_RXQ + 4));
  rig.memory.set(guest + Q_BROKEN, 1);
  rig.memory.set(guest + Q_KIND, QUEUE_SPLIT);
  assert.equal(dataPlane.poll(80_000), 0);
  assert.equal(dataPlane.poll(82_000), -1);
});

// Before V8 has compiled anything, with its quick compilers only, and with all of them.
const stages = {
  'in the interpreter': ['--no-opt', '--no-maglev', '--no-sparkplug'],
  'in baseline code': ['--no-opt', '--no-maglev', '--always-sparkplug'],
  'in code of the first optimizer': ['--no-opt'],
  'on the way to optimized code': [],
};
for (const [when, flags] of Object.entries(stages)) {
  test(`a worker that polls allocates nothing ${when}`, async () => {
    const runMs = 300;
    const { stdout } = await promisify(execFile)(
      process.execPath,
      [
        '--disable-warning=ExperimentalWarning',
        '--min-semi-space-size=64',
        ...flags,
        loopFile,
        String(runMs),
      ],
      { timeout: 60_000 },
    );
    const { turns, bytes } = JSON.parse(stdout) as Turns;
    assert.ok(turns > 1000, `${turns} turns`);
    // A number on the heap has 16 bytes. Beside the turns: the device is asked at most five times a millisecond, which costs
    // a hundred bytes (src/sys/clock.ts), and the first turns remember what they have met.
    const aside = runMs * 5 * 200 + 150_000;
    assert.ok(bytes >= 0 && bytes <= turns + aside, `${bytes} bytes in ${turns} turns`);
  });
}
