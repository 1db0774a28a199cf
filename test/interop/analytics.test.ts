// sFlow, NetFlow and IPFIX of whole bridges beside the real ovs-vswitchd: the same frames, and the same samples and records,
// as collectors see them (flowCollector.py).

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { FirewallNet } from './firewallNet.ts';

const SEND = `
import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind((sys.argv[1], 0))
for frame in sys.argv[2:]:
    s.send(bytes.fromhex(frame))
`;
const PORTS = { netflow: 2055, sflow: 6343 } as const;

const ETHERNET = '02aabbccdd0202aabbccdd01';
const ip4 = (proto: string, l4: string): string => {
  const length = (20 + l4.length / 2).toString(16).padStart(4, '0');
  return `080045b8${length}000040003f${proto}00000a0000010a000002${l4}`;
};
const TCP = `${ETHERNET}${ip4('06', '04d2005000000001000000025012100000000000')}`;
const UDP = `${ETHERNET}${ip4('11', '04d30035000c0000deadbeef')}`;
const ICMP = `${ETHERNET}${ip4('01', '0800f7fd00010001')}`;
const TAGGED = `${ETHERNET}8100a005${ip4('11', '04d30035000c0000deadbeef')}`;
const OTHER = `${ETHERNET}88b50102030405060708`;

class Side {
  net!: FirewallNet;
  readonly stop = new AbortController();
  readonly name: 'xvio' | 'real';

  constructor(name: 'xvio' | 'real') {
    this.name = name;
  }

  async start(): Promise<void> {
    this.net = await FirewallNet.create(this.name, [
      { name: 'a', addresses: [] },
      { name: 'b', addresses: [] },
    ]);
    const { box } = this.net;
    for (const host of ['a', 'b']) {
      this.net.run(host, 'sysctl', '-qw', 'net.ipv6.conf.all.disable_ipv6=1');
    }
    writeFileSync(box.path('send.py'), SEND);
    for (const [kind, port] of Object.entries(PORTS)) {
      const script = join(import.meta.dirname, 'flowCollector.py');
      const args = ['python3', script, kind, '127.0.0.1', String(port), box.path(kind)];
      spawn('ip', ['netns', 'exec', box.namespace!, ...args], {
        stdio: 'ignore',
        signal: this.stop.signal,
      }).on('error', () => {});
      const listens = () => box.run('ss', '-uln').stdout.includes(`:${port} `);
      await box.until(listens, 15_000, `collector of ${kind}`);
    }
  }

  /** What a collector has written so far. */
  lines(kind: keyof typeof PORTS): string[] {
    const path = this.net.box.path(kind);
    return existsSync(path) ? readFileSync(path, 'utf8').split('\n').slice(0, -1) : [];
  }

  send(...frames: string[]): void {
    this.net.run('a', 'python3', this.net.box.path('send.py'), 'eth0', ...frames);
  }
}

const sides = [new Side('real'), new Side('xvio')] as const;
const [real, ours] = sides;

before(async () => {
  await Promise.all(sides.map((side) => side.start()));
  for (const side of sides) side.net.flows(['in_port=1,dl_src=02:aa:bb:cc:dd:01 actions=output:2']);
});

after(async () => {
  for (const side of sides) side.stop.abort();
  for (const side of sides) await side.net?.stop();
});

const create = (side: Side, column: string, table: string, ...settings: string[]): void =>
  void side.net.box.vsctl(
    ...['set', 'bridge', 'br0', `${column}=@new`, '--', '--id=@new', 'create', table],
    ...settings,
  );

test('sFlow: samples, and counters of every port', async () => {
  const samples = (side: Side): string[] =>
    side
      .lines('sflow')
      .filter((line) => line.startsWith('HEADER') && line.includes('02-AA-BB-CC-DD-01'))
      // Numbers of devices and of other packets differ.
      .map((line) =>
        line.replace(/(dgramSeqNo|fsSeqNo|samplePool|i[nf]_ifindex|t_ifindex)=\d+/g, '$1'),
      );
  const frames = [TCP, UDP, ICMP, TAGGED, OTHER];
  for (const side of sides) {
    create(
      side,
      ...(['sflow', 'sFlow', 'targets="127.0.0.1:6343"', 'agent=127.0.0.1'] as const),
      ...['sampling=1', 'polling=1', 'header=40'],
    );
    side.send(...frames);
  }
  for (const side of sides) {
    const ready = () =>
      samples(side).length >= frames.length &&
      side.lines('sflow').some((line) => line.startsWith('RESOURCES')) &&
      side.lines('sflow').filter((line) => line.startsWith('PORTNAME')).length >= 3;
    await side.net.box.until(ready, 20_000, 'samples and counters');
    assert.deepEqual(
      side.lines('sflow').filter((line) => line.includes('ERROR')),
      [],
    );
  }
  assert.deepEqual(samples(ours).sort(), samples(real).sort());
  assert.match(
    samples(ours).find((line) => line.includes('in_vlan=5'))!,
    /out_vlan=5.* hdr_len=40 /,
  );
  const ports = (side: Side): string[] =>
    [...new Set(side.lines('sflow').filter((line) => /^PORTNAME|^OPENFLOWPORT/.test(line)))]
      .map((line) => line.replace(/datapath_id=\d+/, ''))
      .sort();
  assert.deepEqual(ports(ours), ports(real));
  const actions = (side: Side): string =>
    side.net.box.appctl('dpctl/dump-flows', '--names').replaceAll(/output=\d+/g, 'output');
  assert.match(actions(ours), /actions:userspace\(pid=0,sFlow\(vid=0,pcp=0,output\),actions\),/);
  for (const side of sides) side.net.box.vsctl('clear', 'bridge', 'br0', 'sflow');
  assert.doesNotMatch(actions(ours), /sFlow/);
});

test('NetFlow: a record for each flow when its megaflow goes', async () => {
  for (const side of sides) {
    create(
      side,
      ...(['netflow', 'NetFlow', 'targets="127.0.0.1:2055"', 'active_timeout=600'] as const),
      ...['engine_id=3', 'engine_type=4', 'add_id_to_interface=true'],
    );
    side.net.box.appctl('revalidator/purge');
    for (let i = 0; i < 2; i++) side.send(TCP, UDP, ICMP, OTHER, TCP);
  }
  const records = (side: Side): string[] =>
    side
      .lines('netflow')
      .filter((line) => line.startsWith('seq'))
      .map((line) => line.replace(/^seq \d+: |, time .*/g, ''))
      .sort();
  for (const side of sides) {
    const seen = () => side.net.box.appctl('dpctl/dump-flows').includes('src=1235');
    await side.net.box.until(seen, 10_000, 'megaflows');
    side.net.box.appctl('revalidator/wait');
    side.net.box.appctl('revalidator/purge');
    await side.net.box.until(() => records(side).length >= 3, 10_000, 'records');
    side.net.box.vsctl('clear', 'bridge', 'br0', 'netflow');
  }
  assert.deepEqual(records(ours), records(real));
  assert.equal(records(ours).length, 3);
  assert.match(
    records(ours).join('\n'),
    /if 1537 > 1538, 4 pkts, .* TCP 1234 > 80 syn\|ack, TOS b8/,
  );
  assert.match(ours.lines('netflow')[0]!, /^header: v5, .* engine 4,3$/);
});

test('IPFIX of a bridge: counted as in the real one, and refused where there is none', async () => {
  const dump = (side: Side, what: string): string => {
    const { stdout, stderr } = side.net.box.run('ovs-ofctl', what, 'br0');
    return (stdout + stderr).replaceAll(/xid=0x[0-9a-f]+|\(fd=\d+\)/g, '');
  };
  for (const what of ['dump-ipfix-bridge', 'dump-ipfix-flow']) {
    assert.match(dump(ours, what), /NXST_NOT_CONFIGURED/);
    assert.equal(dump(ours, what), dump(real, what));
  }
  // What each tells depends on how many of its templates have gone out: without what was sent.
  const counted = (side: Side): string =>
    dump(side, 'dump-ipfix-bridge').replaceAll(/tx (pkts|errs)=\d+/g, '');
  for (const side of sides) {
    create(
      side,
      ...(['ipfix', 'IPFIX', 'targets="127.0.0.1:4739"', 'sampling=1'] as const),
      ...['cache_max_flows=100', 'cache_active_timeout=600', 'obs_domain_id=9'],
    );
    side.net.box.appctl('revalidator/purge');
    side.send(TCP, UDP, UDP, OTHER, `${ETHERNET}${ip4('2f', '0000080001020304')}`);
    // On the way in, and on the way out; the real one samples the first packet of a flow twice, too.
    const all = () => Number(/sampled pkts=(\d+)/.exec(counted(side))?.[1]) >= 10;
    await side.net.box.until(all, 10_000, 'samples');
  }
  assert.equal(counted(ours), counted(real));
});

test('what is only sampled is a drop all the same', async () => {
  const { box } = ours.net;
  const drops = (): number => Number(box.appctl('coverage/read-counter', 'drop_flow_drop'));
  const frames = [UDP, UDP, OTHER, UDP];
  ours.net.flows(['in_port=1,dl_src=02:aa:bb:cc:dd:01 actions=drop']);
  // sFlow of each packet, of few, and none; IPFIX stays from the test before.
  for (const sampling of [1, 1_000_000, 0]) {
    box.vsctl('clear', 'bridge', 'br0', 'sflow');
    if (sampling > 0) {
      create(
        ours,
        ...(['sflow', 'sFlow', 'targets="127.0.0.1:6343"', 'agent=127.0.0.1'] as const),
        ...[`sampling=${sampling}`, 'polling=0', 'header=40'],
      );
    }
    const before = drops();
    ours.send(...frames);
    const counted = () => drops() - before >= frames.length;
    await box.until(counted, 10_000, `drops, sFlow of one in ${sampling}`);
    assert.equal(drops() - before, frames.length, `sFlow of one in ${sampling}`);
  }
  const sampled = box.ofctl('dump-ipfix-bridge', 'br0');
  assert.match(sampled, /sampled pkts=22/);
});
