// The daemon's session: replica, lock, transactions, reconnection, and what it writes. Against the
// embedded server, in memory and over a socket, and against scripted servers that are old or
// broken.

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { OvsdbClient } from '../../src/control/ovsdb/client.ts';
import {
  bridgeIdentity,
  columnUpdates,
  controllerStatus,
  daemonIdentity,
  interfaceFailed,
  interfaceOpened,
  interfaceStatus,
  mergeWanted,
  statistics,
  type Wanted,
} from '../../src/control/ovsdb/columns.ts';
import {
  type Embedded,
  startEmbedded,
  streamPair,
  vswitchSchema,
} from '../../src/control/ovsdb/embedded.ts';
import { Publisher } from '../../src/control/ovsdb/publisher.ts';
import type { ReplicaChange, Snapshot } from '../../src/control/ovsdb/replica.ts';
import { memoryStats, processStats, systemStats } from '../../src/control/ovsdb/systemStats.ts';
import { TABLES } from '../../src/control/ovsdb/tables.ts';
import { type Json, parseJson, stringifyJson } from '../../src/wire/ovsdb/json.ts';
import { schemaToJson } from '../../src/wire/ovsdb/schema.ts';
import { JsonSplitter } from '../../src/wire/ovsdb/splitter.ts';

let directory: string;
let embedded: Embedded;
const clients: OvsdbClient[] = [];
before(async () => {
  directory = mkdtempSync(join(tmpdir(), 'xvio-client-'));
  embedded = await startEmbedded({ file: join(directory, 'conf.db'), sockets: [] });
});
afterEach(() => {
  for (const client of clients.splice(0)) client.close();
});
after(async () => {
  await embedded.close();
  rmSync(directory, { recursive: true });
});

interface Watched {
  client: OvsdbClient;
  changes: (ReplicaChange & { initial: boolean })[];
  locks: string[];
}

function watch(more: Partial<ConstructorParameters<typeof OvsdbClient>[0]> = {}): Watched {
  const changes: Watched['changes'] = [];
  const locks: string[] = [];
  const client = new OvsdbClient({
    remote: () => embedded.connect(),
    onChange: (change) => changes.push(change),
    onLock: (state) => locks.push(state),
    backoffMs: { min: 10, max: 20 },
    ...more,
  });
  clients.push(client);
  client.start();
  return { client, changes, locks };
}

async function until(condition: () => boolean, what: string): Promise<void> {
  for (let i = 0; i < 300; i++) {
    if (condition()) return;
    await sleep(10);
  }
  assert.fail(`timeout: ${what}`);
}

const rootUpdate = (row: Record<string, Json>): Json => ({
  op: 'update',
  table: 'Open_vSwitch',
  where: [],
  row,
});

/** Adds bridge, port and interface of one name. */
function addBridge(name: string): Json[] {
  return [
    {
      op: 'insert',
      table: 'Interface',
      'uuid-name': 'i',
      row: { name, options: ['map', [['__proto__', 'x']]] },
    },
    {
      op: 'insert',
      table: 'Port',
      'uuid-name': 'p',
      row: { name, interfaces: ['named-uuid', 'i'], tag: 7 },
    },
    { op: 'insert', table: 'Bridge', 'uuid-name': 'b', row: { name, ports: ['named-uuid', 'p'] } },
    {
      op: 'mutate',
      table: 'Open_vSwitch',
      where: [],
      mutations: [['bridges', 'insert', ['named-uuid', 'b']]],
    },
  ];
}

test('the replica has typed rows, kept while they do not change', async () => {
  const { client, changes, locks } = watch();
  await until(() => client.lockState === 'held', 'lock');
  assert.deepEqual(locks, ['held']);
  assert.equal(changes[0]!.initial, true);
  assert.equal(client.snapshot.root!.next_cfg, 0);
  await client.transact(addBridge('br0'));
  const { snapshot } = client;
  const [bridge] = snapshot.rows('Bridge', snapshot.root!.bridges);
  const [port] = snapshot.rows('Port', bridge!.ports);
  const [iface] = snapshot.rows('Interface', port!.interfaces);
  assert.equal(bridge!.name, 'br0');
  assert.equal(port!.tag, 7);
  assert.deepEqual(port!.trunks, []);
  assert.equal(iface!.ofport, undefined);
  assert.deepEqual(Object.entries(iface!.options), [['__proto__', 'x']]);
  assert.equal(changes.at(-1)!.config, true);

  await client.transact([{ op: 'update', table: 'Interface', where: [], row: { ofport: 3 } }]);
  const change = changes.at(-1)!;
  assert.equal(change.config, false, 'ofport is written by the daemon');
  assert.equal(change.previous, snapshot);
  assert.equal(change.snapshot.get('Bridge', bridge!.uuid), bridge);
  assert.equal(change.snapshot.table('Bridge'), snapshot.table('Bridge'));
  assert.equal(change.snapshot.get('Interface', iface!.uuid)!.ofport, 3);
  assert.equal(iface!.ofport, undefined, 'the old row is as it was');

  await client.transact([rootUpdate({ next_cfg: 5 })]);
  assert.equal(changes.at(-1)!.config, true);
  await client.transact([rootUpdate({ bridges: ['set', []] })]);
  assert.equal(client.snapshot.table('Interface').size, 0);
});

test('failed transactions reject with the server’s error', async () => {
  const { client } = watch();
  await assert.rejects(client.transact([]), /not connected/);
  await until(() => client.lockState === 'held', 'lock');
  await assert.rejects(client.transact([rootUpdate({ nope: 1 })]), { tag: 'unknown column' });
  await assert.rejects(client.transact([{ op: 'insert', table: 'Open_vSwitch', row: {} }]), {
    tag: 'constraint violation',
  });
});

test('a second daemon waits for the lock and gets it', async () => {
  const first = watch();
  await until(() => first.client.lockState === 'held', 'first lock');
  const second = watch();
  await until(() => second.client.lockState === 'contended', 'contention');
  await assert.rejects(second.client.transact([rootUpdate({ next_cfg: 1 })]), { tag: 'not owner' });
  await second.client.transact([rootUpdate({ next_cfg: 0 })], { assertLock: false });
  first.client.close();
  await until(() => second.client.lockState === 'held', 'second lock');
  assert.deepEqual(second.locks, ['contended', 'held']);
});

test('a lost connection comes back, and unchanged rows are the same objects', async () => {
  const path = join(directory, `${'long/'.repeat(30)}db.sock`);
  let peer = await startEmbedded({
    file: join(directory, 'second.db'),
    sockets: [`punix:${path}`],
  });
  const connection: boolean[] = [];
  const { client } = watch({
    remote: `unix:${path}`,
    onConnection: (connected) => connection.push(connected),
  });
  await until(() => client.lockState === 'held', 'lock');
  await client.transact(addBridge('br0'));
  const old = client.snapshot.root;
  const [bridge] = client.snapshot.table('Bridge').values();
  await peer.close();
  await until(() => !client.connected, 'loss');
  assert.equal(client.lockState, 'unknown');
  assert.equal(client.snapshot.root, old, 'the last snapshot stays');
  await assert.rejects(client.transact([]), /not connected/);
  peer = await startEmbedded({ file: join(directory, 'second.db'), sockets: [`punix:${path}`] });
  await until(() => client.connected && client.lockState === 'held', 'reconnection');
  assert.equal(client.snapshot.get('Bridge', bridge!.uuid), bridge);
  assert.deepEqual(connection, [true, false, true]);
  client.close();
  await peer.close();
});

/** A server that answers by a script; returns its path. */
async function scripted(answer: (method: string, params: Json[], socket: Socket) => [Json, Json]) {
  const path = join(directory, `script${Math.random()}.sock`);
  const server = createServer((socket) => {
    const splitter = new JsonSplitter();
    socket.on('error', () => {});
    socket.on('data', (chunk: Buffer) => {
      for (const text of splitter.push(chunk)) {
        const { id, method, params } = parseJson(text) as {
          id: Json;
          method: string;
          params: Json[];
        };
        const [result, error] = answer(method, params, socket);
        socket.write(stringifyJson({ id, result, error }));
      }
    });
  }).listen(path);
  await new Promise((resolve) => server.once('listening', resolve));
  return { path, close: () => server.close() };
}

test('a server that knows only RFC 7047, with an older schema, will do', async () => {
  const root = '11111111-1111-1111-1111-111111111111';
  const json = schemaToJson(vswitchSchema()) as {
    tables: Record<string, { columns: Record<string, Json> }>;
  };
  delete json.tables.CT_Zone;
  delete json.tables.Datapath!.columns.ct_zones;
  delete json.tables.Open_vSwitch!.columns.iface_types;
  const methods: string[] = [];
  const server = await scripted((method, _params, socket) => {
    methods.push(method);
    if (method === 'get_schema') return [json as unknown as Json, null];
    if (method === 'lock') return [{ locked: true }, null];
    if (method !== 'monitor') return [null, 'unknown method'];
    const row = { next_cfg: 4, bridges: ['set', []] };
    setTimeout(() => {
      const update = { Open_vSwitch: { [root]: { old: { next_cfg: 4 }, new: { next_cfg: 5 } } } };
      socket.write(
        stringifyJson({ id: null, method: 'update', params: [['monid', 'Open_vSwitch'], update] }),
      );
    }, 20);
    return [{ Open_vSwitch: { [root]: { new: row } } }, null];
  });
  const { client, changes } = watch({ remote: `unix:${server.path}` });
  await until(() => changes.length === 2, 'update');
  assert.equal(client.snapshot.root!.next_cfg, 5);
  assert.deepEqual(client.snapshot.root!.iface_types, []);
  assert.deepEqual(methods.slice(0, 5), [
    'get_schema',
    'lock',
    'monitor_cond_since',
    'monitor_cond',
    'monitor',
  ]);
  client.close();
  server.close();
});

test('a server that sends nonsense is left and tried again', async () => {
  let connections = 0;
  const server = await scripted((method, _params, socket) => {
    if (method === 'get_schema') connections++;
    socket.write('nonsense');
    return [null, 'x'];
  });
  const { client } = watch({ remote: `unix:${server.path}` });
  await until(() => connections > 2, 'reconnections');
  client.close();
  server.close();
});

test('a silent peer is probed and dropped', async () => {
  const [served, returned] = streamPair();
  served.on('error', () => {});
  let text = '';
  served.on('data', (chunk) => {
    text += chunk;
  });
  let first = true;
  const { client } = watch({
    // Long enough for a machine that stands still for a moment: the second peer is in this very process.
    probeIntervalMs: 200,
    remote: () => {
      if (!first) return embedded.connect();
      first = false;
      return returned;
    },
  });
  await until(() => client.connected, 'another connection');
  assert.match(text, /"method":"echo","params":\[\]/);
  await sleep(700);
  assert.equal(client.connected, true, 'a peer that answers stays');
});

// ---- what is written

const NONE = { uuid: '1' };
const snapshotOf = (table: string, row: object): Snapshot =>
  ({
    get: (name: string, uuid: string) =>
      name === table && uuid === '1' ? { ...NONE, ...row } : undefined,
  }) as unknown as Snapshot;
const WHERE = [['_uuid', '==', ['uuid', '1']]];

test('only what differs is written', () => {
  const before = {
    ofport: 1,
    error: 'x',
    mtu: 1500,
    status: { a: '1', b: '2', c: '3', d: '4' },
    link_state: undefined,
  };
  const wanted = (row: object): Wanted => ({ Interface: new Map([['1', row]]) });
  const updates = (row: object) => columnUpdates(snapshotOf('Interface', before), wanted(row));
  assert.deepEqual(updates(before), []);
  assert.deepEqual(updates({ ofport: 2, error: undefined, link_state: 'up' }), [
    {
      op: 'update',
      table: 'Interface',
      where: WHERE,
      row: { ofport: 2, error: ['set', []], link_state: 'up' },
    },
  ]);
  assert.deepEqual(updates({ status: { a: '1', b: '9', c: '3', d: '4' } }), [
    {
      op: 'mutate',
      table: 'Interface',
      where: WHERE,
      mutations: [
        ['status', 'delete', ['set', ['b']]],
        ['status', 'insert', ['map', [['b', '9']]]],
      ],
    },
  ]);
  assert.deepEqual(updates({ status: {} }), [
    { op: 'update', table: 'Interface', where: WHERE, row: { status: ['map', []] } },
  ]);
  assert.deepEqual(
    columnUpdates(snapshotOf('Bridge', {}), wanted({ ofport: 9 })),
    [],
    'row is gone',
  );
  assert.throws(() => updates({ nonsense: 1 }), /no column nonsense/);
});

test('values of the columns', () => {
  assert.deepEqual(interfaceOpened(65534), { ofport: 65534, error: undefined });
  const failed = interfaceFailed('could not open network device x (No such device)');
  assert.equal(failed.ofport, -1);
  for (const column of Object.keys(failed)) assert.ok(column in TABLES.Interface, column);
  const status = interfaceStatus({
    adminUp: true,
    linkUp: false,
    linkResets: 2,
    ifindex: -1,
    status: { driver_name: 'veth' },
    linkSpeed: 10_000_000_000,
    duplex: 'full',
  });
  assert.deepEqual(status, {
    admin_state: 'up',
    link_state: 'down',
    link_resets: 2,
    mac_in_use: undefined,
    mtu: undefined,
    ifindex: 0,
    link_speed: 10_000_000_000,
    duplex: 'full',
    status: { driver_name: 'veth' },
    error: undefined,
  });
  assert.deepEqual(statistics({ rx_packets: 5, rx_errors: Number.NaN, tx_bytes: 2 ** 60 }), {
    rx_packets: 5,
  });
  assert.equal(bridgeIdentity(0xaabbn).datapath_id, '000000000000aabb');
  assert.deepEqual(controllerStatus(undefined), {
    is_connected: false,
    role: undefined,
    status: {},
  });
  assert.deepEqual(
    controllerStatus({
      isConnected: false,
      role: 'other',
      state: 'BACKOFF',
      lastError: 'Connection refused',
      secSinceDisconnect: 3.7,
    }),
    {
      is_connected: false,
      role: 'other',
      status: { state: 'BACKOFF', last_error: 'Connection refused', sec_since_disconnect: '3' },
    },
  );
  const merged = mergeWanted(
    { Interface: new Map([['1', { ofport: 1, mtu: 9 }]]) },
    { Interface: new Map([['1', { mtu: 8 }]]), Bridge: new Map([['2', { datapath_id: 'x' }]]) },
  );
  assert.deepEqual(merged.Interface!.get('1'), { ofport: 1, mtu: 8 });
  assert.deepEqual(merged.Bridge!.get('2'), { datapath_id: 'x' });
});

test('the publisher writes reconfigurations at once, status when it changed, once', async () => {
  const { client } = watch();
  await until(() => client.lockState === 'held', 'lock');
  await client.transact(addBridge('br0'));
  const [iface] = client.snapshot.table('Interface').values();
  let mtu = 1500;
  let collected = 0;
  using publisher = new Publisher({
    client,
    runDir: directory,
    collectStatus: () => {
      collected++;
      return { Interface: new Map([[iface!.uuid, { mtu }]]) };
    },
    collectStatistics: () => ({
      Interface: new Map([[iface!.uuid, { statistics: { rx_packets: 7 } }]]),
    }),
  });
  const root = client.snapshot.root!.uuid;
  const identity = daemonIdentity({
    curCfg: 3,
    datapathTypes: ['system', 'netdev'],
    ifaceTypes: ['tap'],
  });
  const written = await publisher.publish({
    Open_vSwitch: new Map([[root, identity]]),
    Interface: new Map([[iface!.uuid, interfaceOpened(5)]]),
  });
  assert.equal(written, true);
  assert.equal(client.snapshot.root!.cur_cfg, 3);
  assert.deepEqual(client.snapshot.root!.datapath_types, ['netdev', 'system']);
  assert.equal(client.snapshot.get('Interface', iface!.uuid)!.ofport, 5);
  for (mtu = 1501; mtu < 1520; mtu++) publisher.statusChanged();
  await until(() => client.snapshot.get('Interface', iface!.uuid)!.mtu === 1520, 'status');
  assert.ok(collected <= 3, `${collected} transactions`);
  await publisher.publishStatistics();
  assert.deepEqual(
    { ...client.snapshot.get('Interface', iface!.uuid)!.statistics },
    { rx_packets: 7 },
  );
});

test('the publisher leaves the database to the daemon that holds the lock', async () => {
  const holder = watch();
  await until(() => holder.client.lockState === 'held', 'lock');
  const { client } = watch();
  await until(() => client.lockState === 'contended', 'contention');
  const root = client.snapshot.root!.uuid;
  let collected = 0;
  const wanted = (): Wanted => {
    collected++;
    return { Open_vSwitch: new Map([[root, { cur_cfg: 99 }]]) };
  };
  const options = { client, runDir: directory, collectStatus: wanted, collectStatistics: wanted };
  using publisher = new Publisher(options);
  assert.equal(await publisher.publish(wanted()), false);
  publisher.statusChanged();
  await sleep(350);
  assert.equal(collected, 2, 'it does not try again and again');
  assert.notEqual(client.snapshot.root!.cur_cfg, 99);
});

test('system statistics', () => {
  assert.equal(
    memoryStats(
      'MemTotal:  100 kB\nMemFree:  40 kB\nBuffers: 3 kB\nCached: 4 kB\nSwapTotal: 9 kB\nSwapFree: 8 kB\n',
    ),
    '100,60,7,9,1',
  );
  const stat = `7 (a) b) S ${Array.from({ length: 48 }, (_, i) => i + 4).join(' ')}`;
  assert.equal(processStats(stat, 1000), `0,${24 * 4},${(14 + 15) * 10},0,780,780,39`);
  assert.equal(processStats('garbage', 0), undefined);
  const stats = systemStats(directory);
  assert.match(stats.cpu!, /^\d+$/);
  assert.match(stats.load_average!, /^[\d.]+,[\d.]+,[\d.]+$/);
  assert.match(stats.memory!, /^\d+,\d+,\d+,\d+,\d+$/);
});
