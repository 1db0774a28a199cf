// Where the microseconds of a new flow go: a profile of xvio's main thread by V8's own sampler while every packet is the first of its
// flow (as in scenario `upcall`), sorted by the stages on the way of an upcall, and what the other threads take for it.
//
//   node bench/upcallStages.ts [--rounds N] [--docs]       the docs: between their marks in docs/benchmarks.md
//
// CPU time, not rates: that means something on a busy machine, too.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { commandLine, needRoot, wholeNumber } from './commandLine.ts';
import { writeStages } from './documents.ts';
import { launcherIn } from './launcher.ts';
import { median } from './medians.ts';
import { xvio, xvioNamed } from './peers/xvio.ts';
import { type Contestant, cpuNs, dismiss, enlist, trialOf } from './rounds.ts';
import { NEW_FLOWS, NEW_FLOWS_RULE } from './scenarios/upcall.ts';
import { markdownTable } from './tables.ts';
import type { Options, Peer } from './types.ts';
import {
  type CpuProfile,
  cpuTimes,
  nowUs,
  profilerFlags,
  readProfile,
  stageNames,
  stageTimes,
  UPCALL_STAGES,
  type Window,
} from './v8Profile.ts';

const DURATION_MS = 400;
const WARM_UP_ROUNDS = 3;

interface Sample {
  flows: number;
  mainMs: number;
  /** Without the forwarding thread. */
  helpersMs: number;
  forwardingMs: number;
  window: Window;
}

async function measure(contestant: Contestant, options: Options): Promise<Sample> {
  const { testbed, threads } = contestant;
  const { pid } = threads[0]!;
  testbed.appctl!('revalidator/purge');
  const perSecond = Math.floor((NEW_FLOWS / (DURATION_MS + 30)) * 1000);
  const stream = { from: 0, to: 1, flows: NEW_FLOWS, spread: 'address', perSecond } as const;
  const [before, forwarding, fromUs] = [cpuTimes(pid), cpuNs(threads), nowUs()];
  const { counts } = await trialOf(contestant, [stream], options);
  const after = cpuTimes(pid);
  const forwardingMs = (cpuNs(threads) - forwarding) / 1e6;
  return {
    flows: counts.received,
    mainMs: after.mainMs - before.mainMs,
    helpersMs: after.othersMs - before.othersMs - forwardingMs,
    forwardingMs,
    window: { fromUs, toUs: nowUs() },
  };
}

/** One daemon after the other: they would have to share two cores. */
async function play(peer: Peer, rounds: number): Promise<Sample[]> {
  const options: Options = {
    ...{ rounds, durationMs: DURATION_MS, realtime: false, switchCore: 1, generatorCore: 0 },
    ...{ peers: undefined, compare: [], queueSize: 1024, packed: false, inOrder: false },
    log: (text) => console.error(text),
  };
  const setup = { wiring: 'none', ports: 2, switchCore: 1, generatorCore: 0 } as const;
  const contestant = await enlist(peer, setup, options);
  try {
    contestant.testbed.ofctl!('add-flow', 'br0', NEW_FLOWS_RULE);
    const samples: Sample[] = [];
    for (let round = -WARM_UP_ROUNDS; round < rounds; round++) {
      const sample = await measure(contestant, options);
      if (round >= 0) samples.push(sample);
    }
    return samples;
  } finally {
    await dismiss(contestant.testbed, contestant.generator);
  }
}

async function run(rounds: number): Promise<string> {
  const directory = mkdtempSync(path.join(tmpdir(), 'xvu-'));
  try {
    launcherIn(directory, profilerFlags(directory));
    const profiled = await play(xvioNamed(directory, 'xvio'), rounds);
    const plain = await play(xvio, rounds);
    return table(readProfile(directory), profiled, plain);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/** The profile says what the shares are, the daemon without it what they are shares of. */
function table(profile: CpuProfile, profiled: readonly Sample[], plain: readonly Sample[]): string {
  const us = (key: 'mainMs' | 'helpersMs' | 'forwardingMs'): number =>
    median(plain.map((sample) => (1000 * sample[key]) / Math.max(sample.flows, 1)));
  const windows = profiled.map(({ window }) => window);
  const times = stageTimes(profile, windows, UPCALL_STAGES);
  const sampled = [...times.values()].reduce((sum, time) => sum + time, 0);
  const mainUs = us('mainMs');
  const stages = stageNames(UPCALL_STAGES).map((stage) =>
    (((times.get(stage) ?? 0) / Math.max(sampled, 1)) * mainUs).toFixed(2),
  );
  const flows = Math.round(median(plain.map((sample) => sample.flows)));
  const row = [flows, mainUs.toFixed(2), ...stages];
  const others = [us('helpersMs').toFixed(2), us('forwardingMs').toFixed(2)];
  return markdownTable(
    [
      'flows a round',
      'µs a flow: main thread',
      ...stageNames(UPCALL_STAGES),
      'helpers',
      'forwarding',
    ],
    [[...row, ...others].map(String)],
  );
}

const HELP = `usage: node bench/upcallStages.ts [--rounds N] [--docs]

  --rounds N   rounds of new flows (default 9)
  --docs       writes the table between its marks in docs/benchmarks.md, too
`;

const { values } = commandLine(HELP, {
  options: {
    rounds: { type: 'string', default: '9' },
    docs: { type: 'boolean', default: false },
  },
});
const rounds = wholeNumber('rounds', values.rounds, 1);
needRoot();
const result = await run(rounds);
console.log(result);
if (values.docs) writeStages('upcall', `, medians of ${rounds} rounds, CPU time`, result);
process.exit(0);
