// The pipeline of a translation: table look-ups, what leads from one table to the next (resubmit, goto_table), and the
// action set that is run at its end (OpenFlow 1.5.1 §5.1 and §5.6; ovs-actions(7), "The resubmit action").

import {
  DROP_MALFORMED,
  DROP_RESUBMIT_LIMIT,
  DROP_UPCALL_NO_FLOW,
} from '../../../contract/drop.ts';
import {
  F_ACTSET_OUTPUT,
  F_IN_PORT,
  K_NW_FRAG,
  K_TP_DST,
  K_TP_SRC,
  KEY_SIZE,
} from '../../../contract/key.ts';
import { type Action, OFPP_IN_PORT, OFPP_UNSET } from '../../wire/openflow/types.ts';
import { be16, putBe16, putBe32 } from '../flow.ts';
import { HIDDEN_TABLE } from '../tableNumbers.ts';
import type { Rule } from '../types.ts';
import { runActions } from './actions.ts';
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
import { awaitParse, keepForLater } from './freeze.ts';

const OFPPC_NO_PACKET_IN = 64;
/** Values: about what Open vSwitch holds in 64 KiB. */
const MAX_STACK = 8192;

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

export function writeActions(x: Xlate, actions: readonly Action[]): void {
  // What the set comes to: a group goes before an output.
  let hasGroup = x.actionSet.some(({ type }) => type === 'group');
  for (const action of actions) {
    if (action.type === 'group') {
      hasGroup = true;
      putBe32(x.flow, F_ACTSET_OUTPUT, OFPP_UNSET);
    } else if (action.type === 'output' && !hasGroup) {
      putBe32(x.flow, F_ACTSET_OUTPUT, action.port);
    }
  }
  x.actionSet.push(...actions);
}

export function reportActionSet(x: Xlate, verb: string): void {
  if (x.trace === undefined) return;
  const actions = actionSetOrder(x.actionSet);
  const text =
    actions.length === 0
      ? `action set ${verb} empty`
      : `action set ${verb}: ${x.in.text!.actions(actions)}`;
  report(x, 'detail', text);
}

export function resubmit(x: Xlate, action: Action & { type: 'resubmit' }): void {
  const internal = x.rule?.hidden === true && x.rule.table === HIDDEN_TABLE;
  const port = action.inPort === OFPP_IN_PORT ? inPort(x) : action.inPort;
  const table = action.table === 255 ? x.table : action.table;
  translateTable(x, port, table, internal, internal, action.withCt ? WITH_CT : NO_OPTIONS);
}
