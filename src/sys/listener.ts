// A listening Unix socket that is watched. accept(2) fails while the process, or the machine, has no descriptor left (EMFILE,
// ENFILE): the connection then waits and keeps the socket readable, so the loop would do nothing else. It is looked at
// ten times a second until there is one.

import { watchFd } from './poll.ts';
import { unixAccept } from './unix.ts';

const PAUSE_MS = 100;

/**
 * Hands each connection, a non-blocking descriptor, to `accepted`. `failed` hears why one could not be accepted: once, until one
 * has been. Disposing stops watching; the descriptor stays the caller's.
 */
export function watchListener(
  fd: number,
  accepted: (fd: number) => void,
  failed: (text: string) => void,
): Disposable {
  let told = false;
  let timer: NodeJS.Timeout | undefined;
  const watcher = watchFd(fd, { read: true }, () => {
    let connection: number;
    try {
      connection = unixAccept(fd);
    } catch (thrown) {
      if (!told) failed((thrown as Error).message);
      told = true;
      watcher.want({});
      timer = setTimeout(() => watcher.want({ read: true }), PAUSE_MS);
      return;
    }
    if (connection < 0) return;
    told = false;
    accepted(connection);
  });
  return {
    [Symbol.dispose]: () => {
      clearTimeout(timer);
      watcher[Symbol.dispose]();
    },
  };
}
