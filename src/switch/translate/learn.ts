// The learn action: a packet makes a flow (ovs-actions(7), "learn"). While a packet is at hand the flow is made at once;
// the megaflow's later packets refresh it, or make it anew, when their statistics come in (megaflow.ts).

import { FLOW_SIZE } from '../../../contract/key.ts';
import {
  coverSubfield as coverMatch,
  getSubfield,
  port10To11,
  setSubfield,
} from '../../wire/openflow/fieldAccess.ts';
import { fieldByName } from '../../wire/openflow/fields.ts';
import {
  type Action,
  type FlowMod,
  type Match,
  OFPP_ALL,
  OFPP_FLOOD,
  OFPP_IN_PORT,
  OFPP_LOCAL,
  OFPP_NONE,
  OfError,
} from '../../wire/openflow/types.ts';
import type { Rule } from '../types.ts';
import { report, type Xlate } from './context.ts';
import { coverSubfield } from './fieldOps.ts';
import { loadNumber } from './nxActions.ts';

type Learn = Action & { type: 'learn' };

const SEND_FLOW_REM = 1;
const WRITE_RESULT = 4;
const ALL_ONES = 0xffffffffffffffffn;
const PORTS = [OFPP_IN_PORT, OFPP_FLOOD, OFPP_LOCAL, OFPP_ALL];

/** Ports that a learned flow may output to; a number that is none is left out. */
function outputTo(value: bigint): Action[] {
  if (value > 0xffffn) return [];
  const port = port10To11(Number(value));
  if (port >= 0xff00 && !PORTS.includes(port)) return [];
  return [{ type: 'output', port, maxLen: 0 }];
}

/** The flow-mod that a packet with this flow makes. */
function flowModOf(learn: Learn, flow: Uint8Array): FlowMod {
  const match: Match = { key: new Uint8Array(FLOW_SIZE), mask: new Uint8Array(FLOW_SIZE) };
  const actions: Action[] = [];
  if (learn.finIdleTimeout !== 0 || learn.finHardTimeout !== 0) {
    actions.push({
      type: 'fin_timeout',
      idleTimeout: learn.finIdleTimeout,
      hardTimeout: learn.finHardTimeout,
    });
  }
  for (const { kind, src, dst } of learn.specs) {
    const value = typeof src === 'bigint' ? src : getSubfield(flow, src);
    if (kind === 'output' || dst === undefined) {
      actions.push(...outputTo(value));
    } else if (kind === 'load') {
      actions.push({ type: 'load', dst, value });
    } else {
      const f = fieldByName(dst.field);
      setSubfield(match.key, dst, value, f);
      coverMatch(match.mask, dst, f);
    }
  }
  for (let i = 0; i < FLOW_SIZE; i++) match.key[i]! &= match.mask[i]!;
  return {
    command: 'modify_strict',
    table: learn.table,
    match,
    priority: learn.priority,
    cookie: 0n,
    cookieMask: 0n,
    newCookie: learn.cookie,
    modifyCookie: learn.cookie !== ALL_ONES,
    idleTimeout: learn.idleTimeout,
    hardTimeout: learn.hardTimeout,
    importance: 0,
    bufferId: 0xffffffff,
    outPort: OFPP_NONE,
    outGroup: 0xffffffff,
    flags: {
      sendFlowRem: (learn.flags & SEND_FLOW_REM) !== 0,
      checkOverlap: false,
      resetCounts: false,
      noPktCounts: false,
      noBytCounts: false,
    },
    actions,
  };
}

function reportMod(x: Xlate, mod: FlowMod): void {
  if (x.trace === undefined) return;
  const match = x.in.text!.match({ match: mod.match } as Rule);
  let text = `table=${mod.table} ${match}`.trimEnd();
  text += ` priority=${mod.priority}`;
  if (mod.newCookie !== 0n) text += ` cookie=0x${mod.newCookie.toString(16)}`;
  if (mod.idleTimeout !== 0) text += ` idle=${mod.idleTimeout}`;
  if (mod.hardTimeout !== 0) text += ` hard=${mod.hardTimeout}`;
  if (mod.flags.sendFlowRem) text += ' send_flow_rem';
  report(x, 'detail', `${text} actions=${x.in.text!.actions(mod.actions)}`);
}

export function learn(x: Xlate, action: Learn): void {
  for (const { src } of action.specs) {
    if (typeof src !== 'bigint') coverSubfield(src, fieldByName(src.field), x.wildcards);
  }
  const { flows } = x.bridge;
  if (flows === undefined) return;
  if (x.trace !== undefined && !x.in.learn) {
    report(x, 'warn', 'suppressing side effects, so learn action ignored');
    return;
  }
  const mod = flowModOf(action, x.flow);
  reportMod(x, mod);
  let success = true;
  try {
    if (x.in.learn) success = flows.learn(mod, action.limit);
    else if (action.limit !== 0 && !flows.hasLearned(mod)) x.passing = true;
  } catch (error) {
    if (!(error instanceof OfError)) throw error;
    report(x, 'error', `LEARN action execution failed (${error.code}).`);
    return;
  }
  if (success) x.effects.learns.push({ flows, mod, limit: action.limit });
  if ((action.flags & WRITE_RESULT) !== 0 && action.resultDst !== undefined) {
    loadNumber(x, action.resultDst, success ? 1n : 0n);
  }
  if (!success) report(x, 'detail', 'Limit exceeded, learn failed');
}
