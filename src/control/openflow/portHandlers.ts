// Ports as controllers see them: descriptions, statistics, queues, and port-mod (1.5.1 §7.2.1, §7.3.4.3, §7.3.5.6).

import type { QueueCounters } from '../../switch/policing.ts';
import type { BridgePort } from '../../switch/types.ts';
import type { PortMod } from '../../wire/openflow/messages.ts';
import { OFPP_NONE, OfError, type PortDesc, type PortStats } from '../../wire/openflow/types.ts';
import type { OfSwitch } from './context.ts';
import type { Ofconn } from './ofconn.ts';

const OFPPC_PORT_DOWN = 1;
const OFPPS_LINK_DOWN = 1;
const OFPPS_LIVE = 4;
const OFPQ_ALL = 0xffffffff;
/** A counter that the device does not have: all ones on the wire. */
const UNKNOWN = -1;
/** Counters beyond those of OpenFlow: names that no standard knows. */
const CUSTOM = /^(ovs_|rx_custom_|[rt]x_q\d+_)/;

/** All ports, or the one that was asked for; none if there is no such port (which is no error). */
export function selectPorts(ofSwitch: OfSwitch, port: number): BridgePort[] {
  const { ports } = ofSwitch.bridge;
  if (port === OFPP_NONE) return [...ports.values()].sort((a, b) => a.ofport - b.ofport);
  const one = ports.get(port);
  return one === undefined ? [] : [one];
}

/** Counters of the port; those that its device does not have are UNKNOWN. */
export function portStats(port: BridgePort, nowMs: number): PortStats {
  const statistics = port.netdev.statistics();
  const counter = (name: string) => statistics[name] ?? UNKNOWN;
  const custom: Record<string, number> = {};
  for (const [name, value] of Object.entries(statistics)) {
    if (CUSTOM.test(name)) custom[name] = value;
  }
  return {
    port: port.ofport,
    rxPackets: counter('rx_packets'),
    txPackets: counter('tx_packets'),
    rxBytes: counter('rx_bytes'),
    txBytes: counter('tx_bytes'),
    rxDropped: counter('rx_dropped'),
    txDropped: counter('tx_dropped'),
    rxErrors: counter('rx_errors'),
    txErrors: counter('tx_errors'),
    rxFrameErr: counter('rx_frame_err'),
    rxOverErr: counter('rx_over_err'),
    rxCrcErr: counter('rx_crc_err'),
    collisions: counter('collisions'),
    durationMs: Math.max(0, nowMs - port.createdMs),
    custom,
  };
}

/** Throws OFPPMFC_BAD_PORT or OFPPMFC_BAD_HW_ADDR. */
export function checkPortMod(ofSwitch: OfSwitch, portMod: PortMod): BridgePort {
  const port = ofSwitch.bridge.ports.get(portMod.port);
  if (port === undefined) throw new OfError('OFPPMFC_BAD_PORT');
  if (!port.desc.hwAddr.every((byte, i) => byte === portMod.hwAddr[i])) {
    throw new OfError('OFPPMFC_BAD_HW_ADDR');
  }
  return port;
}

export function applyPortMod(
  ofSwitch: OfSwitch,
  portMod: PortMod,
  source: Ofconn | undefined,
): void {
  const port = checkPortMod(ofSwitch, portMod);
  const old = port.desc;
  let toggled = (portMod.config ^ old.config) & portMod.mask;
  if (toggled & OFPPC_PORT_DOWN) {
    try {
      port.netdev.setAdminUp((portMod.config & OFPPC_PORT_DOWN) === 0);
    } catch (error) {
      ofSwitch.log.warn(`${port.name}: ${(error as Error).message}`);
      toggled &= ~OFPPC_PORT_DOWN;
    }
  }
  if (toggled === 0) return;
  // The device may have reported its new state already: start from the description as it is now.
  port.desc = withLiveness({ ...port.desc, config: old.config ^ toggled });
  ofSwitch.bridge.flowsChanged();
  ofSwitch.portModified(port, old, source);
}

/** OFPPS_LIVE follows from the rest (1.5.1 §7.2.1.2). */
function withLiveness(desc: PortDesc): PortDesc {
  const dead = (desc.config & OFPPC_PORT_DOWN) !== 0 || (desc.state & OFPPS_LINK_DOWN) !== 0;
  return { ...desc, state: dead ? desc.state & ~OFPPS_LIVE : desc.state | OFPPS_LIVE };
}

/**
 * Ports and queues that a request names (OFPP_NONE and OFPQ_ALL: all of them). Throws OFPQOFC_BAD_PORT, and
 * OFPQOFC_BAD_QUEUE when no port that was asked for has the queue.
 */
export function selectQueues(
  ofSwitch: OfSwitch,
  port: number,
  queue: number,
): { port: number; queue: number; counters: QueueCounters | undefined }[] {
  if (port !== OFPP_NONE && !ofSwitch.bridge.ports.has(port)) {
    throw new OfError('OFPQOFC_BAD_PORT');
  }
  const found = selectPorts(ofSwitch, port).flatMap(({ ofport, netdev, queues }) => {
    const known = queues?.() ?? new Map();
    const ids: readonly number[] = known.size > 0 ? [...known.keys()] : (netdev.queueIds ?? []);
    return ids
      .filter((id) => queue === OFPQ_ALL || queue === id)
      .map((id) => ({ port: ofport, queue: id, counters: known.get(id) }));
  });
  if (queue !== OFPQ_ALL && found.length === 0) throw new OfError('OFPQOFC_BAD_QUEUE');
  return found;
}
