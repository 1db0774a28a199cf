// The figures in README.md and docs/benchmarks.md: made from a run's report.json, between marks, so that they are those of one run and one
// command brings them up to date (npm run bench -- --from FILE --docs). What people have written around them stays.

import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { aimsTable, judge } from './aims.ts';
import { describeMachine, machineText } from './machine.ts';
import { median } from './medians.ts';
import { Footnotes, HOW_TO_READ } from './ratios.ts';
import type { Results } from './results.ts';
import { stageTable } from './stackChart.ts';
import { figure, markdownOf, markdownTable, ours } from './tables.ts';
import type { Measurement, Series } from './types.ts';

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

/**
 * What README shows of all that was measured: also where others are ahead, and, where it is shown beside several peers, those that
 * are not the baseline.
 */
const SHORT: readonly (readonly [
  scenario: string,
  variant: RegExp,
  label: string,
  peers?: readonly string[],
  mine?: string,
])[] = [
  ['port', /1 000 flows/, 'port to port, 1 000 flows'],
  ['l2', /1 000 flows/, 'MAC learning (NORMAL), 1 000 flows'],
  ['l2', /64 000 flows/, 'MAC learning (NORMAL), 64 000 flows'],
  ['rules', /1 000 flows/, '1 000 policy rules, 1 000 flows'],
  ['rules', /64 000 flows/, '1 000 policy rules, 64 000 flows'],
  ['acl-vxlan', /both ways.*64000 flows/, 'the same with VXLAN, both ways, 64 000 flows'],
  ['firewall', /\b1000 established/, 'firewall, 1 000 established connections'],
  ['firewall', /1000000 established/, 'firewall, 1 000 000 established connections'],
  ['firewall', /new connections/, 'firewall, new connections'],
  ['relay', /./, 'relay: port paired with port, no services', undefined, 'xvio-relay'],
  ['testpmd', /64 B$/, "DPDK's testpmd as generator"],
  ['testpmd', /time of a packet/, 'the same: time of a packet in the switch'],
  ['tcp', /guest/, 'TCP segments of 64 KiB from guest to guest'],
  ['tcp', /veth/, 'TCP over veth ports', ['ovs-userspace-tso', 'linux-bridge']],
  ['tcp', /tap/, 'TCP over taps (the bridge: veth)', ['ovs-userspace-tso', 'linux-bridge']],
  ['latency', /^0\.1 Mpps/, 'p99 latency at 0.1 Mpps'],
  ['latency', /^1 Mpps/, 'p99 latency at 1 Mpps'],
  ['latency', /^3 Mpps/, 'p99 latency at 3 Mpps'],
  ['pauses', /nothing else/, 'longest wait at 0.1 Mpps'],
  ['pauses', /flow-mods/, 'longest wait at 0.1 Mpps, flow-mods meanwhile'],
  ['upcall', /flow, up/, 'new flows through the control plane'],
  ['upcall', /rush/, 'the same, more than it takes'],
  ['flowmod', /./, 'flow-mods, bundle of 100 000'],
  ['explosion', /./, 'what a tuple-space explosion leaves of the rate'],
  ['idle', /32/, 'a core, idle, 32 ports'],
  ['memory', /daemon/, 'memory of an idle daemon'],
  ['memory', /further port/, 'memory of a further port'],
  ['memory', /flow/, 'memory of an OpenFlow flow'],
];

function shortRow(
  m: Measurement,
  label: string,
  names: readonly string[],
  mine: Series | undefined,
  notes: Footnotes,
): string[] | undefined {
  const peers = names.flatMap((name) => m.series.find((s) => s.peer === name && s !== mine) ?? []);
  if (!mine || peers.length === 0) return undefined;
  // The label says which percentile.
  const unit = m.unit.replace(/ \(p99\)$/, '');
  const value = ({ rounds }: Series): string => figure(median(rounds));
  return [
    notes.name(label, m),
    `${value(mine)} ${unit}`,
    `${peers.map((s) => `${s.peer} ${value(s)}`).join('; ')} ${unit}`,
    peers.map((s) => notes.ratio(label, m, mine, s)).join('; '),
  ];
}

function conditions({ date, machine, options, measurements }: Results): string {
  const counts = measurements.flatMap(({ series }) => series.map(({ rounds }) => rounds.length));
  const most = Math.min(Math.max(0, ...counts), options.rounds);
  const host = machine.hypervisor === '?' ? '' : `, ${machine.hypervisor}`;
  return `${date.slice(0, 10)}, xvio ${machine.commit}, ${machine.cpu.split(',')[0]}${host}, ${machine.cores} cores (one forwards, one generates), 64-byte packets unless said,\nmedians of up to ${most} alternating rounds of ${options.durationMs} ms.\n${HOW_TO_READ}`;
}

export function readmeFigures(results: Results): string {
  const notes = new Footnotes();
  const missing: string[] = [];
  const body = SHORT.flatMap(([scenario, variant, label, peers, mine]) => {
    const found = results.measurements.find(
      (m) => m.scenario === scenario && variant.test(m.variant),
    );
    const subject = found?.series.find(({ peer }) => peer === mine) ?? (found && ours(found));
    const row = found && shortRow(found, label, peers ?? [found.baseline], subject, notes);
    if (!row) missing.push(label);
    return row ? [row] : [];
  });
  const table = markdownTable(['', 'xvio', 'peer', 'ratio'], body);
  // Otherwise a row that is not there would look like one that there never was.
  const without =
    missing.length > 0 ? `\n\nWithout figures in this run: ${missing.join('; ')}.` : '';
  const verdicts = judge(results.measurements);
  const met = verdicts.filter((verdict) => verdict.met).length;
  const aims = `\n\n${met} of ${verdicts.length} aims met; [docs/benchmarks.md](docs/benchmarks.md#figures-so-far) lists all of them, and what stands in the way of the others.`;
  return `${conditions(results)}\n\n${table}${notes.below()}${without}${aims}`;
}

const profilesOf = ({ measurements }: Results): Measurement[] =>
  measurements.filter(({ scenario, series }) => scenario === 'stages' && series.length > 0);

/** Scenarios of which there is nothing, and why. */
function withoutFigures({ failures }: Results): string[] {
  if (failures.length === 0) return [];
  const list = failures.map(({ scenario, text }) => `\`${scenario}\` (${text})`).join('; ');
  return [`Without figures, or not with all of them: ${list}.`];
}

export function docsFigures(results: Results): string {
  const measurements = results.measurements.filter(({ scenario }) => scenario !== 'stages');
  const verdicts = judge(measurements);
  const met = verdicts.filter((verdict) => verdict.met).length;
  return [
    `${conditions(results)} The whole run took ${results.minutes.toFixed(0)} minutes.`,
    machineText(results.machine)
      .map((line) => `- ${line}`)
      .join('\n'),
    markdownOf(measurements).trim(),
    ...withoutFigures(results),
    `**Aims: ${met} of ${verdicts.length} met.** Those that were not:`,
    aimsTable(measurements, 'missed'),
    'Those that were:',
    aimsTable(measurements, 'met'),
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
