// The spanning tree protocol of one bridge: hands over what comes in, sends what is due, gives ports their states, and
// makes the bridge forget addresses when the topology changes.

import { bpduFrame, bpduOf } from '../../protocol/spanningTree/bpdu.ts';
import { Rstp } from '../../protocol/spanningTree/rstp.ts';
import type { RstpPortSettings, RstpSettings } from '../../protocol/spanningTree/rstpPort.ts';
import { Stp } from '../../protocol/spanningTree/stp.ts';
import type { StpPortSettings, StpSettings } from '../../protocol/spanningTree/stpPort.ts';
import type { TreePortStatus } from '../../protocol/spanningTree/types.ts';
import { OFPP_NONE } from '../../wire/openflow/types.ts';
import { parseMac } from '../../wire/rtnetlink.ts';
import type { SwitchBridge } from '../bridge.ts';
import { isVlanType } from '../flow.ts';
import type { BridgePort } from '../types.ts';
import { treeGate } from './gate.ts';

const ETH_HEADER_LENGTH = 14;
const VLAN_HEADER_LENGTH = 4;
/** The next moment at which something may have to be done is at least so far away. */
const WAKE_MIN_MS = 10;

/** Everything that is to be: the protocol with its settings, and the ports that take part. */
export type TreeConfig =
  | { protocol: 'STP'; settings: StpSettings; ports: ReadonlyMap<BridgePort, StpPortSettings> }
  | { protocol: 'RSTP'; settings: RstpSettings; ports: ReadonlyMap<BridgePort, RstpPortSettings> };

export interface TreeModules {
  bridge: SwitchBridge;
  /** The states of these ports are new: descriptions and the database follow. */
  onChange: (ports: readonly BridgePort[]) => void;
  log: TreeLog;
}

export interface TreeLog {
  info(text: string): void;
  warn(text: string): void;
  /** Of module ofproto_dpif. */
  state(text: string): void;
}

export class TreeHost {
  readonly #modules: TreeModules;
  #stp: Stp<BridgePort> | undefined;
  #rstp: Rstp<BridgePort> | undefined;
  #config: TreeConfig | undefined;
  /** Ports with a gate, and when they got it. */
  readonly #since = new Map<BridgePort, number>();
  #outbox: { port: BridgePort; bpdu: Uint8Array }[] = [];
  #timer: NodeJS.Timeout | undefined;
  #soon: NodeJS.Immediate | undefined;

  constructor(modules: TreeModules) {
    this.#modules = modules;
  }

  get name(): string {
    return this.#modules.bridge.name;
  }

  get stp(): Stp<BridgePort> | undefined {
    return this.#stp;
  }

  get rstp(): Rstp<BridgePort> | undefined {
    return this.#rstp;
  }

  #now(): number {
    return this.#modules.bridge.nowMs();
  }

  /** undefined: no spanning tree. */
  configure(config: TreeConfig | undefined): void {
    const { bridge } = this.#modules;
    if (config?.protocol !== this.#config?.protocol) this.#stop();
    const hadTree = bridge.tree !== undefined;
    this.#config = config;
    if (config === undefined) {
      if (hadTree) bridge.flowsChanged();
      return;
    }
    const { log } = this.#modules;
    const events = {
      send: (port: BridgePort, bpdu: Uint8Array) => this.#outbox.push({ port, bpdu }),
      flush: (port: BridgePort | undefined) => {
        if (port === undefined) this.#flushAll();
        else bridge.macs.flushLearned(port.bundle);
      },
      info: log.info,
      warn: log.warn,
    };
    if (config.protocol === 'STP') {
      this.#stp ??= new Stp(bridge.name, config.settings, events, this.#now());
      this.#stp.configure(config.settings, this.#now());
    } else {
      this.#rstp ??= new Rstp(bridge.name, config.settings, events, this.#now());
      this.#rstp.configure(config.settings);
    }
    for (const port of [...this.#since.keys()]) if (!config.ports.has(port)) this.forget(port);
    for (const port of config.ports.keys()) this.#setPort(port);
    bridge.tree = { receive: (port, packet) => this.#receive(port, packet) };
    if (!hadTree) bridge.flowsChanged();
    this.#settle();
  }

  #flushAll(): void {
    this.#modules.bridge.forgetLearned();
  }

  #setPort(port: BridgePort): void {
    const config = this.#config;
    if (config === undefined) return;
    const { linkUp } = port.netdev.status();
    if (config.protocol === 'STP') {
      const settings = config.ports.get(port);
      if (settings !== undefined) this.#stp?.setPort(port, settings, linkUp, this.#now());
    } else {
      const settings = config.ports.get(port);
      const up = linkUp && port.mayEnable;
      if (settings !== undefined) this.#rstp?.setPort(port, settings, up, this.#now());
    }
  }

  /** The port's link, or what its other protocols say of it, may be different. */
  portChanged(port: BridgePort): void {
    if (!this.#config?.ports.has(port as never)) return;
    this.#setPort(port);
    this.#settle();
  }

  /** The port goes, or takes part no more. */
  forget(port: BridgePort): void {
    this.#stp?.removePort(port, this.#now());
    this.#rstp?.removePort(port);
    this.#outbox = this.#outbox.filter((item) => item.port !== port);
    if (this.#since.has(port)) this.#applyState(port, undefined);
    this.#since.delete(port);
    this.#runSoon();
  }

  #receive(port: BridgePort, frame: Uint8Array): void {
    const type = (frame[12]! << 8) | frame[13]!;
    const header = ETH_HEADER_LENGTH + (isVlanType(type) ? VLAN_HEADER_LENGTH : 0);
    const bpdu = bpduOf(frame, header);
    this.#stp?.receive(port, bpdu, this.#now());
    this.#rstp?.receive(port, bpdu);
    // We are in the middle of a translation.
    this.#runSoon();
  }

  /** stp/tcn, rstp/tcn */
  detectTopologyChange(): void {
    this.#stp?.detectTopologyChange(this.#now());
    this.#rstp?.detectTopologyChange();
    this.#settle();
  }

  /** rstp-port-mcheck */
  check(port: BridgePort): void {
    this.#rstp?.check(port);
    this.#settle();
  }

  /** Seconds in the present state. */
  secondsInState(port: BridgePort): number {
    return Math.floor((this.#now() - (this.#since.get(port) ?? this.#now())) / 1000);
  }

  portStatus(port: BridgePort): (TreePortStatus & { uptimeS?: number }) | undefined {
    return this.#stp?.portStatus(port) ?? this.#rstp?.portStatus(port, this.#now());
  }

  /** The number by which the protocol knows the port. */
  numberOf(port: BridgePort): number | undefined {
    return this.#config?.ports.get(port)?.number;
  }

  #runSoon(): void {
    this.#soon ??= setImmediate(() => {
      this.#soon = undefined;
      this.#settle();
    });
  }

  /** Time has passed, or something has happened. */
  #settle(): void {
    const { bridge, onChange } = this.#modules;
    this.#stp?.tick(this.#now());
    this.#rstp?.tick(this.#now());
    const changed: BridgePort[] = [];
    for (const port of this.#config?.ports.keys() ?? []) {
      const state = this.#stp?.state(port) ?? this.#rstp?.state(port);
      if (this.#applyState(port, state)) changed.push(port);
    }
    if (changed.length > 0) {
      bridge.flowsChanged();
      onChange(changed);
    }
    // Last: a port that may not pass BPDUs yet may do it now.
    for (const { port, bpdu } of this.#outbox.splice(0)) this.#send(port, bpdu);
    this.#arm();
  }

  /** True: the port is in another state now. */
  #applyState(port: BridgePort, state: string | undefined): boolean {
    const { bridge, log } = this.#modules;
    const next = state === undefined ? undefined : treeGate(state);
    const old = port.tree;
    if (old === next) return false;
    const protocol = (next ?? old)!.protocol;
    const nameOf = (gate: typeof next): string =>
      gate?.state ?? (protocol === 'STP' ? 'disabled' : 'Disabled');
    port.tree = next;
    this.#since.set(port, this.#now());
    if (nameOf(old) === nameOf(next)) return false;
    log.state(
      `port ${port.name}: ${protocol} state changed from ${nameOf(old)} to ${nameOf(next)}`,
    );
    if ((old?.learns ?? false) !== (next?.learns ?? false)) {
      if (protocol === 'STP') this.#flushAll();
      else bridge.macs.flushLearned(port.bundle);
    }
    return true;
  }

  #send(port: BridgePort, bpdu: Uint8Array): void {
    const { bridge, log } = this.#modules;
    const mac = parseMac(port.netdev.status().mac ?? '');
    if (mac === undefined || mac.every((byte) => byte === 0)) {
      log.warn(`${bridge.name}: cannot send BPDU on port ${port.ofport} with unknown MAC`);
      return;
    }
    const action = { type: 'output', port: port.ofport, maxLen: 0 } as const;
    bridge.packetOut(OFPP_NONE, undefined, [action], bpduFrame(mac, bpdu));
  }

  #arm(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const wakeMs = Math.min(this.#stp?.wakeMs() ?? Infinity, this.#rstp?.wakeMs() ?? Infinity);
    if (wakeMs === Infinity) return;
    const delayMs = Math.max(WAKE_MIN_MS, Math.ceil(wakeMs - this.#now()));
    this.#timer = setTimeout(() => this.#settle(), delayMs);
    this.#timer.unref();
  }

  #stop(): void {
    clearTimeout(this.#timer);
    clearImmediate(this.#soon);
    this.#timer = undefined;
    this.#soon = undefined;
    this.#outbox = [];
    this.#stp = undefined;
    this.#rstp = undefined;
    this.#modules.bridge.tree = undefined;
    const ports = [...this.#since.keys()];
    const changed = ports.filter((port) => this.#applyState(port, undefined));
    this.#since.clear();
    if (changed.length > 0) this.#modules.onChange(changed);
  }

  close(): void {
    this.configure(undefined);
  }
}
