// Simple match and plain packets (dataplane/simple.ts, plain.ts) against the oracle's parser: bursts of frames through megaflows of which some look
// at the Ethernet header alone and some deeper. Each frame meets the flow that its full key matches, in order, counted
// with its bytes and TCP flags; what matches nothing comes up with its full key.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  ACT_END,
  ACT_OUTPUT,
  ACT_POP_VLAN,
  ACT_PUSH_VLAN,
  ACT_RECIRC,
  ACT_SET_META,
} from '../../contract/action.ts';
import {
  K_CT_STATE,
  K_ETH_DST,
  K_ETH_SRC,
  K_ETH_TYPE,
  K_NW_DST,
  K_NW_FRAG,
  K_NW_PROTO,
  K_NW_SRC,
  K_NW_TOS,
  K_NW_TTL,
  K_PACKET_TYPE,
  K_PKT_MARK,
  K_TCP_FLAGS,
  K_TP_DST,
  K_TP_SRC,
  K_VLAN0_TCI,
  KEY_SIZE,
} from '../../contract/key.ts';
import {
  CTL_CACHE_INSERT_INV_PROB,
  WK_CACHE_HITS,
  WK_FLOW_HITS,
  WK_RXQ,
  WK_SIMPLE_HITS,
  WORKER_BASE,
} from '../../contract/memory.ts';
import { PT_SIMPLE, portAddress, Q_NOT_PLAIN, queueAddress } from '../../contract/port.ts';
import { execute, keyOf, newPacket } from '../oracle/execute.ts';
import { anyFrame, bytes, ethernet, ipv4, ipv6, tcp, udp, validFrame } from '../oracle/frames.ts';
import { Rig } from '../oracle/rig.ts';

/** Fields that a mask may have besides port and Ethernet type: [offset, bytes]. */
const SIMPLE = [
  [K_ETH_DST, 6],
  [K_ETH_SRC, 6],
  [K_VLAN0_TCI, 4],
  [K_NW_FRAG, 1],
  [K_PACKET_TYPE, 4],
  [K_CT_STATE, 4],
] as const;
const DEEP = [
  [K_NW_PROTO, 1],
  [K_NW_TOS, 1],
  [K_NW_TTL, 1],
  [K_NW_SRC, 4],
  [K_NW_DST, 4],
  [K_TP_SRC, 2],
  [K_TP_DST, 2],
  [K_TCP_FLAGS, 2],
] as const;
/** What a plain packet does not have. */
const ONLY_OTHERS = [
  [K_CT_STATE, 4],
  [K_NW_FRAG, 1],
  [K_VLAN0_TCI, 4],
  [K_PACKET_TYPE, 4],
] as const;
const FLOWS = 5;

/** Plain frames (TCP and UDP over IPv4), and frames that differ from them in a few bits of the headers, or are cut off. */
const nearlyPlain = fc
  .tuple(
    fc.constantFrom(
      ethernet(0x0800, ipv4(6, tcp(1000, 80, new Uint8Array(6), 0x12), { dst: [10, 0, 0, 2] })),
      // Payload as TCP has its flags there.
      ethernet(0x0800, ipv4(17, udp(1000, 80, bytes(0, 0, 0, 0, 0x50, 0x12, 0, 0)))),
    ),
    fc.array(fc.tuple(fc.nat({ max: 49 }), fc.nat({ max: 7 })), { maxLength: 2 }),
    fc.option(fc.integer({ min: 30, max: 60 }), { freq: 9, nil: 60 }),
  )
  .map(([frame, flips, length]) => {
    const near = frame.slice(0, length);
    for (const [at, bit] of flips) if (at < length) near[at]! ^= 1 << bit;
    return near;
  });

const someMask = fc
  .tuple(
    fc.subarray([...SIMPLE]),
    fc.oneof(fc.constant([]), fc.subarray([...DEEP])),
    fc.constantFrom(0xff, 0xf0, 0x3c, 0x01),
  )
  .map(([simple, deep, bits]) => {
    const mask = new Uint8Array(KEY_SIZE).fill(0xff, 0, 8).fill(0xff, K_ETH_TYPE, K_ETH_TYPE + 2);
    for (const [offset, bytes] of simple) mask.fill(0xff, offset, offset + bytes);
    for (const [offset, bytes] of deep) mask.fill(bits, offset, offset + bytes);
    return mask;
  });

const steps = fc.subarray([
  [ACT_PUSH_VLAN | (2 << 16), 0x00058100],
  [ACT_SET_META | (4 << 16), K_PKT_MARK, 5, 7],
  [ACT_POP_VLAN | (1 << 16)],
]);

const cases = fc
  .tuple(
    fc.oneof(
      fc.array(fc.oneof({ weight: 3, arbitrary: validFrame }, anyFrame, nearlyPlain), {
        minLength: 1,
        maxLength: 8,
      }),
      fc.array(nearlyPlain, { minLength: 1, maxLength: 8 }),
    ),
    fc.array(someMask, { minLength: 4, maxLength: 4 }),
    fc.oneof(
      fc.array(fc.tuple(steps, fc.boolean()), { minLength: FLOWS, maxLength: FLOWS }),
      fc.constant(Array.from({ length: FLOWS }, () => [[], false] as [number[][], boolean])),
    ),
    fc.constantFrom(0, 1, 100),
    fc.boolean(),
    fc.boolean(),
  )
  .chain(([pool, masks, programs, cache, single, stale]) =>
    fc.record({
      stale: fc.constant(stale),
      masks: fc.constant(single ? masks.map(() => masks[0]!) : masks),
      programs: fc.constant(programs),
      cache: fc.constant(cache),
      bursts: fc.array(
        fc.oneof(
          fc.array(fc.constantFrom(...pool), { minLength: 1, maxLength: 20 }),
          fc.constantFrom(...pool).map((frame) => Array<Uint8Array>(9).fill(frame)),
        ),
        { minLength: 1, maxLength: 3 },
      ),
    }),
  );

function hex(data: Uint8Array): string {
  return Buffer.from(data).toString('hex');
}

function sameUnder(a: Uint8Array, b: Uint8Array, mask: Uint8Array): boolean {
  return mask.every((m, i) => ((a[i]! ^ b[i]!) & m) === 0);
}

for (const vlanLimit of [1, 2]) {
  test(`every frame meets its flow, vlan-limit ${vlanLimit}`, async () => {
    const rig = await Rig.create({ vlanLimit });
    const input = rig.addPort();
    // Each flow has a port of its own, for order counts within a flow only.
    const outputs = Array.from({ length: FLOWS }, () => rig.addPort({ sends: false }));
    const queue = queueAddress(rig.memory.load(WORKER_BASE + WK_RXQ));
    const stat = (offset: number) => rig.memory.f64[(WORKER_BASE + offset) / 8]!;
    let simpleRuns = 0;
    await fc.assert(
      fc.asyncProperty(cases, async ({ masks, programs, cache, bursts, stale }) => {
        rig.set(CTL_CACHE_INSERT_INV_PROB, cache);
        rig.upcalls();
        for (const port of outputs) rig.sent(port);
        const keys = new Map<Uint8Array, Uint8Array>();
        for (const frame of bursts.flat()) {
          if (!keys.has(frame)) keys.set(frame, keyOf(newPacket(frame, input), vlanLimit));
        }
        // One mask for each Ethernet type: megaflows must not overlap. Not every frame gets a flow.
        const maskOf = (key: Uint8Array) => masks[(key[K_ETH_TYPE]! + key[K_ETH_TYPE + 1]!) & 3]!;
        const wanted: { key: Uint8Array; mask: Uint8Array; program: Uint32Array }[] = [];
        for (const key of [...keys.values()].slice(0, FLOWS)) {
          const mask = maskOf(key);
          if (wanted.some((flow) => sameUnder(flow.key, key, mask) && flow.mask === mask)) continue;
          const [rewrites, recirculates] = programs[wanted.length]!;
          const program = Uint32Array.from([
            ...rewrites.flat(),
            ...[ACT_OUTPUT | (2 << 16), outputs[wanted.length]!],
            ...(recirculates ? [ACT_RECIRC | (2 << 16), 77] : []),
            ACT_END | (1 << 16),
          ]);
          wanted.push({ key, mask, program });
        }
        // Flows that differ from them in what only other packets have. Their records were other flows' before, and the
        // cache still knows those.
        const decoys = wanted.flatMap(({ key, mask }) => {
          const field = ONLY_OTHERS.find(([at, size]) => mask[at + size - 1] !== 0);
          if (field === undefined) return [];
          const other = key.slice();
          other[field[0] + field[1] - 1]! ^= 1;
          return [...keys.values()].some((of) => sameUnder(of, other, mask))
            ? []
            : [rig.flows.put(other, mask, Uint32Array.from([ACT_END | (1 << 16)]))];
        });
        const flows = wanted.map((flow) => ({
          ...flow,
          id: rig.flows.put(flow.key, flow.mask, flow.program),
        }));
        const hint = portAddress(input) + PT_SIMPLE;
        if (rig.memory.load(hint) !== 0) simpleRuns++;
        // What a worker has read just before a deeper megaflow came.
        if (stale) rig.memory.store(hint, 1);
        rig.memory.store(queue + Q_NOT_PLAIN, 0);

        try {
          const hits = stat(WK_SIMPLE_HITS) + stat(WK_CACHE_HITS) + stat(WK_FLOW_HITS);
          let wantHits = 0;
          const want = flows.map(() => ({
            frames: [] as string[],
            packets: 0,
            bytes: 0,
            flags: 0,
          }));
          const wantUpcalls: string[] = [];
          for (const burst of bursts) {
            for (const frame of burst) rig.send(input, frame);
            assert.equal(rig.poll(), burst.length);
            const recirculated: string[] = [];
            for (const frame of burst) {
              const key = keys.get(frame)!;
              const at = flows.findIndex((flow) => sameUnder(flow.key, key, flow.mask));
              if (at < 0) {
                wantUpcalls.push(`${hex(frame)} ${hex(key)}`);
                continue;
              }
              wantHits++;
              const flow = want[at]!;
              flow.packets++;
              flow.bytes += frame.length;
              flow.flags |= (key[K_TCP_FLAGS]! << 8) | key[K_TCP_FLAGS + 1]!;
              const packet = newPacket(frame, input);
              for (const event of execute(flows[at]!.program, packet, vlanLimit)) {
                if (event.type === 'output') flow.frames.push(hex(event.frame));
                else if (event.type === 'recirc') {
                  const now = keyOf(event.packet, vlanLimit);
                  recirculated.push(`${hex(event.packet.frame)} ${hex(now)}`);
                }
              }
            }
            wantUpcalls.push(...recirculated);
          }
          assert.equal(
            stat(WK_SIMPLE_HITS) + stat(WK_CACHE_HITS) + stat(WK_FLOW_HITS) - hits,
            wantHits,
          );
          for (const [i, { frames, packets, bytes, flags }] of want.entries()) {
            assert.deepEqual(
              rig.sent(outputs[i]!).map(({ frame }) => hex(frame)),
              frames,
            );
            const stats = rig.flows.stats(flows[i]!.id);
            for (const id of decoys) assert.equal(rig.flows.stats(id).packets, 0);
            assert.deepEqual(
              [stats.packets, stats.bytes, stats.tcpFlags],
              [packets, bytes, flags],
              `flow ${i}`,
            );
          }
          const upcalls = rig.upcalls().map(({ data, key }) => `${hex(data)} ${hex(key)}`);
          assert.deepEqual(upcalls.sort(), wantUpcalls.sort());
        } finally {
          for (const id of new Set([...decoys, ...flows.map(({ id }) => id)])) {
            void rig.flows.delete(id);
          }
          await rig.settle();
        }
      }),
      { numRuns: Number(process.env.FUZZ_RUNS ?? 700) },
    );
    assert.ok(simpleRuns > 50, `${simpleRuns} runs with simple flows alone`);
    assert.ok(stat(WK_SIMPLE_HITS) > 0);
  });
}

test('simple matches that are parsed after all count as parsed when they are looked up again', async () => {
  const rig = await Rig.create();
  const input = rig.addPort();
  const recirculate = Uint32Array.from([ACT_RECIRC | (2 << 16), 77, ACT_END | (1 << 16)]);
  for (const type of [0x0800, 0x86dd]) {
    const { key, mask } = Rig.matchPort(input);
    key.set([type >> 8, type & 255], K_ETH_TYPE);
    mask.fill(0xff, K_ETH_TYPE, K_ETH_TYPE + 2);
    rig.flows.put(key, mask, recirculate);
  }
  const { key, mask } = Rig.matchPort(input, 77);
  const again = rig.flows.put(key, mask, Uint32Array.from([ACT_END | (1 << 16)]));
  const segment = tcp(1000, 80, new Uint8Array(60), 0x12);
  rig.send(input, ethernet(0x0800, ipv4(6, segment)));
  rig.send(input, ethernet(0x86dd, ipv6(6, segment)));
  rig.poll();
  assert.equal(rig.memory.f64[(WORKER_BASE + WK_SIMPLE_HITS) / 8], 2);
  const { packets, tcpFlags } = rig.flows.stats(again);
  assert.deepEqual([packets, tcpFlags], [2, 0x12]);
});
