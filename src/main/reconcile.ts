// Intent against reality: makes the bridges, ports, controllers and settings what the operator wants, and says what
// has become of it in the words of the database's columns.

import { Connmgr } from '../control/openflow/connmgr.ts';
import type { Log } from '../control/openflow/vconn.ts';
import { versionsFromNames } from '../control/openflow/versions.ts';
import {
  bridgeIdentity,
  interfaceFailed,
  interfaceOpened,
  interfaceStatus,
  statistics,
  type Wanted,
  type WantedRow,
} from '../control/ovsdb/columns.ts';
import type { DebugLog } from '../observe/vlog.ts';
import type { Bequest, NetdevContext } from '../port/types.ts';
import { SwitchBridge } from '../switch/bridge.ts';
import { checkActions, checkBucketActions } from '../switch/checkActions.ts';
import { DEFAULT_PREFIXES } from '../switch/classifier.ts';
import type { Datapath } from '../switch/datapath.ts';
import { restoreMegaflows, type SavedMegaflows } from '../switch/successor.ts';
import type { Rule } from '../switch/types.ts';
import type { Dummies } from './dummies.ts';
import { BridgeExporters, type SharedExports } from './exporters.ts';
import { restoreBridge, type SavedBridge } from './handover/savedBridge.ts';
import type { BridgeIntent, SwitchIntent } from './intent.ts';
import { applyMirrors, mirrorColumns } from './mirrors.ts';
import { monitorColumns } from './monitorColumns.ts';
import type { ProtocolModules } from './portProtocols.ts';
import { BridgePorts } from './ports.ts';
import { applySettings, type DataPlaneSettings, parseAffinity, settingsFrom } from './settings.ts';
import { snoopingSettings } from './snooping.ts';
import { treeBridgeColumns } from './spanningTree.ts';

const REHEARSAL_TRANSLATIONS = 5000;

/** other_config:in-band-queue; negative: none. */
function inBandQueue(config: Readonly<Record<string, string>>): number | undefined {
  const queue = Number.parseInt(config['in-band-queue'] ?? '', 10);
  return queue >= 0 ? queue : undefined;
}

export interface BridgeUnit {
  uuid: string;
  bridge: SwitchBridge;
  connmgr: Connmgr;
  ports: BridgePorts;
  /** Row uuid by target. */
  controllers: Map<string, string>;
  /** Flow_Table.prefixes in force, by table; absent = default. */
  prefixes: Map<number, readonly string[]>;
  exporters: BridgeExporters;
  /** Rows of Bridge.mirrors. */
  mirrors: readonly string[];
}

export interface ReconcilerOptions {
  datapath: Datapath;
  runDir: string;
  context: NetdevContext;
  protocols: ProtocolModules;
  /** With --enable-dummy. */
  dummies?: Dummies | undefined;
  /** Of bridges that can be made; the empty one can. */
  datapathTypes: readonly string[];
  /** Log of module bridge. */
  log: NetdevContext['log'];
  /** Log of the OpenFlow front-end. */
  connmgrLog: Log;
  /** Log of its connections. */
  rconnLog: Log;
  /** Log of how it tells of flows. */
  flowLog: Log;
  /** Log of all that is said over its connections. */
  messageLog: DebugLog;
  /** Some status changed: soon write statusColumns(). */
  onStatus: () => void;
}

export class Reconciler {
  readonly bridges = new Map<string, BridgeUnit>();
  /** While flows are restored, packets that match no megaflow wait for nothing: they are dropped and counted. */
  restoring = false;
  readonly #options: ReconcilerOptions;
  #settings: DataPlaneSettings | undefined;
  /** Bridges with a datapath type that does not exist. */
  #refused = new Set<string>();
  readonly #exporters: SharedExports = { ipfixExporters: 0, globalCounters: undefined };

  constructor(options: ReconcilerOptions) {
    this.#options = options;
  }

  /**
   * Makes it so; resolves when every worker has seen it. Faults of single devices are in outcomeColumns().
   * `portsReady` is called when all devices are there, before controllers.
   */
  async apply(intent: SwitchIntent, portsReady?: () => Promise<void>): Promise<void> {
    this.restoring = intent.restoring;
    const { datapath, context } = this.#options;
    const settings = settingsFrom(intent.otherConfig);
    await applySettings(datapath.engine, datapath, this.#settings, settings);
    this.#settings = settings;
    context.vhostFeatures = intent.otherConfig['vhost-features'];
    const sockDir = intent.otherConfig['vhost-sock-dir'];
    // As with the real daemon the directory lies inside the run directory, and nowhere else.
    const inside = sockDir !== undefined && !sockDir.split('/').includes('..');
    context.vhostSockDir = inside ? `${this.#options.runDir}/${sockDir}` : this.#options.runDir;
    context.vhostSockAccess = {
      owner: intent.otherConfig['vhost-sock-owner'],
      perm: intent.otherConfig['vhost-sock-perm'],
    };

    const bridges = this.#served(intent.bridges);
    const wanted = new Map(bridges.map((b) => [b.name, b]));
    for (const [name, unit] of [...this.bridges]) {
      if (!wanted.has(name)) await this.#removeBridge(name, unit, false);
    }
    // Ports that move between bridges are released before they are taken.
    const current = bridges.filter((b) => this.bridges.has(b.name));
    const order = [...current, ...bridges.filter((b) => !current.includes(b))];
    for (const bridge of order) await this.#applyBridge(bridge, settings);
    await portsReady?.();
    for (const bridge of order) await this.#applyControllers(bridge, intent);
    for (const unit of this.bridges.values()) await unit.bridge.settled();
    await datapath.engine.quiesce();
  }

  /** Those whose datapath type exists. The others are complained of once. */
  #served(bridges: readonly BridgeIntent[]): BridgeIntent[] {
    const { datapathTypes, log } = this.#options;
    const before = this.#refused;
    this.#refused = new Set();
    return bridges.filter(({ name, datapathType }) => {
      if (datapathType === '' || datapathTypes.includes(datapathType)) return true;
      const complaint = `${name} ${datapathType}`;
      this.#refused.add(complaint);
      if (!before.has(complaint)) {
        log.warn(`could not create datapath ${name} of unknown type ${datapathType}`);
        log.warn(`failed to create bridge ${name}: Address family not supported by protocol`);
      }
      return false;
    });
  }

  /** Bridges with the OpenFlow state of a predecessor, without ports: what can be done before the devices come. */
  async prepare(
    intent: SwitchIntent,
    saved: readonly SavedBridge[],
  ): Promise<Map<string, (Rule | undefined)[]>> {
    const { datapath, log } = this.#options;
    const settings = settingsFrom(intent.otherConfig);
    await applySettings(datapath.engine, datapath, this.#settings, settings);
    this.#settings = settings;
    const restored = new Map<string, (Rule | undefined)[]>();
    for (const bridge of intent.bridges) {
      const state = saved.find(({ name }) => name === bridge.name);
      if (state === undefined) continue;
      const unit = this.bridges.get(bridge.name) ?? this.#addBridge(bridge);
      this.#applyPrefixes(unit, bridge);
      const { rules, faults } = restoreBridge(unit, state);
      for (const fault of faults) log.warn(`bridge ${bridge.name}: hand-over: ${fault}`);
      restored.set(bridge.name, rules);
    }
    return restored;
  }

  /** After prepare(): translates a predecessor's megaflows, so that code and caches are warm when devices come. */
  rehearse(intent: SwitchIntent, megaflows: SavedMegaflows, limitMs: number): void {
    const undo = intent.bridges.flatMap((bridge) => {
      const ports = this.bridges.get(bridge.name)?.ports;
      return ports === undefined || ports.units.size > 0 ? [] : [ports.rehearse(bridge)];
    });
    const endMs = performance.now() + limitMs;
    // Again and again: it takes some thousand translations until they are compiled well.
    for (let made = 0; made < REHEARSAL_TRANSLATIONS && performance.now() < endMs; ) {
      const before = made;
      for (const _ of restoreMegaflows(this.#options.datapath, megaflows, true)) {
        made++;
        if (performance.now() > endMs) break;
      }
      if (made === before) break;
    }
    for (const removePorts of undo) removePorts();
  }

  /** Closes all devices at once, for a successor. Resolves with what they leave when nothing is forwarded any more. */
  async handOver(): Promise<Map<string, Bequest>> {
    const bequests = new Map<string, Bequest>();
    for (const { connmgr } of this.bridges.values()) connmgr.close();
    const units = [...this.bridges.values()].flatMap(({ ports }) => [...ports.units.values()]);
    await Promise.all(
      units.map(async ({ name, netdev }) => {
        if (netdev === undefined) return;
        netdev.onChange = undefined;
        if (netdev.handOver) bequests.set(name, await netdev.handOver());
        else await netdev.close(true);
      }),
    );
    return bequests;
  }

  /** After handOver(): forgets the bridges, whose devices are gone. */
  forget(): void {
    for (const { bridge, ports, exporters } of this.bridges.values()) {
      exporters.close();
      ports.forget();
      bridge.close();
    }
    this.bridges.clear();
  }

  /** Gives the openers what a predecessor has left. Guests go on when the function is called that is returned. */
  inherit(devices: Map<string, Bequest>): () => void {
    const { context } = this.#options;
    const whenReady: (() => void)[] = [];
    context.inherited = devices;
    context.whenReady = whenReady;
    return () => {
      delete context.whenReady;
      for (const go of whenReady) go();
    };
  }

  async #applyBridge(intent: BridgeIntent, settings: DataPlaneSettings): Promise<void> {
    const unit = this.bridges.get(intent.name) ?? this.#addBridge(intent);
    const { bridge } = unit;
    unit.uuid = intent.uuid;
    bridge.vlanLimit = settings.vlanLimit;
    bridge.forwardBpdu = intent.forwardBpdu;
    bridge.setFloodVlans(new Set(intent.floodVlans));
    this.#applyPrefixes(unit, intent);
    bridge.setMacLimits(intent.macAgingSeconds, intent.macTableSize);
    bridge.setSnooping(snoopingSettings(intent));
    await unit.ports.apply(intent);
    applyMirrors(bridge, intent, this.#options.log);
    unit.exporters.apply(intent);
    unit.mirrors = intent.mirrors.map(({ uuid }) => uuid);
    this.#applyAffinity(intent, unit);
  }

  async #applyControllers(intent: BridgeIntent, whole: SwitchIntent): Promise<void> {
    const unit = this.bridges.get(intent.name)!;
    const { connmgr } = unit;
    unit.controllers = new Map(intent.controllers.map((c) => [c.target, c.uuid]));
    await connmgr.configure({
      controllers: whole.restoring ? [] : intent.controllers,
      failMode: intent.failMode,
      versions: intent.protocols.length > 0 ? versionsFromNames(intent.protocols) : undefined,
      ssl: whole.ssl,
      dpDesc: intent.dpDesc,
      serial: intent.dpSn,
      flowTables: intent.flowTables,
      bundleIdleTimeoutMs: intent.bundleIdleTimeoutMs,
      inBandRemotes: intent.inBandManagers,
      inBandQueue: inBandQueue(intent.otherConfig),
    });
  }

  /** Flow_Table.prefixes; setting them rebuilds tries, so only when they differ. */
  #applyPrefixes(unit: BridgeUnit, intent: BridgeIntent): void {
    for (const table of new Set([...unit.prefixes.keys(), ...intent.flowTables.keys()])) {
      const wanted = intent.flowTables.get(table)?.prefixes ?? [];
      const fields = wanted.length > 0 ? wanted : DEFAULT_PREFIXES;
      if ((unit.prefixes.get(table) ?? DEFAULT_PREFIXES).join() === fields.join()) continue;
      unit.bridge.setPrefixes(table, fields.includes('none') ? [] : fields);
      unit.prefixes.set(table, fields);
    }
  }

  #addBridge(intent: BridgeIntent): BridgeUnit {
    const {
      datapath,
      runDir,
      connmgrLog,
      rconnLog,
      flowLog,
      messageLog,
      context,
      protocols,
      dummies,
      log,
      onStatus,
    } = this.#options;
    const bridge = new SwitchBridge({
      name: intent.name,
      datapath,
      datapathId: intent.datapathId ?? 0n,
      failMode: intent.failMode,
    });
    const connmgr = new Connmgr({
      bridge,
      runDir,
      log: connmgrLog,
      debugActions: dummies !== undefined,
      rconnLog,
      flowLog,
      messageLog,
      checkActions: (actions, match, table, version) =>
        checkActions(actions, match, table, version, bridge),
      checkBucket: checkBucketActions,
    });
    const ports = new BridgePorts({
      bridge,
      connmgr,
      context,
      protocols,
      dummies,
      log,
      onChange: onStatus,
    });
    const unit: BridgeUnit = {
      uuid: intent.uuid,
      bridge,
      connmgr,
      ports,
      controllers: new Map(),
      prefixes: new Map(),
      exporters: new BridgeExporters(bridge, ports.protocols, log, this.#exporters),
      mirrors: [],
    };
    this.bridges.set(intent.name, unit);
    return unit;
  }

  #applyAffinity(intent: BridgeIntent, unit: BridgeUnit): void {
    const { engine } = this.#options.datapath;
    for (const { interfaces } of intent.ports) {
      for (const { name, otherConfig } of interfaces) {
        const dpPort = unit.ports.units.get(name)?.netdev?.port ?? -1;
        if (dpPort < 0) continue;
        const affinity = parseAffinity(otherConfig['pmd-rxq-affinity']);
        for (let queue = 0; queue < 32; queue++) {
          engine.setAffinity(dpPort, queue, affinity.get(queue));
        }
      }
    }
  }

  async #removeBridge(name: string, unit: BridgeUnit, keep: boolean): Promise<void> {
    this.bridges.delete(name);
    unit.connmgr.close();
    unit.exporters.close();
    await unit.ports.close(keep);
    unit.bridge.close();
  }

  /** Some interface could not be opened: worth another look when devices appear. */
  get incomplete(): boolean {
    return [...this.bridges.values()].some((unit) => unit.ports.incomplete);
  }

  async close(keep: boolean): Promise<void> {
    for (const [name, unit] of [...this.bridges]) await this.#removeBridge(name, unit, keep);
  }

  // ---- columns

  /** After a reconfiguration: ofport, error, identity, and status. */
  outcomeColumns(): Wanted {
    const bridges = new Map<string, WantedRow<'Bridge'>>();
    const interfaces = new Map<string, WantedRow<'Interface'>>();
    for (const { uuid, bridge, ports } of this.bridges.values()) {
      bridges.set(uuid, {
        ...bridgeIdentity(bridge.datapathId),
        ...treeBridgeColumns(ports.protocols.tree),
      });
      for (const unit of ports.units.values()) {
        const { netdev, port, error } = unit;
        interfaces.set(
          unit.uuid,
          netdev && port
            ? {
                ...interfaceOpened(port.ofport),
                ...interfaceStatus(netdev.status()),
                ...monitorColumns(
                  ports.protocols.monitorOf(port),
                  ports.protocols.lacpCurrent(port),
                ),
              }
            : interfaceFailed(error),
        );
      }
    }
    return {
      Bridge: bridges,
      Port: this.#portColumns(),
      Interface: interfaces,
      Controller: this.#controllerColumns(),
    };
  }

  #portColumns(): ReadonlyMap<string, WantedRow<'Port'>> {
    return new Map([...this.bridges.values()].flatMap(({ ports }) => [...ports.portColumns()]));
  }

  /** What changes without a reconfiguration. */
  statusColumns(): Wanted {
    const interfaces = new Map<string, WantedRow<'Interface'>>();
    for (const { ports } of this.bridges.values()) {
      for (const { uuid, netdev, port } of ports.units.values()) {
        if (!netdev) continue;
        interfaces.set(uuid, {
          ...interfaceStatus(netdev.status()),
          ...monitorColumns(ports.protocols.monitorOf(port), ports.protocols.lacpCurrent(port)),
        });
      }
    }
    const bridges = new Map(
      [...this.bridges.values()].map(({ uuid, ports }) => [
        uuid,
        treeBridgeColumns(ports.protocols.tree),
      ]),
    );
    return { Bridge: bridges, Port: this.#portColumns(), Interface: interfaces };
  }

  /** Per interval; the controllers' status goes with it, since it counts seconds. */
  statisticsColumns(): Wanted {
    const interfaces = new Map<string, WantedRow<'Interface'>>();
    for (const { ports } of this.bridges.values()) {
      for (const { uuid, netdev } of ports.units.values()) {
        if (netdev) interfaces.set(uuid, { statistics: statistics(netdev.statistics()) });
      }
    }
    const mirrors = [...this.bridges.values()].flatMap((unit) =>
      mirrorColumns(unit.bridge, unit.mirrors),
    );
    const ports = [...this.bridges.values()].flatMap((unit) => [...unit.ports.portStatistics()]);
    return {
      Port: new Map(ports),
      Interface: interfaces,
      Controller: this.#controllerColumns(),
      Mirror: new Map(mirrors),
    };
  }

  #controllerColumns(): ReadonlyMap<string, WantedRow<'Controller'>> {
    const rows = new Map<string, WantedRow<'Controller'>>();
    for (const { connmgr, controllers } of this.bridges.values()) {
      const statuses = connmgr.status();
      for (const [target, uuid] of controllers) {
        const state = statuses.get(target);
        rows.set(uuid, {
          is_connected: state?.isConnected ?? false,
          role: state?.role,
          status: state?.status ?? {},
        });
      }
    }
    return rows;
  }

  /** Drops by reason over all ports. */
  drops(): number[] {
    const sums = this.#options.datapath.controlDrops();
    // Tunnels share ports of the datapath.
    const numbers = new Set<number>();
    for (const { ports } of this.bridges.values()) {
      for (const { netdev } of ports.units.values()) if (netdev) numbers.add(netdev.port);
    }
    numbers.delete(-1);
    for (const port of numbers) {
      const { drops } = this.#options.datapath.engine.portCounters(port);
      for (const [reason, count] of drops.entries()) sums[reason]! += count;
    }
    return sums;
  }
}
