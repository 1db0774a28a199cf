// dpdk-testpmd in both of its roles: as a switch of nothing (net_vhost, io forwarding: the limit of DPDK's vhost
// library), and as a generator that nobody can say we have tuned (net_virtio_user).

import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Peer, Setup, SwitchThread, Testbed } from '../types.ts';

const BINARY = '/usr/bin/dpdk-testpmd';
const MISSING = 'apt-get install dpdk-dev';
let instances = 0;

export interface TestpmdOptions {
  mainCore: number;
  /** Core that forwards. */
  core: number;
  vdevs: readonly string[];
  args?: readonly string[];
  directory: string;
}

/** A testpmd with its prompt. */
export class Testpmd implements AsyncDisposable {
  readonly #process: ChildProcess;
  readonly #exited: Promise<void>;
  #errors = '';
  output = '';

  constructor({ mainCore, core, vdevs, args = [], directory }: TestpmdOptions) {
    const lcores = `(0)@${mainCore},(1)@${core}`;
    const eal = ['--lcores', lcores, '--no-huge', '-m', '512', '--no-pci', '--no-telemetry'];
    const prefix = `xvio-bench-${process.pid}-${instances++}`;
    this.#process = spawn(
      'stdbuf',
      [
        '-o0',
        BINARY,
        ...eal,
        `--file-prefix=${prefix}`,
        ...vdevs.map((vdev) => `--vdev=${vdev}`),
        '--',
        '-i',
        '--nb-cores=1',
        '--total-num-mbufs=16384',
        ...args,
      ],
      { env: { ...process.env, RUNTIME_DIRECTORY: directory } },
    );
    // Apart, or errors that testpmd ignores may stand in the middle of its prompt.
    this.#process.stdout!.setEncoding('utf8').on('data', (text: string) => {
      this.output += text;
    });
    this.#process.stderr!.setEncoding('utf8').on('data', (text: string) => {
      this.#errors += text;
    });
    this.#exited = new Promise((resolve) => {
      this.#process.once('error', (error) => {
        this.#errors += error.message;
        resolve();
      });
      this.#process.once('exit', () => resolve());
    });
    this.#process.stdin!.on('error', () => {});
  }

  get pid(): number {
    return this.#process.pid!;
  }

  /** The thread that forwards. */
  threads(): SwitchThread[] {
    const directory = `/proc/${this.pid}/task`;
    return readdirSync(directory)
      .filter((tid) => /worker|lcore/.test(readFileSync(join(directory, tid, 'comm'), 'utf8')))
      .map((tid) => ({ pid: this.pid, tid: Number(tid) }));
  }

  async waitFor(pattern: RegExp, from = 0, timeoutMs = 20_000): Promise<string> {
    const end = Date.now() + timeoutMs;
    for (;;) {
      const text = this.output.slice(from);
      if (pattern.test(text)) return text;
      if (this.#ended || Date.now() > end) {
        const last = [text, this.#errors].map((said) =>
          said.trim().split('\n').slice(-3).join('; '),
        );
        const why = this.#ended ? 'it has ended' : `none for ${timeoutMs / 1000} s`;
        throw new Error(
          `testpmd: no ${pattern}, ${why}; its last words: ${last.join('; errors: ')}`,
        );
      }
      await sleep(20);
    }
  }

  get #ended(): boolean {
    return this.#process.exitCode !== null || this.#process.signalCode !== null;
  }

  /** Gives a command; resolves with what comes until `end`. */
  async command(line: string, end = /testpmd>/): Promise<string> {
    const from = this.output.length;
    this.#process.stdin!.write(`${line}\n`);
    return this.waitFor(end, from);
  }

  /** Packets received by all ports so far. */
  async received(): Promise<number> {
    const text = await this.command('show port stats all', /for port 1[\s\S]*Tx-bps/);
    return [...text.matchAll(/RX-packets: +(\d+)/g)].reduce((sum, m) => sum + Number(m[1]), 0);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#ended) this.#process.kill('SIGKILL');
    await this.#exited;
  }
}

/** DPDK's vhost library without a switch around it. */
export const testpmdVhost: Peer = {
  name: 'testpmd-vhost',
  wirings: ['relay'],
  missing: () => (existsSync(BINARY) ? undefined : MISSING),
  async start(setup: Setup): Promise<Testbed> {
    const directory = mkdtempSync(join(tmpdir(), 'xv-pmd-'));
    const sockets = Array.from({ length: setup.ports }, (_, i) => join(directory, `vm${i}`));
    const pmd = new Testpmd({
      mainCore: setup.generatorCore,
      core: setup.switchCore,
      vdevs: sockets.map((path, i) => `net_vhost${i},iface=${path},client=1`),
      args: ['--forward-mode=io', '--port-topology=paired'],
      directory,
    });
    return {
      name: 'testpmd-vhost',
      sockets,
      pids: [pmd.pid],
      async ready() {
        await pmd.waitFor(/testpmd>/);
        await sleep(1000); // net_vhost connects in a thread of its own
        await pmd.command('start', /io packet forwarding/);
        await sleep(200);
      },
      threads: () => pmd.threads(),
      async [Symbol.asyncDispose]() {
        await pmd[Symbol.asyncDispose]();
        rmSync(directory, { recursive: true, force: true });
      },
    };
  },
};
