// What the operator wants, as one immutable value: made from a snapshot of the database by intentFrom (intentFrom.ts),
// compared with what exists by reconcile.ts. Names follow the columns of ovs-vswitchd.conf.db(5).

import type { ControllerConfig } from '../control/openflow/service.ts';
import type { SslConfig } from '../control/openflow/vconn.ts';
import type { BondRow } from '../switch/bond/settings.ts';
import type { FlowTableRow } from '../switch/flowMods.ts';
import type { VlanMode } from '../switch/types.ts';

/** A row of table QoS with its queues. Rows' other_config as they are. */
export interface QosIntent {
  type: string;
  config: Readonly<Record<string, string>>;
  queues: ReadonlyMap<number, Readonly<Record<string, string>>>;
  /** Queue.dscp by queue, where there is one. */
  dscp: ReadonlyMap<number, number>;
}

/** Interface.ingress_policing_*; a rate of 0 is no limit, a burst of 0 the default. */
export interface PolicingIntent {
  kbits: number;
  kbitsBurst: number;
  kpkts: number;
  kpktsBurst: number;
}

export interface InterfaceIntent {
  uuid: string;
  name: string;
  /** As in the database: '' for system devices. */
  type: string;
  options: Readonly<Record<string, string>>;
  otherConfig: Readonly<Record<string, string>>;
  mac: string | undefined;
  /** external_ids:attached-mac: the guest's own address, as orchestrators tell it. */
  attachedMac: string | undefined;
  mtuRequest: number | undefined;
  policing: PolicingIntent;
  bfd: Readonly<Record<string, string>>;
  cfmMpid: number | undefined;
  ofportRequest: number | undefined;
  /** What the database says from an earlier run: kept if free. */
  ofport: number | undefined;
}

export interface PortIntent {
  uuid: string;
  name: string;
  vlanMode: VlanMode;
  tag: number;
  trunks: readonly number[] | undefined;
  cvlans: readonly number[] | undefined;
  protected: boolean;
  priorityTags: 'no' | 'always' | 'if-nonzero';
  qinqEthertype: number;
  qos: QosIntent | undefined;
  /** Bonding and LACP. */
  bond: BondRow;
  interfaces: readonly InterfaceIntent[];
}

/** A row of table Mirror. Ports by name; those that are in no bridge are gone already. */
export interface MirrorIntent {
  uuid: string;
  name: string;
  outputPort: string | undefined;
  outputVlan: number | undefined;
  selectAll: boolean;
  sourcePorts: readonly string[];
  destinationPorts: readonly string[];
  /** Empty = all. */
  vlans: readonly number[];
  snaplen: number;
}

/** A row of table IPFIX. */
export interface ExporterIntent {
  targets: readonly string[];
  activeTimeoutS: number;
  maxFlows: number;
  virtualObsId: string | undefined;
  /** other_config:enable-tunnel-sampling. */
  tunnels: boolean;
}

/** A row of table Flow_Sample_Collector_Set with its row of table IPFIX. */
export interface CollectorSetIntent extends ExporterIntent {
  id: number;
}

/** Bridge.ipfix. */
export interface BridgeIpfixIntent extends ExporterIntent {
  obsDomainId: number;
  obsPointId: number;
  sampling: number;
  /** other_config:enable-input-sampling, enable-output-sampling. */
  input: boolean;
  output: boolean;
}

/** Bridge.sflow. */
export interface SflowIntent {
  targets: readonly string[];
  /** Device or address. */
  agent: string | undefined;
  /** Address of a connection to a controller. */
  controlIp: string | undefined;
  headerBytes: number;
  pollingS: number;
  sampling: number;
  /** Number among the bridges with sFlow. */
  subAgent: number;
}

/** Bridge.netflow. */
export interface NetflowIntent {
  targets: readonly string[];
  engineType: number;
  engineId: number;
  activeTimeoutS: number;
  addIdToInterface: boolean;
}

export interface BridgeIntent {
  uuid: string;
  name: string;
  datapathType: string;
  failMode: 'standalone' | 'secure';
  /** other_config:datapath-id, as a number. */
  datapathId: bigint | undefined;
  /** other_config:hwaddr. */
  hwaddr: string | undefined;
  protocols: readonly string[];
  controllers: readonly (ControllerConfig & { uuid: string })[];
  /** Managers of the database that are reached in-band, by IPv4 address. */
  inBandManagers: readonly { host: string; port: number }[];
  floodVlans: readonly number[];
  macAgingSeconds: number;
  macTableSize: number;
  forwardBpdu: boolean;
  /** Bridge.stp_enable; not together with `rstp`. */
  stp: boolean;
  rstp: boolean;
  mcastSnooping: boolean;
  otherConfig: Readonly<Record<string, string>>;
  /** Bridge.flow_tables. */
  flowTables: ReadonlyMap<number, FlowTableRow & { prefixes: readonly string[] }>;
  bundleIdleTimeoutMs: number | undefined;
  dpDesc: string | undefined;
  dpSn: string | undefined;
  ports: readonly PortIntent[];
  mirrors: readonly MirrorIntent[];
  collectorSets: readonly CollectorSetIntent[];
  ipfix: BridgeIpfixIntent | undefined;
  sflow: SflowIntent | undefined;
  netflow: NetflowIntent | undefined;
}

export interface SwitchIntent {
  nextCfg: number;
  otherConfig: Readonly<Record<string, string>>;
  /** other_config:flow-restore-wait: somebody is restoring flows; until then no packet misses and no controllers. */
  restoring: boolean;
  ssl: SslConfig | undefined;
  bridges: readonly BridgeIntent[];
  /** Names that could leave the run directory: such bridges are not made. */
  ignoredBridges: readonly string[];
  /** "br0: sflow": set in the database, and without effect here. */
  unsupported: readonly string[];
}
