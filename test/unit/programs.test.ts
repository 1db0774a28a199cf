// Space for action programs: what is equal is stored once, and stays as long as a flow uses it.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ACTIONS_BASE, ACTIONS_SIZE } from '../../contract/memory.ts';
import { Programs } from '../../src/engine/programs.ts';

const memory = (): Uint32Array => new Uint32Array((ACTIONS_BASE + ACTIONS_SIZE) / 4);
const words = (length: number, first: number): Uint32Array =>
  Uint32Array.from({ length }, (_, i) => first + i);

test('equal programs share their place until the last user is gone', () => {
  const u32 = memory();
  const programs = new Programs(u32);
  const a = programs.take(words(20, 1));
  const b = programs.take(words(20, 2));
  assert.notEqual(a, b);
  assert.equal(programs.take(words(20, 1)), a);
  programs.give(a, 80);
  assert.deepEqual(u32.slice(a / 4, a / 4 + 20), words(20, 1));
  assert.equal(programs.take(words(20, 1)), a, 'still there');
  programs.give(a, 80);
  programs.give(a, 80);
  const c = programs.take(words(21, 7));
  assert.equal(c, a, 'the place is free now');
  assert.deepEqual(u32.slice(c / 4, c / 4 + 21), words(21, 7));
  assert.notEqual(programs.take(words(20, 1)), a);
});

test('a program that begins like another is another one; long ones are never shared', () => {
  const programs = new Programs(memory());
  assert.notEqual(programs.take(words(20, 1)), programs.take(words(21, 1)));
  assert.notEqual(programs.take(words(300, 1)), programs.take(words(300, 1)));
});

test('no room', () => {
  const programs = new Programs(memory());
  let taken = 0;
  while (programs.take(words(4096, taken)) !== 0) taken++;
  assert.equal(taken, ACTIONS_SIZE / 16384);
  assert.equal(programs.take(words(4096, 0)), 0);
});
