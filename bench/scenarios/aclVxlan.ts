// Access rules and tunnels together: a guest behind 1 000 overlapping rules (bench/rules.ts), and VXLAN to another host by
// an underlay port. One direction is rules and encapsulation, the other decapsulation and rules.

import type { Stream } from '../generator/generator.ts';
import { ovsDpdk } from '../peers/ovsDpdk.ts';
import { UNDERLAY_PORT } from '../peers/underlay.ts';
import { xvio, xvioOf } from '../peers/xvio.ts';
import { acquaint, play, trialOf } from '../rounds.ts';
import type { Measurement, Options, Scenario } from '../types.ts';

const GUEST = 0;
const out = (flows: number): Stream => {
  return { from: GUEST, to: UNDERLAY_PORT, flows, spread: 'address' };
};
const back = (flows: number): Stream => {
  return { from: UNDERLAY_PORT, to: GUEST, flows, spread: 'address' };
};

const VARIANTS: readonly { label: string; streams: (flows: number) => Stream[] }[] = [
  { label: 'encapsulation', streams: (flows) => [out(flows)] },
  { label: 'decapsulation', streams: (flows) => [back(flows)] },
  { label: 'both ways', streams: (flows) => [out(flows / 2), back(flows / 2)] },
];

async function run(options: Options): Promise<Measurement[]> {
  const results: Measurement[] = [];
  for (const flows of [1000, 64_000]) {
    // A trial so short is one of correctness: no time for tens of thousands of flows.
    if (options.durationMs < 100 && flows > 1000) continue;
    // Both ways are the other two at once.
    for (const { label, streams } of options.durationMs < 100 ? VARIANTS.slice(2) : VARIANTS) {
      results.push(
        await play(
          {
            scenario: 'acl-vxlan',
            variant: `${label}, 64 B, ${flows} flows`,
            unit: 'packets/s',
            peers: [xvio, ovsDpdk, ...options.compare.map(xvioOf)],
            setup: () => ({ wiring: 'acl-vxlan', ports: 2 }),
            prepare: async (contestant) => {
              await acquaint(contestant, streams(flows), options);
              contestant.testbed.appctl?.('revalidator/pause');
            },
            measure: (contestant) => trialOf(contestant, streams(flows), options),
            notes: ['64 B are those of the frame inside; outside it is 50 bytes longer'],
          },
          options,
        ),
      );
    }
  }
  return results;
}

export const aclVxlan: Scenario = {
  name: 'acl-vxlan',
  title: '1 000 rules, VXLAN encapsulation and decapsulation',
  run,
};
