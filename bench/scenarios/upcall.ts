// Every packet is the first of its flow: how many a second get through, each with a megaflow of its own. The rule moves
// addresses and ports into registers, so a megaflow has to match all of them.

import { ovsDpdk } from '../peers/ovsDpdk.ts';
import { xvio, xvioOf } from '../peers/xvio.ts';
import { type Contestant, play, trialOf } from '../rounds.ts';
import type { Options, Scenario } from '../types.ts';

const FLOWS = 64_000;
const RULE =
  'in_port=1,udp,actions=move:NXM_OF_IP_SRC[]->NXM_NX_REG0[],move:NXM_OF_UDP_SRC[]->NXM_NX_REG1[0..15],output:2';

async function run(options: Options) {
  // No flow may come twice.
  const durationMs = Math.min(options.durationMs, 500);
  const perSecond = Math.floor((FLOWS / (durationMs + 30)) * 1000);
  const measure = (contestant: Contestant) => {
    contestant.testbed.appctl!('revalidator/purge');
    const stream = { from: 0, to: 1, flows: FLOWS, spread: 'address', perSecond } as const;
    // Upcalls are not the forwarding thread's work alone: nobody runs ahead of the others.
    return trialOf(contestant, [stream], { durationMs, realtime: false });
  };
  const result = await play(
    {
      scenario: 'upcall',
      variant: `every packet a new flow, ${perSecond} offered a second`,
      unit: 'flows/s',
      peers: [xvio, ovsDpdk, ...options.compare.map(xvioOf)],
      setup: () => ({ wiring: 'none', ports: 2 }),
      prepare: async (contestant) => {
        contestant.testbed.ofctl!('add-flow', 'br0', RULE);
        // Caches fill, and a compiler that compiles what runs often has seen it run.
        for (let i = 0; i < 3; i++) await measure(contestant);
      },
      measure,
    },
    options,
  );
  return [result];
}

export const upcall: Scenario = {
  name: 'upcall',
  title: 'every packet a new flow',
  run,
};
