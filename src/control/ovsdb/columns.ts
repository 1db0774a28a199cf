// What the daemon writes into the database: wanted values in, the smallest operations out. Pure.
//
// The wanted values of rows are plain objects of tables.ts. Only columns that differ from the
// replica are written, of map columns only the keys that changed unless they are most of them; a
// row that is gone is skipped.

import type { NetdevStatus } from '../../port/types.ts';
import type { Json } from '../../wire/ovsdb/json.ts';
import {
  encode,
  entries,
  isMap,
  type KindOf,
  mapJson,
  type PlainValue,
  sameValue,
  setJson,
} from './kinds.ts';
import type { Snapshot } from './replica.ts';
import { TABLE_NAMES, TABLES, type TableColumns, type TableName } from './tables.ts';

/** Columns to have these values; a key with the value undefined empties an optional column. */
export type WantedRow<T extends TableName> = { [C in keyof TableColumns<T>]?: TableColumns<T>[C] };
/** By table and row uuid. */
export type Wanted = { [T in TableName]?: ReadonlyMap<string, WantedRow<T>> };

type PlainRow = Readonly<Record<string, PlainValue>>;

/**
 * "mutations" of a map column for the keys that differ; undefined if writing it whole is shorter.
 */
function mapMutations(
  column: string,
  kind: KindOf,
  before: PlainValue,
  after: PlainValue,
): Json[] | undefined {
  const old = new Map(entries(before));
  const wanted = new Map(entries(after));
  const gone = [...old].filter(([key, value]) => wanted.get(key) !== value).map(([key]) => key);
  const come = [...wanted].filter(([key, value]) => old.get(key) !== value);
  if (gone.length + come.length > wanted.size) return undefined;
  const mutations: Json[] = [];
  if (gone.length > 0) mutations.push([column, 'delete', setJson(kind.split('=>')[0]!, gone)]);
  if (come.length > 0) mutations.push([column, 'insert', mapJson(kind, come)]);
  return mutations;
}

function rowUpdates(
  name: TableName,
  uuid: string,
  before: PlainRow,
  wanted: Record<string, PlainValue>,
): Json[] {
  const row: Record<string, Json> = {};
  const mutations: Json[] = [];
  const kinds = TABLES[name] as Readonly<Record<string, KindOf>>;
  for (const [column, value] of Object.entries(wanted)) {
    const kind = kinds[column];
    if (kind === undefined) throw new Error(`table ${name} has no column ${column}`);
    if (sameValue(kind, before[column], value)) continue;
    const changes = isMap(kind) ? mapMutations(column, kind, before[column], value) : undefined;
    if (changes) mutations.push(...changes);
    else row[column] = encode(kind, value);
  }
  const where = [['_uuid', '==', ['uuid', uuid]]];
  const operations: Json[] = [];
  if (Object.keys(row).length > 0) operations.push({ op: 'update', table: name, where, row });
  if (mutations.length > 0) operations.push({ op: 'mutate', table: name, where, mutations });
  return operations;
}

/** Operations that give the rows the wanted values; empty if they have them. */
export function columnUpdates(snapshot: Snapshot, wanted: Wanted): Json[] {
  const operations: Json[] = [];
  for (const name of TABLE_NAMES) {
    for (const [uuid, row] of wanted[name] ?? []) {
      const before = snapshot.get(name, uuid);
      if (!before) continue;
      const plain = before as unknown as PlainRow;
      operations.push(...rowUpdates(name, uuid, plain, row as Record<string, PlainValue>));
    }
  }
  return operations;
}

/** Both together; for a column in both, `b` wins. */
export function mergeWanted(a: Wanted, b: Wanted): Wanted {
  const merged: Record<string, Map<string, object>> = {};
  for (const part of [a, b]) {
    for (const [name, rows] of Object.entries(part)) {
      merged[name] ??= new Map();
      for (const [uuid, row] of rows) {
        merged[name].set(uuid, { ...merged[name].get(uuid), ...row });
      }
    }
  }
  return merged as Wanted;
}

// ---- values of the tables

/** An interface that works: `ofport` as OpenFlow knows it, 65534 for the local port. */
export function interfaceOpened(ofport: number): WantedRow<'Interface'> {
  // The column keeps the 16-bit numbers of OpenFlow 1.0: LOCAL is 65534.
  return { ofport: ofport & 0xffff, error: undefined };
}

/** An interface that cannot be used: -1, the reason, and no trace of an earlier life. */
export function interfaceFailed(error: string | undefined): WantedRow<'Interface'> {
  return {
    ofport: -1,
    error,
    status: {},
    admin_state: undefined,
    duplex: undefined,
    link_speed: undefined,
    link_state: undefined,
    mac_in_use: undefined,
    mtu: undefined,
    cfm_fault: undefined,
    cfm_fault_status: [],
    cfm_remote_mpids: [],
    lacp_current: undefined,
    statistics: {},
    ifindex: undefined,
  };
}

/**
 * What follows from the state of the device; `error` only if the device has a fault that it
 * survives.
 */
export function interfaceStatus(status: NetdevStatus): WantedRow<'Interface'> {
  return {
    admin_state: status.adminUp ? 'up' : 'down',
    link_state: status.linkUp ? 'up' : 'down',
    link_resets: status.linkResets,
    mac_in_use: status.mac,
    mtu: status.mtu,
    ifindex: Math.max(0, status.ifindex),
    link_speed: status.linkSpeed || undefined,
    duplex: status.linkSpeed ? status.duplex : undefined,
    status: status.status,
    error: status.error,
  };
}

/**
 * Counters as the database takes them: whole numbers; those that a device does not have are left
 * out.
 */
export function statistics(counters: Readonly<Record<string, number>>): Record<string, number> {
  const known = Object.entries(counters).filter(([, value]) => Number.isSafeInteger(value));
  return Object.fromEntries(known);
}

export interface ControllerState {
  isConnected: boolean;
  role: 'other' | 'master' | 'slave';
  /** VOID, BACKOFF, CONNECTING, ACTIVE, IDLE. */
  state: string;
  secSinceConnect?: number;
  secSinceDisconnect?: number;
  lastError?: string;
}

/** `state` undefined: a passive remote, which has no connection of its own. */
export function controllerStatus(state: ControllerState | undefined): WantedRow<'Controller'> {
  if (!state) return { is_connected: false, role: undefined, status: {} };
  const status: Record<string, string> = { state: state.state };
  if (state.lastError !== undefined) status.last_error = state.lastError;
  if (state.secSinceConnect !== undefined) {
    status.sec_since_connect = String(Math.floor(state.secSinceConnect));
  }
  if (state.secSinceDisconnect !== undefined) {
    status.sec_since_disconnect = String(Math.floor(state.secSinceDisconnect));
  }
  return { is_connected: state.isConnected, role: state.role, status };
}

export function mirrorStatistics(txPackets: number, txBytes: number): WantedRow<'Mirror'> {
  return { statistics: { tx_packets: txPackets, tx_bytes: txBytes } };
}

/** 16 hex digits. */
export function bridgeIdentity(datapathId: bigint): WantedRow<'Bridge'> {
  return {
    datapath_id: datapathId.toString(16).padStart(16, '0'),
    datapath_version: '<built-in>',
  };
}

/** What a vswitchd says about itself; `curCfg` is the next_cfg that is now in force. */
export function daemonIdentity(options: {
  curCfg?: number;
  datapathTypes: readonly string[];
  ifaceTypes: readonly string[];
}): WantedRow<'Open_vSwitch'> {
  const { curCfg } = options;
  return {
    datapath_types: [...options.datapathTypes].sort(),
    iface_types: [...options.ifaceTypes].sort(),
    dpdk_initialized: false,
    dpdk_version: 'none',
    ...(curCfg === undefined ? {} : { cur_cfg: curCfg }),
  };
}
