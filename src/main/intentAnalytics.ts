// What the operator wants to be told of traffic: Bridge.ipfix, sflow and netflow, and table Flow_Sample_Collector_Set.

import type { Snapshot } from '../control/ovsdb/replica.ts';
import type { BridgeRow, TableRow } from '../control/ovsdb/tables.ts';
import type {
  BridgeIntent,
  BridgeIpfixIntent,
  CollectorSetIntent,
  ExporterIntent,
  NetflowIntent,
  SflowIntent,
} from './intent.ts';

const SAMPLING_DEFAULT = 400;
const SFLOW_POLLING_DEFAULT_S = 30;
const SFLOW_HEADER_DEFAULT = 128;
const NETFLOW_TIMEOUT_DEFAULT_S = 600;

function exporterIntent(row: TableRow<'IPFIX'>): ExporterIntent {
  return {
    targets: row.targets,
    activeTimeoutS: row.cache_active_timeout ?? 0,
    maxFlows: row.cache_max_flows ?? 0,
    virtualObsId: row.other_config.virtual_obs_id,
    tunnels: row.other_config['enable-tunnel-sampling'] !== 'false',
  };
}

/** Sets that lead nowhere count for nothing. */
export function collectorSetIntents(snapshot: Snapshot, bridge: string): CollectorSetIntent[] {
  const sets: CollectorSetIntent[] = [];
  for (const row of snapshot.table('Flow_Sample_Collector_Set').values()) {
    const ipfix = snapshot.get('IPFIX', row.ipfix);
    if (row.bridge !== bridge || ipfix === undefined || ipfix.targets.length === 0) continue;
    sets.push({ id: row.id, ...exporterIntent(ipfix) });
  }
  return sets.sort((a, b) => a.id - b.id);
}

function ipfixIntent(snapshot: Snapshot, uuid: string | undefined): BridgeIpfixIntent | undefined {
  const row = snapshot.get('IPFIX', uuid);
  if (row === undefined || row.targets.length === 0) return undefined;
  return {
    ...exporterIntent(row),
    obsDomainId: row.obs_domain_id ?? 0,
    obsPointId: row.obs_point_id ?? 0,
    sampling: row.sampling ?? SAMPLING_DEFAULT,
    // As in Open vSwitch 3.1, where "true" turns them off, whatever their names say.
    input: row.other_config['enable-input-sampling'] !== 'true',
    output: row.other_config['enable-output-sampling'] !== 'true',
  };
}

function sflowIntent(snapshot: Snapshot, row: BridgeRow): SflowIntent | undefined {
  const sflow = snapshot.get('sFlow', row.sflow);
  if (sflow === undefined || sflow.targets.length === 0 || sflow.sampling === 0) return undefined;
  const controllers = snapshot.rows('Controller', row.controller);
  return {
    targets: sflow.targets,
    agent: sflow.agent,
    controlIp: controllers.find(({ local_ip }) => local_ip !== undefined)?.local_ip,
    headerBytes: sflow.header ?? SFLOW_HEADER_DEFAULT,
    pollingS: sflow.polling ?? SFLOW_POLLING_DEFAULT_S,
    sampling: sflow.sampling ?? SAMPLING_DEFAULT,
    subAgent: 0,
  };
}

function netflowIntent(snapshot: Snapshot, uuid: string | undefined): NetflowIntent | undefined {
  const row = snapshot.get('NetFlow', uuid);
  if (row === undefined) return undefined;
  return {
    targets: row.targets,
    engineType: row.engine_type ?? 0,
    engineId: row.engine_id ?? 0,
    activeTimeoutS: row.active_timeout > 0 ? row.active_timeout : NETFLOW_TIMEOUT_DEFAULT_S,
    addIdToInterface: row.add_id_to_interface,
  };
}

export function analyticsIntents(
  snapshot: Snapshot,
  row: BridgeRow,
): Pick<BridgeIntent, 'ipfix' | 'sflow' | 'netflow'> {
  return {
    ipfix: ipfixIntent(snapshot, row.ipfix),
    sflow: sflowIntent(snapshot, row),
    netflow: netflowIntent(snapshot, row.netflow),
  };
}

/** Agents of one machine have different numbers: those of the bridges with sFlow, in their order. */
export function numberAgents(): (bridge: BridgeIntent) => BridgeIntent {
  let next = 0;
  return (bridge) => {
    if (bridge.sflow === undefined) return bridge;
    return { ...bridge, sflow: { ...bridge.sflow, subAgent: next++ } };
  };
}
