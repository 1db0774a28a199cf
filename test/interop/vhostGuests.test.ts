// Two of our own guests through the real data plane: every variant of rings, offloads, reconnection, queues, the log of
// a live migration, and guests that lie.

import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import * as L from '../../src/guest/driver/layout.ts';
import { Guest, type GuestOptions, guestFeatures } from '../../src/guest/guest.ts';
import { TestDriver } from '../../src/guest/testDriver.ts';
import { GuestThread } from '../../src/guest/thread.ts';
import type { Netdev } from '../../src/port/types.ts';
import { closeFd } from '../../src/sys/fd.ts';
import { bytesAt } from '../../src/sys/ffi.ts';
import { Mapping, memfdCreate } from '../../src/sys/memory.ts';
import * as C from '../../src/wire/vhostuser/codec.ts';
import { bits } from '../../src/wire/vhostuser/features.ts';
import * as M from '../../src/wire/vhostuser/messages.ts';
import { createTestSwitch, hasBuffers, type TestSwitch, trafficOf, until } from './vhostHarness.ts';

interface Pair {
  sw: TestSwitch;
  a: Netdev;
  b: Netdev;
  ga: Guest;
  gb: Guest;
}

/** A switch with guest A (we listen) and guest B (we connect), each port forwarding to the other. */
async function withPair(
  options: { a?: Partial<GuestOptions>; b?: Partial<GuestOptions> },
  use: (pair: Pair) => Promise<void>,
): Promise<void> {
  await using sw = createTestSwitch();
  const a = await sw.addServer('a', { mtuRequest: 9000 });
  const b = await sw.addClient('b', { mtuRequest: 9000 });
  sw.forward(a, b);
  sw.forward(b, a);
  const ga = new Guest({ path: join(sw.directory, 'a'), mode: 'client', ...options.a });
  const gb = new Guest({ path: join(sw.directory, 'b.sock'), mode: 'server', ...options.b });
  try {
    ga.open();
    gb.open();
    await Promise.all([ga.connected(), gb.connected()]);
    await until(() => a.status().linkUp && b.status().linkUp, 'links up');
    await use({ sw, a, b, ga, gb });
  } finally {
    ga.close();
    gb.close();
  }
}

/** An IPv4 UDP frame with the given number in its payload; the UDP checksum is left 0. */
function udpFrame(number: number, bytes = 100): Uint8Array {
  const frame = new Uint8Array(bytes);
  const view = new DataView(frame.buffer);
  frame.set([0x02, 0, 0, 0, 0, 2, 0x02, 0, 0, 0, 0, 1]);
  view.setUint16(12, 0x0800);
  view.setUint16(14, 0x4500);
  view.setUint16(16, bytes - 14);
  view.setUint8(22, 64);
  view.setUint8(23, 17);
  frame.set([10, 0, 0, 1, 10, 0, 0, 2], 26);
  view.setUint16(34, 1024);
  view.setUint16(36, 9);
  view.setUint16(38, bytes - 34);
  view.setUint32(42, number);
  for (let i = 46; i < bytes; i++) frame[i] = i * 7 + number;
  return frame;
}

/** Same bytes in the same order? (deepEqual of many large arrays takes minutes to say no.) */
function assertFrames(got: readonly Uint8Array[], sent: readonly Uint8Array[]): void {
  for (const [i, frame] of sent.entries()) {
    assert.ok(got[i], `frame ${i} of ${sent.length} is missing`);
    if (Buffer.compare(got[i], frame) === 0) continue;
    const at = frame.findIndex((byte, j) => byte !== got[i]![j]);
    assert.fail(`frame ${i}: ${got[i].length} of ${frame.length} bytes, differs at ${at}`);
  }
  assert.equal(got.length, sent.length);
}

const variants = [false, true].flatMap((packed) =>
  [false, true].flatMap((inOrder) =>
    [false, true].flatMap((mergeable) =>
      [false, true].map((eventIdx) => ({ packed, inOrder, mergeable, eventIdx })),
    ),
  ),
);

describe('frames between guests', () => {
  for (const variant of variants) {
    const name = Object.entries(variant)
      .map(([key, on]) => `${on ? '' : 'no '}${key}`)
      .join(', ');
    it(`arrive whole and in order: ${name}`, async () => {
      const features = guestFeatures(variant);
      await withPair(
        { a: { features, queueSize: 64 }, b: { features, queueSize: 64 } },
        async ({ sw, a, b, ga, gb }) => {
          const [da, db] = [new TestDriver(ga), new TestDriver(gb)];
          const sent: Uint8Array[] = [];
          const send = (bytes: number, more = {}) => {
            const frame = udpFrame(sent.length, bytes);
            assert.ok(da.send(frame, more));
            sent.push(frame);
          };
          const sizes = [60, 64, 128, 300, 1514, ...(variant.mergeable ? [4000, 9014] : [])];
          const got: Uint8Array[] = [];
          for (let round = 0; round < 20; round++) {
            for (const bytes of sizes) {
              send(bytes);
              send(bytes, { cuts: [12] });
              send(bytes, { cuts: [5, 7, 14, 20], indirect: true });
              got.push(...(await db.expect(3)).map(({ frame }) => frame));
            }
          }
          assertFrames(got, sent);
          assert.deepEqual([sw.drops(a), sw.drops(b)], [{}, {}]);
          assert.equal(a.statistics().rx_packets, sent.length);
          assert.equal(b.statistics().tx_packets, sent.length);
        },
      );
    });
  }
});

describe('offloads', () => {
  /** A TCP segment of `payload` bytes with partial checksum, as a guest with TSO sends it. */
  function tcpGso(payload: number): Uint8Array {
    const frame = new Uint8Array(54 + payload);
    frame.set(udpFrame(0, 60).subarray(0, 34));
    const view = new DataView(frame.buffer);
    view.setUint16(16, 40 + payload);
    view.setUint8(23, 6);
    view.setUint16(34, 1000);
    view.setUint16(36, 2000);
    view.setUint32(38, 1);
    view.setUint8(46, 5 << 4);
    view.setUint8(47, 0x18);
    for (let i = 54; i < frame.length; i++) frame[i] = i & 0xff;
    // Partial checksum: the sum of the pseudo header.
    let sum = 0x0a00 + 1 + 0x0a00 + 2 + 6 + 20 + payload;
    while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
    view.setUint16(50, sum);
    return frame;
  }
  const header = { flags: 1, gsoType: 1, hdrLen: 54, gsoSize: 1448, csumStart: 34, csumOffset: 16 };

  it('cross whole to a guest that takes them, in segments to one that does not', async () => {
    const offloads = guestFeatures({ offloads: true });
    for (const whole of [true, false]) {
      const b = { features: whole ? offloads : guestFeatures() };
      await withPair({ a: { features: offloads }, b }, async ({ sw, ga, gb, a, b }) => {
        const [da, db] = [new TestDriver(ga), new TestDriver(gb)];
        const frame = tcpGso(20_000);
        assert.ok(da.send(frame, { header }));
        const got = await db.expect(whole ? 1 : 14);
        if (whole) {
          assert.equal(got.length, 1);
          assertFrames([got[0]!.frame], [frame]);
          assert.equal(got[0]!.header.gsoSize, 1448);
          assert.equal(got[0]!.header.flags & 1, 1);
          assert.ok(got[0]!.header.numBuffers > 9);
        } else {
          assert.equal(got.length, 14);
          const payload = Buffer.concat(got.map((segment) => segment.frame.subarray(54)));
          assertFrames([payload], [frame.subarray(54)]);
          assert.ok(got.every((segment) => segment.header.gsoType === 0));
        }
        assert.deepEqual([sw.drops(a), sw.drops(b)], [{}, {}]);
      });
    }
  });
});

describe('guests larger than the window space', () => {
  it('are reached chunk by chunk', async () => {
    for (const packed of [false, true]) {
      const options = {
        features: guestFeatures({ packed }),
        memoryBytes: 3584 * 2 ** 20,
        // 600 chunks of buffers: more than the switch keeps in reserve.
        queueSize: 512,
        bufferBytes: 1 << 20,
      };
      await withPair({ a: options, b: options }, async ({ sw, a, b, ga, gb }) => {
        const [da, db] = [new TestDriver(ga), new TestDriver(gb)];
        for (let round = 0; round < 12; round++) {
          const sent = Array.from({ length: 100 }, (_, i) => udpFrame(round * 100 + i, 1400));
          for (const frame of sent) assert.ok(da.send(frame, { cuts: [300] }));
          const got = await db.expect(100);
          assertFrames(
            got.map(({ frame }) => frame),
            sent,
          );
        }
        assert.deepEqual([sw.drops(a), sw.drops(b)], [{}, {}]);
      });
    }
  });
});

describe('life of a connection', () => {
  it('guests come back at any moment and go on with their rings', async () => {
    for (const packed of [false, true]) {
      const features = guestFeatures({ packed });
      await withPair({ a: { features }, b: { features } }, async ({ a, b, ga, gb }) => {
        const [da, db] = [new TestDriver(ga), new TestDriver(gb)];
        let number = 0;
        for (let round = 0; round < 5; round++) {
          const sent: Uint8Array[] = [];
          for (let i = 0; i < 100; i++) {
            const frame = udpFrame(number++);
            assert.ok(da.send(frame));
            sent.push(frame);
          }
          const got = (await db.expect(100)).map(({ frame }) => frame);
          assertFrames(got, sent);
          // The connection breaks; rings and what is in them stay.
          const [na, nb] = [ga.connections, gb.connections];
          ga.frontend!.close();
          gb.frontend!.close();
          await Promise.all([ga.connected(na + 1), gb.connected(nb + 1)]);
          await until(() => a.status().linkUp && b.status().linkUp, 'links up again');
        }
      });
    }
  });

  it('the port goes and comes: the guest is found where it was', async () => {
    await using sw = createTestSwitch();
    const guest = new Guest({ path: join(sw.directory, 'g.sock'), mode: 'server' });
    guest.open();
    try {
      for (let round = 1; round <= 3; round++) {
        const port = await sw.addClient('g');
        await guest.connected(round);
        await until(() => port.status().linkUp, 'link up');
        await port.close();
        await until(() => guest.frontend === undefined, 'disconnected');
      }
    } finally {
      guest.close();
    }
  });
});

describe('queues', () => {
  it('packets go to enabled queues only, from every queue', async () => {
    await withPair({ a: { pairs: 4 }, b: { pairs: 4 } }, async ({ sw, a, b, ga, gb }) => {
      const from = [0, 1, 2, 3].map((pair) => new TestDriver(ga, pair));
      const to = [0, 1, 2, 3].map((pair) => new TestDriver(gb, pair));
      const receive = async (count: number) => {
        let total = 0;
        await until(() => {
          total += to.reduce((sum, driver) => sum + driver.receive().length, 0);
          return total >= count;
        }, 'frames on any queue');
        return total;
      };
      for (const driver of from) for (let i = 0; i < 10; i++) driver.send(udpFrame(i));
      assert.equal(await receive(40), 40);
      // Only the last pair is left.
      for (const ring of [0, 2, 4]) await gb.enableRing(ring, false);
      for (const driver of from) for (let i = 0; i < 10; i++) driver.send(udpFrame(i));
      assert.equal((await to[3]!.expect(40)).length, 40);
      await gb.enableRing(6, false);
      from[0]!.send(udpFrame(1));
      await until(() => sw.drops(b).tx_not_ready === 1, 'drop for want of a queue');
      await gb.enableRing(0, true);
      from[0]!.send(udpFrame(1));
      assert.equal(await receive(1), 1);
      // What a guest sends on a disabled ring is taken and thrown away.
      await ga.enableRing(1, false);
      from[0]!.send(udpFrame(1));
      await until(() => sw.drops(a).rx_disabled === 1, 'rx_disabled');
    });
  });

  it('a generator at full speed loses nothing in the switch and keeps its order', async () => {
    for (const packed of [false, true]) {
      const options = { features: guestFeatures({ packed, inOrder: packed }), queueSize: 1024 };
      await withPair({ a: options, b: options }, async ({ sw, a, b, ga, gb }) => {
        const [ta, tb] = [new GuestThread(ga), new GuestThread(gb)];
        try {
          await hasBuffers(gb);
          ta.setTraffic(0, { ...trafficOf(1, 2), flows: 10, perMs: 50 });
          const now = () => JSON.stringify([ta.counters(0), tb.counters(0), sw.drops(b)]);
          await until(() => ta.counters(0).sent > 30_000, now);
          ta.stopSending(0);
          // A receiver that the machine does not let run has a full ring, and nothing else goes missing.
          await until(() => {
            const { tx_ring_full = 0, ...others } = sw.drops(b);
            assert.deepEqual([others, sw.drops(a)], [{}, {}]);
            return ta.counters(0).sent === tb.counters(0).marked + tx_ring_full;
          }, now);
          assert.equal(tb.counters(0).reordered, 0);
          assert.ok(tb.counters(0).marked > 1000, now());
        } finally {
          await Promise.all([ta.close(), tb.close()]);
        }
      });
    }
  });
});

describe('live migration', () => {
  for (const packed of [false, true]) {
    it(`every page that is written is in the log (${packed ? 'packed' : 'split'})`, async () => {
      const features = guestFeatures({ packed });
      await withPair({ a: { features }, b: { features } }, async ({ ga, gb }) => {
        const [da, db] = [new TestDriver(ga), new TestDriver(gb)];
        da.send(udpFrame(0));
        assert.equal((await db.expect(1)).length, 1);
        const logBytes = gb.options.memoryBytes / 4096 / 8;
        const logFd = memfdCreate('log', logBytes);
        using mapping = new Mapping(logFd, 0, logBytes);
        const frontend = gb.frontend!;
        const base = C.encodeLogBase({ size: BigInt(logBytes), offset: 0n });
        const { payload } = await frontend.ask(M.SET_LOG_BASE, base, [logFd]);
        assert.equal(payload.length, 16);
        await frontend.tell(M.SET_FEATURES, C.encodeU64(features | bits(26)));
        await gb.setLogging(true);
        const before = gb.bytes.slice(0, gb.options.memoryBytes);
        const dirty = () => readBits(mapping, logBytes);
        // Nothing but the notification words of a worker that falls asleep.
        assert.ok(dirty().size <= 2, 'pages in the log before anything happened');
        for (let i = 0; i < 50; i++) da.send(udpFrame(i, 1514));
        // Look without giving buffers back: what differs was written by the switch.
        await until(() => db.rx.pending() === 50, 'frames');
        const changed = new Set<number>();
        // (Below are the driver's own notes.)
        for (let at = L.GUEST_DYNAMIC; at < before.length; at += 4096) {
          const page = Buffer.from(gb.memory.buffer, at, 4096);
          if (page.compare(before, at, at + 4096) !== 0) changed.add(at / 4096);
        }
        const logged = dirty();
        for (const page of changed) assert.ok(logged.has(page), `page ${page} is not in the log`);
        assert.ok(changed.size > 20);
        for (const page of logged) assert.ok(page < 1 + gb.end / 4096, `page ${page} logged`);
        // After the end nothing is logged any more, and the back-end stays.
        await frontend.tell(M.SET_FEATURES, C.encodeU64(features));
        await gb.setLogging(false);
        closeFd(logFd);
        const count = dirty().size;
        db.receive();
        for (let i = 0; i < 50; i++) da.send(udpFrame(i, 1514));
        assert.equal((await db.expect(50)).length, 50);
        assert.equal(dirty().size, count);
      });
    });
  }

  function readBits(mapping: Mapping, bytes: number): Set<number> {
    const view = bytesAt(mapping.address, bytes);
    const pages = new Set<number>();
    for (let i = 0; i < bytes; i++) {
      for (let bit = 0; bit < 8; bit++) if ((view[i]! >> bit) & 1) pages.add(i * 8 + bit);
    }
    return pages;
  }
});

describe('guests that lie', () => {
  it('lose their own port, and only that', async () => {
    await withPair({}, async ({ a, b, ga, gb }) => {
      const [da, db] = [new TestDriver(ga), new TestDriver(gb)];
      // The avail index jumps by more than the ring has.
      const avail = da.tx.get(L.GR_AVAIL);
      ga.view.setUint16(avail + 2, 5000, true);
      await until(() => a.status().error !== undefined, 'fault noticed');
      assert.match(a.status().error!, /ring 1 is broken \(rx_bad_descriptor\)/);
      assert.equal(a.status().linkUp, false);
      assert.equal(b.status().linkUp, true);
      assert.equal(b.status().error, undefined);
      assert.equal(db.receive().length, 0);
    });
  });

  it('may do it again and again: the others keep their rate, and nothing piles up', async () => {
    // A ring for seconds of traffic: a receiver that a loaded machine does not let run loses nothing.
    const b = { queueSize: 8192 };
    await withPair({ b }, async ({ sw, a, b, ga, gb }) => {
      const victim = await sw.addServer('c');
      const [ta, tb] = [new GuestThread(ga), new GuestThread(gb)];
      try {
        await hasBuffers(gb);
        ta.setTraffic(0, { ...trafficOf(1, 2), perMs: 2 });
        const attack = async (how: (guest: Guest) => void) => {
          const guest = new Guest({ path: join(sw.directory, 'c'), mode: 'client' });
          guest.open();
          await guest.connected();
          how(guest);
          await until(
            () => guest.frontend === undefined,
            () => `still there: ${sw.log.at(-1)}`,
          );
          guest.close();
          await until(() => !victim.status().linkUp, 'link down');
        };
        const word = (ring: number, area: number) => (guest: Guest) => {
          const at = guest.view.getUint32(guest.ringRecord(ring) + area, true);
          guest.view.setUint16(at + 2, 40_000, true);
        };
        const attacks = [
          word(1, L.GR_AVAIL),
          (guest: Guest) => guest.frontend!.sendRaw(new Uint8Array(12).fill(255)),
          (guest: Guest) =>
            guest.frontend!.sendRaw(
              C.encodeMessage(M.SET_VRING_NUM, 0, C.encodeVringState({ index: 1, num: 7 })),
            ),
        ];
        for (const how of attacks) await attack(how);
        const fds = readdirSync('/proc/self/fd').length;
        for (let round = 0; round < 10; round++) for (const how of attacks) await attack(how);
        assert.ok(Math.abs(readdirSync('/proc/self/fd').length - fds) <= 1, 'descriptors pile up');
        await until(() => ta.counters(0).sent > 1000, 'frames of the others');
        ta.stopSending(0);
        await until(
          () => tb.counters(0).marked === ta.counters(0).sent,
          () => JSON.stringify([ta.counters(0), tb.counters(0), sw.drops(a), sw.drops(b)]),
        );
        assert.deepEqual([sw.drops(a), sw.drops(b), tb.counters(0).reordered], [{}, {}, 0]);
      } finally {
        await Promise.all([ta.close(), tb.close()]);
      }
    });
  });

  it('drop their own packets when descriptors point outside', async () => {
    await withPair({}, async ({ sw, a, ga, gb }) => {
      const [da, db] = [new TestDriver(ga), new TestDriver(gb)];
      const size = ga.options.memoryBytes;
      for (const [address, length] of [
        [BigInt(size), 100],
        [BigInt(size) - 50n, 100],
        [(1n << 64n) - 50n, 100],
        [0x1_0000_0000n, 100],
      ] as const) {
        da.tx.put(da.tx.get(L.GR_NEXT) % da.tx.size, { address, length, flags: 0 });
        da.tx.expose(1);
      }
      await until(() => (sw.drops(a).rx_bad_descriptor ?? 0) === 4, 'drops');
      da.send(udpFrame(3));
      const [frame] = await db.expect(1);
      assertFrames([frame!.frame], [udpFrame(3)]);
      assert.ok(a.status().linkUp);
    });
  });
});
