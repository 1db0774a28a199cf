// The datapath "netdev@ovs-netdev": all bridges over one engine.
//
//   packet misses ── upcall ── translate ── inject the packet with the program, put the megaflow
//   something changes ── revalidator translates affected megaflows again ── engine.quiesce() ── settled
//
// Order within a flow: a packet is injected, into the worker that it came from, before its megaflow is put, so it leaves in
// front of all that are received from then on. Packets of the same flow that missed in between wait in the upcall ring and
// may be overtaken, as in the Linux datapath; they take a short way (the megaflows put last), so that it is few.
//
// Which bridge and OpenFlow port a datapath port belongs to is known only here.

import {
  UPCALL_CONTROLLER,
  UPCALL_MISS,
  UPCALL_SAMPLE,
  UPCALL_SLOW,
} from '../../contract/action.ts';
import {
  DROP_CONTROLLER_RATE,
  DROP_COUNT,
  DROP_NO_PORT,
  DROP_TUNNEL_NO_PORT,
  DROP_UPCALL_FULL,
} from '../../contract/drop.ts';
import {
  F_IN_PORT,
  F_METADATA,
  FLOW_SIZE,
  K_IN_PORT,
  K_PKT_MARK,
  K_RECIRC_ID,
  K_TCP_FLAGS,
  K_TUN_ID,
  KEY_SIZE,
} from '../../contract/key.ts';
import { MAX_PORTS } from '../../contract/port.ts';
import { MeterRecords } from '../engine/meters.ts';
import type { Engine, Upcall } from '../engine/types.ts';
import type { PacketIn } from '../wire/openflow/types.ts';
import { be16, be32, newRecord, putBe32 } from './flow.ts';
import { type FlowLog, logFlowAdded } from './flowLog.ts';
import { type KeyPair, KeyPool } from './keyPool.ts';
import { credit, creditStats, hashKey, type Megaflow, MegaflowTable, meets } from './megaflow.ts';
import { addConntrackMetadata, PacketIns, wholeFrame } from './packetIns.ts';
import { RecircIds, thawMetadata } from './recirc.ts';
import { BridgeIds, continuationOf } from './resume.ts';
import { Revalidator } from './revalidate.ts';
import { slowPathProgram, splitProgram } from './slowPath.ts';
import { newScratch } from './translate/context.ts';
import { translate } from './translate/translate.ts';
import type {
  Effects,
  FlowSample,
  FrozenState,
  PacketInSpec,
  XlateBridge,
  XlateOut,
} from './translate/types.ts';
import { datapathMask } from './translate/wildcards.ts';
import { expandOptions } from './tunnel/metadata.ts';
import { TunnelPorts, tunnelOf } from './tunnel/ports.ts';
import { hasOptions, hasTunnel } from './tunnel/record.ts';
import type { Underlay } from './tunnel/types.ts';
import type { Bridge, BridgePort } from './types.ts';
import { UpcallQueue } from './upcallQueue.ts';

/** A bridge as the datapath needs it: for translation and for packet-ins. */
export type DatapathBridge = XlateBridge &
  Bridge & {
    /** A sampled packet: its flow key, valid during the call, and its length. */
    readonly onSample?: ((sample: FlowSample, key: Uint8Array, bytes: number) => void) | undefined;
  };

/** A datapath key as translation wants it. */
export interface LocatedFlow {
  bridge: DatapathBridge;
  /** FLOW_SIZE bytes. */
  flow: Uint8Array;
  frozen: FrozenState | undefined;
}

/** Megaflows with which an upcall is compared before it is translated. */
const RECENT_FLOWS = 8;

export interface DatapathLog {
  warn(text: string): void;
  dbg(text: string): void;
}

export interface DatapathOptions {
  engine: Engine;
  /** As dpctl/dump-dps shows it. */
  name?: string;
  log?: DatapathLog;
  /** Hears of each megaflow that is installed. */
  flowLog?: FlowLog;
  /** Upcalls of a port that are handled at once in one turn of the event loop. */
  upcallBudget?: number;
}

export class Datapath {
  readonly name: string;
  readonly engine: Engine;
  readonly megaflows = new MegaflowTable();
  readonly meters: MeterRecords;
  readonly packetIns: PacketIns;
  readonly recircs: RecircIds;
  /** Names of the bridges for packets that wait at controllers. */
  readonly bridgeIds = new BridgeIds<DatapathBridge>();
  readonly revalidator: Revalidator;
  /** All tunnel ports. */
  readonly tunnels: TunnelPorts<DatapathBridge>;
  readonly upcalls: UpcallQueue;
  #zonePolicies: ReadonlyMap<number, number> = new Map();
  #underlay: Underlay | undefined;
  /** Lent to one translation after the other. */
  readonly scratch = newScratch();
  /** A mask, for the revalidator. */
  readonly scratchMask = new Uint8Array(KEY_SIZE);
  readonly #log: DatapathLog | undefined;
  readonly #flowLog: FlowLog | undefined;
  readonly #bridges = new Map<string, DatapathBridge>();
  readonly #ports = new Map<number, { bridge: DatapathBridge; port: BridgePort }>();
  readonly #byName = new Map<string, { bridge: DatapathBridge; port: BridgePort }>();
  /** Packets of the controllers that have no input port come from this one. */
  #controllerPort = -1;
  /** Upcalls that were translated, and that could not be installed. */
  upcallCount = 0;
  notInstalled = 0;
  /** false (upcall/disable-megaflows): every flow of the data plane matches everything of its packets. */
  megaflowsEnabled = true;
  #limitWarned = false;
  /** The megaflows put last: packets of theirs may still wait in the upcall ring. */
  readonly #recent: Megaflow[] = [];
  readonly #keys = new KeyPool();
  readonly #controlDrops = new Array<number>(DROP_COUNT).fill(0);

  constructor(options: DatapathOptions) {
    this.engine = options.engine;
    this.meters = new MeterRecords(options.engine.memory);
    this.name = options.name ?? 'netdev@ovs-netdev';
    this.#log = options.log;
    this.#flowLog = options.flowLog;
    // As in Open vSwitch, where packet-ins are frozen states, too.
    const numbers = { last: 0 };
    this.packetIns = new PacketIns(() => this.engine.nowMs(), numbers);
    this.recircs = new RecircIds(() => this.engine.nowMs(), numbers);
    this.revalidator = new Revalidator(this);
    this.tunnels = new TunnelPorts(
      () => this.#underlay,
      () => this.#bridges,
    );
    this.tunnels.namedNumbers = this.name.startsWith('dummy');
    this.upcalls = new UpcallQueue((upcall) => this.#handleUpcall(upcall), options.upcallBudget);
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

  removePort(bridge: DatapathBridge, port: BridgePort): void {
    if (this.#ports.get(port.dpPort)?.port === port) this.#ports.delete(port.dpPort);
    this.tunnels.remove(port);
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
    if (record !== undefined) flow.fill(0, KEY_SIZE);
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

  #handleUpcall(upcall: Upcall): void {
    switch (upcall.reason) {
      case UPCALL_MISS:
      case UPCALL_SLOW:
        this.#miss(upcall);
        break;
      case UPCALL_CONTROLLER:
        this.#toController(upcall);
        break;
      case UPCALL_SAMPLE:
        this.#toExporter(upcall);
        break;
    }
  }

  #miss(upcall: Upcall): void {
    this.upcallCount++;
    const pair = this.#keys.take();
    pair.key.set(upcall.key);
    if (!this.#translateMiss(upcall, pair)) this.#keys.give(pair);
  }

  /** `pair.key` is the upcall's. True: a megaflow keeps the pair. */
  #translateMiss(upcall: Upcall, pair: KeyPair): boolean {
    const tcpFlags = be16(upcall.key, K_TCP_FLAGS);
    if (upcall.reason === UPCALL_MISS) {
      const flow = this.#recentFlow(pair.keyWords);
      if (flow !== undefined) {
        credit(flow.effects, 1, upcall.packetLen, this.engine.nowMs(), tcpFlags);
        this.#inject(upcall, flow.program);
        return false;
      }
    }
    const { scratch } = this;
    const located = this.flowOf(upcall.key, scratch.flow);
    if (located === undefined) {
      // The port went away, and its queues are on their way out; or no tunnel port is for this packet.
      this.#controlDrops[hasTunnel(upcall.key) ? DROP_TUNNEL_NO_PORT : DROP_NO_PORT]!++;
      return false;
    }
    const validated = this.revalidator.change;
    const out = translate({
      ...located,
      packetIns: this.packetIns,
      tunnels: this.tunnels,
      recircs: this.recircs,
      timeoutPolicy: this.timeoutPolicy,
      packet: upcall.data,
      learn: true,
      scratch,
    });
    credit(out.effects, 1, upcall.packetLen, this.engine.nowMs(), tcpFlags);
    for (const actions of splitProgram(out.program)) this.#inject(upcall, actions);
    if (upcall.reason !== UPCALL_SLOW && this.#install(pair, out, validated)) return true;
    this.releaseIds(out.effects);
    return false;
  }

  /**
   * Translates a packet's key without a packet, and puts the megaflow if `install` says so. Gives the recirculation ids in
   * the program, which the caller has to release; undefined if there is no megaflow for such packets.
   */
  foresee(key: Uint8Array, install: boolean): number[] | undefined {
    const { scratch, recircs } = this;
    const pair = this.#keys.take();
    pair.key.set(key);
    const located = this.flowOf(key, scratch.flow);
    const validated = this.revalidator.change;
    const out =
      located &&
      translate({
        ...located,
        packetIns: this.packetIns,
        tunnels: this.tunnels,
        recircs,
        timeoutPolicy: this.timeoutPolicy,
        learn: false,
        scratch,
      });
    const ids =
      out && !out.passing ? out.effects.recircs.filter((id) => recircs.retain(id)) : undefined;
    if (out && ids && install && this.#install(pair, out, validated)) return ids;
    if (out) this.releaseIds(out.effects);
    this.#keys.give(pair);
    return ids;
  }

  #recentFlow(keyWords: Int32Array): Megaflow | undefined {
    for (const flow of this.#recent) {
      if (!flow.deleted && !flow.slow && meets(flow, keyWords)) return flow;
    }
    return undefined;
  }

  #inject({ inPort, data: frame, vnet, key, worker }: Upcall, actions: Uint32Array): void {
    this.engine.inject({ inPort, frame, vnet, key, actions, worker });
  }

  /** Gives back the numbers that a translation has reserved. */
  releaseIds(effects: Effects): void {
    this.packetIns.release(effects.packetIns);
    this.recircs.release(effects.recircs);
  }

  /** Puts the megaflow into the data plane. False: not now, neither effects nor pair are kept. */
  #install(pair: KeyPair, out: XlateOut, validated: number): boolean {
    const { key, mask } = pair;
    datapathMask(out.wildcards, key, mask);
    if (!this.megaflowsEnabled) mask.fill(0xff);
    const hash = hashKey(pair);
    if (this.megaflows.find(pair, hash) !== undefined) return false; // a packet that missed before it was there
    if (this.megaflows.size >= this.revalidator.flowLimit) {
      this.notInstalled++;
      if (!this.#limitWarned) {
        this.#limitWarned = true;
        const { flowLimit } = this.revalidator;
        this.#log?.warn(`upcall: datapath reached the dynamic limit of ${flowLimit} flows.`);
      }
      return false;
    }
    this.#limitWarned = false;
    const recirc = be32(key, K_RECIRC_ID);
    if (recirc !== 0 && !this.recircs.retain(recirc)) return false;
    const program = out.slow ? slowPathProgram(out.slowReasons) : out.program;
    const id = this.engine.putFlow(key, mask, program);
    if (id < 0) {
      if (recirc !== 0) this.recircs.release([recirc]);
      this.notInstalled++;
      return false;
    }
    const now = this.engine.nowMs();
    const flow: Megaflow = {
      id,
      key,
      mask,
      pair,
      hash,
      createdMs: now,
      program,
      effects: out.effects,
      slow: out.slow,
      packets: 0,
      bytes: 0,
      usedMs: 0,
      validated,
      deleted: false,
      next: undefined,
    };
    this.megaflows.add(flow);
    if (this.#flowLog?.isDbg()) logFlowAdded(this.#flowLog, this, flow);
    if (this.#recent.unshift(flow) > RECENT_FLOWS) this.#recent.pop();
    this.revalidator.wake();
    return true;
  }

  #toController(upcall: Upcall): void {
    const spec = this.packetIns.get(upcall.cookie);
    const bridge = spec === undefined ? undefined : this.#bridges.get(spec.bridge.name);
    if (spec === undefined || bridge?.onPacketIn === undefined) {
      // Older than its megaflow by seconds, or nobody listens.
      this.#controlDrops[DROP_CONTROLLER_RATE]!++;
      return;
    }
    const packet = packetIn(spec, upcall);
    if (spec.paused !== undefined) {
      const id = this.bridgeIds.of(spec.bridge);
      packet.continuation = continuationOf(spec.paused, id, upcall.inPort);
    }
    bridge.onPacketIn(packet, spec.controllerId);
  }

  #toExporter({ cookie, key, packetLen }: Upcall): void {
    const spec = this.packetIns.get(cookie);
    const bridge = spec === undefined ? undefined : this.#bridges.get(spec.bridge.name);
    if (spec?.sample !== undefined && bridge?.onSample !== undefined) {
      bridge.onSample(spec.sample, key, packetLen);
    } else {
      this.#controlDrops[DROP_CONTROLLER_RATE]!++;
    }
  }

  // ---- statistics

  /** Packets that got lost between data plane and control plane, by DROP_* reason; ports' counters lack them. */
  controlDrops(): number[] {
    const drops = [...this.#controlDrops];
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
      this.releaseIds(flow.effects);
      const recirc = be32(flow.key, K_RECIRC_ID);
      if (recirc !== 0) this.recircs.release([recirc]);
      this.#keys.give(flow.pair);
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

/** Fields of 64 bits: matched whole if at all. */
const WIDE_METADATA: readonly number[] = [F_METADATA, K_TUN_ID];

/** What controllers get: the packet cut to max_len, and the pipeline's state at the action. */
function packetIn(spec: PacketInSpec, upcall: Upcall): PacketIn {
  const key = spec.metadata.slice();
  const data = wholeFrame(upcall.data, upcall.vnet);
  key.set(upcall.key.subarray(K_PKT_MARK, K_PKT_MARK + 4), K_PKT_MARK);
  const mask = new Uint8Array(FLOW_SIZE);
  for (let i = 0; i < FLOW_SIZE; i += 4) {
    if (be32(key, i) !== 0) mask.fill(0xff, i, i + 4);
  }
  for (const wide of WIDE_METADATA) {
    if (be32(key, wide) !== 0 || be32(key, wide + 4) !== 0) mask.fill(0xff, wide, wide + 8);
  }
  mask.fill(0xff, F_IN_PORT, F_IN_PORT + 4);
  if (spec.conntracked) addConntrackMetadata(upcall.key, key, mask);
  return {
    bufferId: 0xffffffff,
    totalLen: upcall.packetLen,
    reason: spec.reason,
    table: spec.table,
    cookie: spec.cookie,
    match: { key, mask },
    data: spec.paused === undefined ? data.subarray(0, spec.maxLen) : data,
    ...(spec.userdata === undefined ? {} : { userdata: spec.userdata }),
  };
}
