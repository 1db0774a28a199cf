// The file format of a standalone OVSDB database (ovsdb(5), "Standalone Format"): a log of JSON
// objects.
//
//   OVSDB JSON <length> <sha1>\n      length in bytes and SHA-1 of what follows
//   {…}\n                             record 1: the schema; others: a transaction
//
// A transaction: {"_date": ms, "_comment": "…", "Table": {"<uuid>": {column: value…} | null}}. A
// row has the columns that changed, a new row those that differ from the default; null deletes.
// With "_is_diff": true, as servers from 2.15 on write it, the new values of sets and maps are
// differences: one port more on a bridge of thousands is a short record.

import { createHash } from 'node:crypto';
import { parseUuid } from './atom.ts';
import {
  type ChangeSet,
  type Database,
  newRow,
  parseRow,
  type Row,
  withFields,
} from './database.ts';
import { applyDiff, datumEquals, datumToJson, diffDatum, diffType } from './datum.ts';
import { OvsdbError, syntaxError } from './error.ts';
import { isObject, type Json, type JsonObject, parseJson, stringifyJson } from './json.ts';
import type { TableSchema } from './schema.ts';
import { Transaction } from './transaction.ts';

/** One record with its header. */
export function encodeRecord(json: JsonObject): Buffer {
  const body = Buffer.from(`${stringifyJson(json)}\n`);
  const sha1 = createHash('sha1').update(body).digest('hex');
  return Buffer.concat([Buffer.from(`OVSDB JSON ${body.length} ${sha1}\n`), body]);
}

export type ReadRecord =
  | { kind: 'record'; json: JsonObject; end: number }
  | { kind: 'end' }
  /** Not a whole, intact record. */
  | { kind: 'bad'; reason: string };

const HEADER = /^OVSDB ([^ \n]+) (\d{1,15}) ([0-9a-fA-F]{40})\n/;

/** The record that starts at `offset` of the file's bytes. */
export function readRecord(bytes: Uint8Array, offset: number): ReadRecord {
  if (offset === bytes.length) return { kind: 'end' };
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const header = HEADER.exec(buffer.toString('latin1', offset, offset + 128));
  if (!header) return { kind: 'bad', reason: `parse error at offset ${offset} in header line` };
  if (header[1] !== 'JSON') {
    return { kind: 'bad', reason: `record at offset ${offset} is of kind ${header[1]}, not JSON` };
  }
  const start = offset + header[0].length;
  const length = Number(header[2]);
  const body = buffer.subarray(start, start + length);
  if (body.length < length) {
    return { kind: 'bad', reason: `error reading ${length} bytes starting at offset ${start}` };
  }
  const sha1 = createHash('sha1').update(body).digest('hex');
  if (sha1 !== header[3]!.toLowerCase()) {
    const reason = `${length} bytes starting at offset ${start} have SHA-1 hash ${sha1} but should have hash ${header[3]}`;
    return { kind: 'bad', reason };
  }
  try {
    const json = parseJson(body.toString('utf8'));
    if (isObject(json)) return { kind: 'record', json, end: start + length };
    return {
      kind: 'bad',
      reason: `${length} bytes starting at offset ${start} are not a JSON object`,
    };
  } catch (error) {
    const text = (error as Error).message;
    const reason = `${length} bytes starting at offset ${start} are not valid JSON (${text})`;
    return { kind: 'bad', reason };
  }
}

/**
 * Whether an intact record begins anywhere after `offset`: then the bytes at `offset` are damage,
 * not a torn end.
 */
export function hasRecordAfter(bytes: Uint8Array, offset: number): boolean {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = buffer.indexOf('OVSDB ', offset + 1);
  while (at >= 0) {
    if (readRecord(bytes, at).kind === 'record') return true;
    at = buffer.indexOf('OVSDB ', at + 1);
  }
  return false;
}

function rowRecord(old: Row | undefined, row: Row, schema: TableSchema): Record<string, Json> {
  const json: Record<string, Json> = {};
  for (const { persistent, index, name, type, default: unset } of schema.columnList) {
    if (!persistent) continue;
    const datum = row.fields[index]!;
    const before = old?.fields[index] ?? unset;
    if (datumEquals(datum, before)) continue;
    // A reader takes the difference to a default value as the value itself.
    const whole = datumEquals(before, unset);
    json[name] = datumToJson(type, whole ? datum : diffDatum(type, before, datum));
  }
  return json;
}

/** The record of a transaction; undefined if nothing that belongs into the file changed. */
export function transactionRecord(
  changes: ChangeSet,
  comments: readonly string[],
  dateMs: number,
): JsonObject | undefined {
  const record: Record<string, Json> = {};
  for (const { table, uuid, old, new: row } of changes) {
    const { name } = table.schema;
    const json = row ? rowRecord(old, row, table.schema) : null;
    if (old && json !== null && Object.keys(json).length === 0) continue;
    if (!Object.hasOwn(record, name)) record[name] = {};
    (record[name] as Record<string, Json>)[uuid] = json;
  }
  if (Object.keys(record).length === 0) return undefined;
  if (comments.length > 0) record._comment = comments.join('\n');
  record._is_diff = true;
  record._date = dateMs;
  return record;
}

/** The whole content as one transaction. */
export function snapshotRecord(database: Database, comment: string, dateMs: number): JsonObject {
  const changes = [...database.tables.values()].flatMap((table) =>
    [...table.rows.values()].map((row) => ({ table, uuid: row.uuid, old: undefined, new: row })),
  );
  const record = transactionRecord(changes, [comment], dateMs);
  return record ?? { _comment: comment, _date: dateMs };
}

export interface ReplayOptions {
  /**
   * Ignore tables and columns that the schema does not have, as a conversion to another version
   * does.
   */
  lenient?: boolean;
}

/** Executes a transaction record. Throws OvsdbError and leaves the database as it was. */
export function replayRecord(
  database: Database,
  record: JsonObject,
  options: ReplayOptions = {},
): void {
  const transaction = new Transaction(database);
  const isDiff = record._is_diff === true;
  for (const [name, rows] of Object.entries(record)) {
    const table = database.tables.get(name);
    if (!table) {
      if (name.startsWith('_') || options.lenient) continue;
      throw syntaxError(record, `No table named ${name}.`, 'unknown table');
    }
    if (!isObject(rows)) throw syntaxError(rows, 'object expected');
    for (const [uuidText, json] of Object.entries(rows)) {
      const uuid = parseUuid(uuidText);
      if (uuid === undefined) throw syntaxError(rows, `"${uuidText}" is not a valid UUID`);
      const old = transaction.get(table, uuid);
      if (json === null) {
        if (!old) {
          const text = `transaction deletes row ${uuid} that does not exist`;
          throw new OvsdbError('syntax error', text);
        }
        transaction.delete(table, uuid);
        continue;
      }
      const row = options.lenient ? known(table.schema.columns, json) : json;
      const set = parseRow(table.schema, row, undefined, isDiff && old ? diffType : undefined);
      if (!old) {
        transaction.insert(table, newRow(table.schema, uuid, set));
        continue;
      }
      if (isDiff) {
        for (const [column, diff] of set) {
          const before = old.fields[column.index]!;
          // A default value is not in the file, so the difference to it is the value itself.
          if (datumEquals(before, column.default)) continue;
          set.set(column, applyDiff(column.type, before, diff));
        }
      }
      transaction.replace(table, withFields(old, set));
    }
  }
  transaction.prepare();
  transaction.apply();
}

function known(columns: ReadonlyMap<string, unknown>, json: Json): Json {
  if (!isObject(json)) return json;
  return Object.fromEntries(Object.entries(json).filter(([name]) => columns.has(name)));
}
