// A database in memory: tables of immutable rows, with reference counts and unique indexes.
//
// A row is never changed in place: a transaction (transaction.ts) collects old and new rows and
// hands them over as one ChangeSet, so that the log, the monitors and everybody else can compare
// and keep rows without copying them.

import { randomUUID } from 'node:crypto';
import type { SymbolTable } from './atom.ts';
import { type ColumnType, type Datum, datumFromJson, datumToJson } from './datum.ts';
import { syntaxError } from './error.ts';
import { isObject, type Json, stringifyJson } from './json.ts';
import {
  type ColumnSchema,
  type DatabaseSchema,
  type TableSchema,
  UUID_INDEX,
  VERSION_INDEX,
} from './schema.ts';

export interface Row {
  readonly uuid: string;
  /** By ColumnSchema.index. */
  readonly fields: readonly Datum[];
}

/** One row before and after a transaction; never both undefined. */
export interface RowChange {
  readonly table: Table;
  readonly uuid: string;
  readonly old: Row | undefined;
  readonly new: Row | undefined;
}
export type ChangeSet = readonly RowChange[];

export interface Table {
  readonly schema: TableSchema;
  readonly rows: Map<string, Row>;
  /** Strong references to each row from other rows; rows without any are absent. */
  readonly references: Map<string, number>;
  /** For each index of the schema: index key → uuid. */
  readonly indexes: readonly Map<string, string>[];
}

export interface Database {
  readonly schema: DatabaseSchema;
  readonly tables: ReadonlyMap<string, Table>;
}

export function createDatabase(schema: DatabaseSchema): Database {
  const tables = new Map<string, Table>();
  for (const table of schema.tables.values()) {
    tables.set(table.name, {
      schema: table,
      rows: new Map(),
      references: new Map(),
      indexes: table.indexes.map(() => new Map()),
    });
  }
  return { schema, tables };
}

/** A row with the defaults of its columns and a fresh version. */
export function newRow(
  schema: TableSchema,
  uuid: string,
  set: ReadonlyMap<ColumnSchema, Datum>,
): Row {
  const fields = schema.columnList.map((column) => set.get(column) ?? column.default);
  fields[UUID_INDEX] = { keys: [uuid] };
  fields[VERSION_INDEX] = { keys: [randomUUID()] };
  return { uuid, fields };
}

/** `row` with some columns replaced. */
export function withFields(row: Row, set: Iterable<readonly [ColumnSchema, Datum]>): Row {
  const fields = [...row.fields];
  for (const [column, datum] of set) fields[column.index] = datum;
  return { uuid: row.uuid, fields };
}

/**
 * Reads a <row>: the columns that it names; `typeOf` if their values are not of the columns' types.
 * Throws OvsdbError.
 */
export function parseRow(
  schema: TableSchema,
  json: Json,
  symbols?: SymbolTable,
  typeOf = (type: ColumnType): ColumnType => type,
): Map<ColumnSchema, Datum> {
  if (!isObject(json)) throw syntaxError(json, 'row must be JSON object');
  const set = new Map<ColumnSchema, Datum>();
  for (const [name, value] of Object.entries(json)) {
    const column = schema.columns.get(name);
    if (column === undefined) {
      throw syntaxError(json, `No column ${name} in table ${schema.name}.`, 'unknown column');
    }
    set.set(column, datumFromJson(typeOf(column.type), value, symbols));
  }
  return set;
}

export function rowToJson(row: Row, columns: Iterable<ColumnSchema>): Record<string, Json> {
  const json: Record<string, Json> = {};
  for (const column of columns) {
    json[column.name] = datumToJson(column.type, row.fields[column.index]!);
  }
  return json;
}

/** Equal texts mean equal values in the columns. */
export function fieldsKey(row: Row, columns: readonly ColumnSchema[]): string {
  return stringifyJson(
    columns.map(({ index }) => {
      const { keys, values } = row.fields[index]!;
      return values ? [keys, values] : keys;
    }),
  );
}
