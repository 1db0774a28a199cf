// One client of the OVSDB server: its requests, monitors, locks and blocked transactions (RFC 7047
// §4.1, ovsdb-server(7) for what came later).
//
// Order matters to clients: before anything else is sent, the updates of the changes so far are, so
// that whoever sees the reply to its transaction has seen the transaction's effects before.

import type { Duplex } from 'node:stream';
import { parseUuid, ZERO_UUID } from '../../wire/ovsdb/atom.ts';
import type { ChangeSet } from '../../wire/ovsdb/database.ts';
import { OvsdbError, syntaxError } from '../../wire/ovsdb/error.ts';
import { isObject, type Json, jsonEqual, stringifyJson } from '../../wire/ovsdb/json.ts';
import { Monitor, type MonitorVersion } from '../../wire/ovsdb/monitor.ts';
import { isId } from '../../wire/ovsdb/parser.ts';
import { schemaToJson } from '../../wire/ovsdb/schema.ts';
import { Channel } from './channel.ts';
import type { LockClient } from './locks.ts';
import type { PendingTransaction, ServedDatabase, SessionHost } from './server.ts';

type Request = { id: Json; method: string; params: readonly Json[] };

/** The error member of a reply: an <error> object, or a word. */
class RpcFailure extends Error {
  readonly json: Json;
  constructor(json: Json) {
    super('request failed');
    this.json = json;
  }
}

const UPDATE_METHODS = { 1: 'update', 2: 'update2', 3: 'update3' } as const;
const MONITOR_VERSIONS: Readonly<Record<string, MonitorVersion>> = {
  monitor: 1,
  monitor_cond: 2,
  monitor_cond_since: 3,
};

export class Session implements LockClient {
  readonly name: string;
  /** Called once, when the connection has ended. */
  onClose: ((reason: string) => void) | undefined;
  readonly #host: SessionHost;
  readonly #channel: Channel;
  readonly #monitors: Monitor[] = [];
  /** Transactions of this session whose "wait" does not hold yet, by request id as text. */
  readonly #pending = new Map<string, PendingTransaction>();

  constructor(stream: Duplex, name: string, probeIntervalMs: number, host: SessionHost) {
    this.name = name;
    this.#host = host;
    this.#channel = new Channel(stream, {
      probeIntervalMs,
      onMessage: (message) => {
        if (message.kind === 'request') this.#answer(message);
        else if (message.kind === 'notification') this.#notified(message.method, message.params);
        else this.#channel.close(`received unexpected ${message.kind} message`);
      },
      onDrain: () => this.#flush(),
      onClose: (reason) => this.#closed(reason),
    });
  }

  close(reason: string): void {
    this.#channel.close(reason);
  }

  // ---- called by the server

  /** A transaction was committed. */
  changed(served: ServedDatabase, changes: ChangeSet): void {
    for (const monitor of this.#monitors) {
      if (monitor.database === served.database) monitor.record(changes);
    }
  }

  /**
   * Sends what changed, unless the client has not read the last updates yet: then it gets the sum
   * later.
   */
  flushIfIdle(): void {
    if (!this.#channel.backlogged) this.#flush();
  }

  /** A transaction of this session is through. */
  finished(pending: PendingTransaction, results: Json): void {
    this.#pending.delete(stringifyJson(pending.id));
    this.#reply(pending.id, results);
  }

  notifyLock(method: 'locked' | 'stolen', name: string): void {
    this.#flush();
    this.#channel.notify(method, [name]);
  }

  // ---- requests

  #reply(id: Json, result: Json): void {
    this.#flush();
    this.#channel.send({ kind: 'reply', id, result });
  }

  #answer(request: Request): void {
    try {
      const result = this.#execute(request);
      if (result !== undefined) this.#reply(request.id, result);
    } catch (error) {
      const json = this.#failure(error, request.method);
      this.#flush();
      this.#channel.send({ kind: 'error', id: request.id, error: json });
    }
  }

  #failure(error: unknown, method: string): Json {
    if (error instanceof RpcFailure) return error.json;
    if (error instanceof OvsdbError) return error.toJson();
    // A mistake of ours: the client hears of it, the others go on.
    this.#host.internalError(`${method} of ${this.name}`, error);
    return new OvsdbError('internal error', String(error)).toJson();
  }

  /** The result; undefined if it comes later. Throws OvsdbError or RpcFailure. */
  #execute(request: Request): Json | undefined {
    const { method, params } = request;
    switch (method) {
      case 'transact':
        this.#transact(request);
        return undefined;
      case 'monitor':
      case 'monitor_cond':
      case 'monitor_cond_since':
        return this.#monitor(request, MONITOR_VERSIONS[method]!);
      case 'monitor_cond_change':
        return this.#changeConditions(params);
      case 'monitor_cancel':
        return this.#cancelMonitor(params);
      case 'get_schema':
        return schemaToJson(this.#lookUp(request).database.schema);
      case 'list_dbs':
        return [...this.#host.databases.keys()];
      case 'get_server_id':
        return this.#host.serverId;
      case 'lock':
      case 'steal':
        return this.#lock(request);
      case 'unlock':
        return this.#unlock(request);
      case 'set_db_change_aware':
        if (params.length !== 1 || typeof params[0] !== 'boolean') {
          throw syntaxError(params, `${method}: true or false parameter expected`);
        }
        // This server never adds or removes databases while clients are connected.
        return {};
      case 'convert':
        this.#lookUp(request);
        throw new OvsdbError(
          'not supported',
          'this server does not convert databases while it runs: stop it and use ovsdb-tool convert',
        );
      default:
        throw new RpcFailure('unknown method');
    }
  }

  #lookUp({ method, params }: Request): ServedDatabase {
    const [name] = params;
    if (typeof name !== 'string') {
      throw syntaxError(params, `${method} request params must begin with <db-name>`);
    }
    const served = this.#host.databases.get(name);
    if (!served) {
      const text = `${method} request specifies unknown database ${name}`;
      throw syntaxError(params, text, 'unknown database');
    }
    return served;
  }

  #transact(request: Request): void {
    const served = this.#lookUp(request);
    const key = stringifyJson(request.id);
    if (this.#pending.has(key)) {
      throw syntaxError(request.params, `${request.method}: duplicate request ID`);
    }
    const pending: PendingTransaction = {
      session: this,
      served,
      id: request.id,
      params: request.params,
      createdMs: performance.now(),
      timeoutMs: Infinity,
    };
    this.#pending.set(key, pending);
    this.#host.transact(pending);
  }

  #notified(method: string, params: readonly Json[]): void {
    if (method !== 'cancel' || params.length !== 1) return;
    const pending = this.#pending.get(stringifyJson(params[0]!));
    if (!pending) return;
    this.#pending.delete(stringifyJson(pending.id));
    this.#host.cancel(pending);
    this.#channel.send({ kind: 'error', id: pending.id, error: 'canceled' });
  }

  // ---- monitors

  #find(id: Json): Monitor | undefined {
    return this.#monitors.find((monitor) => jsonEqual(monitor.id, id));
  }

  #monitor(request: Request, version: MonitorVersion): Json {
    const served = this.#lookUp(request);
    const { params } = request;
    if (params.length !== (version === 3 ? 4 : 3)) throw syntaxError(params, 'invalid parameters');
    const [, id, requests, lastId] = params;
    if (!isObject(requests)) throw syntaxError(requests, 'monitor-requests must be object');
    if (this.#find(id!)) throw syntaxError(id, 'duplicate monitor ID');
    const monitor = new Monitor(served.database, id!, requests, version);
    if (version === 3) {
      if (typeof lastId !== 'string') throw syntaxError(lastId, 'last-txn-id must be string');
      if (parseUuid(lastId) === undefined) {
        throw syntaxError(lastId, 'last-txn-id must be UUID format.');
      }
    }
    this.#monitors.push(monitor);
    const initial = monitor.initial();
    // A standalone database numbers no transactions: the client always gets everything.
    return version === 3 ? [false, ZERO_UUID, initial] : initial;
  }

  #changeConditions(params: readonly Json[]): Json {
    if (params.length !== 3) throw syntaxError(params, 'invalid parameters');
    const [id, newId, requests] = params;
    const monitor = this.#find(id!);
    if (!monitor) throw syntaxError(id, 'unknown monitor session');
    if (!jsonEqual(id!, newId!) && this.#find(newId!)) {
      throw syntaxError(newId, 'duplicate monitor ID');
    }
    this.#flush();
    const updates = monitor.changeConditions(requests!);
    monitor.id = newId!;
    if (updates) this.#sendUpdates(monitor, updates);
    return {};
  }

  #cancelMonitor(params: readonly Json[]): Json {
    if (params.length !== 1) throw new RpcFailure('invalid parameters');
    const monitor = this.#find(params[0]!);
    if (!monitor) throw new RpcFailure('unknown monitor');
    this.#monitors.splice(this.#monitors.indexOf(monitor), 1);
    return {};
  }

  #sendUpdates(monitor: Monitor, updates: Json): void {
    const params = monitor.version === 3 ? [monitor.id, ZERO_UUID, updates] : [monitor.id, updates];
    this.#channel.notify(UPDATE_METHODS[monitor.version], params);
  }

  #flush(): void {
    for (const monitor of this.#monitors) {
      if (!monitor.hasPending) continue;
      const updates = monitor.takeUpdates();
      if (updates) this.#sendUpdates(monitor, updates);
    }
  }

  // ---- locks

  #lockName({ method, params }: Request): string {
    const [name] = params;
    if (params.length !== 1 || typeof name !== 'string' || !isId(name)) {
      throw syntaxError(params, `${method} request params must be <id>`);
    }
    return name;
  }

  #lock(request: Request): Json {
    const name = this.#lockName(request);
    const { locks } = this.#host;
    if (locks.waits(this, name)) {
      const text = `must issue "unlock" before new "${request.method}"`;
      throw syntaxError(request.params, text);
    }
    return { locked: locks.request(this, name, request.method === 'steal') };
  }

  #unlock(request: Request): Json {
    const name = this.#lockName(request);
    if (!this.#host.locks.waits(this, name)) {
      throw syntaxError(request.params, 'unlock: "unlock" without "lock" or "steal"');
    }
    this.#host.locks.release(this, name);
    return {};
  }

  #closed(reason: string): void {
    for (const pending of this.#pending.values()) this.#host.cancel(pending);
    this.#pending.clear();
    this.#monitors.length = 0;
    this.#host.locks.releaseAll(this);
    this.#host.sessionClosed(this, reason);
    this.onClose?.(reason);
  }
}
