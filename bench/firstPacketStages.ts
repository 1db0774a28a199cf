// Where the time of the first packet goes that finds the switch asleep (as in scenario `idle`): stamps of the guest that sends and
// receives it, and of the worker that wakes (bench/wakeStamps.ts), beside what a thread of this machine takes to wake at all.
//
//   node bench/firstPacketStages.ts [--rounds N] [--docs]       the docs: between their marks in docs/benchmarks.md

import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { eventfdCreate, eventfdSignal, eventfdTake } from '../src/sys/eventfd.ts';
import { closeFd, pollRaw } from '../src/sys/fd.ts';
import { NativeBuffer } from '../src/sys/ffi.ts';
import { setThreadAffinity } from '../src/sys/process.ts';
import { commandLine, needRoot, wholeNumber } from './commandLine.ts';
import { writeStages } from './documents.ts';
import type { FirstPacket } from './generator/worker.ts';
import { preloadingLauncherIn } from './launcher.ts';
import { median } from './medians.ts';
import { xvioNamed } from './peers/xvio.ts';
import { acquaint, dismiss, enlist } from './rounds.ts';
import { markdownTable } from './tables.ts';
import type { Options } from './types.ts';
import { STAMPS_FILE, type WakeStamps } from './wakeStamps.ts';

const [SWITCH_CORE, GENERATOR_CORE] = [1, 0];
const IDLE_MS = 300;
const STREAM = { from: 0, to: 1 };
const POLLIN = 1;

const nowNs = (): number => Number(process.hrtime.bigint());

/** A thread that sleeps in poll(2) like a worker, and does nothing else. */
function sleeper(bell: number): void {
  setThreadAffinity([SWITCH_CORE]);
  const pollfd = new NativeBuffer(8);
  pollfd.view.setInt32(0, bell, true);
  pollfd.view.setInt16(4, POLLIN, true);
  parentPort!.postMessage(0);
  for (;;) {
    pollRaw(pollfd.address, 1, 60_000);
    const wokenNs = nowNs();
    eventfdTake(bell);
    parentPort!.postMessage(wokenNs);
  }
}

/** Microseconds from before the write to an eventfd until poll(2) has returned in a thread on another core. */
async function bareWakeUps(rounds: number): Promise<number[]> {
  const bell = eventfdCreate();
  const thread = new Worker(new URL(import.meta.url), { workerData: bell });
  // It spins as the generator does, so that its core is awake.
  const waker = async (): Promise<number> => {
    await sleep(IDLE_MS);
    const woken = once(thread, 'message') as Promise<[number]>;
    const until = nowNs() + 5e6;
    while (nowNs() < until);
    const fromNs = nowNs();
    eventfdSignal(bell);
    const end = nowNs() + 1e6;
    while (nowNs() < end);
    return ((await woken)[0] - fromNs) / 1000;
  };
  try {
    await once(thread, 'message');
    const times: number[] = [];
    for (let i = 0; i < rounds; i++) times.push(await waker());
    return times;
  } finally {
    const ended = thread.terminate();
    eventfdSignal(bell); // out of poll(2)
    await ended;
    closeFd(bell);
  }
}

/** Stamps of both sides, of the packets during which nothing else woke the worker. */
async function firstPackets(ports: number, rounds: number): Promise<[FirstPacket, WakeStamps][]> {
  const directory = mkdtempSync(path.join(tmpdir(), 'xvf-'));
  const file = preloadingLauncherIn(directory, 'bench/wakeStamps.ts', STAMPS_FILE);
  const options: Options = {
    ...{ rounds, durationMs: 100, realtime: false },
    ...{ switchCore: SWITCH_CORE, generatorCore: GENERATOR_CORE, peers: undefined, compare: [] },
    ...{ queueSize: 1024, packed: false, inOrder: false },
    log: (text) => console.error(text),
  };
  const setup = {
    ...{ wiring: 'port' as const, ports },
    ...{ switchCore: SWITCH_CORE, generatorCore: GENERATOR_CORE },
  };
  try {
    const contestant = await enlist(xvioNamed(directory, 'xvio'), setup, options);
    const { generator } = contestant;
    try {
      await acquaint(contestant, [STREAM], options);
      const sent: FirstPacket[] = [];
      for (let i = 0; i < rounds; i++) {
        await sleep(IDLE_MS);
        generator.setStreams([{ ...STREAM, perSecond: 200 }]);
        sent.push(await generator.firstPacket());
      }
      await sleep(IDLE_MS);
      const lines = readFileSync(file, 'utf8').split('\n').filter(Boolean);
      const woken = lines.map((line) => JSON.parse(line) as WakeStamps);
      return sent.flatMap((packet) => {
        const met = woken.find(
          ({ wokenNs, breathEndNs }) =>
            wokenNs > packet.sentNs && breathEndNs < packet.sentNs + 1e7,
        );
        return met ? [[packet, met] as [FirstPacket, WakeStamps]] : [];
      });
    } finally {
      await dismiss(contestant.testbed, generator);
    }
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

const STAGES: readonly (readonly [string, (p: FirstPacket, w: WakeStamps) => number])[] = [
  ['the guest makes it', (p) => p.sentNs - p.madeNs],
  ['kick: write(2) returns', (p) => p.kickedNs - p.sentNs],
  ['kick until poll(2) returns', (p, w) => w.wokenNs - p.sentNs],
  ['the clock', (_, w) => w.knownNs - w.wokenNs],
  ['to the first breath', (_, w) => w.breathNs - w.knownNs],
  ['in it, until the other guest sees it', (p, w) => p.seenNs - w.breathNs],
  ['in all', (p) => p.seenNs - p.madeNs],
];

async function run(rounds: number): Promise<string> {
  const bare = median(await bareWakeUps(rounds));
  const rows: string[][] = [];
  for (const ports of [2, 32]) {
    const packets = await firstPackets(ports, rounds);
    const times = STAGES.map(([, time]) =>
      median(packets.map(([packet, woken]) => time(packet, woken))),
    );
    rows.push([
      String(ports),
      String(packets.length),
      ...times.map((ns) => (ns / 1000).toFixed(1)),
      bare.toFixed(1),
    ]);
  }
  const names = STAGES.map(([name]) => name);
  return markdownTable(['ports', 'packets', ...names, 'a bare thread wakes in'], rows);
}

const HELP = `usage: node bench/firstPacketStages.ts [--rounds N] [--docs]

  --rounds N   packets after silence (default 51)
  --docs       writes the table between its marks in docs/benchmarks.md, too
`;

if (!isMainThread) {
  sleeper(workerData as number);
} else {
  const { values } = commandLine(HELP, {
    options: {
      rounds: { type: 'string', default: '51' },
      docs: { type: 'boolean', default: false },
    },
  });
  const rounds = wholeNumber('rounds', values.rounds, 1);
  needRoot();
  const result = await run(rounds);
  console.log(result);
  if (values.docs) writeStages('first-packet', ', medians, µs', result);
  process.exit(0);
}
