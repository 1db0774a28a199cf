// Where the microseconds of a flow-mod go: a profile of xvio's main thread by V8's own sampler, sorted by the stages on the way of
// an OpenFlow message, beside the CPU time of ovs-ofctl, which is often the limit, and of the real ovs-vswitchd.
//
//   node bench/flowmodStages.ts [--rounds N] [--flows N] [--docs]       the docs: between their marks in docs/benchmarks.md
//
// CPU time, not rates: that means something on a busy machine, too. No guests, so nothing else runs beside the control plane.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Sandbox } from '../test/interop/sandbox.ts';
import { commandLine, needRoot, wholeNumber } from './commandLine.ts';
import { writeStages } from './documents.ts';
import { launcherIn } from './launcher.ts';
import { median } from './medians.ts';
import { markdownTable } from './tables.ts';
import {
  type CpuProfile,
  type CpuTimes,
  cpuTimes,
  FLOW_MOD_STAGES,
  nowUs,
  profilerFlags,
  readProfile,
  stageNames,
  stageTimes,
  type Window,
} from './v8Profile.ts';

const STAGE_NAMES = stageNames(FLOW_MOD_STAGES);

/** The last messages' work, and garbage that is collected soon after. */
const SETTLE_MS = 150;
const OF = ['-O', 'OpenFlow14'];

/** In this order the table is full and empty by turns. */
const OPERATIONS: readonly (readonly [name: string, args: readonly string[]])[] = [
  ['bundle', [...OF, '--bundle', 'add-flows', 'br0', 'FILE']],
  ['dump-flows', [...OF, 'dump-flows', 'br0']],
  ['mod-flows', [...OF, 'mod-flows', 'br0', 'udp,actions=output:3']],
  ['del-flows', [...OF, 'del-flows', 'br0', 'udp']],
  ['add-flows', [...OF, 'add-flows', 'br0', 'FILE']],
  ['del-flows', [...OF, 'del-flows', 'br0', 'udp']],
];

interface Sample extends CpuTimes {
  operation: string;
  ofctlMs: number;
  window: Window;
}

/** Runs ovs-ofctl; its CPU time in milliseconds. */
async function ofctl(box: Sandbox, args: readonly string[]): Promise<number> {
  const words = args.map((word) => (word === 'FILE' ? box.path('flows.txt') : word));
  const script = 'TIMEFORMAT="%U %S"; time ovs-ofctl "$@" >/dev/null';
  const child = spawn('bash', ['-c', script, 'ofctl', ...words], {
    env: { ...box.env, LC_ALL: 'C' },
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let text = '';
  child.stderr.on('data', (chunk) => {
    text += chunk;
  });
  const [status] = await once(child, 'close');
  if (status !== 0) throw new Error(`ovs-ofctl ${words.join(' ')}: ${text}`);
  const [user, system] = text.trim().split('\n').at(-1)!.split(' ').map(Number);
  return 1000 * (user! + system!);
}

async function measure(
  box: Sandbox,
  [operation, args]: (typeof OPERATIONS)[number],
): Promise<Sample> {
  const before = cpuTimes(box.daemonPid);
  const fromUs = nowUs();
  const ofctlMs = await ofctl(box, args);
  await sleep(SETTLE_MS);
  const after = cpuTimes(box.daemonPid);
  return {
    operation,
    ofctlMs,
    mainMs: after.mainMs - before.mainMs,
    othersMs: after.othersMs - before.othersMs,
    window: { fromUs, toUs: nowUs() },
  };
}

function flowLines(count: number): string {
  const lines: string[] = [];
  for (let i = 0; i < count; i++) {
    const address = `172.${16 + (i >> 16)}.${(i >> 8) & 255}.${i & 255}`;
    const match = `in_port=2,udp,nw_src=${address},tp_dst=${1 + (i % 1000)}`;
    lines.push(`priority=100,${match},actions=output:1`);
  }
  return `${lines.join('\n')}\n`;
}

async function addBridge(box: Sandbox, flows: number): Promise<void> {
  const bridge = ['set', 'bridge', 'br0', 'datapath_type=netdev', 'fail_mode=secure'];
  box.vsctl('add-br', 'br0', '--', ...bridge);
  writeFileSync(box.path('flows.txt'), flowLines(flows));
}

async function run(rounds: number, flows: number): Promise<string> {
  const directory = mkdtempSync(path.join(tmpdir(), 'xvf-'));
  const series: Sample[][] = [[], [], []];
  try {
    const profiled = await Sandbox.start({
      binary: launcherIn(directory, profilerFlags(directory)),
    });
    try {
      await using xvio = await Sandbox.start();
      await using real = await Sandbox.start({ daemon: 'real' });
      for (const box of [profiled, xvio, real]) await addBridge(box, flows);
      // The first round is for the compilers.
      for (let round = -1; round < rounds; round++) {
        for (const operation of OPERATIONS) {
          const samples: Sample[] = [];
          for (const box of [profiled, xvio, real]) samples.push(await measure(box, operation));
          if (round >= 0) for (const [i, sample] of samples.entries()) series[i]!.push(sample);
        }
      }
    } finally {
      await profiled.stop();
    }
    return table(readProfile(directory), series, flows);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/** `series`: of xvio with the profiler, which says what the shares are, of xvio without, and of the real daemon. */
function table(profile: CpuProfile, series: readonly (readonly Sample[])[], flows: number): string {
  const us = (ms: number): string => ((1000 * ms) / flows).toFixed(2);
  const names = [...new Set(OPERATIONS.map(([name]) => name))];
  const rows = names.map((name) => {
    const [profiled, mine, other] = series.map((samples) =>
      samples.filter(({ operation }) => operation === name),
    ) as [Sample[], Sample[], Sample[]];
    const middle = (samples: readonly Sample[], key: 'mainMs' | 'othersMs' | 'ofctlMs') =>
      median(samples.map((sample) => sample[key]));
    const times = stageTimes(
      profile,
      profiled.map(({ window }) => window),
      FLOW_MOD_STAGES,
    );
    const sampled = [...times.values()].reduce((sum, time) => sum + time, 0);
    const mainMs = middle(mine, 'mainMs');
    const stages = STAGE_NAMES.map((stage) =>
      us(((times.get(stage) ?? 0) / Math.max(sampled, 1)) * mainMs),
    );
    const ofctlMs = median([...mine, ...other].map((sample) => sample.ofctlMs));
    const realMs = middle(other, 'mainMs') + middle(other, 'othersMs');
    const others = us(middle(mine, 'othersMs'));
    return [name, us(ofctlMs), us(realMs), us(mainMs), ...stages, others];
  });
  const head = ['µs a flow', 'ovs-ofctl', 'real ovs-vswitchd', 'xvio, main thread'];
  return markdownTable([...head, ...STAGE_NAMES, 'other threads'], rows);
}

const HELP = `usage: node bench/flowmodStages.ts [--rounds N] [--flows N] [--docs]

  --rounds N   rounds of each switch (default 5)
  --flows N    flows in a bundle (default 100000)
  --docs       writes the table between its marks in docs/benchmarks.md, too
`;

const { values } = commandLine(HELP, {
  options: {
    rounds: { type: 'string', default: '5' },
    flows: { type: 'string', default: '100000' },
    docs: { type: 'boolean', default: false },
  },
});
const rounds = wholeNumber('rounds', values.rounds, 1);
const flows = wholeNumber('flows', values.flows, 1);
needRoot();
const result = await run(rounds, flows);
console.log(result);
if (values.docs)
  writeStages('flowmod', `, ${flows} flows, medians of ${rounds} rounds, CPU time`, result);
