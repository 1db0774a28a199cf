// What a flow-mod does to the flow tables of a bridge: OpenFlow 1.0 … 1.5, "Flow Table Modification Messages"
// (1.5.1 §6.4), with the meaning that Open vSwitch gives to the parts the specification leaves open.
//
// Pure semantics: no bytes, no connections. Everything goes through a transaction, because bundles (1.5.1 §6.9.4)
// need "all or nothing": a change is made at once and noted in an undo log; events (flow-removed messages, flow
// monitors) leave only on commit. The whole transaction runs in one turn of the event loop, so translation never
// meets a half-applied bundle.
//
//   begin() → apply(flowMod)* → commit()   events, bridge.flowsChanged()
//                             → rollback() tables as before, nobody has noticed

import { F_TUN_METADATA } from '../../contract/key.ts';
import { BUCKET_ALL, OFPG_ALL, OFPGC_DELETE } from '../wire/openflow/group.ts';
import type { GroupMod, TlvMapping } from '../wire/openflow/messages.ts';
import { OFPM_ALL } from '../wire/openflow/meter.ts';
import {
  type Action,
  type FlowMod,
  type Match,
  OFPP_NONE,
  OfError,
  type OfVersion,
  type Subfield,
} from '../wire/openflow/types.ts';
import { evictionFields, victimOf } from './eviction.ts';
import {
  actionsEqual,
  cookieKey,
  groupsOf,
  type LearnedCookie,
  learnedCookies,
  mentionsField,
  metersOf,
} from './flowModsActions.ts';
import {
  COOKIE_ALL_ONES,
  checkFlowMod,
  HIDDEN_TABLE,
  meets,
  N_TABLES,
  newRule,
  OFPG_ANY,
  type RuleCriteria,
  stateFlags,
  tableForCheck,
  tablesOf,
  writableTable,
} from './flowModsRules.ts';
import type { Meter } from './meters.ts';
import type { Bridge, FlowOwner, Rule } from './types.ts';

export type RemovedReason =
  | 'idle_timeout'
  | 'hard_timeout'
  | 'delete'
  | 'eviction'
  | 'group_delete'
  | 'meter_delete';

/** Who asked for a change: lets a flow monitor abbreviate what its own connection did. */
export interface Requester {
  connection: unknown;
  xid: number;
  /** Which actions fit a match depends on the version that they were written in. */
  version?: OfVersion;
}

/** Throws OfError when a bridge cannot execute the actions of a flow with this match (src/switch/checkActions.ts). */
export type CheckActions = (
  actions: readonly Action[],
  match: Match,
  table: number,
  version?: OfVersion,
) => void;

/** `oldActions` is present when the actions changed: a monitor of an out_port hears of rules that leave it, too. */
export type FlowEvent =
  | {
      event: 'added' | 'modified';
      rule: Rule;
      oldActions: readonly Action[] | undefined;
      requester: Requester | undefined;
    }
  | { event: 'removed'; rule: Rule; reason: RemovedReason; requester: Requester | undefined };

/** Flow_Table row and OFPT_TABLE_MOD of one table. */
export interface TableConfig {
  name: string;
  /** Who gave the name: OVSDB wins over OpenFlow. */
  nameFromDatabase: boolean;
  flowLimit: number;
  /** Flow_Table.overflow_policy=evict. */
  evictByDatabase: boolean;
  /** Flow_Table.groups. */
  evictionGroups: readonly Subfield[];
  /** OFPTC14_EVICTION. */
  evictByOpenFlow: boolean;
  /** OFPTC11_TABLE_MISS_*, 0 = default of the protocol version. */
  missConfig: number;
}

/** Columns of the Flow_Table table; what is empty there is undefined here. */
export interface FlowTableRow {
  name?: string | undefined;
  flowLimit?: number | undefined;
  overflowPolicy?: 'evict' | 'refuse' | undefined;
  groups?: readonly string[] | undefined;
}

export interface FlowTablesOptions {
  checkActions?: CheckActions;
}

/** All flow tables of a bridge, with OpenFlow's rules about changing them. One per bridge. */
export class FlowTables implements FlowOwner {
  readonly bridge: Bridge;
  readonly config: TableConfig[] = [];
  /** Raised by each committed change of flows or groups. */
  revision = 0;
  /** Rules with a timeout, for expire.ts. */
  readonly expirable = new Set<Rule>();
  /** Called once for each committed transaction that changed something. */
  onEvents: ((events: readonly FlowEvent[]) => void) | undefined;
  readonly #checkActions: CheckActions | undefined;

  constructor(bridge: Bridge, options: FlowTablesOptions = {}) {
    this.bridge = bridge;
    this.#checkActions = options.checkActions;
    bridge.flows = this;
    for (let table = 0; table < N_TABLES; table++) {
      this.config.push({
        name: '',
        nameFromDatabase: false,
        flowLimit: Number.POSITIVE_INFINITY,
        evictByDatabase: false,
        evictionGroups: [],
        evictByOpenFlow: false,
        missConfig: 0,
      });
    }
  }

  begin(): FlowTransaction {
    return new FlowTransaction(this, this.#checkActions);
  }

  /** One flow-mod by itself. Throws OfError and leaves the tables as they were. */
  apply(flowMod: FlowMod, requester?: Requester): void {
    const transaction = this.begin();
    try {
      transaction.apply(flowMod, requester);
    } catch (error) {
      transaction.rollback();
      throw error;
    }
    transaction.commit();
  }

  /** One group-mod by itself. Throws OfError and leaves groups and tables as they were. */
  applyGroup(mod: GroupMod, requester?: Requester): void {
    const transaction = this.begin();
    transaction.applyGroup(mod, requester);
    transaction.commit();
  }

  learn(mod: FlowMod, limit: number): boolean {
    const rule = this.#learned(mod);
    if (rule !== undefined) {
      rule.modifiedMs = this.bridge.nowMs();
      return true;
    }
    if (limit !== 0) {
      let count = 0;
      for (const other of this.bridge.tables[mod.table] ?? []) {
        if (other.cookie === mod.newCookie) count++;
      }
      if (count >= limit) return false;
    }
    this.apply(mod);
    return true;
  }

  hasLearned(mod: FlowMod): boolean {
    return this.#learned(mod) !== undefined;
  }

  #learned(mod: FlowMod): Rule | undefined {
    const rule = this.bridge.tables[mod.table]?.findStrict(mod.match, mod.priority);
    if (rule === undefined || rule.cookie !== mod.newCookie) return undefined;
    return actionsEqual(rule.actions, mod.actions) ? rule : undefined;
  }

  reduceTimeouts(rule: Rule, idleTimeout: number, hardTimeout: number): void {
    if (rule.removed) return;
    const reduced = (old: number, wanted: number): number =>
      wanted !== 0 && (old === 0 || wanted < old) ? wanted : old;
    rule.idleTimeout = reduced(rule.idleTimeout, idleTimeout);
    rule.hardTimeout = reduced(rule.hardTimeout, hardTimeout);
    if (rule.idleTimeout !== 0 || rule.hardTimeout !== 0) this.expirable.add(rule);
  }

  /** Removes meters with the flows that use them. */
  removeMeters(meters: readonly Meter[], requester?: Requester): void {
    const gone = new Set(meters.map((meter) => meter.id));
    const transaction = this.begin();
    for (const table of this.bridge.tables) {
      for (const rule of table) {
        if (!metersOf(rule.actions).some((id) => gone.has(id))) continue;
        transaction.remove(rule, 'meter_delete', requester);
      }
    }
    transaction.commit();
    for (const meter of meters) this.bridge.meters?.remove(meter);
  }

  /** Loose matching, for statistics, deletes and modifies. Throws OFPBRC_BAD_TABLE_ID. */
  select(criteria: RuleCriteria): Rule[] {
    const rules: Rule[] = [];
    for (const table of tablesOf(this.bridge, criteria.table)) {
      for (const rule of table.findLoose(criteria.match)) {
        if (meets(rule, criteria)) rules.push(rule);
      }
    }
    return rules;
  }

  /** Removes the rules that still exist, as one change. */
  remove(rules: Iterable<Rule>, reason: RemovedReason): void {
    const transaction = this.begin();
    for (const rule of rules) transaction.remove(rule, reason, undefined);
    transaction.commit();
  }

  /**
   * Removes every rule but the switch's own of table 254, every group and every meter (a controller came or went,
   * fail-open).
   */
  flush(): void {
    const transaction = this.begin();
    for (const table of this.bridge.tables) {
      if (table.id === HIDDEN_TABLE) continue;
      for (const rule of [...table]) transaction.remove(rule, 'delete', undefined);
    }
    transaction.applyGroup({
      command: OFPGC_DELETE,
      commandBucket: BUCKET_ALL,
      group: OFPG_ALL,
      groupType: 0,
      buckets: [],
    });
    transaction.commit();
    const { meters } = this.bridge;
    for (const meter of meters?.select(OFPM_ALL) ?? []) meters?.remove(meter);
  }

  /** A rule of the switch itself. Replaces one of the same match and priority. */
  addOwn(rule: {
    match: Match;
    priority: number;
    actions: readonly Action[];
    table?: number;
  }): Rule {
    const table = this.bridge.tables[rule.table ?? 0];
    const added = newRule(this.bridge, table.id, rule.match, rule.priority, rule.actions);
    const old = table.findStrict(rule.match, rule.priority);
    const transaction = this.begin();
    if (old !== undefined) transaction.remove(old, 'delete', undefined);
    transaction.insert(added, undefined);
    transaction.commit();
    return added;
  }

  /** True if a flow matches on or writes this field tun_metadataN. */
  usesTunMetadata({ index, optionLen, offset = 0 }: TlvMapping): boolean {
    const start = F_TUN_METADATA + offset;
    const name = `tun_metadata${index}`;
    for (const table of this.bridge.tables) {
      for (const { match, actions } of table) {
        const matched = match.mask.subarray(start, start + optionLen).some((byte) => byte !== 0);
        if (matched || mentionsField(actions, name)) return true;
      }
    }
    return false;
  }

  /** Applies a Flow_Table row; undefined = there is none. A lower limit may evict rules at once. */
  configureTable(table: number, row: FlowTableRow | undefined): void {
    const config = this.config[table];
    const named = row?.name !== undefined && row.name !== '';
    // A name that a controller gave stays, one of the database goes with its row.
    if (named) config.name = row.name ?? '';
    else if (config.nameFromDatabase) config.name = '';
    config.nameFromDatabase = named;
    config.flowLimit = row?.flowLimit ?? Number.POSITIVE_INFINITY;
    config.evictByDatabase = row?.overflowPolicy === 'evict';
    config.evictionGroups = evictionFields(row?.groups ?? []);
    const transaction = this.begin();
    while (this.bridge.tables[table].size > config.flowLimit) {
      const victim = this.evictionCandidate(table);
      if (victim === undefined) break;
      transaction.remove(victim, 'eviction', undefined);
    }
    transaction.commit();
  }

  /** Undefined when nothing may be evicted. */
  evictionCandidate(table: number): Rule | undefined {
    const config = this.config[table];
    if (!config.evictByDatabase && !config.evictByOpenFlow) return undefined;
    const rules = [...this.expirable].filter((rule) => rule.table === table);
    return victimOf(rules, config.evictionGroups);
  }
}

/** Changes that become visible to monitors, and final, together. */
export class FlowTransaction {
  readonly #tables: FlowTables;
  readonly #checkActions: CheckActions | undefined;
  readonly #undo: (() => void)[] = [];
  readonly #events: FlowEvent[] = [];
  #groupsChanged = false;

  constructor(tables: FlowTables, checkActions: CheckActions | undefined) {
    this.#tables = tables;
    this.#checkActions = checkActions;
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
      for (; seen < this.#events.length; seen++) {
        const event = this.#events[seen]!;
        const actions = event.event === 'removed' ? event.rule.actions : event.oldActions;
        for (const one of learnedCookies(actions ?? [])) doomed.set(cookieKey(one), one);
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
    onEvents?.(this.#events);
  }

  rollback(): void {
    for (let undo = this.#undo.pop(); undo !== undefined; undo = this.#undo.pop()) undo();
    this.#events.length = 0;
  }

  remove(rule: Rule, reason: RemovedReason, requester: Requester | undefined): void {
    if (rule.removed) return;
    const table = this.#tables.bridge.tables[rule.table];
    table.remove(rule);
    rule.removed = true;
    this.#tables.expirable.delete(rule);
    this.#undo.push(() => {
      rule.removed = false;
      table.insert(rule);
      this.#trackTimeouts(rule);
    });
    this.#events.push({ event: 'removed', rule, reason, requester });
  }

  insert(rule: Rule, requester: Requester | undefined): void {
    const table = this.#tables.bridge.tables[rule.table];
    table.insert(rule);
    this.#trackTimeouts(rule);
    this.#undo.push(() => {
      table.remove(rule);
      rule.removed = true;
      this.#tables.expirable.delete(rule);
    });
    this.#events.push({ event: 'added', rule, oldActions: undefined, requester });
  }

  #add(flowMod: FlowMod, requester: Requester | undefined): void {
    const { bridge, config } = this.#tables;
    const table = writableTable(bridge, flowMod.table);
    this.#checkActions?.(flowMod.actions, flowMod.match, table.id, requester?.version);
    const old = table.findStrict(flowMod.match, flowMod.priority);
    if (old !== undefined) {
      this.#replace(old, flowMod, requester);
      return;
    }
    if (flowMod.flags.checkOverlap && table.findOverlap(flowMod.match, flowMod.priority)) {
      throw new OfError('OFPFMFC_OVERLAP');
    }
    if (table.size >= config[table.id].flowLimit) {
      const victim = this.#tables.evictionCandidate(table.id);
      if (victim === undefined) throw new OfError('OFPFMFC_TABLE_FULL');
      this.remove(victim, 'eviction', requester);
    }
    const { match, priority, actions } = flowMod;
    const rule = newRule(bridge, table.id, match, priority, actions);
    rule.cookie = flowMod.newCookie === COOKIE_ALL_ONES ? 0n : flowMod.newCookie;
    rule.idleTimeout = flowMod.idleTimeout;
    rule.hardTimeout = flowMod.hardTimeout;
    rule.importance = flowMod.importance;
    rule.flags = stateFlags(flowMod.flags);
    this.insert(rule, requester);
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
    rule.createdMs = bridge.nowMs();
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
    const now = bridge.nowMs();
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

  #trackTimeouts(rule: Rule): void {
    if (rule.idleTimeout !== 0 || rule.hardTimeout !== 0) this.#tables.expirable.add(rule);
    else this.#tables.expirable.delete(rule);
  }
}
