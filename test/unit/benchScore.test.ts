// Which rounds of the benchmarks count where a host moves the cores of its virtual machine.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Distance, noTally, type Placement } from '../../bench/placement.ts';
import { medianDetails, type Sample, Score } from '../../bench/score.ts';
import type { Options } from '../../bench/types.ts';

const options = { rounds: 6 } as Options;

/** Cores that stay where the script says: one answer for each turn. */
const scripted = (far: boolean): Placement => ({
  near: async () => !far,
  settle: async () => !far,
  async [Symbol.asyncDispose]() {},
});

/** Plays all rounds of `a`, whose turns are far where it says F, and `b`, likewise; the value of a turn is its round. */
async function played(
  a: string,
  b: string,
  given: Partial<Options> = {},
): Promise<{ score: Score; notes: string[] }> {
  const notes: string[] = [];
  const score = new Score(['a', 'b'], { ...options, ...given }, notes);
  for (let n = 0; score.goesOn(n); n++) {
    for (const [at, script] of [a, b].entries()) {
      const value = n + at * 100;
      await score.play(at, scripted(script[n] === 'F'), async () => ({ value }));
    }
  }
  return { score, notes };
}

const values = (score: Score, at: number) => score.of(at).map(({ value }) => value);

describe('rounds that count', () => {
  it('all of them where the cores stay near', async () => {
    const { score } = await played('', '');
    assert.deepEqual(values(score, 0), [0, 1, 2, 3, 4, 5]);
    assert.deepEqual([score.farOf(0), score.tallies()], [0, []]);
  });

  it('not those that anybody has played with far cores, and others are played for them', async () => {
    const { score } = await played('.F', '...F');
    assert.deepEqual(values(score, 0), [0, 2, 4, 5, 6, 7]);
    assert.deepEqual(values(score, 1), [100, 102, 104, 105, 106, 107]);
    assert.deepEqual([score.farOf(0), score.farOf(1)], [0, 0]);
    assert.equal(score.allOf(0).length, 8);
    assert.deepEqual(score.tallies(), [
      '2 of 8 rounds do not count, cores were far from each other (a in 1: 1.00; b in 1: 103)',
    ]);
  });

  it('half as many more at most, and none behind the deadline', async () => {
    const { score } = await played('FFFFF', '');
    assert.deepEqual(values(score, 0), [5, 6, 7, 8]);
    const late = await played('', 'FF', { deadlineMs: Date.now() - 1, rounds: 9 });
    assert.deepEqual(values(late.score, 0), [0, 1, 2]);
    assert.match(late.notes[0]!, /3 rounds instead of 9/);
  });

  it('what is near shows when the cores once are', async () => {
    const ns = [150, 150, 50, 52, 50, 51, 49, 55];
    const distance = new Distance();
    let round = -1;
    const placement: Placement = {
      near: async () => distance.isNear(ns[round]!),
      settle: async () => distance.isNear(ns[round]!),
      lastNs: () => ns[round]!,
      isNear: (each) => distance.isNear(each),
      async [Symbol.asyncDispose]() {},
    };
    const score = new Score(['a'], options, []);
    for (round = 0; score.goesOn(round); round++) {
      await score.play(0, placement, async () => ({ value: round }));
    }
    assert.deepEqual(values(score, 0), [2, 3, 4, 5, 6, 7]);
    assert.deepEqual(score.tallies(), [
      '2 of 8 rounds do not count, cores were far from each other (a in 2: 0.500)',
    ]);
  });

  it('all of them if too few were near', async () => {
    const { score } = await played('FFFFFFF', '');
    assert.deepEqual(values(score, 0), [0, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert.deepEqual([score.farOf(0), score.farOf(1)], [7, 0]);
    assert.deepEqual(score.tallies(), ['a: 7 rounds with cores far from each other']);
  });

  it('those of a peer that fell out are its own; far ones that a search has found are far', async () => {
    const tallies = [noTally(), noTally()];
    const score = new Score(['a', 'b'], options, [], tallies);
    for (let n = 0; score.goesOn(n); n++) {
      await score.play(0, scripted(false), async () => ({ value: n }));
      if (n >= 2) continue;
      await score.play(1, scripted(false), async () => {
        if (n === 1) tallies[1]!.far++;
        return { value: n };
      });
    }
    assert.deepEqual(values(score, 0), [0, 2, 3, 4, 5, 6]);
    assert.deepEqual(values(score, 1), [0]);
  });
});

it('a detail that some rounds lack is the median of the others', () => {
  const samples: Sample[] = [
    { value: 1, details: { a: 1, b: 7 } },
    { value: 2, details: { a: 3 } },
    { value: 3 },
  ];
  assert.deepEqual(medianDetails(samples), { a: 2, b: 7 });
});
