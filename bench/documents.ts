// The figures in README.md and docs/benchmarks.md: made from a run's report.json, between marks, so that they are those of one run and one
// command brings them up to date (npm run bench -- --from FILE --docs). What people have written around them stays.

import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { aimsTable, judge } from './aims.ts';
import { describeMachine, machineText } from './machine.ts';
import type { Results } from './results.ts';
import { median } from './rounds.ts';
import { stageTable } from './stackChart.ts';
import { farNote, figure, markdownOf, markdownTable, ours, ratioText } from './tables.ts';
import type { Measurement } from './types.ts';

/** Replaces what stands between `<!-- bench:NAME -->` and `<!-- /bench:NAME -->`. */
export function between(text: string, name: string, content: string): string {
  const [open, close] = [`<!-- bench:${name} -->`, `<!-- /bench:${name} -->`];
  const [from, to] = [text.indexOf(open), text.indexOf(close)];
  if (from < 0 || to < from) throw new Error(`no ${open} … ${close}`);
  return `${text.slice(0, from + open.length)}\n${content.trim()}\n${text.slice(to)}`;
}

/** A table of stages into its place in docs/benchmarks.md. `what`: how it was made, behind commit and machine. */
export function writeStages(name: string, what: string, table: string): void {
  const file = path.join(import.meta.dirname, '..', 'docs', 'benchmarks.md');
  const { commit, cpu } = describeMachine();
  const content = `xvio ${commit}, ${cpu.split(',')[0]}${what}:\n\n${table}`;
  writeFileSync(file, between(readFileSync(file, 'utf8'), `${name}-stages`, content));
}

/** What README shows of all that was measured. */
const SHORT: readonly (readonly [scenario: string, variant: RegExp, label: string])[] = [
  ['port', /1 000 flows/, 'port to port, 1 000 flows'],
  ['l2', /1 000 flows/, 'MAC learning (NORMAL), 1 000 flows'],
  ['l2', /64 000 flows/, 'MAC learning (NORMAL), 64 000 flows'],
  ['rules', /1 000 flows/, '1 000 policy rules, 1 000 flows'],
  ['rules', /64 000 flows/, '1 000 policy rules, 64 000 flows'],
  ['acl-vxlan', /both ways.*64000 flows/, 'the same with VXLAN, both ways, 64 000 flows'],
  ['firewall', /\b1000 established/, 'firewall, 1 000 established connections'],
  ['firewall', /1000000 established/, 'firewall, 1 000 000 established connections'],
  ['firewall', /new connections/, 'firewall, new connections'],
  ['relay', /./, 'port paired with port'],
  ['tcp', /guest/, 'TCP segments of 64 KiB from guest to guest'],
  ['latency', /^1 Mpps/, 'p99 latency at 1 Mpps'],
  ['upcall', /rush/, 'new flows through the control plane, more than it takes'],
  ['flowmod', /./, 'flow-mods, bundle of 100 000'],
  ['explosion', /./, 'what a tuple-space explosion leaves of the rate'],
  ['idle', /32/, 'a core, idle, 32 ports'],
];

function shortRow(m: Measurement, label: string): string[] | undefined {
  const mine = ours(m);
  const base = m.series.find(({ peer }) => peer === m.baseline);
  if (!mine || !base || mine === base) return undefined;
  const value = (rounds: readonly number[]): string => `${figure(median(rounds))} ${m.unit}`;
  return [label, value(mine.rounds), `${base.peer} ${value(base.rounds)}`, ratioText(mine, base)];
}

function conditions({ date, machine, options, measurements }: Results): string {
  const counts = measurements.flatMap(({ series }) => series.map(({ rounds }) => rounds.length));
  const most = Math.max(0, ...counts);
  const host = machine.hypervisor === '?' ? '' : `, ${machine.hypervisor}`;
  return `${date.slice(0, 10)}, xvio ${machine.commit}, ${machine.cpu.split(',')[0]}${host}, ${machine.cores} cores (one forwards, one generates), 64-byte packets unless said,\nmedians of up to ${most} alternating rounds of ${options.durationMs} ms, ratios round by round`;
}

export function readmeFigures(results: Results): string {
  const body = SHORT.flatMap(([scenario, variant, label]) => {
    const found = results.measurements.find(
      (m) => m.scenario === scenario && variant.test(m.variant),
    );
    const row = found && shortRow(found, label);
    return row ? [row] : [];
  });
  const table = markdownTable(['', 'xvio', 'peer', 'ratio'], body);
  return `${conditions(results)}:\n\n${table}${farNote(table)}`;
}

const profilesOf = ({ measurements }: Results): Measurement[] =>
  measurements.filter(({ scenario, series }) => scenario === 'stages' && series.length > 0);

export function docsFigures(results: Results): string {
  const measurements = results.measurements.filter(({ scenario }) => scenario !== 'stages');
  const verdicts = judge(measurements);
  const met = verdicts.filter((verdict) => verdict.met).length;
  return [
    `${conditions(results)}. The whole run took ${results.minutes.toFixed(0)} minutes.`,
    machineText(results.machine)
      .map((line) => `- ${line}`)
      .join('\n'),
    markdownOf(measurements).trim(),
    `**Aims: ${met} of ${verdicts.length} met.** Those that were not:`,
    aimsTable(measurements, false),
  ].join('\n\n');
}

/** Writes the figures of a run into the documents of the checkout `root`. Parts that the run has nothing for stay as they are. */
export function refreshDocuments(root: string, results: Results): string[] {
  const profiles = profilesOf(results);
  const parts: [file: string, name: string, content: string][] = [
    ['README.md', 'figures', readmeFigures(results)],
    ['docs/benchmarks.md', 'figures', docsFigures(results)],
  ];
  if (profiles.length > 0) parts.push(['docs/benchmarks.md', 'stages', stageTable(profiles)]);
  for (const [name, part, content] of parts) {
    const file = path.join(root, name);
    writeFileSync(file, between(readFileSync(file, 'utf8'), part, content));
  }
  return [...new Set(parts.map(([file]) => file))];
}
