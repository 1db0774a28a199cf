// What operators type wrong, or at a bad moment: the same commands to xvio and to the real ovs-vswitchd, each with kernel
// devices in a namespace of its own. They have to print the same, and leave the same.

import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { Sandbox } from './sandbox.ts';

const WAIT_MS = 60_000;

let ours: Sandbox;
let real: Sandbox;

/** Output of a shell command in a sandbox, without what differs from run to run. */
function output(box: Sandbox, command: string): string {
  const { stdout, stderr, status } = box.run('sh', '-c', `cd ${box.dir}; ${command}`);
  return `${stdout}${stderr}status ${status}`
    .replaceAll(box.dir, 'DIR')
    .replace(/duration=[0-9.]+s|idle_age=\d+/g, 'T')
    .replace(/^\d{4}-\d\d-\d\dT[\d:.]+Z/gm, 'TIME')
    .replace(/n_(packets|bytes)=\d+/g, 'n_$1=N')
    .replace(/xid=0x[0-9a-f]+/g, 'xid=X')
    .replace(/next (CCM tx|fault check): \d+ms/g, 'next')
    .replace(/now [-+]\d+ms|0x[0-9a-f]{5,8}\b/g, 'N');
}

/** Runs the commands, one on a line, on both. */
function same(commands: string): void {
  for (const command of commands.trim().split('\n')) {
    assert.equal(output(ours, command), output(real, command), command);
  }
}

/** Waits until a command prints the same on both, and what it should. */
async function settles(command: string, expected: RegExp): Promise<void> {
  let texts: string[] = [];
  const done = (): boolean => {
    texts = [ours, real].map((box) => output(box, command));
    return texts[0] === texts[1] && expected.test(texts[0]!);
  };
  try {
    await ours.until(done, WAIT_MS, command);
  } catch {
    assert.fail(`${command}\nours: ${texts[0]}\nreal: ${texts[1]}`);
  }
}

before(async () => {
  [ours, real] = await Promise.all(
    (['xvio', 'real'] as const).map((daemon) => Sandbox.start({ daemon })),
  );
  const bridge = (name: string, mac: string): string =>
    `add-br ${name} -- set bridge ${name} datapath_type=netdev other_config:hwaddr=${mac}`;
  same(`
ovs-vsctl ${bridge('br0', '02:55:00:00:00:01')} -- ${bridge('br1', '02:55:00:00:00:02')}
ip addr add 10.1.2.1/24 dev br0; ip addr add fd00:1::1/64 dev br0 nodad; ip link set br0 up
ip link add p0 type veth peer name p1
for i in p0 p1; do ip link set $i addrgenmode none up; done
ovs-vsctl add-port br0 p0 -- set interface p0 ofport_request=1`);
});

after(async () => {
  await ours?.stop();
  await real?.stop();
});

test('routes by hand', async () => {
  await settles('ovs-appctl ovs/route/show | sort', /10\.1\.2\.0.*br0[\s\S]*fd00:1::/);
  same(`
ovs-appctl ovs/route/add 10.9.9.0/24 br0 10.1.2.9
ovs-appctl ovs/route/add 10.9.9.0/24 br0 10.1.2.9
ovs-appctl ovs/route/add 10.9.9.0/33 br0
ovs-appctl ovs/route/add 10.9.9.7/24 br0
ovs-appctl ovs/route/add 10.9.8.0/24 nodev
ovs-appctl ovs/route/add 10.9.8.0/24 br0 10.77.1.1
ovs-appctl ovs/route/add 10.9.8.0/24 br0 pkt_mark=7
ovs-appctl ovs/route/add 10.9.8.0/24 br0 pkt_mark=x
ovs-appctl ovs/route/add 10.9.8.0/24
ovs-appctl ovs/route/add 10.9.7.0/24 br0 10.1.2.9 src=10.1.2.1
ovs-appctl ovs/route/add 10.9.6.0/24 br0 10.1.2.9 src=10.1.2.77
ovs-appctl ovs/route/add 10.9.5.0/24 br0 10.1.2.9 pkt_mark=1 src=10.1.2.1
ovs-appctl ovs/route/add fd00:2::/64 br0 fd00:1::9
ovs-appctl ovs/route/add fd00:4::/64 br0 10.1.2.9
ovs-appctl ovs/route/show | sort
ovs-appctl ovs/route/lookup 10.9.8.1 pkt_mark=7
ovs-appctl ovs/route/lookup 10.9.8.1
ovs-appctl ovs/route/lookup fd00:2::1
ovs-appctl ovs/route/lookup fd00:99::1
ovs-appctl ovs/route/lookup 10.9.8.1/24
ovs-appctl ovs/route/lookup 10.9.8.1 src=1.2.3.4
ovs-appctl ovs/route/del 10.9.8.0/24
ovs-appctl ovs/route/del 10.9.8.0/24 pkt_mark=7
ovs-appctl ovs/route/del 10.1.2.0/24
ovs-appctl ovs/route/show | sort`);
  for (const box of [ours, real]) {
    box.must('ip', 'route', 'add', '10.53.0.0/16', 'via', '10.1.2.3', 'metric', '5');
    box.must('ip', 'route', 'add', '10.53.0.0/16', 'via', '10.1.2.4', 'metric', '3');
    box.must('ip', 'route', 'add', 'blackhole', '10.52.0.0/16');
  }
  await settles('ovs-appctl ovs/route/show | sort', /10\.53\.0\.0/);
  same('ovs-appctl ovs/route/lookup 10.53.0.1\novs-appctl ovs/route/lookup 10.52.0.1');
});

test('neighbours and source ports', () => {
  same(`
ovs-appctl tnl/neigh/set br0 10.1.2.9 02:55:00:00:00:09
ovs-appctl tnl/arp/set br0 10.1.2.10 02:55:00:00:00:10
ovs-appctl tnl/neigh/set br0 10.1.2.8 02:55:00:00:00:0g
ovs-appctl tnl/neigh/set nobr 10.1.2.8 02:55:00:00:00:09
ovs-appctl tnl/neigh/set br0
ovs-appctl tnl/neigh/show | sort
ovs-appctl tnl/neigh/aging 20
ovs-appctl tnl/neigh/aging
ovs-appctl tnl/neigh/aging 0
ovs-appctl tnl/neigh/aging x
ovs-appctl tnl/neigh/flush br0
ovs-appctl tnl/neigh/flush
ovs-appctl tnl/egress_port_range 50000 40000
ovs-appctl tnl/egress_port_range 0 70000
ovs-appctl tnl/egress_port_range 10
ovs-appctl tnl/egress_port_range a b
ovs-appctl tnl/egress_port_range`);
});

test('tunnels that cannot be, keys of all kinds, and what the lists say', async () => {
  let number = 0;
  const add = (...settings: string[]): string => {
    const name = `v${++number}`;
    return `ovs-vsctl add-port br1 ${name} -- set interface ${name} ofport_request=${number} ${settings
      .map((setting) => (setting.startsWith('type') ? setting : `options:${setting}`))
      .join(' ')}`;
  };
  const remote = 'remote_ip=10.1.2.9';
  same(
    [
      add('type=vxlan', remote, 'key=5'),
      add('type=vxlan', remote, 'in_key=6', 'out_key=7'),
      add('type=vxlan', remote, 'in_key=5'),
      add('type=geneve', 'remote_ip=flow', 'local_ip=10.1.2.1', 'key=flow'),
      add('type=gre', 'remote_ip=fd00:1::9', 'key=flow', 'csum=true'),
      add('type=vxlan', 'remote_ip=10.1.2.10', 'dst_port=4790', 'exts=gbp'),
      add('type=vxlan', remote, 'key=16777216'),
      add('type=vxlan', 'key=3'),
      add('type=vxlan', remote, 'local_ip=fd00:1::1'),
      add('type=geneve', 'remote_ip=bogus'),
      add('type=geneve', remote, 'foo=bar', 'tos=64', 'ttl=300'),
      add('type=geneve', 'remote_ip=10.1.2.11', 'in_key=flow', 'out_key=9', 'tos=inherit'),
      // Policy or not: a matter of the UDP port.
      add('type=vxlan', remote, 'dst_port=4790', 'key=77'),
      add('type=vxlan', 'remote_ip=224.0.0.1'),
      add('type=vxlan', 'remote_ip=flow', 'key=flow'),
      'ovs-vsctl set interface v1 options:exts=gbp',
      "ovs-vsctl --columns=error find interface name=v1 || ''",
      'ovs-vsctl remove interface v1 options exts',
      "ovs-vsctl --columns=name,ofport,error find interface type!='internal' | sort",
      'ovs-appctl tnl/ports/show | sort',
      'ovs-appctl tnl/ports/show -v | sort',
      'ovs-appctl ofproto/list-tunnels | sort',
      "ovs-appctl dpctl/show | grep '_sys'",
    ].join('\n'),
  );
  // The only one on its port may change its mind.
  same('ovs-vsctl remove interface v6 options exts');
  await settles('ovs-vsctl get interface v6 error', /^\[\]/);
});

test('a tunnel whose remote end no flow has set, and one that leads back', () => {
  const datapath = (flow: string): string =>
    `ovs-appctl ofproto/trace br1 ${flow} | grep -v '^Final flow'`;
  same(`
ovs-ofctl add-flow br1 in_port=local,actions=output:15
${datapath('in_port=local,dl_type=0x800')}
ovs-ofctl add-flow br1 "in_port=local,actions=set_field:99.1.2.1->tun_dst,output:15"
${datapath('in_port=local,dl_type=0x800')}
ovs-ofctl add-flow br1 "in_port=15,actions=set_field:10.1.2.1->tun_dst,output:15"
ovs-appctl ofproto/trace br1 in_port=15,tun_src=10.1.2.9,tun_dst=10.1.2.1,dl_type=0x800 | grep -o 'Not tunneling.*'`);
});

test('BFD and CFM: odd settings', async () => {
  same(`
ovs-vsctl set interface p0 bfd:enable=true
ovs-appctl bfd/set-forwarding p9 true
ovs-appctl bfd/set-forwarding p0 bogus
ovs-appctl bfd/set-forwarding
ovs-appctl bfd/show p9
ovs-vsctl set interface p0 bfd:min_rx=0 bfd:min_tx=50 bfd:mult=0
ovs-vsctl set interface p0 bfd:mult=300 bfd:min_tx=abc`);
  await settles('ovs-appctl bfd/show', /Detect Multiplier: /);
  same(`
ovs-appctl bfd/set-forwarding p0 true
ovs-appctl bfd/show p0 | grep Forwarding
ovs-appctl bfd/set-forwarding normal
ovs-vsctl clear interface p0 bfd -- set interface p0 cfm_mpid=70000
ovs-vsctl clear interface p0 bfd -- set interface p0 cfm_mpid=5
ovs-appctl cfm/show p9
ovs-appctl cfm/set-fault
ovs-appctl cfm/set-fault p0 bogus
ovs-appctl cfm/set-fault p9 true
ovs-vsctl set interface p0 other_config:cfm_interval=abc other_config:cfm_ccm_vlan=5000 other_config:cfm_ccm_pcp=9`);
  await settles('ovs-appctl cfm/show p0', /fault: recv/);
  same('ovs-vsctl set interface p0 other_config:cfm_interval=77 other_config:cfm_extended=true');
  await settles('ovs-appctl cfm/show p0', /interval: 77ms/);
  same('ovs-vsctl clear interface p0 cfm_mpid');
});

test('controllers that cannot be reached, or not at all', async () => {
  const columns = (target: string): string =>
    `ovs-vsctl --columns=is_connected,role,status find controller 'target="${target}"'`;
  same(`
ovs-vsctl set-controller br0 tcp:no-such-name.invalid:6699 ssl:127.0.0.1:1 unix:/nowhere ptcp:6655:127.0.0.1 bogus punix:/tmp/x.sock`);
  // Connected it is never, but whether it is just being tried differs.
  const lastError = (target: string): string => `${columns(target)} | grep -o 'last_error="[^"]*"'`;
  await settles(lastError('ssl:127.0.0.1:1'), /Protocol not available/);
  await settles(
    lastError('tcp:no-such-name.invalid:6699'),
    /Address family not supported by protocol/,
  );
  for (const target of ['unix:/nowhere', 'ptcp:6655:127.0.0.1', 'bogus', 'punix:/tmp/x.sock']) {
    same(columns(target));
  }
  same(`
ovs-vsctl set controller br0 inactivity_probe=-1
ovs-vsctl set controller br0 connection_mode=bogus
ovs-vsctl set controller br0 controller_rate_limit=10
ovs-vsctl set-fail-mode br0 bogus
ovs-vsctl set-fail-mode br0 secure`);
  // The fail mode changes: what is in the tables stays.
  same('ovs-ofctl add-flow br0 priority=5,actions=drop');
  for (const mode of ['secure', 'standalone', 'secure']) {
    same(`ovs-vsctl set-fail-mode br0 ${mode}`);
    await settles('ovs-ofctl dump-flows br0', /priority=5/);
    await settles('ovs-appctl bridge/dump-flows br0', /reg0=0x1/);
  }
  same('ovs-vsctl del-controller br0');
});

test('groups, meters and flows that are refused, alone and in bundles, which then leave nothing', () => {
  const of = (command: string, words: string, version = 13): string =>
    `ovs-ofctl -O OpenFlow${version} ${command} br0 "${words}"`;
  const group = (words: string): string => of('add-group', `group_id=${words}`);
  const flow = (words: string): string => of('add-flow', words);
  const state = ['dump-flows', 'dump-groups', 'dump-meters'].map(
    (command) => `ovs-ofctl -O OpenFlow15 ${command} br0 | sort`,
  );
  same(
    [
      group('1,type=all,bucket=output:1'),
      group('1,type=all,bucket=output:1'),
      group('4294967041,type=all,bucket=output:1'),
      group('3,type=indirect,bucket=output:1,bucket=output:2'),
      group('3,type=ff,bucket=output:1'),
      group('3,type=all,bucket=group:3'),
      group('3,type=all,bucket=group:99'),
      of('mod-group', 'group_id=2,type=all,bucket=output:1'),
      of('mod-group', 'group_id=1,type=select,bucket=watch_port:99,output:1'),
      of('insert-buckets', 'group_id=77,command_bucket_id=last,bucket=output:2', 15),
      of('insert-buckets', 'group_id=1,command_bucket_id=55,bucket=bucket_id=8,output:2', 15),
      of('remove-buckets', 'group_id=1,command_bucket_id=99', 15),
      of('add-meter', 'meter=1,kbps,band=type=drop,rate=1000'),
      of('add-meter', 'meter=1,kbps,band=type=drop,rate=1000'),
      of('mod-meter', 'meter=2,kbps,band=type=drop,rate=1000'),
      of('add-meter', 'meter=0,kbps,band=type=drop,rate=1000'),
      of('add-meter', 'meter=4294967295,kbps,band=type=drop,rate=1000'),
      of('add-meter', 'meter=4,pktps,band=type=drop,rate=0'),
      of('del-meter', 'meter=77'),
      flow('priority=1,ip,actions=group:99'),
      flow('priority=1,ip,actions=meter:9,drop'),
      flow('table=254,actions=drop'),
      flow('ip,actions=push_vlan:0x1234'),
      flow('check_overlap,priority=5,actions=output:1'),
      flow('ip,actions=set_field:1->tcp_src'),
      flow('ip,actions=output:70000'),
      flow('ip,actions=conjunction(1,3/2)'),
      of('packet-out', 'in_port=1 packet=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa actions=group:55'),
      ...state,
    ].join('\n'),
  );
  const bundles: string[][] = [
    ['flow add priority=9,ip,actions=output:1', 'flow add priority=9,tcp,actions=group:51'],
    ['flow add priority=9,ip,actions=output:1', 'flow delete', 'nonsense'],
    [
      'group add group_id=50,type=all,bucket=output:1',
      'flow add priority=9,ip,actions=group:50',
      'group delete group_id=1',
      'group insert_bucket group_id=49,command_bucket_id=last,bucket=output:1',
    ],
    [
      ...Array.from({ length: 50_000 }, (_, i) => {
        const address = `10.${i >> 16}.${(i >> 8) & 0xff}.${i & 0xff}`;
        return `flow add table=1,priority=${(i % 100) + 1},ip,nw_dst=${address},actions=drop`;
      }),
      'flow add table=2,actions=group:77',
    ],
  ];
  for (const [i, bundle] of bundles.entries()) {
    for (const box of [ours, real]) writeFileSync(box.path(`bundle${i}`), `${bundle.join('\n')}\n`);
    // Of what has failed only the error is compared; behind it the messages are dumped.
    const command =
      `ovs-ofctl -O OpenFlow15 bundle br0 bundle${i} >out 2>&1; echo "status $?"; ` +
      `grep -oE 'OFP[A-Z]+_[A-Z_]+|nonsense' out | head -1`;
    const texts = [ours, real].map((box) => output(box, command));
    assert.match(texts[0]!, /^status 1\n(OFP|nonsense)/);
    assert.equal(texts[0], texts[1]);
    same(state.join('\n'));
  }
});
