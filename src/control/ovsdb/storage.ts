// The database's file: opening, appending, compacting, and the lock that keeps two servers apart.
//
// The file is Open vSwitch's own (src/wire/ovsdb/log.ts), so ovsdb-tool reads it and ovsdb-server
// can take it over. A transaction is one record, written before it is applied: after a crash the
// file ends with whole transactions and at most one torn record, which is ignored. Damage anywhere
// else is not guessed at: the file is refused and left alone.

import {
  closeSync,
  constants,
  copyFileSync,
  existsSync,
  fdatasync,
  fdatasyncSync,
  fsyncSync,
  ftruncateSync,
  openSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { tryLock } from '../../sys/lock.ts';
import { type ChangeSet, createDatabase, type Database } from '../../wire/ovsdb/database.ts';
import { OvsdbError } from '../../wire/ovsdb/error.ts';
import type { JsonObject } from '../../wire/ovsdb/json.ts';
import {
  encodeRecord,
  hasRecordAfter,
  readRecord,
  replayRecord,
  snapshotRecord,
  transactionRecord,
} from '../../wire/ovsdb/log.ts';
import { type DatabaseSchema, parseSchema, schemaToJson } from '../../wire/ovsdb/schema.ts';
import { errorText, type Log } from './log.ts';

/** The file cannot be used; the message says which and why. */
export class StorageError extends Error {}

export interface StorageOptions {
  file: string;
  /** Schema for a new file, and what an older file is converted to. */
  schema: DatabaseSchema;
  log: Log;
  /** For tests: how bytes get into the file. */
  write?: typeof writeSync;
  /** Size from which on a file that has doubled is compacted; default 10 MiB. */
  compactBytes?: number;
}

/** Changes that nobody asked to be durable are on disk after this time. */
const SYNC_DELAY_MS = 1000;

function ioError(error: unknown, what: string): OvsdbError {
  return new OvsdbError('I/O error', what, { ioError: errorText(error) });
}

function syncDirectory(file: string): void {
  const fd = openSync(dirname(file), constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

/**
 * Name of the lock file as ovsdb-server and ovsdb-tool make it: .NAME.~lock~ beside the file that a
 * symlink means.
 */
function lockName(file: string): string {
  const real = existsSync(file) ? realpathSync(file) : file;
  return join(dirname(real), `.${basename(real)}.~lock~`);
}

function lock(file: string): number {
  const fd = openSync(lockName(file), constants.O_RDWR | constants.O_CREAT, 0o600);
  if (tryLock(fd)) return fd;
  closeSync(fd);
  throw new StorageError(
    `${file}: failed to lock lockfile (Resource temporarily unavailable): another process uses this database`,
  );
}

/**
 * Writes a complete file beside `file` and puts it in its place, so that no half file can ever be
 * seen.
 */
function replaceFile(
  file: string,
  records: readonly JsonObject[],
  write: typeof writeSync,
): number {
  const temporary = `${file}.tmp`;
  rmSync(temporary, { force: true });
  const fd = openSync(temporary, 'wx+', 0o660);
  try {
    const bytes = Buffer.concat(records.map(encodeRecord));
    writeAll(fd, bytes, 0, write);
    fsyncSync(fd);
    renameSync(temporary, file);
    syncDirectory(file);
    return bytes.length;
  } catch (error) {
    rmSync(temporary, { force: true });
    throw error;
  } finally {
    closeSync(fd);
  }
}

function writeAll(fd: number, bytes: Buffer, position: number, write: typeof writeSync): void {
  for (let done = 0; done < bytes.length; ) {
    done += write(fd, bytes, done, bytes.length - done, position + done);
  }
}

/**
 * Reads a file's content. Throws StorageError if it is not an intact database of the schema's name.
 */
function load(file: string, bytes: Buffer, schema: DatabaseSchema, log: Log) {
  const first = readRecord(bytes, 0);
  if (first.kind !== 'record') {
    const reason = first.kind === 'bad' ? first.reason : 'empty file';
    throw new StorageError(`${file}: not an OVSDB database file (${reason}); it is left untouched`);
  }
  let fileSchema: DatabaseSchema;
  try {
    fileSchema = parseSchema(first.json);
  } catch (error) {
    throw new StorageError(`${file}: bad schema (${error}); it is left untouched`);
  }
  if (fileSchema.name !== schema.name) {
    const text = `${file}: holds database ${fileSchema.name}, not ${schema.name}`;
    throw new StorageError(`${text}; it is left untouched`);
  }
  const database = createDatabase(fileSchema);
  let end = first.end;
  for (;;) {
    const record = readRecord(bytes, end);
    if (record.kind === 'end') break;
    if (record.kind === 'bad') {
      if (hasRecordAfter(bytes, end)) {
        throw new StorageError(`${file}: damaged: ${record.reason}; it is left untouched`);
      }
      const lost = bytes.length - end;
      log.warn(
        `${file}: ${record.reason}: ignoring an unfinished record of ${lost} bytes at the end`,
      );
      break;
    }
    try {
      replayRecord(database, record.json);
    } catch (error) {
      const text = `${file}: damaged: transaction at offset ${end} does not apply (${error})`;
      throw new StorageError(`${text}; it is left untouched`);
    }
    end = record.end;
  }
  return { database, schemaJson: first.json, end };
}

function isOlder(a: string, b: string): boolean {
  const [x, y] = [a.split('.').map(Number), b.split('.').map(Number)];
  const i = [0, 1, 2].find((at) => (x[at] ?? 0) !== (y[at] ?? 0));
  return i !== undefined && (x[i] ?? 0) < (y[i] ?? 0);
}

export class Storage {
  readonly file: string;
  readonly database: Database;
  readonly #schemaJson: JsonObject;
  readonly #log: Log;
  readonly #write: typeof writeSync;
  readonly #compactBytes: number;
  readonly #lockFd: number;
  #fd: number;
  /** Bytes of whole records. */
  #size: number;
  /** Size after the last compaction. */
  #base: number;
  #torn: boolean;
  #syncTimer: NodeJS.Timeout | undefined;

  /** Opens or creates the file and reads it. Throws StorageError, or the system's error. */
  constructor(options: StorageOptions) {
    const { schema, log } = options;
    this.file = resolve(options.file);
    this.#log = log;
    this.#write = options.write ?? writeSync;
    this.#compactBytes = options.compactBytes ?? 10 * 1024 * 1024;
    this.#lockFd = lock(this.file);
    try {
      if (!existsSync(this.file)) {
        replaceFile(this.file, [schemaToJson(schema)], this.#write);
        log.info(`created database ${this.file}`);
      }
      const bytes = readFileSync(this.file);
      const loaded = load(this.file, bytes, schema, log);
      this.#size = loaded.end;
      this.#torn = loaded.end < bytes.length;
      if (isOlder(loaded.database.schema.version, schema.version)) {
        this.database = this.#convert(loaded.database, schema);
        this.#schemaJson = schemaToJson(schema);
        this.#torn = false;
      } else {
        this.database = loaded.database;
        this.#schemaJson = loaded.schemaJson;
      }
      this.#base = this.#size;
      this.#fd = openSync(this.file, 'r+');
    } catch (error) {
      closeSync(this.#lockFd);
      throw error;
    }
  }

  /**
   * Puts the rows into the newer schema, as ovs-ctl does at an upgrade, and keeps a copy of the old
   * file.
   */
  #convert(old: Database, schema: DatabaseSchema): Database {
    const { version, cksum } = old.schema;
    const backup = `${this.file}.backup${version}-${cksum.replaceAll(' ', '')}`;
    copyFileSync(this.file, backup);
    const database = createDatabase(schema);
    const record = snapshotRecord(old, `converted from schema ${version}`, Date.now());
    try {
      replayRecord(database, record, { lenient: true });
    } catch (error) {
      throw new StorageError(`${this.file}: cannot be converted to ${schema.version} (${error})`);
    }
    this.#size = replaceFile(this.file, [schemaToJson(schema), record], this.#write);
    this.#log.info(
      `${this.file}: converted from schema ${version} to ${schema.version}, backup in ${backup}`,
    );
    return database;
  }

  /** Writes a prepared transaction. Throws OvsdbError "I/O error"; then the file is as before. */
  append(changes: ChangeSet, comments: readonly string[], durable: boolean): void {
    const record = transactionRecord(changes, comments, Date.now());
    if (!record) return;
    const bytes = encodeRecord(record);
    let what = 'write failed';
    try {
      if (this.#torn) ftruncateSync(this.#fd, this.#size);
      this.#torn = true;
      writeAll(this.#fd, bytes, this.#size, this.#write);
      if (durable) {
        what = 'fsync failed';
        fdatasyncSync(this.#fd);
      }
      this.#torn = false;
      this.#size += bytes.length;
    } catch (error) {
      this.#log.warn(`${this.file}: ${what} (${errorText(error)})`);
      try {
        ftruncateSync(this.#fd, this.#size);
        this.#torn = false;
      } catch {
        // The next append tries again; a reader ignores the torn end.
      }
      throw ioError(error, `${this.file}: ${what}`);
    }
    if (!durable) this.#syncSoon();
  }

  #syncSoon(): void {
    this.#syncTimer ??= setTimeout(() => {
      this.#syncTimer = undefined;
      fdatasync(this.#fd, (error) => {
        if (error && error.code !== 'EBADF') {
          this.#log.warn(`${this.file}: fsync failed (${errorText(error)})`);
        }
      });
    }, SYNC_DELAY_MS).unref();
  }

  /**
   * Compacts when the file is large and most of it is history. Call when the database is up to date
   * with the file.
   */
  compactIfWorthwhile(): void {
    if (this.#size < this.#compactBytes || this.#size / 2 < this.#base) return;
    try {
      this.compact();
    } catch (error) {
      this.#log.warn(`${this.file}: compacting failed (${errorText(error)})`);
      this.#base = this.#size;
    }
  }

  /** Rewrites the file with the content only. */
  compact(): void {
    const record = snapshotRecord(this.database, 'compacting database online', Date.now());
    this.#size = replaceFile(this.file, [this.#schemaJson, record], this.#write);
    this.#base = this.#size;
    this.#torn = false;
    closeSync(this.#fd);
    this.#fd = openSync(this.file, 'r+');
  }

  close(): void {
    clearTimeout(this.#syncTimer);
    if (this.#fd < 0) return;
    try {
      fdatasyncSync(this.#fd);
    } catch (error) {
      this.#log.warn(`${this.file}: fsync failed (${errorText(error)})`);
    }
    closeSync(this.#fd);
    closeSync(this.#lockFd);
    this.#fd = -1;
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
