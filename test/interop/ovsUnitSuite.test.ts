// Open vSwitch's own unit suite against our daemon: tests that passed once must go on passing (ovsUnitSuite.json).
//
// All of them take the better part of an hour; here run some of every file, spread over it, in a few minutes.
// XVIO_OVS_UNIT_SUITE=all runs all that have to pass; `npm run ovs-testsuite -- FILE` shows where we stand.

import assert from 'node:assert/strict';
import { it } from 'node:test';
import { OvsUnitSuite, readBaseline } from './ovsUnitSuite.ts';

/** Tests of each file that run by default. */
const PER_FILE = 5;

/** Up to `count` of the numbers, evenly spread. */
function spread(numbers: readonly number[], count: number): number[] {
  if (numbers.length <= count) return [...numbers];
  return Array.from(
    { length: count },
    (_, i) => numbers[Math.floor((i * numbers.length) / count)]!,
  );
}

it('passes those of Open vSwitch’s tests that it has passed before', async () => {
  using suite = new OvsUnitSuite();
  const all = process.env.XVIO_OVS_UNIT_SUITE === 'all';
  const numbers = Object.values(readBaseline()).flatMap(({ ours }) =>
    spread(ours, all ? ours.length : PER_FILE),
  );
  assert.ok(numbers.length > 0);
  const results = await suite.run(numbers);
  const lost = numbers.filter((number) => results.get(number) !== 'ok');
  // A machine under load lets a test run into its own time limits: once more, alone.
  const again = lost.length > 0 ? await suite.run(lost, { jobs: 1 }) : new Map<number, string>();
  const failed = lost.filter((number) => again.get(number) !== 'ok');
  const names = failed.map((number) => `${number} ${suite.tests.get(number)?.name}`);
  assert.deepEqual(names, [], failed.map((number) => suite.log(number).slice(-3000)).join('\n'));
});
