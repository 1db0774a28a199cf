// The arena of the fuzzer: the daemon with two bridges, innocent guests on one, two fuzzing guests on the other, of which one
// connects and the other is connected to, and a guest of no interest to whom their frames go and who sends frames to them.
// Judges the daemon at the end.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { FuzzReport } from '../../src/guest/fuzz/main.ts';
import { Guest } from '../../src/guest/guest.ts';
import { GuestThread } from '../../src/guest/thread.ts';
import { othersSince, spent } from './blocked.ts';
import { Innocents } from './innocents.ts';
import { ROOT, Sandbox } from './sandbox.ts';

export interface FuzzOptions {
  seed: number;
  seconds: number;
  onReport?: (report: FuzzReport) => void;
}

/** Sums over both fuzzing guests. */
export interface FuzzResult extends FuzzReport {
  /** The share of the one that the daemon connects to. */
  server: FuzzReport;
  innocentFrames: number;
  slowestMs: number;
  /** Bursts of the innocents, and those that took longer than SLOW_MS. */
  bursts: number;
  slowBursts: number;
  /** Share of the processors that other processes of the machine had meanwhile. */
  others: number;
  /** Drops of the port of the fuzzing guest that connects, by name. */
  drops: Record<string, number>;
  rssMiB: { before: number; after: number };
  fds: { before: number; after: number };
}

export function rssMiB(pid: number): number {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  // Without the pages of guests' memory files, which are theirs.
  return Number(/^RssAnon:\s+(\d+)/m.exec(status)![1]) / 1024;
}

export function fdCount(pid: number): number {
  return readdirSync(`/proc/${pid}/fd`).length;
}

/** Lines that a daemon in good health does not write, whatever its guests do. */
export function troubles(log: string): string[] {
  return log
    .split('\n')
    .filter((line) =>
      /trapped|worker \d+ (died|restarted)|\|EMER\||taking the guest away/.test(line),
    );
}

export function statistics(box: Sandbox, port: string): Record<string, number> {
  const text = box.vsctl('get', 'Interface', port, 'statistics').trim();
  return Object.fromEntries(
    [...text.matchAll(/"?([\w-]+)"?=(\d+)/g)].map(([, name, value]) => [name!, Number(value)]),
  );
}

/** Bridges and ports of the arena, in a running sandbox. */
export function buildArena(box: Sandbox): void {
  const port = (bridge: string, name: string): string[] => [
    '--',
    'add-port',
    bridge,
    name,
    '--',
    'set',
    'Interface',
    name,
    'type=dpdkvhostuser',
  ];
  box.vsctl(
    ...['add-br', 'br0', '--', 'set', 'Bridge', 'br0', 'datapath_type=netdev'],
    ...['--', 'add-br', 'br1', '--', 'set', 'Bridge', 'br1', 'datapath_type=netdev'],
    ...[...port('br0', 'a'), ...port('br0', 'b'), ...port('br1', 'x'), ...port('br1', 'sink')],
  );
  box.ofctl('del-flows', 'br0');
  box.ofctl('add-flow', 'br0', 'in_port=a,actions=output:b');
  box.ofctl('add-flow', 'br0', 'in_port=b,actions=output:a');
}

/** Starts the fuzzing guest; resolves with its last report when it ends, rejects if it found something. */
export function runFuzzer(
  socket: string,
  options: FuzzOptions & { secret: Uint8Array; role?: 'client' | 'server' },
): Promise<FuzzReport> {
  const { seed, seconds, secret, onReport, role = 'client' } = options;
  const hex = Buffer.from(secret).toString('hex');
  const words = [socket, String(seed), String(seconds), hex, role];
  const child = spawn(
    process.execPath,
    ['--disable-warning=ExperimentalWarning', join(ROOT, 'src/guest/fuzz/main.ts'), ...words],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  );
  let last: FuzzReport | undefined;
  let errors = '';
  child.stderr.on('data', (data) => {
    errors += data;
  });
  createInterface({ input: child.stdout }).on('line', (line) => {
    last = JSON.parse(line) as FuzzReport;
    onReport?.(last);
  });
  return new Promise((resolve, reject) => {
    child.once('close', (status, signal) => {
      if (status === 0 && last !== undefined) resolve(last);
      else reject(new Error(`fuzzer: ${signal ?? `status ${status}`}, seed ${seed}\n${errors}`));
    });
  });
}

/** Both fuzzing guests at once. */
async function runBoth(
  box: Sandbox,
  options: FuzzOptions & { secret: Uint8Array },
): Promise<FuzzReport & { server: FuzzReport }> {
  const serverSeed = (options.seed ^ 0x5e12) >>> 0;
  const [total, server] = await Promise.all([
    runFuzzer(box.path('x'), options),
    runFuzzer(box.path('y'), { ...options, seed: serverSeed, role: 'server' }),
  ]);
  const sum = { ...total, server };
  for (const name of Object.keys(total) as (keyof FuzzReport)[]) {
    if (name !== 'seed') sum[name] += server[name];
  }
  return sum;
}

/** A whole run. Rejects with what went wrong; the seed is in the message. */
export async function fuzz(options: FuzzOptions): Promise<FuzzResult> {
  await using box = await Sandbox.start();
  buildArena(box);
  box.vsctl(
    ...['add-port', 'br1', 'y', '--', 'set', 'Interface', 'y', 'type=dpdkvhostuserclient'],
    `options:vhost-server-path=${box.path('y')}`,
  );
  const pid = box.daemonPid;
  const innocents = new Innocents(box.path('a'), box.path('b'));
  const sink = new Guest({ path: box.path('sink'), mode: 'client', memoryBytes: 8 << 20 });
  let thread: GuestThread | undefined;
  try {
    await innocents.start();
    sink.open();
    await sink.connected();
    thread = new GuestThread(sink);
    // To everybody: to the attacker, above all.
    thread.setTraffic(0, {
      send: true,
      sourceMac: '02:00:00:00:fa:02',
      destinationMac: 'ff:ff:ff:ff:ff:ff',
      sourceIp: '10.9.0.2',
      destinationIp: '10.9.0.1',
      frameBytes: 400,
      perMs: 1,
    });
    // Caches and pools have their size after some sessions.
    const { secret } = innocents;
    await runBoth(box, { ...options, seed: ~options.seed >>> 0, seconds: 4, secret });
    const before = { rss: rssMiB(pid), fds: fdCount(pid) };
    const begin = spent();
    const finished = runBoth(box, { ...options, secret });
    await Promise.race([finished, innocents.failed]);
    const report = await finished;
    const others = othersSince(begin);
    const drops = Object.fromEntries(
      Object.entries(statistics(box, 'x')).filter(
        ([name, n]) => /_dropped|_errors|^[rt]x_/.test(name) && n > 0,
      ),
    );
    await box.until(() => fdCount(pid) <= before.fds + 2, 10_000, 'return of all descriptors');
    const after = { rss: rssMiB(pid), fds: fdCount(pid) };
    assert.equal(box.daemonPid, pid);
    assert.deepEqual(troubles(readFileSync(box.logFile, 'utf8')), [], `seed ${options.seed}`);
    for (const name of ['a', 'b']) {
      const { rx_dropped, tx_dropped, rx_errors, tx_errors } = statistics(box, name);
      const lost = [rx_dropped ?? 0, tx_dropped ?? 0, rx_errors ?? 0, tx_errors ?? 0];
      assert.deepEqual(lost, [0, 0, 0, 0], `drops of innocent ${name}, seed ${options.seed}`);
    }
    await innocents.stop();
    return {
      ...report,
      innocentFrames: innocents.frames,
      slowestMs: Math.round(innocents.slowestMs),
      bursts: innocents.bursts,
      slowBursts: innocents.slowBursts,
      others,
      drops,
      rssMiB: { before: Math.round(before.rss), after: Math.round(after.rss) },
      fds: { before: before.fds, after: after.fds },
    };
  } catch (error) {
    throw new Error(`${(error as Error).message}\n${box.logTail(40)}`, { cause: error });
  } finally {
    await innocents.stop().catch(() => {});
    await thread?.close();
    sink.close();
  }
}
