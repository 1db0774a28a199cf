// The worker's question before a nap: are packets of known flows few?

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { KnownRate } from '../../src/engine/knownRate.ts';

/** Asks every 20 µs for `ms`, with so many packets a second; gives the share of the answers "few". */
function share(
  rate: KnownRate,
  state: { hits: number; ns: number },
  perSecond: number,
  ms: number,
) {
  let few = 0;
  const questions = (ms * 1000) / 20;
  for (let i = 0; i < questions; i++) {
    state.ns += 20_000;
    state.hits += (perSecond * 20) / 1e6;
    // The low half, as a signed integer.
    if (rate.areFew(Math.floor(state.hits), state.ns | 0)) few++;
  }
  return few / questions;
}

for (const ns of [0, 0x7fff_0000, 0xffff_0000, 5 * 2 ** 32]) {
  test(`few are few and many are many, soon after they have changed: clock at ${ns}`, () => {
    const rate = new KnownRate();
    const state = { hits: 0, ns };
    share(rate, state, 10_000, 20);
    assert.equal(share(rate, state, 10_000, 50), 1);
    assert.ok(share(rate, state, 10_000_000, 6) < 0.2, 'many at once count soon');
    assert.equal(share(rate, state, 10_000_000, 50), 0);
    share(rate, state, 50_000, 6);
    assert.equal(share(rate, state, 50_000, 50), 1);
  });
}

test('counters that were cleared count as few', () => {
  const rate = new KnownRate();
  const state = { hits: 1e9, ns: 0 };
  share(rate, state, 1_000_000, 20);
  assert.equal(share(rate, state, 1_000_000, 20), 0);
  assert.equal(rate.areFew(0, state.ns + 20_000), true);
});
