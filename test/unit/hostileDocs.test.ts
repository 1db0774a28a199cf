// docs/hostile-guests.md says what hostileCases.ts says, and the tests that it names exist.
// XVIO_WRITE_DOCS=1 writes the tables into the document.

import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { it } from 'node:test';
import { FRONTEND_CASES, GUEST_CASES, type HostileCase } from './hostileCases.ts';

const TEST = join(import.meta.dirname, '..');
const DOCUMENT = join(TEST, '..', 'docs', 'hostile-guests.md');

function table(cases: readonly HostileCase[]): string {
  const rows = cases.map(({ id, attack, reaction, seen, tests }) => {
    const files = [...new Set(tests.map(([file]) => file.replace(/^.*\/|\.test\.ts$/g, '')))];
    return `| ${id} | ${attack} | ${reaction} | ${seen} | ${files.join(', ')} |`;
  });
  return [
    '| case | attack | reaction | seen as | tests |',
    '| --- | --- | --- | --- | --- |',
    ...rows,
  ].join('\n');
}

const TABLES = { guests: table(GUEST_CASES), 'front-ends': table(FRONTEND_CASES) };

it('every case is there once', () => {
  const expected = (letter: string, count: number): string[] =>
    Array.from({ length: count }, (_, i) => `${letter}${i + 1}`);
  assert.deepEqual(
    GUEST_CASES.map(({ id }) => id),
    expected('G', 33),
  );
  assert.deepEqual(
    FRONTEND_CASES.map(({ id }) => id),
    expected('F', 27),
  );
});

it('every test that is named exists', () => {
  for (const { id, tests } of [...GUEST_CASES, ...FRONTEND_CASES]) {
    assert.ok(tests.length > 0, `${id} has no test`);
    for (const [file, name] of tests) {
      const text = readFileSync(join(TEST, file), 'utf8');
      assert.ok(text.includes(name), `${id}: no test "${name}" in ${file}`);
    }
  }
});

it('every counter and every text that is named is looked at in one of those tests', () => {
  for (const { id, seen, tests } of [...GUEST_CASES, ...FRONTEND_CASES]) {
    const text = tests.map(([file]) => readFileSync(join(TEST, file), 'utf8')).join('\n');
    for (const [, counter] of seen.matchAll(/`([a-z]+(?:_[a-z]+)+)`/g)) {
      assert.ok(text.includes(counter!), `${id}: no test looks at ${counter}`);
    }
    for (const [, message] of seen.matchAll(/`([a-z]+(?: [a-z]+)+)`/g)) {
      assert.ok(text.includes(message!), `${id}: no test looks for "${message}"`);
    }
  }
});

it('the document has these tables', () => {
  let text = readFileSync(DOCUMENT, 'utf8');
  for (const [name, rows] of Object.entries(TABLES)) {
    const begin = `<!-- ${name} -->\n`;
    const end = `\n<!-- end of ${name} -->`;
    const [from, to] = [text.indexOf(begin) + begin.length, text.indexOf(end)];
    assert.ok(from >= begin.length && to >= from, `no place for the table of ${name}`);
    if (process.env.XVIO_WRITE_DOCS === '1') text = text.slice(0, from) + rows + text.slice(to);
    else assert.equal(text.slice(from, to), rows, 'XVIO_WRITE_DOCS=1 writes it anew');
  }
  if (process.env.XVIO_WRITE_DOCS === '1') writeFileSync(DOCUMENT, text);
});
