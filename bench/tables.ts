// Measurements as tables: for the terminal, for the report, and short ones for other documents.

import { median, medianRatio } from './medians.ts';
import { Footnotes, ratioFigure, ratioNotes } from './ratios.ts';
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

/** 12345678 → "12.35 M"; `more`: further digits. */
export function figure(value: number, more = 0): string {
  if (!Number.isFinite(value)) return '-';
  const size = Math.abs(value);
  if (size >= 1e9) return `${(value / 1e9).toFixed(2 + more)} G`;
  if (size >= 1e6) return `${(value / 1e6).toFixed(2 + more)} M`;
  if (size >= 1e4) return `${(value / 1e3).toFixed(1 + more)} k`;
  if (value === 0) return '0';
  if (size >= 100) return value.toFixed(more);
  return value.toPrecision(3 + more);
}

const timesText = (ratio: number | undefined): string =>
  ratio === undefined || !Number.isFinite(ratio) ? '' : `${ratioFigure(ratio)} x`;

function rows(measurement: Measurement): string[][] {
  const summaries = summarize(measurement);
  return measurement.series.map((series, i) => {
    const s = summaries[i]!;
    const details = Object.entries(series.details).map(([name, v]) => `${name} ${figure(v)}`);
    return [
      s.peer,
      figure(s.median),
      `${figure(s.min)} … ${figure(s.max)}`,
      timesText(s.ratio),
      details.join(', '),
    ];
  });
}

const roundsText = ({ series }: Measurement): string => {
  const numbers = [...new Set(series.map(({ rounds }) => rounds.length))];
  return `${numbers.join(', ') || 0} round${numbers.length === 1 && numbers[0] === 1 ? '' : 's'}`;
};

const notesOf = (m: Measurement): string[] => [...m.notes, ...ratioNotes(m)];

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
  return [
    `${measurement.scenario}: ${measurement.variant} (${roundsText(measurement)})`,
    ...lines.map((line) => `  ${line}`),
    ...notesOf(measurement).map((n) => `  ! ${n}`),
    ...(measurement.failures ?? []).map((n) => `  FAILED: ${n}`),
    '',
  ].join('\n');
}

export function markdownTable(header: readonly string[], body: readonly string[][]): string {
  // Names come first; after that, figures.
  const rule = header.map((_, i) => (i === 0 ? '---' : '---:'));
  return [header, rule, ...body].map((row) => `| ${row.join(' | ')} |`).join('\n');
}

/** One measurement with everything that is known of it. */
export function markdownOfOne(measurement: Measurement): string {
  const better = measurement.higherIsBetter ? 'more is better' : 'less is better';
  const lines = [
    `**${measurement.variant}** (${measurement.unit}, ${better}; ${roundsText(measurement)})`,
    '',
    `| peer | median | spread | ratio to ${measurement.baseline} | details |`,
    '| --- | ---: | --- | ---: | --- |',
    ...rows(measurement).map((row) => `| ${row.join(' | ')} |`),
  ];
  for (const note of notesOf(measurement)) lines.push('', `Note: ${note}`);
  for (const text of measurement.failures ?? []) lines.push('', `Failed: ${text}`);
  return lines.join('\n');
}

/** The series that is ours: the switch, or what stands first where the switch itself did not take part. */
export const ours = ({ series }: Measurement): Series | undefined =>
  series.find(({ peer }) => peer === 'xvio') ?? series.find(({ peer }) => peer.startsWith('xvio'));

/** Short tables, all scenarios of one unit together: what README and docs show. */
export function markdownOf(measurements: readonly Measurement[]): string {
  const parts: string[] = [];
  const notes = new Footnotes();
  for (const unit of new Set(measurements.map((m) => m.unit))) {
    const body = measurements
      .filter((m) => m.unit === unit)
      .map((m) => {
        const mine = ours(m);
        const peers = m.series
          .filter((s) => s !== mine)
          .map((s) => `${s.peer} ${figure(median(s.rounds))}`);
        const base = m.series.find(({ peer }) => peer === m.baseline);
        const busy = [mine, base].map((s) => s?.details.busyNs);
        const name = `\`${m.scenario}\`, ${m.variant}`;
        return [
          notes.name(name, m),
          mine ? figure(median(mine.rounds)) : '-',
          peers.join('; ') || '-',
          mine && base && mine !== base ? notes.ratio(name, m, mine, base) : '-',
          busy.some((ns) => ns !== undefined)
            ? busy.map((ns) => (ns === undefined ? '-' : ns.toFixed(0))).join(' / ')
            : '',
        ];
      });
    const header = [unit, 'xvio', 'peers', 'ratio', 'busy ns a packet, xvio / peer'];
    const withBusy = body.some((row) => row[4] !== '');
    parts.push(
      withBusy
        ? markdownTable(header, body)
        : markdownTable(
            header.slice(0, 4),
            body.map((row) => row.slice(0, 4)),
          ),
    );
  }
  return `${parts.join('\n\n')}${notes.below()}\n`;
}
