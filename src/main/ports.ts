// The interfaces of one bridge: devices opened, changed and closed until they are as the intent says. An interface
// that cannot be opened stays known with its error, and is tried again when devices appear or the intent changes.

import type { Connmgr } from '../control/openflow/connmgr.ts';
import type { WantedRow } from '../control/ovsdb/columns.ts';
import { TunnelPort } from '../port/tunnel.ts';
import { TUNNEL_KINDS } from '../port/tunnelConfig.ts';
import type { Netdev, NetdevConfig, NetdevContext } from '../port/types.ts';
import { NetdevError } from '../port/types.ts';
import type { SwitchBridge } from '../switch/bridge.ts';
import type { BridgePort, Bundle } from '../switch/types.ts';
import { OFPP_LOCAL } from '../wire/openflow/types.ts';
import { bridgeMac, macToDatapathId } from './bridgeMac.ts';
import { effectiveType, openDevice } from './devices.ts';
import type { Dummies } from './dummies.ts';
import { standIn } from './handover/standIn.ts';
import type { BridgeIntent, InterfaceIntent, PortIntent } from './intent.ts';
import { PortProtocols, type ProtocolModules } from './portProtocols.ts';
import { PortQos } from './qos.ts';
import { treeConfig, treePortColumns, treePortStatistics } from './spanningTree.ts';

const DEFAULT_MTU = 1500;
const INTERNAL_TYPES: readonly string[] = ['internal', 'dummy-internal'];

/** Names of the datapaths' and tunnels' own devices. */
const isReservedName = (name: string): boolean =>
  /^ovs-(netdev|system|dummy)$|^(genev|gre|ip6gre|lisp|stt|vxlan|gtpu|bareudp|srv6|erspan|ip6erspan)_sys/.test(
    name,
  );

/** Number of a datapath port that nobody has: no device is behind it. */
function rehearsalNumber({ datapath }: SwitchBridge): number {
  let number = 1;
  while (datapath.ports.has(number)) number++;
  return number;
}

export interface InterfaceUnit {
  uuid: string;
  name: string;
  type: string;
  /** Port row that it belongs to. */
  portName: string;
  netdev: Netdev | undefined;
  port: BridgePort | undefined;
  error: string | undefined;
}

export interface BridgePortsOptions {
  bridge: SwitchBridge;
  connmgr: Connmgr;
  context: NetdevContext;
  protocols: ProtocolModules;
  /** With --enable-dummy. */
  dummies?: Dummies | undefined;
  /** Log of module bridge. */
  log: NetdevContext['log'];
  /** A device's status changed. */
  onChange: () => void;
}

const bundleConfig = (port: PortIntent) => ({
  vlanMode: port.vlanMode,
  tag: port.tag,
  trunks: port.trunks && new Set(port.trunks),
  cvlans: port.cvlans && new Set(port.cvlans),
  protected: port.protected,
  priorityTags: port.priorityTags,
  qinqEthertype: port.qinqEthertype,
});

export class BridgePorts {
  readonly units = new Map<string, InterfaceUnit>();
  readonly #options: BridgePortsOptions;
  readonly #bundles = new Map<string, Bundle>();
  /** Internal ports whose MTU follows the others'. */
  #follow: NetdevConfig[] = [];

  readonly protocols: PortProtocols;
  readonly qos: PortQos;
  /** Row uuid of ports, by name. */
  #portRows = new Map<string, string>();

  constructor(options: BridgePortsOptions) {
    this.#options = options;
    const { bridge, connmgr, protocols, onChange, log } = options;
    const warn = (text: string): void => log.warn(text);
    const records = bridge.datapath.meters;
    this.qos = new PortQos({ bridge, records, warn });
    this.protocols = new PortProtocols({ ...protocols, bridge, connmgr, onChange, warn });
  }

  #announcedId: bigint | undefined;
  /** Address of the bridge as its ports and settings make it. */
  mac = '';

  /** Makes the bridge's ports what the intent says. Never rejects for a device that fails: see unit.error. */
  async apply(intent: BridgeIntent): Promise<void> {
    const wanted = new Map<string, { port: PortIntent; iface: InterfaceIntent }>();
    for (const port of intent.ports) {
      for (const iface of port.interfaces) wanted.set(iface.name, { port, iface });
    }
    for (const unit of [...this.units.values()]) {
      const want = wanted.get(unit.name);
      const type = want && this.#type(intent, want.iface);
      if (!want || type !== unit.type || want.port.name !== unit.portName) await this.#remove(unit);
    }
    await this.#freeRequested(wanted);
    this.#applyBundles(intent);
    // Numbers that were asked for are given first, so that nobody else takes them.
    const others = [...wanted.values()].filter(({ iface }) => iface.name !== intent.name);
    const order = others.sort(
      (a, b) =>
        Number(b.iface.ofportRequest !== undefined) - Number(a.iface.ofportRequest !== undefined),
    );
    for (const { port, iface } of order) await this.#applyInterface(intent, port, iface);
    this.#chooseMac(intent);
    // The bridge's own interface comes last: its address depends on the others.
    const local = wanted.get(intent.name);
    if (local) await this.#applyInterface(intent, local.port, local.iface);
    this.#follow = [...wanted.values()]
      .filter(({ iface }) => iface.mtuRequest === undefined)
      .map(({ iface }) => this.#config(intent, iface))
      .filter(({ type }) => INTERNAL_TYPES.includes(type));
    this.#applyMtu();
    this.#dropEmptyBundles(intent);
    for (const { port, iface } of wanted.values()) {
      const unit = this.units.get(iface.name);
      if (unit?.port) await this.qos.apply(unit.port, unit.type, port.qos, iface.policing);
    }
    this.#applyBonds(intent);
    this.#applyTree(intent);
    this.#applyRelays(wanted);
    this.#options.connmgr.portsChanged();
    this.#announceId();
  }

  /**
   * Ports without devices, for the time until the function is called that is returned: translation can be rehearsed.
   * For a bridge that has no ports yet. Tunnels are left out.
   */
  rehearse(intent: BridgeIntent): () => void {
    const { bridge } = this.#options;
    this.#applyBundles(intent);
    const added: BridgePort[] = [];
    for (const { name: portName, interfaces } of intent.ports) {
      for (const { name, type, options, ofport } of interfaces) {
        if (type in TUNNEL_KINDS) continue;
        const isPatch = type === 'patch';
        const number = isPatch ? -1 : rehearsalNumber(bridge);
        added.push(
          bridge.addPort({
            netdev: standIn(name, type, number),
            name,
            ofport,
            peer: isPatch ? options.peer : undefined,
            bundle: this.#bundles.get(portName)!,
          }),
        );
      }
    }
    return () => {
      for (const port of added) bridge.removePort(port);
    };
  }

  /**
   * Closes the interfaces that want another number than they have, and those that hold such a number without having
   * asked for it: all are opened again. A number that two ask for stays with whom it is.
   */
  async #freeRequested(wanted: ReadonlyMap<string, { iface: InterfaceIntent }>): Promise<void> {
    const request = (unit: InterfaceUnit): number | undefined =>
      wanted.get(unit.name)?.iface.ofportRequest;
    for (const unit of [...this.units.values()]) {
      const ofport = request(unit);
      if (this.units.get(unit.name) !== unit) continue; // it went as a holder
      if (ofport === undefined || unit.port === undefined) continue;
      if (unit.port.ofport === ofport || unit.port.ofport === OFPP_LOCAL) continue;
      const holder = [...this.units.values()].find((other) => other.port?.ofport === ofport);
      if (holder !== undefined && request(holder) === ofport) continue;
      if (holder !== undefined) await this.#remove(holder);
      await this.#remove(unit);
    }
  }

  #announceId(): void {
    const { bridge, log } = this.#options;
    if (bridge.datapathId === this.#announcedId) return;
    this.#announcedId = bridge.datapathId;
    const hex = bridge.datapathId.toString(16).padStart(16, '0');
    log.info(`bridge ${bridge.name}: using datapath ID ${hex}`);
  }

  /**
   * Internal ports without mtu_request take the smallest MTU of the bridge's other ports, so that the host does not
   * send what the others drop (ovs-vswitchd.conf.db(5), Interface.mtu_request).
   */
  #applyMtu(): void {
    const follows = new Set(this.#follow.map(({ name }) => name));
    const mtus = [...this.units.values()].flatMap(({ name, type, netdev }) =>
      type === 'patch' || follows.has(name) ? [] : (netdev?.status().mtu ?? []),
    );
    const mtuRequest = mtus.length > 0 ? Math.min(...mtus) : DEFAULT_MTU;
    for (const config of this.#follow) {
      const netdev = this.units.get(config.name)?.netdev;
      if (netdev && netdev.status().mtu !== mtuRequest) {
        netdev.reconfigure({ ...config, mtuRequest });
      }
    }
  }

  /**
   * Interface.other_config:relay names another interface of the bridge, to which all packets go that come in: no flow
   * tables, no services. Both directions have to be set.
   */
  #applyRelays(wanted: ReadonlyMap<string, { iface: InterfaceIntent }>): void {
    for (const { name, netdev } of this.units.values()) {
      if (!netdev || netdev.port < 0) continue;
      const peer = wanted.get(name)?.iface.otherConfig.relay ?? '';
      const relay = this.units.get(peer)?.netdev?.port ?? -1;
      this.#options.context.engine.setPort(netdev.port, { relay });
    }
  }

  #chooseMac(intent: BridgeIntent): void {
    const { bridge } = this.#options;
    const macs = [...this.units.values()]
      .filter((unit) => unit.name !== intent.name)
      .map((unit) => unit.netdev?.status().mac);
    this.mac = bridgeMac(intent.uuid, intent.hwaddr, macs);
    bridge.datapathId = intent.datapathId ?? macToDatapathId(this.mac);
  }

  /** Whether some interface waits for its device. */
  get incomplete(): boolean {
    return [...this.units.values()].some((unit) => unit.netdev === undefined);
  }

  #applyBundles(intent: BridgeIntent): void {
    const { bridge } = this.#options;
    for (const port of intent.ports) {
      const bundle = this.#bundles.get(port.name);
      if (bundle) bridge.setBundle(bundle, bundleConfig(port));
      else this.#bundles.set(port.name, bridge.addBundle(port.name, bundleConfig(port)));
    }
  }

  #dropEmptyBundles(intent: BridgeIntent): void {
    const names = new Set(intent.ports.map((port) => port.name));
    for (const [name, bundle] of this.#bundles) {
      if (names.has(name)) continue;
      this.protocols.dropBundle(name, bundle);
      this.#options.bridge.removeBundle(bundle);
      this.#bundles.delete(name);
    }
  }

  #applyBonds(intent: BridgeIntent): void {
    this.#portRows = new Map(intent.ports.map(({ name, uuid }) => [name, uuid]));
    for (const port of intent.ports) {
      const bundle = this.#bundles.get(port.name);
      if (bundle) this.protocols.applyBundle(port, bundle, this.mac);
    }
  }

  #applyTree(intent: BridgeIntent): void {
    const { log } = this.#options;
    // Ports whose outputs are mirrors' carry nothing else.
    const reserved = new Set(intent.mirrors.map(({ outputPort }) => outputPort));
    const portOf = ({ name, interfaces: [iface] }: PortIntent): BridgePort | undefined => {
      const unit = iface && this.units.get(iface.name);
      return unit?.type === 'internal' || reserved.has(name) ? undefined : unit?.port;
    };
    const error = (text: string): void => log.err(text);
    const { tree } = this.protocols;
    const numberOf = (port: BridgePort): number | undefined => tree.numberOf(port);
    tree.configure(treeConfig({ intent, mac: this.mac, portOf, numberOf, error }));
    for (const port of intent.ports) {
      const bridgePort = portOf(port);
      if (port.bond.otherConfig['rstp-port-mcheck'] !== 'true' || !bridgePort) continue;
      tree.check(bridgePort);
    }
  }

  /** Port.bond_active_slave of the bonds and the spanning tree's columns, by row. */
  *portColumns(): Generator<[uuid: string, row: WantedRow<'Port'>]> {
    for (const [name, uuid] of this.#portRows) {
      const mac = this.protocols.activeMac(name);
      yield [
        uuid,
        {
          ...(mac === undefined ? {} : { bond_active_slave: mac }),
          ...treePortColumns(this.protocols.tree, this.units.get(name)?.port),
        },
      ];
    }
  }

  *portStatistics(): Generator<[uuid: string, row: WantedRow<'Port'>]> {
    for (const [name, uuid] of this.#portRows) {
      yield [uuid, treePortStatistics(this.protocols.tree, this.units.get(name)?.port)];
    }
  }

  #type(intent: BridgeIntent, iface: InterfaceIntent): string {
    const internal = this.#options.dummies?.internalType(intent.datapathType);
    return effectiveType(iface.type, iface.name === intent.name, internal);
  }

  #config(intent: BridgeIntent, iface: InterfaceIntent): NetdevConfig {
    const local = iface.name === intent.name;
    const config: NetdevConfig = {
      name: iface.name,
      type: this.#type(intent, iface),
      options: iface.options,
      otherConfig: iface.otherConfig,
    };
    if (iface.mtuRequest !== undefined) config.mtuRequest = iface.mtuRequest;
    const mac = iface.mac ?? (local ? this.mac : undefined);
    if (mac !== undefined) config.mac = mac;
    if (iface.attachedMac !== undefined) config.attachedMac = iface.attachedMac;
    return config;
  }

  async #applyInterface(
    intent: BridgeIntent,
    port: PortIntent,
    iface: InterfaceIntent,
  ): Promise<void> {
    const config = this.#config(intent, iface);
    let unit = this.units.get(iface.name);
    if (unit?.netdev) {
      unit.uuid = iface.uuid;
      if (await this.#reconfigure(unit, config, iface)) {
        this.protocols.applyInterface(unit.port!, iface);
        return;
      }
      await this.#remove(unit);
      unit = undefined;
    }
    unit ??= {
      uuid: iface.uuid,
      name: iface.name,
      type: config.type,
      portName: port.name,
      netdev: undefined,
      port: undefined,
      error: undefined,
    };
    unit.uuid = iface.uuid;
    this.units.set(unit.name, unit);
    await this.#open(unit, config, iface);
    if (unit.port) this.protocols.applyInterface(unit.port, iface);
  }

  /** True if the open device could take the new settings. */
  async #reconfigure(
    unit: InterfaceUnit,
    config: NetdevConfig,
    iface: InterfaceIntent,
  ): Promise<boolean> {
    const { bridge } = this.#options;
    const port = unit.port!;
    const wanted = iface.ofportRequest;
    // A number that another port has cannot be had: the port keeps its own, as with the real daemon.
    const renumber = wanted !== undefined && wanted !== port.ofport && port.ofport !== OFPP_LOCAL;
    if (renumber && !bridge.ports.has(wanted)) return false;
    try {
      if (!unit.netdev!.reconfigure(config)) return false;
      unit.error = undefined;
    } catch (error) {
      if (!(error instanceof NetdevError)) throw error;
      unit.error = error.message;
      return false;
    }
    if (unit.type === 'patch') bridge.setPeer(port, config.options.peer);
    if (unit.netdev instanceof TunnelPort) bridge.tunnelChanged();
    return true;
  }

  async #open(unit: InterfaceUnit, config: NetdevConfig, iface: InterfaceIntent): Promise<void> {
    const { bridge, context } = this.#options;
    if (isReservedName(iface.name)) {
      this.#options.log.warn(`could not create interface ${iface.name}, name is reserved`);
      unit.error = undefined;
      return;
    }
    let netdev: Netdev;
    try {
      netdev = await openDevice(config, context, this.#options.dummies);
    } catch (error) {
      if (!(error instanceof NetdevError)) throw error;
      if (unit.error !== error.message) context.log.warn(error.message);
      unit.error = error.message;
      return;
    }
    const owner = netdev instanceof TunnelPort && bridge.datapath.tunnels.ownerOf(netdev);
    if (owner) {
      await netdev.close();
      const error = `could not add network device ${iface.name} to ofproto (File exists)`;
      if (unit.error !== error) {
        const text = `attempting to add tunnel port with same config as port '${owner.name}'`;
        this.#options.log.warn(`${iface.name}: ${text}`);
      }
      unit.error = error;
      return;
    }
    try {
      unit.port = bridge.addPort({
        netdev,
        name: iface.name,
        ofport: iface.ofportRequest ?? iface.ofport,
        peer: unit.type === 'patch' ? config.options.peer : undefined,
        bundle: this.#bundles.get(unit.portName)!,
      });
    } catch (error) {
      await netdev.close();
      if (!(error instanceof RangeError)) throw error;
      unit.error = `${iface.name}: ${error.message}`;
      return;
    }
    unit.netdev = netdev;
    if (netdev instanceof TunnelPort) netdev.egress = () => bridge.egressOf(netdev.tunnel);
    unit.error = undefined;
    this.#options.log.info(
      `bridge ${bridge.name}: added interface ${unit.name} on port ${unit.port.ofport & 0xffff}`,
    );
    netdev.onChange = () => {
      if (unit.port) this.protocols.portChanged(unit.port);
      if (!INTERNAL_TYPES.includes(unit.type)) this.#applyMtu();
      this.#options.onChange();
    };
  }

  async #remove(unit: InterfaceUnit, keep = false): Promise<void> {
    const { bridge } = this.#options;
    this.units.delete(unit.name);
    const { netdev, port } = unit;
    if (port && keep) this.qos.release(port);
    else if (port) await this.qos.remove(port);
    if (netdev) netdev.onChange = undefined;
    if (port) {
      this.protocols.forget(port);
      bridge.removePort(port);
      this.#options.log.info(
        `bridge ${bridge.name}: deleted interface ${unit.name} on port ${port.ofport & 0xffff}`,
      );
    }
    await netdev?.close(keep);
  }

  /**
   * Takes an interface out of the datapath (dpctl/del-if); the next time that the database's wishes are looked at it comes
   * back.
   */
  detach(unit: InterfaceUnit): Promise<void> {
    return this.#remove(unit);
  }

  /** The devices have been handed over: their ports go, without touching them. */
  forget(): void {
    this.protocols.close();
    for (const { port } of this.units.values()) {
      if (port === undefined) continue;
      this.qos.release(port);
      this.#options.bridge.removePort(port);
    }
    this.units.clear();
    for (const bundle of this.#bundles.values()) this.#options.bridge.removeBundle(bundle);
    this.#bundles.clear();
  }

  /** Closes all; `keep`: kernel devices of ours stay, as after the real daemon's exit. */
  async close(keep: boolean): Promise<void> {
    this.protocols.close();
    for (const unit of [...this.units.values()]) await this.#remove(unit, keep);
    for (const bundle of this.#bundles.values()) this.#options.bridge.removeBundle(bundle);
    this.#bundles.clear();
  }
}
