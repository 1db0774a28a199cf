// Timeouts of OpenFlow flows (1.5.1 §6.1.4): a flow goes when it has not been used for idle_timeout, or hard_timeout
// after it was added or last modified. Looked at once a second; rules that expire together leave as one change, so
// the data plane is revalidated once.

import type { FlowTables, RemovedReason } from './flowMods.ts';
import type { Rule } from './types.ts';

const INTERVAL_MS = 1000;

/** Removes what has timed out at `nowMs` and returns how many rules that were. */
export function expireFlows(tables: FlowTables, nowMs: number): number {
  let idleCandidate = false;
  for (const rule of tables.expirable) {
    if (expiry(rule, nowMs) === 'idle_timeout') {
      idleCandidate = true;
      break;
    }
  }
  // `usedMs` lags behind the data plane: ask it, but only if the answer matters.
  if (idleCandidate) tables.bridge.syncStats();
  const idle: Rule[] = [];
  const hard: Rule[] = [];
  for (const rule of tables.expirable) {
    const reason = expiry(rule, nowMs);
    if (reason === 'hard_timeout') hard.push(rule);
    else if (reason === 'idle_timeout') idle.push(rule);
  }
  if (hard.length > 0) tables.remove(hard, 'hard_timeout');
  if (idle.length > 0) tables.remove(idle, 'idle_timeout');
  return hard.length + idle.length;
}

/** Why the rule expires, if it does. */
export function expiry(rule: Rule, nowMs: number): RemovedReason | undefined {
  if (rule.hardTimeout !== 0 && nowMs > rule.modifiedMs + rule.hardTimeout * 1000) {
    return 'hard_timeout';
  }
  if (rule.idleTimeout !== 0 && nowMs > rule.usedMs + rule.idleTimeout * 1000) {
    return 'idle_timeout';
  }
  return undefined;
}

/** Expires the flows of one bridge until closed. Does not keep the process alive. */
export function startExpiry(tables: FlowTables): Disposable {
  const timer = setInterval(() => expireFlows(tables, tables.bridge.nowMs()), INTERVAL_MS);
  timer.unref();
  return { [Symbol.dispose]: () => clearInterval(timer) };
}
