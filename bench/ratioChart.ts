// Chart of the report's first page: xvio against the baseline of each measurement, on a logarithmic axis with a line at 1.

import { COLORS, escapeXml } from './chart.ts';
import { medianRatio } from './medians.ts';
import { ratioFigure } from './ratios.ts';
import { ours } from './tables.ts';
import type { Measurement } from './types.ts';

const [WIDTH, LEFT, PLOT_WIDTH, TOP, ROW] = [860, 430, 350, 34, 18];

export function ratioChart(title: string, measurements: readonly Measurement[]): string {
  const rows: { label: string; ratio: number }[] = [];
  for (const m of measurements) {
    const mine = ours(m);
    const base = m.series.find(({ peer }) => peer === m.baseline);
    if (!mine || !base || mine === base) continue;
    const ratio = medianRatio(mine, base);
    // Better is to the right, whatever is measured.
    const better = m.higherIsBetter ? ratio : 1 / ratio;
    if (Number.isFinite(better) && better > 0) {
      rows.push({ label: `${m.scenario}: ${m.variant} (${m.baseline})`, ratio: better });
    }
  }
  const most = Math.max(4, ...rows.map(({ ratio }) => Math.max(ratio, 1 / ratio)));
  const x = (ratio: number): number =>
    LEFT + (PLOT_WIDTH / 2) * (1 + Math.log(ratio) / Math.log(most));
  const height = TOP + rows.length * ROW + 14;
  const body = rows.map(({ label, ratio }, i) => {
    const y = TOP + i * ROW;
    const [from, to] = [Math.min(x(1), x(ratio)), Math.max(x(1), x(ratio))];
    const short = label.length > 74 ? `${label.slice(0, 73)}…` : label;
    return [
      `<text x="${LEFT - 6}" y="${y + 12}" text-anchor="end" font-size="11">${escapeXml(short)}</text>`,
      `<rect x="${from.toFixed(1)}" y="${y + 2}" width="${(to - from).toFixed(1)}" height="${ROW - 6}" fill="${COLORS[ratio >= 1 ? 0 : 2]}"/>`,
      `<text x="${(to + 5).toFixed(1)}" y="${y + 12}">${ratioFigure(ratio)}</text>`,
    ].join('\n');
  });
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${height}" viewBox="0 0 ${WIDTH} ${height}" font-family="sans-serif" font-size="12">`,
    `<rect width="${WIDTH}" height="${height}" fill="#fff"/>`,
    `<text x="8" y="20" font-size="15">${escapeXml(title)}</text>`,
    `<path d="M${x(1)} ${TOP - 4}V${height - 6}" stroke="#111"/>`,
    ...body,
    '</svg>',
    '',
  ].join('\n');
}
