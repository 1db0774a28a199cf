// Every benchmark scenario once, for correctness: traffic arrives, nothing is lost without a name, the figures that the
// reports need are there. No assertion is about time: that is what `npm run bench` is for.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { inspect } from 'node:util';
import { describeMachine } from '../../bench/machine.ts';
import { writeReport } from '../../bench/report.ts';
import { SCENARIOS } from '../../bench/scenarios/index.ts';
import type { Measurement, Options } from '../../bench/types.ts';

const options: Options = {
  rounds: 1,
  durationMs: 50,
  realtime: false,
  switchCore: 0,
  generatorCore: 1,
  peers: ['xvio'],
  compare: [],
  queueSize: 256,
  packed: false,
  inOrder: false,
  log: () => {},
};

/**
 * Peers that need neither hugepages nor a kernel of a certain kind, each where it costs least; what is not installed is left out.
 * Those with DPDK's hugepages take part in the same way.
 */
const PEERS: Readonly<Record<string, readonly string[]>> = {
  relay: ['xvio', 'xvio-relay', 'testpmd-vhost'],
  imix: ['xvio', 'xvio-relay'],
  tcp: ['xvio', 'linux-bridge-taps'],
  upcall: ['xvio', 'ovs-userspace-taps'],
  flowmod: ['xvio', 'ovs-userspace'],
};

/** Scenarios whose figure is a rate of something that must have happened. */
const RATES = new Set(['packets/s', 'flows/s', 'flow-mods/s', 'bit/s']);

describe('scenarios', () => {
  const all: Measurement[] = [];
  for (const scenario of SCENARIOS) {
    it(scenario.name, { timeout: 120_000 }, async (t) => {
      const measurements = await scenario.run({
        ...options,
        peers: PEERS[scenario.name] ?? options.peers,
      });
      assert.ok(measurements.length > 0);
      if (scenario.name === 'stages' && measurements[0]!.series.length === 0) {
        // Kernels of some containers let nobody count.
        assert.match(measurements[0]!.notes.join(), /left out: perf/);
        t.skip(measurements[0]!.notes.join());
        return;
      }
      for (const { series, unit, variant, scenario: name, failures = [] } of measurements) {
        assert.equal(name, scenario.name);
        assert.deepEqual(failures, []);
        assert.ok(
          series.some(({ peer }) => peer === 'xvio'),
          variant,
        );
        for (const { peer, rounds, details, loss } of series) {
          // What has not arrived, the switch has dropped under a name.
          if (loss) assert.ok(loss.packets <= loss.named, `${peer}, ${variant}: ${inspect(loss)}`);
          assert.equal(rounds.length, 1);
          assert.ok(Number.isFinite(rounds[0]), `${peer}, ${variant}: ${rounds[0]}`);
          // Without real time, a busy machine may lose a packet at any rate.
          const arrives = RATES.has(unit) && !/loss/.test(variant);
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
      const { log: _, ...asked } = options;
      writeReport(directory, {
        date: new Date().toISOString(),
        minutes: 1,
        machine: describeMachine(),
        options: asked,
        measurements: all,
        failures: [],
      });
      const report = readFileSync(join(directory, 'report.md'), 'utf8');
      for (const name of new Set(all.map(({ scenario }) => scenario))) {
        assert.ok(report.includes(`### ${name}\n`), name);
        assert.match(readFileSync(join(directory, `${name}.svg`), 'utf8'), /<svg[\s\S]*<\/svg>/);
      }
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
});

it('stages of a first packet: both sides have seen it', { timeout: 120_000 }, () => {
  const script = join(import.meta.dirname, '../../bench/firstPacketStages.ts');
  const flags = ['--disable-warning=ExperimentalWarning', script, '--rounds', '2'];
  const table = execFileSync(process.execPath, flags, { encoding: 'utf8', timeout: 110_000 });
  const rows = table.trim().split('\n').slice(2);
  const figures = rows.map((row) => row.split('|').slice(1, -1).map(Number));
  assert.deepEqual(
    figures.map(([ports, packets]) => [ports, packets]),
    [2, 32].map((ports) => [ports, 2]),
  );
  for (const times of figures)
    assert.ok(
      times.every((us) => us > 0),
      table,
    );
});

it('turns of the host loop: packets came in some, in most nothing did', {
  timeout: 120_000,
}, () => {
  const script = join(import.meta.dirname, '../../bench/turnStages.ts');
  const flags = ['--disable-warning=ExperimentalWarning', script, '--ms', '50'];
  const table = execFileSync(process.execPath, flags, { encoding: 'utf8', timeout: 110_000 });
  const rows = table.trim().split('\n').slice(2);
  const cells = rows.map((row) => row.split('|').slice(1, -1));
  for (const rate of ['0.1 Mpps', '1 Mpps', '3 Mpps']) {
    const own = cells.filter(([name]) => name!.trim() === rate);
    const shares = own.map(([, , , , share]) => Number(share));
    assert.ok(Math.abs(shares.reduce((all, share) => all + share, 0) - 100) < 0.1, table);
    const packets = own.find(([, cause]) => cause!.trim() === 'packets');
    assert.ok(Number(packets?.[2]) > 0, table);
  }
});

describe('packed and in-order rings', () => {
  const imix = SCENARIOS.find(({ name }) => name === 'imix')!;
  for (const ring of [{ packed: true }, { inOrder: true }, { packed: true, inOrder: true }]) {
    it(JSON.stringify(ring), { timeout: 60_000 }, async () => {
      for (const { series } of await imix.run({ ...options, ...ring })) {
        assert.ok(series[0]!.rounds[0]! > 0);
        assert.equal(series[0]!.details.reordered, 0);
      }
    });
  }
});
