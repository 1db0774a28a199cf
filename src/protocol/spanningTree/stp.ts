// The spanning tree algorithm of IEEE 802.1D-1998 §8 as a state machine: BPDUs, links and time in, BPDUs and port states
// out. Names are those of §8.5 to §8.7.
//
// As in Open vSwitch a disabled port is one that takes no part, and forwards; learned addresses are forgotten at once on
// a topology change instead of ageing faster.

import { type Bpdu, decodeBpdu, encodeBpdu, type TreeMessage } from './bpdu.ts';
import {
  bridgeTimes,
  clamp,
  isBetterRoot,
  StpPort,
  type StpPortSettings,
  type StpRole,
  type StpSettings,
  type StpState,
  type StpTimes,
  supersedes,
} from './stpPort.ts';
import { stpText } from './stpText.ts';
import type { TreeEvents, TreePortStatus } from './types.ts';

const HOLD_MS = 1000;
/** §8.10.2, Table 8-3: what a message ages on its way through a bridge. */
const MESSAGE_AGE_INCREMENT_MS = 1000;

export class Stp<P> {
  readonly #events: TreeEvents<P>;
  readonly #ports = new Map<P, StpPort>();
  readonly #name: string;
  #bridgeId: bigint;
  #bridgeTimes: StpTimes;
  /** Those of the root. */
  #times: StpTimes;
  #designatedRoot: bigint;
  #rootPathCost = 0;
  #rootPort: StpPort | undefined;
  #topologyChangeDetected = false;
  #topologyChange = false;
  #helloFromMs: number | undefined;
  #tcnFromMs: number | undefined;
  #topologyChangeFromMs: number | undefined;
  #nowMs: number;

  constructor(name: string, settings: StpSettings, events: TreeEvents<P>, nowMs: number) {
    this.#name = name;
    this.#events = events;
    this.#nowMs = nowMs;
    this.#bridgeId = settings.bridgeId;
    this.#designatedRoot = settings.bridgeId;
    this.#bridgeTimes = bridgeTimes(settings);
    this.#times = this.#bridgeTimes;
    this.#helloFromMs = nowMs;
  }

  get bridgeId(): bigint {
    return this.#bridgeId;
  }

  get designatedRoot(): bigint {
    return this.#designatedRoot;
  }

  get rootPathCost(): number {
    return this.#rootPathCost;
  }

  get isRoot(): boolean {
    return this.#designatedRoot === this.#bridgeId;
  }

  // ---- management (§8.8)

  configure(settings: StpSettings, nowMs: number): void {
    this.#nowMs = nowMs;
    this.#bridgeTimes = bridgeTimes(settings);
    if (settings.bridgeId !== this.#bridgeId) {
      const wasRoot = this.isRoot;
      for (const port of this.#enabled()) {
        if (this.#isDesignated(port)) port.designatedBridge = settings.bridgeId;
      }
      this.#bridgeId = settings.bridgeId;
      this.#configurationUpdate();
      this.#portStateSelection();
      if (this.isRoot && !wasRoot) this.#becomeRoot();
    }
    if (this.isRoot) this.#times = this.#bridgeTimes;
  }

  /** Makes the port take part while its link is up, or changes its settings. */
  setPort(key: P, settings: StpPortSettings, linkUp: boolean, nowMs: number): void {
    this.#nowMs = nowMs;
    let port = this.#ports.get(key);
    if (port !== undefined && port.settings.number !== settings.number) {
      this.removePort(key, nowMs);
      port = undefined;
    }
    if (port === undefined) {
      port = new StpPort(settings);
      this.#ports.set(key, port);
    }
    const old = port.settings;
    const wasDesignated = this.#isDesignated(port);
    port.settings = settings;
    if (port.state === 'disabled') {
      if (linkUp) this.#enable(port);
    } else if (!linkUp) {
      this.#disable(port);
    } else if (old.priority !== settings.priority || old.pathCost !== settings.pathCost) {
      if (wasDesignated) port.designatedPort = port.id;
      this.#configurationUpdate();
      this.#portStateSelection();
    }
  }

  removePort(key: P, nowMs: number): void {
    this.#nowMs = nowMs;
    const port = this.#ports.get(key);
    if (port === undefined) return;
    this.#disable(port);
    this.#ports.delete(key);
  }

  /** stp/tcn */
  detectTopologyChange(nowMs: number): void {
    this.#nowMs = nowMs;
    this.#topologyChangeDetection();
  }

  // ---- status

  state(key: P): StpState {
    return this.#ports.get(key)?.state ?? 'disabled';
  }

  portStatus(key: P): TreePortStatus | undefined {
    const port = this.#ports.get(key);
    if (port === undefined) return undefined;
    return {
      portId: port.id,
      state: port.state,
      role: this.#role(port),
      designatedBridge: port.designatedBridge,
      designatedPort: port.designatedPort,
      designatedCost: port.designatedCost,
      txCount: port.txCount,
      rxCount: port.rxCount,
      errorCount: port.errorCount,
    };
  }

  /** stp/show. */
  show(): string {
    return stpText({
      name: this.#name,
      bridgeId: this.#bridgeId,
      designatedRoot: this.#designatedRoot,
      rootPathCost: this.#rootPathCost,
      rootPort: this.isRoot ? undefined : this.#rootPort,
      bridgeTimes: this.#bridgeTimes,
      times: this.#times,
      ports: [...this.#enabled()].map((port) => ({ port, role: this.#role(port) })),
    });
  }

  #role(port: StpPort): StpRole {
    if (port === this.#rootPort) return 'root';
    if (this.#isDesignated(port)) return 'designated';
    return port.state === 'disabled' ? 'disabled' : 'alternate';
  }

  // ---- events

  receive(key: P, bytes: Uint8Array, nowMs: number): void {
    this.#nowMs = nowMs;
    const port = this.#ports.get(key);
    if (port === undefined || port.state === 'disabled') return;
    const bpdu = decodeBpdu(bytes);
    if (typeof bpdu === 'string') {
      this.#events.warn(`${this.#name}: ${bpdu}`);
      port.errorCount++;
      return;
    }
    if (bpdu.type === 'rst') {
      // §9.3.4 (1998) knows no such type; the sender falls back when it hears of us.
      this.#events.warn(`${this.#name}: received BPDU of unexpected type 2`);
      port.errorCount++;
      return;
    }
    port.rxCount++;
    if (bpdu.type === 'tcn') this.#receivedTcn(port);
    else this.#receivedConfig(port, bpdu.message);
  }

  /** Timers that have run out (§8.7.3 … §8.7.8), each at most once. */
  tick(nowMs: number): void {
    this.#nowMs = nowMs;
    const { helloTimeMs, maxAgeMs, forwardDelayMs } = this.#times;
    const out = (from: number | undefined, ms: number): boolean =>
      from !== undefined && nowMs - from >= ms;
    if (out(this.#helloFromMs, helloTimeMs)) {
      this.#configBpduGeneration();
      this.#helloFromMs = nowMs;
    }
    if (out(this.#tcnFromMs, this.#bridgeTimes.helloTimeMs)) {
      this.#transmitTcn();
      this.#tcnFromMs = nowMs;
    }
    if (out(this.#topologyChangeFromMs, maxAgeMs + forwardDelayMs)) {
      this.#topologyChangeDetected = false;
      this.#topologyChange = false;
      this.#topologyChangeFromMs = undefined;
    }
    for (const port of this.#enabled()) {
      if (out(port.messageAgeFromMs, maxAgeMs)) this.#messageAgeExpiry(port);
    }
    for (const port of this.#enabled()) {
      if (out(port.forwardDelayFromMs, forwardDelayMs)) this.#forwardDelayExpiry(port);
      if (out(port.holdFromMs, HOLD_MS)) {
        port.holdFromMs = undefined;
        if (port.configPending) this.#transmitConfig(port);
      }
    }
  }

  /** When tick() is wanted next. */
  wakeMs(): number {
    const { helloTimeMs, maxAgeMs, forwardDelayMs } = this.#times;
    const at = (from: number | undefined, ms: number): number =>
      from === undefined ? Infinity : from + ms;
    let wake = Math.min(
      at(this.#helloFromMs, helloTimeMs),
      at(this.#tcnFromMs, this.#bridgeTimes.helloTimeMs),
      at(this.#topologyChangeFromMs, maxAgeMs + forwardDelayMs),
    );
    for (const port of this.#enabled()) {
      wake = Math.min(
        wake,
        at(port.messageAgeFromMs, maxAgeMs),
        at(port.forwardDelayFromMs, forwardDelayMs),
        at(port.holdFromMs, HOLD_MS),
      );
    }
    return wake;
  }

  // ---- elements of procedure (§8.6)

  *#enabled(): Generator<StpPort> {
    for (const port of this.#ports.values()) if (port.state !== 'disabled') yield port;
  }

  #isDesignated(port: StpPort): boolean {
    return port.designatedBridge === this.#bridgeId && port.designatedPort === port.id;
  }

  #transmit(port: StpPort, bpdu: Bpdu): void {
    for (const [key, candidate] of this.#ports) {
      if (candidate === port) this.#events.send(key, encodeBpdu(bpdu));
    }
    port.txCount++;
  }

  #transmitConfig(port: StpPort): void {
    if (port.holdFromMs !== undefined) {
      port.configPending = true;
      return;
    }
    const root = this.#rootPort;
    const messageAgeMs =
      root === undefined
        ? 0
        : this.#nowMs - (root.messageAgeFromMs ?? this.#nowMs) + MESSAGE_AGE_INCREMENT_MS;
    if (messageAgeMs >= this.#times.maxAgeMs) return;
    const message: TreeMessage = {
      rootId: this.#designatedRoot,
      rootPathCost: this.#rootPathCost,
      bridgeId: this.#bridgeId,
      portId: port.id,
      messageAgeMs,
      ...this.#times,
      topologyChange: this.#topologyChange,
      topologyChangeAck: port.topologyChangeAck,
      role: 'unknown',
      proposal: false,
      agreement: false,
      learning: false,
      forwarding: false,
    };
    port.topologyChangeAck = false;
    port.configPending = false;
    this.#transmit(port, { type: 'config', message });
    port.holdFromMs = this.#nowMs;
  }

  #configBpduGeneration(): void {
    for (const port of this.#enabled()) if (this.#isDesignated(port)) this.#transmitConfig(port);
  }

  #transmitTcn(): void {
    if (this.#rootPort !== undefined) this.#transmit(this.#rootPort, { type: 'tcn' });
  }

  #configurationUpdate(): void {
    this.#rootSelection();
    for (const port of this.#enabled()) {
      if (this.#mayBeDesignated(port)) this.#becomeDesignated(port);
    }
  }

  #rootSelection(): void {
    let best: StpPort | undefined;
    for (const port of this.#enabled()) {
      if (this.#isDesignated(port) || port.designatedRoot >= this.#bridgeId) continue;
      if (best === undefined || isBetterRoot(port, best)) best = port;
    }
    this.#rootPort = best;
    this.#designatedRoot = best?.designatedRoot ?? this.#bridgeId;
    this.#rootPathCost = best ? best.designatedCost + best.settings.pathCost : 0;
  }

  /** §8.6.10. */
  #mayBeDesignated(port: StpPort): boolean {
    if (this.#isDesignated(port) || port.designatedRoot !== this.#designatedRoot) return true;
    if (this.#rootPathCost !== port.designatedCost) return this.#rootPathCost < port.designatedCost;
    if (this.#bridgeId !== port.designatedBridge) return this.#bridgeId < port.designatedBridge;
    return port.id <= port.designatedPort;
  }

  #becomeDesignated(port: StpPort): void {
    port.designatedRoot = this.#designatedRoot;
    port.designatedCost = this.#rootPathCost;
    port.designatedBridge = this.#bridgeId;
    port.designatedPort = port.id;
  }

  #portStateSelection(): void {
    for (const port of this.#enabled()) {
      if (port === this.#rootPort) {
        port.configPending = false;
        port.topologyChangeAck = false;
        this.#makeForwarding(port);
      } else if (this.#isDesignated(port)) {
        port.messageAgeFromMs = undefined;
        this.#makeForwarding(port);
      } else {
        port.configPending = false;
        port.topologyChangeAck = false;
        this.#makeBlocking(port);
      }
    }
  }

  #makeForwarding(port: StpPort): void {
    if (port.state !== 'blocking') return;
    port.state = 'listening';
    port.forwardDelayFromMs = this.#nowMs;
  }

  #makeBlocking(port: StpPort): void {
    if (port.state === 'blocking') return;
    const wasUsed = port.state === 'forwarding' || port.state === 'learning';
    port.state = 'blocking';
    port.forwardDelayFromMs = undefined;
    if (wasUsed) this.#topologyChangeDetection();
  }

  #topologyChangeDetection(): void {
    if (this.isRoot) {
      this.#topologyChange = true;
      this.#topologyChangeFromMs = this.#nowMs;
    } else if (!this.#topologyChangeDetected) {
      this.#transmitTcn();
      this.#tcnFromMs = this.#nowMs;
    }
    this.#events.flush(undefined);
    this.#topologyChangeDetected = true;
    this.#events.info(`${this.#name}: detected topology change.`);
  }

  // ---- operation (§8.7)

  #receivedConfig(port: StpPort, message: TreeMessage): void {
    const wasRoot = this.isRoot;
    if (!supersedes(message, port, this.#bridgeId)) {
      if (this.#isDesignated(port)) this.#transmitConfig(port);
      return;
    }
    // §9.3.4: a message older than it may be says nothing.
    if (message.messageAgeMs >= message.maxAgeMs) return;
    port.designatedRoot = message.rootId;
    port.designatedCost = message.rootPathCost;
    port.designatedBridge = message.bridgeId;
    port.designatedPort = message.portId;
    port.messageAgeFromMs = this.#nowMs - message.messageAgeMs;
    this.#configurationUpdate();
    this.#portStateSelection();
    if (!this.isRoot && wasRoot) {
      this.#helloFromMs = undefined;
      if (this.#topologyChangeDetected) {
        this.#topologyChangeFromMs = undefined;
        this.#transmitTcn();
        this.#tcnFromMs = this.#nowMs;
      }
    }
    if (port !== this.#rootPort) return;
    // Whatever a root may say: within the ranges of Table 8-3.
    this.#times = {
      maxAgeMs: clamp(message.maxAgeMs, 6000, 40_000),
      helloTimeMs: clamp(message.helloTimeMs, 1000, 10_000),
      forwardDelayMs: clamp(message.forwardDelayMs, 4000, 30_000),
    };
    this.#topologyChange = message.topologyChange;
    if (message.topologyChange) this.#events.flush(undefined);
    this.#configBpduGeneration();
    if (message.topologyChangeAck) {
      this.#topologyChangeDetected = false;
      this.#tcnFromMs = undefined;
    }
  }

  #receivedTcn(port: StpPort): void {
    if (!this.#isDesignated(port)) return;
    this.#topologyChangeDetection();
    port.topologyChangeAck = true;
    this.#transmitConfig(port);
  }

  #messageAgeExpiry(port: StpPort): void {
    const wasRoot = this.isRoot;
    this.#becomeDesignated(port);
    this.#configurationUpdate();
    this.#portStateSelection();
    if (this.isRoot && !wasRoot) this.#becomeRoot();
  }

  #forwardDelayExpiry(port: StpPort): void {
    if (port.state === 'listening') {
      port.state = 'learning';
      port.forwardDelayFromMs = this.#nowMs;
    } else if (port.state === 'learning') {
      port.state = 'forwarding';
      port.forwardDelayFromMs = undefined;
      for (const other of this.#enabled()) {
        if (!this.#isDesignated(other)) continue;
        this.#topologyChangeDetection();
        break;
      }
    }
  }

  #becomeRoot(): void {
    this.#times = this.#bridgeTimes;
    this.#topologyChangeDetection();
    this.#tcnFromMs = undefined;
    this.#configBpduGeneration();
    this.#helloFromMs = this.#nowMs;
  }

  #enable(port: StpPort): void {
    this.#becomeDesignated(port);
    port.state = 'blocking';
    port.topologyChangeAck = false;
    port.configPending = false;
    port.messageAgeFromMs = undefined;
    port.forwardDelayFromMs = undefined;
    port.holdFromMs = undefined;
    this.#portStateSelection();
  }

  #disable(port: StpPort): void {
    if (port.state === 'disabled') return;
    const wasRoot = this.isRoot;
    const wasUsed = port.state === 'forwarding' || port.state === 'learning';
    this.#becomeDesignated(port);
    port.state = 'disabled';
    port.topologyChangeAck = false;
    port.configPending = false;
    port.messageAgeFromMs = undefined;
    port.forwardDelayFromMs = undefined;
    this.#configurationUpdate();
    this.#portStateSelection();
    // §8.8.3 leaves this to whoever takes over; like most switches we tell at once that ways have changed.
    if (wasUsed) this.#topologyChangeDetection();
    if (this.isRoot && !wasRoot) this.#becomeRoot();
  }
}
