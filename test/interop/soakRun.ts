// npm run soak -- [--seconds N] [--seed S]: twenty minutes of everything at once (soak.ts). Every ten seconds a line with
// the daemon's memory, descriptors and mappings; at the end what was done. Status 1 if anything was not as it must be.

import { parseArgs } from 'node:util';
import { soak } from './soak.ts';

const { values } = parseArgs({
  options: {
    seed: { type: 'string', default: String(Date.now() % 0x7fffffff) },
    seconds: { type: 'string', default: '1200' },
  },
});
const [seed, seconds] = [Number(values.seed), Number(values.seconds)];
if (!Number.isInteger(seed) || !(seconds > 0)) {
  console.error('soak: --seed takes an integer, --seconds a positive number');
  process.exit(1);
}
console.log(`soak: seed ${seed}, ${seconds} s`);
const { samples, ...rest } = await soak({
  seed,
  seconds,
  onSample: (sample) => {
    if (sample.second % 10 === 0) console.log(JSON.stringify(sample));
  },
});
console.log(`soak: nothing lost, nothing grown in ${samples.length} s: ${JSON.stringify(rest)}`);
