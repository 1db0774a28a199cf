// What a row of the Controller table says of its connection (ovs-vswitchd.conf.db(5), Controller: is_connected, role,
// status).

import type { Peer } from './announce.ts';
import type { Rconn } from './rconn.ts';

/** Columns of the Controller row with this target. */
export interface ControllerStatus {
  isConnected: boolean;
  role: 'other' | 'master' | 'slave' | undefined;
  status: Record<string, string>;
}

/** `peer`: undefined while there is no connection. */
export function controllerStatus(
  rconn: Rconn,
  peer: Peer | undefined,
  nowMs: number,
): ControllerStatus {
  const status: Record<string, string> = {};
  if (rconn.lastError !== undefined) status.last_error = rconn.lastError;
  status.state = rconn.state;
  if (rconn.lastConnectedMs !== undefined) {
    status.sec_since_connect = seconds(nowMs - rconn.lastConnectedMs);
  }
  if (rconn.lastDisconnectedMs !== undefined) {
    status.sec_since_disconnect = seconds(nowMs - rconn.lastDisconnectedMs);
  }
  for (const [i, name] of ['action', 'miss'].entries()) {
    const stats = peer?.stats[i];
    if (stats === undefined) continue;
    status[`packet-in-${name}-backlog`] = `${stats.queued}`;
    status[`packet-in-${name}-bypassed`] = `${stats.normal}`;
    status[`packet-in-${name}-queued`] = `${stats.limited}`;
    status[`packet-in-${name}-dropped`] = `${stats.dropped}`;
  }
  return {
    isConnected: rconn.connected,
    role: peer === undefined ? undefined : ROLE_NAMES[peer.conn.role],
    status,
  };
}

const ROLE_NAMES = { other: 'other', primary: 'master', secondary: 'slave' } as const;

function seconds(durationMs: number): string {
  return `${Math.floor(durationMs / 1000)}`;
}
