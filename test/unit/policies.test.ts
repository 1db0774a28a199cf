// Groups, meters, learned flows and nested programs over the real data plane.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { DROP_METER } from '../../contract/drop.ts';
import { PortQos } from '../../src/main/qos.ts';
import type { SwitchBridge } from '../../src/switch/bridge.ts';
import { FlowTables } from '../../src/switch/flowMods.ts';
import { Policers } from '../../src/switch/policing.ts';
import type { BridgePort, Rule } from '../../src/switch/types.ts';
import { parseActions } from '../../src/wire/openflow/actionParse.ts';
import { OFPGC_ADD, OFPGT_SELECT } from '../../src/wire/openflow/group.ts';
import { parseMatch } from '../../src/wire/openflow/matchParse.ts';
import { type Action, OFPP_NONE } from '../../src/wire/openflow/types.ts';
import { ethernet, ipv4, MAC_A, MAC_B, tcp } from '../oracle/frames.ts';
import { makeRule, SwitchRig } from '../oracle/openflowRig.ts';
import { flowMod } from './fakeBridge.ts';

/** A bridge with four ports, and its flow tables. */
async function setUp(): Promise<{
  rig: SwitchRig;
  bridge: SwitchBridge;
  tables: FlowTables;
  ports: BridgePort[];
}> {
  const rig = await SwitchRig.create({ debug: true });
  const bridge = rig.addBridge('br0');
  const ports = [1, 2, 3, 4].map((n) => rig.addPort(bridge, `p${n}`, {}, n));
  return { rig, bridge, tables: new FlowTables(bridge), ports };
}

function addFlow(bridge: SwitchBridge, match: string, actions: string | Action[], table = 0): Rule {
  const list = typeof actions === 'string' ? parseActions(actions) : actions;
  const rule = makeRule(table, 32768, parseMatch(match), list);
  bridge.tables[table]!.insert(rule);
  bridge.flowsChanged();
  return rule;
}

interface FrameOptions {
  src?: number;
  dst?: number;
  from?: readonly number[];
  to?: readonly number[];
  bytes?: number;
  flags?: number;
}

function frame(options: FrameOptions = {}): Uint8Array {
  const { src = 1000, dst = 80, from = [10, 0, 0, 1], to = [10, 0, 0, 2], bytes = 6 } = options;
  const segment = tcp(src, dst, new Uint8Array(bytes));
  if (options.flags !== undefined) segment[13] = options.flags;
  return ethernet(0x0800, ipv4(6, segment, { src: from, dst: to }), { dst: MAC_B, src: MAC_A });
}

function went(rig: SwitchRig, bridge: SwitchBridge): number[] {
  return rig
    .sent(bridge)
    .map(({ port }) => port.ofport)
    .sort();
}

test('a select group spreads connections by weight, both directions alike, on few megaflows', async () => {
  const { rig, bridge, ports } = await setUp();
  bridge.groups.apply({
    command: OFPGC_ADD,
    group: 1,
    groupType: OFPGT_SELECT,
    commandBucket: 0xffffffff,
    buckets: [1, 3, 0].map((weight, i) => ({
      id: i,
      weight,
      watchPort: OFPP_NONE,
      watchGroup: 0xffffffff,
      actions: parseActions(`output:${i + 2}`),
    })),
  });
  addFlow(bridge, 'in_port=1', 'group:1');
  const counts = [0, 0, 0, 0, 0];
  for (let i = 0; i < 300; i++) {
    const there = { src: i + 1, from: [10, 0, i >> 8, i & 255] };
    rig.send(ports[0]!, frame(there));
    const [port, ...others] = went(rig, bridge);
    assert.deepEqual(others, []);
    counts[port!]!++;
    rig.send(ports[0]!, frame(there));
    assert.deepEqual(went(rig, bridge), [port]);
  }
  assert.equal(counts[4], 0);
  assert.ok(counts[2]! > 45 && counts[2]! < 105, `${counts}`);
  // One megaflow before the hash, one for each of 16 hash values.
  assert.ok(rig.datapath.megaflows.size <= 17, `${rig.datapath.megaflows.size} megaflows`);
  bridge.syncStats();
  const group = bridge.groups.get(1)!;
  assert.equal(group.packets, 600);
  assert.deepEqual(
    group.buckets.map((bucket) => bucket.packets),
    [2 * counts[2]!, 2 * counts[3]!, 0],
  );
  // The way back: addresses and ports exchanged.
  addFlow(bridge, 'in_port=4', 'group:1');
  for (let i = 0; i < 50; i++) {
    const other = [10, 0, 0, i];
    rig.send(ports[0]!, frame({ src: i + 1, from: other }));
    const there = went(rig, bridge);
    const back = frame({ src: 80, dst: i + 1, from: [10, 0, 0, 2], to: other });
    back.set([...MAC_A, ...MAC_B]);
    rig.send(ports[3]!, back);
    assert.deepEqual(went(rig, bridge), there);
  }
  rig.close();
});

test('a fast failover group follows its ports', async () => {
  const { rig, bridge, ports, tables } = await setUp();
  const bucket = (port: number) => ({
    id: port,
    weight: 0,
    watchPort: port,
    watchGroup: 0xffffffff,
    actions: parseActions(`output:${port}`),
  });
  tables.applyGroup({
    command: OFPGC_ADD,
    group: 7,
    groupType: 3,
    commandBucket: 0xffffffff,
    buckets: [bucket(2), bucket(3)],
  });
  addFlow(bridge, 'in_port=1', 'group:7');
  rig.send(ports[0]!, frame());
  assert.deepEqual(went(rig, bridge), [2]);
  const netdev = ports[1]!.netdev as unknown as { state: { linkUp: boolean } };
  netdev.state = { ...netdev.state, linkUp: false };
  assert.ok(bridge.refreshPort(ports[1]!));
  await rig.settled();
  rig.send(ports[0]!, frame());
  assert.deepEqual(went(rig, bridge), [3]);
  // Deleting the group takes the flow along.
  const removed: string[] = [];
  tables.onEvents = (events) => {
    for (const event of events) if (event.event === 'removed') removed.push(event.reason);
  };
  tables.applyGroup({
    command: 2,
    group: 7,
    groupType: 0,
    commandBucket: 0xffffffff,
    buckets: [],
  });
  assert.deepEqual(removed, ['group_delete']);
  await rig.settled();
  rig.send(ports[0]!, frame());
  assert.deepEqual(went(rig, bridge), []);
  rig.close();
});

test('meters drop what is over the rate, and count it', async () => {
  const { rig, bridge, ports, tables } = await setUp();
  const { meters } = bridge;
  const band = (rate: number, burstSize: number) => ({ type: 1, rate, burstSize, precLevel: 0 });
  // 10 packets a second, 5 at once.
  meters.add({ meterId: 1, flags: 2 | 4, bands: [band(10, 5), band(5, 100)] });
  const rule = addFlow(bridge, 'in_port=1', 'meter:1,output:2');
  for (let i = 0; i < 20; i++) rig.send(ports[0]!, frame());
  // The first upcall's packet passes the meter like the others.
  const passed = went(rig, bridge).length;
  assert.ok(passed >= 5 && passed <= 6, `${passed} passed`);
  const stats = meters.stats(meters.get(1)!, 1);
  assert.equal(stats.packets, 20n);
  assert.equal(stats.bands[0]!.packets, BigInt(20 - passed));
  assert.equal(stats.bands[0]!.bytes, BigInt((20 - passed) * frame().length));
  assert.equal(stats.bands[1]!.packets, 0n);
  assert.equal(rig.rig.counters(ports[0]!.dpPort).drops[DROP_METER], 20 - passed);
  bridge.syncStats();
  assert.equal(rule.packets, 20);
  // kbit/s: a burst of 8 000 bits is one frame of 1 000 bytes, not two.
  meters.modify({ meterId: 1, flags: 1, bands: [band(1, 10)] });
  for (let i = 0; i < 3; i++) rig.send(ports[0]!, frame({ bytes: 946 }));
  assert.equal(went(rig, bridge).length, 1);
  const number = meters.get(1)!.number;
  tables.removeMeters(meters.select(1));
  assert.equal(rule.removed, true);
  await rig.settled();
  await new Promise((resolve) => setImmediate(resolve));
  meters.add({ meterId: 2, flags: 2, bands: [] });
  assert.equal(meters.get(2)!.number, number, 'the number is used again');
  rig.close();
});

test('limits of a port: a meter is free when no packet meets it any more, and only once', async () => {
  const rig = await SwitchRig.create();
  const records = rig.datapath.meters;
  const order: string[] = [];
  const settled = (): Promise<void> => {
    order.push('settled');
    return Promise.resolve();
  };
  const policers = new Policers({ records, nowMs: () => 0, settled });
  const limit = (rate: number) => ({ rate, burst: 100, pktps: false });
  assert.ok(policers.configure([limit(1)], new Map([[1, limit(1)]])));
  assert.ok(!policers.configure([limit(1)], new Map([[1, limit(1)]])), 'nothing new');
  const taken: number[] = [];
  for (let meter = records.allocate(); meter >= 0; meter = records.allocate()) taken.push(meter);
  // There is no meter for the new limits: nothing limits, and translation has to know.
  assert.ok(policers.configure([limit(2)], new Map([[1, limit(2)]])));
  order.push('flows changed');
  assert.deepEqual(policers.input, []);
  await new Promise(setImmediate);
  assert.deepEqual(order, ['flows changed', 'settled', 'settled']);
  const again = [records.allocate(), records.allocate(), records.allocate()];
  assert.notEqual(again[0], again[1]);
  assert.equal(again[2], -1, 'two were freed');
  rig.close();
});

test('wrong meters are refused', async () => {
  const { rig, bridge } = await setUp();
  const { meters } = bridge;
  const band = { type: 1, rate: 1, burstSize: 0, precLevel: 0 };
  const bad = (code: string, config: Parameters<typeof meters.add>[0]) =>
    assert.throws(() => meters.add(config), { code });
  bad('OFPMMFC_INVALID_METER', { meterId: 0, flags: 2, bands: [band] });
  bad('OFPMMFC_INVALID_METER', { meterId: 0xffff0001, flags: 2, bands: [band] });
  bad('OFPMMFC_OUT_OF_BANDS', { meterId: 1, flags: 2, bands: new Array(9).fill(band) });
  bad('OFPMMFC_BAD_FLAGS', { meterId: 1, flags: 0x12, bands: [band] });
  bad('OFPMMFC_BAD_BAND', { meterId: 1, flags: 2, bands: [{ ...band, type: 2 }] });
  bad('OFPMMFC_BAD_RATE', { meterId: 1, flags: 2, bands: [{ ...band, rate: 0 }] });
  meters.add({ meterId: 1, flags: 2, bands: [band] });
  bad('OFPMMFC_METER_EXISTS', { meterId: 1, flags: 2, bands: [band] });
  rig.close();
});

test('clones and lengths: what follows sees the packet as it was', async () => {
  const { rig, bridge, ports } = await setUp();
  bridge.meters.add({
    meterId: 1,
    flags: 2,
    bands: [{ type: 1, rate: 1, burstSize: 1, precLevel: 0 }],
  });
  addFlow(bridge, 'in_port=1', [
    ...parseActions('mod_nw_tos:4'),
    { type: 'clone', actions: parseActions('meter:1,mod_dl_dst:02:00:00:00:00:77,output:2') },
    { type: 'clone', actions: parseActions('meter:1') },
    ...parseActions('output:3'),
  ]);
  rig.send(ports[0]!, frame(), frame());
  rig.send(ports[0]!, frame());
  const sent = rig.sent(bridge);
  const to = (n: number) => sent.filter(({ port }) => port.ofport === n);
  assert.equal(to(3).length, 3, 'only the clones are metered');
  assert.ok(to(2).length < 3);
  for (const one of to(3)) assert.deepEqual([...one.frame.subarray(0, 6)], [...MAC_B]);
  for (const one of sent) assert.equal(one.frame[15], 4);

  addFlow(bridge, 'in_port=2', [
    { type: 'check_pkt_larger', pktLen: 100, dst: { field: 'reg0', offset: 0, bits: 1 } },
    ...parseActions('resubmit(,1)'),
  ]);
  addFlow(bridge, 'reg0=1', 'mod_nw_tos:8,output:3', 1);
  addFlow(bridge, 'reg0=0', 'output:4', 1);
  for (let round = 0; round < 2; round++) {
    rig.send(ports[1]!, frame({ bytes: 46 }), frame({ bytes: 47 }), frame({ bytes: 900 }));
    assert.deepEqual(went(rig, bridge), [3, 3, 4]);
  }
  rig.close();
});

test('learned flows: made, refreshed, limited, shortened by FIN, taken along', async () => {
  const { rig, bridge, ports, tables } = await setUp();
  const whole = (field: string, bits: number) => ({ field, offset: 0, bits });
  const learner: Action = {
    type: 'learn',
    idleTimeout: 100,
    hardTimeout: 0,
    finIdleTimeout: 5,
    finHardTimeout: 0,
    priority: 32768,
    cookie: 9n,
    flags: 2, // delete_learned
    table: 1,
    limit: 2,
    specs: [
      { kind: 'match', bits: 16, src: 0x800n, dst: whole('eth_type', 16) },
      { kind: 'match', bits: 8, src: 6n, dst: whole('nw_proto', 8) },
      { kind: 'match', bits: 32, src: whole('ip_dst', 32), dst: whole('ip_src', 32) },
      { kind: 'output', bits: 16, src: whole('in_port', 16) },
    ],
  };
  tables.apply(
    flowMod({
      match: parseMatch('in_port=1,ip'),
      actions: [learner, ...parseActions('output:4')],
    }),
  );
  tables.apply(flowMod({ match: parseMatch('in_port=2'), actions: parseActions('resubmit(,1)') }));
  const learned = () => [...bridge.tables[1]!];
  const send = (n: number) => rig.send(ports[0]!, frame({ to: [10, 0, 0, n] }));
  send(5);
  assert.equal(learned().length, 1);
  const [rule] = learned();
  const madeMs = rule!.modifiedMs;
  // Later packets meet the megaflow; their statistics refresh the flow.
  rig.clock.nowMs += 5000;
  send(5);
  bridge.syncStats();
  assert.equal(rule!.modifiedMs, madeMs + 5000);
  send(6);
  send(7);
  assert.equal(learned().length, 2, 'the limit holds');
  rig.sent(bridge);
  await rig.settled();
  rig.send(ports[1]!, frame({ from: [10, 0, 0, 5], to: [10, 0, 0, 1] }));
  assert.deepEqual(went(rig, bridge), [1]);
  assert.equal(rule!.idleTimeout, 100);
  rig.send(ports[1]!, frame({ from: [10, 0, 0, 5], to: [10, 0, 0, 1], flags: 0x11 }));
  bridge.syncStats();
  assert.equal(rule!.idleTimeout, 5);
  // A flow that was deleted comes back with the next packets.
  tables.remove([rule!], 'delete');
  await rig.settled();
  send(5);
  bridge.syncStats();
  assert.equal(learned().length, 2);
  tables.apply(flowMod({ command: 'delete', match: parseMatch('in_port=1') }));
  assert.equal(learned().length, 0);
  rig.close();
});

test('a port that goes gives back the meters of its limits, also when its device stays as it is', async () => {
  const { rig, bridge, ports } = await setUp();
  const records = rig.datapath.meters;
  const qos = new PortQos({ bridge, records, warn: assert.fail });
  const limits = { kbits: 1000, kbitsBurst: 0, kpkts: 0, kpktsBurst: 0 };
  await qos.apply(ports[0]!, 'dpdkvhostuser', undefined, limits);
  const [meter] = ports[0]!.policers!.input;
  assert.notEqual(records.allocate(), meter);
  qos.release(ports[0]!);
  assert.deepEqual(ports[0]!.policers!.input, []);
  await bridge.settled();
  await sleep(0);
  assert.equal(records.allocate(), meter);
  rig.close();
});
