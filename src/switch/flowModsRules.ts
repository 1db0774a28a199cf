// Rules of a flow table: which of them a request means, which belong to the switch itself, how a new one starts. The
// vocabulary of flowMods.ts, expire.ts, statistics and flow monitors.

import { packMatch } from '../wire/openflow/packedMatch.ts';
import {
  type Action,
  type FlowMod,
  type Match,
  OFPP_NONE,
  OfError,
} from '../wire/openflow/types.ts';
import { outputsToGroup, outputsToPort } from './flowModsActions.ts';
import { HIDDEN_TABLE } from './tableNumbers.ts';
import type { Bridge, FlowTable, Rule } from './types.ts';

export const ALL_TABLES = 0xff;
export const OFPG_ANY = 0xffffffff;
export const NO_BUFFER = 0xffffffff;
export const COOKIE_ALL_ONES = 0xffffffffffffffffn;
/** Priorities above 16 bits mark the switch's own rules (fail-open). */
const MAX_PRIORITY = 0xffff;

/** Which rules a request means. All fields as in the messages. */
export interface RuleCriteria {
  table: number;
  match: Match;
  cookie: bigint;
  cookieMask: bigint;
  outPort: number;
  outGroup: number;
}

/** Errors that do not depend on what the tables hold; bundles report them when a message is added. */
export function checkFlowMod(flowMod: FlowMod): void {
  if (flowMod.flags.emergency) {
    // The emergency cache of OpenFlow 1.0 never was implemented by anyone; these are the codes that controllers know.
    const timeouts = flowMod.hardTimeout !== 0 || flowMod.idleTimeout !== 0;
    throw new OfError(timeouts ? 'OFPFMFC_BAD_EMERG_TIMEOUT' : 'OFPFMFC_TABLE_FULL');
  }
  const adds = !flowMod.command.startsWith('delete');
  if (adds && flowMod.table === HIDDEN_TABLE) throw new OfError('OFPBRC_EPERM');
  // We never give out buffers, so no buffer can be meant.
  if (adds && flowMod.bufferId !== NO_BUFFER) throw new OfError('OFPBRC_BUFFER_UNKNOWN');
}

/** The tables that a request with this table number means: 0xff is all but the hidden one. */
export function* tablesOf(bridge: Bridge, table: number): Generator<FlowTable> {
  if (table === ALL_TABLES) {
    for (const flowTable of bridge.tables) {
      if (flowTable.id !== HIDDEN_TABLE) yield flowTable;
    }
    return;
  }
  const flowTable = bridge.tables[table];
  if (flowTable === undefined) throw new OfError('OFPBRC_BAD_TABLE_ID');
  yield flowTable;
}

/** A rule that controllers never see. */
export function isHidden(rule: Rule): boolean {
  return rule.priority > MAX_PRIORITY || (rule.hidden && rule.table !== HIDDEN_TABLE);
}

/** All criteria but the match, which the classifier has looked at. */
export function meets(rule: Rule, criteria: RuleCriteria): boolean {
  return (
    !isHidden(rule) &&
    (criteria.cookieMask === 0n ||
      ((rule.cookie ^ criteria.cookie) & criteria.cookieMask) === 0n) &&
    (criteria.outPort === OFPP_NONE || outputsToPort(rule.actions, criteria.outPort)) &&
    (criteria.outGroup === OFPG_ANY || outputsToGroup(rule.actions, criteria.outGroup))
  );
}

export function writableTable(bridge: Bridge, table: number): FlowTable {
  const flowTable = bridge.tables[tableForCheck(table)];
  if (flowTable === undefined) throw new OfError('OFPBRC_BAD_TABLE_ID');
  if (flowTable.id === HIDDEN_TABLE) throw new OfError('OFPBRC_EPERM');
  return flowTable;
}

/** OpenFlow 1.0 leaves the choice of the table to the switch. */
export function tableForCheck(table: number): number {
  return table === ALL_TABLES ? 0 : table;
}

/** Flags that stay with the rule and are shown in statistics. */
export function stateFlags(flags: FlowMod['flags']): FlowMod['flags'] {
  return flags.emergency === true ? { ...flags, emergency: false } : flags;
}

export function evictsBefore(a: Rule, b: Rule): boolean {
  if (a.importance !== b.importance) return a.importance < b.importance;
  return expirationMs(a) < expirationMs(b);
}

/** When the rule will time out if nothing uses it. */
export function expirationMs(rule: Rule): number {
  const hard = rule.hardTimeout === 0 ? Infinity : rule.modifiedMs + rule.hardTimeout * 1000;
  const idle = rule.idleTimeout === 0 ? Infinity : rule.usedMs + rule.idleTimeout * 1000;
  return Math.min(hard, idle);
}

const NO_FLAGS: FlowMod['flags'] = {
  sendFlowRem: false,
  checkOverlap: false,
  resetCounts: false,
  noPktCounts: false,
  noBytCounts: false,
};

export function newRule(
  bridge: Bridge,
  table: number,
  match: Match,
  priority: number,
  actions: readonly Action[],
  now = bridge.nowMs(),
): Rule {
  return {
    table,
    priority,
    match: packMatch(match),
    actions,
    cookie: 0n,
    idleTimeout: 0,
    hardTimeout: 0,
    importance: 0,
    flags: NO_FLAGS,
    createdMs: now,
    modifiedMs: now,
    usedMs: now,
    packets: 0,
    bytes: 0,
    hidden: priority > MAX_PRIORITY || table === HIDDEN_TABLE,
    removed: false,
  };
}
