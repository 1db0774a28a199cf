// QEMU migrates a guest from one switch to another and back, under iperf3: a TCP connection that has to survive, and UDP
// streams in both directions, counted at both ends. Also to Open vSwitch with DPDK and back, and to a host that has only a
// bridge of the kernel with a tap device.
//
//   peer ── switch A ══ cable ══ switch B        guest: QEMU at A, then at B, then at A …
//
// XVIO_ROUNDS: migrations for each case (default: there and back ten times for the first, once for the others; an even
// number ends at home). Under software emulation on shared processors: for function and for the order of magnitude; the
// blackout is printed beside QEMU's own downtime.

import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { incoming, type MigrationResult, migrate, migrateAndCancel, qmp } from '../guest/qmp.ts';
import { Vm, type VmOptions } from '../guest/vm.ts';
import { BridgeHost } from './bridgeHost.ts';
import { linkSandboxes, Sandbox } from './sandbox.ts';

const GUEST_MAC = '52:54:00:00:00:0a';
const GUEST_IP = '10.9.0.1';
const DPDK = '/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk';
/** Datagrams of each UDP stream: 1 Mbit/s in pieces of 250 bytes. An emulated guest has not much more to spare. */
const UDP_BYTES = 250;
const UDP_RATE = 1_000_000;
const UDP_PER_MS = UDP_RATE / 8 / UDP_BYTES / 1000;

interface Iperf {
  start?: { timestamp?: object };
  end?: {
    sum?: { packets: number; lost_packets: number };
    sum_sent?: { packets: number; bytes: number };
    sum_received?: { packets: number; lost_packets: number; bytes: number };
    streams?: { udp?: { out_of_order: number; lost_packets: number; packets: number } }[];
  };
  error?: string;
}

/** iperf3 in the namespace of the peer, ended by the signal; resolves with its report. */
function iperf(namespace: string, signal: AbortSignal, ...args: string[]): Promise<Iperf> {
  const child: ChildProcess = spawn(
    'ip',
    ['netns', 'exec', namespace, 'iperf3', '-c', GUEST_IP, '-J', ...args],
    { stdio: ['ignore', 'pipe', 'inherit'], signal, killSignal: 'SIGKILL' },
  );
  let text = '';
  child.stdout!.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk;
  });
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    // Not at its exit: the report comes all at its end, and may be on its way still.
    child.once('close', () => {
      try {
        resolve(JSON.parse(text) as Iperf);
      } catch {
        reject(new Error(`iperf3: ${text}`));
      }
    });
  });
}

/** Datagrams of the guest on the wire of the peer: how many came twice, and the longest time without any. */
class Capture {
  readonly #file: string;
  readonly #child: ChildProcess;

  constructor(file: string, namespace: string, port: number) {
    this.#file = file;
    const filter = `udp and src host ${GUEST_IP} and src port ${port}`;
    const words = ['tcpdump', '-i', 'eth0', '-U', '-s', '80', '-B', '16384', '-w', file, filter];
    this.#child = spawn('ip', ['netns', 'exec', namespace, ...words], { stdio: 'ignore' });
  }

  async stop(): Promise<{ packets: number; twice: number; longestGapMs: number }> {
    const gone = new Promise((resolve) => this.#child.once('exit', resolve));
    this.#child.kill('SIGINT');
    await gone;
    const file = readFileSync(this.#file);
    const seen = new Set<string>();
    let [packets, twice, longestGapMs, lastMs] = [0, 0, 0, 0];
    // pcap: a header of 24 bytes, records with seconds, microseconds, bytes kept; iperf3's time and number at 42.
    for (let at = 24; at + 16 <= file.length; ) {
      const ms = file.readUInt32LE(at) * 1000 + file.readUInt32LE(at + 4) / 1000;
      const kept = file.readUInt32LE(at + 8);
      const key = file.toString('hex', at + 16 + 42, at + 16 + 54);
      at += 16 + kept;
      if (kept < 54) continue;
      if (seen.has(key)) twice++;
      seen.add(key);
      if (lastMs > 0) longestGapMs = Math.max(longestGapMs, ms - lastMs);
      lastMs = ms;
      packets++;
    }
    return { packets, twice, longestGapMs };
  }
}

/** One place where the guest can be. */
interface Place {
  name: string;
  /** Path of a file for this place. */
  path: (name: string) => string;
  /** QEMU's end of the cable at this place, before QEMU starts. */
  network: () => Pick<VmOptions, 'socket' | 'tap' | 'dir'>;
  linkUp: () => boolean;
}

function switchPlace(name: string, box: Sandbox): Place {
  return {
    name,
    path: (file) => box.path(file),
    network: () => ({ dir: box.dir, socket: box.path('vm.sock') }),
    linkUp: () => box.vsctl('get', 'interface', 'vm', 'link_state').trim() === 'up',
  };
}

function bridgePlace(name: string, host: BridgeHost): Place {
  const tap = { name: 'vm', namespace: host.namespace };
  return {
    name,
    path: (file) => host.path(file),
    network: () => {
      host.addTap(tap.name);
      return { dir: host.dir, socket: '', tap };
    },
    linkUp: () => host.linkUp(tap.name),
  };
}

/** Open vSwitch with DPDK as its tools know it, without huge pages. */
async function dpdkSandbox(): Promise<Sandbox> {
  const directory = mkdtempSync(join(tmpdir(), 'xvio-dpdk-'));
  mkdirSync(directory, { recursive: true });
  // pidfile and control socket are named after the program
  const binary = join(directory, 'ovs-vswitchd');
  symlinkSync(DPDK, binary);
  const extra = `"--no-huge --legacy-mem -m 512 --no-pci --no-telemetry --file-prefix=m${process.pid}"`;
  try {
    return await Sandbox.start({
      binary,
      configure: (box) =>
        box.must(
          ...(['ovs-vsctl', '--no-wait', 'set', 'Open_vSwitch', '.'] as const),
          'other_config:dpdk-init=true',
          `other_config:dpdk-extra=${extra}`,
        ),
    });
  } finally {
    setTimeout(() => rmSync(directory, { recursive: true, force: true }), 60_000).unref();
  }
}

interface Case {
  device?: string;
  queues?: number;
  /** The other place is Open vSwitch with DPDK, or a bridge of the kernel. */
  away?: 'dpdk' | 'bridge';
  /** Options of the port at xvio. */
  options?: readonly string[];
  /** Features that xvio must not offer then. */
  lacks?: bigint;
  cancel?: boolean;
  /** Migrations, one there and one back. */
  rounds?: number;
}

/** With streams that are short on a quiet machine; when a busy one needs longer, once more with long ones. */
async function run(c: Case, report: (text: string) => void): Promise<void> {
  const brief = c.away === 'dpdk' ? 6 : 3;
  if (await attempt(c, brief, report)) return;
  report('the streams ended before the migrations: again, with longer ones');
  assert.ok(await attempt(c, 5 * brief, report), 'the streams ended before the migrations again');
}

/** False if the streams, this many seconds for each migration, ended before the migrations. */
async function attempt(
  c: Case,
  secondsEach: number,
  report: (text: string) => void,
): Promise<boolean> {
  const rounds = Number(process.env.XVIO_ROUNDS ?? c.rounds ?? 2);
  await using home = await Sandbox.start();
  await using away =
    c.away === 'bridge'
      ? new BridgeHost()
      : await (c.away === 'dpdk' ? dpdkSandbox() : Sandbox.start());
  const peer = home.addNamespace('p');
  linkSandboxes(home, away, 'cable');
  execFileSync('ip', [
    'link',
    'add',
    'eth0',
    'netns',
    peer,
    'type',
    'veth',
    'peer',
    'name',
    'peer',
    'netns',
    home.namespace!,
  ]);
  execFileSync('ip', ['-n', home.namespace!, 'link', 'set', 'peer', 'up']);
  execFileSync('ip', ['-n', peer, 'addr', 'add', '10.9.0.9/24', 'dev', 'eth0']);
  execFileSync('ip', ['-n', peer, 'link', 'set', 'eth0', 'up']);
  execFileSync('ip', ['netns', 'exec', peer, 'ethtool', '-K', 'eth0', 'tx', 'off'], {
    stdio: 'ignore',
  });
  for (const box of [home, away]) {
    if (box instanceof BridgeHost) {
      box.addPort('cable');
      continue;
    }
    box.vsctl('add-br', 'br0', '--', 'set', 'bridge', 'br0', 'datapath_type=netdev');
    box.vsctl('add-port', 'br0', 'cable');
    const xvio = box === home || c.away === undefined;
    box.vsctl(
      ...['add-port', 'br0', 'vm', '--', 'set', 'interface', 'vm', 'type=dpdkvhostuserclient'],
      `options:vhost-server-path=${box.path('vm.sock')}`,
      // As orchestrators do: xvio announces the guest by this address when it arrives.
      `external_ids:attached-mac="${GUEST_MAC}"`,
      ...(xvio ? (c.options ?? []) : []),
    );
  }
  home.vsctl('add-port', 'br0', 'peer');

  const places: Place[] = [
    switchPlace('home', home),
    away instanceof BridgeHost ? bridgePlace('away', away) : switchPlace('away', away),
  ];
  let sequence = 0;
  const boot = async ({ path, network, name }: Place, uri?: string) => {
    const id = `${name}${++sequence}`;
    const monitor = path(`${id}.qmp`);
    const vm = await Vm.start({
      name: id,
      ...network(),
      mac: GUEST_MAC,
      ip: `${GUEST_IP}/24`,
      memoryMiB: 128,
      cpus: c.queues ?? 1,
      queues: c.queues ?? 1,
      ...(c.device ? { device: c.device } : {}),
      extra: [
        ...['-qmp', `unix:${monitor},server=on,wait=off`],
        ...(uri ? ['-incoming', uri] : []),
      ],
    });
    return { vm, monitor };
  };

  const ended = new AbortController();
  const others: Vm[] = [];
  let here = await boot(places[0]!);
  try {
    await here.vm.ready();
    await home.until(places[0]!.linkUp, 30_000, 'link');
    if (c.queues) await here.vm.must(`ethtool -L eth0 combined ${c.queues}`);
    await here.vm.must('ping -c 2 -W 5 10.9.0.9');
    if (c.cancel) {
      await migrateAndCancel(here.monitor, 'exec:cat > /dev/null');
      await here.vm.must('ping -c 2 -W 5 10.9.0.9');
      report('cancelled once');
    }
    for (const port of [5201, 5202, 5203]) {
      await here.vm.must(`iperf3 -s -1 -D -p ${port} > /dev/null 2>&1`);
    }
    await sleep(500);
    const seconds = 6 + rounds * secondsEach;
    const endMs = performance.now() + seconds * 1000;
    const time = ['-t', `${seconds}`, '--connect-timeout', '10000'];
    const udp = ['-u', '-b', `${UDP_RATE}`, '-l', `${UDP_BYTES}`];
    const capture = new Capture(home.path('udp.pcap'), peer, 5203);
    const reports = Promise.all([
      iperf(peer, ended.signal, '-p', '5201', ...time, '-b', '5M'),
      iperf(peer, ended.signal, '-p', '5202', ...time, ...udp),
      iperf(peer, ended.signal, '-p', '5203', ...time, ...udp, '-R'),
    ]);
    reports.catch(() => {}); // they are asked below, if it comes to that
    await sleep(1500);
    const results: MigrationResult[] = [];
    for (let round = 1; round <= rounds; round++) {
      const to = places[round % 2]!;
      const uri = `unix:${to.path('incoming')}`;
      rmSync(to.path('incoming'), { force: true });
      const there = await boot(to, uri);
      others.push(there.vm);
      await incoming(there.monitor);
      results.push(await migrate(here.monitor, uri));
      await home.until(to.linkUp, 20_000, 'link at the destination');
      assert.ok(here.vm.running, 'the source died');
      await qmp(here.monitor, { execute: 'quit' }).catch(() => {});
      await here.vm.stop();
      here = there;
      await sleep(500);
    }
    const leftMs = endMs - performance.now();
    if (leftMs < 0) return false;
    report(`all done ${(leftMs / 1000).toFixed(0)} s before the end of the streams`);
    const [tcp, to, from] = await reports;
    for (const one of [tcp, to, from]) assert.equal(one.error, undefined);
    assert.ok(tcp.end!.sum_received!.bytes > 1e6, 'TCP went on');
    const downtimes = results.map(({ downtimeMs }) => downtimeMs);
    report(
      `QEMU: downtime ${downtimes.join(', ')} ms; total ${results.map((r) => r.totalMs).join(', ')} ms`,
    );
    for (const [name, stream] of [
      ['to the guest', to],
      ['from the guest', from],
    ] as const) {
      const { packets, lost_packets: lost } = stream.end!.sum!;
      const outOfOrder = stream.end!.streams![0]!.udp!.out_of_order;
      const blackoutMs = lost / UDP_PER_MS / rounds;
      report(
        `${name}: ${packets} datagrams, ${lost} lost = ${blackoutMs.toFixed(0)} ms for each migration, ` +
          `${outOfOrder} out of order or twice`,
      );
      if (stream === to) assert.equal(outOfOrder, 0);
      // Two emulated guests and the switches share two processors; a polling thread of DPDK takes one of them.
      assert.ok(blackoutMs < (c.away === 'dpdk' ? 5000 : 1500), `${lost} of ${packets} lost`);
    }
    const { packets, twice, longestGapMs } = await capture.stop();
    report(
      `on the wire: ${packets} datagrams of the guest, longest gap ${longestGapMs.toFixed(0)} ms`,
    );
    assert.ok(packets > 1000, `${packets} captured`);
    assert.equal(twice, 0, 'datagrams that came twice');
    await here.vm.must('ping -c 2 -W 5 10.9.0.9');
    const last = [home, away][rounds % 2]!;
    if (last instanceof Sandbox) {
      const state = last.vsctl('get', 'interface', 'vm', 'status', 'error');
      report(state.trim().replaceAll('\n', ' '));
    }
    if (c.lacks !== undefined) {
      const offered = home.vsctl('get', 'interface', 'vm', 'status:features_offered');
      assert.equal(BigInt(JSON.parse(offered) as string) & c.lacks, 0n, 'what is not offered');
    }
    // Where frames to the guest go at home: to its port there, or into the cable.
    const port = home.vsctl('get', 'interface', rounds % 2 === 0 ? 'vm' : 'cable', 'ofport').trim();
    assert.match(home.appctl('fdb/show', 'br0'), new RegExp(`^ *${port} +0 +${GUEST_MAC}`, 'm'));
    return true;
  } finally {
    ended.abort();
    for (const vm of [here.vm, ...others]) await vm.stop();
  }
}

describe('a guest migrates from one switch to another and back', () => {
  it('split rings, ten times; a migration that was cancelled before', (t) =>
    run({ cancel: true, rounds: 20 }, (text) => t.diagnostic(text)));
  it('packed rings, two queue pairs', (t) =>
    run({ device: 'packed=on', queues: 2, rounds: 4 }, (text) => t.diagnostic(text)));
  it('to Open vSwitch with DPDK and back', (t) => {
    assert.ok(existsSync(DPDK), 'apt-get install openvswitch-switch-dpdk');
    return run({ away: 'dpdk', options: ['options:xvio-features=ovs-dpdk'] }, (text) =>
      t.diagnostic(text),
    );
  });
  it('to a bridge of the kernel with a tap device, and back', (t) =>
    run(
      {
        away: 'bridge',
        options: ['options:xvio-features=vhost-net'],
        // UFO both ways, packed rings, in order
        lacks: (1n << 10n) | (1n << 14n) | (1n << 34n) | (1n << 35n),
      },
      (text) => t.diagnostic(text),
    ));
});
