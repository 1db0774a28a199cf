// Host CPU used at equal offered rates: how much of its core the forwarding thread takes, and its time for a packet. That is what a
// noisy machine distorts least, and what is left for guests.
//
// A switch that polls without end takes all of the core at any rate; how much of that was work is `busyNs` (polls that found packets).
// One that sleeps between packets takes what `threadNs` says, with its wake-ups and empty polls.

import { ovsDpdk } from '../peers/ovsDpdk.ts';
import { virtioTaps } from '../peers/virtioTaps.ts';
import { xvio, xvioOf } from '../peers/xvio.ts';
import { acquaint, play, trialOf } from '../rounds.ts';
import type { Measurement, Options, Peer, Scenario } from '../types.ts';

const STREAM = { from: 0, to: 1, flows: 1000 } as const;
const RATES = [10_000, 100_000, 1_000_000, 3_000_000, 6_000_000];
/** A bridge of the kernel behind taps is asked for no more than it can do. */
const TAPS_MAX = 100_000;

async function atRate(perSecond: number, options: Options): Promise<Measurement[]> {
  const busy = new Map<string, number[]>();
  const peers: Peer[] = [xvio, ovsDpdk, ...options.compare.map(xvioOf)];
  if (perSecond <= TAPS_MAX) peers.splice(2, 0, virtioTaps);
  const streams = [{ ...STREAM, perSecond }];
  const label = `${perSecond / 1e6} Mpps offered, 64 B, 1 000 flows`;
  const share = await play(
    {
      scenario: 'cpu',
      variant: `${label}: share of a core`,
      unit: '% of a core',
      higherIsBetter: false,
      peers,
      setup: () => ({ wiring: 'l2', ports: 2 }),
      prepare: async (contestant) => {
        await acquaint(contestant, [STREAM], options);
        contestant.testbed.appctl?.('revalidator/pause');
      },
      measure: async (contestant) => {
        const { value, details, counts } = await trialOf(contestant, streams, options);
        const { threadNs, busyNs, lostPerMillion, gapMs } = details!;
        return {
          value: (threadNs! * counts.received) / counts.elapsedMs / 1e4,
          details: {
            threadNs: threadNs!,
            ...(busyNs === undefined ? {} : { busyNs }),
            packetsPerSecond: value,
            lostPerMillion: lostPerMillion!,
            gapMs: gapMs!,
          },
        };
      },
      kept: (peer, { details }) => {
        const { busyNs } = details!;
        if (busyNs !== undefined) busy.set(peer, [...(busy.get(peer) ?? []), busyNs]);
      },
    },
    options,
  );
  const series = share.series.flatMap((one) => {
    const rounds = busy.get(one.peer);
    return rounds ? [{ ...one, rounds }] : [];
  });
  const work = { variant: `${label}: work for a packet`, unit: 'ns (busy)', series };
  return [share, { ...share, ...work, notes: [], failures: [] }];
}

export const cpu: Scenario = {
  name: 'cpu',
  title: 'CPU of the forwarding thread at equal offered rates',
  async run(options) {
    const results: Measurement[] = [];
    // A trial so short is one of correctness.
    const rates = options.durationMs < 100 ? RATES.slice(0, 2) : RATES;
    for (const rate of rates) results.push(...(await atRate(rate, options)));
    return results;
  },
};
