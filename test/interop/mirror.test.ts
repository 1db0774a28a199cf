// Mirrors beside the real ovs-vswitchd: the same rows, the same packets, the same datapath actions and statistics.
// Dummy devices, so that both need nothing of the machine.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Sandbox } from './sandbox.ts';

let real: Sandbox;
let ours: Sandbox;

before(async () => {
  const args = ['--enable-dummy=override', '--disable-system', '--disable-system-route'];
  [real, ours] = await Promise.all(
    (['real', 'xvio'] as const).map((daemon) => Sandbox.start({ daemon, args, namespace: true })),
  );
  both('add-br', 'br0', '--', 'set', 'bridge', 'br0', 'datapath_type=dummy', 'fail_mode=secure');
  for (const port of ['p1', 'p2', 'p3', 'p4']) {
    const type = ['type=dummy', `ofport_request=${port.slice(1)}`];
    both('add-port', 'br0', port, '--', 'set', 'Interface', port, ...type);
  }
  both(
    ...['add-br', 'br1', '--', 'set', 'bridge', 'br1', 'datapath_type=dummy', 'fail_mode=secure'],
    ...['--', 'add-port', 'br0', 'pa', '--', 'set', 'Interface', 'pa', 'type=patch'],
    ...['options:peer=pb', 'ofport_request=10', '--', 'add-port', 'br1', 'pb'],
    ...['--', 'set', 'Interface', 'pb', 'type=patch', 'options:peer=pa', 'ofport_request=11'],
    ...['--', 'add-port', 'br1', 'p5', '--', 'set', 'Interface', 'p5', 'type=dummy'],
    'ofport_request=5',
  );
});

after(async () => {
  await Promise.all([real?.stop(), ours?.stop()]);
});

function both(...args: string[]): void {
  for (const box of [real, ours]) box.vsctl(...args);
}

/** Datapath ports have the number in their name with both daemons. */
function trace(box: Sandbox, flow: string): string {
  const text = box.appctl('ofproto/trace', 'br0', flow);
  const all = [...text.matchAll(/Datapath actions: (.*)/g)].map((match) => match[1]);
  return `${all.join(' | ')}${/reserved exclusively/.test(text) ? ' (reserved)' : ''}`;
}

interface Case {
  what: string;
  mirror: readonly string[];
  flows: readonly string[];
  traces: readonly string[];
  /** What shows in the first trace that the mirror works. */
  expect: string;
}

const IP = 'dl_src=50:54:00:00:00:05,dl_dst=50:54:00:00:00:07,icmp,nw_src=10.0.0.1,nw_dst=10.0.0.2';

const CASES: readonly Case[] = [
  {
    what: 'everything to a port',
    mirror: ['select-all=true', 'output-port=@p3'],
    flows: ['in_port=1 actions=output:2', 'in_port=2 actions=output:1', 'in_port=3 actions=2'],
    traces: ['in_port=1', 'in_port=2', 'in_port=3', 'in_port=4'].map((port) => `${port},${IP}`),
    expect: '3',
  },
  {
    what: 'by source port',
    mirror: ['select-src-port=@p1', 'output-port=@p3'],
    flows: ['in_port=1 actions=output:2', 'in_port=2 actions=output:1'],
    traces: [`in_port=1,${IP}`, `in_port=2,${IP}`],
    expect: '3',
  },
  {
    what: 'by destination port, after the rewriting',
    mirror: ['select-dst-port=@p2', 'output-port=@p3'],
    flows: [
      'in_port=1 actions=mod_vlan_vid:17,output:2,strip_vlan,output:4',
      'in_port=2 actions=1',
    ],
    traces: [`in_port=1,${IP}`, `in_port=2,${IP}`],
    expect: '3',
  },
  {
    what: 'by VLAN',
    mirror: ['select-all=true', 'select-vlan=11', 'output-port=@p3'],
    flows: ['actions=NORMAL'],
    traces: [
      `in_port=1,${IP},dl_vlan=11,dl_vlan_pcp=3`,
      `in_port=1,${IP},dl_vlan=12`,
      `in_port=1,${IP}`,
    ],
    expect: '3',
  },
  {
    what: 'into a VLAN',
    mirror: ['select-src-port=@p1', 'output-vlan=12'],
    flows: ['in_port=1 actions=output:2', 'in_port=2 actions=output:1'],
    traces: [`in_port=1,${IP}`, `in_port=1,${IP},dl_vlan=12`, `in_port=2,${IP}`],
    expect: 'vid=12',
  },
  {
    what: 'with a truncated copy',
    mirror: ['select-src-port=@p1', 'output-port=@p3', 'snaplen=100'],
    flows: ['in_port=1 actions=output:2,output:4'],
    traces: [`in_port=1,${IP}`],
    expect: 'trunc(100)',
  },
  {
    what: 'across a patch port each bridge mirrors for itself',
    mirror: ['select-all=true', 'output-port=@p3'],
    flows: ['in_port=1 actions=output:10,output:2', 'in_port=10 actions=output:4'],
    traces: [`in_port=1,${IP}`, `in_port=10,${IP}`],
    expect: '3',
  },
  {
    what: 'before and after recirculation only once',
    mirror: ['select-all=true', 'output-port=@p3'],
    flows: ['in_port=1,ip,ct_state=-trk actions=ct(table=1)', 'table=1 actions=output:2'],
    traces: [`in_port=1,${IP}`],
    expect: '3',
  },
];

for (const { what, mirror, flows, traces, expect } of CASES) {
  test(what, () => {
    const gets = ['p1', 'p2', 'p3'].flatMap((name) => ['--', `--id=@${name}`, 'get', 'Port', name]);
    both(
      ...['--', 'set', 'Bridge', 'br0', 'mirrors=@m', ...gets],
      ...['--', '--id=@m', 'create', 'Mirror', 'name=m', ...mirror],
    );
    for (const box of [real, ours]) {
      box.ofctl('del-flows', 'br0');
      box.ofctl('del-flows', 'br1');
      box.ofctl('add-flow', 'br1', 'actions=output:5');
      for (const flow of flows) box.ofctl('add-flow', 'br0', flow);
    }
    for (const [i, flow] of traces.entries()) {
      const wanted = trace(real, flow);
      if (i === 0) assert.ok(wanted.includes(expect), `${flow}: ${wanted}`);
      assert.equal(trace(ours, flow), wanted, flow);
    }
    both('clear', 'Bridge', 'br0', 'mirrors');
    for (const flow of traces) {
      assert.equal(trace(ours, flow), trace(real, flow), `without the mirror: ${flow}`);
    }
  });
}

test('statistics, and what the log says of rows that make no sense', async () => {
  both(
    ...['set', 'Open_vSwitch', '.', 'other_config:stats-update-interval=5000'],
    ...['--', 'set', 'Bridge', 'br0', 'mirrors=@m', '--', '--id=@p3', 'get', 'Port', 'p3'],
    ...['--', '--id=@m', 'create', 'Mirror', 'name=m', 'select-all=true', 'output-port=@p3'],
  );
  for (const box of [real, ours]) {
    box.ofctl('del-flows', 'br0');
    box.ofctl('add-flow', 'br0', 'in_port=1 actions=output:2');
    const packet =
      'in_port(1),eth(src=50:54:00:00:00:05,dst=50:54:00:00:00:07),eth_type(0x0800),' +
      'ipv4(src=10.0.0.1,dst=10.0.0.2,proto=1,tos=0,ttl=64,frag=no),icmp(type=8,code=0)';
    for (let i = 0; i < 3; i++) box.appctl('netdev-dummy/receive', 'p1', packet);
  }
  const statistics = (box: Sandbox): string => box.vsctl('get', 'Mirror', 'm', 'statistics').trim();
  for (const box of [real, ours]) {
    await box.until(() => /tx_packets=3/.test(statistics(box)), 30000, 'mirror statistics');
  }
  assert.equal(statistics(ours), statistics(real));

  both('clear', 'Bridge', 'br0', 'mirrors');
  both(
    ...['set', 'Bridge', 'br0', 'mirrors=@m,@n', '--', '--id=@p5', 'get', 'Port', 'p5'],
    ...['--', '--id=@m', 'create', 'Mirror', 'name=nowhere', 'select-all=true'],
    ...['--', '--id=@n', 'create', 'Mirror', 'name=elsewhere', 'output-port=@p5'],
  );
  const complaints = (box: Sandbox): string[] =>
    box
      .logTail(100)
      .split('\n')
      .filter((line) => /bridge\|ERR.*mirror/.test(line))
      .map((line) => line.replace(/^.*\|ERR\|/, ''))
      .sort();
  assert.equal(complaints(real).length, 2, complaints(real).join());
  assert.deepEqual(complaints(ours), complaints(real));
});
