// Where the cores of the machine lie. The host of a virtual machine moves them: most of the time a cache line takes, say, 35 ns from one to the
// other, then for seconds 190 ns, and all switches are half as fast. Which peer meets such a time is chance, and no number of rounds makes
// up for it. So a round waits until the cores are near each other, and one after which they are not is played again; how often that was so is
// said in the notes. On a machine whose cores stay where they are this changes nothing.

import { setTimeout as sleep } from 'node:timers/promises';
import { CacheLine } from './cacheLine.ts';

/** More than so many times the least that was ever seen, and so much on top, is far. */
const FAR = 2;
const FAR_MORE_NS = 20;
/** What a peer waits in one round, and in all rounds of a variant: after that, rounds are played as it is. */
const ROUND_PATIENCE_MS = 4000;
const PATIENCE_MS = 8000;
const PAUSE_MS = 50;
/** How often a round is played again. */
const AGAIN = 3;

export interface Placement extends AsyncDisposable {
  /** Resolves when the cores are near each other; false: they did not come together in that time. */
  settle(patienceMs?: number): Promise<boolean>;
  near(): Promise<boolean>;
  /** Of the last look, nanoseconds. */
  lastNs?(): number;
  /** Whether that is near, by what is known now. */
  isNear?(ns: number): boolean;
  /** The best there was. */
  leastNs?(): number;
}

/** Tells near from far by what a line has taken at best. */
export class Distance {
  #leastNs: number;

  constructor(leastNs = Number.POSITIVE_INFINITY) {
    this.#leastNs = leastNs;
  }

  get leastNs(): number {
    return this.#leastNs;
  }

  isNear(ns: number): boolean {
    this.#leastNs = Math.min(this.#leastNs, ns);
    return ns <= FAR * this.#leastNs + FAR_MORE_NS;
  }
}

/** `leastNs`: what is known from before. After `deadlineMs` (of Date.now()) nobody waits any more. */
export function watchPlacement(
  a: number,
  b: number,
  leastNs?: number,
  deadlineMs = Number.POSITIVE_INFINITY,
): Placement | undefined {
  if (a === b) return undefined;
  const line = new CacheLine(a, b);
  const distance = new Distance(leastNs);
  let lastNs = 0;
  const near = async (): Promise<boolean> => {
    lastNs = await line.ns();
    return distance.isNear(lastNs);
  };
  return {
    near,
    lastNs: () => lastNs,
    isNear: (ns) => distance.isNear(ns),
    leastNs: () => distance.leastNs,
    async settle(patienceMs = ROUND_PATIENCE_MS) {
      const end = Math.min(Date.now() + patienceMs, deadlineMs);
      while (!(await near())) {
        if (Date.now() > end) return false;
        await sleep(PAUSE_MS);
      }
      return true;
    },
    [Symbol.asyncDispose]: () => line[Symbol.asyncDispose](),
  };
}

/** What became of the rounds of one peer. */
export interface Tally {
  again: number;
  far: number;
  waitedMs: number;
}

export const noTally = (): Tally => ({ again: 0, far: 0, waitedMs: 0 });

/** Plays until the cores have been near each other before and after. */
export async function whileNear<T>(
  placement: Placement | undefined,
  tally: Tally,
  play: () => Promise<T>,
): Promise<T> {
  if (!placement) return play();
  for (let n = 0; ; n++) {
    const from = Date.now();
    const patienceMs = Math.max(Math.min(ROUND_PATIENCE_MS, PATIENCE_MS - tally.waitedMs), 0);
    const before = await placement.settle(patienceMs);
    tally.waitedMs += Date.now() - from;
    const result = await play();
    if (before && (await placement.near())) return result;
    if (!before || n === AGAIN) {
      tally.far++;
      return result;
    }
    tally.again++;
  }
}

/** For the notes of a measurement. */
export function tallyNotes(name: string, { again, far }: Tally): string[] {
  const notes: string[] = [];
  if (again > 0)
    notes.push(`${name}: ${again} trials played again: the host moved the cores apart`);
  if (far > 0) notes.push(`${name}: ${far} rounds with cores far from each other`);
  return notes;
}

const SURVEY_MS = 4000;

/** Of some seconds: the least and the greatest time of a cache line. */
export async function survey(a: number, b: number): Promise<{ least: number; most: number }> {
  await using line = new CacheLine(a, b);
  let [least, most] = [Number.POSITIVE_INFINITY, 0];
  for (const end = Date.now() + SURVEY_MS; Date.now() < end; await sleep(PAUSE_MS)) {
    const ns = await line.ns();
    least = Math.min(least, ns);
    most = Math.max(most, ns);
  }
  return { least, most };
}
