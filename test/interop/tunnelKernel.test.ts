// xvio's tunnels and the Linux kernel's: what either encapsulates, the other understands. A kernel without a kind of device
// skips it, with its own words (the development kernel has VXLAN only). Geneve and GRE have the real ovs-vswitchd as their
// other end in tunnelPeer.test.ts, on every kernel.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { after, before, describe, test } from 'node:test';
import type { Sandbox } from './sandbox.ts';
import {
  addTunnel,
  inNamespace,
  overlay4,
  overlay6,
  pingUntil,
  startHost,
  underlay4,
  underlay6,
} from './tunnelNet.ts';

const KERNEL = 9;

interface Kind {
  name: string;
  type: string;
  options: Record<string, string>;
  link: (address: string, remote: string) => string[];
}

const KINDS: readonly Kind[] = [
  {
    name: 'vxlan',
    type: 'vxlan',
    options: { key: '77' },
    link: (local, remote) => [
      ...['type', 'vxlan', 'id', '77', 'local', local, 'remote', remote, 'dstport', '4789'],
    ],
  },
  {
    name: 'vxlan with outer checksums',
    type: 'vxlan',
    options: { key: '78', csum: 'true', dst_port: '4790' },
    link: (local, remote) => [
      ...['type', 'vxlan', 'id', '78', 'local', local, 'remote', remote, 'dstport', '4790'],
      ...['udpcsum', 'udp6zerocsumrx'],
    ],
  },
  {
    name: 'geneve',
    type: 'geneve',
    options: { key: '79' },
    link: (_local, remote) => ['type', 'geneve', 'id', '79', 'remote', remote],
  },
  {
    name: 'gre',
    type: 'gre',
    options: { key: '80', csum: 'true', seq: 'true' },
    link: (local, remote) => [
      ...['type', remote.includes(':') ? 'ip6gretap' : 'gretap', 'key', '80', 'csum', 'seq'],
      ...['local', local, 'remote', remote],
    ],
  },
  {
    name: 'erspan',
    type: 'erspan',
    options: { key: '81', erspan_ver: '1', erspan_idx: '0x7' },
    link: (local, remote) => [
      ...['type', remote.includes(':') ? 'ip6erspan' : 'erspan', 'seq', 'key', '81'],
      ...['erspan_ver', '1', 'erspan', '7', 'local', local, 'remote', remote],
    ],
  },
];

for (const family of ['IPv4', 'IPv6'] as const) {
  describe(`tunnels over ${family} to the kernel`, () => {
    let box: Sandbox;
    let peer: string;
    const underlay = family === 'IPv4' ? underlay4 : underlay6;

    before(async () => {
      box = await startHost('xvio', 1, (host) => {
        peer = host.addNamespace('k');
        host.must(
          'ip',
          'link',
          'add',
          'eth0',
          'type',
          'veth',
          'peer',
          'name',
          'eth0',
          'netns',
          peer,
        );
      });
      inNamespace(peer, 'ip', 'addr', 'add', `${underlay4(KERNEL)}/24`, 'dev', 'eth0');
      inNamespace(
        peer,
        'ip',
        '-6',
        'addr',
        'add',
        `${underlay6(KERNEL)}/64`,
        'dev',
        'eth0',
        'nodad',
      );
      inNamespace(peer, 'ip', 'link', 'set', 'eth0', 'up');
    });

    after(() => box?.stop());

    for (const kind of KINDS) {
      test(kind.name, async (t) => {
        const link = kind.link(underlay(KERNEL), underlay(1));
        const made = spawnSync('ip', ['-n', peer, 'link', 'add', 'tun0', 'mtu', '1400', ...link], {
          encoding: 'utf8',
        });
        if (made.status !== 0) {
          t.skip(`this kernel: ${made.stderr.trim()}`);
          return;
        }
        addTunnel(box, 'tun', kind.type, { remote_ip: underlay(KERNEL), ...kind.options });
        try {
          assert.equal(box.vsctl('get', 'interface', 'tun', 'error').trim(), '[]');
          inNamespace(peer, 'ip', 'addr', 'add', `${overlay4(KERNEL)}/24`, 'dev', 'tun0');
          inNamespace(
            peer,
            'ip',
            '-6',
            'addr',
            'add',
            `${overlay6(KERNEL)}/64`,
            'dev',
            'tun0',
            'nodad',
          );
          inNamespace(peer, 'ip', 'link', 'set', 'tun0', 'up');
          pingUntil(() => box.must('ping', '-c', '1', '-W', '1', overlay4(KERNEL)));
          box.must('ping', '-c', '3', '-i', '0.2', '-W', '5', overlay4(KERNEL));
          box.must('ping', '-c', '3', '-i', '0.2', '-W', '5', '-s', '1300', overlay4(KERNEL));
          pingUntil(() => box.must('ping', '-c', '1', '-W', '1', overlay6(KERNEL)));
          inNamespace(peer, 'ping', '-c', '3', '-i', '0.2', '-W', '5', overlay4(1));
          await transfers(box, peer);
          const shown = box.appctl('dpctl/dump-flows');
          assert.match(shown, /tnl_push\(/);
          assert.match(shown, /tnl_pop\(/);
          assert.match(shown, /tunnel\(tun_id=0x/);
        } finally {
          box.vsctl('del-port', 'br-int', 'tun');
          box.must('ip', 'neigh', 'flush', 'dev', 'br-int');
          inNamespace(peer, 'ip', 'link', 'del', 'tun0');
        }
      });
    }
  });
}

/** TCP both ways with the kernels' offloads, so that large and unfinished packets meet the tunnel. */
async function transfers(box: Sandbox, peer: string): Promise<void> {
  const server = box.spawn('ip', ['netns', 'exec', peer, 'iperf3', '-s', '-1']);
  await new Promise((resolve) => setTimeout(resolve, 500));
  for (const reverse of [[], ['-R']]) {
    let text = '';
    const running =
      reverse.length === 0
        ? server
        : box.spawn('ip', ['netns', 'exec', peer, 'iperf3', '-s', '-1']);
    await new Promise((resolve) => setTimeout(resolve, 500));
    try {
      text = box.must('iperf3', '-c', overlay4(KERNEL), '-t', '2', '-J', ...reverse);
    } finally {
      running.kill('SIGKILL');
    }
    const { end } = JSON.parse(text) as { end: { sum_received: { bits_per_second: number } } };
    assert.ok(end.sum_received.bits_per_second > 10e6, `${end.sum_received.bits_per_second} bit/s`);
  }
}
