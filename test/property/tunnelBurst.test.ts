// Bursts of many flows into and out of tunnels: whatever the data plane does for a whole burst at a time (no sorting by flow,
// one look-up for all outer headers that are alike), packets, order, counters and drops are those of the same packets one
// by one.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { ACT_END, ACT_OUTPUT, ACT_TUNNEL_POP, ACT_TUNNEL_PUSH } from '../../contract/action.ts';
import { DROP_TUNNEL_HEADROOM } from '../../contract/drop.ts';
import { K_ETH_DST, K_TP_DST, K_TP_SRC } from '../../contract/key.ts';
import { TUNNEL_GENEVE, TUNNEL_GRE, TUNNEL_VXLAN } from '../../contract/tunnel.ts';
import { ethernet, ipv4, udp } from '../oracle/frames.ts';
import { Rig } from '../oracle/rig.ts';
import { type Encapsulation, encapsulate, template } from '../oracle/tunnel.ts';

const END = ACT_END | (1 << 16);
const FLOWS = 12;
const TYPES = { vxlan: TUNNEL_VXLAN, geneve: TUNNEL_GENEVE, gre: TUNNEL_GRE } as const;

const tunnelOf = (type: Encapsulation['type'], key: number): Encapsulation => ({
  type,
  version: 4,
  key,
  csum: key % 2 === 1,
  sequence: type === 'gre' ? 0 : undefined,
  options: new Uint8Array(0),
  tos: 0,
});

interface Host {
  rig: Rig;
  guest: number;
  wire: number;
  other: number;
  tunnel: number;
}

async function host(): Promise<Host> {
  const rig = await Rig.create();
  const [guest, wire, other] = [rig.addPort(), rig.addPort(), rig.addPort({ sends: false })];
  return { rig, guest, wire, other, tunnel: rig.addPort({ sends: false }) };
}

function program({ tunnel }: Host, out: number, e: Encapsulation | undefined): number[] {
  const output = [ACT_OUTPUT | (2 << 16), out, END];
  if (e === undefined) return output;
  const header = template(e);
  const words = new Uint32Array(Math.ceil(header.length / 4));
  new Uint8Array(words.buffer).set(header);
  const ports = (32768 | (28232 << 16)) >>> 0;
  const type = TYPES[e.type] | (header.length << 16);
  return [
    ACT_TUNNEL_PUSH | ((5 + words.length) << 16),
    tunnel,
    out,
    type,
    ports,
    ...words,
    ...output,
  ];
}

/** A flow of `port` for number `value` in a field of two bytes. */
function put(rig: Rig, port: number, at: number, value: number, words: readonly number[]): number {
  const { key, mask } = Rig.matchPort(port);
  key[at] = value >> 8;
  key[at + 1] = value & 0xff;
  mask.fill(0xff, at, at + 2);
  return rig.flows.put(key, mask, Uint32Array.from(words));
}

/** A frame of flow `flow`: destination address and source port say which. */
function frameOf(flow: number, bytes: number): Uint8Array {
  const frame = ethernet(0x0800, ipv4(17, udp(1000 + flow, 53, new Uint8Array(bytes))));
  frame[0] = 2;
  frame[1] = flow;
  return frame;
}

function outcome({ rig, guest, wire, other }: Host, flows: readonly number[]): unknown {
  return {
    sent: [guest, wire, other].map((port) => rig.sent(port)),
    drops: [guest, wire].map((port) => [...rig.counters(port).drops]),
    flows: flows.map((flow) => ({ ...rig.flows.stats(flow), usedMs: 0 })),
  };
}

function play(h: Host, port: number, frames: readonly Uint8Array[], atOnce: boolean): void {
  for (const frame of frames) {
    h.rig.send(port, frame);
    if (!atOnce) h.rig.poll();
  }
  h.rig.poll();
}

const types = fc.constantFrom<(Encapsulation['type'] | undefined)[]>(
  'vxlan',
  'geneve',
  'gre',
  undefined,
);
const packets = fc.array(
  fc.record({
    flow: fc.nat(FLOWS - 1),
    bytes: fc.oneof(
      { weight: 30, arbitrary: fc.nat(600) },
      { weight: 1, arbitrary: fc.constant(65480) },
    ),
  }),
  { minLength: 2, maxLength: 60 },
);

for (const simple of [false, true]) {
  test(`into tunnels${simple ? ', by Ethernet addresses' : ''}`, async () => {
    const hosts = [await host(), await host()] as const;
    let dropped = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(types, fc.boolean()), { minLength: FLOWS, maxLength: FLOWS }),
        packets,
        async (choice, list) => {
          const frames = list.map(({ flow, bytes }) => frameOf(flow, bytes));
          const outcomes = hosts.map((h, i) => {
            const flows = choice.map(([type, toWire], flow) => {
              const e = type && tunnelOf(type, flow);
              const words = program(h, toWire ? h.wire : h.other, e);
              return simple
                ? put(h.rig, h.guest, K_ETH_DST, (2 << 8) | flow, words)
                : put(h.rig, h.guest, K_TP_SRC, 1000 + flow, words);
            });
            play(h, h.guest, frames, i === 0);
            return outcome(h, flows);
          });
          assert.deepEqual(outcomes[0], outcomes[1]);
          dropped = hosts[0].rig.counters(hosts[0].guest).drops[DROP_TUNNEL_HEADROOM]!;
          for (const { rig } of hosts) await rig.settle();
        },
      ),
      { numRuns: 60 },
    );
    assert.ok(dropped > 0, 'some packets were too long for a tunnel');
  });
}

test('out of tunnels, between packets that are in none', async () => {
  const hosts = [await host(), await host()] as const;
  const e = tunnelOf('vxlan', 4);
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(fc.integer({ min: 0, max: 25 }), fc.nat(FLOWS - 1)), {
        minLength: 2,
        maxLength: 8,
      }),
      async (runs) => {
        // Runs of packets in the tunnel, each of a flow and an outer source port of its own, and one that is not after each. (Those
        // go to a port of their own: packets that are looked up a second time leave later.)
        const frames = runs.flatMap(([length, first]) => [
          ...Array.from({ length }, (_, i) =>
            encapsulate(e, frameOf((first + i) % FLOWS, 20 + i), 40000 + first * 100 + i),
          ),
          frameOf(first, 40),
        ]);
        const outcomes = hosts.map((h, i) => {
          const pop = [ACT_TUNNEL_POP | (4 << 16), h.tunnel, TUNNEL_VXLAN, 0, END];
          const flows = [
            put(h.rig, h.wire, K_TP_DST, 4789, pop),
            put(h.rig, h.wire, K_TP_DST, 53, program(h, h.wire, undefined)),
          ];
          for (let flow = 0; flow < FLOWS; flow++) {
            const out = flow % 3 === 0 ? h.other : h.guest;
            flows.push(put(h.rig, h.tunnel, K_TP_SRC, 1000 + flow, program(h, out, undefined)));
          }
          play(h, h.wire, frames, i === 0);
          return outcome(h, flows);
        });
        assert.deepEqual(outcomes[0], outcomes[1]);
        for (const { rig } of hosts) await rig.settle();
      },
    ),
    { numRuns: 100 },
  );
});
