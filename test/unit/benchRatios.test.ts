// Ratios as the benchmark suite's tables show them: what is marked, and what stands below.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { performanceTable } from '../../bench/comparisons.ts';
import { docsFigures, readmeFigures } from '../../bench/documents.ts';
import { describeMachine } from '../../bench/machine.ts';
import { roundsWithout } from '../../bench/medians.ts';
import { ratioFigure } from '../../bench/ratios.ts';
import type { Results } from '../../bench/results.ts';
import { figure, markdownOf, markdownOfOne, textOf } from '../../bench/tables.ts';
import type { Measurement, Options } from '../../bench/types.ts';

type Rounds = Record<string, number[]>;

function measured(scenario: string, variant: string, peers: Rounds, rest = {}): Measurement {
  const series = Object.entries(peers).map(([peer, rounds]) => ({ peer, rounds, details: {} }));
  const how = { unit: 'packets/s', higherIsBetter: true, baseline: 'ovs-dpdk' };
  return { scenario, variant, ...how, series, notes: [], ...rest };
}

const results = (measurements: Measurement[], failures: Results['failures'] = []): Results => ({
  date: '2026-01-02T03:04:05.678Z',
  minutes: 12,
  machine: describeMachine(),
  options: { rounds: 9, durationMs: 300 } as Options,
  measurements,
  failures,
});

const port = (rounds: Rounds) => measured('port', '64 B, 1 000 flows', rounds);
const behind = port({ xvio: [8, 9, 9], 'ovs-dpdk': [10, 10, 10] });
const silent = port({ xvio: [20, 20, 20, 60], 'ovs-dpdk': [10, 0, 0, 20] });
const latency = (mpps: number, xvio: number, dpdk: number): Measurement =>
  measured(
    'latency',
    `${mpps} Mpps`,
    { xvio: [xvio], 'ovs-dpdk': [dpdk] },
    { unit: 'µs (p99)', higherIsBetter: false },
  );

describe('figures', () => {
  it('a small ratio has digits that say something', () => {
    assert.deepEqual(
      [2.254, 1, 0.104, 0.0999, 0.00401, 0, Number.NaN].map((ratio) => ratioFigure(ratio)),
      ['2.25', '1.00', '0.10', '0.10', '0.0040', '0.00', '-'],
    );
    const idle = { unit: '% of a core', higherIsBetter: false };
    const m = measured('idle', '32 ports', { xvio: [0.4], 'ovs-dpdk': [100] }, idle);
    assert.match(readmeFigures(results([m])), /\| 0\.400 % of a core \| .* \| 0\.0040 \|/);
  });

  it('further digits', () => {
    assert.deepEqual(
      [ratioFigure(1.9994, 1), figure(23.9999e6, 2), figure(123.4, 1), figure(0, 3)],
      ['1.999', '23.9999 M', '123.4', '0'],
    );
  });
});

describe('a ratio in which xvio is behind', () => {
  it('is bold, whether more or less is better', () => {
    assert.match(markdownOf([behind]), /\| \*\*0\.90\*\* \|/);
    assert.match(markdownOf([latency(1, 3, 2)]), /\| \*\*1\.50\*\* \|/);
    assert.match(markdownOf([latency(1, 2, 4)]), /\| 0\.50 \|/);
    // What rounds to equal is equal.
    assert.match(markdownOf([latency(1, 1001, 1000)]), /\| 1\.00 \|/);
  });
});

describe('rounds in which nothing arrived at a peer', () => {
  it('are counted as far as both have played', () => {
    const [a, b] = silent.series;
    assert.deepEqual(roundsWithout(a!, b!), { without: 2, of: 4 });
    assert.deepEqual(roundsWithout(b!, a!), { without: 0, of: 4 });
    assert.deepEqual(roundsWithout({ ...a!, rounds: [1, 1] }, b!), { without: 1, of: 2 });
  });

  it('are said of every table with the ratio', () => {
    const short = markdownOf([silent, behind]);
    assert.match(short, /\| 2\.50† \|/);
    assert.match(
      short,
      /\n\n† .*give no ratio.*: `port`, 64 B, 1 000 flows: 2 of 4 rounds of ovs-dpdk\.\n$/,
    );
    assert.doesNotMatch(markdownOf([behind]), /†/);
    const readme = readmeFigures(results([silent]));
    assert.match(readme, /\| 2\.50† \|/);
    assert.match(readme, /port to port, 1 000 flows: 2 of 4 rounds of ovs-dpdk/);
    assert.match(performanceTable([silent]), /2\.50† x[\s\S]*† .*2 of 4 rounds of ovs-dpdk/);
    for (const text of [textOf(silent), markdownOfOne(silent)]) {
      assert.match(text, /ratios are without 2 of 4 rounds of ovs-dpdk/);
    }
  });

  it('leave nothing if there are no others', () => {
    assert.match(markdownOf([port({ xvio: [5], 'ovs-dpdk': [0] })]), /\| -† \|/);
  });
});

describe("README's table", () => {
  it('a share of what was measured before the rounds has a note', () => {
    const m = measured(
      'explosion',
      'v',
      { xvio: [110], 'ovs-dpdk': [92] },
      { unit: '% of the rate before' },
    );
    for (const text of [readmeFigures(results([m])), docsFigures(results([m]))]) {
      assert.match(text, /\| [^|]+‡ \| 110 /);
      assert.match(text, /\n\n‡ the rate before was taken in another moment/);
    }
    assert.match(textOf(m), /! the rate before was taken in another moment/);
    assert.doesNotMatch(markdownOf([behind]), /‡/);
  });

  it('has p99 at all equal rates, and TCP against each peer', () => {
    const tcp = measured(
      'tcp',
      'veth ports, 1 connection, no pinning',
      { xvio: [12e9], 'ovs-userspace-tso': [10e9], 'ovs-userspace': [1e9], 'linux-bridge': [16e9] },
      { unit: 'bit/s', baseline: 'ovs-userspace-tso' },
    );
    const text = readmeFigures(
      results([tcp, latency(0.1, 1, 0.8), latency(1, 2, 4), latency(3, 3, 4)]),
    );
    for (const row of [
      '| TCP over veth ports | 12.00 G bit/s | ovs-userspace-tso 10.00 G; linux-bridge 16.00 G bit/s | 1.20; **0.75** |',
      '| p99 latency at 0.1 Mpps | 1.00 µs | ovs-dpdk 0.800 µs | **1.25** |',
      '| p99 latency at 1 Mpps | 2.00 µs | ovs-dpdk 4.00 µs | 0.50 |',
      '| p99 latency at 3 Mpps | 3.00 µs | ovs-dpdk 4.00 µs | 0.75 |',
    ]) {
      assert.ok(text.includes(row), `${row}\n${text}`);
    }
  });

  it('says how to read ratios, and what is missing', () => {
    const text = readmeFigures(results([port({ xvio: [1, 1], 'ovs-dpdk': [1, 1] })]));
    assert.match(text, /up to 2 alternating rounds of 300 ms\.\nA ratio is the median of the/);
    assert.match(
      text,
      /\n\nWithout figures in this run: MAC learning .*; memory of an OpenFlow flow\.\n\n0 of 3 aims met; /,
    );
    const failures = [{ scenario: 'ports', text: 'left out: 14 minutes were over' }];
    assert.match(
      docsFigures(results([behind], failures)),
      /\n\nWithout figures.*: `ports` \(left out: 14 minutes were over\)\.\n/,
    );
  });
});
