// Lines of a key that are zero are neither written to the upcall ring nor to megaflows: what an earlier key has left there must
// never be taken for this one's.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ACT_END, ACT_OUTPUT, ACT_USERSPACE, UPCALL_CONTROLLER } from '../../contract/action.ts';
import { K_CT_ZONE, KEY_SIZE } from '../../contract/key.ts';
import { UPCALL_BASE } from '../../contract/memory.ts';
import { RING_DATA, RING_DATA_SIZE, UC_LENGTH, UC_LINES } from '../../contract/ring.ts';
import { FL_KEY, FLOW_RECORD_SIZE, FLOW_RECORDS_BASE } from '../../contract/table.ts';
import { CtRig, ctAction } from '../oracle/ctRig.ts';
import { ethernet, IP6_A, IP6_B, ipv4, ipv6, udp } from '../oracle/frames.ts';
import { Rig } from '../oracle/rig.ts';

const PAYLOAD = new Uint8Array(1200);
const SMALL = ethernet(0x0800, ipv4(17, udp(1, 2, new Uint8Array(20))));
const LARGE = ethernet(0x86dd, ipv6(17, udp(3, 4, PAYLOAD), { src: IP6_A, dst: IP6_B }));

/** The key of a frame's upcall from a ring that nobody has used. */
async function freshKey(frame: Uint8Array): Promise<Uint8Array> {
  const rig = await Rig.create();
  rig.send(rig.addPort(), frame);
  rig.poll();
  const [upcall] = rig.upcalls();
  return upcall!.key;
}

test('upcalls behind those of longer keys, once and again around the ring', async () => {
  const expected = new Map([
    [SMALL, await freshKey(SMALL)],
    [LARGE, await freshKey(LARGE)],
  ]);
  assert.notDeepEqual(
    expected.get(LARGE)!.subarray(64),
    new Uint8Array(KEY_SIZE - 64),
    'the longer key has more than its first line',
  );
  const rig = await Rig.create();
  const port = rig.addPort();
  const rounds = Math.ceil((3 * RING_DATA_SIZE) / (LARGE.length + SMALL.length + 1024)) + 10;
  for (let i = 0; i < rounds; i++) {
    // Never the same order, so that records begin where others had their middle.
    const frames = i % 3 === 0 ? [LARGE, SMALL, SMALL] : [SMALL, LARGE];
    for (const frame of frames) rig.send(port, frame);
    rig.poll();
    const upcalls = rig.upcalls();
    assert.equal(upcalls.length, frames.length);
    upcalls.forEach((upcall, n) => {
      // Thousands of times: assert.deepEqual() would take seconds.
      assert.ok(Buffer.from(frames[n]!).equals(upcall.data), `frame ${n} of round ${i}`);
      assert.ok(
        Buffer.from(expected.get(frames[n]!)!).equals(upcall.key),
        `key ${n} of round ${i}`,
      );
    });
  }
});

test('what connection tracking notes beside the lines of a key is none of them', async () => {
  const { rig, input } = await CtRig.create();
  const match = Rig.matchPort(input);
  const asked = [ACT_USERSPACE | (4 << 16), UPCALL_CONTROLLER, 0, 0xffff, ACT_END | (1 << 16)];
  rig.flows.put(
    match.key,
    match.mask,
    Uint32Array.from([...ctAction({ zone: 7, commit: true }), ...asked]),
  );
  let at = UPCALL_BASE + RING_DATA;
  rig.memory.u8.fill(0xaa, at, at + 4096);
  // The second one finds its connection.
  for (let i = 0; i < 2; i++) {
    rig.send(input, SMALL);
    rig.poll();
    assert.equal(rig.memory.get(at + UC_LINES) & ~0x7f, 0);
    at += rig.memory.get(at + UC_LENGTH);
    assert.deepEqual(rig.memory.u8.slice(at, at + 256), new Uint8Array(256).fill(0xaa));
  }
  for (const { key } of rig.upcalls()) {
    assert.equal(new DataView(key.buffer).getUint16(K_CT_ZONE), 7);
  }
});

test('a megaflow in the place of one with a longer key', async () => {
  const rig = await Rig.create();
  const [from, to] = [rig.addPort(), rig.addPort()];
  const program = Uint32Array.of(ACT_OUTPUT | (2 << 16), to, ACT_END | (1 << 16));
  const put = (key: Uint8Array, mask: Uint8Array): number => {
    const id = rig.flows.put(key, mask, program);
    assert.ok(id >= 0);
    const at = FLOW_RECORDS_BASE + id * FLOW_RECORD_SIZE + FL_KEY;
    const masked = key.map((byte, i) => byte & mask[i]!);
    assert.deepEqual(rig.memory.u8.slice(at, at + KEY_SIZE), masked);
    return id;
  };
  const [small, large] = [await freshKey(SMALL), await freshKey(LARGE)];
  const all = new Uint8Array(KEY_SIZE).fill(0xff);
  const firstLine = all.slice().fill(0, 64);
  const ids = new Set<number>();
  for (const [key, mask] of [
    [large, all],
    [small, firstLine],
    [large, all],
    [small, all],
    [large, firstLine],
  ] as const) {
    const id = put(key, mask);
    ids.add(id);
    // Looking for another one borrows a place.
    const other = mask === all ? firstLine : all;
    assert.equal(rig.flows.find(large, other), -1);
    const frame = key === large ? LARGE : SMALL;
    rig.send(from, frame);
    rig.poll();
    assert.deepEqual(rig.sent(to)[0]?.frame, frame);
    const removed = rig.flows.delete(id);
    await rig.settle();
    assert.equal((await removed).packets, 1);
    assert.throws(() => rig.flows.stats(id), /no megaflow/);
  }
  assert.equal(ids.size, 1, 'all had the same place');
});
