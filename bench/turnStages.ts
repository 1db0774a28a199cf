// How long a packet may wait for the worker's next turn, and for what: the lengths of all turns of the host loop, by what happened in
// them (bench/turnStamps.ts), under steady traffic, beside those of a thread of this machine that does nothing but to read
// the clock. A turn of 3 µs keeps a packet waiting for more than a microsecond if it comes in the first two of them.
//
//   node bench/turnStages.ts [--ms N] [--docs]       the docs: between their marks in docs/benchmarks.md

import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { SteadyClock } from '../src/sys/clock.ts';
import { setRealtime, setThreadAffinity } from '../src/sys/process.ts';
import { commandLine, needRoot, wholeNumber } from './commandLine.ts';
import { writeStages } from './documents.ts';
import { preloadingLauncherIn } from './launcher.ts';
import { xvioNamed } from './peers/xvio.ts';
import { acquaint, dismiss, enlist, trialOf } from './rounds.ts';
import { markdownTable } from './tables.ts';
import {
  type AwakeTurns,
  CAUSES,
  CLASSES,
  classEndNs,
  TURNS_FILE,
  TurnCounts,
} from './turnStamps.ts';
import type { Options } from './types.ts';
import { warm } from './warm.ts';

const [SWITCH_CORE, GENERATOR_CORE] = [1, 0];
const PRIORITY = 10;
const STREAM = { from: 0, to: 1 };
const RATES = [100_000, 1_000_000, 3_000_000];
/**
 * Longer than the patience of a worker: it has gone to sleep, and written what it has counted. And with a trial more than a second, of which
 * the kernel lets threads in real time have 95 %: more, and its brake is all that is seen.
 */
const ASLEEP_MS = 500;
const ASLEEP_MAX_MS = 20_000;
/** Waits that are told, ends of classes. */
const WAITS_NS = [512, 1024, 2048, 4096, 16384];

interface Spin {
  durationMs: number;
  core: number;
}

/** Reads the clock and does nothing else: what takes long here is the machine's. */
function spinner({ durationMs, core }: Spin): AwakeTurns {
  setThreadAffinity([core]);
  const clock = new SteadyClock(process.hrtime.bigint());
  const counts = new TurnCounts();
  const spin = (units: number): void => {
    clock.look();
    let last = clock.lowNs;
    // Units of 64 ns, small integers.
    for (let left = units; left > 0; ) {
      clock.look();
      const passed = (clock.lowNs - last) & 0x3fffffff;
      last = clock.lowNs;
      counts.note(passed, 0);
      left -= passed / 64;
    }
  };
  spin(200e6 / 64); // until it is compiled
  counts.take();
  try {
    setRealtime(0, PRIORITY);
  } catch {
    // Without the right to do so others' time slices are among its turns.
  }
  spin((durationMs * 1e6) / 64);
  return counts.take();
}

async function bareTurns(durationMs: number): Promise<AwakeTurns> {
  const settings: Spin = { durationMs, core: SWITCH_CORE };
  const thread = new Worker(new URL(import.meta.url), { workerData: settings });
  const [turns] = (await once(thread, 'message')) as [AwakeTurns];
  return turns;
}

const sum = (values: readonly number[]): number => values.reduce((all, value) => all + value, 0);
const wholeNs = ({ ns }: AwakeTurns): number => sum(ns.map(sum));

/** What was counted at each rate. */
async function turnsAt(durationMs: number): Promise<AwakeTurns[]> {
  const directory = mkdtempSync(path.join(tmpdir(), 'xvt-'));
  const file = preloadingLauncherIn(directory, 'bench/turnStamps.ts', TURNS_FILE);
  const options: Options = {
    ...{ rounds: 1, durationMs, realtime: true },
    ...{ switchCore: SWITCH_CORE, generatorCore: GENERATOR_CORE, peers: undefined, compare: [] },
    ...{ queueSize: 1024, packed: false, inOrder: false },
    log: (text) => console.error(text),
  };
  const setup = {
    ...{ wiring: 'port' as const, ports: 2 },
    ...{ switchCore: SWITCH_CORE, generatorCore: GENERATOR_CORE },
  };
  try {
    const contestant = await enlist(xvioNamed(directory, 'xvio'), setup, options);
    const { testbed, generator } = contestant;
    try {
      await acquaint(contestant, [STREAM], options);
      await warm(contestant, STREAM, { durationMs: 300 });
      const counted: AwakeTurns[] = [];
      for (const perSecond of RATES) {
        await sleep(ASLEEP_MS);
        writeFileSync(file, '');
        await trialOf(contestant, [{ ...STREAM, perSecond }], options);
        let lines: string[] = [];
        for (const until = Date.now() + ASLEEP_MAX_MS; lines.length === 0; ) {
          await sleep(ASLEEP_MS);
          lines = readFileSync(file, 'utf8').split('\n').filter(Boolean);
          if (Date.now() > until) throw new Error('the worker does not go to sleep');
        }
        const times = lines.map((line) => JSON.parse(line) as AwakeTurns);
        // The trial is the longest of the times awake; others are of a packet of the kernel's, and of the like.
        counted.push(times.reduce((a, b) => (wholeNs(b) > wholeNs(a) ? b : a)));
      }
      return counted;
    } finally {
      await dismiss(testbed, generator);
    }
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/** One row for each cause that occurred: a packet waits for more than `waitNs` in what a turn has beyond it. */
function rowsOf(name: string, counted: AwakeTurns, causes: readonly string[]): string[][] {
  const awakeNs = wholeNs(counted);
  return causes.flatMap((cause, i) => {
    const [turns, ns] = [counted.turns[i]!, counted.ns[i]!];
    if (sum(turns) === 0) return [];
    const late = WAITS_NS.map((waitNs) => {
      let beyondNs = 0;
      for (let index = 0; index < CLASSES; index++) {
        if (classEndNs(index) > waitNs) beyondNs += ns[index]! - turns[index]! * waitNs;
      }
      return ((100 * beyondNs) / awakeNs).toFixed(3);
    });
    const perSecond = (sum(turns) / awakeNs) * 1e9;
    return [
      [
        ...[name, cause, perSecond.toFixed(0), (sum(ns) / sum(turns)).toFixed(0)],
        ...[((100 * sum(ns)) / awakeNs).toFixed(2), ...late],
      ],
    ];
  });
}

async function run(durationMs: number): Promise<string> {
  const bare = await bareTurns(durationMs);
  const counted = await turnsAt(durationMs);
  const rows = [
    ...rowsOf('a thread that reads the clock', bare, ['nothing']),
    ...RATES.flatMap((rate, i) => rowsOf(`${rate / 1e6} Mpps`, counted[i]!, CAUSES)),
  ];
  const waits = WAITS_NS.map((ns) => `a packet waits > ${ns / 1000} µs, % of the time`);
  const head = ['', 'what happened in it', 'turns a second', 'ns a turn', '% of the time'];
  return markdownTable([...head, ...waits], rows);
}

const HELP = `usage: node bench/turnStages.ts [--ms N] [--docs]

  --ms N   how long turns are counted at each rate (default 700)
  --docs   writes the table between its marks in docs/benchmarks.md, too
`;

if (!isMainThread) {
  parentPort!.postMessage(spinner(workerData as Spin));
} else {
  const { values } = commandLine(HELP, {
    options: {
      ms: { type: 'string', default: '700' },
      docs: { type: 'boolean', default: false },
    },
  });
  const durationMs = wholeNumber('ms', values.ms, 10);
  needRoot();
  const result = await run(durationMs);
  console.log(result);
  if (values.docs) writeStages('turn', '', result);
  process.exit(0);
}
