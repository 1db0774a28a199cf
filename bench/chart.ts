// Charts of the report: horizontal bars with their spread, as SVG, without a library.

import { median } from './medians.ts';
import { figure } from './tables.ts';
import type { Measurement } from './types.ts';

const WIDTH = 760;
const LABEL = 130;
const BAR = 18;
/** Of a letter, at most. */
const LETTER = 7;
export const COLORS = ['#2563eb', '#94a3b8', '#f59e0b', '#10b981', '#a855f7', '#ef4444'];

export function escapeXml(text: string): string {
  return text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
}

/** One group of bars for each variant, one bar for each peer: median, with a line from the least round to the greatest. */
export function barChart(title: string, variants: readonly Measurement[]): string {
  const peers = [...new Set(variants.flatMap(({ series }) => series.map(({ peer }) => peer)))];
  const body: string[] = [];
  let y = 34;
  for (const { variant, unit, series } of variants) {
    const largest = Math.max(...series.flatMap(({ rounds }) => rounds), Number.MIN_VALUE);
    const texts = series.map(({ rounds }) => `${figure(median(rounds))} ${unit}`);
    const room = LETTER * Math.max(0, ...texts.map(({ length }) => length)) + 12;
    const scale = (WIDTH - LABEL - room) / largest;
    body.push(`<text x="8" y="${y + 12}" font-weight="bold">${escapeXml(variant)}</text>`);
    y += 20;
    for (const [i, { peer, rounds }] of series.entries()) {
      const value = Math.max(median(rounds), 0);
      const middle = y + BAR / 2;
      const [low, high] = [
        LABEL + Math.max(Math.min(...rounds), 0) * scale,
        LABEL + Math.max(...rounds, 0) * scale,
      ];
      body.push(
        `<text x="${LABEL - 6}" y="${y + 13}" text-anchor="end">${escapeXml(peer)}</text>`,
        `<rect x="${LABEL}" y="${y}" width="${(value * scale).toFixed(1)}" height="${BAR - 4}" fill="${COLORS[peers.indexOf(peer) % COLORS.length]}"/>`,
        `<path d="M${low.toFixed(1)} ${middle - 2}H${high.toFixed(1)}" stroke="#111" stroke-width="1"/>`,
        `<text x="${(high + 6).toFixed(1)}" y="${y + 12}">${escapeXml(texts[i]!)}</text>`,
      );
      y += BAR;
    }
    y += 10;
  }
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${y}" viewBox="0 0 ${WIDTH} ${y}" font-family="sans-serif" font-size="12">`,
    `<rect width="${WIDTH}" height="${y}" fill="#fff"/>`,
    `<text x="8" y="20" font-size="15">${escapeXml(title)}</text>`,
    ...body,
    '</svg>',
    '',
  ].join('\n');
}
