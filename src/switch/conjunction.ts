// Conjunctive matches (ovs-actions(7), "conjunction"; ovs-fields(7), "conj_id"): a packet that matches one flow of each
// of k clauses also matches the flow with the conjunction's conj_id, so that N × M sets need N + M flows.
//
// A flow with conjunction actions is only a soft match: by itself it decides nothing. The classifier collects the soft
// matches above its best ordinary ("hard") match and asks here which flow the packet matches after all:
//
//   highest priority with soft matches ── a conjunction complete? ── look up with its conj_id ── found: that flow
//                                      └─ no: each of them falls back to the next flow of the same match ── again

import type { Rule } from './types.ts';

/** One conjunction action: clause `clause` (0 …) of `nClauses` of the conjunction `id`. */
export interface Conjunction {
  readonly id: number;
  readonly clause: number;
  readonly nClauses: number;
}

const known = new WeakMap<Rule['actions'], readonly Conjunction[]>();

/** Do these actions make a flow part of a conjunction? */
export function isConjunctive(actions: Rule['actions']): boolean {
  return actions.some(({ type }) => type === 'conjunction');
}

/** The conjunctions that a rule is part of, undefined for an ordinary rule. Such a rule may have notes, too. */
export function conjunctionsOf(rule: Rule): readonly Conjunction[] | undefined {
  const { actions } = rule;
  for (const { type } of actions) {
    if (type === 'note') continue;
    if (type !== 'conjunction') return undefined;
    let list = known.get(actions);
    if (list === undefined) {
      list = actions.filter((action) => action.type === 'conjunction');
      known.set(actions, list);
    }
    return list;
  }
  return undefined;
}

/** A place in a list of rules with the same match, by falling priority. */
export interface SoftMatch {
  readonly head: Rule;
  readonly lower: readonly Rule[] | undefined;
  /** 0 is the head. */
  index: number;
}

/** Undefined when there is none left. */
function ruleOf({ head, lower, index }: SoftMatch): Rule | undefined {
  return index === 0 ? head : lower?.[index - 1];
}

/** Clauses that the packet matches, two words of bits; complete when none is missing. */
class Progress {
  #low: number;
  #high: number;

  constructor(nClauses: number) {
    this.#low = nClauses >= 32 ? 0xffffffff : 2 ** nClauses - 1;
    this.#high = nClauses > 32 ? 2 ** (nClauses - 32) - 1 : 0;
  }

  /** True when no clause is missing any more. */
  matched(clause: number): boolean {
    if (clause < 32) this.#low &= ~(1 << clause);
    else this.#high &= ~(1 << (clause - 32));
    return this.#low === 0 && this.#high === 0;
  }
}

/** Conjunctions that are complete with the flows given, in the order in which they become it. */
function* complete(rules: readonly Rule[]): Generator<number> {
  const progress = new Map<number, Progress>();
  const done = new Set<number>();
  for (const rule of rules) {
    for (const { id, clause, nClauses } of conjunctionsOf(rule) ?? []) {
      if (nClauses > rules.length || done.has(id)) continue;
      let one = progress.get(id);
      if (one === undefined) {
        one = new Progress(nClauses);
        progress.set(id, one);
      }
      if (!one.matched(clause)) continue;
      done.add(id);
      yield id;
    }
  }
}

/**
 * The rule that the packet matches, given its soft matches and its best hard match. `lookupWith` looks up again with
 * that conj_id and without regard to conjunctions. Empties `soft`.
 */
export function resolveConjunctions(
  soft: SoftMatch[],
  hard: Rule | undefined,
  lookupWith: (conjunctionId: number) => Rule | undefined,
): Rule | undefined {
  let best = hard;
  for (;;) {
    const floor = best?.priority ?? -1;
    let count = 0;
    let priority = -1;
    for (const one of soft) {
      const rule = ruleOf(one);
      if (rule === undefined || rule.priority <= floor) continue;
      soft[count++] = one;
      priority = Math.max(priority, rule.priority);
    }
    soft.length = count;
    if (count === 0) return best;
    const highest = soft.filter((one) => ruleOf(one)!.priority === priority);
    for (const id of complete(highest.map((one) => ruleOf(one)!))) {
      const rule = lookupWith(id);
      if (rule !== undefined) return rule;
    }
    // Each of them falls back to what stands below it with the same match: that may be hard, soft, or nothing.
    for (const one of highest) {
      one.index++;
      const rule = ruleOf(one);
      if (rule === undefined || conjunctionsOf(rule) !== undefined) continue;
      if (best === undefined || rule.priority > best.priority) best = rule;
      one.index = 1 + (one.lower?.length ?? 0);
    }
  }
}
