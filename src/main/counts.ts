// What coverage/show counts of the switch beyond its own counters, and what memory/show says is in use: collected from
// whoever knows, when somebody asks.

import { DROP_NAMES } from '../../contract/names.ts';
import type { DataPlaneEngine } from '../engine/engine.ts';
import type { Datapath } from '../switch/datapath.ts';
import type { Reconciler } from './reconcile.ts';

export interface Counted {
  readonly engine: DataPlaneEngine;
  readonly datapath: Datapath;
  readonly reconciler: Reconciler;
}

/** Events by name, for coverage/show. */
export function* eventCounts(sources: Counted): Iterable<[string, number]> {
  const { datapath, reconciler, engine } = sources;
  yield ['upcall_packets', datapath.handler.upcallCount];
  yield ['upcall_not_installed', datapath.handler.notInstalled];
  const { learned, expired, evicted, moved, staticNoneMove } = datapath.macEvents;
  yield ['mac_learning_learned', learned];
  yield ['mac_learning_expired', expired];
  yield ['mac_learning_evicted', evicted];
  yield ['mac_learning_moved', moved];
  yield ['mac_learning_static_none_move', staticNoneMove];
  for (const [reason, count] of reconciler.drops().entries()) {
    const name = DROP_NAMES[reason];
    if (reason > 0 && name !== undefined) yield [`drop_${name}`, count];
  }
  for (const [name, count] of Object.entries(engine.conntrack.counters())) {
    yield [`ct_${name}`, count];
  }
}

/** memory/show: nothing that is zero. */
export function memoryUsage({ datapath, reconciler, engine }: Counted): Record<string, number> {
  let ports = 0;
  let rules = 0;
  for (const { bridge } of reconciler.bridges.values()) {
    ports += bridge.ports.size;
    for (const table of bridge.tables) rules += table.size;
  }
  const usage: Record<string, number> = {
    ports,
    revalidators: 1,
    rules,
    'udpif keys': datapath.megaflows.size,
    masks: engine.maskCount(),
  };
  return Object.fromEntries(Object.entries(usage).filter(([, value]) => value > 0));
}
