// The connection table under several workers and the control plane at once: afterwards index, records, counts, pool and
// locks agree with each other.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Worker } from 'node:worker_threads';
import {
  CN_HASH,
  CN_LIVE,
  CN_LOCK,
  CN_META,
  CN_NEXT,
  CN_REPLY_HASH,
  CN_REPLY_NEXT,
  CN_STATE,
  CT_BUCKETS,
  CT_CONTROL,
  CT_CONTROL_PLANE,
  CT_INDEX,
  CT_LOCK_COUNT,
  CT_LOCKS,
  CT_POOL_ROOM,
  CT_POOL_SIZE,
  CT_POOLS,
  CTC_COUNT,
  CTC_FREE,
  CTC_HIGH,
  CTC_POOL_LOCK,
  connectionAddress,
  PL_COUNT,
  PL_RECORDS,
} from '../../contract/ct.ts';
import type { EngineMemory } from '../../src/engine/memory.ts';
import { CtRig } from '../oracle/ctRig.ts';

const PACKETS = 60000;

/** Everything that must hold when nobody works on the table. Returns the number of live connections. */
function check(memory: EngineMemory, zoneCount: (zone: number) => number): number {
  for (let i = 0; i < CT_LOCK_COUNT; i++)
    assert.equal(memory.get(CT_LOCKS + i * 4), 0, 'a bucket is locked');
  assert.equal(memory.get(CT_CONTROL + CTC_POOL_LOCK), 0);
  const high = memory.get(CT_CONTROL + CTC_HIGH);
  const zones = new Map<number, number>();
  const live = new Set<number>();
  for (let n = 0; n < high; n++) {
    const at = connectionAddress(n);
    assert.equal(memory.get(at + CN_LOCK), 0, `connection ${n} is locked`);
    if (memory.get(at + CN_STATE) !== CN_LIVE) continue;
    live.add(n);
    const zone = memory.get(at + CN_META) & 0xffff;
    zones.set(zone, (zones.get(zone) ?? 0) + 1);
  }
  assert.equal(memory.get(CT_CONTROL + CTC_COUNT), live.size);
  for (const zone of [0, 1, 2]) assert.equal(zoneCount(zone), zones.get(zone) ?? 0);
  const linked = new Map<number, number>();
  for (let bucket = 0; bucket < CT_BUCKETS; bucket++) {
    let link = memory.get(CT_INDEX + bucket * 4);
    for (let steps = 0; link !== 0; steps++) {
      assert.ok(steps < 10000, 'a chain runs in circles');
      const n = (link & 0x7fffffff) >>> 1;
      const at = connectionAddress(n);
      const reply = (link & 1) === 1;
      assert.ok(live.has(n), 'a dead connection is in the index');
      const hash = memory.get(at + (reply ? CN_REPLY_HASH : CN_HASH));
      assert.equal(hash % CT_BUCKETS, bucket);
      linked.set(n, (linked.get(n) ?? 0) + (reply ? 2 : 1));
      link = memory.get(at + (reply ? CN_REPLY_NEXT : CN_NEXT));
    }
  }
  assert.equal(linked.size, live.size);
  for (const [n, directions] of linked) assert.equal(directions, 3, `directions of ${n}`);
  let free = 0;
  for (let n = memory.get(CT_CONTROL + CTC_FREE); n !== 0; free++) {
    assert.ok(!live.has(n - 1));
    n = memory.get(connectionAddress(n - 1) + CN_NEXT);
  }
  // What the holders have at hand; nothing twice.
  const atHand = new Set<number>();
  for (let holder = 0; holder <= CT_CONTROL_PLANE; holder++) {
    const pool = CT_POOLS + holder * CT_POOL_SIZE;
    const count = memory.get(pool + PL_COUNT);
    assert.ok(count <= CT_POOL_ROOM);
    for (let i = 0; i < count; i++) {
      const n = memory.get(pool + PL_RECORDS + i * 4);
      assert.ok(!live.has(n) && !atHand.has(n));
      atHand.add(n);
    }
  }
  assert.equal(free + atHand.size + live.size, high);
  return live.size;
}

test('three workers and the control plane', { timeout: 60000 }, async () => {
  const { rig } = await CtRig.create(false);
  const table = rig.conntrack;
  table.setTimeoutPolicy(1, { udp_first: 1, udp_single: 1, tcp_syn_sent: 1 });
  const script = new URL('../net/ctThread.ts', import.meta.url);
  const threads = [1, 2, 3].map(
    (worker) =>
      new Worker(script, { workerData: { memory: rig.memory.memory, worker, packets: PACKETS } }),
  );
  let running = threads.length;
  const ended = threads.map(
    (thread) =>
      new Promise<void>((resolve, reject) => {
        thread.once('error', reject);
        thread.once('exit', () => {
          running--;
          resolve();
        });
      }),
  );
  let rounds = 0;
  while (running > 0) {
    rig.nowNs += 5e8;
    table.sweep(1 << 16);
    for (const connection of table.dump(2)) {
      if (rounds % 7 === 0) table.flushTuple(connection.orig, 2);
      assert.ok(connection.zone === 2);
    }
    if (rounds++ % 50 === 0) table.flush(0);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
  await Promise.all(ended);
  check(rig.memory, (zone) => table.zoneCount(zone));
  const counters = table.counters();
  assert.equal(counters.packets, threads.length * PACKETS);
  assert.ok(counters.created! > 1000 && counters.hits! > 1000 && counters.flushed! > 100);
  assert.equal(counters.created! - counters.expired! - counters.flushed!, table.count());
  table.flush();
  assert.equal(
    check(rig.memory, (zone) => table.zoneCount(zone)),
    0,
  );
});
