// A daemon that loads a file of the bench into each of its threads: a directory with bin/ovs-vswitchd, as bench/peers/xvio.ts wants it.

import { chmodSync, mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { ROOT } from '../test/interop/sandbox.ts';

/** `preload` writes to the file that the environment variable `variable` names: this one, empty now. Both paths are below ROOT. */
export function launcherIn(directory: string, preload: string, variable: string): string {
  mkdirSync(path.join(directory, 'bin'));
  const node = path.join(ROOT, 'node_modules', '.bin', 'node');
  const [main, loaded] = ['src/cli/ovs-vswitchd.ts', preload].map((name) => path.join(ROOT, name));
  const launcher = path.join(directory, 'bin', 'ovs-vswitchd');
  const flags = `--disable-warning=ExperimentalWarning --import='${loaded}'`;
  const file = path.join(directory, 'stamps');
  writeFileSync(file, '');
  writeFileSync(
    launcher,
    `#!/bin/sh\n${variable}='${file}' exec '${node}' ${flags} '${main}' "$@"\n`,
  );
  chmodSync(launcher, 0o755);
  return file;
}
