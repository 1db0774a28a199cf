// Frame and AF_XDP queues under any sequence of events: order and bytes are kept, nothing leaves its buffers, whatever
// arrives is delivered as it came or dropped under a name.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { FakeEngine } from '../net/fakeEngine.ts';
import { FramePort, receive, XdpRing } from '../net/kernelRings.ts';
import { l4Packet } from '../net/packets.ts';

const engine = await FakeEngine.load();
const frameOf = (length: number, seed: number): Buffer =>
  Buffer.from(Array.from({ length }, (_, i) => (i * 31 + seed) & 0xff));

test('the transmit ring keeps order and bytes, however it is drained; what does not fit is counted', () => {
  const from = new FramePort(engine, 'packet', 65535);
  const to = new FramePort(engine, 'tap', 65535);
  // Straight to txBurst: the fake host loop must not drain the ring.
  const step = fc.record({
    lengths: fc.array(
      fc.oneof(fc.integer({ min: 14, max: 2000 }), fc.constantFrom(60, 9000, 65000)),
      {
        minLength: 1,
        maxLength: 32,
      },
    ),
    drain: fc.integer({ min: 0, max: 60 }),
  });
  const dropped = (): number => engine.portCounters(to.port).drops.reduce((a, b) => a + b, 0);
  fc.assert(
    fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
      const expected: Buffer[] = [];
      let seed = 0;
      for (const { lengths, drain } of steps) {
        const frames = lengths.map((length) => frameOf(length, seed++));
        for (const frame of frames) from.deliver(frame);
        const before = dropped();
        engine.forwardOnly(from.rx, to.port);
        const lost = dropped() - before;
        expected.push(...frames.slice(0, frames.length - lost));
        for (const sent of to.sent(drain)) assert.ok(expected.shift()!.equals(sent.subarray(12)));
      }
      for (const sent of to.sent()) assert.ok(expected.shift()!.equals(sent.subarray(12)));
      assert.equal(expected.length, 0);
    }),
    { numRuns: 40 },
  );
});

test('whatever offload header comes with a frame, the packet is sound or dropped', () => {
  const port = new FramePort(engine, 'packet');
  const vnet = fc.record({
    flags: fc.nat(255),
    gsoType: fc.nat(255),
    gsoSize: fc.nat(65535),
    csumStart: fc.oneof(fc.nat(200), fc.nat(65535)),
    csumOffset: fc.oneof(fc.nat(20), fc.nat(65535)),
  });
  const vlan = fc.option(fc.record({ tpid: fc.constantFrom(0x8100, 0x88a8), tci: fc.nat(65535) }));
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 400 }), vnet, vlan, (length, fields, tag) => {
      const before = engine.portCounters(port.port).drops.reduce((a, b) => a + b, 0);
      port.deliver(frameOf(length, 3), fields, tag ? { vlan: tag } : {});
      const packets = receive(engine, port.rx);
      const lost = engine.portCounters(port.port).drops.reduce((a, b) => a + b, 0) - before;
      assert.equal(packets.length + lost, 1);
      for (const packet of packets) {
        assert.equal(packet.frame.length, length + (tag ? 4 : 0));
        if (packet.needsCsum)
          assert.ok(packet.csumStart + packet.csumOffset + 2 <= packet.frame.length);
        if (packet.gsoType !== 0) assert.ok(packet.needsCsum && packet.gsoSize > 0);
      }
    }),
    { numRuns: 500 },
  );
});

test('AF_XDP: mutated packets never get an offload description that leaves them', () => {
  const ring = new XdpRing(engine, 1500);
  const mutation = fc.record({ at: fc.nat(90), value: fc.nat(255) });
  const options = fc.record({
    version: fc.constantFrom<4 | 6>(4, 6),
    protocol: fc.constantFrom<'tcp' | 'udp'>('tcp', 'udp'),
    tags: fc.nat(2),
    payload: fc.oneof(fc.nat(200), fc.nat(6000)),
  });
  fc.assert(
    fc.property(
      options,
      fc.array(mutation, { maxLength: 4 }),
      fc.nat(6000),
      (made, mutations, cut) => {
        const whole = l4Packet({ ...made, checksum: 'partial' });
        for (const { at, value } of mutations) if (at < whole.length) whole[at] = value;
        const frame = cut < 14 || cut > whole.length ? whole : whole.subarray(0, cut);
        ring.deliver(frame);
        for (const packet of receive(engine, ring.q)) {
          assert.ok(frame.equals(packet.frame));
          if (packet.needsCsum) assert.ok(packet.csumStart + packet.csumOffset + 2 <= frame.length);
          if (packet.gsoType !== 0) assert.ok(packet.gsoSize > 0 && packet.gsoSize < 1500);
          else assert.ok(frame.length <= 1500 + 14 + 8);
        }
      },
    ),
    { numRuns: 500 },
  );
});
