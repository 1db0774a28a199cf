// QoS of ports: the same rows beside the real daemon (what the kernel gets, what qos/show says), and what limits do to
// traffic between two machines.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { after, before, test } from 'node:test';
import { Sandbox } from './sandbox.ts';

let real: Sandbox;
let ours: Sandbox;
let machines: [string, string];

before(async () => {
  [real, ours] = await Promise.all([Sandbox.start({ daemon: 'real' }), Sandbox.start()]);
  machines = [ours.addNamespace('a'), ours.addNamespace('b')];
  for (const box of [real, ours]) {
    box.must('ip', 'link', 'add', 'q0', 'type', 'veth', 'peer', 'name', 'q0p');
    box.must('ip', 'link', 'set', 'q0', 'up');
    box.must('ip', 'link', 'set', 'q0p', 'up');
    box.vsctl('add-br', 'br0', '--', 'set', 'Bridge', 'br0', 'datapath_type=netdev');
    box.vsctl('add-port', 'br0', 'q0');
  }
  for (const [i, space] of machines.entries()) {
    const peer = ['type', 'veth', 'peer', 'name', 'eth0', 'netns', space];
    ours.must('ip', 'link', 'add', `m${i}`, ...peer);
    ours.must('ip', 'link', 'set', `m${i}`, 'up');
    ours.vsctl('add-port', 'br0', `m${i}`);
    inside(space, 'ethtool', '-K', 'eth0', 'tx', 'off');
    inside(space, 'ip', 'address', 'add', `10.0.0.${i + 1}/24`, 'dev', 'eth0');
    inside(space, 'ip', 'link', 'set', 'eth0', 'up');
  }
});

after(async () => {
  await Promise.all([real?.stop(), ours?.stop()]);
});

function inside(space: string, ...command: string[]): string {
  const words = ['netns', 'exec', space, ...command];
  const r = spawnSync('ip', words, { encoding: 'utf8', timeout: 60000 });
  assert.equal(r.status, 0, `${command.join(' ')}: ${r.stderr}`);
  return r.stdout;
}

/** Smaps have no order, and counters are the traffic's. */
const sorted = (text: string): string[] =>
  text
    .split('\n')
    .filter((line) => line !== '' && !/tx_(packets|bytes)/.test(line))
    .sort();

const classes = (box: Sandbox): string[] =>
  box
    .must('tc', 'class', 'show', 'dev', 'q0')
    .split('\n')
    .filter((line) => line.startsWith('class'))
    .sort();

test('types of QoS', () => {
  const of = (box: Sandbox): string[] => sorted(box.appctl('qos/show-types', 'q0'));
  assert.deepEqual(of(ours), of(real));
  for (const command of ['qos/show', 'qos/show-types']) {
    const texts = [ours, real].map((box) => box.run('ovs-appctl', command, 'nobody').stderr);
    assert.equal(texts[0], texts[1]);
  }
  assert.equal(ours.appctl('qos/show', 'q0'), real.appctl('qos/show', 'q0'));
});

test('linux-htb: the classes of the kernel and the report', async () => {
  const create = [
    ...['--', 'set', 'Port', 'q0', 'qos=@q'],
    ...['--', '--id=@q', 'create', 'QoS', 'type=linux-htb', 'other-config:max-rate=20000000'],
    ...['queues:0=@q0', 'queues:5=@q5'],
    ...['--', '--id=@q0', 'create', 'Queue', 'other-config:min-rate=4000000'],
    ...['--', '--id=@q5', 'create', 'Queue', 'other-config:max-rate=8000000'],
    ...['other-config:burst=400000', 'other-config:priority=3'],
  ];
  for (const box of [real, ours]) box.vsctl(...create);
  const strip = (lines: string[]): string[] =>
    lines.map((line) => line.replace(/c?burst \S+/g, 'burst').replace(/ leaf \S+/, ''));
  assert.equal(classes(real).length, 3);
  assert.deepEqual(strip(classes(ours)), strip(classes(real)));
  assert.deepEqual(sorted(ours.appctl('qos/show', 'q0')), sorted(real.appctl('qos/show', 'q0')));
  const queues = (box: Sandbox): string[] =>
    [...box.ofctl('queue-stats', 'br0', 'q0').matchAll(/queue (\d+)/g)].map((m) => m[1]!).sort();
  assert.deepEqual(queues(ours), queues(real));
  for (const box of [real, ours])
    box.vsctl('set', 'Queue', queueOf(box), 'other-config:max-rate=6000000');
  assert.deepEqual(strip(classes(ours)), strip(classes(real)));
  for (const box of [real, ours]) box.vsctl('--', 'clear', 'Port', 'q0', 'qos');
  await ours.until(() => classes(ours).length === 0, 10000, 'kernel without classes');
  assert.equal(ours.appctl('qos/show', 'q0'), real.appctl('qos/show', 'q0'));
});

test("a queue's DSCP marks what goes out by it, and nothing else", () => {
  const create = [
    ...['--', 'set', 'Port', 'q0', 'qos=@q', '--', '--id=@q', 'create', 'QoS', 'type=linux-noop'],
    ...['queues:0=@q0', 'queues:5=@q5', 'queues:6=@q6', '--', '--id=@q0', 'create', 'Queue'],
    ...['dscp=10', '--', '--id=@q5', 'create', 'Queue', 'dscp=46', 'other-config:priority=7'],
    ...['--', '--id=@q6', 'create', 'Queue', 'other-config:priority=1'],
  ];
  const rounds = [
    'set_queue:5,output:q0,LOCAL',
    'set_queue:5,q0,set_queue:6,q0,pop_queue,q0',
    'enqueue:q0:5,LOCAL',
  ];
  const traces = (box: Sandbox, flow: string): string[] =>
    rounds.map((actions) => {
      box.ofctl('add-flow', 'br0', `table=9,actions=${actions}`);
      box.ofctl('add-flow', 'br0', 'table=0,actions=resubmit(,9)');
      return box
        .appctl('ofproto/trace', '--names', 'br0', `in_port=99,${flow}`)
        .split('\n')
        .filter((line) => /^(Final|Megaflow|Datapath)/.test(line))
        .join('\n');
    });
  const flows = ['udp,nw_tos=28', 'tcp6,nw_tos=0', 'arp', 'dl_vlan=5,icmp,nw_tos=40'];
  for (const box of [real, ours]) box.vsctl(...create);
  for (const flow of flows) {
    const expected = traces(real, flow);
    if (!flow.includes('arp')) assert.match(expected[0]!, /set\(ipv[46]\((tos|tclass)=0xb8/);
    assert.deepEqual(traces(ours, flow), expected, flow);
  }
  for (const box of [real, ours]) box.vsctl('set', 'Queue', markedQueueOf(box), 'dscp=20');
  assert.deepEqual(traces(ours, 'udp'), traces(real, 'udp'));
  assert.match(traces(ours, 'udp')[0]!, /tos=0x50/);
  for (const box of [real, ours]) box.vsctl('clear', 'Port', 'q0', 'qos');
  assert.deepEqual(traces(ours, 'udp'), traces(real, 'udp'));
  assert.doesNotMatch(traces(ours, 'udp')[0]!, /set\(ipv4/);
  for (const box of [real, ours]) {
    box.ofctl('del-flows', 'br0');
    box.ofctl('add-flow', 'br0', 'actions=NORMAL');
  }
});

const markedQueueOf = (box: Sandbox): string =>
  box.vsctl('--bare', '--columns=_uuid', 'find', 'Queue', 'other-config:priority=7').trim();

/** The queue of the highest priority. */
const queueOf = (box: Sandbox): string =>
  box.vsctl('--bare', '--columns=_uuid', 'find', 'Queue', 'other-config:priority=3').trim();

/** Percent of datagrams lost at 20 Mbit/s from the first machine to the second. */
async function loss(): Promise<number> {
  const server = ours.spawn('ip', [
    'netns',
    'exec',
    machines[1],
    'iperf3',
    '-s',
    '-1',
    '--logfile',
    '/dev/null',
  ]);
  const listens = () => inside(machines[1], 'ss', '-Htln', 'sport = :5201').trim() !== '';
  await ours.until(listens, 20_000, 'iperf3');
  const words = ['-c', '10.0.0.2', '-u', '-b', '20M', '-l', '1000', '-t', '2', '-J'];
  const report = JSON.parse(inside(machines[0], 'iperf3', ...words)) as {
    end: { sum: { lost_percent: number } };
  };
  server.kill('SIGKILL');
  return report.end.sum.lost_percent;
}

test('ingress policing limits what a machine sends, by bits and by packets', async () => {
  const lost = async (...columns: string[]): Promise<number> => {
    ours.vsctl('set', 'Interface', 'm0', ...columns);
    return loss();
  };
  const free = await lost('ingress_policing_rate=0');
  assert.ok(free < 30, `lost ${free} % without a limit`);
  const bits = await lost('ingress_policing_rate=2000', 'ingress_policing_burst=200');
  assert.ok(bits > 70 && bits < 97, `lost ${bits} % of 20 Mbit/s at 2 Mbit/s`);
  // 2 500 packets a second are sent.
  const packets = await lost(
    ...[
      'ingress_policing_rate=0',
      'ingress_policing_kpkts_rate=1',
      'ingress_policing_kpkts_burst=1',
    ],
  );
  assert.ok(packets > 25 && packets < 60, `lost ${packets} % of 2 500 packets/s at 1 000`);
  const again = await lost('ingress_policing_kpkts_rate=0');
  assert.ok(again < 30, `lost ${again} % when the limit has gone`);
});

test('linux-htb shapes a machine down to its rate', async () => {
  ours.vsctl(
    ...['--', 'set', 'Port', 'm1', 'qos=@q', '--', '--id=@q', 'create', 'QoS', 'type=linux-htb'],
    'other-config:max-rate=4000000',
  );
  const lost = await loss();
  ours.vsctl('--', 'clear', 'Port', 'm1', 'qos');
  assert.ok(lost > 50 && lost < 95, `lost ${lost} % of 20 Mbit/s at 4 Mbit/s`);
});
