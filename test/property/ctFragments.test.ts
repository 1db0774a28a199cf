// Fragments through connection tracking, against the same datagrams whole: whatever the cuts and the order, nothing comes
// out before a datagram is complete, then every fragment with the verdict that the whole one meets, and together they
// carry the same bytes, translated the same.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { CtRig, type CtSpec, hex, SYN, segment } from '../oracle/ctRig.ts';
import { be16, bytes, ethernet, icmp, ipv4, ipv6, udp } from '../oracle/frames.ts';

const RUNS = Number(process.env.FUZZ_RUNS ?? 150);
const V4 = { a: [10, 0, 0, 1], b: [10, 0, 0, 2], nat: [10, 0, 0, 9] };
const six = (n: number): number[] => [0xfd, 0, ...new Array<number>(13).fill(0), n];
const V6 = { a: six(1), b: six(2), nat: six(9) };

interface Datagram {
  v6: boolean;
  proto: 'udp' | 'tcp' | 'icmp';
  answer: boolean;
  translate: boolean;
  zone: number;
  port: number;
  length: number;
  cuts: readonly number[];
  order: readonly number[];
  twice: boolean;
}

const datagram: fc.Arbitrary<Datagram> = fc.record({
  v6: fc.boolean(),
  proto: fc.constantFrom('udp', 'udp', 'tcp', 'icmp'),
  answer: fc.boolean(),
  translate: fc.boolean(),
  zone: fc.constantFrom(0, 0, 7),
  port: fc.constantFrom(1000, 1001),
  length: fc.integer({ min: 500, max: 3500 }),
  // Pieces in units of 8 bytes, none below the least that is allowed.
  cuts: fc.array(fc.integer({ min: 50, max: 170 }), { minLength: 1, maxLength: 6 }),
  order: fc.array(fc.nat(1000), { minLength: 8, maxLength: 8 }),
  twice: fc.boolean(),
});

interface Packet {
  proto: number;
  /** Transport header and payload, its checksum right. */
  body: Uint8Array;
  src: readonly number[];
  dst: readonly number[];
}

function build(d: Datagram): Packet {
  const pool = d.v6 ? V6 : V4;
  const [src, dst] = d.answer ? [pool.b, d.translate ? pool.nat : pool.a] : [pool.a, pool.b];
  const [sport, dport] = d.answer ? [53, d.port] : [d.port, 53];
  const payload = Uint8Array.from({ length: d.length }, (_, i) => i * 31 + d.port);
  const protos = { udp: 17, tcp: 6, icmp: d.v6 ? 58 : 1 };
  const query = d.v6 ? 128 + Number(d.answer) : d.answer ? 0 : 8;
  const bodies = {
    udp: () => udp(sport, dport, payload),
    tcp: () => segment({ src: sport, dst: dport, flags: SYN, payload }),
    icmp: () => icmp(query, 0, bytes(be16(d.port), be16(1), payload)),
  };
  const proto = protos[d.proto];
  const packet = (d.v6 ? ipv6 : ipv4)(proto, bodies[d.proto](), { src, dst });
  return { proto, body: packet.subarray(d.v6 ? 40 : 20), src, dst };
}

function wrap(p: Packet, part: Uint8Array, fragment?: number): Uint8Array {
  const v6 = p.src.length === 16;
  const options = { src: p.src, dst: p.dst, ...(fragment === undefined ? {} : { fragment }) };
  const packet = (v6 ? ipv6 : ipv4)(p.proto, part, options);
  packet.set(part, packet.length - part.length); // builders fill in checksums of first fragments
  return ethernet(v6 ? 0x86dd : 0x0800, packet);
}

function pieces(d: Datagram, p: Packet): Uint8Array[] {
  const v6 = p.src.length === 16;
  const out: Uint8Array[] = [];
  for (let at = 0, i = 0; at < p.body.length; i++) {
    const size = d.cuts[i % d.cuts.length]! * 8;
    const more = at + size < p.body.length;
    const fragment = v6 ? at | Number(more) : (at >> 3) | (more ? 0x2000 : 0);
    out.push(wrap(p, p.body.subarray(at, at + size), fragment));
    at += size;
  }
  return out
    .map((frame, i) => ({ frame, key: d.order[i % d.order.length]! }))
    .sort((a, b) => a.key - b.key)
    .map(({ frame }) => frame);
}

/** Addresses and payload; of fragments, put together. */
function contents(frames: readonly Uint8Array[], v6: boolean): string {
  const addresses = new Set<string>();
  const parts = frames.map((frame) => {
    addresses.add(hex(v6 ? frame.subarray(22, 54) : frame.subarray(26, 34)));
    const view = new DataView(frame.buffer, frame.byteOffset);
    const header = v6 && frame[20] === 44;
    const at = v6 ? (header ? view.getUint16(56) & 0xfff8 : 0) : (view.getUint16(20) & 0x1fff) * 8;
    return { at, data: frame.subarray(v6 ? (header ? 62 : 54) : 34) };
  });
  assert.equal(addresses.size, 1, 'addresses');
  parts.sort((a, b) => a.at - b.at);
  return [...addresses][0] + hex(Uint8Array.from(parts.flatMap(({ data }) => [...data])));
}

test('fragments meet what the whole datagram meets', async () => {
  const whole = await CtRig.create(true);
  const cut = await CtRig.create(true);
  cut.rig.conntrack.setFragments({ minV4: 400, minV6: 400 });
  fc.assert(
    fc.property(fc.array(datagram, { minLength: 1, maxLength: 6 }), (datagrams) => {
      whole.rig.conntrack.flush();
      cut.rig.conntrack.flush();
      for (const d of datagrams) {
        const p = build(d);
        const pool = d.v6 ? V6 : V4;
        const nat = d.answer ? {} : { side: 'src' as const, low: pool.nat };
        const spec: CtSpec = {
          zone: d.zone,
          commit: !d.answer,
          mark: d.answer ? undefined : [d.port, 0xffffffff],
          ...(d.translate && { nat }),
        };
        const want = whole.track(wrap(p, p.body), spec);
        const sent = pieces(d, p);
        if (sent.length === 1) {
          cut.track(wrap(p, p.body), spec); // fits into one piece
          continue;
        }
        const before = sent.slice(0, -1);
        assert.deepEqual(cut.run(before, [spec]), [], 'nothing before it is complete');
        // A piece that comes twice is invalid, and does no harm.
        if (d.twice) assert.equal(cut.run([before[0]!], [spec]).length, 1);
        const got = cut.run([sent.at(-1)!], [spec]);
        assert.equal(got.length, sent.length);
        for (const g of got) {
          assert.deepEqual({ ...g, frame: 0 }, { ...want, frame: 0 });
        }
        const frames = got.map(({ frame }) => frame);
        assert.equal(contents(frames, d.v6), contents([want.frame], d.v6));
      }
      assert.equal(cut.rig.conntrack.getFragments().waiting, 0);
      assert.equal(cut.rig.conntrack.count(), whole.rig.conntrack.count());
    }),
    { numRuns: RUNS },
  );
});
