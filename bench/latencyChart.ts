// Chart of the report: what share of the packets is older than so many microseconds. Both axes are logarithmic, so that
// a pause that one packet in a million meets shows as clearly as the median.

import { COLORS, escapeXml } from './chart.ts';
import type { Measurement } from './types.ts';

const [WIDTH, HEIGHT, LEFT, TOP, PLOT_WIDTH, PLOT_HEIGHT] = [760, 320, 70, 40, 560, 230];
const MIN_US = 0.5;
const MAX_US = 100_000;
const MIN_SHARE = 1e-6;

const x = (us: number): number =>
  LEFT + (PLOT_WIDTH * Math.log(Math.max(us, MIN_US) / MIN_US)) / Math.log(MAX_US / MIN_US);
const y = (share: number): number =>
  TOP + (PLOT_HEIGHT * Math.log(Math.max(share, MIN_SHARE))) / Math.log(MIN_SHARE);

function curve(latency: readonly (readonly [number, number])[]): string {
  const total = latency.reduce((sum, [, n]) => sum + n, 0);
  let left = total;
  const points = [`M${x(MIN_US).toFixed(1)} ${y(1).toFixed(1)}`];
  for (const [us, n] of latency) {
    points.push(`H${x(us).toFixed(1)}`);
    left -= n;
    points.push(`V${(left > 0 ? y(left / total) : TOP + PLOT_HEIGHT).toFixed(1)}`);
  }
  return points.join('');
}

export function latencyChart({ variant, series }: Measurement): string {
  const body: string[] = [];
  for (const us of [1, 10, 100, 1000, 10_000, 100_000]) {
    const label = us >= 1000 ? `${us / 1000} ms` : `${us} µs`;
    body.push(
      `<path d="M${x(us).toFixed(1)} ${TOP}V${TOP + PLOT_HEIGHT}" stroke="#e2e8f0"/>`,
      `<text x="${x(us).toFixed(1)}" y="${TOP + PLOT_HEIGHT + 16}" text-anchor="middle">${label}</text>`,
    );
  }
  for (const share of [1, 1e-2, 1e-4, 1e-6]) {
    body.push(
      `<path d="M${LEFT} ${y(share).toFixed(1)}H${LEFT + PLOT_WIDTH}" stroke="#e2e8f0"/>`,
      `<text x="${LEFT - 6}" y="${(y(share) + 4).toFixed(1)}" text-anchor="end">${Number((share * 100).toPrecision(1))} %</text>`,
    );
  }
  for (const [i, { peer, latency }] of series.entries()) {
    if (!latency) continue;
    const color = COLORS[i % COLORS.length];
    body.push(
      `<path d="${curve(latency)}" fill="none" stroke="${color}" stroke-width="1.5"/>`,
      `<text x="${LEFT + PLOT_WIDTH + 10}" y="${TOP + 14 + i * 18}" fill="${color}">${escapeXml(peer)}</text>`,
    );
  }
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${HEIGHT}" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="sans-serif" font-size="12">`,
    `<rect width="${WIDTH}" height="${HEIGHT}" fill="#fff"/>`,
    `<text x="8" y="20" font-size="15">${escapeXml(`${variant}: share of packets older than`)}</text>`,
    ...body,
    '</svg>',
    '',
  ].join('\n');
}
