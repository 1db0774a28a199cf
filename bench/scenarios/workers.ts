// One worker and two: two pairs of ports, each worker on a core of its own. On a machine of two cores the second worker
// shares its core with the generator; then the rates mean nothing, but the CPU time of a packet still does.

import { availableParallelism } from 'node:os';
import { ovsDpdk } from '../peers/ovsDpdk.ts';
import { xvio, xvioOf } from '../peers/xvio.ts';
import { acquaint, play, trialOf } from '../rounds.ts';
import type { Measurement, Options, Scenario } from '../types.ts';

const STREAMS = [
  { from: 0, to: 1, flows: 1000 },
  { from: 2, to: 3, flows: 1000 },
];

/** Cores for two workers: besides the generator's, if there are enough. */
export function coresOf({ switchCore, generatorCore }: Options, cores: number): number[] {
  for (let core = 0; core < cores; core++) {
    if (core !== switchCore && core !== generatorCore) return [switchCore, core];
  }
  return [switchCore, generatorCore];
}

async function run(options: Options): Promise<Measurement[]> {
  const results: Measurement[] = [];
  const two = coresOf(options, availableParallelism());
  for (const switchCores of [[options.switchCore], two]) {
    const shared = switchCores.includes(options.generatorCore);
    results.push(
      await play(
        {
          scenario: 'workers',
          variant: `${switchCores.length} worker${switchCores.length > 1 ? 's' : ''}, 4 ports, 64 B, 2 000 flows`,
          unit: 'packets/s',
          peers: [xvio, ovsDpdk, ...options.compare.map(xvioOf)],
          setup: () => ({ wiring: 'port', ports: 4, switchCores }),
          prepare: (contestant) => acquaint(contestant, STREAMS, options),
          // In real time, the generator would never let a worker on its own core run.
          measure: (contestant) =>
            trialOf(contestant, STREAMS, shared ? { ...options, realtime: false } : options),
          notes: shared
            ? ['a worker shares its core with the generator: not a rate of two cores']
            : [],
        },
        options,
      ),
    );
  }
  return results;
}

export const workers: Scenario = {
  name: 'workers',
  title: 'one worker and two',
  run,
};
