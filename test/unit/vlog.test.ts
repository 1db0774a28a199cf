// Log lines, levels, patterns and rate limits as Open vSwitch has them.

import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { rateLimit, Vlog } from '../../src/observe/vlog.ts';

function make(): { vlog: Vlog; lines: string[]; clock: { ms: number } } {
  const lines: string[] = [];
  const clock = { ms: Date.UTC(2026, 0, 2, 3, 4, 5, 67) };
  const vlog = new Vlog({ program: 'p', console: (l) => lines.push(l), now: () => clock.ms });
  return { vlog, lines, clock };
}

test('the default console pattern', () => {
  const { vlog, lines } = make();
  vlog.module('bridge').info('hello');
  assert.deepEqual(lines, ['2026-01-02T03:04:05Z|00001|bridge|INFO|hello']);
});

test('levels per module and destination', () => {
  const { vlog, lines } = make();
  const log = vlog.module('bridge');
  log.dbg('no');
  assert.equal(vlog.set('bridge:console:dbg'), undefined);
  log.dbg('yes');
  assert.equal(vlog.set('console:off'), undefined);
  log.err('no');
  assert.equal(lines.length, 1);
  assert.match(vlog.list(), /^bridge {13}OFF {7}INFO {7}INFO$/m);
});

test('errors of vlog/set read as the real ones', () => {
  const { vlog } = make();
  assert.equal(vlog.set('foo'), 'no destination, level, or module "foo"');
  assert.equal(vlog.set('ANY:foo:dbg'), 'no destination, level, or module "foo"');
  assert.equal(vlog.set('pattern:foo'), 'unknown destination "foo"');
});

test('patterns', () => {
  const { vlog, lines } = make();
  assert.equal(vlog.set('PATTERN:console:%-6p|%A|%5N|%D{%H:%M:%S.###}|%m%%'), undefined);
  vlog.module('m').warn('x');
  assert.deepEqual(lines, ['WARN  |p|    1|03:04:05.067|x%']);
});

test('rate limits drop and report', () => {
  const { vlog, lines, clock } = make();
  const log = vlog.module('m');
  const limit = rateLimit(2);
  for (let i = 0; i < 5; i++) log.warn(`w${i}`, limit);
  clock.ms += 60000;
  log.warn('later', limit);
  assert.deepEqual(
    lines.map((l) => l.split('|').at(-1)),
    [
      'w0',
      'w1',
      'Dropped 3 log messages in last 60 seconds (most recently, 60 seconds ago) due to excessive rate',
      'later',
    ],
  );
});

test('reopening what is no file fails in the words of the system, and succeeds when it is gone', () => {
  const dir = mkdtempSync(join(tmpdir(), 'xvio-vlog-'));
  const { vlog } = make();
  assert.equal(vlog.reopenFile(), 'Logging to file not configured');
  const file = join(dir, 'x.log');
  vlog.openFile(file);
  rmSync(file);
  mkdirSync(file);
  assert.equal(vlog.reopenFile(), 'Is a directory');
  rmSync(file, { recursive: true });
  assert.equal(vlog.reopenFile(), undefined);
  vlog.closeFile();
  rmSync(dir, { recursive: true });
});
