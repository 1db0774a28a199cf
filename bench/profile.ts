// Samples of a thread by Linux perf, sorted by the stages of the data plane (ARCHITECTURE.md, "The path of a packet").
//
// perf finds the names of compiled functions in /tmp/perf-PID.map, which V8 writes. Small functions that a compiler has put into
// their callers count for these: a table of stages is a map, not a ledger.

import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, rmSync } from 'node:fs';
import path from 'node:path';
import type { Readable, Writable } from 'node:stream';

const HZ = 2000;
/** Room for all samples of a profile: while switch and generator run in real time, perf may get no core to write. */
const BUFFER = '4M';
const START_TIMEOUT_MS = 20_000;

/** Stage → what its functions are called; the first that matches. */
const STAGES: readonly (readonly [string, RegExp])[] = [
  ['connection tracking', /dataplane\/ct\//],
  ['tunnels', /dataplane\/(tunnel\/|nested)/],
  ['parse, hash', /dataplane\/(parse|parseIp|key|hash|mpls)\//],
  ['look-up', /dataplane\/(lookup|plain|simple|table)\//],
  ['actions, batches', /dataplane\/(act|batch|direct|rewrite|set|meter|drop|burst)\//],
  ['copies', /dataplane\/port\/copy\/|memmove|memcpy/],
  ['receive', /dataplane\/port\/(receive|chain|window)\/|dataplane\/port\/\w+\/\w*(receive|rx)/i],
  ['transmit', /dataplane\/port\//],
  ['host loop', /./],
];

export const STAGE_NAMES: readonly string[] = [...STAGES.map(([name]) => name), 'kernel'];

/** The stage of a symbol as perf names it. */
export function stageOf(symbol: string, kernel: boolean): string {
  if (kernel) return 'kernel';
  return STAGES.find(([, pattern]) => pattern.test(symbol))![0];
}

/** What keeps perf from profiling here, and what to do. */
export function perfMissing(): string | undefined {
  if (!existsSync('/usr/bin/perf')) return 'perf: apt-get install linux-perf';
  const args = ['stat', '-e', 'cpu-clock', '--', 'true'];
  const { status } = spawnSync('perf', args, { stdio: 'ignore' });
  if (status === 0) return undefined;
  return 'perf may not count here: sysctl kernel.perf_event_paranoid=1 on the host';
}

/** A line for `perf record --control`; resolves with its acknowledgement. */
async function tell(perf: ChildProcess, line: string): Promise<void> {
  const [control, acks] = perf.stdio.slice(3) as [Writable, Readable];
  const told = once(acks, 'data', { signal: AbortSignal.timeout(START_TIMEOUT_MS) });
  control.write(`${line}\n`);
  await told;
}

/** V8 writes the names of a process once, as it compiles: they go when it has been profiled for the last time. */
export const removeNames = (pid: number): void => rmSync(`/tmp/perf-${pid}.map`, { force: true });

/** Shares of the samples that a thread gives while `work` runs, by stage; they add up to one. */
export async function profile(
  thread: { pid: number; tid: number },
  directory: string,
  work: () => Promise<void>,
): Promise<Map<string, number>> {
  const file = path.join(directory, 'perf.data');
  const record = ['record', '-q', '-e', 'cpu-clock', '-F', String(HZ), '-m', BUFFER];
  // It waits with its counters set up until it is told to begin, for it may get no core while the switch works.
  const control = ['-D', '-1', '--control=fd:3,4'];
  const perf = spawn('perf', [...record, ...control, '-t', String(thread.tid), '-o', file], {
    stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'],
  });
  for (const pipe of perf.stdio.slice(3)) pipe?.on('error', () => {});
  const ended = new Promise<void>((resolve) => perf.once('exit', () => resolve()));
  try {
    await tell(perf, 'enable');
    await work();
  } finally {
    perf.kill('SIGINT');
    await ended;
  }
  const script = spawnSync('perf', ['script', '-i', file, '-F', 'ip,sym'], {
    encoding: 'utf8',
    maxBuffer: 256 << 20,
  });
  rmSync(file, { force: true });
  return shares(script.stdout);
}

/** From lines "address symbol". */
export function shares(text: string): Map<string, number> {
  const counts = new Map<string, number>();
  let total = 0;
  let nameless = 0;
  for (const line of text.split('\n')) {
    const [, address, symbol] = /^\s*([0-9a-f]+)\s+(.*)$/.exec(line) ?? [];
    if (address === undefined) continue;
    // The upper half of the address space is the kernel's.
    const stage = stageOf(symbol!, address.length === 16 && address.startsWith('ffff'));
    counts.set(stage, (counts.get(stage) ?? 0) + 1);
    total++;
    if (symbol === '[unknown]') nameless++;
  }
  if (total === 0) throw new Error('perf has no samples of the thread');
  if (2 * nameless > total) throw new Error('perf has no names for most of the samples');
  return new Map([...counts].map(([stage, n]) => [stage, n / total]));
}
