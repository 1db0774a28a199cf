// Connection tracking of the data plane against the model: random conversations in several zones, with NAT, marks,
// errors, broken packets and time passing, give the same verdicts, the same frames, the same table.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { CS_TRK } from '../../contract/ct.ts';
import type { CtConnection, CtTuple } from '../../src/engine/conntrackTypes.ts';
import { ConntrackModel, DEFAULT_SECONDS, type ModelConnection } from '../oracle/conntrack.ts';
import {
  ipPacket,
  layers,
  type ModelTuple,
  readTuple,
  reverse,
  sameTuple,
  word16,
} from '../oracle/ctFrames.ts';
import { ACK, CtRig, type CtSpec, FIN, hex, PSH, RST, SYN, segment } from '../oracle/ctRig.ts';
import { anyFrame, be16, bytes, ethernet, icmp, ipv4, ipv6, sctp, udp } from '../oracle/frames.ts';

const V4 = [1, 2, 3].map((n) => [10, 0, 0, n]);
const V6 = [1, 2].map((n) => [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n]);
const NAT4 = [8, 9].map((n) => [10, 0, 0, n]);
const NAT6 = [8, 9].map((n) => [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n]);
const PORTS = [100, 700, 2000, 2001];
const NAT_PORTS: readonly (readonly [number, number])[] = [
  [3000, 3000],
  [3000, 3002],
];

interface Packet {
  v6: boolean;
  proto: number;
  src: number;
  dst: number;
  sp: number;
  dp: number;
  flags: number;
  seq: number;
  ack: number;
  window: number;
  payload: number;
  scale: number | undefined;
  damage: 'none' | 'sum' | 'fragment' | 'partial';
}

const packet: fc.Arbitrary<Packet> = fc.record({
  v6: fc.boolean(),
  proto: fc.constantFrom(6, 6, 6, 17, 17, 1, 47, 132),
  src: fc.nat(4),
  dst: fc.nat(4),
  sp: fc.constantFrom(...PORTS, 3000, 3001, 0),
  dp: fc.constantFrom(...PORTS, 3000),
  flags: fc.constantFrom(SYN, SYN, SYN | ACK, ACK, ACK | PSH, FIN | ACK, RST, RST | ACK, 0, 0x3f),
  seq: fc.constantFrom(0, 1, 1000, 1001, 70000, 0xffffffff, 0x80000000),
  ack: fc.constantFrom(0, 1, 1000, 1001, 5001),
  window: fc.constantFrom(0, 1, 1000, 65535),
  payload: fc.constantFrom(0, 0, 1, 100),
  scale: fc.constantFrom(undefined, undefined, 0, 3, 200),
  damage: fc.constantFrom(
    'none',
    'none',
    'none',
    'none',
    'none',
    'none',
    'partial',
    'sum',
    'fragment',
  ),
});

type Step =
  | { kind: 'packet'; packet: Packet }
  /** The answer to what came out `back` steps ago. */
  | {
      kind: 'answer';
      back: number;
      flags: number;
      window: number;
      payload: number;
      scale: number | undefined;
    }
  /** What came out then, again from its sender, further on. */
  | { kind: 'more'; back: number; flags: number; payload: number }
  /** An ICMP error about it. */
  | { kind: 'error'; back: number; from: number; whole: boolean };

const flags = fc.constantFrom(ACK, ACK, SYN | ACK, SYN | ACK, FIN | ACK, RST | ACK, RST, SYN);
const scale = fc.constantFrom(undefined, 0, 2, 7);
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 3, arbitrary: packet.map((p): Step => ({ kind: 'packet', packet: p })) },
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant('answer' as const),
      back: fc.nat(3),
      flags,
      window: fc.constantFrom(0, 500, 65535),
      payload: fc.constantFrom(0, 0, 50),
      scale,
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant('more' as const),
      back: fc.nat(3),
      flags: fc.constantFrom(ACK, ACK | PSH, FIN | ACK),
      payload: fc.constantFrom(0, 100),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant('error' as const),
      back: fc.nat(3),
      from: fc.nat(4),
      whole: fc.boolean(),
    }),
  },
);

const maybe = <T>(arbitrary: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> =>
  fc.oneof({ weight: 3, arbitrary: fc.constant(undefined) }, { weight: 1, arbitrary });
const octets = fc.constantFrom(
  ...[0, 0x5a, 0xff].map((n) => new Array<number>(16).fill(n) as readonly number[]),
);
const word = fc.constantFrom(0, 1, 0xff00, 0xffffffff);
const nat: fc.Arbitrary<NonNullable<CtSpec['nat']>> = fc.oneof(
  fc.constant({}),
  fc.constant({}),
  fc
    .record({
      side: fc.constantFrom('src' as const, 'dst' as const),
      range: fc.constantFrom(
        undefined,
        ...[NAT4, NAT6].flatMap((pool) => [
          { low: pool[0]!, high: pool[0]! },
          { low: pool[0]!, high: pool[1]! },
        ]),
      ),
      ports: fc.option(fc.constantFrom(...NAT_PORTS), { nil: undefined }),
      random: fc.boolean(),
      persistent: fc.boolean(),
    })
    .map(({ range, ...rest }) => ({ ...rest, ...range })),
);
const spec: fc.Arbitrary<CtSpec> = fc
  .record({
    commit: fc.boolean(),
    force: fc.constantFrom(false, false, false, false, true),
    zone: fc.constantFrom(0, 0, 0, 1, 65535),
    policy: fc.constantFrom(0, 0, 2),
    mark: maybe(fc.tuple(word, word)),
    label: maybe(fc.tuple(octets, octets)),
    nat: fc.oneof(fc.constant(undefined), nat),
  })
  .map((s) => {
    // Only a commit may set marks or choose a translation; switches refuse flows with others.
    const commit = s.commit || s.force;
    const { mark, label, ...rest } = s;
    const translated = commit ? s.nat : s.nat && {};
    return { ...rest, commit, nat: translated, ...(commit && { mark, label }) } as CtSpec;
  });

/** A second action in the same program must not end what the first one has made: the model could not see it then. */
const specs: fc.Arbitrary<CtSpec[]> = fc.oneof(
  { weight: 3, arbitrary: spec.map((one) => [one]) },
  {
    weight: 1,
    arbitrary: fc.tuple(spec, spec).map(([a, b]) => [a, { ...b, force: false }]),
  },
  { weight: 1, arbitrary: spec.map((one) => [one, { clear: true }, { zone: one.zone ?? 0 }]) },
);

interface Turn {
  step: Step;
  specs: CtSpec[];
  waitMs: number;
}

const turns: fc.Arbitrary<Turn[]> = fc.array(
  fc.record({
    step,
    specs,
    waitMs: fc.constantFrom(0, 0, 0, 0, 1, 1000, 29999, 31000, 60000, 1000000),
  }),
  { minLength: 1, maxLength: 24 },
);

function options(shift: number | undefined): number[] {
  return shift === undefined ? [] : [2, 4, 5, 0xb4, 1, 3, 3, shift];
}

function pack(
  v6: boolean,
  proto: number,
  body: Uint8Array,
  src: number[],
  dst: number[],
  ip = {},
): Uint8Array {
  return v6
    ? ethernet(0x86dd, ipv6(proto, body, { src, dst, ...ip }))
    : ethernet(0x0800, ipv4(proto, body, { src, dst, ...ip }));
}

function build(p: Packet): Uint8Array {
  const pool = p.v6 ? [...V6, ...NAT6, V6[0]!] : [...V4, ...NAT4];
  const [src, dst] = [pool[p.src]!, pool[p.dst]!];
  const data = new Uint8Array(p.payload + 8).fill(0x33);
  let proto = p.proto;
  let body: Uint8Array = data;
  if (proto === 6) {
    const { sp, dp, payload } = p;
    body = segment({
      ...p,
      src: sp,
      dst: dp,
      payload,
      options: p.flags & SYN ? options(p.scale) : [],
    });
  } else if (proto === 17) body = udp(p.sp, p.dp, data);
  else if (proto === 132) body = sctp(p.sp, p.dp, data);
  else if (proto === 1) {
    proto = p.v6 ? 58 : 1;
    const query = p.v6 ? 128 + (p.ack & 1) : [8, 0, 13, 14][p.ack & 3]!;
    body = icmp(query, p.flags === 0 ? 1 : 0, bytes(be16(p.sp), be16(1), data));
  }
  const frame = pack(
    p.v6,
    proto,
    body,
    src,
    dst,
    p.damage === 'fragment' ? { fragment: p.v6 ? 1 : 0x2000 } : {},
  );
  if (p.damage === 'sum') frame[frame.length - 1]! ^= 1;
  return frame;
}

/** A packet about `frame`, which is IP without extension headers, or undefined. */
function follow(s: Exclude<Step, { kind: 'packet' }>, frame: Uint8Array): Uint8Array | undefined {
  const l = layers(frame, 14);
  if (!l || word16(frame, 12) < 0x800) return undefined;
  if (s.kind === 'error' && readTuple(frame, false) === undefined) return undefined;
  const [at, size] = l.v6 ? [l.ip + 8, 16] : [l.ip + 12, 4];
  const [src, dst] = [at, at + size].map((from) => [...frame.subarray(from, from + size)]) as [
    number[],
    number[],
  ];
  if (s.kind === 'error') {
    const pool = l.v6 ? [...V6, ...NAT6, V6[0]!] : [...V4, ...NAT4];
    // A TCP header may be cut off behind its eighth byte.
    const cut = !s.whole && l.proto === 6 && !l.v6 ? frame.subarray(0, l.l4 + 8) : frame;
    const quote = bytes([0, 0, 0, 0], ipPacket(cut));
    return pack(l.v6, l.v6 ? 58 : 1, icmp(l.v6 ? 1 : 3, 1, quote), pool[s.from]!, src);
  }
  const answer = s.kind === 'answer';
  const [from, to] = answer ? [dst, src] : [src, dst];
  const [sp, dp] = [word16(frame, l.l4), word16(frame, l.l4 + 2)];
  const ports = answer ? { src: dp, dst: sp } : { src: sp, dst: dp };
  if (l.proto === 6) {
    const view = new DataView(frame.buffer, frame.byteOffset);
    const [seq, ack] = [view.getUint32(l.l4 + 4), view.getUint32(l.l4 + 8)];
    const before = frame[l.l4 + 13]!;
    const length = l.end - l.l4 - (frame[l.l4 + 12]! >> 4) * 4;
    const next = (seq + length + ((before >> 1) & 1) + (before & 1)) >>> 0;
    const numbers = answer ? { seq: before & ACK ? ack : 5000, ack: next } : { seq: next, ack };
    const extra = answer
      ? { window: s.window, options: s.flags & SYN ? options(s.scale) : [] }
      : {};
    return pack(
      l.v6,
      6,
      segment({ ...ports, ...numbers, flags: s.flags, payload: s.payload, ...extra }),
      from,
      to,
    );
  }
  if (l.proto === 17) return pack(l.v6, 17, udp(ports.src, ports.dst, new Uint8Array(9)), from, to);
  const body = frame.slice(l.l4, l.end);
  if (l.proto === 1 && answer) body[0] = { 8: 0, 13: 14 }[body[0]!] ?? body[0]!;
  if (l.proto === 58 && answer && body[0] === 128) body[0] = 129;
  return pack(l.v6, l.proto, body, from, to);
}

function modelTuple(t: CtTuple): ModelTuple {
  const icmpTuple = t.proto === (t.src.length === 16 ? 58 : 1);
  return {
    v6: t.src.length === 16,
    proto: t.proto,
    src: hex(t.src),
    dst: hex(t.dst),
    sp: icmpTuple ? t.icmpId : t.srcPort,
    dp: icmpTuple ? (t.icmpType << 8) | t.icmpCode : t.dstPort,
    icmp: icmpTuple,
  };
}

/** Whether `reply` is a translation that the action allows, apart from being free. */
function allowed(orig: ModelTuple, reply: ModelTuple, s: CtSpec): boolean {
  const { side, low, high, ports } = s.nat!;
  const plain = reverse(orig);
  const fits = low !== undefined && (low.length === 16) === orig.v6;
  const address = side === 'src' ? reply.dst : reply.src;
  const inRange = fits
    ? address >= hex(low) && address <= hex(high ?? low)
    : address === (side === 'src' ? plain.dst : plain.src);
  const untouched = side === 'src' ? reply.src === plain.src : reply.dst === plain.dst;
  if (!inRange || !untouched) return false;
  if (orig.proto !== 6 && orig.proto !== 17) return reply.sp === plain.sp && reply.dp === plain.dp;
  const inside = (port: number, range: readonly [number, number]): boolean =>
    port >= range[0] && port <= range[1];
  if (side === 'src' && ports) return reply.sp === plain.sp && inside(reply.dp, ports);
  const own: [number, number] =
    orig.sp < 512 ? [1, 511] : orig.sp < 1024 ? [600, 1023] : [1024, 65535];
  const source = reply.dp === orig.sp || inside(reply.dp, own);
  return source && (ports ? inside(reply.sp, ports) : reply.sp === plain.sp);
}

function tupleText(t: ModelTuple): string {
  return `${t.proto} ${t.src} ${t.sp} > ${t.dst} ${t.dp}`;
}

function text(c: CtConnection): string {
  const tcp = c.tcp?.map(({ state, hasWindowScale, liberal, windowScale }) =>
    [state, hasWindowScale, liberal, windowScale].join(),
  );
  const label = hex(c.label);
  return JSON.stringify([
    tupleText(modelTuple(c.orig)),
    tupleText(modelTuple(c.reply)),
    c.zone,
    c.timeoutSeconds,
    c.mark,
    label,
    c.snat,
    c.dnat,
    c.policy,
    tcp,
  ]);
}

function modelText(c: ModelConnection, nowMs: number): string {
  const tcp = c.tcp?.ends.map(({ state, scale: s }) =>
    [state, typeof s === 'number', s === 'unknown', typeof s === 'number' ? s : 0].join(),
  );
  const left = Math.trunc((c.expiresMs - nowMs) / 1000);
  const label = c.label.toString(16).padStart(32, '0');
  return JSON.stringify([
    tupleText(c.orig),
    tupleText(c.reply),
    c.zone,
    left,
    c.mark,
    label,
    c.side === 'src',
    c.side === 'dst',
    c.policy,
    tcp,
  ]);
}

for (const debug of [true, false]) {
  test(`connections (${debug ? 'debug' : 'release'})`, async () => {
    const ct = await CtRig.create(debug);
    const table = ct.rig.conntrack;
    const policy = [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    const names = [
      'tcp_syn_sent',
      'tcp_syn_recv',
      'tcp_established',
      'tcp_fin_wait',
      'tcp_time_wait',
      'tcp_close',
      'udp_first',
      'udp_single',
      'udp_multiple',
      'icmp_first',
      'icmp_reply',
    ];
    table.setTimeoutPolicy(2, Object.fromEntries(names.map((name, i) => [name, policy[i]!])));
    fc.assert(
      fc.property(
        turns,
        fc.boolean(),
        fc.constantFrom(undefined, 1, 3),
        (sequence, liberal, limit) => {
          table.flush();
          table.setTcpSeqChk(!liberal);
          if (limit === undefined) table.deleteZoneLimit(1);
          else table.setZoneLimit(1, limit);
          const model = new ConntrackModel();
          model.liberal = liberal;
          model.policies.set(2, policy);
          model.policies.set(0, DEFAULT_SECONDS);
          if (limit !== undefined) model.zoneLimits.set(1, limit);
          const sent: Uint8Array[] = [];
          for (const turn of sequence) {
            // Limits count what has expired and was not yet swept, so sweep, at the time of the poll to come.
            ct.advance(turn.waitMs + 0.001);
            table.sweep(1 << 20);
            ct.advance(-0.001);
            const s = turn.step;
            const last = s.kind === 'packet' ? undefined : sent.at(-1 - s.back);
            const frame = s.kind === 'packet' ? build(s.packet) : last && follow(s, last);
            if (!frame) continue;
            const partial =
              s.kind === 'packet' &&
              s.packet.damage === 'partial' &&
              [6, 17].includes(s.packet.proto);
            const offset = s.kind === 'packet' && s.packet.proto === 6 ? 16 : 6;
            const wire = partial
              ? { frame, flags: 2, csumStart: 0, csumOffset: offset }
              : { frame };
            const got = ct.track(wire, ...turn.specs);
            model.nowMs = Math.trunc(ct.rig.nowNs / 1e6);
            const dump = [...table.dump()];
            model.choose = (orig, action) => {
              const zone = action.zone ?? 0;
              // A later action of the program may have made it, without translation.
              const made = dump.find(
                (c) => c.zone === zone && (c.snat || c.dnat) && sameTuple(modelTuple(c.orig), orig),
              );
              if (!made) {
                // Refused: some address of the range has no free port; with ports of the packet's class left it is wrong.
                assert.ok(
                  model.live().some((c) => c.zone === zone),
                  'refused without reason',
                );
                return undefined;
              }
              const reply = modelTuple(made.reply);
              assert.ok(allowed(orig, reply, action), `${JSON.stringify(reply)} is not allowed`);
              assert.equal(model.find(reply, zone), undefined, 'taken already');
              return reply;
            };
            const want = model.run(frame, turn.specs, partial);
            assert.deepEqual(
              { ...got, frame: hex(got.frame) },
              { ...want, frame: hex(want.frame) },
            );
            assert.deepEqual(
              dump.map(text).sort(),
              model
                .live()
                .map((c) => modelText(c, model.nowMs))
                .sort(),
            );
            sent.push(got.frame);
          }
        },
      ),
      { numRuns: Number(process.env.FUZZ_RUNS ?? 600) },
    );
  });
}

test('any frame: no trap, no packet lost but fragments that wait', async () => {
  const ct = await CtRig.create(true);
  const table = ct.rig.conntrack;
  fc.assert(
    fc.property(
      fc.array(anyFrame, { minLength: 1, maxLength: 12 }),
      fc.array(spec, { minLength: 1, maxLength: 3 }),
      fc.boolean(),
      (frames, actions, small) => {
        table.setFragments({ minV4: small ? 400 : 1200 });
        const before = table.counters();
        const out = ct.run(frames, actions);
        const after = table.counters();
        const accepted = (of: Record<string, number>): number =>
          of.fragments_v4_accepted! + of.fragments_v6_accepted!;
        const held = accepted(after) - accepted(before);
        assert.ok(out.length <= frames.length);
        assert.ok(out.length + held >= frames.length);
        assert.ok(out.every(({ state }) => state === 0 || (state & CS_TRK) !== 0));
        assert.equal([...table.dump()].length, table.count());
      },
    ),
    { numRuns: Number(process.env.FUZZ_RUNS ?? 600) },
  );
});
