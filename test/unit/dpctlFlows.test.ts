// Single megaflows by ovs-appctl: dpctl/get-flow, dpctl/del-flow; and what the log says of them at level dbg.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { KEY_SIZE } from '../../contract/key.ts';
import { switchCommandTable } from '../../src/switch/commands.ts';
import { parseOdpActions } from '../../src/switch/odpActionParse.ts';
import { macText } from '../../src/switch/odpFields.ts';
import { parseOdpFlow } from '../../src/switch/odpParse.ts';
import { formatOdpActions } from '../../src/switch/odpText.ts';
import { parseActions } from '../../src/wire/openflow/actionParse.ts';
import { parseMatch } from '../../src/wire/openflow/matchParse.ts';
import { ethernet, MAC_A, MAC_B } from '../oracle/frames.ts';
import { makeRule, SwitchRig } from '../oracle/openflowRig.ts';

test('a megaflow is shown and removed, by its name or by a packet that meets it', async () => {
  const rig = await SwitchRig.create({ debug: true });
  const bridge = rig.addBridge('br0');
  const ports = [1, 2].map((n) => rig.addPort(bridge, `p${n}`, {}, n));
  const rule = makeRule(0, 1, parseMatch('in_port=1'), parseActions('output:2'));
  bridge.tables[0]!.insert(rule);
  bridge.flowsChanged();
  const run = async (name: string, ...args: string[]): Promise<string> => {
    const command = switchCommandTable(rig.datapath).find((one) => one.name === name)!;
    const [text] = await Promise.all([command.run(args), rig.settled()]);
    return text;
  };
  const frame = ethernet(0x1234, new Uint8Array(50), { src: MAC_A, dst: MAC_B });
  const send = (): void => rig.send(ports[0]!, frame, frame, frame);

  send();
  const [, line] = (await run('dpctl/dump-flows', '-m')).split('\n');
  const ufid = /^ufid:[-0-9a-f]+/.exec(line!)![0];
  const { dpPort } = ports[0]!;
  const text = `recirc_id(0),in_port(${dpPort}),packet_type(ns=0,id=0),eth_type(0x1234)`;
  const shown = await run('dpctl/get-flow', ufid);
  assert.ok(shown.startsWith(`${text}, packets:`), shown);
  assert.ok(shown.endsWith(`actions:${ports[1]!.dpPort}\n`), shown);
  assert.match(await run('dpctl/get-flow', '--names', 'ovs-netdev', ufid), /in_port\(p1\)/);

  assert.match(
    await run('dpctl/del-flow', '-s', ufid),
    /^packets:\d+, bytes:\d+, used:(never|[\d.]+s)\n$/,
  );
  assert.equal(rig.datapath.megaflows.size, 0);
  bridge.syncStats();
  assert.equal(rule.packets, 3, 'what a removed megaflow has counted is not lost');
  const none = /\(No such file or directory\)$/;
  await assert.rejects(run('dpctl/del-flow', ufid), none);
  await assert.rejects(run('dpctl/get-flow', ufid), none);
  await assert.rejects(
    run('dpctl/get-flow', 'nonsense'),
    /parsing flow ufid \(Invalid argument\)$/,
  );

  send();
  assert.equal(rig.datapath.megaflows.size, 1);
  await assert.rejects(run('dpctl/del-flow', `in_port(${dpPort}),nonsense(1)`), /syntax error/);
  await assert.rejects(run('dpctl/del-flow', 'in_port(77),eth_type(0x1234)'), /specify a UFID/);
  assert.equal(await run('dpctl/del-flow', `in_port(p1),eth_type(0x1234)`), '');
  assert.equal(rig.datapath.megaflows.size, 0);
  rig.close();
});

test('at level dbg the log has packets that come up, and megaflows as they are made, dumped and changed', async () => {
  const lines: string[] = [];
  const [source, destination] = [MAC_A, MAC_B].map((mac) => macText(Uint8Array.from(mac)));
  const write = (text: string): void => void lines.push(text);
  const log = { isDbg: () => true, dbg: write, err: write };
  const rig = await SwitchRig.create({ debug: true }, { flowLog: log, dumpLog: log });
  const bridge = rig.addBridge('br0');
  const from = rig.addPort(bridge, 'p1', {}, 1);
  rig.addPort(bridge, 'p2', {}, 2);
  const setFlow = (actions: string, priority = 1): void => {
    bridge.tables[0]!.insert(makeRule(0, priority, parseMatch('in_port=1'), parseActions(actions)));
    bridge.flowsChanged();
  };
  setFlow('output:2');
  await rig.settled();
  rig.send(from, ethernet(0x1234, new Uint8Array(50), { src: MAC_A, dst: MAC_B }));
  const meta =
    'skb_priority(0),skb_mark(0),ct_state(0),ct_zone(0),ct_mark(0),ct_label(0),recirc_id(0),dp_hash(0)';
  const inPort = `in_port(${from.dpPort}),packet_type(ns=0,id=0)`;
  const [title, key, frame] = lines[0]!.split('\n');
  assert.equal(title, 'ovs-netdev: miss upcall:');
  assert.equal(key, `${meta},${inPort},eth(src=${source},dst=${destination}),eth_type(0x1234)`);
  assert.match(frame!, /^([0-9a-f]{12}){2}1234/);
  assert.match(lines[1]!, /^flow_add: ufid:/);

  await Promise.all([rig.datapath.revalidator.wait(), rig.settled()]);
  const wild = meta.replaceAll('(0)', '(0/0)').replace('recirc_id(0/0)', 'recirc_id(0)');
  const eth = `eth(src=${source}/00:00:00:00:00:00,dst=${destination}/00:00:00:00:00:00)`;
  const dumped = lines.find((line) => line.includes('flow_dump'))!;
  assert.match(dumped, /^netdev@ovs-netdev: flow_dump ufid:[-0-9a-f]{36} skb_priority/);
  assert.ok(dumped.includes(`${wild},${inPort},${eth},eth_type(0x1234), packets:`), dumped);

  setFlow('drop', 2);
  await rig.settled();
  const changed = lines.find((line) => line.includes('put[modify]'))!;
  assert.ok(changed.endsWith(`${wild},${inPort},${eth},eth_type(0x1234), actions:drop`), changed);
  rig.close();
});

test('white space may stand anywhere between the words of a datapath flow', () => {
  const plain = parseOdpFlow(
    'in_port(1),eth(src=00:00:00:00:00:01),eth_type(0x0800),ipv4(proto=1,ttl=64)',
  );
  const wide =
    ' in_port( 1 ) eth(src = 00:00:00:00:00:01)\teth_type(0x0800) , ipv4(proto=\n1 ttl=64) ';
  assert.deepEqual(parseOdpFlow(wide), plain);
  assert.throws(() => parseOdpFlow('in_port(1),ip v4(proto=1)'), SyntaxError);
});

test('megaflows that somebody makes up work until the revalidator comes by', async () => {
  const lines: string[] = [];
  const write = (text: string): void => void lines.push(text);
  const flowLog = { isDbg: () => false, dbg: write, err: write };
  const rig = await SwitchRig.create({ debug: true }, { flowLog });
  const bridge = rig.addBridge('br0');
  const [a, b, c] = [1, 2, 3].map((n) => rig.addPort(bridge, `p${n}`, {}, n));
  bridge.tables[0]!.insert(makeRule(0, 1, parseMatch('in_port=1'), parseActions('output:2')));
  bridge.flowsChanged();
  await rig.settled();
  const run = async (name: string, ...args: string[]): Promise<string> => {
    const command = switchCommandTable(rig.datapath).find((one) => one.name === name)!;
    const [text] = await Promise.all([command.run(args), rig.settled()]);
    return text;
  };
  const flow = (type: string): string => `in_port(${a!.dpPort}),eth(),eth_type(${type})`;
  const frame = ethernet(0x1234, new Uint8Array(50), { src: MAC_A, dst: MAC_B });
  const sentTo = (): string[] => {
    rig.send(a!, frame);
    return rig.sent(bridge).map(({ port }) => port.name);
  };
  const tagged = `push_vlan(vid=5,pcp=3),${c!.dpPort}`;

  await run('revalidator/pause');
  assert.equal(await run('dpctl/add-flow', flow('0x1234'), tagged), '');
  assert.match(
    await run('dpctl/dump-flows'),
    /eth_type\(0x1234\).*actions:push_vlan\(vid=5,pcp=3\),/,
  );
  assert.deepEqual(sentTo(), ['p3'], 'it is what packets meet, not the flow tables');
  await assert.rejects(run('dpctl/add-flow', flow('0x1234'), '1'), /table \(File exists\)$/);
  await assert.rejects(
    run('dpctl/mod-flow', flow('0x1235'), '1'),
    /\(No such file or directory\)$/,
  );
  assert.match(
    await run('dpctl/mod-flow', '-s', flow('0x1234'), `${b!.dpPort},${c!.dpPort}`),
    /^packets:1, bytes:64, used:/,
  );
  assert.deepEqual(sentTo(), ['p2', 'p3']);
  assert.equal(await run('dpctl/mod-flow', '--may-create', flow('0x1235'), 'drop'), '');
  assert.equal(rig.datapath.megaflows.size, 2);

  await run('revalidator/resume');
  await Promise.all([run('revalidator/wait'), rig.settled()]);
  // One of them says by now what the flow tables say, or is gone: its packets come up again.
  assert.deepEqual(sentTo(), ['p2']);

  await run('dpctl/del-flows');
  const bad = [
    ['eth_type(0x1234)', '1', /updating flow table \(Invalid argument\)$/],
    [flow('0x0800'), '1', /updating flow table \(Invalid argument\)$/],
    [`in_port(none),eth_type(0x1234)`, '1', /parsing flow key \(syntax error at in_port/],
    [flow('0x1234'), 'set(ipv4(src=1.2.3.4)),1', /parsing actions \(Invalid argument\)$/],
    [flow('0x1234'), 'pop_vlan,1', /parsing actions/],
    [flow('0x1234'), 'ct(commit),1', /parsing actions/],
    [flow('0x1234'), '99999', /parsing actions/],
    [flow('0x1234'), 'nonsense', /parsing actions/],
    [flow('0x1234'), '', /parsing actions/],
  ] as const;
  for (const [text, actions, error] of bad) {
    await assert.rejects(run('dpctl/add-flow', text, actions), error, `${text} ${actions}`);
  }
  assert.deepEqual(lines, ['failed to put[create] flow: in_port is not an exact match']);
  assert.equal(rig.datapath.megaflows.size, 0);
  rig.close();
});

test('datapath actions in text are read as they are written', () => {
  const texts = [
    '1,2',
    'drop',
    'trunc(100),1',
    'push_vlan(vid=5,pcp=0),pop_vlan,1',
    'set(vlan(vid=7,pcp=1)),1',
    'meter(3),recirc(0x5)',
    'hash(l4(0)),recirc(0x1)',
    'hash(sym_l4(7)),recirc(0x1)',
    'set(eth(src=00:00:00:00:00:01,dst=00:00:00:00:00:02/ff:00:00:00:00:00)),1',
    'set(ipv4(src=1.2.3.4,dst=1.0.0.0/255.0.0.0,tos=0x4/0xfc,ttl=3)),1',
    'set(ipv6(src=::1,dst=fe80::/ffff::,label=0x5,tclass=0x1,hlimit=9)),1',
    'set(tcp(src=1,dst=2)),1',
    'set(arp(sip=1.2.3.4,op=2,sha=00:00:00:00:00:01)),1',
    'set(skb_mark(0x5/0xff)),set(skb_priority(0x7)),1',
    'ct_clear,ct,ct(commit,zone=5,mark=0x1/0xff,label=0x1/0xffffffffffffffff),ct(force_commit)',
    'clone(pop_vlan,1),check_pkt_len(size=100,gt(1),le(drop)),2',
    'sample(sample=50.0%,actions(1)),2',
  ];
  const none = new Uint8Array(KEY_SIZE);
  for (const text of texts) assert.equal(formatOdpActions(parseOdpActions(text), none), text);
  const nested = (depth: number): string => (depth === 0 ? '1' : `clone(${nested(depth - 1)})`);
  for (const text of [
    '',
    'foo',
    '1,,foo',
    'set(ipv4(proto=1))',
    'trunc(1)',
    'push_vlan(vid=5000)',
    nested(9),
  ]) {
    assert.throws(() => parseOdpActions(text), SyntaxError, text);
  }
});

test('what is wrong with the way of a packet is said, as often as the real daemon says it', async () => {
  const said: string[] = [];
  const traces: string[] = [];
  const rig = await SwitchRig.create(
    { debug: true },
    {
      xlateLog: { warn: (text) => void said.push(text) },
      traceLog: { warn: (text) => void traces.push(text) },
    },
  );
  const bridge = rig.addBridge('br0');
  const port = rig.addPort(bridge, 'p1', {}, 1);
  const flow = (match: string, actions: string): void =>
    void bridge.tables[0]!.insert(makeRule(0, 1, parseMatch(match), parseActions(actions)));
  flow('dl_type=0x1234', 'pop:NXM_NX_REG0[]');
  flow('dl_type=0x1235', 'resubmit(,0)');
  bridge.flowsChanged();
  await rig.settled();
  const send = (type: number): void =>
    rig.send(port, ethernet(type, new Uint8Array(50), { src: MAC_A, dst: MAC_B }));
  send(0x1234);
  assert.match(said[0]!, /^stack underflow on bridge br0 while processing in_port=1,vlan_tci=/);
  for (let i = 0; i < 3; i++) send(0x1235);
  assert.match(said[1]!, /^over max translation depth 64 on bridge br0 while processing /);
  assert.equal(traces.length, 1, 'a whole trace is long: one a minute');
  assert.match(traces[0]!, /^Flow: .*\n\nbridge\("br0"\)\n/);
  assert.equal(traces[0]!.match(/^ *resubmit/gm)?.length, 65);
  assert.match(traces[0]!, /Translation failed \(Recursion too deep\), packet is dropped\.\n$/);
  for (let i = 0; i < 5; i++) {
    await Promise.all([rig.datapath.purge(), rig.settled()]);
    send(0x1234);
  }
  assert.equal(said.length, 5);
  rig.clock.nowMs += 60_000;
  await Promise.all([rig.datapath.purge(), rig.settled()]);
  send(0x1234);
  assert.equal(said.length, 6);
  rig.close();
});
