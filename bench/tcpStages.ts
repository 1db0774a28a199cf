// What a segment of a TCP connection between two namespaces costs, and whom: CPU time by process and stage (Linux perf, all cores,
// chains of calls) while iperf3 runs as in scenario `tcp`, for xvio, its peers, and a veth pair without any switch: the limit.
//
//   node bench/tcpStages.ts [--rounds N] [--docs]       the docs: between their marks in docs/benchmarks.md
//
// CPU time per 64 KiB, not rates: that means something on a busy machine, too. What the kernel does in softirq stands by itself,
// for it is done at the expense of whichever process it interrupts: a bridge's whole work, half of TCP's.

import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { Sandbox } from '../test/interop/sandbox.ts';
import { commandLine, fail, needRoot, wholeNumber } from './commandLine.ts';
import { writeStages } from './documents.ts';
import { median } from './medians.ts';
import { perfMissing } from './profile.ts';
import { type Cable, CONTENDERS, type Contender, type Field, prepare } from './scenarios/tcp.ts';
import { markdownTable } from './tables.ts';

const HZ = 999;
const SECONDS = 2;
const SEGMENT_BYTES = 65_536;
const RECORD = ['perf', 'record', '-q', '-a', '-g', '-e', 'cpu-clock', '-F', String(HZ)];
// Names of system calls: do_iter_readv_writev is part of both.
const SOFTIRQ = /softirq|net_rx_action|process_backlog/;
const COPY = /memmove|memcpy|copy_(user|to|from|page)|_copy_|rep_movs|clear_page/;

const COLUMNS = [
  'iperf3 client',
  'iperf3 server',
  'softirq',
  'switch: user, copies',
  'switch: user, the rest',
  'switch: receive calls',
  'switch: send calls',
  'switch: poll',
  'switch: other kernel',
] as const;
type Column = (typeof COLUMNS)[number];

interface Owner {
  comm: string;
  pid: number;
}

/**
 * Where a sample belongs. `ran`: the function that did; `kernel`: the kernel's part of the chain of calls, if it ran there. What
 * called the kernel says nothing: our worker runs within libuv's uv__io_poll for as long as it lives.
 */
function columnOf(
  { comm, pid }: Owner,
  ran: string,
  kernel: readonly string[],
  field: Field,
): Column | undefined {
  const within = (pattern: RegExp): boolean => kernel.some((name) => pattern.test(name));
  const ours = pid === field.pid;
  const iperf = comm.startsWith('iperf3');
  if (!ours && !iperf && pid !== 0 && !comm.startsWith('ksoftirqd')) return undefined;
  if (within(SOFTIRQ)) return 'softirq';
  if (iperf) return pid === field.serverPid ? 'iperf3 server' : 'iperf3 client';
  if (!ours) return undefined; // an idle core
  if (kernel.length === 0)
    return COPY.test(ran) ? 'switch: user, copies' : 'switch: user, the rest';
  if (within(/sys_(readv|read|recv)|do_readv|tun_chr_read/)) return 'switch: receive calls';
  if (within(/sys_(writev|write|send)|do_writev|tun_chr_write/)) return 'switch: send calls';
  return within(/poll|select/) ? 'switch: poll' : 'switch: other kernel';
}

/** Samples by column, of what `perf script -F comm,pid,ip,sym` says: a line that names the process, then its chain, then an empty one. */
function count(text: string, field: Field): Map<Column, number> {
  const counts = new Map<Column, number>();
  for (const block of text.split('\n\n')) {
    const [head, ...lines] = block.split('\n').filter((line) => line.trim() !== '');
    const [, comm, pid] = /^\s*(\S.*?)\s+(\d+)\s*$/.exec(head ?? '') ?? [];
    const frames = lines.map((line) => /^\s*([0-9a-f]+)\s+(.*)$/.exec(line)).filter((m) => m);
    if (comm === undefined || frames.length === 0) continue;
    const kernel = frames.filter((frame) => /^ffff[0-9a-f]{12}$/.test(frame![1]!));
    const names = kernel.map((frame) => frame![2]!);
    const column = columnOf({ comm, pid: Number(pid) }, frames[0]![2]!, names, field);
    if (column !== undefined) counts.set(column, (counts.get(column) ?? 0) + 1);
  }
  return counts;
}

/** µs of CPU time per 64 KiB that arrived. */
type Round = ReadonlyMap<Column, number>;

function measure(field: Field, directory: string): Round {
  const file = path.join(directory, 'perf.data');
  const { bitsPerSecond } = field.iperf(SECONDS, [...RECORD, '-o', file, '--']);
  const segments = (bitsPerSecond * SECONDS) / 8 / SEGMENT_BYTES;
  const script = execFileSync('perf', ['script', '-i', file, '-F', 'comm,pid,ip,sym'], {
    encoding: 'utf8',
    maxBuffer: 512 << 20,
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  rmSync(file, { force: true });
  const counts = count(script, field);
  if (counts.size === 0) throw new Error('perf has no samples of iperf3');
  return new Map([...counts].map(([column, n]) => [column, ((n / HZ) * 1e6) / segments]));
}

const BARE: Contender = {
  name: 'no switch: one veth pair',
  missing: () => undefined,
  start: () => Sandbox.start(),
  bridge: 'none',
};

/** One after the other: they would have to share the cores. */
async function rowOf(
  contender: Contender,
  cable: Cable,
  rounds: number,
  directory: string,
): Promise<string[]> {
  await using field = await prepare(contender, cable);
  field.iperf(1);
  const all: Round[] = [];
  for (let round = 0; round < rounds; round++) all.push(measure(field, directory));
  const sums = all.map((round) => [...round.values()].reduce((sum, us) => sum + us, 0));
  // A bridge of the kernel and a bare pair have no process: the daemon that stands by is none of theirs.
  const none = contender.bridge !== 'ovs';
  const cells = COLUMNS.map((column) => {
    if (none && column.startsWith('switch')) return '';
    return median(all.map((round) => round.get(column) ?? 0)).toFixed(2);
  });
  return [none ? '' : `${cable}s`, contender.name, median(sums).toFixed(2), ...cells];
}

async function run(rounds: number): Promise<string> {
  const directory = mkdtempSync(path.join(tmpdir(), 'xvp-'));
  try {
    const able = CONTENDERS.filter(({ plain, missing }) => !plain && missing() === undefined);
    const rows = [await rowOf(BARE, 'veth', rounds, directory)];
    for (const cable of ['veth', 'tap'] as const) {
      for (const contender of able) {
        if (cable === 'tap' && contender.bridge === 'linux') continue;
        rows.push(await rowOf(contender, cable, rounds, directory));
      }
    }
    return markdownTable(['ports', 'switch', 'µs a 64 KiB, all', ...COLUMNS], rows);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

const HELP = `usage: node bench/tcpStages.ts [--rounds N] [--docs]

  --rounds N   rounds of each switch (default 3)
  --docs       writes the table between its marks in docs/benchmarks.md, too
`;

const { values } = commandLine(HELP, {
  options: {
    rounds: { type: 'string', default: '3' },
    docs: { type: 'boolean', default: false },
  },
});
const rounds = wholeNumber('rounds', values.rounds, 1);
needRoot();
const missing = perfMissing();
if (missing !== undefined) fail(missing);
const result = await run(rounds);
console.log(result);
if (values.docs) writeStages('tcp', `, medians of ${rounds} rounds, CPU time`, result);
process.exit(0);
