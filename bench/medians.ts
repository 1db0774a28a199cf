// Medians of rounds, and of the ratios of rounds: what every figure is made of.

import type { Series } from './types.ts';

export function median(values: readonly number[]): number {
  if (values.length === 0) return Number.NaN;
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/**
 * Median of the ratios of round i of one peer to round i of the baseline, as far as both have played. Rounds in which the
 * baseline has nothing to be compared with are left out.
 */
export function medianRatio(series: Series, baseline: Series): number {
  const both = series.rounds.slice(0, baseline.rounds.length);
  return median(both.map((value, i) => value / baseline.rounds[i]!).filter(Number.isFinite));
}

/** How many of the rounds that both have played give no ratio, since the baseline's figure is 0. */
export function roundsWithout(series: Series, baseline: Series): { without: number; of: number } {
  const both = baseline.rounds.slice(0, series.rounds.length);
  return { without: both.filter((value) => value === 0).length, of: both.length };
}
