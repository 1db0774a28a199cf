// Chart of scenario `stages`: one bar for each kind of forwarding, divided by where the time of a packet goes. And the same as a table.

import { COLORS, escapeXml } from './chart.ts';
import { median } from './medians.ts';
import { STAGE_NAMES } from './profile.ts';
import { figure, markdownTable, ours } from './tables.ts';
import type { Measurement } from './types.ts';

const [WIDTH, LEFT, PLOT_WIDTH, TOP, ROW] = [760, 250, 430, 60, 24];
const MORE_COLORS = ['#0891b2', '#84cc16', '#db2777', '#475569'];
const color = (i: number): string => [...COLORS, ...MORE_COLORS][i % 10]!;

/** Stages in which any time was spent at all. */
function used(measurements: readonly Measurement[]): string[] {
  return STAGE_NAMES.filter((name) => measurements.some((m) => (ours(m)?.details[name] ?? 0) > 0));
}

export function stackChart(title: string, measurements: readonly Measurement[]): string {
  const names = used(measurements);
  const sums = measurements.map((m) =>
    names.reduce((sum, name) => sum + (ours(m)?.details[name] ?? 0), 0),
  );
  const scale = PLOT_WIDTH / Math.max(...sums, 1);
  const height = TOP + measurements.length * ROW + 10;
  const legend = names.map((name, i) => {
    const x = 8 + (i % 5) * 150;
    const y = 34 + Math.floor(i / 5) * 14;
    return `<rect x="${x}" y="${y - 8}" width="9" height="9" fill="${color(i)}"/><text x="${x + 13}" y="${y}" font-size="11">${escapeXml(name)}</text>`;
  });
  const bars = measurements.map((m, row) => {
    const y = TOP + row * ROW;
    let x = LEFT;
    const parts = names.map((name, i) => {
      const width = (ours(m)?.details[name] ?? 0) * scale;
      const part = `<rect x="${x.toFixed(1)}" y="${y}" width="${width.toFixed(1)}" height="${ROW - 8}" fill="${color(i)}"/>`;
      x += width;
      return part;
    });
    return [
      `<text x="${LEFT - 6}" y="${y + 12}" text-anchor="end" font-size="11">${escapeXml(m.variant)}</text>`,
      ...parts,
      `<text x="${(x + 5).toFixed(1)}" y="${y + 12}">${figure(sums[row]!)} ns</text>`,
    ].join('\n');
  });
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${height}" viewBox="0 0 ${WIDTH} ${height}" font-family="sans-serif" font-size="12">`,
    `<rect width="${WIDTH}" height="${height}" fill="#fff"/>`,
    `<text x="8" y="18" font-size="15">${escapeXml(title)}</text>`,
    ...legend,
    ...bars,
    '</svg>',
    '',
  ].join('\n');
}

/** Nanoseconds of a packet in each stage, and its share. */
export function stageTable(measurements: readonly Measurement[]): string {
  const names = used(measurements);
  const body = measurements.map((m) => {
    const series = ours(m);
    const total = names.reduce((sum, name) => sum + (series?.details[name] ?? 0), 0);
    const cells = names.map((name) => {
      const ns = series?.details[name] ?? 0;
      return `${ns.toFixed(1)} (${Math.round((100 * ns) / Math.max(total, 1e-9))} %)`;
    });
    return [m.variant, series ? figure(median(series.rounds)) : '-', ...cells];
  });
  return markdownTable(['ns a packet', 'all', ...names], body);
}
