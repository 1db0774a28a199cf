// Where the nanoseconds go: a profile of the forwarding thread of a saturated switch, by the stages of the data plane, for several
// kinds of forwarding.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { Stream } from '../generator/generator.ts';
import { xvioNamed } from '../peers/xvio.ts';
import { makeNamedCopy } from '../peers/xvioNamed.ts';
import { perfMissing, profile, removeNames, STAGE_NAMES } from '../profile.ts';
import { acquaint, type Contestant, play, trialOf } from '../rounds.ts';
import type { Measurement, Options, Scenario, Wiring } from '../types.ts';
import { establish } from './firewall.ts';

interface Variant {
  wiring: Wiring;
  /** Without a size: 64 B. */
  label: string;
  stream: Stream;
  prepare?: (contestant: Contestant, options: Options) => Promise<void>;
}

const VARIANTS: readonly Variant[] = [
  { wiring: 'port', label: '1 flow', stream: { from: 0, to: 1 } },
  { wiring: 'port', label: '1 000 flows', stream: { from: 0, to: 1, flows: 1000 } },
  // Each packet alone: `host loop` is mostly the wait for it then.
  { wiring: 'port', label: '1 flow, 1 Mpps', stream: { from: 0, to: 1, perSecond: 1_000_000 } },
  {
    wiring: 'port',
    label: 'IMIX, 1 000 flows',
    stream: { from: 0, to: 1, flows: 1000, imix: true },
  },
  {
    wiring: 'rules',
    label: '1 000 flows',
    stream: { from: 0, to: 1, flows: 1000, spread: 'address' },
  },
  {
    wiring: 'rules',
    label: '64 000 flows',
    stream: { from: 0, to: 1, flows: 64_000, spread: 'address' },
  },
  {
    wiring: 'acl-vxlan',
    label: 'encapsulation, 1 000 flows',
    stream: { from: 0, to: 1, flows: 1000, spread: 'address' },
  },
  {
    wiring: 'acl-vxlan',
    label: 'decapsulation, 1 000 flows',
    stream: { from: 1, to: 0, flows: 1000, spread: 'address' },
  },
  {
    wiring: 'firewall',
    label: '1 000 connections',
    stream: { from: 0, to: 1, flows: 1000, spread: 'connection' },
    prepare: (contestant, options) => establish(contestant, 1000, options),
  },
];

const MOST_ROUNDS = 3;

async function ofVariant(
  { wiring, label, stream, prepare }: Variant,
  directory: string,
  options: Options,
): Promise<Measurement> {
  const pids = new Set<number>();
  const measurement = await play(
    {
      scenario: 'stages',
      variant: `${wiring}, ${stream.imix ? '' : '64 B, '}${label}`,
      unit: 'ns a packet',
      higherIsBetter: false,
      baseline: 'xvio',
      peers: [xvioNamed(directory, 'xvio')],
      setup: () => ({ wiring, ports: 2 }),
      prepare: async (contestant) => {
        if (prepare) await prepare(contestant, options);
        else await acquaint(contestant, [stream], options);
        contestant.testbed.appctl?.('revalidator/pause');
        await trialOf(contestant, [stream], options);
      },
      measure: async (contestant) => {
        let threadNs = 0;
        pids.add(contestant.threads[0]!.pid);
        const parts = await profile(contestant.threads[0]!, directory, async () => {
          const { details } = await trialOf(contestant, [stream], options);
          threadNs = details!.threadNs!;
        });
        // All of them in every round, or the medians would be of different rounds.
        const details = STAGE_NAMES.map((name) => [name, (parts.get(name) ?? 0) * threadNs]);
        return { value: threadNs, details: Object.fromEntries(details) };
      },
    },
    options,
  );
  for (const pid of pids) removeNames(pid);
  return measurement;
}

async function run(options: Options): Promise<Measurement[]> {
  const missing = perfMissing();
  if (missing) {
    const empty = { scenario: 'stages', variant: 'profile', unit: 'ns a packet', series: [] };
    const notes = [`stages: left out: ${missing}`];
    return [{ ...empty, higherIsBetter: false, baseline: 'xvio', notes }];
  }
  // A trial so short is one of correctness.
  const quick = options.durationMs < 100;
  const directory = mkdtempSync(path.join(tmpdir(), 'xvp-'));
  const longer = {
    ...options,
    durationMs: quick ? 200 : Math.max(options.durationMs, 500),
    rounds: Math.min(options.rounds, MOST_ROUNDS),
  };
  try {
    await makeNamedCopy(directory, quick);
    const results: Measurement[] = [];
    for (const variant of quick ? VARIANTS.slice(0, 1) : VARIANTS) {
      results.push(await ofVariant(variant, directory, longer));
    }
    return results;
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

export const stages: Scenario = {
  name: 'stages',
  title: 'where the nanoseconds go: a profile of the forwarding thread by stages (needs perf)',
  run,
};
