// One scenario in a process of its own (bench/suite.ts starts it): what a scenario leaves behind, or a hang, or a crash, is not the next one's.
//
//   node bench/one.ts JSON     {"scenario": …, "options": …, "file": where the measurements go}

import { renameSync, writeFileSync } from 'node:fs';
import { watchPlacement } from './placement.ts';
import { SCENARIOS } from './scenarios/index.ts';
import type { Measurement, Options } from './types.ts';

export interface Order {
  scenario: string;
  options: Omit<Options, 'log' | 'played' | 'placement'>;
  file: string;
}

/** Where the variants that have been played are, in case the scenario does not come to its end. */
export const partialFile = (file: string): string => `${file}.partial`;

/** Where the least time of a cache line is that was seen meanwhile: the next scenario knows near cores by it. */
export const leastFile = (file: string): string => `${file}.least`;

/** Also imported for the names above. */
if (import.meta.main) await main();

async function main(): Promise<void> {
  const { scenario, options, file } = JSON.parse(process.argv[2]!) as Order;
  const found = SCENARIOS.find(({ name }) => name === scenario);
  if (!found) throw new Error(`no scenario '${scenario}'`);
  const log = (text: string): void => void process.stderr.write(`${text}\n`);
  const partial: Measurement[] = [];
  const played = (measurement: Measurement): void => {
    partial.push(measurement);
    // Whole or not at all, whenever this process is ended.
    writeFileSync(`${file}.new`, JSON.stringify(partial));
    renameSync(`${file}.new`, partialFile(file));
  };
  const { switchCore, generatorCore, near, cacheLineNs, deadlineMs } = options;
  const placement = near
    ? watchPlacement(switchCore, generatorCore, cacheLineNs, deadlineMs)
    : undefined;
  const watched = placement ? { placement } : {};
  const measurements = await found.run({ ...options, log, played, ...watched });
  const leastNs = placement?.leastNs?.();
  if (leastNs !== undefined) writeFileSync(leastFile(file), JSON.stringify(leastNs));
  writeFileSync(file, JSON.stringify(measurements));
  process.exit(0);
}
