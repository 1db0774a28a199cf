// What a run leaves: everything that the tables and the report are made of, as JSON, so that they can be made again.

import { readFileSync } from 'node:fs';
import type { Machine } from './machine.ts';
import type { Failure } from './suite.ts';
import { summarize } from './tables.ts';
import type { Measurement, Options } from './types.ts';

export interface Results {
  /** Beginning of the run. */
  date: string;
  /** How long it took. */
  minutes: number;
  machine: Machine;
  options: Omit<Options, 'log' | 'played' | 'placement'>;
  measurements: Measurement[];
  /** Scenarios without any figure. Peers that failed in a scenario are in its measurements. */
  failures: Failure[];
}

export function jsonOf({ measurements, ...rest }: Results): string {
  const results = measurements.map((m) => ({ ...m, summary: summarize(m) }));
  return `${JSON.stringify({ ...rest, results }, null, 2)}\n`;
}

function parsed(file: string) {
  try {
    return JSON.parse(readFileSync(file, 'utf8'));
  } catch (error) {
    throw new Error(`${file}: ${(error as Error).message}`);
  }
}

export function readResults(file: string): Results {
  const { results, ...rest } = parsed(file) ?? {};
  const whole = (m: Measurement | null): boolean => Array.isArray(m?.series);
  if (!Array.isArray(results) || !results.every(whole)) {
    throw new Error(`${file}: no results of npm run bench`);
  }
  const measurements = results.map(({ summary: _, ...m }: { summary: unknown }) => m);
  return { ...rest, measurements } as Results;
}
