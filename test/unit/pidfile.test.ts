// Pid files that cannot be made: the daemon says why in the system's words, and leaves nothing behind.

import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { createPidfile } from '../../src/cli/pidfile.ts';

const dir = mkdtempSync(join(tmpdir(), 'xvio-pidfile-'));
after(() => rmSync(dir, { recursive: true }));

test('a directory that is not there', () => {
  const path = join(dir, 'none', 'x.pid');
  assert.throws(() => createPidfile(path, false), {
    message: `${path}.tmp: create failed (No such file or directory)`,
  });
});

test('a directory in its place', () => {
  const path = join(dir, 'x.pid');
  mkdirSync(path);
  assert.throws(() => createPidfile(path, false), {
    message: `${path}: open failed (Is a directory)`,
  });
  assert.throws(() => createPidfile(path, true), {
    message: `${path}.tmp: rename failed (Is a directory)`,
  });
  assert.deepEqual(readdirSync(dir), ['x.pid']);
});

test('written, and removed at the end', () => {
  const path = join(dir, 'y.pid');
  const remove = createPidfile(path, false);
  assert.equal(readFileSync(path, 'utf8'), `${process.pid}\n`);
  remove();
  assert.ok(!readdirSync(dir).includes('y.pid'));
});
