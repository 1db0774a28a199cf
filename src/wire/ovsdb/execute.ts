// Executes the operations of a "transact" request (RFC 7047 §4.1.3, §5.2) on a transaction.
//
// The result array has the shape of the real server: one object per operation, the error in the
// place of the operation that failed, null for those after it. A "wait" that does not hold yet is
// neither success nor failure: the whole transaction is forgotten and executed again when the
// database has changed, until its time is over (§5.2.6).

import { randomUUID } from 'node:crypto';
import { parseUuid, SymbolTable } from './atom.ts';
import { type Condition, matchesAll, parseCondition, wantedUuid } from './condition.ts';
import {
  type Database,
  fieldsKey,
  newRow,
  parseRow,
  type Row,
  rowToJson,
  type Table,
  withFields,
} from './database.ts';
import { checkDatum, compareDatums, datumEquals } from './datum.ts';
import { OvsdbError, syntaxError } from './error.ts';
import { isArray, type Json } from './json.ts';
import { applyMutation, parseMutations } from './mutation.ts';
import { ObjectParser } from './parser.ts';
import { columnSet, UUID_INDEX } from './schema.ts';
import { Transaction } from './transaction.ts';

export interface ExecuteOptions {
  /** Whether the session holds a lock ("assert"). */
  ownsLock?: (name: string) => boolean;
  /** Milliseconds since the request came. */
  elapsedMs: number;
}

export type Execution =
  /** All operations succeeded: prepare and apply the transaction. */
  | { kind: 'done'; transaction: Transaction; results: Json[]; durable: boolean }
  | { kind: 'failed'; results: Json }
  /**
   * A wait does not hold: try again after a change, and at the latest `timeoutMs` after the request
   * came.
   */
  | { kind: 'blocked'; timeoutMs: number };

class Blocked extends Error {
  readonly timeoutMs: number;
  constructor(timeoutMs: number) {
    super('blocked');
    this.timeoutMs = timeoutMs;
  }
}

interface Context {
  readonly transaction: Transaction;
  readonly symbols: SymbolTable;
  readonly options: ExecuteOptions;
  durable: boolean;
}

type Operation = (context: Context, parser: ObjectParser) => Record<string, Json>;

function parseTable(context: Context, parser: ObjectParser): Table {
  const name = parser.member('table', 'id') as string;
  const table = context.transaction.table(name);
  if (table === undefined) throw parser.error(`No table named ${name}.`);
  return table;
}

function* query(context: Context, table: Table, where: Condition): Generator<Row> {
  const uuid = wantedUuid(where);
  if (uuid !== undefined) {
    const row = context.transaction.get(table, uuid);
    if (row && matchesAll(where, row)) yield row;
    return;
  }
  for (const row of context.transaction.rows(table)) if (matchesAll(where, row)) yield row;
}

const insert: Operation = (context, parser) => {
  const table = parseTable(context, parser);
  const uuidJson = parser.optional('uuid', 'string') as string | undefined;
  const name = parser.optional('uuid-name', 'id') as string | undefined;
  const rowJson = parser.member('row', 'object');
  let uuid: string | undefined;
  if (uuidJson !== undefined) {
    uuid = parseUuid(uuidJson);
    if (uuid === undefined) throw syntaxError(uuidJson, 'bad uuid');
    if (!context.transaction.mayInsert(table, uuid)) {
      throw syntaxError(
        uuidJson,
        'This UUID would duplicate a UUID already present within the table or deleted within the same transaction.',
        'duplicate uuid',
      );
    }
  }
  if (name !== undefined) {
    const symbol = context.symbols.get(name);
    if (symbol.created) {
      const text = 'This "uuid-name" appeared on an earlier "insert" operation.';
      throw syntaxError(name, text, 'duplicate uuid-name');
    }
    if (uuid !== undefined) symbol.uuid = uuid;
    else uuid = symbol.uuid;
    symbol.created = true;
  }
  const set = parseRow(table.schema, rowJson, context.symbols);
  const row = newRow(table.schema, uuid ?? randomUUID(), set);
  // Default values need not satisfy the constraints.
  for (const column of table.schema.columnList) {
    const datum = row.fields[column.index]!;
    if (datum.keys.length === 1) checkDatum(column.type, datum);
  }
  context.transaction.insert(table, row);
  return { uuid: ['uuid', row.uuid] };
};

const select: Operation = (context, parser) => {
  const table = parseTable(context, parser);
  const whereJson = parser.member('where', 'array');
  const columnsJson = parser.optional('columns', 'array');
  const sortJson = parser.optional('sort', 'array');
  const where = parseCondition(table.schema, whereJson, context.symbols);
  const columns = columnSet(table.schema, columnsJson);
  const sort = sortJson === undefined ? [] : columnSet(table.schema, sortJson);
  let rows = [...query(context, table, where)];
  if (!columns.some(({ index }) => index === UUID_INDEX)) {
    rows = [...new Map(rows.map((row) => [fieldsKey(row, columns), row])).values()];
  }
  rows.sort((a, b) => {
    for (const { index } of sort) {
      const order = compareDatums(a.fields[index]!, b.fields[index]!);
      if (order !== 0) return order;
    }
    return 0;
  });
  return { rows: rows.map((row) => rowToJson(row, columns)) };
};

const update: Operation = (context, parser) => {
  const table = parseTable(context, parser);
  const whereJson = parser.member('where', 'array');
  const rowJson = parser.member('row', 'object');
  const set = parseRow(table.schema, rowJson, context.symbols);
  for (const { mutable, name } of set.keys()) {
    if (!mutable) {
      throw syntaxError(
        parser.json,
        `Cannot update immutable column ${name} in table ${table.schema.name}.`,
        'constraint violation',
      );
    }
  }
  const where = parseCondition(table.schema, whereJson, context.symbols);
  let count = 0;
  for (const row of query(context, table, where)) {
    count++;
    if ([...set].some(([{ index }, datum]) => !datumEquals(row.fields[index]!, datum))) {
      context.transaction.replace(table, withFields(row, set));
    }
  }
  return { count };
};

const mutate: Operation = (context, parser) => {
  const table = parseTable(context, parser);
  const whereJson = parser.member('where', 'array');
  const mutationsJson = parser.member('mutations', 'array');
  const mutations = parseMutations(table.schema, mutationsJson, context.symbols);
  const where = parseCondition(table.schema, whereJson, context.symbols);
  let count = 0;
  for (const row of query(context, table, where)) {
    count++;
    const fields = [...row.fields];
    for (const mutation of mutations) {
      const { index } = mutation.column;
      fields[index] = applyMutation(mutation, fields[index]!);
    }
    context.transaction.replace(table, { uuid: row.uuid, fields });
  }
  return { count };
};

const remove: Operation = (context, parser) => {
  const whereJson = parser.member('where', 'array');
  const table = parseTable(context, parser);
  const where = parseCondition(table.schema, whereJson, context.symbols);
  let count = 0;
  for (const row of query(context, table, where)) {
    count++;
    context.transaction.delete(table, row.uuid);
  }
  return { count };
};

const wait: Operation = (context, parser) => {
  const timeout = parser.optional('timeout', 'integer');
  const whereJson = parser.member('where', 'array');
  const columnsJson = parser.optional('columns', 'array');
  const until = parser.member('until', 'string');
  const rowsJson = parser.member('rows', 'array') as readonly Json[];
  const table = parseTable(context, parser);
  const where = parseCondition(table.schema, whereJson, context.symbols);
  const columns = columnSet(table.schema, columnsJson);
  const timeoutMs = timeout === undefined ? Infinity : Number(timeout);
  if (timeoutMs < 0) throw syntaxError(timeout, 'timeout must be nonnegative');
  if (until !== '==' && until !== '!=') {
    throw syntaxError(until, '"until" must be "==" or "!="');
  }
  const expected = new Set<string>();
  for (const json of rowsJson) {
    const set = parseRow(table.schema, json, context.symbols);
    const fields = table.schema.columnList.map((column) => set.get(column) ?? column.default);
    expected.add(fieldsKey({ uuid: '', fields }, columns));
  }
  const actual = new Set<string>();
  for (const row of query(context, table, where)) actual.add(fieldsKey(row, columns));
  const equal = actual.size === expected.size && [...actual].every((key) => expected.has(key));
  if (equal === (until === '==')) return {};
  const { elapsedMs } = context.options;
  if (elapsedMs < timeoutMs) throw new Blocked(timeoutMs);
  throw new OvsdbError(
    'timed out',
    elapsedMs > 0 ? `"wait" timed out after ${elapsedMs} ms` : '"where" clause test failed',
  );
};

const OPERATIONS: ReadonlyMap<string, Operation> = new Map<string, Operation>([
  ['insert', insert],
  ['select', select],
  ['update', update],
  ['mutate', mutate],
  ['delete', remove],
  ['wait', wait],
  [
    'commit',
    (context, parser) => {
      if (parser.member('durable', 'boolean')) context.durable = true;
      return {};
    },
  ],
  [
    'abort',
    () => {
      throw new OvsdbError('aborted', 'aborted by request');
    },
  ],
  [
    'comment',
    (context, parser) => {
      context.transaction.comments.push(parser.member('comment', 'string') as string);
      return {};
    },
  ],
  [
    'assert',
    (context, parser) => {
      const lock = parser.member('lock', 'id') as string;
      if (context.options.ownsLock?.(lock)) return {};
      throw new OvsdbError('not owner', `Asserted lock ${lock} not held.`);
    },
  ],
]);
const READ_ONLY = new Set(['select', 'wait', 'commit', 'abort', 'comment', 'assert']);

function executeOperation(
  context: Context,
  json: Json,
  name: string,
  reserved: string | undefined,
): Json {
  const parser = new ObjectParser(json, name);
  const op = parser.member('op', 'id') as string;
  const operation = OPERATIONS.get(op);
  if (operation === undefined) throw parser.error(`No operation "${op}"`);
  let result: Json;
  try {
    result = operation(context, parser);
  } catch (error) {
    // A member that does not belong there is reported before any other error, but not before a
    // missing one.
    parser.finish();
    throw error;
  }
  parser.finish();
  if (reserved !== undefined && !READ_ONLY.has(op)) {
    throw new OvsdbError(
      'not allowed',
      `${op} operation not allowed on table in reserved database ${reserved}`,
    );
  }
  return result;
}

/** Executes the params of "transact": [database name, operation…]. Changes nothing by itself. */
export function execute(database: Database, params: Json, options: ExecuteOptions): Execution {
  const { name } = database.schema;
  if (!isArray(params)) {
    return { kind: 'failed', results: syntaxError(params, 'array expected').toJson() };
  }
  if (params[0] !== name) {
    const error = syntaxError(params, 'database name expected as first parameter');
    return { kind: 'failed', results: error.toJson() };
  }
  const context: Context = {
    transaction: new Transaction(database),
    symbols: new SymbolTable(),
    options,
    durable: false,
  };
  const operations = params.slice(1);
  const results: Json[] = [];
  for (const [i, operation] of operations.entries()) {
    try {
      const label = `ovsdb operation ${i + 1} of ${operations.length}`;
      const reserved = name.startsWith('_') ? name : undefined;
      results.push(executeOperation(context, operation, label, reserved));
    } catch (error) {
      if (error instanceof Blocked) return { kind: 'blocked', timeoutMs: error.timeoutMs };
      if (!(error instanceof OvsdbError)) throw error;
      results.push(error.toJson());
      while (results.length < operations.length) results.push(null);
      return { kind: 'failed', results };
    }
  }
  return { kind: 'done', transaction: context.transaction, results, durable: context.durable };
}
