// The rapid spanning tree protocol of IEEE 802.1D-2004 §17: BPDUs, links and ticks of a second in; BPDUs, port states and
// addresses to forget out. Variables are in rstpPort.ts, the ports' machines in rstpMachines.ts; here are role selection
// (§17.28), transmission (§17.26) and what management sees.

import { type Bpdu, decodeBpdu, encodeBpdu, idMacText, type TreeMessage } from './bpdu.ts';
import { agedTimes, MACHINES, newTcWhile, selectRole } from './rstpMachines.ts';
import {
  bridgeVector,
  compareVectors,
  HELLO_TIME_S,
  newPort,
  type PriorityVector,
  portIdOf,
  type RstpBridge,
  type RstpPort,
  type RstpPortSettings,
  type RstpSettings,
  type RstpTimes,
  sameAddress,
} from './rstpPort.ts';
import type { TreeEvents, TreePortStatus } from './types.ts';

const TICK_MS = 1000;
/** The machines come to rest after a few rounds; more is a mistake here, which must not cost the process. */
const ROUNDS_MAX = 1000;

export type RstpState = 'Disabled' | 'Discarding' | 'Learning' | 'Forwarding';

function timesOf(settings: RstpSettings): RstpTimes {
  return {
    messageAge: 0,
    maxAge: settings.maxAgeS,
    helloTime: HELLO_TIME_S,
    forwardDelay: settings.forwardDelayS,
  };
}

export class Rstp<P> {
  readonly #name: string;
  readonly #events: TreeEvents<P>;
  readonly #bridge: RstpBridge<P>;
  #nextTickMs: number;

  constructor(name: string, settings: RstpSettings, events: TreeEvents<P>, nowMs: number) {
    this.#name = name;
    this.#events = events;
    this.#nextTickMs = nowMs + TICK_MS;
    const times = timesOf(settings);
    this.#bridge = {
      settings,
      bridgeTimes: times,
      rootPriority: bridgeVector(settings.bridgeId),
      rootTimes: times,
      rootPort: undefined,
      ports: new Map(),
    };
  }

  // ---- management (§17.13)

  configure(settings: RstpSettings): void {
    const bridge = this.#bridge;
    const old = bridge.settings;
    if (JSON.stringify(old, plain) === JSON.stringify(settings, plain)) return;
    bridge.settings = settings;
    bridge.bridgeTimes = timesOf(settings);
    for (const port of bridge.ports.values()) {
      port.txCount = 0;
      port.reselect = true;
      port.selected = false;
      // Another version: everybody is asked again what he speaks.
      if (old.forceVersion !== settings.forceVersion) port.mcheck = true;
    }
    this.#run();
  }

  /** Makes the port take part, or changes its settings. `linkUp`: MAC_Operational. */
  setPort(key: P, settings: RstpPortSettings, linkUp: boolean, nowMs: number): void {
    const bridge = this.#bridge;
    let port = bridge.ports.get(key);
    if (port === undefined) {
      port = newPort(key, settings, bridge, nowMs);
      bridge.ports.set(key, port);
    }
    const changed = JSON.stringify(port.settings) !== JSON.stringify(settings);
    port.settings = settings;
    port.portId = portIdOf(settings);
    port.linkUp = linkUp;
    const enabled = linkUp && settings.adminEnabled;
    if (!changed && enabled === port.portEnabled) return;
    if (enabled && !port.portEnabled) port.sinceMs = nowMs;
    port.portEnabled = enabled;
    port.reselect = true;
    port.selected = false;
    this.#run();
  }

  removePort(key: P): void {
    const port = this.#bridge.ports.get(key);
    if (port === undefined) return;
    port.portEnabled = false;
    this.#run();
    this.#bridge.ports.delete(key);
    for (const other of this.#bridge.ports.values()) {
      other.reselect = true;
      other.selected = false;
    }
    this.#run();
  }

  /** rstp-port-mcheck: finds out again whether the neighbours understand the rapid protocol (§17.19.13). */
  check(key: P): void {
    const port = this.#bridge.ports.get(key);
    if (port === undefined || this.#bridge.settings.forceVersion < 2) return;
    port.mcheck = true;
    this.#run();
  }

  /** rstp/tcn */
  detectTopologyChange(): void {
    for (const port of this.#bridge.ports.values()) {
      if (port.topology !== 'ACTIVE') continue;
      newTcWhile(port, this.#bridge);
      port.fdbFlush = port.newInfo = true;
    }
    this.#run();
  }

  // ---- status

  get bridgeId(): bigint {
    return this.#bridge.settings.bridgeId;
  }

  get rootPriority(): PriorityVector {
    return this.#bridge.rootPriority;
  }

  get isRoot(): boolean {
    return sameAddress(this.bridgeId, this.rootPriority.root);
  }

  state(key: P): RstpState {
    const port = this.#bridge.ports.get(key);
    if (port === undefined) return 'Disabled';
    return port.forwarding ? 'Forwarding' : port.learning ? 'Learning' : 'Discarding';
  }

  portStatus(key: P, nowMs: number): (TreePortStatus & { uptimeS: number }) | undefined {
    const port = this.#bridge.ports.get(key);
    if (port === undefined) return undefined;
    return {
      portId: port.portId,
      state: this.state(key),
      role: port.role,
      designatedBridge: port.portPriority.bridge,
      designatedPort: port.portPriority.port,
      designatedCost: port.portPriority.cost,
      txCount: port.framesSent,
      rxCount: port.framesReceived,
      errorCount: port.errorCount,
      uptimeS: Math.floor((nowMs - port.sinceMs) / 1000),
    };
  }

  /** rstp/show. */
  show(): string {
    const { bridgeTimes, rootPort, rootPriority, ports } = this.#bridge;
    const details = (id: bigint, times: RstpTimes): string =>
      `  stp-priority    ${id >> 48n}\n` +
      `  stp-system-id   ${idMacText(id)}\n` +
      `  stp-hello-time  ${times.helloTime}s\n` +
      `  stp-max-age     ${times.maxAge}s\n` +
      `  stp-fwd-delay   ${times.forwardDelay}s\n`;
    let text = `---- ${this.#name} ----\nRoot ID:\n`;
    if (rootPort === undefined) {
      text += `${details(this.bridgeId, bridgeTimes)}  This bridge is the root\n`;
    } else {
      text += details(rootPriority.root, rootPort.designatedTimes);
      text += `  root-port       ${rootPort.settings.name}\n`;
      text += `  root-path-cost  ${rootPriority.cost}\n`;
    }
    text += `\nBridge ID:\n${details(this.bridgeId, bridgeTimes)}\n`;
    text += '  Interface  Role       State      Cost     Pri.Nbr \n';
    text += '  ---------- ---------- ---------- -------- -------\n';
    const cell = (value: string): string => value.slice(0, 10).padEnd(11);
    for (const port of [...ports.values()].sort((a, b) => a.settings.number - b.settings.number)) {
      const { name, pathCost, priority, number } = port.settings;
      text += `  ${cell(name)}${cell(port.role)}${cell(this.state(port.key))}`;
      text += `${String(pathCost).padEnd(9)}${priority}.${number}\n`;
    }
    return `${text}\n`;
  }

  // ---- events

  receive(key: P, bytes: Uint8Array): void {
    const port = this.#bridge.ports.get(key);
    if (port === undefined) return;
    const bpdu = decodeBpdu(bytes);
    if (typeof bpdu === 'string') {
      this.#events.warn(`${this.#name}: ${bpdu}`);
      port.errorCount++;
      return;
    }
    // §17.20.11: the protocol of 1998 knows no rapid messages.
    if (bpdu.type === 'rst' && this.#bridge.settings.forceVersion < 2) {
      port.errorCount++;
      return;
    }
    port.framesReceived++;
    if (!port.portEnabled) return;
    port.received = bpdu;
    port.rcvdBPDU = true;
    this.#run();
  }

  /** §17.22, port timers: once a second. */
  tick(nowMs: number): void {
    if (nowMs < this.#nextTickMs) return;
    this.#nextTickMs = nowMs + TICK_MS;
    const down = (timer: number): number => Math.max(0, timer - 1);
    for (const port of this.#bridge.ports.values()) {
      port.helloWhen = down(port.helloWhen);
      port.tcWhile = down(port.tcWhile);
      port.fdWhile = down(port.fdWhile);
      port.rcvdInfoWhile = down(port.rcvdInfoWhile);
      port.rrWhile = down(port.rrWhile);
      port.rbWhile = down(port.rbWhile);
      port.mdelayWhile = down(port.mdelayWhile);
      port.edgeDelayWhile = down(port.edgeDelayWhile);
      port.txCount = down(port.txCount);
    }
    this.#run();
  }

  wakeMs(): number {
    return this.#nextTickMs;
  }

  // ---- machines

  #run(): void {
    const bridge = this.#bridge;
    for (let round = 0; round < ROUNDS_MAX; round++) {
      let busy = this.#selectRoles();
      for (const port of bridge.ports.values()) {
        for (const machine of MACHINES) if (machine(port, bridge)) busy = true;
        if (port.fdbFlush) {
          port.fdbFlush = false;
          this.#events.flush(port.key);
          busy = true;
        }
      }
      if (!busy) break;
    }
    for (const port of bridge.ports.values()) this.#transmit(port);
  }

  /** §17.28: port role selection. */
  #selectRoles(): boolean {
    const bridge = this.#bridge;
    const ports = [...bridge.ports.values()];
    if (!ports.some(({ reselect }) => reselect)) return false;
    for (const port of ports) port.reselect = false;
    this.#selectRoot();
    for (const port of ports) {
      port.designatedPriority = {
        root: bridge.rootPriority.root,
        cost: bridge.rootPriority.cost,
        bridge: bridge.settings.bridgeId,
        port: port.portId,
        bridgePort: port.portId,
      };
      port.designatedTimes = { ...bridge.rootTimes, helloTime: bridge.bridgeTimes.helloTime };
    }
    for (const port of ports) selectRole(port, bridge);
    for (const port of ports) port.selected = true;
    return true;
  }

  #selectRoot(): void {
    const bridge = this.#bridge;
    const { bridgeId } = bridge.settings;
    bridge.rootPriority = bridgeVector(bridgeId);
    bridge.rootTimes = bridge.bridgeTimes;
    bridge.rootPort = undefined;
    for (const port of bridge.ports.values()) {
      const { infoIs, portPriority, portId } = port;
      if (infoIs !== 'Received' || sameAddress(portPriority.bridge, bridgeId)) continue;
      const cost = portPriority.cost + port.settings.pathCost;
      const path = { ...portPriority, cost, bridgePort: portId };
      if (compareVectors(path, bridge.rootPriority) >= 0) continue;
      bridge.rootPriority = path;
      bridge.rootTimes = agedTimes(port.portTimes);
      bridge.rootPort = port;
    }
  }

  /** §17.26: port transmit. */
  #transmit(port: RstpPort<P>): void {
    if (!port.portEnabled || !port.selected || port.updtInfo) return;
    const designated = port.role === 'Designated';
    if (port.helloWhen === 0) {
      if (designated || (port.role === 'Root' && port.tcWhile !== 0)) port.newInfo = true;
      port.helloWhen = port.designatedTimes.helloTime;
    }
    const { transmitHoldCount } = this.#bridge.settings;
    if (!port.newInfo || port.txCount >= transmitHoldCount) return;
    let bpdu: Bpdu;
    if (port.sendRSTP) {
      bpdu = { type: 'rst', message: this.#message(port) };
      port.tcAck = false;
    } else if (designated) {
      bpdu = { type: 'config', message: this.#message(port) };
      port.tcAck = false;
    } else if (port.role === 'Root') {
      bpdu = { type: 'tcn' };
    } else {
      return;
    }
    port.newInfo = false;
    port.txCount++;
    port.framesSent++;
    this.#events.send(port.key, encodeBpdu(bpdu));
  }

  /** §17.21.19, §17.21.20. */
  #message(port: RstpPort<P>): TreeMessage {
    const { designatedPriority: priority, designatedTimes: times, role } = port;
    return {
      rootId: priority.root,
      rootPathCost: priority.cost,
      bridgeId: priority.bridge,
      portId: priority.port,
      messageAgeMs: times.messageAge * 1000,
      maxAgeMs: times.maxAge * 1000,
      helloTimeMs: times.helloTime * 1000,
      forwardDelayMs: times.forwardDelay * 1000,
      topologyChange: port.tcWhile !== 0,
      topologyChangeAck: port.tcAck,
      role: role === 'Root' ? 'root' : role === 'Designated' ? 'designated' : 'alternate-backup',
      proposal: port.proposing,
      agreement: port.agree,
      learning: port.learning,
      forwarding: port.forwarding,
    };
  }
}

const plain = (_key: string, value: unknown): unknown =>
  typeof value === 'bigint' ? value.toString() : value;
