// What coverage/show counts of the switch beyond its own counters, and what memory/show says is in use: collected from
// whoever knows, when somebody asks.

import {
  DROP_FLOW_EXPLICIT,
  DROP_METER,
  DROP_NO_LEARNED_PORT,
  DROP_NO_PORT,
  DROP_RECIRC_LIMIT,
  DROP_RESERVED_MAC,
  DROP_RESUBMIT_LIMIT,
  DROP_RX_RUNT,
  DROP_STP,
  DROP_TUNNEL_CHECKSUM,
  DROP_TUNNEL_CONGESTION,
  DROP_TUNNEL_HEADER,
  DROP_TUNNEL_HEADROOM,
  DROP_TUNNEL_PROTOCOL,
  DROP_UPCALL_FULL,
  DROP_UPCALL_NO_FLOW,
  DROP_VLAN_FILTER,
} from '../../contract/drop.ts';
import { DROP_NAMES } from '../../contract/names.ts';
import type { DataPlaneEngine } from '../engine/engine.ts';
import type { Datapath } from '../switch/datapath.ts';
import type { Reconciler } from './reconcile.ts';

export interface Counted {
  readonly engine: DataPlaneEngine;
  readonly datapath: Datapath;
  readonly reconciler: Reconciler;
}

/** Drops under the names that Open vSwitch's userspace datapath has for them; ours are finer. */
const OVS_DROPS: Readonly<Record<string, readonly number[]>> = {
  datapath_drop_upcall_error: [DROP_UPCALL_FULL],
  datapath_drop_rx_invalid_packet: [DROP_RX_RUNT],
  datapath_drop_meter: [DROP_METER],
  datapath_drop_recirc_error: [DROP_RECIRC_LIMIT],
  datapath_drop_invalid_port: [DROP_NO_PORT],
  datapath_drop_tunnel_push_error: [DROP_TUNNEL_HEADROOM],
  datapath_drop_tunnel_pop_error: [DROP_TUNNEL_HEADER, DROP_TUNNEL_CHECKSUM, DROP_TUNNEL_PROTOCOL],
  drop_action_of_pipeline: [
    DROP_FLOW_EXPLICIT,
    DROP_UPCALL_NO_FLOW,
    DROP_VLAN_FILTER,
    DROP_NO_LEARNED_PORT,
    DROP_RESERVED_MAC,
  ],
  drop_action_recursion_too_deep: [DROP_RESUBMIT_LIMIT],
  drop_action_congestion: [DROP_TUNNEL_CONGESTION],
  drop_action_forwarding_disabled: [DROP_STP],
};

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
  const drops = reconciler.drops();
  for (const [reason, count] of drops.entries()) {
    const name = DROP_NAMES[reason];
    if (reason > 0 && name !== undefined) yield [`drop_${name}`, count];
  }
  for (const [name, reasons] of Object.entries(OVS_DROPS)) {
    yield [name, reasons.reduce((sum, reason) => sum + (drops[reason] ?? 0), 0)];
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
