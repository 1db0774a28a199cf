// The megaflow table against a list: random insertions, replacements, removals and packets; each packet meets exactly
// the flow that a linear search finds, through the microflow cache or past it, and is counted there.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { ACT_END, ACT_USERSPACE, UPCALL_CONTROLLER, UPCALL_MISS } from '../../contract/action.ts';
import {
  K_ETH_DST,
  K_ETH_SRC,
  K_ETH_TYPE,
  K_NW_DST,
  K_NW_SRC,
  K_NW_TOS,
  K_TP_DST,
  K_TP_SRC,
  KEY_SIZE,
} from '../../contract/key.ts';
import { CTL_CACHE_INSERT_INV_PROB } from '../../contract/memory.ts';
import { ethernet, ipv4, udp } from '../oracle/frames.ts';
import { parseFrame } from '../oracle/parse.ts';
import { Rig } from '../oracle/rig.ts';

/** Fields that a mask may have, besides the TOS byte, which tells all flows apart so that none overlap. */
const FIELDS: readonly [number, number][] = [
  [K_ETH_DST, 6],
  [K_ETH_SRC, 6],
  [K_ETH_TYPE, 2],
  [K_NW_SRC, 3],
  [K_NW_DST, 4],
  [K_TP_SRC, 2],
  [K_TP_DST, 2],
];

interface Packet {
  tos: number;
  dst: number;
  source: number;
  port: number;
}

function frameOf({ tos, dst, source, port }: Packet): Uint8Array {
  const ip = ipv4(17, udp(port, 53, new Uint8Array(8)), {
    tos,
    dst: [10, 0, 0, dst],
    src: [10, 1, source, 9],
  });
  return ethernet(0x0800, ip, { src: [2, 0, 0, 0, 0, source] });
}

const packet = fc.record({
  tos: fc.nat(30),
  dst: fc.nat(2),
  source: fc.nat(2),
  port: fc.nat(2),
});
const command = fc.oneof(
  {
    weight: 3,
    arbitrary: fc.record({
      type: fc.constant('put' as const),
      packet,
      fields: fc.subarray(FIELDS.map((_, i) => i)),
      cookie: fc.nat(1000),
    }),
  },
  { weight: 1, arbitrary: fc.record({ type: fc.constant('delete' as const), tos: fc.nat(30) }) },
  {
    weight: 1,
    arbitrary: fc.record({
      type: fc.constant('actions' as const),
      tos: fc.nat(30),
      cookie: fc.nat(1000),
    }),
  },
  { weight: 1, arbitrary: fc.record({ type: fc.constant('sort' as const) }) },
  {
    weight: 4,
    arbitrary: fc.record({
      type: fc.constant('send' as const),
      packets: fc.array(packet, { minLength: 1, maxLength: 40 }),
    }),
  },
);

interface Flow {
  id: number;
  key: Uint8Array;
  mask: Uint8Array;
  cookie: number;
  packets: number;
}

/** Long programs live outside of the flow's record: every third cookie has one. */
function program(cookie: number): Uint32Array {
  const nop = [5 | (7 << 16), 0, 0, 0, 0, 0, 0]; // SET_ETH with an empty mask
  const long = cookie % 3 === 0 ? [...nop, ...nop] : [];
  return Uint32Array.of(
    ...long,
    ACT_USERSPACE | (4 << 16),
    UPCALL_CONTROLLER,
    cookie,
    64,
    ACT_END | (1 << 16),
  );
}

for (const inverse of [0, 1, 3]) {
  test(`megaflow table, microflow cache takes ${inverse === 0 ? 'none' : `1 in ${inverse}`}`, async () => {
    const rig = await Rig.create();
    const port = rig.addPort();
    rig.set(CTL_CACHE_INSERT_INV_PROB, inverse);
    await fc.assert(
      fc.asyncProperty(fc.array(command, { maxLength: 40 }), async (commands) => {
        const flows = new Map<number, Flow>();
        const remove = async (flow: Flow): Promise<void> => {
          flows.delete(flow.key[K_NW_TOS]!);
          const final = rig.flows.delete(flow.id);
          if (flow.cookie % 2 === 0) await rig.settle();
          else rig.poll();
          if (flow.cookie % 2 === 0) assert.equal((await final).packets, flow.packets);
        };
        for (const c of commands) {
          if (c.type === 'put') {
            const old = flows.get(c.packet.tos);
            if (old !== undefined) await remove(old);
            const mask = new Uint8Array(KEY_SIZE).fill(0xff, 0, 8);
            mask[K_NW_TOS] = 0xff;
            for (const i of c.fields) mask.fill(0xff, FIELDS[i]![0], FIELDS[i]![0] + FIELDS[i]![1]);
            const { key } = parseFrame(frameOf(c.packet), port);
            const id = rig.flows.put(key, mask, program(c.cookie));
            assert.ok(id >= 0);
            flows.set(c.packet.tos, { id, key, mask, cookie: c.cookie, packets: 0 });
          } else if (c.type === 'delete') {
            const flow = flows.get(c.tos);
            if (flow !== undefined) await remove(flow);
          } else if (c.type === 'actions') {
            const flow = flows.get(c.tos);
            if (flow === undefined) continue;
            rig.flows.setActions(flow.id, program(c.cookie));
            flow.cookie = c.cookie;
          } else if (c.type === 'sort') {
            rig.flows.sort();
          } else {
            for (const p of c.packets) rig.send(port, frameOf(p));
            rig.poll();
            const expected = c.packets.map((p) => {
              const { key } = parseFrame(frameOf(p), port);
              const flow = [...flows.values()].find(({ key: k, mask }) =>
                mask.every((m, i) => (key[i]! & m) === (k[i]! & m)),
              );
              if (flow === undefined) return `${UPCALL_MISS} 0`;
              flow.packets++;
              return `${UPCALL_CONTROLLER} ${flow.cookie}`;
            });
            const got = rig.upcalls().map(({ reason, cookie }) => `${reason} ${cookie}`);
            assert.deepEqual(got.sort(), expected.sort());
          }
        }
        assert.equal(rig.flows.size, flows.size);
        for (const flow of flows.values()) {
          assert.equal(rig.flows.stats(flow.id).packets, flow.packets);
        }
        for (const flow of [...flows.values()]) void rig.flows.delete(flow.id);
        flows.clear();
        await rig.settle();
        assert.equal(rig.flows.size, 0);
        assert.equal(rig.flows.masks, 0);
      }),
      { numRuns: Number(process.env.FUZZ_RUNS ?? 150) },
    );
  });
}

test('capacity: 200 000 megaflows of 1 024 masks; what does not fit is refused and counted', async () => {
  const rig = await Rig.create({ debug: false });
  const port = rig.addPort();
  const { key, mask } = Rig.matchPort(port);
  const view = new DataView(key.buffer);
  const program1 = program(1);
  const flows: number[] = [];
  for (let i = 0; i < 200_000; i++) {
    view.setUint32(K_NW_SRC, i);
    // 1 024 masks: a bit pattern over bytes of the addresses, source always whole
    mask.fill(0xff, K_NW_SRC, K_NW_SRC + 4);
    new DataView(mask.buffer).setUint16(K_TP_SRC, i % 1024);
    flows.push(rig.flows.put(key, mask, program1));
  }
  assert.ok(flows.every((flow) => flow >= 0));
  assert.equal(new Set(flows).size, 200_000);
  assert.equal(rig.flows.size, 200_000);
  assert.equal(rig.flows.masks, 1024);
  view.setUint32(K_NW_SRC, 0xffffffff);
  let refused = 0;
  for (let i = 1024; i < 3000; i++) {
    new DataView(mask.buffer).setUint16(K_TP_SRC, i);
    if (rig.flows.put(key, mask, program1) < 0) refused++;
  }
  assert.ok(refused > 0);
  assert.equal(rig.flows.overflows, refused);
  assert.equal(rig.flows.masks, 2047);
});
