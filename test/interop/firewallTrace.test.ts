// Traces of flows with connection tracking beside the real ovs-vswitchd: the same flows, the same question, the same text,
// through recirculations, NAT and patch ports.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { SwitchBridge } from '../../src/switch/bridge.ts';
import { checkActions } from '../../src/switch/checkActions.ts';
import { switchCommandTable } from '../../src/switch/commands.ts';
import { parseActions } from '../../src/wire/openflow/actionParse.ts';
import { parseFlowText } from '../../src/wire/openflow/matchParse.ts';
import { FakeNetdev, makeRule, SwitchRig } from '../oracle/openflowRig.ts';
import { type OvsSide, startRealOvs } from './realOvs.ts';

const PROTOCOLS = 'protocols=OpenFlow10,OpenFlow11,OpenFlow12,OpenFlow13,OpenFlow14,OpenFlow15';

let real: OvsSide;
let ours: SwitchRig;
let bridge: SwitchBridge;
let second: SwitchBridge;

/** br0 with p1, p2, p3; br1 with p4 (port 5) behind patch ports 10 and 11. */
before(async () => {
  real = await startRealOvs();
  const result = await real.run(
    `ovs-vsctl add-br br0 -- set Bridge br0 datapath_type=dummy fail_mode=secure ${PROTOCOLS} ` +
      [1, 2, 3]
        .map((n) => `-- add-port br0 p${n} -- set Interface p${n} type=dummy ofport_request=${n} `)
        .join('') +
      `-- add-br br1 -- set Bridge br1 datapath_type=dummy fail_mode=secure ${PROTOCOLS} ` +
      '-- add-port br0 pa -- set Interface pa type=patch options:peer=pb ofport_request=10 ' +
      '-- add-port br1 pb -- set Interface pb type=patch options:peer=pa ofport_request=11 ' +
      '-- add-port br1 p4 -- set Interface p4 type=dummy ofport_request=5',
  );
  assert.equal(result.status, 0, result.stderr);
  ours = await SwitchRig.create();
  bridge = ours.addBridge('br0');
  ours.addLocalPort(bridge, 100);
  for (const n of [1, 2, 3]) ours.addPort(bridge, `p${n}`, {}, n);
  second = ours.addBridge('br1');
  ours.addPort(second, 'p4', {}, 5);
  ours.addLocalPort(second, 101);
  for (const [owner, name, peer, ofport] of [
    [bridge, 'pa', 'pb', 10],
    [second, 'pb', 'pa', 11],
  ] as const) {
    owner.addPort({
      netdev: new FakeNetdev(name, -1, 'patch'),
      bundle: owner.addBundle(name),
      peer,
      ofport,
    });
  }
});

after(async () => {
  ours?.close();
  await real?.[Symbol.asyncDispose]();
});

async function setFlows(name: string, flows: readonly string[]): Promise<void> {
  const version = /goto_table|write_|set_field/.test(flows.join()) ? 'OpenFlow15' : 'OpenFlow10';
  await real.run(`ovs-ofctl del-flows ${name}`);
  const result = await real.run(
    `ovs-ofctl -O ${version} add-flows ${name} -`,
    `${flows.join('\n')}\n`,
  );
  assert.equal(result.status, 0, result.stderr);
  const owner = name === 'br0' ? bridge : second;
  for (const table of owner.tables.slice(0, 254)) for (const rule of table) table.remove(rule);
  for (const flow of flows) {
    const at = flow.indexOf('actions=');
    const { match, others } = parseFlowText(flow.slice(0, at).replace(/,\s*$/, ''));
    const option = (key: string): string | undefined =>
      others.find(([other]) => other === key)?.[1];
    const table = Number(option('table') ?? 0);
    const actions = parseActions(flow.slice(at + 8));
    checkActions(actions, match, table);
    owner.tables[table]!.insert(
      makeRule(table, Number(option('priority') ?? 32768), match, actions),
    );
  }
  owner.flowsChanged();
  await ours.settled();
}

async function ourTrace(args: readonly string[]): Promise<string> {
  const command = switchCommandTable(ours.datapath).find((c) => c.name === 'ofproto/trace')!;
  try {
    const text = await command.run(args);
    return text.endsWith('\n') ? text : `${text}\n`;
  } catch (error) {
    return `${(error as Error).message.trimEnd()}\n`;
  }
}

/** Recirculation ids are numbered in the order in which they are met; the rest has to be the same. */
function normal(text: string): string {
  const ids = new Map<string, string>();
  return text
    .replace(/recirc_id=\d+,rule_cookie/g, 'recirc_id=N,rule_cookie')
    .replace(/(recirc\(|recirc_id=)(0x[0-9a-f]+)/g, (_, prefix: string, id: string) => {
      if (!ids.has(id)) ids.set(id, `ID${ids.size + 1}`);
      return prefix + ids.get(id)!;
    })
    .replace(/^ovs-appctl: .*\n/m, '');
}

async function sameTrace(...args: string[]): Promise<void> {
  const quoted = args.map((arg) => `'${arg}'`).join(' ');
  const theirs = await real.run(`ovs-appctl ofproto/trace ${quoted}`);
  assert.equal(normal(await ourTrace(args)), normal(theirs.stdout + theirs.stderr), quoted);
}

const TCP =
  'in_port=1,dl_src=02:00:00:00:00:01,dl_dst=02:00:00:00:00:02,tcp,nw_src=10.0.0.1,nw_dst=10.0.0.2,' +
  'nw_ttl=64,tp_src=1000,tp_dst=80';
const UDP6 =
  'in_port=1,dl_src=02:00:00:00:00:01,dl_dst=02:00:00:00:00:02,udp6,ipv6_src=fd00::1,ipv6_dst=fd00::2,' +
  'nw_ttl=64,udp_src=1000,udp_dst=53';
const NEXT = '--ct-next';

const SCENARIOS: readonly [name: string, flows: string[], traces: string[][]][] = [
  [
    'stateful firewall',
    [
      'table=0,priority=10,ip,ct_state=-trk,actions=ct(table=1)',
      'table=0,priority=10,ipv6,ct_state=-trk,actions=ct(table=1)',
      'table=0,priority=1,actions=normal',
      'table=1,ct_state=+new+trk,ip,tcp,tp_dst=80,actions=ct(commit,exec(load:0x5->NXM_NX_CT_MARK[])),output:2',
      'table=1,ct_state=+est-new+trk,actions=output:2',
      'table=1,ct_state=+inv+trk,actions=drop',
    ],
    [
      ['br0', TCP],
      ['br0', TCP, NEXT, 'trk,est'],
      ['br0', TCP, NEXT, 'trk,inv'],
      ['br0', TCP, NEXT, 'trk,est,rpl', '--names'],
      ['br0', UDP6],
      ['br0', UDP6, NEXT, 'trk,bogus'],
      ['br0', UDP6, NEXT, 'est'],
      ['br0', UDP6, NEXT, 'trk,new,est'],
    ],
  ],
  [
    'zones from registers, registers through recirculation',
    [
      'table=0,in_port=1,ip,actions=set_field:0x12->reg6,set_field:0x7->reg0,ct(table=5,zone=NXM_NX_REG6[0..15])',
      'table=5,reg0=7,ct_zone=0x12,ct_state=+new+trk,ip,actions=ct(commit,zone=NXM_NX_REG6[0..15],exec(move:NXM_NX_REG0[0..7]->NXM_NX_CT_MARK[8..15],set_field:0x1/0x1->ct_mark)),dec_ttl,output:3',
      'table=5,ct_mark=0x700,ip,actions=output:2',
    ],
    [
      ['br0', TCP],
      ['br0', TCP, NEXT, 'trk,est'],
      ['br0', 'in_port=1'],
    ],
  ],
  [
    'labels, force, several rounds, after the fork',
    [
      'table=0,in_port=1,tcp,actions=ct(zone=3,table=1),set_field:9.9.9.9->ip_src,output:2',
      'table=1,ct_state=+trk,tcp,actions=ct(force,commit,zone=4,exec(set_field:0xff00000000000000000000000000000f/0xff0000000000000000000000000000ff->ct_label),table=2)',
      'table=2,ct_label=0x0/0xf0,ct_state=+est+rpl+trk,tcp,actions=ct_clear,output:3',
      'table=2,priority=1,tcp,actions=resubmit(,3)',
      'table=3,actions=ct_clear,output:1,in_port',
    ],
    [
      ['br0', TCP],
      ['br0', TCP, NEXT, 'trk,new', NEXT, 'trk,est,rpl'],
    ],
  ],
  [
    'NAT',
    [
      'table=0,in_port=1,tcp,actions=ct(commit,zone=1,nat(src=10.1.1.240-10.1.1.255:1024-2048,random),table=1)',
      'table=0,in_port=2,tcp,actions=ct(nat,zone=1,table=1)',
      'table=0,in_port=1,udp6,actions=ct(commit,nat(dst=[fd00::99]:5353),table=1)',
      'table=0,in_port=3,ip,actions=ct(commit,nat(dst=10.2.2.2,persistent,hash))',
      'table=1,ip,nw_src=10.1.1.240,tcp,tp_src=1024,actions=output:2',
      'table=1,ipv6,ipv6_dst=fd00::99,udp6,tp_dst=5353,actions=output:3',
      'table=1,priority=1,actions=output:1',
    ],
    [
      ['br0', TCP],
      ['br0', TCP.replace('in_port=1', 'in_port=2'), NEXT, 'trk,est,rpl'],
      ['br0', TCP.replace('in_port=1', 'in_port=3')],
      ['br0', UDP6],
    ],
  ],
  [
    'metadata and original tuples',
    [
      'table=0,in_port=1,tcp,actions=write_metadata:0x99,goto_table:9',
      'table=9,tcp,actions=ct(table=1)',
      'table=1,ct_state=+trk+new,ct_nw_src=10.0.0.0/8,ct_nw_proto=6,ct_tp_dst=80,tcp,actions=goto_table:2',
      'table=1,priority=1,ct_state=+trk,tcp,actions=goto_table:3',
      'table=2,actions=set_field:5->reg1',
      'table=3,ct_state=+trk+est,ip,actions=move:NXM_NX_CT_NW_SRC[]->NXM_NX_REG2[],output:3',
    ],
    [
      ['br0', TCP],
      ['br0', TCP, NEXT, 'trk,est'],
      ['br0', `ct_state=new|trk,ct_zone=4,ct_mark=5,${TCP}`],
    ],
  ],
  [
    'other bridges do not see the state',
    [
      'table=0,in_port=1,ip,actions=ct(table=1)',
      'table=1,ct_state=+trk,ip,actions=output:2,output:10',
    ],
    [['br0', TCP]],
  ],
  [
    'what other bridges track is undone',
    ['table=0,in_port=1,ip,actions=output:10,output:2', 'table=0,in_port=2,ip,actions=output:10'],
    [
      ['br0', TCP],
      ['br0', TCP.replace('in_port=1', 'in_port=2')],
    ],
  ],
];

for (const [name, flows, traces] of SCENARIOS) {
  test(`trace: ${name}`, async () => {
    await setFlows('br1', [
      'table=0,ct_state=-trk,ip,actions=ct(zone=9,table=4),output:5',
      'table=0,ct_state=+trk,ip,actions=drop',
      'table=4,ct_state=+trk,ip,actions=output:5',
    ]);
    await setFlows('br0', flows);
    for (const args of traces) await sameTrace(...args);
  });
}
