// A stateful firewall on one core: packets of established connections through connection tracking, new connections a
// second, and what three million connections cost in memory.

import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Stream } from '../generator/generator.ts';
import type { OvsTestbed } from '../peers/ovs.ts';
import { ovsDpdk } from '../peers/ovsDpdk.ts';
import { xvio, xvioOf } from '../peers/xvio.ts';
import { type Contestant, enlist, errorText, play, trialOf, usablePeers } from '../rounds.ts';
import type { Measurement, Options, Peer, Scenario, Testbed } from '../types.ts';

/** Below the 3 000 000 that both switches take by default. */
const MANY = 2_900_000;
/** Pace at which connections are set up before something is measured, a second. */
const SETUP_PER_SECOND = 150_000;
const SETUP_TRIES = 40;
const SETUP_MAX_MS = 60_000;

const requests = (flows: number): Stream => ({ from: 0, to: 1, flows, spread: 'connection' });
const replies = (flows: number): Stream => ({ from: 1, to: 0, flows, spread: 'reply' });
const setup = () => ({ wiring: 'firewall', ports: 2 }) as const;

/** As text, from either switch: "64000". */
function connections(testbed: Testbed): number {
  return Number.parseInt(testbed.appctl!('dpctl/ct-get-nconns'), 10);
}

async function paced({ generator }: Contestant, stream: Stream): Promise<number> {
  generator.setStreams([{ ...stream, perSecond: SETUP_PER_SECOND }]);
  const durationMs = 50 + ((stream.flows ?? 1) / SETUP_PER_SECOND) * 1000;
  return (await generator.trial({ durationMs, warmUpMs: 0, drainMs: 50 })).received;
}

/** Opens connections, until all are there. */
async function open(contestant: Contestant, flows: number): Promise<void> {
  const untilMs = Date.now() + SETUP_MAX_MS;
  for (let i = 0; i < SETUP_TRIES && Date.now() < untilMs; i++) {
    if (connections(contestant.testbed) >= flows) return;
    await paced(contestant, requests(flows));
  }
  const there = connections(contestant.testbed);
  if (there < flows)
    throw new Error(`${contestant.testbed.name}: ${there} of ${flows} connections`);
}

/**
 * Opens connections, answers all of them, and sends a packet more on each, so that both directions are established and
 * known to all caches.
 */
export async function establish(
  contestant: Contestant,
  flows: number,
  { log, deadlineMs = Number.POSITIVE_INFINITY }: Options,
): Promise<void> {
  await open(contestant, flows);
  for (const stream of [replies(flows), requests(flows)]) {
    let arrived = 0;
    const untilMs = Math.min(Date.now() + SETUP_MAX_MS, deadlineMs);
    // Each round goes through all connections once and a bit.
    for (let i = 0; i < SETUP_TRIES && arrived < flows && Date.now() < untilMs; i++) {
      arrived = await paced(contestant, stream);
    }
    if (arrived < flows) {
      contestant.notes.push(
        `${contestant.testbed.name}: ${arrived} of ${flows} connections at once, in the last try`,
      );
      log(contestant.notes.at(-1)!);
    }
  }
}

async function established(flows: number, options: Options): Promise<Measurement> {
  return play(
    {
      scenario: 'firewall',
      variant: `64 B, ${flows} established connections`,
      unit: 'packets/s',
      peers: [xvio, ovsDpdk, ...options.compare.map(xvioOf)],
      setup,
      prepare: (contestant) => establish(contestant, flows, options),
      measure: (contestant) => trialOf(contestant, [requests(flows)], options),
    },
    options,
  );
}

async function opened(options: Options): Promise<Measurement> {
  const { durationMs } = options;
  // No connection may come twice: the number of packets is limited, and the table is emptied after each round.
  const perSecond = Math.floor((MANY / (durationMs + 30)) * 1000);
  return play(
    {
      scenario: 'firewall',
      variant: `new connections, ${perSecond} offered a second`,
      unit: 'flows/s',
      peers: [xvio, ovsDpdk, ...options.compare.map(xvioOf)],
      setup,
      prepare: async (contestant) => void (await paced(contestant, requests(1000))),
      measure: async (contestant) => {
        const { testbed } = contestant;
        testbed.appctl!('dpctl/flush-conntrack');
        const sample = await trialOf(contestant, [{ ...requests(MANY), perSecond }], options);
        return { ...sample, details: { ...sample.details, connections: connections(testbed) } };
      },
    },
    options,
  );
}

/**
 * Memory of a process in bytes without that of files. Our connections live in a memory file, which a successor inherits,
 * so what is shared counts, too; of guests' memory that is the same before and after.
 */
function memoryBytes(pid: number): number {
  const text = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8');
  const kib = (name: string): number =>
    Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(text)?.[1] ?? 0);
  return (kib('Pss_Anon') + kib('Pss_Shmem')) * 1024;
}

async function bytesEach(peer: Peer, flows: number, options: Options): Promise<number> {
  const { switchCore, generatorCore } = options;
  const contestant = await enlist(peer, { ...setup(), switchCore, generatorCore }, options);
  const { testbed, generator } = contestant;
  try {
    await open(contestant, 1);
    await sleep(500);
    const before = memoryBytes((testbed as OvsTestbed).pids[0]!);
    await open(contestant, flows);
    return (memoryBytes(testbed.pids[0]!) - before) / flows;
  } finally {
    await generator[Symbol.asyncDispose]();
    await testbed[Symbol.asyncDispose]();
  }
}

async function memory(flows: number, options: Options): Promise<Measurement> {
  const series = [];
  const left: string[] = [];
  const failures: string[] = [];
  for (const peer of usablePeers([xvio, ovsDpdk], options, left)) {
    try {
      const bytes = await bytesEach(peer, flows, options);
      series.push({ peer: peer.name, rounds: [bytes], details: {} });
    } catch (error) {
      failures.push(`${peer.name}: ${errorText(error)}`);
    }
  }
  return {
    scenario: 'firewall',
    variant: `memory of each of ${flows} connections`,
    unit: 'bytes',
    higherIsBetter: false,
    baseline: 'ovs-dpdk',
    series,
    failures,
    notes: ['anonymous and shared memory; hugepages of DPDK not counted', ...left],
  };
}

async function run(options: Options): Promise<Measurement[]> {
  // Trials that short ask only whether it works.
  const smoke = options.durationMs < 100;
  const counts = smoke ? [1000] : [1, 1000, 64_000, 1_000_000];
  const results: Measurement[] = [];
  for (const flows of counts) results.push(await established(flows, options));
  results.push(await opened(options));
  results.push(await memory(smoke ? 20_000 : MANY, options));
  return results;
}

export const firewall: Scenario = {
  name: 'firewall',
  title: 'established and new connections through connection tracking',
  run,
};
