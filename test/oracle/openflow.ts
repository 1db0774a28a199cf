// Oracle of the OpenFlow pipeline: a slow, obvious interpreter of flow tables and actions, one packet at a time.
//
// It keeps the header fields of the packet in a flow record, changes them at once when an action says so (no lazy
// commits, no masks, no megaflows), finds flows by trying all of them, and writes the frame anew for each output.
// Written from ovs-actions(7) and OpenFlow 1.5.1 §5, not from src/switch/translate.

import {
  F_IN_PORT,
  F_METADATA,
  FLOW_SIZE,
  K_ARP_SHA,
  K_ARP_THA,
  K_ETH_DST,
  K_ETH_TYPE,
  K_IPV6_DST,
  K_IPV6_LABEL,
  K_IPV6_SRC,
  K_ND_TARGET,
  K_NW_DST,
  K_NW_FRAG,
  K_NW_PROTO,
  K_NW_SRC,
  K_NW_TOS,
  K_NW_TTL,
  K_TP_DST,
  K_TP_SRC,
  K_VLAN0_TCI,
  K_VLAN0_TPID,
  K_VLAN1_TCI,
} from '../../contract/key.ts';
import { getSubfield, setFieldMasked, setSubfield } from '../../src/wire/openflow/fieldAccess.ts';
import { fieldByName } from '../../src/wire/openflow/fields.ts';
import { prereqOk } from '../../src/wire/openflow/prereq.ts';
import {
  type Action,
  OFPP_ALL,
  OFPP_CONTROLLER,
  OFPP_FLOOD,
  OFPP_IN_PORT,
} from '../../src/wire/openflow/types.ts';
import { parseFrame } from './parse.ts';

export interface OracleRule {
  table: number;
  priority: number;
  key: Uint8Array;
  mask: Uint8Array;
  actions: readonly Action[];
}

/** A group that takes all buckets, or (`first`) the first whose port is there. */
export interface OracleGroup {
  first: boolean;
  buckets: readonly { watchPort: number; actions: readonly Action[] }[];
}

export interface OraclePort {
  ofport: number;
  /** OFPPC_* bits. */
  config: number;
}

export interface OracleResult {
  /** In the order in which they are sent. */
  outputs: { port: number; frame: Uint8Array }[];
  packetIns: { reason: string; table: number; frame: Uint8Array }[];
  /** Rules that the packet hit, in order, with repetitions. */
  hits: OracleRule[];
}

class TooDeep extends Error {}

const get16 = (record: Uint8Array, offset: number): number =>
  (record[offset]! << 8) | record[offset + 1]!;

function put16(record: Uint8Array, offset: number, value: number): void {
  record[offset] = value >> 8;
  record[offset + 1] = value;
}

/** Runs one packet through the tables of one bridge. Fragments are matched as they are (nx-match). */
export class OpenflowOracle {
  readonly rules: readonly OracleRule[];
  readonly ports: readonly OraclePort[];
  readonly vlanLimit: number;
  readonly groups: ReadonlyMap<number, OracleGroup>;
  #original: Uint8Array = new Uint8Array();
  #record: Uint8Array = new Uint8Array();
  #set: Action[] = [];
  #exit = false;
  #depth = 0;
  #lookups = 0;
  #inSet = false;
  #inBucket = false;
  #stack: bigint[] = [];
  #rule: OracleRule | undefined;
  #result: OracleResult = { outputs: [], packetIns: [], hits: [] };

  constructor(
    rules: readonly OracleRule[],
    ports: readonly OraclePort[],
    vlanLimit = 1,
    groups: ReadonlyMap<number, OracleGroup> = new Map(),
  ) {
    this.groups = groups;
    this.rules = rules;
    this.ports = ports;
    this.vlanLimit = vlanLimit;
  }

  run(frame: Uint8Array, inPort: number): OracleResult {
    this.#original = frame;
    this.#record = new Uint8Array(FLOW_SIZE);
    this.#record.set(parseFrame(frame, 0, this.vlanLimit).key);
    new DataView(this.#record.buffer).setUint32(F_IN_PORT, inPort);
    this.#set = [];
    this.#stack = [];
    this.#exit = false;
    this.#depth = 0;
    this.#inBucket = false;
    this.#inSet = false;
    this.#lookups = 0;
    this.#result = { outputs: [], packetIns: [], hits: [] };
    try {
      const rule = this.#lookup(0, inPort);
      this.#rule = rule;
      if (rule !== undefined) {
        this.#result.hits.push(rule);
        this.#list(rule.actions, 0);
      }
      this.#runSet(0);
    } catch (error) {
      if (!(error instanceof TooDeep)) throw error;
      // The packet is dropped as a whole.
      return { outputs: [], packetIns: [], hits: this.#result.hits };
    }
    return this.#result;
  }

  #inPort(): number {
    return new DataView(this.#record.buffer).getUint32(F_IN_PORT);
  }

  #lookup(table: number, inPort: number): OracleRule | undefined {
    const flow = this.#record.slice();
    new DataView(flow.buffer).setUint32(F_IN_PORT, inPort);
    let best: OracleRule | undefined;
    for (const rule of this.rules) {
      if (rule.table !== table) continue;
      if (!flow.every((byte, i) => ((byte ^ rule.key[i]!) & rule.mask[i]!) === 0)) continue;
      if (best === undefined || rule.priority > best.priority) best = rule;
    }
    return best;
  }

  #table(table: number, from: number, inPort: number): void {
    if (this.#depth >= 64 || this.#lookups >= 4096) throw new TooDeep();
    const rule = this.#lookup(table, inPort);
    this.#lookups++;
    if (rule === undefined) return;
    this.#result.hits.push(rule);
    const deeper = table <= from ? 1 : 0;
    this.#depth += deeper;
    const outer = this.#rule;
    const inBucket = this.#inBucket;
    this.#inBucket = false;
    this.#rule = rule;
    this.#list(rule.actions, table);
    this.#rule = outer;
    this.#inBucket = inBucket;
    this.#depth -= deeper;
  }

  #list(actions: readonly Action[], table: number): void {
    for (const action of actions) {
      if (this.#exit) return;
      if (this.#one(action, table)) return;
    }
  }

  /** True: no such group. */
  #group(id: number, table: number): boolean {
    if (this.#depth >= 64 || this.#lookups >= 4096) throw new TooDeep();
    const group = this.groups.get(id);
    if (group === undefined) return true;
    const alive = group.buckets.filter(
      ({ watchPort }) => !group.first || this.ports.some((p) => p.ofport === watchPort),
    );
    for (const { actions } of group.first ? alive.slice(0, 1) : alive) {
      const { record, inBucket } = { record: this.#record.slice(), inBucket: this.#inBucket };
      this.#inBucket = true;
      this.#depth++;
      this.#list(this.#order(actions), table);
      this.#depth--;
      this.#inBucket = inBucket;
      this.#exit = false;
      this.#record.set(record);
    }
    return false;
  }

  #clone(actions: readonly Action[], table: number): void {
    const record = this.#record.slice();
    const set = this.#set;
    const stack = this.#stack;
    this.#set = [...set];
    this.#stack = [...stack];
    this.#list(actions, table);
    this.#runSet(table);
    this.#record.set(record);
    this.#set = set;
    this.#stack = stack;
  }

  #runSet(table: number): void {
    const set = this.#set;
    this.#set = [];
    const actions = this.#order(set);
    if (actions.length === 0) return;
    this.#inSet = true;
    this.#list(actions, table);
    this.#inSet = false;
  }

  /** The actions of a set in the order of OpenFlow 1.5.1 §5.6. */
  #order(set: readonly Action[]): Action[] {
    const of = (...types: string[]): Action[] =>
      set.filter((a) => types.includes(a.type)).slice(-1);
    const group = of('group');
    const output = of('output');
    const resubmit = of('resubmit');
    const last = group.length > 0 ? group : output.length > 0 ? output : resubmit;
    if (last.length === 0) return [];
    return [
      ...of('strip_vlan'),
      ...of('push_vlan'),
      ...of('dec_ttl'),
      ...set.filter((a) => a.type === 'set_field'),
      ...of('set_queue'),
      ...last,
    ];
  }

  /** True: the rest of the list is skipped. */
  #one(action: Action, table: number): boolean {
    const record = this.#record;
    const type = get16(record, K_ETH_TYPE);
    const isIp = type === 0x0800 || type === 0x86dd;
    switch (action.type) {
      case 'output':
        this.#output(action.port, table);
        return false;
      case 'set_field': {
        const f = fieldByName(action.field);
        if (prereqOk(f.prereq, record)) setFieldMasked(record, f, action.value, action.mask);
        return false;
      }
      case 'load': {
        const f = fieldByName(action.dst.field);
        if (prereqOk(f.prereq, record)) setSubfield(record, action.dst, action.value);
        return false;
      }
      case 'move': {
        const src = fieldByName(action.src.field);
        const dst = fieldByName(action.dst.field);
        if (prereqOk(src.prereq, record) && prereqOk(dst.prereq, record)) {
          setSubfield(record, action.dst, getSubfield(record, action.src));
        }
        return false;
      }
      case 'set_vlan_vid':
      case 'set_vlan_pcp': {
        const tci = get16(record, K_VLAN0_TCI);
        if ((tci & 0x1000) === 0 && !action.pushIfNeeded) return false;
        if ((tci & 0x1000) === 0) put16(record, K_VLAN0_TPID, 0x8100);
        const next =
          action.type === 'set_vlan_vid'
            ? (tci & 0xe000) | action.vid
            : (tci & 0x0fff) | (action.pcp << 13);
        put16(record, K_VLAN0_TCI, next | 0x1000);
        return false;
      }
      case 'strip_vlan':
        record.copyWithin(K_VLAN0_TCI, K_VLAN1_TCI, K_VLAN1_TCI + 4);
        record.fill(0, K_VLAN1_TCI, K_VLAN1_TCI + 4);
        return false;
      case 'push_vlan':
        record.copyWithin(K_VLAN1_TCI, K_VLAN0_TCI, K_VLAN0_TCI + 4);
        put16(record, K_VLAN0_TPID, action.ethertype);
        put16(record, K_VLAN0_TCI, 0x1000);
        return false;
      case 'dec_ttl':
        if (!isIp) return false;
        if (record[K_NW_TTL]! > 1) {
          record[K_NW_TTL]!--;
          return false;
        }
        for (const _ of action.controllerIds) this.#packetIn('invalid_ttl', table);
        return true;
      case 'resubmit':
        this.#table(
          action.table === 255 ? table : action.table,
          table,
          action.inPort === OFPP_IN_PORT ? this.#inPort() : action.inPort,
        );
        return false;
      case 'goto_table':
        this.#table(action.table, table, this.#inPort());
        return false;
      case 'write_metadata': {
        const view = new DataView(record.buffer);
        const old = view.getBigUint64(F_METADATA);
        view.setBigUint64(F_METADATA, (old & ~action.mask) | (action.metadata & action.mask));
        return false;
      }
      case 'write_actions':
        this.#set.push(...action.actions);
        return false;
      case 'clear_actions':
        this.#set = [];
        return false;
      case 'exit':
        this.#exit = true;
        return false;
      case 'stack_push':
        this.#stack.push(getSubfield(record, action.subfield));
        return false;
      case 'stack_pop': {
        const value = this.#stack.pop();
        const { subfield } = action;
        if (value !== undefined) {
          setSubfield(record, subfield, value & ((1n << BigInt(subfield.bits)) - 1n));
        }
        return false;
      }
      case 'clone':
        this.#clone(action.actions, table);
        return false;
      case 'group':
        return this.#group(action.group, table);
      case 'note':
      case 'set_queue':
        return false;
      default:
        throw new Error(`the oracle does not know ${action.type}`);
    }
  }

  #output(port: number, table: number): void {
    const from = this.#inPort();
    if (port === OFPP_CONTROLLER) {
      // The flow of priority 0 that matches everything is the table-miss flow of OpenFlow 1.3.
      const isMiss = this.#rule?.priority === 0 && this.#rule.mask.every((byte) => byte === 0);
      const direct = isMiss ? 'explicit_miss' : 'action';
      const indirect = this.#inBucket ? 'group' : 'action_set';
      this.#packetIn(this.#inBucket || this.#inSet ? indirect : direct, table);
    } else if (port === OFPP_IN_PORT) {
      this.#send(from);
    } else if (port === OFPP_ALL || port === OFPP_FLOOD) {
      for (const p of this.ports) {
        if (p.ofport === from) continue;
        if (port === OFPP_ALL || (p.config & 16) === 0) this.#send(p.ofport);
      }
    } else if (port !== from) {
      this.#send(port);
    }
  }

  #send(ofport: number): void {
    const port = this.ports.find((p) => p.ofport === ofport);
    if (port === undefined || (port.config & 32) !== 0) return;
    this.#result.outputs.push({ port: ofport, frame: this.#frame() });
  }

  #packetIn(reason: string, table: number): void {
    this.#result.packetIns.push({ reason, table, frame: this.#frame() });
  }

  /** The frame as the record says: original payload, header fields from the record. Checksums are left alone. */
  #frame(): Uint8Array {
    const record = this.#record;
    const original = this.#original;
    const parsed = parseFrame(original, 0, this.vlanLimit);
    let tags = 0;
    while (tags < 2 && (get16(parsed.key, K_VLAN0_TCI + 4 * tags) & 0x1000) !== 0) tags++;
    const body = original.slice(12 + 4 * tags);
    const shift = 12 + 4 * tags;
    writeNetwork(body, record, parsed.l3 - shift);
    if (parsed.l4 >= 0) {
      writeTransport(body, record, parsed.key, parsed.l4 - shift, parsed.l4Bytes);
    }
    const head = [...record.subarray(K_ETH_DST, K_ETH_DST + 12)];
    for (let i = 0; i < 2; i++) {
      const tci = get16(record, K_VLAN0_TCI + 4 * i);
      if ((tci & 0x1000) === 0) break;
      // The header has a DEI bit where the record says "present": it is not kept.
      const plain = tci & ~0x1000;
      const tpid = get16(record, K_VLAN0_TPID + 4 * i);
      head.push(tpid >> 8, tpid & 0xff, plain >> 8, plain & 0xff);
    }
    return Uint8Array.of(...head, ...body);
  }
}

function writeNetwork(body: Uint8Array, record: Uint8Array, at: number): void {
  // Without a protocol there was no intact header.
  if (record[K_NW_PROTO] === 0 || at < 0) return;
  const copy = (offset: number, bytes: number, to: number): void =>
    body.set(record.subarray(offset, offset + bytes), at + to);
  switch (get16(record, K_ETH_TYPE)) {
    case 0x0800:
      copy(K_NW_SRC, 4, 12);
      copy(K_NW_DST, 4, 16);
      copy(K_NW_TOS, 1, 1);
      copy(K_NW_TTL, 1, 8);
      break;
    case 0x86dd: {
      copy(K_IPV6_SRC, 16, 8);
      copy(K_IPV6_DST, 16, 24);
      copy(K_NW_TTL, 1, 7);
      const view = new DataView(record.buffer);
      const label = view.getUint32(K_IPV6_LABEL) & 0xfffff;
      const word = ((6 << 28) | (record[K_NW_TOS]! << 20) | label) >>> 0;
      new DataView(body.buffer, body.byteOffset).setUint32(at, word);
      break;
    }
    case 0x0806:
      copy(K_NW_SRC, 4, 14);
      copy(K_NW_DST, 4, 24);
      copy(K_ARP_SHA, 6, 8);
      copy(K_ARP_THA, 6, 18);
      copy(K_NW_PROTO, 1, 7);
      break;
  }
}

function writeTransport(
  body: Uint8Array,
  record: Uint8Array,
  original: Uint8Array,
  at: number,
  bytes: number,
): void {
  if ((record[K_NW_FRAG]! & 2) !== 0) return;
  const type = get16(record, K_ETH_TYPE);
  // A header that is cut short is left alone.
  const needed = { 6: 20, 132: 12 }[record[K_NW_PROTO]!] ?? 8;
  if (bytes < needed) return;
  switch (record[K_NW_PROTO]) {
    case 6:
    case 17:
    case 132:
      put16(body, at, get16(record, K_TP_SRC));
      put16(body, at + 2, get16(record, K_TP_DST));
      break;
    case 1:
    case 58:
      if ((type === 0x0800) !== (record[K_NW_PROTO] === 1)) break;
      body[at] = record[K_TP_SRC + 1]!;
      body[at + 1] = record[K_TP_DST + 1]!;
      if (type === 0x86dd && bytes >= 24) writeNeighbor(body, record, original, at);
      break;
  }
}

/** Only fields that changed: an option that was not there cannot be written. */
function writeNeighbor(
  body: Uint8Array,
  record: Uint8Array,
  original: Uint8Array,
  at: number,
): void {
  const changed = (offset: number, bytes: number): boolean =>
    record.subarray(offset, offset + bytes).some((byte, i) => byte !== original[offset + i]);
  if (changed(K_ND_TARGET, 16)) body.set(record.subarray(K_ND_TARGET, K_ND_TARGET + 16), at + 8);
  for (const [offset, option] of [
    [K_ARP_SHA, 1],
    [K_ARP_THA, 2],
  ] as const) {
    if (!changed(offset, 6)) continue;
    for (let o = at + 24; o + 8 <= body.length && body[o + 1] !== 0; o += body[o + 1]! * 8) {
      if (body[o] === option) body.set(record.subarray(offset, offset + 6), o + 2);
    }
  }
}

/** The frame with all checksums zero, to compare what is not the checksums' own test. */
export function withoutChecksums(frame: Uint8Array, vlanLimit = 2): Uint8Array {
  const { key, l3, l4 } = parseFrame(frame, 0, vlanLimit);
  const out = frame.slice();
  const type = get16(key, K_ETH_TYPE);
  if (type === 0x0800 && l3 >= 0 && out.length >= l3 + 20) out.fill(0, l3 + 10, l3 + 12);
  const at = { 6: 16, 17: 6, 1: 2, 58: 2, 132: 8 }[key[K_NW_PROTO]!];
  if (l4 < 0 || at === undefined || (type !== 0x0800 && type !== 0x86dd)) return out;
  const bytes = key[K_NW_PROTO] === 132 ? 4 : 2;
  if (out.length >= l4 + at + bytes) out.fill(0, l4 + at, l4 + at + bytes);
  return out;
}
