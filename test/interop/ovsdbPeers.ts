// Two OVSDB servers side by side: the embedded one in this process, and Debian's ovsdb-server. Used
// by ovsdb.test.ts.

import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Embedded, startEmbedded } from '../../src/control/ovsdb/embedded.ts';
import { type Json, parseJson, stringifyJson } from '../../src/wire/ovsdb/json.ts';
import { JsonSplitter } from '../../src/wire/ovsdb/splitter.ts';

export interface Peer {
  name: 'ours' | 'real';
  /** unix:… */
  remote: string;
  file: string;
}

export interface Peers {
  ours: Peer;
  real: Peer;
  embedded: Embedded;
  directory: string;
  close(): Promise<void>;
}

const UUID = /[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}/g;
const ZERO = '00000000-0000-0000-0000-000000000000';

/** What differs between two servers that behave alike: uuids, temporary directories, times. */
export function normalize(text: string, directory: string): string {
  return text
    .replace(UUID, (uuid) => (uuid === ZERO ? uuid : '<uuid>'))
    .replaceAll(`${directory}/ours`, '<dir>')
    .replaceAll(`${directory}/real`, '<dir>')
    .replace(/timed out after \d+ ms/g, 'timed out after N ms')
    .replace(/\d{4}-\d\d-\d\dT[0-9:.]+Z/g, '<time>');
}

export interface Output {
  code: number;
  stdout: string;
  stderr: string;
}

/** Runs a command to its end, with a limit. */
export function run(command: string, args: readonly string[], env = {}): Promise<Output> {
  return new Promise((resolve) => {
    const options = {
      timeout: 15_000,
      killSignal: 'SIGKILL' as const,
      env: { ...process.env, ...env },
    };
    execFile(command, args, options, (error, stdout, stderr) => {
      const code = error ? (typeof error.code === 'number' ? error.code : -1) : 0;
      resolve({ code, stdout, stderr });
    });
  });
}

async function until(condition: () => boolean, what: string): Promise<void> {
  for (let i = 0; i < 500; i++) {
    if (condition()) return;
    await sleep(10);
  }
  throw new Error(`timeout: ${what}`);
}

export async function startPeers(): Promise<Peers> {
  const directory = mkdtempSync(join(tmpdir(), 'xvio-ovsdb-'));
  const file = (name: string) => join(directory, name, 'conf.db');
  const socket = (name: string) => join(directory, name, 'db.sock');
  const embedded = await startEmbedded({
    file: file('ours'),
    sockets: [`punix:${socket('ours')}`],
  });
  await run('mkdir', ['-p', join(directory, 'real')]);
  await run('ovsdb-tool', ['create', file('real'), '/usr/share/openvswitch/vswitch.ovsschema']);
  const server: ChildProcess = spawn(
    'ovsdb-server',
    [
      file('real'),
      `--remote=punix:${socket('real')}`,
      `--unixctl=${join(directory, 'real', 'ctl')}`,
      '-vconsole:off',
      '--no-chdir',
    ],
    { stdio: 'ignore', env: { ...process.env, OVS_RUNDIR: directory } },
  );
  await until(() => existsSync(socket('real')), 'real ovsdb-server');
  // What ovs-ctl does after it has started the server.
  const init = ['--no-wait', 'init', '--', 'set', 'Open_vSwitch', '.', 'db-version=8.3.1'];
  await run('ovs-vsctl', [`--db=unix:${socket('real')}`, ...init]);
  return {
    ours: { name: 'ours', remote: `unix:${socket('ours')}`, file: file('ours') },
    real: { name: 'real', remote: `unix:${socket('real')}`, file: file('real') },
    embedded,
    directory,
    async close() {
      const gone = new Promise((resolve) => server.once('exit', resolve));
      server.kill('SIGKILL');
      await gone;
      await embedded.close();
      rmSync(directory, { recursive: true });
    },
  };
}

/** A raw JSON-RPC client that keeps everything it receives. */
export class RawClient {
  readonly #socket: Socket;
  readonly received: Json[] = [];
  closed = false;
  #nextId = 0;

  private constructor(socket: Socket) {
    this.#socket = socket;
    const splitter = new JsonSplitter();
    socket.on('data', (chunk: Buffer) => {
      for (const text of splitter.push(chunk)) this.received.push(parseJson(text));
    });
    socket.on('close', () => {
      this.closed = true;
    });
    socket.on('error', () => {});
  }

  static async open(peer: Peer): Promise<RawClient> {
    const socket = connect(peer.remote.slice('unix:'.length));
    await new Promise((resolve, reject) => socket.once('connect', resolve).once('error', reject));
    return new RawClient(socket);
  }

  send(text: string): void {
    this.#socket.write(text);
  }

  /** Sends a request and waits for its reply; what comes before the reply stays in `received`. */
  async call(method: string, params: Json): Promise<Json> {
    const id = this.#nextId++;
    this.send(stringifyJson({ id, method, params }));
    return this.reply(id);
  }

  async reply(id: Json): Promise<Json> {
    const find = () =>
      this.received.find((m) => m !== null && typeof m === 'object' && 'id' in m && m.id === id);
    await until(() => find() !== undefined || this.closed, `reply to ${id}`);
    const message = find() as { result: Json; error: Json } | undefined;
    return message ? { result: message.result ?? null, error: message.error } : 'connection closed';
  }

  async settle(): Promise<void> {
    await sleep(100);
  }

  close(): void {
    this.#socket.destroy();
  }
}
