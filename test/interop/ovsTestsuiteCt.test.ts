// The connection tracking, NAT, fragment and helper tests of Open vSwitch's own system-userspace suite, with our daemon in
// the place of ovs-vswitchd: all of them pass that the real daemon passes (ovsTestsuiteBaseline.ts); and some of its other
// tests, all of them with XVIO_OVS_SYSTEM_SUITE=all. They wait more than they work, so several shares run at a time, each in
// namespaces and a directory of its own.
//
// The suite's clients give up after a second, which is not long on a busy machine: what fails is run once more, alone.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { CONNTRACK, OTHERS, SAMPLE_OF_OTHERS } from './ovsTestsuiteBaseline.ts';

const SHARES = 4;
const ALL = process.env.XVIO_OVS_SYSTEM_SUITE === 'all';
const TESTS = [...CONNTRACK, ...(ALL ? OTHERS : SAMPLE_OF_OTHERS)];
const TIMEOUT_S = 900;
const SCRIPT = join(import.meta.dirname, 'ovsTestsuite.ts');

/** Runs tests of the suite; gives those that did not pass, and what was printed. */
function run(work: string, tests: readonly number[]): Promise<{ failed: number[]; text: string }> {
  const args = [
    '--disable-warning=ExperimentalWarning',
    SCRIPT,
    `--work=${work}`,
    `--timeout-s=${TIMEOUT_S}`,
    ...tests.map(String),
  ];
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
    let text = '';
    child.stdout.setEncoding('utf8').on('data', (data: string) => {
      text += data;
    });
    child.on('error', reject);
    child.on('close', () => {
      const passed = new Set([...text.matchAll(/^ *(\d+) ok\b/gm)].map(([, n]) => Number(n)));
      resolve({ failed: tests.filter((n) => !passed.has(n)), text });
    });
  });
}

test(`Open vSwitch's suite: ${TESTS.length} tests of connection tracking and tunnels`, async () => {
  const work = mkdtempSync(join(tmpdir(), 'xv-ct-suite-'));
  try {
    const shares = Array.from({ length: SHARES }, (_, share) =>
      run(
        join(work, String(share)),
        TESTS.filter((_, i) => i % SHARES === share),
      ),
    );
    const results = await Promise.all(shares);
    const failed = results.flatMap((result) => result.failed).sort((a, b) => a - b);
    if (failed.length === 0) return;
    console.log(`once more: ${failed.join(' ')}`);
    const again = await run(join(work, '0'), failed);
    assert.deepEqual(again.failed, [], again.text);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
});
