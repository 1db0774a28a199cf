// A datapath makes the megaflows of another one again (src/switch/successor.ts): port numbers and recirculation ids are
// others, the first packet is forwarded without an upcall, and the megaflows say what the tables say now.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { SwitchBridge } from '../../src/switch/bridge.ts';
import { restoreMegaflows, saveMegaflows } from '../../src/switch/successor.ts';
import { parseActions } from '../../src/wire/openflow/actionParse.ts';
import { parseMatch } from '../../src/wire/openflow/matchParse.ts';
import { ethernet, IP4_A, IP4_B, ipv4, udp } from '../oracle/frames.ts';
import { makeRule, SwitchRig } from '../oracle/openflowRig.ts';

const PIPELINE = [
  [0, 10, 'udp', 'ct(table=1,zone=3)'],
  [1, 20, 'udp,ct_state=+trk+new', 'load:7->NXM_NX_REG0[],ct(commit,zone=3,table=2)'],
  [2, 20, 'reg0=7,udp,tp_dst=53', 'output:2'],
  [2, 10, 'reg0=7', 'output:3'],
] as const;

type Line = readonly [table: number, priority: number, match: string, actions: string];

function fill(bridge: SwitchBridge, lines: readonly Line[]): void {
  for (const [table, priority, match, actions] of lines) {
    const rule = makeRule(table, priority, parseMatch(match), parseActions(actions));
    bridge.tables[table]!.insert(rule);
  }
  bridge.flowsChanged();
}

async function datapath(order: readonly string[], lines: readonly Line[]) {
  const rig = await SwitchRig.create();
  const bridge = rig.addBridge('br0');
  for (const name of order) rig.addPort(bridge, name, {}, Number(name.slice(1)));
  fill(bridge, lines);
  const sends = (port: number, dst: number): number[] => {
    const frame = ethernet(
      0x0800,
      ipv4(17, udp(1000, dst, new Uint8Array(8)), { src: IP4_A, dst: IP4_B }),
    );
    rig.send(bridge.ports.get(port)!, frame);
    return rig.sent(bridge).map(({ port: { ofport } }) => ofport);
  };
  return { rig, bridge, sends, [Symbol.dispose]: () => rig.close() };
}

async function predecessor() {
  const old = await datapath(['p1', 'p2', 'p3'], PIPELINE);
  assert.deepEqual(old.sends(1, 53), [2]);
  assert.deepEqual(old.sends(1, 99), [3]);
  old.rig.datapath.syncStats();
  return old;
}

test('first packets meet megaflows, through recirculations, under other numbers', async () => {
  using old = await predecessor();
  const saved = saveMegaflows(old.rig.datapath);
  assert.ok(saved.recircs.some((ids) => ids.length > 0));

  using heir = await datapath(['p3', 'p2', 'p1'], PIPELINE);
  // Recirculation ids of its own before: those of the predecessor mean something else here.
  fill(heir.bridge, [[0, 50, 'arp', 'ct(table=9)']]);
  heir.rig.send(heir.bridge.ports.get(2)!, ethernet(0x0806, new Uint8Array(28)));
  const { datapath: dp } = heir.rig;
  assert.notEqual(heir.bridge.ports.get(1)!.dpPort, old.bridge.ports.get(1)!.dpPort);
  const before = dp.megaflows.size;
  const made = [...restoreMegaflows(dp, saved)].at(-1);
  assert.equal(made, old.rig.datapath.megaflows.size);
  assert.equal(dp.megaflows.size, before + made!);
  const upcalls = dp.handler.upcallCount;
  assert.deepEqual(heir.sends(1, 53), [2]);
  assert.deepEqual(heir.sends(1, 99), [3]);
  assert.equal(dp.handler.upcallCount, upcalls);
});

test('what the tables say counts, not what the predecessor did', async () => {
  using old = await predecessor();
  const saved = saveMegaflows(old.rig.datapath);
  const changed = PIPELINE.map((line) => [
    ...line.slice(0, 3),
    line[3].replace('output:2', 'output:3'),
  ]);
  using heir = await datapath(['p1', 'p2', 'p3'], changed as unknown as Line[]);
  for (const _ of restoreMegaflows(heir.rig.datapath, saved));
  assert.deepEqual(heir.sends(1, 53), [3]);
});

test('a rehearsal leaves nothing; ports that are gone are left out', async () => {
  using old = await predecessor();
  const saved = saveMegaflows(old.rig.datapath);
  using heir = await datapath(['p1', 'p2', 'p3'], PIPELINE);
  const { datapath: dp } = heir.rig;
  assert.equal([...restoreMegaflows(dp, saved, true)].length, old.rig.datapath.megaflows.size);
  assert.equal(dp.megaflows.size, 0);
  heir.rig.clock.nowMs += 60_000; // ids linger for packets on their way
  dp.recircs.sweep();
  assert.equal(dp.recircs.size, 0);

  using less = await datapath(['p2', 'p3'], PIPELINE);
  assert.deepEqual([...restoreMegaflows(less.rig.datapath, saved)], []);
});
