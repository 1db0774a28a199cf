// How long a cache line takes from one core to another: two threads, each on its core, pass a number to and fro. It bounds what any
// switch between guests can reach, and tells cores that share one (some 10 ns) from those of one cache (some 20) and of several.
//
// The host of a virtual machine may move its cores while it runs: near each other most of the time, then for seconds so far that a line
// takes five times as long, and every switch between them is half as fast. So this is asked before and after each round (bench/placement.ts).
//
// This file is also the thread.

import { once } from 'node:events';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { setRealtime, setThreadAffinity } from '../src/sys/process.ts';

const TURNS = 200;
const SLICES = 60;
/** Before the compiler has it. */
const FIRST_SLICES = 1000;
/** Words that are alone on their cache lines (and those that are fetched along with them). */
const WORD = 64;
/** Ahead of switch and generator: it takes two milliseconds. */
const PRIORITY = 20;

/** Looks at the other side's word: a second or so. */
const PATIENCE = 200_000_000;

interface Side {
  words: Int32Array;
  core: number;
  /** Waits for odd numbers and makes them even, or the other way round. */
  first: boolean;
}

/** Best of several slices: whoever took the core away meanwhile does not count. Nanoseconds one way; infinite: the other side has no core. */
function play({ words, first }: Side, slices: number): number {
  let best = Number.POSITIVE_INFINITY;
  let turn = first ? 0 : 1;
  for (let slice = 0; slice < slices; slice++) {
    const from = performance.now();
    turn = rally(words, turn);
    if (turn < 0) return Number.POSITIVE_INFINITY;
    best = Math.min(best, performance.now() - from);
  }
  return (best * 1e6) / (2 * TURNS);
}

/** The turn behind the last, or -1: the other side does not play. A function of its own, so that the compiler has it after a few slices. */
function rally(words: Int32Array, first: number): number {
  let turn = first;
  for (let i = 0; i < TURNS; i++) {
    let patience = PATIENCE;
    while (Atomics.load(words, WORD) !== turn) {
      // Somebody with the other core, and a real-time priority as high as this one, may be waiting for this core.
      if (--patience === 0) return -1;
    }
    Atomics.store(words, WORD, turn + 1);
    turn += 2;
  }
  return turn;
}

/** Two threads that wait to be asked. */
export class CacheLine implements AsyncDisposable {
  readonly #words = new Int32Array(new SharedArrayBuffer(4 * 4 * WORD));
  readonly #sides: Worker[];
  #slices = FIRST_SLICES;

  constructor(a: number, b: number) {
    this.#sides = [a, b].map((core, i) => {
      const workerData: Side = { words: this.#words, core, first: i === 0 };
      const worker = new Worker(new URL(import.meta.url), { workerData });
      worker.unref();
      return worker;
    });
  }

  /** Nanoseconds one way. */
  async ns(): Promise<number> {
    Atomics.store(this.#words, WORD, 0);
    const results = await Promise.all(
      this.#sides.map((side) => {
        side.postMessage(this.#slices);
        return once(side, 'message');
      }),
    );
    this.#slices = SLICES;
    return Math.min(...results.map(([ns]) => ns as number));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#sides.map((side) => side.terminate()));
  }
}

function answer(side: Side): void {
  setThreadAffinity([side.core]);
  parentPort!.on('message', (slices: number) => {
    let ahead = false;
    try {
      setRealtime(0, PRIORITY);
      ahead = true;
    } catch {
      // Without the right to do so it takes longer.
    }
    const ns = play(side, slices);
    if (ahead) setRealtime(0, 0);
    parentPort!.postMessage(ns);
  });
}

if (!isMainThread && (workerData as Side | null)?.words instanceof Int32Array) {
  answer(workerData as Side);
}
