// What flow-mods and group-mods do to the tables of a bridge, as one change.
//
// Bundles (OpenFlow 1.5.1 §6.9.4) need "all or nothing": a change is made at once and noted in an undo log; events
// (flow-removed messages, flow monitors) leave only on commit. The whole transaction runs in one turn of the event loop,
// so translation never meets a half-applied bundle.
//
//   begin() → apply(flowMod)* → commit()   events, bridge.flowsChanged()
//                             → rollback() tables as before, nobody has noticed

import type { GroupMod } from '../wire/openflow/messages.ts';
import { type FlowMod, type Match, OFPP_NONE, OfError } from '../wire/openflow/types.ts';
import type { CheckActions, FlowEvent, FlowTables, RemovedReason, Requester } from './flowMods.ts';
import {
  actionsEqual,
  cookieKey,
  groupsOf,
  type LearnedCookie,
  learnedCookies,
} from './flowModsActions.ts';
import {
  COOKIE_ALL_ONES,
  checkFlowMod,
  meets,
  newRule,
  OFPG_ANY,
  stateFlags,
  tableForCheck,
  tablesOf,
  writableTable,
} from './flowModsRules.ts';
import { addOf, discardFlow, type PreparedFlow, setFromFlowMod } from './preparedFlow.ts';
import { HIDDEN_TABLE } from './tableNumbers.ts';
import type { FlowTable, Rule } from './types.ts';

/** Changes that become visible to monitors, and final, together. */
export class FlowTransaction {
  readonly #tables: FlowTables;
  readonly #checkActions: CheckActions | undefined;
  /** A rule: it was removed if it is removed, otherwise inserted. */
  readonly #undo: (Rule | (() => void))[] = [];
  readonly #events: FlowEvent[] = [];
  #groupsChanged = false;
  #nowMs: number | undefined;

  constructor(tables: FlowTables, checkActions: CheckActions | undefined) {
    this.#tables = tables;
    this.#checkActions = checkActions;
  }

  /** One moment for all changes: asking the clock for each of a hundred thousand takes its time. */
  #now(): number {
    this.#nowMs ??= this.#tables.bridge.nowMs();
    return this.#nowMs;
  }

  /** Throws OfError; the caller then rolls the transaction back. */
  apply(flowMod: FlowMod, requester?: Requester): void {
    checkFlowMod(flowMod);
    switch (flowMod.command) {
      case 'add':
        this.#add(flowMod, requester);
        break;
      case 'modify':
      case 'modify_strict':
        this.#modify(flowMod, requester);
        break;
      case 'delete':
      case 'delete_strict': {
        const rules = this.#collect(flowMod, flowMod.outPort, flowMod.outGroup);
        for (const rule of rules) this.remove(rule, 'delete', requester);
        break;
      }
      default:
        throw new OfError('OFPFMFC_BAD_COMMAND');
    }
  }

  /** A group-mod. Flows that name a group which goes are removed. Throws OfError. */
  applyGroup(mod: GroupMod, requester?: Requester): void {
    const { bridge } = this.#tables;
    const { deleted, undo } = bridge.groups.apply(mod);
    this.#undo.push(undo);
    this.#groupsChanged = true;
    if (deleted.length === 0) return;
    const gone = new Set(deleted.map((group) => group.id));
    const doomed: Rule[] = [];
    for (const table of bridge.tables) {
      for (const rule of table) {
        if (groupsOf(rule.actions).some((id) => gone.has(id))) doomed.push(rule);
      }
    }
    for (const rule of doomed) this.remove(rule, 'group_delete', requester);
  }

  /**
   * Flows that were learned by flows that are no more, if those said delete_learned: they go unless another flow
   * learns with the same table and cookie.
   */
  #removeLearned(): void {
    const { bridge } = this.#tables;
    for (let seen = 0; seen < this.#events.length; ) {
      const doomed = new Map<string, LearnedCookie>();
      let last: Rule['actions'] | undefined;
      for (; seen < this.#events.length; seen++) {
        const event = this.#events[seen]!;
        const actions = event.event === 'removed' ? event.rule.actions : event.oldActions;
        // Many flows share a list.
        if (actions === undefined || actions === last) continue;
        last = actions;
        for (const one of learnedCookies(actions)) doomed.set(cookieKey(one), one);
      }
      if (doomed.size === 0) return;
      for (const table of bridge.tables) {
        for (const rule of table) {
          for (const one of learnedCookies(rule.actions)) doomed.delete(cookieKey(one));
        }
      }
      for (const { table, cookie } of doomed.values()) {
        for (const rule of [...(bridge.tables[table] ?? [])]) {
          if (rule.cookie === cookie) this.remove(rule, 'delete', undefined);
        }
      }
    }
  }

  commit(): void {
    this.#removeLearned();
    if (this.#events.length > 0 || this.#groupsChanged) this.#tables.revision++;
    if (this.#events.length === 0) {
      if (this.#groupsChanged) this.#tables.bridge.flowsChanged();
      return;
    }
    this.#undo.length = 0;
    const { bridge, onEvents } = this.#tables;
    // The last word on counters that flow-removed messages will quote, before translation forgets the rules.
    if (this.#events.some(({ event, rule }) => event === 'removed' && rule.flags.sendFlowRem)) {
      bridge.syncStats();
    }
    bridge.flowsChanged(this.#groupsChanged ? undefined : this.#events);
    this.#tables.reportVacancy(this.#events);
    onEvents?.(this.#events);
  }

  rollback(): void {
    for (let undo = this.#undo.pop(); undo !== undefined; undo = this.#undo.pop()) {
      if (typeof undo === 'function') undo();
      else this.#takeBack(undo);
    }
    this.#events.length = 0;
  }

  remove(rule: Rule, reason: RemovedReason, requester: Requester | undefined): void {
    if (rule.removed) return;
    const table = this.#tables.bridge.tables[rule.table];
    table.remove(rule);
    rule.removed = true;
    this.#forgetTimeouts(rule);
    this.#undo.push(rule);
    this.#events.push({ event: 'removed', rule, reason, requester });
  }

  insert(rule: Rule, requester: Requester | undefined): void {
    const table = this.#tables.bridge.tables[rule.table];
    table.insert(rule);
    this.#inserted(rule, requester);
  }

  #inserted(rule: Rule, requester: Requester | undefined): void {
    if (expires(rule)) this.#tables.expirable.add(rule);
    this.#undo.push(rule);
    this.#events.push({ event: 'added', rule, oldActions: undefined, requester });
  }

  #takeBack(rule: Rule): void {
    const table = this.#tables.bridge.tables[rule.table];
    if (rule.removed) {
      rule.removed = false;
      table.insert(rule);
      this.#trackTimeouts(rule);
      return;
    }
    table.remove(rule);
    rule.removed = true;
    this.#forgetTimeouts(rule);
  }

  /** An add that was prepared (preparedFlow.ts). Throws OfError; then the flow still has its place. */
  addPrepared(prepared: PreparedFlow, requester?: Requester): void {
    const { rule, place } = prepared;
    const { bridge } = this.#tables;
    if (place === undefined) throw new Error('a prepared flow comes once');
    const table = bridge.tables[rule.table];
    const old = table.inPlace(place, rule.priority);
    if (old !== undefined) {
      discardFlow(bridge, prepared);
      this.#replace(old, addOf(rule), requester);
      return;
    }
    this.#admit(table, rule.match, rule.priority, rule.flags, requester);
    const now = this.#now();
    rule.createdMs = now;
    rule.modifiedMs = now;
    rule.usedMs = now;
    prepared.place = undefined;
    table.put(place, rule);
    this.#inserted(rule, requester);
  }

  #add(flowMod: FlowMod, requester: Requester | undefined): void {
    const { bridge } = this.#tables;
    const table = writableTable(bridge, flowMod.table);
    this.#checkActions?.(flowMod.actions, flowMod.match, table.id, requester?.version);
    const old = table.findStrict(flowMod.match, flowMod.priority);
    if (old !== undefined) {
      this.#replace(old, flowMod, requester);
      return;
    }
    const { match, priority, actions } = flowMod;
    this.#admit(table, match, priority, flowMod.flags, requester);
    const rule = newRule(bridge, table.id, match, priority, actions, this.#now());
    setFromFlowMod(rule, flowMod);
    this.insert(rule, requester);
  }

  /** May a new flow come into the table? Perhaps another one has to go. */
  #admit(
    table: FlowTable,
    match: Match,
    priority: number,
    flags: FlowMod['flags'],
    requester: Requester | undefined,
  ): void {
    if (flags.checkOverlap && table.findOverlap(match, priority)) {
      throw new OfError('OFPFMFC_OVERLAP');
    }
    if (table.size >= this.#tables.config[table.id].flowLimit) {
      const victim = this.#tables.evictionCandidate(table.id);
      if (victim === undefined) throw new OfError('OFPFMFC_TABLE_FULL');
      this.remove(victim, 'eviction', requester);
    }
  }

  /** An add over an existing rule: everything is new but, unless reset, the counters and the last use. */
  #replace(rule: Rule, flowMod: FlowMod, requester: Requester | undefined): void {
    const { bridge } = this.#tables;
    if (flowMod.flags.resetCounts) bridge.syncStats();
    const before = this.#remember(rule);
    rule.actions = flowMod.actions;
    if (flowMod.newCookie !== COOKIE_ALL_ONES) rule.cookie = flowMod.newCookie;
    rule.idleTimeout = flowMod.idleTimeout;
    rule.hardTimeout = flowMod.hardTimeout;
    rule.importance = flowMod.importance;
    rule.flags = stateFlags(flowMod.flags);
    rule.createdMs = this.#now();
    rule.modifiedMs = rule.createdMs;
    this.#resetCounts(rule, flowMod);
    this.#trackTimeouts(rule);
    this.#events.push({ event: 'added', rule, oldActions: before.actions, requester });
  }

  #modify(flowMod: FlowMod, requester: Requester | undefined): void {
    const { bridge } = this.#tables;
    // Modify never looks at out_port and out_group.
    const rules = this.#collect(flowMod, OFPP_NONE, OFPG_ANY);
    if (rules.length === 0) {
      // OpenFlow 1.0 and 1.1: a modify that matches nothing adds, unless it selected by cookie.
      if (flowMod.newCookie !== COOKIE_ALL_ONES && flowMod.cookieMask === 0n) {
        this.#add(flowMod, requester);
      } else {
        this.#checkActions?.(
          flowMod.actions,
          flowMod.match,
          tableForCheck(flowMod.table),
          requester?.version,
        );
      }
      return;
    }
    for (const rule of rules)
      this.#checkActions?.(flowMod.actions, rule.match, rule.table, requester?.version);
    if (flowMod.flags.resetCounts) bridge.syncStats();
    const now = this.#now();
    for (const rule of rules) {
      const before = this.#remember(rule);
      rule.actions = flowMod.actions;
      if (flowMod.modifyCookie && flowMod.newCookie !== COOKIE_ALL_ONES) {
        rule.cookie = flowMod.newCookie;
      }
      rule.modifiedMs = now;
      this.#resetCounts(rule, flowMod);
      const sameActions = actionsEqual(before.actions, rule.actions);
      // A monitor does not hear of a modify that changes nothing that it could see.
      if (sameActions && before.cookie === rule.cookie) {
        continue;
      }
      this.#events.push({
        event: 'modified',
        rule,
        oldActions: sameActions ? undefined : before.actions,
        requester,
      });
    }
  }

  /** Rules that a modify or delete means; those of the switch itself cannot be meant. */
  #collect(flowMod: FlowMod, outPort: number, outGroup: number): Rule[] {
    const { command, table, match, cookie, cookieMask } = flowMod;
    const criteria = { table, match, cookie, cookieMask, outPort, outGroup };
    const strict = command === 'modify_strict' || command === 'delete_strict';
    let rules: Rule[];
    if (strict) {
      rules = [];
      for (const flowTable of tablesOf(this.#tables.bridge, table)) {
        const rule = flowTable.findStrict(match, flowMod.priority);
        if (rule !== undefined && meets(rule, criteria)) rules.push(rule);
      }
    } else {
      rules = this.#tables.select(criteria);
    }
    const writable = rules.filter((rule) => rule.table !== HIDDEN_TABLE);
    if (writable.length === 0 && rules.length > 0) throw new OfError('OFPBRC_EPERM');
    return writable;
  }

  #remember(rule: Rule): Rule {
    const before = { ...rule };
    this.#undo.push(() => {
      Object.assign(rule, before);
      this.#trackTimeouts(rule);
    });
    return before;
  }

  #resetCounts(rule: Rule, flowMod: FlowMod): void {
    if (!flowMod.flags.resetCounts) return;
    rule.packets = 0;
    rule.bytes = 0;
  }

  #forgetTimeouts(rule: Rule): void {
    const { expirable } = this.#tables;
    if (expirable.size > 0) expirable.delete(rule);
  }

  #trackTimeouts(rule: Rule): void {
    if (expires(rule)) this.#tables.expirable.add(rule);
    else this.#forgetTimeouts(rule);
  }
}

function expires({ idleTimeout, hardTimeout }: Rule): boolean {
  return idleTimeout !== 0 || hardTimeout !== 0;
}
