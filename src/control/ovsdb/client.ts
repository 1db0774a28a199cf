// The daemon's session with its database: lock, replica, transactions, and reconnection for ever.
//
// The sequence of the real daemon: get_schema, lock "ovs_vswitchd", monitor_cond_since (older
// servers: monitor_cond, monitor), set_db_change_aware; then transactions that assert the lock.
// While the connection is away the last snapshot stays valid: a switch goes on switching when its
// database is restarted.

import type { Duplex } from 'node:stream';
import { ZERO_UUID } from '../../wire/ovsdb/atom.ts';
import { OvsdbError } from '../../wire/ovsdb/error.ts';
import { isArray, isObject, type Json, stringifyJson } from '../../wire/ovsdb/json.ts';
import type { MonitorVersion } from '../../wire/ovsdb/monitor.ts';
import type { RpcMessage } from '../../wire/ovsdb/rpc.ts';
import { parseSchema } from '../../wire/ovsdb/schema.ts';
import { Channel } from './channel.ts';
import { errorText, type Log, silentLog } from './log.ts';
import { connectEvent, needsProbes, openRemote, type TlsFiles } from './remote.ts';
import { Replica, type ReplicaChange, type Snapshot } from './replica.ts';

export interface ClientOptions {
  /**
   * 'unix:PATH', 'tcp:HOST:PORT', 'ssl:HOST:PORT', or what opens a connected stream (the embedded
   * server's connect).
   */
  remote: string | (() => Duplex);
  /** After the initial contents (`initial`) and after every update that changes the snapshot. */
  onChange: (change: ReplicaChange & { initial: boolean }) => void;
  /**
   * The lock was obtained, or is held by another process. Not called when the connection is lost.
   */
  onLock?: (state: 'held' | 'contended') => void;
  onConnection?: (connected: boolean) => void;
  lock?: string;
  database?: string;
  tls?: TlsFiles;
  log?: Log;
  /** Default: 5000 over a network, never over a Unix socket. */
  probeIntervalMs?: number;
  /** First and longest pause between attempts; default 1000 and 8000, as the real daemon. */
  backoffMs?: { min: number; max: number };
}

export interface TransactOptions {
  /** Fail with "not owner" unless the daemon's lock is held; default true. */
  assertLock?: boolean;
  comment?: string;
}

/**
 * No answer: the connection was lost, or there is none. Whether the transaction happened is
 * unknown.
 */
export class ConnectionLost extends Error {}

interface Waiter {
  resolve(result: Json): void;
  reject(error: Error): void;
}

const CONNECT_TIMEOUT_MS = 10_000;

const MONITOR_METHODS = { 3: 'monitor_cond_since', 2: 'monitor_cond', 1: 'monitor' } as const;
const UPDATE_VERSIONS: Readonly<Record<string, MonitorVersion>> = {
  update: 1,
  update2: 2,
  update3: 3,
};

export class OvsdbClient {
  readonly #options: ClientOptions;
  readonly #log: Log;
  readonly #name: string;
  readonly #database: string;
  readonly #lock: string;
  readonly #replica = new Replica();
  readonly #waiters = new Map<number, Waiter>();
  #nextId = 0;
  #channel: Channel | undefined;
  #stream: Duplex | undefined;
  #timer: NodeJS.Timeout | undefined;
  #backoffMs: number;
  #closed = false;
  /** The initial contents have come on this connection. */
  #synchronized = false;
  #initialized = false;
  #lockState: 'unknown' | 'held' | 'contended' = 'unknown';

  constructor(options: ClientOptions) {
    this.#options = options;
    this.#log = options.log ?? silentLog;
    this.#name = typeof options.remote === 'string' ? options.remote : 'internal';
    this.#database = options.database ?? 'Open_vSwitch';
    this.#lock = options.lock ?? 'ovs_vswitchd';
    this.#backoffMs = options.backoffMs?.min ?? 1000;
  }

  /** Begins to connect. Never fails: it tries again. */
  start(): void {
    this.#connect();
  }

  get snapshot(): Snapshot {
    return this.#replica.snapshot;
  }

  /** The replica is up to date as far as the connection tells. */
  get connected(): boolean {
    return this.#synchronized;
  }

  /** 'unknown' while there is no connection. */
  get lockState(): 'unknown' | 'held' | 'contended' {
    return this.#lockState;
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#channel?.close('closed');
    this.#stream?.destroy();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /**
   * Executes operations (RFC 7047 §5.2) as one transaction; resolves with their results when it is
   * committed, and then the snapshot has its effects. Rejects with OvsdbError, or ConnectionLost.
   */
  async transact(operations: readonly Json[], options: TransactOptions = {}): Promise<Json[]> {
    if (!this.#synchronized) throw new ConnectionLost(`${this.#name}: not connected`);
    const params: Json[] = [this.#database, ...operations];
    if (options.comment !== undefined) params.push({ op: 'comment', comment: options.comment });
    if (options.assertLock ?? true) params.push({ op: 'assert', lock: this.#lock });
    const results = await this.#request('transact', params);
    if (!isArray(results)) throw new OvsdbError('syntax error', 'transact result is no array');
    for (const result of results) {
      if (isObject(result) && typeof result.error === 'string') {
        const { error, details, syntax } = result;
        throw new OvsdbError(error, typeof details === 'string' ? details : undefined, {
          syntax: typeof syntax === 'string' ? syntax : undefined,
        });
      }
    }
    return results.slice(0, operations.length);
  }

  // ---- connection

  #connect(): void {
    const { remote } = this.#options;
    let stream: Duplex;
    try {
      if (typeof remote !== 'string') {
        this.#connected(remote());
        return;
      }
      this.#log.info(`${this.#name}: connecting...`);
      stream = openRemote(remote, this.#options.tls, this.#log);
    } catch (error) {
      this.#failed(errorText(error));
      return;
    }
    this.#stream = stream;
    const onError = (error: Error) => {
      clearTimeout(this.#timer);
      stream.destroy();
      this.#failed(errorText(error));
    };
    const timedOut = () => stream.destroy(new Error('Connection timed out'));
    this.#timer = setTimeout(timedOut, CONNECT_TIMEOUT_MS);
    stream.once('error', onError);
    stream.once(connectEvent(remote), () => {
      clearTimeout(this.#timer);
      stream.off('error', onError);
      this.#connected(stream);
    });
  }

  #failed(reason: string): void {
    if (this.#closed) return;
    this.#log.info(`${this.#name}: connection attempt failed (${reason})`);
    this.#retry();
  }

  #retry(): void {
    if (this.#closed) return;
    const delayMs = this.#backoffMs;
    this.#backoffMs = Math.min(this.#backoffMs * 2, this.#options.backoffMs?.max ?? 8000);
    this.#timer = setTimeout(() => this.#connect(), delayMs);
  }

  #connected(stream: Duplex): void {
    if (this.#closed) {
      stream.destroy();
      return;
    }
    this.#log.info(`${this.#name}: connected`);
    const probing = typeof this.#options.remote === 'string' && needsProbes(this.#options.remote);
    const channel = new Channel(stream, {
      probeIntervalMs: this.#options.probeIntervalMs ?? (probing ? 5000 : 0),
      onMessage: (message) => this.#receive(message),
      onClose: (reason) => this.#disconnected(reason),
    });
    this.#channel = channel;
    this.#synchronize().catch((error: Error) => {
      if (error instanceof ConnectionLost) return;
      this.#log.warn(`${this.#name}: ${error.message}`);
      channel.close(error.message);
    });
  }

  #disconnected(reason: string): void {
    const had = this.#synchronized;
    this.#channel = undefined;
    this.#stream = undefined;
    this.#synchronized = false;
    this.#lockState = 'unknown';
    const waiters = [...this.#waiters.values()];
    this.#waiters.clear();
    for (const waiter of waiters) waiter.reject(new ConnectionLost(`${this.#name}: ${reason}`));
    if (this.#closed) return;
    this.#log.info(`${this.#name}: ${reason}`);
    if (had) this.#options.onConnection?.(false);
    this.#retry();
  }

  async #synchronize(): Promise<void> {
    const schema = parseSchema(await this.#request('get_schema', [this.#database]));
    const lock = this.#request('lock', [this.#lock]);
    // It is awaited below; if the connection goes before, the monitor's failure is the one that is
    // reported.
    lock.catch(() => {});
    const requests = this.#replica.start(schema);
    await this.#monitor(requests);
    await this.#request('set_db_change_aware', [true]).catch(ignoreUnknownMethod);
    const answer = await lock;
    // A "locked" notification may have come first.
    if (this.#lockState === 'unknown') {
      this.#setLock(isObject(answer) && answer.locked === true ? 'held' : 'contended');
    }
    this.#backoffMs = this.#options.backoffMs?.min ?? 1000;
  }

  async #monitor(requests: Json): Promise<void> {
    const id = ['monid', this.#database];
    for (const version of [3, 2, 1] as const) {
      const params: Json[] = [this.#database, id, requests];
      if (version === 3) params.push(ZERO_UUID);
      let waiting = true;
      // Updates follow the reply at once, so the reply is taken in where it is received.
      const done = new Promise<void>((resolve, reject) => {
        this.#send(MONITOR_METHODS[version], params, {
          resolve: (result) => {
            waiting = false;
            try {
              this.#initial(version === 3 && isArray(result) ? result[2]! : result, version);
              resolve();
            } catch (error) {
              reject(error);
            }
          },
          reject,
        });
      });
      try {
        await done;
        return;
      } catch (error) {
        if (version === 1 || !waiting) throw error;
        ignoreUnknownMethod(error as Error);
      }
    }
  }

  #initial(updates: Json, version: MonitorVersion): void {
    const change = this.#replica.reset(updates, version);
    this.#synchronized = true;
    this.#options.onConnection?.(true);
    const initial = !this.#initialized;
    this.#initialized = true;
    if (initial || change.snapshot !== change.previous) {
      this.#options.onChange({ ...change, initial });
    }
  }

  // ---- messages

  #request(method: string, params: readonly Json[]): Promise<Json> {
    return new Promise((resolve, reject) => this.#send(method, params, { resolve, reject }));
  }

  #send(method: string, params: readonly Json[], waiter: Waiter): void {
    if (!this.#channel) {
      waiter.reject(new ConnectionLost(`${this.#name}: not connected`));
      return;
    }
    const id = this.#nextId++;
    this.#waiters.set(id, waiter);
    this.#channel.request(id, method, params);
  }

  #receive(message: RpcMessage): void {
    switch (message.kind) {
      case 'reply':
      case 'error': {
        const waiter = this.#waiters.get(message.id as number);
        if (!waiter) return;
        this.#waiters.delete(message.id as number);
        if (message.kind === 'reply') waiter.resolve(message.result);
        else waiter.reject(toError(message.error));
        return;
      }
      case 'notification':
        this.#notified(message.method, message.params);
        return;
      case 'request':
        this.#channel?.send({ kind: 'error', id: message.id, error: 'unknown method' });
    }
  }

  #notified(method: string, params: readonly Json[]): void {
    const version = UPDATE_VERSIONS[method];
    if (version !== undefined) {
      try {
        const change = this.#replica.apply(params[version === 3 ? 2 : 1] ?? null, version);
        if (change.snapshot !== change.previous) {
          this.#options.onChange({ ...change, initial: false });
        }
      } catch (error) {
        if (!(error instanceof OvsdbError)) throw error;
        this.#channel?.close(`bad update: ${error}`);
      }
    } else if (method === 'locked' && params[0] === this.#lock) {
      this.#setLock('held');
    } else if (method === 'stolen' && params[0] === this.#lock) {
      this.#setLock('contended');
    } else if (method === 'monitor_canceled') {
      this.#channel?.close('monitor canceled by the server');
    }
  }

  #setLock(state: 'held' | 'contended'): void {
    if (this.#lockState === state) return;
    this.#lockState = state;
    this.#options.onLock?.(state);
  }
}

function toError(json: Json): OvsdbError {
  if (isObject(json) && typeof json.error === 'string') {
    return new OvsdbError(json.error, typeof json.details === 'string' ? json.details : undefined);
  }
  return new OvsdbError(typeof json === 'string' ? json : stringifyJson(json));
}

/** Lets an older server's refusal pass. */
function ignoreUnknownMethod(error: Error): void {
  if (!(error instanceof OvsdbError) || error.tag !== 'unknown method') throw error;
}
