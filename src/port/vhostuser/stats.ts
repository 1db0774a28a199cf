// Interface.statistics and Interface.status of a vhost-user port, in the words of Open vSwitch's netdev-dpdk.

import { readFileSync } from 'node:fs';
import * as DROP from '../../../contract/drop.ts';
import { DROP_NAMES } from '../../../contract/names.ts';
import { Q_BYTES, Q_PACKETS, queueAddress } from '../../../contract/port.ts';
import type { Engine, PortCounters } from '../../engine/types.ts';
import { has, VIRTIO_NET_F_MTU } from '../../wire/vhostuser/features.ts';
import { type BackendState, RING_NONE } from './state.ts';

const SIZE_NAMES = [
  '1_to_64',
  '65_to_127',
  '128_to_255',
  '256_to_511',
  '512_to_1023',
  '1024_to_1522',
  '1523_to_max',
];

const RX_DROPS = [
  DROP.DROP_RX_RUNT,
  DROP.DROP_RX_TOO_LONG,
  DROP.DROP_RX_BAD_DESC,
  DROP.DROP_RX_BAD_VNET,
  DROP.DROP_RX_DISABLED,
  DROP.DROP_MALFORMED,
];
const RX_ERRORS = [
  DROP.DROP_RX_RUNT,
  DROP.DROP_RX_TOO_LONG,
  DROP.DROP_RX_BAD_DESC,
  DROP.DROP_RX_BAD_VNET,
];
const TX_FAILURES = [
  DROP.DROP_TX_RING_FULL,
  DROP.DROP_TX_NOT_READY,
  DROP.DROP_TX_NO_BUFFER,
  DROP.DROP_TX_BAD_DESC,
  DROP.DROP_NO_WINDOW,
];
const TX_DROPS = [...TX_FAILURES, DROP.DROP_TX_MTU, DROP.DROP_TX_GSO, DROP.DROP_TX_LINK_DOWN];

function sum(counters: PortCounters, reasons: readonly number[]): number {
  return reasons.reduce((total, reason) => total + (counters.drops[reason] ?? 0), 0);
}

/** Interface.statistics; drops are added under xvio's own names where there are any. */
export function vhostStatistics(
  engine: Engine,
  port: number,
  queues: Iterable<{ ring: number; queue: number }>,
): Record<string, number> {
  const c = engine.portCounters(port);
  const stats: Record<string, number> = {
    rx_packets: c.rxPackets,
    tx_packets: c.txPackets,
    rx_bytes: c.rxBytes,
    tx_bytes: c.txBytes,
    rx_dropped: sum(c, RX_DROPS),
    tx_dropped: sum(c, TX_DROPS),
    rx_errors: sum(c, RX_ERRORS),
    tx_errors: 0,
    rx_multicast_packets: c.rxMulticast,
    tx_multicast_packets: c.txMulticast,
    rx_broadcast_packets: c.rxBroadcast,
    tx_broadcast_packets: c.txBroadcast,
    ovs_tx_failure_drops: sum(c, TX_FAILURES),
    ovs_tx_mtu_exceeded_drops: c.drops[DROP.DROP_TX_MTU] ?? 0,
    ovs_tx_invalid_hwol_drops: c.drops[DROP.DROP_TX_GSO] ?? 0,
    ovs_tx_retries: c.txRetries,
    ovs_tx_qos_drops: 0,
    ovs_rx_qos_drops: 0,
  };
  SIZE_NAMES.forEach((name, i) => {
    stats[`rx_${name}_packets`] = c.rxSizes[i] ?? 0;
    stats[`tx_${name}_packets`] = c.txSizes[i] ?? 0;
  });
  c.drops.forEach((count, reason) => {
    if (count > 0) stats[`xvio_drop_${DROP_NAMES[reason] ?? reason}`] = count;
  });
  const view = new DataView(engine.memory.buffer);
  for (const { ring, queue } of queues) {
    const name = `${ring % 2 === 1 ? 'rx' : 'tx'}_q${ring >> 1}`;
    const q = queueAddress(queue);
    stats[`${name}_good_packets`] = view.getFloat64(q + Q_PACKETS, true);
    stats[`${name}_good_bytes`] = view.getFloat64(q + Q_BYTES, true);
  }
  return stats;
}

let onlineNodes: string | undefined;

/** NUMA node of the guest's memory: known without asking when the machine has only one. */
function numaNode(): string | undefined {
  try {
    onlineNodes ??= readFileSync('/sys/devices/system/node/online', 'utf8').trim();
  } catch {
    onlineNodes = '0'; // a kernel without NUMA
  }
  return /^\d+$/.test(onlineNodes) ? onlineNodes : undefined;
}

/** Interface.status. `state` is undefined while no guest is there. */
export function vhostStatus(
  mode: 'client' | 'server',
  path: string,
  state: BackendState | undefined,
): Record<string, string> {
  if (state === undefined) return { mode, status: 'disconnected' };
  const status: Record<string, string> = { mode, status: 'connected', socket: path };
  const features = state.features ?? 0n;
  const hex = (set: bigint) => `0x${set.toString(16).padStart(16, '0')}`;
  status.features = hex(features);
  status.features_offered = hex(state.options.features);
  if (state.mtu > 0 && has(features, VIRTIO_NET_F_MTU)) status.mtu = String(state.mtu);
  const numa = numaNode();
  if (numa !== undefined) status.numa = numa;
  const vrings = state.rings.findLastIndex((ring) => ring !== RING_NONE) + 1;
  status.num_of_vrings = String(vrings);
  for (let i = 0; i < vrings; i++) status[`vring_${i}_size`] = String(state.rings[i]!.num);
  return status;
}
