// What the benchmark suite's aims say of a run: which are met, and the figures beside them.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { judge, type Verdict } from '../../bench/aims.ts';
import type { Measurement, Series } from '../../bench/types.ts';

const port: Measurement = {
  scenario: 'port',
  variant: '64 B, 1 flow',
  unit: 'packets/s',
  higherIsBetter: true,
  baseline: 'ovs-dpdk',
  series: [
    { peer: 'xvio', rounds: [30, 30, 30], details: {} },
    { peer: 'ovs-dpdk', rounds: [10, 20, 15], details: {} },
  ],
  notes: [],
};

const verdict = (m: Measurement, aim: RegExp): Verdict | undefined =>
  judge([m]).find((v) => aim.test(v.aim));

const against = (xvio: number[], dpdk: number[]): Measurement => ({
  ...port,
  series: [
    { peer: 'xvio', rounds: xvio, details: {} },
    { peer: 'ovs-dpdk', rounds: dpdk, details: {} },
  ],
});

const alone = (scenario: string, series: Partial<Series>): Measurement => ({
  ...port,
  scenario,
  variant: 'each of 32, 1 Mpps',
  series: [{ peer: 'xvio', rounds: [1], details: {}, ...series }],
});

describe('aims', () => {
  it('aims are judged where both took part', () => {
    assert.deepEqual(judge([{ ...port, scenario: 's' }]), []);
    const slow = { ...port, series: [port.series[0]!, { ...port.series[0]!, peer: 'ovs-dpdk' }] };
    const twice = (m: Measurement) => judge([m]).find(({ aim }) => /2 x/.test(aim))!.met;
    assert.deepEqual([port, slow].map(twice), [true, false]);
    const alone = { ...port, series: [port.series[0]!] };
    assert.ok(judge([alone]).every(({ aim }) => !aim.includes('OVS-DPDK')));
  });

  it('aims that look at two peers of the same rounds, at details, and at all scenarios', () => {
    const xvio = port.series[0]!;
    const relay = { peer: 'xvio-relay', rounds: [40, 60, 40], details: {} };
    const withRelay = { ...port, series: [xvio, relay] };
    assert.deepEqual(
      [verdict(withRelay, /relay/)?.measured, verdict(withRelay, /relay/)?.met],
      ['0.75 x', true],
    );
    assert.equal(verdict(port, /24 Mpps/)?.met, false);

    const grown = (further: number): Measurement => ({
      ...port,
      scenario: 'memory',
      variant: 'each of 9 flows',
      series: [{ ...xvio, details: { first: 100, further } }],
    });
    assert.deepEqual(
      [90, 125, 130].map((further) => verdict(grown(further), /linearly/)?.met),
      [true, true, false],
    );

    const meanwhile = { knownPauseMs: 11 };
    const upcall = { ...port, scenario: 'upcall', series: [{ ...xvio, details: meanwhile }] };
    assert.equal(verdict(upcall, /known flows/)?.met, false);

    const lost = (packets: number, named: number): Measurement => ({
      ...port,
      series: [{ ...xvio, loss: { packets, named } }],
    });
    assert.equal(verdict(port, /without a name/), undefined);
    assert.equal(verdict(lost(5, 7), /without a name/)?.met, true);
    const two = judge([lost(5, 7), lost(9, 7)]).at(-1)!;
    assert.deepEqual([two.measured, two.met], ['14.0 lost, 2.00 without a name', false]);
  });

  it('one that was narrowly missed does not look met', () => {
    const narrow = (m: Measurement, aim: RegExp) => {
      const { measured, met } = verdict(m, aim)!;
      assert.equal(met, false);
      return measured;
    };
    assert.equal(narrow(against([1999], [1000]), /2 x/), '1.999 x');
    assert.equal(narrow(against([199_999], [100_000]), /2 x/), '1.99999 x');
    assert.equal(narrow(against([1980], [1000]), /2 x/), '1.98 x');
    assert.equal(narrow(against([23.999e6], [1e6]), /24 Mpps/), '23.999 M packets/s');
    assert.equal(
      narrow(alone('explosion', { rounds: [49.98] }), /half/),
      '49.98 % of the rate before',
    );
    const grown = { details: { first: 100, further: 125.04 } };
    assert.equal(narrow(alone('memory', grown), /linearly/), '125.04 bytes after 100.00');
    const slow = alone('latency', { details: { p50Us: 2.501 } });
    slow.series.push({ peer: 'ovs-dpdk', rounds: [1], details: { p50Us: 2.5 } });
    assert.equal(narrow(slow, /p50/), '2.501 against 2.500 µs');
    // What was met needs no more digits.
    assert.equal(verdict(against([2001], [1000]), /2 x/)?.measured, '2.00 x');
  });

  it('p99 is judged by the ratios of the rounds, as tables mark it', () => {
    const m: Measurement = { ...alone('latency', { rounds: [3, 3, 4] }), higherIsBetter: false };
    m.series.push({ peer: 'ovs-dpdk', rounds: [2, 3, 3], details: {} });
    assert.deepEqual(
      [verdict(m, /p99/)?.measured, verdict(m, /p99/)?.met],
      ['3.00 against 3.00 µs, 1.33 x', false],
    );
    m.series[0]!.rounds = [2, 3, 3];
    assert.equal(verdict(m, /p99/)?.met, true);
  });

  it('a wait is told with the worst round, and as it was before time was taken off it', () => {
    const measured = (scenario: string, aim: RegExp, series: Partial<Series>) =>
      verdict(alone(scenario, series), aim)?.measured;
    const pause = { rounds: [30, 20, 6735], details: { pauseUs: 0, maxUs: 30 } };
    assert.equal(
      measured('pauses', /1 ms/, pause),
      "0 µs in the median round; with the generator's own: 30.0 µs in the median round, 6735 in the worst",
    );
    assert.equal(
      measured('pauses', /1 ms/, { ...pause, greatest: { pauseUs: 6669 } }),
      "0 µs in the median round, 6669 in the worst; with the generator's own: 30.0 µs in the median round, 6735 in the worst",
    );
    assert.equal(
      measured('flowmod', /known flows/, {
        details: { pauseMs: 0, longestRealtimeMs: 8, longestForwardingMs: 12 },
      }),
      "0 ms; with the generator's own: 8.00 ms; without real time: 12.0 ms",
    );
    assert.equal(
      measured('upcall', /known flows/, { details: { knownPauseMs: 1, knownLongestMs: 4 } }),
      "1.00 ms; with the generator's own: 4.00 ms",
    );
    assert.equal(
      measured('idle', /1 %/, { rounds: [0.3, 0.4, 0.9] }),
      '0.400 % in the median round, 0.900 in the worst',
    );
  });

  it('rounds in which nothing arrived at the peer are named, and without others there is no verdict', () => {
    const silent = verdict(against([20, 20, 20], [10, 0, 10]), /2 x/)!;
    assert.deepEqual(
      [silent.measured, silent.met],
      ['2.00 x, without 1 of 3 rounds of ovs-dpdk (0)', true],
    );
    assert.equal(verdict(against([20], [0]), /2 x/), undefined);
  });
});
