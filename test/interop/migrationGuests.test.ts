// Live migration of our own guests at full packet rate: the memory that arrives is the memory that left, byte for byte,
// and the traffic of both directions goes on with nothing lost in the guest's rings and nothing delivered twice.
//
// Cases come from seeds: XVIO_MIGRATIONS says how many (default 8), XVIO_SEED where they begin.

import assert from 'node:assert/strict';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Guest, type GuestOptions, guestFeatures } from '../../src/guest/guest.ts';
import { LiveMigration } from '../../src/guest/migration.ts';
import { GuestThread, type TrafficCounters } from '../../src/guest/thread.ts';
import { createTestSwitch, hasBuffers, trafficOf, until } from './vhostHarness.ts';

interface Case {
  packed: boolean;
  inOrder: boolean;
  mergeable: boolean;
  eventIdx: boolean;
  pairs: number;
  queueSize: number;
  frameBytes: number;
  perMs: number;
  /** Migrations that are begun and cancelled before the one that counts. */
  cancelled: number;
  rounds: number;
}

/** A case from a seed (mulberry32). */
function caseOf(seed: number): Case {
  let state = (seed * 0x9e3779b9) >>> 0;
  const below = (n: number): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) % n;
  };
  return {
    packed: seed % 2 === 1,
    inOrder: below(3) === 0,
    mergeable: below(3) !== 0,
    eventIdx: below(2) === 0,
    pairs: [1, 1, 2, 4][below(4)]!,
    queueSize: [256, 512, 1024, 4096][below(4)]!,
    frameBytes: 60 + below(1400),
    perMs: [5, 40, 0][below(3)]!,
    cancelled: below(3),
    rounds: 1 + below(20),
  };
}

const traffic = ({ frameBytes, perMs }: Case, from: number, to: number) => ({
  ...trafficOf(from, to),
  frameBytes,
  perMs,
});

const summed = (thread: GuestThread, pairs: number): TrafficCounters => {
  const all = Array.from({ length: pairs }, (_, pair) => thread.counters(pair));
  const sums = { ...all[0]! };
  for (const name of Object.keys(sums) as (keyof TrafficCounters)[]) {
    sums[name] = all.reduce((sum, counters) => sum + counters[name], 0);
  }
  return sums;
};

async function migrate(c: Case, seed: number): Promise<string> {
  await using sw = createTestSwitch();
  const [peerPort, sourcePort] = [await sw.addServer('peer'), await sw.addServer('source')];
  const destinationPort = await sw.addServer('destination');
  sw.forward(sourcePort, peerPort);
  sw.forward(peerPort, sourcePort);
  const common: Omit<GuestOptions, 'path'> = {
    mode: 'client',
    pairs: c.pairs,
    queueSize: c.queueSize,
    features: guestFeatures(c),
    memoryBytes: 96 << 20,
  };
  const guest = (name: string) => new Guest({ ...common, path: join(sw.directory, name) });
  // The peer has room for whatever comes while this process does not let it run.
  const peer = new Guest({
    ...common,
    pairs: 1,
    queueSize: 8192,
    path: join(sw.directory, 'peer'),
  });
  const [source, destination] = [guest('source'), guest('destination')];
  const threads = new Set<GuestThread>();
  const run = (guest: Guest): GuestThread => {
    const thread = new GuestThread(guest);
    threads.add(thread);
    return thread;
  };
  const stop = async (thread: GuestThread): Promise<void> => {
    threads.delete(thread);
    await thread.close();
  };
  try {
    peer.open();
    source.open();
    await Promise.all([peer.connected(), source.connected()]);
    await until(() => sourcePort.status().linkUp && peerPort.status().linkUp, 'links');
    const peerThread = run(peer);
    const before = run(source);
    await hasBuffers(source);
    peerThread.setTraffic(0, traffic(c, 2, 1));
    before.setTraffic(0, traffic(c, 1, 2));
    await until(() => summed(before, 1).sent > 500 && peerThread.counters(0).marked > 0, 'frames');

    for (let i = 0; i < c.cancelled; i++) {
      using attempt = new LiveMigration(source, destination);
      await attempt.begin();
      attempt.sync();
      await sleep(5);
      await attempt.cancel();
    }
    using migration = new LiveMigration(source, destination);
    await migration.begin();
    for (let round = 0; round < c.rounds; round++) {
      await sleep(2);
      migration.sync();
    }
    await stop(before);
    migration.copyDriverPages();
    // The driver is still; what the switch writes from now on into what is left of the rings is known from the log only.
    const end = performance.now() + 15;
    while (performance.now() < end) migration.sync();
    await migration.complete();
    const at = migration.difference();
    assert.equal(at, -1, `seed ${seed}: memories differ at 0x${at.toString(16)}`);

    // The other place goes on.
    source.frontend!.close();
    sw.forward(peerPort, destinationPort);
    sw.forward(destinationPort, peerPort);
    destination.open();
    await destination.connected();
    await until(() => destinationPort.status().linkUp, 'link at the destination');
    const after = run(destination);
    const received = after.counters(0).received;
    await until(
      () => after.counters(0).received > received + 500 && after.counters(0).sent > 1000,
      () => JSON.stringify([summed(after, c.pairs), sw.log.slice(-20)]),
    );
    after.stopSending(0);
    peerThread.stopSending(0);
    // What the guest has ever sent has arrived, but for what a full ring of the peer dropped; all of it once.
    const drops = () => sw.drops(peerPort).tx_ring_full ?? 0;
    await until(
      () => after.counters(0).sent === peerThread.counters(0).marked + drops(),
      () => JSON.stringify([after.counters(0), peerThread.counters(0), sw.drops(peerPort)]),
    );
    assert.equal(peerThread.counters(0).twice, 0, 'the peer met a frame twice');
    assert.equal(summed(after, c.pairs).twice, 0, 'the guest met a frame twice');
    for (const port of [peerPort, destinationPort]) assert.equal(port.status().error, undefined);
    return `${migration.pagesCopied} pages, ${after.counters(0).sent} frames sent`;
  } finally {
    for (const thread of threads) await thread.close();
    for (const each of [peer, source, destination]) each.close();
  }
}

/**
 * The rings stop while the driver goes on filling them: what is left in them is sent from the other place, and only from
 * there, though the source is not closed and its memory has it all, too.
 */
async function migrateFull(variant: { packed: boolean; inOrder: boolean }): Promise<void> {
  await using sw = createTestSwitch();
  const peerPort = await sw.addServer('peer');
  const sourcePort = await sw.addServer('source');
  const destinationPort = await sw.addServer('destination');
  for (const port of [sourcePort, destinationPort]) sw.forward(port, peerPort);
  const guest = (name: string, queueSize: number) =>
    new Guest({
      path: join(sw.directory, name),
      mode: 'client',
      queueSize,
      features: guestFeatures(variant),
      memoryBytes: 64 << 20,
    });
  const peer = guest('peer', 8192);
  const [source, destination] = [guest('source', 512), guest('destination', 512)];
  const threads = new Set<GuestThread>();
  const run = (guest: Guest): GuestThread => {
    const thread = new GuestThread(guest);
    threads.add(thread);
    return thread;
  };
  try {
    for (const guest of [peer, source]) guest.open();
    await Promise.all([peer.connected(), source.connected()]);
    const peerThread = run(peer);
    const before = run(source);
    await hasBuffers(peer);
    before.setTraffic(0, trafficOf(1, 2));
    await until(() => peerThread.counters(0).marked > 500, 'frames');
    using migration = new LiveMigration(source, destination);
    await migration.begin();
    await migration.complete();
    const waiting = (): number => before.counters(0).sent - before.counters(0).taken;
    await until(() => waiting() === 512, 'a full ring');
    threads.delete(before);
    await before.close();
    migration.copyDriverPages();
    assert.equal(migration.difference(), -1);
    source.frontend!.close();
    destination.open();
    await destination.connected();
    const after = run(destination);
    after.stopSending(0);
    const { sent } = after.counters(0);
    const dropped = () => sw.drops(peerPort).tx_ring_full ?? 0;
    const counted = () => JSON.stringify([after.counters(0), peerThread.counters(0), dropped()]);
    await until(() => after.counters(0).taken === sent, counted);
    await until(() => peerThread.counters(0).marked + dropped() >= sent, counted);
    // A guest that loses its switch comes back within a tenth of a second.
    await sleep(400);
    assert.equal(source.connections, 1, 'the source came back');
    assert.equal(peerThread.counters(0).marked + dropped(), sent, counted());
    assert.equal(peerThread.counters(0).twice, 0, 'the peer met a frame twice');
  } finally {
    for (const thread of threads) await thread.close();
    for (const each of [peer, source, destination]) each.close();
  }
}

describe('live migration of our own guests', () => {
  for (const [packed, inOrder] of [
    [false, false],
    [true, false],
    [true, true],
  ] as const) {
    const title = `${packed ? 'packed' : 'split'}${inOrder ? ', in order' : ''}`;
    it(`with rings full of frames to be sent, ${title}`, () => migrateFull({ packed, inOrder }));
  }

  const first = Number(process.env.XVIO_SEED ?? 1);
  const count = Number(process.env.XVIO_MIGRATIONS ?? 8);
  for (let seed = first; seed < first + count; seed++) {
    const c = caseOf(seed);
    const title = Object.entries(c)
      .map(([key, value]) =>
        value === true ? key : value === false ? `no ${key}` : `${key} ${value}`,
      )
      .join(', ');
    it(`seed ${seed}: ${title}`, async (t) => {
      t.diagnostic(await migrate(c, seed));
    });
  }
});
