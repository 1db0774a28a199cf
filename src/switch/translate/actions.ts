// Runs OpenFlow actions and table look-ups on the flow of a translation (ovs-actions(7)).

import { ACT_METER } from '../../../contract/action.ts';
import {
  DROP_MALFORMED,
  DROP_RESUBMIT_LIMIT,
  DROP_TTL,
  DROP_UPCALL_NO_FLOW,
} from '../../../contract/drop.ts';
import {
  F_ACTSET_OUTPUT,
  F_IN_PORT,
  F_METADATA,
  K_ETH_TYPE,
  K_NW_FRAG,
  K_NW_PROTO,
  K_NW_TTL,
  K_PRIORITY,
  K_TP_DST,
  K_TP_SRC,
  K_VLAN0_TCI,
  K_VLAN0_TPID,
  K_VLAN1_TCI,
  KEY_SIZE,
  VLAN_PRESENT,
} from '../../../contract/key.ts';
import { type Action, OFPP_IN_PORT, OFPP_MAX, OFPP_UNSET } from '../../wire/openflow/types.ts';
import {
  be16,
  be32,
  ETH_TYPE_IP,
  ETH_TYPE_VLAN,
  exact,
  isIp,
  isLaterFragment,
  or16,
  putBe16,
  putBe32,
} from '../flow.ts';
import type { Rule } from '../types.ts';
import { countVlans } from './commit.ts';
import { clearTracking, trackConnection } from './conntrack.ts';
import {
  actionSetOrder,
  inPort,
  MAX_DEPTH,
  MAX_RESUBMITS,
  portOf,
  report,
  type Xlate,
} from './context.ts';
import { hasOriginalTuple, swapWithOriginalTuple } from './ctFields.ts';
import {
  applyWrite,
  coverL3Prerequisite,
  fieldWriteOf,
  moveSubfield,
  prerequisiteMet,
  readSubfield,
} from './fieldOps.ts';
import { awaitParse, keepForLater, pause } from './freeze.ts';
import { translateGroup } from './groupActions.ts';
import { learn } from './learn.ts';
import { decrementMplsTtl, popMpls, pushMpls, wantsParsed } from './mpls.ts';
import {
  bundle,
  checkPktLarger,
  clone,
  finTimeout,
  multipath,
  stackPop,
  stackPush,
} from './nxActions.ts';
import { output, outputToPort, outputTruncated, REASONS, sendToController } from './output.ts';
import { sample } from './sample.ts';

const OFPPC_NO_PACKET_IN = 64;
const HIDDEN_TABLE = 254;
/** Values: about what Open vSwitch holds in 64 KiB. */
const MAX_STACK = 8192;
const VLAN_VID = 0x0fff;
const VLAN_PCP = 0xe000;

/** Is the packet's header what it was when it came in? */
function isPristine(x: Xlate): boolean {
  const { flowWords, originalWords } = x;
  for (let i = 0; i < KEY_SIZE / 4; i++) if (flowWords[i] !== originalWords[i]) return false;
  return true;
}

/**
 * Looks the flow up, from `table` on, as if it had come in by `port`. Gives the rule and leaves the table in x.table.
 * `honorMiss`: the table-miss setting of table-mod counts (goto_table and packets that come in, not resubmit).
 */
export function lookupRule(
  x: Xlate,
  port: number,
  table: number,
  mayPacketIn: boolean,
  honorMiss: boolean,
): Rule {
  const { flow, bridge } = x;
  let tpSrc = 0;
  let tpDst = 0;
  const hidePorts = flow[K_NW_FRAG] !== 0 && bridge.fragmentMode !== 'nx-match';
  if (hidePorts) {
    if (bridge.fragmentMode === 'drop') {
      x.dropReason = DROP_MALFORMED;
      x.effects.tables.push({
        table: bridge.tables[table]!,
        matched: true,
        rule: undefined,
        pristine: false,
      });
      return bridge.dropFragmentsRule;
    }
    tpSrc = be16(flow, K_TP_SRC);
    tpDst = be16(flow, K_TP_DST);
    flow.fill(0, K_TP_SRC, K_TP_DST + 2);
  }
  const realPort = inPort(x);
  putBe32(flow, F_IN_PORT, port);
  const pristine = !hidePorts && isPristine(x);
  let rule: Rule | undefined;
  let miss = 'continue';
  let id = table;
  for (; id < HIDDEN_TABLE; id++) {
    const flowTable = bridge.tables[id]!;
    rule = flowTable.lookup(flow, x.wildcards, x.flowWords, x.wildcardWords);
    x.effects.tables.push({ table: flowTable, matched: rule !== undefined, rule, pristine });
    if (rule !== undefined) break;
    if (!honorMiss) break;
    miss = bridge.tableMiss(id);
    if (miss !== 'continue') break;
  }
  x.table = Math.min(id, HIDDEN_TABLE - 1);
  putBe32(flow, F_IN_PORT, realPort);
  if (hidePorts) {
    putBe16(flow, K_TP_SRC, tpSrc);
    putBe16(flow, K_TP_DST, tpDst);
  }
  if (rule !== undefined) return rule;
  x.dropReason = DROP_UPCALL_NO_FLOW;
  if (!mayPacketIn) return bridge.noPacketInRule;
  if (miss === 'default') {
    return bridge.wantsPacketInOnMiss === true ? bridge.missRule : bridge.noPacketInRule;
  }
  if (miss === 'drop') return bridge.noPacketInRule;
  const config = portOf(x, realPort)?.desc.config;
  if (config === undefined || (config & OFPPC_NO_PACKET_IN) !== 0) return bridge.noPacketInRule;
  return bridge.missRule;
}

/** Writes the line of a table to the trace; lines of its actions go below it. */
export function reportTable(x: Xlate, rule: Rule): void {
  if (x.trace === undefined) return;
  // Open vSwitch knows only the hidden rules of the bridge where the packet came in; those of a bridge behind a patch
  // port it shows as they are.
  const { bridge } = x.in;
  let text: string;
  if (rule === bridge.missRule) {
    text = 'No match, and a "packet-in" is called for.';
  } else if (rule === bridge.noPacketInRule) {
    text = 'No match.';
  } else if (rule === bridge.dropFragmentsRule) {
    text = 'Packets are IP fragments and the fragment handling mode is "drop".';
  } else {
    const match = x.in.text!.match(rule);
    text = `${match}${match === '' ? '' : ', '}priority ${rule.priority}`;
    if (rule.cookie !== 0n) text += `, cookie 0x${rule.cookie.toString(16)}`;
  }
  x.trace = report(x, 'table', `${String(x.table).padStart(2)}. ${text}`);
}

/** False when the translation has become too deep or too long for another table or group. */
export function mayResubmit(x: Xlate): boolean {
  if (x.depth >= MAX_DEPTH) {
    report(x, 'error', `over max translation depth ${MAX_DEPTH}`);
    x.error = 'Recursion too deep';
  } else if (x.resubmits >= MAX_RESUBMITS) {
    report(x, 'error', `over ${MAX_RESUBMITS} resubmit actions`);
    x.error = 'Too many resubmits';
  } else if (x.stack.length >= MAX_STACK) {
    report(x, 'error', 'resubmits yielded over 64 kB of stack');
    x.error = 'Stack too deep';
  } else if (x.program.length * 4 > 0xffff) {
    report(x, 'error', 'resubmits yielded over 64 kB of actions');
    x.exit = true;
  } else {
    return true;
  }
  x.dropReason = DROP_RESUBMIT_LIMIT;
  return false;
}

interface TableOptions {
  /** Entry into another bridge, which has an action set of its own. */
  readonly ownActionSet?: boolean;
  /** The look-up is for the original tuple of the packet's connection. */
  readonly withCt?: boolean;
}
const NO_OPTIONS: TableOptions = {};
const WITH_CT: TableOptions = { withCt: true };

/** Continues in a table: resubmit, goto_table, OFPP_TABLE, entry into another bridge. */
export function translateTable(
  x: Xlate,
  port: number,
  table: number,
  mayPacketIn: boolean,
  honorMiss: boolean,
  options: TableOptions = NO_OPTIONS,
): void {
  if (x.wasMpls) {
    // Another bridge, whose tables want to see what is below the label stack.
    awaitParse(x);
    keepForLater(x, [{ type: 'resubmit', inPort: OFPP_IN_PORT, table }]);
    return;
  }
  if (!mayResubmit(x)) return;
  if (options.withCt && !hasOriginalTuple(x)) {
    report(x, 'error', 'resubmit(ct) with non-tracked or non-IP packet!');
    return;
  }
  const { inBucket } = x;
  x.inBucket = false;
  const saved = { table: x.table, rule: x.rule, cookie: x.cookie, trace: x.trace };
  if (options.withCt) swapWithOriginalTuple(x);
  const rule = lookupRule(x, port, table, mayPacketIn, honorMiss);
  if (options.withCt) swapWithOriginalTuple(x);
  x.effects.rules.push(rule);
  reportTable(x, rule);
  const deepens = table <= saved.table ? 1 : 0;
  x.resubmits++;
  x.depth += deepens;
  x.rule = rule;
  x.cookie = rule.cookie;
  runActions(x, rule.actions);
  if (options.ownActionSet && x.error === undefined && x.freezing === undefined)
    executeActionSet(x);
  x.inBucket = inBucket;
  x.depth -= deepens;
  x.rule = saved.rule;
  x.cookie = saved.cookie;
  x.trace = saved.trace;
  x.table = saved.table;
}

/** At the end of the pipeline: what write_actions has collected. */
export function executeActionSet(x: Xlate): void {
  const actions = actionSetOrder(x.actionSet);
  x.actionSet = [];
  if (actions.length === 0) return;
  const trace = x.trace;
  x.inActionSet = true;
  x.trace = report(x, 'table', '--. Executing action set:');
  runActions(x, actions);
  x.trace = trace;
  x.inActionSet = false;
}

function writeActions(x: Xlate, actions: readonly Action[]): void {
  for (const action of actions) {
    if (action.type === 'output') putBe32(x.flow, F_ACTSET_OUTPUT, action.port);
  }
  x.actionSet.push(...actions);
}

function reportActionSet(x: Xlate, verb: string): void {
  if (x.trace === undefined) return;
  const actions = actionSetOrder(x.actionSet);
  const text =
    actions.length === 0
      ? `action set ${verb} empty`
      : `action set ${verb}: ${x.in.text!.actions(actions)}`;
  report(x, 'detail', text);
}

/** True when translation of this action list ends. */
function decrementTtl(x: Xlate, controllerIds: readonly number[]): boolean {
  // Looked at for every packet, as Open vSwitch has it, so that the megaflows are the same.
  x.wildcards[K_NW_TTL] = 0xff;
  x.wildcards[K_NW_PROTO] = 0xff;
  if (!isIp(x.flow)) return false;
  if (x.flow[K_NW_TTL]! > 1) {
    x.flow[K_NW_TTL]!--;
    return false;
  }
  for (const id of controllerIds) sendToController(x, 0xffff, 'invalid_ttl', id, undefined);
  const version = be16(x.flow, K_ETH_TYPE) === ETH_TYPE_IP ? 4 : 6;
  report(x, 'warn', `IPv${version} decrement TTL exception`);
  x.dropReason = DROP_TTL;
  return true;
}

function setVlan(x: Xlate, bits: number, value: number, pushIfNeeded: boolean): void {
  const { flow, wildcards } = x;
  or16(wildcards, K_VLAN0_TCI, bits | VLAN_PRESENT);
  const tci = be16(flow, K_VLAN0_TCI);
  if ((tci & VLAN_PRESENT) === 0 && !pushIfNeeded) return;
  if (be16(flow, K_VLAN0_TPID) === 0) putBe16(flow, K_VLAN0_TPID, ETH_TYPE_VLAN);
  putBe16(flow, K_VLAN0_TCI, (tci & ~bits) | (value & bits) | VLAN_PRESENT);
}

function popVlan(x: Xlate): void {
  const { flow, wildcards } = x;
  const count = countVlans(flow);
  if (count > 1) {
    exact(wildcards, K_VLAN1_TCI, 4);
    flow.copyWithin(K_VLAN0_TCI, K_VLAN1_TCI, K_VLAN1_TCI + 4);
  }
  if (count > 0) {
    const last = count > 1 ? K_VLAN1_TCI : K_VLAN0_TCI;
    flow.fill(0, last, last + 4);
  }
}

function pushVlan(x: Xlate, ethertype: number): void {
  const { flow, wildcards } = x;
  exact(wildcards, K_VLAN0_TCI, countVlans(flow) * 4);
  flow.copyWithin(K_VLAN1_TCI, K_VLAN0_TCI, K_VLAN0_TCI + 4);
  putBe16(flow, K_VLAN0_TPID, ethertype);
  putBe16(flow, K_VLAN0_TCI, VLAN_PRESENT);
}

/** OpenFlow 1.0's mod_tp_src and mod_tp_dst write the ports of any transport protocol. */
function setTransportPort(x: Xlate, offset: number, value: Uint8Array): void {
  if (!isIp(x.flow) || isLaterFragment(x.flow)) return;
  x.wildcards[K_NW_PROTO] = 0xff;
  exact(x.wildcards, offset, 2);
  putBe16(x.flow, offset, be16(value, value.length - 2));
}

function setField(x: Xlate, action: Action & { type: 'set_field' | 'load' }): void {
  if (action.type === 'set_field' && action.legacy === 'mod_tp_src') {
    setTransportPort(x, K_TP_SRC, action.value);
    return;
  }
  if (action.type === 'set_field' && action.legacy === 'mod_tp_dst') {
    setTransportPort(x, K_TP_DST, action.value);
    return;
  }
  const write = fieldWriteOf(action, x.bridge.tlvs);
  if (!prerequisiteMet(write.field, x.flow, x.wildcards)) {
    if (action.type === 'load' || action.legacy === undefined) {
      report(x, 'warn', `unmet prerequisites for ${write.field.name}, set_field ignored`);
    }
    return;
  }
  coverL3Prerequisite(write.field, x.flow, x.wildcards);
  applyWrite(write, x.flow, x.wildcards);
}

function setPriority(x: Xlate, priority: number): void {
  exact(x.wildcards, K_PRIORITY, 4);
  putBe32(x.flow, K_PRIORITY, priority);
}

function popQueue(x: Xlate): void {
  const { originalPriority } = x;
  const changed = be32(x.flow, K_PRIORITY) !== originalPriority;
  setPriority(x, originalPriority);
  if (!changed) return;
  const text = originalPriority === 0 ? '0' : `0x${originalPriority.toString(16)}`;
  report(x, 'detail', `queue = ${text}`);
}

function enqueue(x: Xlate, action: Action & { type: 'enqueue' }): void {
  exact(x.wildcards, K_PRIORITY, 4);
  const port = action.port === OFPP_IN_PORT ? inPort(x) : action.port;
  if (port === inPort(x) && action.port !== OFPP_IN_PORT) return;
  const before = be32(x.flow, K_PRIORITY);
  putBe32(x.flow, K_PRIORITY, queuePriority(action.queue));
  outputToPort(x, port);
  putBe32(x.flow, K_PRIORITY, before);
}

/** Queue number to packet priority, as in the userspace datapath: the number itself. */
function queuePriority(queue: number): number {
  return queue;
}

function resubmit(x: Xlate, action: Action & { type: 'resubmit' }): void {
  const internal = x.rule?.hidden === true && x.rule.table === HIDDEN_TABLE;
  const port = action.inPort === OFPP_IN_PORT ? inPort(x) : action.inPort;
  const table = action.table === 255 ? x.table : action.table;
  translateTable(x, port, table, internal, internal, action.withCt ? WITH_CT : NO_OPTIONS);
}

function meter(x: Xlate, id: number): void {
  const number = x.bridge.meters?.get(id)?.number;
  if (number !== undefined) x.program.push(ACT_METER | (2 << 16), number);
}

function writeMetadata(x: Xlate, metadata: bigint, mask: bigint): void {
  for (let i = 7; i >= 0; i--) {
    const bits = Number(mask & 0xffn);
    x.flow[F_METADATA + i] = (x.flow[F_METADATA + i]! & ~bits) | (Number(metadata & 0xffn) & bits);
    mask >>= 8n;
    metadata >>= 8n;
  }
}

/** The actions that follow are those of another rule. */
function restoreRule(x: Xlate, table: number, cookie: bigint): void {
  x.table = table;
  x.cookie = cookie;
  if (x.trace === undefined) return;
  // Open vSwitch shows the cookie as it stands in memory: in network byte order.
  const bytes = new DataView(new ArrayBuffer(8));
  bytes.setBigUint64(0, cookie);
  const shown = bytes.getBigUint64(0, true);
  const text = shown === 0n ? '0' : `0x${shown.toString(16)}`;
  report(x, 'thaw', `restored state: table=${table}, cookie=${text}`);
}

/** Runs one action. True: the rest of the list is not run. */
function runAction(x: Xlate, action: Action): boolean {
  switch (action.type) {
    case 'output':
      output(x, action.port, action.maxLen, true);
      return false;
    case 'controller':
      if (action.pause === true) {
        pause(x, action);
        return false;
      }
      sendToController(
        x,
        action.maxLen,
        REASONS[action.reason] ?? 'action',
        action.controllerId,
        action.userdata,
        action.meterId,
      );
      return false;
    case 'output_reg': {
      const port = readSubfield(action.source, x.flow, x.wildcards, x.bridge.tlvs);
      if (port > 0xffffn) {
        report(x, 'warn', `output port ${port} is out of range`);
      } else {
        report(x, 'detail', `output port is ${port}`);
        const number = Number(port);
        // 16 bits: the reserved ports are those of OpenFlow 1.0.
        const wide = number >= (OFPP_MAX & 0xffff) ? (number + 0xffff0000) >>> 0 : number;
        output(x, wide, action.maxLen, false);
      }
      return false;
    }
    case 'output_trunc':
      outputTruncated(x, action.port, action.maxLen);
      return false;
    case 'enqueue':
      enqueue(x, action);
      return false;
    case 'set_queue':
      setPriority(x, queuePriority(action.queue));
      return false;
    case 'pop_queue':
      popQueue(x);
      return false;
    case 'set_field':
    case 'load':
      setField(x, action);
      return false;
    case 'move':
      moveSubfield(action.src, action.dst, x.flow, x.wildcards, x.bridge.tlvs);
      if (x.trace !== undefined) reportSubfield(x, action.dst);
      return false;
    case 'set_vlan_vid':
      setVlan(x, VLAN_VID, action.vid, action.pushIfNeeded);
      return false;
    case 'set_vlan_pcp':
      setVlan(x, VLAN_PCP, action.pcp << 13, action.pushIfNeeded);
      return false;
    case 'strip_vlan':
      popVlan(x);
      return false;
    case 'push_vlan':
      pushVlan(x, action.ethertype);
      return false;
    case 'dec_ttl':
      return decrementTtl(x, action.controllerIds);
    case 'push_mpls':
      pushMpls(x, action.ethertype);
      return false;
    case 'pop_mpls':
      popMpls(x, action.ethertype);
      return false;
    case 'dec_mpls_ttl':
      return decrementMplsTtl(x);
    case 'resubmit':
      resubmit(x, action);
      return false;
    case 'ct':
      trackConnection(x, action);
      return false;
    case 'ct_clear':
      clearTracking(x);
      return false;
    case 'goto_table':
      translateTable(x, inPort(x), action.table, true, true);
      return false;
    case 'write_metadata':
      writeMetadata(x, action.metadata, action.mask);
      return false;
    case 'write_actions':
      writeActions(x, action.actions);
      reportActionSet(x, 'is');
      return false;
    case 'clear_actions':
      reportActionSet(x, 'was');
      x.actionSet = [];
      putBe32(x.flow, F_ACTSET_OUTPUT, OFPP_UNSET);
      return false;
    case 'exit':
      x.exit = true;
      return false;
    case 'group':
      return translateGroup(x, action.group);
    case 'stack_push':
      stackPush(x, action);
      return false;
    case 'stack_pop':
      stackPop(x, action);
      return false;
    case 'multipath':
      multipath(x, action);
      return false;
    case 'bundle':
      bundle(x, action);
      return false;
    case 'learn':
      learn(x, action);
      return false;
    case 'fin_timeout':
      finTimeout(x, action);
      return false;
    case 'clone':
      clone(x, action.actions);
      return false;
    case 'conjunction':
      report(x, 'error', 'executing no-op conjunction action');
      return false;
    case 'meter':
      meter(x, action.meterId);
      return false;
    case 'sample':
      sample(x, action);
      return false;
    case 'unroll_xlate':
      restoreRule(x, action.table, action.cookie);
      return false;
    default:
      return false; // note, and what checkActions refuses
  }
}

export function reportSubfield(
  x: Xlate,
  dst: { field: string; offset: number; bits: number },
): void {
  report(x, 'detail', x.in.text!.subfield(dst, x.flow));
}

/** Runs a list of actions and instructions. */
export function runActions(x: Xlate, actions: readonly Action[]): void {
  if (actions.length === 0) {
    report(x, 'action', 'drop');
    return;
  }
  for (let i = 0; i < actions.length; i++) {
    if (x.error !== undefined) break;
    if (x.exit) {
      if (x.freezing !== undefined) keepForLater(x, actions.slice(i));
      break;
    }
    const action = actions[i]!;
    if (x.trace !== undefined) report(x, 'action', x.in.text!.actions([action]));
    if (wantsParsed(x, action)) {
      awaitParse(x);
      keepForLater(x, actions.slice(i));
      return;
    }
    if (action.type === 'check_pkt_larger') {
      checkPktLarger(x, action, actions.slice(i + 1));
      return;
    }
    if (runAction(x, action)) return;
    // What waits for a hash is done again with it.
    if (x.freezing?.for === 'hash' && x.frozenActions.length === 0) {
      keepForLater(x, actions.slice(i));
      break;
    }
  }
}
