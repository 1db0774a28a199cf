// A database schema (RFC 7047 §3.2): tables, columns, types, and what the engine derives from them
// once, so that a transaction does not have to: which columns hold references, and which tables'
// rows live without being referenced.

import type { AtomicType, BaseType } from './atom.ts';
import { type ColumnType, type Datum, datumFromJson, datumToJson, defaultDatum } from './datum.ts';
import { syntaxError } from './error.ts';
import { isArray, isObject, type Json, type JsonObject } from './json.ts';
import { isId, ObjectParser } from './parser.ts';

export interface ColumnSchema {
  readonly name: string;
  /** Position in Row.fields; _uuid is 0, _version is 1. */
  readonly index: number;
  readonly type: ColumnType;
  readonly mutable: boolean;
  /** False: not written to the file ("ephemeral"). */
  readonly persistent: boolean;
  readonly default: Datum;
}

export interface TableSchema {
  readonly name: string;
  readonly columns: ReadonlyMap<string, ColumnSchema>;
  /** By index, _uuid and _version included. */
  readonly columnList: readonly ColumnSchema[];
  /** Rows live without a reference to them. */
  readonly isRoot: boolean;
  readonly maxRows: number;
  readonly indexes: readonly (readonly ColumnSchema[])[];
  /** Columns with strong and with weak references. */
  readonly strongColumns: readonly ColumnSchema[];
  readonly weakColumns: readonly ColumnSchema[];
}

export interface DatabaseSchema {
  readonly name: string;
  readonly version: string;
  readonly cksum: string;
  readonly tables: ReadonlyMap<string, TableSchema>;
}

const ATOMIC_TYPES: readonly string[] = ['integer', 'real', 'boolean', 'string', 'uuid'];
const UUID_TYPE: ColumnType = { key: { type: 'uuid' }, min: 1, max: 1 };

export const UUID_INDEX = 0;
export const VERSION_INDEX = 1;

function atomicType(json: Json): AtomicType {
  if (typeof json !== 'string') throw syntaxError(json, 'atomic-type expected');
  if (!ATOMIC_TYPES.includes(json)) throw syntaxError(json, `"${json}" is not an atomic-type`);
  return json as AtomicType;
}

function baseType(json: Json): BaseType {
  if (typeof json === 'string') return { type: atomicType(json) };
  const parser = new ObjectParser(json, 'ovsdb type');
  const type = atomicType(parser.member('type', 'string'));
  const base: { -readonly [K in keyof BaseType]: BaseType[K] } = { type };
  const values = parser.optional('enum', 'array', 'string', 'number', 'boolean');
  if (values !== undefined) {
    base.enum = datumFromJson({ key: { type }, min: 1, max: Infinity }, values).keys;
  } else if (type === 'integer') {
    const min = parser.optional('minInteger', 'integer') as number | undefined;
    const max = parser.optional('maxInteger', 'integer') as number | undefined;
    if (min !== undefined && max !== undefined && min > max) {
      throw syntaxError(json, 'minInteger exceeds maxInteger');
    }
    if (min !== undefined) base.minInteger = min;
    if (max !== undefined) base.maxInteger = max;
  } else if (type === 'real') {
    const min = parser.optional('minReal', 'number');
    const max = parser.optional('maxReal', 'number');
    if (min !== undefined) base.minReal = Number(min);
    if (max !== undefined) base.maxReal = Number(max);
    if (min !== undefined && max !== undefined && Number(min) > Number(max)) {
      throw syntaxError(json, 'minReal exceeds maxReal');
    }
  } else if (type === 'string') {
    const min = parser.optional('minLength', 'integer');
    const max = parser.optional('maxLength', 'integer');
    if (min !== undefined) base.minLength = Number(min);
    if (max !== undefined) base.maxLength = Number(max);
    if (Number(min ?? 0) > Number(max ?? Infinity)) {
      throw syntaxError(json, 'minLength exceeds maxLength');
    }
  } else if (type === 'uuid') {
    const table = parser.optional('refTable', 'id');
    if (table !== undefined) {
      base.refTable = table as string;
      const kind = parser.optional('refType', 'id') ?? 'strong';
      if (kind !== 'strong' && kind !== 'weak') {
        throw syntaxError(json, 'refType must be "strong" or "weak"');
      }
      base.refType = kind;
    }
  }
  parser.finish();
  return base;
}

export function columnType(json: Json): ColumnType {
  if (typeof json === 'string') return { key: baseType(json), min: 1, max: 1 };
  if (!isObject(json)) throw syntaxError(json, 'ovsdb type expected');
  const parser = new ObjectParser(json, 'ovsdb type');
  const key = parser.member('key', 'string', 'object');
  const value = parser.optional('value', 'string', 'object');
  const min = Number(parser.optional('min', 'integer') ?? 1);
  const maxJson = parser.optional('max', 'integer', 'string') ?? 1;
  const max = maxJson === 'unlimited' ? Infinity : Number(maxJson);
  parser.finish();
  if (!(min === 0 || min === 1) || !(max >= 1)) {
    throw syntaxError(json, 'ovsdb type fails constraint checks');
  }
  return { key: baseType(key), value: value === undefined ? undefined : baseType(value), min, max };
}

function columnSchema(json: Json, name: string, index: number): ColumnSchema {
  const parser = new ObjectParser(json, `schema for column ${name}`);
  const mutable = (parser.optional('mutable', 'boolean') ?? true) as boolean;
  const ephemeral = (parser.optional('ephemeral', 'boolean') ?? false) as boolean;
  const typeJson = parser.member('type', 'string', 'object');
  parser.finish();
  const type = columnType(typeJson);
  // A column that refers weakly changes when a row is deleted, so it cannot be immutable.
  const weak = type.key.refType === 'weak' || type.value?.refType === 'weak';
  return {
    name,
    index,
    type,
    mutable: mutable || weak,
    persistent: !ephemeral,
    default: defaultDatum(type),
  };
}

function implicitColumn(name: string, index: number): ColumnSchema {
  return {
    name,
    index,
    type: UUID_TYPE,
    mutable: false,
    persistent: false,
    default: defaultDatum(UUID_TYPE),
  };
}

/** The columns of a <column-set> in JSON; all columns if it is absent. Throws OvsdbError. */
export function columnSet(table: TableSchema, json: Json | undefined): ColumnSchema[] {
  if (json === undefined) return [...table.columnList];
  const columns: ColumnSchema[] = [];
  const distinct = 'array of distinct column names expected';
  if (!isArray(json)) throw syntaxError(json, distinct);
  for (const name of json) {
    if (typeof name !== 'string') throw syntaxError(json, distinct);
    const column = table.columns.get(name);
    if (column === undefined) throw syntaxError(json, `${name} is not a valid column name`);
    if (columns.includes(column)) throw syntaxError(json, distinct);
    columns.push(column);
  }
  return columns;
}

function tableSchema(json: Json, name: string): TableSchema {
  const parser = new ObjectParser(json, `table schema for table ${name}`);
  const columnsJson = parser.member('columns', 'object') as JsonObject;
  const maxRows = parser.optional('maxRows', 'integer');
  const isRoot = (parser.optional('isRoot', 'boolean') ?? false) as boolean;
  const indexesJson = parser.optional('indexes', 'array') as readonly Json[] | undefined;
  parser.finish();
  if (maxRows !== undefined && Number(maxRows) <= 0) {
    throw syntaxError(json, 'maxRows must be at least 1');
  }
  const names = Object.keys(columnsJson);
  if (names.length === 0) throw syntaxError(json, 'table must have at least one column');
  const columnList = [
    implicitColumn('_uuid', UUID_INDEX),
    implicitColumn('_version', VERSION_INDEX),
  ];
  for (const columnName of names) {
    if (columnName.startsWith('_')) {
      throw syntaxError(json, 'names beginning with "_" are reserved');
    }
    if (!isId(columnName)) throw syntaxError(json, 'name must be a valid id');
    columnList.push(columnSchema(columnsJson[columnName]!, columnName, columnList.length));
  }
  const refers = (column: ColumnSchema, kind: string) =>
    column.type.key.refType === kind || column.type.value?.refType === kind;
  const partial = {
    name,
    columns: new Map(columnList.map((column) => [column.name, column])),
    columnList,
    isRoot,
    maxRows: maxRows === undefined ? Infinity : Number(maxRows),
    strongColumns: columnList.filter((column) => refers(column, 'strong')),
    weakColumns: columnList.filter((column) => refers(column, 'weak')),
  };
  const indexes = (indexesJson ?? []).map((index) => {
    const columns = columnSet({ ...partial, indexes: [] }, index);
    if (columns.length === 0) throw syntaxError(json, 'index must have at least one column');
    for (const column of columns) {
      if (!column.persistent) {
        const text = `ephemeral columns (such as ${column.name}) may not be indexed`;
        throw syntaxError(json, text);
      }
    }
    return columns;
  });
  return { ...partial, indexes };
}

/** Reads a <database-schema>. Throws OvsdbError. */
export function parseSchema(json: Json): DatabaseSchema {
  const parser = new ObjectParser(json, 'database schema');
  const name = parser.member('name', 'id') as string;
  const version = (parser.optional('version', 'string') ?? '') as string;
  const cksum = (parser.optional('cksum', 'string') ?? '') as string;
  const tablesJson = parser.member('tables', 'object') as JsonObject;
  parser.finish();
  if (version !== '' && !/^\d+\.\d+\.\d+$/.test(version)) {
    throw syntaxError(json, `schema version "${version}" not in format x.y.z`);
  }
  const tables = new Map<string, TableSchema>();
  for (const [tableName, tableJson] of Object.entries(tablesJson)) {
    if (tableName.startsWith('_')) {
      throw syntaxError(json, 'names beginning with "_" are reserved');
    }
    if (!isId(tableName)) throw syntaxError(json, 'name must be a valid id');
    tables.set(tableName, tableSchema(tableJson, tableName));
  }
  for (const table of tables.values()) {
    for (const { name: columnName, type } of table.columnList) {
      for (const [word, base] of [['key', type.key] as const, ['value', type.value] as const]) {
        if (base?.refTable !== undefined && !tables.has(base.refTable)) {
          const text = `column ${columnName} ${word} refers to undefined table ${base.refTable}`;
          throw syntaxError(undefined, text);
        }
      }
    }
  }
  // Backward compatibility (RFC 7047 §3.2): without any isRoot, every table is in the root set.
  if (![...tables.values()].some((table) => table.isRoot)) {
    for (const [key, table] of tables) tables.set(key, { ...table, isRoot: true });
  }
  return { name, version, cksum, tables };
}

function baseTypeToJson(base: BaseType): Json {
  const json: Record<string, Json> = { type: base.type };
  if (base.enum !== undefined) {
    json.enum = datumToJson(
      { key: { type: base.type }, min: 1, max: Infinity },
      { keys: base.enum },
    );
  }
  for (const name of ['minInteger', 'maxInteger', 'minReal', 'maxReal'] as const) {
    if (base[name] !== undefined) json[name] = base[name];
  }
  for (const name of ['minLength', 'maxLength', 'refTable'] as const) {
    if (base[name] !== undefined) json[name] = base[name];
  }
  if (base.refType === 'weak') json.refType = 'weak';
  return Object.keys(json).length === 1 ? base.type : json;
}

function columnTypeToJson(type: ColumnType): Json {
  const key = baseTypeToJson(type.key);
  if (type.min === 1 && type.max === 1 && !type.value && typeof key === 'string') return key;
  const json: Record<string, Json> = { key };
  if (type.value) json.value = baseTypeToJson(type.value);
  if (type.min !== 1) json.min = type.min;
  if (type.max !== 1) json.max = type.max === Infinity ? 'unlimited' : type.max;
  return json;
}

/** The schema as get_schema answers it, in its shortest form. */
export function schemaToJson(schema: DatabaseSchema): JsonObject {
  const tables: Record<string, Json> = {};
  const allRoot = [...schema.tables.values()].every((table) => table.isRoot);
  for (const table of schema.tables.values()) {
    const columns: Record<string, Json> = {};
    for (const column of table.columnList.slice(2)) {
      const json: Record<string, Json> = { type: columnTypeToJson(column.type) };
      if (!column.mutable) json.mutable = false;
      if (!column.persistent) json.ephemeral = true;
      columns[column.name] = json;
    }
    const json: Record<string, Json> = { columns };
    if (table.maxRows !== Infinity) json.maxRows = table.maxRows;
    if (table.isRoot && !allRoot) json.isRoot = true;
    if (table.indexes.length > 0) {
      json.indexes = table.indexes.map((index) => index.map((column) => column.name));
    }
    tables[table.name] = json;
  }
  const json: Record<string, Json> = { name: schema.name };
  if (schema.version !== '') json.version = schema.version;
  if (schema.cksum !== '') json.cksum = schema.cksum;
  json.tables = tables;
  return json;
}
