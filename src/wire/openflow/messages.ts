// All OpenFlow messages in abstract form: what decode() returns and encode() takes. One vocabulary for OpenFlow
// 1.0 … 1.5 with the Nicira and ONF extensions; which bytes a message becomes is the codec's business alone.
//
//   decode(bytes, { tableId }) → { xid, version, message }     throws OfError
//   encode(version, xid, message) → Uint8Array[]               several when a multipart reply exceeds 64 KiB
//
// `nxt` on a request says that it came as a Nicira extension message (NXST_FLOW …), and on a reply that it has to
// be sent as one. `more` on a multipart reply says that the caller will send further parts with the same xid.

import type { ActionLists } from './actionLists.ts';
import type { CtFlushMatch } from './ctFlush.ts';
import type { IpfixStats } from './ipfixStats.ts';
import type {
  Action,
  FlowMod,
  FlowRemoved,
  FlowStatsEntry,
  FlowStatsRequest,
  Match,
  OfVersion,
  PacketIn,
  PacketOut,
  PortDesc,
  PortStats,
} from './types.ts';

/** How packet-ins are sent: OFPT_PACKET_IN of the version, NXT_PACKET_IN, NXT_PACKET_IN2. */
export type PacketInFormat = 'standard' | 'nxt_packet_in' | 'nxt_packet_in2';

export type Role = 'nochange' | 'other' | 'primary' | 'secondary';

/** Masks of asynchronous messages, one bit per reason (1 << OFPR_*, OFPPR_*, OFPRR_* …). */
export interface AsyncMasks {
  packetIn: number;
  portStatus: number;
  flowRemoved: number;
  roleStatus: number;
  tableStatus: number;
  requestForward: number;
}

/** Bits of OFPT_FEATURES_REPLY that are the same in all versions: OFPC_*. */
export interface SwitchFeatures {
  datapathId: bigint;
  nBuffers: number;
  nTables: number;
  auxiliaryId: number;
  flowStats: boolean;
  tableStats: boolean;
  portStats: boolean;
  queueStats: boolean;
  /** OpenFlow 1.1 and later. */
  groupStats: boolean;
  /** OpenFlow 1.0 and 1.1: OFPC_ARP_MATCH_IP. */
  arpMatchIp: boolean;
  bundles: boolean;
  flowMonitoring: boolean;
  /** OpenFlow 1.0 … 1.2 only (1.3 and later: port description). */
  ports: PortDesc[];
}

export interface TableStats {
  table: number;
  name: string;
  activeCount: number;
  lookupCount: bigint;
  matchedCount: bigint;
  maxEntries: number;
}

/** What OpenFlow 1.3+ says about one table; the sets of fields and actions are the codec's (all that Open vSwitch has). */
export interface TableFeatures {
  table: number;
  name: string;
  maxEntries: number;
  metadataMatch: bigint;
  metadataWrite: bigint;
  /** Tables that goto_table may name are table + 1 … nTables - 1. */
  nTables: number;
  eviction: boolean;
  vacancyEvents: boolean;
  missConfig: number;
}

export interface TableDesc {
  table: number;
  eviction: boolean;
  /** OFPTMPEF_*. */
  evictionFlags: number;
  /** Undefined: no vacancy events. */
  vacancy: (VacancyThresholds & { nowPercent: number }) | undefined;
}

/** Percent of a table that are free, below and above which its controllers hear of it. */
export interface VacancyThresholds {
  downPercent: number;
  upPercent: number;
}

export interface QueueStats {
  port: number;
  queue: number;
  txBytes: bigint;
  txPackets: bigint;
  txErrors: bigint;
  durationMs: number;
}

export interface QueueDesc {
  port: number;
  queue: number;
  /** Tenths of a percent, undefined = not set. */
  minRate?: number;
  maxRate?: number;
}

export interface MeterFeatures {
  maxMeters: number;
  bandTypes: number;
  capabilities: number;
  maxBands: number;
  maxColor: number;
}

export interface GroupFeatures {
  types: number;
  capabilities: number;
  /** For each group type: all, select, indirect, fast failover. */
  maxGroups: number[];
  /** One bit per action number of ofp_action_type. */
  actions: number[];
}

/** One way that a packet may take through a group. */
export interface Bucket {
  id: number;
  /** Only of select groups. */
  weight: number;
  /** OFPP_NONE: does not matter. */
  watchPort: number;
  /** OFPG_ANY (all ones): does not matter. */
  watchGroup: number;
  /** An action set. */
  actions: Action[];
}

/** Netronome's group property: how a select group chooses its bucket. */
export interface GroupSelection {
  method: 'hash' | 'dp_hash';
  /** dp_hash: algorithm in the upper, basis in the lower half; hash: basis. */
  param: bigint;
  /** hash: fields and the bits of them that count. */
  fields: { field: string; mask: Uint8Array }[];
}

export interface GroupDesc {
  group: number;
  /** OFPGT_*: 0 all, 1 select, 2 indirect, 3 fast failover. */
  groupType: number;
  buckets: Bucket[];
  selection?: GroupSelection;
}

export interface GroupMod extends GroupDesc {
  /** OFPGC_*. */
  command: number;
  /** The bucket behind which to insert, or to remove; else BUCKET_ALL. */
  commandBucket: number;
}

export interface GroupStats {
  group: number;
  /** Flows that name the group. */
  refCount: number;
  packets: bigint;
  bytes: bigint;
  durationMs: number;
  buckets: { packets: bigint; bytes: bigint }[];
}

export interface MeterBand {
  /** 1 drop, 2 dscp_remark. */
  type: number;
  /** kbit/s or packets a second. */
  rate: number;
  /** kbit or packets. */
  burstSize: number;
  precLevel: number;
}

export interface MeterConfig {
  meterId: number;
  /** OFPMF_*. */
  flags: number;
  bands: MeterBand[];
}

export interface MeterStats {
  meterId: number;
  flowCount: number;
  packets: bigint;
  bytes: bigint;
  durationMs: number;
  bands: { packets: bigint; bytes: bigint }[];
}

/** Flags NXFMF_*: what a monitor wants to hear. */
export interface MonitorFlags {
  initial: boolean;
  add: boolean;
  delete: boolean;
  modify: boolean;
  actions: boolean;
  own: boolean;
}

export interface FlowMonitorRequest {
  id: number;
  command: 'add' | 'modify' | 'delete';
  flags: MonitorFlags;
  /** NXFMF_OWN / OFPFMF_ONLY_OWN and OFPFMF_NO_ABBREV as sent. */
  noAbbrev: boolean;
  onlyOwn: boolean;
  outPort: number;
  outGroup: number;
  /** 0xff = all. */
  table: number;
  match: Match;
}

export type FlowUpdate =
  | { event: 'initial' | 'added' | 'modified'; flow: FlowUpdateFlow }
  | { event: 'removed'; flow: FlowUpdateFlow; reason: FlowRemoved['reason'] }
  /** The flow-mod `xid` of this very connection took effect. */
  | { event: 'abbrev'; xid: number };

export interface FlowUpdateFlow {
  table: number;
  priority: number;
  idleTimeout: number;
  hardTimeout: number;
  cookie: bigint;
  match: Match;
  /** Absent when the monitor did not ask for actions. */
  actions?: readonly Action[];
}

export type BundleControlType =
  | 'open_request'
  | 'open_reply'
  | 'close_request'
  | 'close_reply'
  | 'commit_request'
  | 'commit_reply'
  | 'discard_request'
  | 'discard_reply';

export interface TlvMapping {
  optionClass: number;
  optionType: number;
  optionLen: number;
  index: number;
  /** Where the option lies in F_TUN_METADATA, in bytes; packed in order of index when the owner does not say. */
  offset?: number;
}

export interface PortMod {
  port: number;
  hwAddr: Uint8Array;
  config: number;
  mask: number;
  advertise: number;
}

export type Message =
  /** Bit n = version n; undefined when the message holds no version bitmap. */
  | { type: 'hello'; bitmap?: number }
  /** Decoded: `code` is '' when the numbers are unknown. */
  | { type: 'error'; code: string; errorType?: number; errorCode?: number; data: Uint8Array }
  | { type: 'echo_request'; data: Uint8Array }
  | { type: 'echo_reply'; data: Uint8Array }
  | { type: 'features_request' }
  | { type: 'features_reply'; features: SwitchFeatures }
  | { type: 'get_config_request' }
  | { type: 'get_config_reply'; flags: number; missSendLen: number }
  | { type: 'set_config'; flags: number; missSendLen: number }
  | { type: 'packet_in'; format: PacketInFormat; packetIn: PacketIn }
  | { type: 'packet_out'; packetOut: PacketOut }
  /** `nxt`: OpenFlow 1.0 with NXM (NXT_FLOW_REMOVED). */
  | { type: 'flow_removed'; nxt: boolean; flowRemoved: FlowRemoved }
  | { type: 'port_status'; reason: 'add' | 'delete' | 'modify'; port: PortDesc }
  | { type: 'flow_mod'; nxt: boolean; flowMod: FlowMod }
  | { type: 'port_mod'; portMod: PortMod }
  /** `config`: OFPTC11_*, OFPTC14_*. Thresholds are undefined when the version or the configuration has none. */
  | {
      type: 'table_mod';
      table: number;
      config: number;
      evictionFlags: number | undefined;
      vacancy: VacancyThresholds | undefined;
    }
  /** The free space of a table crossed a threshold (OpenFlow 1.4+). */
  | { type: 'table_status'; reason: 'down' | 'up'; desc: TableDesc }
  | ({ type: 'group_mod' } & GroupMod)
  | ({ type: 'meter_mod'; command: number } & MeterConfig)
  | { type: 'barrier_request' }
  | { type: 'barrier_reply' }
  | { type: 'role_request'; role: Role; generationId?: bigint; nxt: boolean }
  | { type: 'role_reply'; role: Role; generationId?: bigint; nxt: boolean }
  | { type: 'role_status'; role: Role; reason: number; generationId: bigint }
  /** A group-mod or meter-mod of another controller, with the number that it had. */
  | { type: 'requestforward'; xid: number; message: Message }
  | { type: 'get_async_request' }
  /** Index 0: masks as primary or other, 1: as secondary. */
  | { type: 'get_async_reply'; masks: [AsyncMasks, AsyncMasks] }
  /** Fields that the message does not name are absent. */
  | { type: 'set_async'; masks: [Partial<AsyncMasks>, Partial<AsyncMasks>] }
  // ---- multipart (statistics)
  | { type: 'desc_request' }
  | {
      type: 'desc_reply';
      mfr: string;
      hw: string;
      sw: string;
      serial: string;
      dp: string;
    }
  | { type: 'flow_stats_request'; nxt: boolean; request: FlowStatsRequest }
  | { type: 'flow_stats_reply'; nxt: boolean; entries: FlowStatsEntry[]; more?: boolean }
  | { type: 'aggregate_request'; nxt: boolean; request: FlowStatsRequest }
  | { type: 'aggregate_reply'; nxt: boolean; packets: bigint; bytes: bigint; flows: number }
  | { type: 'table_stats_request' }
  | { type: 'table_stats_reply'; tables: TableStats[] }
  /** `tables` is what a controller wants to set, in several messages if `more`; empty: it only asks. */
  | {
      type: 'table_features_request';
      setsFeatures: boolean;
      tables?: TableFeatures[];
      more?: boolean;
    }
  | { type: 'table_features_reply'; tables: TableFeatures[] }
  | { type: 'table_desc_request' }
  | { type: 'table_desc_reply'; tables: TableDesc[] }
  | { type: 'port_stats_request'; port: number }
  | { type: 'port_stats_reply'; ports: PortStats[] }
  /** `port` is OFPP_NONE before OpenFlow 1.5. */
  | { type: 'port_desc_request'; port: number }
  | { type: 'port_desc_reply'; ports: PortDesc[] }
  /** OFPP_NONE / 0xffffffff = all. */
  | { type: 'queue_stats_request'; port: number; queue: number }
  | { type: 'queue_stats_reply'; queues: QueueStats[] }
  /** OFPT_QUEUE_GET_CONFIG_REQUEST, from 1.4 OFPMP_QUEUE_DESC. */
  | { type: 'queue_desc_request'; port: number; queue: number }
  | { type: 'queue_desc_reply'; port: number; queues: QueueDesc[] }
  | { type: 'group_stats_request'; group: number; nxt?: boolean }
  | { type: 'group_stats_reply'; groups: GroupStats[]; nxt?: boolean }
  | { type: 'group_desc_request'; group: number; nxt?: boolean }
  | { type: 'group_desc_reply'; groups: GroupDesc[]; nxt?: boolean }
  | { type: 'group_features_request'; nxt?: boolean }
  | { type: 'group_features_reply'; features: GroupFeatures; nxt?: boolean }
  | { type: 'meter_stats_request'; meterId: number }
  | { type: 'meter_stats_reply'; meters: MeterStats[] }
  | { type: 'meter_config_request'; meterId: number }
  | { type: 'meter_config_reply'; meters: MeterConfig[] }
  | { type: 'meter_features_request' }
  | { type: 'meter_features_reply'; features: MeterFeatures }
  | { type: 'flow_monitor_request'; requests: FlowMonitorRequest[] }
  | { type: 'flow_monitor_reply'; updates: FlowUpdate[]; more?: boolean }
  | { type: 'flow_monitor_cancel'; id: number }
  | { type: 'flow_monitor_paused' }
  | { type: 'flow_monitor_resumed' }
  // ---- bundles
  | { type: 'bundle_control'; bundleId: number; control: BundleControlType; flags: number }
  /** `message` is decoded by the codec like a message of its own. */
  | { type: 'bundle_add'; bundleId: number; flags: number; xid: number; message: Message }
  // ---- Nicira
  | { type: 'ipfix_bridge_request' }
  | { type: 'ipfix_bridge_reply'; stats: IpfixStats }
  | { type: 'ipfix_flow_request' }
  | { type: 'ipfix_flow_reply'; stats: IpfixStats[] }
  | { type: 'set_flow_format'; format: 'openflow10' | 'nxm' }
  | { type: 'flow_mod_table_id'; enable: boolean }
  | { type: 'set_packet_in_format'; format: PacketInFormat }
  | { type: 'set_controller_id'; controllerId: number }
  | { type: 'flow_age' }
  | { type: 'tlv_table_mod'; command: 'add' | 'delete' | 'clear'; mappings: TlvMapping[] }
  | { type: 'tlv_table_request' }
  | { type: 'tlv_table_reply'; maxSpace: number; maxFields: number; mappings: TlvMapping[] }
  | { type: 'resume'; packetIn: PacketIn }
  | { type: 'ct_flush_zone'; zone: number }
  /** Zone -1 = all; no match = all connections. */
  | { type: 'ct_flush'; zone: number; match?: CtFlushMatch };

export type MessageType = Message['type'];

export interface Decoded {
  xid: number;
  version: OfVersion;
  message: Message;
}

export interface DecodeOptions {
  /** NXT_FLOW_MOD_TABLE_ID is on: the upper 8 bits of an OpenFlow 1.0 flow-mod's command are the table. */
  tableId?: boolean;
  /** The TLV table of the bridge: what tun_metadataN means. */
  tlvs?: readonly TlvMapping[];
  /** For flow tables: matches of flow-mods are packed (packedMatch.ts). */
  packed?: boolean;
  /** Equal lists of actions are taken from here, as one. */
  actionLists?: ActionLists;
  /** Actions of the test suite are known, too. */
  debugActions?: boolean;
}
