// The classifier's tables by hash, against Maps: whatever is added, replaced and removed, with as many collisions as there can be.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { HashCounts, HashList } from '../../src/switch/ruleIndex.ts';

/** Few hashes, so that most of them meet, and some that differ in high bits only. */
const hashes = fc.oneof(
  fc.integer({ min: -3, max: 3 }),
  fc.integer({ min: 0, max: 40 }).map((i) => i << 26),
  fc.integer(),
);
const steps = fc.array(fc.tuple(fc.constantFrom('add', 'add', 'remove', 'replace'), hashes), {
  maxLength: 300,
});

test('counts of hashes are those of a Map', () => {
  fc.assert(
    fc.property(steps, (all) => {
      const counts = new HashCounts();
      const model = new Map<number, number>();
      for (const [step, hash] of all) {
        const count = model.get(hash) ?? 0;
        if (step === 'add') {
          counts.add(hash);
          model.set(hash, count + 1);
        } else if (count > 0) {
          counts.drop(hash);
          if (count === 1) model.delete(hash);
          else model.set(hash, count - 1);
        }
        for (const [, seen] of all) assert.equal(counts.has(seen), model.has(seen));
      }
    }),
    { numRuns: 60 },
  );
});

interface Thing {
  hash: number;
}

function found(list: HashList<Thing>, hash: number): Thing[] {
  const things: Thing[] = [];
  for (let slot = list.first(hash); slot >= 0; slot = list.next(slot, hash)) {
    things.push(list.at(slot));
  }
  return things;
}

test('things are found by their hashes, and come in the order in which they were added', () => {
  fc.assert(
    fc.property(steps, fc.integer({ min: 0, max: 500 }), (all, reserved) => {
      const list = new HashList<Thing>();
      list.reserve(reserved);
      let model: Thing[] = [];
      for (const [step, hash] of all) {
        const thing = { hash };
        const slot = list.first(hash);
        if (step === 'add') {
          list.add(hash, thing);
          model.push(thing);
        } else if (slot < 0) {
          assert.ok(!model.some((other) => other.hash === hash));
        } else if (step === 'replace') {
          model[model.indexOf(list.at(slot))] = thing;
          list.replace(slot, thing);
        } else {
          const gone = list.at(slot);
          model = model.filter((other) => other !== gone);
          list.removeAt(slot);
        }
        const mine = model.filter((other) => other.hash === hash);
        assert.deepEqual(new Set(found(list, hash)), new Set(mine));
        assert.equal(found(list, hash).length, mine.length);
      }
      assert.deepEqual([...list], model);
      for (const thing of model) {
        assert.ok(found(list, thing.hash).includes(thing));
      }
    }),
    { numRuns: 200 },
  );
});

test('a list that nearly all has left is small again, and in order', () => {
  const list = new HashList<Thing>();
  const things = Array.from({ length: 5000 }, (_, hash) => ({ hash }));
  for (const thing of things) list.add(thing.hash, thing);
  for (const { hash } of things) if (hash % 100 !== 7) list.removeAt(list.first(hash));
  assert.deepEqual(
    [...list],
    things.filter(({ hash }) => hash % 100 === 7),
  );
  for (const thing of things) {
    assert.deepEqual(found(list, thing.hash), thing.hash % 100 === 7 ? [thing] : []);
  }
});
