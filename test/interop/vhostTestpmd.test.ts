// dpdk-testpmd's virtio-user driver on both ends of the switch: every ring variant, several queues, both directions of
// the connection, 64 and 1500 bytes, and reconnection at any moment.
//
// testpmd forwards between its two devices, so that the first packets go round and round through the switch.
// Needs dpdk-testpmd (Debian: dpdk); no huge pages.

import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { dirname, join } from 'node:path';
import { describe, it } from 'node:test';
import type { Netdev } from '../../src/port/types.ts';
import { createTestSwitch, type TestSwitch, until } from './vhostHarness.ts';

interface PmdOptions {
  packed?: boolean;
  mergeable?: boolean;
  inOrder?: boolean;
  vectorized?: boolean;
  queues?: number;
  /** testpmd listens. */
  server?: boolean;
}

let instances = 0;

class Testpmd implements AsyncDisposable {
  readonly #process: ChildProcess;
  readonly #exited: Promise<void>;
  output = '';
  #errors = '';

  constructor(paths: readonly string[], options: PmdOptions) {
    const flag = (on: boolean | undefined) => (on ? 1 : 0);
    const queues = options.queues ?? 1;
    const devices = paths.map((path, i) =>
      [
        `--vdev=net_virtio_user${i},path=${path},queues=${queues},queue_size=256`,
        `mac=02:00:00:00:00:0${i + 1},packed_vq=${flag(options.packed)}`,
        `mrg_rxbuf=${flag(options.mergeable)},in_order=${flag(options.inOrder)}`,
        `vectorized=${flag(options.vectorized)}`,
        ...(options.server ? ['server=1'] : []),
        ...(queues > 1 ? ['cq=1'] : []),
      ].join(','),
    );
    const prefix = `xvio-${process.pid}-${instances++}`;
    const eal = ['-l', '0,1', '--no-huge', '-m', '256', '--no-pci', '--no-telemetry'];
    const pmd = ['-i', '--total-num-mbufs=8192', `--rxq=${queues}`, `--txq=${queues}`];
    // stdbuf: or its answers would come in blocks of 4 KiB.
    this.#process = spawn(
      'stdbuf',
      ['-o0', 'dpdk-testpmd', ...eal, `--file-prefix=${prefix}`, ...devices, '--', ...pmd],
      { env: { ...process.env, RUNTIME_DIRECTORY: dirname(paths[0]!) } },
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
        this.output += error.message;
        resolve();
      });
      this.#process.once('exit', () => resolve());
    });
    this.#process.stdin!.on('error', () => {});
  }

  get dead(): boolean {
    return this.#process.exitCode !== null || this.#process.signalCode !== null;
  }

  async ready(): Promise<void> {
    await until(
      () => this.output.includes('testpmd>') || this.dead,
      () => `testpmd: ${this.output}${this.#errors}`,
      15_000,
    );
    assert.ok(!this.dead, this.output + this.#errors);
  }

  /** Gives a command and returns what comes until `end` appears. */
  async command(line: string, end = 'testpmd>'): Promise<string> {
    const from = this.output.length;
    this.#process.stdin!.write(`${line}\n`);
    await until(
      () => this.output.slice(from).includes(end) || this.dead,
      () => `testpmd, ${line}: ${this.output.slice(from)}`,
    );
    return this.output.slice(from);
  }

  /** Packets by port and direction. */
  async stats(): Promise<{ rx: number; tx: number }[]> {
    const from = this.output.length;
    await this.command('show port stats all', 'for port 1');
    await until(() => /for port 1[\s\S]*Tx-bps/.test(this.output.slice(from)), 'statistics');
    const recent = this.output.slice(from);
    const numbers = (name: string) =>
      [...recent.matchAll(new RegExp(`${name}-packets: +(\\d+)`, 'g'))].map((m) => Number(m[1]));
    const [rx, tx] = [numbers('RX'), numbers('TX')];
    return [0, 1].map((i) => ({ rx: rx[i]!, tx: tx[i]! }));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.kill();
    await this.#exited;
  }

  kill(): void {
    if (!this.dead) this.#process.kill('SIGKILL');
  }
}

async function addPorts(sw: TestSwitch, server: boolean): Promise<[Netdev, Netdev, string[]]> {
  const add = (name: string) => (server ? sw.addClient(name) : sw.addServer(name));
  const [a, b] = [await add('a'), await add('b')];
  sw.forward(a, b);
  sw.forward(b, a);
  return [a, b, ['a', 'b'].map((name) => join(sw.directory, server ? `${name}.sock` : name))];
}

const linksUp = (...ports: Netdev[]) => ports.every((port) => port.status().linkUp);

/** Lets packets of a size go round for a while; asserts that none is lost and all are counted. */
async function goRound(sw: TestSwitch, pmd: Testpmd, a: Netdev, b: Netdev, bytes: number) {
  const before = [a.statistics(), b.statistics()];
  await pmd.command('clear port stats all');
  await pmd.command(`set txpkts ${bytes}`);
  await pmd.command('start tx_first 2', 'TX RS bit');
  await new Promise((resolve) => setTimeout(resolve, 400));
  await pmd.command('stop', 'Done.');
  const stats = await pmd.stats();
  const delta = (i: number, name: string) =>
    (i === 0 ? a : b).statistics()[name]! - before[i]![name]!;
  await until(
    () =>
      [0, 1].every((i) => delta(i, 'rx_packets') === stats[i]!.tx) &&
      delta(0, 'tx_packets') === delta(1, 'rx_packets') &&
      delta(1, 'tx_packets') === delta(0, 'rx_packets'),
    () => JSON.stringify([stats, before, a.statistics(), b.statistics()]),
  );
  for (const i of [0, 1]) {
    assert.ok(stats[i]!.rx > 200, `only ${stats[i]!.rx} packets of ${bytes} bytes`);
    assert.equal(delta(i, 'rx_bytes'), delta(i, 'rx_packets') * bytes);
  }
  assert.deepEqual([sw.drops(a), sw.drops(b)], [{}, {}]);
}

const VARIANTS: PmdOptions[] = [false, true].flatMap((packed) =>
  [false, true].flatMap((mergeable) =>
    [false, true].map((inOrder) => ({ packed, mergeable, inOrder })),
  ),
);
VARIANTS.push(
  { vectorized: true, inOrder: true },
  { packed: true, vectorized: true, inOrder: true },
  { queues: 2, mergeable: true },
  { queues: 2, packed: true, server: true },
  { server: true, mergeable: true, inOrder: true },
);

describe('testpmd virtio-user', () => {
  for (const options of VARIANTS) {
    it(`forwards without loss: ${JSON.stringify(options)}`, async () => {
      await using sw = createTestSwitch();
      const [a, b, paths] = await addPorts(sw, options.server ?? false);
      await using pmd = new Testpmd(paths, options);
      await pmd.ready();
      await until(
        () => linksUp(a, b),
        () => `links: ${sw.log.join('\n')}\n${pmd.output}`,
        10_000,
      );
      await goRound(sw, pmd, a, b, 64);
      await goRound(sw, pmd, a, b, 1500);
      assert.equal(a.status().status.num_of_vrings, String((options.queues ?? 1) * 2));
      assert.equal(a.status().error, undefined);
    });
  }

  it('may be killed and started again', async () => {
    await using sw = createTestSwitch();
    const [a, b, paths] = await addPorts(sw, false);
    for (let round = 0; round < 3; round++) {
      await using pmd = new Testpmd(paths, { mergeable: true, packed: round === 1 });
      await pmd.ready();
      await until(() => linksUp(a, b), 'links up', 10_000);
      await pmd.command('start tx_first 1', 'TX RS bit');
      await new Promise((resolve) => setTimeout(resolve, 100));
      pmd.kill();
      await until(() => !a.status().linkUp && !b.status().linkUp, 'links down');
    }
    assert.deepEqual([a.status().error, b.status().error], [undefined, undefined]);
  });

  it('finds a switch that goes away and comes back (server=1)', async () => {
    await using sw = createTestSwitch();
    let [a, b, paths] = await addPorts(sw, true);
    await using pmd = new Testpmd(paths, { server: true, mergeable: true });
    await pmd.ready();
    for (let round = 0; round < 2; round++) {
      await until(
        () => linksUp(a, b),
        () => `links up: ${sw.log.join('\n')}`,
        10_000,
      );
      await goRound(sw, pmd, a, b, 64);
      await a.close();
      await b.close();
      await new Promise((resolve) => setTimeout(resolve, 300));
      [a, b, paths] = await addPorts(sw, true);
    }
  });
});
