// The datapath "netdev@ovs-netdev": all bridges over one engine, and the megaflows in it. Which bridge and OpenFlow port a
// datapath port belongs to is known only here.
//
//   packet misses ── upcall ── upcallHandler.ts
//   something changes ── revalidator translates affected megaflows again ── engine.quiesce() ── settled

import { DROP_UPCALL_FULL } from '../../contract/drop.ts';
import { F_IN_PORT, K_IN_PORT, K_RECIRC_ID, KEY_SIZE } from '../../contract/key.ts';
import { MAX_PORTS } from '../../contract/port.ts';
import { MeterRecords } from '../engine/meters.ts';
import type { Engine, Upcall } from '../engine/types.ts';
import type { CtFlushMatch } from '../wire/openflow/ctFlush.ts';
import { ctFlushText, flushConnections } from './ctMatch.ts';
import type { DebugLog } from './debugLog.ts';
import { be32, EMPTY_RECORD, newRecord, putBe32 } from './flow.ts';
import { KeyPool } from './keyPool.ts';
import { newMacEvents } from './macLearning.ts';
import { creditStats, type Megaflow, MegaflowTable } from './megaflow.ts';
import { PacketIns } from './packetIns.ts';
import { RecircIds, thawMetadata } from './recirc.ts';
import { BridgeIds } from './resume.ts';
import { Revalidator } from './revalidate.ts';
import { newScratch } from './translate/context.ts';
import type { Effects, FrozenState, Sample, XlateBridge } from './translate/types.ts';
import { expandOptions } from './tunnel/metadata.ts';
import { TunnelPorts, tunnelOf } from './tunnel/ports.ts';
import { hasOptions, hasTunnel } from './tunnel/record.ts';
import type { Underlay } from './tunnel/types.ts';
import type { Bridge, BridgePort } from './types.ts';
import { UpcallHandler } from './upcallHandler.ts';
import { UpcallQueue } from './upcallQueue.ts';

/** A bridge as the datapath needs it: for translation and for packet-ins. */
export type DatapathBridge = XlateBridge &
  Bridge & {
    /** A sampled packet, valid during the call. */
    readonly onSample?: ((sample: Sample, upcall: Upcall) => void) | undefined;
  };

/** A datapath key as translation wants it. */
export interface LocatedFlow {
  bridge: DatapathBridge;
  /** FLOW_SIZE bytes. */
  flow: Uint8Array;
  frozen: FrozenState | undefined;
}

const NOTHING_BEHIND_KEY = EMPTY_RECORD.subarray(KEY_SIZE);

export interface DatapathLog {
  warn(text: string): void;
  dbg(text: string): void;
}

export interface FlowLog extends DebugLog {
  err(text: string): void;
}

export interface DatapathOptions {
  engine: Engine;
  /** As dpctl/dump-dps shows it. */
  name?: string;
  log?: DatapathLog;
  /** Of connection tracking. */
  ctLog?: DebugLog;
  /** Of the module dpif_netdev: hears of each upcall and each megaflow that is installed. */
  flowLog?: FlowLog;
  /** Hears of each megaflow that the revalidator comes by or changes. */
  dumpLog?: DebugLog;
  /** Of the module ofproto_dpif_xlate: what is wrong with a packet's way through the tables. */
  xlateLog?: Pick<DatapathLog, 'warn'>;
  /** What one packet did that went in circles: a whole trace. */
  traceLog?: Pick<DatapathLog, 'warn'>;
  /** Of the module ofproto_dpif. */
  switchLog?: DebugLog;
  /** Upcalls of a port that are handled at once in one turn of the event loop. */
  upcallBudget?: number;
}

export class Datapath {
  readonly name: string;
  readonly engine: Engine;
  readonly switchLog: DebugLog | undefined;
  readonly flowLog: FlowLog | undefined;
  /** Events of all MAC tables, for coverage/show. */
  readonly macEvents = newMacEvents();
  readonly megaflows = new MegaflowTable();
  readonly meters: MeterRecords;
  readonly #ctLog: DebugLog | undefined;
  readonly packetIns: PacketIns;
  readonly recircs: RecircIds;
  /** Names of the bridges for packets that wait at controllers. */
  readonly bridgeIds = new BridgeIds<DatapathBridge>();
  readonly revalidator: Revalidator;
  /** All tunnel ports. */
  readonly tunnels: TunnelPorts<DatapathBridge>;
  /** Features of the data plane that have been set to something (dpFeatures.ts). */
  readonly features = new Map<string, boolean | number>();
  readonly upcalls: UpcallQueue;
  readonly handler: UpcallHandler;
  #zonePolicies: ReadonlyMap<number, number> = new Map();
  #underlay: Underlay | undefined;
  /** Lent to one translation after the other. */
  readonly scratch = newScratch();
  /** A mask, for the revalidator. */
  readonly scratchMask = new Uint8Array(KEY_SIZE);
  readonly keys = new KeyPool();
  readonly #bridges = new Map<string, DatapathBridge>();
  readonly #ports = new Map<number, { bridge: DatapathBridge; port: BridgePort }>();
  readonly #byName = new Map<string, { bridge: DatapathBridge; port: BridgePort }>();
  /** Packets of the controllers that have no input port come from this one. */
  #controllerPort = -1;

  constructor(options: DatapathOptions) {
    this.engine = options.engine;
    this.switchLog = options.switchLog;
    this.flowLog = options.flowLog;
    this.meters = new MeterRecords(options.engine.memory);
    this.name = options.name ?? 'netdev@ovs-netdev';
    this.#ctLog = options.ctLog;
    // As in Open vSwitch, where packet-ins are frozen states, too.
    const numbers = { last: 0 };
    this.packetIns = new PacketIns(() => this.engine.nowMs(), numbers);
    this.recircs = new RecircIds(() => this.engine.nowMs(), numbers);
    this.revalidator = new Revalidator(this, options.dumpLog);
    this.tunnels = new TunnelPorts(
      () => this.#underlay,
      () => this.#bridges,
      (name) => this.portNamed(name),
    );
    this.tunnels.namedNumbers = this.name.startsWith('dummy');
    this.handler = new UpcallHandler(this, options);
    this.upcalls = new UpcallQueue((upcall) => this.handler.handle(upcall), options.upcallBudget);
  }

  // ---- bridges and ports

  get bridges(): ReadonlyMap<string, DatapathBridge> {
    return this.#bridges;
  }

  /** Ports of the datapath, by number. */
  get ports(): ReadonlyMap<number, { bridge: DatapathBridge; port: BridgePort }> {
    return this.#ports;
  }

  /** Name of a datapath port; several tunnels may share one. */
  portName(port: number): string | undefined {
    const name = this.#ports.get(port)?.port.name;
    return name ?? this.tunnels.listeners.find((listener) => listener.port === port)?.device;
  }

  /** The bridge whose port a packet with this key has come in by. */
  ownerOf(key: Uint8Array): DatapathBridge | undefined {
    const at = this.#ports.get(be32(key, K_IN_PORT));
    return at?.bridge ?? (hasTunnel(key) ? this.tunnels.find(key)?.bridge : undefined);
  }

  addBridge(bridge: DatapathBridge): void {
    this.#bridges.set(bridge.name, bridge);
    this.bridgeIds.add(bridge);
    bridge.macs.events = this.macEvents;
    bridge.macs.onChange = (key) => this.revalidator.macChanged(bridge.macs, key);
  }

  removeBridge(bridge: DatapathBridge): void {
    this.#bridges.delete(bridge.name);
    this.bridgeIds.remove(bridge);
    bridge.macs.onChange = undefined;
    this.revalidator.changed(bridge);
  }

  addPort(bridge: DatapathBridge, port: BridgePort): void {
    if (tunnelOf(port) !== undefined) this.tunnels.add(bridge, port);
    else if (port.dpPort >= 0) this.#ports.set(port.dpPort, { bridge, port });
    this.#byName.set(port.name, { bridge, port });
    this.#patchesChanged(port);
    this.#portChanged(bridge, port);
  }

  portNamed(name: string): { bridge: DatapathBridge; port: BridgePort } | undefined {
    return this.#byName.get(name);
  }

  removePort(bridge: DatapathBridge, port: BridgePort): void {
    if (this.#ports.get(port.dpPort)?.port === port) this.#ports.delete(port.dpPort);
    this.tunnels.remove(port);
    this.#underlay?.forget(port.name);
    if (this.#byName.get(port.name)?.port === port) this.#byName.delete(port.name);
    this.#patchesChanged(port);
    this.#portChanged(bridge, port);
  }

  /** Packets of a tunnel come through other bridges, which have to look for them from now on. */
  #portChanged(bridge: DatapathBridge, port: BridgePort): void {
    if (tunnelOf(port) === undefined) this.revalidator.changed(bridge);
    else this.allChanged();
  }

  /** Something that concerns all bridges is different now. */
  allChanged(): void {
    for (const bridge of this.#bridges.values()) this.revalidator.changed(bridge);
  }

  /** A patch port's other end looks different now. */
  #patchesChanged(port: BridgePort): void {
    const peer = port.peer === undefined ? undefined : this.#byName.get(port.peer);
    if (peer !== undefined) this.revalidator.changed(peer.bridge);
  }

  peerOf(port: BridgePort): { bridge: DatapathBridge; port: BridgePort } | undefined {
    const peer = port.peer === undefined ? undefined : this.#byName.get(port.peer);
    return peer?.port.peer === port.name ? peer : undefined;
  }

  /**
   * Flow record of a datapath key, and the frozen pipeline if it was recirculated; undefined when the input port
   * belongs to no bridge, or the recirculation id means nothing any more. `record` is overwritten.
   */
  flowOf(key: Uint8Array, record?: Uint8Array): LocatedFlow | undefined {
    const recirc = be32(key, K_RECIRC_ID);
    const frozen = recirc === 0 ? undefined : this.recircs.get(recirc);
    const at =
      this.#ports.get(be32(key, K_IN_PORT)) ??
      (hasTunnel(key) ? this.tunnels.find(key) : undefined);
    const bridge = recirc === 0 ? at?.bridge : frozen && this.#bridges.get(frozen.bridge.name);
    if (bridge === undefined || (frozen !== undefined && frozen.bridge !== bridge))
      return undefined;
    const flow = record ?? newRecord();
    flow.set(key.length === KEY_SIZE ? key : key.subarray(0, KEY_SIZE));
    if (record !== undefined) flow.set(NOTHING_BEHIND_KEY, KEY_SIZE);
    if (frozen !== undefined) thawMetadata(frozen.metadata, flow);
    else putBe32(flow, F_IN_PORT, at!.port.ofport);
    if (frozen === undefined && hasOptions(flow)) expandOptions(flow, bridge.tlvs ?? []);
    return { bridge, flow, frozen };
  }

  /** Timeout policy of a zone of connection tracking, 0 = default (XlateIn.timeoutPolicy). */
  readonly timeoutPolicy = (zone: number): number => this.#zonePolicies.get(zone) ?? 0;

  /** Timeout policies of the zones that have one (CT_Zone). */
  setZonePolicies(policies: ReadonlyMap<number, number>): void {
    this.#zonePolicies = policies;
    this.allChanged();
  }

  /** The host's routes and neighbours, for tunnels. */
  get underlay(): Underlay | undefined {
    return this.#underlay;
  }

  set underlay(underlay: Underlay | undefined) {
    this.#underlay = underlay;
    if (underlay === undefined) return;
    underlay.onChange = () => this.allChanged();
  }

  /** Datapath port that stands for "no port" in packets of controllers. */
  controllerPort(): number {
    if (this.#controllerPort < 0) this.#controllerPort = this.engine.addPort(MAX_PORTS - 1);
    return this.#controllerPort;
  }

  // ---- upcalls

  /** EngineOptions.onUpcall. */
  onUpcall(upcall: Upcall): void {
    this.upcalls.push(upcall);
  }

  /** flushConnections, told to the log of connection tracking. */
  flushConnections(zone: number | undefined, match: CtFlushMatch | undefined): boolean {
    if (this.#ctLog?.isDbg())
      this.#ctLog.dbg(`${this.name}: ct_flush: ${ctFlushText(zone, match)}`);
    return flushConnections(this.engine.conntrack, zone, match);
  }

  /** Gives back the numbers that a translation has reserved. */
  releaseIds(effects: Effects): void {
    this.packetIns.release(effects.packetIns);
    this.recircs.release(effects.recircs);
  }

  /**
   * The same for a trace: its numbers can be looked at for a while, but packets get others. `mark`: from recircs.mark(),
   * before it.
   */
  forgetIds(effects: Effects, mark: number): void {
    this.packetIns.release(effects.packetIns);
    this.recircs.forget(effects.recircs, mark);
  }

  // ---- statistics

  /** Packets that got lost between data plane and control plane, by DROP_* reason; ports' counters lack them. */
  controlDrops(): number[] {
    const drops = [...this.handler.drops];
    for (const count of this.upcalls.dropped.values()) drops[DROP_UPCALL_FULL]! += count;
    return drops;
  }

  /** Credits all packets counted by the data plane so far to the OpenFlow rules. */
  syncStats(): void {
    for (const flow of this.megaflows) creditStats(flow, this.engine.flowStats(flow.id));
  }

  /** Removes a megaflow, crediting its last packets. */
  deleteMegaflow(flow: Megaflow): Promise<void> {
    if (flow.deleted) return Promise.resolve();
    flow.deleted = true;
    creditStats(flow, this.engine.flowStats(flow.id));
    this.megaflows.remove(flow);
    return this.engine.deleteFlow(flow.id).then((stats) => {
      creditStats(flow, stats);
      const { netflow } = flow.effects;
      if (netflow !== undefined) netflow.exporter.clear(netflow);
      this.releaseIds(flow.effects);
      const recirc = be32(flow.key, K_RECIRC_ID);
      if (recirc !== 0) this.recircs.release([recirc]);
      this.keys.give(flow.pair);
    });
  }

  /** Removes all megaflows; resolves when no packet can meet one any more. */
  async purge(): Promise<void> {
    const gone = [...this.megaflows].map((flow) => this.deleteMegaflow(flow));
    await Promise.all([this.engine.quiesce(), ...gone]);
  }

  close(): void {
    this.upcalls.close();
    this.revalidator.close();
  }
}
