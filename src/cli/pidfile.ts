// The pid file: written under a temporary name, locked with a POSIX record lock, then renamed into place, so that
// ovs-appctl finds either no file or a locked one. The descriptor stays open for ever, and this process never opens
// the file a second time: closing any descriptor of it would drop the lock (fcntl(2)).

import { constants, ftruncateSync, openSync, renameSync, unlinkSync, writeSync } from 'node:fs';
import { strerror } from '../sys/ffi.ts';
import { lockHolder, tryLock } from '../sys/lock.ts';

export class PidfileError extends Error {}

function openForLock(path: string, create: boolean): number | undefined {
  try {
    return openSync(path, create ? constants.O_RDWR | constants.O_CREAT : constants.O_RDWR, 0o644);
  } catch (error) {
    if (!create && (error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw new PidfileError(`${path}: ${create ? 'create' : 'open'} failed (${describe(error)})`);
  }
}

const describe = (error: unknown): string =>
  strerror(-((error as NodeJS.ErrnoException).errno ?? 0));

/** Creates and locks the pid file; returns what removes it. Throws PidfileError if another process holds it. */
export function createPidfile(path: string, overwrite: boolean): () => void {
  if (!overwrite) {
    const existing = openForLock(path, false);
    if (existing !== undefined) {
      const owner = lockHolder(existing);
      if (owner !== undefined) {
        throw new PidfileError(`${path}: already running as pid ${owner}, aborting`);
      }
    }
  }
  const temporary = `${path}.tmp`;
  const fd = openForLock(temporary, true)!;
  if (!tryLock(fd))
    throw new PidfileError(`${temporary}: fcntl failed (Resource temporarily unavailable)`);
  const attempt = (what: string, act: () => void): void => {
    try {
      act();
    } catch (error) {
      // A stale file would be taken for that of a daemon.
      unlinkSync(temporary);
      throw new PidfileError(`${temporary}: ${what} failed (${describe(error)})`);
    }
  };
  attempt('truncate', () => ftruncateSync(fd, 0));
  attempt('write', () => writeSync(fd, `${process.pid}\n`));
  attempt('rename', () => renameSync(temporary, path));
  return () => {
    try {
      unlinkSync(path);
    } catch {
      // already gone
    }
  };
}
