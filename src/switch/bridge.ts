// One bridge: flow tables, ports, bundles, MAC table and settings, as OpenFlow and OVSDB see it. What a packet does in
// it is translation's business; the datapath holds all bridges together.

import {
  F_ACTSET_OUTPUT,
  F_IN_PORT,
  F_METADATA,
  FLOW_SIZE,
  K_IN_PORT,
  K_PACKET_TYPE,
  K_PKT_MARK,
  K_TCP_FLAGS,
  KEY_SIZE,
} from '../../contract/key.ts';
import type { Upcall } from '../engine/types.ts';
import type { TunnelConfig } from '../port/tunnelConfig.ts';
import type { Netdev } from '../port/types.ts';
import type { CtFlushMatch } from '../wire/openflow/ctFlush.ts';
import type { IpfixStats } from '../wire/openflow/ipfixStats.ts';
import type { TlvMapping } from '../wire/openflow/messages.ts';
import {
  type Action,
  type Match,
  OFPP_LOCAL,
  OFPP_MAX,
  OfError,
  type OfVersion,
  type PacketIn,
} from '../wire/openflow/types.ts';
import { checkActions } from './checkActions.ts';
import { Classifier } from './classifier.ts';
import type { Datapath, DatapathBridge } from './datapath.ts';
import { be16, newRecord, putBe32 } from './flow.ts';
import { extractFlow } from './flowExtract.ts';
import type { FlowEvent } from './flowMods.ts';
import { GroupTable } from './groups.ts';
import { hiddenRule, missRule, onceRule } from './hiddenRules.ts';
import { MacTable } from './macLearning.ts';
import { credit } from './megaflow.ts';
import { MeterTable } from './meters.ts';
import { type MirrorSettings, MirrorTable } from './mirrors.ts';
import { McastSnooping, type SnoopingSettings } from './multicast/snooping.ts';
import type { NetflowExporter } from './netflow.ts';
import { describePort } from './portDesc.ts';
import { resume } from './resume.ts';
import { ruleChange } from './ruleChange.ts';
import { splitProgram } from './slowPath.ts';
import type { BridgeTree } from './spanningTree/gate.ts';
import { HIDDEN_TABLE, N_TABLES } from './tableNumbers.ts';
import { translate } from './translate/translate.ts';
import type { BridgeSampling, FragmentMode, Sample, TableMiss } from './translate/types.ts';
import { copyTunnel } from './tunnel/record.ts';
import type { BridgePort, Bundle, FlowOwner, FlowTable, PreparedPacketOut, Rule } from './types.ts';

const OFPORTS_MAX = 0xff00;

/** VLAN settings of a Port row; what is missing has the default of a port without settings. */
export type BundleConfig = Partial<Omit<Bundle, 'name' | 'ports'>>;

const BUNDLE_DEFAULTS: Omit<Bundle, 'name' | 'ports'> = {
  vlanMode: 'trunk',
  tag: 0,
  trunks: undefined,
  cvlans: undefined,
  protected: false,
  priorityTags: 'no',
  qinqEthertype: 0x88a8,
};

export interface BridgeOptions {
  name: string;
  datapath: Datapath;
  datapathId: bigint;
  failMode?: 'standalone' | 'secure';
}

export interface AddPortOptions {
  netdev: Netdev;
  /** Name of the interface, by default the device's. */
  name?: string;
  /** ofport_request; LOCAL for the port named like the bridge. */
  ofport?: number;
  /** options:peer of a patch port. */
  peer?: string | undefined;
  bundle: Bundle;
}

/** Metadata that an OpenFlow 1.5 packet-out brings along. */
function copyMetadata(from: Uint8Array, to: Uint8Array): void {
  to.set(from.subarray(K_PKT_MARK, K_PKT_MARK + 4), K_PKT_MARK);
  copyTunnel(from, to);
  to.set(from.subarray(K_PACKET_TYPE, K_PACKET_TYPE + 4), K_PACKET_TYPE);
  to.set(from.subarray(F_METADATA, F_ACTSET_OUTPUT), F_METADATA);
}

/** Flow changes in one go up to which megaflows are chosen one by one. */
const RULE_CHANGES_MAX = 16;

export class SwitchBridge implements DatapathBridge {
  readonly name: string;
  readonly datapath: Datapath;
  datapathId: bigint;
  failMode: 'standalone' | 'secure';
  readonly tables: readonly Classifier[];
  readonly macs: MacTable;
  readonly groups: GroupTable;
  flows?: FlowOwner;
  readonly meters: MeterTable;
  readonly mirrors = new MirrorTable();
  /** Written by the OpenFlow front-end. */
  hasControllers = false;
  /** Written by the OpenFlow front-end. */
  hasInBand = false;
  readonly missRule: Rule;
  readonly noPacketInRule: Rule;
  readonly dropFragmentsRule: Rule;
  onPacketIn: ((packet: PacketIn, controllerId: number) => void) | undefined;
  /** A sampled packet, valid during the call. */
  onSample: ((sample: Sample, upcall: Upcall) => void) | undefined;
  /** For OpenFlow's statistics of IPFIX: of the bridge's exporter, of those of flows; undefined where there is none. */
  ipfixStats: ((kind: 'bridge' | 'flow') => IpfixStats[] | undefined) | undefined;
  #sampling: BridgeSampling | undefined;
  #netflow: NetflowExporter | undefined;
  tlvMappings: (() => readonly TlvMapping[]) | undefined;
  /** OFPC_FRAG_*: 0 normal, 1 drop, 3 nx-match. Call flowsChanged() after writing. */
  fragHandling = 0;
  /** Written by the OpenFlow front-end. Call flowsChanged() after writing. */
  wantsPacketInOnMiss = false;
  /** OFPTC11_TABLE_MISS_* of a table, for OpenFlow 1.1 and 1.2: 0 default, 1 continue, 2 drop. */
  tableMissConfig: ((table: number) => number) | undefined;
  snooping: McastSnooping | undefined;
  /** Written by src/switch/spanningTree. Call flowsChanged() after writing. */
  tree: BridgeTree | undefined;
  readonly #ports = new Map<number, BridgePort>();
  readonly #bundles = new Set<Bundle>();
  #forwardBpdu = false;
  #lastOfport = 0;
  #vlanLimit = 1;

  constructor(options: BridgeOptions) {
    this.name = options.name;
    this.datapath = options.datapath;
    this.datapathId = options.datapathId;
    this.failMode = options.failMode ?? 'standalone';
    this.tables = Array.from({ length: N_TABLES }, (_, id) => new Classifier(id));
    this.macs = new MacTable(() => this.nowMs());
    this.groups = new GroupTable(() => this.nowMs(), options.datapath.switchLog);
    this.meters = new MeterTable({
      records: options.datapath.meters,
      nowMs: () => this.nowMs(),
      settled: () => this.settled(),
    });
    this.missRule = missRule();
    this.noPacketInRule = hiddenRule([], 2);
    this.dropFragmentsRule = hiddenRule([], 3);
    const hidden: FlowTable = this.tables[HIDDEN_TABLE]!;
    hidden.insert(onceRule());
    hidden.insert(this.missRule);
    hidden.insert(this.noPacketInRule);
    hidden.insert(this.dropFragmentsRule);
    this.datapath.addBridge(this);
  }

  get tlvs(): readonly TlvMapping[] {
    return this.tlvMappings?.() ?? [];
  }

  // ---- ports

  get ports(): ReadonlyMap<number, BridgePort> {
    return this.#ports;
  }

  get bundles(): ReadonlySet<Bundle> {
    return this.#bundles;
  }

  portByName(name: string): BridgePort | undefined {
    for (const port of this.#ports.values()) if (port.name === name) return port;
    return undefined;
  }

  addBundle(name: string, config: BundleConfig = {}): Bundle {
    const bundle: Bundle = { ...BUNDLE_DEFAULTS, ...config, name, ports: [] };
    this.#bundles.add(bundle);
    return bundle;
  }

  /** New settings of a Port row. Learned addresses of the bundle are forgotten when its VLANs change. */
  setBundle(bundle: Bundle, config: BundleConfig): void {
    const next = { ...BUNDLE_DEFAULTS, ...config };
    const vlans = (b: Omit<Bundle, 'name' | 'ports'>): string =>
      [b.vlanMode, b.tag, [...(b.trunks ?? ['all'])], [...(b.cvlans ?? ['all'])]].join('/');
    const moved = vlans(bundle) !== vlans(next);
    const same =
      !moved &&
      bundle.protected === next.protected &&
      bundle.priorityTags === next.priorityTags &&
      bundle.qinqEthertype === next.qinqEthertype;
    if (same) return;
    Object.assign(bundle, next);
    if (moved) this.#forgetBundle(bundle);
    this.flowsChanged();
  }

  /** Removes an (empty) bundle. */
  removeBundle(bundle: Bundle): void {
    this.#bundles.delete(bundle);
    this.#forgetBundle(bundle);
    this.flowsChanged();
  }

  #forgetBundle(bundle: Bundle): void {
    // Other bridges have learned the addresses behind the bundle on their patch ports.
    for (const { bundle: at, mac, vlan } of this.macs) {
      if (at !== bundle) continue;
      for (const { macs } of this.datapath.bridges.values()) {
        if (macs !== this.macs) macs.forget(mac, vlan);
      }
    }
    this.macs.flushBundle(bundle);
    this.snooping?.flushBundle(bundle);
  }

  /** The topology has changed: whatever was learned may be wrong. */
  forgetLearned(): void {
    this.macs.flush();
    this.snooping?.flush();
  }

  /** Makes an interface an OpenFlow port. Throws RangeError when all 65 279 numbers are in use. */
  addPort(options: AddPortOptions): BridgePort {
    const { netdev, bundle } = options;
    const name = options.name ?? netdev.name;
    const ofport = this.#allocateOfport(name, options.ofport);
    const port: BridgePort = {
      ofport,
      name,
      netdev,
      dpPort: netdev.port,
      peer: options.peer,
      bundle,
      desc: describePort(netdev, ofport, name, 0),
      mayEnable: true,
      protocols: undefined,
      createdMs: this.nowMs(),
    };
    this.#ports.set(ofport, port);
    bundle.ports.push(port);
    this.datapath.addPort(this, port);
    return port;
  }

  removePort(port: BridgePort): void {
    if (this.#ports.get(port.ofport) !== port) return;
    this.#ports.delete(port.ofport);
    const at = port.bundle.ports.indexOf(port);
    if (at >= 0) port.bundle.ports.splice(at, 1);
    if (port.bundle.ports.length === 0) this.#forgetBundle(port.bundle);
    this.datapath.removePort(this, port);
  }

  /** Looks at the device again after a change of its status. True if the description changed. */
  refreshPort(port: BridgePort): boolean {
    const { netdev, ofport, name, desc, mayEnable } = port;
    const next = describePort(netdev, ofport, name, desc.config, mayEnable);
    next.state |= port.tree?.portState ?? 0;
    const old = port.desc;
    const same = (Object.keys(next) as (keyof typeof next)[]).every((key) =>
      key === 'hwAddr'
        ? next.hwAddr.every((byte, i) => byte === old.hwAddr[i])
        : next[key] === old[key],
    );
    if (same) return false;
    port.desc = next;
    this.flowsChanged();
    return true;
  }

  /** A tunnel port has new settings. */
  tunnelChanged(): void {
    this.datapath.tunnels.changed();
    this.datapath.allChanged();
  }

  /** The device of the host by which a tunnel leaves (Interface.status:tunnel_egress_iface). */
  egressOf({
    remote,
    remoteFlow,
    egressMark,
  }: TunnelConfig): { name: string; up: boolean } | undefined {
    if (remoteFlow) return undefined;
    const name = this.datapath.underlay?.route(remote, egressMark ?? 0)?.device;
    if (name === undefined) return undefined;
    const local = this.datapath.bridges.get(name)?.ports.get(OFPP_LOCAL);
    return { name, up: local?.netdev.status().linkUp ?? true };
  }

  /** New peer of a patch port. */
  setPeer(port: BridgePort, peer: string | undefined): void {
    if (port.peer === peer) return;
    this.datapath.removePort(this, port);
    port.peer = peer;
    this.datapath.addPort(this, port);
  }

  peerOf(port: BridgePort): { bridge: DatapathBridge; port: BridgePort } | undefined {
    return this.datapath.peerOf(port);
  }

  #allocateOfport(name: string, wanted: number | undefined): number {
    if (name === this.name && !this.#ports.has(OFPP_LOCAL)) return OFPP_LOCAL;
    if (wanted === OFPP_LOCAL && !this.#ports.has(OFPP_LOCAL)) return OFPP_LOCAL;
    if (wanted !== undefined && wanted > 0 && wanted < OFPORTS_MAX && !this.#ports.has(wanted)) {
      return wanted;
    }
    for (let i = 1; i < OFPORTS_MAX; i++) {
      const candidate = ((this.#lastOfport + i - 1) % (OFPORTS_MAX - 1)) + 1;
      if (this.#ports.has(candidate)) continue;
      this.#lastOfport = candidate;
      return candidate;
    }
    throw new RangeError(`${this.name}: no OpenFlow port number left`);
  }

  // ---- settings

  get sampling(): BridgeSampling | undefined {
    return this.#sampling;
  }

  setSampling(sampling: BridgeSampling | undefined): void {
    if (JSON.stringify(this.#sampling) === JSON.stringify(sampling)) return;
    this.#sampling = sampling;
    this.flowsChanged();
  }

  get netflow(): NetflowExporter | undefined {
    return this.#netflow;
  }

  setNetflow(exporter: NetflowExporter | undefined): void {
    if (this.#netflow === exporter) return;
    this.#netflow = exporter;
    this.flowsChanged();
  }

  /** Bridge.mirrors. Gives the names of those that are too many. */
  setMirrors(mirrors: readonly MirrorSettings[]): string[] {
    const { changed, refused } = this.mirrors.configure(mirrors);
    if (changed) this.flowsChanged();
    return refused;
  }

  get forwardBpdu(): boolean {
    return this.#forwardBpdu;
  }

  set forwardBpdu(forward: boolean) {
    if (forward === this.#forwardBpdu) return;
    this.#forwardBpdu = forward;
    this.flowsChanged();
  }

  /** Bridge.mcast_snooping_enable; undefined: off. */
  setSnooping(settings: SnoopingSettings | undefined): void {
    if (settings !== undefined && this.snooping !== undefined) {
      this.snooping.configure(settings);
    } else if (settings !== undefined || this.snooping !== undefined) {
      const changed = (): void => this.flowsChanged();
      this.snooping = settings && new McastSnooping(settings, () => this.nowMs(), changed);
      this.flowsChanged();
    }
  }

  /** Bridge.flood_vlans: VLANs without learning. */
  setFloodVlans(vlans: ReadonlySet<number>): void {
    const old = this.macs.floodVlans;
    if (vlans.size === old.size && [...vlans].every((vlan) => old.has(vlan))) return;
    this.macs.floodVlans = vlans;
    this.macs.flush();
    this.flowsChanged();
  }

  /** mac-aging-time (seconds) and mac-table-size. */
  setMacLimits(agingSeconds: number, tableSize: number): void {
    this.macs.agingMs = Math.max(15, Math.min(3600, agingSeconds)) * 1000;
    this.macs.maxEntries = Math.max(10, Math.min(1_000_000, tableSize));
    this.macs.shrink();
  }

  /** Flow_Table.prefixes of a table. */
  setPrefixes(table: number, fields: readonly string[]): void {
    this.tables[table]?.setPrefixes(fields);
    this.flowsChanged();
  }

  /** other_config:vlan-limit: headers that packet-outs are parsed to, as the data plane does. */
  set vlanLimit(limit: number) {
    this.#vlanLimit = limit;
  }

  get vlanLimit(): number {
    return this.#vlanLimit;
  }

  get fragmentMode(): FragmentMode {
    return this.fragHandling === 1 ? 'drop' : this.fragHandling === 3 ? 'nx-match' : 'normal';
  }

  tableMiss(table: number): TableMiss {
    const config = this.tableMissConfig?.(table) ?? 0;
    return config === 1 ? 'continue' : config === 2 ? 'drop' : 'default';
  }

  // ---- what the OpenFlow front-end asks for

  flowsChanged(events?: readonly FlowEvent[]): void {
    const { revalidator } = this.datapath;
    if (events === undefined || events.length > RULE_CHANGES_MAX) {
      revalidator.changed(this);
      return;
    }
    revalidator.rulesChanged(
      events.map((event) => {
        const oldActions = event.event === 'removed' ? undefined : event.oldActions;
        const added = event.event === 'added' && oldActions === undefined;
        return ruleChange(this, event.rule, added, oldActions);
      }),
    );
  }

  settled(): Promise<void> {
    return this.datapath.revalidator.settled();
  }

  syncStats(): void {
    this.datapath.syncStats();
  }

  ctFlush(zone: number | undefined, match?: CtFlushMatch): void {
    this.datapath.flushConnections(zone, match);
  }

  nowMs(): number {
    return this.datapath.engine.nowMs();
  }

  packetOut(
    inPort: number,
    match: Match | undefined,
    actions: readonly Action[],
    data: Uint8Array,
    version?: OfVersion,
  ): void {
    this.preparePacketOut(inPort, match, actions, data, version).send();
  }

  preparePacketOut(
    inPort: number,
    match: Match | undefined,
    actions: readonly Action[],
    data: Uint8Array,
    version?: OfVersion,
  ): PreparedPacketOut {
    if (inPort >= OFPORTS_MAX && inPort < OFPP_MAX) {
      throw new OfError('OFPBRC_BAD_PORT', `bad in_port ${inPort}`);
    }
    const flow = newRecord();
    if (match !== undefined) copyMetadata(match.key, flow);
    extractFlow(flow, data, this.#vlanLimit);
    const { engine } = this.datapath;
    const port = this.#ports.get(inPort);
    const dpPort =
      port !== undefined && port.dpPort >= 0 ? port.dpPort : this.datapath.controllerPort();
    putBe32(flow, K_IN_PORT, dpPort);
    putBe32(flow, F_IN_PORT, inPort);
    const exact: Match = { key: flow, mask: new Uint8Array(FLOW_SIZE).fill(0xff) };
    checkActions(actions, exact, 0, version, this);
    const key = flow.slice(0, KEY_SIZE);
    const out = translate({
      bridge: this,
      flow,
      actions,
      inPacketOut: true,
      packetIns: this.datapath.packetIns,
      tunnels: this.datapath.tunnels,
      features: this.datapath.features,
      recircs: this.datapath.recircs,
      timeoutPolicy: this.datapath.timeoutPolicy,
      packet: data,
      learn: true,
    });
    const discard = (): void => this.datapath.releaseIds(out.effects);
    return {
      discard,
      send: () => {
        credit(out.effects, 1, data.length, this.nowMs(), be16(key, K_TCP_FLAGS));
        for (const program of splitProgram(out.program)) {
          engine.inject({ inPort: dpPort, frame: data, key, actions: program });
        }
        discard();
      },
    };
  }

  resume(packet: PacketIn): void {
    resume(this.datapath, packet, this.#vlanLimit);
  }

  /** Takes the bridge out of the datapath; its ports must be gone. */
  close(): void {
    for (const port of [...this.#ports.values()]) this.removePort(port);
    this.datapath.removeBridge(this);
  }
}
