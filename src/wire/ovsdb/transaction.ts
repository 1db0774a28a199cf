// One transaction on a database: an overlay of changed rows that becomes the database's content as
// a whole or not at all.
//
// Operations (execute.ts) read and write through the overlay. prepare() then settles what RFC 7047
// leaves to the end of a transaction: reference counts (§3.2 strong references), garbage outside
// the root set, maximum rows, weak references, unique indexes, new versions — in the order of the
// real server, because the first violation is reported. apply() puts the result into the tables;
// nothing happens to them before.

import { randomUUID } from 'node:crypto';
import { ZERO_UUID } from './atom.ts';
import type { ChangeSet, Database, Row, RowChange, Table } from './database.ts';
import { fieldsKey, withFields } from './database.ts';
import { type Datum, datumEquals, datumToString } from './datum.ts';
import { constraintViolation, OvsdbError } from './error.ts';
import { type ColumnSchema, VERSION_INDEX } from './schema.ts';

interface TxnRow {
  readonly table: Table;
  readonly uuid: string;
  readonly old: Row | undefined;
  new: Row | undefined;
  references: number;
}

const WITHOUT_ROWS: ReadonlyMap<string, TxnRow> = new Map();

/** The uuids that a datum holds in positions of the reference kind, with the position. */
function* references(
  column: ColumnSchema,
  datum: Datum,
  kind: 'strong' | 'weak',
): Generator<{ table: string; uuid: string; at: number }> {
  const { key, value } = column.type;
  if (key.refType === kind) {
    for (const [at, uuid] of datum.keys.entries()) {
      yield { table: key.refTable!, uuid: uuid as string, at };
    }
  }
  if (value?.refType === kind) {
    for (const [at, uuid] of datum.values!.entries()) {
      yield { table: value.refTable!, uuid: uuid as string, at };
    }
  }
}

/** `datum` without the elements at these positions. */
function withoutPositions(datum: Datum, positions: readonly number[]): Datum {
  const keep = (_: unknown, i: number) => !positions.includes(i);
  const keys = datum.keys.filter(keep);
  return datum.values ? { keys, values: datum.values.filter(keep) } : { keys };
}

export class Transaction {
  readonly #database: Database;
  readonly #rows = new Map<Table, Map<string, TxnRow>>();
  readonly comments: string[] = [];
  #changes: RowChange[] = [];

  constructor(database: Database) {
    this.#database = database;
  }

  // ---- view of the operations

  table(name: string): Table | undefined {
    return this.#database.tables.get(name);
  }

  get(table: Table, uuid: string): Row | undefined {
    const changed = this.#rows.get(table)?.get(uuid);
    return changed ? changed.new : table.rows.get(uuid);
  }

  /** All rows as the transaction sees them. Rows may be replaced or removed while iterating. */
  *rows(table: Table): Generator<Row> {
    const changed = this.#rows.get(table) ?? WITHOUT_ROWS;
    for (const row of [...table.rows.values()]) {
      const own = changed.get(row.uuid);
      const current = own ? own.new : row;
      if (current) yield current;
    }
    for (const { old, new: row } of [...changed.values()]) if (!old && row) yield row;
  }

  /** False if the uuid is in use in the table or was until this transaction deleted it. */
  mayInsert(table: Table, uuid: string): boolean {
    return !table.rows.has(uuid) && !this.#rows.get(table)?.has(uuid);
  }

  insert(table: Table, row: Row): void {
    const txnRow = { table, uuid: row.uuid, old: undefined, new: row, references: 0 };
    this.#rowsOf(table).set(row.uuid, txnRow);
  }

  replace(table: Table, row: Row): void {
    this.#pull(table, row.uuid)!.new = row;
  }

  delete(table: Table, uuid: string): void {
    const txnRow = this.#pull(table, uuid)!;
    if (txnRow.old) txnRow.new = undefined;
    else this.#rowsOf(table).delete(uuid);
  }

  #rowsOf(table: Table): Map<string, TxnRow> {
    let rows = this.#rows.get(table);
    if (!rows) {
      rows = new Map();
      this.#rows.set(table, rows);
    }
    return rows;
  }

  /**
   * The row's place in the overlay; undefined if there is no such row. A row deleted here has its
   * place.
   */
  #pull(table: Table, uuid: string): TxnRow | undefined {
    const rows = this.#rowsOf(table);
    let txnRow = rows.get(uuid);
    if (!txnRow) {
      const old = table.rows.get(uuid);
      if (!old) return undefined;
      txnRow = { table, uuid, old, new: old, references: table.references.get(uuid) ?? 0 };
      rows.set(uuid, txnRow);
    }
    return txnRow;
  }

  *#all(): Generator<TxnRow> {
    for (const rows of this.#rows.values()) yield* rows.values();
  }

  // ---- the end of the transaction

  /**
   * Checks and completes the transaction; returns what it changes (nothing, perhaps). Throws
   * OvsdbError, and the transaction must be forgotten.
   */
  prepare(): ChangeSet {
    this.#dropUnchanged();
    for (const row of [...this.#all()]) this.#countReferences(row);
    for (const row of this.#all()) {
      if (!row.new && row.references > 0) {
        throw new OvsdbError(
          'referential integrity violation',
          `cannot delete ${row.table.schema.name} row ${row.uuid} because of ${row.references} remaining reference(s)`,
        );
      }
    }
    for (const row of [...this.#all()]) {
      if (row.new && row.references === 0) this.#collect(row);
    }
    this.#checkMaxRows();
    this.#dropWeakReferences();
    this.#checkIndexes();
    for (const row of this.#all()) {
      if (row.old === row.new || (row.old && row.new && !this.#changed(row))) continue;
      if (row.old && row.new) {
        const fields = [...row.new.fields];
        fields[VERSION_INDEX] = { keys: [randomUUID()] };
        row.new = { uuid: row.uuid, fields };
      }
      this.#changes.push({ table: row.table, uuid: row.uuid, old: row.old, new: row.new });
    }
    return this.#changes;
  }

  /** Makes the prepared changes the content of the database. */
  apply(): void {
    for (const { table, uuid, new: row, references: count } of this.#all()) {
      if (row && count > 0) table.references.set(uuid, count);
      else table.references.delete(uuid);
    }
    for (const { table, old } of this.#changes) {
      if (!old) continue;
      for (const [i, columns] of table.schema.indexes.entries()) {
        table.indexes[i]!.delete(fieldsKey(old, columns));
      }
    }
    for (const { table, uuid, new: row } of this.#changes) {
      if (!row) {
        table.rows.delete(uuid);
        continue;
      }
      table.rows.set(uuid, row);
      for (const [i, columns] of table.schema.indexes.entries()) {
        table.indexes[i]!.set(fieldsKey(row, columns), uuid);
      }
    }
  }

  #changed(row: TxnRow): boolean {
    const from = row.old!.fields;
    const to = row.new!.fields;
    return from.some((datum, i) => !datumEquals(datum, to[i]!));
  }

  #dropUnchanged(): void {
    for (const [table, rows] of this.#rows) {
      for (const row of rows.values()) {
        if (row.old && row.new && !this.#changed(row)) rows.delete(row.uuid);
      }
      if (rows.size === 0) this.#rows.delete(table);
    }
  }

  /**
   * Adds what the row refers to now, subtracts what it referred to before. Self-references do not
   * count.
   */
  #countReferences(row: TxnRow): void {
    for (const column of row.table.schema.strongColumns) {
      const before = row.old?.fields[column.index];
      const after = row.new?.fields[column.index];
      if (before === after) continue;
      // Most references stay: only the rows that gain or lose one are pulled into the transaction.
      const deltas = new Map<string, { table: string; uuid: string; delta: number }>();
      const count = (datum: Datum | undefined, delta: number) => {
        for (const { table, uuid } of datum ? references(column, datum, 'strong') : []) {
          const known = deltas.get(uuid);
          if (known) known.delta += delta;
          else deltas.set(uuid, { table, uuid, delta });
        }
      };
      count(before, -1);
      count(after, 1);
      for (const { table, uuid, delta } of deltas.values()) {
        if (delta !== 0 && uuid !== row.uuid) this.#adjust(row, column, table, uuid, delta);
      }
    }
  }

  #adjust(row: TxnRow, column: ColumnSchema, table: string, uuid: string, delta: number): void {
    const target = this.#pull(this.table(table)!, uuid);
    if (!target) {
      throw new OvsdbError(
        'referential integrity violation',
        `Table ${row.table.schema.name} column ${column.name} row ${row.uuid} references nonexistent row ${uuid} in table ${table}.`,
      );
    }
    target.references += delta;
  }

  /** Deletes an unreferenced row outside the root set, and what becomes unreferenced by that. */
  #collect(row: TxnRow): void {
    const garbage = [row];
    for (let dead = garbage.pop(); dead; dead = garbage.pop()) {
      if (dead.table.schema.isRoot || !dead.new) continue;
      const { fields } = dead.new;
      dead.new = undefined;
      for (const column of dead.table.schema.strongColumns) {
        for (const { table, uuid } of references(column, fields[column.index]!, 'strong')) {
          if (uuid === dead.uuid) continue;
          const target = this.#pull(this.table(table)!, uuid)!;
          if (--target.references === 0) garbage.push(target);
        }
      }
    }
  }

  #checkMaxRows(): void {
    for (const [table, rows] of this.#rows) {
      let count = table.rows.size;
      for (const { old, new: row } of rows.values()) count += (row ? 1 : 0) - (old ? 1 : 0);
      const { name, maxRows } = table.schema;
      if (count > maxRows) {
        throw constraintViolation(
          `transaction causes "${name}" table to contain ${count} rows, greater than the schema-defined limit of ${maxRows} row(s)`,
        );
      }
    }
  }

  /**
   * Takes references to rows that do not exist out of weak columns. Rows that this transaction
   * touches are looked at; if it deletes rows, all rows of the tables that may refer to them are,
   * too: these tables (Mirror) are small.
   */
  #dropWeakReferences(): void {
    const deletedFrom = new Set<string>();
    for (const { table, old, new: row } of this.#all()) {
      if (old && !row) deletedFrom.add(table.schema.name);
    }
    for (const table of this.#database.tables.values()) {
      const columns = table.schema.weakColumns;
      if (columns.length === 0) continue;
      const affected = columns.some(
        ({ type }) =>
          (type.key.refType === 'weak' && deletedFrom.has(type.key.refTable!)) ||
          (type.value?.refType === 'weak' && deletedFrom.has(type.value.refTable!)),
      );
      const touched = [...(this.#rows.get(table)?.values() ?? [])].flatMap(
        ({ new: row }) => row ?? [],
      );
      for (const row of affected ? [...this.rows(table)] : touched) {
        for (const column of columns) this.#dropWeak(table, row.uuid, column);
      }
    }
  }

  #dropWeak(table: Table, uuid: string, column: ColumnSchema): void {
    const row = this.get(table, uuid)!;
    const datum = row.fields[column.index]!;
    const dead: number[] = [];
    let zero = false;
    for (const reference of references(column, datum, 'weak')) {
      if (this.get(this.table(reference.table)!, reference.uuid)) continue;
      dead.push(reference.at);
      zero ||= reference.uuid === ZERO_UUID;
    }
    if (dead.length === 0) return;
    const left = withoutPositions(datum, dead);
    const txnRow = this.#pull(table, uuid)!;
    txnRow.new = withFields(row, [[column, left]]);
    if (left.keys.length >= column.type.min) return;
    const { name } = table.schema;
    if (zero && !txnRow.old) {
      throw constraintViolation(
        `Weak reference column "${column.name}" in "${name}" row ${uuid} (inserted within this transaction) contained all-zeros UUID (probably as the default value for this column) but deleting this value caused a constraint volation because this column is not allowed to be empty.`,
      );
    }
    const inserted = txnRow.old ? '' : '(inserted within this transaction) ';
    throw constraintViolation(
      `Deletion of ${datum.keys.length - left.keys.length} weak reference(s) to deleted (or never-existing) rows from column "${column.name}" in "${name}" row ${uuid} ${inserted}caused this column to become empty, but constraints on this column disallow an empty column.`,
    );
  }

  #checkIndexes(): void {
    for (const [table, rows] of this.#rows) {
      for (const [i, columns] of table.schema.indexes.entries()) {
        const seen = new Map<string, TxnRow>();
        for (const txnRow of rows.values()) {
          if (!txnRow.new) continue;
          const key = fieldsKey(txnRow.new, columns);
          const twin = seen.get(key);
          if (twin) throw this.#duplicate(columns, txnRow, twin);
          const uuid = table.indexes[i]!.get(key);
          if (uuid !== undefined && !rows.has(uuid)) {
            throw this.#duplicate(columns, txnRow, this.#pull(table, uuid)!);
          }
          seen.set(key, txnRow);
        }
      }
    }
  }

  #duplicate(columns: readonly ColumnSchema[], a: TxnRow, b: TxnRow): OvsdbError {
    const list = (words: string[]) =>
      words.length < 3
        ? words.join(' and ')
        : `${words.slice(0, -1).join(', ')}, and ${words.at(-1)}`;
    const values = (row: Row) =>
      list(columns.map(({ type, index }) => datumToString(type, row.fields[index]!)));
    const describe = (title: string, row: TxnRow): string => {
      const head = `${title} row, with UUID ${row.uuid}, `;
      if (!row.old) return `${head}was inserted by this transaction.`;
      if (row.old === row.new) {
        return `${head}existed in the database before this transaction and was not modified by the transaction.`;
      }
      if (fieldsKey(row.old, columns) === fieldsKey(row.new!, columns)) {
        return `${head}existed in the database before this transaction, which modified some of the row's columns but not any columns in this index.`;
      }
      return `${head}had the following index values before the transaction: ${values(row.old)}.`;
    };
    const names = list(columns.map(({ name }) => `"${name}"`));
    return constraintViolation(
      `Transaction causes multiple rows in "${a.table.schema.name}" table to have identical values (${values(a.new!)}) for index on column${columns.length > 1 ? 's' : ''} ${names}.  ${describe('First', a)}  ${describe('Second', b)}`,
    );
  }
}
