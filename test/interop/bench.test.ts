// Every benchmark scenario once, for correctness: traffic arrives, nothing is lost without a name, the figures that the
// reports need are there. No assertion is about time: that is what `npm run bench` is for.

import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { percentileUs } from '../../bench/generator/generator.ts';
import { describeMachine, machineText } from '../../bench/machine.ts';
import { jsonOf, summarize, textOf, writeReport } from '../../bench/report.ts';
import { median, medianRatio } from '../../bench/rounds.ts';
import { ruleLines } from '../../bench/rules.ts';
import { SCENARIOS } from '../../bench/scenarios/index.ts';
import type { Measurement, Options } from '../../bench/types.ts';

const options: Options = {
  rounds: 1,
  durationMs: 50,
  realtime: false,
  switchCore: 0,
  generatorCore: 1,
  peers: ['xvio', 'xvio-relay'],
  compare: [],
  queueSize: 256,
  packed: false,
  inOrder: false,
  log: () => {},
};

/** Scenarios whose figure is a rate of something that must have happened. */
const RATES = new Set(['packets/s', 'flows/s', 'flow-mods/s', 'bit/s']);

describe('scenarios', () => {
  const all: Measurement[] = [];
  for (const scenario of SCENARIOS) {
    it(scenario.name, { timeout: 120_000 }, async () => {
      const measurements = await scenario.run(options);
      assert.ok(measurements.length > 0);
      for (const { series, unit, variant, scenario: name } of measurements) {
        assert.equal(name, scenario.name);
        assert.ok(
          series.some(({ peer }) => peer === 'xvio'),
          variant,
        );
        for (const { peer, rounds, details } of series) {
          assert.equal(rounds.length, 1);
          assert.ok(Number.isFinite(rounds[0]), `${peer}, ${variant}: ${rounds[0]}`);
          // Without real time, a busy machine may lose a packet at any rate.
          const arrives = RATES.has(unit) && !variant.startsWith('loss-free');
          if (arrives) assert.ok(rounds[0]! > 0, `${peer}, ${variant}: nothing arrived`);
          if (['relay', 'port', 'l2'].includes(name)) assert.equal(details.reordered, 0, variant);
        }
      }
      all.push(...measurements);
    });
  }

  after(() => {
    const directory = mkdtempSync(join(tmpdir(), 'xvio-report-'));
    try {
      writeReport(directory, describeMachine(), all);
      const report = readFileSync(join(directory, 'report.md'), 'utf8');
      for (const name of new Set(all.map(({ scenario }) => scenario))) {
        assert.ok(report.includes(`## ${name}`), name);
        assert.match(readFileSync(join(directory, `${name}.svg`), 'utf8'), /<svg[\s\S]*<\/svg>/);
      }
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
});

describe('packed and in-order rings', () => {
  const port = SCENARIOS.find(({ name }) => name === 'port')!;
  for (const ring of [{ packed: true }, { inOrder: true }, { packed: true, inOrder: true }]) {
    it(JSON.stringify(ring), { timeout: 60_000 }, async () => {
      for (const { series } of await port.run({ ...options, ...ring })) {
        assert.ok(series[0]!.rounds[0]! > 0);
        assert.equal(series[0]!.details.reordered, 0);
      }
    });
  }
});

describe('report', () => {
  const measurement: Measurement = {
    scenario: 's',
    variant: 'v <1>',
    unit: 'packets/s',
    higherIsBetter: true,
    baseline: 'b',
    series: [
      { peer: 'a', rounds: [20, 60, 30], details: { busyNs: 12.345 } },
      { peer: 'b', rounds: [10, 20, 30], details: {} },
    ],
    notes: ['n'],
  };

  it('ratios are medians of the ratios of each round', () => {
    assert.equal(median([3, 1, 2]), 2);
    assert.equal(median([4, 1, 2, 3]), 2.5);
    assert.equal(medianRatio(measurement.series[0]!, measurement.series[1]!), 2);
    assert.deepEqual(
      summarize(measurement).map(({ peer, ratio }) => [peer, ratio]),
      [
        ['a', 2],
        ['b', undefined],
      ],
    );
  });

  it('text and JSON', () => {
    const text = textOf(measurement);
    assert.match(text, /a +30\.0 +20\.0 … 60\.0 +2\.00 x +busyNs 12\.3/);
    assert.match(text, /! n/);
    const machine = describeMachine();
    const { results } = JSON.parse(jsonOf(machine, [measurement]));
    assert.equal(results[0].summary[0].ratio, 2);
    assert.ok(machineText(machine).every((line) => line.length > 0));
  });

  it('percentiles of the histogram', () => {
    const histogram = new Float64Array(256);
    histogram[3] = 99; // up to 4/16 µs
    histogram[40] = 1;
    assert.equal(percentileUs(histogram, 0.5), 0.25);
    assert.equal(percentileUs(histogram, 0.99), 0.25);
    assert.ok(percentileUs(histogram, 0.999) > 4);
    assert.equal(percentileUs(new Float64Array(256), 0.5), 0);
  });

  it('rules are the same every time and overlap', () => {
    const lines = ruleLines(1, 2);
    assert.equal(lines.length, 1000);
    assert.deepEqual(lines, ruleLines(1, 2));
    assert.ok(new Set(lines).size > 950);
  });
});
