// Load and fairness: guests that flood, that never take what they get, that make every packet a new flow; many ports, many
// queues, ports that come and go a thousand times, guests larger together than the window space. Two innocent guests
// exchange checked frames all the time: nothing of theirs may be lost.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Attacker } from '../../src/guest/attacker.ts';
import { fuzzFrame } from '../../src/guest/fuzz/frames.ts';
import { Random } from '../../src/guest/fuzz/random.ts';
import { Guest, type GuestOptions } from '../../src/guest/guest.ts';
import { TestDriver } from '../../src/guest/testDriver.ts';
import { GuestThread } from '../../src/guest/thread.ts';
import { memfdCreate } from '../../src/sys/memory.ts';
import { buildArena, fdCount, rssMiB, statistics, troubles } from './fuzzArena.ts';
import { Innocents } from './innocents.ts';
import { Sandbox } from './sandbox.ts';

/** Longest that a burst of the innocents may take beside a guest that misbehaves, on a machine of any load. */
const PATIENCE_MS = 10_000;

/** The arena of the fuzzer with its innocents; nothing of theirs is lost, whatever `use` does. */
async function withInnocents(
  use: (box: Sandbox, innocents: Innocents) => Promise<void>,
): Promise<void> {
  await using box = await Sandbox.start();
  buildArena(box);
  const innocents = new Innocents(box.path('a'), box.path('b'));
  try {
    await innocents.start();
    await use(box, innocents);
    await innocents.stop();
    assert.ok(innocents.frames > 1000, `${innocents.frames} frames of the innocents`);
    assert.ok(innocents.slowestMs < PATIENCE_MS, `a burst took ${innocents.slowestMs} ms`);
    for (const name of ['a', 'b']) {
      const { rx_dropped = 0, tx_dropped = 0 } = statistics(box, name);
      assert.deepEqual([rx_dropped, tx_dropped], [0, 0], `drops of ${name}`);
    }
    assert.deepEqual(troubles(readFileSync(box.logFile, 'utf8')), []);
  } finally {
    await innocents.stop().catch(() => {});
  }
}

async function openGuest(path: string, options: Partial<GuestOptions> = {}): Promise<Guest> {
  const guest = new Guest({ path, mode: 'client', memoryBytes: 8 << 20, ...options });
  guest.open();
  await guest.connected();
  return guest;
}

const addresses = {
  sourceMac: '02:00:00:00:fa:01',
  destinationMac: '02:00:00:00:fa:02',
  sourceIp: '10.9.0.1',
  destinationIp: '10.9.0.2',
};

describe('guests that take more than their share', () => {
  it('one that floods, to one that takes nothing: drops are named, and theirs', async (t) => {
    await withInnocents(async (box, innocents) => {
      const guest = await openGuest(box.path('x'));
      // No driver: no buffer is ever offered, no frame ever taken.
      const sink = await openGuest(box.path('sink'));
      const thread = new GuestThread(guest);
      try {
        const quiet = innocents.frames;
        await sleep(2000);
        const alone = innocents.frames - quiet;
        thread.setTraffic(0, { send: true, ...addresses, flows: 1000 });
        await sleep(500);
        const busy = innocents.frames;
        await sleep(3000);
        const beside = ((innocents.frames - busy) * 2) / 3;
        const { taken } = thread.counters(0);
        t.diagnostic(`innocents: ${alone} frames alone, ${beside} beside ${taken} of a flood`);
        assert.ok(taken > 10_000, `the flood was of ${taken} frames only`);
        assert.ok(beside > alone / 20, `${beside} frames beside the flood, ${alone} without it`);
        await box.until(
          () => (statistics(box, 'sink').xvio_drop_tx_ring_full ?? 0) > 1000,
          20_000,
          'drops of the guest that takes nothing',
        );
      } finally {
        await thread.close();
        guest.close();
        sink.close();
      }
    });
  });

  it('one that makes every frame a new flow: new flows of others find their way', async (t) => {
    await withInnocents(async (box) => {
      box.vsctl('add-port', 'br0', 'c', '--', 'set', 'Interface', 'c', 'type=dpdkvhostuser');
      box.ofctl('add-flow', 'br0', 'in_port=c,actions=output:b,c');
      box.ofctl('add-flow', 'br0', 'priority=1000,in_port=b,dl_dst=02:00:00:00:00:0c,actions=c');
      box.ofctl('add-flow', 'br0', 'priority=2000,in_port=c,actions=in_port');
      const fresh = await openGuest(box.path('c'));
      const driver = new TestDriver(fresh);
      const random = new Random(7);
      using flood = new Attacker(box.path('x'), { fd: memfdCreate('x', 8 << 20), bytes: 8 << 20 });
      await flood.handshake();
      let stop = false;
      const flooding = (async () => {
        while (!stop) {
          for (let i = 0; i < 200; i++) {
            // Not so many that the ring is overrun: what is there has to be taken first.
            const used = flood.view.getUint16(flood.deviceArea(1) + 2, true);
            if (((flood.next[1]! - used) & 0xffff) >= flood.size - 1) break;
            flood.offer(1, [flood.honest(1, fuzzFrame(random))]);
          }
          await sleep(1);
        }
      })();
      try {
        await sleep(1000);
        let slowestMs = 0;
        for (let i = 0; i < 10; i++) {
          const startedMs = performance.now();
          const frame = new Uint8Array(60);
          frame.set([2, 0, 0, 0, 0, 0x0d, 2, 0, 0, 0, 0, 0x0c, 0x08, 0x00, 0x45]);
          frame.set([10, 1, i, 1, 10, 1, i, 2], 26);
          // A look-up on the main thread each time: the flow table changes.
          box.ofctl('mod-flows', 'br0', `in_port=c,actions=load:${i}->NXM_NX_REG0[],in_port`);
          assert.ok(driver.send(frame));
          assert.equal((await driver.expect(1)).length, 1, `flow ${i} did not get through`);
          slowestMs = Math.max(slowestMs, performance.now() - startedMs);
        }
        t.diagnostic(`slowest new flow beside the flood: ${Math.round(slowestMs)} ms`);
        assert.ok(flood.next[1]! > 2000, `the flood was of ${flood.next[1]} frames only`);
      } finally {
        stop = true;
        await flooding;
        fresh.close();
      }
    });
  });
});

describe('many', () => {
  const PORTS = 64;
  const PAIRS = 8;
  it(`${PORTS} ports with ${PORTS * PAIRS * 2} queues: each carries frames`, async () => {
    await using box = await Sandbox.start();
    const names = Array.from({ length: PORTS }, (_, i) => `p${i}`);
    box.vsctl(
      ...['add-br', 'br0', '--', 'set', 'Bridge', 'br0', 'datapath_type=netdev'],
      ...names.flatMap((name, i) => [
        ...['--', 'add-port', 'br0', name],
        ...['--', 'set', 'Interface', name, 'type=dpdkvhostuser', `ofport_request=${i + 1}`],
      ]),
    );
    box.ofctl('del-flows', 'br0');
    names.forEach((_, i) => {
      box.ofctl('add-flow', 'br0', `in_port=${i + 1},actions=output:${((i + 1) % PORTS) + 1}`);
    });
    const options = { pairs: PAIRS, queueSize: 16, memoryBytes: 4 << 20 };
    const guests = await Promise.all(names.map((name) => openGuest(box.path(name), options)));
    try {
      const drivers = guests.map((guest) =>
        Array.from({ length: PAIRS }, (_, pair) => new TestDriver(guest, pair)),
      );
      const frameOf = (port: number, pair: number): Uint8Array => {
        const frame = new Uint8Array(60 + port);
        frame.set([2, 0, 0, 0, 0, 9, 2, 0, 0, 0, port, pair, 0x88, 0xb5, port, pair]);
        return frame;
      };
      drivers.forEach((pairs, port) => {
        for (const [pair, driver] of pairs.entries()) {
          assert.ok(driver.send(frameOf(port, pair)));
        }
      });
      const got = new Set<string>();
      await box.until(
        () => {
          drivers.forEach((pairs, to) => {
            for (const driver of pairs) {
              for (const { frame } of driver.receive()) {
                const [port, pair] = [frame[14]!, frame[15]!];
                assert.equal((port + 1) % PORTS, to);
                assert.deepEqual([...frame], [...frameOf(port, pair)]);
                got.add(`${port} ${pair}`);
              }
            }
          });
          return got.size === PORTS * PAIRS;
        },
        60_000,
        `frames on all queues (${PORTS * PAIRS})`,
      );
      const queues = box.appctl('dpif-netdev/pmd-rxq-show').match(/queue-id/g) ?? [];
      assert.ok(queues.length >= PORTS * PAIRS, `${queues.length} receive queues`);
    } finally {
      for (const guest of guests) guest.close();
    }
  });

  const AT_ONCE = 8;
  const ROUNDS = 126;
  it(`${AT_ONCE * ROUNDS} times a port comes and goes with its guest: nothing piles up`, async (t) => {
    await withInnocents(async (box) => {
      const pid = box.daemonPid;
      const guests = Array.from(
        { length: AT_ONCE },
        (_, i) =>
          new Guest({ path: box.path(`c${i}.sock`), mode: 'server', memoryBytes: 16 << 20 }),
      );
      for (const guest of guests) guest.open();
      // Of files and shared memory: guests' memory and rings, not V8's heap, which grows until its first collections.
      const maps = (): number =>
        readFileSync(`/proc/${pid}/maps`, 'utf8').match(/^\S+ ...s /gm)!.length;
      const cycle = async (round: number): Promise<void> => {
        const names = guests.map((_, i) => `c${round}-${i}`);
        box.vsctl(
          ...names.flatMap((name, i) => [
            ...['--', 'add-port', 'br1', name, '--', 'set', 'Interface', name],
            ...['type=dpdkvhostuserclient'],
            `options:vhost-server-path=${guests[i]!.options.path}`,
          ]),
        );
        await Promise.all(guests.map((guest) => guest.connected(round)));
        box.vsctl(...names.flatMap((name) => ['--', 'del-port', 'br1', name]));
        await box.until(
          () => guests.every((guest) => guest.frontend === undefined),
          20_000,
          'end of the connections',
        );
      };
      try {
        let round = 0;
        while (round < 10) await cycle(++round);
        const before = { fds: fdCount(pid), maps: maps(), rss: rssMiB(pid) };
        while (round < ROUNDS) await cycle(++round);
        const after = { fds: fdCount(pid), maps: maps(), rss: rssMiB(pid) };
        t.diagnostic(JSON.stringify({ before, after }));
        assert.ok(after.fds <= before.fds + 2, `descriptors: ${before.fds}, then ${after.fds}`);
        assert.ok(after.maps <= before.maps + 8, `mappings: ${before.maps}, then ${after.maps}`);
        assert.ok(after.rss <= before.rss + 96, `MiB: ${before.rss}, then ${after.rss}`);
      } finally {
        for (const guest of guests) guest.close();
      }
    });
  });

  it('six guests of one GiB each, in a window space of little more than two', async () => {
    const GUESTS = 6;
    await using box = await Sandbox.start();
    const names = Array.from({ length: GUESTS }, (_, i) => `p${i}`);
    box.vsctl(
      ...['add-br', 'br0', '--', 'set', 'Bridge', 'br0', 'datapath_type=netdev'],
      ...names.flatMap((name, i) => [
        ...['--', 'add-port', 'br0', name],
        ...['--', 'set', 'Interface', name, 'type=dpdkvhostuser', `ofport_request=${i + 1}`],
      ]),
    );
    box.ofctl('del-flows', 'br0');
    names.forEach((_, i) => {
      box.ofctl('add-flow', 'br0', `in_port=${i + 1},actions=output:${((i + 1) % GUESTS) + 1}`);
    });
    // Buffers of a MiB, far apart: every frame is in a chunk of its own or its neighbour's.
    const options = { memoryBytes: 2 ** 30, queueSize: 256, bufferBytes: 1 << 20 };
    const guests = await Promise.all(names.map((name) => openGuest(box.path(name), options)));
    try {
      const drivers = guests.map((guest) => new TestDriver(guest));
      const frameOf = (from: number, number: number): Uint8Array => {
        const frame = new Uint8Array(1000);
        for (let i = 16; i < frame.length; i++) frame[i] = Math.imul(number + i, 0x9e3779b1) >>> 24;
        frame.set([2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, from, 0x88, 0xb5, from, number]);
        return frame;
      };
      // The first frames show the way, and may be overtaken.
      for (const [from, driver] of drivers.entries()) {
        assert.ok(driver.send(frameOf(from, 0)));
        assert.equal((await drivers[(from + 1) % GUESTS]!.expect(1)).length, 1);
      }
      const exhausted = (): number =>
        names
          .map((name) => statistics(box, name).xvio_drop_window_space_exhausted ?? 0)
          .reduce((sum, n) => sum + n, 0);
      let received = 0;
      const ROUNDS = 10;
      const BURST = 20;
      const sent = GUESTS * ROUNDS * BURST;
      for (let round = 0; round < ROUNDS; round++) {
        for (const [from, driver] of drivers.entries()) {
          for (let i = 0; i < BURST; i++) assert.ok(driver.send(frameOf(from, round * BURST + i)));
        }
        for (const [to, driver] of drivers.entries()) {
          const from = (to + GUESTS - 1) % GUESTS;
          for (const { frame } of await driver.expect(BURST, 1000)) {
            assert.equal(frame[14], from);
            assert.ok(Buffer.compare(frame, frameOf(from, frame[15]!)) === 0, `frame ${frame[15]}`);
            received++;
          }
        }
      }
      // Where the main thread does not get its turn in time, the pool of chunks runs dry: then by name.
      await box.until(
        () => received + exhausted() === sent,
        10_000,
        `${sent} frames, ${received} came`,
      );
      assert.ok(received > sent * 0.9, `${received} of ${sent} frames`);
      const dropped = names.map((name) => statistics(box, name).tx_dropped ?? 0);
      assert.equal(
        dropped.reduce((sum, n) => sum + n, 0),
        sent - received,
      );
    } finally {
      for (const guest of guests) guest.close();
    }
  });
});
