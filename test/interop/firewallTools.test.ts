// Stateful firewalls with the tools that people use: nc, iperf3, ping, traceroute; rules for remote groups by
// conjunctions, as Neutron writes them; fragments, SCTP; and load balancing by a select group whose buckets translate.
//
// FIREWALL_DAEMON=real asks the real daemon instead, for comparison.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { conjunctionFlows, firewallFlows, passThrough } from './firewallFlows.ts';
import { FirewallNet, GATEWAY_MAC } from './firewallNet.ts';

const DAEMON = process.env.FIREWALL_DAEMON === 'real' ? 'real' : 'xvio';

/** SCTP by hand: this kernel may have none. answer PORT | ask ADDRESS PORT: an association's four messages. */
const SCTP = `
import socket, struct, sys
table = []
for n in range(256):
    for _ in range(8): n = (n >> 1) ^ (0x82f63b78 if n & 1 else 0)
    table.append(n)
def crc32c(data):
    c = 0xffffffff
    for b in data: c = (c >> 8) ^ table[(c ^ b) & 255]
    return c ^ 0xffffffff
def packet(src, dst, tag, kind, body):
    chunk = struct.pack('>BBH', kind, 0, 4 + len(body)) + body
    head = struct.pack('>HHI', src, dst, tag)
    return head + struct.pack('<I', crc32c(head + bytes(4) + chunk)) + chunk
def init(tag): return struct.pack('>IIHHI', tag, 65535, 1, 1, 1)
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 132)
s.settimeout(float(sys.argv[4]) if len(sys.argv) > 4 else None)
def receive(port):
    while True:
        data, (peer, _) = s.recvfrom(2000)
        data = data[(data[0] & 15) * 4:]
        src, dst, tag = struct.unpack('>HHI', data[:8])
        if dst == port: return peer, src, tag, data[12], data[16:]
if sys.argv[1] == 'answer':
    port = int(sys.argv[2])
    print('ready', flush=True)
    while True:
        peer, src, tag, kind, body = receive(port)
        if kind == 1: theirs = struct.unpack('>I', body[:4])[0]; reply = (2, init(2000) + struct.pack('>HHI', 7, 8, 42))
        elif kind == 10: reply = (11, b'')
        else: continue
        s.sendto(packet(port, src, theirs, *reply), (peer, 0))
try:
    port = int(sys.argv[3])
    s.sendto(packet(3868, port, 0, 1, init(1000)), (sys.argv[2], 0))
    assert receive(3868)[3] == 2
    s.sendto(packet(3868, port, 2000, 10, struct.pack('>I', 42)), (sys.argv[2], 0))
    assert receive(3868)[3] == 11
    print('ok')
except socket.timeout:
    print('timeout')
`;

interface Iperf {
  end: { sum_received?: { bytes: number }; sum?: { bytes: number } };
  error?: string;
}

describe(`security groups and tools, ${DAEMON}`, () => {
  let net: FirewallNet;
  const stop = new AbortController();

  const background = (host: string, ...command: string[]): void => {
    const args = ['netns', 'exec', net.host(host).namespace, ...command];
    spawn('ip', args, { stdio: 'ignore', signal: stop.signal }).on('error', () => {});
  };
  const iperf = (from: string, ...args: string[]): Iperf =>
    JSON.parse(
      net.attempt(from, 'iperf3', '-J', '-t', '1', '--connect-timeout', '1500', ...args).stdout,
    );
  const sctp = (host: string, port: number): string =>
    net.run(host, 'python3', net.box.path('sctp.py'), 'ask', '10.0.0.2', String(port), '1').trim();

  before(async () => {
    net = await FirewallNet.create(DAEMON, [
      { name: 'a', addresses: ['10.0.0.1/24', 'fd00::1/64'], gateway: '10.0.0.254' },
      { name: 'b', addresses: ['10.0.0.2/24', 'fd00::2/64'] },
      { name: 'c', addresses: ['10.0.0.3/24', 'fd00::3/64'] },
      { name: 'r', addresses: ['10.0.0.254/24', '192.0.2.254/24'] },
      { name: 'd', addresses: ['192.0.2.9/24'], gateway: '192.0.2.254' },
    ]);
    const group = (name: string, addresses: string[], ingress: string[] = []) => ({
      host: net.host(name),
      addresses,
      ingress,
    });
    const members = [
      group('a', ['10.0.0.1', 'fd00::1']),
      // Later fragments of IPv6 have no protocol, so that only a rule without one lets them in.
      group('b', ['10.0.0.2', 'fd00::2'], ['sctp,tp_dst=9899', 'ipv6,ipv6_src=fd00::1']),
      group('c', ['10.0.0.3', 'fd00::3']),
      group('d', ['192.0.2.9'], ['udp', 'icmp']),
    ];
    const services = ['tcp', 'udp', 'tcp6', 'udp6'].flatMap((proto) => [
      `${proto},tp_dst=5201`,
      `${proto},tp_dst=9000`,
    ]);
    net.flows([
      ...firewallFlows(members),
      ...passThrough(net.host('r')),
      ...conjunctionFlows(
        net.host('b'),
        18,
        ['10.0.0.1', 'fd00::1'],
        [...services, 'icmp', 'icmp6'],
      ),
    ]);
    // The gateway is a host here and answers for itself: with its own address.
    net.run(
      'a',
      'ip',
      'neigh',
      'replace',
      '10.0.0.254',
      'lladdr',
      net.host('r').mac,
      'dev',
      'eth0',
    );
    net.run(
      'd',
      'ip',
      'neigh',
      'replace',
      '192.0.2.254',
      'lladdr',
      net.host('r').mac,
      'dev',
      'eth0',
    );
    net.run('r', 'sysctl', '-qw', 'net.ipv4.ip_forward=1', 'net.ipv4.conf.all.send_redirects=0');
    net.run('r', 'sysctl', '-qw', 'net.ipv4.icmp_ratelimit=0');
    writeFileSync(net.box.path('sctp.py'), SCTP);
    background('b', 'iperf3', '-s');
    background('b', 'python3', net.box.path('sctp.py'), 'answer', '9899');
    background('b', 'python3', net.box.path('sctp.py'), 'answer', '9900');
    await net.serve('b', 'tcp', '0.0.0.0', 9000);
    await net.serve('b', 'udp', '0.0.0.0', 9000);
    await net.box.until(() => net.run('b', 'ss', '-tln').includes(':5201 '), 10_000, 'iperf3');
  });

  after(async () => {
    stop.abort();
    await net?.stop();
  });

  test('remote groups by conjunctions: their members, and nobody else', () => {
    assert.equal(net.ask('a', 'tcp', 4001, '10.0.0.2', 9000), 'ok');
    assert.equal(net.ask('a', 'udp', 4002, '10.0.0.2', 9000), 'ok');
    assert.equal(net.ask('c', 'tcp', 4001, '10.0.0.2', 9000), 'timeout');
    assert.equal(net.ask('c', 'udp', 4002, '10.0.0.2', 9000), 'timeout');
    assert.ok(net.ping('a', 'fd00::2'));
    assert.ok(!net.ping('c', 'fd00::2'));
  });

  test('nc', () => {
    const nc = (host: string): string =>
      net
        .attempt(host, 'sh', '-c', 'echo hello | timeout 3 nc -N -w 2 10.0.0.2 9000')
        .stdout.trim();
    assert.equal(nc('a'), 'hello');
    assert.equal(nc('c'), '');
  });

  test('iperf3: TCP, UDP, IPv6', () => {
    const bytes = ({ end }: Iperf): number => end.sum_received?.bytes ?? end.sum?.bytes ?? 0;
    assert.ok(bytes(iperf('a', '-c', '10.0.0.2', '-P', '4')) > 1_000_000);
    assert.ok(bytes(iperf('a', '-c', '10.0.0.2', '-R')) > 1_000_000, 'the other direction');
    assert.ok(bytes(iperf('a', '-c', 'fd00::2')) > 1_000_000);
    assert.ok(bytes(iperf('a', '-c', '10.0.0.2', '-u', '-b', '20M')) > 100_000);
    assert.match(iperf('c', '-c', '10.0.0.2').error ?? '', /unable to connect/);
  });

  test('fragments', () => {
    const big = (host: string, address: string): boolean =>
      net
        .attempt(host, 'ping', '-c', '2', '-i', '0.2', '-W', '2', '-s', '4000', address)
        .stdout.includes(' 0% packet loss');
    assert.ok(big('a', '10.0.0.2'));
    assert.ok(big('a', 'fd00::2'));
    assert.ok(!big('c', '10.0.0.2'));
    assert.ok(!big('c', 'fd00::2'));
  });

  test('SCTP', () => {
    assert.equal(sctp('a', 9899), 'ok');
    assert.equal(sctp('c', 9900), 'timeout');
    // Open vSwitch's userspace conntrack knows no ports of SCTP either: one connection for each pair of hosts.
    const lines = net.connections('zone=1').filter((line) => line.startsWith('sctp'));
    assert.equal(lines.length, 1, lines.join('\n'));
    assert.match(lines[0]!, /^sctp,orig=\(src=10\.0\.0\.1,dst=10\.0\.0\.2/);
  });

  test('traceroute: errors of a router belong to the connection they are about', () => {
    const hops = net.run('a', 'traceroute', '-n', '-w', '2', '-q', '1', '-m', '4', '192.0.2.9');
    assert.match(hops, /^ 1 +10\.0\.0\.254 /m);
    assert.match(hops, /^ 2 +192\.0\.2\.9 /m);
  });

  test('what is not allowed is counted', () => {
    const packets = (): number => {
      const text = net.box.ofctl('dump-flows', 'br0', 'table=82,reg5=2');
      const drops = text.split('\n').filter((line) => line.endsWith('actions=drop'));
      return drops.reduce((sum, line) => sum + Number(/n_packets=(\d+)/.exec(line)![1]), 0);
    };
    const before = packets();
    assert.equal(net.ask('c', 'udp', 4100, '10.0.0.2', 9000), 'timeout');
    assert.ok(packets() > before);
  });
});

describe(`load balancing, ${DAEMON}`, () => {
  let net: FirewallNet;
  const BACKENDS = ['b1', 'b2', 'b3'] as const;
  const VIP = '10.0.0.100';

  before(async () => {
    net = await FirewallNet.create(DAEMON, [
      { name: 'a', addresses: ['10.0.0.1/24'], gateway: VIP },
      ...BACKENDS.map((name, i) => ({ name, addresses: [`10.0.0.${i + 2}/24`] })),
    ]);
    for (const [i, name] of BACKENDS.entries()) {
      await net.serve(name, 'tcp', '0.0.0.0', 80);
      net.run(name, 'ip', 'neigh', 'replace', '10.0.0.1', 'lladdr', GATEWAY_MAC, 'dev', 'eth0');
      assert.equal(net.host(name).port, i + 2);
    }
    const to = (name: string): string =>
      `mod_dl_src:${GATEWAY_MAC},mod_dl_dst:${net.host(name).mac},output:${net.host(name).port}`;
    balance(BACKENDS, 'add-group');
    net.flows([
      `table=0,priority=10,ip,in_port=1,nw_dst=${VIP},actions=ct(zone=1,nat,table=1)`,
      'table=0,priority=10,ip,actions=ct(zone=1,nat,table=3)',
      'table=1,priority=10,tcp,tp_dst=80,ct_state=+trk+new,actions=group:1',
      'table=1,priority=10,ip,ct_state=+trk+est,actions=resubmit(,2)',
      ...BACKENDS.map(
        (name, i) => `table=2,priority=10,ip,nw_dst=10.0.0.${i + 2},actions=${to(name)}`,
      ),
      `table=3,priority=10,ip,nw_dst=10.0.0.1,ct_state=+trk+est+rpl,actions=${to('a')}`,
    ]);
  });

  after(async () => net?.stop());

  /** The group chooses a backend for each new connection. */
  function balance(backends: readonly string[], command: 'add-group' | 'mod-group'): void {
    const buckets = backends.map((name) => {
      const address = `10.0.0.${net.host(name).port}`;
      return `bucket=weight=100,ct(commit,zone=1,table=2,nat(dst=${address}:80))`;
    });
    const group = `group_id=1,type=select,selection_method=dp_hash,${buckets.join(',')}`;
    net.box.ofctl('-O', 'OpenFlow15', command, 'br0', group);
  }

  const used = (): Map<string, number> => {
    const counts = new Map<string, number>();
    for (const line of net.connections('zone=1')) {
      const backend = /reply=\(src=([\d.]+)/.exec(line)![1]!;
      counts.set(backend, (counts.get(backend) ?? 0) + 1);
    }
    return counts;
  };

  test('all backends get connections, each of which stays where it is', () => {
    for (let port = 7001; port <= 7024; port++) {
      assert.equal(net.ask('a', 'tcp', port, VIP, 80), 'ok', `port ${port}`);
    }
    assert.equal(used().size, 3, JSON.stringify([...used()]));
  });

  test('a backend that leaves the group gets no new connections', () => {
    balance(['b1', 'b3'], 'mod-group');
    net.box.appctl('dpctl/flush-conntrack');
    for (let port = 7101; port <= 7116; port++) {
      assert.equal(net.ask('a', 'tcp', port, VIP, 80), 'ok', `port ${port}`);
    }
    assert.deepEqual([...used().keys()].sort(), ['10.0.0.2', '10.0.0.4']);
  });

  test('what is no service of the address is dropped', () => {
    assert.equal(net.ask('a', 'tcp', 7201, VIP, 81), 'timeout');
  });
});
