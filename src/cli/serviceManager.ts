// Under systemd (Type=notify): ready when the first configuration is in force, and alive as long as the event loop turns
// and every worker polls. A worker that stands still for seconds ends the watchdog's patience, and systemd starts us anew.

import { sdNotify } from '../sys/sdNotify.ts';

export interface ServiceManager {
  ready(): void;
  stopping(): void;
  /** Another process is the service's main process now: to be said before this one ends, which would be the service's end. */
  handedOver(pid: number): void;
}

/**
 * `environment`: NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID; taken out of it, so that no child inherits them.
 * `stalled`: workers that do not answer; while there are any, the watchdog is not fed.
 */
export function serviceManager(
  environment: NodeJS.ProcessEnv,
  stalled: () => readonly number[],
): ServiceManager {
  const { NOTIFY_SOCKET: socket, WATCHDOG_USEC: watchdogUs, WATCHDOG_PID: pid } = environment;
  for (const name of ['NOTIFY_SOCKET', 'WATCHDOG_USEC', 'WATCHDOG_PID']) delete environment[name];
  const say = (...lines: string[]): boolean => sdNotify(lines, socket);
  const periodMs = Number(watchdogUs) / 2000;
  // With --detach and --monitor systemd knows the pid of a stage before us: the watchdog is still ours to feed.
  const wanted = socket !== undefined && periodMs > 0 && (pid === undefined || Number(pid) > 0);
  const feed = (): void => {
    const still = stalled();
    if (still.length === 0) say('WATCHDOG=1');
    else say(`STATUS=worker ${still.join(', ')} stands still`);
  };
  return {
    ready: () => {
      say('READY=1', `MAINPID=${process.pid}`, 'STATUS=switching');
      if (wanted) setInterval(feed, Math.max(periodMs, 1)).unref();
    },
    handedOver: (other) => void say(`MAINPID=${other}`),
    stopping: () => void say('STOPPING=1', 'STATUS=ending'),
  };
}
