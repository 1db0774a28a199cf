// Profiles of the main thread by stages (bench/flowmodProfile.ts): what counts for which stage, and when.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type CpuProfile, STAGE_NAMES, stageTimes } from '../../bench/flowmodProfile.ts';

const SOURCES = 'file:///somewhere/src';

/** One function a row: name, file, and the row that calls it (the root's is itself). */
function profileOf(
  rows: readonly (readonly [string, string, number])[],
  samples: readonly number[],
  deltaUs = 10,
): CpuProfile {
  return {
    startTime: 1000,
    nodes: rows.map(([functionName, url], row) => ({
      id: row,
      callFrame: { functionName, url },
      children: rows.flatMap(([, , caller], other) =>
        caller === row && other !== row ? [other] : [],
      ),
    })),
    samples,
    timeDeltas: samples.map(() => deltaUs),
  };
}

const ROWS = [
  ['(root)', '', 0],
  ['(idle)', '', 0],
  ['(garbage collector)', '', 0],
  ['onStreamRead', 'node:internal/stream_base_commons', 0],
  ['push', `${SOURCES}/control/openflow/framing.ts`, 3],
  ['decodeFlowMod', `${SOURCES}/wire/openflow/flowMod.ts`, 4],
  ['packWords', `${SOURCES}/wire/openflow/packedMatch.ts`, 5],
  ['fill', '', 5],
  ['insert', `${SOURCES}/switch/prefixTrie.ts`, 4],
  ['hold', `${SOURCES}/switch/subtable.ts`, 4],
  ['commit', `${SOURCES}/switch/flowTransaction.ts`, 4],
  ['writeBuffer', '', 3],
  ['round', `${SOURCES}/switch/revalidate.ts`, 0],
] as const;

test('functions count for the stage of their file, built-in ones for their callers', () => {
  const samples = ROWS.map((_, row) => row);
  const times = stageTimes(profileOf(ROWS, samples), [{ fromUs: 0, toUs: 1e9 }]);
  assert.deepEqual(Object.fromEntries(times), {
    // The root, whatever it is doing, and the revalidator.
    others: 20,
    collector: 10,
    'sockets of node': 10,
    'framing, connection': 10,
    'decode, encode': 20,
    'match interned': 10,
    'prefix tries': 10,
    classifier: 10,
    'rule, bundle, commit': 10,
    'system calls': 10,
  });
  for (const name of times.keys()) assert.ok(STAGE_NAMES.includes(name), name);
});

test('only what is sampled in a window counts', () => {
  // Samples are taken at 1010, 1020 … 1050.
  const profile = profileOf(ROWS, [5, 5, 5, 5, 5]);
  const windows = [
    { fromUs: 1015, toUs: 1030 },
    { fromUs: 1050, toUs: 1060 },
  ];
  assert.equal(stageTimes(profile, windows).get('decode, encode'), 20);
  assert.equal(stageTimes(profile, []).size, 0);
});
