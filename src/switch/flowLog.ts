// What the modules dpif_netdev and dpif say at level "dbg" of packets that come to the control plane and of megaflows, as the
// real datapath does: people and test suites learn from it what a packet was and what it has led to.

import { UPCALL_MISS } from '../../contract/action.ts';
import { K_CT_STATE, KEY_SIZE } from '../../contract/key.ts';
import type { Upcall } from '../engine/types.ts';
import type { Datapath } from './datapath.ts';
import type { DebugLog } from './debugLog.ts';
import { be32 } from './flow.ts';
import type { Megaflow } from './megaflow.ts';
import { ctStateText } from './odpCt.ts';
import { formatOdpActions, formatOdpFlow, formatOdpStats } from './odpText.ts';

const EXACT = new Uint8Array(KEY_SIZE).fill(0xff);

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

/** A key without a mask, as it came up: flags are names, not signs. */
function keyText(key: Uint8Array): string {
  return formatOdpFlow(key, EXACT, true).replace(
    /(^|,)ct_state\([^)]*\)/,
    `$1ct_state(${ctStateText(be32(key, K_CT_STATE))})`,
  );
}

/** "ovs-netdev: miss upcall:", the key, and the packet's first bytes. */
export function logUpcall(log: DebugLog, datapath: Datapath, upcall: Upcall): void {
  const name = datapath.name.slice(datapath.name.indexOf('@') + 1);
  const type = upcall.reason === UPCALL_MISS ? 'miss' : 'action';
  log.dbg(`${name}: ${type} upcall:\n${keyText(upcall.key)}\n${upcall.data.toHex()}`);
}

/** A megaflow that the revalidator has come by, or that does something else from now on. */
export function logFlow(
  log: DebugLog,
  datapath: Datapath,
  flow: Megaflow,
  what: 'flow_dump' | 'put[modify]',
): void {
  const { id, key, mask, program } = flow;
  const { engine, packetIns } = datapath;
  const isDump = what === 'flow_dump';
  const stats = isDump ? `${formatOdpStats(engine.flowStats(id), engine.nowMs())}, ` : '';
  const actions = formatOdpActions(program, key, { packetIn: (n) => packetIns.get(n) });
  log.dbg(
    `${datapath.name}: ${what} ${ufidText(id)} ${formatOdpFlow(key, mask, true)}, ${stats}actions:${actions}`,
  );
}
