// `sample` and its IPFIX export beside the real ovs-vswitchd: the same trace, and for the same frames the same records,
// read by a small collector that knows nothing but what the templates say (RFC 7011).

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { FirewallNet } from './firewallNet.ts';

/** receive PORT FILE: datagrams as lines of hexadecimal digits; send DEVICE GAP_MS FRAME…: frames. */
const TOOL = `
import socket, sys, time
if sys.argv[1] == 'receive':
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(('127.0.0.1', int(sys.argv[2])))
    with open(sys.argv[3], 'a') as f:
        while True:
            f.write(s.recv(65535).hex() + '\\n'); f.flush()
else:
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    s.bind((sys.argv[2], 0))
    for frame in sys.argv[4:]:
        s.send(bytes.fromhex(frame)); time.sleep(int(sys.argv[3]) / 1000)
`;

const SRC = '02aabbccdd01';
const UNICAST = '02aabbccdd02';
const ip4 = (proto: string, l4: string, dst = '0a000002'): string => {
  const length = (20 + l4.length / 2).toString(16).padStart(4, '0');
  return `080045b8${length}000040003f${proto}00000a000001${dst}${l4}`;
};
const TCP_SYN_ACK = '04d20050000000010000000250121000000000000000';
const UDP = '04d30035000c0000deadbeef';
const FRAMES = [
  `${UNICAST}${SRC}${ip4('06', TCP_SYN_ACK.slice(0, 40))}`,
  `${UNICAST}${SRC}8100a005${ip4('11', UDP)}`,
  `ffffffffffff${SRC}${ip4('01', '0800f7fd00010001')}`,
  `01005e000005${SRC}${ip4('84', '0b590b5a00000000deadbeef', 'e0000005')}`,
  `${UNICAST}${SRC}${ip4('2f', '0000080001020304')}`,
  `${UNICAST}${SRC}86dd6012345600083a40fd00000000000000000000000000000${'1'}fd000000000000000000000000000002800000000001000${'1'}`,
  `${UNICAST}${SRC}88b50102030405060708`,
];

type Fields = Record<string, string>;

/** Decodes messages by their templates; checks that lengths and sequence numbers fit. */
function decode(lines: readonly string[]): {
  records: Fields[];
  templates: Map<number, number[][]>;
} {
  const templates = new Map<number, number[][]>();
  const records: Fields[] = [];
  for (const line of lines) {
    const m = Buffer.from(line, 'hex');
    assert.equal(m.readUInt16BE(0), 10);
    assert.equal(m.readUInt16BE(2), m.length);
    const set = m.readUInt16BE(16);
    assert.equal(m.readUInt16BE(18), m.length - 16, 'one set a message');
    let at = 20;
    if (set === 2 || set === 3) {
      while (at < m.length) {
        const [id, count] = [m.readUInt16BE(at), m.readUInt16BE(at + 2)];
        at += set === 2 ? 4 : 6;
        const elements: number[][] = [];
        for (let i = 0; i < count; i++) {
          const element = m.readUInt16BE(at);
          elements.push([element, m.readUInt16BE(at + 2)]);
          at += element & 0x8000 ? 8 : 4;
        }
        templates.set(id, elements);
      }
      continue;
    }
    const fields: Fields = { set: String(set), domain: String(m.readUInt32BE(12)) };
    const names = new Map<number, number>();
    for (const [element, length] of templates.get(set) ?? assert.fail(`template ${set}`)) {
      const bytes = length === 65535 ? m[at++]! : length!;
      const n = (names.get(element!) ?? 0) + 1;
      names.set(element!, n);
      fields[`${element}${n > 1 ? `#${n}` : ''}`] = m.subarray(at, at + bytes).toString('hex');
      at += bytes;
    }
    assert.equal(at, m.length, `record of template ${set}`);
    records.push(fields);
  }
  return { records, templates };
}

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
    writeFileSync(box.path('tool.py'), TOOL);
    writeFileSync(box.path('got'), '');
    const args = [box.path('tool.py'), 'receive', '4739', box.path('got')];
    spawn('ip', ['netns', 'exec', box.namespace!, 'python3', ...args], {
      stdio: 'ignore',
      signal: this.stop.signal,
    }).on('error', () => {});
    await box.until(() => box.run('ss', '-uln').stdout.includes(':4739 '), 10_000, 'collector');
  }

  exporter(...columns: string[]): void {
    const { box } = this.net;
    box.vsctl(
      ...['--', '--id=@b', 'get', 'bridge', 'br0'],
      ...['--', '--id=@i', 'create', 'IPFIX', 'targets="127.0.0.1"', ...columns],
      ...['--', 'create', 'Flow_Sample_Collector_Set', 'id=7', 'bridge=@b', 'ipfix=@i'],
    );
  }

  send(gapMs: number, frames: readonly string[]): void {
    this.net.run(
      'a',
      'python3',
      this.net.box.path('tool.py'),
      'send',
      'eth0',
      String(gapMs),
      ...frames,
    );
  }

  get lines(): string[] {
    return readFileSync(this.net.box.path('got'), 'utf8')
      .split('\n')
      .filter((l) => l !== '');
  }

  /** Records of packets so far. */
  get records(): Fields[] {
    return decode(this.lines).records.filter((fields) => fields['56'] !== undefined);
  }

  async settled(records: number): Promise<void> {
    const { box } = this.net;
    await box.until(() => this.records.length >= records, 15_000, `${records} records`);
  }
}

const sides = [new Side('real'), new Side('xvio')] as const;
const [real, ours] = sides;

/**
 * Without times, numbers of devices, and what counts as dropped: the real daemon knows what becomes of a packet only if
 * it is just like the one that the megaflow was made for.
 */
const comparable = (fields: Fields): Fields => {
  const leftOut = [158, 159, 10, 14, 132, 133, 134, 135].map(String);
  return Object.fromEntries(Object.entries(fields).filter(([name]) => !leftOut.includes(name)));
};

before(async () => {
  await Promise.all(sides.map((side) => side.start()));
});

after(async () => {
  for (const side of sides) side.stop.abort();
  for (const side of sides) await side.net?.stop();
});

const sampled = (rest = '') =>
  `sample(probability=65535,collector_set_id=7,obs_domain_id=11,obs_point_id=22${rest})`;

test('traces', () => {
  const flows = [
    `in_port=1,udp actions=${sampled()},output:2`,
    'in_port=1,tcp actions=sample(probability=100,collector_set_id=7),dec_ttl,sample(probability=32768,collector_set_id=8,sampling_port=2,egress),output:2',
    `in_port=1,icmp actions=${sampled(',sampling_port=2')},${sampled(',sampling_port=1')}`,
    `in_port=1,sctp actions=${sampled(',sampling_port=77')},${sampled(',sampling_port=LOCAL,ingress')}`,
    `in_port=1,ipv6 actions=clone(${sampled()},output:2),set_field:02:00:00:00:00:09->eth_dst,${sampled()}`,
  ];
  const packets = ['udp', 'tcp', 'icmp', 'sctp', 'ipv6'].map(
    (kind) => `in_port=1,${kind},nw_ttl=9`,
  );
  const run = (side: Side): string[] => {
    // The datapath's ports have other numbers in each.
    const ports = side.net.box.appctl('dpctl/show').matchAll(/port (\d+): (\S+)/g);
    const names = new Map([...ports].map(([, number, name]) => [number!, name!]));
    return packets.map((packet) =>
      side.net.box
        .appctl('ofproto/trace', 'br0', packet)
        .replace(/^Datapath actions: .*$/gm, (line) =>
          line.replace(/(?<=[ ,]|output_port=)\d+(?=$|[,)])/g, (n) => names.get(n) ?? n),
        ),
    );
  };
  for (const side of sides) side.net.flows(flows);
  assert.deepEqual(run(ours), run(real), 'without collectors');
  for (const side of sides) side.exporter('other_config:virtual_obs_id=tenant-1');
  const expected = run(real);
  assert.match(expected.join('\n'), /flow_sample\(probability=65535,collector_set_id=7/);
  assert.deepEqual(run(ours), expected);
});

test('records of single packets', async () => {
  const flows = [
    `in_port=1,dl_src=02:aa:bb:cc:dd:01,dl_type=0x88b5 actions=${sampled()}`,
    `priority=1,in_port=1,dl_src=02:aa:bb:cc:dd:01 actions=${sampled(',sampling_port=2')},${sampled()},output:2`,
  ];
  const count = 2 * FRAMES.length - 1;
  for (const side of sides) side.net.flows(flows);
  await Promise.all(
    sides.map(async (side) => {
      side.send(30, FRAMES);
      await side.settled(count);
      await sleep(500); // until the real daemon has put its flows down
      side.send(30, FRAMES);
      await side.settled(2 * count);
    }),
  );
  const theirs = decode(real.lines);
  const mine = decode(ours.lines);
  assert.deepEqual([...mine.templates], [...theirs.templates]);
  assert.equal(ours.records.length, real.records.length);
  const second = (side: Side): Fields[] => side.records.slice(count).map(comparable);
  assert.deepEqual(second(ours), second(real));
  const dropped = ours.records.filter((fields) => Number(`0x${fields['133']}`) > 0);
  assert.deepEqual([...new Set(dropped.map((fields) => fields['256']))], ['88b5']);
  assert.equal(dropped.length, 2);
  // A sample goes nowhere: what is only sampled is counted as a drop.
  const drops = ours.net.box.appctl('coverage/read-counter', 'drop_flow_drop');
  assert.equal(Number(drops), 2);
});

test('flows are summed up, up to so many', async () => {
  const before = sides.map((side) => side.records.length);
  for (const side of sides) {
    const [row] = side.net.box
      .vsctl('--bare', '--columns=_uuid', 'find', 'IPFIX')
      .trim()
      .split('\n');
    side.net.box.vsctl('set', 'IPFIX', row!, 'cache_active_timeout=2', 'cache_max_flows=100');
    side.net.flows([`in_port=1,dl_src=02:aa:bb:cc:dd:01 actions=${sampled()},output:2`]);
  }
  const tcp = FRAMES[0]!;
  await Promise.all(
    sides.map(async (side, i) => {
      side.send(5, [tcp, tcp, tcp, tcp, FRAMES[1]!, tcp]);
      await side.settled(before[i]! + 2);
    }),
  );
  const sums = (side: Side, i: number) => {
    return side.records.slice(before[i]).map((fields) => ({
      ...{ set: fields.set, packets: fields['2'], octets: fields['1'], squares: fields['198'] },
      ...{ tenant: fields[String(898 | 0x8000)], why: fields['136'], syn: fields['218'] },
    }));
  };
  assert.equal(sums(ours, 1).length, 2);
  assert.equal(BigInt(`0x${sums(ours, 1)[0]!.packets}`), 5n);
  assert.deepEqual(sums(ours, 1), sums(real, 0));
});

test('a share of the packets; sets without exporters cost nothing', async () => {
  const { net } = ours;
  net.flows([
    'in_port=1,dl_src=02:aa:bb:cc:dd:01 actions=sample(probability=6554,collector_set_id=7),sample(probability=65535,collector_set_id=9),output:2',
  ]);
  const [row] = net.box.vsctl('--bare', '--columns=_uuid', 'find', 'IPFIX').trim().split('\n');
  net.box.vsctl('set', 'IPFIX', row!, 'cache_active_timeout=0', 'cache_max_flows=0');
  const before = ours.records.length;
  for (let i = 0; i < 10; i++) ours.send(0, new Array<string>(200).fill(FRAMES[1]!));
  // Until no more come.
  let got = 0;
  for (let last = -1, i = 0; i < 30 && (got !== last || got === 0); i++) {
    last = got;
    await sleep(700);
    got = ours.records.length - before;
  }
  assert.ok(got > 120 && got < 290, `${got} of 2000 packets, 200 expected`);
  const [{ 2: each } = { 2: '' }] = ours.records.slice(before);
  assert.equal(BigInt(`0x${each}`), 9n, 'each stands for so many');
  // Targets that are none are told, and harm nobody.
  net.box.vsctl('set', 'IPFIX', row!, 'targets="nonsense:99999"');
  await net.box.until(
    () => existsSync(net.box.logFile) && net.box.logTail(50).includes('IPFIX exporter disabled'),
    20_000,
    'a warning',
  );
  net.box.vsctl('--all', 'destroy', 'Flow_Sample_Collector_Set');
  const traced = net.box.appctl('ofproto/trace', 'br0', 'in_port=1,dl_src=02:aa:bb:cc:dd:01');
  assert.match(traced, /Datapath actions: \d+\n/);
});

test('the datapath says that it can', () => {
  // Two VLAN headers are more than the real one's default; a hash bucket's output is ours to resolve in translation.
  const features = (side: Side): string[] =>
    side.net.box
      .appctl('dpif/show-dp-features', 'br0')
      .split('\n')
      .filter((line) => !/^(Max VLAN headers|Optimized Balance TCP mode):/.test(line));
  assert.deepEqual(features(ours), features(real));
});
