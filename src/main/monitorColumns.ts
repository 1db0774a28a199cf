// Columns of table Interface that BFD, CFM and LACP fill (ovs-vswitchd.conf.db(5)).

import type { WantedRow } from '../control/ovsdb/columns.ts';
import { cfmFaultNames } from '../protocol/cfm.ts';
import type { PortMonitor } from '../switch/monitor/portMonitor.ts';

export function monitorColumns(
  monitor: PortMonitor | undefined,
  lacpCurrent: boolean | undefined,
): WantedRow<'Interface'> {
  const status = monitor?.cfm?.status();
  const opstate = status?.remoteOpUp;
  return {
    lacp_current: lacpCurrent,
    bfd_status: monitor?.bfdStatus() ?? {},
    cfm_fault: status && status.fault !== 0,
    cfm_fault_status: cfmFaultNames(status?.fault ?? 0),
    cfm_flap_count: status?.flapCount,
    cfm_health: status && status.health >= 0 ? status.health : undefined,
    cfm_remote_mpids: (status?.remoteMpids ?? []).map((mpid) => Number(BigInt.asIntN(64, mpid))),
    cfm_remote_opstate: opstate === undefined ? undefined : opstate ? 'up' : 'down',
  };
}
