// A generator that nobody can say we have tuned: dpdk-testpmd with two virtio-user devices forwards between them, so
// packets go round and round through the switch. The generator is the limit; what tells is the CPU time of a packet.
//
// testpmd cannot be told to run for so many milliseconds: this process sleeps meanwhile, with a higher real-time priority
// than the two threads have, and asks the switch for its counters after they have lost theirs.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { setRealtime } from '../../src/sys/process.ts';
import { ovsDpdk } from '../peers/ovsDpdk.ts';
import { Testpmd, testpmdVhost } from '../peers/testpmd.ts';
import { xvio, xvioOf } from '../peers/xvio.ts';
import { cpuNs, errorText, usablePeers } from '../rounds.ts';
import { medianDetails, type Sample, Score } from '../score.ts';
import type { Measurement, Options, Peer, Series, SwitchThread, Testbed } from '../types.ts';

/** Bursts of 32 packets that each device of testpmd starts with: half of its ring. */
const FIRST_BURSTS = 8;

interface Loop extends AsyncDisposable {
  testbed: Testbed;
  pmd: Testpmd;
}

async function start(peer: Peer, options: Options): Promise<Loop> {
  const { switchCore, generatorCore, queueSize } = options;
  const testbed = await peer.start({ wiring: 'port', ports: 2, switchCore, generatorCore });
  const directory = mkdtempSync(join(tmpdir(), 'xv-pmd-'));
  const device = (path: string, i: number) =>
    `net_virtio_user${i},path=${path},queues=1,queue_size=${queueSize},server=1,` +
    `mac=02:00:00:00:00:0${i + 1},packed_vq=${options.packed ? 1 : 0},mrg_rxbuf=1,` +
    `in_order=${options.inOrder ? 1 : 0}`;
  const pmd = new Testpmd({
    // The main thread of testpmd only reads its prompt.
    mainCore: generatorCore,
    core: generatorCore,
    vdevs: testbed.sockets.map(device),
    args: [
      '--forward-mode=io',
      '--port-topology=paired',
      `--txd=${queueSize}`,
      `--rxd=${queueSize}`,
    ],
    directory,
  });
  const loop: Loop = {
    testbed,
    pmd,
    async [Symbol.asyncDispose]() {
      for (const pid of [pmd.pid, ...testbed.pids]) process.kill(pid, 'SIGCONT');
      await pmd[Symbol.asyncDispose]();
      rmSync(directory, { recursive: true, force: true });
      await testbed[Symbol.asyncDispose]();
    },
  };
  try {
    await pmd.waitFor(/testpmd>/, 0, 60_000);
    await testbed.ready();
    await turn(loop);
    return loop;
  } catch (error) {
    await loop[Symbol.asyncDispose]();
    throw error;
  }
}

/** What was lost on the way (a full ring) is missing in the loop: each round begins with the same number of packets. */
async function turn({ pmd }: Loop): Promise<void> {
  await pmd.command(`start tx_first ${FIRST_BURSTS}`, /packet forwarding/);
  await sleep(100);
}

const PRIORITY = 10;

function boost(threads: readonly SwitchThread[], on: boolean): void {
  setRealtime(0, on ? PRIORITY + 1 : 0);
  for (const { tid } of threads) setRealtime(tid, on ? PRIORITY : 0);
}

async function round({ testbed, pmd }: Loop, { durationMs, realtime }: Options) {
  const threads = testbed.threads();
  const all = [...threads, ...pmd.threads()];
  testbed.clearBusy!();
  if (realtime) boost(all, true);
  const [before, from] = [cpuNs(threads), performance.now()];
  await sleep(durationMs);
  if (realtime) boost(all, false);
  const busy = testbed.busy!()!;
  const elapsedMs = performance.now() - from;
  const used = cpuNs(threads) - before;
  return {
    rate: (busy.packets / elapsedMs) * 1000,
    busyNs: busy.busyNs / Math.max(busy.packets, 1),
    threadNs: used / Math.max(busy.packets, 1),
  };
}

async function run(options: Options): Promise<Measurement[]> {
  const missing = testpmdVhost.missing();
  if (missing) throw new Error(`dpdk-testpmd is the generator: ${missing}`);
  const notes: string[] = [];
  const failures: string[] = [];
  const peers = usablePeers([xvio, ovsDpdk, ...options.compare.map(xvioOf)], options, notes);
  const loops: Loop[] = [];
  const stop = ({ testbed, pmd }: Loop, signal: NodeJS.Signals) => {
    for (const pid of [pmd.pid, ...testbed.pids]) process.kill(pid, signal);
  };
  try {
    for (const peer of peers) {
      try {
        const loop = await start(peer, options);
        loops.push(loop);
        stop(loop, 'SIGSTOP');
      } catch (error) {
        failures.push(`${peer.name} did not take part: ${errorText(error)}`);
      }
    }
    const names = loops.map(({ testbed }) => testbed.name);
    const score = new Score(names, options, notes);
    for (let n = 0; score.goesOn(n); n++) {
      for (let i = 0; i < loops.length; i++) {
        const at = (i + n) % loops.length;
        const loop = loops[at]!;
        await score.play(at, options.placement, async () => {
          stop(loop, 'SIGCONT');
          await loop.pmd.command('stop', /Done\./);
          await turn(loop);
          const { rate, ...details } = await round(loop, options);
          stop(loop, 'SIGSTOP');
          return { value: rate, details };
        });
      }
    }
    notes.push(...score.tallies());
    const series = (pick: (sample: Sample) => number): Series[] =>
      names.map((peer, at) => ({
        peer,
        rounds: score.of(at).map(pick),
        details: medianDetails(score.of(at)),
        far: score.farOf(at),
      }));
    const common = { scenario: 'testpmd', baseline: 'ovs-dpdk', notes, failures };
    const variant = 'testpmd virtio-user io loop, 64 B';
    return [
      {
        ...common,
        variant,
        unit: 'packets/s',
        higherIsBetter: true,
        series: series(({ value }) => value),
      },
      {
        ...common,
        variant: `${variant}: time of a packet in the switch`,
        unit: 'ns',
        higherIsBetter: false,
        series: series(({ details }) => details!.busyNs!),
      },
    ];
  } finally {
    for (const loop of loops) await loop[Symbol.asyncDispose]();
  }
}

export const testpmd = {
  name: 'testpmd',
  title: 'the same with dpdk-testpmd virtio-user as generator',
  run,
};
