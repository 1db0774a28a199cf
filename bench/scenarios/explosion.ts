// Tuple-space explosion: harmless-looking rules (one address, one source port, one destination port are allowed, the
// rest is dropped) and packets that differ from them in one bit each make thousands of megaflow masks. What is left of
// the throughput of legitimate flows? After Csikor and others, "Tuple space explosion", CoNEXT 2019.

import { ipOf } from '../generator/generator.ts';
import { median } from '../medians.ts';
import { ovsDpdk } from '../peers/ovsDpdk.ts';
import { xvio, xvioOf } from '../peers/xvio.ts';
import { noTally, tallyNotes, whileNear } from '../placement.ts';
import { acquaint, type Contestant, play, trialOf } from '../rounds.ts';
import type { Options, Scenario } from '../types.ts';

const RULES = [
  `priority=10,in_port=1,udp,nw_src=${ipOf(0)},actions=output:2`,
  'priority=9,in_port=1,udp,tp_src=1024,actions=output:2',
  'priority=8,in_port=1,udp,tp_dst=9,actions=output:2',
  'priority=1,in_port=1,actions=drop',
];
const ATTACK = { from: 0, to: 1, flows: 8192, spread: 'bits', perSecond: 20_000 } as const;
const LEGITIMATE = { from: 0, to: 1, flows: 64_000 } as const;
/** Trials that the rate before is the median of: all that comes later is divided by it. */
const BEFORE_TRIALS = 9;

/** The rate without an attack, with the cores as near to each other as in the rounds. */
async function rateBefore(contestant: Contestant, options: Options): Promise<number> {
  const rates: number[] = [];
  const tally = noTally();
  for (let i = 0; i < Math.min(BEFORE_TRIALS, options.rounds); i++) {
    const trial = () => trialOf(contestant, [LEGITIMATE], options);
    rates.push((await whileNear(contestant.placement, tally, trial)).value);
  }
  contestant.notes.push(...tallyNotes(`${contestant.testbed.name}, the rate before`, tally));
  return median(rates);
}

async function run(options: Options) {
  const before = new Map<string, number>();
  const result = await play(
    {
      scenario: 'explosion',
      variant: 'legitimate 64 B traffic (64 000 flows) under attack',
      unit: '% of the rate before',
      peers: [xvio, ovsDpdk, ...options.compare.map(xvioOf)],
      setup: () => ({ wiring: 'none', ports: 2 }),
      prepare: async (contestant) => {
        for (const rule of RULES) contestant.testbed.ofctl!('add-flow', 'br0', rule);
        await acquaint(contestant, [LEGITIMATE], options);
        before.set(contestant.testbed.name, await rateBefore(contestant, options));
        contestant.generator.setStreams([ATTACK]);
        await contestant.generator.trial({ durationMs: options.durationMs < 100 ? 100 : 3000 });
      },
      measure: async (contestant) => {
        const { value, details } = await trialOf(contestant, [LEGITIMATE], options);
        const rate = before.get(contestant.testbed.name)!;
        const masks = /masks:.*total:(\d+)/.exec(
          contestant.testbed.appctl!('dpctl/show', '-s'),
        )?.[1];
        return {
          value: (value / rate) * 100,
          details: {
            ...details,
            packetsPerSecond: value,
            ...(masks ? { masks: Number(masks) } : {}),
          },
        };
      },
    },
    options,
  );
  return [result];
}

export const explosion: Scenario = {
  name: 'explosion',
  title: 'tuple-space explosion attack',
  run,
};
