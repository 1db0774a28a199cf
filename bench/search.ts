// The highest rate that a switch forwards with at most so much loss (RFC 2544, 26.1; RFC 8204): a binary search with short
// trials. What it returns is a lower bound: a rate that has passed.

import type { Stream } from './generator/generator.ts';
import { noTally, type Tally, whileNear } from './placement.ts';
import { type Contestant, trialOf } from './rounds.ts';
import type { Options } from './types.ts';

/** Longer ones meet more of the machine's own pauses, shorter ones less of the switch's. */
const TRIAL_MS = 100;
/** The search ends when the bounds are so close, as a share of the upper one, … */
const WIDTH = 0.01;
/** … or after so many trials, when nothing has passed yet. */
const MOST_TRIALS = 12;
/** Of the packets offered, so many have to be on the way: or it was the generator that could not keep up. */
const OFFERED = 0.995;
/** A switch that breaks down under a load it cannot take may forward more of a smaller one. */
const OVERLOADED = 0.2;
const OVERLOADED_TRY = 1_000_000;
/** When only correctness is asked: few steps. */
const QUICK_WIDTH = 0.2;
const QUICK_TRIALS = 4;

type Conditions = Pick<Options, 'realtime' | 'durationMs'>;

export interface Goal {
  /** Loss that is allowed, as a share of what was sent: 0 = none at all. */
  lossRatio: number;
  /** Rate that is known to pass. */
  low?: number;
  /** Rate at which the search begins; without one, what arrives when as much is sent as the ring takes. */
  high?: number;
}

/** What arrives, a second, when the sender sends what it can (MRR), and where a search begins. */
export async function saturated(
  contestant: Contestant,
  stream: Stream,
  { realtime }: Conditions,
): Promise<{ rate: number; high: number }> {
  const trial = { durationMs: TRIAL_MS, realtime };
  const { value: rate, counts } = await whileNear(
    contestant.placement,
    searchTally(contestant),
    () => trialOf(contestant, [stream], trial),
  );
  const overloaded = counts.lost > counts.sent * OVERLOADED;
  return { rate, high: overloaded ? Math.max(rate, OVERLOADED_TRY) : rate };
}

/** Of the trials of a search, which may wait as long as is left for the rounds. */
function searchTally({ tally }: Contestant): Tally {
  return { ...noTally(), waitedMs: tally.waitedMs };
}

export async function highestRate(
  contestant: Contestant,
  stream: Stream,
  conditions: Conditions,
  { lossRatio, low: known = 0, high: first }: Goal,
): Promise<number> {
  let low = known;
  let high = first ?? (await saturated(contestant, stream, conditions)).high;
  const { realtime, durationMs } = conditions;
  const quick = durationMs < 100;
  const { placement } = contestant;
  const tally = searchTally(contestant);
  let trials = 0;
  const width = quick ? QUICK_WIDTH : WIDTH;
  const most = quick ? QUICK_TRIALS : MOST_TRIALS;
  for (let n = 0; n < most && high - low > high * width; n++) {
    const perSecond = (low + high) / 2;
    const passes = async (): Promise<boolean> => {
      const trial = { durationMs: TRIAL_MS, realtime };
      const { value, counts } = await trialOf(contestant, [{ ...stream, perSecond }], trial);
      return counts.lost <= counts.sent * lossRatio && value >= perSecond * (OFFERED - lossRatio);
    };
    const near = (): Promise<boolean> => {
      trials++;
      return whileNear(placement, tally, passes);
    };
    // Once may have been the machine: a rate fails when it fails twice.
    if ((await near()) || (await near())) low = perSecond;
    else high = perSecond;
  }
  contestant.tally.again += tally.again;
  contestant.tally.waitedMs = tally.waitedMs;
  // A search is one round, however many trials it has.
  if (tally.far * 2 > trials) contestant.tally.far++;
  return low;
}
