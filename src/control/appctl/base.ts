// Commands that every daemon of Open vSwitch has: version, exit, vlog/*, coverage/*, memory/show.

import type { Coverage } from '../../observe/coverage.ts';
import type { Vlog } from '../../observe/vlog.ts';
import { type Command, CommandError } from './server.ts';

export interface BaseModules {
  vlog: Vlog;
  coverage: Coverage;
  version: string;
  /** Ends the daemon; `cleanup` also removes what would survive it (taps, flows). */
  exit(cleanup: boolean): Promise<void>;
  /** Name and value pairs of memory/show. */
  memory(): Record<string, number>;
}

const ok = (error: string | undefined): string => {
  if (error !== undefined) throw new CommandError(error);
  return '';
};

export function baseCommands(modules: BaseModules): Command[] {
  const { vlog, coverage } = modules;
  const command = (
    name: string,
    usage: string,
    minArgs: number,
    maxArgs: number,
    run: Command['run'],
  ): Command => ({ name, usage, minArgs, maxArgs, run });
  return [
    command('version', '', 0, 0, () => modules.version),
    command('exit', '[--cleanup]', 0, 1, async (args) => {
      await modules.exit(args[0] === '--cleanup');
      return '';
    }),
    command('vlog/set', '{spec | PATTERN:destination:pattern}', 0, 99, (args) => {
      for (const spec of args) ok(vlog.set(spec));
      return '';
    }),
    command('vlog/list', '', 0, 0, () => vlog.list()),
    command('vlog/list-pattern', '', 0, 0, () => vlog.listPatterns()),
    command('vlog/reopen', '', 0, 0, () => ok(vlog.reopenFile())),
    command('vlog/close', '', 0, 0, () => {
      vlog.closeFile();
      return '';
    }),
    command('vlog/enable-rate-limit', '[module]...', 0, 99, (args) =>
      ok(vlog.setRateLimits(true, args)),
    ),
    command('vlog/disable-rate-limit', '[module]...', 0, 99, (args) =>
      ok(vlog.setRateLimits(false, args)),
    ),
    command('coverage/show', '', 0, 0, () => coverage.show()),
    command('coverage/read-counter', 'COUNTER', 1, 1, (args) => {
      const value = coverage.read(args[0]!);
      if (value === undefined) throw new CommandError('No such counter');
      return String(value);
    }),
    command('memory/show', '', 0, 0, () =>
      Object.entries(modules.memory())
        .map(([name, value]) => `${name}:${value}`)
        .join(' '),
    ),
  ];
}
