// What must work in the topology of ovnTopology.ts, whatever the hypervisors, their number and the encapsulation: a name
// and a check each, in the order in which they may run.

import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { GUEST_MTU, type OvnNet } from './ovnNet.ts';
import { CLIENTS, MAC, PROXIED } from './ovnTopology.ts';

export interface Check {
  readonly name: string;
  run(net: OvnNet, first: string, second: string): void | Promise<void>;
}

function pings(net: OvnNet, from: string, to: string, ...options: string[]): void {
  const attempt = (): boolean => net.ping(from, to, ...options);
  // The first packets of a pair may wait for addresses to be resolved.
  assert.ok(attempt() || attempt() || attempt(), `${from} reaches ${to}\n${net.logs()}`);
}

function gets(net: OvnNet, from: string, address: string, expected: RegExp): void {
  let answer = '';
  for (let i = 0; i < 3; i++) {
    answer = net.get(from, address);
    if (expected.test(answer)) return;
  }
  assert.match(answer, expected, `${from} asks ${address}\n${net.logs()}`);
}

const busybox = (net: OvnNet, machine: string, ...words: string[]): string => {
  const { stdout, stderr } = net.run(machine, 'busybox', ...words);
  return stdout + stderr;
};

/** Do the controllers of all hypervisors log something like this? */
const logged = (net: OvnNet, text: RegExp): boolean =>
  net.hosts.some((host) => text.test(host.controllerLog));

const SWITCHING: Check[] = [
  { name: 'logical switch', run: (net) => pings(net, 'vm1', '10.1.0.12') },
  {
    name: 'frames of the full MTU, not to be fragmented',
    run: (net) => pings(net, 'vm1', '10.1.0.12', '-M', 'do', '-s', String(Number(GUEST_MTU) - 28)),
  },
  {
    name: 'ARP is answered by the switch, and does not reach the machine',
    async run(net) {
      const seen = await net.capture('vm2', 'arp and ether broadcast', () => {
        const answers = net.run(
          'vm1',
          'arping',
          '-b',
          '-c',
          '3',
          '-w',
          '4',
          '-I',
          'eth0',
          '10.1.0.12',
        );
        assert.match(answers.stdout, new RegExp(MAC.vm2, 'i'));
      });
      assert.deepEqual(seen, []);
    },
  },
  {
    name: 'ARP proxy: the router answers for an address that is not its own',
    run(net) {
      const { stdout } = net.run('vm1', 'arping', '-c', '1', '-w', '4', '-I', 'eth0', PROXIED);
      assert.match(stdout, /02:00:00:00:01:fe/i);
    },
  },
  {
    name: 'neighbour discovery is answered by the switch, and does not reach the machine',
    async run(net) {
      // The machine does not have its address yet: DHCPv6 comes later.
      const words = ['ip', '-6', 'neighbour', 'show', 'fd00:6::16'];
      const seen = await net.capture('vm6', 'icmp6 and ip6[40] == 135', () =>
        net.until(
          () => {
            net.run('vm7', 'ping', '-c', '1', '-W', '1', 'fd00:6::16');
            return net.in('vm7', ...words).includes(MAC.vm6);
          },
          10000,
          'neighbour',
        ),
      );
      assert.deepEqual(
        seen.filter((line) => line.includes('who has fd00:6::16')),
        [],
      );
    },
  },
  {
    name: 'port security: packets with an address that the machine does not have are dropped',
    async run(net) {
      net.in('vm1', 'ip', 'address', 'add', '10.1.0.99/24', 'dev', 'eth0');
      const seen = await net.capture('vm2', 'host 10.1.0.99', () => {
        assert.equal(net.ping('vm1', '10.1.0.12', '-I', '10.1.0.99', '-c', '1', '-W', '1'), false);
        net.run(
          'vm1',
          'arping',
          '-c',
          '1',
          '-w',
          '1',
          '-s',
          '10.1.0.99',
          '-I',
          'eth0',
          '10.1.0.200',
        );
      });
      net.in('vm1', 'ip', 'address', 'delete', '10.1.0.99/24', 'dev', 'eth0');
      assert.deepEqual(seen, []);
    },
  },
  {
    name: 'port security: frames with another source address are dropped',
    run(net) {
      net.in('vm1', 'ip', 'link', 'set', 'eth0', 'address', '02:00:00:00:01:99');
      const spoofed = net.ping('vm1', '10.1.0.12', '-W', '1');
      net.in('vm1', 'ip', 'link', 'set', 'eth0', 'address', MAC.vm1);
      net.in('vm1', 'ip', 'route', 'replace', 'default', 'via', '10.1.0.1');
      assert.equal(spoofed, false);
      pings(net, 'vm1', '10.1.0.12');
    },
  },
  {
    name: 'trunk: a container in a VLAN of a machine',
    run: (net) => pings(net, 'vm1', '10.1.0.42'),
  },
  {
    name: 'provider network with a VLAN, through localnet',
    run: (net) => pings(net, 'vm8', '172.30.0.254'),
  },
  {
    name: 'multicast goes to its members only',
    async run(net) {
      net.in('vm2', 'ip', 'address', 'replace', '239.1.1.1/32', 'dev', 'eth0', 'autojoin');
      await net.until(
        () => net.sb('--bare', '--columns=address', 'list', 'IGMP_Group').includes('239.1.1.1'),
        20000,
        'group in the southbound database',
      );
      net.sync();
      net.in('vm1', 'ip', 'route', 'replace', '239.0.0.0/8', 'dev', 'eth0');
      const send = (): void => {
        net.ping('vm1', '239.1.1.1', '-c', '5', '-t', '4', '-W', '1');
      };
      let member: string[] = [];
      const stranger = await net.capture('vm4', 'host 239.1.1.1 and icmp', async () => {
        member = await net.capture('vm2', 'host 239.1.1.1 and icmp', send);
      });
      assert.equal(member.length, 5, net.logs());
      assert.deepEqual(stranger, []);
    },
  },
];

const ROUTING: Check[] = [
  { name: 'logical router between switches', run: (net) => pings(net, 'vm1', '10.2.0.13') },
  { name: 'the router answers pings', run: (net) => pings(net, 'vm1', '10.1.0.1') },
  {
    name: 'the router tells of expired TTLs',
    run(net) {
      const { stdout } = net.run('vm1', 'ping', '-c', '2', '-W', '3', '-t', '1', '10.2.0.13');
      assert.match(stdout, /10\.1\.0\.1.*Time to live exceeded/);
    },
  },
  {
    name: 'SNAT to the physical network',
    run: (net) => gets(net, 'vm1', '172.20.0.254:80', /^out 172\.20\.0\.1$/),
  },
  {
    name: 'floating address, distributed',
    run: (net) => gets(net, 'out', '172.20.0.50:8000', /^vm2 172\.20\.0\.254$/),
  },
  {
    name: 'floating address, on the gateway',
    run: (net) => gets(net, 'out', '172.20.0.60:8000', /^vm3 172\.20\.0\.254$/),
  },
  {
    name: 'DNAT: an address of the router is a machine inside',
    run: (net) => gets(net, 'out', '172.20.0.70:8000', /^vm3 172\.20\.0\.254$/),
  },
  { name: 'the router answers pings over IPv6', run: (net) => pings(net, 'vm7', 'fd00:6::1') },
  {
    name: 'the way out of a machine with a floating address, IPv6',
    run: (net) => gets(net, 'vm7', '[fd00:20::254]:80', /^out fd00:20::60$/),
  },
  {
    name: 'floating address, IPv6',
    run: (net) => gets(net, 'out', '[fd00:20::60]:8000', /^vm7 fd00:20::254$/),
  },
];

const POLICIES: Check[] = [
  {
    name: 'ACL: what is allowed passes, replies and all',
    run(net) {
      gets(net, 'vm1', '10.1.0.12:8000', /^vm2 10\.1\.0\.11$/);
      pings(net, 'vm2', '10.1.0.11');
    },
  },
  {
    name: 'ACL: what is dropped is dropped, and logged',
    async run(net) {
      assert.equal(net.get('vm1', '10.1.0.12:22', 1), '');
      await net.until(() => logged(net, /acl_log.*name="dropall", verdict=drop/), 10000, 'log');
    },
  },
  {
    name: 'ACL: a meter limits what is logged',
    async run(net) {
      const lines = (): number =>
        net.hosts.reduce(
          (sum, host) => sum + host.controllerLog.split('name="dropall"').length - 1,
          0,
        );
      const before = lines();
      const startedMs = Date.now();
      const send = `import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for i in range(400): s.sendto(b"x", ("10.1.0.12", 9999))`;
      net.in('vm1', 'python3', '-c', send);
      await net.until(() => lines() > before, 10000, 'logged drops');
      await sleep(500);
      const logged = lines() - before;
      // Ten a second and a burst of five; as much again for whatever else is dropped meanwhile.
      const allowed = 2 * (5 + (10 * (Date.now() - startedMs)) / 1000);
      assert.ok(logged <= allowed, `${logged} of 400 are logged, ${allowed} may be`);
    },
  },
  {
    name: 'address sets and port groups change, and what is allowed with them',
    run(net) {
      const refused = (port: number): boolean => net.get('vm1', `10.1.0.12:${port}`, 1) === '';
      const others = 'addresses="10.2.0.0/24","172.20.0.0/24"';
      net.nb('set', 'Address_Set', 'clients', others, '--', 'pg-set-ports', 'pg', 'vm2', 'vm3');
      net.sync();
      assert.ok(refused(8000), 'not a client any more');
      net.nb('set', 'Address_Set', 'clients', CLIENTS, '--', 'pg-set-ports', 'pg', 'vm3');
      net.sync();
      gets(net, 'vm1', '10.1.0.12:22', /^vm2 /); // not in the group any more
      net.nb('pg-set-ports', 'pg', 'vm2', 'vm3');
      net.sync();
      assert.ok(refused(22), 'in the group again');
      gets(net, 'vm1', '10.1.0.12:8000', /^vm2 10\.1\.0\.11$/);
    },
  },
  {
    name: 'ACL: what is rejected is refused at once',
    run(net) {
      const startedMs = Date.now();
      const words = ['-sS', '-m', '10', 'http://10.1.0.12:23/'];
      assert.match(net.run('vm1', 'curl', ...words).stderr, /refused|Couldn't connect/);
      assert.ok(Date.now() - startedMs < 8000, 'it took a time-out');
    },
  },
  {
    name: 'QoS: a meter limits, DSCP is set',
    async run(net) {
      // What iperf3 says to its server goes by TCP, and is allowed by a rule of its own.
      const control = 'outport == @pg && tcp.dst == 5201';
      net.nb('--may-exist', 'acl-add', 'pg', 'to-lport', '1003', control, 'allow-related');
      net.sync();
      const server = net.start('vm2', 'iperf3', '-s', '-1', '-p', '5201');
      await sleep(500);
      const udp = ['-u', '-b', '20M', '-l', '1000', '-t', '2', '-J'];
      let text = '';
      const marked = await net.capture('vm2', 'udp port 5201 and ip[1] & 0xfc = 0xb8', () => {
        text = net.in('vm1', 'iperf3', '-c', '10.1.0.12', '-p', '5201', ...udp);
      });
      server.kill('SIGKILL');
      const { lost_percent: lost } = (
        JSON.parse(text) as { end: { sum: { lost_percent: number } } }
      ).end.sum;
      // 2 Mbit/s of 20 Mbit/s, and the burst.
      assert.ok(lost > 70 && lost < 97, `lost ${lost} %`);
      assert.ok(marked.length > 100, `${marked.length} packets are marked`);
    },
  },
];

const SERVICES: Check[] = [
  {
    name: 'DHCP',
    run(net) {
      const words = [
        'udhcpc',
        '-i',
        'eth0',
        '-f',
        '-n',
        '-q',
        '-t',
        '4',
        '-T',
        '2',
        '-s',
        '/bin/true',
      ];
      assert.match(busybox(net, 'vm4', ...words), /lease of 10\.1\.0\.14 obtained/);
      net.in('vm4', 'ip', 'address', 'replace', '10.1.0.14/24', 'dev', 'eth0');
      pings(net, 'vm4', '10.1.0.12');
    },
  },
  {
    name: 'router advertisements and DHCPv6',
    async run(net) {
      const routes = (): string => net.in('vm6', 'ip', '-6', 'route', 'show', 'default');
      net.in('vm6', 'sysctl', '-qw', 'net.ipv6.conf.eth0.accept_ra=2');
      // A solicitation by a fresh start of the link.
      net.in('vm6', 'ip', 'link', 'set', 'eth0', 'down');
      net.in('vm6', 'ip', 'link', 'set', 'eth0', 'up');
      net.in('vm6', 'ip', 'route', 'replace', 'default', 'via', '10.6.0.1');
      await net.until(() => /proto ra/.test(routes()), 20000, 'default route by advertisement');
      const files = ['-lf', `${net.dir}/vm6.lease`, '-pf', `${net.dir}/vm6.pid`];
      const client = ['dhclient', '-6', '-1', '-d', '-v', '-sf', '/bin/true', ...files, 'eth0'];
      // It would stay to renew the lease: it has said enough when it says which one it got.
      const lease = `grep -m 1 'IAADDR fd00:6::16' <(timeout -k 1 8 ${client.join(' ')} 2>&1)`;
      net.in('vm6', 'bash', '-c', lease);
      net.in('vm6', 'ip', 'address', 'replace', 'fd00:6::16/64', 'dev', 'eth0', 'nodad');
      pings(net, 'vm6', 'fd00:6::17');
    },
  },
  {
    name: 'DNS',
    run(net) {
      assert.match(
        busybox(net, 'vm1', 'nslookup', '-type=a', 'vm2.example', '10.1.0.1'),
        /10\.1\.0\.12/,
      );
    },
  },
  {
    name: 'metadata: each hypervisor answers its own machines',
    run(net, first, second) {
      for (const [machine, host] of [
        ['vm1', first],
        ['vm2', second],
      ] as const) {
        net.in(machine, 'ip', 'route', 'replace', '169.254.169.254', 'via', '10.1.0.2');
        gets(net, machine, '169.254.169.254:80', new RegExp(`^md-${host} `));
      }
    },
  },
  {
    name: 'load balancer: both backends are used',
    run(net) {
      const seen = new Set<string>();
      for (let i = 0; i < 40 && seen.size < 2; i++) {
        seen.add(net.get('vm1', '10.1.0.100:80').split(' ')[0]!);
      }
      assert.deepEqual([...seen].sort(), ['vm2', 'vm3']);
    },
  },
  {
    name: 'load balancer with affinity: one client, one backend',
    async run(net) {
      // The connection that teaches the switch is not answered: so OVN has it, with every switch.
      net.get('vm1', '10.1.0.101:80', 1);
      await sleep(500);
      const seen = new Set<string>();
      for (let i = 0; i < 12; i++) seen.add(net.get('vm1', '10.1.0.101:80').split(' ')[0]!);
      assert.match([...seen].join(), /^vm[23]$/);
    },
  },
  {
    name: 'load balancer, hairpin: the client is its own backend',
    run: (net) => gets(net, 'vm1', '10.1.0.102:80', /^vm1 10\.1\.0\.102$/),
  },
  {
    name: 'load balancer, IPv6: the router answers neighbour discovery for the virtual address',
    run(net) {
      gets(net, 'vm6', '[fd00:6::100]:80', /^vm7 fd00:6::16$/);
      const neighbour = net.in('vm6', 'ip', '-6', 'neighbour', 'show', 'fd00:6::100');
      assert.match(neighbour, /02:00:00:00:06:fe/);
    },
  },
  {
    name: 'load balancer: a backend that fails its health check gets nothing',
    async run(net) {
      const check = ['interval=1', 'timeout=1', 'failure_count=1', 'success_count=1'];
      net.nb(
        ...['--id=@hc', 'create', 'Load_Balancer_Health_Check', 'vip="10.1.0.100:80"'],
        ...check.map((option) => `options:${option}`),
        ...['--', 'set', 'Load_Balancer', 'lb1', 'health_check=@hc'],
      );
      const status = (logicalPort: string): string =>
        net
          .sb(
            ...['--bare', '--columns=status', 'find', 'Service_Monitor'],
            `logical_port=${logicalPort}`,
          )
          .trim();
      await net.until(() => status('vm2') === 'online', 30000, 'healthy vm2');
      await net.until(() => status('vm3') === 'online', 30000, 'healthy vm3');
      net.in('vm3', 'ip', 'link', 'set', 'eth0', 'down');
      await net.until(() => status('vm3') === 'offline', 30000, 'unhealthy vm3');
      net.sync();
      const answers = Array.from(
        { length: 8 },
        () => net.get('vm1', '10.1.0.100:80').split(' ')[0],
      );
      net.in('vm3', 'ip', 'link', 'set', 'eth0', 'up');
      net.in('vm3', 'ip', 'route', 'replace', 'default', 'via', '10.2.0.1');
      net.nb('clear', 'Load_Balancer', 'lb1', 'health_check');
      assert.deepEqual([...new Set(answers)], ['vm2']);
    },
  },
];

const OBSERVING: Check[] = [
  {
    name: 'mirror: what a machine sends is copied into a GRE tunnel',
    async run(net) {
      net.nb('mirror-add', 'mir0', 'gre', '7', 'from-lport', '10.99.0.1');
      net.nb('lsp-attach-mirror', 'vm1', 'mir0');
      net.sync();
      const copies = await net.capture(
        'c',
        'ip proto 47',
        async () => {
          pings(net, 'vm1', '10.1.0.12');
          // The first copy may have to wait for the collector's address.
          await sleep(500);
          pings(net, 'vm1', '10.1.0.12', '-c', '5');
        },
        'under',
      );
      net.nb('lsp-detach-mirror', 'vm1', 'mir0');
      net.nb('mirror-del', 'mir0');
      net.sync();
      const requests = copies.filter((line) => line.includes('10.1.0.11 > 10.1.0.12'));
      assert.ok(requests.length >= 5, `${copies.length} copies:\n${copies.join('\n')}`);
    },
  },
];

export const CHECKS: readonly Check[] = [
  ...SWITCHING,
  ...ROUTING,
  ...POLICIES,
  ...SERVICES,
  ...OBSERVING,
];

/** Those that show quickly what crosses a tunnel, and may be run again over another one. */
export const CROSSING: readonly Check[] = [
  'logical switch',
  'frames of the full MTU, not to be fragmented',
  'multicast goes to its members only',
  'logical router between switches',
  'SNAT to the physical network',
  'floating address, distributed',
  'floating address, on the gateway',
  'floating address, IPv6',
  'load balancer, IPv6: the router answers neighbour discovery for the virtual address',
  'ACL: what is allowed passes, replies and all',
  'ACL: what is rejected is refused at once',
  'load balancer: both backends are used',
].map((name) => CHECKS.find((check) => check.name === name)!);
