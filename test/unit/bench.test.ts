// The arithmetic and the documents of the benchmark suite: ratios, percentiles, plans, reports. Scenarios themselves:
// test/interop/bench.test.ts.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { between, refreshDocuments } from '../../bench/documents.ts';
import { percentileUs } from '../../bench/generator/generator.ts';
import { ensureHugepages } from '../../bench/hugepages.ts';
import { describeMachine, machineText } from '../../bench/machine.ts';
import { median, medianRatio } from '../../bench/medians.ts';
import {
  Distance,
  noTally,
  type Placement,
  tallyNotes,
  watchPlacement,
  whileNear,
} from '../../bench/placement.ts';
import { estimateS, leftOut, limitS, roundsWithin } from '../../bench/plan.ts';
import { shares, stageOf } from '../../bench/profile.ts';
import { writeReport } from '../../bench/report.ts';
import { jsonOf, type Results, readResults } from '../../bench/results.ts';
import { idleNote, usablePeers } from '../../bench/rounds.ts';
import { ruleLines } from '../../bench/rules.ts';
import { SCENARIOS } from '../../bench/scenarios/index.ts';
import { outOfTime } from '../../bench/score.ts';
import { stackChart, stageTable } from '../../bench/stackChart.ts';
import { allFailures, runSuite } from '../../bench/suite.ts';
import { markdownOf, summarize, textOf } from '../../bench/tables.ts';
import type { Measurement, Options, Series } from '../../bench/types.ts';

const options: Options = {
  rounds: 9,
  durationMs: 300,
  realtime: true,
  switchCore: 0,
  generatorCore: 1,
  peers: undefined,
  compare: [],
  queueSize: 1024,
  packed: false,
  inOrder: false,
  log: () => {},
};

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

const port: Measurement = {
  ...measurement,
  scenario: 'port',
  baseline: 'ovs-dpdk',
  series: [
    { peer: 'xvio', rounds: [30, 30, 30], details: { busyNs: 60, lostPerMillion: 0 } },
    { peer: 'ovs-dpdk', rounds: [10, 20, 15], details: { busyNs: 100 } },
  ],
  notes: ['testpmd-vhost: left out: apt-get install dpdk-dev'],
  failures: ['c did not take part: no memory'],
};

function results(measurements: Measurement[]): Results {
  const { log: _, ...asked } = options;
  const failures = [{ scenario: 'tcp', text: 'ended by force after 100 s' }];
  const date = '2026-01-02T03:04:05.678Z';
  return { date, minutes: 12, machine: describeMachine(), options: asked, measurements, failures };
}

it('a round without a packet says what the threads of the switch were doing', async () => {
  const sleeper = spawn('sleep', ['60']);
  try {
    const pid = sleeper.pid!;
    const threads = [
      { pid, tid: pid },
      { pid, tid: 1 << 30 },
    ];
    const asleep = 'xvio: nothing forwarded; its threads ran for 1.5 ms: sleeps, has ended';
    for (let i = 0; i < 500 && idleNote('xvio', threads, 1.5e6) !== asleep; i++) await delay(20);
    assert.equal(idleNote('xvio', threads, 1.5e6), asleep);
    const own = [{ pid: process.pid, tid: process.pid }];
    assert.match(idleNote('xvio', own, 0), /wants a core$/);
  } finally {
    sleeper.kill();
  }
});

describe('figures', () => {
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

  it('a peer that fell out is compared over the rounds that both have played', () => {
    const [a, b] = [measurement.series[0]!, { peer: 'b', rounds: [10], details: {} }];
    assert.equal(medianRatio(a, b), 2);
    assert.equal(medianRatio(b, a), 0.5);
  });

  it('a round in which nothing arrived at the baseline is compared with nothing', () => {
    const a = { peer: 'a', rounds: [20, 20, 0, 60], details: {} };
    const b = { peer: 'b', rounds: [10, 0, 0, 20], details: {} };
    assert.equal(medianRatio(a, b), 2.5);
    assert.equal(medianRatio(b, a), 1 / 3);
  });

  it('a ratio is marked if most rounds of one side were played with cores far apart', () => {
    const [first, b] = measurement.series as [Series, Series];
    const a = { ...first, peer: 'xvio' };
    const half = { ...b, far: b.rounds.length / 2 };
    assert.doesNotMatch(markdownOf([{ ...measurement, series: [a, half] }]), /°/);
    const most = { ...b, far: b.rounds.length };
    const text = markdownOf([{ ...measurement, series: [a, most] }]);
    assert.match(text, /2\.00° \|/);
    assert.match(text, /\n\n° more than half of the rounds/);
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

describe('placement', () => {
  /** Near or far, one after the other; near when there is no more. */
  function scripted(answers: boolean[]): Placement {
    return {
      near: async () => answers.shift() ?? true,
      settle: async () => answers.shift() ?? true,
      async [Symbol.asyncDispose]() {},
    };
  }

  it('far is what takes several times what it took at best', () => {
    const distance = new Distance(30);
    assert.deepEqual(
      [35, 190, 79, 81].map((ns) => distance.isNear(ns)),
      [true, false, true, false],
    );
    // A machine on which it always takes that long has no better place.
    assert.ok(new Distance().isNear(190));
  });

  it('a round is played again when the cores were far from each other after it', async () => {
    const tally = noTally();
    let played = 0;
    const result = await whileNear(
      scripted([true, false, true, true]),
      tally,
      async () => ++played,
    );
    assert.deepEqual([result, tally.again, tally.far], [2, 1, 0]);
    assert.deepEqual(tallyNotes('a', tally), [
      'a: 1 trials played again: the host moved the cores apart',
    ]);
  });

  it('where they do not come together, rounds are played as it is, and the notes say so', async () => {
    const tally = noTally();
    assert.equal(await whileNear(scripted([false]), tally, async () => 7), 7);
    const restless = scripted([true, false, true, false, true, false, true, false]);
    assert.equal(await whileNear(restless, tally, async () => 8), 8);
    assert.deepEqual([tally.again, tally.far], [3, 2]);
    assert.match(tallyNotes('a', tally)[1]!, /2 rounds with cores far from each other/);
    assert.equal(await whileNear(undefined, noTally(), async () => 9), 9);
  });

  it('a real one answers', async () => {
    await using placement = watchPlacement(0, availableParallelism() - 1);
    // On one core there is nothing to watch.
    if (placement) assert.equal(typeof (await placement.near()), 'boolean');
    assert.equal(watchPlacement(0, 0), undefined);
  });
});

describe('documents', () => {
  it('text', () => {
    const text = textOf({ ...measurement, failures: ['f'] });
    assert.match(text, /a +30\.0 +20\.0 … 60\.0 +2\.00 x +busyNs 12\.3/);
    assert.match(text, /! n/);
    assert.match(text, /FAILED: f/);
    assert.match(textOf({ ...measurement, series: [] }), /v <1> \(0 rounds\)/);
  });

  it('short Markdown tables, one for each unit', () => {
    const flows = { ...port, scenario: 'upcall', unit: 'flows/s' };
    const [packets, other] = markdownOf([port, flows]).split('\n\n');
    assert.match(
      packets!,
      /^\| packets\/s \| xvio .*\n.*\n\| `port`, v <1> \| 30\.0 \| ovs-dpdk 15\.0 \| 2\.00 \| 60 \/ 100 \|$/,
    );
    assert.match(other!, /^\| flows\/s \|/);
  });

  it('a report, and the same again from its JSON', () => {
    const directory = mkdtempSync(join(tmpdir(), 'xvio-report-'));
    try {
      const read = (name: string) => readFileSync(join(directory, name), 'utf8');
      writeReport(directory, results([port, measurement]));
      assert.match(read('report.md'), /played wherever the host had its cores/);
      const [report, json] = [read('report.md'), read('report.json')];
      for (const part of ['Machine', 'Method', 'Limits', 'Performance', 'Host CPU', 'Features']) {
        assert.ok(report.includes(`## ${part}`), part);
      }
      assert.match(report, /left out: apt-get install dpdk-dev/);
      assert.match(report, /failed: tcp: ended by force/);
      assert.match(report, /failed: port: v <1>: c did not take part: no memory/);
      assert.match(report, /`port`, v <1> \| at least 2 x OVS-DPDK \| 2\.00 x \| yes/);
      for (const name of ['overview', 'port', 's']) {
        assert.match(read(`${name}.svg`), /^<svg[\s\S]*<\/svg>\n$/);
      }
      const again = readResults(join(directory, 'report.json'));
      assert.equal(JSON.parse(json).results[1].summary[0].ratio, 2);
      assert.equal(jsonOf(again), json);
      writeReport(directory, again);
      assert.equal(read('report.md'), report);
      assert.throws(
        () => readResults(join(import.meta.dirname, '../../package.json')),
        /no results/,
      );
      for (const [text, message] of [
        ['{ broken', /broken\.json: .*JSON/],
        ['null', /broken\.json: no results/],
        ['{"results":[1]}', /broken\.json: no results/],
      ] as const) {
        const file = join(directory, 'broken.json');
        writeFileSync(file, text);
        assert.throws(() => readResults(file), message);
      }
      assert.throws(() => readResults(directory), new RegExp(`${directory}: EISDIR`));
    } finally {
      rmSync(directory, { recursive: true });
    }
  });

  it('the figures of README and docs are what stands between marks', () => {
    const marked = 'a\n<!-- bench:x -->\nold\n<!-- /bench:x -->\nb\n';
    assert.equal(between(marked, 'x', 'new\n'), 'a\n<!-- bench:x -->\nnew\n<!-- /bench:x -->\nb\n');
    assert.throws(() => between(marked, 'y', 'new'), /no <!-- bench:y -->/);

    const root = mkdtempSync(join(tmpdir(), 'xvio-docs-'));
    try {
      const checkout = join(import.meta.dirname, '../..');
      mkdirSync(join(root, 'docs'));
      const files = ['README.md', 'docs/benchmarks.md'];
      for (const name of files) copyFileSync(join(checkout, name), join(root, name));
      const profile = { ...measurement, scenario: 'stages', variant: 'p' };
      const series = [{ peer: 'xvio', rounds: [40], details: { receive: 10, transmit: 30 } }];
      const l2 = { ...port, scenario: 'l2', variant: '64 B, 1 000 flows' };
      const run = results([l2, { ...profile, series }]);
      assert.deepEqual(refreshDocuments(root, run), files);
      const [readme, docs] = files.map((name) => readFileSync(join(root, name), 'utf8'));
      assert.match(
        readme!,
        /\| MAC learning \(NORMAL\), 1 000 flows \| 30\.0 packets\/s \| ovs-dpdk 15\.0 packets\/s \| 2\.00 \|/,
      );
      assert.match(docs!, /`l2`, 64 B, 1 000 flows \| aiming at 3 x \| 2\.00 x \| \*\*no\*\* \|/);
      assert.match(docs!, /\| p \| 40\.0 \| 10\.0 \(25 %\) \|/);
      // Again, with a run that has no profile: the one that is there stays, and nothing is left of the old figures.
      refreshDocuments(root, results([port]));
      const again = readFileSync(join(root, 'docs/benchmarks.md'), 'utf8');
      assert.match(again, /\| p \| 40\.0/);
      assert.doesNotMatch(again, /`l2`, 64 B, 1 000 flows \|/);
    } finally {
      rmSync(root, { recursive: true });
    }
  });

  it('hugepages: what is missing, and what to do', () => {
    const directory = mkdtempSync(join(tmpdir(), 'xvio-huge-'));
    try {
      const write = (name: string, n: number) => writeFileSync(join(directory, name), `${n}\n`);
      write('free_hugepages', 8);
      write('nr_hugepages', 10);
      assert.equal(ensureHugepages(16, directory), undefined);
      // The kernel is asked for more, and has none.
      assert.match(
        ensureHugepages(32, directory)!,
        /^only 8 of 16 hugepages of 2 MiB: .*\(hugepages=18\)$/,
      );
      assert.equal(readFileSync(join(directory, 'nr_hugepages'), 'utf8'), '18');
      rmSync(join(directory, 'nr_hugepages'));
      mkdirSync(join(directory, 'nr_hugepages'));
      assert.match(ensureHugepages(32, directory)!, /^as root: echo 8 > /);
      assert.match(ensureHugepages(32, join(directory, 'none'))!, /kernel has no hugepages/);
    } finally {
      rmSync(directory, { recursive: true });
    }
  });

  it('a peer that cannot run is left out, and the log and the notes say what to do', () => {
    const notes: string[] = [];
    const logged: string[] = [];
    const log = (text: string): void => void logged.push(text);
    const peers = [
      { name: 'here', missing: () => undefined },
      { name: 'gone', missing: () => 'apt-get install gone' },
    ];
    assert.deepEqual(usablePeers(peers, { ...options, log }, notes), [peers[0]]);
    assert.deepEqual(notes, ['gone: left out: apt-get install gone']);
    assert.deepEqual(logged, notes);
  });

  it('the machine', () => {
    assert.ok(machineText(describeMachine()).every((line) => line.length > 0));
  });
});

describe('stages', () => {
  it('functions belong to the stage that they work for', () => {
    const stage = (name: string) => stageOf(`JS:dataplane/${name}-12-turbofan`, false);
    assert.equal(stage('port/split/splitReceive'), 'receive');
    assert.equal(stage('port/receive/finishPackets'), 'receive');
    assert.equal(stage('port/frame/frameRxBurst'), 'receive');
    assert.equal(stage('port/split/splitTransmit'), 'transmit');
    assert.equal(stage('port/copy/copyBytes'), 'copies');
    assert.equal(stage('parse/parse'), 'parse, hash');
    assert.equal(stage('simple/simpleBurst'), 'look-up');
    assert.equal(stage('ct/track/track'), 'connection tracking');
    assert.equal(stage('tunnel/push/push'), 'tunnels');
    assert.equal(stage('index/poll'), 'host loop');
    assert.equal(stageOf('Builtins_LoadIC', false), 'host loop');
    assert.equal(stageOf('__schedule', true), 'kernel');
  });

  it('shares of samples, a chart and a table', () => {
    const parts = shares(
      [
        '      75e085cb88c JS:dataplane/port/split/splitReceive-113-turbofan',
        '      75e085ce42f JS:dataplane/port/deliver/deliverNow-63-turbofan',
        ' ffffffff81a3b2c1 __schedule',
        '      75e085ce25d JS:dataplane/port/deliver/deliverNow-63-turbofan',
        '',
      ].join('\n'),
    );
    assert.deepEqual([...parts].sort(), [
      ['kernel', 0.25],
      ['receive', 0.25],
      ['transmit', 0.5],
    ]);
    assert.throws(() => shares(''), /no samples/);
    const details = { receive: 10, transmit: 30 };
    const series = [{ peer: 'xvio', rounds: [40], details }];
    const profiles = [{ ...measurement, scenario: 'stages', series }];
    assert.match(stageTable(profiles), /\| v <1> \| 40\.0 \| 10\.0 \(25 %\) \| 30\.0 \(75 %\) \|/);
    assert.match(stackChart('t', profiles), /<svg[\s\S]*>40\.0 ns<[\s\S]*<\/svg>\n$/);
  });
});

describe('plan', () => {
  const names = SCENARIOS.map(({ name }) => name);

  it('a full run with nine rounds is estimated at half an hour', () => {
    const seconds = estimateS(names, 9, 300);
    assert.ok(seconds > 1500 && seconds < 2100, `${seconds} s`);
    assert.equal(roundsWithin(Number.POSITIVE_INFINITY, names, options), 9);
  });

  it('less time means fewer rounds, at least three, and none when it is over', () => {
    const seconds = estimateS(names, 6, 300);
    assert.equal(roundsWithin(seconds + 1, names, options), 6);
    assert.equal(roundsWithin(1, names, options), 3);
    assert.equal(roundsWithin(1, names, { ...options, rounds: 1 }), 1);
    assert.equal(roundsWithin(0, names, options), 0);
  });

  it('those that will find no time are named beforehand', () => {
    assert.deepEqual(leftOut(Number.POSITIVE_INFINITY, names, options), []);
    assert.deepEqual(leftOut(estimateS(names, 3, 300), names, options), []);
    const late = leftOut(300, names, options);
    assert.ok(late.length > 3 && late.length < names.length - 3, late.join());
    assert.deepEqual(late, names.slice(-late.length));
  });

  it('a scenario that hangs is ended before it has taken the time of the others', () => {
    const [first, ...rest] = names as [string, ...string[]];
    const own = estimateS([first], 9, 300);
    const alone = limitS(Number.POSITIVE_INFINITY, [first], options);
    assert.ok(alone > 2 * own);
    assert.ok(limitS(1200, [first, ...rest], options) <= alone);
    const late = limitS(estimateS(names, 9, 300), [first, ...rest], { ...options, rounds: 9 });
    assert.ok(late >= own && estimateS(rest, 3, 300) + late <= estimateS(names, 9, 300));
    assert.ok(limitS(0, [first, ...rest], options) > own);
  });

  it('rounds end at the deadline, but not before the third', () => {
    const notes: string[] = [];
    const late = { ...options, deadlineMs: Date.now() - 1 };
    assert.ok(!outOfTime(2, late, notes));
    assert.ok(!outOfTime(9, late, notes));
    assert.deepEqual(notes, []);
    assert.ok(outOfTime(3, late, notes));
    assert.match(notes[0]!, /3 rounds instead of 9/);
    assert.ok(!outOfTime(3, options, notes));
  });

  it('a scenario that fails, or comes too late, is reported and does not end the run', async () => {
    const bad = { name: 'nonsense', title: '', run: async () => [] };
    let told = 0;
    const failed = await runSuite([bad, bad], options, undefined, () => told++);
    assert.equal(told, 2);
    assert.deepEqual(failed.measurements, []);
    assert.equal(failed.failures.length, 2);
    assert.match(failed.failures[0]!.text, /no scenario 'nonsense'/);
    const late = await runSuite([bad], options, 0, () => {});
    assert.match(late.failures[0]!.text, /left out/);
    const inside = allFailures({ measurements: [port], failures: late.failures });
    assert.deepEqual(
      inside.map(({ scenario }) => scenario),
      ['nonsense', 'port'],
    );
  });
});
