// Runs Open vSwitch's own system-userspace test suite (real packets in network namespaces) against our ovs-vswitchd:
//
//   node test/interop/ovsTestsuite.ts [--real] [--work=DIR] [--timeout-s=N] [1 54 115-148 …]
//
// Without numbers: the tests that the real daemon passes (ovsTestsuiteBaseline.ts). Prints each test's outcome and
// whether it is the baseline's; the exit status is 0 if every test of the baseline that was to run passed. --real runs the
// real daemon, which is how the baseline was measured. Needs root and the Debian packages that scripts/packages.ts names;
// nothing is downloaded or compiled.

import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import { OURS, type Outcome, outcomeOf, prepareSuites, REAL } from './ovsSuites.ts';
import { BASELINE } from './ovsTestsuiteBaseline.ts';

const SUITE = 'system-userspace-testsuite';

/** Runs in a mount and a network namespace of its own, so that named namespaces of the tests are its own, too. */
const RUN = `mount --make-rprivate /
mkdir -p /run/netns
mount -t tmpfs none /run/netns
ip link set lo up
exec bash ./tests/${SUITE} -C tests AUTOTEST_PATH=bin "$@" -j1
`;

/** [1, 3-5] as numbers. */
function numbers(selectors: readonly string[]): number[] {
  return selectors.flatMap((selector) => {
    const [first, last = first] = selector.split('-').map(Number);
    if (!(first! > 0 && last! >= first!)) throw new Error(`${selector}: not a test number`);
    return Array.from({ length: last! - first! + 1 }, (_, i) => first! + i);
  });
}

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
    const found = outcomeOf(line);
    if (found === undefined) continue;
    const { number, name, outcome } = found;
    outcomes.set(number, outcome);
    const expected = BASELINE.has(number)
      ? outcome === 'ok'
        ? ''
        : '   <- the real daemon passes'
      : '   (not in the baseline)';
    console.log(`${String(number).padStart(4)} ${outcome.padEnd(8)} ${name}${expected}`);
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
  prepareSuites(work, values.real ? REAL : OURS);
  writeFileSync(join(work, 'run-system'), RUN);
  const outcomes = await run(work, tests, Number(values['timeout-s']) * 1000);
  const count = (outcome: Outcome): number =>
    [...outcomes.values()].filter((o) => o === outcome).length;
  const missing = tests.filter((test) => BASELINE.has(test) && outcomes.get(test) !== 'ok');
  console.log(
    `${count('ok')} passed, ${count('failed')} failed, ${count('skipped')} skipped, ` +
      `${tests.length - outcomes.size} not run`,
  );
  if (missing.length > 0) console.log(`the real daemon passes: ${missing.join(' ')}`);
  process.exitCode = missing.length === 0 ? 0 : 1;
} finally {
  if (values.work === undefined) rmSync(work, { recursive: true, force: true });
}
