// What a switch costs that has nothing to do, and how long the first packet takes after that.

import { readdirSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { ovsDpdk } from '../peers/ovsDpdk.ts';
import { xvio, xvioOf } from '../peers/xvio.ts';
import { acquaint, cpuNs, latencies, play } from '../rounds.ts';
import type { Measurement, Options, Scenario, SwitchThread } from '../types.ts';

const STREAM = { from: 0, to: 1 };

function allThreads(pids: readonly number[]): SwitchThread[] {
  return pids.flatMap((pid) =>
    readdirSync(`/proc/${pid}/task`).map((tid) => ({ pid, tid: Number(tid) })),
  );
}

async function run(options: Options): Promise<Measurement[]> {
  const results: Measurement[] = [];
  for (const ports of [2, 32]) {
    results.push(
      await play(
        {
          scenario: 'idle',
          variant: `${ports} ports`,
          unit: '% of a core',
          higherIsBetter: false,
          peers: [xvio, ovsDpdk, ...options.compare.map(xvioOf)],
          setup: () => ({ wiring: 'port', ports }),
          prepare: (contestant) => acquaint(contestant, [STREAM], options),
          measure: async ({ testbed, generator, threads: workers }) => {
            await sleep(300);
            const idleMs = options.durationMs * 4;
            const threads = allThreads(testbed.pids);
            const [before, from] = [cpuNs(threads), performance.now()];
            await sleep(idleMs);
            const used = cpuNs(threads) - before;
            const elapsedNs = (performance.now() - from) * 1e6;
            // One packet: the rate allows the first after 5 ms; the oldest is the first, which had to wake somebody.
            generator.setStreams([{ ...STREAM, perSecond: 200 }]);
            const counts = await generator.trial({
              durationMs: 30,
              warmUpMs: 0,
              drainMs: 10,
              boost: options.realtime ? workers.map(({ tid }) => tid) : [],
            });
            return {
              value: (used / elapsedNs) * 100,
              details: { firstPacketUs: latencies(counts).maxUs! },
            };
          },
        },
        { ...options, rounds: Math.min(options.rounds, 5) },
      ),
    );
  }
  return results;
}

export const idle: Scenario = {
  name: 'idle',
  title: 'CPU of an idle switch with 2 and 32 ports; first packet after idling',
  run,
};
