// Runs Open vSwitch's own system-userspace test suite (real packets in network namespaces) against our ovs-vswitchd:
//
//   node test/interop/ovsTestsuite.ts [--real] [--work=DIR] [--timeout-s=N] [1 54 115-148 …]
//
// Without numbers: the tests that the real daemon passes (ovsTestsuiteBaseline.ts). Prints each test's outcome and
// whether it is the baseline's; the exit status is 0 if ours passed every test of the baseline but those that need what
// it is known to lack. --real runs the real daemon, which is how the baseline was measured. Needs root and the Debian
// packages that scripts/packages.ts names; nothing is downloaded or compiled.

import { spawn, spawnSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import { BASELINE, LACKING } from './ovsTestsuiteBaseline.ts';

const ROOT = join(import.meta.dirname, '..', '..');
const TARBALL = '/usr/src/openvswitch/openvswitch.tar.gz';
const REAL = '/usr/lib/openvswitch-switch/ovs-vswitchd';
const OURS = join(ROOT, 'bin', 'ovs-vswitchd');
const SUITE = 'system-userspace-testsuite';

/** What configure would have written: where things are, and what the machine has. */
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
const ATLOCAL: Readonly<Record<string, string>> = {
  '@HAVE_OPENSSL@': 'yes',
  '@OPENSSL_SUPPORTS_SNI@': 'yes',
  '@HAVE_UNBOUND@': 'yes',
  '@EGREP@': 'grep -E',
  '@PYTHON3@': '/usr/bin/python3',
  '@CFLAGS@': '-O2',
};
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
/** Runs in a mount and a network namespace of its own, so that named namespaces of the tests are its own, too. */
const RUN = `mount --make-rprivate /
mkdir -p /run/netns
mount -t tmpfs none /run/netns
ip link set lo up
exec bash ./tests/${SUITE} -C tests AUTOTEST_PATH=bin "$@" -j1
`;

/** Unpacks the suite and puts the daemon in its place. Gives the suite's top directory. */
function prepare(dir: string, daemon: string): string {
  const top = join(dir, 'openvswitch');
  if (!existsSync(join(top, 'tests', SUITE))) {
    if (!existsSync(TARBALL))
      throw new Error(`${TARBALL} is missing: apt-get install openvswitch-source`);
    mkdirSync(dir, { recursive: true });
    const tar = spawnSync('tar', ['xzf', TARBALL, '-C', dir], { stdio: 'inherit' });
    if (tar.status !== 0) throw new Error(`${TARBALL} cannot be unpacked`);
  }
  writeFileSync(join(top, 'tests', 'atconfig'), ATCONFIG);
  let atlocal = readFileSync(join(top, 'tests', 'atlocal.in'), 'utf8');
  for (const [word, value] of Object.entries(ATLOCAL)) atlocal = atlocal.replaceAll(word, value);
  writeFileSync(join(top, 'tests', 'atlocal'), atlocal);
  const bin = join(top, 'bin');
  rmSync(bin, { recursive: true, force: true });
  mkdirSync(bin);
  for (const tool of TOOLS) {
    const found = ['/usr/bin', '/usr/sbin', '/bin', '/sbin'].find((d) => existsSync(join(d, tool)));
    if (found !== undefined) symlinkSync(join(found, tool), join(bin, tool));
  }
  // exec, because the pid file must hold the daemon's own pid.
  writeFileSync(join(bin, 'ovs-vswitchd'), `#!/bin/sh\nexec ${daemon} "$@"\n`);
  chmodSync(join(bin, 'ovs-vswitchd'), 0o755);
  writeFileSync(join(top, 'run-system'), RUN);
  return top;
}

/** [1, 3-5] as numbers. */
function numbers(selectors: readonly string[]): number[] {
  return selectors.flatMap((selector) => {
    const [first, last = first] = selector.split('-').map(Number);
    if (!(first! > 0 && last! >= first!)) throw new Error(`${selector}: not a test number`);
    return Array.from({ length: last! - first! + 1 }, (_, i) => first! + i);
  });
}

type Outcome = 'ok' | 'FAILED' | 'skipped';

/** Runs the tests, one after the other. The suite's own children end with it: it has a process group of its own. */
async function run(
  top: string,
  tests: readonly number[],
  timeoutMs: number,
): Promise<Map<number, Outcome>> {
  const outcomes = new Map<number, Outcome>();
  const child = spawn('unshare', ['-m', '-n', 'sh', './run-system', ...tests.map(String)], {
    cwd: top,
    detached: true,
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  const timer = setTimeout(() => process.kill(-child.pid!, 'SIGKILL'), timeoutMs);
  for await (const line of createInterface({ input: child.stdout })) {
    const found = /^\s*(\d+): (.*?)\s+(ok|FAILED|skipped)\b/.exec(line);
    if (found === null) continue;
    const number = Number(found[1]);
    const outcome = found[3] as Outcome;
    outcomes.set(number, outcome);
    const expected = BASELINE.has(number)
      ? outcome === 'ok'
        ? ''
        : '   <- the real daemon passes'
      : '   (not in the baseline)';
    console.log(`${String(number).padStart(4)} ${outcome.padEnd(8)} ${found[2]}${expected}`);
  }
  clearTimeout(timer);
  return outcomes;
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    real: { type: 'boolean', default: false },
    work: { type: 'string' },
    'timeout-s': { type: 'string', default: '3600' },
  },
});
const tests = positionals.length > 0 ? numbers(positionals) : [...BASELINE];
const work = values.work ?? mkdtempSync(join(tmpdir(), 'ovs-testsuite-'));
try {
  const top = prepare(work, values.real ? REAL : OURS);
  const outcomes = await run(top, tests, Number(values['timeout-s']) * 1000);
  const count = (outcome: Outcome): number =>
    [...outcomes.values()].filter((o) => o === outcome).length;
  const lacking = new Set(values.real ? [] : [...LACKING.values()].flat());
  const passes = (test: number): boolean => outcomes.get(test) === 'ok';
  const missing = tests.filter((test) => BASELINE.has(test) && !passes(test) && !lacking.has(test));
  const better = tests.filter((test) => lacking.has(test) && passes(test));
  console.log(
    `${count('ok')} passed, ${count('FAILED')} failed, ${count('skipped')} skipped, ` +
      `${tests.length - outcomes.size} not run`,
  );
  for (const [reason, numbers] of values.real ? [] : LACKING) {
    const failed = tests.filter((test) => numbers.includes(test) && !passes(test));
    if (failed.length > 0) console.log(`for want of ${reason}: ${failed.join(' ')}`);
  }
  if (missing.length > 0) console.log(`the real daemon passes: ${missing.join(' ')}`);
  if (better.length > 0) console.log(`no longer lacking: ${better.join(' ')}`);
  process.exitCode = missing.length + better.length === 0 ? 0 : 1;
} finally {
  if (values.work === undefined) rmSync(work, { recursive: true, force: true });
}
