// Columns of tables Bridge and Port that are about spanning trees (ovs-vswitchd.conf.db(5)) → settings of the protocols,
// and their status → columns. What makes no sense is ignored as in the real daemon, with its words in the log.

import type { WantedRow } from '../control/ovsdb/columns.ts';
import { bridgeIdOf, rstpIdText, stpIdText } from '../protocol/spanningTree/bpdu.ts';
import type { RstpPortSettings, RstpSettings } from '../protocol/spanningTree/rstpPort.ts';
import type { StpPortSettings, StpSettings } from '../protocol/spanningTree/stpPort.ts';
import type { TreeConfig, TreeHost } from '../switch/spanningTree/treeHost.ts';
import type { BridgePort } from '../switch/types.ts';
import { parseMac } from '../wire/rtnetlink.ts';
import type { BridgeIntent, PortIntent } from './intent.ts';

type Config = Readonly<Record<string, string>>;

const STP_MAX_PORTS = 255;
const RSTP_MAX_PORTS = 4095;
const DEFAULT_SPEED_BPS = 10e9;
const DEFAULT_PORT_PRIORITY = 128;

export interface TreeSources {
  intent: BridgeIntent;
  /** Address of the bridge. */
  mac: string;
  /** The interface of a port that may take part; undefined: internal, not open, a mirror's output. */
  portOf: (port: PortIntent) => BridgePort | undefined;
  /** The number that a port has already: it keeps it, since another one would cut it off for half a minute. */
  numberOf: (port: BridgePort) => number | undefined;
  error: (text: string) => void;
}

/** As C's strtoul() reads a number, with a default. */
function number(text: string | undefined, fallback: number): number {
  const found = /^\s*(0x[0-9a-f]+|\d+)/i.exec(text ?? '')?.[1];
  return found === undefined ? fallback : Number(found);
}

function systemId(sources: TreeSources, key: 'stp-system-id' | 'rstp-address'): Uint8Array {
  const { intent, mac, error } = sources;
  const text = intent.otherConfig[key];
  const own = parseMac(mac) ?? new Uint8Array(6);
  if (text === undefined) return own;
  const given = parseMac(text);
  if (given === undefined) error(`bridge ${intent.name}: invalid ${key}, defaulting to ${mac}`);
  return given ?? own;
}

/** Numbers for the ports that nobody has given one: their own again, or the first that is free. */
class Numbers {
  readonly #taken = new Set<number>();

  has(number: number): boolean {
    return this.#taken.has(number);
  }

  take(number: number): number {
    this.#taken.add(number);
    return number;
  }

  next(own: number | undefined): number {
    if (own !== undefined && !this.#taken.has(own)) return this.take(own);
    let candidate = 1;
    while (this.#taken.has(candidate)) candidate++;
    return this.take(candidate);
  }
}

/** Ports of bonds and those that somebody excludes take no part. */
function candidates(sources: TreeSources, prefix: 'stp' | 'rstp'): [PortIntent, BridgePort][] {
  const found: [PortIntent, BridgePort][] = [];
  for (const port of sources.intent.ports) {
    if (port.bond.otherConfig[`${prefix}-enable`] === 'false') continue;
    if (port.interfaces.length > 1) {
      const protocol = prefix.toUpperCase();
      sources.error(`port ${port.name}: cannot enable ${protocol} on bonds, disabling`);
      continue;
    }
    const bridgePort = sources.portOf(port);
    if (bridgePort !== undefined) found.push([port, bridgePort]);
  }
  return found;
}

/** Ports without a number come after those with one. */
function newLast(
  ports: [PortIntent, BridgePort][],
  { numberOf }: TreeSources,
): [PortIntent, BridgePort][] {
  const isNew = (port: BridgePort): number => Number(numberOf(port) === undefined);
  return ports.sort(([, a], [, b]) => isNew(a) - isNew(b));
}

/** Table 8-5 of 802.1D-1998, and a guess for what is faster. */
function stpCost(bps: number): number {
  const mbps = bps / 1e6;
  const costs = [
    [10_000, 2],
    [1000, 4],
    [100, 19],
    [16, 62],
    [10, 100],
    [4, 250],
  ] as const;
  return costs.find(([speed]) => mbps >= speed)?.[1] ?? 2;
}

/** Table 17-3 of 802.1D-2004. */
function rstpCost(bps: number): number {
  const mbps = bps / 1e6;
  for (let speed = 10e6, cost = 2; speed >= 1; speed /= 10, cost *= 10) {
    if (mbps >= speed) return cost;
  }
  return 2000;
}

const speedOf = ({ netdev }: BridgePort): number => netdev.status().linkSpeed || DEFAULT_SPEED_BPS;

function stpConfig(sources: TreeSources): TreeConfig | undefined {
  const { intent, error } = sources;
  const config = intent.otherConfig;
  const ports = new Map<BridgePort, StpPortSettings>();
  const numbers = new Numbers();
  let given = 0;
  let counted = 0;
  for (const [{ name, bond }, port] of newLast(candidates(sources, 'stp'), sources)) {
    const own: Config = bond.otherConfig;
    let portNumber: number;
    if (own['stp-port-num'] !== undefined) {
      portNumber = number(own['stp-port-num'], 0);
      if (portNumber < 1 || portNumber > STP_MAX_PORTS) {
        error(`port ${name}: invalid stp-port-num`);
        continue;
      }
      if (numbers.has(portNumber)) {
        error(`port ${name}: duplicate stp-port-num ${portNumber}, disabling`);
        continue;
      }
      numbers.take(portNumber);
      given++;
    } else if (counted >= STP_MAX_PORTS) {
      error(`port ${name}: too many STP ports, disabling`);
      continue;
    } else {
      portNumber = numbers.next(sources.numberOf(port));
      counted++;
    }
    ports.set(port, {
      name: port.name,
      number: portNumber,
      priority: number(own['stp-port-priority'], DEFAULT_PORT_PRIORITY) & 0xff,
      pathCost: number(own['stp-path-cost'], stpCost(speedOf(port))) & 0xffff,
    });
  }
  if (given > 0 && counted > 0) {
    error(`bridge ${intent.name}: must manually configure all STP port IDs or none, disabling`);
    return undefined;
  }
  const settings: StpSettings = {
    bridgeId: bridgeIdOf(
      number(config['stp-priority'], 0x8000),
      systemId(sources, 'stp-system-id'),
    ),
    // As in the real daemon this one is in milliseconds where it is given: what is below a second becomes one.
    helloTimeMs: number(config['stp-hello-time'], 2000),
    maxAgeMs: number(config['stp-max-age'], 20) * 1000,
    forwardDelayMs: number(config['stp-forward-delay'], 15) * 1000,
  };
  return { protocol: 'STP', settings, ports };
}

/** Out of range: the default, as in the real daemon. */
function within(text: string | undefined, fallback: number, min: number, max: number): number {
  const value = number(text, fallback);
  return value >= min && value <= max ? value : fallback;
}

function rstpConfig(sources: TreeSources): TreeConfig {
  const { intent, error } = sources;
  const config = intent.otherConfig;
  const ports = new Map<BridgePort, RstpPortSettings>();
  const numbers = new Numbers();
  // Numbers that were asked for are given first.
  const asked = (port: PortIntent): number =>
    Number(port.bond.otherConfig['rstp-port-num'] === undefined);
  const all = newLast(candidates(sources, 'rstp'), sources).sort(([a], [b]) => asked(a) - asked(b));
  for (const [{ name, bond }, port] of all) {
    const own: Config = bond.otherConfig;
    const given = own['rstp-port-num'];
    const wanted = number(given, 0);
    if (given !== undefined && (wanted < 1 || wanted > RSTP_MAX_PORTS)) {
      error(`port ${name}: invalid rstp-port-num`);
      continue;
    }
    if (ports.size >= RSTP_MAX_PORTS) {
      error(`port ${name}: too many RSTP ports, disabling`);
      continue;
    }
    const mayHave = given !== undefined && !numbers.has(wanted);
    const portNumber = mayHave ? numbers.take(wanted) : numbers.next(sources.numberOf(port));
    const priority = within(own['rstp-port-priority'], DEFAULT_PORT_PRIORITY, 0, 240);
    ports.set(port, {
      name: port.name,
      number: portNumber,
      priority: priority & 0xf0,
      pathCost: within(own['rstp-path-cost'], rstpCost(speedOf(port)), 1, 200_000_000),
      adminEdge: own['rstp-port-admin-edge'] === 'true',
      autoEdge: own['rstp-port-auto-edge'] !== 'false',
      pointToPoint: number(own['rstp-admin-p2p-mac'], 1) !== 0,
      adminEnabled: own['rstp-admin-port-state'] !== 'false',
    });
  }
  const priority = within(config['rstp-priority'], 0x8000, 0, 61_440) & 0xf000;
  const settings: RstpSettings = {
    bridgeId: bridgeIdOf(priority, systemId(sources, 'rstp-address')),
    maxAgeS: within(config['rstp-max-age'], 20, 6, 40),
    forwardDelayS: within(config['rstp-forward-delay'], 15, 4, 30),
    transmitHoldCount: within(config['rstp-transmit-hold-count'], 6, 1, 10),
    forceVersion: number(config['rstp-force-protocol-version'], 2) === 0 ? 0 : 2,
  };
  return { protocol: 'RSTP', settings, ports };
}

/** What the operator wants; undefined: no spanning tree. */
export function treeConfig(sources: TreeSources): TreeConfig | undefined {
  const { intent } = sources;
  if (intent.rstp) return rstpConfig(sources);
  return intent.stp ? stpConfig(sources) : undefined;
}

// ---- columns

export function treeBridgeColumns({ stp, rstp }: TreeHost): WantedRow<'Bridge'> {
  const hex4 = (id: number): string => id.toString(16).padStart(4, '0');
  const root = rstp?.rootPriority;
  return {
    status: stp
      ? {
          stp_bridge_id: stpIdText(stp.bridgeId),
          stp_designated_root: stpIdText(stp.designatedRoot),
          stp_root_path_cost: String(stp.rootPathCost),
        }
      : {},
    rstp_status:
      rstp && root
        ? {
            rstp_bridge_id: rstpIdText(rstp.bridgeId),
            rstp_root_path_cost: String(root.cost),
            rstp_root_id: rstpIdText(root.root),
            rstp_designated_id: rstpIdText(root.bridge),
            rstp_designated_port_id: hex4(root.port),
            rstp_bridge_port_id: hex4(root.bridgePort),
          }
        : {},
  };
}

export function treePortColumns(host: TreeHost, port: BridgePort | undefined): WantedRow<'Port'> {
  const status = port && host.portStatus(port);
  if (port === undefined || status === undefined) return { status: {}, rstp_status: {} };
  if (host.stp !== undefined) {
    return {
      status: {
        stp_port_id: String(status.portId),
        stp_state: status.state,
        stp_sec_in_state: String(host.secondsInState(port)),
        stp_role: status.role,
      },
      rstp_status: {},
    };
  }
  return {
    status: {},
    rstp_status: {
      rstp_port_id: status.portId.toString(16).padStart(4, '0'),
      rstp_port_role: status.role,
      rstp_port_state: status.state,
      rstp_designated_bridge_id: rstpIdText(status.designatedBridge),
      rstp_designated_port_id: status.designatedPort.toString(16).padStart(4, '0'),
      rstp_designated_path_cost: String(status.designatedCost),
    },
  };
}

export function treePortStatistics(
  host: TreeHost,
  port: BridgePort | undefined,
): WantedRow<'Port'> {
  const status = port && host.portStatus(port);
  if (status === undefined) return { statistics: {}, rstp_statistics: {} };
  const { txCount, rxCount, errorCount, uptimeS } = status;
  if (host.stp !== undefined) {
    return {
      statistics: { stp_tx_count: txCount, stp_rx_count: rxCount, stp_error_count: errorCount },
      rstp_statistics: {},
    };
  }
  return {
    statistics: {},
    rstp_statistics: {
      rstp_tx_count: txCount,
      rstp_rx_count: rxCount,
      rstp_uptime: uptimeS ?? 0,
      rstp_error_count: errorCount,
    },
  };
}
