// The daemon's copy of the database: applies the updates of a monitor and gives out immutable
// snapshots.
//
// Rows are plain objects (tables.ts) and keep their identity while they do not change, also over a
// reconnection; so two snapshots are compared by comparing references, and a table that did not
// change is the same Map.

import {
  applyDiff,
  type ColumnType,
  type Datum,
  datumEquals,
  datumFromJson,
  defaultDatum,
  diffType,
} from '../../wire/ovsdb/datum.ts';
import { isObject, type Json, type JsonObject } from '../../wire/ovsdb/json.ts';
import type { MonitorVersion } from '../../wire/ovsdb/monitor.ts';
import type { DatabaseSchema } from '../../wire/ovsdb/schema.ts';
import { absent, decode, type KindOf } from './kinds.ts';
import {
  type OpenVSwitchRow,
  STATUS_COLUMNS,
  TABLE_NAMES,
  TABLES,
  type TableName,
  type TableRow,
} from './tables.ts';

export class Snapshot {
  readonly #tables: ReadonlyMap<TableName, ReadonlyMap<string, TableRow<TableName>>>;

  constructor(tables: ReadonlyMap<TableName, ReadonlyMap<string, TableRow<TableName>>>) {
    this.#tables = tables;
  }

  /** Rows of a table by uuid. */
  table<T extends TableName>(name: T): ReadonlyMap<string, TableRow<T>> {
    return (this.#tables.get(name) ?? new Map()) as ReadonlyMap<string, TableRow<T>>;
  }

  get<T extends TableName>(name: T, uuid: string | undefined): TableRow<T> | undefined {
    return uuid === undefined ? undefined : this.table(name).get(uuid);
  }

  /** The rows that a column with references names, those that are there. */
  rows<T extends TableName>(name: T, uuids: Iterable<string>): TableRow<T>[] {
    const table = this.table(name);
    return [...uuids].flatMap((uuid) => table.get(uuid) ?? []);
  }

  /** The one row of table Open_vSwitch, if the database has been initialized. */
  get root(): OpenVSwitchRow | undefined {
    return this.table('Open_vSwitch').values().next().value;
  }
}

export const EMPTY_SNAPSHOT = new Snapshot(new Map());

interface ReplicaRow {
  /** By column name, only columns that the server has. */
  readonly data: Map<string, Datum>;
  readonly plain: TableRow<TableName>;
}

interface ReplicaTable {
  readonly name: TableName;
  readonly types: ReadonlyMap<string, ColumnType>;
  rows: Map<string, ReplicaRow>;
  plain: ReadonlyMap<string, TableRow<TableName>>;
}

export interface ReplicaChange {
  readonly previous: Snapshot;
  readonly snapshot: Snapshot;
  /** Something changed that the daemon does not write itself. */
  readonly config: boolean;
}

export class Replica {
  readonly #tables = new Map<TableName, ReplicaTable>();
  #snapshot = EMPTY_SNAPSHOT;

  get snapshot(): Snapshot {
    return this.#snapshot;
  }

  /**
   * Takes the tables and columns that are both ours and the server's; returns the
   * <monitor-requests> for them.
   */
  start(schema: DatabaseSchema): JsonObject {
    const requests: Record<string, Json> = {};
    for (const name of TABLE_NAMES) {
      const table = schema.tables.get(name);
      const types = new Map<string, ColumnType>();
      for (const column of Object.keys(TABLES[name])) {
        const known = table?.columns.get(column);
        if (known) types.set(column, known.type);
      }
      const before = this.#tables.get(name);
      const { rows, plain } = before ?? { rows: new Map(), plain: new Map() };
      this.#tables.set(name, { name, types, rows, plain });
      if (types.size > 0) requests[name] = [{ columns: [...types.keys()] }];
    }
    return requests;
  }

  /** Replaces everything by the initial contents that a monitor request was answered with. */
  reset(updates: Json, version: MonitorVersion): ReplicaChange {
    const changed = new Map<TableName, Set<string>>();
    for (const table of this.#tables.values()) {
      const old = table.rows;
      const rows = new Map<string, ReplicaRow>();
      for (const [uuid, update] of members(members(updates).get(table.name))) {
        const json = members(update).get(version === 1 ? 'new' : 'initial');
        rows.set(uuid, this.#row(table, uuid, old.get(uuid), this.#values(table, json)));
      }
      const uuids = [...new Set([...old.keys(), ...rows.keys()])];
      const differing = uuids.filter((uuid) => old.get(uuid) !== rows.get(uuid));
      if (differing.length === 0) continue;
      table.rows = rows;
      changed.set(table.name, new Set(differing));
    }
    return this.#publish(changed);
  }

  /** Applies the updates of a notification. Throws OvsdbError if they do not fit the schema. */
  apply(updates: Json, version: MonitorVersion): ReplicaChange {
    const changed = new Map<TableName, Set<string>>();
    for (const [name, rows] of members(updates)) {
      const table = this.#tables.get(name as TableName);
      if (!table) continue;
      for (const [uuid, update] of members(rows)) {
        const before = table.rows.get(uuid);
        const after = this.#update(table, uuid, before, members(update), version);
        if (before === after) continue;
        if (after) table.rows.set(uuid, after);
        else table.rows.delete(uuid);
        const uuids = changed.get(table.name) ?? new Set();
        changed.set(table.name, uuids.add(uuid));
      }
    }
    return this.#publish(changed);
  }

  #update(
    table: ReplicaTable,
    uuid: string,
    before: ReplicaRow | undefined,
    update: ReadonlyMap<string, Json>,
    version: MonitorVersion,
  ): ReplicaRow | undefined {
    if (version === 1) {
      const json = update.get('new');
      if (json === undefined) return undefined;
      return this.#row(table, uuid, before, this.#values(table, json));
    }
    if (update.has('delete')) return undefined;
    const modify = update.get('modify');
    if (modify === undefined) {
      const json = update.get('insert') ?? update.get('initial');
      return this.#row(table, uuid, before, this.#values(table, json));
    }
    const data = new Map(before?.data ?? this.#values(table, {}));
    for (const [column, json] of members(modify)) {
      const type = table.types.get(column);
      if (!type) continue;
      const diff = datumFromJson(diffType(type), json);
      data.set(column, applyDiff(type, data.get(column)!, diff));
    }
    return this.#row(table, uuid, before, data);
  }

  /** All columns from a row in which those with default values may be missing. */
  #values(table: ReplicaTable, json: Json | undefined): Map<string, Datum> {
    const given = members(json);
    const data = new Map<string, Datum>();
    for (const [column, type] of table.types) {
      const value = given.get(column);
      data.set(column, value === undefined ? defaultDatum(type) : datumFromJson(type, value));
    }
    return data;
  }

  /** The row with these values: the one before if it is the same. */
  #row(
    table: ReplicaTable,
    uuid: string,
    before: ReplicaRow | undefined,
    data: Map<string, Datum>,
  ): ReplicaRow {
    const plain: Record<string, unknown> = { uuid };
    let same = before !== undefined && before.data.size === data.size;
    for (const [column, kind] of Object.entries(TABLES[table.name]) as [string, KindOf][]) {
      const datum = data.get(column);
      const old = before?.data.get(column);
      if (datum && old && datumEquals(datum, old)) {
        plain[column] = (before!.plain as Record<string, unknown>)[column];
        continue;
      }
      if (datum || old) same = false;
      plain[column] = datum ? decode(kind, datum) : absent(kind);
    }
    return same ? before! : { data, plain: plain as unknown as TableRow<TableName> };
  }

  #publish(changed: ReadonlyMap<TableName, ReadonlySet<string>>): ReplicaChange {
    const previous = this.#snapshot;
    if (changed.size === 0) return { previous, snapshot: previous, config: false };
    let config = false;
    for (const [name, uuids] of changed) {
      const table = this.#tables.get(name)!;
      const before = table.plain;
      const plain = new Map<string, TableRow<TableName>>();
      for (const [uuid, row] of table.rows) plain.set(uuid, row.plain);
      table.plain = plain;
      for (const uuid of uuids) {
        config ||= isConfigChange(name, before.get(uuid), plain.get(uuid));
      }
    }
    const tables = [...this.#tables.values()].map(({ name, plain }) => [name, plain] as const);
    this.#snapshot = new Snapshot(new Map(tables));
    return { previous, snapshot: this.#snapshot, config };
  }
}

function isConfigChange(name: TableName, before: object | undefined, after: object | undefined) {
  if (!before || !after) return true;
  const status = STATUS_COLUMNS[name] ?? [];
  return Object.entries(after).some(
    ([column, value]) =>
      !status.includes(column) && (before as Record<string, unknown>)[column] !== value,
  );
}

/** Members of a JSON object; none for anything else. */
function members(json: Json | undefined): Map<string, Json> {
  return new Map(isObject(json) ? Object.entries(json) : []);
}
