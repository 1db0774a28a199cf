// Frame queues and AF_XDP queues in the data plane, without a kernel behind them.

import assert from 'node:assert/strict';
import { beforeEach, test } from 'node:test';
import * as DROP from '../../contract/drop.ts';
import { Q_ENABLED } from '../../contract/port.ts';
import { linkStatistics } from '../../src/port/kernelLink.ts';
import type { LinkStats } from '../../src/wire/rtnetlink.ts';
import { FakeEngine } from '../net/fakeEngine.ts';
import { FramePort, receive, XdpRing } from '../net/kernelRings.ts';
import { l4Packet, pseudoSum, wordSum } from '../net/packets.ts';

const NEEDS_CSUM = 1;
const ECN = 0x80;
const NO_STATS = new Proxy({} as LinkStats, { get: () => 0 });
let engine: FakeEngine;
beforeEach(async () => {
  engine = await FakeEngine.load();
});

function dropsOf(port: number): Record<number, number> {
  const drops = engine.portCounters(port).drops;
  return Object.fromEntries(drops.flatMap((n, reason) => (n > 0 ? [[reason, n]] : [])));
}

const bytes = (length: number, seed = 1): Buffer =>
  Buffer.from(Array.from({ length }, (_, i) => (i * 7 + seed) & 0xff));

test('frames of every length arrive whole, head and segment', () => {
  const port = new FramePort(engine, 'tap');
  for (const length of [14, 15, 60, 255, 256, 257, 1514, 9014, 65549]) {
    const frame = bytes(length, length);
    port.deliver(frame);
    const [packet, ...more] = receive(engine, port.rx);
    assert.equal(more.length, 0);
    assert.ok(frame.equals(packet!.frame), `length ${length}`);
    assert.equal(packet!.needsCsum, false);
    assert.equal(packet!.gsoType, 0);
  }
  assert.deepEqual(dropsOf(port.port), {});
});

test('slots come round: many more frames than slots, in bursts', () => {
  const port = new FramePort(engine, 'packet');
  for (let round = 0; round < 50; round++) {
    for (let i = 0; i < 32; i++) port.deliver(bytes(100 + i, round));
    const packets = receive(engine, port.rx);
    assert.equal(packets.length, 32);
    packets.forEach((packet, i) => {
      assert.ok(bytes(100 + i, round).equals(packet.frame));
    });
  }
});

test('bad frames are dropped under their names, good ones beside them pass', () => {
  const port = new FramePort(engine, 'packet');
  port.deliver(bytes(13));
  port.deliver(bytes(60));
  port.deliver(bytes(1000), {}, { truncated: true });
  port.deliver(bytes(100), { flags: NEEDS_CSUM, csumStart: 10, csumOffset: 6 }); // in the Ethernet header
  port.deliver(bytes(100), { flags: NEEDS_CSUM, csumStart: 34, csumOffset: 65 }); // beyond the frame
  port.deliver(bytes(1000), { flags: NEEDS_CSUM, csumStart: 300, csumOffset: 16 }); // beyond the head
  port.deliver(bytes(100), { flags: NEEDS_CSUM, csumStart: 34, csumOffset: 64 }); // its last two bytes
  port.deliver(bytes(100), { gsoType: 1, gsoSize: 10 }); // GSO without checksum
  port.deliver(bytes(100), { flags: NEEDS_CSUM, csumStart: 34, csumOffset: 16, gsoType: 1 }); // no size
  port.deliver(bytes(100), {
    flags: NEEDS_CSUM,
    csumStart: 34,
    csumOffset: 16,
    gsoType: 9,
    gsoSize: 9,
  });
  assert.equal(receive(engine, port.rx).length, 2);
  assert.deepEqual(dropsOf(port.port), {
    [DROP.DROP_RX_RUNT]: 1,
    [DROP.DROP_RX_TOO_LONG]: 1,
    [DROP.DROP_RX_BAD_VNET]: 6,
  });
});

test('a disabled queue takes frames and throws them away', () => {
  const port = new FramePort(engine, 'tap');
  engine.setU32(port.rx + Q_ENABLED, 0);
  for (let i = 0; i < 5; i++) port.deliver(bytes(60));
  assert.equal(receive(engine, port.rx).length, 0);
  assert.deepEqual(dropsOf(port.port), { [DROP.DROP_RX_DISABLED]: 5 });
  engine.setU32(port.rx + Q_ENABLED, 1);
  for (let i = 0; i < 32; i++) port.deliver(bytes(60));
  assert.equal(receive(engine, port.rx).length, 32);
});

test('a VLAN tag beside the frame goes back into it, and the checksum moves along', () => {
  const port = new FramePort(engine, 'packet');
  for (const length of [60, 252, 256, 1514]) {
    const frame = bytes(length);
    const vnet = { flags: NEEDS_CSUM, csumStart: 34, csumOffset: 16 };
    port.deliver(frame, vnet, { vlan: { tpid: 0x88a8, tci: 0x6123 } });
    port.deliver(frame);
    const [tagged, plain] = receive(engine, port.rx);
    const tag = Buffer.from([0x88, 0xa8, 0x61, 0x23]);
    assert.ok(
      Buffer.concat([frame.subarray(0, 12), tag, frame.subarray(12)]).equals(tagged!.frame),
    );
    assert.deepEqual([tagged!.csumStart, tagged!.csumOffset], [38, 16]);
    assert.ok(frame.equals(plain!.frame), 'the next frame has no tag');
  }
});

test('what the kernel left undone leaves undone again', () => {
  const from = new FramePort(engine, 'packet');
  const to = new FramePort(engine, 'tap');
  engine.wires.set(from.port, to.port);
  const gso = l4Packet({ protocol: 'tcp', payload: 4000 });
  const fields = { flags: NEEDS_CSUM, csumStart: 34, csumOffset: 16 };
  from.deliver(gso, { ...fields, gsoType: 1 | ECN, gsoSize: 1448 });
  from.deliver(l4Packet({ protocol: 'udp', payload: 100 }), { ...fields, csumOffset: 6 });
  from.deliver(bytes(60), { flags: 2 });
  engine.breathe();
  // The host loop has no descriptor to write to: what it could not send is counted.
  assert.deepEqual(dropsOf(to.port), { [DROP.DROP_TX_NOT_READY]: 3 });
  const statistics = linkStatistics(NO_STATS, engine.portCounters(to.port).drops, true);
  assert.deepEqual([statistics.tx_dropped, statistics.xvio_drop_tx_not_ready], [3, 3]);
  const sent = to.lastWritten(3);
  assert.ok(gso.equals(sent[0]!.subarray(12)));
  assert.deepEqual([...sent[0]!.subarray(0, 12)], [1, 0x81, 54, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0]);
  assert.deepEqual([...sent[1]!.subarray(0, 12)], [1, 0, 0, 0, 0, 0, 34, 0, 6, 0, 0, 0]);
  assert.deepEqual([...sent[2]!.subarray(0, 12)], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
});

for (const version of [4, 6] as const) {
  test(`UDP GSO over IPv${version} is segmented for a port without it, and crosses whole to one with it`, () => {
    const from = new FramePort(engine, 'packet');
    const to = new FramePort(engine, 'tap');
    const whole = l4Packet({ version, protocol: 'udp', payload: 2500 });
    const l4 = version === 4 ? 34 : 54;
    const vnet = { flags: NEEDS_CSUM, csumStart: l4, csumOffset: 6, gsoType: 5, gsoSize: 1000 };
    from.deliver(whole, vnet);
    engine.forwardOnly(from.rx, to.port);
    const [crossed, ...more] = to.sent();
    assert.equal(more.length, 0);
    assert.ok(whole.equals(crossed!.subarray(12)));
    assert.deepEqual([...crossed!.subarray(0, 10)], [1, 5, l4 + 8, 0, 0xe8, 3, l4, 0, 6, 0]);

    engine.setPort(to.port, { offloads: 0 });
    from.deliver(whole, vnet);
    engine.forwardOnly(from.rx, to.port);
    const segments = to.sent().map((bytes) => bytes.subarray(12));
    assert.deepEqual(
      segments.map((segment) => segment.length - l4 - 8),
      [1000, 1000, 500],
    );
    let at = l4 + 8;
    for (const segment of segments) {
      const payload = segment.subarray(l4 + 8);
      assert.ok(payload.equals(whole.subarray(at, at + payload.length)));
      at += payload.length;
      assert.equal(segment.readUInt16BE(l4 + 4), payload.length + 8);
      const addresses = segment.subarray(version === 4 ? 26 : 22, l4);
      const sum = pseudoSum(addresses, 17, segment.length - l4) + wordSum(segment.subarray(l4));
      assert.equal(sum % 0xffff, 0, 'checksum');
    }
  });
}

test('AF_XDP: packets of one and of several frames; frames go back to the fill ring', () => {
  const ring = new XdpRing(engine, 9000);
  const small = bytes(60);
  const large = bytes(9000);
  ring.deliver(small);
  ring.deliver(large);
  const packets = receive(engine, ring.q);
  assert.equal(packets.length, 2);
  assert.ok(small.equals(packets[0]!.frame) && large.equals(packets[1]!.frame));
  assert.deepEqual(ring.refilled(), [0, 4096, 8192, 12288]);
});

test('AF_XDP: descriptors that leave the UMEM or their frame are dropped and given back', () => {
  const ring = new XdpRing(engine);
  ring.describe(XdpRing.ENTRIES * XdpRing.FRAME, 60, 0);
  ring.describe(4096 + 4000, 200, 0);
  ring.describe(256, 5000, 0);
  ring.describe(256, 10, 0, bytes(10));
  ring.deliver(bytes(60));
  assert.equal(receive(engine, ring.q).length, 1);
  assert.deepEqual(dropsOf(ring.port), { [DROP.DROP_RX_BAD_DESC]: 3, [DROP.DROP_RX_RUNT]: 1 });
  assert.equal(ring.refilled().length, 5);
});

test('AF_XDP: a packet without its last frame waits for it', () => {
  const ring = new XdpRing(engine, 9000);
  const whole = bytes(5000);
  ring.describe(256, 3840, 1, whole.subarray(0, 3840));
  assert.equal(receive(engine, ring.q).length, 0);
  ring.describe(4096 + 256, 1160, 0, whole.subarray(3840));
  const [packet] = receive(engine, ring.q);
  assert.ok(whole.equals(packet!.frame));
});

for (const version of [4, 6] as const) {
  for (const protocol of ['tcp', 'udp'] as const) {
    for (const tags of [0, 1, 2]) {
      test(`AF_XDP: unfinished checksum of ${protocol} over IPv${version} with ${tags} tags is recognised`, () => {
        const ring = new XdpRing(engine);
        const options = { version, protocol, tags, payload: 333 } as const;
        ring.deliver(l4Packet({ ...options, checksum: 'partial' }));
        ring.deliver(l4Packet({ ...options, checksum: 'full' }));
        const [partial, full] = receive(engine, ring.q);
        const start = 14 + tags * 4 + (version === 4 ? 20 : 40);
        assert.deepEqual(
          [partial!.needsCsum, partial!.csumStart, partial!.csumOffset, partial!.gsoType],
          [true, start, protocol === 'tcp' ? 16 : 6, 0],
        );
        assert.equal(full!.needsCsum, false);
      });
    }
  }
}

test('AF_XDP: longer than the MTU is GSO if it is unfinished TCP, else too long', () => {
  const ring = new XdpRing(engine, 1500);
  const make = (options: Parameters<typeof l4Packet>[0]): void =>
    ring.deliver(l4Packet({ payload: 8000, ...options }));
  make({ protocol: 'tcp', checksum: 'partial' });
  make({ protocol: 'tcp', version: 6, tags: 1, checksum: 'partial' });
  make({ protocol: 'tcp', checksum: 'full' });
  make({ protocol: 'udp', checksum: 'partial' });
  const packets = receive(engine, ring.q);
  assert.deepEqual(
    packets.map(({ gsoType, gsoSize }) => [gsoType, gsoSize]),
    [
      [1, 1500 - 40],
      [4, 1500 - 60],
    ],
  );
  assert.deepEqual(dropsOf(ring.port), { [DROP.DROP_RX_TOO_LONG]: 2 });
});

test('AF_XDP: fragments, lying lengths and other protocols are left alone', () => {
  const ring = new XdpRing(engine);
  const fragment = l4Packet({ protocol: 'udp', checksum: 'partial' });
  fragment.writeUInt16BE(0x2000, 20); // more fragments
  const longer = l4Packet({ protocol: 'tcp', checksum: 'partial' });
  longer.writeUInt16BE(1400, 16); // total length beyond the frame
  const options = l4Packet({ protocol: 'tcp', checksum: 'partial' });
  options[14] = 0x44; // header length 16
  const icmp = l4Packet({ protocol: 'tcp', checksum: 'partial' });
  icmp[23] = 1;
  for (const frame of [fragment, longer, options, icmp]) ring.deliver(frame);
  const packets = receive(engine, ring.q);
  assert.deepEqual(
    packets.map((packet) => packet.needsCsum),
    [false, false, false, false],
  );
});

test('the pseudo-header sum of the tests is the one of the kernel', () => {
  // 10.0.0.1 -> 10.0.0.2, TCP, 20 bytes: 0x0a00 + 1 + 0x0a00 + 2 + 6 + 20
  assert.equal(pseudoSum(Buffer.from([10, 0, 0, 1, 10, 0, 0, 2]), 6, 20), 0x141d);
});

test('there is room for more than 500 ports, and the longest frame passes through the last as through the first', async () => {
  const ports = Array.from({ length: 550 }, () => new FramePort(engine, 'tap', 65535));
  assert.ok(engine.arenaFree() < 0.25, 'it is the last that this is about');
  const [first, last] = [ports[0]!, ports.at(-1)!];
  for (const [from, to] of [
    [first, last],
    [last, first],
    [ports[548]!, last],
  ] as const) {
    for (let round = 0; round < 10; round++) {
      const frame = bytes(65549, round);
      from.deliver(frame);
      engine.forwardOnly(from.rx, to.port);
      const sent = to.sent();
      assert.equal(sent.length, 1);
      assert.ok(frame.equals(sent[0]!.subarray(12)));
    }
  }
  assert.deepEqual(dropsOf(last.port), {});
  for (const port of ports) await port.close();
  assert.equal(engine.arenaFree(), 1);
});
