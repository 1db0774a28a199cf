// What the programs of the benchmark suite say to wrong command lines: a sentence, no stack, and exit status 1.

import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';

const BENCH = join(import.meta.dirname, '../../bench');

function said(program: string, ...args: string[]) {
  const command = [...process.execArgv, join(BENCH, program), ...args];
  return spawnSync(process.execPath, command, { encoding: 'utf8', timeout: 30_000 });
}

/** The first line of what it says. */
function refusal(program: string, ...args: string[]): string {
  const { status, stdout, stderr } = said(program, ...args);
  assert.equal(status, 1, stderr);
  assert.equal(stdout, '');
  assert.doesNotMatch(stderr, /^\s+at /m);
  return stderr.split('\n')[0]!;
}

const results = join(BENCH, 'no-such-file.json');

describe('wrong command lines', () => {
  for (const [args, message] of [
    [['nonsense'], "no scenario 'nonsense' (--help lists them)"],
    [['port', '--rounds', 'x'], "--rounds: 'x' is not a whole number ≥ 1"],
    [
      ['port', '--queue-size', '1000'],
      '--queue-size: 1000 is not a power of two, as split rings need it',
    ],
    [['port', '--compare', '/nowhere'], '--compare: no checkout of xvio in /nowhere'],
    [['--from', results], `${results}: ENOENT: no such file or directory, open '${results}'`],
  ] as const) {
    it(`run.ts ${args.slice(0, 2).join(' ')}`, () => {
      assert.equal(refusal('run.ts', ...args), `bench: ${message}`);
    });
  }

  const programs = readdirSync(BENCH).filter((name) => /Stages\.ts$/.test(name));
  for (const program of ['micro.ts', ...programs]) {
    it(program, () => {
      assert.match(refusal(program, '--nonsense'), /^bench: Unknown option '--nonsense' \(--help/);
      const { status, stdout } = said(program, '--help');
      assert.equal(status, 0);
      assert.match(stdout, new RegExp(`^usage: node bench/${program} `));
    });
  }
  it('--minutes says that it is no exact bound, and what the exit status means', () => {
    const { status, stdout } = said('run.ts', '--help');
    assert.equal(status, 0);
    assert.match(stdout, /--minutes N +about how long [^-]*left out, and the exit status is 1\n/);
  });
  it('a machine on which another run is measuring', async () => {
    const text = `import('${join(BENCH, 'commandLine.ts')}').then(async ({ needMachine }) => {
      await needMachine('\\0xvio-bench-test-${process.pid}');
      console.log('measuring');
      process.stdin.resume();
    });`;
    const start = () =>
      spawn(process.execPath, [...process.execArgv, '-e', text], {
        stdio: ['pipe', 'pipe', 'pipe'],
      });
    const first = start();
    await once(first.stdout, 'data');
    const second = start();
    const [said] = await once(second.stderr, 'data');
    assert.match(String(said), /^bench: another run is measuring on this machine/);
    assert.deepEqual(await once(second, 'close'), [1, null]);
    first.kill('SIGKILL');
    await once(first, 'close');
    const third = start();
    await once(third.stdout, 'data');
    third.kill('SIGKILL');
  });
  it('numbers', () => {
    assert.equal(
      refusal('turnStages.ts', '--ms', '1'),
      "bench: --ms: '1' is not a whole number ≥ 10",
    );
    const text = "bench: --burst: '257' is not a whole number from 0 to 256";
    assert.equal(refusal('micro.ts', '--burst', '257'), text);
  });
});
