// The report of a run: report.md with charts (SVG) and report.json, from which all of it can be made again.
//
// What a report has to say follows RFC 2544 and RFC 8204 (virtual switches): the machine and its configuration, the load, how
// each figure was found, loss, and what was irregular.

import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { aimsTable, judge } from './aims.ts';
import { barChart } from './chart.ts';
import { cpuTable, performanceTable } from './comparisons.ts';
import { featureTable } from './features.ts';
import { latencyChart } from './latencyChart.ts';
import { machineText } from './machine.ts';
import { ratioChart } from './ratioChart.ts';
import { HOW_TO_READ } from './ratios.ts';
import { jsonOf, type Results } from './results.ts';
import { stackChart, stageTable } from './stackChart.ts';
import { allFailures } from './suite.ts';
import { markdownOfOne } from './tables.ts';
import type { Measurement } from './types.ts';

const list = (lines: readonly string[]): string => lines.map((line) => `- ${line}`).join('\n');

function methodText({ options, minutes }: Results): string {
  const rings = `${options.packed ? 'packed' : 'split'} rings${options.inOrder ? ', in order' : ''}`;
  const time = options.realtime
    ? 'SCHED_FIFO during a trial, except where the control plane is what is measured'
    : 'ordinary scheduling';
  return list([
    `${options.rounds} alternating rounds at most (the tables say how many were played), trials of ${options.durationMs} ms after 20 ms of warm-up; the whole run took ${minutes.toFixed(0)} minutes. ${HOW_TO_READ.replace('\n', ' ')}`,
    `Forwarding thread on core ${options.switchCore}, generator on core ${options.generatorCore}; ${time}. All peers run at once, those that wait are stopped.`,
    options.near
      ? 'Before and after each trial the time of a cache line from core to core is taken: rounds wait until the cores are near each other (the host of a virtual machine moves them), and are played again when they have parted; those that somebody has played far apart after all count for nobody, as long as three others remain: notes say how many, and their figures.'
      : 'Rounds were played wherever the host had its cores.',
    `Guests: ${rings} of ${options.queueSize} entries (256 where there are many ports, and for 64 KiB segments), one queue pair, bursts of up to 256 frames, frames aligned to cache lines.`,
    'Load: constant, in one direction unless the variant says otherwise; one traversal of the switch is one packet; "64 B" is a frame of 60 bytes without FCS. Without a rate in its name, a variant offers as many as the ring takes.',
    'Counted are frames that arrive, with their sequence numbers: loss (`lostPerMillion`) and order (`reordered`) come from the receiving guest. `gapMs`: the longest time that the generator itself stood still.',
    'Searches (`latency`, `rfc2544`): binary, to 1 %, from what arrives at saturation down; trials of 100 ms, each with a fresh count; a rate fails when two trials in a row lose more than the goal (none, or 0.5 %). Reported is the lower bound: the highest rate that passed.',
  ]);
}

function limitsText({ measurements, machine, failures }: Results): string {
  const lines = [
    'Both ends of every packet are on this machine: figures say what a switch core does between guests, not what a network card adds.',
  ];
  if (machine.cores < 3) {
    lines.push(
      'Two cores: the control plane shares one with the generator, or with the forwarding thread; a second worker cannot show its rate.',
    );
  }
  if (machine.hypervisor !== '?') {
    lines.push(
      `A virtual machine (${machine.hypervisor}): its host may be busy with others, so compare ratios within the rounds, and look at the spread.`,
    );
  }
  const far = measurements.filter(({ notes }) =>
    notes.some((n) => n.includes('far from each other')),
  );
  if (far.length > 0) {
    lines.push(
      `In ${far.length} of ${measurements.length} variants some rounds were played with cores far from each other: their notes say whose.`,
    );
  }
  const left = measurements.flatMap(({ notes }) => notes.filter((n) => n.includes('left out:')));
  lines.push(...new Set(left));
  for (const { scenario, text } of allFailures({ measurements, failures })) {
    lines.push(`failed: ${scenario}: ${text}`);
  }
  return list(lines);
}

/** Stages of the data plane, from a profile of the forwarding thread. */
function stagesText(directory: string, measurements: readonly Measurement[]): string {
  const profiles = measurements.filter((m) => m.scenario === 'stages' && m.series.length > 0);
  if (profiles.length === 0) return 'No profile in this run: scenario `stages`, which needs perf.';
  const chart = stackChart('Time of a packet in the switch, by stage', profiles);
  writeFileSync(path.join(directory, 'where.svg'), chart);
  return [
    '![where the time goes](where.svg)',
    stageTable(profiles),
    'Samples of the saturated forwarding thread, by function, in a copy of the switch whose functions have been kept apart; those that the compilers put into their callers all the same count for these. The copy is slower than the switch: the table shows proportions.',
  ].join('\n\n');
}

function scenarioParts(
  directory: string,
  name: string,
  variants: readonly Measurement[],
): string[] {
  const file = `${name}.svg`;
  writeFileSync(path.join(directory, file), barChart(name, variants));
  const parts = [`### ${name}`, `![${name}](${file})`];
  for (const [i, variant] of variants.entries()) {
    parts.push(markdownOfOne(variant));
    if (!variant.series.some(({ latency }) => latency)) continue;
    const chart = `${name}-${i}-latency.svg`;
    writeFileSync(path.join(directory, chart), latencyChart(variant));
    parts.push(`![${variant.variant}](${chart})`);
  }
  return parts;
}

/** Writes report.md, its charts and report.json into a directory. */
export function writeReport(directory: string, results: Results): void {
  mkdirSync(directory, { recursive: true });
  const { measurements, machine, date } = results;
  const verdicts = judge(measurements);
  const met = verdicts.filter((verdict) => verdict.met).length;
  const overview = ratioChart('xvio against its peer (1 = equal, right is better)', measurements);
  writeFileSync(path.join(directory, 'overview.svg'), overview);
  const parts = [
    '# xvio benchmark report',
    `${date.slice(0, 16).replace('T', ' ')} UTC. Reproduce: \`npm run bench\`. How to read it: docs/benchmarks.md. Raw data: [report.json](report.json).`,
    '## Machine',
    list(machineText(machine)),
    '## Method',
    methodText(results),
    '## Limits of this run',
    limitsText(results),
    '## Performance',
    '![xvio against its peers](overview.svg)',
    performanceTable(measurements),
    '## Host CPU used',
    cpuTable(measurements),
    '## Features',
    featureTable(),
    '## Aims',
    `${met} of ${verdicts.length} met. What stands in the way of the others: the next table, and docs/benchmarks.md.`,
    aimsTable(measurements),
    '## Where the nanoseconds go',
    stagesText(directory, measurements),
    '## All scenarios',
  ];
  for (const name of new Set(measurements.map(({ scenario }) => scenario))) {
    const variants = measurements.filter(({ scenario }) => scenario === name);
    parts.push(...scenarioParts(directory, name, variants));
  }
  writeFileSync(path.join(directory, 'report.md'), `${parts.join('\n\n')}\n`);
  writeFileSync(path.join(directory, 'report.json'), jsonOf(results));
}
