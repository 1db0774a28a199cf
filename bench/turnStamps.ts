// Loaded into each thread of a daemon (--import) by bench/turnStages.ts: how long the turns of a worker's host loop take, by what
// happened in them. The time of a turn is the difference of the times that the loop hands to poll() anyway, so the clock is not read
// once more; sums are small integers, since whatever allocates would make the very pauses that are looked for. What it
// writes, it writes when the worker goes to sleep.

import { appendFileSync } from 'node:fs';
import type { DataPlane } from '../src/engine/hostLoop.ts';
import { c } from '../src/sys/ffi.ts';
import { wrapDataPlane } from './preload.ts';

export const TURNS_FILE = 'XVIO_BENCH_TURNS';

/** Upper ends of the classes of turns: 128 ns, then each twice the one before. */
export const CLASSES = 24;
export const classEndNs = (index: number): number => 128 * 2 ** index;

/** What happened in a turn. Of several, the one that stands last here. */
export const CAUSES = [
  'nothing',
  'packets',
  'asks a device',
  'rings a bell',
  'takes a bell',
  'whole clock',
] as const;
const [PACKETS, DEVICE, RINGS, TAKES, CLOCK] = [1, 2, 3, 4, 5];

/** Of the time between two sleeps. */
export interface AwakeTurns {
  /** Of each cause, of each class: turns, nanoseconds. */
  turns: number[][];
  ns: number[][];
}

/** Numbers of turns and their nanoseconds by class, without allocations. */
export class TurnCounts {
  private readonly turns = new Int32Array(CAUSES.length * CLASSES);
  private readonly low = new Int32Array(CAUSES.length * CLASSES);
  /** 2^30 ns each. */
  private readonly high = new Int32Array(CAUSES.length * CLASSES);

  note(ns: number, cause: number): void {
    const index = Math.min(32 - Math.clz32(ns >> 7), CLASSES - 1);
    const at = cause * CLASSES + index;
    this.turns[at]!++;
    const sum = this.low[at]! + (ns & 0x3fffffff);
    this.low[at] = sum & 0x3fffffff;
    if (sum !== (sum & 0x3fffffff)) this.high[at]!++;
  }

  /** What there is, and back to nothing. */
  take(): AwakeTurns {
    const rows = (value: (at: number) => number): number[][] =>
      CAUSES.map((_, cause) =>
        Array.from({ length: CLASSES }, (_, index) => value(cause * CLASSES + index)),
      );
    const taken = {
      turns: rows((at) => this.turns[at]!),
      ns: rows((at) => this.low[at]! + this.high[at]! * 2 ** 30),
    };
    for (const counts of [this.turns, this.low, this.high]) counts.fill(0);
    return taken;
  }
}

function counted(plane: DataPlane, file: string): DataPlane {
  const counts = new TurnCounts();
  let cause = 0;
  // Devices are asked behind the look at the clock and before poll(): that is the next turn already.
  let next = 0;
  let lastNs = 0;
  let going = false;
  const because = (
    name: 'readv' | 'recvmmsg' | 'write' | 'read' | 'clock_gettime',
    what: number,
  ) => {
    // The calls take no more than five arguments, and spreading a list would allocate one.
    const call = c[name] as (...args: unknown[]) => unknown;
    const noted = (a: unknown, b: unknown, d: unknown, e: unknown, f: unknown): unknown => {
      if (what === DEVICE) next = what;
      else if (what > cause) cause = what;
      switch (name) {
        case 'clock_gettime':
          return call(a, b);
        case 'recvmmsg':
          return call(a, b, d, e, f);
        default:
          return call(a, b, d);
      }
    };
    Object.assign(c, { [name]: noted });
  };
  because('readv', DEVICE);
  because('recvmmsg', DEVICE);
  because('write', RINGS);
  because('read', TAKES);
  because('clock_gettime', CLOCK);
  return {
    ...plane,
    poll(lowNs) {
      if (going) counts.note((lowNs - lastNs) & 0x3fffffff, cause);
      going = true;
      lastNs = lowNs;
      cause = next;
      next = 0;
      const packets = plane.poll(lowNs);
      if (packets > 0 && cause === 0) cause = PACKETS;
      return packets;
    },
    sleep() {
      const may = plane.sleep();
      if (may) {
        appendFileSync(file, `${JSON.stringify(counts.take())}\n`);
        going = false;
      }
      return may;
    },
  };
}

wrapDataPlane(TURNS_FILE, counted);
