// Monitors: what a client wants to hear of changes, and the messages that tell it.
//
// Version 1 is RFC 7047 §4.1.5/§4.1.6 ("monitor", "update": old and new values); versions 2 and 3
// are those of ovsdb-server(7) ("monitor_cond", "update2" and "monitor_cond_since", "update3":
// differences, and a condition per table that a row enters and leaves). A monitor keeps the first
// old and the last new row of everything that changed since its last message: a slow client costs
// one entry per row, however often the row changes, and gets the sum.

import { type Condition, matchesAny, parseCondition } from './condition.ts';
import type { ChangeSet, Database, Row, Table } from './database.ts';
import { datumEquals, datumToJson, diffDatum } from './datum.ts';
import { syntaxError } from './error.ts';
import { isArray, isObject, type Json, type JsonObject } from './json.ts';
import { ObjectParser } from './parser.ts';
import { type ColumnSchema, UUID_INDEX } from './schema.ts';

const INITIAL = 1;
const INSERT = 2;
const DELETE = 4;
const MODIFY = 8;
const ALL = INITIAL | INSERT | DELETE | MODIFY;

export type MonitorVersion = 1 | 2 | 3;

interface MonitoredColumn {
  readonly column: ColumnSchema;
  readonly select: number;
}

interface MonitoredTable {
  readonly table: Table;
  select: number;
  readonly columns: MonitoredColumn[];
  condition: Condition;
}

interface Change {
  readonly old: Row | undefined;
  new: Row | undefined;
}

function parseSelect(json: Json, table: string): number {
  const parser = new ObjectParser(json, `table ${table} select`);
  let select = 0;
  const bits = { initial: INITIAL, insert: INSERT, delete: DELETE, modify: MODIFY };
  for (const [name, bit] of Object.entries(bits)) {
    if (parser.optional(name, 'boolean') ?? true) select |= bit;
  }
  parser.finish();
  return select;
}

function parseColumns(table: Table, json: Json | undefined): ColumnSchema[] {
  const { columnList, columns } = table.schema;
  if (json === undefined) return columnList.filter(({ index }) => index !== UUID_INDEX);
  return (json as readonly Json[]).map((name) => {
    if (typeof name !== 'string') throw syntaxError(json, 'array of column names expected');
    const column = columns.get(name);
    if (column === undefined) throw syntaxError(json, `${name} is not a valid column name`);
    return column;
  });
}

/** Adds one <monitor-request>; returns its condition, undefined if it has none. */
function addRequest(
  monitored: MonitoredTable,
  json: Json,
  conditional: boolean,
): Condition | undefined {
  const { table } = monitored;
  const { name } = table.schema;
  const parser = new ObjectParser(json, `table ${name}`);
  const where = conditional ? parser.optional('where', 'array') : undefined;
  const columnsJson = parser.optional('columns', 'array');
  const selectJson = parser.optional('select', 'object');
  parser.finish();
  const select = selectJson === undefined ? ALL : parseSelect(selectJson, name);
  monitored.select |= select;
  for (const column of parseColumns(table, columnsJson)) {
    if (monitored.columns.some((known) => known.column === column)) {
      throw syntaxError(columnsJson, `column ${column.name} mentioned more than once`);
    }
    monitored.columns.push({ column, select });
  }
  return where === undefined ? undefined : parseCondition(table.schema, where);
}

function lookUp(database: Database, name: string): Table {
  const table = database.tables.get(name);
  if (table === undefined) throw syntaxError(undefined, `no table named ${name}`);
  return table;
}

export class Monitor {
  id: Json;
  readonly version: MonitorVersion;
  readonly database: Database;
  readonly #tables = new Map<Table, MonitoredTable>();
  #pending = new Map<Table, Map<string, Change>>();

  /** `requests`: the <monitor-requests> object. Throws OvsdbError. */
  constructor(database: Database, id: Json, requests: Json, version: MonitorVersion) {
    this.id = id;
    this.database = database;
    this.version = version;
    if (!isObject(requests)) throw syntaxError(requests, 'monitor-requests must be object');
    for (const [name, json] of Object.entries(requests)) {
      const table = lookUp(database, name);
      const monitored: MonitoredTable = { table, select: 0, columns: [], condition: [] };
      const conditions = (isArray(json) ? json : [json]).map((request) =>
        addRequest(monitored, request, version > 1),
      );
      // Rows that any of the requests wants: all, if one of them has no condition.
      if (conditions.every((condition) => condition !== undefined && condition.length > 0)) {
        monitored.condition = conditions.flatMap((condition) => condition!);
      }
      this.#tables.set(table, monitored);
    }
  }

  /** Remembers what a transaction changed. */
  record(changes: ChangeSet): void {
    for (const { table, uuid, old, new: row } of changes) {
      if (!this.#tables.has(table)) continue;
      let pending = this.#pending.get(table);
      if (!pending) {
        pending = new Map();
        this.#pending.set(table, pending);
      }
      const known = pending.get(uuid);
      if (!known) pending.set(uuid, { old, new: row });
      else if (!known.old && !row) pending.delete(uuid);
      else known.new = row;
    }
  }

  get hasPending(): boolean {
    return this.#pending.size > 0;
  }

  /** <table-updates> with the rows that there are. */
  initial(): JsonObject {
    const updates: Record<string, Json> = {};
    for (const monitored of this.#tables.values()) {
      if (!(monitored.select & INITIAL)) continue;
      const rows: Record<string, Json> = {};
      for (const row of monitored.table.rows.values()) {
        const json = this.#compose(monitored, { old: undefined, new: row }, true);
        if (json) rows[row.uuid] = json;
      }
      if (Object.keys(rows).length > 0) updates[monitored.table.schema.name] = rows;
    }
    return updates;
  }

  /**
   * <table-updates> with what changed since the last message; undefined if that is nothing for this
   * client.
   */
  takeUpdates(): JsonObject | undefined {
    const updates: Record<string, Json> = {};
    const pending = this.#pending;
    this.#pending = new Map();
    for (const [table, changes] of pending) {
      const monitored = this.#tables.get(table)!;
      const rows: Record<string, Json> = {};
      for (const [uuid, change] of changes) {
        const json = this.#compose(monitored, change, false);
        if (json) rows[uuid] = json;
      }
      if (Object.keys(rows).length > 0) updates[table.schema.name] = rows;
    }
    return Object.keys(updates).length > 0 ? updates : undefined;
  }

  /**
   * Replaces conditions (<monitor-cond-update-requests>) and returns the rows that enter or leave
   * by that. What was pending must have been taken before. Throws OvsdbError and changes nothing.
   */
  changeConditions(requests: Json): JsonObject | undefined {
    if (!isObject(requests)) {
      throw syntaxError(undefined, 'monitor-cond-change-requests must be object');
    }
    const changes = Object.entries(requests).map(([name, json]) => this.#parseChange(name, json));
    if (this.version === 1) return undefined;
    const updates: Record<string, Json> = {};
    for (const [monitored, condition] of changes) {
      const rows: Record<string, Json> = {};
      const before = monitored.condition;
      monitored.condition = condition;
      for (const row of monitored.table.rows.values()) {
        const was = matchesAny(before, row);
        if (was === matchesAny(condition, row)) continue;
        const change = was ? { old: row, new: undefined } : { old: undefined, new: row };
        const json = this.#composeDifference(monitored, change, was ? DELETE : INSERT);
        if (json) rows[row.uuid] = json;
      }
      if (Object.keys(rows).length > 0) updates[monitored.table.schema.name] = rows;
    }
    return Object.keys(updates).length > 0 ? updates : undefined;
  }

  #parseChange(name: string, json: Json): [MonitoredTable, Condition] {
    const table = lookUp(this.database, name);
    const monitored = this.#tables.get(table);
    if (!monitored) throw syntaxError(undefined, `no table named ${name} in monitor session`);
    if (!isArray(json)) {
      throw syntaxError(undefined, `table ${name} no monitor-cond-change JSON array`);
    }
    let condition: Condition = monitored.condition;
    for (const request of json) {
      const parser = new ObjectParser(request, `table ${name}`);
      const columns = parser.optional('columns', 'array');
      const where = parser.optional('where', 'array');
      parser.finish();
      if (columns !== undefined) throw syntaxError(request, 'changing columns is unsupported');
      condition = parseCondition(table.schema, where);
    }
    return [monitored, condition];
  }

  #compose(monitored: MonitoredTable, change: Change, initial: boolean): JsonObject | undefined {
    const { condition } = monitored;
    const old = change.old && matchesAny(condition, change.old) ? change.old : undefined;
    const row = change.new && matchesAny(condition, change.new) ? change.new : undefined;
    if (!old && !row) return undefined;
    const type = initial ? INITIAL : !old ? INSERT : !row ? DELETE : MODIFY;
    if (this.version === 1) return this.#composeValues(monitored, { old, new: row }, type);
    return this.#composeDifference(monitored, { old, new: row }, type);
  }

  /** <row-update>: {old?, new?}. */
  #composeValues(monitored: MonitoredTable, change: Change, type: number): JsonObject | undefined {
    const { old, new: row } = change;
    const differs = ({ column: { index } }: MonitoredColumn) =>
      !datumEquals(old!.fields[index]!, row!.fields[index]!);
    if (!(monitored.select & type)) return undefined;
    if (type === MODIFY && !monitored.columns.some(differs)) return undefined;
    const before: Record<string, Json> = {};
    const after: Record<string, Json> = {};
    for (const monitoredColumn of monitored.columns) {
      const { column, select } = monitoredColumn;
      if (!(select & type)) continue;
      if (old && (type === DELETE || differs(monitoredColumn))) {
        before[column.name] = datumToJson(column.type, old.fields[column.index]!);
      }
      if (row) after[column.name] = datumToJson(column.type, row.fields[column.index]!);
    }
    const json: Record<string, Json> = {};
    if (old) json.old = before;
    if (row) json.new = after;
    return json;
  }

  /** <row-update2>: one of {initial}, {insert}, {delete: null}, {modify}. */
  #composeDifference(
    monitored: MonitoredTable,
    change: Change,
    type: number,
  ): JsonObject | undefined {
    const { old, new: row } = change;
    if (!(monitored.select & type)) return undefined;
    if (type === DELETE) return { delete: null };
    const json: Record<string, Json> = {};
    let changed = type !== MODIFY;
    for (const { column, select } of monitored.columns) {
      const datum = row!.fields[column.index]!;
      const before = type === MODIFY ? old!.fields[column.index]! : column.default;
      if (datumEquals(datum, before)) continue;
      changed = true;
      if (!(select & type)) continue;
      const value = type === MODIFY ? diffDatum(column.type, before, datum) : datum;
      json[column.name] = datumToJson(column.type, value);
    }
    if (!changed) return undefined;
    return { [type === INITIAL ? 'initial' : type === INSERT ? 'insert' : 'modify']: json };
  }
}
