// How long the data plane ever stands still: the oldest packet of a steady, low rate, with nothing else going on and
// while flow-mods, translations and garbage collections keep the control plane busy.
//
// A machine that takes a core away looks the same as a switch that stands still. So the forwarding thread runs in real
// time, and how long the generator itself was stopped is shown (gapMs): a packet that lay in its ring for that time is no
// older than that. While flow-mods run on a machine of two cores, the control plane has no core but the generator's.

import { writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import type { OvsTestbed } from '../peers/ovs.ts';
import { ovsDpdk } from '../peers/ovsDpdk.ts';
import { xvio, xvioOf } from '../peers/xvio.ts';
import { acquaint, type Contestant, latencies, play } from '../rounds.ts';
import type { Sample } from '../score.ts';
import type { Measurement, Options, Scenario } from '../types.ts';
import { warm } from '../warm.ts';

const STREAM = { from: 0, to: 1, perSecond: 100_000 };
const FLOWS = 500;
const SHARED =
  "control plane and generator share a core: pauses up to gapMs are not the data plane's";

/** Adds and removes flows until it is told to stop; resolves with how many there were. */
function churn(testbed: OvsTestbed): () => Promise<number> {
  const { box } = testbed;
  const lines = Array.from(
    { length: FLOWS },
    (_, i) => `priority=9,in_port=1,udp,tp_dst=${1000 + i},actions=output:2`,
  );
  writeFileSync(box.path('churn.txt'), `${lines.join('\n')}\n`);
  let stopped = false;
  const ofctl = (...args: string[]) =>
    new Promise<void>((resolve, reject) => {
      box.spawn('ovs-ofctl', args).once('exit', (code) => {
        if (code === 0) resolve();
        else reject(new Error(`ovs-ofctl ${args[0]}: status ${code}`));
      });
    });
  const work = (async () => {
    let flows = 0;
    while (!stopped) {
      await ofctl('add-flows', 'br0', box.path('churn.txt'));
      await ofctl('del-flows', 'br0', 'udp');
      flows += FLOWS;
    }
    return flows;
  })();
  work.catch(() => {});
  return () => {
    stopped = true;
    return work;
  };
}

async function longest(
  { generator, threads, testbed }: Contestant,
  options: Options,
  busy: boolean,
): Promise<Sample> {
  generator.setStreams([STREAM]);
  const stop = busy ? churn(testbed as OvsTestbed) : undefined;
  const counts = await generator.trial({
    durationMs: options.durationMs,
    boost: options.realtime ? threads.map(({ tid }) => tid) : [],
    // The control plane needs a core.
    boostGenerator: !busy,
  });
  const flowMods = await stop?.();
  const { longestGapMs, histogram } = counts;
  const all = latencies(counts);
  const pauseUs = Math.max(all.maxUs! - longestGapMs * 1000, 0);
  return {
    value: all.maxUs!,
    details: {
      ...all,
      pauseUs,
      gapMs: longestGapMs,
      ...(flowMods === undefined ? {} : { flowMods }),
    },
    histogram,
  };
}

async function run(options: Options): Promise<Measurement[]> {
  const results: Measurement[] = [];
  for (const busy of [false, true]) {
    results.push(
      await play(
        {
          scenario: 'pauses',
          variant: `longest at 100 000 packets/s, ${busy ? 'flow-mods meanwhile' : 'nothing else'}`,
          unit: 'µs',
          higherIsBetter: false,
          peers: [xvio, ovsDpdk, ...options.compare.map(xvioOf)],
          setup: () => ({ wiring: 'port', ports: 2 }),
          prepare: async (contestant) => {
            await acquaint(contestant, [STREAM], options);
            await warm(contestant, STREAM, options);
          },
          measure: (contestant) => longest(contestant, options, busy),
          notes: busy && availableParallelism() < 3 ? [SHARED] : [],
        },
        options,
      ),
    );
  }
  return results;
}

export const pauses: Scenario = {
  name: 'pauses',
  title: 'how long the data plane ever stands still',
  run,
};
