// The OpenFlow front-end of one bridge: who may talk to it, who hears of what happens, and what the bridge does when
// nobody is there (Bridge.fail_mode). Named and ordered after Open vSwitch's connection manager, whose behaviour
// controllers know.
//
//   configure(Bridge and Controller rows)      start(), close()        from main
//   bridge.onPacketIn, tables.onEvents         portsChanged()          from the switch
//   status()                                   for Controller.status, is_connected, role

import { type DebugLog, rateLimit } from '../../observe/vlog.ts';
import { startExpiry } from '../../switch/expire.ts';
import { type CheckActions, type FlowTableRow, FlowTables } from '../../switch/flowMods.ts';
import { HIDDEN_TABLE } from '../../switch/tableNumbers.ts';
import type { Bridge, BridgePort } from '../../switch/types.ts';
import { ActionLists } from '../../wire/openflow/actionLists.ts';
import type { Message, MessageType, Role } from '../../wire/openflow/messages.ts';
import { type Action, OFPP_LOCAL, type PortDesc } from '../../wire/openflow/types.ts';
import { Announcer, Peer } from './announce.ts';
import { BundleSet } from './bundles.ts';
import type { OfSwitch, SwitchDesc } from './context.ts';
import { type ControllerStatus, controllerStatus } from './controllerStatus.ts';
import { CATCH_ALL, FailOpen, isAcceptance, NORMAL_ACTIONS } from './failOpen.ts';
import { createHandler } from './handlers.ts';
import { InBand, type InBandRemote, inBandRemote } from './inBand.ts';
import { ChangeLog, FlowMonitors } from './monitors.ts';
import { type Handler, Ofconn } from './ofconn.ts';
import type { Rconn } from './rconn.ts';
import { Roles } from './roles.ts';
import { type ControllerConfig, Service } from './service.ts';
import { Snoop } from './snoop.ts';
import { tableDesc } from './tableHandlers.ts';
import { TlvTable } from './tlvTable.ts';
import { type Log, parseTarget, type SslConfig, type StreamContext } from './vconn.ts';
import { ALL_VERSIONS } from './versions.ts';
import { wantedServices } from './wantedServices.ts';

const DEFAULT_BUNDLE_IDLE_TIMEOUT_MS = 10_000;
const LOG_FLOW_MODS_MS = 1000;

export interface ConnmgrOptions {
  bridge: Bridge;
  /** OVS_RUNDIR: where BRIDGE.mgmt and BRIDGE.snoop are made. */
  runDir: string;
  log: Log;
  /** With --enable-dummy: the actions of the test suite are known. */
  debugActions?: boolean;
  /** For messages about the connections themselves (module rconn), by default `log`. */
  rconnLog?: Log;
  /** For what is said over the connections (module vconn). */
  messageLog?: DebugLog;
  /** For messages about what flows are told like (module ofp_flow), by default `log`. */
  flowLog?: Log;
  /** Throws OfError for actions that the bridge cannot execute. */
  checkActions?: CheckActions;
  checkBucket?: (actions: readonly Action[]) => void;
}

/** What the database says about the OpenFlow side of a bridge. */
export interface ConnmgrConfig {
  controllers: readonly ControllerConfig[];
  failMode: 'standalone' | 'secure';
  /** Bitmap of Bridge.protocols (versionsFromNames). */
  versions?: number | undefined;
  ssl?: SslConfig | undefined;
  /** other_config:dp-desc, dp-sn. */
  dpDesc?: string | undefined;
  serial?: string | undefined;
  bundleIdleTimeoutMs?: number | undefined;
  /** More than controllers that are reached through the bridge: managers of the database. */
  inBandRemotes?: readonly InBandRemote[] | undefined;
  /** other_config:in-band-queue. */
  inBandQueue?: number | undefined;
  /** Bridge.flow_tables, by number of the table. */
  flowTables?: ReadonlyMap<number, FlowTableRow> | undefined;
}

export class Connmgr implements OfSwitch {
  readonly bridge: Bridge;
  readonly tables: FlowTables;
  readonly checkActions: CheckActions;
  readonly checkBucket: (actions: readonly Action[]) => void;
  readonly tlvTable = new TlvTable();
  readonly log: Log;
  desc: SwitchDesc;
  bundleIdleTimeoutMs = DEFAULT_BUNDLE_IDLE_TIMEOUT_MS;
  readonly #options: ConnmgrOptions;
  readonly #services = new Map<string, Service>();
  readonly #peers = new Map<Rconn, Peer>();
  readonly #changes = new ChangeLog();
  readonly #roles = new Roles();
  readonly #actionLists = new ActionLists();
  readonly #handler: Handler;
  readonly #announcer: Announcer;
  readonly #snoop: Snoop;
  readonly #errorLimit = rateLimit(10);
  readonly #tooLongLimit = rateLimit(5);
  readonly #expiry: Disposable;
  readonly #flowModLog: NodeJS.Timeout;
  #failOpen: FailOpen | undefined;
  #inBand: InBand | undefined;
  #failMode: 'standalone' | 'secure' | undefined;
  #ssl: SslConfig | undefined;
  #packetInsDropped = 0;

  constructor(options: ConnmgrOptions) {
    const { bridge, runDir, log, checkActions } = options;
    this.#options = options;
    this.bridge = bridge;
    this.log = log;
    this.tables = new FlowTables(bridge, checkActions === undefined ? {} : { checkActions });
    this.checkActions = checkActions ?? (() => {});
    this.checkBucket = options.checkBucket ?? (() => {});
    bridge.tlvMappings = () => this.tlvTable.mappings;
    bridge.tableMissConfig = (table) => this.tables.config[table].missConfig;
    this.tables.onEvents = (events) => this.#announcer.flowsChanged(events);
    this.tables.onVacancy = (table, event) =>
      this.#announcer.tableStatus(tableDesc(this.tables, table), event);
    this.desc = switchDesc(undefined, undefined);
    this.#handler = createHandler(this, (conn, type) => this.#noteMessage(conn, type));
    this.#snoop = new Snoop(`${runDir}/${bridge.name}.snoop`, () => this.#mostImportant(), log);
    this.#announcer = new Announcer(bridge, this.#changes, () => [...this.#peers.values()]);
    bridge.onPacketIn = (packet, controllerId) => this.#announcer.packetIn(packet, controllerId);
    this.#expiry = startExpiry(this.tables);
    this.#flowModLog = setInterval(() => {
      for (const { conn } of this.#peers.values()) conn.flowMods.run();
    }, LOG_FLOW_MODS_MS);
    this.#flowModLog.unref();
  }

  /** Applies the database's wishes; resolves when everything listens that can. Never throws for what it says. */
  async configure(config: ConnmgrConfig): Promise<void> {
    this.desc = switchDesc(config.dpDesc, config.serial);
    this.bundleIdleTimeoutMs = config.bundleIdleTimeoutMs ?? DEFAULT_BUNDLE_IDLE_TIMEOUT_MS;
    for (let table = 0; table < HIDDEN_TABLE; table++) {
      this.tables.configureTable(table, config.flowTables?.get(table));
    }
    const versions = config.versions ?? ALL_VERSIONS;
    const sslChanged = JSON.stringify(config.ssl) !== JSON.stringify(this.#ssl);
    this.#ssl = config.ssl;
    const first = this.#failMode === undefined;
    const hadControllers = this.#hasControllers;
    const starting: Promise<void>[] = [];
    const wanted = wantedServices(
      config.controllers,
      { runDir: this.#options.runDir, bridge: this.bridge.name },
      this.log,
    );
    for (const [target, service] of this.#services) {
      const settings = wanted.get(target);
      const usesSsl = sslChanged && /^p?ssl:/.test(target);
      if (settings !== undefined && service.versions === versions && !usesSsl) {
        service.reconfigure(settings);
        this.#applyLimits(service);
        continue;
      }
      if (settings === undefined) {
        this.log.info(`${this.bridge.name}: removed ${service.type} controller "${target}"`);
      }
      service.close();
      this.#services.delete(target);
    }
    for (const [target, settings] of wanted) {
      if (this.#services.has(target)) continue;
      const service = this.#createService(settings, versions);
      if (service === undefined) continue;
      this.#services.set(target, service);
      this.log.info(`${this.bridge.name}: added ${service.type} controller "${target}"`);
      starting.push(
        service.start().catch((error: Error) => {
          this.log.err(`${this.bridge.name}: failed to listen on ${error.message}`);
          this.#services.delete(target);
        }),
      );
    }
    if (first) starting.push(this.#snoop.start());
    const failModeChanged = this.#failMode !== config.failMode;
    this.#failMode = config.failMode;
    this.bridge.failMode = config.failMode;
    this.#updateFailOpen();
    this.#updateInBand(config);
    if (this.bridge.hasControllers !== this.#hasControllers) {
      this.bridge.hasControllers = this.#hasControllers;
      this.bridge.flowsChanged();
    }
    const controllersChanged = hadControllers !== this.#hasControllers;
    const flushes = first || controllersChanged || (failModeChanged && !this.#hasControllers);
    if (flushes && !this.#keepsFlows) this.flush();
    this.#keepsFlows = false;
    await Promise.all(starting);
  }

  /** The flows of a predecessor are in the tables: the first configuration leaves them there. */
  keepFlows(): void {
    this.#keepsFlows = true;
  }
  #keepsFlows = false;

  /** Removes all flows; a bridge that is its own controller then gets its one flow back. */
  flush(): void {
    this.tables.flush();
    this.#failOpen?.flushed();
    this.#inBand?.flushed();
    if (this.#hasControllers || this.#failMode !== 'standalone') return;
    this.tables.addOwn({ match: CATCH_ALL, priority: 0, actions: NORMAL_ACTIONS });
  }

  /** By target, for the rows of the Controller table. Passive targets have no status. */
  status(): Map<string, ControllerStatus> {
    const statuses = new Map<string, ControllerStatus>();
    const now = this.bridge.nowMs();
    for (const service of this.#services.values()) {
      const { rconn } = service;
      if (rconn === undefined) continue;
      statuses.set(service.target, controllerStatus(rconn, this.#peers.get(rconn), now));
    }
    return statuses;
  }

  /** Where a service listens ("tcp:[::]:6653"), undefined when it does not. */
  listenAddress(target: string): string | undefined {
    return this.#services.get(target)?.address;
  }

  /** Packet-ins that were dropped because a controller did not read fast enough. */
  get packetInsDropped(): number {
    return this.#packetInsDropped;
  }

  /** Drops all connections (ovs-appctl bridge/reconnect); controllers are connected to again. */
  reconnect(): void {
    for (const rconn of [...this.#peers.keys()]) rconn.reconnect();
  }

  close(): void {
    this.#expiry[Symbol.dispose]();
    clearInterval(this.#flowModLog);
    this.#failOpen?.close();
    this.#inBand?.close();
    this.#snoop.close();
    for (const service of this.#services.values()) service.close();
    this.#services.clear();
    this.bridge.onPacketIn = undefined;
  }

  // ---- OfSwitch

  get connections(): Iterable<Ofconn> {
    return [...this.#peers.values()].map(({ conn }) => conn);
  }

  get electionId(): bigint {
    return this.#roles.electionId;
  }

  setElectionId(id: bigint): boolean {
    return this.#roles.setElectionId(id);
  }

  setRole(conn: Ofconn, role: Exclude<Role, 'nochange'>): void {
    this.#roles.setRole(conn, role, this.connections);
  }

  flowTooLong(): void {
    (this.#options.flowLog ?? this.log).warn(
      'Flow exceeded the maximum flow statistics reply size and was excluded from the response set',
      this.#tooLongLimit,
    );
  }

  portModified(port: BridgePort, old: PortDesc, source: Ofconn | undefined): void {
    this.#announcer.portModified(port, old, source);
  }

  groupModified(message: Extract<Message, { type: 'group_mod' }>, xid: number, by: Ofconn): void {
    const group = this.bridge.groups.get(message.group);
    // As the switch has it now: with bucket numbers, for one.
    const buckets = group === undefined ? message.buckets : group.describe().buckets;
    this.#announcer.requestForward({ ...message, buckets }, xid, by);
  }

  meterModified(message: Extract<Message, { type: 'meter_mod' }>, xid: number, by: Ofconn): void {
    this.#announcer.requestForward(message, xid, by);
  }

  missConfigChanged(): void {
    const wants = [...this.connections].some((conn) => conn.wantsPacketInOnMiss);
    if (wants === (this.bridge.wantsPacketInOnMiss ?? false)) return;
    this.bridge.wantsPacketInOnMiss = wants;
    this.bridge.flowsChanged();
  }

  // ---- what the switch reports

  /** Ports were added or removed, or their description changed: tells controllers. */
  portsChanged(): void {
    this.#announcer.portsChanged();
  }

  // ---- connections

  get #hasControllers(): boolean {
    for (const service of this.#services.values()) if (service.type === 'primary') return true;
    return false;
  }

  #createService(config: ControllerConfig, versions: number): Service | undefined {
    const context: StreamContext = {
      runDir: this.#options.runDir,
      ssl: this.#ssl,
      log: this.#options.rconnLog ?? this.log,
      messageLog: this.#options.messageLog,
    };
    try {
      return new Service(this.bridge.name, config, versions, context, {
        nowMs: () => this.bridge.nowMs(),
        onConnected: (service, rconn) => this.#connected(service, rconn),
        onMessage: (rconn, bytes) => this.#peers.get(rconn)?.conn.receive(bytes),
        onDisconnected: (_service, rconn) => this.#disconnected(rconn),
      });
    } catch (error) {
      this.log.warn(`${this.bridge.name}: ${(error as Error).message}`);
      return undefined;
    }
  }

  #connected(service: Service, rconn: Rconn): void {
    const conn = new Ofconn(rconn, {
      type: service.type,
      enableAsync: service.config.enableAsync ?? true,
      handle: this.#handler,
      bundles: (of) => new BundleSet(this, of),
      monitors: (of) => new FlowMonitors(this, of, this.#changes),
      log: this.log,
      errorLimit: this.#errorLimit,
      nowMs: () => this.bridge.nowMs(),
      tlvs: () => this.tlvTable.mappings,
      debugActions: this.#options.debugActions === true,
      actionLists: this.#actionLists,
    });
    const onDrop = () => {
      this.#packetInsDropped++;
    };
    this.#peers.set(rconn, new Peer(conn, onDrop));
    this.#applyLimits(service);
    this.missConfigChanged();
  }

  #disconnected(rconn: Rconn): void {
    const peer = this.#peers.get(rconn);
    if (peer === undefined) return;
    this.#peers.delete(rconn);
    peer.close();
    this.missConfigChanged();
  }

  #applyLimits(service: Service): void {
    const { rateLimit = 0, burstLimit = 0, queueSize } = service.config;
    for (const rconn of service.rconns) {
      this.#peers.get(rconn)?.setLimits({ rate: rateLimit, burst: burstLimit, queueSize });
    }
  }

  /** A controller that does more than look around has accepted this switch. */
  #noteMessage(conn: Ofconn, type: MessageType): void {
    if (conn.type !== 'primary') return;
    if (isAcceptance(type)) conn.rconn.noteAdmitted();
    if (this.#failOpen?.active && conn.rconn.admitted) this.#failOpen.recover();
  }

  #updateFailOpen(): void {
    if (this.#hasControllers && this.#failMode === 'standalone') {
      this.#failOpen ??= new FailOpen(
        this.tables,
        {
          failureDurationMs: () => this.#failureDurationMs(),
          maxProbeMs: () => this.#maxProbeMs(),
        },
        this.log,
      );
    } else {
      this.#failOpen?.close();
      this.#failOpen = undefined;
    }
  }

  #updateInBand({ controllers, inBandRemotes = [], inBandQueue: queue }: ConnmgrConfig): void {
    const { runDir } = this.#options;
    const remotes = controllers
      .filter(({ connectionMode }) => connectionMode === 'in-band')
      .map(({ target }) => inBandRemote(parseTarget(target, runDir)))
      .filter((remote) => remote !== undefined)
      .concat(inBandRemotes);
    const has = remotes.length > 0;
    if (has) {
      const local = () => this.bridge.ports.get(OFPP_LOCAL)?.netdev.status().mac;
      this.#inBand ??= new InBand(this.tables, local);
      this.#inBand.configure({ remotes, queue });
    } else {
      this.#inBand?.close();
      this.#inBand = undefined;
    }
    if ((this.bridge.hasInBand ?? false) === has) return;
    this.bridge.hasInBand = has;
    this.bridge.flowsChanged();
  }

  #failureDurationMs(): number {
    let shortest = Number.POSITIVE_INFINITY;
    for (const { type, rconn } of this.#services.values()) {
      if (type === 'primary' && rconn !== undefined) {
        shortest = Math.min(shortest, rconn.failureDurationMs());
      }
    }
    return shortest === Number.POSITIVE_INFINITY ? 0 : shortest;
  }

  #maxProbeMs(): number {
    let longest = 0;
    for (const service of this.#services.values()) {
      if (service.type === 'primary') longest = Math.max(longest, service.probeMs);
    }
    return longest;
  }

  /** The connection that a snooper hears: of a primary, else of an equal, else of a secondary controller. */
  #mostImportant(): Rconn | undefined {
    let best: Rconn | undefined;
    let bestRank = -1;
    for (const { rconn } of this.#services.values()) {
      if (rconn === undefined) continue;
      const role = this.#peers.get(rconn)?.conn.role;
      const rank = role === undefined ? 0 : { secondary: 1, other: 2, primary: 3 }[role];
      if (rank > bestRank) {
        best = rconn;
        bestRank = rank;
      }
    }
    return best;
  }
}

/** The values that Open vSwitch gives; tools and tests look at them. */
function switchDesc(dp: string | undefined, serial: string | undefined): SwitchDesc {
  return {
    mfr: 'Nicira, Inc.',
    hw: 'Open vSwitch',
    sw: '3.1.0',
    serial: serial ?? 'None',
    dp: dp ?? 'None',
  };
}
