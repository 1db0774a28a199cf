// What the module dpif_netdev says at level "dbg" of each megaflow that is installed, as the real datapath does: people and
// test suites learn from it what a packet has led to.

import type { Datapath } from './datapath.ts';
import type { DebugLog } from './debugLog.ts';
import type { Megaflow } from './megaflow.ts';
import { formatOdpActions, formatOdpFlow } from './odpText.ts';

/** Name of a megaflow in the form of Open vSwitch's 128-bit ones: its number. */
export function ufidText(id: number): string {
  const hex = (id >>> 0).toString(16).padStart(8, '0');
  return `ufid:${hex}-0000-0000-0000-${'0'.repeat(12)}`;
}

export function logFlowAdded(log: DebugLog, datapath: Datapath, flow: Megaflow): void {
  const { id, key, mask, program } = flow;
  const name = ufidText(id);
  const actions = formatOdpActions(program, key, { packetIn: (n) => datapath.packetIns.get(n) });
  log.dbg(`flow_add: ${name} mega_${name} ${formatOdpFlow(key, mask, false)}, actions:${actions}`);
}
