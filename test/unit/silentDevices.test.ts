// Silent devices: a worker that is busy with other queues hands them to the main thread's event loop, gets them back with the first
// frame, and misses none even if that loop stands still (src/engine/silentDevices.ts, src/engine/hostio.ts). The devices are
// eventfds: a frame is what one read gives.

import assert from 'node:assert/strict';
import { closeSync, openSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  FQ_ENTRIES,
  FQ_EPOCH,
  FQ_FD,
  FQ_HEAD,
  FQ_IOVS,
  FQ_MSGS,
  FQ_REAL,
  FQ_STYLE,
  FQ_TAIL,
  FQ_WATCH,
  FRAME_TAP,
  WATCH_NEVER,
  WATCH_NONE,
  WATCH_SET,
  WATCH_WANTED,
} from '../../contract/frame.ts';
import { ARENA_BASE, CONTROL_BASE, CTL_WATCHES_WANTED } from '../../contract/memory.ts';
import { Q_KIND, QUEUE_FRAME, queueAddress } from '../../contract/port.ts';
import { HostIo } from '../../src/engine/hostio.ts';
import { EngineMemory } from '../../src/engine/memory.ts';
import { SilentDevices } from '../../src/engine/silentDevices.ts';
import { eventfdCreate, eventfdSignal, eventfdTake } from '../../src/sys/eventfd.ts';
import { closeFd } from '../../src/sys/fd.ts';

const QUEUE = 3;
const mem = new EngineMemory();
const q = queueAddress(QUEUE);
let device = -1;
let epoch = 0;

before(() => {
  device = eventfdCreate();
});
after(() => closeFd(device));

const watch = (): number => mem.get(q + FQ_WATCH);
const isWanted = (): number => mem.get(CONTROL_BASE + CTL_WATCHES_WANTED);

/** A fresh queue of the device. */
function enter(fd: number): void {
  const iovs = ARENA_BASE;
  const view = new DataView(mem.memory.buffer);
  view.setBigUint64(iovs, mem.base + BigInt(iovs + 4096), true);
  view.setBigUint64(iovs + 8, 64n, true);
  view.setBigUint64(q + FQ_REAL, mem.base, true);
  const words: [number, number][] = [
    [FQ_FD, fd],
    [FQ_STYLE, FRAME_TAP],
    [FQ_ENTRIES, 1],
    [FQ_IOVS, iovs],
    [FQ_MSGS, iovs + 2048],
    [FQ_EPOCH, ++epoch],
    [FQ_HEAD, 0],
    [FQ_TAIL, 0],
    [FQ_WATCH, WATCH_NONE],
    [Q_KIND, QUEUE_FRAME],
  ];
  for (const [offset, value] of words) mem.set(q + offset, value);
  mem.set(CONTROL_BASE + CTL_WATCHES_WANTED, 0);
  eventfdTake(device);
}

/** A worker's half, and its time in microseconds. */
class Asker {
  readonly #clock = { lowNs: 0 };
  readonly io = new HostIo(mem.memory, 0, this.#clock);

  /** After that time. The frame is done with at once. */
  ask(afterUs: number): number {
    this.#clock.lowNs = (this.#clock.lowNs + afterUs * 1000) | 0;
    const n = this.io.rxFrames(QUEUE, false);
    mem.set(q + FQ_TAIL, mem.get(q + FQ_HEAD));
    return n;
  }

  /** Until it has had enough. Returns how long that took. */
  tire(): number {
    for (let us = 0; us < 1_000_000; us += 10) {
      if (watch() === WATCH_WANTED) return us;
      assert.equal(this.ask(10), 0);
    }
    return assert.fail('it would ask for ever');
  }
}

test('a device that is silent for a tenth of a second is handed over, and asked seldom from then on', () => {
  enter(device);
  const asker = new Asker();
  const us = asker.tire();
  assert.ok(us >= 100_000 && us < 120_000, `${us} µs`);
  assert.equal(watch(), WATCH_WANTED);
  assert.equal(isWanted(), 1);
  // Nobody has taken it yet: as before.
  eventfdSignal(device);
  assert.equal(asker.ask(100), 0);
  assert.equal(asker.ask(101), 1);
  assert.equal(watch(), WATCH_NONE, 'no longer wanted');

  asker.tire();
  mem.set(q + FQ_WATCH, WATCH_SET);
  assert.equal(asker.ask(201), 0);
  eventfdSignal(device);
  assert.equal(asker.ask(1900), 0, 'left alone');
  assert.equal(asker.ask(101), 1, 'whoever should wait for it was busy');
  assert.equal(watch(), WATCH_NONE);
});

test('what the main thread has seen is fetched at once', () => {
  enter(device);
  const asker = new Asker();
  asker.tire();
  mem.set(q + FQ_WATCH, WATCH_SET);
  asker.ask(201);
  eventfdSignal(device);
  assert.equal(asker.ask(10), 0);
  mem.set(q + FQ_WATCH, WATCH_NONE);
  assert.equal(asker.ask(0), 1);
  // If another has taken it meanwhile, it is asked as often as any device that has just gone silent.
  assert.equal(asker.ask(1), 0);
  eventfdSignal(device);
  assert.equal(asker.ask(2), 1);
});

test('a device that cannot be watched is asked as before', () => {
  enter(device);
  const asker = new Asker();
  mem.set(q + FQ_WATCH, WATCH_NEVER);
  for (let i = 0; i < 2000; i++) assert.equal(asker.ask(201), 0);
  eventfdSignal(device);
  assert.equal(asker.ask(201), 1);
  assert.equal(watch(), WATCH_NEVER);
});

async function until(condition: () => boolean, what: string): Promise<void> {
  for (const end = Date.now() + 30_000; !condition(); await sleep(1)) {
    assert.ok(Date.now() < end, what);
  }
}

const want = (): void => {
  mem.set(q + FQ_WATCH, WATCH_WANTED);
  mem.set(CONTROL_BASE + CTL_WATCHES_WANTED, 1);
};

test('the event loop waits for a device once it is asked to, and gives it back when it has something', async () => {
  enter(device);
  const devices = new SilentDevices(mem);
  try {
    want();
    devices.look([]);
    assert.equal(watch(), WATCH_WANTED, 'of a queue that is being detached');
    for (const times of [1, 2]) {
      want();
      devices.look([1, QUEUE]);
      assert.equal(isWanted(), 0);
      assert.equal(watch(), WATCH_SET, `${times}`);
      await sleep(5);
      assert.equal(watch(), WATCH_SET);
      eventfdSignal(device);
      await until(() => watch() === WATCH_NONE, 'it is not given back');
      eventfdTake(device);
    }
    eventfdSignal(device);
    // There before anybody waits for it: told all the same.
    want();
    devices.look([QUEUE]);
    await until(() => watch() === WATCH_NONE, 'what was there before is not seen');
    eventfdTake(device);
    want();
    devices.look([QUEUE]);
    devices.forget(QUEUE);
    assert.equal(watch(), WATCH_NONE, 'it may come back');
    mem.set(q + FQ_WATCH, WATCH_SET);
    eventfdSignal(device);
    await sleep(5);
    assert.equal(watch(), WATCH_SET, 'nobody waits for a queue that has gone');
  } finally {
    devices.close();
  }
});

test('a descriptor that cannot be waited for stays with the worker', () => {
  const file = openSync(import.meta.filename, 'r');
  const devices = new SilentDevices(mem);
  try {
    enter(file);
    want();
    devices.look([QUEUE]);
    assert.equal(watch(), WATCH_NEVER);
  } finally {
    devices.close();
    closeSync(file);
  }
});
