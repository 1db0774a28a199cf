// Multipart requests (1.5.1 §7.3.5; "statistics" before 1.3): what the switch is and what it has counted. Replies
// that can be long are made in slices, so that a dump of 100 000 flows delays nobody else.

import { isHidden } from '../../switch/flowModsRules.ts';
import { HIDDEN_TABLE } from '../../switch/tableNumbers.ts';
import type { Bridge, Rule } from '../../switch/types.ts';
import { encode } from '../../wire/openflow/message.ts';
import type { TableFeatures } from '../../wire/openflow/messages.ts';
import { type FlowStatsEntry, OfError } from '../../wire/openflow/types.ts';
import type { OfSwitch } from './context.ts';
import type { HandlerTable } from './handlers.ts';
import { portStats, selectPorts, selectQueues } from './portHandlers.ts';
import { flowStatsHeaderBytes, ReplyPacker } from './replyPacker.ts';

/** Flows that are described before others get their turn. */
const FLOWS_PER_SLICE = 256;
/** Flows that a table is said to hold when nothing limits it. */
const MAX_ENTRIES = 1_000_000;
/** More than a request can name in earnest. */
const MAX_TABLE_FEATURES = 512;
const ALL_ONES_64 = 0xffffffffffffffffn;
const MAX_AGE_S = 0xffff;

export const statsHandlers: HandlerTable = {
  desc_request(ofSwitch, request) {
    request.conn.reply({ type: 'desc_reply', ...ofSwitch.desc }, request);
  },

  async flow_stats_request(ofSwitch, request, { nxt, request: criteria }) {
    const { bridge, tables } = ofSwitch;
    bridge.syncStats();
    const rules = tables.select(criteria);
    const { conn, xid, version } = request;
    const packer = new ReplyPacker(flowStatsHeaderBytes(version, nxt), (bytes) => {
      conn.sendBytes(bytes);
    });
    const skipped = (): void => ofSwitch.flowTooLong();
    let start = 0;
    do {
      const slice = rules.slice(start, start + FLOWS_PER_SLICE);
      start += FLOWS_PER_SLICE;
      // Rules that went meanwhile are told as they were: the reply is one moment's state as far as it can be.
      const entries = slice.map((rule) => flowStats(rule, bridge.nowMs()));
      const reply = { type: 'flow_stats_reply', nxt, entries } as const;
      for (const part of encode(version, xid, reply, { tlvs: conn.tlvs, skipped }))
        packer.add(part);
      if (start >= rules.length) {
        packer.finish();
        return;
      }
      await new Promise((resolve) => setImmediate(resolve));
      await conn.rconn.writable();
    } while (!conn.closed);
  },

  aggregate_request({ bridge, tables }, request, { nxt, request: criteria }) {
    bridge.syncStats();
    let packets = 0;
    let bytes = 0;
    const rules = tables.select(criteria);
    for (const rule of rules) {
      packets += rule.packets;
      bytes += rule.bytes;
    }
    request.conn.reply(
      {
        type: 'aggregate_reply',
        nxt,
        packets: BigInt(packets),
        bytes: BigInt(bytes),
        flows: rules.length,
      },
      request,
    );
  },

  table_stats_request({ bridge, tables }, request) {
    bridge.syncStats();
    const stats = visibleTables(bridge).map((table) => ({
      table: table.id,
      name: tables.config[table.id].name,
      activeCount: table.size - hiddenRules(table),
      lookupCount: BigInt(table.lookups),
      matchedCount: BigInt(table.matched),
      maxEntries: Math.min(MAX_ENTRIES, tables.config[table.id].flowLimit),
    }));
    request.conn.reply({ type: 'table_stats_reply', tables: stats }, request);
  },

  table_features_request(ofSwitch, request, { tables = [], more = false }) {
    const { conn } = request;
    const wanted = [...conn.tableFeatures, ...tables];
    conn.tableFeatures = more ? wanted.slice(0, MAX_TABLE_FEATURES) : [];
    if (more) return;
    if (wanted.length > 0) setTableNames(ofSwitch, wanted);
    conn.reply({ type: 'table_features_reply', tables: tableFeatures(ofSwitch) }, request);
  },

  port_stats_request(ofSwitch, request, { port }) {
    const now = ofSwitch.bridge.nowMs();
    const ports = selectPorts(ofSwitch, port).map((one) => portStats(one, now));
    request.conn.reply({ type: 'port_stats_reply', ports }, request);
  },

  port_desc_request(ofSwitch, request, { port }) {
    const ports = selectPorts(ofSwitch, port).map((one) => one.desc);
    request.conn.reply({ type: 'port_desc_reply', ports }, request);
  },

  queue_stats_request(ofSwitch, request, { port, queue }) {
    const big = (count: number | undefined): bigint => (count === undefined ? -1n : BigInt(count));
    const queues = selectQueues(ofSwitch, port, queue).map((one) => ({
      port: one.port,
      queue: one.queue,
      txBytes: big(one.counters?.txBytes),
      txPackets: big(one.counters?.txPackets),
      txErrors: big(one.counters?.txErrors),
      durationMs: -1,
    }));
    request.conn.reply({ type: 'queue_stats_reply', queues }, request);
  },

  ipfix_bridge_request({ bridge }, request) {
    const [stats] = bridge.ipfixStats?.('bridge') ?? [];
    if (stats === undefined) throw new OfError('NXST_NOT_CONFIGURED');
    request.conn.reply({ type: 'ipfix_bridge_reply', stats }, request);
  },

  ipfix_flow_request({ bridge }, request) {
    const stats = bridge.ipfixStats?.('flow') ?? [];
    if (stats.length === 0) throw new OfError('NXST_NOT_CONFIGURED');
    request.conn.reply({ type: 'ipfix_flow_reply', stats }, request);
  },

  queue_desc_request(ofSwitch, request, { port, queue }) {
    const queues = selectQueues(ofSwitch, port, queue).map((one) => ({
      port: one.port,
      queue: one.queue,
    }));
    request.conn.reply({ type: 'queue_desc_reply', port, queues }, request);
  },
};

function visibleTables(bridge: Bridge): Bridge['tables'] {
  return bridge.tables.filter((table) => table.id !== HIDDEN_TABLE);
}

/** The switch's own rules are not the controller's business. They are few, and all in table 0. */
function hiddenRules(table: Bridge['tables'][number]): number {
  if (table.id !== 0) return 0;
  let hidden = 0;
  for (const rule of table) if (isHidden(rule)) hidden++;
  return hidden;
}

/** Our tables are what they are: all that a controller may change is their names. All of them or none. */
function setTableNames({ bridge, tables }: OfSwitch, wanted: readonly TableFeatures[]): void {
  const seen = new Set<number>();
  for (const { table, name, maxEntries } of wanted) {
    const config = tables.config[table];
    if (seen.has(table)) throw new OfError('NXTFFC_DUP_TABLE');
    seen.add(table);
    if (config === undefined || table >= bridge.tables.length - 1)
      throw new OfError('OFPTFFC_EPERM');
    if (maxEntries !== Math.min(MAX_ENTRIES, config.flowLimit)) throw new OfError('OFPTFFC_EPERM');
    // The administrator's name stands.
    if (config.nameFromDatabase && config.name !== name) throw new OfError('OFPTFFC_EPERM');
  }
  for (const { table, name } of wanted) tables.config[table].name = name;
}

function tableFeatures({ bridge, tables }: OfSwitch): TableFeatures[] {
  return visibleTables(bridge).map((table) => ({
    table: table.id,
    name: tables.config[table.id].name,
    maxEntries: Math.min(MAX_ENTRIES, tables.config[table.id].flowLimit),
    metadataMatch: ALL_ONES_64,
    metadataWrite: ALL_ONES_64,
    nTables: bridge.tables.length - 1,
    eviction: tables.config[table.id].evictByOpenFlow,
    vacancyEvents: false,
    missConfig: tables.config[table.id].missConfig,
  }));
}

function flowStats(rule: Rule, nowMs: number): FlowStatsEntry {
  return {
    table: rule.table,
    match: rule.match,
    priority: rule.priority,
    cookie: rule.cookie,
    durationMs: Math.max(0, nowMs - rule.createdMs),
    idleTimeout: rule.idleTimeout,
    hardTimeout: rule.hardTimeout,
    idleAge: ageS(nowMs - rule.usedMs),
    hardAge: ageS(nowMs - rule.modifiedMs),
    importance: rule.importance,
    flags: rule.flags,
    packets: BigInt(rule.packets),
    bytes: BigInt(rule.bytes),
    actions: rule.actions as FlowStatsEntry['actions'],
  };
}

function ageS(ageMs: number): number {
  return Math.min(MAX_AGE_S, Math.max(0, Math.floor(ageMs / 1000)));
}
