// FTP and TFTP through stateful firewalls with NAT: real clients and servers, with our daemon and the real one. The same
// transfers succeed, the same connections stand in the table afterwards.
//
// FIREWALL_DAEMON=xvio|real runs one of the two only.

import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { FirewallNet } from './firewallNet.ts';

const only = process.env.FIREWALL_DAEMON;
const DAEMONS = (['xvio', 'real'] as const).filter((d) => only === undefined || only === d);
const PYTHON = '/usr/bin/python3';

/** A session of several transfers, up and down; the shortest address is announced first and grows. */
const CLIENT = `
import ftplib, io, sys
address, passive, name = sys.argv[1], sys.argv[2] == 'passive', sys.argv[3]
data = open(name, 'rb').read()
ftp = ftplib.FTP()
ftp.connect(address, 21, timeout=10)
ftp.login()
ftp.set_pasv(passive)
for i in range(4):
    ftp.storbinary('STOR up%d' % i, io.BytesIO(data[: 1000 * i + 1]))
    back = []
    ftp.retrbinary('RETR file', back.append)
    assert b''.join(back) == data, 'file'
    back = []
    ftp.retrbinary('RETR up%d' % i, back.append)
    assert b''.join(back) == data[: 1000 * i + 1], 'what was sent'
ftp.quit()
print('done')
`;

/** Read requests of one file (RFC 1350), each answered from a port of its own. */
const TFTP_SERVER = `
import socket, sys
data = open(sys.argv[2], 'rb').read()
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], 69))
while True:
    request, peer = s.recvfrom(600)
    t = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    t.bind((sys.argv[1], 0))
    t.settimeout(3)
    try:
        for block in range(1, len(data) // 512 + 2):
            part = data[(block - 1) * 512 : block * 512]
            t.sendto(b'\\0\\3' + block.to_bytes(2, 'big') + part, peer)
            t.recvfrom(600)
    except OSError:
        pass
`;

const HOSTS = [
  { name: 'a', addresses: ['10.1.1.1/24', 'fc00::1/96'] },
  { name: 'b', addresses: ['10.1.1.2/24', 'fc00::2/96'] },
];

/** a may begin FTP and TFTP control connections to b, and nothing else; \`nat\`: of its control connections. */
function flows(nat: string, family: 'ip' | 'ipv6'): string[] {
  const tcp = family === 'ip' ? 'tcp' : 'tcp6';
  const udp = family === 'ip' ? 'udp' : 'udp6';
  return [
    'table=0,priority=100,arp,actions=NORMAL',
    'table=0,priority=100,icmp6,actions=NORMAL',
    `table=0,priority=10,${family},actions=ct(nat,table=1)`,
    `table=1,in_port=1,ct_state=+new-rel,${tcp},tp_dst=21,actions=ct(alg=ftp,commit,nat(${nat})),2`,
    `table=1,in_port=1,ct_state=+new-rel,${udp},tp_dst=69,actions=ct(alg=tftp,commit,nat(${nat})),2`,
    `table=1,in_port=1,ct_state=+new+rel,${family},actions=ct(commit,nat),2`,
    `table=1,in_port=2,ct_state=+new+rel,${family},actions=ct(commit,nat),1`,
    `table=1,in_port=1,ct_state=+est-inv,${family},actions=2`,
    `table=1,in_port=2,ct_state=+est-inv,${family},actions=1`,
  ];
}

const tables = new Map<string, unknown>();

for (const daemon of DAEMONS) {
  describe(`helpers, ${daemon}`, () => {
    let net: FirewallNet;
    const servers: ChildProcess[] = [];
    const file = randomBytes(70000);

    const start = (host: string, ...command: string[]): void => {
      const { namespace } = net.host(host);
      const args = ['netns', 'exec', namespace, ...command];
      servers.push(spawn('ip', args, { stdio: 'ignore', env: net.box.env }));
    };

    before(async () => {
      net = await FirewallNet.create(daemon, HOSTS);
      mkdirSync(net.box.path('ftp'), { mode: 0o777 });
      writeFileSync(net.box.path('ftp/file'), file);
      writeFileSync(net.box.path('file'), file);
      writeFileSync(net.box.path('client.py'), CLIENT);
      writeFileSync(net.box.path('tftp.py'), TFTP_SERVER);
      const [a, b] = [net.host('a'), net.host('b')];
      // Addresses that only the switch knows.
      for (const address of ['10.1.1.240', 'fc00::240']) {
        net.run('b', 'ip', 'neigh', 'replace', address, 'lladdr', a.mac, 'dev', 'eth0');
        net.run('a', 'ip', 'neigh', 'replace', address, 'lladdr', b.mac, 'dev', 'eth0');
      }
      for (const [from, address, to] of [
        ['a', 'fc00::2', b],
        ['b', 'fc00::1', a],
      ] as const) {
        net.run(from, 'ip', 'neigh', 'replace', address, 'lladdr', to.mac, 'dev', 'eth0');
      }
      for (const address of ['10.1.1.2', 'fc00::2']) {
        start(
          'b',
          PYTHON,
          '-m',
          'pyftpdlib',
          '-w',
          '-i',
          address,
          '-p',
          '21',
          '-d',
          net.box.path('ftp'),
        );
      }
      start('b', PYTHON, net.box.path('tftp.py'), '10.1.1.2', net.box.path('file'));
      const listening = (): boolean =>
        (net.run('b', 'ss', '-tln').match(/:21 /g) ?? []).length === 2 &&
        net.run('b', 'ss', '-uln').includes(':69 ');
      await net.box.until(listening, 20000, 'servers');
    });

    after(async () => {
      for (const server of servers) server.kill('SIGKILL');
      await net?.stop();
    });

    /** Transfers, and the kinds of connections that stand in the table then; both daemons must have the same ones. */
    const transfer = (
      name: string,
      rules: readonly string[],
      address: string,
      mode: string,
    ): void => {
      net.box.appctl('dpctl/flush-conntrack');
      net.flows(rules);
      const out = net.run(
        'a',
        PYTHON,
        net.box.path('client.py'),
        address,
        mode,
        net.box.path('file'),
      );
      assert.equal(out.trim(), 'done', name);
      compare(name);
    };

    /** The kinds of connections of FTP that stand in the table are those of the other daemon. */
    const compare = (name: string): void => {
      const kinds = [
        ...new Set(
          net
            .connections()
            .map((line) =>
              line.replace(/[sd]port=(?!21\b|20\b)\d+/g, 'port=N').replace(/state=\w+/, 'state=N'),
            ),
        ),
      ].sort();
      if (tables.has(name)) assert.deepEqual(kinds, tables.get(name), name);
      else tables.set(name, kinds);
    };

    for (const mode of ['active', 'passive']) {
      test(`FTP, ${mode}, IPv4, source translated`, () => {
        transfer(`${mode} snat`, flows('src=10.1.1.240', 'ip'), '10.1.1.2', mode);
      });
      test(`FTP, ${mode}, IPv4, destination translated`, () => {
        transfer(`${mode} dnat`, flows('dst=10.1.1.2', 'ip'), '10.1.1.240', mode);
      });
      test(`FTP, ${mode}, IPv6, source translated`, () => {
        transfer(`${mode} snat6`, flows('src=fc00::240', 'ipv6'), 'fc00::2', mode);
      });
    }

    for (const mode of ['active', 'passive'] as const) {
      test(`lftp, ${mode}, source translated`, () => {
        net.box.appctl('dpctl/flush-conntrack');
        net.flows(flows('src=10.1.1.240', 'ip'));
        const got = net.box.path(`lftp-${mode}`);
        const script = [
          `set ftp:passive-mode ${mode === 'passive'}; set net:max-retries 1; set net:timeout 10`,
          'set xfer:clobber true; open 10.1.1.2',
          `put ${net.box.path('file')} -o ${mode}`,
          `mirror / ${got}`,
          'cls',
        ];
        const listed = net.run('a', 'lftp', '-c', script.join(' && '));
        assert.match(listed, new RegExp(`^${mode}$`, 'm'));
        for (const name of ['file', mode]) assert.deepEqual(readFileSync(`${got}/${name}`), file);
        compare(`lftp ${mode}`);
      });
    }

    test('TFTP, source translated', () => {
      net.box.appctl('dpctl/flush-conntrack');
      net.flows(flows('src=10.1.1.240', 'ip'));
      const got = net.box.path('got');
      net.run('a', 'busybox', 'tftp', '-g', '-r', 'file', '-l', got, '10.1.1.2');
      assert.deepEqual(readFileSync(got), file);
      const kinds = net
        .connections()
        .map((line) => line.replace(/[sd]port=(?!69\b)\d+/g, 'port=N'));
      if (tables.has('tftp')) assert.deepEqual(kinds, tables.get('tftp'));
      else tables.set('tftp', kinds);
    });

    // The real userspace conntrack knows EPSV over IPv6 alone; curl asks for it first.
    test('curl over IPv4 with EPSV', { skip: daemon === 'real' }, () => {
      net.flows(flows('src=10.1.1.240', 'ip'));
      const got = net.box.path('curl');
      net.run('a', 'curl', '-s', '--disable-epsv', '-m', '10', '-o', got, 'ftp://10.1.1.2/file');
      assert.deepEqual(readFileSync(got), file);
      net.run('a', 'curl', '-s', '-m', '10', '-o', got, 'ftp://10.1.1.2/up1');
      assert.deepEqual(readFileSync(got), file.subarray(0, 1001));
    });
  });
}
