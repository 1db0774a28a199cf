// Connection tracking through the whole switch: OpenFlow flows, translation, the real data plane, recirculation.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { K_CT_STATE, K_RECIRC_ID } from '../../contract/key.ts';
import type { SwitchBridge } from '../../src/switch/bridge.ts';
import { checkActions } from '../../src/switch/checkActions.ts';
import { switchCommandTable } from '../../src/switch/commands.ts';
import { be32 } from '../../src/switch/flow.ts';
import type { Rule } from '../../src/switch/types.ts';
import { parseActions } from '../../src/wire/openflow/actionParse.ts';
import { parseMatch } from '../../src/wire/openflow/matchParse.ts';
import { ethernet, IP4_A, IP4_B, ipv4, tcp, udp } from '../oracle/frames.ts';
import { makeRule, SwitchRig } from '../oracle/openflowRig.ts';

interface Net {
  rig: SwitchRig;
  bridge: SwitchBridge;
  flows: Rule[];
}

/** A bridge with ports 1 … 3 and these flows: "table=0,priority=1,ip actions=…". */
async function net(...lines: string[]): Promise<Net> {
  const rig = await SwitchRig.create();
  const bridge = rig.addBridge('br0');
  for (let i = 1; i <= 3; i++) rig.addPort(bridge, `p${i}`, {}, i);
  return { rig, bridge, flows: lines.map((line) => addFlow(bridge, line)) };
}

function addFlow(bridge: SwitchBridge, line: string): Rule {
  const [, table = '0', priority = '100', match = '', text = ''] =
    /^(?:table=(\d+),?)?(?:priority=(\d+),?)?(\S*) *actions=(.*)$/.exec(line)!;
  const parsed = parseMatch(match);
  const actions = parseActions(text);
  checkActions(actions, parsed, Number(table));
  const rule = makeRule(Number(table), Number(priority), parsed, actions);
  bridge.tables[rule.table]!.insert(rule);
  bridge.flowsChanged();
  return rule;
}

const A_TO_B = { src: IP4_A, dst: IP4_B };
const B_TO_A = { src: IP4_B, dst: IP4_A };
const data = new Uint8Array(4);

function datagram(from: number, to: number, options = A_TO_B): Uint8Array {
  return ethernet(0x0800, ipv4(17, udp(from, to, data), options));
}

function segment(from: number, to: number, flags: number, options = A_TO_B): Uint8Array {
  return ethernet(0x0800, ipv4(6, tcp(from, to, data.subarray(4), flags), options));
}

/** Sends a frame into a port; "ofport" of each copy that comes out. */
function sends({ rig, bridge }: Net, port: number, frame: Uint8Array): string {
  rig.send(bridge.ports.get(port)!, frame);
  return rig
    .sent(bridge)
    .map(({ port: { ofport } }) => String(ofport))
    .sort()
    .join();
}

async function appctl({ rig }: Net, name: string, ...args: string[]): Promise<string> {
  return await switchCommandTable(rig.datapath)
    .find((c) => c.name === name)!
    .run(args);
}

const FIREWALL = [
  'table=0,priority=10,ip,ct_state=-trk actions=ct(table=1)',
  'table=1,priority=20,in_port=1,ip,ct_state=+trk+new actions=ct(commit),output:2',
  'table=1,priority=20,ip,in_port=1,ct_state=+trk+est actions=output:2',
  'table=1,priority=20,ip,in_port=2,ct_state=+trk+est-new actions=output:1',
];

test('a firewall lets answers in and nothing else', async () => {
  const n = await net(...FIREWALL);
  const answer = datagram(53, 1000, B_TO_A);
  assert.equal(sends(n, 2, answer), '', 'nobody has asked');
  assert.equal(sends(n, 1, datagram(1000, 53)), '2');
  assert.equal(sends(n, 2, answer), '1');
  assert.equal(sends(n, 2, datagram(54, 1000, B_TO_A)), '');
  assert.equal(sends(n, 1, datagram(1000, 53)), '2');
  assert.equal(
    await appctl(n, 'dpctl/dump-conntrack'),
    'udp,orig=(src=10.0.0.1,dst=10.0.0.2,sport=1000,dport=53),' +
      'reply=(src=10.0.0.2,dst=10.0.0.1,sport=53,dport=1000)\n',
  );
  assert.equal(await appctl(n, 'dpctl/ct-get-nconns'), '1\n');
  await appctl(n, 'dpctl/flush-conntrack');
  assert.equal(await appctl(n, 'dpctl/dump-conntrack'), '');
  assert.equal(sends(n, 2, answer), '', 'flushed');
  n.rig.close();
});

test('statistics reach the rules on both sides of a recirculation', async () => {
  const n = await net(...FIREWALL);
  for (let i = 0; i < 5; i++) sends(n, 1, datagram(1000, 53));
  sends(n, 2, datagram(53, 1000, B_TO_A));
  n.bridge.syncStats();
  assert.deepEqual(
    n.flows.map(({ packets }) => packets),
    [6, 5, 0, 1],
  );
  n.rig.close();
});

test('zone and registers come through, marks and labels are kept by the connection', async () => {
  const n = await net(
    'table=0,priority=10,udp,in_port=1 actions=load:7->NXM_NX_REG6[],load:0x55->NXM_NX_REG0[],ct(table=1,zone=NXM_NX_REG6[0..15])',
    'table=0,priority=10,udp,in_port=2 actions=ct(table=2,zone=7)',
    'table=1,udp,reg0=0x55,ct_zone=7,ct_state=+new+trk actions=ct(commit,zone=NXM_NX_REG6[0..15],exec(move:NXM_NX_REG0[0..7]->NXM_NX_CT_MARK[0..7],set_field:0xf0000000000000000000000000000001->ct_label)),output:2',
    'table=2,udp,ct_mark=0x55,ct_label=0xf0000000000000000000000000000001,ct_state=+est+rpl+trk,ct_nw_src=10.0.0.1,ct_tp_dst=53,ct_nw_proto=17 actions=output:1',
  );
  assert.equal(sends(n, 1, datagram(1000, 53)), '2');
  assert.equal(sends(n, 2, datagram(53, 1000, B_TO_A)), '1');
  const [line = ''] = (await appctl(n, 'dpctl/dump-conntrack', 'zone=7')).split('\n');
  assert.match(line, /,zone=7,mark=85,labels=0xf0000000000000000000000000000001$/);
  assert.equal(await appctl(n, 'dpctl/dump-conntrack', 'zone=8'), '');
  n.rig.close();
});

test('source NAT and the way back', async () => {
  const n = await net(
    'table=0,udp,in_port=1 actions=ct(commit,zone=1,nat(src=10.9.9.9)),output:2',
    'table=0,udp,in_port=2 actions=ct(zone=1,nat,table=1)',
    'table=1,udp,nw_dst=10.0.0.1,ct_state=+est+rpl+trk+dnat actions=output:1',
  );
  n.rig.send(n.bridge.ports.get(1)!, datagram(1000, 53));
  const [out] = n.rig.sent(n.bridge);
  assert.equal(out!.port.ofport, 2);
  assert.deepEqual([...out!.frame.subarray(26, 30)], [10, 9, 9, 9]);
  assert.equal(sends(n, 2, datagram(53, 1000, { src: IP4_B, dst: [10, 9, 9, 9] })), '1');
  n.rig.close();
});

test('a change of flows behind a recirculation is in force at once', async () => {
  const n = await net(...FIREWALL);
  assert.equal(sends(n, 1, datagram(1000, 53)), '2');
  assert.equal(sends(n, 2, datagram(53, 1000, B_TO_A)), '1');
  const drop = addFlow(n.bridge, 'table=1,priority=200,ip,in_port=2 actions=drop');
  await n.rig.settled();
  assert.equal(sends(n, 2, datagram(53, 1000, B_TO_A)), '');
  n.bridge.tables[1]!.remove(drop);
  n.bridge.flowsChanged();
  await n.rig.settled();
  assert.equal(sends(n, 2, datagram(53, 1000, B_TO_A)), '1');
  n.rig.close();
});

test('recirculation ids are shared, and given back', async () => {
  const n = await net(...FIREWALL);
  const { datapath, clock } = n.rig;
  sends(n, 1, datagram(1000, 53));
  sends(n, 1, segment(1000, 80, 2));
  sends(n, 2, datagram(53, 1000, B_TO_A));
  assert.equal(datapath.recircs.size, 2, 'one for each input port');
  for (const flow of datapath.megaflows) {
    const recirculated = be32(flow.key, K_RECIRC_ID) !== 0;
    assert.equal(be32(flow.key, K_CT_STATE) !== 0, recirculated);
  }
  await datapath.purge();
  assert.equal(datapath.recircs.size, 2, 'packets may still carry them');
  clock.nowMs += 10_000;
  datapath.recircs.sweep();
  assert.equal(datapath.recircs.size, 0);
  assert.equal(sends(n, 1, datagram(1000, 53)), '2');
  n.rig.close();
});

test('a packet that goes round through ct for ever is dropped under a name', async () => {
  const n = await net('table=0,ip actions=ct(table=0)');
  assert.equal(sends(n, 1, datagram(1000, 53)), '');
  assert.equal(sends(n, 1, datagram(1000, 53)), '');
  const drops = n.rig.rig.counters(n.bridge.ports.get(1)!.dpPort).drops;
  assert.ok(drops[10]! >= 1, 'DROP_RECIRC_LIMIT');
  n.rig.close();
});

test('other bridges do not see what one has tracked', async () => {
  const n = await net(
    'table=0,ip actions=ct(commit,table=1)',
    'table=1,ip,ct_state=+trk actions=output:10',
  );
  const other = n.rig.addBridge('br1');
  const far = n.rig.addPort(other, 'q1', {}, 1);
  const [near] = n.rig.patch(n.bridge, other);
  n.bridge.tables[1]!.insert(
    makeRule(1, 500, parseMatch('ip'), parseActions(`output:${near.ofport}`)),
  );
  n.bridge.flowsChanged();
  for (const [match, actions] of [
    ['ip,ct_state=-trk', 'ct(zone=5,table=3)'],
    ['ip,ct_state=+trk', 'drop'],
  ] as const) {
    other.tables[0]!.insert(makeRule(0, 5, parseMatch(match), parseActions(actions)));
  }
  other.tables[3]!.insert(
    makeRule(3, 5, parseMatch('ip,ct_zone=5,ct_state=+trk+new'), parseActions('output:1')),
  );
  n.rig.send(n.bridge.ports.get(1)!, datagram(1000, 53));
  assert.deepEqual(
    n.rig.sent(other).map(({ port }) => port),
    [far],
  );
  n.rig.close();
});

test('addresses that another bridge translates stay as they are here', async () => {
  const n = await net();
  const other = n.rig.addBridge('br1');
  n.rig.addPort(other, 'q1', {}, 1);
  const [near] = n.rig.patch(n.bridge, other);
  other.tables[0]!.insert(
    makeRule(0, 5, parseMatch('ip'), parseActions('ct(commit,nat(src=10.9.9.9)),output:1')),
  );
  addFlow(n.bridge, `table=0,ip actions=output:${near.ofport},output:2`);
  for (let i = 0; i < 2; i++) {
    n.rig.send(n.bridge.ports.get(1)!, datagram(1000, 53));
    const [inside] = n.rig.sent(n.bridge);
    const [outside] = n.rig.sent(other);
    assert.deepEqual([...inside!.frame.subarray(26, 30)], IP4_A);
    assert.deepEqual([...outside!.frame.subarray(26, 30)], [10, 9, 9, 9]);
  }
  n.rig.close();
});

test('a bridge that goes takes its frozen pipelines along', async () => {
  const n = await net(...FIREWALL);
  sends(n, 1, datagram(1000, 53));
  assert.ok(n.rig.datapath.megaflows.size >= 2);
  n.bridge.close();
  await n.rig.settled();
  assert.equal(n.rig.datapath.megaflows.size, 0);
  n.rig.close();
});

test('packet-outs are tracked like packets', async () => {
  const n = await net(
    'table=1,udp,ct_state=+new+trk actions=output:3',
    'table=1,udp,ct_state=+est+trk actions=output:2',
  );
  const out = (): string => {
    n.bridge.packetOut(1, undefined, parseActions('ct(commit,table=1)'), datagram(1, 2));
    n.rig.run();
    return n.rig
      .sent(n.bridge)
      .map(({ port }) => port.ofport)
      .join();
  };
  assert.equal(out(), '3');
  n.bridge.packetOut(1, undefined, parseActions('ct(table=1)'), datagram(2, 1, B_TO_A));
  n.rig.run();
  assert.equal(
    n.rig
      .sent(n.bridge)
      .map(({ port }) => port.ofport)
      .join(),
    '2',
  );
  n.rig.close();
});
