// What tunnels leave by: a bond of which one link fails, an AF_XDP port, and a route that moves to another bridge while
// packets are on their way. The other end is the real ovs-vswitchd (bond, AF_XDP) or the Linux kernel (routes).

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { after, before, test } from 'node:test';
import { linkSandboxes, type Sandbox } from './sandbox.ts';
import { addTunnel, inNamespace, overlay4, startPair, underlay4 } from './tunnelNet.ts';

const WAIT_MS = 60_000;
const KERNEL = 9;

let ours: Sandbox;
let theirs: Sandbox;
let kernel: string;

const status = (key: string): string =>
  ours.vsctl('--if-exists', 'get', 'Interface', 'tun', `status:${key}`).trim().replaceAll('"', '');

const ping = (remote: number): boolean =>
  ours.run('ping', '-c', '2', '-i', '0.2', '-W', '1', overlay4(remote)).status === 0;

before(async () => {
  [ours, theirs] = await startPair();
  linkSandboxes(ours, theirs, 'eth1');
  addTunnel(ours, 'tun', 'vxlan', { remote_ip: underlay4(2), key: '7' });
  addTunnel(theirs, 'tun', 'vxlan', { remote_ip: underlay4(1), key: '7' });
});

after(async () => {
  await theirs?.stop();
  await ours?.stop();
});

test('a bond (balance-tcp, LACP) of which one link fails', async () => {
  for (const box of [ours, theirs]) {
    box.vsctl(
      ...['del-port', 'br-phy', 'eth0', '--', 'add-bond', 'br-phy', 'bond0', 'eth0', 'eth1'],
      ...['bond_mode=balance-tcp', 'lacp=active', 'other-config:lacp-time=fast'],
    );
  }
  const enabled = (box: Sandbox): number =>
    [...box.appctl('bond/show', 'bond0').matchAll(/^member eth\d: enabled$/gm)].length;
  await ours.until(() => enabled(ours) === 2 && enabled(theirs) === 2, WAIT_MS, 'LACP');
  await ours.until(() => ping(2), WAIT_MS, 'answer over the bond');
  assert.equal(status('tunnel_egress_iface'), 'br-phy');
  assert.equal(status('tunnel_egress_iface_carrier'), 'up');
  // The outer header decides by which link: the data plane hashes what the push has made.
  await ours.until(
    () => {
      ping(2);
      return /tnl_push\(.*hash\(l4\(0\)\),recirc\(/.test(ours.appctl('dpctl/dump-flows'));
    },
    WAIT_MS,
    'hash after the push',
  );
  for (const down of ['eth0', 'eth1']) {
    ours.must('ip', 'link', 'set', down, 'down');
    await ours.until(() => enabled(ours) === 1 && enabled(theirs) === 1, WAIT_MS, 'one link');
    await ours.until(() => ping(2), WAIT_MS, `answer without ${down}`);
    ours.must('ip', 'link', 'set', down, 'up');
    await ours.until(() => enabled(ours) === 2 && enabled(theirs) === 2, WAIT_MS, 'both links');
  }
  for (const box of [ours, theirs]) {
    box.vsctl('del-port', 'br-phy', 'bond0', '--', 'add-port', 'br-phy', 'eth0');
  }
});

test('an AF_XDP port', async () => {
  const set = (...settings: string[]) => ours.vsctl('set', 'Interface', 'eth0', ...settings);
  set('type=afxdp', 'options:xdp-mode=generic');
  await ours.until(
    () => ours.vsctl('get', 'Interface', 'eth0', 'error', 'status:xdp-mode').startsWith('[]'),
    WAIT_MS,
    'AF_XDP port',
  );
  await ours.until(() => ping(2), WAIT_MS, 'answer over AF_XDP');
  const size = ['-s', '1200', '-c', '20', '-i', '0.02', '-q'];
  assert.match(ours.must('ping', ...size, overlay4(2)), / 0% packet loss/);
  ours.vsctl('clear', 'Interface', 'eth0', 'options', '--', 'set', 'Interface', 'eth0', 'type=""');
  await ours.until(() => ping(2), WAIT_MS, 'answer over the device again');
});

test('the route moves to another bridge under traffic', async () => {
  kernel = ours.addNamespace('k');
  const ipOurs = (...args: string[]) => ours.must('ip', ...args);
  const ipKernel = (...args: string[]) => ours.must('ip', '-n', kernel, ...args);
  const ends = [172, 173].map((net) => [`${net}.31.9.1`, `${net}.31.9.9`] as const);
  for (const [i, bridge] of ['br-a', 'br-b'].entries()) {
    const device = `k${i}`;
    const peer = ['type', 'veth', 'peer', 'name', device, 'netns', kernel];
    ipOurs('link', 'add', device, ...peer);
    ipOurs('link', 'set', device, 'up');
    ours.vsctl(
      ...['add-br', bridge, '--', 'set', 'bridge', bridge, 'datapath_type=netdev'],
      ...['--', 'add-port', bridge, device],
    );
    const [near, far] = ends[i]!;
    ipOurs('addr', 'add', `${near}/24`, 'dev', bridge);
    ipOurs('link', 'set', bridge, 'up');
    ipKernel('addr', 'add', `${far}/24`, 'dev', device);
    ipKernel('link', 'set', device, 'up');
  }
  // The tunnel's ends are addresses of neither wire.
  const [near, far] = ['172.31.77.1', '172.31.77.9'];
  ipOurs('addr', 'add', `${near}/32`, 'dev', 'br-a');
  ipKernel('addr', 'add', `${far}/32`, 'dev', 'lo');
  const route = (i: 0 | 1): void => {
    ipOurs('route', 'replace', `${far}/32`, 'via', ends[i]![1], 'dev', ['br-a', 'br-b'][i]!);
  };
  route(0);
  ipKernel('route', 'add', `${near}/32`, 'via', ends[0]![0]);
  ipKernel(
    ...['link', 'add', 'tun0', 'mtu', '1400', 'type', 'vxlan', 'id', '77'],
    ...['local', far, 'remote', near, 'dstport', '4789'],
  );
  ipKernel('addr', 'add', `${overlay4(KERNEL)}/24`, 'dev', 'tun0');
  ipKernel('link', 'set', 'tun0', 'up');
  ours.vsctl('del-port', 'br-int', 'tun');
  addTunnel(ours, 'tun', 'vxlan', { remote_ip: far, local_ip: near, key: '77' });
  await ours.until(() => ping(KERNEL), WAIT_MS, 'answer by the first way');
  await ours.until(() => status('tunnel_egress_iface') === 'br-a', WAIT_MS, 'egress by br-a');

  const sent = (device: string): number =>
    Number(
      /RX:.*\n *\d+ +(\d+)/.exec(inNamespace(kernel, 'ip', '-s', 'link', 'show', device))?.[1],
    );
  const count = 400;
  const args = ['-q', '-c', String(count), '-i', '0.01', '-W', '2', overlay4(KERNEL)];
  const traffic = spawn('ip', ['netns', 'exec', ours.namespace!, 'ping', ...args]);
  let report = '';
  traffic.stdout.on('data', (chunk) => {
    report += chunk;
  });
  const ended = new Promise((resolve) => traffic.once('close', resolve));
  const before = sent('k0');
  await ours.until(() => sent('k0') > before + 20, WAIT_MS, 'traffic by the first way');
  const second = sent('k1');
  route(1);
  await ended;
  assert.ok(sent('k1') > second + 20, 'traffic by the second way');
  // What is lost waited for the neighbour's address, if anything.
  const received = Number(/(\d+) received/.exec(report)?.[1]);
  assert.ok(received > count / 2, report);
  await ours.until(() => status('tunnel_egress_iface') === 'br-b', WAIT_MS, 'egress by br-b');
  assert.match(
    ours.appctl('ovs/route/lookup', far),
    /^src 173\.31\.9\.1\ngateway 173\.31\.9\.9\ndev br-b/,
  );
  assert.match(ours.appctl('tnl/neigh/show'), /173\.31\.9\.9 .*br-b/);

  // No way at all: dropped, and by the first way again when it is back.
  ipOurs('route', 'del', `${far}/32`);
  await ours.until(() => status('tunnel_egress_iface') === '', WAIT_MS, 'no egress');
  assert.ok(!ping(KERNEL));
  assert.match(
    ours.appctl('ofproto/trace', 'br-int', 'in_port=LOCAL,ip'),
    /native tunnel routing failed/,
  );
  route(0);
  await ours.until(() => ping(KERNEL), WAIT_MS, 'answer by the first way again');
});
