// QEMU guests with vhost-user cards as OVN's machines, one on each of two xvio hypervisors: the address from OVN's DHCP,
// ARP and DNS answered by the switch, TCP segmentation offload into a tunnel (Geneve, then VXLAN), policies, SNAT and a
// floating address, a switch that is killed and comes back under its guest, and a guest that migrates to the other
// hypervisor, where OVN lets it talk when its RARP has come (activation-strategy=rarp).

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { incoming, migrate } from '../guest/qmp.ts';
import { Vm } from '../guest/vm.ts';
import { OvnNet } from './ovnNet.ts';
import { startPing } from './ovnPing.ts';

const MACS = ['52:54:00:00:01:01', '52:54:00:00:01:02'] as const;
const NAMESPACE_MAC = '02:00:00:00:01:21';
const FLOATING = '172.20.0.60';

let net: OvnNet;
const guests: Vm[] = [];

before(async () => {
  net = await OvnNet.start({
    hosts: [
      { name: 'hv1', daemon: 'xvio' },
      { name: 'hv2', daemon: 'xvio' },
    ],
    encap: 'geneve',
  });
  buildTopology();
  guests.push(...(await Promise.all([boot(0, 'hv1'), boot(1, 'hv2')])));
  await net.serve('out', 80);
  await Promise.all(guests.map((guest) => guest.ready()));
  net.sync();
});

after(async () => {
  for (const guest of guests) await guest.stop();
  await net?.stop();
});

/** A guest's port and QEMU on a hypervisor; `uri`: it waits for a migration instead of booting. */
async function boot(index: number, hostName: string, uri?: string): Promise<Vm> {
  const { box } = net.host(hostName);
  const name = `g${index + 1}`;
  const socket = box.path(`${name}.sock`);
  box.vsctl(
    ...['add-port', 'br-int', name, '--', 'set', 'Interface', name, 'type=dpdkvhostuserclient'],
    ...[`options:vhost-server-path=${socket}`, `external_ids:iface-id=${name}`],
    `external_ids:attached-mac="${MACS[index]}"`,
  );
  const device = 'host_mtu=1400,csum=on,host_tso4=on,guest_csum=on,guest_tso4=on';
  const monitor = ['-qmp', `unix:${box.path(`${name}.qmp`)},server=on,wait=off`];
  return Vm.start({
    ...{ name, dir: box.dir, socket, mac: MACS[index]!, device },
    extra: [...monitor, ...(uri === undefined ? [] : ['-incoming', uri])],
  });
}

function buildTopology(): void {
  const nb = (line: string): string => net.nb(...line.split(' '));
  nb(
    'ls-add ls1 -- lsp-add ls1 g1 -- lsp-add ls1 g2 -- lsp-add ls1 n1 -- ls-add ext -- lr-add lr1',
  );
  nb('lrp-add lr1 lr1-ls1 02:00:00:00:01:fe 10.1.0.1/24 -- lsp-add ls1 ls1-lr1');
  nb('lsp-set-type ls1-lr1 router -- lsp-set-addresses ls1-lr1 router');
  nb('lsp-set-options ls1-lr1 router-port=lr1-ls1');
  nb('lrp-add lr1 lr1-ext 02:00:00:00:03:fe 172.20.0.1/24 -- lsp-add ext ext-lr1');
  nb('lsp-set-type ext-lr1 router -- lsp-set-addresses ext-lr1 router');
  nb('lsp-set-options ext-lr1 router-port=lr1-ext');
  nb('lsp-add ext ext-ln -- lsp-set-type ext-ln localnet -- lsp-set-addresses ext-ln unknown');
  nb('lsp-set-options ext-ln network_name=physnet1');
  nb('lrp-set-gateway-chassis lr1-ext hv1 20');
  nb('lr-nat-add lr1 snat 172.20.0.1 10.1.0.0/24');
  nb(`lr-nat-add lr1 dnat_and_snat ${FLOATING} 10.1.0.12`);
  const dhcp = net
    .nb(
      ...['create', 'DHCP_Options', 'cidr=10.1.0.0/24'],
      'options="server_id"="10.1.0.1" "server_mac"="02:00:00:00:01:fe" "lease_time"="3600" ' +
        '"router"="10.1.0.1" "dns_server"="10.1.0.1" "mtu"="1400"',
    )
    .trim();
  for (const [i, mac] of MACS.entries()) {
    net.nb('lsp-set-addresses', `g${i + 1}`, `${mac} 10.1.0.1${i + 1}`);
    net.nb('lsp-set-port-security', `g${i + 1}`, `${mac} 10.1.0.1${i + 1}`);
    net.nb('lsp-set-dhcpv4-options', `g${i + 1}`, dhcp);
  }
  net.nb('lsp-set-addresses', 'n1', `${NAMESPACE_MAC} 10.1.0.21`);
  const dns = net.nb('create', 'DNS', 'records={"g2.example"="10.1.0.12"}').trim();
  net.nb('set', 'Logical_Switch', 'ls1', `dns_records=${dns}`);
  net.nb('pg-add', 'pg', 'g2');
  const acl = (priority: number, match: string, verdict: string): string =>
    net.nb('acl-add', 'pg', 'to-lport', String(priority), match, verdict);
  acl(1001, 'outport == @pg && ip4 && icmp4', 'allow-related');
  acl(1001, 'outport == @pg && tcp.dst == 5201', 'allow-related');
  acl(1002, 'outport == @pg && tcp.dst == 23', 'reject');
  acl(1000, 'outport == @pg && ip', 'drop');
}

/** Takes the lease: busybox gives it to a script by environment. */
const LEASE =
  `printf '#!/bin/sh\\n[ "$1" = bound ] || exit 0\\nip addr add $ip/24 dev eth0\\n` +
  `ip route add default via $router\\n' > /tmp/s; chmod +x /tmp/s; ` +
  'udhcpc -i eth0 -f -n -q -t 5 -T 3 -s /tmp/s';

test('the guests get their addresses from OVN', async () => {
  for (const [i, guest] of guests.entries()) {
    assert.match(await guest.must(LEASE), new RegExp(`lease of 10\\.1\\.0\\.1${i + 1} obtained`));
  }
});

for (const encap of ['geneve', 'vxlan'] as const) {
  if (encap === 'vxlan') test('the tunnels become VXLAN', () => net.changeEncap(encap));
  test(`they reach each other through a ${encap} tunnel, with frames of the full MTU`, async () => {
    await guests[0]!.must('ping -c 3 -W 3 10.1.0.12');
    await guests[1]!.must('ping -c 3 -W 3 -s 1372 10.1.0.11');
    const dns = await guests[0]!.run('nslookup -type=a g2.example 10.1.0.1');
    assert.match(dns.output, /10\.1\.0\.12/);
  });

  test(`TCP with segmentation offload crosses a ${encap} tunnel`, async () => {
    const bytes = 8_000_000;
    const received = (): number => {
      const text = net.host('hv1').box.ofctl('-O', 'OpenFlow15', 'dump-ports', 'br-int', 'g1');
      return Number(/rx pkts=(\d+)/.exec(text)?.[1]);
    };
    assert.match(await guests[0]!.must('ethtool -k eth0'), /tcp-segmentation-offload: on/);
    await guests[1]!.must('iperf3 -s -1 -D');
    const before = received();
    const text = await guests[0]!.must(`iperf3 -c 10.1.0.12 -n ${bytes} -J`, 90000);
    const sum = /"sum_received":\s*\{[^}]*"bytes":\s*(\d+)/.exec(text);
    // The report counts what has arrived by the time that everything has been sent.
    assert.ok(Number(sum?.[1]) >= bytes / 2, text);
    // What the guest gave away whole, the data plane has cut for the tunnel.
    const frames = received() - before;
    assert.ok(frames < bytes / 1400 / 2, `${frames} frames`);
  });

  test(`policies over ${encap}: rejected at once, dropped in silence`, async () => {
    const refused = await guests[0]!.run('nc -w 8 10.1.0.12 23 < /dev/null; true');
    assert.match(refused.output, /refused/);
    const dropped = await guests[0]!.run('nc -w 2 10.1.0.12 24 < /dev/null');
    assert.doesNotMatch(dropped.output, /refused/);
    assert.notEqual(dropped.status, 0);
  });

  test(`a guest reaches the physical network, which reaches a floating address, over ${encap}`, async () => {
    const answer = await guests[0]!.must('wget -q -O - http://172.20.0.254/');
    assert.match(answer, /^out 172\.20\.0\.1$/m);
    assert.ok(net.ping('out', FLOATING), net.logs());
  });
}

test('killed and started again, the switch serves its guest as before', async () => {
  const host = net.host('hv1');
  await host.box.stopDaemon('SIGKILL');
  await host.box.startDaemon();
  await host.addressUnderlay();
  const answers = async (): Promise<boolean> =>
    (await guests[0]!.run('ping -c 1 -W 1 10.1.0.12')).status === 0;
  await host.box.until(answers, 30000, 'answers after the restart');
});

/** What the southbound database says about the port of the first guest. */
const binding = (column: string): string =>
  net.sb('--bare', `--columns=${column}`, 'find', 'Port_Binding', 'logical_port=g1').trim();

const chassis = (name: string): string =>
  net.sb('--bare', '--columns=_uuid', 'find', 'Chassis', `name=${name}`).trim();

test('a guest migrates to the other hypervisor, and talks there once its RARP has come', async (t) => {
  net.addMachine({ name: 'n1', host: 'hv1', mac: NAMESPACE_MAC, addresses: ['10.1.0.21/24'] });
  const both = ['requested-chassis=hv1,hv2', 'activation-strategy=rarp'];
  net.nb('lsp-set-options', 'g1', ...both);
  const there = net.host('hv2').box;
  const uri = `unix:${there.path('incoming')}`;
  const arriving = await boot(0, 'hv2', uri);
  guests.push(arriving);
  const [hv1, hv2] = [chassis('hv1'), chassis('hv2')];
  await net.until(() => binding('additional_chassis') === hv2, 30000, 'second place of the port');
  net.sync();
  assert.ok(net.ping('n1', '10.1.0.11'), net.logs());
  await incoming(there.path('g1.qmp'));
  const ping = startPing(net, 'n1', '10.1.0.11');
  await net.until(() => ping.answered() > 50, 30000, 'answers before the migration');
  assert.doesNotMatch(binding('options'), /additional-chassis-activated/);
  const { downtimeMs } = await migrate(net.host('hv1').box.path('g1.qmp'), uri);
  const activated = /additional-chassis-activated=hv2/;
  await net.until(() => activated.test(binding('options')), 20000, 'activation by RARP');
  // Not yet the port's only place, and yet it is served there.
  assert.equal(binding('chassis'), hv1);
  const atActivation = ping.answered();
  await net.until(() => ping.answered() > atActivation + 50, 20000, 'answers at the new place');
  net.nb('lsp-set-options', 'g1', 'requested-chassis=hv2');
  await net.until(() => binding('chassis') === hv2, 20000, 'the port at its new place only');
  await guests.shift()!.stop();
  net.host('hv1').box.vsctl('del-port', 'br-int', 'g1');
  net.sync();
  const atEnd = ping.answered();
  await net.until(() => ping.answered() > atEnd + 50, 20000, 'answers in the end');
  ping.stop();
  t.diagnostic(`QEMU: downtime ${downtimeMs} ms; no answers for ${ping.longestGapMs()} ms`);
  assert.equal(ping.duplicates(), 0, 'both places answered');
  // Four announcements within 550 ms; the rest is QEMU's downtime and ovn-controller's way to its database.
  assert.ok(ping.longestGapMs() < 5000, `no answers for ${ping.longestGapMs()} ms`);
  assert.match(await arriving.must('wget -q -O - http://172.20.0.254/'), /^out 172\.20\.0\.1$/m);
});
