// What the ports and bundles of one bridge speak themselves: BFD and CFM of interfaces, LACP and bonding of bundles.
// Together they decide whether a port may carry traffic.

import type { Connmgr } from '../control/openflow/connmgr.ts';
import { bfdConfigFrom } from '../protocol/bfdConfig.ts';
import { cfmConfigFrom } from '../protocol/cfm.ts';
import type { LacpMemberCounters } from '../protocol/lacp.ts';
import type { Bonds } from '../switch/bond/bonds.ts';
import type { BundleHost } from '../switch/bond/bundleHost.ts';
import { bondSettings, lacpMemberSettings, lacpSettings } from '../switch/bond/settings.ts';
import type { SwitchBridge } from '../switch/bridge.ts';
import type { Monitors } from '../switch/monitor/monitors.ts';
import type { PortMonitor } from '../switch/monitor/portMonitor.ts';
import { combineProtocols } from '../switch/protocolPort.ts';
import type { TreeHost } from '../switch/spanningTree/treeHost.ts';
import type { Trees } from '../switch/spanningTree/trees.ts';
import type { BridgePort, Bundle } from '../switch/types.ts';
import { parseMac } from '../wire/rtnetlink.ts';
import type { InterfaceIntent, PortIntent } from './intent.ts';

/** What all bridges share. */
export interface ProtocolModules {
  monitors: Monitors;
  bonds: Bonds;
  trees: Trees;
}

export interface PortProtocolsOptions extends ProtocolModules {
  bridge: SwitchBridge;
  connmgr: Connmgr;
  /** Something changed that the database shows. */
  onChange: () => void;
  warn: (text: string) => void;
}

export class PortProtocols {
  readonly #options: PortProtocolsOptions;
  readonly #monitors = new Map<BridgePort, PortMonitor>();
  /** By name of the Port row. */
  readonly #hosts = new Map<string, BundleHost>();
  readonly tree: TreeHost;

  constructor(options: PortProtocolsOptions) {
    this.#options = options;
    const { bridge, trees } = options;
    this.tree = trees.add({ bridge, onChange: (ports) => this.#refresh(ports) });
  }

  monitorOf(port: BridgePort | undefined): PortMonitor | undefined {
    return port && this.#monitors.get(port);
  }

  /** Interface.lacp_current. */
  lacpCurrent(port: BridgePort | undefined): boolean | undefined {
    return port && this.#hosts.get(port.bundle.name)?.lacpCurrent(port);
  }

  /** For sFlow; undefined without LACP. */
  lacpCounters(port: BridgePort): LacpMemberCounters | undefined {
    return this.#hosts.get(port.bundle.name)?.lacp?.counters(port);
  }

  /** Address of the member of a bond that is active; undefined: no bond, or none yet. */
  activeMac(portName: string): string | undefined {
    return this.#hosts.get(portName)?.bond?.activeMac || undefined;
  }

  /** BFD and CFM as the interface's row says. */
  applyInterface(port: BridgePort, iface: InterfaceIntent): void {
    const bfd = bfdConfigFrom(iface.bfd);
    const cfm = cfmConfigFrom(iface.cfmMpid, iface.otherConfig, iface.options);
    let monitor = this.#monitors.get(port);
    if (bfd === undefined && cfm === undefined) {
      if (monitor === undefined) return;
      this.#options.monitors.remove(monitor);
      this.#monitors.delete(port);
      this.#listen(port);
      this.portChanged(port);
      return;
    }
    if (monitor === undefined) {
      const onChange = (): void => this.portChanged(port);
      monitor = this.#options.monitors.add({ bridge: this.#options.bridge, port, onChange });
      this.#monitors.set(port, monitor);
      this.#listen(port);
    }
    monitor.configure(bfd, cfm);
  }

  /** Bonding and LACP of a bundle, whose interfaces have been opened. `mac`: the bridge's. */
  applyBundle(intent: PortIntent, bundle: Bundle, mac: string): void {
    const { bridge, bonds, warn } = this.#options;
    const bridgeMac = parseMac(mac) ?? new Uint8Array(6);
    const lacp = lacpSettings(intent.bond, bridgeMac, bundle.ports.length, warn);
    const bond = bundle.ports.length > 1 ? bondSettings(intent.bond, warn) : undefined;
    let host = this.#hosts.get(intent.name);
    if (lacp === undefined && bond === undefined) {
      if (host !== undefined) this.dropBundle(intent.name, bundle);
      return;
    }
    if (host === undefined) {
      host = bonds.add({
        bridge,
        bundle,
        isAlive: (port) => this.#monitors.get(port)?.alive ?? true,
        onChange: () => this.#refresh(bundle.ports),
      });
      this.#hosts.set(intent.name, host);
    }
    const options = new Map(intent.interfaces.map((iface) => [iface.name, iface.otherConfig]));
    const members = new Map(
      bundle.ports.map((port) => {
        const otherConfig = options.get(port.name) ?? {};
        return [port, lacpMemberSettings(port.name, port.ofport, otherConfig)];
      }),
    );
    const hadLacp = host.lacp !== undefined;
    host.configure({ bond, lacp, members });
    for (const port of bundle.ports) {
      if (hadLacp !== (lacp !== undefined) || port.protocols === undefined) this.#listen(port);
    }
    this.#refresh(bundle.ports);
  }

  dropBundle(name: string, bundle: Bundle): void {
    const host = this.#hosts.get(name);
    if (host === undefined) return;
    this.#options.bonds.remove(host);
    this.#hosts.delete(name);
    for (const port of bundle.ports) {
      this.#listen(port);
      this.portChanged(port);
    }
  }

  /** The port's device or one of its protocols has something new to say. */
  portChanged(port: BridgePort): void {
    const host = this.#hosts.get(port.bundle.name);
    if (host !== undefined) host.run();
    else port.mayEnable = this.#monitors.get(port)?.alive ?? true;
    this.#refresh([port]);
    this.tree.portChanged(port);
  }

  /** The port goes. */
  forget(port: BridgePort): void {
    const monitor = this.#monitors.get(port);
    if (monitor !== undefined) this.#options.monitors.remove(monitor);
    this.#monitors.delete(port);
    this.#hosts.get(port.bundle.name)?.forget(port);
    this.tree.forget(port);
    port.protocols = undefined;
  }

  #refresh(ports: readonly BridgePort[]): void {
    const { bridge, connmgr, onChange } = this.#options;
    let changed = false;
    for (const port of ports) if (bridge.refreshPort(port)) changed = true;
    if (changed) connmgr.portsChanged();
    onChange();
  }

  /** Who takes packets of the port's own. */
  #listen(port: BridgePort): void {
    const monitor = this.#monitors.get(port);
    const lacp = this.#hosts.get(port.bundle.name)?.protocolOf(port);
    port.protocols = combineProtocols([monitor, lacp].filter((part) => part !== undefined));
    this.#options.bridge.flowsChanged();
  }

  close(): void {
    this.#options.trees.remove(this.tree);
    for (const monitor of this.#monitors.values()) this.#options.monitors.remove(monitor);
    for (const host of this.#hosts.values()) this.#options.bonds.remove(host);
    this.#monitors.clear();
    this.#hosts.clear();
  }
}
