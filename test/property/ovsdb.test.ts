// Random transactions against an obvious model of RFC 7047; monitors whose updates must add up to
// the database; and random input that must never do more than get an error.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { createDatabase, type Database } from '../../src/wire/ovsdb/database.ts';
import {
  applyDiff,
  type ColumnType,
  type Datum,
  datumFromJson,
  datumToJson,
  diffDatum,
  diffType,
} from '../../src/wire/ovsdb/datum.ts';
import { OvsdbError } from '../../src/wire/ovsdb/error.ts';
import { execute } from '../../src/wire/ovsdb/execute.ts';
import {
  canonicalJson,
  type Json,
  JsonError,
  type JsonObject,
  parseJson,
  stringifyJson,
} from '../../src/wire/ovsdb/json.ts';
import { replayRecord, snapshotRecord, transactionRecord } from '../../src/wire/ovsdb/log.ts';
import { Monitor } from '../../src/wire/ovsdb/monitor.ts';
import { columnType, parseSchema } from '../../src/wire/ovsdb/schema.ts';
import { JsonSplitter } from '../../src/wire/ovsdb/splitter.ts';

const ref = (type: string) => ({
  type: { key: { type: 'uuid', refTable: 'Child', refType: type }, min: 0, max: 'unlimited' },
});
const SCHEMA = parseSchema({
  name: 'db',
  tables: {
    Root: {
      columns: {
        name: { type: 'string' },
        count: { type: { key: { type: 'integer', minInteger: 0, maxInteger: 9 } } },
        strong: ref('strong'),
        weak: ref('weak'),
        map: { type: { key: 'string', value: 'integer', min: 0, max: 'unlimited' } },
      },
      indexes: [['name']],
      isRoot: true,
      maxRows: 4,
    },
    Child: { columns: { name: { type: 'string' }, next: ref('strong') } },
  },
});

// ---- the model: two plain maps, and the rules applied to all of them after every transaction

interface ModelRow {
  name: string;
  count: number;
  strong: string[];
  weak: string[];
  next: string[];
  map: Record<string, number>;
}
interface Model {
  Root: Map<string, ModelRow>;
  Child: Map<string, ModelRow>;
}
const EMPTY: ModelRow = { name: '', count: 0, strong: [], weak: [], next: [], map: {} };

/** The rules that hold at the end; undefined if they are violated. */
function finish(model: Model): Model | undefined {
  const rows = [...model.Root, ...model.Child];
  if (rows.some(([, row]) => [...row.strong, ...row.next].some((uuid) => !model.Child.has(uuid)))) {
    return undefined;
  }
  if ([...model.Root.values()].some(({ count }) => count < 0 || count > 9)) return undefined;
  for (;;) {
    const referenced = new Set<string>();
    for (const [uuid, row] of [...model.Root, ...model.Child]) {
      for (const target of [...row.strong, ...row.next])
        if (target !== uuid) referenced.add(target);
    }
    const garbage = [...model.Child.keys()].filter((uuid) => !referenced.has(uuid));
    if (garbage.length === 0) break;
    for (const uuid of garbage) model.Child.delete(uuid);
  }
  if (model.Root.size > 4) return undefined;
  for (const row of model.Root.values()) {
    row.weak = row.weak.filter((uuid) => model.Child.has(uuid));
  }
  const names = [...model.Root.values()].map(({ name }) => name);
  return new Set(names).size === names.length ? model : undefined;
}

const NAMES = ['a', 'b', 'c'];
const name = fc.constantFrom(...NAMES);
const table = fc.constantFrom('Root' as const, 'Child' as const);
/**
 * References: to rows inserted by the same transaction (by number) or to existing ones (by name of
 * the child).
 */
const target = fc.oneof(fc.nat(3), name);
const targets = fc.uniqueArray(target, { maxLength: 2 });
const insertStep = fc.record({
  op: fc.constant('insert' as const),
  table,
  name,
  a: targets,
  b: targets,
});
const step = fc.oneof(
  { weight: 4, arbitrary: insertStep },
  fc.record({ op: fc.constant('delete' as const), table, name }),
  fc.record({ op: fc.constant('update' as const), table, name, to: name, a: targets, b: targets }),
  fc.record({
    op: fc.constant('link' as const),
    name,
    a: targets,
    how: fc.constantFrom('insert', 'delete'),
  }),
  fc.record({ op: fc.constant('count' as const), name, by: fc.integer({ min: -3, max: 6 }) }),
  fc.record({
    op: fc.constant('map' as const),
    name,
    key: name,
    value: fc.nat(2),
    how: fc.constantFrom('insert', 'delete'),
  }),
);
type Step = typeof step extends fc.Arbitrary<infer S> ? S : never;

const uuidOf = (transaction: number, index: number) =>
  `00000000-0000-4000-8000-${String(transaction * 100 + index).padStart(12, '0')}`;

/** The operations of a transaction, and what they do to the model. */
function translate(
  steps: readonly Step[],
  number: number,
  before: Model,
): [Json[], Model | undefined] {
  const model = structuredClone(before);
  const operations: Json[] = [];
  let failed = false;
  const inserts = steps.flatMap((s, i) =>
    s.op === 'insert' && s.table === 'Child' ? [uuidOf(number, i)] : [],
  );
  const resolve = (list: readonly (number | string)[]): string[] => {
    const uuids = list.flatMap((t) => {
      if (typeof t === 'number') return inserts[t % inserts.length] ?? [];
      return [...model.Child].filter(([, row]) => row.name === t).map(([uuid]) => uuid);
    });
    return [...new Set(uuids)];
  };
  const set = (uuids: readonly string[]): Json => ['set', uuids.map((uuid) => ['uuid', uuid])];
  const named = (rows: Map<string, ModelRow>, wanted: string) =>
    [...rows].filter(([, row]) => row.name === wanted);
  for (const [i, s] of steps.entries()) {
    const where: Json = [['name', '==', s.name]];
    if (s.op === 'insert' || s.op === 'update') {
      const [a, b] = [resolve(s.a), resolve(s.b)];
      const columns: Partial<ModelRow> = s.table === 'Root' ? { strong: a, weak: b } : { next: a };
      const row: Record<string, Json> = { name: s.op === 'insert' ? s.name : s.to };
      for (const [column, uuids] of Object.entries(columns)) row[column] = set(uuids as string[]);
      if (s.op === 'insert') {
        const uuid = uuidOf(number, i);
        operations.push({ op: 'insert', table: s.table, uuid, row });
        model[s.table].set(uuid, { ...structuredClone(EMPTY), name: s.name, ...columns });
      } else {
        operations.push({ op: 'update', table: s.table, where, row });
        for (const [, row] of named(model[s.table], s.name))
          Object.assign(row, columns, { name: s.to });
      }
    } else if (s.op === 'delete') {
      operations.push({ op: 'delete', table: s.table, where });
      for (const [uuid] of named(model[s.table], s.name)) model[s.table].delete(uuid);
    } else {
      let mutation: Json;
      if (s.op === 'link') {
        const uuids = resolve(s.a);
        mutation = ['strong', s.how, set(uuids)];
        for (const [, row] of named(model.Root, s.name)) {
          const rest = row.strong.filter((uuid) => !uuids.includes(uuid));
          row.strong = s.how === 'insert' ? [...rest, ...uuids] : rest;
        }
      } else if (s.op === 'count') {
        mutation = ['count', '+=', s.by];
        for (const [, row] of named(model.Root, s.name)) {
          row.count += s.by;
          if (row.count < 0 || row.count > 9) failed = true;
        }
      } else {
        mutation = ['map', s.how, ['map', [[s.key, s.value]]]];
        for (const [, row] of named(model.Root, s.name)) {
          if (s.how === 'insert') row.map = { [s.key]: s.value, ...row.map };
          else if (row.map[s.key] === s.value) delete row.map[s.key];
        }
      }
      operations.push({ op: 'mutate', table: 'Root', where, mutations: [mutation] });
    }
  }
  return [operations, failed ? undefined : finish(model)];
}

/** Executes as the server does; the changes, or undefined if the transaction fails. */
function transact(database: Database, operations: readonly Json[]) {
  const execution = execute(database, ['db', ...operations], { elapsedMs: 0 });
  if (execution.kind !== 'done') return undefined;
  try {
    const changes = execution.transaction.prepare();
    execution.transaction.apply();
    return changes;
  } catch (error) {
    assert.ok(error instanceof OvsdbError, String(error));
    return undefined;
  }
}

/** Content of a table as text: uuid → columns, without versions. */
function content(database: Database, tableName: string): string {
  const { schema, rows } = database.tables.get(tableName)!;
  const json: Record<string, Json> = {};
  for (const row of rows.values()) {
    json[row.uuid] = Object.fromEntries(
      schema.columnList.slice(2).map((c) => [c.name, datumToJson(c.type, row.fields[c.index]!)]),
    );
  }
  return canonicalJson(json);
}

function modelContent(model: Model, tableName: 'Root' | 'Child'): string {
  const uuids = (list: string[]): Json => {
    const sorted = [...list].sort().map((uuid) => ['uuid', uuid]);
    return sorted.length === 1 ? sorted[0]! : ['set', sorted];
  };
  const rows = [...model[tableName]].map(([uuid, row]) => [
    uuid,
    tableName === 'Child'
      ? { name: row.name, next: uuids(row.next) }
      : {
          name: row.name,
          count: row.count,
          strong: uuids(row.strong),
          weak: uuids(row.weak),
          map: ['map', Object.entries(row.map).sort()],
        },
  ]);
  return canonicalJson(Object.fromEntries(rows));
}

const transactions = fc.array(fc.array(step, { minLength: 1, maxLength: 6 }), { maxLength: 12 });

test('transactions do what the model does, as a whole or not at all', () => {
  let succeeded = 0;
  let failed = 0;
  let linked = 0;
  fc.assert(
    fc.property(transactions, (list) => {
      const database = createDatabase(SCHEMA);
      let model: Model = { Root: new Map(), Child: new Map() };
      for (const [i, steps] of list.entries()) {
        const [operations, expected] = translate(steps, i + 1, model);
        const changes = transact(database, operations);
        assert.equal(changes !== undefined, expected !== undefined, canonicalJson(operations));
        if (expected) succeeded++;
        else failed++;
        model = expected ?? model;
        linked += model.Child.size;
        for (const tableName of ['Root', 'Child'] as const) {
          assert.equal(content(database, tableName), modelContent(model, tableName));
        }
        // What is counted and indexed agrees with a count from scratch.
        const rebuilt = createDatabase(SCHEMA);
        replayRecord(rebuilt, snapshotRecord(database, '', 0));
        for (const [tableName, { references, indexes }] of database.tables) {
          const fresh = rebuilt.tables.get(tableName)!;
          assert.deepEqual(new Map([...references].sort()), new Map([...fresh.references].sort()));
          for (const [n, index] of indexes.entries()) {
            assert.deepEqual([...index].sort(), [...fresh.indexes[n]!].sort());
          }
        }
      }
    }),
    { numRuns: 400 },
  );
  const text = `${succeeded} succeeded, ${failed} failed, ${linked} rows referenced`;
  assert.ok(succeeded > 500 && failed > 50 && linked > 200, text);
});

test('the log replays to the same database', () => {
  fc.assert(
    fc.property(transactions, (list) => {
      const database = createDatabase(SCHEMA);
      const replayed = createDatabase(SCHEMA);
      let model: Model = { Root: new Map(), Child: new Map() };
      for (const [i, steps] of list.entries()) {
        const [operations, expected] = translate(steps, i + 1, model);
        model = expected ?? model;
        const changes = transact(database, operations);
        const record = changes && transactionRecord(changes, [], 0);
        if (record) replayRecord(replayed, parseJson(stringifyJson(record)) as JsonObject);
      }
      for (const tableName of ['Root', 'Child']) {
        assert.equal(content(replayed, tableName), content(database, tableName));
      }
    }),
    { numRuns: 100 },
  );
});

// ---- monitors

type Replica = Map<string, Map<string, Map<string, Datum>>>;

function applyUpdates(replica: Replica, updates: Json, version: 1 | 2): void {
  for (const [tableName, rows] of Object.entries(updates as JsonObject)) {
    const { columns } = SCHEMA.tables.get(tableName)!;
    const own = replica.get(tableName) ?? new Map();
    replica.set(tableName, own);
    for (const [uuid, update] of Object.entries(rows as JsonObject)) {
      const {
        old,
        new: after,
        initial,
        insert,
        modify,
        delete: gone,
      } = update as Record<string, JsonObject>;
      const whole = version === 1 ? after : (initial ?? insert);
      if (version === 1 ? after === undefined : gone !== undefined) {
        assert.ok(own.delete(uuid), 'deletes what is there');
        continue;
      }
      if (version === 1 && old) assert.ok(own.has(uuid));
      const data: Map<string, Datum> = whole
        ? new Map([...columns.values()].map((c) => [c.name, c.default]))
        : own.get(uuid)!;
      for (const [columnName, json] of Object.entries(whole ?? modify!)) {
        const { type } = columns.get(columnName)!;
        if (whole) data.set(columnName, datumFromJson(type, json));
        else {
          const diff = datumFromJson(diffType(type), json);
          data.set(columnName, applyDiff(type, data.get(columnName)!, diff));
        }
      }
      own.set(uuid, data);
    }
  }
}

function replicaContent(replica: Replica, tableName: string): string {
  const { columns } = SCHEMA.tables.get(tableName)!;
  const rows = [...(replica.get(tableName) ?? [])].map(([uuid, data]) => [
    uuid,
    Object.fromEntries(
      [...data]
        .filter(([c]) => !c.startsWith('_'))
        .map(([c, datum]) => [c, datumToJson(columns.get(c)!.type, datum)]),
    ),
  ]);
  return canonicalJson(Object.fromEntries(rows));
}

test('what monitors send adds up to what they watch', () => {
  const conditions = fc.constantFrom<Json>(
    [],
    [true],
    [false],
    [['name', '==', 'a']],
    [
      ['name', '==', 'a'],
      ['count', '>', 2],
    ],
    [['map', 'includes', ['map', [['a', 1]]]]],
  );
  const flush = fc.constantFrom('keep', 'flush', 'change');
  const list = fc.array(
    fc.tuple(fc.array(step, { minLength: 1, maxLength: 5 }), flush, conditions),
    { maxLength: 12 },
  );
  fc.assert(
    fc.property(list, conditions, (steps, first) => {
      const database = createDatabase(SCHEMA);
      const plain = new Monitor(database, 'v1', { Root: {}, Child: {} }, 1);
      const conditional = new Monitor(database, 'v2', { Root: [{ where: first }] }, 2);
      const replicas: Replica[] = [new Map(), new Map()];
      applyUpdates(replicas[0]!, plain.initial(), 1);
      applyUpdates(replicas[1]!, conditional.initial(), 2);
      let condition = first;
      let model: Model = { Root: new Map(), Child: new Map() };
      const check = () => {
        applyUpdates(replicas[0]!, plain.takeUpdates() ?? {}, 1);
        applyUpdates(replicas[1]!, conditional.takeUpdates() ?? {}, 2);
        for (const tableName of ['Root', 'Child']) {
          assert.equal(replicaContent(replicas[0]!, tableName), content(database, tableName));
        }
        const wanted = new Monitor(database, 'x', { Root: [{ where: condition }] }, 2);
        const fresh: Replica = new Map();
        applyUpdates(fresh, wanted.initial(), 2);
        assert.equal(replicaContent(replicas[1]!, 'Root'), replicaContent(fresh, 'Root'));
      };
      for (const [i, [transaction, action, next]] of steps.entries()) {
        const [operations, expected] = translate(transaction, i + 1, model);
        model = expected ?? model;
        const changes = transact(database, operations) ?? [];
        plain.record(changes);
        conditional.record(changes);
        if (action === 'keep') continue;
        check();
        if (action === 'flush') continue;
        const updates = conditional.changeConditions({ Root: [{ where: next }] });
        applyUpdates(replicas[1]!, updates ?? {}, 2);
        condition = next;
        check();
      }
      check();
    }),
    { numRuns: 200 },
  );
});

// ---- anything

test('differences lead from any value to any other', () => {
  const types: [ColumnType, fc.Arbitrary<Json>][] = [
    [
      columnType({ key: 'integer', min: 0, max: 'unlimited' }),
      fc.uniqueArray(fc.integer({ min: 0, max: 9 })).map((a) => ['set', a]),
    ],
    [
      columnType({ key: 'string', value: 'integer', min: 0, max: 'unlimited' }),
      fc.uniqueArray(fc.tuple(name, fc.nat(2)), { selector: ([k]) => k }).map((a) => ['map', a]),
    ],
    [
      columnType({ key: 'string', min: 0, max: 1 }),
      fc.uniqueArray(fc.string(), { maxLength: 1 }).map((a) => ['set', a]),
    ],
  ];
  for (const [type, values] of types) {
    fc.assert(
      fc.property(values, values, (a, b) => {
        const [from, to] = [datumFromJson(type, a), datumFromJson(type, b)];
        const diff = diffDatum(type, from, to);
        const sent = datumFromJson(diffType(type), datumToJson(diffType(type), diff));
        assert.deepEqual(applyDiff(type, from, sent), to);
      }),
    );
  }
});

test('JSON survives the wire in any chunks', () => {
  const json = fc
    .jsonValue({ maxDepth: 3 })
    .map((value) => (value === null || typeof value !== 'object' ? [value] : value) as Json);
  fc.assert(
    fc.property(
      fc.array(json),
      fc.array(fc.integer({ min: 1, max: 20 }), { minLength: 1 }),
      (list, sizes) => {
        const well = list.map((item) =>
          parseJson(stringifyJson(item).replaceAll(/\\u(0000|d[89a-f]..)/gi, '')),
        );
        const stream = new TextEncoder().encode(well.map(stringifyJson).join(' '));
        const splitter = new JsonSplitter();
        const received: Json[] = [];
        for (let at = 0, i = 0; at < stream.length; i++) {
          const size = sizes[i % sizes.length]!;
          for (const text of splitter.push(stream.subarray(at, at + size)))
            received.push(parseJson(text));
          at += size;
        }
        assert.deepEqual(received, well);
      },
    ),
  );
});

test('random bytes get a JsonError at worst', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      try {
        for (const text of new JsonSplitter().push(bytes)) parseJson(text);
      } catch (error) {
        assert.ok(error instanceof JsonError, String(error));
      }
    }),
  );
});

test('random operations get results or errors, and change nothing when they fail', () => {
  const word = fc.constantFrom(
    'insert',
    'select',
    'update',
    'mutate',
    'delete',
    'wait',
    'Root',
    'Child',
    'name',
    'strong',
    '==',
    'includes',
    '+=',
    'set',
    'map',
    'uuid',
    'named-uuid',
    '_uuid',
    '__proto__',
    'constructor',
    'toString',
    '',
  );
  const value: fc.Arbitrary<Json> = fc.letrec((tie) => ({
    value: fc.oneof(
      { maxDepth: 4 },
      word,
      fc.integer(),
      fc.boolean(),
      fc.constant(null),
      fc.array(tie('value'), { maxLength: 3 }),
      fc.dictionary(word, tie('value'), { maxKeys: 3 }),
    ),
  })).value as fc.Arbitrary<Json>;
  const operation = fc.record(
    {
      op: word,
      table: word,
      where: value,
      row: value,
      columns: value,
      mutations: value,
      until: value,
      rows: value,
      timeout: fc.constant(0),
      uuid: value,
      'uuid-name': value,
      sort: value,
    },
    { requiredKeys: ['op', 'table'] },
  );
  fc.assert(
    fc.property(
      fc.array(fc.oneof(operation as fc.Arbitrary<Json>, value), { maxLength: 4 }),
      (operations) => {
        const database = createDatabase(SCHEMA);
        transact(database, [{ op: 'insert', table: 'Root', row: { name: 'a' } }]);
        const before = content(database, 'Root');
        const execution = execute(database, ['db', ...operations], { elapsedMs: 0 });
        assert.equal(content(database, 'Root'), before);
        if (execution.kind === 'failed') {
          assert.equal((execution.results as Json[]).length, operations.length);
          return;
        }
        if (execution.kind !== 'done') return;
        try {
          execution.transaction.prepare();
        } catch (error) {
          assert.ok(error instanceof OvsdbError, String((error as Error).stack));
        }
      },
    ),
    { numRuns: 3000 },
  );
});
