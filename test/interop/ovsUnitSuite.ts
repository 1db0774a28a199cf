// Runs Open vSwitch's own unit test suite (Debian's openvswitch-source carries it ready made) with our daemon in the
// place of ovs-vswitchd, and compares with what the real daemon achieves on the same machine.
//
//   npm run ovs-testsuite -- ofproto.at              a file
//   npm run ovs-testsuite -- 856-900 1001            ranges of test numbers
//   npm run ovs-testsuite -- --real --record FILE…   the real daemon; writes its results into the baseline
//   npm run ovs-testsuite -- --update FILE…          adds what passes to the tests that must pass from now on
//
// Tests that call C test programs, which Debian lacks, fail with the real daemon, too: the baseline knows.

import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { OURS, type Outcome, outcomeOf, prepareSuites, REAL } from './ovsSuites.ts';

const BASELINE = join(import.meta.dirname, 'ovsUnitSuite.json');

/** Of one file of the suite: test numbers. */
export interface FileBaseline {
  /** Tests that the real daemon passes. */
  real: number[];
  /** Tests that it does not: they need what this machine or Debian lacks. */
  realFails: number[];
  /** Tests that we pass: none may get lost. */
  ours: number[];
}

export type Baseline = Record<string, FileBaseline>;

export const readBaseline = (): Baseline => JSON.parse(readFileSync(BASELINE, 'utf8')) as Baseline;

/** One test number in a line of a few dozen would make every change of it unreadable: runs of numbers on one line. */
export function writeBaseline(baseline: Baseline): void {
  const files = Object.keys(baseline).sort();
  const text = files.map((file) => {
    const { real, realFails, ours } = baseline[file]!;
    const row = (name: string, numbers: number[]): string =>
      `    "${name}": [${[...numbers].sort((a, b) => a - b).join(', ')}]`;
    return `  "${file}": {\n${[row('real', real), row('realFails', realFails), row('ours', ours)].join(',\n')}\n  }`;
  });
  writeFileSync(BASELINE, `{\n${text.join(',\n')}\n}\n`);
}

export class OvsUnitSuite implements Disposable {
  readonly dir: string;
  /** File and name of each test, by number. */
  readonly tests = new Map<number, { file: string; name: string }>();

  /** Unpacks the suite into a temporary directory; `daemon` is what runs as ovs-vswitchd. */
  constructor(daemon = OURS) {
    this.dir = mkdtempSync(join(tmpdir(), 'ovst-'));
    prepareSuites(this.dir, daemon);
    this.#list();
  }

  #list(): void {
    const text = execFileSync('bash', ['./tests/testsuite', '--list'], {
      cwd: this.dir,
      encoding: 'utf8',
      maxBuffer: 16 << 20,
    });
    for (const line of text.split('\n')) {
      const match = /^ *(\d+): (\S+\.at):\d+ +(.*)$/.exec(line);
      if (match) this.tests.set(Number(match[1]), { file: match[2]!, name: match[3]! });
    }
  }

  /** Test numbers of a file ("ofproto.at") or a range ("856-900", "1001"). */
  numbers(selector: string): number[] {
    const range = /^(\d+)(?:-(\d+))?$/.exec(selector);
    if (range === null) {
      return [...this.tests].filter(([, { file }]) => file === selector).map(([number]) => number);
    }
    const [first, last] = [Number(range[1]), Number(range[2] ?? range[1])];
    return [...this.tests.keys()].filter((number) => number >= first && number <= last);
  }

  /** Runs tests in a network namespace of their own, `jobs` at a time. Echoes the suite's lines to `onLine`. */
  run(
    numbers: readonly number[],
    options: { jobs?: number; timeoutMs?: number; onLine?: (line: string) => void } = {},
  ): Promise<Map<number, Outcome>> {
    const { jobs = 2, timeoutMs = 3_600_000, onLine = () => {} } = options;
    const results = new Map<number, Outcome>();
    const suite = `ip link set lo up; exec timeout -s KILL ${Math.ceil(timeoutMs / 1000)} bash ./tests/testsuite "$@"`;
    const args = ['-C', 'tests', 'AUTOTEST_PATH=bin', `-j${jobs}`, ...numbers.map(String)];
    return new Promise((resolve, reject) => {
      const child = spawn('unshare', ['-m', '-n', 'sh', '-c', suite, 'sh', ...args], {
        cwd: this.dir,
        stdio: ['ignore', 'pipe', 'ignore'],
      });
      let rest = '';
      child.stdout.on('data', (chunk: Buffer) => {
        const lines = (rest + chunk.toString()).split('\n');
        rest = lines.pop()!;
        for (const line of lines) {
          const found = outcomeOf(line);
          if (found === undefined) continue;
          results.set(found.number, found.outcome);
          onLine(line);
        }
      });
      child.on('error', reject);
      child.on('close', () => resolve(results));
    });
  }

  /** Log of a test that failed; '' if there is none. */
  log(number: number): string {
    const dir = join(this.dir, 'tests/testsuite.dir', String(number).padStart(4, '0'));
    try {
      return readFileSync(join(dir, 'testsuite.log'), 'utf8');
    } catch {
      return '';
    }
  }

  [Symbol.dispose](): void {
    rmSync(this.dir, { recursive: true, force: true });
  }
}

/** "file  passed of ran (real daemon: passed)", and the numbers that only the real daemon passes. */
function summary(
  suite: OvsUnitSuite,
  results: ReadonlyMap<number, Outcome>,
  baseline: Baseline,
): string {
  const files = new Map<string, number[]>();
  for (const number of results.keys()) {
    const { file } = suite.tests.get(number)!;
    files.set(file, [...(files.get(file) ?? []), number]);
  }
  const lines = [...files].map(([file, numbers]) => {
    const passed = numbers.filter((number) => results.get(number) === 'ok');
    const real = numbers.filter((number) => baseline[file]?.real.includes(number));
    const missing = real.filter((number) => !passed.includes(number));
    const tail = missing.length > 0 ? `  missing: ${missing.join(' ')}` : '';
    return `${file.padEnd(28)} passed ${passed.length} of ${numbers.length}, real ${real.length}${tail}`;
  });
  return lines.join('\n');
}

function note(suite: OvsUnitSuite, results: ReadonlyMap<number, Outcome>, real: boolean): void {
  const baseline = readBaseline();
  for (const [number, outcome] of results) {
    const { file } = suite.tests.get(number)!;
    baseline[file] ??= { real: [], realFails: [], ours: [] };
    const lists = baseline[file];
    const without = (list: number[]): number[] => list.filter((one) => one !== number);
    const isOk = outcome === 'ok';
    if (real) {
      lists.real = isOk ? [...without(lists.real), number] : without(lists.real);
      lists.realFails = isOk ? without(lists.realFails) : [...without(lists.realFails), number];
    } else if (isOk) lists.ours = [...without(lists.ours), number];
  }
  writeBaseline(baseline);
}

async function main(words: readonly string[]): Promise<void> {
  const has = (word: string): boolean => words.includes(word);
  const jobs = Number(words.find((word) => /^-j\d+$/.test(word))?.slice(2) ?? 2);
  const selectors = words.filter((word) => !word.startsWith('-'));
  const real = has('--real');
  using suite = new OvsUnitSuite(real ? REAL : OURS);
  const baseline = readBaseline();
  const chosen = selectors.length > 0 ? selectors : Object.keys(baseline);
  const numbers = [...new Set(chosen.flatMap((selector) => suite.numbers(selector)))];
  const results = await suite.run(numbers, { jobs, onLine: (line) => console.log(line) });
  if (has('--record') || has('--update')) note(suite, results, real);
  console.log(`\n${summary(suite, results, readBaseline())}`);
  if (has('--logs')) {
    for (const [number, outcome] of results)
      if (outcome === 'failed') console.log(suite.log(number));
  }
}

if (import.meta.main) await main(process.argv.slice(2));
