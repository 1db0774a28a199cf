// What has to be done between two states of the back-end: which rings stop, start or change while they run (pure).
//
// A ring is stopped (and started again at the index where it stopped) when something changes that a worker could be
// using: its addresses or size, features, the descriptor it sleeps on, or the memory underneath. Everything else
// changes under a running ring: its interrupt, whether it is enabled, the dirty log. Traffic must not stop when a
// migration begins.

import { isRunning } from './regions.ts';
import { type BackendState, isEnabled, type Ring, structuralFeatures } from './state.ts';

export interface Plan {
  /** Rings that a worker uses now and must let go of. */
  readonly stop: readonly number[];
  /** Rings to attach, in order. */
  readonly start: readonly number[];
  /** Rings that go on running, with other doorbells, enablement or logging. */
  readonly update: readonly number[];
  /** The table of regions is another one. */
  readonly memory: boolean;
  /** The dirty log is mapped anew, or unmapped. */
  readonly log: boolean;
  /** What the peer takes from us, or whether anything can reach it, may have changed. */
  readonly port: boolean;
}

/**
 * Is ring `index` in the hands of the data plane? A disabled ring of the guest's receive side gets no packets, so it
 * is not attached; one of its transmit side goes on being emptied (its packets are thrown away).
 */
export function isAttached(state: BackendState, index: number): boolean {
  const ring = state.rings[index]!;
  return isRunning(state, ring) && (index % 2 === 1 || isEnabled(state, ring));
}

function sameAddresses(a: Ring, b: Ring): boolean {
  const [x, y] = [a.addresses, b.addresses];
  return x?.desc === y?.desc && x?.avail === y?.avail && x?.used === y?.used;
}

/** The old regions all stay where they are: workers need not notice that others come after them. */
function onlyAppended(before: BackendState, after: BackendState): boolean {
  return before.regions.every((region, i) => region === after.regions[i]);
}

export function plan(before: BackendState, after: BackendState): Plan {
  const memory = before.regions.length !== after.regions.length || !onlyAppended(before, after);
  const disturbed =
    !onlyAppended(before, after) ||
    structuralFeatures(before.features ?? 0n) !== structuralFeatures(after.features ?? 0n);
  const log = before.log !== after.log;
  const everyRing = before.features !== after.features || log;
  const stop: number[] = [];
  const start: number[] = [];
  const update: number[] = [];
  for (const [index, ring] of after.rings.entries()) {
    const old = before.rings[index]!;
    const ran = isAttached(before, index);
    const runs = isAttached(after, index);
    const moved =
      disturbed || old.num !== ring.num || old.kick !== ring.kick || !sameAddresses(old, ring);
    if (ran && (!runs || moved)) stop.push(index);
    if (runs && (!ran || moved)) start.push(index);
    if (ran && runs && !moved && (old !== ring || everyRing)) update.push(index);
  }
  const port =
    stop.length > 0 ||
    start.length > 0 ||
    update.length > 0 ||
    before.features !== after.features ||
    before.mtu !== after.mtu;
  return { stop, start, update, memory, log, port };
}
