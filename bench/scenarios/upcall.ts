// Every packet is the first of its flow: how many a second get through, each with a megaflow of its own. The rule moves
// addresses and ports into registers, so a megaflow has to match all of them.
//
// What it costs is CPU time of all threads of the daemon: one that polls takes a whole core, and one that translates in another thread
// than it forwards is busy, by its own clock, also while it waits for that one.

import { readdirSync } from 'node:fs';
import { ovsDpdk } from '../peers/ovsDpdk.ts';
import { ovsUserspaceTaps } from '../peers/ovsUserspaceTaps.ts';
import { xvio, xvioOf } from '../peers/xvio.ts';
import { type Contestant, play, trialOf } from '../rounds.ts';
import type { Measurement, Options, Scenario } from '../types.ts';

export const NEW_FLOWS = 64_000;
/** Another flow, which is known: it must not wait for those that are new. */
const KNOWN = { from: 2, to: 3, perSecond: 10_000 } as const;
const KNOWN_RULE = 'in_port=3,actions=output:4';
export const NEW_FLOWS_RULE =
  'in_port=1,udp,actions=move:NXM_OF_IP_SRC[]->NXM_NX_REG0[],move:NXM_OF_UDP_SRC[]->NXM_NX_REG1[0..15],output:2';

/** So short that the same number of flows, of which none may come twice, is more a second than the control plane takes. */
const RUSH_MS = 120;

async function run(options: Options): Promise<Measurement[]> {
  const results = [await offer(Math.min(options.durationMs, 500), options)];
  // Shorter trials are those of correctness.
  if (options.durationMs > RUSH_MS) results.push(await offer(RUSH_MS, options));
  return results;
}

function offer(durationMs: number, options: Options): Promise<Measurement> {
  const perSecond = Math.floor((NEW_FLOWS / (durationMs + 30)) * 1000);
  const rush = durationMs === RUSH_MS ? 'in a rush, ' : '';
  const measure = async (contestant: Contestant) => {
    contestant.testbed.appctl!('revalidator/purge');
    const stream = { from: 0, to: 1, flows: NEW_FLOWS, spread: 'address', perSecond } as const;
    // Upcalls are not the forwarding thread's work alone: nobody runs ahead of the others.
    const conditions = { durationMs, realtime: false };
    const threads = contestant.testbed.pids.flatMap((pid) =>
      readdirSync(`/proc/${pid}/task`).map((tid) => ({ pid, tid: Number(tid) })),
    );
    const all = { ...contestant, threads };
    const { details, counts } = await trialOf(all, [stream, KNOWN], conditions);
    const { busyNs: _, threadNs, ...others } = details!;
    const [fresh, known] = [counts.each[stream.to]!, counts.each[KNOWN.to]!];
    return {
      value: (fresh.received / counts.elapsedMs) * 1000,
      details: {
        ...others,
        daemonNs: threadNs!,
        knownPerSecond: (known.received / counts.elapsedMs) * 1000,
        knownLongestMs: known.latencyMaxMs,
        knownPauseMs: Math.max(known.latencyMaxMs - counts.longestGapMs, 0),
      },
    };
  };
  return play(
    {
      scenario: 'upcall',
      variant: `every packet a new flow, ${rush}up to ${perSecond} a second`,
      unit: 'flows/s',
      peers: [xvio, ovsDpdk, ovsUserspaceTaps, ...options.compare.map(xvioOf)],
      setup: () => ({ wiring: 'none', ports: 4 }),
      notes: [
        'a switch that leaves packets in the ring until it has time for them is offered fewer, and one that takes and drops them all: see what was lost',
        'knownPauseMs: the longest wait of a packet of a known flow meanwhile, without the time for which the generator stood still (knownLongestMs: with it)',
      ],
      prepare: async (contestant) => {
        for (const rule of [NEW_FLOWS_RULE, KNOWN_RULE])
          contestant.testbed.ofctl!('add-flow', 'br0', rule);
        // Caches fill, and a compiler that compiles what runs often has seen it run.
        for (let i = 0; i < 3; i++) await measure(contestant);
      },
      measure,
    },
    options,
  );
}

export const upcall: Scenario = {
  name: 'upcall',
  title: 'every packet a new flow',
  run,
};
