// Runs Open vSwitch's own unit test suite (Debian's openvswitch-source carries it ready made) with our daemon in the
// place of ovs-vswitchd, and compares with what the real daemon achieves on the same machine.
//
//   npm run ovs-testsuite -- ofproto.at              a file
//   npm run ovs-testsuite -- 856-900 1001            ranges of test numbers
//   npm run ovs-testsuite -- --real --record FILE…   the real daemon; writes its results into the baseline
//   npm run ovs-testsuite -- --update FILE…          adds what passes to the tests that must pass from now on
//
// The suite needs neither compiler nor autoconf: a few files are written by hand as configure would. Tests that call C
// test programs, which Debian lacks, fail with the real daemon, too: the baseline knows.

import { execFileSync, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

const TARBALL = '/usr/src/openvswitch/openvswitch.tar.gz';
const REAL = '/usr/lib/openvswitch-switch/ovs-vswitchd';
const OURS = resolve(import.meta.dirname, '../../bin/ovs-vswitchd');
const BASELINE = join(import.meta.dirname, 'ovsUnitSuite.json');
const TOOLS = [
  'ovs-vsctl',
  'ovs-ofctl',
  'ovs-appctl',
  'ovs-dpctl',
  'ovsdb-client',
  'ovsdb-tool',
  'ovsdb-server',
  'ovs-pki',
];
/** Words of atlocal.in that configure fills in. */
const ATLOCAL: Readonly<Record<string, string>> = {
  HAVE_OPENSSL: 'yes',
  OPENSSL_SUPPORTS_SNI: 'yes',
  HAVE_UNBOUND: 'yes',
  EGREP: 'grep -E',
  PYTHON3: '/usr/bin/python3',
  CFLAGS: '-O2',
};
const ATCONFIG = `at_testdir='tests'
abs_builddir=\`pwd\`
at_srcdir='.'
abs_srcdir=$abs_builddir
at_top_srcdir='..'
abs_top_srcdir=\${abs_builddir%/tests}
at_top_build_prefix='../'
abs_top_builddir=$abs_top_srcdir
at_top_builddir=$at_top_build_prefix
EXEEXT=''
AUTOTEST_PATH='tests'
SHELL=\${CONFIG_SHELL-'/bin/bash'}
`;

export type Outcome = 'ok' | 'failed' | 'skipped';

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
    execFileSync('tar', ['xzf', TARBALL, '-C', this.dir, '--strip-components=1']);
    writeFileSync(join(this.dir, 'config.log'), '');
    writeFileSync(join(this.dir, 'tests/atconfig'), ATCONFIG);
    let atlocal = readFileSync(join(this.dir, 'tests/atlocal.in'), 'utf8');
    for (const [word, value] of Object.entries(ATLOCAL)) {
      atlocal = atlocal.replaceAll(`@${word}@`, value);
    }
    writeFileSync(join(this.dir, 'tests/atlocal'), atlocal);
    const bin = join(this.dir, 'bin');
    mkdirSync(bin);
    for (const tool of TOOLS) {
      const path = execFileSync('sh', ['-c', `command -v ${tool}`], { encoding: 'utf8' }).trim();
      symlinkSync(path, join(bin, tool));
    }
    // exec: the pid file has to hold the daemon's own pid.
    const wrapper = `#!/bin/sh\nexec ${daemon} "$@"\n`;
    writeFileSync(join(bin, 'ovs-vswitchd'), wrapper, { mode: 0o755 });
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
          const match = /^ *(\d+): .* (ok|FAILED \(.*\)|skipped \(.*\))$/.exec(line);
          if (match === null) continue;
          const word = match[2]!.split(' ')[0]!.toLowerCase();
          results.set(Number(match[1]), word as Outcome);
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
