// Memory of the daemon: idle, for each port, for each OpenFlow flow (proportional set size, so that what is mapped from
// guests and files does not count twice).

import { readFileSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { OvsTestbed } from '../peers/ovs.ts';
import { ovsDpdk } from '../peers/ovsDpdk.ts';
import { ovsUserspace } from '../peers/ovsUserspace.ts';
import { xvio } from '../peers/xvio.ts';
import { enlist, errorText, usablePeers } from '../rounds.ts';
import type { Measurement, Options, Peer, Scenario } from '../types.ts';

const FLOWS = 50_000;

/** Anonymous memory of a process in bytes: what it does not share with guests or files. */
function anonymousBytes(pid: number): number {
  const text = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8');
  return Number(/^Anonymous:\s+(\d+)/m.exec(text)![1]) * 1024;
}

async function measure(
  peer: Peer,
  ports: number,
  flows: number,
  options: Options,
): Promise<number> {
  const { switchCore, generatorCore } = options;
  const setup = { wiring: 'none', ports, switchCore, generatorCore } as const;
  const { testbed, generator } = await enlist(peer, setup, { ...options, queueSize: 256 });
  try {
    const { box } = testbed as OvsTestbed;
    const lines = Array.from(
      { length: flows },
      (_, i) => `priority=100,udp,nw_src=10.${i >> 16}.${(i >> 8) & 255}.${i & 255},actions=drop`,
    );
    if (flows > 0) {
      writeFileSync(box.path('many.txt'), `${lines.join('\n')}\n`);
      box.ofctl('add-flows', 'br0', box.path('many.txt'));
    }
    await sleep(1500);
    return anonymousBytes(testbed.pids[0]!);
  } finally {
    await generator[Symbol.asyncDispose]();
    await testbed[Symbol.asyncDispose]();
  }
}

async function run(options: Options): Promise<Measurement[]> {
  const flows = options.durationMs < 100 ? 1000 : FLOWS;
  const rows: [string, string, (peer: Peer) => Promise<number>][] = [];
  const idle = new Map<string, number>();
  const idleOf = async (peer: Peer): Promise<number> => {
    const bytes = idle.get(peer.name) ?? (await measure(peer, 2, 0, options));
    idle.set(peer.name, bytes);
    return bytes;
  };
  rows.push(['idle daemon, 2 ports', 'bytes', idleOf]);
  rows.push([
    'each further port',
    'bytes',
    async (peer) => ((await measure(peer, 34, 0, options)) - (await idleOf(peer))) / 32,
  ]);
  rows.push([
    `each of ${flows} OpenFlow flows`,
    'bytes',
    async (peer) => ((await measure(peer, 2, flows, options)) - (await idleOf(peer))) / flows,
  ]);
  const left: string[] = [];
  const peers = usablePeers([xvio, ovsDpdk, ovsUserspace], options, left);
  const results: Measurement[] = [];
  for (const [variant, unit, get] of rows) {
    const series = [];
    const notes = ['anonymous memory; hugepages of DPDK (512 MiB) not counted', ...left.splice(0)];
    const failures: string[] = [];
    for (const peer of peers) {
      // It takes no guests.
      if (peer === ovsUserspace && variant.includes('port')) continue;
      try {
        series.push({ peer: peer.name, rounds: [await get(peer)], details: {} });
      } catch (error) {
        failures.push(`${peer.name}: ${errorText(error)}`);
      }
    }
    results.push({
      scenario: 'memory',
      variant,
      unit,
      higherIsBetter: false,
      baseline: 'ovs-dpdk',
      series,
      notes,
      failures,
    });
  }
  return results;
}

export const memory: Scenario = {
  name: 'memory',
  title: 'bytes of an idle daemon, a port, a flow',
  run,
};
