// Memory of the daemon: idle, for each port, for each OpenFlow flow (anonymous memory, so that what is mapped from guests and files does
// not count). Ports and flows are counted at two sizes each: what the first ones cost and what the further ones cost should be the same.

import { readFileSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { OvsTestbed } from '../peers/ovs.ts';
import { ovsDpdk } from '../peers/ovsDpdk.ts';
import { ovsUserspace } from '../peers/ovsUserspace.ts';
import { xvio } from '../peers/xvio.ts';
import { enlist, errorText, usablePeers } from '../rounds.ts';
import type { Measurement, Options, Peer, Scenario, Series } from '../types.ts';

interface Sizes {
  /** After so many, and after all of them. */
  flows: readonly [number, number];
  /** Beyond the first two. */
  ports: readonly [number, number];
  /** For collections of garbage, and threads that end. */
  quietMs: number;
  /** Of daemons whose garbage is collected when it suits them: the least of so many starts counts. */
  starts: number;
}

const FULL: Sizes = { flows: [50_000, 200_000], ports: [30, 62], quietMs: 1500, starts: 2 };
/** Trials so short are of correctness. */
const QUICK: Sizes = { flows: [1000, 2000], ports: [2, 4], quietMs: 100, starts: 1 };

/** Anonymous memory of a process in bytes: what it does not share with guests or files. */
function anonymousBytes(pid: number): number {
  const text = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8');
  return Number(/^Anonymous:\s+(\d+)/m.exec(text)![1]) * 1024;
}

/** Of a daemon with so many ports and no flows; then, if asked, after each number of flows. */
async function measure(
  peer: Peer,
  ports: number,
  flows: readonly number[],
  { quietMs }: Sizes,
  options: Options,
): Promise<number[]> {
  const { switchCore, generatorCore } = options;
  const setup = { wiring: 'none', ports, switchCore, generatorCore } as const;
  const { testbed, generator } = await enlist(peer, setup, { ...options, queueSize: 256 });
  const results: number[] = [];
  const look = async (): Promise<void> => {
    await sleep(quietMs);
    results.push(anonymousBytes(testbed.pids[0]!));
  };
  try {
    const { box } = testbed as OvsTestbed;
    await look();
    let there = 0;
    for (const count of flows) {
      const lines: string[] = [];
      for (; there < count; there++) {
        const address = `10.${there >> 16}.${(there >> 8) & 255}.${there & 255}`;
        lines.push(`priority=100,udp,nw_src=${address},actions=drop`);
      }
      writeFileSync(box.path('many.txt'), `${lines.join('\n')}\n`);
      box.ofctl('add-flows', 'br0', box.path('many.txt'));
      await look();
    }
    return results;
  } finally {
    await generator[Symbol.asyncDispose]();
    await testbed[Symbol.asyncDispose]();
  }
}

interface Bytes {
  idle: number;
  /** Undefined: it takes no guests. */
  ports: readonly [number, number] | undefined;
  flows: readonly [number, number];
}

async function ofPeer(peer: Peer, sizes: Sizes, options: Options): Promise<Bytes> {
  const starts = peer === xvio ? sizes.starts : 1;
  const idleOf = async (ports: number, times: number): Promise<number> => {
    let least = Number.POSITIVE_INFINITY;
    for (let i = 0; i < times; i++) {
      least = Math.min(least, ...(await measure(peer, ports, [], sizes, options)));
    }
    return least;
  };
  const [before, some, all] = await measure(peer, 2, sizes.flows, sizes, options);
  const idle = Math.min(before!, await idleOf(2, starts - 1));
  const [few, many] = sizes.flows;
  const flows = [(some! - before!) / few, (all! - some!) / (many - few)] as const;
  if (peer === ovsUserspace) return { idle, ports: undefined, flows };
  const withPorts: number[] = [];
  for (const more of sizes.ports) withPorts.push(await idleOf(2 + more, starts));
  const [first, second] = sizes.ports;
  const ports = [
    (withPorts[0]! - idle) / first,
    (withPorts[1]! - withPorts[0]!) / (second - first),
  ] as const;
  return { idle, ports, flows };
}

async function run(options: Options): Promise<Measurement[]> {
  const sizes = options.durationMs < 100 ? QUICK : FULL;
  const notes = ['anonymous memory; hugepages of DPDK (512 MiB) not counted'];
  const failures: string[] = [];
  const [idle, ports, flows]: [Series[], Series[], Series[]] = [[], [], []];
  const each = (peer: string, [first, further]: readonly [number, number]): Series => ({
    peer,
    rounds: [further],
    details: { first, further },
  });
  for (const peer of usablePeers([xvio, ovsDpdk, ovsUserspace], options, notes)) {
    try {
      const bytes = await ofPeer(peer, sizes, options);
      idle.push({ peer: peer.name, rounds: [bytes.idle], details: {} });
      if (bytes.ports) ports.push(each(peer.name, bytes.ports));
      flows.push(each(peer.name, bytes.flows));
    } catch (error) {
      failures.push(`${peer.name}: ${errorText(error)}`);
    }
  }
  const common = { scenario: 'memory', unit: 'bytes', higherIsBetter: false, baseline: 'ovs-dpdk' };
  const of = (variant: string, series: Series[], note?: string): Measurement => ({
    ...common,
    variant,
    series,
    notes: note === undefined ? notes : [note],
    failures: note === undefined ? failures : [],
  });
  const [[few, many], [a, b]] = [sizes.flows, sizes.ports];
  return [
    of('idle daemon, 2 ports', idle),
    of(
      `each further port, up to ${2 + b}`,
      ports,
      `first: of the first ${a} beyond two; further: of the ${b - a} after them`,
    ),
    of(
      `each of ${many} OpenFlow flows`,
      flows,
      `first: of the first ${few}; further: of the ${many - few} after them`,
    ),
  ];
}

export const memory: Scenario = {
  name: 'memory',
  title: 'bytes of an idle daemon, a port, a flow',
  run,
};
