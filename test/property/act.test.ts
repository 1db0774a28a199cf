// The executor of the data plane against the oracle: random programs on random frames give the same bytes at the same
// ports, the same upcalls with the same keys, the same drops under the same names; checksums as from scratch.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import * as act from '../../contract/action.ts';
import { DROP_COUNT, DROP_UPCALL_NO_FLOW } from '../../contract/drop.ts';
import { K_CT_MARK, K_NW_FRAG, K_NW_PROTO, K_PKT_MARK, K_PRIORITY } from '../../contract/key.ts';
import { type Event, execute, newPacket, type OraclePacket } from '../oracle/execute.ts';
import { onesSum, pseudo4, pseudo6, validFrame } from '../oracle/frames.ts';
import { parseFrame } from '../oracle/parse.ts';
import { Rig } from '../oracle/rig.ts';

const RECIRC_ID = 7;
const word = fc.oneof(fc.nat(0xffffffff), fc.constantFrom(0, 0xffffffff));
const mask = fc.constantFrom(0, 0xffffffff, 0x00ffffff, 0xff00, 0x0f0f0f0f);

function action(op: number, ...operands: number[]): number[] {
  return [op | ((operands.length + 1) << 16), ...operands];
}

function masked(op: number, words: number): fc.Arbitrary<number[]> {
  const array = (of: fc.Arbitrary<number>): fc.Arbitrary<number[]> =>
    fc.array(of, { minLength: words, maxLength: words });
  return fc.tuple(array(word), array(mask)).map(([v, m]) => action(op, ...v, ...m));
}

const set = fc.oneof(
  masked(act.ACT_SET_ETH, 3),
  masked(act.ACT_SET_IPV4, 3),
  masked(act.ACT_SET_IPV6, 10),
  masked(act.ACT_SET_TP, 1),
  masked(act.ACT_SET_ARP, 6),
  masked(act.ACT_SET_ND, 7),
  fc
    .tuple(fc.constantFrom(0x8100, 0x88a8), fc.nat(0xffff))
    .map(([tpid, tci]) => action(act.ACT_PUSH_VLAN, (tpid | (tci << 16)) >>> 0)),
  fc.constant(action(act.ACT_POP_VLAN)),
  fc
    .tuple(fc.nat(0xffff), fc.constantFrom(0xffff, 0x0fff, 0xe000))
    .map(([tci, m]) => action(act.ACT_SET_VLAN, ((tci & m) | (m << 16)) >>> 0)),
  fc
    .tuple(fc.constantFrom(K_PKT_MARK, K_PRIORITY, K_CT_MARK), word, mask)
    .map(([offset, value, m]) => action(act.ACT_SET_META, offset, value, m)),
);
/** Sets that fit the frame, most of the time, so that long programs survive. */
function fitting(frame: Uint8Array): fc.Arbitrary<number[]> {
  const { key } = parseFrame(frame, 1);
  const type = (key[20]! << 8) | key[21]!;
  const proto = key[K_NW_PROTO]!;
  const choices: fc.Arbitrary<number[]>[] = [masked(act.ACT_SET_ETH, 3)];
  if (type === 0x0800) choices.push(masked(act.ACT_SET_IPV4, 3));
  if (type === 0x86dd) choices.push(masked(act.ACT_SET_IPV6, 10));
  if (type === 0x0806) choices.push(masked(act.ACT_SET_ARP, 6));
  if ([1, 6, 17, 58, 132].includes(proto) && key[K_NW_FRAG] === 0) {
    choices.push(masked(act.ACT_SET_TP, 1), masked(act.ACT_SET_TP, 1));
  }
  if (proto === 58) choices.push(masked(act.ACT_SET_ND, 7));
  return fc.oneof({ weight: 3, arbitrary: fc.oneof(...choices) }, { weight: 1, arbitrary: set });
}

function hand(ports: readonly number[], recirc: boolean): fc.Arbitrary<number[]> {
  const max = fc.constantFrom(60, 128, 0xffff);
  return fc.oneof(
    { weight: 4, arbitrary: fc.constantFrom(...ports).map((p) => action(act.ACT_OUTPUT, p)) },
    {
      weight: 1,
      arbitrary: fc
        .tuple(fc.constantFrom(1, 2), word, max)
        .map(([reason, cookie, m]) => action(act.ACT_USERSPACE, reason, cookie, m)),
    },
    {
      weight: 1,
      arbitrary: fc.integer({ min: 14, max: 700 }).map((n) => action(act.ACT_TRUNC, n)),
    },
    ...(recirc ? [{ weight: 1, arbitrary: fc.constant(action(act.ACT_RECIRC, RECIRC_ID)) }] : []),
    { weight: 1, arbitrary: fc.constantFrom(6, 19, 21).map((r) => action(act.ACT_DROP, r)) },
  );
}

function program(
  frame: Uint8Array,
  ports: readonly number[],
  recirc: boolean,
): fc.Arbitrary<number[]> {
  const step = fc.oneof(fitting(frame), hand(ports, recirc));
  return fc.array(step, { maxLength: 7 }).map((steps) => [...steps.flat(), ...action(act.ACT_END)]);
}

interface Case {
  frames: { frame: Uint8Array; csumStart: number | undefined }[];
  first: number[];
  second: number[];
}

/** TCP and UDP frames may be checksum-partial: then the field holds the sum of the pseudo header. */
function makePartial(frame: Uint8Array): { frame: Uint8Array; csumStart: number } | undefined {
  const { key, l3, l4, l4Bytes } = parseFrame(frame, 1, 2);
  const proto = key[K_NW_PROTO]!;
  const offset = { 6: 16, 17: 6 }[proto];
  if (offset === undefined || key[K_NW_FRAG] !== 0 || l4 < 0 || l4Bytes < (proto === 6 ? 20 : 8)) {
    return undefined;
  }
  if (l4 + offset + 2 > 256) return undefined;
  const out = frame.slice();
  const part = (from: number, length: number): number[] => [...out.subarray(from, from + length)];
  const pseudo =
    out[l3]! >> 4 === 4
      ? pseudo4(part(l3 + 12, 4), part(l3 + 16, 4), proto, l4Bytes)
      : pseudo6(part(l3 + 8, 16), part(l3 + 24, 16), proto, l4Bytes);
  const sum = onesSum(pseudo);
  out[l4 + offset] = sum >> 8;
  out[l4 + offset + 1] = sum;
  return { frame: out, csumStart: l4 };
}

const PORTS = [2, 3, 4];
const cases: fc.Arbitrary<Case> = fc
  .tuple(fc.array(validFrame, { minLength: 1, maxLength: 8 }), fc.boolean())
  .chain(([frames, partial]) => {
    const sample = frames[0]!;
    return fc.record({
      frames: fc.constant(
        frames.map((frame) => (partial && makePartial(frame)) || { frame, csumStart: undefined }),
      ),
      first: program(sample, PORTS, true),
      second: program(sample, PORTS, false),
    });
  });

/** All events of a packet, recirculation followed, as the data plane does: after the program that asked for it. */
function expected(first: Uint32Array, second: Uint32Array, packets: OraclePacket[]): Event[] {
  const events: Event[] = [];
  const again: OraclePacket[] = [];
  for (const packet of packets) {
    for (const event of execute(first, packet)) {
      if (event.type === 'recirc') again.push(event.packet);
      else events.push(event);
    }
  }
  for (const packet of again) events.push(...execute(second, packet));
  return events;
}

function hex(data: Uint8Array): string {
  return Buffer.from(data).toString('hex');
}

for (const debug of [true, false]) {
  test(`programs on frames (${debug ? 'debug' : 'release'})`, async () => {
    const rig = await Rig.create({ debug });
    const input = rig.addPort();
    for (const port of PORTS) assert.equal(rig.addPort(), port);
    const start = Rig.matchPort(input);
    const recirculated = Rig.matchPort(input, RECIRC_ID);
    fc.assert(
      fc.property(cases, ({ frames, first, second }) => {
        // Truncating a frame whose checksum is still open is the transmit side's business (gso tests).
        const hasTrunc = [...words(first), ...words(second)].includes(act.ACT_TRUNC);
        fc.pre(!(hasTrunc && frames.some(({ csumStart }) => csumStart !== undefined)));
        // What a failed run before has left.
        rig.upcalls();
        for (const port of PORTS) rig.sent(port);
        const { drops } = rig.counters(input);
        rig.flows.put(start.key, start.mask, Uint32Array.from(first));
        rig.flows.put(recirculated.key, recirculated.mask, Uint32Array.from(second));
        for (const { frame, csumStart } of frames) {
          const csumOffset = csumStart === undefined ? 0 : checksumField(frame, csumStart);
          rig.send(input, {
            frame,
            flags: csumStart === undefined ? 0 : 1,
            csumStart: csumStart ?? 0,
            csumOffset,
          });
        }
        assert.equal(rig.poll(), frames.length);

        const packets = frames.map(({ frame, csumStart }) => newPacket(frame, input, csumStart));
        const events = expected(Uint32Array.from(first), Uint32Array.from(second), packets);
        for (const port of PORTS) {
          const want = events
            .filter((e) => e.type === 'output' && e.port === port)
            .map((e) => e as Extract<Event, { type: 'output' }>);
          const got = rig.sent(port);
          // Within a port: the multiset of frames. The order is that of actions here, of packets there.
          const text = (frame: Uint8Array, csumStart: number | undefined): string =>
            `${hex(frame)} ${csumStart ?? '-'}`;
          assert.deepEqual(
            got.map((w) => text(w.frame, w.flags & 1 ? w.csumStart : undefined)).sort(),
            want.map((e) => text(e.frame, e.csumStart)).sort(),
          );
        }
        const upcalls = rig
          .upcalls()
          .map((u) => `${u.reason} ${u.cookie} ${hex(u.data)} ${hex(u.key)}`);
        const wantUpcalls = events
          .filter((e) => e.type === 'upcall')
          .map((e) => `${e.reason} ${e.cookie} ${hex(e.frame)} ${hex(e.key)}`);
        assert.deepEqual(upcalls.sort(), wantUpcalls.sort());

        const now = rig.counters(input).drops;
        const wantDrops = new Array<number>(DROP_COUNT).fill(0);
        for (const event of events) if (event.type === 'drop') wantDrops[event.reason]! += 1;
        assert.deepEqual(
          now.map((n, i) => n - drops[i]!),
          wantDrops,
        );
        assert.equal(now[DROP_UPCALL_NO_FLOW], 0);
      }),
      { numRuns: Number(process.env.FUZZ_RUNS ?? 1500) },
    );
  });
}

function words(program: readonly number[]): number[] {
  const ops: number[] = [];
  for (let at = 0; at < program.length; at += program[at]! >>> 16) ops.push(program[at]! & 0xffff);
  return ops;
}

function checksumField(frame: Uint8Array, csumStart: number): number {
  return parseFrame(frame, 1, 2).key[K_NW_PROTO] === 6 && csumStart > 0 ? 16 : 6;
}
