// Two Linux guests under QEMU with plain virtio drivers, joined by xvio and configured by ovs-vsctl and ovs-ofctl.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Vm } from '../guest/vm.ts';
import { Sandbox } from './sandbox.ts';

let box: Sandbox;
let a: Vm;
let b: Vm;

/** Packet loss of `count` pings in percent. */
async function pingLoss(from: Vm, to: string, options = '', count = 3): Promise<number> {
  const { output } = await from.run(`ping ${options} -c ${count} -i 0.2 -W 2 ${to}`, 30000);
  const loss = /(\d+)% packet loss/.exec(output)?.[1];
  assert.ok(loss !== undefined, `no result of ping: ${output}`);
  return Number(loss);
}

async function iperf(server: Vm, client: Vm, ip: string, options = ''): Promise<number> {
  await server.must('iperf3 -s -1 -D >/dev/null 2>&1; sleep 1');
  const out = await client.must(`iperf3 -c ${ip} -t 3 -f m ${options}`, 60000);
  const rates = [...out.matchAll(/([\d.]+) Mbits\/sec.*receiver/g)];
  assert.ok(rates.length > 0, out);
  return Number(rates.at(-1)![1]);
}

before(async () => {
  box = await Sandbox.start();
  box.vsctl('add-br', 'br0', '--', 'set', 'bridge', 'br0', 'datapath_type=netdev');
  // One of each kind: the switch connects to QEMU, QEMU connects to the switch (and again, with reconnect=1).
  const port = (name: string, ...columns: string[]): string[] => [
    ...['--', 'add-port', 'br0', name, '--', 'set', 'interface', name, ...columns],
  ];
  const server = `options:vhost-server-path=${box.path('vma.sock')}`;
  const ports = [
    ...port('vma', 'type=dpdkvhostuserclient', server),
    ...port('vmb', 'type=dpdkvhostuser'),
  ];
  box.vsctl('--', 'list-br', ...ports);
  const common = { dir: box.dir, queues: 2, cpus: 2, device: 'mrg_rxbuf=on,host_mtu=9000' };
  [a, b] = await Promise.all([
    Vm.start({
      ...common,
      name: 'a',
      socket: box.path('vma.sock'),
      mac: '52:54:00:00:00:0a',
      ip: '10.0.0.1/24',
      ip6: 'fd00::1/64',
    }),
    Vm.start({
      ...common,
      name: 'b',
      socket: box.path('vmb'),
      mode: 'client',
      mac: '52:54:00:00:00:0b',
      ip: '10.0.0.2/24',
      ip6: 'fd00::2/64',
    }),
  ]);
  await Promise.all([a.ready(), b.ready()]);
  // host_mtu allows 9000 bytes; the ports have 1500 until mtu_request says otherwise.
  await a.must('ip link set eth0 mtu 1500');
  await b.must('ip link set eth0 mtu 1500');
});

after(async () => {
  await a?.stop();
  await b?.stop();
  await box?.stop();
});

test('ping, IPv4 and IPv6', async () => {
  assert.equal(await pingLoss(a, '10.0.0.2'), 0);
  assert.equal(await pingLoss(b, 'fd00::1', '-6'), 0);
});

test('the interface columns tell what the guests negotiated', () => {
  assert.equal(box.vsctl('get', 'interface', 'vma', 'link_state').trim(), 'up');
  const status = box.vsctl('get', 'interface', 'vma', 'status');
  assert.match(status, /mode=client/);
  assert.match(status, /status=connected/);
  assert.match(status, /num_of_vrings="4"/);
});

test('TCP and UDP both ways', async () => {
  assert.ok((await iperf(b, a, '10.0.0.2')) > 1);
  assert.ok((await iperf(a, b, '10.0.0.1')) > 1);
  assert.ok((await iperf(b, a, '10.0.0.2', '-u -b 20M')) > 10);
  assert.ok((await iperf(a, b, '10.0.0.1', '-u -b 20M')) > 10);
});

test('GSO packets cross whole', () => {
  const stats = box.appctl('coverage/show');
  assert.doesNotMatch(stats, /drop_tx_gso_impossible/);
});

test('MTU of 9000 bytes', async () => {
  box.vsctl(
    'set',
    'interface',
    'vma',
    'mtu_request=9000',
    '--',
    'set',
    'interface',
    'vmb',
    'mtu_request=9000',
  );
  await a.must('ip link set eth0 mtu 9000');
  await b.must('ip link set eth0 mtu 9000');
  assert.equal(await pingLoss(a, '10.0.0.2', '-s 8972'), 0);
  assert.ok((await iperf(b, a, '10.0.0.2')) > 1);
});

test('two queue pairs', async () => {
  await a.must('ethtool -L eth0 combined 2');
  await b.must('ethtool -L eth0 combined 2');
  assert.equal(await pingLoss(a, '10.0.0.2'), 0);
  assert.ok((await iperf(b, a, '10.0.0.2', '-P 4')) > 1);
});

test('VLAN isolation', async () => {
  box.vsctl('set', 'port', 'vma', 'tag=10', '--', 'set', 'port', 'vmb', 'tag=20');
  assert.equal(await pingLoss(a, '10.0.0.2'), 100);
  box.vsctl('set', 'port', 'vmb', 'tag=10');
  assert.equal(await pingLoss(a, '10.0.0.2'), 0);
  box.vsctl('clear', 'port', 'vma', 'tag', '--', 'clear', 'port', 'vmb', 'tag');
  assert.equal(await pingLoss(a, '10.0.0.2'), 0);
});

test('a flow that drops, and its counters', async () => {
  box.ofctl('add-flow', 'br0', 'priority=100,icmp,nw_src=10.0.0.1,actions=drop');
  assert.equal(await pingLoss(a, '10.0.0.2', '', 5), 100);
  const flow = box.ofctl('dump-flows', 'br0', 'icmp');
  assert.match(flow, /n_packets=5, n_bytes=490/);
  box.ofctl('--strict', 'del-flows', 'br0', 'priority=100,icmp,nw_src=10.0.0.1');
  assert.equal(await pingLoss(a, '10.0.0.2'), 0);
});

test('the daemon is killed and started again under the running guests', async () => {
  const before = box.vsctl('get', 'interface', 'vma', 'ofport').trim();
  await box.stopDaemon('SIGKILL');
  assert.equal(await pingLoss(a, '10.0.0.2', '', 2), 100);
  await box.startDaemon();
  for (const port of ['vma', 'vmb']) {
    await box.until(
      () => box.vsctl('get', 'interface', port, 'link_state').trim() === 'up',
      20000,
      `link of ${port} after the restart`,
    );
  }
  await sleep(1500);
  assert.equal(await pingLoss(a, '10.0.0.2'), 0);
  assert.equal(await pingLoss(b, '10.0.0.1'), 0);
  assert.ok((await iperf(b, a, '10.0.0.2')) > 1);
  assert.equal(box.vsctl('get', 'interface', 'vma', 'ofport').trim(), before);
});
