// Snapshot of the database → intent. Pure; the rules are those of ovs-vswitchd.conf.db(5), including what the real
// daemon does with values that make no sense (it ignores them or takes the default).

import type { Snapshot } from '../control/ovsdb/replica.ts';
import type {
  BridgeRow,
  ControllerRow,
  InterfaceRow,
  MirrorRow,
  PortRow,
} from '../control/ovsdb/tables.ts';
import type { VlanMode } from '../switch/types.ts';
import type {
  BridgeIntent,
  InterfaceIntent,
  MirrorIntent,
  PortIntent,
  QosIntent,
  SwitchIntent,
} from './intent.ts';
import { analyticsIntents, collectorSetIntents, numberAgents } from './intentAnalytics.ts';

const VLAN_MODES = new Set<string>([
  'access',
  'trunk',
  'native-tagged',
  'native-untagged',
  'dot1q-tunnel',
]);
const MAC = /^([0-9a-f]{2}:){5}[0-9a-f]{2}$/i;
const MAC_AGING_DEFAULT_S = 300;
const MAC_TABLE_DEFAULT = 8192;
const OVSDB_PORT = 6640;

function integer(text: string | undefined, fallback: number, min: number, max: number): number {
  if (text === undefined || !/^\s*[-+]?\d+/.test(text)) return fallback;
  return Math.min(Math.max(Number.parseInt(text, 10), min), max);
}

const nonEmpty = <T>(values: readonly T[]): readonly T[] | undefined =>
  values.length > 0 ? values : undefined;

/** A usable unicast Ethernet address, or undefined. */
export function unicastMac(text: string | undefined): string | undefined {
  if (text === undefined || !MAC.test(text)) return undefined;
  const mac = text.toLowerCase();
  const multicast = (Number.parseInt(mac.slice(0, 2), 16) & 1) !== 0;
  return multicast || mac === '00:00:00:00:00:00' ? undefined : mac;
}

function interfaceIntent(row: InterfaceRow): InterfaceIntent {
  const valid = (port: number | undefined): number | undefined =>
    port !== undefined && port >= 1 && port < 0xff00 ? port : undefined;
  return {
    uuid: row.uuid,
    name: row.name,
    type: row.type,
    options: row.options,
    otherConfig: row.other_config,
    mac: unicastMac(row.mac),
    attachedMac: unicastMac(row.external_ids['attached-mac']),
    mtuRequest: row.mtu_request,
    policing: {
      kbits: row.ingress_policing_rate,
      kbitsBurst: row.ingress_policing_burst,
      kpkts: row.ingress_policing_kpkts_rate,
      kpktsBurst: row.ingress_policing_kpkts_burst,
    },
    bfd: row.bfd,
    cfmMpid: row.cfm_mpid,
    ofportRequest: valid(row.ofport_request),
    ofport: valid(row.ofport),
  };
}

function qosIntent(snapshot: Snapshot, uuid: string | undefined): QosIntent | undefined {
  const row = snapshot.get('QoS', uuid);
  if (row === undefined || row.type === '') return undefined;
  const queues = new Map<number, Readonly<Record<string, string>>>();
  const marks = new Map<number, number>();
  for (const [id, uuid] of [...row.queues].sort(([a], [b]) => a - b)) {
    const { other_config: config = {}, dscp } = snapshot.get('Queue', uuid) ?? {};
    queues.set(id, config);
    if (dscp !== undefined) marks.set(id, dscp);
  }
  return { type: row.type, config: row.other_config, queues, dscp: marks };
}

function vlanMode(row: PortRow): VlanMode {
  if (row.vlan_mode !== undefined && VLAN_MODES.has(row.vlan_mode))
    return row.vlan_mode as VlanMode;
  if (row.tag === undefined) return 'trunk';
  // A tag with trunks was written for a native VLAN before there were modes.
  return row.trunks.length > 0 ? 'native-untagged' : 'access';
}

function portIntent(snapshot: Snapshot, row: PortRow): PortIntent {
  const mode = vlanMode(row);
  const tags = row.other_config['priority-tags'];
  const ethertype = row.other_config['qinq-ethtype'];
  return {
    uuid: row.uuid,
    name: row.name,
    vlanMode: mode,
    tag: mode === 'trunk' ? 0 : (row.tag ?? 0),
    trunks: mode === 'access' || mode === 'dot1q-tunnel' ? undefined : nonEmpty(row.trunks),
    cvlans: nonEmpty(row.cvlans),
    protected: row.protected,
    priorityTags:
      tags === 'always' ? 'always' : tags === 'true' || tags === 'if-nonzero' ? 'if-nonzero' : 'no',
    qinqEthertype: ethertype === '802.1q' ? 0x8100 : 0x88a8,
    bond: {
      name: row.name,
      bondMode: row.bond_mode,
      lacp: row.lacp,
      upDelayMs: row.bond_updelay,
      downDelayMs: row.bond_downdelay,
      activeMac: row.bond_active_slave,
      otherConfig: row.other_config,
    },
    qos: qosIntent(snapshot, row.qos),
    interfaces: snapshot
      .rows('Interface', row.interfaces)
      .map(interfaceIntent)
      .sort((a, b) => (a.name < b.name ? -1 : 1)),
  };
}

function controllerIntent(
  row: ControllerRow,
  mayBeInBand: boolean,
): BridgeIntent['controllers'][number] {
  return {
    uuid: row.uuid,
    target: row.target,
    type: row.type === 'primary' || row.type === 'service' ? row.type : undefined,
    maxBackoffMs: row.max_backoff,
    inactivityProbeMs: row.inactivity_probe,
    enableAsync: row.enable_async_messages,
    rateLimit: row.controller_rate_limit,
    burstLimit: row.controller_burst_limit,
    queueSize: row.controller_queue_size,
    connectionMode:
      (row.connection_mode ?? 'in-band') === 'in-band' && mayBeInBand ? 'in-band' : 'out-of-band',
  };
}

/** Manager rows that connect to an IPv4 address in-band. */
function managersInBand(snapshot: Snapshot): { host: string; port: number }[] {
  const managers = snapshot.rows('Manager', snapshot.root?.manager_options ?? []);
  return managers.flatMap(({ target, connection_mode: mode }) => {
    const [, host, port] = /^(?:tcp|ssl):(\d+\.\d+\.\d+\.\d+)(?::(\d+))?$/.exec(target) ?? [];
    if (host === undefined || mode === 'out-of-band') return [];
    return [{ host, port: Number(port ?? OVSDB_PORT) }];
  });
}

function mirrorIntent(snapshot: Snapshot, row: MirrorRow): MirrorIntent {
  const names = (uuids: readonly string[]): string[] =>
    snapshot.rows('Port', uuids).map((port) => port.name);
  return {
    uuid: row.uuid,
    name: row.name,
    outputPort: row.output_port === undefined ? undefined : names([row.output_port])[0],
    outputVlan: row.output_vlan,
    selectAll: row.select_all,
    sourcePorts: names(row.select_src_port),
    destinationPorts: names(row.select_dst_port),
    vlans: row.select_vlan,
    snaplen: row.snaplen ?? 0,
  };
}

function datapathId(text: string | undefined): bigint | undefined {
  // 16 hexadecimal digits, or fewer after 0x.
  if (text === undefined) return undefined;
  const digits = /^(?:0x([0-9a-f]{1,16})|([0-9a-f]{16}))$/i.exec(text);
  if (!digits) return undefined;
  const value = BigInt(`0x${digits[1] ?? digits[2]}`);
  return value === 0n ? undefined : value;
}

function bridgeIntent(
  snapshot: Snapshot,
  row: BridgeRow,
  root: Readonly<Record<string, string>>,
): BridgeIntent {
  const other = row.other_config;
  return {
    uuid: row.uuid,
    name: row.name,
    datapathType: row.datapath_type,
    failMode: row.fail_mode === 'secure' ? 'secure' : 'standalone',
    datapathId: datapathId(other['datapath-id']),
    hwaddr: unicastMac(other.hwaddr),
    protocols: row.protocols,
    controllers: snapshot
      .rows('Controller', row.controller)
      .map((controller) => controllerIntent(controller, other['disable-in-band'] !== 'true')),
    inBandManagers: other['disable-in-band'] === 'true' ? [] : managersInBand(snapshot),
    floodVlans: row.flood_vlans,
    macAgingSeconds: integer(other['mac-aging-time'], MAC_AGING_DEFAULT_S, 15, 3600),
    macTableSize: integer(other['mac-table-size'], MAC_TABLE_DEFAULT, 10, 1000000),
    forwardBpdu: other['forward-bpdu'] === 'true',
    stp: row.stp_enable && !row.rstp_enable,
    rstp: row.rstp_enable,
    mcastSnooping: row.mcast_snooping_enable,
    otherConfig: other,
    flowTables: new Map(
      [...row.flow_tables].flatMap(([table, uuid]) => {
        const settings = snapshot.get('Flow_Table', uuid);
        if (!settings) return [];
        return [
          [
            table,
            {
              name: settings.name,
              flowLimit: settings.flow_limit,
              overflowPolicy: settings.overflow_policy === 'evict' ? 'evict' : 'refuse',
              groups: settings.groups,
              prefixes: settings.prefixes,
            } as const,
          ] as const,
        ];
      }),
    ),
    bundleIdleTimeoutMs: 1000 * integer(root['bundle-idle-timeout'], 10, 1, 1_000_000),
    dpDesc: other['dp-desc'],
    dpSn: other['dp-sn'],
    ports: snapshot
      .rows('Port', row.ports)
      .map((port) => portIntent(snapshot, port))
      .sort((a, b) => (a.name < b.name ? -1 : 1)),
    mirrors: snapshot.rows('Mirror', row.mirrors).map((mirror) => mirrorIntent(snapshot, mirror)),
    collectorSets: collectorSetIntents(snapshot, row.uuid),
    ...analyticsIntents(snapshot, row),
  };
}

/** Columns that ask for what is not there: whoever relies on them, has to be told. */
function unsupportedOf(row: BridgeRow): string[] {
  const columns = {
    auto_attach: row.auto_attach !== undefined,
  };
  const asked = Object.entries(columns).filter(([, set]) => set);
  return asked.map(([column]) => `${row.name}: ${column}`);
}

/** Sockets are named after bridges. */
function isUsableName(name: string): boolean {
  return !/[/\\]/.test(name) && name !== '' && name !== '.' && name !== '..';
}

/** What the database asks for; undefined while it has not been initialized (no Open_vSwitch row). */
/** Of a database without a configuration. */
export const NOTHING: SwitchIntent = {
  nextCfg: 0,
  otherConfig: {},
  restoring: false,
  ssl: undefined,
  bridges: [],
  ignoredBridges: [],
  unsupported: [],
};

export function intentFrom(snapshot: Snapshot): SwitchIntent | undefined {
  const root = snapshot.root;
  if (!root) return undefined;
  const ssl = snapshot.get('SSL', root.ssl);
  const rows = snapshot.rows('Bridge', root.bridges);
  return {
    nextCfg: root.next_cfg,
    otherConfig: root.other_config,
    restoring: root.other_config['flow-restore-wait'] === 'true',
    ssl: ssl && {
      privateKey: ssl.private_key,
      certificate: ssl.certificate,
      caCert: ssl.ca_cert,
      bootstrapCaCert: ssl.bootstrap_ca_cert,
    },
    bridges: rows
      .filter(({ name }) => isUsableName(name))
      .map((row) => bridgeIntent(snapshot, row, root.other_config))
      .sort((a, b) => (a.name < b.name ? -1 : 1))
      .map(numberAgents()),
    unsupported: rows.flatMap(unsupportedOf).sort(),
    ignoredBridges: rows.map(({ name }) => name).filter((name) => !isUsableName(name)),
  };
}
