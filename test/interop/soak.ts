// Everything at once, for as long as wanted, on one daemon: checked traffic of innocent guests, a fuzzing guest, floods of
// broadcasts, flow-mods, ports that come and go with their guests, and a guest that migrates back and forth.
//
//   br0  a ↔ b                innocents (innocents.ts)
//   br1  x, sink, c*, flows   the fuzzing guest, a talkative one, churn of ports and of the flow table
//   br2  m0, m1 ↔ peer        a guest that lives on m0 and m1 in turn, under traffic
//
// Judged: no frame of the innocents lost; what the migrating guest sent has arrived once, in order, or was dropped by
// name; the daemon's memory, descriptors and mappings are flat.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { FuzzReport } from '../../src/guest/fuzz/main.ts';
import { Random } from '../../src/guest/fuzz/random.ts';
import { Guest } from '../../src/guest/guest.ts';
import { LiveMigration } from '../../src/guest/migration.ts';
import { GuestThread } from '../../src/guest/thread.ts';
import { buildArena, fdCount, rssMiB, runFuzzer, statistics, troubles } from './fuzzArena.ts';
import { Innocents } from './innocents.ts';
import { Sandbox } from './sandbox.ts';

export interface Sample {
  second: number;
  rssMiB: number;
  fds: number;
  maps: number;
}

export interface SoakResult {
  samples: Sample[];
  fuzz: FuzzReport;
  innocentFrames: number;
  slowestMs: number;
  migrations: number;
  migratedFrames: number;
  flowMods: number;
  slowestFlowModsMs: number;
  ports: number;
}

const MIGRATE_EVERY_MS = 3000;

/** Growth that is none: sessions in progress, pages of a heap that the collector has not given back yet. */
const SLACK = { rssMiB: 40, fds: 30, maps: 250 };
/** In a run of less than five minutes the collector has not found its pace yet. */
const SHORT_RUN = { seconds: 300, rssMiB: 128 };

/** What grows: the median of the last third against that of the middle one (the first is warming up). */
export function judge(samples: readonly Sample[]): string[] {
  const third = Math.floor(samples.length / 3);
  const [middle, last] = [samples.slice(third, 2 * third), samples.slice(2 * third)];
  const found: string[] = [];
  for (const what of ['rssMiB', 'fds', 'maps'] as const) {
    const median = (of: readonly Sample[]): number =>
      of.map((s) => s[what]).sort((a, b) => a - b)[of.length >> 1] ?? 0;
    const [before, after] = [median(middle), median(last)];
    const isShort = what === 'rssMiB' && samples.length < SHORT_RUN.seconds;
    if (after > before + (isShort ? SHORT_RUN.rssMiB : SLACK[what]))
      found.push(`${what} grew from ${before} to ${after}`);
  }
  return found;
}

const traffic = (from: number, to: number) => ({
  send: true,
  sourceMac: `02:00:00:00:ee:0${from}`,
  destinationMac: `02:00:00:00:ee:0${to}`,
  sourceIp: `10.8.0.${from}`,
  destinationIp: `10.8.0.${to}`,
  perMs: 2,
});

class Soak {
  readonly #box: Sandbox;
  readonly #random: Random;
  #stop = false;
  migrations = 0;
  migratedFrames = 0;
  flowMods = 0;
  /** A table of 201 flows replaced. */
  slowestFlowModsMs = 0;
  ports = 0;

  constructor(box: Sandbox, seed: number) {
    this.#box = box;
    this.#random = new Random(seed ^ 0x50a4);
  }

  end(): void {
    this.#stop = true;
  }

  /** A command that this process does not wait for: its guests go on. */
  async #run(command: string, ...words: string[]): Promise<void> {
    const [status] = await once(this.#box.spawn(command, words), 'exit');
    assert.equal(status, 0, `${command} ${words.join(' ')}`);
  }

  /** A table of random flows, replaced as a whole (one by one, each flow-mod has a barrier that all megaflows wait for). */
  async flows(): Promise<void> {
    const file = this.#box.path('flows');
    while (!this.#stop) {
      const random = this.#random;
      const lines = ['priority=0,actions=NORMAL'];
      for (let i = 0; i < 200; i++) {
        const address = `10.9.${random.below(256)}.${random.below(256)}`;
        const action = random.pick(['NORMAL', 'drop', 'output:sink', 'mod_vlan_vid:7,NORMAL']);
        lines.push(`priority=${1 + random.below(1000)},ip,nw_src=${address},actions=${action}`);
      }
      writeFileSync(file, lines.join('\n'));
      const startedMs = performance.now();
      await this.#run('ovs-ofctl', '--bundle', 'replace-flows', 'br1', file);
      this.slowestFlowModsMs = Math.max(this.slowestFlowModsMs, performance.now() - startedMs);
      this.flowMods += lines.length;
      await sleep(700);
    }
  }

  /** Ports that come, serve a guest, and go. */
  async churn(): Promise<void> {
    const path = this.#box.path('churn.sock');
    const guest = new Guest({ path, mode: 'server', memoryBytes: 64 << 20 });
    guest.open();
    try {
      while (!this.#stop) {
        const name = `c${++this.ports}`;
        const settings = ['type=dpdkvhostuserclient', `options:vhost-server-path=${path}`];
        const add = ['add-port', 'br1', name, '--', 'set', 'Interface', name, ...settings];
        await this.#run('ovs-vsctl', '--timeout=60', ...add);
        await guest.connected(this.ports, 30_000);
        await sleep(200);
        await this.#run('ovs-vsctl', '--timeout=60', 'del-port', 'br1', name);
        await this.#box.until(() => guest.frontend === undefined, 30_000, 'end of a connection');
      }
    } finally {
      guest.close();
    }
  }

  #guest(name: string): Guest {
    const path = this.#box.path(name);
    return new Guest({ path, mode: 'client', memoryBytes: 16 << 20, queueSize: 1024 });
  }

  /** A guest that moves between two ports under traffic. */
  async migrate(): Promise<void> {
    const box = this.#box;
    const peer = this.#guest('peer');
    let here = this.#guest('m0');
    let threads: GuestThread[] = [];
    try {
      for (const guest of [peer, here]) guest.open();
      await Promise.all([peer.connected(), here.connected()]);
      const peerThread = new GuestThread(peer);
      let thread = new GuestThread(here);
      threads = [peerThread, thread];
      peerThread.setTraffic(0, traffic(2, 1));
      thread.setTraffic(0, traffic(1, 2));
      while (!this.#stop) {
        await sleep(MIGRATE_EVERY_MS);
        const there = this.#guest(`m${(this.migrations + 1) % 2}`);
        using migration = new LiveMigration(here, there);
        await migration.begin();
        for (let round = 0; round < 5; round++) {
          await sleep(2);
          migration.sync();
        }
        await thread.close();
        threads = [peerThread];
        migration.copyDriverPages();
        await migration.complete();
        assert.equal(migration.difference(), -1, 'memories differ');
        here.close();
        here = there;
        here.open();
        await here.connected();
        thread = new GuestThread(here);
        threads = [peerThread, thread];
        thread.poke();
        this.migrations++;
      }
      thread.stopSending(0);
      const sent = (): number => thread.counters(0).sent;
      const arrived = (): number => peerThread.counters(0).marked;
      const dropped = (): number =>
        Object.entries(statistics(box, 'peer'))
          .filter(([name]) => name.startsWith('xvio_drop_'))
          .reduce((sum, [, count]) => sum + count, 0);
      await box.until(
        () => sent() === arrived() + dropped(),
        30_000,
        `what was sent: ${sent()}, ${arrived()} came, ${dropped()} dropped`,
      );
      // Frames behind the first one of a new place may overtake it, on its way through the slow path; a frame that came
      // twice would be counted as late without having been counted as missing.
      const { lost, reordered } = peerThread.counters(0);
      assert.equal(lost - reordered, dropped(), 'frames came twice');
      this.migratedFrames = arrived();
    } finally {
      await Promise.all(threads.map((thread) => thread.close()));
      for (const guest of [peer, here]) guest.close();
    }
  }
}

export async function soak(options: {
  seed: number;
  seconds: number;
  onSample?: (sample: Sample) => void;
}): Promise<SoakResult> {
  const { seed, seconds, onSample } = options;
  await using box = await Sandbox.start();
  buildArena(box);
  box.vsctl('add-br', 'br2', '--', 'set', 'Bridge', 'br2', 'datapath_type=netdev');
  for (const name of ['m0', 'm1', 'peer']) {
    box.vsctl('add-port', 'br2', name, '--', 'set', 'Interface', name, 'type=dpdkvhostuser');
  }
  box.ofctl('del-flows', 'br2');
  box.ofctl('add-flow', 'br2', 'in_port=peer,actions=output:m0,output:m1');
  box.ofctl('add-flow', 'br2', 'actions=output:peer');
  const pid = box.daemonPid;
  const innocents = new Innocents(box.path('a'), box.path('b'));
  const sink = new Guest({ path: box.path('sink'), mode: 'client', memoryBytes: 8 << 20 });
  const work = new Soak(box, seed);
  let sinkThread: GuestThread | undefined;
  const samples: Sample[] = [];
  try {
    await innocents.start();
    sink.open();
    await sink.connected();
    sinkThread = new GuestThread(sink);
    sinkThread.setTraffic(0, { ...traffic(7, 8), destinationMac: 'ff:ff:ff:ff:ff:ff', perMs: 1 });
    const fuzzing = runFuzzer(box.path('x'), { seed, seconds, secret: innocents.secret });
    const jobs = Promise.all([work.flows(), work.churn(), work.migrate(), fuzzing]);
    let done = false;
    const sampling = (async () => {
      for (let second = 0; !done; second++) {
        const maps = readFileSync(`/proc/${pid}/maps`, 'utf8').split('\n').length;
        const sample = { second, rssMiB: Math.round(rssMiB(pid)), fds: fdCount(pid), maps };
        samples.push(sample);
        onSample?.(sample);
        await sleep(1000);
      }
    })();
    const ended = fuzzing.finally(() => work.end());
    const failed = innocents.failed.then(() => new Promise<never>(() => {}));
    try {
      await Promise.race([Promise.all([jobs, ended]), failed]);
    } finally {
      work.end();
      done = true;
      await sampling;
      await jobs.catch(() => {});
    }
    await innocents.stop();
    assert.equal(box.daemonPid, pid);
    assert.deepEqual(troubles(readFileSync(box.logFile, 'utf8')), []);
    for (const name of ['a', 'b']) {
      const { rx_dropped = 0, tx_dropped = 0 } = statistics(box, name);
      assert.deepEqual([rx_dropped, tx_dropped], [0, 0], `drops of ${name}`);
    }
    assert.deepEqual(judge(samples), [], 'growth');
    const { migrations, migratedFrames, flowMods, ports } = work;
    return {
      samples,
      fuzz: await fuzzing,
      innocentFrames: innocents.frames,
      slowestMs: Math.round(innocents.slowestMs),
      migrations,
      migratedFrames,
      flowMods,
      slowestFlowModsMs: Math.round(work.slowestFlowModsMs),
      ports,
    };
  } catch (error) {
    throw new Error(`seed ${seed}: ${(error as Error).message}\n${box.logTail(40)}`, {
      cause: error,
    });
  } finally {
    await innocents.stop().catch(() => {});
    await sinkThread?.close();
    sink.close();
  }
}
