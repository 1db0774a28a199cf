// The server's edges: sockets, slow and silent clients, blocked transactions that time out or are
// canceled.

import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { connect, createServer, Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import { afterEach, beforeEach, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Channel } from '../../src/control/ovsdb/channel.ts';
import { type Embedded, startEmbedded, streamPair } from '../../src/control/ovsdb/embedded.ts';
import { listenOvsdb } from '../../src/control/ovsdb/listen.ts';
import { silentLog } from '../../src/control/ovsdb/log.ts';
import type { Json } from '../../src/wire/ovsdb/json.ts';
import type { RpcMessage } from '../../src/wire/ovsdb/rpc.ts';

let directory: string;
let embedded: Embedded;
beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'xvio-server-'));
  embedded = await startEmbedded({
    file: join(directory, 'conf.db'),
    sockets: [`punix:${join(directory, 'db.sock')}`, 'ptcp:0:127.0.0.1'],
  });
});
afterEach(async () => {
  await embedded.close();
  rmSync(directory, { recursive: true });
});

async function until(condition: () => boolean, what: string): Promise<void> {
  for (let i = 0; i < 300; i++) {
    if (condition()) return;
    await sleep(10);
  }
  assert.fail(`timeout: ${what}`);
}

/** A client that keeps what it gets. */
function client(stream: Duplex = embedded.connect()) {
  const messages: RpcMessage[] = [];
  const closed: string[] = [];
  let nextId = 0;
  const channel = new Channel(stream, {
    probeIntervalMs: 0,
    onMessage: (message) => messages.push(message),
    onClose: (reason) => closed.push(reason),
  });
  const find = (id: Json) => messages.find((m) => m.kind !== 'notification' && m.id === id);
  return {
    channel,
    messages,
    closed,
    async call(method: string, params: Json[]): Promise<RpcMessage> {
      const id = nextId++;
      channel.request(id, method, params);
      await until(() => find(id) !== undefined, `reply to ${method}`);
      return find(id)!;
    },
    find,
  };
}

const waitFor = (nextCfg: number, more = {}): Json => ({
  op: 'wait',
  table: 'Open_vSwitch',
  where: [],
  columns: ['next_cfg'],
  until: '==',
  rows: [{ next_cfg: nextCfg }],
  ...more,
});
const setCfg = (nextCfg: number): Json => ({
  op: 'update',
  table: 'Open_vSwitch',
  where: [],
  row: { next_cfg: nextCfg },
});

test('a wait times out', async () => {
  const { call } = client();
  const started = performance.now();
  const reply = await call('transact', ['Open_vSwitch', waitFor(9, { timeout: 60 }), setCfg(1)]);
  assert.ok(performance.now() - started >= 59);
  assert.equal(reply.kind, 'reply');
  const [error, rest] = (reply as unknown as { result: { error: string; details: string }[] })
    .result;
  assert.equal(error!.error, 'timed out');
  assert.match(error!.details, /"wait" timed out after \d+ ms/);
  assert.equal(rest, null);
});

test('a satisfied wait with a short timeout does not end a longer one', async () => {
  const { channel, find } = client();
  channel.request('w', 'transact', [
    'Open_vSwitch',
    waitFor(0, { timeout: 10 }),
    waitFor(9, { timeout: 150 }),
  ]);
  await sleep(80);
  assert.equal(find('w'), undefined);
  await until(() => find('w') !== undefined, 'time-out of the longer one');
});

test('waits that hold by the transaction of another wait go through too', async () => {
  const { channel, call, find } = client();
  channel.request('a', 'transact', ['Open_vSwitch', waitFor(2), setCfg(3)]);
  channel.request('b', 'transact', ['Open_vSwitch', waitFor(1), setCfg(2)]);
  await call('transact', ['Open_vSwitch', setCfg(1)]);
  await until(() => find('a') !== undefined && find('b') !== undefined, 'both');
  const root = embedded.storage.database.tables.get('Open_vSwitch')!;
  const [row] = root.rows.values();
  assert.deepEqual(row!.fields[root.schema.columns.get('next_cfg')!.index]!.keys, [3]);
});

test('a blocked transaction is canceled; its id may not be used twice', async () => {
  const { channel, messages, find } = client();
  channel.request('w', 'transact', ['Open_vSwitch', waitFor(9)]);
  channel.request('w', 'transact', ['Open_vSwitch', waitFor(9)]);
  await until(() => messages.length === 1, 'refusal');
  assert.match(JSON.stringify(messages[0]), /duplicate request ID/);
  messages.length = 0;
  channel.notify('cancel', ['w']);
  channel.notify('cancel', ['nobody']);
  await until(() => find('w') !== undefined, 'cancellation');
  assert.deepEqual(find('w'), { kind: 'error', id: 'w', error: 'canceled' });
});

test('a session that ends takes its locks and waits along', async () => {
  const first = client();
  await first.call('lock', ['l']);
  first.channel.request('w', 'transact', ['Open_vSwitch', waitFor(4), setCfg(5)]);
  const second = client();
  await second.call('lock', ['l']);
  first.channel.close('gone');
  await until(() => second.messages.some((m) => m.kind === 'notification'), 'lock');
  await second.call('transact', ['Open_vSwitch', setCfg(4)]);
  assert.equal(embedded.server.sessionCount, 1);
});

test('updates come before the reply to the transaction that caused them', async () => {
  const { call, messages } = client();
  await call('monitor', ['Open_vSwitch', 'm', { Open_vSwitch: { columns: ['next_cfg'] } }]);
  await call('transact', ['Open_vSwitch', setCfg(7)]);
  assert.deepEqual(
    messages.slice(-2).map((m) => (m.kind === 'notification' ? m.method : m.kind)),
    ['update', 'reply'],
  );
});

test('a client that does not read gets the sum of the changes, not all of them', async () => {
  const stream = connect(join(directory, 'db.sock'));
  await new Promise((resolve) => stream.once('connect', resolve));
  const slow = client(stream);
  await slow.call('monitor_cond', [
    'Open_vSwitch',
    'm',
    { Open_vSwitch: [{ columns: ['other_config'] }] },
  ]);
  stream.pause();
  const { call } = client();
  const big = 'x'.repeat(20_000);
  for (let i = 0; i < 200; i++) {
    const row = { other_config: ['map', [['k', `${i}${big}`]]] } as const;
    await call('transact', [
      'Open_vSwitch',
      { op: 'update', table: 'Open_vSwitch', where: [], row },
    ]);
  }
  stream.resume();
  const updates = () => slow.messages.filter((m) => m.kind === 'notification');
  await until(() => JSON.stringify(updates().at(-1) ?? '').includes('199x'), 'last value');
  assert.ok(updates().length < 100, `${updates().length} updates`);
});

test('requests of a client that does not read replies are not taken up', async () => {
  const stream = connect(join(directory, 'db.sock'));
  await new Promise((resolve) => stream.once('connect', resolve));
  stream.pause();
  const request = `{"id":1,"method":"get_schema","params":["Open_vSwitch"]}`;
  for (let i = 0; i < 30_000; i++) stream.write(request);
  await sleep(300);
  assert.ok(stream.writableLength > 0, 'the server has stopped reading');
  stream.destroy();
  await until(() => embedded.server.sessionCount === 0, 'end');
});

test('garbage ends one connection and no other', async () => {
  const good = client();
  for (const text of [
    '\0',
    'GET / HTTP/1.1\r\n\r\n',
    '{"a":1}',
    `[${'['.repeat(5000)}`,
    '{"id":1,"method":"lock"}',
  ]) {
    const stream = connect(join(directory, 'db.sock'));
    stream.on('error', () => {});
    const ended = new Promise((resolve) => stream.once('close', resolve));
    stream.resume();
    stream.write(text);
    await ended;
  }
  assert.equal((await good.call('list_dbs', [])).kind, 'reply');
});

test('the socket has the real server’s mode, replaces a stale one, refuses one in use', async () => {
  const path = join(directory, 'db.sock');
  assert.equal(statSync(path).mode & 0o777, 0o750);
  await assert.rejects(listenOvsdb(`punix:${path}`, () => {}, silentLog));
  assert.ok(existsSync(path), 'it is not taken away from its owner');
  const stale = join(directory, `${'deep/'.repeat(30)}stale.sock`);
  const first = await listenOvsdb(`punix:${stale}`, () => {}, silentLog);
  first.close();
  assert.equal(existsSync(stale), false);
  const left = join(directory, 'left.sock');
  const script = `require('net').createServer().listen(${JSON.stringify(left)}, () => process.kill(process.pid, 'SIGKILL'))`;
  const { spawnSync } = await import('node:child_process');
  spawnSync(process.execPath, ['-e', script]);
  assert.ok(existsSync(left));
  const second = await listenOvsdb(`punix:${left}`, () => {}, silentLog);
  second.close();
  await assert.rejects(
    listenOvsdb('pipe:x', () => {}, silentLog),
    /Address family not supported/,
  );
});

test('what the software says about itself is written when it changed', async () => {
  const file = join(directory, 'identity.db');
  const start = (ovsVersion: string) =>
    startEmbedded({ file, sockets: [], identity: { ovs_version: ovsVersion } });
  const value = ({ storage }: Embedded, column: string) => {
    const { schema, rows } = storage.database.tables.get('Open_vSwitch')!;
    return [...rows.values()].map((row) => row.fields[schema.columns.get(column)!.index]!.keys);
  };
  const first = await start('1.0.0');
  assert.deepEqual(value(first, 'ovs_version'), [['1.0.0']]);
  assert.deepEqual(value(first, 'db_version'), [['8.3.1']]);
  await first.close();
  const { size } = statSync(file);
  await (await start('1.0.0')).close();
  assert.equal(statSync(file).size, size, 'nothing new, nothing written');
  const third = await start('1.1.0');
  assert.deepEqual(value(third, 'ovs_version'), [['1.1.0']]);
  await third.close();
});

test('TCP works', async () => {
  const { port } = embedded.listeners[1]!;
  const stream: Socket = connect(port!, '127.0.0.1');
  await new Promise((resolve) => stream.once('connect', resolve));
  const { call, channel } = client(stream);
  assert.deepEqual(await call('echo', [1]), { kind: 'reply', id: 0, result: [1] });
  channel.close('done');
});

test('a port in use is an error, and the database is closed again', async () => {
  const server = createServer().listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  const { port } = server.address() as { port: number };
  const file = join(directory, 'other.db');
  await assert.rejects(startEmbedded({ file, sockets: [`ptcp:${port}:127.0.0.1`] }), /EADDRINUSE/);
  const again = await startEmbedded({ file, sockets: [] });
  await again.close();
  server.close();
});

test('the pair of streams carries bytes both ways and tells its end', async () => {
  const [a, b] = streamPair();
  const got: string[] = [];
  b.on('data', (chunk) => got.push(String(chunk)));
  const ended = new Promise((resolve) => b.once('end', resolve));
  a.write('hello');
  b.write('back');
  assert.equal(
    String(a.read() ?? (await new Promise((r) => a.once('readable', () => r(a.read()))))),
    'back',
  );
  a.destroy();
  await ended;
  assert.equal(got.join(''), 'hello');
});

test('clients that could not be accepted do not end the server', async () => {
  const handles = () =>
    (process as unknown as { _getActiveHandles(): object[] })._getActiveHandles();
  for (const remote of ['ptcp:0:127.0.0.1', `punix:${join(directory, 'other.sock')}`]) {
    const before = new Set(handles());
    const warnings: string[] = [];
    const log = { ...silentLog, warn: (text: string) => void warnings.push(text) };
    const listener = await listenOvsdb(remote, () => {}, log);
    const server = handles().find((one) => one instanceof Server && !before.has(one)) as Server;
    // What node emits for an error of accept(2).
    server.emit('error', new Error('accept ENFILE'));
    assert.deepEqual(warnings, ['accept failed (accept ENFILE)']);
    listener.close();
  }
});
