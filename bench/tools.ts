// Commands that a scenario runs, and the Debian packages that have them.

import { existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';

/** Command → package. */
const PACKAGES = {
  ethtool: 'ethtool',
  ip: 'iproute2',
  iperf3: 'iperf3',
  ping: 'iputils-ping',
  ss: 'iproute2',
} as const;

export type Tool = keyof typeof PACKAGES;

/** Which of the commands are nowhere in `path` (as $PATH), and what to do about it; undefined = all are there. */
export function toolsMissing(
  tools: readonly Tool[],
  path: string = process.env.PATH ?? '',
): string | undefined {
  const directories = path.split(delimiter).filter((directory) => directory !== '');
  const missing = tools.filter(
    (tool) => !directories.some((directory) => existsSync(join(directory, tool))),
  );
  if (missing.length === 0) return undefined;
  const packages = [...new Set(missing.map((tool) => PACKAGES[tool]))];
  return `not here: ${missing.join(', ')}; apt-get install ${packages.join(' ')}`;
}
