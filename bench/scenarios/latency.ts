// Latency from guest to guest: at 10, 50 and 90 % of each switch's own loss-free rate, and at the same rate for all.
// Below saturation only: a full ring measures its own length.

import { median } from '../medians.ts';
import { ovsDpdk } from '../peers/ovsDpdk.ts';
import { xvio, xvioOf } from '../peers/xvio.ts';
import { acquaint, type Contestant, play, trialOf } from '../rounds.ts';
import { highestRate } from '../search.ts';
import type { Measurement, Options, Scenario } from '../types.ts';
import { warm } from '../warm.ts';

const STREAM = { from: 0, to: 1 };
const SHARES = [0.1, 0.5, 0.9];
const COMMON_RATES = [100_000, 1_000_000, 3_000_000];

async function run(options: Options): Promise<Measurement[]> {
  const match = {
    scenario: 'latency',
    peers: [xvio, ovsDpdk, ...options.compare.map(xvioOf)],
    setup: () => ({ wiring: 'port' as const, ports: 2 }),
    prepare: async (contestant: Contestant) => {
      await acquaint(contestant, [STREAM], options);
      await warm(contestant, STREAM, options);
    },
  };
  const rates = await play(
    {
      ...match,
      variant: 'loss-free rate, 64 B, 1 flow',
      unit: 'packets/s',
      measure: async (contestant) => ({
        value: await highestRate(contestant, STREAM, options, { lossRatio: 0 }),
      }),
    },
    { ...options, rounds: Math.min(options.rounds, 5) },
  );
  const rateOf = new Map(rates.series.map(({ peer, rounds }) => [peer, median(rounds)]));
  const results = [rates];
  const at = async (variant: string, rate: (peer: string) => number): Promise<void> => {
    const result = await play(
      {
        ...match,
        variant,
        unit: 'µs (p99)',
        higherIsBetter: false,
        measure: async (contestant) => {
          const perSecond = rate(contestant.testbed.name);
          const trial = await trialOf(contestant, [{ ...STREAM, perSecond }], options);
          const { details, counts } = trial;
          return { value: details!.p99Us!, details: details!, histogram: counts.histogram };
        },
      },
      options,
    );
    results.push(result);
  };
  // A trial so short is one of correctness.
  const quick = options.durationMs < 100;
  for (const share of quick ? SHARES.slice(0, 1) : SHARES) {
    await at(`${share * 100} % of the own loss-free rate`, (peer) =>
      Math.max(share * rateOf.get(peer)!, 1000),
    );
  }
  for (const rate of quick ? COMMON_RATES.slice(0, 1) : COMMON_RATES)
    await at(`${rate / 1e6} Mpps`, () => rate);
  return results;
}

export const latency: Scenario = {
  name: 'latency',
  title: 'latency at 10, 50, 90 % of the loss-free rate and at equal rates',
  run,
};
