// One worker and two: two pairs of ports, each worker on a core of its own. On a machine of two cores the second worker
// shares its core with the generator. Then its rate would say how they share it, so what is compared is the CPU time that all
// workers take for a packet, with their empty polls, at a rate that leaves room for all.

import { availableParallelism } from 'node:os';
import { ovsDpdk } from '../peers/ovsDpdk.ts';
import { xvio, xvioOf } from '../peers/xvio.ts';
import { acquaint, play, trialOf } from '../rounds.ts';
import type { Measurement, Options, Scenario } from '../types.ts';

const STREAMS = [
  { from: 0, to: 1, flows: 1000 },
  { from: 2, to: 3, flows: 1000 },
];
/** Of each of the two streams, where a core is shared. */
const MODERATE_PER_SECOND = 250_000;

/** Cores for two workers: besides the generator's, if there are enough. */
export function coresOf({ switchCore, generatorCore }: Options, cores: number): number[] {
  for (let core = 0; core < cores; core++) {
    if (core !== switchCore && core !== generatorCore) return [switchCore, core];
  }
  return [switchCore, generatorCore];
}

function withCores(
  switchCores: readonly number[],
  moderate: boolean,
  options: Options,
): Promise<Measurement> {
  const shared = switchCores.includes(options.generatorCore);
  const streams = moderate
    ? STREAMS.map((stream) => ({ ...stream, perSecond: MODERATE_PER_SECOND }))
    : STREAMS;
  const count = `${switchCores.length} worker${switchCores.length > 1 ? 's' : ''}`;
  const load = moderate ? `${(2 * MODERATE_PER_SECOND) / 1e6} Mpps offered` : 'saturated';
  return play(
    {
      scenario: 'workers',
      variant: `${count}, 4 ports, 64 B, 2 000 flows, ${load}`,
      unit: moderate ? 'ns of CPU a packet' : 'packets/s',
      higherIsBetter: !moderate,
      peers: [xvio, ovsDpdk, ...options.compare.map(xvioOf)],
      setup: () => ({ wiring: 'port', ports: 4, switchCores }),
      prepare: (contestant) => acquaint(contestant, STREAMS, options),
      measure: async (contestant) => {
        // In real time, the generator would never let a worker on its own core run.
        const realtime = options.realtime && !shared;
        const sample = await trialOf(contestant, streams, { ...options, realtime });
        if (!moderate) return sample;
        const details = { ...sample.details, packetsPerSecond: sample.value };
        return { value: sample.details!.threadNs!, details };
      },
      notes: shared
        ? [
            'a worker shares its core with the generator: the time of a packet, not a rate of two cores',
          ]
        : [],
    },
    options,
  );
}

export const workers: Scenario = {
  name: 'workers',
  title: 'one worker and two',
  async run(options) {
    const one = [options.switchCore];
    const two = coresOf(options, availableParallelism());
    // A trial so short is one of correctness: one worker is what all other scenarios have.
    const quick = options.durationMs < 100 && two.includes(options.generatorCore);
    const results = quick ? [] : [await withCores(one, false, options)];
    if (!two.includes(options.generatorCore)) {
      return [...results, await withCores(two, false, options)];
    }
    for (const cores of quick ? [two] : [one, two])
      results.push(await withCores(cores, true, options));
    return results;
  },
};
