// npm run fuzz -- [--seed S] [--seconds N | --hours N]: the fuzzer for as long as wanted.
//
// Runs of ten minutes at most, each with a fresh daemon and the next seed, until the time is up. The last line says what was
// tried; a failure names the seed that finds it again.

import { parseArgs } from 'node:util';
import { fuzz } from './fuzzArena.ts';

const RUN_SECONDS = 600;

const { values } = parseArgs({
  options: {
    seed: { type: 'string', default: String(Date.now() % 0x7fffffff) },
    seconds: { type: 'string' },
    hours: { type: 'string' },
  },
});
const totalSeconds = values.seconds
  ? Number(values.seconds)
  : Number(values.hours ?? 1 / 60) * 3600;
if (!(totalSeconds > 0) || !Number.isInteger(Number(values.seed))) {
  console.error('fuzz: --seed takes an integer, --seconds and --hours a positive number');
  process.exit(1);
}
const total = { sessions: 0, rings: 0, messages: 0, truncations: 0, innocentFrames: 0 };
let left = totalSeconds;
for (let seed = Number(values.seed); left > 0; seed++) {
  const seconds = Math.min(left, RUN_SECONDS);
  const result = await fuzz({ seed, seconds });
  for (const name of Object.keys(total) as (keyof typeof total)[]) total[name] += result[name];
  console.log(JSON.stringify(result));
  left -= seconds;
}
console.log(`fuzz: nothing found in ${totalSeconds} s: ${JSON.stringify(total)}`);
