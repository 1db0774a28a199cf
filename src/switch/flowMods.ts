// All flow tables of a bridge, with OpenFlow's rules about changing them: OpenFlow 1.0 … 1.5, "Flow Table Modification
// Messages" (1.5.1 §6.4), with the meaning that Open vSwitch gives to the parts the specification leaves open.
//
// Pure semantics: no bytes, no connections. Every change goes through a transaction (flowTransaction.ts).

import { F_TUN_METADATA } from '../../contract/key.ts';
import { BUCKET_ALL, OFPG_ALL, OFPGC_DELETE } from '../wire/openflow/group.ts';
import type { GroupMod, TlvMapping } from '../wire/openflow/messages.ts';
import { OFPM_ALL } from '../wire/openflow/meter.ts';
import type { Action, FlowMod, Match, OfVersion, Subfield } from '../wire/openflow/types.ts';
import { evictionFields, victimOf } from './eviction.ts';
import { actionsEqual, mentionsField, metersOf } from './flowModsActions.ts';
import { meets, newRule, type RuleCriteria, tablesOf } from './flowModsRules.ts';
import { FlowTransaction } from './flowTransaction.ts';
import type { Meter } from './meters.ts';
import { HIDDEN_TABLE, N_TABLES } from './tableNumbers.ts';
import type { Bridge, FlowOwner, Rule } from './types.ts';
import { crossed, freePercent, type Vacancy } from './vacancy.ts';

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
  vacancy: Vacancy;
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
  /** A table became nearly full, or has room again; comes before the events that did it. */
  onVacancy: ((table: number, event: 'down' | 'up') => void) | undefined;
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
        vacancy: { downPercent: 0, upPercent: 0, awaited: undefined },
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

  /** Free space of a table. */
  freePercent(table: number): number {
    return freePercent(this.bridge.tables[table].size, this.config[table].flowLimit);
  }

  /** Tells of tables that these changes filled or emptied beyond a threshold. */
  reportVacancy(events: readonly FlowEvent[]): void {
    const seen = new Set<number>();
    for (const { event, rule } of events) {
      if (event === 'modified' || seen.has(rule.table)) continue;
      seen.add(rule.table);
      const { vacancy } = this.config[rule.table];
      if (vacancy.awaited === undefined) continue;
      const reached = crossed(vacancy, this.freePercent(rule.table));
      if (reached !== undefined) this.onVacancy?.(rule.table, reached);
    }
  }

  /** Undefined when nothing may be evicted. */
  evictionCandidate(table: number): Rule | undefined {
    const config = this.config[table];
    if (!config.evictByDatabase && !config.evictByOpenFlow) return undefined;
    const rules = [...this.expirable].filter((rule) => rule.table === table);
    return victimOf(rules, config.evictionGroups);
  }
}
