// ofproto/trace and datapath flows beside the real ovs-vswitchd: the same flows, the same question, the same text.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { SwitchBridge } from '../../src/switch/bridge.ts';
import { switchCommandTable } from '../../src/switch/commands.ts';
import { parseActions } from '../../src/wire/openflow/actionParse.ts';
import { parseFlowText, parseMatch } from '../../src/wire/openflow/matchParse.ts';
import {
  arp,
  ethernet,
  IP4_A,
  IP4_B,
  icmp,
  ipv4,
  ipv6,
  MAC_A,
  tcp,
  udp,
} from '../oracle/frames.ts';
import { FakeNetdev, makeRule, SwitchRig } from '../oracle/openflowRig.ts';
import { type OvsSide, startRealOvs } from './realOvs.ts';

let real: OvsSide;
let ours: SwitchRig;
let bridge: SwitchBridge;

/** Ports of both: p1 trunk, p2 access VLAN 10, p3 trunk of VLANs 10 and 20, p4 native-untagged 10. */
before(async () => {
  real = await startRealOvs();
  const ports = [
    'p1 -- set Interface p1 type=dummy ofport_request=1',
    'p2 tag=10 -- set Interface p2 type=dummy ofport_request=2',
    'p3 trunks=10,20 -- set Interface p3 type=dummy ofport_request=3',
    'p4 tag=10 vlan_mode=native-untagged trunks=10,20 -- set Interface p4 type=dummy ofport_request=4',
  ];
  const add = ports.map((port) => `-- add-port br0 ${port}`).join(' ');
  const result = await real.run(
    'ovs-vsctl add-br br0 -- set Bridge br0 datapath_type=dummy fail_mode=secure ' +
      `protocols=OpenFlow10,OpenFlow11,OpenFlow12,OpenFlow13,OpenFlow14,OpenFlow15 ${add}`,
  );
  assert.equal(result.status, 0, result.stderr);
  // A second bridge behind patch ports.
  const second = await real.run(
    'ovs-vsctl add-br br1 -- set Bridge br1 datapath_type=dummy fail_mode=secure ' +
      '-- add-port br0 pa -- set Interface pa type=patch options:peer=pb ofport_request=10 ' +
      '-- add-port br1 pb -- set Interface pb type=patch options:peer=pa ofport_request=11 ' +
      '-- add-port br1 p5 -- set Interface p5 type=dummy ofport_request=5',
  );
  assert.equal(second.status, 0, second.stderr);
  await real.run(
    'ovs-ofctl add-flow br1 table=0,in_port=11,actions=dec_ttl,mod_nw_tos:8,output:5,resubmit\\(,1\\)',
  );
  await real.run('ovs-ofctl add-flow br1 table=1,ip,actions=mod_dl_dst:02:00:00:00:00:66,output:5');
  ours = await SwitchRig.create();
  bridge = ours.addBridge('br0');
  ours.addLocalPort(bridge, 100);
  ours.addPort(bridge, 'p1', {}, 1);
  ours.addPort(bridge, 'p2', { vlanMode: 'access', tag: 10 }, 2);
  ours.addPort(bridge, 'p3', { trunks: new Set([10, 20]) }, 3);
  ours.addPort(
    bridge,
    'p4',
    { vlanMode: 'native-untagged', tag: 10, trunks: new Set([10, 20]) },
    4,
  );
  addSecondBridge();
});

/** The other bridge, as the real one has it. */
function addSecondBridge(): void {
  const br1 = ours.addBridge('br1');
  ours.addPort(br1, 'p5', {}, 5);
  ours.addLocalPort(br1, 101);
  const ends = [
    [bridge, 'pa', 'pb', 10],
    [br1, 'pb', 'pa', 11],
  ] as const;
  for (const [owner, name, peer, ofport] of ends) {
    owner.addPort({
      netdev: new FakeNetdev(name, -1, 'patch'),
      bundle: owner.addBundle(name),
      peer,
      ofport,
    });
  }
  for (const [table, match, actions] of [
    [0, 'in_port=11', 'dec_ttl,mod_nw_tos:8,output:5,resubmit(,1)'],
    [1, 'ip', 'mod_dl_dst:02:00:00:00:00:66,output:5'],
  ] as const) {
    br1.tables[table]!.insert(makeRule(table, 32768, parseMatch(match), parseActions(actions)));
  }
}

after(async () => {
  ours?.close();
  await real?.[Symbol.asyncDispose]();
});

/** Puts flows into both switches, replacing what was there. */
async function setFlows(flows: readonly string[]): Promise<void> {
  // Instructions exist since OpenFlow 1.1; without them 1.0, which keeps mod_dl_dst and the like as they are.
  const version = /goto_table|write_|push_vlan/.test(flows.join()) ? 'OpenFlow13' : 'OpenFlow10';
  await real.run('ovs-ofctl del-flows br0');
  const result = await real.run(`ovs-ofctl -O ${version} add-flows br0 -`, `${flows.join('\n')}\n`);
  assert.equal(result.status, 0, result.stderr);
  for (const table of bridge.tables.slice(0, 254)) for (const rule of table) table.remove(rule);
  for (const flow of flows) {
    const at = flow.indexOf('actions=');
    const { match, others } = parseFlowText(flow.slice(0, at).replace(/,\s*$/, ''));
    const option = (name: string): string | undefined => others.find(([key]) => key === name)?.[1];
    const rule = makeRule(
      Number(option('table') ?? 0),
      Number(option('priority') ?? 32768),
      match,
      parseActions(flow.slice(at + 8)),
      BigInt(option('cookie') ?? 0),
    );
    bridge.tables[rule.table]!.insert(rule);
  }
  // With learned destinations nothing is flooded: the order of floods is that of hash tables.
  for (const [port, mac] of [
    ['p3', '02:00:00:00:00:02'],
    ['p2', '02:00:00:00:00:04'],
  ] as const) {
    const expected = await real.run(`ovs-appctl fdb/add br0 ${port} 10 ${mac}`);
    assert.equal(await ourAppctl('fdb/add', 'br0', port, '10', mac), expected.stdout);
  }
  bridge.flowsChanged();
  await ours.settled();
}

async function ourAppctl(name: string, ...args: string[]): Promise<string> {
  const command = switchCommandTable(ours.datapath).find((c) => c.name === name)!;
  const text = await command.run(args);
  return text === '' || text.endsWith('\n') ? text : `${text}\n`;
}

/** Numbers that are each daemon's own. */
const normal = (text: string): string =>
  text
    .replace(/recirc_id=\d+,rule_cookie/g, 'recirc_id=N,rule_cookie')
    .replace(/^(flow-dump from ).*$/m, '$1…')
    .replace(/used:[\d.]+s/g, 'used:T');

async function sameTrace(...args: string[]): Promise<void> {
  const quoted = args.map((arg) => `'${arg}'`).join(' ');
  const theirs = await real.run(`ovs-appctl ofproto/trace ${quoted}`);
  let mine: string;
  try {
    mine = await ourAppctl('ofproto/trace', ...args);
  } catch (error) {
    const first = theirs.stderr.split('\n')[0];
    assert.equal((error as Error).message, first, quoted);
    return;
  }
  assert.equal(normal(mine), normal(theirs.stdout + theirs.stderr), quoted);
}

const TCP =
  'in_port=1,dl_src=02:00:00:00:00:01,dl_dst=02:00:00:00:00:02,tcp,nw_src=10.0.0.1,nw_dst=10.0.0.2,' +
  'nw_ttl=64,tp_src=1000,tp_dst=80';
const UDP6 =
  'in_port=1,dl_src=02:00:00:00:00:01,dl_dst=02:00:00:00:00:02,udp6,ipv6_src=fd00::1,ipv6_dst=fd00::2,' +
  'nw_ttl=64,udp_src=1000,udp_dst=53';
const ARP =
  'in_port=1,dl_src=02:00:00:00:00:01,dl_dst=ff:ff:ff:ff:ff:ff,arp,arp_op=1,arp_spa=10.0.0.1,arp_tpa=10.0.0.2';
const ICMP =
  'in_port=2,dl_src=02:00:00:00:00:03,dl_dst=02:00:00:00:00:04,icmp,nw_src=10.0.0.3,nw_dst=10.0.0.4,nw_ttl=1';

const SCENARIOS: readonly [name: string, flows: string[], traces: string[][]][] = [
  [
    'drop',
    [],
    [
      ['br0', TCP],
      ['br0', 'in_port=1'],
      ['br0', 'in_port=9'],
    ],
  ],
  [
    'outputs and header changes',
    [
      'in_port=1,tcp,actions=mod_dl_dst:02:00:00:00:00:09,mod_nw_src:1.2.3.4,mod_tp_dst:8080,output:2,mod_dl_src:02:00:00:00:00:08,output:3',
      'priority=1,ip,actions=dec_ttl,output:4',
      'udp6,actions=load:0x99->NXM_NX_IPV6_DST[0..63],dec_ttl,output:2,output:1,output:in_port',
      'arp,actions=load:2->NXM_OF_ARP_OP[],move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[],output:2',
    ],
    [
      ['br0', TCP],
      ['br0', UDP6],
      ['br0', ICMP],
    ],
  ],
  [
    'tables, registers, action set',
    [
      'table=0,in_port=1,cookie=0x1234,actions=load:7->NXM_NX_REG0[],resubmit(,1),resubmit(3,2)',
      'table=1,reg0=7,ip,actions=move:NXM_OF_IP_SRC[0..15]->NXM_NX_REG1[16..31],output:2',
      'table=2,priority=5,in_port=3,actions=write_metadata:0x5,goto_table:3',
      'table=3,metadata=5,actions=write_actions(output:4,set_field:02:00:00:00:00:77->eth_dst),goto_table:4',
      'table=4,actions=output:3,note:01.02',
    ],
    [
      ['br0', TCP],
      ['br0', ARP],
      ['br0', 'in_port=2'],
    ],
  ],
  [
    'prefixes and ports',
    [
      'priority=10,ip,nw_dst=10.1.0.0/16,actions=output:2',
      'priority=9,ip,nw_dst=10.1.2.0/24,actions=output:3',
      'priority=8,tcp,tp_dst=80,actions=output:4',
      'priority=7,tcp,tp_dst=0x1000/0xf000,actions=output:2',
      'priority=1,ip,nw_src=192.168.0.0/16,actions=output:3',
      'priority=0,actions=output:2',
    ],
    [
      ['br0', TCP],
      ['br0', TCP.replace('tp_dst=80', 'tp_dst=443')],
      ['br0', TCP.replace('nw_dst=10.0.0.2', 'nw_dst=10.1.2.3')],
      ['br0', UDP6],
      ['br0', ARP],
    ],
  ],
  [
    'VLANs',
    [
      'in_port=1,dl_vlan=10,actions=pop_vlan,output:2',
      'in_port=1,vlan_tci=0x0000/0x1fff,actions=push_vlan:0x8100,set_field:4116->vlan_vid,set_field:3->vlan_pcp,output:3',
      'in_port=3,actions=push_vlan:0x8100,set_field:4106->vlan_vid,output:4',
      'in_port=1,dl_vlan=20,actions=set_field:4106->vlan_vid,output:3,output:4',
    ],
    [
      ['br0', `${TCP},dl_vlan=10,dl_vlan_pcp=2`],
      ['br0', TCP],
      ['br0', `${TCP},dl_vlan=20`],
      ['br0', TCP.replace('in_port=1', 'in_port=3')],
    ],
  ],
  [
    'NORMAL',
    ['actions=normal'],
    [
      ['br0', TCP],
      ['br0', `${TCP},dl_vlan=10`],
      ['br0', `${TCP},dl_vlan=30`],
      ['br0', ICMP],
      ['br0', `${ICMP},dl_vlan=10`],
      ['br0', ICMP.replace('in_port=2', 'in_port=4')],
      ['br0', `in_port=1,dl_src=02:00:00:00:00:01,dl_dst=01:80:c2:00:00:00`],
      ['br0', ARP],
    ],
  ],
  [
    'controllers',
    [
      'priority=3,tcp,actions=controller(max_len=100,id=5),output:2',
      'priority=2,arp,actions=controller',
      'priority=1,icmp,actions=dec_ttl,output:3',
      'priority=0,actions=CONTROLLER:128',
    ],
    [
      ['br0', TCP],
      ['br0', ARP],
      ['br0', ICMP],
      ['br0', UDP6],
    ],
  ],
  ['depth', ['actions=resubmit(,0)'], [['br0', 'in_port=1']]],
  [
    'special ports',
    [
      'in_port=1,actions=flood',
      'in_port=2,actions=all',
      'in_port=3,actions=local,output:99',
      'in_port=4,actions=load:2->NXM_NX_REG3[],output:NXM_NX_REG3[0..15],output(port=1,max_len=100),enqueue:3:7,set_queue:2,output:1,pop_queue,output:2',
    ],
    [
      ['br0', 'in_port=3'],
      ['br0', TCP.replace('in_port=1', 'in_port=4')],
    ],
  ],
  [
    'patch ports',
    ['priority=1,actions=mod_dl_src:02:00:00:00:00:11,load:3->NXM_NX_REG0[],output:10,output:2'],
    [
      ['br0', TCP],
      ['br0', ARP],
      ['br0', ICMP],
    ],
  ],
  [
    'neighbour discovery and masks',
    [
      'priority=9,icmp6,icmp_type=135,nd_target=fd00::5,actions=load:0x9->NXM_NX_ND_TARGET[0..63],output:2',
      'priority=8,icmp6,icmp_type=135,actions=output:3',
      'priority=7,ipv6,ipv6_src=fd00::/16,ipv6_label=0x5,actions=output:4',
      'priority=6,tcp6,tcp_flags=+syn-ack,actions=output:2',
      'priority=5,dl_dst=01:00:00:00:00:00/01:00:00:00:00:00,actions=output:3',
      'priority=4,dl_vlan_pcp=3,actions=output:1',
      'priority=3,ip,nw_frag=later,actions=output:4',
      'priority=2,ip,nw_tos=8,nw_ecn=1,actions=output:1',
    ],
    [
      [
        'br0',
        'in_port=1,icmp6,ipv6_src=fe80::1,ipv6_dst=ff02::1,icmp_type=135,icmp_code=0,nd_target=fd00::5',
      ],
      [
        'br0',
        'in_port=1,icmp6,ipv6_src=fe80::1,ipv6_dst=ff02::1,icmp_type=135,icmp_code=0,nd_target=fd00::6',
      ],
      ['br0', 'in_port=1,tcp6,ipv6_src=fd00::1,ipv6_dst=fd01::1,tcp_flags=syn'],
      ['br0', UDP6],
      ['br0', ARP],
      ['br0', TCP],
      ['br0', 'in_port=3,dl_vlan=5,dl_vlan_pcp=3,dl_dst=02:00:00:00:00:01'],
      ['br0', 'in_port=3,udp,nw_frag=later'],
      ['br0', 'in_port=3,udp,nw_tos=8,nw_ecn=1'],
    ],
  ],
  [
    'forms and errors',
    ['priority=0,actions=output:2'],
    [
      [
        'in_port(1),eth(src=02:00:00:00:00:01,dst=02:00:00:00:00:02),eth_type(0x0800),ipv4(src=10.0.0.1,dst=10.0.0.2,proto=6,tos=0,ttl=64,frag=no),tcp(src=1,dst=2)',
      ],
      [
        'in_port(1),eth(src=02:00:00:00:00:01,dst=02:00:00:00:00:02),eth_type(0x8100),vlan(vid=10,pcp=0),encap(eth_type(0x0806),arp(sip=1.1.1.1,tip=2.2.2.2,op=1))',
      ],
      [
        'in_port(1),eth(src=02:00:00:00:00:01,dst=02:00:00:00:00:02),eth_type(0x8100),vlan(vid=10,pcp=0),encap(eth_type(0x8100),vlan(vid=11,pcp=0),encap(eth_type(0x0800),ipv4(src=10.0.0.1,dst=10.0.0.2,proto=17,tos=0,ttl=64,frag=no),udp(src=1,dst=2)))',
      ],
      [
        'br0',
        'in_port=1',
        `0200000000020200000000010800${'45000014000000004006000001020304050607080'.slice(0, 40)}`,
      ],
      ['br0', TCP, '-generate'],
      ['nobr', 'in_port=1'],
      ['br0', 'in_port=1,nonsense=3'],
      ['br0', '--bogus', 'in_port=1'],
      ['br0', 'in_port=1', 'xyz'],
    ],
  ],
];

for (const [name, flows, traces] of SCENARIOS) {
  test(`trace: ${name}`, async () => {
    await setFlows(flows);
    for (const args of traces) await sameTrace(...args);
  });
}

/** Frames that meet different flows, as hexadecimal text. */
const FRAMES: readonly [port: number, frame: Uint8Array][] = [
  [1, ethernet(0x0800, ipv4(6, tcp(1000, 80, new Uint8Array(8))))],
  [1, ethernet(0x0800, ipv4(17, udp(1000, 53, new Uint8Array(8))))],
  [1, ethernet(0x0800, ipv4(1, icmp(8, 0, new Uint8Array(8))), { tags: [[0x8100, 0x600a]] })],
  [1, ethernet(0x86dd, ipv6(58, icmp(128, 0, new Uint8Array(8))))],
  [2, ethernet(0x0806, arp(1, MAC_A, IP4_A, [0, 0, 0, 0, 0, 0], IP4_B))],
  [3, ethernet(0x88b5, new Uint8Array(50))],
];

test('datapath flows', async () => {
  await setFlows([
    'priority=9,tcp,tp_dst=80,actions=mod_nw_tos:40,output:2,controller',
    'priority=8,udp,nw_dst=10.0.0.0/8,actions=mod_tp_src:7,output:3',
    'priority=7,dl_vlan=10,actions=pop_vlan,output:2',
    'priority=6,ipv6,actions=set_field:fd00::5->ipv6_src,output:4',
    'priority=5,arp,arp_op=1,actions=mod_dl_src:02:00:00:00:00:55,output:1',
    'priority=0,actions=drop',
  ]);
  await real.run('ovs-appctl revalidator/purge');
  await ours.datapath.purge();
  for (const [n, frame] of FRAMES) {
    const hex = Buffer.from(frame).toString('hex');
    const received = await real.run(`ovs-appctl netdev-dummy/receive p${n} ${hex}`);
    assert.equal(received.status, 0, received.stderr);
    ours.send(bridge.ports.get(n)!, frame);
  }
  const sorted = (text: string): string[] => normal(text).split('\n').sort();
  await real.waitFor('datapath flows', async () => {
    const { stdout } = await real.run('ovs-appctl dpctl/dump-flows');
    return stdout.split('\n').length === FRAMES.length + 2;
  });
  for (const options of ['', '--names']) {
    const { stdout } = await real.run(`ovs-appctl dpctl/dump-flows ${options}`);
    const args = options === '' ? [] : [options];
    assert.deepEqual(sorted(await ourAppctl('dpctl/dump-flows', ...args)), sorted(stdout));
    const { stdout: byBridge } = await real.run(`ovs-appctl dpif/dump-flows ${options} br0`);
    assert.deepEqual(sorted(await ourAppctl('dpif/dump-flows', ...args, 'br0')), sorted(byBridge));
  }
});

test('fdb and dpif texts', async () => {
  for (const args of [
    ['fdb/show', 'br0'],
    ['fdb/stats-show', 'br0'],
    ['fdb/flush'],
    ['ofproto/list'],
  ]) {
    const { stdout } = await real.run(`ovs-appctl ${args.join(' ')}`);
    assert.equal(await ourAppctl(args[0]!, ...args.slice(1)), stdout);
  }
  const strip = (text: string): string =>
    text.replace(/^.*hit:.*\n/, '').replace(/\(.*\)/g, '(TYPE)');
  const { stdout } = await real.run('ovs-appctl dpif/show');
  assert.equal(strip(await ourAppctl('dpif/show')), strip(stdout));
  const datapaths = await real.run('ovs-appctl dpif/dump-dps');
  assert.equal(await ourAppctl('dpif/dump-dps'), datapaths.stdout.replaceAll('dummy@', 'netdev@'));
  for (const command of [
    'fdb/show nobr',
    'fdb/add br0 p2 1 zz',
    'fdb/del br0 1 02:00:00:00:00:99',
  ]) {
    const [name, ...args] = command.split(' ');
    const { stderr } = await real.run(`ovs-appctl ${command}`);
    const mine = await ourAppctl(name!, ...args).catch((error: Error) => error.message);
    assert.equal(mine.trim(), stderr.split('\n')[0]);
  }
});
