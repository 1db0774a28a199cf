// The real ovs-vswitchd beside ours, for tests that run the same commands against both and compare what they print.
//
// The real one lives in a directory of its own with its own ovsdb-server, and with dummy devices and datapath only:
// it needs no privileges and touches nothing of the machine. Its binary is Debian's openvswitch-switch.
//
//   const { real, ours, same, stop } = await startPair(['ovs-vsctl add-br br0']);
//   after(stop);
//   await same(['ovs-ofctl dump-flows br0']);

import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const VSWITCHD = '/usr/lib/openvswitch-switch/ovs-vswitchd';
const SCHEMA = '/usr/share/openvswitch/vswitch.ovsschema';
const COMMAND_TIMEOUT_MS = 30_000;
const START_TIMEOUT_MS = 10_000;

export interface CommandResult {
  /** Exit status, or the signal's name. */
  status: number | string;
  stdout: string;
  stderr: string;
}

/** One of the daemons that are compared: commands run with its OVS_RUNDIR. */
export class OvsSide implements AsyncDisposable {
  readonly name: string;
  /** OVS_RUNDIR, and everything else: database, logs. */
  readonly dir: string;
  readonly #children: ChildProcess[] = [];
  readonly #cleanup: (() => void | Promise<void>)[] = [];

  constructor(name: string, dir: string) {
    this.name = name;
    this.dir = dir;
  }

  static async create(name: string): Promise<OvsSide> {
    return new OvsSide(name, await mkdtemp(join(tmpdir(), `xvio-${name}-`)));
  }

  get env(): NodeJS.ProcessEnv {
    return {
      ...process.env,
      OVS_RUNDIR: this.dir,
      OVS_LOGDIR: this.dir,
      OVS_DBDIR: this.dir,
      OVS_SYSCONFDIR: this.dir,
      OVS_SYSLOG_METHOD: 'null',
    };
  }

  /** Runs a shell command to its end. `input` is its standard input. */
  run(command: string, input = ''): Promise<CommandResult> {
    return new Promise((resolve, reject) => {
      const child = spawn('/bin/sh', ['-c', command], { env: this.env, cwd: this.dir });
      let stdout = '';
      let stderr = '';
      const timer = setTimeout(() => child.kill('SIGKILL'), COMMAND_TIMEOUT_MS);
      child.stdout.on('data', (chunk) => {
        stdout += chunk;
      });
      child.stderr.on('data', (chunk) => {
        stderr += chunk;
      });
      child.on('error', reject);
      child.on('close', (code, signal) => {
        clearTimeout(timer);
        resolve({ status: code ?? signal ?? 'unknown', stdout, stderr });
      });
      child.stdin.on('error', () => {});
      child.stdin.end(input);
    });
  }

  /** Starts a program that runs until the side is disposed. */
  start(program: string, args: readonly string[]): ChildProcess {
    const child = spawn(program, args, { env: this.env, cwd: this.dir, stdio: 'ignore' });
    child.on('error', () => {});
    this.#children.push(child);
    return child;
  }

  /** Runs when the side is disposed, before its directory goes. */
  defer(cleanup: () => void | Promise<void>): void {
    this.#cleanup.push(cleanup);
  }

  async waitFor(what: string, ready: () => boolean | Promise<boolean>): Promise<void> {
    const deadlineMs = performance.now() + START_TIMEOUT_MS;
    while (!(await ready())) {
      if (performance.now() > deadlineMs) {
        throw new Error(
          `${this.name}: no ${what} after ${START_TIMEOUT_MS} ms\n${await this.log()}`,
        );
      }
      await sleep(20);
    }
  }

  /** Log of the daemon, '' if it has none. */
  log(): Promise<string> {
    return readFile(join(this.dir, 'ovs-vswitchd.log'), 'utf8').catch(() => '');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const cleanup of this.#cleanup.reverse()) await cleanup();
    for (const child of this.#children.reverse()) {
      if (child.exitCode !== null || child.signalCode !== null) continue;
      const gone = new Promise((resolve) => child.once('exit', resolve));
      child.kill('SIGKILL');
      await gone;
    }
    await rm(this.dir, { recursive: true, force: true });
  }
}

/** ovsdb-server with an empty database at DIR/db.sock, as both daemons need it. */
export async function startDatabase(side: OvsSide): Promise<void> {
  const created = await side.run(`ovsdb-tool create conf.db ${SCHEMA}`);
  if (created.status !== 0) throw new Error(created.stderr);
  side.start('ovsdb-server', [
    '--remote=punix:db.sock',
    '-vconsole:off',
    '--log-file=ovsdb-server.log',
    '--pidfile=ovsdb-server.pid',
    '--no-chdir',
    'conf.db',
  ]);
  await side.waitFor('db.sock', () => existsSync(join(side.dir, 'db.sock')));
  await side.run('ovs-vsctl --no-wait init');
}

/** The real daemon, with a database and without bridges. */
export async function startRealOvs(): Promise<OvsSide> {
  const side = await OvsSide.create('real');
  try {
    await startDatabase(side);
    side.start(VSWITCHD, [
      '--enable-dummy=override',
      '--disable-system',
      '--disable-system-route',
      '--no-chdir',
      '--pidfile=ovs-vswitchd.pid',
      '--log-file=ovs-vswitchd.log',
      '-vconsole:off',
      'unix:db.sock',
    ]);
    await side.waitFor('pid file', () => existsSync(join(side.dir, 'ovs-vswitchd.pid')));
    return side;
  } catch (error) {
    await side[Symbol.asyncDispose]();
    throw error;
  }
}

/**
 * Our daemon from bin/, with a database and without bridges, in a network namespace of its own (so it needs root, and
 * nothing that listens on 127.0.0.1 reaches it). Build the data plane first.
 */
export async function startOurOvs(): Promise<OvsSide> {
  const side = await OvsSide.create('ours');
  try {
    await startDatabase(side);
    side.start('unshare', [
      '--net',
      resolve(import.meta.dirname, '../../bin/ovs-vswitchd'),
      '--no-chdir',
      '--pidfile=ovs-vswitchd.pid',
      '--log-file=ovs-vswitchd.log',
      '-vconsole:off',
      'unix:db.sock',
    ]);
    await side.waitFor('pid file', () => existsSync(join(side.dir, 'ovs-vswitchd.pid')));
    return side;
  } catch (error) {
    await side[Symbol.asyncDispose]();
    throw error;
  }
}

/** What differs from run to run and from machine to machine. */
export function normalize(text: string, dir: string): string {
  return text
    .replaceAll(dir, 'DIR')
    .replace(/duration=[0-9.]+s?/g, 'duration=T')
    .replace(/(idle|hard)_age=\d+/g, '$1_age=T')
    .replace(/ \(xid=0x[0-9a-f]+\)/g, ' (xid=X)')
    .replace(/xid=0x[0-9a-f]+/g, 'xid=X')
    .replace(/^\d{4}-\d\d-\d\dT[\d:.]+Z/gm, 'TIME')
    .replace(/time=[\d.]+ ms/g, 'time=T ms')
    .replace(/(dpid|datapath.id)[:=]\s*[0-9a-f]{16}/gi, '$1=DPID');
}

export interface CompareOptions {
  /** Lines in any order (hash tables). */
  sortLines?: boolean;
  /** Further changes that make the outputs comparable. */
  normalize?: (text: string) => string;
  input?: string;
}

/** Runs the commands on both sides and describes each difference; [] = all the same. */
export async function sameOutput(
  [real, ours]: readonly [OvsSide, OvsSide],
  commands: readonly string[],
  options: CompareOptions = {},
): Promise<string[]> {
  const differences: string[] = [];
  for (const command of commands) {
    const [expected, actual] = await Promise.all(
      [real, ours].map(async (side) => {
        const { status, stdout, stderr } = await side.run(command, options.input);
        const text = (raw: string) => {
          const clean = (options.normalize ?? String)(normalize(raw, side.dir));
          return options.sortLines ? clean.split('\n').sort().join('\n') : clean;
        };
        return `status ${status}\n${text(stdout)}${stderr === '' ? '' : `stderr: ${text(stderr)}`}`;
      }),
    );
    if (expected !== actual) differences.push(describe(command, expected, actual));
  }
  return differences;
}

/** Both daemons in the same state. */
export interface OvsPair {
  readonly real: OvsSide;
  readonly ours: OvsSide;
  /** Asserts that the commands print the same. */
  same(this: void, commands: readonly string[], options?: CompareOptions): Promise<void>;
  stop(this: void): Promise<void>;
}

/** Two bridges with patch ports a1 … a3 ↔ b1 … b3, which need no devices; the second bridge gives packets a way out. */
export const PATCHED_BRIDGES: readonly string[] = [
  'ovs-vsctl --timeout=20 add-br br0 -- set-fail-mode br0 secure ' +
    '-- add-br br1 -- set-fail-mode br1 secure ' +
    [1, 2, 3]
      .map(
        (n) =>
          `-- add-port br0 a${n} -- set interface a${n} type=patch options:peer=b${n} ofport_request=${n} ` +
          `-- add-port br1 b${n} -- set interface b${n} type=patch options:peer=a${n} ofport_request=${n}`,
      )
      .join(' '),
  'ovs-ofctl add-flow br1 actions=LOCAL',
];

/** Both daemons after the same commands, which have to print the same. */
export async function startPair(commands: readonly string[]): Promise<OvsPair> {
  const stack = new AsyncDisposableStack();
  try {
    const real = stack.use(await startRealOvs());
    const ours = stack.use(await startOurOvs());
    stack.defer(async () => {
      await ours.run('ovs-appctl -t ovs-vswitchd exit --cleanup');
    });
    const same = async (commands: readonly string[], options?: CompareOptions): Promise<void> => {
      assert.deepEqual(await sameOutput([real, ours], commands, options), []);
    };
    await same(commands);
    return { real, ours, same, stop: () => stack.disposeAsync() };
  } catch (error) {
    await stack.disposeAsync();
    throw error;
  }
}

function describe(command: string, expected: string, actual: string): string {
  const real = expected.split('\n');
  const ours = actual.split('\n');
  const lines: string[] = [`$ ${command}`];
  for (let i = 0; i < Math.max(real.length, ours.length); i++) {
    if (real[i] === ours[i]) continue;
    if (lines.length > 20) {
      lines.push('…');
      break;
    }
    if (real[i] !== undefined) lines.push(`  real: ${real[i]}`);
    if (ours[i] !== undefined) lines.push(`  ours: ${ours[i]}`);
  }
  return lines.join('\n');
}
