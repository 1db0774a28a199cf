// iperf3 between two network namespaces through the switch. Its ports are the other ends of veth pairs, or taps whose devices
// are in the namespaces. Checksum and segmentation offload are on: what counts is whether big segments cross the switch whole.
//
// A Linux bridge has no tap between namespaces: where taps are the ports, it takes part with veth pairs, which cost it less.

import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { missingPackages } from '../../scripts/packages.ts';
import { Sandbox } from '../../test/interop/sandbox.ts';
import { createLinuxBridge, linuxBridgeMissing } from '../peers/linuxBridge.ts';
import { ovsUserspaceMissing, startOvsUserspace } from '../peers/ovsUserspace.ts';
import { cpuNs, errorText, usablePeers } from '../rounds.ts';
import { medianDetails, type Sample, Score } from '../score.ts';
import type { Measurement, Options, Scenario, Series } from '../types.ts';
import { guestSegments } from './guestSegments.ts';

export type Cable = 'veth' | 'tap';

export interface Contender {
  name: string;
  missing(): string | undefined;
  start(): Promise<Sandbox>;
  /** None: one veth pair from end to end. */
  bridge: 'ovs' | 'linux' | 'none';
  /** It cannot take partial checksums and big segments: the namespaces do not offload. */
  plain?: boolean;
}

export const CONTENDERS: readonly Contender[] = [
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

export interface Result {
  bitsPerSecond: number;
  /** Of all threads of the daemon; a bridge of the kernel works at the expense of whoever sends. */
  daemonPercent?: number;
}

export interface Field extends AsyncDisposable {
  name: string;
  pid: number;
  serverPid: number;
  /** `under`: a command that runs the client. */
  iperf(seconds: number, under?: readonly string[]): Result;
}

const ADDRESS = (end: number): string => `192.0.2.${end + 1}`;
const PORT = '5999';
const ip = (...args: string[]) => execFileSync('ip', args, { stdio: ['ignore', 'pipe', 'pipe'] });

/** Port `p${i}` of the switch, and device eth0 in the namespace `end`. */
function connect(box: Sandbox, cable: Cable, i: number, end: string, linux: boolean): void {
  const home = box.namespace!;
  const port = `p${i}`;
  if (cable === 'tap' && !linux) {
    box.vsctl('add-port', 'br0', port, '--', 'set', 'interface', port, 'type=tap');
    ip('-n', home, 'link', 'set', port, 'netns', end);
    ip('-n', end, 'link', 'set', port, 'name', 'eth0');
    return;
  }
  ip('-n', home, 'link', 'add', port, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', end);
  ip('-n', home, 'link', 'set', port, 'up');
  if (!linux) box.vsctl('add-port', 'br0', port);
}

export async function prepare(contender: Contender, cable: Cable): Promise<Field> {
  const box = await contender.start();
  let server: ChildProcess | undefined;
  try {
    const home = box.namespace!;
    const ends = ['a', 'b'].map((name) => box.addNamespace(name));
    const linux = contender.bridge === 'linux' ? createLinuxBridge('lbr', home) : undefined;
    const bare = contender.bridge === 'none';
    if (bare) {
      const peer = ['peer', 'name', 'eth0', 'netns', ends[1]!];
      ip('-n', ends[0]!, 'link', 'add', 'eth0', 'type', 'veth', ...peer);
    } else if (!linux)
      box.vsctl('add-br', 'br0', '--', 'set', 'bridge', 'br0', 'datapath_type=netdev');
    for (const [i, end] of ends.entries()) {
      if (!bare) connect(box, cable, i, end, linux !== undefined);
      linux?.add(`p${i}`);
      ip('-n', end, 'addr', 'add', `${ADDRESS(i)}/24`, 'dev', 'eth0');
      ip('-n', end, 'link', 'set', 'eth0', 'up');
      if (contender.plain) ip('netns', 'exec', end, 'ethtool', '-K', 'eth0', 'tx', 'off');
    }
    const run = (end: string, ...args: string[]) =>
      execFileSync('ip', ['netns', 'exec', end, ...args], {
        encoding: 'utf8',
        timeout: 15_000,
        stdio: ['ignore', 'pipe', 'ignore'],
      });
    const works = (...args: string[]) => {
      try {
        return run(...(args as [string])) !== '';
      } catch {
        return false;
      }
    };
    await box.until(
      () => works(ends[0]!, 'ping', '-c1', '-W1', ADDRESS(1)),
      20_000,
      'answer to a ping',
    );
    const iperfServer = ['netns', 'exec', ends[1]!, 'iperf3', '-s', '-p', PORT];
    server = spawn('ip', iperfServer, { stdio: 'ignore' });
    const listens = () => run(ends[1]!, 'ss', '-Hltn', `sport = :${PORT}`) !== '';
    await box.until(listens, 10_000, 'iperf3 server');
    const pid = box.daemonPid;
    return {
      name: contender.name,
      pid,
      serverPid: server.pid!,
      iperf(seconds, under = []) {
        const threads = readdirSync(`/proc/${pid}/task`).map((tid) => ({ pid, tid: Number(tid) }));
        const [before, from] = [cpuNs(threads), performance.now()];
        const client = ['iperf3', '-c', ADDRESS(1), '-p', PORT, '-J', '-t', String(seconds)];
        const report = JSON.parse(run(ends[0]!, ...under, ...client));
        const percent = (cpuNs(threads) - before) / (performance.now() - from) / 1e4;
        return {
          bitsPerSecond: report.end.sum_received.bits_per_second as number,
          ...(contender.bridge === 'ovs' ? { daemonPercent: percent } : {}),
        };
      },
      async [Symbol.asyncDispose]() {
        server?.kill('SIGKILL');
        linux?.[Symbol.dispose]();
        await box.stop();
      },
    };
  } catch (error) {
    server?.kill('SIGKILL');
    await box.stop();
    throw error;
  }
}

const sampleOf = ({ bitsPerSecond, daemonPercent }: Result): Sample => ({
  value: bitsPerSecond,
  details: daemonPercent === undefined ? {} : { daemonPercent },
});

async function betweenNamespaces(cable: Cable, options: Options): Promise<Measurement> {
  const fields: Field[] = [];
  const notes =
    cable === 'tap' ? ['linux-bridge has veth pairs, which cost it less than taps would'] : [];
  const failures: string[] = [];
  try {
    const missing = missingPackages(['iproute2', 'iputils-ping', 'ethtool', 'iperf3']);
    if (missing.length > 0) failures.push(`not installed: apt-get install ${missing.join(' ')}`);
    const contenders = missing.length === 0 ? usablePeers(CONTENDERS, options, notes) : [];
    for (const contender of contenders) {
      try {
        const field = await prepare(contender, cable);
        fields.push(field);
        process.kill(field.pid, 'SIGSTOP');
      } catch (error) {
        failures.push(`${contender.name} did not take part: ${errorText(error)}`);
      }
    }
    const names = fields.map(({ name }) => name);
    const score = new Score(names, options, notes);
    const out = new Set<Field>();
    for (let round = 0; out.size < fields.length && score.goesOn(round); round++) {
      for (let i = 0; i < fields.length; i++) {
        const at = (i + round) % fields.length;
        const field = fields[at]!;
        if (out.has(field)) continue;
        try {
          await score.play(at, options.placement, async () => {
            process.kill(field.pid, 'SIGCONT');
            try {
              return sampleOf(await field.iperf(1));
            } finally {
              process.kill(field.pid, 'SIGSTOP');
            }
          });
        } catch (error) {
          failures.push(`${field.name}, out from round ${round + 1} on: ${errorText(error)}`);
          out.add(field);
        }
      }
    }
    const series = names.map((peer, at): Series => {
      const samples = score.of(at);
      const rounds = samples.map(({ value }) => value);
      return { peer, rounds, details: medianDetails(samples), far: score.farOf(at) };
    });
    notes.push(...score.tallies());
    return {
      scenario: 'tcp',
      variant: `${cable} ports, 1 connection, no pinning`,
      unit: 'bit/s',
      higherIsBetter: true,
      baseline: 'ovs-userspace-tso',
      series: series.filter(({ rounds }) => rounds.length > 0),
      notes,
      failures,
    };
  } finally {
    for (const field of fields) {
      process.kill(field.pid, 'SIGCONT');
      await field[Symbol.asyncDispose]();
    }
  }
}

export const tcp: Scenario = {
  name: 'tcp',
  title: 'iperf3 between namespaces, veth and tap ports; 64 KiB segments from guest to guest',
  async run(options) {
    return [
      await betweenNamespaces('veth', options),
      await betweenNamespaces('tap', options),
      await guestSegments(options),
    ];
  },
};
