// iperf3 between two network namespaces through the switch, whose ports are the other ends of veth pairs. Checksum and
// segmentation offload are on: what counts is whether big segments cross the switch whole.

import { execFileSync, spawn } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { Sandbox } from '../../test/interop/sandbox.ts';
import { createLinuxBridge, linuxBridgeMissing } from '../peers/linuxBridge.ts';
import { ovsUserspaceMissing, startOvsUserspace } from '../peers/ovsUserspace.ts';
import type { Measurement, Options, Scenario, Series } from '../types.ts';
import { guestSegments } from './guestSegments.ts';

interface Contender {
  name: string;
  missing(): string | undefined;
  start(): Promise<Sandbox>;
  bridge: 'ovs' | 'linux';
  /** It cannot take partial checksums and big segments: the namespaces do not offload. */
  plain?: boolean;
}

const CONTENDERS: readonly Contender[] = [
  { name: 'xvio', missing: () => undefined, start: () => Sandbox.start(), bridge: 'ovs' },
  {
    name: 'ovs-userspace-tso',
    missing: ovsUserspaceMissing,
    start: () => startOvsUserspace(true),
    bridge: 'ovs',
  },
  {
    name: 'ovs-userspace',
    missing: ovsUserspaceMissing,
    start: () => startOvsUserspace(false),
    bridge: 'ovs',
    plain: true,
  },
  {
    name: 'linux-bridge',
    missing: linuxBridgeMissing,
    start: () => Sandbox.start(),
    bridge: 'linux',
  },
];

interface Field extends AsyncDisposable {
  name: string;
  pid: number;
  iperf(seconds: number): Promise<number>;
}

async function prepare(contender: Contender): Promise<Field> {
  const box = await contender.start();
  try {
    const home = box.namespace!;
    const ends = ['a', 'b'].map((name) => box.addNamespace(name));
    const linux = contender.bridge === 'linux' ? createLinuxBridge('lbr', home) : undefined;
    if (!linux) box.vsctl('add-br', 'br0', '--', 'set', 'bridge', 'br0', 'datapath_type=netdev');
    for (const [i, end] of ends.entries()) {
      const ip = (...args: string[]) => execFileSync('ip', args);
      ip('-n', home, 'link', 'add', `p${i}`, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', end);
      ip('-n', home, 'link', 'set', `p${i}`, 'up');
      ip('-n', end, 'addr', 'add', `192.0.2.${i + 1}/24`, 'dev', 'eth0');
      ip('-n', end, 'link', 'set', 'eth0', 'up');
      if (contender.plain) ip('netns', 'exec', end, 'ethtool', '-K', 'eth0', 'tx', 'off');
      if (linux) linux.add(`p${i}`);
      else box.vsctl('add-port', 'br0', `p${i}`);
    }
    const run = (end: string, ...args: string[]) =>
      execFileSync('ip', ['netns', 'exec', end, ...args], {
        encoding: 'utf8',
        timeout: 10_000,
        stdio: ['ignore', 'pipe', 'ignore'],
      });
    await box.until(
      () => {
        try {
          run(ends[0]!, 'ping', '-c1', '-W1', '192.0.2.2');
          return true;
        } catch {
          return false;
        }
      },
      10_000,
      'ping',
    );
    return {
      name: contender.name,
      pid: box.daemonPid,
      async iperf(seconds) {
        const server = ['netns', 'exec', ends[1]!, 'iperf3', '-s', '-1', '-p', '5999'];
        const listening = spawn('ip', server, { stdio: 'ignore' });
        await sleep(300);
        const text = run(
          ends[0]!,
          'iperf3',
          '-c',
          '192.0.2.2',
          '-p',
          '5999',
          '-J',
          '-t',
          String(seconds),
        );
        listening.kill('SIGKILL');
        return JSON.parse(text).end.sum_received.bits_per_second as number;
      },
      async [Symbol.asyncDispose]() {
        linux?.[Symbol.dispose]();
        await box.stop();
      },
    };
  } catch (error) {
    await box.stop();
    throw error;
  }
}

async function run(options: Options): Promise<Measurement[]> {
  return [await betweenNamespaces(options), await guestSegments(options)];
}

async function betweenNamespaces(options: Options): Promise<Measurement> {
  const fields: Field[] = [];
  const notes: string[] = [];
  try {
    for (const contender of CONTENDERS) {
      if (options.peers && !options.peers.includes(contender.name)) continue;
      const missing = contender.missing();
      if (missing) {
        options.log(`${contender.name}: left out: ${missing}`);
        continue;
      }
      const field = await prepare(contender);
      fields.push(field);
      process.kill(field.pid, 'SIGSTOP');
    }
    const series = fields.map(({ name }): Series => ({ peer: name, rounds: [], details: {} }));
    for (let round = 0; round < options.rounds; round++) {
      for (let i = 0; i < fields.length; i++) {
        const at = (i + round) % fields.length;
        const { pid, iperf } = fields[at]!;
        process.kill(pid, 'SIGCONT');
        try {
          series[at]!.rounds.push(await iperf(1));
        } catch (error) {
          series[at]!.rounds.push(0);
          notes.push(`${series[at]!.peer}, round ${round + 1}: ${(error as Error).message}`);
        }
        process.kill(pid, 'SIGSTOP');
      }
    }
    const measurement = { scenario: 'tcp', variant: 'veth ports, 1 connection, no pinning' };
    const baseline = 'ovs-userspace-tso';
    return { ...measurement, unit: 'bit/s', higherIsBetter: true, baseline, series, notes };
  } finally {
    for (const field of fields) {
      process.kill(field.pid, 'SIGCONT');
      await field[Symbol.asyncDispose]();
    }
  }
}

export const tcp: Scenario = {
  name: 'tcp',
  title: 'iperf3 between network namespaces; TCP segments of 64 KiB from guest to guest',
  run,
};
