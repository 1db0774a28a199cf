// `npm test`: everything that must hold. Style and types, then unit and property tests (seconds), then the tests with
// real peers, one file after the other. `npm test -- quick` leaves the peers out; `npm test -- FILE…` runs just these.
// FC_SEED=random (or a number) has the property tests try other cases than always.

import { spawnSync } from 'node:child_process';
import { globSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { build } from './build.ts';
import { ensurePackages } from './packages.ts';

const root = join(import.meta.dirname, '..');
const bin = (name: string): string => join(root, 'node_modules', '.bin', name);
const words = process.argv.slice(2);
const quick = words.includes('quick');
const chosen = words.filter((w) => w !== 'quick');
const failures: string[] = [];
/** What each failed test said, a line each (failures.ts). */
const messages: string[] = [];

function step(name: string, command: string, args: readonly string[]): void {
  const started = Date.now();
  console.log(`\n== ${name}`);
  const result = spawnSync(command, args, { cwd: root, stdio: 'inherit' });
  const seconds = ((Date.now() - started) / 1000).toFixed(1);
  console.log(`== ${name}: ${result.status === 0 ? 'ok' : 'FAILED'} (${seconds} s)`);
  if (result.status !== 0) failures.push(name);
}

/** Node's own runner. Peers' tests run one file at a time: they share two cores and the kernel's namespaces. */
function nodeTest(
  name: string,
  files: readonly string[],
  concurrency: number,
  timeoutMs: number,
): void {
  if (files.length === 0) return;
  const folder = mkdtempSync(join(tmpdir(), 'xv-test-'));
  const failed = join(folder, 'failures');
  const args = [
    '--disable-warning=ExperimentalWarning',
    '--import=./test/property/seed.ts',
    '--test',
    '--test-reporter=spec',
    '--test-reporter-destination=stdout',
    '--test-reporter=./scripts/failures.ts',
    `--test-reporter-destination=${failed}`,
    `--test-concurrency=${concurrency}`,
    `--test-timeout=${timeoutMs}`,
    ...files,
  ];
  step(name, process.execPath, args);
  messages.push(...readFileSync(failed, 'utf8').split('\n').filter(Boolean));
  rmSync(folder, { recursive: true });
}

const tests = (folder: string): string[] =>
  globSync(`test/${folder}/**/*.test.ts`, { cwd: root }).sort();

const built = await build();
if (built.length > 0) console.log(`built ${built.join(', ')}`);

if (chosen.length > 0) {
  nodeTest(chosen.join(' '), chosen, 1, 1200000);
} else {
  step('format and lint (biome)', bin('biome'), ['check', '.']);
  step('types (tsc)', bin('tsc'), ['-p', '.']);
  step('types of the data plane (tsc)', bin('tsc'), ['-p', 'dataplane']);
  nodeTest(
    'tidy, unit and property tests',
    [...tests('tidy'), ...tests('unit'), ...tests('property')],
    2,
    300000,
  );
  if (!quick) {
    const missing = ensurePackages();
    if (missing.length > 0) {
      console.log(
        `\nMissing Debian packages (run as root, or apt-get install them): ${missing.join(' ')}`,
      );
      failures.push(`missing packages: ${missing.join(' ')}`);
    }
    if (process.getuid?.() === 0) {
      for (const file of tests('interop')) nodeTest(file, [file], 1, 1200000);
    } else {
      // Network namespaces, taps and AF_XDP sockets: no part of it works without.
      console.log('\nThe tests with real peers need root: sudo npm test');
      failures.push('tests with real peers: not root');
    }
  }
}

if (failures.length > 0) {
  console.log(`\nFAILED: ${failures.join('; ')}`);
  for (const message of messages) console.log(`  ${message}`);
  process.exit(1);
}
console.log('\nAll passed.');
