// OpenFlow in abstract form: one vocabulary for all protocol versions. The codecs of this folder turn bytes of
// OpenFlow 1.0 … 1.5 (and Nicira extensions) into these values and back; nothing outside this folder knows versions'
// layouts. Numbers are those of the newest version: ports are 32-bit, port constants below.
// Whole messages (what decode returns and encode takes) are the union `Message` of messages.ts.

/** Key and mask are FLOW_SIZE bytes, laid out by contract/key.ts, network byte order. key & ~mask is always zero. */
export interface Match {
  readonly key: Uint8Array;
  readonly mask: Uint8Array;
}

export const OFPP_MAX = 0xffffff00;
export const OFPP_UNSET = 0xfffffff7;
export const OFPP_IN_PORT = 0xfffffff8;
export const OFPP_TABLE = 0xfffffff9;
export const OFPP_NORMAL = 0xfffffffa;
export const OFPP_FLOOD = 0xfffffffb;
export const OFPP_ALL = 0xfffffffc;
export const OFPP_CONTROLLER = 0xfffffffd;
export const OFPP_LOCAL = 0xfffffffe;
export const OFPP_NONE = 0xffffffff; // OFPP_ANY

/** Part of a field: `field` names an entry of fields.ts; bits [offset, offset + bits). */
export interface Subfield {
  field: string;
  offset: number;
  bits: number;
}

export type Action =
  | { type: 'output'; port: number; maxLen: number }
  | { type: 'output_reg'; source: Subfield; maxLen: number }
  | { type: 'output_trunc'; port: number; maxLen: number }
  | {
      type: 'controller';
      maxLen: number;
      controllerId: number;
      reason: number;
      userdata?: Uint8Array;
      pause?: boolean;
      meterId?: number;
    }
  | { type: 'enqueue'; port: number; queue: number }
  | { type: 'set_queue'; queue: number }
  | { type: 'pop_queue' }
  /** value and mask have the size of the field. All old set actions (mod_dl_src …) too; `legacy` keeps how it was written, for output. */
  | {
      type: 'set_field';
      field: string;
      value: Uint8Array;
      mask: Uint8Array;
      flowHasVlan?: boolean;
      legacy?: string;
      /** Came as NXAST_REG_LOAD2, and is sent as such before OpenFlow 1.5. */
      load2?: boolean;
    }
  | { type: 'load'; dst: Subfield; value: bigint }
  | { type: 'move'; src: Subfield; dst: Subfield }
  | { type: 'strip_vlan'; legacy?: boolean }
  | { type: 'push_vlan'; ethertype: number; legacy?: boolean }
  /** OF1.0 mod_vlan_vid / mod_vlan_pcp: push a header when there is none. */
  | { type: 'set_vlan_vid'; vid: number; pushIfNeeded: boolean; flowHasVlan?: boolean }
  | { type: 'set_vlan_pcp'; pcp: number; pushIfNeeded: boolean; flowHasVlan?: boolean }
  /** `explicitIds`: written as dec_ttl(0) even if that is the default. */
  | { type: 'dec_ttl'; controllerIds: number[]; explicitIds?: boolean }
  | { type: 'resubmit'; inPort: number; table: number; withCt?: boolean }
  | { type: 'group'; group: number }
  | { type: 'note'; data: Uint8Array }
  | { type: 'exit' }
  /** With --enable-dummy only: the packet recirculates, or takes the slow path, for nothing. */
  | { type: 'debug_recirc' }
  | { type: 'debug_slow' }
  | { type: 'dec_mpls_ttl' }
  | { type: 'dec_nsh_ttl' }
  | { type: 'push_mpls'; ethertype: number }
  | { type: 'pop_mpls'; ethertype: number }
  | { type: 'stack_push'; subfield: Subfield }
  | { type: 'stack_pop'; subfield: Subfield }
  | { type: 'fin_timeout'; idleTimeout: number; hardTimeout: number }
  | { type: 'conjunction'; id: number; clause: number; nClauses: number }
  | { type: 'clone'; actions: Action[] }
  /** flags: 1 commit, 2 force; table 255 = no recirculation; actions: nat, set_field, load and move of ct_mark, ct_label. */
  | {
      type: 'ct';
      flags: number;
      zone: number | Subfield;
      table: number;
      alg: number;
      actions: Action[];
    }
  /** flags: 1 src, 2 dst, 4 persistent, 8 hash, 16 random. Addresses have 4 or 16 bytes, ports 0 = none. */
  | {
      type: 'nat';
      flags: number;
      addressMin?: Uint8Array;
      addressMax?: Uint8Array;
      portMin: number;
      portMax: number;
    }
  | { type: 'ct_clear' }
  /** flags: 1 send_flow_removed, 2 delete_learned, 4 write result. */
  | {
      type: 'learn';
      idleTimeout: number;
      hardTimeout: number;
      finIdleTimeout: number;
      finHardTimeout: number;
      priority: number;
      cookie: bigint;
      flags: number;
      table: number;
      limit: number;
      resultDst?: Subfield;
      specs: LearnSpec[];
    }
  /** fields, algorithm: NX_HASH_FIELDS_*, NX_MP_ALG_*. */
  | {
      type: 'multipath';
      fields: number;
      basis: number;
      algorithm: number;
      maxLink: number;
      arg: number;
      dst: Subfield;
    }
  /** NX_BD_ALG_*: 0 active_backup, 1 hrw. With `dst` it is bundle_load. */
  | {
      type: 'bundle';
      fields: number;
      basis: number;
      algorithm: number;
      members: number[];
      dst?: Subfield;
    }
  /** direction: 0 default, 1 ingress, 2 egress. */
  | {
      type: 'sample';
      probability: number;
      collectorSetId: number;
      obsDomainId: number;
      obsPointId: number;
      samplingPort: number;
      direction: number;
    }
  | { type: 'check_pkt_larger'; pktLen: number; dst: Subfield }
  | { type: 'delete_field'; field: string }
  /** Packet types: name space << 16 | type. */
  | { type: 'encap'; packetType: number; properties?: readonly EncapProperty[] }
  | { type: 'decap'; packetType: number }
  /** Only behind a pause: actions from here on are those of a rule of this table, with this cookie. */
  /** Internal, too: the packet has its hash, and leaves by a member of the bond. */
  | { type: 'bond_output'; bundle: string }
  | { type: 'unroll_xlate'; table: number; cookie: bigint }
  // instructions of OpenFlow 1.1 and later, in the order in which they run
  | { type: 'meter'; meterId: number }
  | { type: 'clear_actions' }
  | { type: 'write_actions'; actions: Action[] }
  | { type: 'write_metadata'; metadata: bigint; mask: bigint }
  | { type: 'goto_table'; table: number };

/** What a network service header is to have: its type of metadata (1 or 2), and for type 2 the metadata. */
export type EncapProperty =
  | { kind: 'md_type'; mdType: number }
  | { kind: 'tlv'; tlvClass: number; tlvType: number; value: Uint8Array };

/** One line of a learned flow: match on, load into, or output to (dst absent) a field or constant. */
export interface LearnSpec {
  kind: 'match' | 'load' | 'output';
  bits: number;
  /** A field, or the constant `bits` wide. */
  src: Subfield | bigint;
  dst?: Subfield;
}

export type OfVersion = 1 | 2 | 3 | 4 | 5 | 6; // wire version: 1 = OpenFlow 1.0, 4 = 1.3, 5 = 1.4, 6 = 1.5

/** Thrown by decoders and by the switch: becomes OFPT_ERROR. Type and code by name (errors.ts maps them to numbers of each version). */
export class OfError extends Error {
  readonly code: string;
  /** `code` is Open vSwitch's name, for example 'OFPBMC_BAD_PREREQ'. */
  constructor(code: string, text?: string) {
    super(text ?? code);
    this.code = code;
  }
}

export type FlowModCommand = 'add' | 'modify' | 'modify_strict' | 'delete' | 'delete_strict';

export interface FlowMod {
  command: FlowModCommand;
  /** 0xff = all tables (delete) or the switch's choice (OpenFlow 1.0 add: table 0). */
  table: number;
  match: Match;
  priority: number;
  cookie: bigint;
  cookieMask: bigint;
  /** OF1.0: 0 with mask 0 and new cookie in newCookie; 1.1+: modify does not change the cookie unless Nicira says so. */
  newCookie: bigint;
  modifyCookie: boolean;
  idleTimeout: number;
  hardTimeout: number;
  importance: number;
  bufferId: number; // 0xffffffff = none
  outPort: number; // OFPP_NONE = any
  outGroup: number; // 0xffffffff = any
  flags: {
    sendFlowRem: boolean;
    checkOverlap: boolean;
    resetCounts: boolean;
    noPktCounts: boolean;
    noBytCounts: boolean;
    emergency?: boolean;
  };
  actions: Action[];
}

export interface PacketOut {
  bufferId: number;
  inPort: number;
  /** Metadata of OpenFlow 1.5 packet-outs; only in_port set otherwise. */
  match: Match;
  actions: Action[];
  data: Uint8Array;
}

export interface PortDesc {
  port: number;
  name: string;
  hwAddr: Uint8Array; // 6 bytes
  /** OFPPC_*: 1 down, 4 no_recv, 32 no_fwd, 64 no_packet_in, 16 no_flood, 2 no_stp, 8 no_recv_stp. */
  config: number;
  /** OFPPS_*: 1 link_down, 2 blocked, 4 live. */
  state: number;
  /** kbit/s. */
  currSpeed: number;
  maxSpeed: number;
  curr: number;
  advertised: number;
  supported: number;
  peer: number;
}

export interface PortStats {
  port: number;
  rxPackets: number;
  txPackets: number;
  rxBytes: number;
  txBytes: number;
  rxDropped: number;
  txDropped: number;
  rxErrors: number;
  txErrors: number;
  rxFrameErr: number;
  rxOverErr: number;
  rxCrcErr: number;
  collisions: number;
  durationMs: number;
  /** Nicira/Intel property blocks of OF1.4+: named custom counters. */
  custom?: Record<string, number>;
}

export interface FlowStatsEntry {
  table: number;
  match: Match;
  priority: number;
  cookie: bigint;
  durationMs: number;
  idleTimeout: number;
  hardTimeout: number;
  idleAge: number;
  hardAge: number;
  importance: number;
  flags: FlowMod['flags'];
  packets: bigint;
  bytes: bigint;
  actions: Action[];
}

export interface FlowStatsRequest {
  aggregate: boolean;
  table: number;
  match: Match;
  cookie: bigint;
  cookieMask: bigint;
  outPort: number;
  outGroup: number;
}

export interface FlowRemoved {
  match: Match;
  cookie: bigint;
  priority: number;
  reason: 'idle_timeout' | 'hard_timeout' | 'delete' | 'group_delete' | 'meter_delete' | 'eviction';
  table: number;
  durationMs: number;
  idleTimeout: number;
  hardTimeout: number;
  packets: bigint;
  bytes: bigint;
}

export type PacketInReason =
  | 'no_match'
  | 'action'
  | 'invalid_ttl'
  | 'action_set'
  | 'group'
  | 'packet_out'
  | 'explicit_miss'
  | 'implicit_miss';

export interface PacketIn {
  bufferId: number;
  totalLen: number;
  reason: PacketInReason;
  table: number;
  cookie: bigint;
  /** Metadata: OpenFlow in_port, registers, metadata, tunnel … */
  match: Match;
  data: Uint8Array;
  userdata?: Uint8Array;
  /** State of a paused pipeline, which the controller gives back (NXT_PACKET_IN2, NXT_RESUME). */
  continuation?: Continuation;
}

/** What the pipeline needs, besides a packet and its metadata, to go on behind controller(pause): continuation.ts. */
export interface Continuation {
  /** 16 bytes that name the bridge in this run of the switch; zeros: none. */
  bridge: Uint8Array;
  /** stack_push values, the newest first. */
  stack: Uint8Array[];
  /** Mirrors that the packet has gone to. */
  mirrors: number;
  /** Connection tracking has seen the packet: its ct fields mean something. */
  conntracked: boolean;
  actions: Action[];
  actionSet: Action[];
  /** Datapath port where the packet came in, 0 = unknown. */
  odpPort: number;
}
