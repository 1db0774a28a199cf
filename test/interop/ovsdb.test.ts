// The embedded OVSDB server against Debian's ovsdb-server 3.1: the same requests, the same answers;
// with ovs-vsctl, ovsdb-client and ovsdb-tool as they are. Needs the packages openvswitch-switch
// and openvswitch-common.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { canonicalJson, isArray, isObject, type Json } from '../../src/wire/ovsdb/json.ts';
import {
  normalize,
  type Output,
  type Peer,
  type Peers,
  RawClient,
  run,
  startPeers,
} from './ovsdbPeers.ts';

let peers: Peers;
before(async () => {
  peers = await startPeers();
});
after(async () => {
  await peers?.close();
});

const vsctl = (peer: Peer, args: readonly string[]): Promise<Output> =>
  run('ovs-vsctl', [`--db=${peer.remote}`, '--no-wait', '--timeout=10', ...args]);

/** Runs one command on both servers and compares everything that it shows. */
async function same(execute: (peer: Peer) => Promise<Output>, label: string, unordered = false) {
  const show = async (peer: Peer) => {
    const { code, stdout, stderr } = await execute(peer);
    const out = normalize(stdout, peers.directory);
    const lines = unordered ? out.split('\n').sort().join('\n') : out;
    return { code, stdout: lines, stderr: normalize(stderr, peers.directory) };
  };
  const real = await show(peers.real);
  assert.deepEqual(await show(peers.ours), real, label);
  return real;
}

/** Rows of "list" and "find" come in the order of random uuids. */
const UNORDERED = /^(list|find|list-br|show|emer-reset)$/;

/** A command as one would type it; quotes keep words together. */
function words(command: string): string[] {
  return [...command.matchAll(/'([^']*)'|(\S+)/g)].map(([, quoted, plain]) => quoted ?? plain!);
}

const COMMANDS = `
init
show
add-br br0
add-br br0
--may-exist add-br br0
add-br br1 -- set Bridge br1 fail_mode=secure protocols=[OpenFlow10,OpenFlow13]
add-br fake0 br0 7
list-br
br-to-vlan fake0
br-to-parent fake0
br-exists br0
br-exists nobody
br-set-external-id br0 who me
br-get-external-id br0 who
add-port br0 p1 -- set Interface p1 type=internal ofport_request=5
add-port br0 p1
--may-exist add-port br0 p1
--may-exist add-port br1 p1
add-port br0 p2 tag=10 -- set Interface p2 type=dpdkvhostuserclient options:vhost-server-path=/tmp/s
add-bond br0 bond0 e1 e2 bond_mode=active-backup lacp=off
list-ports br0
list-ifaces br0
list-ports br7
iface-to-br p1
iface-to-br nope
port-to-br bond0
get Interface p1 type ofport_request options
get Interface p2 options:vhost-server-path
get Interface p2 options:nothing
get Interface p3 type
--if-exists get Interface p3 type
set Port p1 tag=4096
set Port p1 tag=12 trunks=1,2,3
set Port p1 vlan_mode=funny
set Interface p1 nocolumn=1
set Interface p1 ofport_request=0
set Interface p1 mtu_request=-1
set Bridge br0 name=other
set Bridge br0 flood_vlans=[3,2,1]
set Open_vSwitch . other_config:a=b other_config:c='d e'
get Open_vSwitch . other_config
remove Open_vSwitch . other_config a
remove Open_vSwitch . other_config c=wrong
get Open_vSwitch . other_config
add Open_vSwitch . external_ids x=y
add Bridge br0 flood_vlans 9
remove Bridge br0 flood_vlans 2
get Bridge br0 flood_vlans
clear Bridge br0 flood_vlans
clear Port p1 tag
clear Bridge br0 name
list Interface p1
list Bridge br0
--columns=name,type list Interface
--columns=name,options --format=json find Interface name=p1
--columns=name find Port tag=10
--columns=name find Port trunks{>=}1,2
--columns=name find Interface 'name!=p1' type=internal
find Port tag<x
--format=csv --no-headings --columns=name,tag find Port tag>=1
--id=@m create Mirror name=m0 select_all=true -- set Bridge br0 mirrors=@m
--columns=name,select_all,select_src_port list Mirror
--id=@p get Port p1 -- set Mirror m0 output_port=@p select_src_port=@p
get Mirror m0 output_port
del-port p1
get Mirror m0 output_port select_src_port
create Mirror name=orphan
list Mirror orphan
destroy Mirror m0
destroy Port p2
--id=@q create Queue other_config:max-rate=100 -- --id=@s create QoS type=linux-htb queues:0=@q -- set Port p2 qos=@s
--columns=type,queues list QoS
destroy QoS nothing
--all destroy QoS
get Port p2 qos
clear Port p2 qos
--all destroy QoS
--all destroy Queue
create QoS type=x -- create QoS type=x
--columns=type list QoS
create Controller target=tcp:1.2.3.4 max_backoff=5
create Flow_Sample_Collector_Set id=1
set-controller br0 tcp:127.0.0.1:6653 ptcp:6634
get-controller br0
set-fail-mode br0 standalone
get-fail-mode br0
del-fail-mode br0
del-controller br0
set-manager ptcp:6640:127.0.0.1
get-manager
set-manager ptcp:6640 ptcp:6640
del-manager
set-ssl /a /b /c
get-ssl
del-ssl
wait-until Interface p2 type=dpdkvhostuserclient
--timeout=1 wait-until Interface p2 type=internal
comment hello -- set Open_vSwitch . next_cfg=3
set Open_vSwitch . next_cfg=9223372036854775807
get Open_vSwitch . next_cfg
set Open_vSwitch . next_cfg=9223372036854775808
set Open_vSwitch . next_cfg=1
set Bridge br0 other_config:"k=1"="ünï 😀"
get Bridge br0 other_config
set Interface p2 external_ids:iface-id=abc -- add-port br1 p9 -- del-port br1 nosuch
list-ports br1
--if-exists del-port br1 nosuch
del-port br1 p2
--with-iface del-port br0 e1
list-ports br0
emer-reset
--columns=name,fail_mode,protocols,mirrors,controller list Bridge
show
del-br nosuch
--if-exists del-br nosuch
del-br fake0
del-br br0
del-br br1
list-br
--columns=name list Interface
`
  .trim()
  .split('\n');

test('ovs-vsctl shows the same with both servers', async () => {
  for (const command of COMMANDS) {
    const args = words(command);
    const unordered = args.some((word) => UNORDERED.test(word));
    await same((peer) => vsctl(peer, args), command, unordered);
  }
});

const OVS = 'Open_vSwitch';
const AT_ROOT: Json = [['cur_cfg', '>=', 0]];
const bridge = (name: string, more = {}): Json => ({
  op: 'insert',
  table: 'Bridge',
  row: { name, ...more },
});
const root = (column: string, mutator: string, value: Json): Json => ({
  op: 'mutate',
  table: OVS,
  where: [],
  mutations: [[column, mutator, value]],
});

/** Requests whose answers must be equal, uuids aside. */
const REQUESTS: [string, Json][] = [
  ['list_dbs', []],
  ['get_schema', []],
  ['get_schema', [7]],
  ['get_schema', ['nodb']],
  ['nonsense', []],
  ['echo', [1, { a: null }]],
  ['transact', []],
  ['transact', ['nodb']],
  ['transact', [OVS]],
  ['transact', [OVS, 7]],
  ['transact', [OVS, {}]],
  ['transact', [OVS, { op: 'fly' }]],
  ['transact', [OVS, { op: 7 }]],
  ['transact', [OVS, { op: 'abort' }]],
  [
    'transact',
    [OVS, { op: 'comment', comment: 'a' }, { op: 'abort', x: 1 }, { op: 'comment', comment: 'b' }],
  ],
  ['transact', [OVS, { op: 'comment' }]],
  ['transact', [OVS, { op: 'comment', comment: 7 }]],
  ['transact', [OVS, { op: 'commit', durable: true }]],
  ['transact', [OVS, { op: 'commit', durable: 'yes' }]],
  ['transact', [OVS, { op: 'assert', lock: 'l' }]],
  ['transact', [OVS, { op: 'assert', lock: 'no id' }]],
  ['transact', [OVS, { op: 'select', table: 'Nope', where: [] }]],
  ['transact', [OVS, { op: 'select', table: OVS }]],
  ['transact', [OVS, { op: 'select', table: OVS, where: [], columns: ['next_cfg', 'cur_cfg'] }]],
  ['transact', [OVS, { op: 'select', table: OVS, where: [], columns: ['nope'] }]],
  ['transact', [OVS, { op: 'select', table: OVS, where: [], columns: ['cur_cfg', 'cur_cfg'] }]],
  ['transact', [OVS, { op: 'select', table: OVS, where: [], extra: 1, more: 2, most: 3 }]],
  ['transact', [OVS, { op: 'select', table: OVS, where: [true], columns: ['cur_cfg'] }]],
  ['transact', [OVS, { op: 'select', table: OVS, where: [false], columns: ['cur_cfg'] }]],
  ['transact', [OVS, { op: 'select', table: OVS, where: [7] }]],
  ['transact', [OVS, { op: 'select', table: OVS, where: [['cur_cfg', '~', 0]] }]],
  ['transact', [OVS, { op: 'select', table: OVS, where: [['nope', '==', 0]] }]],
  ['transact', [OVS, { op: 'select', table: OVS, where: [['other_config', '<', 0]] }]],
  ['transact', [OVS, { op: 'select', table: OVS, where: [['cur_cfg', '<', 'x']] }]],
  [
    'transact',
    [
      OVS,
      {
        op: 'select',
        table: OVS,
        where: [['ovs_version', '==', ['set', []]]],
        columns: ['cur_cfg'],
      },
    ],
  ],
  [
    'transact',
    [
      OVS,
      {
        op: 'select',
        table: OVS,
        where: [['other_config', 'includes', ['map', []]]],
        columns: ['cur_cfg'],
      },
    ],
  ],
  ['transact', [OVS, bridge('lonely')]],
  ['transact', [OVS, { op: 'insert', table: 'Bridge', row: { name: 5 } }]],
  ['transact', [OVS, { op: 'insert', table: 'Bridge', row: { nope: 5 } }]],
  ['transact', [OVS, { op: 'insert', table: 'Bridge', row: [] }]],
  ['transact', [OVS, { op: 'insert', table: 'Bridge', row: {}, 'uuid-name': 'not an id' }]],
  ['transact', [OVS, { op: 'insert', table: 'Bridge', row: {}, uuid: 'x' }]],
  ['transact', [OVS, { op: 'insert', table: OVS, row: {} }]],
  ['transact', [OVS, { op: 'insert', table: 'Controller', row: { target: 'x', max_backoff: 5 } }]],
  ['transact', [OVS, { op: 'insert', table: 'Flow_Sample_Collector_Set', row: { id: 1 } }]],
  [
    'transact',
    [
      OVS,
      bridge('x', { ports: ['set', [['uuid', '11111111-2222-3333-4444-555555555555']]] }),
      root('bridges', 'insert', ['uuid', '11111111-2222-3333-4444-555555555556']),
    ],
  ],
  [
    'transact',
    [
      OVS,
      { op: 'insert', table: 'Bridge', row: { name: 'b0' }, 'uuid-name': 'b' },
      { op: 'insert', table: 'Bridge', row: { name: 'b1' }, 'uuid-name': 'b' },
    ],
  ],
  [
    'transact',
    [
      OVS,
      {
        op: 'insert',
        table: 'Bridge',
        row: {
          name: 'b0',
          other_config: [
            'map',
            [
              ['b', '2'],
              ['a', '1'],
            ],
          ],
        },
        'uuid-name': 'b',
      },
      root('bridges', 'insert', ['set', [['named-uuid', 'b']]]),
    ],
  ],
  [
    'transact',
    [
      OVS,
      { op: 'insert', table: 'Bridge', row: { name: 'b0' }, 'uuid-name': 'c' },
      root('bridges', 'insert', ['named-uuid', 'c']),
      { op: 'comment', comment: 'after' },
    ],
  ],
  ['transact', [OVS, root('bridges', 'insert', ['named-uuid', 'nobody'])]],
  [
    'transact',
    [
      OVS,
      {
        op: 'select',
        table: 'Bridge',
        where: [['name', '==', 'b0']],
        columns: ['name', 'other_config', 'ports'],
      },
    ],
  ],
  ['transact', [OVS, { op: 'delete', table: 'Bridge', where: [['name', '==', 'b0']] }]],
  ['transact', [OVS, { op: 'update', table: 'Bridge', where: [], row: { name: 'c' } }]],
  [
    'transact',
    [
      OVS,
      { op: 'update', table: 'Bridge', where: [['name', '==', 'b0']], row: { stp_enable: true } },
    ],
  ],
  [
    'transact',
    [
      OVS,
      {
        op: 'update',
        table: 'Bridge',
        where: [['stp_enable', '==', true]],
        row: { stp_enable: true },
      },
    ],
  ],
  [
    'transact',
    [
      OVS,
      {
        op: 'update',
        table: 'Bridge',
        where: [],
        row: { _uuid: ['uuid', '11111111-2222-3333-4444-555555555555'] },
      },
    ],
  ],
  [
    'transact',
    [
      OVS,
      root('cur_cfg', '+=', 5),
      root('cur_cfg', '*=', 3),
      root('cur_cfg', '%=', 4),
      root('cur_cfg', '/=', 2),
      root('cur_cfg', '-=', 9),
    ],
  ],
  ['transact', [OVS, { op: 'select', table: OVS, where: AT_ROOT, columns: ['cur_cfg'] }]],
  [
    'transact',
    [OVS, { op: 'select', table: OVS, where: [['cur_cfg', '<', 0]], columns: ['cur_cfg'] }],
  ],
  ['transact', [OVS, root('cur_cfg', '/=', 0)]],
  [
    'transact',
    [OVS, root('cur_cfg', '-=', 9223372036854775807n), root('cur_cfg', '-=', 9223372036854775807n)],
  ],
  ['transact', [OVS, root('cur_cfg', 'insert', 1)]],
  ['transact', [OVS, root('other_config', '+=', 1)]],
  ['transact', [OVS, root('other_config', 'fly', 1)]],
  ['transact', [OVS, root('nope', 'insert', 1)]],
  [
    'transact',
    [
      OVS,
      root('other_config', 'insert', [
        'map',
        [
          ['k', 'v'],
          ['l', 'w'],
        ],
      ]),
      root('other_config', 'insert', ['map', [['k', 'z']]]),
    ],
  ],
  [
    'transact',
    [
      OVS,
      root('other_config', 'delete', ['map', [['k', 'z']]]),
      root('other_config', 'delete', ['set', ['l', 'q']]),
    ],
  ],
  ['transact', [OVS, { op: 'select', table: OVS, where: [], columns: ['other_config'] }]],
  ['transact', [OVS, root('system_type', 'insert', 'x'), root('system_type', 'insert', 'y')]],
  [
    'transact',
    [OVS, { op: 'mutate', table: 'Bridge', where: [], mutations: [['name', 'insert', 'x']] }],
  ],
  ['transact', [OVS, { op: 'mutate', table: 'Bridge', where: [], mutations: [7] }]],
  [
    'transact',
    [
      OVS,
      {
        op: 'wait',
        table: OVS,
        where: [],
        columns: ['next_cfg'],
        until: '==',
        rows: [{ next_cfg: 77 }],
        timeout: 0,
      },
    ],
  ],
  [
    'transact',
    [
      OVS,
      {
        op: 'wait',
        table: OVS,
        where: [],
        columns: ['next_cfg'],
        until: '!=',
        rows: [{ next_cfg: 77 }],
        timeout: 0,
      },
    ],
  ],
  [
    'transact',
    [
      OVS,
      {
        op: 'wait',
        table: OVS,
        where: [],
        columns: ['next_cfg'],
        until: '==',
        rows: [{ next_cfg: 77 }],
        timeout: 50,
      },
    ],
  ],
  [
    'transact',
    [
      OVS,
      {
        op: 'wait',
        table: OVS,
        where: [],
        columns: ['next_cfg'],
        until: '<',
        rows: [],
        timeout: 0,
      },
    ],
  ],
  [
    'transact',
    [
      OVS,
      {
        op: 'wait',
        table: OVS,
        where: [],
        columns: ['next_cfg'],
        until: '==',
        rows: [],
        timeout: -1,
      },
    ],
  ],
  [
    'transact',
    [
      OVS,
      {
        op: 'wait',
        table: OVS,
        where: [],
        columns: ['next_cfg'],
        until: '==',
        rows: [{ nope: 1 }],
        timeout: 0,
      },
    ],
  ],
  [
    'transact',
    [
      '_Server',
      {
        op: 'select',
        table: 'Database',
        where: [['name', '==', OVS]],
        columns: ['name', 'model', 'connected', 'leader', 'cid', 'sid', 'index'],
      },
    ],
  ],
  ['transact', ['_Server', { op: 'delete', table: 'Database', where: [] }]],
  ['lock', ['l']],
  ['lock', ['l']],
  ['lock', []],
  ['lock', ['no id']],
  ['transact', [OVS, { op: 'assert', lock: 'l' }]],
  ['unlock', ['l']],
  ['unlock', ['l']],
  ['steal', ['l']],
  ['steal', ['l']],
  ['set_db_change_aware', [true]],
  ['set_db_change_aware', [7]],
  ['monitor', [OVS, 'm1', { Bridge: { columns: ['name', 'stp_enable'] } }]],
  ['monitor', [OVS, 'm1', {}]],
  ['monitor', [OVS, 'm2', { Nope: {} }]],
  ['monitor', [OVS, 'm2', { Bridge: { columns: ['nope'] } }]],
  ['monitor', [OVS, 'm2', { Bridge: { columns: ['name', 'name'] } }]],
  ['monitor', [OVS, 'm2', { Bridge: { where: [] } }]],
  ['monitor', [OVS, 'm2', { Bridge: 7 }]],
  ['monitor', [OVS, 'm2', { Bridge: { select: { initial: 7 } } }]],
  ['monitor', [OVS, 'm2', []]],
  [
    'monitor_cond',
    [OVS, ['c', 1], { Bridge: [{ columns: ['name'], where: [['name', '==', 'b0']] }] }],
  ],
  ['monitor_cond', [OVS, 'm3', { Bridge: [{ where: [['nope', '==', 'b0']] }] }]],
  ['monitor_cond', [OVS, 'm3']],
  [
    'monitor_cond_since',
    [
      OVS,
      's',
      { [OVS]: [{ columns: ['cur_cfg', 'other_config'] }] },
      '00000000-0000-0000-0000-000000000000',
    ],
  ],
  ['monitor_cond_since', [OVS, 't', {}, 7]],
  ['monitor_cond_since', [OVS, 'u', {}, 'x']],
  ['monitor_cond_change', [['c', 1], ['c', 1], { Bridge: [{ where: [['name', '==', 'zz']] }] }]],
  ['monitor_cond_change', [['c', 1], ['c', 2], { Bridge: [{ where: [true] }] }]],
  ['monitor_cond_change', ['nobody', 'x', {}]],
  ['monitor_cond_change', [['c', 2], ['c', 2], { [OVS]: [{ where: [true] }] }]],
  ['monitor_cond_change', [['c', 2], ['c', 2], { Bridge: 7 }]],
  ['monitor_cond_change', [['c', 2], ['c', 2], { Nope: [] }]],
  ['monitor_cond_change', [7]],
  [
    'transact',
    [
      OVS,
      root('other_config', 'insert', [
        'map',
        [
          ['k1', 'v'],
          ['k2', 'w'],
        ],
      ]),
      root('cur_cfg', '+=', 1),
    ],
  ],
  [
    'transact',
    [
      OVS,
      {
        op: 'update',
        table: OVS,
        where: [],
        row: {
          other_config: [
            'map',
            [
              ['k1', 'x'],
              ['k3', 'y'],
            ],
          ],
        },
      },
    ],
  ],
  [
    'transact',
    [
      OVS,
      { op: 'insert', table: 'Bridge', row: { name: 'zz' }, 'uuid-name': 'z' },
      root('bridges', 'insert', ['named-uuid', 'z']),
    ],
  ],
  [
    'transact',
    [
      OVS,
      { op: 'update', table: 'Bridge', where: [['name', '==', 'zz']], row: { stp_enable: true } },
    ],
  ],
  ['monitor_cancel', ['nobody']],
  ['monitor_cancel', []],
  ['monitor_cancel', ['s']],
  [
    'transact',
    [
      OVS,
      {
        op: 'update',
        table: OVS,
        where: [],
        row: { bridges: ['set', []], other_config: ['map', []], cur_cfg: 0 },
      },
    ],
  ],
];

const withoutUuid = (text: string) => normalize(text, peers.directory);

/** Text for comparison: uuids and the order that they give to sets and rows do not count. */
function comparable(json: Json): string {
  const walk = (value: Json): Json => {
    if (isArray(value)) {
      const items = value.map(walk);
      const unordered = items.every((item) => isObject(item) && !('op' in item));
      return unordered
        ? [...items].sort((a, b) => (canonicalJson(a) < canonicalJson(b) ? -1 : 1))
        : items;
    }
    if (!isObject(value)) return value;
    const keys = Object.keys(value);
    if (keys.length > 0 && keys.every((key) => withoutUuid(key) === '<uuid>')) {
      return keys
        .map((key) => canonicalJson(walk(value[key]!)))
        .map(withoutUuid)
        .sort();
    }
    return Object.fromEntries(keys.map((key) => [key, walk(value[key]!)]));
  };
  // Which of several surplus members is named, and which of two rows is the first, depends on
  // hashes and uuids.
  const text = canonicalJson(walk(json))
    .replace(/Member '\w+' and/g, "Member 'X' and")
    .replace(
      /First row, (.*?) {2}Second row, (.*?\.)"/,
      (_, a, b) => `${[a, b].map(withoutUuid).sort()}"`,
    );
  return normalize(text, peers.directory);
}

test('the same JSON-RPC requests get the same answers and notifications', async () => {
  const clients = await Promise.all([RawClient.open(peers.real), RawClient.open(peers.ours)]);
  const [real, ours] = clients as [RawClient, RawClient];
  const different: object[] = [];
  for (const [method, params] of REQUESTS) {
    const expected = await real.call(method, params);
    const actual = await ours.call(method, params);
    const equal =
      method === 'get_schema' || method === 'list_dbs'
        ? isArray(actual) === isArray(expected)
        : comparable(actual) === comparable(expected);
    if (!equal) different.push({ method, params, actual, expected });
  }
  assert.deepEqual(different, []);
  await Promise.all(clients.map((client) => client.settle()));
  const notifications = ({ received }: RawClient) =>
    received.filter((m) => isObject(m) && m.id === null).map(comparable);
  assert.deepEqual(notifications(ours), notifications(real));
  for (const client of clients) client.close();
});

test('what is no JSON-RPC ends the connection, as with the real server', async () => {
  const texts = [
    'hello',
    '{"method":"echo"}',
    '{"method":7,"params":[],"id":1}',
    '{"method":"echo","params":[],"id":1,"x":2}',
    '{"method":"echo","params":["\\ud800"],"id":1}',
    '{"method":"echo","params":[1,],"id":1}',
    '[1,2]',
    '{"result":{},"error":null,"id":"surprise"}',
  ];
  for (const text of texts) {
    for (const peer of [peers.real, peers.ours]) {
      const client = await RawClient.open(peer);
      client.send(`${text}\n`);
      for (let i = 0; i < 1500 && !client.closed; i++) await sleep(10);
      assert.equal(client.closed, true, `${peer.name}: ${text}`);
      assert.deepEqual(client.received, []);
      client.close();
    }
  }
});

test('a wait is answered when another client makes it true', async () => {
  for (const peer of [peers.real, peers.ours]) {
    const [waiter, other] = [await RawClient.open(peer), await RawClient.open(peer)];
    const wait = {
      op: 'wait',
      table: OVS,
      where: [],
      columns: ['next_cfg'],
      until: '==',
      rows: [{ next_cfg: 4711 }],
    };
    const reply = waiter.call('transact', [OVS, wait, root('next_cfg', '+=', 1)]);
    await sleep(50);
    await other.call('transact', [
      OVS,
      { op: 'update', table: OVS, where: [], row: { next_cfg: 4711 } },
    ]);
    assert.deepEqual(await reply, { result: [{}, { count: 1 }], error: null });
    waiter.close();
    other.close();
  }
});

test('locks go from session to session', async () => {
  for (const peer of [peers.real, peers.ours]) {
    const [a, b, c] = [
      await RawClient.open(peer),
      await RawClient.open(peer),
      await RawClient.open(peer),
    ];
    assert.deepEqual(await a.call('lock', ['x']), { result: { locked: true }, error: null });
    assert.deepEqual(await b.call('lock', ['x']), { result: { locked: false }, error: null });
    assert.deepEqual(await c.call('steal', ['x']), { result: { locked: true }, error: null });
    await a.settle();
    const last = ({ received }: RawClient) => received.at(-1);
    assert.deepEqual(last(a), { id: null, method: 'stolen', params: ['x'] });
    c.close();
    await a.settle();
    assert.deepEqual(last(a), { id: null, method: 'locked', params: ['x'] });
    await a.call('unlock', ['x']);
    await b.settle();
    assert.deepEqual(last(b), { id: null, method: 'locked', params: ['x'] });
    a.close();
    b.close();
  }
});

test('ovsdb-client shows the same', async () => {
  const client = (args: string[]) => (peer: Peer) =>
    run(
      'ovsdb-client',
      args.map((arg) => (arg === 'DB' ? peer.remote : arg)),
    );
  for (const peer of [peers.ours, peers.real]) {
    await vsctl(peer, [
      'add-br',
      'br0',
      '--',
      'set',
      'Bridge',
      'br0',
      'other_config:hwaddr=aa:bb:cc:dd:ee:01',
    ]);
  }
  const cases: [string[], boolean?][] = [
    [['list-dbs', 'DB']],
    [['get-schema', 'DB']],
    [['get-schema-version', 'DB']],
    [['get-schema-cksum', 'DB']],
    [['list-tables', 'DB'], true],
    [['list-columns', 'DB', OVS, 'Interface'], true],
    [['dump', 'DB', OVS, 'Bridge', 'name', 'other_config']],
    [['dump', 'DB'], true],
    [['dump', '_Server', 'DB']],
    [
      [
        'transact',
        'DB',
        `["${OVS}",{"op":"select","table":"Bridge","where":[],"columns":["name"]}]`,
      ],
    ],
    [['query', 'DB', `["${OVS}",{"op":"select","table":"Bridge","where":[],"columns":["name"]}]`]],
    [['transact', 'DB', '["nodb"]']],
    [['needs-conversion', 'DB', '/usr/share/openvswitch/vswitch.ovsschema']],
    [['--timeout=2', 'wait', 'DB', OVS, 'connected']],
  ];
  for (const [args, unordered] of cases) await same(client(args), args.join(' '), unordered);
});

/** What the client says of some changes; `waitMs` is what it has for coming up, and for the last of them. */
async function monitored(peer: Peer, args: string[], waitMs: number): Promise<string> {
  const child = spawn('ovsdb-client', ['--format=csv', args[0]!, peer.remote, ...args.slice(1)]);
  let text = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk) => {
      text += chunk;
    });
  }
  const closed = new Promise((resolve) => child.once('close', resolve));
  await sleep(waitMs);
  await vsctl(peer, ['set', 'Bridge', 'br0', 'stp_enable=true']);
  await vsctl(peer, ['add-br', 'br1']);
  await vsctl(peer, ['set', 'Bridge', 'br0', 'stp_enable=false']);
  await vsctl(peer, ['del-br', 'br1']);
  await sleep(waitMs);
  child.kill('SIGKILL');
  await closed;
  return normalize(text, peers.directory);
}

test('ovsdb-client monitor and monitor-cond show the same', async () => {
  const cases = [
    ['monitor', OVS, 'Bridge', 'name', 'stp_enable'],
    ['monitor', OVS, 'Bridge', 'name,!initial', 'stp_enable'],
    ['monitor-cond', OVS, '[["name","==","br0"]]', 'Bridge', 'name', 'stp_enable'],
    ['monitor-cond', OVS, '[["stp_enable","==",true]]', 'Bridge', 'name', 'stp_enable'],
    ['monitor-cond-since', OVS, '[true]', 'Bridge', 'name', 'stp_enable'],
  ];
  for (const args of cases) {
    // A machine under load may need longer.
    for (const waitMs of [150, 1000, 5000]) {
      const real = await monitored(peers.real, args, waitMs);
      const ours = await monitored(peers.ours, args, waitMs);
      if (ours === real) break;
      assert.ok(waitMs < 5000, `${args.join(' ')}:\n${ours}\nreal:\n${real}`);
    }
  }
});

test('ovsdb-client backup of ours restores into the real server', async () => {
  const { stdout } = await run('ovsdb-client', ['backup', peers.ours.remote, OVS]);
  assert.match(stdout, /^OVSDB JSON \d+ [0-9a-f]{40}\n/);
  assert.match(stdout, /"name":"br0"/);
});

test('ovsdb-tool reads our file', async () => {
  const copy = `${peers.directory}/copy.db`;
  await run('cp', [peers.ours.file, copy]);
  const log = await run('ovsdb-tool', ['show-log', '-m', copy]);
  assert.equal(log.code, 0, log.stderr);
  assert.match(log.stdout, /record 0: "Open_vSwitch" schema, version="8\.3\.1"/);
  assert.match(log.stdout, /table Bridge insert row "br0"/);
  const select = `["${OVS}",{"op":"select","table":"Bridge","where":[],"columns":["name"]}]`;
  const query = await run('ovsdb-tool', ['query', copy, select]);
  assert.equal(query.stdout.trim(), '[{"rows":[{"name":"br0"}]}]');
  assert.equal((await run('ovsdb-tool', ['compact', copy])).code, 0);
  assert.equal((await run('ovsdb-tool', ['query', copy, select])).stdout, query.stdout);
  const needs = await run('ovsdb-tool', [
    'needs-conversion',
    copy,
    '/usr/share/openvswitch/vswitch.ovsschema',
  ]);
  assert.equal(needs.stdout.trim(), 'no');
  const locked = await run('ovsdb-tool', ['compact', peers.ours.file]);
  assert.notEqual(locked.code, 0);
  assert.match(locked.stderr, /lock/);
});
