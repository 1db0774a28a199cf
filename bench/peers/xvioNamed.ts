// xvio for a profile: a copy of this checkout whose data plane has kept the names of its functions, and whose V8 tells perf where
// its code lies (--perf-basic-prof). And whose functions stay where they are, or all would be in three or four: that makes it
// slower by a quarter, so its table is a map of the release, and its sums are its own.

import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import { compile } from '../../scripts/build.ts';

const ROOT = path.join(import.meta.dirname, '../..');
const BUILD = path.join(ROOT, 'build');
const MODULE = 'dataplane.wasm';

/** The release module with names: made once after each build. */
async function namedModule(): Promise<string> {
  const named = path.join(BUILD, 'dataplane.named.wasm');
  const made = existsSync(named) ? statSync(named).mtimeMs : 0;
  if (made < statSync(path.join(BUILD, MODULE)).mtimeMs) {
    await compile('dataplane/index.ts', named, ['-O3', '--noAssert', '--converge', '--debug']);
  }
  return named;
}

/**
 * Makes the copy in an empty directory. `quick`: with the module of the tests, which has names and assertions, so that nothing
 * has to be compiled; its times mean nothing.
 */
export async function makeNamedCopy(directory: string, quick: boolean): Promise<void> {
  const module = quick ? path.join(BUILD, 'dataplane.debug.wasm') : await namedModule();
  for (const name of ['src', 'contract', 'package.json']) {
    cpSync(path.join(ROOT, name), path.join(directory, name), { recursive: true });
  }
  for (const name of ['build', 'bin']) mkdirSync(path.join(directory, name));
  cpSync(module, path.join(directory, 'build', MODULE));
  symlinkSync(path.join(ROOT, 'node_modules'), path.join(directory, 'node_modules'));
  const start = path.join(directory, 'bin/ovs-vswitchd');
  const daemon = path.join(directory, 'src/cli/ovs-vswitchd.ts');
  const flags = `--perf-basic-prof --no-wasm-inlining --disable-warning=ExperimentalWarning`;
  writeFileSync(start, `#!/bin/sh\nexec '${process.execPath}' ${flags} '${daemon}' "$@"\n`);
  chmodSync(start, 0o755);
}
