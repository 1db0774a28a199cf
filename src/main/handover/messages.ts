// What a daemon and its successor say to each other (channel.ts):
//
//   heir                         donor (serves all the time)
//   HELLO        ──────────────>
//                <────────────── STATE    clock, OpenFlow state of all bridges, keys of megaflows
//   (makes bridges, tables, workers)
//   READY        ──────────────>          if something has changed meanwhile: STATE again
//                <────────────── GOODS    queues have stopped: devices, table of connections     ┐ nobody
//   (attaches queues)                                                                            ┘ forwards
//                <────────────── LEDGER   counters, learned addresses
//   TAKEN        ──────────────>          ends
//
// A donor that loses its heir before TAKEN takes everything up again itself. Bodies are structured clones (v8.serialize):
// the format number says whether the two understand each other.

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { deserialize, serialize } from 'node:v8';
import type { SavedMegaflows } from '../../switch/successor.ts';
import type { Ledger, SavedBridge } from './savedBridge.ts';

export const FORMAT = 1;

export const HELLO = 1;
export const STATE = 2;
export const READY = 3;
export const GOODS = 4;
export const LEDGER = 5;
export const TAKEN = 6;

export interface Hello {
  format: number;
  pid: number;
}

export interface State {
  format: number;
  /** Changes when the tables do. */
  revision: string;
  originNs: bigint;
  /** Of the layout of the table of connections: only the same layout is taken over. */
  conntrackLayout: string;
  bridges: SavedBridge[];
  megaflows?: SavedMegaflows;
  /** In a journal only: otherwise it comes when no packet can come any more. */
  ledger?: Ledger[];
}

export interface Ready {
  revision: string;
}

/** Descriptors: first the table of connections, then those of the devices in their order. */
export interface Goods {
  devices: { name: string; json: string; fds: number }[];
}

export interface LedgerMessage {
  bridges: Ledger[];
}

export function pack(value: object): Uint8Array {
  return serialize(value);
}

/** The other side is the same program, of some version, with the same rights: its words are trusted, not its format. */
export function unpack<T>(body: Uint8Array): T {
  return deserialize(body) as T;
}

/** Name of this program's layout of the table of connections: its description, hashed. */
export function conntrackLayout(): string {
  const hash = createHash('sha256');
  for (const file of ['ct.ts', 'ctFragments.ts', 'memory.ts']) {
    hash.update(readFileSync(join(import.meta.dirname, '../../../contract', file)));
  }
  return hash.digest('hex');
}

/** Where a daemon waits for its successor. */
export function handOverPath(runDir: string): string {
  return join(runDir, 'ovs-vswitchd.handover');
}
