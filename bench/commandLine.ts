// Command lines of the programs in this directory: what is wrong with them is a sentence and an exit status, not a stack.

import { once } from 'node:events';
import { createServer } from 'node:net';
import { cpus } from 'node:os';
import { type ParseArgsConfig, parseArgs } from 'node:util';

export function fail(text: string): never {
  process.stderr.write(`bench: ${text}\n`);
  process.exit(1);
}

/** Values and positionals of this process; --help prints `help` and ends it. */
export function commandLine<T extends ParseArgsConfig>(help: string, config: T) {
  const args = process.argv.slice(2);
  if (args.includes('--help') || args.includes('-h')) {
    process.stdout.write(help);
    process.exit(0);
  }
  try {
    return parseArgs(config);
  } catch (error) {
    // Node goes on with advice about arguments that begin with a dash.
    return fail(`${(error as Error).message.split('. ')[0]} (--help lists what there is)`);
  }
}

export function wholeNumber(name: string, text: string, least: number, most = 2 ** 31): number {
  const value = Number(text);
  if (/^\d+$/.test(text) && value >= least && value <= most) return value;
  const range = most === 2 ** 31 ? `≥ ${least}` : `from ${least} to ${most}`;
  return fail(`--${name}: '${text}' is not a whole number ${range}`);
}

export const coreNumber = (name: string, text: string): number =>
  wholeNumber(name, text, 0, cpus().length - 1);

export function needRoot(): void {
  if (process.getuid?.() !== 0) {
    fail('the peers need root (network namespaces, hugepages): run it as root');
  }
}

/** Where somebody measures, an abstract name (unix(7)): it goes with the process, however that ends. */
const MEASURING = '\0xvio-bench';

/** Two runs at a time would measure each other, and their real-time threads would wait for each other for ever. */
export async function needMachine(name = MEASURING): Promise<void> {
  const server = createServer().unref();
  try {
    await once(server.listen(name), 'listening');
  } catch {
    fail('another run is measuring on this machine: wait for its end');
  }
}

/** Tries what may not be possible with a file that was named on the command line. */
export function orFail<T>(work: () => T): T {
  try {
    return work();
  } catch (error) {
    return fail((error as Error).message);
  }
}
