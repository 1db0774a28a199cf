// The OVSDB server (RFC 7047): databases, sessions, and the transactions that wait for a change.
//
// Transactions are executed one after the other, synchronously: a request is parsed, executed on an
// overlay, written to the file, applied, and told to the monitors before the next one is looked at.
// That is atomicity and isolation.

import { randomUUID } from 'node:crypto';
import type { Duplex } from 'node:stream';
import {
  type ChangeSet,
  createDatabase,
  type Database,
  newRow,
  parseRow,
} from '../../wire/ovsdb/database.ts';
import { OvsdbError } from '../../wire/ovsdb/error.ts';
import { type Execution, execute } from '../../wire/ovsdb/execute.ts';
import { type Json, stringifyJson } from '../../wire/ovsdb/json.ts';
import { parseSchema, schemaToJson } from '../../wire/ovsdb/schema.ts';
import { Transaction } from '../../wire/ovsdb/transaction.ts';
import { Locks } from './locks.ts';
import type { Log } from './log.ts';
import { SERVER_SCHEMA } from './serverSchema.ts';
import { Session } from './session.ts';

export interface ServedDatabase {
  readonly database: Database;
  /**
   * Makes changes permanent before they are applied. Throws OvsdbError, and the transaction fails
   * with it.
   */
  readonly append?: (changes: ChangeSet, comments: readonly string[], durable: boolean) => void;
  /** After a commit. */
  readonly applied?: (changes: ChangeSet) => void;
}

/** A "transact" request that has not been answered. */
export interface PendingTransaction {
  readonly session: Session;
  readonly served: ServedDatabase;
  readonly id: Json;
  readonly params: readonly Json[];
  readonly createdMs: number;
  /** From the shortest "timeout" of its waits. */
  timeoutMs: number;
}

/** What a session gets from the server. */
export interface SessionHost {
  readonly databases: ReadonlyMap<string, ServedDatabase>;
  readonly locks: Locks;
  readonly serverId: string;
  transact(pending: PendingTransaction): void;
  cancel(pending: PendingTransaction): void;
  sessionClosed(session: Session, reason: string): void;
  internalError(where: string, error: unknown): void;
}

export class OvsdbServer implements SessionHost {
  readonly databases = new Map<string, ServedDatabase>();
  readonly locks = new Locks();
  readonly serverId = randomUUID();
  readonly #log: Log;
  readonly #sessions = new Set<Session>();
  /** Transactions whose "wait" does not hold. */
  readonly #blocked = new Set<PendingTransaction>();
  #timer: NodeJS.Timeout | undefined;
  #nextName = 0;

  constructor(log: Log) {
    this.#log = log;
    const serverDatabase = { database: createDatabase(parseSchema(SERVER_SCHEMA)) };
    this.databases.set('_Server', serverDatabase);
    this.#register('_Server', serverDatabase);
  }

  addDatabase(served: ServedDatabase): void {
    const { name } = served.database.schema;
    if (this.databases.has(name)) throw new Error(`database ${name} is served already`);
    this.databases.set(name, served);
    this.#register(name, served);
  }

  /** Enters a database into _Server.Database. */
  #register(name: string, { database }: ServedDatabase): void {
    const server = this.databases.get('_Server')!;
    const row = {
      name,
      model: 'standalone',
      connected: true,
      leader: true,
      schema: stringifyJson(schemaToJson(database.schema)),
    };
    const transaction = new Transaction(server.database);
    insertPlain(transaction, 'Database', row);
    const changes = transaction.prepare();
    transaction.apply();
    this.#announce(server, changes);
  }

  /** Serves one connection, until it ends. */
  accept(stream: Duplex, options: { name?: string; probeIntervalMs?: number } = {}): Session {
    const name = options.name ?? `unix#${this.#nextName++}`;
    const session = new Session(stream, name, options.probeIntervalMs ?? 0, this);
    this.#sessions.add(session);
    return session;
  }

  get sessionCount(): number {
    return this.#sessions.size;
  }

  sessionClosed(session: Session, reason: string): void {
    this.#sessions.delete(session);
    this.#log.dbg(`${session.name}: ${reason}`);
  }

  internalError(where: string, error: unknown): void {
    this.#log.err(`${where}: internal error: ${(error as Error).stack ?? error}`);
  }

  close(): void {
    clearTimeout(this.#timer);
    for (const session of [...this.#sessions]) session.close('server is closing');
  }

  // ---- transactions

  transact(pending: PendingTransaction): void {
    if (this.#attempt(pending)) this.#retryBlocked();
  }

  cancel(pending: PendingTransaction): void {
    this.#blocked.delete(pending);
  }

  /** Executes once. True if the database changed. */
  #attempt(pending: PendingTransaction): boolean {
    const { session, served } = pending;
    const execution = this.#execute(pending);
    if (execution.kind === 'blocked') {
      pending.timeoutMs = execution.timeoutMs;
      this.#blocked.add(pending);
      this.#armTimer();
      return false;
    }
    this.#blocked.delete(pending);
    if (execution.kind === 'failed') {
      session.finished(pending, execution.results);
      return false;
    }
    const { transaction, results, durable } = execution;
    let changes: ChangeSet;
    try {
      changes = this.#commit(served, transaction, durable);
    } catch (error) {
      if (!(error instanceof OvsdbError)) throw error;
      session.finished(pending, [...results, error.toJson()]);
      return false;
    }
    session.finished(pending, results);
    if (changes.length > 0) for (const other of this.#sessions) other.flushIfIdle();
    return changes.length > 0;
  }

  #execute({ session, served, params, createdMs }: PendingTransaction): Execution {
    try {
      return execute(served.database, params, {
        elapsedMs: Math.round(performance.now() - createdMs),
        ownsLock: (name) => this.locks.owns(session, name),
      });
    } catch (error) {
      // A mistake of ours: this transaction fails, the server goes on.
      this.internalError(`transaction of ${session.name}`, error);
      return {
        kind: 'failed',
        results: [new OvsdbError('internal error', String(error)).toJson()],
      };
    }
  }

  /**
   * Makes a transaction permanent, applies it and has the monitors remember it. Throws OvsdbError.
   */
  #commit(served: ServedDatabase, transaction: Transaction, durable: boolean): ChangeSet {
    const changes = transaction.prepare();
    if (changes.length > 0) served.append?.(changes, transaction.comments, durable);
    transaction.apply();
    if (changes.length > 0) {
      for (const session of this.#sessions) session.changed(served, changes);
      served.applied?.(changes);
    }
    return changes;
  }

  /** Executes operations of the server itself. Throws OvsdbError. */
  update(served: ServedDatabase, operations: readonly Json[]): void {
    const params = [served.database.schema.name, ...operations];
    const execution = execute(served.database, params, { elapsedMs: 0 });
    if (execution.kind !== 'done') throw new OvsdbError('ovsdb error', stringifyJson(operations));
    if (this.#commit(served, execution.transaction, false).length === 0) return;
    for (const session of this.#sessions) session.flushIfIdle();
    this.#retryBlocked();
  }

  #announce(served: ServedDatabase, changes: ChangeSet): void {
    for (const session of this.#sessions) session.changed(served, changes);
    for (const session of this.#sessions) session.flushIfIdle();
  }

  /**
   * After a change: waits may hold now, and each transaction that goes through is a change again.
   */
  #retryBlocked(): void {
    let changed = true;
    while (changed) {
      changed = false;
      for (const pending of [...this.#blocked]) {
        if (this.#blocked.has(pending) && this.#attempt(pending)) changed = true;
      }
    }
    this.#armTimer();
  }

  /** Wakes up when the next wait has waited long enough. */
  #armTimer(): void {
    clearTimeout(this.#timer);
    let earliest = Infinity;
    for (const { createdMs, timeoutMs } of this.#blocked) {
      earliest = Math.min(earliest, createdMs + timeoutMs);
    }
    if (earliest === Infinity) return;
    const delayMs = Math.min(Math.max(0, Math.ceil(earliest - performance.now())), 0x7fffffff);
    this.#timer = setTimeout(() => {
      const nowMs = performance.now();
      let changed = false;
      for (const pending of [...this.#blocked]) {
        if (pending.createdMs + pending.timeoutMs <= nowMs && this.#attempt(pending))
          changed = true;
      }
      if (changed) this.#retryBlocked();
      else this.#armTimer();
    }, delayMs);
  }
}

/** Inserts a row given as JSON values. */
function insertPlain(
  transaction: Transaction,
  tableName: string,
  json: Record<string, Json>,
): void {
  const table = transaction.table(tableName)!;
  transaction.insert(table, newRow(table.schema, randomUUID(), parseRow(table.schema, json)));
}
