// The classifier against the obvious implementation (a list), and the promise that everything else rests on: a flow
// that agrees with the looked-up one in all bits noted as looked at gets the same rule.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  F_IN_PORT,
  F_REGS,
  FLOW_SIZE,
  K_ETH_DST,
  K_ETH_TYPE,
  K_IPV6_DST,
  K_NW_DST,
  K_NW_PROTO,
  K_NW_SRC,
  K_TP_DST,
  K_TP_SRC,
} from '../../contract/key.ts';
import { Classifier } from '../../src/switch/classifier.ts';
import type { Rule } from '../../src/switch/types.ts';
import type { Match } from '../../src/wire/openflow/types.ts';

/** Few values in few fields, so that rules and flows meet often. */
const FIELDS: readonly { offset: number; bytes: number }[] = [
  { offset: F_REGS, bytes: 4 },
  { offset: F_IN_PORT, bytes: 4 },
  { offset: K_ETH_DST, bytes: 6 },
  { offset: K_NW_PROTO, bytes: 1 },
  { offset: K_NW_SRC, bytes: 4 },
  { offset: K_NW_DST, bytes: 4 },
  { offset: K_IPV6_DST, bytes: 16 },
  { offset: K_TP_SRC, bytes: 2 },
  { offset: K_TP_DST, bytes: 2 },
];

const byte = fc.constantFrom(0, 1, 0x0a, 0x80, 0xff);
const maskByte = fc.constantFrom(0xff, 0xff, 0, 0xf0, 0x01);

function prefixMask(bytes: number, bits: number): Uint8Array {
  const mask = new Uint8Array(bytes);
  for (let i = 0; i < bits; i++) mask[i >> 3]! |= 0x80 >> (i & 7);
  return mask;
}

const fieldMask = (bytes: number): fc.Arbitrary<Uint8Array> =>
  fc.oneof(
    fc.constant(new Uint8Array(bytes)),
    fc.constant(new Uint8Array(bytes).fill(0xff)),
    fc.integer({ min: 1, max: bytes * 8 }).map((bits) => prefixMask(bytes, bits)),
    fc.array(maskByte, { minLength: bytes, maxLength: bytes }).map((b) => Uint8Array.from(b)),
  );

const flowArbitrary: fc.Arbitrary<Uint8Array> = fc
  .tuple(
    fc.constantFrom(0x0800, 0x86dd, 0x0806),
    ...FIELDS.map(({ bytes }) => fc.array(byte, { minLength: bytes, maxLength: bytes })),
  )
  .map(([type, ...values]) => {
    const flow = new Uint8Array(FLOW_SIZE);
    flow[K_ETH_TYPE] = type >> 8;
    flow[K_ETH_TYPE + 1] = type;
    for (const [i, value] of values.entries()) flow.set(value, FIELDS[i]!.offset);
    return flow;
  });

const matchArbitrary: fc.Arbitrary<Match> = fc
  .tuple(flowArbitrary, fc.boolean(), ...FIELDS.map(({ bytes }) => fieldMask(bytes)))
  .map(([flow, typed, ...masks]) => {
    const mask = new Uint8Array(FLOW_SIZE);
    if (typed) mask.fill(0xff, K_ETH_TYPE, K_ETH_TYPE + 2);
    for (const [i, bits] of masks.entries()) mask.set(bits, FIELDS[i]!.offset);
    return { key: flow.map((value, i) => value & mask[i]!), mask };
  });

function makeRule(match: Match, priority: number): Rule {
  return {
    table: 0,
    priority,
    match,
    cookie: 0n,
    actions: [],
    idleTimeout: 0,
    hardTimeout: 0,
    importance: 0,
    flags: {
      sendFlowRem: false,
      checkOverlap: false,
      resetCounts: false,
      noPktCounts: false,
      noBytCounts: false,
    },
    createdMs: 0,
    modifiedMs: 0,
    usedMs: 0,
    packets: 0,
    bytes: 0,
    hidden: false,
    removed: false,
  };
}

const matches = (rule: Rule, flow: Uint8Array): boolean =>
  flow.every((value, i) => ((value ^ rule.match.key[i]!) & rule.match.mask[i]!) === 0);

/** Rules with distinct priorities: with equal ones, either of two would be right. */
const rulesArbitrary = fc
  .array(matchArbitrary, { minLength: 1, maxLength: 40 })
  .map((list) => list.map((match, i) => makeRule(match, (i * 7919) % 65536)));

function best(rules: readonly Rule[], flow: Uint8Array): Rule | undefined {
  let found: Rule | undefined;
  for (const rule of rules) {
    if (matches(rule, flow) && (found === undefined || rule.priority > found.priority))
      found = rule;
  }
  return found;
}

function classifierOf(rules: readonly Rule[], prefixes?: readonly string[]): Classifier {
  const classifier = new Classifier(0, prefixes);
  for (const rule of rules) classifier.insert(rule);
  return classifier;
}

const PREFIXES = fc.constantFrom(undefined, [], ['ip_dst', 'ip_src', 'ipv6_dst', 'ipv6_src']);

test('finds what a linear search finds, also after removals', () => {
  fc.assert(
    fc.property(
      rulesArbitrary,
      fc.array(flowArbitrary, { minLength: 1, maxLength: 10 }),
      PREFIXES,
      fc.nat(),
      (rules, flows, prefixes, seed) => {
        const classifier = classifierOf(rules, prefixes);
        const gone = rules.filter((_, i) => ((seed >> (i & 15)) & 1) === 1);
        const left = rules.filter((rule) => !gone.includes(rule));
        for (const set of [rules, left]) {
          if (set === left) for (const rule of gone) classifier.remove(rule);
          assert.equal(classifier.size, set.length);
          for (const flow of flows) {
            assert.equal(classifier.lookup(flow, undefined), best(set, flow));
            assert.equal(classifier.lookup(flow, new Uint8Array(FLOW_SIZE)), best(set, flow));
          }
        }
      },
    ),
    { numRuns: 150 },
  );
});

test('a flow that agrees in all bits looked at gets the same rule', () => {
  fc.assert(
    fc.property(
      rulesArbitrary,
      flowArbitrary,
      fc.array(flowArbitrary, { minLength: 1, maxLength: 20 }),
      PREFIXES,
      (rules, flow, others, prefixes) => {
        const classifier = classifierOf(rules, prefixes);
        const wildcards = new Uint8Array(FLOW_SIZE);
        // Translation always looks at the Ethernet type: tries rely on it.
        wildcards.fill(0xff, K_ETH_TYPE, K_ETH_TYPE + 2);
        const found = classifier.lookup(flow, wildcards);
        for (const other of others) {
          const twin = other.map((v, i) => (v & ~wildcards[i]!) | (flow[i]! & wildcards[i]!));
          assert.equal(best(rules, twin), found);
        }
      },
    ),
    { numRuns: 300 },
  );
});

test('strict, loose and overlapping searches', () => {
  fc.assert(
    fc.property(rulesArbitrary, matchArbitrary, (rules, probe) => {
      const classifier = classifierOf(rules);
      for (const rule of rules) {
        assert.equal(classifier.findStrict(rule.match, rule.priority), rule);
        assert.equal(classifier.findStrict(rule.match, rule.priority + 1), undefined);
        const overlap = classifier.findOverlap(probe, rule.priority);
        const common = rule.match.key.every(
          (v, i) => ((v ^ probe.key[i]!) & rule.match.mask[i]! & probe.mask[i]!) === 0,
        );
        assert.equal(overlap, common ? rule : undefined);
      }
      const inside = rules.filter((rule) =>
        probe.mask.every(
          (m, i) =>
            (rule.match.mask[i]! & m) === m && ((rule.match.key[i]! ^ probe.key[i]!) & m) === 0,
        ),
      );
      assert.deepEqual(new Set(classifier.findLoose(probe)), new Set(inside));
      assert.deepEqual(new Set(classifier), new Set(rules));
    }),
    { numRuns: 100 },
  );
});

test('tries keep addresses wildcarded', () => {
  const classifier = new Classifier(0);
  const match: Match = { key: new Uint8Array(FLOW_SIZE), mask: new Uint8Array(FLOW_SIZE) };
  match.key.set([0x08, 0x00], K_ETH_TYPE);
  match.mask.set([0xff, 0xff], K_ETH_TYPE);
  match.key.set([10, 1, 2, 0], K_NW_DST);
  match.mask.set([255, 255, 255, 0], K_NW_DST);
  classifier.insert(makeRule(match, 1));
  const wildcards = new Uint8Array(FLOW_SIZE);
  const flow = new Uint8Array(FLOW_SIZE);
  flow.set([0x08, 0x00], K_ETH_TYPE);
  flow.set([192, 168, 0, 1], K_NW_DST);
  assert.equal(classifier.lookup(flow, wildcards), undefined);
  assert.deepEqual([...wildcards.subarray(K_NW_DST, K_NW_DST + 4)], [0x80, 0, 0, 0]);
});

test('places held while the prefix fields change are those of any other rule afterwards', () => {
  const held = fc.constantFrom('before', 'over', 'dropped');
  fc.assert(
    fc.property(rulesArbitrary, fc.array(held, { minLength: 40, maxLength: 40 }), (rules, when) => {
      const classifier = new Classifier(0, ['ip_dst']);
      const plain = new Classifier(0, ['ip_src', 'ip_dst']);
      const places = rules.map((rule, i) =>
        when[i] === 'before' ? undefined : classifier.hold(rule.match),
      );
      for (const [i, rule] of rules.entries()) if (!places[i]) classifier.insert(rule);
      classifier.setPrefixes(['ip_src', 'ip_dst']);
      for (const [i, rule] of rules.entries()) {
        const place = places[i];
        if (when[i] === 'dropped') classifier.release(place!);
        else plain.insert(rule);
        if (when[i] === 'over') {
          assert.equal(classifier.inPlace(place!, rule.priority), undefined);
          classifier.put(place!, rule);
        }
      }
      for (const { match } of rules) {
        const [mask, expected] = [new Uint8Array(FLOW_SIZE), new Uint8Array(FLOW_SIZE)];
        assert.equal(classifier.lookup(match.key, mask), plain.lookup(match.key, expected));
        assert.deepEqual(mask, expected);
      }
      for (const rule of [...classifier]) classifier.remove(rule);
      assert.equal(classifier.size, 0);
      assert.equal(classifier.subtableCount, 0);
    }),
    { numRuns: 100 },
  );
});
