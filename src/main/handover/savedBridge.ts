// The OpenFlow state of a bridge as bytes: flows, groups, meters, Geneve options, learned addresses.
//
// Flows and groups are OpenFlow 1.5 messages, as ovs-save(8) keeps them: a format that does not change when the
// program does. Counters and times go beside them, flow by flow, so that a restart is not to be seen in them either.

import type { Connmgr } from '../../control/openflow/connmgr.ts';
import { applyPortMod } from '../../control/openflow/portHandlers.ts';
import type { SwitchBridge } from '../../switch/bridge.ts';
import { isHidden } from '../../switch/flowModsRules.ts';
import type { Rule } from '../../switch/types.ts';
import type { Vacancy } from '../../switch/vacancy.ts';
import { BUCKET_ALL, OFPGC_ADD } from '../../wire/openflow/group.ts';
import { decode, encode } from '../../wire/openflow/message.ts';
import type { MeterConfig, TlvMapping } from '../../wire/openflow/messages.ts';
import { type FlowMod, OFPP_NONE, type OfVersion } from '../../wire/openflow/types.ts';

const VERSION: OfVersion = 6;
const NO_BUFFER = 0xffffffff;
const OFPG_ANY = 0xffffffff;
/** Numbers kept for each flow. */
const LEDGER_FIELDS = 5;

export interface SavedBridge {
  name: string;
  tlvs: readonly TlvMapping[];
  meters: readonly MeterConfig[];
  /** What OFPT_TABLE_MOD has said, where it is not the default. An older predecessor knows no vacancy events. */
  tables: { table: number; evictByOpenFlow: boolean; missConfig: number; vacancy?: Vacancy }[];
  fragHandling: number;
  /** Group-mods and flow-mods, one message after the other. */
  messages: Uint8Array;
}

/** What changes with every packet: taken when no packet can come any more. */
export interface Ledger {
  name: string;
  /** LEDGER_FIELDS numbers for each flow, in the order of SavedBridge.messages. */
  flows: Float64Array;
  groups: { id: number; packets: number; bytes: number; buckets: [number, number][] }[];
  /** What port-mods have said. */
  ports: { name: string; config: number }[];
  macs: { mac: Uint8Array; vlan: number; port: string; usedMs: number; isStatic: boolean }[];
}

export interface OpenFlowState {
  readonly bridge: SwitchBridge;
  readonly connmgr: Connmgr;
}

/** The flows that are kept: not the switch's own, which it makes again by itself. */
function* rulesOf(bridge: SwitchBridge): Generator<Rule> {
  for (const table of bridge.tables) {
    for (const rule of table) if (!isHidden(rule) && !rule.hidden) yield rule;
  }
}

function addition(rule: Rule): FlowMod {
  const { table, match, priority, cookie, idleTimeout, hardTimeout, importance, actions } = rule;
  return {
    command: 'add',
    table,
    match,
    priority,
    cookie: 0n,
    cookieMask: 0n,
    newCookie: cookie,
    modifyCookie: false,
    idleTimeout,
    hardTimeout,
    importance,
    bufferId: NO_BUFFER,
    outPort: OFPP_NONE,
    outGroup: OFPG_ANY,
    flags: { ...rule.flags, checkOverlap: false },
    actions: [...actions],
  };
}

/** Group-mods and flow-mods that make the tables what they are. */
function messagesOf({ bridge, connmgr }: OpenFlowState): Uint8Array {
  const tlvs = connmgr.tlvTable.mappings;
  const parts: Uint8Array[] = [];
  for (const group of bridge.groups) {
    const groupMod = { ...group.describe(), command: OFPGC_ADD, commandBucket: BUCKET_ALL };
    parts.push(...encode(VERSION, 0, { type: 'group_mod', ...groupMod }, { tlvs }));
  }
  for (const rule of rulesOf(bridge)) {
    const message = { type: 'flow_mod', nxt: false, flowMod: addition(rule) } as const;
    parts.push(...encode(VERSION, 0, message, { tlvs }));
  }
  return Buffer.concat(parts);
}

/** Saves bridges again and again: the messages of tables that have not changed are not made anew, which takes long. */
export class BridgeSaver {
  readonly #known = new WeakMap<Connmgr, { tables: string; messages: Uint8Array }>();

  save(unit: OpenFlowState): SavedBridge {
    const { connmgr } = unit;
    const tables = JSON.stringify([connmgr.tables.revision, connmgr.tlvTable.mappings]);
    let known = this.#known.get(connmgr);
    if (known?.tables !== tables) {
      known = { tables, messages: messagesOf(unit) };
      this.#known.set(connmgr, known);
    }
    return saveBridge(unit, known.messages);
  }
}

export function saveBridge(unit: OpenFlowState, messages = messagesOf(unit)): SavedBridge {
  const { bridge, connmgr } = unit;
  return {
    name: bridge.name,
    tlvs: connmgr.tlvTable.mappings,
    meters: [...bridge.meters.all()].map(({ id, flags, bands }) => ({
      meterId: id,
      flags,
      bands: [...bands],
    })),
    tables: connmgr.tables.config.flatMap(({ evictByOpenFlow, missConfig, vacancy }, table) =>
      evictByOpenFlow || missConfig !== 0 || vacancy.awaited !== undefined
        ? [{ table, evictByOpenFlow, missConfig, vacancy: { ...vacancy } }]
        : [],
    ),
    fragHandling: bridge.fragHandling,
    messages,
  };
}

/**
 * Puts everything into a bridge that has nothing yet. Returns the flows in their order (undefined where one could not be
 * restored) and what went wrong.
 */
export function restoreBridge(
  { bridge, connmgr }: OpenFlowState,
  saved: SavedBridge,
): { rules: (Rule | undefined)[]; faults: string[] } {
  const rules: (Rule | undefined)[] = [];
  const faults: string[] = [];
  const attempt = (what: () => void): void => {
    try {
      what();
    } catch (thrown) {
      faults.push((thrown as Error).message);
    }
  };
  connmgr.keepFlows();
  connmgr.tables.flush();
  attempt(() => connmgr.tlvTable.clear(() => false));
  attempt(() => connmgr.tlvTable.add(saved.tlvs));
  for (const meter of saved.meters) attempt(() => bridge.meters.add(meter));
  for (const { table, ...config } of saved.tables) {
    Object.assign(connmgr.tables.config[table] ?? {}, config);
  }
  bridge.fragHandling = saved.fragHandling;
  const { messages } = saved;
  const view = new DataView(messages.buffer, messages.byteOffset, messages.byteLength);
  const transaction = connmgr.tables.begin();
  const additions: (FlowMod | undefined)[] = [];
  for (let at = 0; at < messages.length; ) {
    const length = view.getUint16(at + 2);
    const bytes = messages.subarray(at, at + length);
    at += length;
    attempt(() => {
      const { message } = decode(bytes, { tlvs: connmgr.tlvTable.mappings });
      if (message.type === 'group_mod') {
        const { type: _, ...groupMod } = message;
        transaction.applyGroup(groupMod);
        return;
      }
      if (message.type !== 'flow_mod') return;
      const place = additions.push(undefined) - 1;
      transaction.apply(message.flowMod);
      additions[place] = message.flowMod;
    });
  }
  transaction.commit();
  for (const mod of additions) {
    rules.push(mod && bridge.tables[mod.table]?.findStrict(mod.match, mod.priority));
  }
  return { rules, faults };
}

export function takeLedger(unit: OpenFlowState): Ledger {
  const { bridge } = unit;
  bridge.syncStats();
  const numbers: number[] = [];
  for (const rule of rulesOf(bridge)) {
    numbers.push(rule.packets, rule.bytes, rule.createdMs, rule.modifiedMs, rule.usedMs);
  }
  return {
    ...takeLearned(unit),
    flows: Float64Array.from(numbers),
    groups: [...bridge.groups].map(({ id, packets, bytes, buckets }) => ({
      id,
      packets,
      bytes,
      buckets: buckets.map((bucket) => [bucket.packets, bucket.bytes]),
    })),
  };
}

/** A ledger without counters. */
export function takeLearned({ bridge }: OpenFlowState): Ledger {
  return {
    name: bridge.name,
    flows: new Float64Array(0),
    groups: [],
    ports: [...bridge.ports.values()].map(({ name, desc }) => ({ name, config: desc.config })),
    macs: [...bridge.macs].map(({ mac, vlan, bundle, expiresMs, isStatic }) => ({
      mac: mac.slice(),
      vlan,
      port: bundle.name,
      usedMs: expiresMs - bridge.macs.agingMs,
      isStatic,
    })),
  };
}

/** `rules` as restoreBridge() returned them; the ports are there. */
export function applyLedger(
  { bridge, connmgr }: OpenFlowState,
  rules: readonly (Rule | undefined)[],
  ledger: Ledger,
): void {
  rules.forEach((rule, i) => {
    if (rule === undefined || rule.removed || (i + 1) * LEDGER_FIELDS > ledger.flows.length) return;
    const [packets, bytes, createdMs, modifiedMs, usedMs] = ledger.flows.subarray(
      i * LEDGER_FIELDS,
      (i + 1) * LEDGER_FIELDS,
    );
    rule.packets += packets!;
    rule.bytes += bytes!;
    rule.createdMs = createdMs!;
    rule.modifiedMs = modifiedMs!;
    rule.usedMs = Math.max(rule.usedMs, usedMs!);
  });
  for (const { id, packets, bytes, buckets } of ledger.groups) {
    const group = bridge.groups.get(id);
    if (group === undefined || group.buckets.length !== buckets.length) continue;
    group.packets += packets;
    group.bytes += bytes;
    buckets.forEach(([bucketPackets, bucketBytes], i) => {
      group.buckets[i]!.packets += bucketPackets;
      group.buckets[i]!.bytes += bucketBytes;
    });
  }
  for (const { name, config } of ledger.ports) {
    const port = bridge.portByName(name);
    if (port === undefined || port.desc.config === config) continue;
    const { hwAddr } = port.desc;
    const portMod = { port: port.ofport, hwAddr, config, mask: 0xffffffff, advertise: 0 };
    applyPortMod(connmgr, portMod, undefined);
  }
  const bundles = new Map([...bridge.bundles].map((bundle) => [bundle.name, bundle]));
  for (const { mac, vlan, port, usedMs, isStatic } of ledger.macs) {
    const bundle = bundles.get(port);
    if (bundle === undefined) continue;
    if (isStatic) bridge.macs.addStatic(mac, vlan, bundle);
    // What has come in already knows better.
    else if (bridge.macs.lookup(mac, 0, vlan) === undefined) {
      bridge.macs.update(mac, 0, vlan, bundle, false, usedMs);
    }
  }
}
