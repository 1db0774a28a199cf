// What operators of an OVN cloud do to a hypervisor while machines talk: ovn-controller and the database restarted, northd
// and controllers that compute everything anew, another address and another kind of tunnel, ovn-monitor-all, a machine that
// moves, a chassis thrown out by mistake, and two hundred ports with rules at once. Established traffic survives each.

import assert from 'node:assert/strict';
import { after, before, type TestContext, test } from 'node:test';
import { type Host, OvnNet } from './ovnNet.ts';
import { type PingStream, startPing } from './ovnPing.ts';

const daemon = process.env.XVIO_OVN_DAEMON === 'real' ? 'real' : 'xvio';
const MAC = { vm1: '02:00:00:00:01:01', vm2: '02:00:00:00:01:02' };
const PORTS = 200;
/** On the busiest of machines; a quiet one sees none but that of the change of the tunnel's address. */
const PAUSE_MAX_MS = 8000;

let net: OvnNet;
let ping: PingStream;
let hv1: Host;
let hv2: Host;

before(async () => {
  net = await OvnNet.start({
    hosts: ['hv1', 'hv2'].map((name) => ({ name, daemon }) as const),
    encap: 'geneve',
  });
  hv1 = net.host('hv1');
  hv2 = net.host('hv2');
  const nb = (line: string): string => net.nb(...line.split(' '));
  nb('ls-add ls1 -- lsp-add ls1 vm1 -- lsp-add ls1 vm2');
  net.nb('lsp-set-addresses', 'vm1', `${MAC.vm1} 10.1.0.11`);
  net.nb('lsp-set-addresses', 'vm2', `${MAC.vm2} 10.1.0.12`);
  nb('pg-add pg vm1 vm2');
  net.nb('acl-add', 'pg', 'from-lport', '1001', 'inport == @pg && ip4', 'allow-related');
  net.nb('acl-add', 'pg', 'to-lport', '1001', 'outport == @pg && icmp4', 'allow-related');
  net.nb('acl-add', 'pg', 'to-lport', '1000', 'outport == @pg && ip', 'drop');
  net.addMachine({ name: 'vm1', host: 'hv1', mac: MAC.vm1, addresses: ['10.1.0.11/24'] });
  net.addMachine({ name: 'vm2', host: 'hv2', mac: MAC.vm2, addresses: ['10.1.0.12/24'] });
  net.sync();
  // The first packets may wait for addresses to be resolved.
  await net.until(() => net.ping('vm1', '10.1.0.12'), 30000, 'answers');
  ping = startPing(net, 'vm1', '10.1.0.12');
});

after(() => {
  ping?.stop();
  return net?.stop();
});

/** Answers still come, and the longest pause since the beginning was none that anybody would call an outage. */
async function answersGoOn(t: TestContext, what: string): Promise<void> {
  const before = ping.answered();
  await net.until(() => ping.answered() > before + 20, 30000, `answers after ${what}`);
  const pauseMs = ping.longestGapMs();
  t.diagnostic(`longest pause so far ${pauseMs} ms`);
  assert.ok(pauseMs < PAUSE_MAX_MS, `no answers for ${pauseMs} ms`);
}

const controller = (host: Host, ...words: string[]): string =>
  host.box.must('ovn-appctl', '-t', 'ovn-controller', ...words);

const flowCount = ({ box }: Host): number =>
  Number(/flow_count=(\d+)/.exec(box.ofctl('dump-aggregate', 'br-int'))![1]);

async function restartController(host: Host, ...words: string[]): Promise<void> {
  const old = host.controller!;
  const gone = new Promise((resolve) => old.once('exit', resolve));
  controller(host, 'exit', ...words);
  await gone;
}

test('northd and ovn-controller compute everything anew', async (t) => {
  net.in('c', 'ovn-appctl', '-t', `${net.dir}/northd.ctl`, 'inc-engine/recompute');
  for (const host of net.hosts) controller(host, 'recompute');
  net.sync();
  await answersGoOn(t, 'a recompute');
});

test('ovn-controller is restarted to be upgraded', async (t) => {
  const flows = flowCount(hv1);
  await restartController(hv1, '--restart');
  await answersGoOn(t, 'the end of ovn-controller');
  assert.equal(flowCount(hv1), flows, 'without ovn-controller');
  hv1.startController();
  net.sync();
  await answersGoOn(t, 'its return');
});

test('ovn-controller goes for good, and comes back', async (t) => {
  await restartController(hv2);
  await net.until(
    () => !net.sb('--bare', '--columns=name', 'list', 'Chassis').includes('hv2'),
    10000,
    'end',
  );
  hv2.startController();
  net.sync();
  await answersGoOn(t, 'its return');
});

test("the switch's database is restarted", async (t) => {
  await hv1.box.restartDatabase();
  await answersGoOn(t, 'the restart');
  await hv1.box.until(
    () =>
      hv1.box.run('ovs-vsctl', '--timeout=2', 'set', 'Bridge', 'br-int', 'external_ids:touched=yes')
        .status === 0,
    30000,
    'change',
  );
  net.sync();
  await answersGoOn(t, 'a change after the restart');
});

test('ovn-monitor-all', async (t) => {
  for (const { box } of net.hosts)
    box.vsctl('set', 'Open_vSwitch', '.', 'external_ids:ovn-monitor-all=true');
  net.sync();
  await answersGoOn(t, 'ovn-monitor-all');
});

test('a chassis is deleted by mistake', async (t) => {
  net.sb('chassis-del', 'hv2');
  await net.until(
    () => net.sb('--bare', '--columns=name', 'list', 'Chassis').includes('hv2'),
    20000,
    'hv2',
  );
  net.sync();
  await answersGoOn(t, 'its return');
});

test('another tunnel address', async (t) => {
  // Without it the second address would go with the first one.
  hv2.box.must('sysctl', '-qw', 'net.ipv4.conf.br-phy.promote_secondaries=1');
  hv2.box.must('ip', 'address', 'add', '10.99.0.22/24', 'dev', 'br-phy');
  hv2.box.vsctl('set', 'Open_vSwitch', '.', 'external_ids:ovn-encap-ip=10.99.0.22');
  const remote = (): string =>
    hv1.box.vsctl('--bare', '--columns=options', 'find', 'Interface', 'type=geneve');
  await net.until(() => remote().includes('10.99.0.22'), 20000, 'tunnel to it');
  hv2.box.must('ip', 'address', 'delete', '10.99.0.12/24', 'dev', 'br-phy');
  net.sync();
  await answersGoOn(t, 'the change');
});

test('another encapsulation', async (t) => {
  await net.changeEncap('vxlan');
  await answersGoOn(t, 'VXLAN');
});

test('both encapsulations are offered', async (t) => {
  for (const { box } of net.hosts)
    box.vsctl('set', 'Open_vSwitch', '.', 'external_ids:ovn-encap-type=geneve,vxlan');
  net.sync();
  await answersGoOn(t, 'the offer');
});

test(`${PORTS} ports with rules, at once`, async (t) => {
  const names = Array.from({ length: PORTS }, (_, i) => `p${i}`);
  net.nb(
    ...names.flatMap((name, i) => [
      ...(i > 0 ? ['--'] : []),
      'lsp-add',
      'ls1',
      name,
      '--',
      'lsp-set-addresses',
      name,
      `02:00:00:00:10:${i.toString(16).padStart(2, '0')} 10.1.0.${20 + i}`,
      '--',
      'lsp-set-port-security',
      name,
      `02:00:00:00:10:${i.toString(16).padStart(2, '0')} 10.1.0.${20 + i}`,
    ]),
  );
  net.nb('pg-set-ports', 'pg', 'vm1', 'vm2', ...names);
  const startedMs = Date.now();
  hv1.box.vsctl(
    ...names.flatMap((name, i) => [
      ...(i > 0 ? ['--'] : []),
      'add-port',
      'br-int',
      `t-${name}`,
      '--',
      'set',
      'Interface',
      `t-${name}`,
      'type=internal',
      `external_ids:iface-id=${name}`,
    ]),
  );
  t.diagnostic(`ovs-vsctl took ${Date.now() - startedMs} ms`);
  const up = (): number =>
    net
      .nb('--bare', '--columns=name', 'find', 'Logical_Switch_Port', 'up=true')
      .split(/\s+/)
      .filter((n) => /^p/.test(n)).length;
  await net.until(() => up() === PORTS, 60000, 'ports');
  t.diagnostic(`up after ${Date.now() - startedMs} ms`);
  net.sync();
  t.diagnostic(`${flowCount(hv1)} flows`);
  const installed = hv1.box
    .vsctl('--bare', '--columns=name', 'find', 'Interface', 'external_ids:ovn-installed=true')
    .split(/\s+/)
    .filter((n) => n.startsWith('t-p'));
  assert.equal(installed.length, PORTS);
  // One of them is a machine.
  hv1.box.must('ip', 'link', 'set', 't-p7', 'address', '02:00:00:00:10:07', 'up');
  hv1.box.must('ip', 'address', 'add', '10.1.0.27/24', 'dev', 't-p7');
  await net.until(() => net.ping('vm2', '10.1.0.27'), 30000, 'answers of the new machine');
  await answersGoOn(t, 'the ports');
  const removedMs = Date.now();
  hv1.box.vsctl(
    ...names.flatMap((name, i) => [...(i > 0 ? ['--'] : []), 'del-port', 'br-int', `t-${name}`]),
  );
  await net.until(() => up() === 0, 60000, 'end of the ports');
  net.sync();
  t.diagnostic(`gone after ${Date.now() - removedMs} ms`);
  await answersGoOn(t, 'their end');
});

test('a machine moves to the other hypervisor', async (t) => {
  hv2.box.vsctl('del-port', 'br-int', 'v-vm2');
  hv2.box.must('ip', 'link', 'set', 'v-vm2', 'netns', hv1.box.namespace!);
  hv1.box.must('ip', 'link', 'set', 'v-vm2', 'up');
  hv1.box.vsctl(
    'add-port',
    'br-int',
    'v-vm2',
    '--',
    'set',
    'Interface',
    'v-vm2',
    'external_ids:iface-id=vm2',
  );
  net.sync();
  await answersGoOn(t, 'the move');
});
