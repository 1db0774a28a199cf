// Memory files that shrink, or run dry, under the switch (F2 of docs/hostile-guests.md): the daemon survives what would be
// a SIGBUS, the guest is disconnected and named, and nobody else notices.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { closeSync, ftruncateSync, mkdirSync, openSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { ensureHugepages } from '../../bench/hugepages.ts';
import { Attacker } from '../../src/guest/attacker.ts';
import { Guest, guestFeatures } from '../../src/guest/guest.ts';
import { GuestThread } from '../../src/guest/thread.ts';
import { memfdCreate, truncateFd } from '../../src/sys/memory.ts';
import { createTestSwitch, hasBuffers, type TestSwitch, trafficOf, until } from './vhostHarness.ts';

const MIB = 1 << 20;

/** Two innocent guests with traffic, and what their traffic must look like at the end. */
async function withInnocents(use: (sw: TestSwitch) => Promise<void>): Promise<void> {
  await using sw = createTestSwitch();
  const [a, b] = [await sw.addServer('a'), await sw.addServer('b')];
  sw.forward(a, b);
  const make = (name: string) =>
    new Guest({ path: join(sw.directory, name), mode: 'client', queueSize: 8192 });
  const [ga, gb] = [make('a'), make('b')];
  let threads: GuestThread[] = [];
  try {
    ga.open();
    gb.open();
    await Promise.all([ga.connected(), gb.connected()]);
    threads = [new GuestThread(ga), new GuestThread(gb)];
    const [ta, tb] = threads as [GuestThread, GuestThread];
    await hasBuffers(gb);
    ta.setTraffic(0, { ...trafficOf(1, 2), perMs: 2 });
    await use(sw);
    const before = tb.counters(0).marked;
    await until(() => tb.counters(0).marked > before + 100, 'traffic goes on');
    ta.stopSending(0);
    await until(
      () => tb.counters(0).marked === ta.counters(0).sent,
      () => JSON.stringify([ta.counters(0), tb.counters(0), sw.drops(a), sw.drops(b)]),
    );
    assert.deepEqual([sw.drops(a), sw.drops(b), tb.counters(0).reordered], [{}, {}, 0]);
    const faults = sw.log.filter((line) => /trapped|died/.test(line));
    assert.deepEqual(faults, []);
  } finally {
    await Promise.all(threads.map((thread) => thread.close()));
    ga.close();
    gb.close();
  }
}

interface File {
  fd: number;
  bytes: number;
}
function tmpfsFile(sw: TestSwitch, bytes: number): File {
  const path = join('/dev/shm', `xvio-lost-${process.pid}-${sw.log.length}`);
  const fd = openSync(path, 'wx+');
  rmSync(path);
  ftruncateSync(fd, bytes);
  return { fd, bytes };
}
const HUGE = 'huge pages';
const files: Record<string, (sw: TestSwitch) => File> = {
  tmpfs: (sw) => tmpfsFile(sw, 8 * MIB),
  'memfd without seals': () => ({ fd: memfdCreate('x', 8 * MIB, false), bytes: 8 * MIB }),
  'tmpfs, larger than the windows': (sw) => tmpfsFile(sw, 6144 * MIB),
  [HUGE]: () => ({ fd: memfdCreate('x', 8 * MIB, false, true), bytes: 8 * MIB }),
};

describe('memory that goes', () => {
  for (const [name, make] of Object.entries(files)) {
    const skip = name === HUGE && (ensureHugepages(8) ?? false);
    for (const packed of [false, true]) {
      it(`${name}: truncated under ${packed ? 'packed' : 'split'} rings in use`, {
        skip,
      }, async () => {
        await withInnocents(async (sw) => {
          const port = await sw.addServer('x');
          const sink = await sw.addServer('sink');
          sw.forward(port, sink);
          for (let round = 0; round < 3; round++) {
            const { fd, bytes } = make(sw);
            using attacker = new Attacker(join(sw.directory, 'x'), {
              fd,
              bytes,
              mappedBytes: 8 * MIB,
              features: guestFeatures({ packed }),
            });
            await attacker.handshake();
            await until(() => port.status().linkUp, 'link');
            const received = port.statistics().rx_packets ?? 0;
            for (let i = 0; i < 100; i++) {
              attacker.offer(1, [attacker.honest(1, new Uint8Array(200))]);
            }
            await until(() => (port.statistics().rx_packets ?? 0) >= received + 100, 'its frames');
            // In the middle of a burst, as far as this can be arranged; then the bell: the worker has to look.
            for (let i = 0; i < 60; i++) {
              attacker.offer(1, [attacker.honest(1, new Uint8Array(200))], i % 8 === 0);
            }
            ftruncateSync(attacker.fd, round === 0 ? 0 : round * 2 * MIB);
            if (round === 0) for (let i = 0; i < 10; i++) attacker.kick(1);
            await until(() => attacker.frontend.closed, 'disconnected');
            await until(() => port.status().error !== undefined, 'named');
            assert.match(port.status().error!, /the memory file has shrunk to \d+ bytes, \d+ are/);
          }
        });
      });
    }
  }

  it('a page that cannot be had: a full tmpfs', async () => {
    await withInnocents(async (sw) => {
      const port = await sw.addServer('x');
      const sink = await sw.addServer('sink');
      sw.forward(port, sink);
      const directory = join(sw.directory, 'small');
      mkdirSync(directory);
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=2m', 'none', directory]);
      try {
        const fd = openSync(join(directory, 'memory'), 'wx+');
        const filler = openSync(join(directory, 'filler'), 'wx+');
        ftruncateSync(fd, 64 * MIB);
        using attacker = new Attacker(join(sw.directory, 'x'), { fd, bytes: 64 * MIB });
        await attacker.handshake();
        await until(() => port.status().linkUp, 'link');
        // The rings have their pages; what the attacker points at afterwards gets none.
        attacker.memory.fill(0, 0, 0x30000);
        try {
          execFileSync('dd', ['if=/dev/zero', `of=${directory}/filler`, 'bs=64k'], {
            stdio: 'ignore',
          });
        } catch {
          // full
        }
        closeSync(filler);
        attacker.offer(1, [{ address: BigInt(40 * MIB), length: 500, flags: 0, next: 0 }]);
        await until(() => attacker.frontend.closed, 'disconnected');
        assert.match(port.status().error!, /a page of the memory file cannot be had/);
      } finally {
        execFileSync('umount', ['-l', directory]);
      }
    });
  });

  it('a dirty log that shrinks', async () => {
    await withInnocents(async (sw) => {
      const port = await sw.addServer('x');
      const { fd, bytes } = { fd: memfdCreate('x', 8 * MIB), bytes: 8 * MIB };
      using attacker = new Attacker(join(sw.directory, 'x'), { fd, bytes });
      await attacker.handshake();
      await until(() => port.status().linkUp, 'link');
      const log = memfdCreate('log', 4096, false);
      await attacker.logTo(log, 4096);
      truncateFd(log, 0);
      for (let i = 0; i < 10; i++) attacker.offer(1, [attacker.honest(1, new Uint8Array(100))]);
      await until(() => attacker.frontend.closed, 'disconnected');
      closeSync(log);
      assert.match(port.status().error!, /the memory file has shrunk to 0 bytes, 4096 are/);
    });
  });
});
