// A host in a box for tests with real peers: a temporary run directory, Debian's ovsdb-server, and either xvio or the
// real ovs-vswitchd, in a network namespace of its own so that devices of the same name do not meet.

import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

export const ROOT = join(import.meta.dirname, '..', '..');
const REAL = '/usr/lib/openvswitch-switch/ovs-vswitchd';
const SCHEMA = '/usr/share/openvswitch/vswitch.ovsschema';

export interface Result {
  stdout: string;
  stderr: string;
  status: number;
}

export interface SandboxOptions {
  daemon?: 'xvio' | 'real';
  /** Another daemon than these two. */
  binary?: string;
  /** Runs between the start of the database and that of the daemon. */
  configure?: (box: Sandbox) => void;
  /** More arguments of the daemon. */
  args?: readonly string[];
  /** false: stay in the namespace of the test. */
  namespace?: boolean;
}

let sequence = 0;

export class Sandbox implements AsyncDisposable {
  readonly dir: string;
  readonly namespace: string | undefined;
  readonly env: NodeJS.ProcessEnv;
  readonly #options: SandboxOptions;
  #database: ChildProcess | undefined;
  #daemon: ChildProcess | undefined;
  readonly #namespaces: string[] = [];

  private constructor(options: SandboxOptions) {
    this.#options = options;
    this.dir = mkdtempSync(join(tmpdir(), 'xv-'));
    if (options.namespace !== false) this.namespace = this.addNamespace('h');
    this.env = {
      ...process.env,
      OVS_RUNDIR: this.dir,
      OVS_LOGDIR: this.dir,
      OVS_DBDIR: this.dir,
      OVS_SYSCONFDIR: this.dir,
      OVS_SYSLOG_METHOD: 'null',
    };
  }

  static async start(options: SandboxOptions = {}): Promise<Sandbox> {
    const box = new Sandbox(options);
    try {
      execFileSync('ovsdb-tool', ['create', join(box.dir, 'conf.db'), SCHEMA]);
      await box.#startDatabase();
      box.must('ovs-vsctl', '--no-wait', 'init');
      options.configure?.(box);
      await box.startDaemon();
      return box;
    } catch (error) {
      await box.stop();
      throw error;
    }
  }

  /** Nothing is started yet, and there is no database: for those who bring their own scripts. */
  static empty(): Sandbox {
    return new Sandbox({});
  }

  path(name: string): string {
    return join(this.dir, name);
  }

  /** A further network namespace, removed with the sandbox. */
  addNamespace(suffix: string): string {
    const name = `xv${process.pid}-${++sequence}${suffix}`;
    execFileSync('ip', ['netns', 'add', name]);
    this.#namespaces.push(name);
    execFileSync('ip', ['-n', name, 'link', 'set', 'lo', 'up']);
    return name;
  }

  #wrap(command: string, args: readonly string[]): [string, string[]] {
    if (this.namespace === undefined) return [command, [...args]];
    return ['ip', ['netns', 'exec', this.namespace, command, ...args]];
  }

  /** Starts a process in the sandbox's namespace and environment. */
  spawn(command: string, args: readonly string[]): ChildProcess {
    const [program, words] = this.#wrap(command, args);
    return spawn(program, words, { env: this.env, stdio: ['ignore', 'inherit', 'inherit'] });
  }

  /** Runs a command to its end. */
  run(command: string, ...args: string[]): Result {
    const [program, words] = this.#wrap(command, args);
    const r = spawnSync(program, words, { env: this.env, encoding: 'utf8', timeout: 60000 });
    return { stdout: r.stdout ?? '', stderr: r.stderr ?? '', status: r.status ?? -1 };
  }

  must(command: string, ...args: string[]): string {
    const r = this.run(command, ...args);
    if (r.status !== 0) {
      throw new Error(
        `${command} ${args.join(' ')}: status ${r.status}\n${r.stdout}${r.stderr}\n${this.logTail()}`,
      );
    }
    return r.stdout;
  }

  vsctl(...args: string[]): string {
    return this.must('ovs-vsctl', '--timeout=30', ...args);
  }

  ofctl(...args: string[]): string {
    return this.must('ovs-ofctl', ...args);
  }

  appctl(...args: string[]): string {
    return this.must('ovs-appctl', '-T', '30', ...args);
  }

  get logFile(): string {
    return this.path('ovs-vswitchd.log');
  }

  logTail(lines = 30): string {
    if (!existsSync(this.logFile)) return '(no log)';
    return readFileSync(this.logFile, 'utf8').split('\n').slice(-lines).join('\n');
  }

  async #startDatabase(): Promise<void> {
    this.#database = this.spawn('ovsdb-server', [
      this.path('conf.db'),
      `--remote=punix:${this.path('db.sock')}`,
      '-vconsole:off',
    ]);
    await this.until(() => existsSync(this.path('db.sock')), 10000, 'ovsdb-server');
  }

  /** Everybody loses the connection to the database, and gets it back with the same contents. */
  async restartDatabase(): Promise<void> {
    const database = this.#database!;
    const gone = new Promise((resolve) => database.once('exit', resolve));
    database.kill('SIGTERM');
    await gone;
    rmSync(this.path('db.sock'), { force: true });
    await this.#startDatabase();
  }

  /** A second daemon takes over from the first (--take-over); resolves when the first is gone and the second listens. */
  async takeOver(): Promise<void> {
    const old = this.#daemon!;
    const oldPid = this.daemonPid;
    await this.startDaemon(['--take-over'], oldPid);
    await this.until(() => old.exitCode !== null, 20000, 'end of the old daemon');
  }

  async startDaemon(args: readonly string[] = [], otherThan?: number): Promise<void> {
    const real = this.#options.daemon === 'real';
    const binary = this.#options.binary ?? (real ? REAL : join(ROOT, 'bin', 'ovs-vswitchd'));
    this.#daemon = this.spawn(binary, [
      `unix:${this.path('db.sock')}`,
      '--pidfile',
      '--log-file',
      '--no-chdir',
      '-vconsole:off',
      ...(this.#options.args ?? []),
      ...args,
    ]);
    const daemon = this.#daemon;
    const control = (): boolean =>
      existsSync(this.path('ovs-vswitchd.pid')) &&
      this.daemonPid !== otherThan &&
      existsSync(this.path(`ovs-vswitchd.${this.daemonPid}.ctl`));
    await this.until(() => control() || daemon.exitCode !== null, 20000, 'the daemon');
    if (!control()) throw new Error(`the daemon did not start\n${this.logTail()}`);
  }

  get daemonPid(): number {
    return Number(readFileSync(this.path('ovs-vswitchd.pid'), 'utf8'));
  }

  /** Ends the daemon by a signal and waits for its end. */
  async stopDaemon(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    const daemon = this.#daemon;
    this.#daemon = undefined;
    if (!daemon || daemon.exitCode !== null || daemon.signalCode !== null) return;
    const gone = new Promise((resolve) => daemon.once('exit', resolve));
    daemon.kill(signal);
    const force = setTimeout(() => daemon.kill('SIGKILL'), 10000);
    await gone;
    clearTimeout(force);
    if (signal === 'SIGKILL') rmSync(this.path('ovs-vswitchd.pid'), { force: true });
  }

  /** Polls until the condition holds; throws after the time. */
  async until(
    condition: () => boolean | Promise<boolean>,
    timeoutMs: number,
    what: string,
  ): Promise<void> {
    const end = Date.now() + timeoutMs;
    while (!(await condition())) {
      if (Date.now() > end) throw new Error(`no ${what} in ${timeoutMs} ms\n${this.logTail()}`);
      await sleep(50);
    }
  }

  async stop(): Promise<void> {
    await this.stopDaemon();
    this.#database?.kill('SIGKILL');
    for (const name of this.#namespaces) {
      spawnSync('ip', ['netns', 'delete', name]);
    }
    rmSync(this.dir, { recursive: true, force: true });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}

/** A cable between two sandboxes, or other hosts in a namespace: a network device of this name in both. */
export function linkSandboxes(
  a: { readonly namespace: string | undefined },
  b: { readonly namespace: string | undefined },
  name: string,
): void {
  const ends = ['type', 'veth', 'peer', 'name', name, 'netns', b.namespace!];
  execFileSync('ip', ['link', 'add', name, 'netns', a.namespace!, ...ends]);
  for (const box of [a, b]) {
    execFileSync('ip', ['-n', box.namespace!, 'link', 'set', name, 'up']);
    // The real switch sends unfinished checksums on.
    execFileSync('ip', ['netns', 'exec', box.namespace!, 'ethtool', '-K', name, 'tx', 'off'], {
      stdio: 'ignore',
    });
  }
}
