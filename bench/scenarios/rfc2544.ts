// Throughput by RFC 2544 for several frame sizes: without any loss (NDR), with at most 0.5 % (PDR), and what arrives when the
// sender sends all it can (MRR).

import { median } from '../medians.ts';
import { ovsDpdk } from '../peers/ovsDpdk.ts';
import { virtioTaps } from '../peers/virtioTaps.ts';
import { xvio, xvioOf } from '../peers/xvio.ts';
import { acquaint, type Contestant, play } from '../rounds.ts';
import { highestRate, saturated } from '../search.ts';
import type { Measurement, Options, Scenario } from '../types.ts';

/** Bytes with and without FCS. */
const SIZES = [64, 512, 1518] as const;
const FCS = 4;
const PARTIAL_LOSS = 0.005;
/** A search is some twenty trials. */
const MOST_ROUNDS = 3;

async function ofSize(bytes: number, options: Options): Promise<Measurement[]> {
  const stream = { from: 0, to: 1, flows: 1000, frameBytes: bytes - FCS } as const;
  const partial = new Map<string, number[]>();
  const label = `${bytes} B, 1 000 flows`;
  const measure = async (contestant: Contestant) => {
    const { rate: mrr, high } = await saturated(contestant, stream, options);
    const ndr = await highestRate(contestant, stream, options, { lossRatio: 0, high });
    const goal = { lossRatio: PARTIAL_LOSS, low: ndr, high };
    const pdr = await highestRate(contestant, stream, options, goal);
    return { value: ndr, details: { pdr, mrr, gbitPerSecond: (ndr * (bytes + 20) * 8) / 1e9 } };
  };
  const loss = await play(
    {
      scenario: 'rfc2544',
      variant: `${label}, no loss (NDR)`,
      unit: 'packets/s',
      peers: [
        xvio,
        ovsDpdk,
        ...(bytes === SIZES[0] ? [virtioTaps] : []),
        ...options.compare.map(xvioOf),
      ],
      setup: () => ({ wiring: 'l2', ports: 2 }),
      prepare: async (contestant) => {
        await acquaint(contestant, [{ ...stream, perSecond: 50_000 }], options);
        contestant.testbed.appctl?.('revalidator/pause');
      },
      measure,
      kept: (peer, { details }) => {
        partial.set(peer, [...(partial.get(peer) ?? []), details!.pdr!]);
      },
      notes: ['gbitPerSecond is that on a wire of Ethernet: with preamble, gap and FCS'],
    },
    { ...options, rounds: Math.min(options.rounds, MOST_ROUNDS) },
  );
  const series = loss.series.map((one) => {
    const rates = partial.get(one.peer)!;
    return { ...one, rounds: rates, details: { shareOfNdr: median(rates) / median(one.rounds) } };
  });
  const variant = `${label}, 0.5 % loss (PDR)`;
  return [loss, { ...loss, variant, series, notes: [], failures: [] }];
}

export const rfc2544: Scenario = {
  name: 'rfc2544',
  title: 'throughput without loss and with 0.5 %, 64 to 1518 bytes',
  async run(options) {
    const results: Measurement[] = [];
    // A trial so short is one of correctness.
    const sizes = options.durationMs < 100 ? SIZES.slice(0, 1) : SIZES;
    for (const bytes of sizes) results.push(...(await ofSize(bytes, options)));
    return results;
  },
};
