// How long a cache line takes from one core to another: two threads, each on its core, pass a number to and fro. It bounds what any
// switch between guests can reach, and tells cores that share one (some 10 ns) from those of one cache (some 20) and of several.
//
// This file is also the thread.

import { once } from 'node:events';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { setThreadAffinity } from '../src/sys/process.ts';

const TURNS = 400;
const SLICES = 500;
/** Words that are alone on their cache lines (and those that are fetched along with them). */
const WORD = 64;

interface Side {
  words: Int32Array;
  core: number;
  /** Waits for odd numbers and makes them even, or the other way round. */
  first: boolean;
}

/** Best of several slices: whoever took the core away meanwhile does not count. Nanoseconds one way. */
function play({ words, core, first }: Side): number {
  setThreadAffinity([core]);
  let best = Number.POSITIVE_INFINITY;
  let turn = first ? 0 : 1;
  for (let slice = 0; slice < SLICES; slice++) {
    const from = performance.now();
    turn = rally(words, turn);
    best = Math.min(best, performance.now() - from);
  }
  return (best * 1e6) / (2 * TURNS);
}

/** A function of its own, so that the compiler has it after a few slices. */
function rally(words: Int32Array, first: number): number {
  let turn = first;
  for (let i = 0; i < TURNS; i++) {
    while (Atomics.load(words, WORD) !== turn);
    Atomics.store(words, WORD, turn + 1);
    turn += 2;
  }
  return turn;
}

/** undefined: nothing to measure between a core and itself. */
export async function cacheLineNs(a: number, b: number): Promise<number | undefined> {
  if (a === b) return undefined;
  const words = new Int32Array(new SharedArrayBuffer(4 * 4 * WORD));
  const sides = [a, b].map((core, i) => {
    const side: Side = { words, core, first: i === 0 };
    return new Worker(new URL(import.meta.url), { workerData: side });
  });
  const results = await Promise.all(sides.map((worker) => once(worker, 'message')));
  await Promise.all(sides.map((worker) => worker.terminate()));
  return Math.min(...results.map(([ns]) => ns as number));
}

if (!isMainThread && (workerData as Side | null)?.words instanceof Int32Array) {
  parentPort!.postMessage(play(workerData as Side));
}
