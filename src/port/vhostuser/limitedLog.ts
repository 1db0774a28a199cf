// A log that a front-end cannot flood: it can connect and misbehave thousands of times a second, and each time there is
// something to say. A bucket of lines, refilled slowly, as vlog_rate_limit of Open vSwitch.

import type { NetdevContext } from '../types.ts';

type Log = NetdevContext['log'];

const BURST = 30;
const PER_SECOND = 1;

/** Passes at most BURST lines at once and PER_SECOND on average; says how many were left out. Debugging is not limited. */
export function limitedLog(log: Log, nowMs: () => number = () => performance.now()): Log {
  let tokens = BURST;
  let lastMs = nowMs();
  let dropped = 0;
  const limit =
    (say: (text: string) => void) =>
    (text: string): void => {
      const now = nowMs();
      tokens = Math.min(BURST, tokens + ((now - lastMs) / 1000) * PER_SECOND);
      lastMs = now;
      if (tokens < 1) {
        dropped++;
        return;
      }
      tokens--;
      const left = dropped;
      dropped = 0;
      say(
        left === 0 ? text : `${text} (dropped ${left} log messages before, due to excessive rate)`,
      );
    };
  return {
    info: limit((text) => log.info(text)),
    warn: limit((text) => log.warn(text)),
    err: limit((text) => log.err(text)),
    dbg: (text) => log.dbg(text),
  };
}
