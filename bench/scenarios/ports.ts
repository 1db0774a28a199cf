// Many busy ports on one core: the sum of all pairs.

import { ovsDpdk } from '../peers/ovsDpdk.ts';
import { xvio, xvioOf } from '../peers/xvio.ts';
import { acquaint, play, trialOf } from '../rounds.ts';
import type { Measurement, Options, Scenario } from '../types.ts';

async function run(options: Options): Promise<Measurement[]> {
  const results: Measurement[] = [];
  for (const ports of options.durationMs < 100 ? [2, 8] : [2, 8, 32, 64]) {
    const streams = Array.from({ length: ports / 2 }, (_, i) => ({ from: 2 * i, to: 2 * i + 1 }));
    results.push(
      await play(
        {
          scenario: 'ports',
          variant: `${ports} ports, 64 B`,
          unit: 'packets/s',
          peers: [xvio, ovsDpdk, ...options.compare.map(xvioOf)],
          setup: () => ({ wiring: 'port', ports }),
          prepare: (contestant) => acquaint(contestant, streams, options),
          measure: (contestant) => trialOf(contestant, streams, options),
        },
        // 64 guests with rings of 1024 entries would not fit into the caches of any machine.
        { ...options, queueSize: 256 },
      ),
    );
  }
  return results;
}

export const ports: Scenario = {
  name: 'ports',
  title: '2 to 64 busy ports',
  run,
};
