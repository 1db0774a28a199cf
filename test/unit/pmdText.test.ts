// What operators read about the workers: dpif-netdev/pmd-perf-show.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { WorkerStats } from '../../src/engine/types.ts';
import type { Datapath } from '../../src/switch/datapath.ts';
import { showPerformance } from '../../src/switch/pmdText.ts';

const WORKER: WorkerStats = {
  worker: 0,
  core: 3,
  isolated: false,
  durationMs: 2000,
  busyNs: 300_000_000,
  idleNs: 700_000_000,
  polls: 1000,
  busyPolls: 250,
  packets: 2_000_000,
  batches: 100_000,
  simpleHits: 500_000,
  cacheHits: 1_000_000,
  flowHits: 490_000,
  flowProbes: 980_000,
  misses: 10_000,
  lost: 10,
  sleeps: 5,
  recirculated: 0,
  sent: 1_000_000,
  queues: [],
};

const show = (worker: Partial<WorkerStats>, ...args: string[]): string => {
  const datapath = { engine: { workerStats: () => [{ ...WORKER, ...worker }] } };
  const now = new Date(Date.UTC(2026, 0, 1, 7, 8, 9, 10));
  return showPerformance(datapath as unknown as Datapath, args, now);
};

test('pmd-perf-show tells where a worker’s time has gone', () => {
  const lines = [
    '',
    'Time: 07:08:09.010',
    'Measurement duration: 2.000 s',
    '',
    'pmd thread numa_id 0 core_id 3:',
    '',
    '  Iterations:                 1000  (2000.00 us/it)',
    '  - Used TSC cycles:    1000000000  ( 50.0 % of total cycles)',
    '  - idle iterations:           750  ( 70.0 % of used cycles)',
    '  - busy iterations:           250  ( 30.0 % of used cycles)',
    '  - sleep iterations:            5  (  0.5 % of iterations)',
    '  Sleep time (us):         1000000  (200000 us/iteration avg.)',
    '  Rx packets:              2000000  (1000 Kpps, 150 cycles/pkt)',
    '  Datapath passes:         2000000  (1.00 passes/pkt)',
    '  - PHWOL hits:                  0  (  0.0 %)',
    '  - MFEX Opt hits:               0  (  0.0 %)',
    '  - Simple Match hits:      500000  ( 25.0 %)',
    '  - EMC hits:              1000000  ( 50.0 %)',
    '  - SMC hits:                    0  (  0.0 %)',
    '  - Megaflow hits:          490000  ( 24.5 %, 2.00 subtbl lookups/hit)',
    '  - Upcalls:                 10000  (  0.5 %, 0.0 us/upcall)',
    '  - Lost upcalls:               10  (  0.0 %)',
    '  Tx packets:              1000000  (500 Kpps)',
    '',
  ];
  assert.equal(show({}), lines.join('\n'));
  assert.equal(show({}, '-nh', '-it', '5', '-pmd', '3'), lines.join('\n'));
  assert.equal(show({}, '-pmd', '4'), '');
});

test('a worker that has done nothing yet divides by nothing', () => {
  const zero = Object.fromEntries(
    Object.entries(WORKER).flatMap(([name, value]) =>
      typeof value === 'number' && name !== 'core' ? [[name, 0]] : [],
    ),
  );
  const text = show(zero);
  assert.doesNotMatch(text, /NaN|Infinity/);
  assert.match(text, / {2}Rx packets: {20}0\n {2}Tx packets: {20}0\n\n$/);
});
