// The embedded database: what "ovsdb-tool create", "ovsdb-server" and "ovs-vsctl init" are to a
// real Open vSwitch.

import { randomUUID } from 'node:crypto';
import { mkdirSync, readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { Duplex } from 'node:stream';
import { newRow, parseRow, withFields } from '../../wire/ovsdb/database.ts';
import { parseJson } from '../../wire/ovsdb/json.ts';
import { type DatabaseSchema, parseSchema } from '../../wire/ovsdb/schema.ts';
import { Transaction } from '../../wire/ovsdb/transaction.ts';
import { type Listener, listenOvsdb } from './listen.ts';
import { type Log, silentLog } from './log.ts';
import { Managers } from './managers.ts';
import { OvsdbServer, type ServedDatabase } from './server.ts';
import { Storage } from './storage.ts';

type IdentityColumn = 'ovs_version' | 'db_version' | 'system_type' | 'system_version';

export interface EmbeddedOptions {
  /** Database file, for example /etc/openvswitch/conf.db; made if it is not there. */
  file: string;
  /**
   * Passive remotes, 'punix:/run/openvswitch/db.sock' or 'ptcp:6640:127.0.0.1'; the managers of
   * table Manager are connected without being asked for, as ovs-ctl starts ovsdb-server.
   */
  sockets: readonly string[];
  log?: Log;
  /**
   * Columns of Open_vSwitch that ovs-ctl sets at every start: ovs_version, system_type,
   * system_version. db_version is the schema's version unless given.
   */
  identity?: Readonly<Partial<Record<IdentityColumn, string>>>;
  /** Default: the vswitch schema that comes with xvio. */
  schema?: DatabaseSchema;
}

export interface Embedded {
  readonly server: OvsdbServer;
  readonly storage: Storage;
  readonly listeners: readonly Listener[];
  /** A connection inside the process: one end served, the other returned. */
  connect(): Duplex;
  close(): Promise<void>;
}

/** The schema of Open_vSwitch, version 8.3.1. */
export function vswitchSchema(): DatabaseSchema {
  const url = new URL('../../../share/vswitch.ovsschema', import.meta.url);
  return parseSchema(parseJson(readFileSync(url, 'utf8')));
}

/** Two ends of a byte stream in memory. */
export function streamPair(): [Duplex, Duplex] {
  const make = (peer: () => Duplex) =>
    new Duplex({
      read() {
        resumeWriter?.(this);
      },
      write(chunk, _encoding, done) {
        const other = peer();
        if (other.destroyed) done();
        else if (other.push(chunk)) done();
        else waiting.set(other, done);
      },
      final(done) {
        peer().push(null);
        done();
      },
      destroy(error, done) {
        const other = peer();
        if (!other.destroyed) other.push(null);
        done(error);
      },
    });
  const waiting = new Map<Duplex, () => void>();
  const resumeWriter = (reader: Duplex) => {
    const done = waiting.get(reader);
    waiting.delete(reader);
    done?.();
  };
  const a: Duplex = make(() => b);
  const b: Duplex = make(() => a);
  return [a, b];
}

/**
 * The one row of Open_vSwitch that everything hangs on, with what the software says about itself.
 */
function ensureRoot(storage: Storage, identity: Record<string, string>): void {
  const transaction = new Transaction(storage.database);
  const table = transaction.table('Open_vSwitch');
  if (!table) return;
  const known = Object.entries(identity).filter(([column]) => table.schema.columns.has(column));
  const set = parseRow(table.schema, Object.fromEntries(known));
  const [root] = table.rows.values();
  if (root) transaction.replace(table, withFields(root, set));
  else transaction.insert(table, newRow(table.schema, randomUUID(), set));
  const changes = transaction.prepare();
  if (changes.length > 0) storage.append(changes, ['initial configuration'], true);
  transaction.apply();
}

/** Opens or creates the file and serves it. Rejects with StorageError or the system's error. */
export async function startEmbedded(options: EmbeddedOptions): Promise<Embedded> {
  const log = options.log ?? silentLog;
  mkdirSync(dirname(options.file), { recursive: true });
  const schema = options.schema ?? vswitchSchema();
  const storage = new Storage({ file: options.file, schema, log });
  const server = new OvsdbServer(log);
  const listeners: Listener[] = [];
  const served: ServedDatabase = {
    database: storage.database,
    append: (changes, comments, durable) => storage.append(changes, comments, durable),
    applied: (changes) => {
      storage.compactIfWorthwhile();
      managers.changed(changes);
    },
  };
  const managers = new Managers(server, served, log);
  const close = async () => {
    managers.close();
    for (const listener of listeners) listener.close();
    server.close();
    storage.close();
  };
  try {
    const { version } = storage.database.schema;
    ensureRoot(storage, { db_version: version, ...options.identity });
    server.addDatabase(served);
    for (const remote of options.sockets) {
      const accept = ({
        stream,
        ...rest
      }: {
        stream: Duplex;
        name: string;
        probeIntervalMs: number;
      }) => server.accept(stream, rest);
      listeners.push(await listenOvsdb(remote, accept, log));
    }
    managers.start();
  } catch (error) {
    await close();
    throw error;
  }
  return {
    server,
    storage,
    listeners,
    connect() {
      const [served, returned] = streamPair();
      server.accept(served, { name: 'internal' });
      return returned;
    },
    close,
  };
}
