// A QEMU guest and a network namespace, through a veth "system" port and through an "afxdp" port: the host's own kernel
// at the other end, with its offloads (checksum-partial and GSO frames) left as they are.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { after, before, describe, test } from 'node:test';
import { Vm } from '../guest/vm.ts';
import { Sandbox } from './sandbox.ts';

const MTU = 1500;

function hostIn(namespace: string, ...args: string[]): string {
  return execFileSync('ip', ['netns', 'exec', namespace, ...args], {
    encoding: 'utf8',
    timeout: 60000,
  });
}

for (const type of ['system', 'afxdp'] as const) {
  describe(`guest and namespace through a port of type ${type}`, () => {
    let box: Sandbox;
    let vm: Vm;
    let peer: string;

    before(async () => {
      box = await Sandbox.start();
      peer = box.addNamespace('p');
      box.must('ip', 'link', 'add', 'veth0', 'type', 'veth', 'peer', 'name', 'eth0', 'netns', peer);
      box.must('ip', 'link', 'set', 'veth0', 'up', 'mtu', String(MTU));
      hostIn(peer, 'ip', 'addr', 'add', '10.0.0.9/24', 'dev', 'eth0');
      hostIn(peer, 'ip', '-6', 'addr', 'add', 'fd00::9/64', 'dev', 'eth0', 'nodad');
      hostIn(peer, 'ip', 'link', 'set', 'eth0', 'up');
      box.vsctl(
        ...['add-br', 'br0', '--', 'set', 'bridge', 'br0', 'datapath_type=netdev'],
        ...[
          '--',
          'add-port',
          'br0',
          'veth0',
          '--',
          'set',
          'interface',
          'veth0',
          `type=${type === 'system' ? '""' : type}`,
        ],
        ...['--', 'add-port', 'br0', 'vm', '--', 'set', 'interface', 'vm'],
        ...['type=dpdkvhostuserclient', `options:vhost-server-path=${box.path('vm.sock')}`],
      );
      assert.equal(box.vsctl('get', 'interface', 'veth0', 'error').trim(), '[]');
      vm = await Vm.start({
        name: 'vm',
        dir: box.dir,
        socket: box.path('vm.sock'),
        mac: '52:54:00:00:00:0a',
        ip: '10.0.0.1/24',
        ip6: 'fd00::1/64',
      });
      await vm.ready();
    });

    after(async () => {
      await vm?.stop();
      await box?.stop();
    });

    test('ping both ways, IPv4 and IPv6', async () => {
      await vm.must('ping -c 3 -W 2 10.0.0.9');
      await vm.must('ping -6 -c 3 -W 2 fd00::9');
      hostIn(peer, 'ping', '-c', '3', '-W', '2', '10.0.0.1');
      hostIn(peer, 'ping', '-c', '3', '-W', '2', 'fd00::1');
    });

    test('TCP both ways, and UDP', async () => {
      await vm.must('iperf3 -s -D >/dev/null 2>&1');
      const rate = (options: string[]): number => {
        // The server may not listen yet, or still be busy with the test before: on a loaded machine for long.
        const deadline = performance.now() + 60_000;
        for (;;) {
          try {
            const text = hostIn(peer, 'iperf3', '-c', '10.0.0.1', '-t', '3', '-J', ...options);
            const end = JSON.parse(text).end;
            return (end.sum_received ?? end.sum).bits_per_second;
          } catch (thrown) {
            if (performance.now() > deadline) throw thrown;
          }
        }
      };
      // An emulated guest on a busy machine: no measure of speed, only of a connection that is not stuck in retransmissions.
      assert.ok(rate([]) > 1e6, 'host to guest');
      assert.ok(rate(['-R']) > 1e6, 'guest to host');
      assert.ok(rate(['-u', '-b', '10M']) > 1e6, 'UDP');
    });

    test('no packet was refused for its offloads', () => {
      assert.doesNotMatch(box.appctl('coverage/show'), /bad_vnet|gso_impossible|bad_descriptor/);
    });

    test('status and statistics of the device', async () => {
      assert.match(box.vsctl('get', 'interface', 'veth0', 'status'), /driver_name=veth/);
      assert.equal(box.vsctl('get', 'interface', 'veth0', 'link_state').trim(), 'up');
      await box.until(
        () => Number(box.vsctl('get', 'interface', 'veth0', 'statistics:rx_packets')) > 10,
        10000,
        'statistics',
      );
    });
  });
}
