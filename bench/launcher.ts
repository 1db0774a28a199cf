// The daemon with more to it: a directory with bin/ovs-vswitchd, as bench/peers/xvio.ts wants it.

import { chmodSync, mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { ROOT } from '../test/interop/sandbox.ts';

/** With these flags of node, and an assignment for its environment. Returns the launcher's path. */
export function launcherIn(directory: string, flags: string, environment = ''): string {
  mkdirSync(path.join(directory, 'bin'));
  const node = path.join(ROOT, 'node_modules', '.bin', 'node');
  const main = path.join(ROOT, 'src', 'cli', 'ovs-vswitchd.ts');
  const launcher = path.join(directory, 'bin', 'ovs-vswitchd');
  const command = `exec '${node}' --disable-warning=ExperimentalWarning ${flags} '${main}' "$@"`;
  writeFileSync(launcher, `#!/bin/sh\n${environment} ${command}\n`);
  chmodSync(launcher, 0o755);
  return launcher;
}

/**
 * Loads a file of the bench, whose path is below ROOT, into each thread. It writes to the file that the environment variable `variable`
 * names: the one returned, empty now.
 */
export function preloadingLauncherIn(directory: string, preload: string, variable: string): string {
  const file = path.join(directory, 'stamps');
  writeFileSync(file, '');
  launcherIn(directory, `--import='${path.join(ROOT, preload)}'`, `${variable}='${file}'`);
  return file;
}
