// Which megaflows can a changed flow have to do with? A barrier waits until all of them are translated again, and tools that
// send a barrier behind each flow (ovs-ofctl add-flows) would otherwise wait for all megaflows each time.
//
//   removed, changed   the megaflows that the flow has decided: effects name them
//   new                the megaflows whose packets were looked up in its table, unless a flow of a higher priority was found
//                      there, or the packets differ in a header field that both the megaflow and the new flow match
//
// Flows of conjunctions decide nothing themselves, so they are always taken as new ones; and the priority of a flow that
// matches conj_id says nothing, since its conjunction's flows have fought for it with theirs.

import { F_CONJ_ID, KEY_SIZE } from '../../contract/key.ts';
import { wordsOf } from '../wire/openflow/packedMatch.ts';
import { isConjunctive } from './conjunction.ts';
import { be32 } from './flow.ts';
import type { Megaflow } from './megaflow.ts';
import type { XlateBridge } from './translate/types.ts';
import type { FlowTable, Rule } from './types.ts';

const KEY_WORDS = KEY_SIZE / 4;

export interface RuleChange {
  readonly bridge: XlateBridge;
  readonly table: FlowTable;
  readonly rule: Rule;
  /** Only the packets that the rule has decided can fare differently. */
  readonly decidedOnly: boolean;
  /** Against a flow of a higher priority it is of no account. */
  readonly byPriority: boolean;
  readonly key: Int32Array;
  readonly mask: Int32Array;
}

function matchesConjId(rule: Rule): boolean {
  return be32(rule.match.mask, F_CONJ_ID) !== 0;
}

/** A flow is new (`added`), or it was changed or removed; `oldActions`: before a change. */
export function ruleChange(
  bridge: XlateBridge,
  rule: Rule,
  added: boolean,
  oldActions: Rule['actions'] | undefined,
): RuleChange {
  const conjunctive =
    isConjunctive(rule.actions) || (oldActions !== undefined && isConjunctive(oldActions));
  return {
    bridge,
    table: bridge.tables[rule.table]!,
    rule,
    decidedOnly: !added && !conjunctive,
    byPriority: !conjunctive && !matchesConjId(rule),
    key: wordsOf(rule.match.key),
    mask: wordsOf(rule.match.mask),
  };
}

/** No packet of the megaflow, as it came in, can match the rule. */
function disjoint({ pair }: Megaflow, { key, mask }: RuleChange): boolean {
  const { keyWords, maskWords } = pair;
  for (let i = 0; i < KEY_WORDS; i++) {
    if (((keyWords[i]! ^ key[i]!) & maskWords[i]! & mask[i]!) !== 0) return true;
  }
  return false;
}

/** May packets of the megaflow fare differently since the change? Errs on the side of yes. */
export function touches(flow: Megaflow, change: RuleChange): boolean {
  const { effects } = flow;
  if (!effects.bridges.has(change.bridge)) return false;
  if (change.decidedOnly) return effects.rules.includes(change.rule);
  const { priority } = change.rule;
  let isDisjoint: boolean | undefined;
  for (const { table, rule, pristine } of effects.tables) {
    if (table !== change.table) continue;
    if (change.byPriority && rule !== undefined && rule.priority > priority) {
      if (!matchesConjId(rule)) continue;
    }
    if (pristine) {
      isDisjoint ??= disjoint(flow, change);
      if (isDisjoint) continue;
    }
    return true;
  }
  return false;
}
