// The managers that table Manager names (ovs-vsctl set-manager): connections that the server makes
// or waits for, and their state in the table (ovs-vswitchd.conf.db(5), "Manager Table";
// ovsdb-server's db:…,manager_options remote).

import type { Duplex } from 'node:stream';
import type { ChangeSet, Row } from '../../wire/ovsdb/database.ts';
import type { Json } from '../../wire/ovsdb/json.ts';
import { type Accepted, type Listener, listenOvsdb } from './listen.ts';
import { errorText, type Log } from './log.ts';
import { connectEvent, needsProbes, openRemote, type TlsFiles } from './remote.ts';
import type { OvsdbServer, ServedDatabase } from './server.ts';
import type { Session } from './session.ts';

const STATUS_INTERVAL_MS = 2500;
const MIN_BACKOFF_MS = 1000;
const MAX_BACKOFF_MS = 8000;
const PROBE_INTERVAL_MS = 5000;

interface Settings {
  readonly uuid: string;
  readonly target: string;
  readonly maxBackoffMs: number;
  readonly probeIntervalMs: number;
}

/** One remote, passive or active. */
class Manager {
  readonly settings: Settings;
  readonly #server: OvsdbServer;
  readonly #log: Log;
  readonly #tls: TlsFiles;
  readonly #sessions = new Set<Session>();
  #listener: Listener | undefined;
  #stream: Duplex | undefined;
  #timer: NodeJS.Timeout | undefined;
  #backoffMs = MIN_BACKOFF_MS;
  #state = 'VOID';
  #sinceMs = performance.now();
  #lastError: string | undefined;
  #closed = false;

  constructor(settings: Settings, server: OvsdbServer, log: Log, tls: TlsFiles) {
    this.settings = settings;
    this.#server = server;
    this.#log = log;
    this.#tls = tls;
    if (settings.target.startsWith('p')) void this.#listen();
    else this.#connect();
  }

  /** Columns is_connected and status. */
  status(): { connected: boolean; status: Record<string, string> } {
    const status: Record<string, string> = {};
    const count = this.#sessions.size;
    if (this.#listener) {
      if (count > 1) status.n_connections = String(count);
      if (this.#listener.port !== undefined) status.bound_port = String(this.#listener.port);
    } else {
      status.state = this.#state;
      const seconds = String(Math.floor((performance.now() - this.#sinceMs) / 1000));
      if (this.#state === 'ACTIVE') status.sec_since_connect = seconds;
      else status.sec_since_disconnect = seconds;
      if (this.#lastError !== undefined) status.last_error = this.#lastError;
    }
    return { connected: count > 0, status };
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#listener?.close();
    this.#stream?.destroy();
    for (const session of [...this.#sessions]) session.close('remote deconfigured');
  }

  #accept({ stream, name }: Pick<Accepted, 'stream' | 'name'>, onClose: (reason: string) => void) {
    const { target, probeIntervalMs } = this.settings;
    const probing = needsProbes(target) && !target.startsWith('punix:');
    const session = this.#server.accept(stream, {
      name,
      probeIntervalMs: probing ? probeIntervalMs : 0,
    });
    this.#sessions.add(session);
    session.onClose = (reason) => {
      this.#sessions.delete(session);
      onClose(reason);
    };
  }

  async #listen(): Promise<void> {
    const { target } = this.settings;
    try {
      const onAccept = (accepted: Accepted) => this.#accept(accepted, () => {});
      const listener = await listenOvsdb(target, onAccept, this.#log, this.#tls);
      if (this.#closed) listener.close();
      else this.#listener = listener;
    } catch (error) {
      this.#lastError = errorText(error);
      if (!this.#closed) this.#timer = setTimeout(() => void this.#listen(), MAX_BACKOFF_MS);
    }
  }

  #connect(): void {
    const { target } = this.settings;
    this.#log.info(`${target}: connecting...`);
    this.#state = 'CONNECTING';
    let stream: ReturnType<typeof openRemote>;
    try {
      stream = openRemote(target, this.#tls);
    } catch (error) {
      this.#failed(errorText(error));
      return;
    }
    this.#stream = stream;
    const onError = (error: Error) => this.#failed(errorText(error));
    stream.once('error', onError);
    stream.once(connectEvent(target), () => {
      stream.off('error', onError);
      this.#log.info(`${target}: connected`);
      this.#state = 'ACTIVE';
      this.#sinceMs = performance.now();
      this.#backoffMs = MIN_BACKOFF_MS;
      this.#accept({ stream: stream as Accepted['stream'], name: target }, (reason) => {
        this.#sinceMs = performance.now();
        this.#failed(reason);
      });
    });
  }

  #failed(reason: string): void {
    if (this.#closed) return;
    this.#stream?.destroy();
    this.#state = 'BACKOFF';
    this.#lastError = reason;
    this.#log.info(`${this.settings.target}: connection attempt failed (${reason})`);
    this.#timer = setTimeout(() => this.#connect(), this.#backoffMs);
    this.#backoffMs = Math.min(this.#backoffMs * 2, this.settings.maxBackoffMs);
  }
}

export class Managers {
  readonly #server: OvsdbServer;
  readonly #served: ServedDatabase;
  readonly #log: Log;
  readonly #managers = new Map<string, Manager>();
  #timer: NodeJS.Timeout | undefined;
  #started = false;

  constructor(server: OvsdbServer, served: ServedDatabase, log: Log) {
    this.#server = server;
    this.#served = served;
    this.#log = log;
  }

  /** Connects the managers that there are, and from now on those that come. */
  start(): void {
    this.#started = true;
    this.#reconcile();
  }

  /** A transaction was committed. */
  changed(changes: ChangeSet): void {
    const mine = changes.some(({ table }) => /^(Manager|SSL)$/.test(table.schema.name));
    // Not before the transaction's reply is out: its client may be a manager that removes itself.
    if (mine) setImmediate(() => this.#started && this.#reconcile());
  }

  close(): void {
    this.#started = false;
    clearInterval(this.#timer);
    for (const manager of this.#managers.values()) manager.close();
    this.#managers.clear();
  }

  /** First value of a column, undefined if it is empty. */
  #value(table: string, row: Row, column: string): string | number | undefined {
    const { index } = this.#served.database.tables.get(table)!.schema.columns.get(column)!;
    const value = row.fields[index]!.keys[0];
    return typeof value === 'string' || value === undefined ? value : Number(value);
  }

  #tls(): TlsFiles {
    const row = this.#served.database.tables.get('SSL')?.rows.values().next().value;
    if (!row) return {};
    const file = (column: string) => this.#value('SSL', row, column) as string;
    return {
      privateKey: file('private_key'),
      certificate: file('certificate'),
      caCert: file('ca_cert'),
    };
  }

  #reconcile(): void {
    const rows = this.#served.database.tables.get('Manager')?.rows ?? new Map<string, Row>();
    const tls = this.#tls();
    const wanted = new Map<string, Settings>();
    for (const [uuid, row] of rows) {
      const number = (column: string) => this.#value('Manager', row, column) as number | undefined;
      const target = this.#value('Manager', row, 'target') as string;
      // A change of any setting, of the certificates too, is a new connection.
      const settings = {
        uuid,
        target,
        maxBackoffMs: number('max_backoff') ?? MAX_BACKOFF_MS,
        probeIntervalMs: number('inactivity_probe') ?? PROBE_INTERVAL_MS,
      };
      const secure = /^p?ssl:/.test(target) ? tls : {};
      wanted.set(JSON.stringify([settings, secure]), settings);
    }
    for (const [key, manager] of this.#managers) {
      if (wanted.has(key)) continue;
      this.#log.info(`${manager.settings.target}: remote deconfigured`);
      manager.close();
      this.#managers.delete(key);
    }
    for (const [key, settings] of wanted) {
      if (this.#managers.has(key)) continue;
      this.#managers.set(key, new Manager(settings, this.#server, this.#log, tls));
    }
    clearInterval(this.#timer);
    if (this.#managers.size === 0) return;
    this.#timer = setInterval(() => this.#writeStatus(), STATUS_INTERVAL_MS);
    this.#timer.unref();
  }

  #writeStatus(): void {
    const operations: Json[] = [...this.#managers.values()].map((manager) => {
      const { connected, status } = manager.status();
      return {
        op: 'update',
        table: 'Manager',
        where: [['_uuid', '==', ['uuid', manager.settings.uuid]]],
        row: { is_connected: connected, status: ['map', Object.entries(status)] },
      };
    });
    try {
      this.#server.update(this.#served, operations);
    } catch (error) {
      this.#log.warn(`status of managers not written: ${error}`);
    }
  }
}
