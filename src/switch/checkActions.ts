// May a flow (or packet-out) with this match have these actions? Asked when it is added, so that translation never meets
// an action that it cannot do. Errors are those of Open vSwitch (ovs-actions(7), "Error messages").

import {
  FLOW_SIZE,
  K_ETH_TYPE,
  K_NW_PROTO,
  K_PACKET_TYPE,
  K_VLAN0_TCI,
  K_VLAN0_TPID,
  K_VLAN1_TCI,
  VLAN_PRESENT,
} from '../../contract/key.ts';
import { PACKET_TYPE_ETHERTYPE } from '../../contract/tunnel.ts';
import { coverSubfield, setSubfield } from '../wire/openflow/fieldAccess.ts';
import { type Field, findField } from '../wire/openflow/fields.ts';
import { dlType, ETH_TYPE_NSH, isMpls, prereqOk } from '../wire/openflow/prereq.ts';
import {
  type Action,
  type Match,
  OFPP_ALL,
  OFPP_CONTROLLER,
  OFPP_FLOOD,
  OFPP_IN_PORT,
  OFPP_LOCAL,
  OFPP_NONE,
  OFPP_NORMAL,
  OFPP_TABLE,
  OfError,
  type OfVersion,
  type Subfield,
} from '../wire/openflow/types.ts';
import { checkCt, checkNat, checkResubmitCt, isCtField } from './checkCt.ts';
import { be16, be32, IPPROTO_TCP, isIp, putBe16, putBe32 } from './flow.ts';
import { N_TABLES } from './tableNumbers.ts';

/** Ports of a bridge: 1 … 0xfeff. A flow may name one that does not exist yet. */
const MAX_PORTS = 0xff00;
/** Fields that no datapath action of ours can write (yet). */
const NOT_WRITABLE = /^(mpls_bos|ct_|nd_reserved|nd_options_type)/;

const RESERVED = [
  OFPP_IN_PORT,
  OFPP_TABLE,
  OFPP_NORMAL,
  OFPP_FLOOD,
  OFPP_ALL,
  OFPP_CONTROLLER,
  OFPP_LOCAL,
];

/** Where the check stands: match as the actions so far have changed it. */
interface Check {
  readonly key: Uint8Array;
  readonly mask: Uint8Array;
  readonly table: number;
  readonly version: OfVersion | undefined;
  readonly has: Existing | undefined;
}

/** What actions may refer to. */
export interface Existing {
  readonly groups?: { has(id: number): boolean };
  readonly meters?: { has(id: number): boolean };
}

function fail(code: string, text: string): never {
  throw new OfError(code, text);
}

function hasVlan(c: Check): boolean {
  return (be16(c.key, K_VLAN0_TCI) & VLAN_PRESENT) !== 0;
}

/** OpenFlow 1.0 runs actions only on packets that they fit; later versions refuse them where they might not. */
function inconsistent(c: Check, action: Action): void {
  if (c.version !== undefined && c.version > 1) {
    fail('OFPBAC_MATCH_INCONSISTENT', `${action.type} does not fit the match`);
  }
}

function checkPort(port: number, reserved: readonly number[]): void {
  if (port < MAX_PORTS || reserved.includes(port)) return;
  fail('OFPBAC_BAD_OUT_PORT', `bad output port ${port}`);
}

function knownField(name: string): Field {
  return findField(name) ?? fail('OFPBAC_BAD_SET_TYPE', `unknown field ${name}`);
}

function checkSubfield(c: Check, s: Subfield): Field {
  const f = knownField(s.field);
  if (s.bits === 0 || s.offset + s.bits > f.bits) {
    fail('OFPBAC_BAD_SET_LEN', `bits ${s.offset}+${s.bits} exceed ${f.name}`);
  }
  if (!prereqOk(f.prereq, c.key, c.mask)) {
    fail('OFPBAC_MATCH_INCONSISTENT', `field ${f.name} lacks correct prerequisites`);
  }
  return f;
}

function checkWritable(f: Field): void {
  if (isCtField(f.name)) fail('OFPBAC_BAD_SET_ARGUMENT', `${f.name} is set by ct(exec(…)) only`);
  if (!f.writable) fail('OFPBAC_BAD_SET_ARGUMENT', `field ${f.name} is not writable`);
  if (NOT_WRITABLE.test(f.name)) {
    fail('OFPBAC_BAD_SET_TYPE', `setting ${f.name} is not supported`);
  }
}

function checkSet(c: Check, action: Action & { type: 'set_field' | 'load' }): void {
  const name = action.type === 'set_field' ? action.field : action.dst.field;
  const f = knownField(name);
  checkWritable(f);
  if (action.type === 'set_field' && action.legacy !== undefined) {
    if (!prereqOk(f.prereq, c.key, c.mask)) inconsistent(c, action);
    return;
  }
  if (action.type === 'load') checkSubfield(c, action.dst);
  const needsHeader = f.name === 'vlan_vid' && !hasVlan(c);
  if (needsHeader || !prereqOk(f.prereq, c.key, c.mask)) {
    fail('OFPBAC_MATCH_INCONSISTENT', `set_field ${f.name} lacks correct prerequisites`);
  }
  if (f.name === 'vlan_tci' && action.type === 'set_field') {
    putBe16(c.key, K_VLAN0_TCI, be16(action.value, 0));
  }
}

function checkVlanSet(c: Check, action: Action & { pushIfNeeded: boolean }): void {
  if (!hasVlan(c) && !action.pushIfNeeded) inconsistent(c, action);
  c.key[K_VLAN0_TCI]! |= VLAN_PRESENT >> 8;
}

function checkStrip(c: Check, action: Action & { type: 'strip_vlan' }): void {
  if (!hasVlan(c)) inconsistent(c, action);
  c.key.copyWithin(K_VLAN0_TCI, K_VLAN1_TCI, K_VLAN1_TCI + 4);
  c.key.fill(0, K_VLAN1_TCI, K_VLAN1_TCI + 4);
}

function checkPush(c: Check, ethertype: number): void {
  if ((be16(c.key, K_VLAN1_TCI) & VLAN_PRESENT) !== 0) {
    fail('OFPBAC_BAD_TAG', 'more than 2 VLAN headers');
  }
  c.key.copyWithin(K_VLAN1_TCI, K_VLAN0_TCI, K_VLAN0_TCI + 4);
  putBe16(c.key, K_VLAN0_TCI, VLAN_PRESENT);
  putBe16(c.key, K_VLAN0_TPID, ethertype);
}

function checkTracking(c: Check, action: Action & { type: 'ct' }): void {
  checkCt(action, c.key);
  if (typeof action.zone !== 'number') {
    // Open vSwitch looks no further then.
    checkSubfield(c, action.zone);
    return;
  }
  for (const nested of action.actions) {
    if (nested.type === 'nat') checkNat(nested, c.key);
    else if (nested.type === 'move') checkSubfield(c, nested.src);
  }
}

/** The learned flow's match has to have the prerequisites of its own fields. */
function checkLearn(c: Check, { specs }: Action & { type: 'learn' }): void {
  const learned: Check = {
    ...c,
    key: new Uint8Array(FLOW_SIZE),
    mask: new Uint8Array(FLOW_SIZE),
  };
  for (const { kind, src, dst } of specs) {
    if (typeof src !== 'bigint') checkSubfield(c, src);
    if (dst === undefined) continue;
    const f = checkSubfield(learned, dst);
    if (kind === 'load') {
      checkWritable(f);
    } else if (typeof src === 'bigint') {
      setSubfield(learned.key, dst, src, f);
      coverSubfield(learned.mask, dst, f);
    }
  }
}

/** The actions that follow see the new header. */
function checkEncap(key: Uint8Array, packetType: number): void {
  putBe32(key, K_PACKET_TYPE, packetType);
  if (packetType !== 0) putBe16(key, K_ETH_TYPE, packetType & 0xffff);
  if (!isIp(key)) key[K_NW_PROTO] = 0;
}

/** What is below an Ethernet header is known; below others it is not, and no field of it can be named. */
function checkDecap(key: Uint8Array): void {
  if (be32(key, K_PACKET_TYPE) === 0) {
    putBe32(key, K_PACKET_TYPE, PACKET_TYPE_ETHERTYPE | be16(key, K_ETH_TYPE));
  } else {
    putBe32(key, K_PACKET_TYPE, 0xffffffff);
    putBe16(key, K_ETH_TYPE, 0xffff);
  }
}

function checkOne(c: Check, action: Action): void {
  switch (action.type) {
    case 'output':
    case 'output_trunc':
      checkPort(action.port, RESERVED);
      return;
    case 'enqueue':
      checkPort(action.port, [OFPP_IN_PORT, OFPP_LOCAL]);
      return;
    case 'output_reg':
      checkSubfield(c, action.source);
      return;
    case 'set_field':
    case 'load':
      checkSet(c, action);
      return;
    case 'move': {
      checkSubfield(c, action.src);
      const dst = checkSubfield(c, action.dst);
      checkWritable(dst);
      return;
    }
    case 'set_vlan_vid':
    case 'set_vlan_pcp':
      checkVlanSet(c, action);
      return;
    case 'strip_vlan':
      checkStrip(c, action);
      return;
    case 'push_vlan':
      checkPush(c, action.ethertype);
      return;
    case 'dec_ttl':
      if (!isIp(c.key)) inconsistent(c, action);
      return;
    case 'push_mpls':
      // What is below is opaque from here on.
      putBe16(c.key, K_ETH_TYPE, action.ethertype);
      c.key[K_NW_PROTO] = 0;
      return;
    case 'pop_mpls':
      if (!isMpls(be16(c.key, K_ETH_TYPE))) inconsistent(c, action);
      putBe16(c.key, K_ETH_TYPE, action.ethertype);
      return;
    case 'encap':
      checkEncap(c.key, action.packetType);
      return;
    case 'decap':
      checkDecap(c.key);
      return;
    case 'dec_mpls_ttl':
      if (!isMpls(be16(c.key, K_ETH_TYPE))) inconsistent(c, action);
      return;
    case 'dec_nsh_ttl':
      if (dlType(c.key) !== ETH_TYPE_NSH) inconsistent(c, action);
      return;
    case 'goto_table':
      if ((c.table !== 0xff && action.table <= c.table) || action.table >= N_TABLES) {
        fail('OFPBIC_BAD_TABLE_ID', `goto_table:${action.table} from table ${c.table}`);
      }
      return;
    case 'write_actions':
      // What an action set will meet nobody knows yet: it need not fit the match.
      for (const nested of action.actions) checkOne({ ...c, version: undefined }, nested);
      return;
    case 'meter':
      if (c.has?.meters?.has(action.meterId) === true) return;
      fail('OFPMMFC_INVALID_METER', `meter ${action.meterId} does not exist`);
      return;
    case 'group':
      if (c.has?.groups?.has(action.group) === true) return;
      fail('OFPBAC_BAD_OUT_GROUP', `group ${action.group} does not exist`);
      return;
    case 'stack_push':
      checkSubfield(c, action.subfield);
      return;
    case 'stack_pop':
      checkWritable(checkSubfield(c, action.subfield));
      return;
    case 'multipath':
    case 'check_pkt_larger':
      checkWritable(checkSubfield(c, action.dst));
      return;
    case 'bundle':
      for (const member of action.members) {
        if (member !== OFPP_NONE) checkPort(member, RESERVED);
      }
      if (action.dst !== undefined) checkWritable(checkSubfield(c, action.dst));
      return;
    case 'learn':
      checkLearn(c, action);
      return;
    case 'fin_timeout':
      if (c.key[K_NW_PROTO] !== IPPROTO_TCP) inconsistent(c, action);
      return;
    case 'clone':
      for (const nested of action.actions) checkOne(c, nested);
      return;
    case 'resubmit':
      if (action.withCt) checkResubmitCt(c.key, c.mask);
      return;
    case 'ct':
      checkTracking(c, action);
      return;
    case 'ct_clear':
    case 'delete_field':
      return;
    case 'set_queue':
    case 'pop_queue':
    case 'note':
    case 'sample':
    case 'controller':
    case 'exit':
    case 'debug_recirc':
    case 'debug_slow':
    case 'clear_actions':
    case 'write_metadata':
      return;
    default:
      fail('OFPBAC_BAD_VENDOR_TYPE', `action ${action.type} is not supported`);
  }
}

/** Errors that depend on the packet, or on what may be there when it comes. */
const LATER: ReadonlySet<string> = new Set([
  'OFPBAC_MATCH_INCONSISTENT',
  'OFPBAC_BAD_OUT_GROUP',
  'OFPMMFC_INVALID_METER',
]);

/** Throws OfError if the bridge cannot execute an action of a bucket, whatever packet it meets. */
export function checkBucketActions(actions: readonly Action[]): void {
  const c: Check = {
    key: new Uint8Array(FLOW_SIZE),
    mask: new Uint8Array(FLOW_SIZE),
    table: 0xff,
    version: undefined,
    has: undefined,
  };
  for (const action of actions) {
    try {
      checkOne(c, action);
    } catch (error) {
      if (!(error instanceof OfError) || !LATER.has(error.code)) throw error;
    }
  }
}

/** A flow that is part of conjunctions does nothing itself. */
function checkConjunctions(actions: readonly Action[]): void {
  for (const { type } of actions) {
    if (type === 'conjunction' || type === 'note') continue;
    fail('NXBAC_BAD_CONJUNCTION', `"conjunction" actions go along with "note", not "${type}"`);
  }
}

/** Actions of which neither the check nor the effect on the match looks at the match. */
const NEEDS_NO_MATCH: ReadonlySet<Action['type']> = new Set<Action['type']>([
  'output',
  'output_trunc',
  'enqueue',
  'controller',
  'goto_table',
  'meter',
  'group',
  'note',
  'exit',
  'write_metadata',
]);

const scratch = new Uint8Array(FLOW_SIZE);

/**
 * Throws OfError if the bridge cannot execute the actions of a flow with this match in this table. `version`: the
 * protocol of the request (OpenFlow 1.1 and later insist on matches that fit the actions); absent: lenient as 1.0.
 */
export function checkActions(
  actions: readonly Action[],
  match: Match,
  table: number,
  version?: OfVersion,
  has?: Existing,
): void {
  if (actions.some(({ type }) => type === 'conjunction')) {
    checkConjunctions(actions);
    return;
  }
  if (actions.length === 0) return;
  // One record for all checks, which never overlap: large tables are loaded flow by flow.
  if (!actions.every(({ type }) => NEEDS_NO_MATCH.has(type))) scratch.set(match.key);
  const c: Check = { key: scratch, mask: match.mask, table, version, has };
  for (const action of actions) checkOne(c, action);
}
