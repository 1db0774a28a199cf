// One scenario in a process of its own (bench/suite.ts starts it): what a scenario leaves behind, or a hang, or a crash, is not the next one's.
//
//   node bench/one.ts JSON     {"scenario": …, "options": …, "file": where the measurements go}

import { writeFileSync } from 'node:fs';
import { SCENARIOS } from './scenarios/index.ts';
import type { Options } from './types.ts';

export interface Order {
  scenario: string;
  options: Omit<Options, 'log'>;
  file: string;
}

const { scenario, options, file } = JSON.parse(process.argv[2]!) as Order;
const found = SCENARIOS.find(({ name }) => name === scenario);
if (!found) throw new Error(`no scenario '${scenario}'`);
const log = (text: string): void => void process.stderr.write(`${text}\n`);
const measurements = await found.run({ ...options, log });
writeFileSync(file, JSON.stringify(measurements));
process.exit(0);
