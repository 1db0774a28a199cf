// The tables and columns of Open_vSwitch that a vswitchd reads and writes, with the TypeScript type
// of each: what the real daemon monitors (vswitchd/bridge.c; schema 8.3.1,
// ovs-vswitchd.conf.db(5)).
//
// A column is named by its kind, from which both its static type and its conversion follow:
//
//   string   integer   boolean   uuid    the value
//   string?  integer?  boolean?  uuid?   the value, or undefined
//   string*  integer*  uuid*             an array, sorted
//   string=>…                            an object
//   integer=>…                           a Map

import type { KindOf, KindValue } from './kinds.ts';

export const TABLES = {
  Open_vSwitch: {
    bridges: 'uuid*',
    cur_cfg: 'integer',
    datapath_types: 'string*',
    datapaths: 'string=>uuid',
    dpdk_initialized: 'boolean',
    dpdk_version: 'string?',
    iface_types: 'string*',
    manager_options: 'uuid*',
    next_cfg: 'integer',
    other_config: 'string=>string',
    ssl: 'uuid?',
    statistics: 'string=>string',
  },
  Bridge: {
    auto_attach: 'uuid?',
    controller: 'uuid*',
    datapath_id: 'string?',
    datapath_type: 'string',
    datapath_version: 'string',
    fail_mode: 'string?',
    flood_vlans: 'integer*',
    flow_tables: 'integer=>uuid',
    ipfix: 'uuid?',
    mcast_snooping_enable: 'boolean',
    mirrors: 'uuid*',
    name: 'string',
    netflow: 'uuid?',
    other_config: 'string=>string',
    ports: 'uuid*',
    protocols: 'string*',
    rstp_enable: 'boolean',
    rstp_status: 'string=>string',
    sflow: 'uuid?',
    status: 'string=>string',
    stp_enable: 'boolean',
  },
  Port: {
    bond_active_slave: 'string?',
    bond_downdelay: 'integer',
    bond_fake_iface: 'boolean',
    bond_mode: 'string?',
    bond_updelay: 'integer',
    cvlans: 'integer*',
    fake_bridge: 'boolean',
    interfaces: 'uuid*',
    lacp: 'string?',
    mac: 'string?',
    name: 'string',
    other_config: 'string=>string',
    protected: 'boolean',
    qos: 'uuid?',
    rstp_statistics: 'string=>integer',
    rstp_status: 'string=>string',
    statistics: 'string=>integer',
    status: 'string=>string',
    tag: 'integer?',
    trunks: 'integer*',
    vlan_mode: 'string?',
  },
  Interface: {
    admin_state: 'string?',
    bfd: 'string=>string',
    bfd_status: 'string=>string',
    cfm_fault: 'boolean?',
    cfm_fault_status: 'string*',
    cfm_flap_count: 'integer?',
    cfm_health: 'integer?',
    cfm_mpid: 'integer?',
    cfm_remote_mpids: 'integer*',
    cfm_remote_opstate: 'string?',
    duplex: 'string?',
    error: 'string?',
    external_ids: 'string=>string',
    ifindex: 'integer?',
    ingress_policing_burst: 'integer',
    ingress_policing_kpkts_burst: 'integer',
    ingress_policing_kpkts_rate: 'integer',
    ingress_policing_rate: 'integer',
    lacp_current: 'boolean?',
    link_resets: 'integer?',
    link_speed: 'integer?',
    link_state: 'string?',
    lldp: 'string=>string',
    mac: 'string?',
    mac_in_use: 'string?',
    mtu: 'integer?',
    mtu_request: 'integer?',
    name: 'string',
    ofport: 'integer?',
    ofport_request: 'integer?',
    options: 'string=>string',
    other_config: 'string=>string',
    statistics: 'string=>integer',
    status: 'string=>string',
    type: 'string',
  },
  Controller: {
    connection_mode: 'string?',
    controller_burst_limit: 'integer?',
    controller_queue_size: 'integer?',
    controller_rate_limit: 'integer?',
    enable_async_messages: 'boolean?',
    inactivity_probe: 'integer?',
    is_connected: 'boolean',
    local_gateway: 'string?',
    local_ip: 'string?',
    local_netmask: 'string?',
    max_backoff: 'integer?',
    other_config: 'string=>string',
    role: 'string?',
    status: 'string=>string',
    target: 'string',
    type: 'string?',
  },
  Mirror: {
    name: 'string',
    output_port: 'uuid?',
    output_vlan: 'integer?',
    select_all: 'boolean',
    select_dst_port: 'uuid*',
    select_src_port: 'uuid*',
    select_vlan: 'integer*',
    snaplen: 'integer?',
    statistics: 'string=>integer',
  },
  Datapath: {
    capabilities: 'string=>string',
    ct_zones: 'integer=>uuid',
    datapath_version: 'string',
    external_ids: 'string=>string',
  },
  CT_Zone: { external_ids: 'string=>string', timeout_policy: 'uuid?' },
  CT_Timeout_Policy: { external_ids: 'string=>string', timeouts: 'string=>integer' },
  QoS: { other_config: 'string=>string', queues: 'integer=>uuid', type: 'string' },
  Queue: { dscp: 'integer?', other_config: 'string=>string' },
  Flow_Table: {
    external_ids: 'string=>string',
    flow_limit: 'integer?',
    groups: 'string*',
    name: 'string?',
    overflow_policy: 'string?',
    prefixes: 'string*',
  },
  Flow_Sample_Collector_Set: { bridge: 'uuid', id: 'integer', ipfix: 'uuid?' },
  IPFIX: {
    cache_active_timeout: 'integer?',
    cache_max_flows: 'integer?',
    obs_domain_id: 'integer?',
    obs_point_id: 'integer?',
    other_config: 'string=>string',
    sampling: 'integer?',
    targets: 'string*',
  },
  NetFlow: {
    active_timeout: 'integer',
    add_id_to_interface: 'boolean',
    engine_id: 'integer?',
    engine_type: 'integer?',
    targets: 'string*',
  },
  sFlow: {
    agent: 'string?',
    header: 'integer?',
    polling: 'integer?',
    sampling: 'integer?',
    targets: 'string*',
  },
  SSL: {
    bootstrap_ca_cert: 'boolean',
    ca_cert: 'string',
    certificate: 'string',
    private_key: 'string',
  },
  Manager: { connection_mode: 'string?', other_config: 'string=>string', target: 'string' },
  AutoAttach: {
    mappings: 'integer=>integer',
    system_description: 'string',
    system_name: 'string',
  },
} as const satisfies Record<string, Record<string, KindOf>>;

export type TableName = keyof typeof TABLES;
export type TableColumns<T extends TableName> = {
  readonly [C in keyof (typeof TABLES)[T]]: (typeof TABLES)[T][C] extends KindOf
    ? KindValue<(typeof TABLES)[T][C]>
    : never;
};
/** A row of the replica. Immutable: a changed row is a new object. */
export type TableRow<T extends TableName> = { readonly uuid: string } & TableColumns<T>;

export type OpenVSwitchRow = TableRow<'Open_vSwitch'>;
export type BridgeRow = TableRow<'Bridge'>;
export type PortRow = TableRow<'Port'>;
export type InterfaceRow = TableRow<'Interface'>;
export type ControllerRow = TableRow<'Controller'>;
export type MirrorRow = TableRow<'Mirror'>;
export type DatapathRow = TableRow<'Datapath'>;

export const TABLE_NAMES = Object.keys(TABLES) as TableName[];

/**
 * Columns that the daemon writes itself: a change of these only is no change of the configuration.
 * As in the real daemon this holds for stp_enable, rstp_enable, trunks and vlan_mode only if it was
 * the daemon that wrote them, so they are not listed.
 */
export const STATUS_COLUMNS: { readonly [T in TableName]?: readonly string[] } = {
  Open_vSwitch: [
    'cur_cfg',
    'statistics',
    'datapath_types',
    'iface_types',
    'dpdk_version',
    'dpdk_initialized',
  ],
  Bridge: ['datapath_id', 'datapath_version', 'status', 'rstp_status'],
  Port: ['status', 'rstp_status', 'rstp_statistics', 'statistics', 'bond_active_slave'],
  Interface: [
    'admin_state',
    'duplex',
    'link_speed',
    'link_state',
    'link_resets',
    'mac_in_use',
    'ifindex',
    'mtu',
    'ofport',
    'statistics',
    'status',
    'cfm_fault',
    'cfm_fault_status',
    'cfm_remote_mpids',
    'cfm_flap_count',
    'cfm_health',
    'cfm_remote_opstate',
    'bfd_status',
    'lacp_current',
    'error',
  ],
  Controller: ['is_connected', 'role', 'status'],
  Mirror: ['statistics'],
  Datapath: ['capabilities', 'datapath_version'],
};
