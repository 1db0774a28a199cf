// Control socket (ovs-appctl's): what is not a request ends the connection, what is one gets an answer, and the texts are
// those of the real daemon.

import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { connect, Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import {
  CommandTable,
  listenUnixctl,
  type UnixctlServer,
} from '../../src/control/appctl/server.ts';

const dir = mkdtempSync(join(tmpdir(), 'xvio-unixctl-'));
const path = join(dir, 'x.ctl');
let server: UnixctlServer;

before(async () => {
  const table = new CommandTable();
  const run = (args: readonly string[]) => args.join('+');
  table.add({ name: 'add', usage: '', minArgs: 1, maxArgs: 2, run });
  server = await listenUnixctl(path, table);
});

after(() => {
  server.close();
  rmSync(dir, { recursive: true });
});

/** Everything that comes back until the answer is whole or the connection ends. */
function ask(text: string): Promise<string> {
  return new Promise((resolve) => {
    let answer = '';
    const socket = connect(path, () => socket.write(text));
    socket.on('data', (chunk) => {
      answer += chunk;
      if (answer.endsWith('}')) socket.destroy();
    });
    socket.on('error', () => {});
    socket.on('close', () => resolve(answer));
  });
}

const request = (method: string, params: unknown): string =>
  JSON.stringify({ id: 7, method, params });

test('requests are answered', async () => {
  const answers: [string, unknown, string | null, string | null][] = [
    ['add', ['1', '2'], '1+2\n', null],
    ['add', ['1', 2], null, '"add" command has non-string argument\n'],
    ['add', [], null, '"add" command requires at least 1 arguments\n'],
    ['add', [1, 2, 3], null, '"add" command takes at most 2 arguments\n'],
  ];
  for (const [method, params, result, error] of answers) {
    assert.deepEqual(JSON.parse(await ask(request(method, params))), { id: 7, result, error });
  }
  const unknown = JSON.parse(await ask(request('constructor', [])));
  assert.match(unknown.error, /^"constructor" is not a valid command \(use "list-commands"/);
});

test('what is no request ends the connection', async () => {
  const nonsense = [
    '[]',
    '{}',
    '{"id":1}',
    request('add', {}),
    '\xff',
    '{"id":null,"method":"add"}',
  ];
  for (const text of nonsense) assert.equal(await ask(text), '', text);
  assert.equal(await ask('['.repeat(100_000)), '');
  assert.match(await ask(request('add', ['x'])), /"x\\n"/);
});

test('a socket that cannot be made says why, as the system would', async () => {
  await assert.rejects(listenUnixctl(join(dir, 'none', 'x.ctl'), new CommandTable()), {
    message: 'No such file or directory',
  });
});

test('a path longer than a socket address has room for', async () => {
  const deep = join(dir, 'd'.repeat(120));
  mkdirSync(deep);
  const long = join(deep, 'x.ctl');
  const other = await listenUnixctl(long, new CommandTable());
  assert.ok(existsSync(long));
  other.close();
  assert.ok(!existsSync(long));
});

test('clients that could not be accepted do not end the daemon', async () => {
  const handles = (process as unknown as { _getActiveHandles(): object[] })._getActiveHandles();
  const listener = handles.find((one) => one instanceof Server && one.address() === path) as Server;
  // What node emits for an error of accept(2).
  for (let i = 0; i < 2; i++) listener.emit('error', new Error('accept ENFILE'));
  assert.equal(JSON.parse(await ask('{"id":1,"method":"add","params":["a"]}')).result, 'a\n');
});
