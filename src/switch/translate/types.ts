// What translation takes and gives: a flow and the bridge it came in on become a datapath program, the mask of
// everything that was looked at, and the list of side effects that each packet of the megaflow has.

import type { TunnelPort } from '../../port/tunnel.ts';
import type { TlvMapping } from '../../wire/openflow/messages.ts';
import type { Action, FlowMod, PacketInReason, Subfield } from '../../wire/openflow/types.ts';
import type { BondEntry } from '../bond/bond.ts';
import type { Group, GroupBucket, GroupTable } from '../groups.ts';
import type { MacTable } from '../macLearning.ts';
import type { MeterTable } from '../meters.ts';
import type { Mirror, MirrorTable } from '../mirrors.ts';
import type { McastSnooping } from '../multicast/snooping.ts';
import type { NetflowEffect, NetflowExporter } from '../netflow.ts';
import type { ProtocolPort } from '../protocolPort.ts';
import type { BridgeTree } from '../spanningTree/gate.ts';
import type { TunnelPorts } from '../tunnel/ports.ts';
import type { TunnelRoute, Underlay } from '../tunnel/types.ts';
import type { BridgePort, Bundle, FlowOwner, FlowTable, Rule } from '../types.ts';
import type { ResultKeeper } from './keptResults.ts';

export type FragmentMode = 'normal' | 'drop' | 'nx-match';
/** OpenFlow 1.1, 1.2 table-mod: what a miss does. `default` depends on the controllers connected. */
export type TableMiss = 'default' | 'controller' | 'continue' | 'drop';

/** What translation needs to know of a bridge. src/switch/bridge.ts implements it. */
export interface XlateBridge {
  readonly name: string;
  readonly tables: readonly FlowTable[];
  readonly ports: ReadonlyMap<number, BridgePort>;
  readonly bundles: Iterable<Bundle>;
  readonly macs: MacTable;
  /** Where multicast groups are wanted; absent: multicast is flooded. */
  readonly snooping?: McastSnooping | undefined;
  readonly groups?: GroupTable;
  readonly flows?: FlowOwner;
  readonly meters?: MeterTable;
  readonly mirrors?: MirrorTable;
  /** What exporters want to know of the bridge's packets. */
  readonly sampling?: BridgeSampling | undefined;
  readonly netflow?: NetflowExporter | undefined;
  /** Some controller is configured: buckets that watch OFPP_CONTROLLER are alive. */
  readonly hasControllers?: boolean;
  /** The local port gets DHCP replies whatever the flows say. */
  readonly hasInBand?: boolean;
  /** What tun_metadata0 … 63 are on this bridge. */
  readonly tlvs?: readonly TlvMapping[];
  readonly forwardBpdu: boolean;
  /** Some spanning tree protocol runs here. */
  readonly tree?: BridgeTree | undefined;
  readonly fragmentMode: FragmentMode;
  /** Hidden rules of table 254: what a packet that matches nothing executes. */
  readonly missRule: Rule;
  readonly noPacketInRule: Rule;
  readonly dropFragmentsRule: Rule;
  tableMiss(table: number): TableMiss;
  /** Some controller of OpenFlow 1.0 … 1.2 wants packets that match nothing. */
  readonly wantsPacketInOnMiss?: boolean;
  /** The other end of a patch port, if both ends name each other. */
  peerOf(port: BridgePort): { bridge: XlateBridge; port: BridgePort } | undefined;
}

/** What exporters want to know of packets besides what flows say. Shares are of 2^32 - 1. */
export interface BridgeSampling {
  /** IPFIX is exported at all: the action `sample` does something. */
  readonly flows: boolean;
  /** Bridge.ipfix: of the packets that come in, and of those that go out. */
  readonly ipfix?:
    | { readonly probability: number; readonly input: boolean; readonly output: boolean }
    | undefined;
  /** Bridge.sflow: of the packets that come in, and the first bytes of each. */
  readonly sflow?: { readonly probability: number; readonly headerBytes: number } | undefined;
}

/** A sample to be: what its record says besides the packet. */
export type Sample = FlowSample | BridgeSample | SflowSample;

/** Bridge.ipfix. */
export interface BridgeSample {
  readonly kind: 'bridge';
  /** As of FlowSample. */
  readonly outputPort: number;
  readonly forwarded: boolean;
}

/** Bridge.sflow: where packets like this one go. */
export interface SflowSample {
  readonly kind: 'sflow';
  /** Of the packet as it goes out. */
  readonly vlanTci: number;
  /** As sFlow has it: format in the upper two bits, an interface or a number in the others. */
  readonly output: number;
  /** The tunnel into which it goes, if it goes to one place and that is a tunnel. */
  readonly tunnel: SflowTunnel | undefined;
  /** Label stack of the packet that goes out, the outermost first. */
  readonly labels: readonly number[];
}

/** Outer header of IPv4. */
export interface SflowTunnel {
  readonly protocol: number;
  readonly tos: number;
  readonly source: number;
  readonly destination: number;
  readonly sourcePort: number;
  readonly destinationPort: number;
  /** Virtual network, 0 = none. */
  readonly vni: number;
}

/** The action `sample`. */
export interface FlowSample {
  readonly kind: 'flow';
  /** Of 65 535. */
  readonly probability: number;
  readonly collectorSetId: number;
  readonly obsDomainId: number;
  readonly obsPointId: number;
  /** Datapath port; 0xffffffff = none, the packet is sampled as it comes in. */
  readonly outputPort: number;
  /** NX_ACTION_SAMPLE_*: 0 default, 1 ingress, 2 egress. */
  readonly direction: number;
  /** The megaflow puts the packet out, somewhere. */
  readonly forwarded: boolean;
}

/** A packet-in to be: which controllers get it, why, and the pipeline's state at the action. */
export interface PacketInSpec {
  readonly bridge: XlateBridge;
  readonly reason: PacketInReason;
  readonly table: number;
  readonly cookie: bigint;
  readonly controllerId: number;
  /** Bytes of the packet to send. */
  readonly maxLen: number;
  readonly userdata: Uint8Array | undefined;
  /** Connection tracking has seen the packet in this bridge: its fields go along. */
  readonly conntracked: boolean;
  /** FLOW_SIZE bytes: only metadata fields (in_port, registers, tunnel …) are set. */
  readonly metadata: Uint8Array;
  /** controller(pause): how the pipeline goes on when the packet comes back. */
  readonly paused?: FrozenState;
  /** No packet-in, but a sample. */
  readonly sample?: Sample;
}

/** Keeps packet-in descriptions until the megaflows that name them are gone. */
export interface PacketInStore {
  /** Number for ACT_USERSPACE's cookie; 0 = store full. */
  add(spec: PacketInSpec): number;
}

/** The pipeline of a packet that will be recirculated, as it goes on afterwards (recirc.ts). Immutable. */
export interface FrozenState {
  readonly bridge: XlateBridge;
  /** Where the look-up goes on, unless there are `actions` to run. */
  readonly table: number;
  /** Connection tracking has seen the packet: its ct fields mean something. */
  readonly conntracked: boolean;
  /** FLOW_SIZE bytes: tunnel, metadata, registers, OpenFlow input port; the rest is zero. */
  readonly metadata: Uint8Array;
  readonly actionSet: readonly Action[];
  /** What remains to be run of an action list; empty: look up in `table`. */
  readonly actions: readonly Action[];
  /** stack_push values, the oldest first. */
  readonly stack: readonly Uint8Array[];
  /** Slots of the mirrors that the packet has gone to. */
  readonly mirrors?: number;
}

/** Keeps frozen pipelines until the megaflows that name them are gone. */
export interface RecircStore {
  /** Recirculation id for ACT_RECIRC; the caller uses it until it releases it. 0 = too many. */
  add(state: FrozenState): number;
}

/** ofproto/trace: a recirculation whose trace is still to be written. */
export interface RecircTrace {
  readonly id: number;
  readonly conntrack: boolean;
  /** FLOW_SIZE bytes: the flow with recirculation id and zone set. */
  readonly flow: Uint8Array;
  readonly nat: (Action & { type: 'nat' }) | undefined;
}

export type TraceType =
  | 'detail'
  | 'warn'
  | 'error'
  | 'info'
  | 'bridge'
  | 'table'
  | 'action'
  | 'thaw'
  | 'bucket';
export interface TraceNode {
  type: TraceType;
  text: string;
  subs: TraceNode[];
}

export interface MacEffect {
  bridge: XlateBridge;
  bundle: Bundle;
  mac: Uint8Array;
  vlan: number;
  gratuitousArp: boolean;
}

/** What every packet of the megaflow does besides being forwarded. */
/** A look-up in a flow table. */
export interface TableEffect {
  table: FlowTable;
  matched: boolean;
  /** What was found; undefined also where nothing was looked for. */
  rule: Rule | undefined;
  /** The packet's header was as it had come in. */
  pristine: boolean;
}

export interface Effects {
  rules: Rule[];
  /** Rules `from` … `to` - 1 see packets that are `bytes` longer: with a tunnel's outer headers. */
  outers: { from: number; to: number; bytes: number }[];
  tables: TableEffect[];
  macs: MacEffect[];
  learns: { flows: FlowOwner; mod: FlowMod; limit: number }[];
  /** Timeouts of rules once TCP connections end. */
  fins: { flows: FlowOwner; rule: Rule; idleTimeout: number; hardTimeout: number }[];
  /** Groups taken; no bucket: all of them. */
  groups: { group: Group; bucket: GroupBucket | undefined }[];
  /** Patch ports crossed: out of one, into the other. */
  patches: { tx: BridgePort; rx: BridgePort }[];
  /** Tunnel ports by which packets have come in, or gone out. */
  tunnels: { netdev: TunnelPort; received: boolean }[];
  /** Neighbours that a tunnel waits for: asked again while packets come. */
  solicits: { underlay: Underlay; route: TunnelRoute }[];
  /** Buckets of bonds that chose the output. */
  bonds: BondEntry[];
  /** Ports whose protocols want to know of traffic. */
  protocols: ProtocolPort[];
  bridges: Set<XlateBridge>;
  mirrors: Mirror[];
  /** MAC table answers that the result depends on: MacTable and key. */
  macQuestions: { macs: MacTable; key: string }[];
  packetIns: number[];
  /** Recirculation ids in the program. */
  recircs: number[];
  netflow: NetflowEffect | undefined;
}

/** Why a translation failed; the texts are those that ofproto/trace prints. */
export type XlateError =
  | 'Recursion too deep'
  | 'Too many resubmits'
  | 'Stack too deep'
  | 'Too many MPLS labels'
  | 'Unsupported packet type'
  | 'Forwarding disabled'
  | 'No recirculation context';

/** Records that a caller which translates often lends to each translation, one at a time. FLOW_SIZE bytes each. */
export interface XlateScratch {
  readonly flow: Uint8Array;
  readonly original: Uint8Array;
  readonly base: Uint8Array;
  readonly wildcards: Uint8Array;
  /** Views of flow and wildcards. */
  readonly flowWords: Int32Array;
  readonly originalWords: Int32Array;
  readonly wildcardWords: Int32Array;
  /** The first KEY_SIZE bytes of wildcards. */
  readonly keyWildcards: Uint8Array;
  /** Where effects are written, and what remains of them. */
  readonly results: ResultKeeper;
}

export interface XlateIn {
  readonly bridge: XlateBridge;
  /** FLOW_SIZE bytes with K_IN_PORT and F_IN_PORT set. Changed in place: afterwards the final flow. */
  readonly flow: Uint8Array;
  /** Packet-out: run these instead of looking into the tables. */
  readonly actions?: readonly Action[];
  readonly inPacketOut?: boolean;
  readonly packetIns: PacketInStore;
  /** Absent: actions that recirculate fail. */
  readonly recircs?: RecircStore | undefined;
  /** The packet comes out of a recirculation: `flow` has the state's metadata already. */
  readonly frozen?: FrozenState | undefined;
  /** Features of the data plane that have been switched off (dpFeatures.ts). */
  readonly features?: ReadonlyMap<string, boolean | number> | undefined;
  /** Absent: packets go into no tunnels. */
  readonly tunnels?: TunnelPorts | undefined;
  /** Timeout policy of a zone of connection tracking, 0 = default. */
  readonly timeoutPolicy?: ((zone: number) => number) | undefined;
  /** The frame, where one is at hand: protocols of ports hear of it. */
  readonly packet?: Uint8Array | undefined;
  /** Teach MAC tables now (a packet is at hand). */
  readonly learn: boolean;
  readonly trace?: TraceNode[];
  /** Hears what went wrong with the packet, where there is no trace: of which bridge, and the packet as it was then. */
  readonly onError?: ((text: string, bridge: XlateBridge, base: Uint8Array) => void) | undefined;
  /** ofproto/trace names the bridge in which the trace began, wherever the pipeline goes on. */
  readonly traceBridge?: XlateBridge;
  /** ofproto/trace: recirculations are added. */
  readonly recircTraces?: RecircTrace[];
  /** Lent records: `flow` is scratch.flow then, and the result's wildcards are scratch.wildcards. */
  readonly scratch?: XlateScratch;
  /** Text of actions and matches, needed only with `trace`. */
  readonly text?: XlateText;
}

export interface XlateText {
  actions(actions: readonly Action[]): string;
  match(rule: Rule): string;
  /** "NXM_NX_REG0[0..15] is now 0x1". */
  subfield(subfield: Subfield, flow: Uint8Array): string;
}

export interface XlateOut {
  /** Ends in ACT_END. */
  program: Uint32Array;
  /** FLOW_SIZE bytes: bits looked at, as Open vSwitch would show them. */
  wildcards: Uint8Array;
  effects: Effects;
  error: XlateError | undefined;
  /** Not to be kept as a megaflow: the next packet has to be translated anew. */
  passing: boolean;
  /** The program does not fit a megaflow: the control plane has to run it for each packet. */
  slow: boolean;
  /** SLOW_* (protocolPort.ts). */
  slowReasons: number;
}
