// The nouns of the switch personality, shared by translation (src/switch) and the OpenFlow front-end
// (src/control/openflow). Behaviour lives elsewhere; this file only says what there is.

import type { Netdev } from '../port/types.ts';
import type { CtFlushMatch } from '../wire/openflow/ctFlush.ts';
import type { IpfixStats } from '../wire/openflow/ipfixStats.ts';
import type { TlvMapping } from '../wire/openflow/messages.ts';
import type {
  Action,
  FlowMod,
  Match,
  OfVersion,
  PacketIn,
  PortDesc,
} from '../wire/openflow/types.ts';
import type { Bond } from './bond/bond.ts';
import type { Place } from './classifier.ts';
import type { FlowEvent } from './flowMods.ts';
import type { GroupTable } from './groups.ts';
import type { MeterTable } from './meters.ts';
import type { Policers, QueueCounters } from './policing.ts';
import type { ProtocolPort } from './protocolPort.ts';
import type { TreeGate } from './spanningTree/gate.ts';

/** One OpenFlow flow. Identity (table, priority, match) never changes; the rest may be modified in place. */
export interface Rule {
  readonly table: number;
  readonly priority: number;
  readonly match: Match;
  cookie: bigint;
  actions: readonly Action[];
  idleTimeout: number;
  hardTimeout: number;
  importance: number;
  flags: FlowMod['flags'];
  createdMs: number;
  modifiedMs: number;
  /** Last packet, in the engine's clock. */
  usedMs: number;
  packets: number;
  bytes: number;
  /** Not shown to controllers and not counted (fail-open, in-band, table 254). */
  hidden: boolean;
  removed: boolean;
}

/** What packets do to flows: learn, fin_timeout. Implemented by src/switch/flowMods.ts. */
export interface FlowOwner {
  /** Makes or refreshes a learned flow. False: `limit` (0 = none) flows of this cookie are there. Throws OfError. */
  learn(mod: FlowMod, limit: number): boolean;
  /** True if the flow that the flow-mod makes is there. */
  hasLearned(mod: FlowMod): boolean;
  /** Lowers timeouts of a flow in seconds; 0 leaves one alone. */
  reduceTimeouts(rule: Rule, idleTimeout: number, hardTimeout: number): void;
}

/** The flows of one table. Implemented by src/switch/classifier.ts. */
export interface FlowTable {
  readonly id: number;
  readonly size: number;
  insert(rule: Rule): void;
  remove(rule: Rule): void;
  /** insert() in two steps: room for a match, where nothing is to be seen yet, and a rule put there (or not). */
  hold(match: Match): Place;
  /** The rule of this priority that is there already. */
  inPlace(place: Place, priority: number): Rule | undefined;
  put(place: Place, rule: Rule): void;
  release(place: Place): void;
  /** Same match and priority. */
  findStrict(match: Match, priority: number): Rule | undefined;
  /** All rules whose match is at least as specific as `match` (OpenFlow's loose matching). */
  findLoose(match: Match): Iterable<Rule>;
  /** A rule of the same priority that some packet could match together with `match`. */
  findOverlap(match: Match, priority: number): Rule | undefined;
  /**
   * Highest-priority rule for the flow; or-s into `wildcards` every bit that was looked at. `flowWords` and
   * `wildcardWords`: 32-bit views of the two, from callers that look up often.
   */
  lookup(
    flow: Uint8Array,
    wildcards: Uint8Array | undefined,
    flowWords?: Int32Array,
    wildcardWords?: Int32Array,
  ): Rule | undefined;
  [Symbol.iterator](): Iterator<Rule>;
  /** Lookups and hits, for OpenFlow table statistics. */
  lookups: number;
  matched: number;
}

export type VlanMode = 'access' | 'trunk' | 'native-tagged' | 'native-untagged' | 'dot1q-tunnel';

/** A Port row: one or more interfaces (a bond) with one VLAN configuration. */
export interface Bundle {
  name: string;
  ports: BridgePort[];
  vlanMode: VlanMode;
  /** Access or native VLAN, 0 = none. */
  tag: number;
  /** Allowed VLANs, undefined = all. */
  trunks: ReadonlySet<number> | undefined;
  cvlans: ReadonlySet<number> | undefined;
  protected: boolean;
  /** Port.other_config:priority-tags. */
  priorityTags: 'no' | 'always' | 'if-nonzero';
  qinqEthertype: number;
  /** How the interfaces act as one; undefined for a single interface. */
  bond?: Bond | undefined;
}

/** One interface of a bridge as an OpenFlow port. */
export interface BridgePort {
  readonly ofport: number;
  readonly name: string;
  readonly netdev: Netdev;
  /** Datapath port; -1 for patch ports. */
  readonly dpPort: number;
  /** Patch ports: name of the peer interface. */
  peer: string | undefined;
  bundle: Bundle;
  /** Description as sent to controllers; config bits are changed by port-mod. */
  desc: PortDesc;
  /** What the port's protocols (BFD, CFM, LACP) say: may it carry traffic? */
  mayEnable: boolean;
  /** Protocols that the port speaks itself. */
  protocols: ProtocolPort | undefined;
  /** What the spanning tree lets the port do; absent: it takes no part in one, and does everything. */
  tree?: TreeGate | undefined;
  createdMs: number;
  /** Rate limits in the data plane. */
  policers?: Policers;
  /** DSCP that the packets of a queue leave with (Queue.dscp). */
  queueDscp?: ReadonlyMap<number, number>;
  /** Queues of the port's QoS, in order, with counters where there are some; absent: as the device says. */
  queues?: () => ReadonlyMap<number, QueueCounters | undefined>;
}

/** A packet-out that has been translated; one of the two is called, once. */
export interface PreparedPacketOut {
  send(): void;
  discard(): void;
}

/** What the OpenFlow front-end gets from a bridge. Implemented by src/switch/bridge.ts. */
export interface Bridge {
  readonly name: string;
  /** 8 bytes. */
  datapathId: bigint;
  failMode: 'standalone' | 'secure';
  /** Tables 0 … 253 for controllers, 254 hidden. */
  readonly tables: readonly FlowTable[];
  readonly ports: ReadonlyMap<number, BridgePort>;
  readonly groups: GroupTable;
  /** Set by the owner of the flow tables. */
  flows?: FlowOwner;
  /** Absent where there is no data plane. */
  readonly meters?: MeterTable;
  /** Some controller is configured. Set by the OpenFlow front-end. */
  hasControllers?: boolean;
  /** Some controller is reached through the bridge: the local port gets its DHCP replies. Set by the OpenFlow front-end. */
  hasInBand?: boolean;
  /** Tell the switch that flows (or ports' config) changed: cached decisions are looked at again, all or those that `events` may touch. */
  flowsChanged(events?: readonly FlowEvent[]): void;
  /** Resolves when no packet can meet a state older than the call. */
  settled(): Promise<void>;
  /** Brings the counters of all rules up to date with the data plane. */
  syncStats(): void;
  /** Executes a packet-out; throws OfError. `version`: its protocol, as in checkActions. */
  packetOut(
    inPort: number,
    match: Match | undefined,
    actions: readonly Action[],
    data: Uint8Array,
    version?: OfVersion,
  ): void;
  /**
   * The same in two steps, for bundles: the packet goes through the tables as they are now, and out (or nowhere) when
   * the bundle's fate is known. Absent: packetOut has to do.
   */
  preparePacketOut?(
    inPort: number,
    match: Match | undefined,
    actions: readonly Action[],
    data: Uint8Array,
    version?: OfVersion,
  ): PreparedPacketOut;
  /** NXT_RESUME: a packet that controller(pause) has stopped goes on; throws OfError. Absent where there is no data plane. */
  resume?(packet: PacketIn): void;
  /** Where packet-ins of this bridge go: set by the OpenFlow front-end. */
  onPacketIn: ((packet: PacketIn, controllerId: number) => void) | undefined;
  /** Which Geneve options tun_metadata0 … 63 are. Set by the OpenFlow front-end. */
  tlvMappings?: (() => readonly TlvMapping[]) | undefined;
  /** OFPC_FRAG_*: 0 normal, 1 drop, 3 nx-match. Absent = 0. Set by the OpenFlow front-end, which then calls flowsChanged(). */
  fragHandling?: number;
  /** Some controller wants packets that match no flow (OpenFlow 1.0 … 1.2). Set by the OpenFlow front-end. */
  wantsPacketInOnMiss?: boolean;
  /** OFPTC11_TABLE_MISS_* of a table: 0 default, 1 continue, 2 drop. Set by the OpenFlow front-end. */
  tableMissConfig?: ((table: number) => number) | undefined;
  /**
   * Forgets tracked connections: of a zone (undefined = all), and those that match. Absent where there is no data plane.
   */
  ctFlush?(zone: number | undefined, match?: CtFlushMatch): void;
  /** Statistics of the bridge's IPFIX exporter, or of those of flows; undefined if there is none. Absent = none. */
  readonly ipfixStats?: ((kind: 'bridge' | 'flow') => IpfixStats[] | undefined) | undefined;
  /** Milliseconds, the engine's clock. */
  nowMs(): number;
}
