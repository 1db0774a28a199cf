// Parts of connection tracking in the switch: text of connections and actions, flush matches, commands, checks of
// actions, zones of the database.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { KEY_SIZE } from '../../contract/key.ts';
import type {
  Conntrack,
  CtConnection,
  CtTimeouts,
  CtTuple,
} from '../../src/engine/conntrackTypes.ts';
import { CtZones } from '../../src/main/ctZones.ts';
import { checkActions } from '../../src/switch/checkActions.ts';
import { ctCommandTable } from '../../src/switch/ctCommands.ts';
import {
  connectionFits,
  ctFlushText,
  flushConnections,
  parseCtMatch,
} from '../../src/switch/ctMatch.ts';
import { connectionStatistics, connectionText } from '../../src/switch/ctText.ts';
import { parseOdpFlow } from '../../src/switch/odpParse.ts';
import { formatOdpFlow } from '../../src/switch/odpText.ts';
import { parseNextState } from '../../src/switch/traceRecirc.ts';
import { parseActions } from '../../src/wire/openflow/actionParse.ts';
import { formatActions } from '../../src/wire/openflow/actionText.ts';
import { parseMatch } from '../../src/wire/openflow/matchParse.ts';
import { SwitchRig } from '../oracle/openflowRig.ts';

const tuple = (src: number[], dst: number[], proto: number, srcPort = 0, dstPort = 0): CtTuple => ({
  src: Uint8Array.from(src),
  dst: Uint8Array.from(dst),
  proto,
  srcPort,
  dstPort,
  icmpId: proto === 1 ? 7 : 0,
  icmpType: proto === 1 ? 8 : 0,
  icmpCode: 0,
});
const peer = (state: number) => ({ state, windowScale: 7, hasWindowScale: true, liberal: false });

function connection(changes: Partial<CtConnection> = {}): CtConnection {
  return {
    orig: tuple([10, 0, 0, 1], [10, 0, 0, 2], 6, 1000, 80),
    reply: tuple([10, 0, 0, 2], [10, 0, 0, 1], 6, 80, 1000),
    zone: 0,
    timeoutSeconds: 86399,
    mark: 0,
    label: new Uint8Array(16),
    tcp: [peer(4), peer(4)],
    snat: false,
    dnat: false,
    policy: 0,
    helper: undefined,
    parent: undefined,
    ...changes,
  };
}

test('connections as dpctl/dump-conntrack shows them', () => {
  const plain =
    'tcp,orig=(src=10.0.0.1,dst=10.0.0.2,sport=1000,dport=80),reply=(src=10.0.0.2,dst=10.0.0.1,sport=80,dport=1000)';
  assert.equal(connectionText(connection()), `${plain},protoinfo=(state=ESTABLISHED)`);
  const label = new Uint8Array(16);
  label[14] = 0x0f;
  const more = connection({ zone: 5, mark: 16, label, tcp: [peer(9), peer(3)] });
  assert.equal(
    connectionText(more, false, true),
    `${plain},zone=5,timeout=86399,mark=16,labels=0xf00,protoinfo=(state=TIME_WAIT)`,
  );
  assert.equal(
    connectionText(more, true),
    `${plain},id=0,zone=5,status=0,mark=16,labels=0xf00,protoinfo=(state_orig=FIN_WAIT_2,state_reply=SYN_RECV,` +
      'wscale_orig=7,wscale_reply=7,flags_orig=WINDOW_SCALE,flags_reply=WINDOW_SCALE)',
  );
  const parent = tuple([10, 0, 0, 1], [10, 0, 0, 2], 6, 40000, 21);
  assert.equal(
    connectionText(connection({ tcp: undefined, helper: 'ftp', parent })),
    `${plain},helper=ftp`,
  );
  assert.equal(
    connectionText(connection({ tcp: undefined, parent }), true),
    `${plain},id=0,status=0,parent=(src=10.0.0.1,dst=10.0.0.2,sport=40000,dport=21)`,
  );
  const ping = connection({
    orig: tuple([10, 0, 0, 1], [10, 0, 0, 2], 1),
    reply: tuple([10, 0, 0, 2], [10, 0, 0, 1], 1),
    tcp: undefined,
  });
  assert.match(connectionText(ping), /^icmp,orig=\(src=10.0.0.1,dst=10.0.0.2,id=7,type=8,code=0\)/);
  assert.equal(
    connectionStatistics([connection(), more, ping], true),
    'Connections Stats:\n    Total: 3\n  TCP: 2\n    Conn per TCP states:\n' +
      '\t  [ESTABLISHED]=1\n\t  [TIME_WAIT]=1\n  ICMP: 1\n',
  );
});

test('flush matches: parts of tuples, and what is wrong with them', () => {
  const fits = (orig: string, reply = ''): boolean =>
    connectionFits(parseCtMatch(orig, reply), connection());
  assert.ok(fits('ct_nw_src=10.0.0.1'));
  assert.ok(fits('ct_nw_proto=6,ct_tp_dst=80', 'ct_nw_src=10.0.0.2'));
  assert.ok(!fits('ct_nw_proto=17,ct_tp_dst=80'));
  assert.ok(!fits('', 'ct_nw_src=10.0.0.1'));
  assert.ok(!fits('ct_ipv6_src=fd00::1'));
  for (const [text, error] of [
    ['ct_nw_src=10.0.0.1,ct_ipv6_dst=fd00::1', /the L3 protocol does not match fd00::1/],
    ['ct_nw_src=10.0.0', /failed to parse field ct_nw_src/],
    ['ct_tp_src=1', /port is set without protocol/],
    ['ct_nw_proto=6,icmp_id=1', /invalid L4 fields/],
    ['bogus=1', /invalid conntrack tuple field: bogus/],
    ['ct_nw_src', /field ct_nw_src missing value/],
  ] as const) {
    assert.throws(() => parseCtMatch(text), error, text);
  }
});

test('what a flush is about, for the log', () => {
  assert.equal(ctFlushText(undefined, undefined), '<all>');
  assert.equal(ctFlushText(7, undefined), 'zone 7');
  const tcp = parseCtMatch('ct_nw_src=10.0.0.1,ct_nw_proto=6,ct_tp_dst=80');
  const none = 'ct_nw_src=::,ct_nw_dst=::,ct_tp_src=0,ct_tp_dst=0';
  const orig = 'ct_nw_src=10.0.0.1,ct_nw_dst=::,ct_tp_src=0,ct_tp_dst=80,ct_nw_proto=6';
  assert.equal(ctFlushText(5, tcp), `zone=5 '${orig}' '${none}'`);
  const ping = parseCtMatch(
    'ct_ipv6_dst=fd00::1,ct_nw_proto=58,icmp_id=9,icmp_type=128,icmp_code=0',
  );
  assert.match(
    ctFlushText(undefined, ping),
    /^zone=0 'ct_ipv6_src=::,ct_ipv6_dst=fd00::1,icmp_id=9,/,
  );
});

test('commands', async () => {
  const rig = await SwitchRig.create();
  const table = ctCommandTable(
    () => rig.rig.conntrack,
    (zone, match) => flushConnections(rig.rig.conntrack, zone, match),
  );
  const run = async (line: string): Promise<string> => {
    const [name, ...args] = line.split(' ');
    try {
      return await table.find((c) => c.name === `dpctl/${name}`)!.run(args);
    } catch (error) {
      return (error as Error).message;
    }
  };
  const bad = (text: string): string => `ovs-vswitchd: ${text} (Invalid argument)`;
  assert.equal(await run('dump-conntrack'), '');
  assert.equal(await run('dump-conntrack nobody'), bad('datapath not found'));
  assert.equal(await run('ct-get-nconns netdev@ovs-netdev'), '0\n');
  assert.equal(await run('ct-get-maxconns'), '3000000\n');
  assert.equal(await run('ct-set-maxconns 10'), 'setting maxconns successful');
  assert.equal(await run('ct-get-maxconns'), '10\n');
  assert.equal(await run('ct-set-maxconns x'), bad('maxconns missing or malformed'));
  assert.equal(await run('ct-get-tcp-seq-chk'), 'TCP sequence checking: enabled\n');
  assert.equal(await run('ct-disable-tcp-seq-chk'), 'disabling TCP sequence checking successful');
  assert.equal(await run('ct-get-tcp-seq-chk'), 'TCP sequence checking: disabled\n');
  assert.equal(await run('ct-get-limits'), 'default limit=0\n');
  assert.equal(await run('ct-set-limits default=10 zone=0,limit=5 zone=2,limit=3'), '');
  assert.equal(await run('ct-del-limits zone=2,4'), '');
  assert.equal(
    await run('ct-get-limits zone=0,2'),
    'default limit=10\nzone=0,limit=5,count=0\nzone=2,limit=10,count=0\n',
  );
  assert.equal(await run('ct-set-limits zone=0'), bad('failed to parse zone limit'));
  assert.equal(await run('ct-set-limits zone=x,limit=1'), bad('failed to parse field zone'));
  assert.equal(await run('ct-del-limits zone=x'), bad('invalid zone'));
  assert.equal(await run('flush-conntrack zone=x'), bad('failed to parse zone'));
  assert.equal(
    await run('flush-conntrack zone=1 ct_nw_src=1'),
    bad('failed to parse field ct_nw_src'),
  );
  assert.equal(await run('flush-conntrack zone=1 ct_nw_src=1.2.3.4'), '');
  assert.equal(await run('ct-stats-show'), 'Connections Stats:\n    Total: 0\n');
  rig.close();
});

test('ct actions that do not fit are refused', () => {
  const check = (actions: string, match: string): string => {
    try {
      checkActions(parseActions(actions), parseMatch(match), 0, 4);
      return 'ok';
    } catch (error) {
      return (error as { code?: string }).code ?? String(error);
    }
  };
  assert.equal(check('ct(commit)', 'ip'), 'ok');
  assert.equal(check('ct(commit)', ''), 'OFPBAC_MATCH_INCONSISTENT');
  assert.equal(check('ct(commit)', 'ip,ct_state=+inv+trk'), 'OFPBAC_MATCH_INCONSISTENT');
  assert.equal(check('ct(commit,nat(src=1.2.3.4))', 'ipv6'), 'OFPBAC_MATCH_INCONSISTENT');
  assert.equal(check('ct(commit,nat(src=fd00::1))', 'ipv6'), 'ok');
  assert.equal(check('ct(commit,zone=NXM_NX_REG0[0..15])', 'ip'), 'ok');
  assert.equal(check('resubmit(,1,ct)', 'ip'), 'OFPBAC_MATCH_INCONSISTENT');
  assert.equal(check('resubmit(,1,ct)', 'ip,ct_state=+est+trk'), 'ok');
  assert.equal(check('load:1->NXM_NX_CT_MARK[]', 'ip'), 'OFPBAC_BAD_SET_ARGUMENT');
  assert.equal(check('ct_clear', ''), 'ok');
});

test('text of actions and keys is read back', () => {
  for (const text of [
    'ct(commit,force,table=3,zone=7,nat(src=10.0.0.1-10.0.0.9:100-200,random),exec(load:0x1->NXM_NX_CT_MARK[]))',
    'ct(table=2,zone=NXM_NX_REG6[0..15],nat)',
    'ct(commit,nat(dst=[fd00::1]-[fd00::9]:80,persistent,hash))',
    'ct_clear',
  ]) {
    assert.equal(formatActions(parseActions(text)), text);
  }
  const exact = new Uint8Array(KEY_SIZE).fill(0xff);
  const key = parseOdpFlow(
    'ct_state(+est-new+trk),ct_zone(0x5),ct_mark(0x6),ct_label(0x70000000000000000000000000000008),' +
      'ct_tuple4(src=10.0.0.1,dst=10.0.0.2,proto=6,tp_src=1,tp_dst=2),recirc_id(0x9),in_port(1),eth_type(0x0800)',
  );
  assert.match(
    formatOdpFlow(key, exact, false),
    /^skb_priority\(0\),skb_mark\(0\),ct_state\(-new\+est-rel-rpl-inv\+trk-snat-dnat\),ct_zone\(0x5\),ct_mark\(0x6\),ct_label\(0x70000000000000000000000000000008\),ct_tuple4\(src=10.0.0.1,dst=10.0.0.2,proto=6,tp_src=1,tp_dst=2\),recirc_id\(0x9\)/,
  );
  assert.equal(parseNextState('trk,est'), 0x22);
  assert.equal(parseNextState('bogus'), 'bogus: unknown connection tracking state flag');
});

test('zones with equal timeouts share a policy, and policies come and go', () => {
  const policies = new Map<number, CtTimeouts>();
  const conntrack = {
    setTimeoutPolicy: (id: number, timeouts: CtTimeouts) => void policies.set(id, timeouts),
    deleteTimeoutPolicy: (id: number) => void policies.delete(id),
  } as unknown as Conntrack;
  const changes: string[] = [];
  const warnings: string[] = [];
  const zones = new CtZones({
    conntrack,
    warn: (text) => warnings.push(text),
    onChange: (map) => changes.push([...map].map(([zone, id]) => `${zone}:${id}`).join(' ')),
  });
  zones.apply(
    new Map<number, CtTimeouts>([
      [1, { udp_first: 5 }],
      [2, { udp_first: 5 }],
      [3, { icmp_first: 1 }],
    ]),
  );
  zones.apply(
    new Map<number, CtTimeouts>([
      [1, { udp_first: 5 }],
      [2, { udp_first: 5 }],
      [3, { icmp_first: 1 }],
    ]),
  );
  assert.deepEqual(changes, ['1:1 2:1 3:2']);
  zones.apply(new Map([[3, { icmp_first: 1 }]]));
  assert.deepEqual([...policies], [[2, { icmp_first: 1 }]]);
  // Live connections have the number: it stays with its zone whatever else comes and changes.
  const changed: CtTimeouts = { icmp_first: 2 };
  const several = new Map<number, CtTimeouts>([
    [2, { udp_first: 6 }],
    [3, changed],
    [4, { udp_first: 7 }],
  ]);
  zones.apply(several);
  assert.equal(policies.get(2), changed);
  assert.equal(changes.at(-1), '3:2 2:1 4:3');
  zones.apply(new Map([[3, { icmp_first: 3 }]]));
  assert.deepEqual([...policies], [[2, { icmp_first: 3 }]]);
  zones.apply(new Map(Array.from({ length: 300 }, (_, i) => [i, { udp_first: i + 1 }])));
  assert.equal(policies.size, 255);
  assert.ok(warnings.length > 0);
  zones.apply(new Map());
  assert.equal(policies.size, 0);
  assert.equal(changes.at(-1), '');
});
