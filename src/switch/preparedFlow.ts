// Flows that are on their way into a table: those of a bundle that has not been committed. All that costs time is done when
// the flow-mod comes: the rule is made, and its place in the table held, where no packet and no request meets it. The
// commit, which has to happen at once, only puts rules into places (FlowTransaction.addPrepared). Open vSwitch does the
// same: it makes rules when messages are added, and versions when they are committed.
//
// Prepared are adds whose actions need nothing that may come or go until the commit, as groups and meters do. What becomes
// of an add (is there such a flow by then, is the table full?) is decided when it is committed, in its place among the others.

import { type FlowMod, OFPP_NONE } from '../wire/openflow/types.ts';
import type { Place } from './classifier.ts';
import { groupsOf, metersOf } from './flowModsActions.ts';
import {
  COOKIE_ALL_ONES,
  NO_BUFFER,
  newRule,
  OFPG_ANY,
  stateFlags,
  tableForCheck,
} from './flowModsRules.ts';
import { HIDDEN_TABLE } from './tableNumbers.ts';
import type { Bridge, Rule } from './types.ts';

export interface PreparedFlow {
  readonly rule: Rule;
  /** Undefined once it has been put there, or given up. */
  place: Place | undefined;
}

/** Undefined: such a flow-mod has to wait for the commit. */
export function prepareFlow(bridge: Bridge, flowMod: FlowMod): PreparedFlow | undefined {
  const { command, newCookie, match, priority, actions } = flowMod;
  if (command !== 'add' || newCookie === COOKIE_ALL_ONES) return undefined;
  const table = bridge.tables[tableForCheck(flowMod.table)];
  if (table === undefined || table.id === HIDDEN_TABLE) return undefined;
  if (groupsOf(actions).length > 0 || metersOf(actions).length > 0) return undefined;
  // Its time begins with the commit.
  const rule = newRule(bridge, table.id, match, priority, actions, 0);
  setFromFlowMod(rule, flowMod);
  return { rule, place: table.hold(rule.match) };
}

/** What an add sets. */
export function setFromFlowMod(rule: Rule, flowMod: FlowMod): void {
  rule.cookie = flowMod.newCookie === COOKIE_ALL_ONES ? 0n : flowMod.newCookie;
  rule.idleTimeout = flowMod.idleTimeout;
  rule.hardTimeout = flowMod.hardTimeout;
  rule.importance = flowMod.importance;
  rule.flags = stateFlags(flowMod.flags);
}

/** The add that would make this rule. */
export function addOf(rule: Rule): FlowMod {
  return {
    command: 'add',
    table: rule.table,
    match: rule.match,
    priority: rule.priority,
    cookie: 0n,
    cookieMask: 0n,
    newCookie: rule.cookie,
    modifyCookie: false,
    idleTimeout: rule.idleTimeout,
    hardTimeout: rule.hardTimeout,
    importance: rule.importance,
    bufferId: NO_BUFFER,
    outPort: OFPP_NONE,
    outGroup: OFPG_ANY,
    flags: rule.flags,
    actions: rule.actions as FlowMod['actions'],
  };
}

/** The flow does not come: its place is given up. */
export function discardFlow(bridge: Bridge, prepared: PreparedFlow): void {
  if (prepared.place === undefined) return;
  bridge.tables[prepared.rule.table]!.release(prepared.place);
  prepared.place = undefined;
}
