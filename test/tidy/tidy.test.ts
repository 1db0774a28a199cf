// Style as a test: import directions, file sizes, no registry addresses. ARCHITECTURE.md explains the layers.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { test } from 'node:test';

const root = join(import.meta.dirname, '..', '..');
const files = execFileSync('git', ['ls-files', '-co', '--exclude-standard'], {
  cwd: root,
  encoding: 'utf8',
})
  .split('\n')
  .filter((f) => f !== '');
const sources = files.filter((f) => /\.(ts|js|mjs)$/.test(f));

/** Layers: a file may import from its own layer's folders and from those listed. */
const MAY_IMPORT: Record<string, readonly string[]> = {
  contract: ['contract'],
  dataplane: ['contract', 'dataplane'],
  'src/sys': ['src/sys', 'src/wire', 'contract'],
  'src/wire': ['src/wire', 'contract'],
  'src/engine': ['src/engine', 'src/sys', 'contract'],
  'src/port': ['src/port', 'src/engine', 'src/sys', 'src/wire', 'contract'],
  'src/guest': ['src/guest', 'src/engine', 'src/sys', 'src/wire', 'contract'],
  'src/protocol': ['src/protocol', 'src/wire', 'contract'],
  'src/switch': [
    'src/switch',
    'src/protocol',
    'src/port',
    'src/engine',
    'src/sys',
    'src/wire',
    'contract',
  ],
  'src/observe': ['src/observe', 'src/sys', 'contract'],
  'src/control': [
    'src/control',
    'src/switch',
    'src/port',
    'src/engine',
    'src/observe',
    'src/sys',
    'src/wire',
    'contract',
  ],
  'src/main': ['src'],
  'src/cli': ['src'],
};

const inside = (path: string, folder: string): boolean =>
  path === folder || path.startsWith(`${folder}/`);

function imports(file: string): string[] {
  const text = readFileSync(join(root, file), 'utf8');
  return [
    ...text.matchAll(
      /(?:^|\n)\s*(?:import|export)[^'"\n;]*?(?:\{[^}]*\}[^'"\n;]*?)?from\s+['"](\.[^'"]+)['"]/g,
    ),
  ].map((m) => normalize(join(dirname(file), m[1]!)));
}

test('imports go one way', () => {
  const wrong: string[] = [];
  for (const file of sources) {
    const layer = Object.keys(MAY_IMPORT).find((l) => inside(file, l));
    if (!layer) continue;
    for (const target of imports(file)) {
      const allowed =
        MAY_IMPORT[layer]!.some((a) => inside(target, a)) ||
        (layer.startsWith('src/') && inside(target, 'contract'));
      if (!allowed) wrong.push(`${file} imports ${target}`);
    }
  }
  assert.deepEqual(wrong, []);
});

test('every source file says what it is in a header comment', () => {
  const without = sources.filter(
    (f) => !/^(#!.*\n)?(\/\/|\/\*)/.test(readFileSync(join(root, f), 'utf8')),
  );
  assert.deepEqual(without, []);
});

test('files can be read in one go', () => {
  // Tables of facts may be longer; they are named here so that growth is a decision.
  const tables = new Set<string>(['src/wire/openflow/types.ts', 'src/wire/openflow/fields.ts']);
  const long = sources
    .filter((f) => !f.startsWith('test/') && !tables.has(f))
    .map((f) => [f, readFileSync(join(root, f), 'utf8').split('\n').length] as const)
    .filter(([, lines]) => lines > 600);
  assert.deepEqual(long, []);
});

test('the lock file names no registry', () => {
  const lock = readFileSync(join(root, 'package-lock.json'), 'utf8');
  assert.doesNotMatch(lock, /"resolved":\s*"http/);
});
