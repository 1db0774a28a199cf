// Stateful firewalls and NAT with real hosts, with our daemon and the real one: the same answers, the same tables.
//
// FIREWALL_DAEMON=xvio|real runs one of the two only.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { firewallFlows, type SecurityGroup } from './firewallFlows.ts';
import { FirewallNet, GATEWAY_MAC } from './firewallNet.ts';

const only = process.env.FIREWALL_DAEMON;
const DAEMONS = (['xvio', 'real'] as const).filter((d) => only === undefined || only === d);

/** What each daemon has answered, by question. */
const answers = new Map<string, unknown>();

/** Both daemons have to give the same; the first that is asked sets what that is. */
function same(question: string, answer: unknown): void {
  if (answers.has(question)) assert.deepEqual(answer, answers.get(question), question);
  else answers.set(question, answer);
}

/** ICMP ids are the host's business; how far the end of a TCP connection has got is a matter of luck. */
const plain = (lines: string[]): string[] =>
  lines
    .map((line) =>
      line.replace(/id=\d+/g, 'id=N').replace(/state=(CLOSING|TIME_WAIT)/, 'state=END'),
    )
    .sort();

for (const daemon of DAEMONS) {
  describe(`security groups, ${daemon}`, () => {
    let net: FirewallNet;
    const groups = (ingressOfB: readonly string[]): SecurityGroup[] => [
      { host: net.host('a'), addresses: ['10.0.0.1', 'fd00::1'], ingress: [] },
      { host: net.host('b'), addresses: ['10.0.0.2', 'fd00::2'], ingress: ingressOfB },
    ];
    const RULES = [
      'tcp,tp_dst=80',
      'udp,tp_dst=53',
      'udp,tp_dst=54',
      'icmp',
      'tcp6,tp_dst=80',
      'udp6,tp_dst=53',
      'icmp6',
    ];

    before(async () => {
      net = await FirewallNet.create(daemon, [
        { name: 'a', addresses: ['10.0.0.1/24', 'fd00::1/64'] },
        { name: 'b', addresses: ['10.0.0.2/24', 'fd00::2/64'] },
      ]);
      net.flows(firewallFlows(groups(RULES)));
      await net.serve('b', 'tcp', '0.0.0.0', 80);
      await net.serve('b', 'tcp', '0.0.0.0', 81);
      await net.serve('b', 'udp', '0.0.0.0', 53);
      await net.serve('b', 'udp', '0.0.0.0', 55);
      await net.serve('a', 'tcp', '0.0.0.0', 80);
      await net.serve('b', 'tcp', 'fd00::2', 8080);
    });

    after(async () => net?.stop());

    test('TCP: what is allowed, and nothing else', () => {
      assert.equal(net.ask('a', 'tcp', 4001, '10.0.0.2', 80), 'ok');
      assert.equal(net.ask('a', 'tcp', 4002, '10.0.0.2', 81), 'timeout');
      assert.equal(net.ask('b', 'tcp', 4003, '10.0.0.1', 80), 'timeout', 'a lets nobody in');
      same('tcp', plain(net.connections('zone=1').filter((line) => line.startsWith('tcp'))));
    });

    test('UDP', () => {
      assert.equal(net.ask('a', 'udp', 5001, '10.0.0.2', 53), 'ok');
      assert.equal(net.ask('a', 'udp', 5002, '10.0.0.2', 55), 'timeout');
      same('udp', plain(net.connections().filter((line) => line.startsWith('udp'))));
    });

    test('ICMP: echoes, and errors about connections', () => {
      assert.ok(net.ping('a', '10.0.0.2'));
      assert.ok(!net.ping('b', '10.0.0.1'));
      // Allowed, but nobody listens: the error belongs to the connection and comes through.
      assert.equal(net.ask('a', 'udp', 5003, '10.0.0.2', 54), 'refused');
      same('icmp', plain(net.connections().filter((line) => line.startsWith('icmp'))));
    });

    test('IPv6', () => {
      assert.ok(net.ping('a', 'fd00::2'));
      assert.ok(!net.ping('b', 'fd00::1'));
      assert.equal(net.ask('a', 'tcp', 4010, 'fd00::2', 8080), 'timeout', 'not allowed');
      net.flows(firewallFlows(groups([...RULES, 'tcp6,tp_dst=8080'])));
      assert.equal(net.ask('a', 'tcp', 4011, 'fd00::2', 8080), 'ok');
      same('tcp6', plain(net.connections().filter((line) => line.includes('fd00::'))));
    });

    test('a rule that is taken back ends established connections', () => {
      assert.equal(net.ask('a', 'udp', 5010, '10.0.0.2', 53), 'ok');
      net.flows(firewallFlows(groups([])));
      assert.equal(net.ask('a', 'udp', 5010, '10.0.0.2', 53), 'timeout');
      const marked = net.connections().filter((line) => line.includes('sport=5010'));
      same('marked', plain(marked));
      assert.match(marked.join(), /,mark=1/);
      net.flows(firewallFlows(groups(RULES)));
      assert.equal(
        net.ask('a', 'udp', 5010, '10.0.0.2', 53),
        'timeout',
        'marked as long as it lives',
      );
      net.box.appctl(
        'dpctl/flush-conntrack',
        'zone=1',
        'ct_nw_src=10.0.0.1,ct_nw_proto=17,ct_tp_src=5010',
      );
      assert.equal(net.ask('a', 'udp', 5010, '10.0.0.2', 53), 'ok');
    });

    test('flushes', () => {
      assert.equal(net.ask('a', 'udp', 5020, '10.0.0.2', 53), 'ok');
      net.box.must(
        'ovs-ofctl',
        '-O',
        'OpenFlow13',
        'ct-flush',
        'br0',
        'zone=1',
        'ct_nw_src=10.0.0.1,ct_nw_dst=10.0.0.2,ct_nw_proto=17,ct_tp_src=5020,ct_tp_dst=53',
      );
      assert.doesNotMatch(net.connections().join(), /sport=5020/);
      net.box.must('ovs-ofctl', '-O', 'OpenFlow13', 'ct-flush-zone', 'br0', '1');
      assert.deepEqual(net.connections(), []);
    });
  });

  describe(`NAT, ${daemon}`, () => {
    let net: FirewallNet;

    /** a and c are inside, b is outside; 192.0.2.1 is the gateway's address, 10.0.0.254 its inner one. */
    before(async () => {
      net = await FirewallNet.create(daemon, [
        { name: 'a', addresses: ['10.0.0.1/24'], gateway: '10.0.0.254' },
        { name: 'b', addresses: ['192.0.2.9/24'], gateway: '192.0.2.1' },
        { name: 'c', addresses: ['10.0.0.3/24'], gateway: '10.0.0.254' },
      ]);
      const [a, b, c] = ['a', 'b', 'c'].map((name) => net.host(name).mac);
      const to = (mac: string | undefined, port: number): string =>
        `mod_dl_src:${GATEWAY_MAC},mod_dl_dst:${mac},output:${port}`;
      net.flows([
        'table=0,priority=1,actions=drop',
        // Hairpin: inside to the public address of a service inside. Both addresses are translated, in a zone each.
        'table=0,priority=30,ip,dl_dst=02:00:00:00:00:fe,in_port=1,nw_dst=192.0.2.1,actions=ct(commit,zone=1,nat(dst=10.0.0.3),table=20)',
        'table=20,ip,actions=ct(commit,zone=2,nat(src=10.0.0.254),table=21)',
        `table=21,ip,actions=${to(c, 3)}`,
        'table=0,priority=30,ip,in_port=3,nw_dst=10.0.0.254,actions=ct(zone=2,nat,table=22)',
        'table=22,ip,actions=ct(zone=1,nat,table=23)',
        `table=23,ip,ct_state=+est+rpl,actions=${to(a, 1)}`,
        // Source NAT.
        'table=0,priority=20,ip,in_port=1,actions=ct(commit,zone=1,nat(src=192.0.2.1:5000-5999),table=10)',
        `table=10,ip,ct_state=+trk-inv,actions=${to(b, 2)}`,
        'table=0,priority=20,ip,in_port=3,actions=ct(zone=1,nat,table=10)',
        // Port forwarding, and answers.
        'table=0,priority=25,tcp,in_port=2,nw_dst=192.0.2.1,tp_dst=8080,actions=ct(commit,zone=1,nat(dst=10.0.0.3:80),table=11)',
        'table=0,priority=20,ip,in_port=2,nw_dst=192.0.2.1,actions=ct(zone=1,nat,table=11)',
        `table=11,ip,nw_dst=10.0.0.1,ct_state=+trk-new-inv,actions=${to(a, 1)}`,
        `table=11,ip,nw_dst=10.0.0.3,ct_state=+trk-inv,actions=${to(c, 3)}`,
      ]);
      await net.serve('b', 'tcp', '0.0.0.0', 80);
      await net.serve('b', 'udp', '0.0.0.0', 53);
      await net.serve('c', 'tcp', '0.0.0.0', 80);
    });

    after(async () => net?.stop());

    test('inside to outside by source NAT', () => {
      assert.equal(net.ask('a', 'tcp', 5001, '192.0.2.9', 80), 'ok');
      assert.equal(net.ask('a', 'udp', 5002, '192.0.2.9', 53), 'ok');
      assert.ok(net.ping('a', '192.0.2.9'));
      // Nobody listens there; the error comes back with its inner packet translated.
      assert.equal(net.ask('a', 'udp', 5003, '192.0.2.9', 54), 'refused');
      same(
        'snat',
        plain(net.connections('zone=1')).map((line) =>
          line.replace(/(reply=\(src=192.0.2.9,dst=192.0.2.1,sport=\d+,dport=)\d+/, '$1N'),
        ),
      );
    });

    test('outside to inside by port forwarding', () => {
      assert.equal(net.ask('b', 'tcp', 6001, '192.0.2.1', 8080), 'ok');
      assert.equal(net.ask('b', 'tcp', 6002, '192.0.2.1', 81), 'timeout');
      same('dnat', plain(net.connections('zone=1').filter((line) => line.includes('sport=6001'))));
    });

    test('hairpin', () => {
      assert.equal(net.ask('a', 'tcp', 7001, '192.0.2.1', 80), 'ok');
      same('hairpin', plain(net.connections().filter((line) => line.includes('7001'))));
    });
  });
}
