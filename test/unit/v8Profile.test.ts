// Profiles of the main thread by stages (bench/v8Profile.ts): what counts for which stage, and when.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  type CpuProfile,
  FLOW_MOD_STAGES as STAGES,
  stageNames,
  stageTimes,
  UPCALL_STAGES,
} from '../../bench/v8Profile.ts';

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
  const times = stageTimes(profileOf(ROWS, samples), [{ fromUs: 0, toUs: 1e9 }], STAGES);
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
  for (const name of times.keys()) assert.ok(stageNames(STAGES).includes(name), name);
});

test('only what is sampled in a window counts', () => {
  // Samples are taken at 1010, 1020 … 1050.
  const profile = profileOf(ROWS, [5, 5, 5, 5, 5]);
  const windows = [
    { fromUs: 1015, toUs: 1030 },
    { fromUs: 1050, toUs: 1060 },
  ];
  assert.equal(stageTimes(profile, windows, STAGES).get('decode, encode'), 20);
  assert.equal(stageTimes(profile, [], STAGES).size, 0);
});

test('stages of an upcall', () => {
  const rows = [
    ['(root)', '', 0],
    ['read', `${SOURCES}/engine/rings.ts`, 0],
    ['#search', `${SOURCES}/switch/classifier.ts`, 0],
    ['commit', `${SOURCES}/switch/translate/commit.ts`, 0],
    ['add', `${SOURCES}/switch/megaflow.ts`, 0],
    ['put', `${SOURCES}/engine/flowTable.ts`, 0],
    ['wasm-function[131]', 'wasm://wasm/0005', 0],
  ] as const;
  const samples = [1, 2, 3, 4, 5, 6];
  const times = stageTimes(profileOf(rows, samples), [{ fromUs: 0, toUs: 1e9 }], UPCALL_STAGES);
  assert.deepEqual(Object.fromEntries(times), {
    'out of and into the rings': 10,
    classifier: 10,
    translation: 10,
    'megaflow, remembered': 10,
    'megaflow, in the table': 20,
  });
});
