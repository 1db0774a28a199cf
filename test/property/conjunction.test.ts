// Conjunctive matches against the definition in ovs-fields(7), worked out the long way; and the promise of the mask:
// a flow that agrees with the looked-up one in all bits noted as looked at gets the same rule.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { F_CONJ_ID, FLOW_SIZE, K_NW_DST, K_NW_SRC, K_TP_DST } from '../../contract/key.ts';
import { Classifier } from '../../src/switch/classifier.ts';
import type { Rule } from '../../src/switch/types.ts';
import type { Action, Match } from '../../src/wire/openflow/types.ts';
import { makeRule } from '../oracle/openflowRig.ts';

const FIELDS = [K_NW_SRC, K_NW_DST, K_TP_DST];

const flowArbitrary = fc.array(fc.nat(1), { minLength: 3, maxLength: 3 }).map((values) => {
  const flow = new Uint8Array(FLOW_SIZE);
  for (const [i, value] of values.entries()) flow[FIELDS[i]! + 1] = value;
  return flow;
});

/** A value or nothing for each field. */
const matchArbitrary: fc.Arbitrary<Match> = fc
  .array(fc.constantFrom(-1, -1, 0, 1, 2), { minLength: 3, maxLength: 3 })
  .map((values) => {
    const match = { key: new Uint8Array(FLOW_SIZE), mask: new Uint8Array(FLOW_SIZE) };
    for (const [i, value] of values.entries()) {
      if (value < 0) continue;
      match.key[FIELDS[i]! + 1] = value;
      match.mask[FIELDS[i]! + 1] = 0xff;
    }
    return match;
  });

/** The number of clauses belongs to the conjunction: 2, 3 or 4. */
const conjunction = fc.tuple(fc.integer({ min: 1, max: 3 }), fc.nat(3)).map(
  ([id, clause]): Action => ({
    type: 'conjunction',
    id,
    clause: clause % (id + 1),
    nClauses: id + 1,
  }),
);
const actions = fc.oneof(
  { weight: 3, arbitrary: fc.array(conjunction, { minLength: 1, maxLength: 3 }) },
  { weight: 1, arbitrary: fc.constant<Action[]>([{ type: 'exit' }]) },
);

const rulesArbitrary = fc
  .array(fc.tuple(matchArbitrary, fc.constantFrom(1, 3, 3, 3, 4), fc.nat(3), actions), {
    minLength: 5,
    maxLength: 30,
    size: 'max',
  })
  .map((list) => {
    const rules = new Map<string, Rule>();
    for (const [plain, priority, id, actions] of list) {
      const soft = actions[0]!.type === 'conjunction';
      const match = { key: plain.key.slice(), mask: plain.mask.slice() };
      if (!soft && id > 0) {
        match.key[F_CONJ_ID + 3] = id;
        match.mask.fill(0xff, F_CONJ_ID, F_CONJ_ID + 4);
      }
      // Each match once: what several priorities of one match do is the next test's business.
      const rule = { ...makeRule(0, priority, match, []), actions };
      rules.set(`${match.key.join()}/${match.mask.join()}`, rule);
    }
    return [...rules.values()];
  });

function matches({ match }: Rule, flow: Uint8Array, conjunctionId = 0): boolean {
  const record = flow.slice();
  record[F_CONJ_ID + 3] = conjunctionId;
  return record.every((value, i) => ((value ^ match.key[i]!) & match.mask[i]!) === 0);
}

const isSoft = (rule: Rule): boolean => rule.actions[0]?.type === 'conjunction';

/** Highest-priority ordinary rules that match. */
function bestHard(rules: readonly Rule[], flow: Uint8Array, conjunctionId: number): Rule[] {
  const found = rules.filter((rule) => !isSoft(rule) && matches(rule, flow, conjunctionId));
  const top = Math.max(...found.map((rule) => rule.priority));
  return found.filter((rule) => rule.priority === top);
}

/** All rules that may be the answer: of equal priorities, and of several complete conjunctions, any may be it. */
function answers(rules: readonly Rule[], flow: Uint8Array): (Rule | undefined)[] {
  const hard = bestHard(rules, flow, 0);
  const floor = hard[0]?.priority ?? -1;
  for (let priority = 4; priority > floor; priority--) {
    const soft = rules.filter((r) => isSoft(r) && r.priority === priority && matches(r, flow));
    const found: Rule[] = [];
    for (const id of [1, 2, 3]) {
      const clauses = new Set<number>();
      for (const rule of soft) {
        for (const action of rule.actions) {
          if (action.type === 'conjunction' && action.id === id) clauses.add(action.clause);
        }
      }
      if (clauses.size === id + 1 && id + 1 <= soft.length) {
        found.push(...bestHard(rules, flow, id));
      }
    }
    if (found.length > 0) return found;
  }
  return hard.length > 0 ? hard : [undefined];
}

test('finds what the definition says', () => {
  let conjunctive = 0;
  fc.assert(
    fc.property(
      rulesArbitrary,
      fc.array(flowArbitrary, { minLength: 1, maxLength: 20 }),
      (rules, flows) => {
        const classifier = new Classifier(0);
        for (const rule of rules) classifier.insert(rule);
        for (const flow of flows) {
          const expected = answers(rules, flow);
          const found = classifier.lookup(flow, undefined);
          assert.ok(expected.includes(found));
          if (found !== undefined && found.match.key[F_CONJ_ID + 3] !== 0) conjunctive++;
          const wildcards = new Uint8Array(FLOW_SIZE);
          assert.ok(expected.includes(classifier.lookup(flow, wildcards)));
          assert.ok(flow.subarray(F_CONJ_ID, F_CONJ_ID + 4).every((byte) => byte === 0));
        }
      },
    ),
    { numRuns: 2000 },
  );
  assert.ok(conjunctive > 300, `only ${conjunctive} conjunctions met`);
});

test('a flow that agrees in all bits looked at gets the same rule', () => {
  fc.assert(
    fc.property(
      rulesArbitrary,
      flowArbitrary,
      fc.array(flowArbitrary, { minLength: 1, maxLength: 20 }),
      (rules, flow, others) => {
        const classifier = new Classifier(0);
        for (const rule of rules) classifier.insert(rule);
        const wildcards = new Uint8Array(FLOW_SIZE);
        const found = classifier.lookup(flow, wildcards);
        for (const other of others) {
          const twin = other.map((v, i) => (v & ~wildcards[i]!) | (flow[i]! & wildcards[i]!));
          assert.equal(classifier.lookup(twin, undefined), found);
        }
      },
    ),
    { numRuns: 2000 },
  );
});

test('an incomplete conjunction falls back to lower priorities of the same match', () => {
  const anything = { key: new Uint8Array(FLOW_SIZE), mask: new Uint8Array(FLOW_SIZE) };
  const flow = new Uint8Array(FLOW_SIZE);
  const classifier = new Classifier(0);
  const soft = makeRule(0, 9, anything, [
    { type: 'conjunction', id: 1, clause: 0, nClauses: 2 },
    { type: 'note', data: new Uint8Array(2) },
  ]);
  const lower = makeRule(0, 8, anything, [{ type: 'conjunction', id: 2, clause: 0, nClauses: 2 }]);
  const hard = makeRule(0, 7, anything, []);
  for (const rule of [soft, lower]) classifier.insert(rule);
  assert.equal(classifier.lookup(flow, undefined), undefined);
  classifier.insert(hard);
  assert.equal(classifier.lookup(flow, undefined), hard);
  // Modified in place, a flow is an ordinary one at once.
  lower.actions = [];
  assert.equal(classifier.lookup(flow, undefined), lower);
});

test('64 clauses', () => {
  const classifier = new Classifier(0);
  // Behind the Ethernet header's fields: rules that match those are for frames, which such a packet is not.
  const first = 64;
  const flow = new Uint8Array(FLOW_SIZE).fill(0xff, first, first + 256);
  for (let clause = 0; clause < 64; clause++) {
    const match = { key: new Uint8Array(FLOW_SIZE), mask: new Uint8Array(FLOW_SIZE) };
    match.key[first + clause * 4] = 0xff;
    match.mask[first + clause * 4] = 0xff;
    const rule = makeRule(0, 5, match, [{ type: 'conjunction', id: 7, clause, nClauses: 64 }]);
    classifier.insert(rule);
  }
  const match = { key: new Uint8Array(FLOW_SIZE), mask: new Uint8Array(FLOW_SIZE) };
  match.key[F_CONJ_ID + 3] = 7;
  match.mask.fill(0xff, F_CONJ_ID, F_CONJ_ID + 4);
  const target = makeRule(0, 1, match, []);
  classifier.insert(target);
  assert.equal(classifier.lookup(flow, undefined), target);
  flow[first + 63 * 4] = 0;
  assert.equal(classifier.lookup(flow, undefined), undefined);
});
