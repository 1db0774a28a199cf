// A worker that falls asleep misses nothing. The host loop and the data plane as they are, in one thread, with what guests and
// the main thread do put at every place between their calls, in every order (a search through all of them): whenever
// poll(2) would wait, all that was asked for before has been done.
//
//   guest:  buffers visible → is a kick wanted? → kick
//   main:   injection, counters to be cleared → does it sleep? → bell      stop → bell
//           list of queues → does it sleep? → bell → generation → does it sleep? → bell

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { before, describe, test } from 'node:test';
import { ACT_END } from '../../contract/action.ts';
import {
  FQ_ENTRIES,
  FQ_EPOCH,
  FQ_FD,
  FQ_HEAD,
  FQ_IOVS,
  FQ_MSGS,
  FQ_REAL,
  FQ_STYLE,
  FRAME_TAP,
} from '../../contract/frame.ts';
import {
  ARENA_BASE,
  CONTROL_BASE,
  CTL_GENERATION,
  CTL_PATIENCE_US,
  CTL_WORKERS,
  INJECT_BASE,
  WK_CLEAR,
  WK_RXQ,
  WK_RXQ_COUNT,
  WK_STATE,
  WK_STOP,
  WORKER_BASE,
  WORKER_SIZE,
} from '../../contract/memory.ts';
import {
  PORT_SIZE,
  portAddress,
  Q_ENABLED,
  Q_KIND,
  Q_PORT,
  Q_WAIT_FD,
  QUEUE_FRAME,
  QUEUE_PACKED,
  QUEUE_SIZE,
  QUEUE_SPLIT,
  queueAddress,
} from '../../contract/port.ts';
import { RING_HEAD, RING_TAIL } from '../../contract/ring.ts';
import { NOTIFY_OFF, VQ_NOTIFY } from '../../contract/virtqueue.ts';
import { build } from '../../scripts/build.ts';
import { dataPlaneImports } from '../../src/engine/dataPlane.ts';
import { Grace } from '../../src/engine/grace.ts';
import { HostIo } from '../../src/engine/hostio.ts';
import { type DataPlane, HostLoop } from '../../src/engine/hostLoop.ts';
import { EngineMemory } from '../../src/engine/memory.ts';
import { Ports } from '../../src/engine/ports.ts';
import { InjectRing } from '../../src/engine/rings.ts';
import { RxScheduler } from '../../src/engine/rxq.ts';
import type { SteadyClock } from '../../src/sys/clock.ts';
import { eventfdCreate, eventfdSignal } from '../../src/sys/eventfd.ts';
import { closeFd, duplicateFd, pollRaw } from '../../src/sys/fd.ts';
import { NativeBuffer } from '../../src/sys/ffi.ts';
import { GUEST_BYTES, KickingGuest, RING_KINDS, type RingKind } from '../net/kickingGuest.ts';

const mem = new EngineMemory();
const PORT = 1;
let dataPlane: DataPlane;

before(async () => {
  await build();
  const module = new WebAssembly.Module(readFileSync('build/dataplane.wasm'));
  const imports = dataPlaneImports(mem.memory, () => 0);
  dataPlane = new WebAssembly.Instance(module, imports).exports as unknown as DataPlane;
});

const word = (offset: number): number => mem.load(WORKER_BASE + offset);

/** Something that happens in steps, one behind the other, and must have had its effect when the worker waits. */
interface Actor {
  name: string;
  steps: (() => void)[];
  /** What has not been done yet; asked only between steps that belong together. */
  owed: () => string | undefined;
  /** So many steps belong together. */
  stride: number;
}

/** One run: a worker that has been idle for ever, one queue, a bell. */
class Run {
  readonly bellFd = eventfdCreate();
  readonly mainFd = eventfdCreate();
  readonly kickFd = eventfdCreate();
  readonly guest: KickingGuest;
  tickNs = 1e6;
  /** Goes on by a tick with each look. */
  readonly clock = {
    lowNs: 0,
    look: (): boolean => {
      this.clock.lowNs = (this.clock.lowNs + this.tickNs) | 0;
      return false;
    },
    readWhole: (): number => this.clock.lowNs,
  } as SteadyClock;
  /** Whether descriptors that ready() does not know may wake the worker. */
  othersWake = false;
  private readonly fds = new NativeBuffer(16);

  constructor(kind: RingKind) {
    mem.u8.fill(0, WORKER_BASE, WORKER_BASE + WORKER_SIZE);
    mem.set(INJECT_BASE + RING_TAIL, mem.get(INJECT_BASE + RING_HEAD));
    mem.set(CONTROL_BASE + CTL_GENERATION, 0);
    mem.set(CONTROL_BASE + CTL_PATIENCE_US, 0);
    mem.set(CONTROL_BASE + CTL_WORKERS, 1);
    mem.set(WORKER_BASE + WK_RXQ_COUNT, 1);
    mem.set(WORKER_BASE + WK_RXQ, 1);
    this.guest = this.enter(1, kind);
    for (const [i, fd] of [this.bellFd, this.kickFd].entries()) {
      this.fds.view.setInt32(i * 8, fd, true);
      this.fds.view.setUint16(i * 8 + 4, 1, true);
    }
  }

  /** A guest at the port, with the queue, of this number. */
  enter(number: number, kind: RingKind): KickingGuest {
    const q = queueAddress(number);
    const base = ARENA_BASE + number * GUEST_BYTES;
    mem.u8.fill(0, q, q + QUEUE_SIZE);
    mem.u8.fill(0, portAddress(number), portAddress(number) + PORT_SIZE);
    mem.u8.fill(0, base, base + GUEST_BYTES);
    mem.set(q + Q_KIND, kind === 'packed' ? QUEUE_PACKED : QUEUE_SPLIT);
    mem.set(q + Q_PORT, number);
    mem.set(q + Q_ENABLED, 1);
    mem.set(q + Q_WAIT_FD, this.kickFd);
    return new KickingGuest(mem.memory, base, kind, q, number, this.kickFd);
  }

  /** Would poll(2) return at once? */
  ready(): boolean {
    return pollRaw(this.fds.address, 2, 0) > 0;
  }

  /** The main thread's half of what workers.ts does. */
  wake(): void {
    if (word(WK_STATE) === 2) eventfdSignal(this.bellFd);
  }

  close(): void {
    for (const fd of [this.bellFd, this.mainFd, this.kickFd]) closeFd(fd);
  }

  /** `between`: called at every place between two calls; `true` = poll(2) comes next. Turns before it counts as a hang. */
  play(between: (sleeps: boolean) => void): void {
    const { clock } = this;
    const io = new HostIo(mem.memory, 0, clock);
    const { bellFd, mainFd } = this;
    const loop = new HostLoop({ words: mem.i32, worker: 0, bellFd, mainFd, io, clock });
    dataPlane.start(0, 0, 0);
    let turns = 0;
    loop.run({
      ...dataPlane,
      poll: (lowNs) => {
        assert.ok(++turns < 1000, 'the worker does not come to rest');
        between(false);
        const n = dataPlane.poll(lowNs);
        between(false);
        return n;
      },
      sleep: () => {
        between(false);
        const asleep = dataPlane.sleep();
        between(asleep !== 0);
        return asleep;
      },
      wakeUp: (lowNs) => {
        assert.ok(this.othersWake || this.ready(), 'woken by nothing but time');
        between(false);
        dataPlane.wakeUp(lowNs);
        between(false);
      },
    });
  }
}

/** All ways to put the actors' steps between the calls of the worker. Returns how many there were. */
function explore(kind: RingKind, makeActors: (run: Run) => Actor[]): number {
  // The choices made at the places of a run, and how many there were at each: the last that has another goes on.
  const path: { taken: number; of: number }[] = [];
  let runs = 0;
  for (;;) {
    const run = new Run(kind);
    const actors = makeActors(run);
    const done = actors.map(() => 0);
    const story: string[] = [];
    let depth = 0;
    const choose = (of: number): number => {
      path[depth] ??= { taken: 0, of };
      return path[depth++]!.taken;
    };
    const left = (): number[] =>
      [...actors.keys()].filter((i) => done[i]! < actors[i]!.steps.length);
    const between = (sleeps: boolean): void => {
      if (word(WK_STOP) === 1 && left().length === 0 && !sleeps) return;
      for (;;) {
        const open = left();
        const waits = sleeps && !run.ready();
        if (waits) {
          for (const [i, actor] of actors.entries()) {
            if (done[i] === 0 || done[i]! % actor.stride !== 0) continue;
            assert.equal(actor.owed(), undefined, `asleep; ${kind}: ${story.join(', ')}`);
          }
          if (open.length === 0) break;
        }
        // Nothing more happens here, unless the worker would wait for ever.
        const choices = waits ? open : [-1, ...open];
        const chosen = choices.length === 1 ? choices[0]! : choices[choose(choices.length)]!;
        if (chosen < 0) break;
        const step = done[chosen]!++;
        story.push(`${actors[chosen]!.name} ${step}`);
        actors[chosen]!.steps[step]!();
      }
      if (!sleeps) {
        story.push('.');
        return;
      }
      story.push('(sleep)');
      if (!run.ready()) {
        mem.store(WORKER_BASE + WK_STOP, 1);
        eventfdSignal(run.bellFd);
      }
    };
    try {
      run.play(between);
    } finally {
      run.close();
    }
    runs++;
    path.length = depth;
    while (path.length > 0 && path.at(-1)!.taken + 1 === path.at(-1)!.of) path.pop();
    if (path.length === 0) return runs;
    path.at(-1)!.taken++;
  }
}

const sends =
  (times: number) =>
  (run: Run): Actor => ({
    name: 'guest',
    stride: 2,
    steps: Array.from({ length: times }, () => [
      () => run.guest.publish(1),
      () => run.guest.kick(),
    ]).flat(),
    owed: () => (run.guest.pending() > 0 ? 'a packet' : undefined),
  });

const injects =
  (times: number) =>
  (run: Run): Actor => {
    const ring = new InjectRing(mem, 0);
    const injection = {
      inPort: PORT,
      frame: new Uint8Array(60),
      actions: Uint32Array.of(ACT_END | (1 << 16)),
    };
    const empty = (): boolean =>
      mem.get(INJECT_BASE + RING_TAIL) === mem.get(INJECT_BASE + RING_HEAD);
    return {
      name: 'injection',
      stride: 2,
      steps: Array.from({ length: times }, () => [
        () => assert.ok(ring.push(injection)),
        () => run.wake(),
      ]).flat(),
      owed: () => (empty() ? undefined : 'an injection'),
    };
  };

const stops = (run: Run): Actor => ({
  name: 'stop',
  stride: 2,
  steps: [() => mem.store(WORKER_BASE + WK_STOP, 1), () => void eventfdSignal(run.bellFd)],
  owed: () => (word(WK_STOP) === 1 ? 'the end' : undefined),
});

const clears = (run: Run): Actor => ({
  name: 'clear',
  stride: 2,
  steps: [() => mem.store(WORKER_BASE + WK_CLEAR, 1), () => run.wake()],
  owed: () => (word(WK_CLEAR) === 1 ? 'counters to be cleared' : undefined),
});

const raise = (): void =>
  mem.store(CONTROL_BASE + CTL_GENERATION, mem.get(CONTROL_BASE + CTL_GENERATION) + 1);

const raises = (): Actor => ({
  name: 'generation',
  stride: 1,
  // A sleeper counts as having acknowledged it: nobody rings.
  steps: [raise],
  owed: () => undefined,
});

/** The list is another one of the same length, by which a queue comes whose driver has been told not to kick. */
const exchanges = (run: Run): Actor => {
  const guest = run.enter(2, 'split');
  mem.set(queueAddress(2) + VQ_NOTIFY, NOTIFY_OFF);
  guest.silence();
  guest.publish(1);
  guest.kick();
  return {
    name: 'list',
    stride: 4,
    // As rxq.ts and grace.ts do it.
    steps: [() => mem.store(WORKER_BASE + WK_RXQ, 2), () => run.wake(), raise, () => run.wake()],
    owed: () => (guest.pending() > 0 ? 'a packet of the new queue' : undefined),
  };
};

describe('whatever comes at whatever moment, a worker that sleeps owes nothing', () => {
  for (const kind of RING_KINDS) {
    test(`packets, ${kind}`, () => {
      assert.ok(explore(kind, (run) => [sends(2)(run)]) > 300);
    });
  }
  test('packets and an injection', () => {
    assert.ok(explore('split, event index', (run) => [sends(1)(run), injects(1)(run)]) > 300);
  });
  test('packets while a generation is raised', () => {
    assert.ok(explore('split', (run) => [sends(1)(run), raises()]) > 50);
  });
  test('another list of queues, as long as the one before', () => {
    assert.ok(explore('split', (run) => [exchanges(run)]) > 50);
  });
  test('injections', () => {
    assert.ok(explore('split', (run) => [injects(2)(run)]) > 300);
  });
  test('counters to be cleared', () => {
    assert.ok(explore('split', (run) => [clears(run)]) > 10);
  });
  test('an injection, then the end: the bell that rang for one is not taken with that for the other', () => {
    assert.ok(explore('split', (run) => [injects(1)(run), stops(run)]) > 300);
  });
});

/** A receive queue of this number whose device is a descriptor: a frame is what one read gives. */
function enterTap(number: number, fd: number): void {
  const q = queueAddress(number);
  const iovs = ARENA_BASE + 8 * GUEST_BYTES;
  mem.u8.fill(0, q, q + QUEUE_SIZE);
  const view = new DataView(mem.memory.buffer);
  view.setBigUint64(iovs, mem.base + BigInt(iovs + 4096), true);
  view.setBigUint64(iovs + 8, 64n, true);
  view.setBigUint64(q + FQ_REAL, mem.base, true);
  mem.set(q + Q_PORT, number);
  mem.set(q + Q_WAIT_FD, fd);
  mem.set(q + FQ_FD, fd);
  mem.set(q + FQ_STYLE, FRAME_TAP);
  mem.set(q + FQ_ENTRIES, 1);
  mem.set(q + FQ_EPOCH, 1);
  mem.set(q + FQ_IOVS, iovs);
  mem.set(q + FQ_MSGS, iovs + 2048);
  mem.set(q + Q_KIND, QUEUE_FRAME);
}

test('a device whose queue leaves the list while it wakes the worker is not taken for a bell', () => {
  const run = new Run('split');
  run.othersWake = true;
  // Bells are taken before the device would be asked again by itself.
  run.tickNs = 10;
  const device = eventfdCreate();
  enterTap(2, device);
  mem.set(WORKER_BASE + WK_RXQ, 2);
  mem.set(WORKER_BASE + WK_RXQ + 4, 1);
  mem.set(WORKER_BASE + WK_RXQ_COUNT, 2);
  raise();
  let sleeps = 0;
  try {
    run.play((asleep) => {
      if (asleep) {
        sleeps++;
        eventfdSignal(sleeps === 1 ? device : run.bellFd);
        if (sleeps === 3) mem.store(WORKER_BASE + WK_STOP, 1);
      } else if (sleeps === 1 && mem.get(WORKER_BASE + WK_RXQ_COUNT) === 2) {
        // Just woken: the main thread has published the list, and not got to raising the generation.
        mem.store(WORKER_BASE + WK_RXQ_COUNT, 1);
        mem.store(WORKER_BASE + WK_RXQ, 1);
      }
    });
    assert.equal(mem.get(queueAddress(2) + FQ_HEAD), 1, 'the frame was read as one');
  } finally {
    run.close();
    closeFd(device);
  }
});

test('a front-end without kick descriptors is polled', () => {
  const run = new Run('split');
  mem.set(queueAddress(1) + Q_WAIT_FD, -1);
  let places = 0;
  try {
    run.play((sleeps) => {
      assert.ok(!sleeps, 'asleep, with nothing that could wake it');
      places++;
      if (places % 10 === 0) assert.equal(run.guest.pending(), 0);
      if (places % 10 === 1) run.guest.publish(1);
      if (places === 100) mem.store(WORKER_BASE + WK_STOP, 1);
    });
  } finally {
    run.close();
  }
  assert.equal(run.guest.sent, 10);
});

test('a device that has reported errors is looked at again, however often others wake the worker', () => {
  const run = new Run('split');
  run.tickNs = 10_000;
  run.othersWake = true;
  // POLLNVAL, and no read succeeds; a device that is down says POLLERR.
  const device = 700;
  const goodFd = eventfdCreate(1);
  enterTap(2, device);
  mem.set(WORKER_BASE + WK_RXQ + 4, 2);
  mem.set(WORKER_BASE + WK_RXQ_COUNT, 2);
  raise();
  let sleeps = 0;
  try {
    run.play((asleep) => {
      if (!asleep) return;
      sleeps++;
      if (sleeps === 20) duplicateFd(goodFd, device);
      if (sleeps === 30) mem.store(WORKER_BASE + WK_STOP, 1);
      // Somebody else has a packet every 40 ms.
      run.clock.lowNs += 40e6;
      run.guest.publish(1);
      run.guest.kick();
    });
    assert.equal(mem.get(queueAddress(2) + FQ_HEAD), 1);
  } finally {
    run.close();
    for (const fd of [device, goodFd]) closeFd(fd);
  }
});

test('who changes the list of a worker rings behind the generation', async () => {
  const grace = new Grace(mem, () => [0]);
  const ports = new Ports(mem);
  const generation = (): number => mem.load(CONTROL_BASE + CTL_GENERATION);
  const rung: number[] = [];
  const rx = new RxScheduler(mem, grace, ports, () => rung.push(generation()));
  await rx.setWorkers([{ id: 0, core: undefined }]);
  const queue = ports.addQueue(ports.add(undefined), {
    direction: 'rx',
    index: 0,
    kind: QUEUE_SPLIT,
    waitFd: -1,
  });
  for (const change of [() => rx.attach(queue), () => rx.detach(queue)]) {
    const before = generation();
    change();
    await new Promise((resolve) => setImmediate(resolve));
    assert.ok(generation() > before);
    assert.equal(rung.at(-1), generation());
  }
});

// The packed ring of this guest lasts for one lap.
for (const kind of ['split', 'split, event index'] as const) {
  test(`a worker that guests have kept awake for long waits longer for the next packet: ${kind}`, () => {
    const run = new Run(kind);
    const { guest } = run;
    mem.set(CONTROL_BASE + CTL_PATIENCE_US, 100);
    let nowUs = 0;
    const polled = (afterUs: number): number => {
      nowUs += afterUs;
      return dataPlane.poll((nowUs * 1000) | 0);
    };
    /** A packet in each of so many milliseconds. */
    const keepAwake = (ms: number): void => {
      for (let i = 0; i < ms * 20; i++) {
        guest.publish(1);
        assert.equal(polled(50), 1);
        assert.equal(guest.pending(), 0);
      }
    };
    /** Until it gives up. */
    const waitedUs = (): number => {
      for (let us = 10; us < 100_000; us += 10) if (polled(10) < 0) return us;
      return assert.fail('it would wait for ever');
    };
    try {
      dataPlane.start(0, 0, 0);
      assert.equal(waitedUs(), 110, 'without a packet');
      dataPlane.start(0, nowUs * 1000, (nowUs * 1000) | 0);
      keepAwake(16);
      assert.equal(waitedUs(), 1110, 'a sixteenth of 16 ms on top');
      keepAwake(100);
      assert.equal(waitedUs(), 2110, 'no more than 20 times as long on top');
      keepAwake(100);
      const waits = Array.from({ length: 3 }, () => {
        guest.publish(1);
        assert.equal(polled(10), 1);
        return waitedUs();
      });
      // A trickle does not keep it awake.
      assert.equal(waits[0], 2110);
      assert.ok(waits[1]! <= 120 && waits[2]! <= 120, `${waits} µs`);
      assert.notEqual(dataPlane.sleep(), 0);
      dataPlane.wakeUp((nowUs * 1000) | 0);
      keepAwake(0.05);
      const brief = waitedUs();
      assert.ok(brief >= 100 && brief <= 120, `${brief} µs behind one packet`);
    } finally {
      run.close();
    }
  });
}
