// What the suite shows: a table for the terminal, JSON for machines, Markdown with charts for people.

import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { barChart } from './chart.ts';
import { featureTable } from './features.ts';
import { latencyChart } from './latencyChart.ts';
import { type Machine, machineText } from './machine.ts';
import { median, medianRatio } from './rounds.ts';
import type { Measurement, Series } from './types.ts';

export interface Summary {
  peer: string;
  median: number;
  min: number;
  max: number;
  /** Median of the ratios round by round; undefined for the baseline itself or without one. */
  ratio: number | undefined;
}

export function summarize({ series, baseline }: Measurement): Summary[] {
  const base = series.find(({ peer }) => peer === baseline);
  return series.map((s: Series) => ({
    peer: s.peer,
    median: median(s.rounds),
    min: Math.min(...s.rounds),
    max: Math.max(...s.rounds),
    ratio: base && base !== s ? medianRatio(s, base) : undefined,
  }));
}

/** 12345678 → "12.35 M" */
export function figure(value: number): string {
  if (!Number.isFinite(value)) return '-';
  const size = Math.abs(value);
  if (size >= 1e9) return `${(value / 1e9).toFixed(2)} G`;
  if (size >= 1e6) return `${(value / 1e6).toFixed(2)} M`;
  if (size >= 1e4) return `${(value / 1e3).toFixed(1)} k`;
  return size >= 100 ? value.toFixed(0) : value.toPrecision(3);
}

function rows(measurement: Measurement): string[][] {
  const summaries = summarize(measurement);
  return measurement.series.map((series, i) => {
    const s = summaries[i]!;
    const details = Object.entries(series.details).map(([name, v]) => `${name} ${figure(v)}`);
    return [
      s.peer,
      figure(s.median),
      `${figure(s.min)} … ${figure(s.max)}`,
      s.ratio === undefined ? '' : `${s.ratio.toFixed(2)} x`,
      details.join(', '),
    ];
  });
}

/** A table in plain text. */
export function textOf(measurement: Measurement): string {
  const header = [
    'peer',
    `median ${measurement.unit}`,
    'spread',
    `to ${measurement.baseline}`,
    'details',
  ];
  const table = [header, ...rows(measurement)];
  const widths = header.map((_, column) => Math.max(...table.map((row) => row[column]!.length)));
  const lines = table.map((row) =>
    row
      .map((cell, i) => cell.padEnd(widths[i]!))
      .join('  ')
      .trimEnd(),
  );
  const rounds = measurement.series[0]?.rounds.length ?? 0;
  const title = `${measurement.scenario}: ${measurement.variant} (${rounds} rounds)`;
  return [
    title,
    ...lines.map((line) => `  ${line}`),
    ...measurement.notes.map((n) => `  ! ${n}`),
    '',
  ].join('\n');
}

export function jsonOf(machine: Machine, measurements: readonly Measurement[]): string {
  const results = measurements.map((m) => ({ ...m, summary: summarize(m) }));
  return `${JSON.stringify({ date: new Date().toISOString(), machine, results }, null, 2)}\n`;
}

/** Writes report.md and its charts into a directory. */
export function writeReport(
  directory: string,
  machine: Machine,
  measurements: readonly Measurement[],
): void {
  mkdirSync(directory, { recursive: true });
  const parts = [
    '# xvio benchmark report',
    `${new Date().toISOString().slice(0, 16)} UTC. Reproduce: \`npm run bench\`. How to read it: docs/benchmarks.md.`,
    '## Machine',
    machineText(machine)
      .map((line) => `- ${line}`)
      .join('\n'),
  ];
  const names = [...new Set(measurements.map(({ scenario }) => scenario))];
  for (const name of names) {
    const variants = measurements.filter(({ scenario }) => scenario === name);
    parts.push(`## ${name}`);
    const file = `${name}.svg`;
    writeFileSync(path.join(directory, file), barChart(name, variants));
    parts.push(`![${name}](${file})`);
    for (const [i, variant] of variants.entries()) {
      parts.push(markdownTable(variant));
      if (!variant.series.some(({ latency }) => latency)) continue;
      const chart = `${name}-${i}-latency.svg`;
      writeFileSync(path.join(directory, chart), latencyChart(variant));
      parts.push(`![${variant.variant}](${chart})`);
    }
  }
  parts.push('## Features', featureTable());
  writeFileSync(path.join(directory, 'report.md'), `${parts.join('\n\n')}\n`);
}

function markdownTable(measurement: Measurement): string {
  const better = measurement.higherIsBetter ? 'more is better' : 'less is better';
  const lines = [
    `**${measurement.variant}** (${measurement.unit}, ${better}; ${measurement.series[0]?.rounds.length ?? 0} rounds)`,
    '',
    `| peer | median | spread | ratio to ${measurement.baseline} | details |`,
    '| --- | ---: | --- | ---: | --- |',
    ...rows(measurement).map((row) => `| ${row.join(' | ')} |`),
  ];
  for (const note of measurement.notes) lines.push('', `Note: ${note}`);
  return lines.join('\n');
}
