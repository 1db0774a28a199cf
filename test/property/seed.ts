// Loaded before all tests by `npm test`: those with random cases try the same cases every time, so that a change fails for what
// it changes. FC_SEED=N takes another seed, FC_SEED=random a new one for every file; a test file run on its own
// (`node --test FILE`) takes a new one, too. A failure prints its seed.

import fc from 'fast-check';

const wish = process.env.FC_SEED ?? '20261122';
if (wish !== 'random') fc.configureGlobal({ ...fc.readConfigureGlobal(), seed: Number(wish) });
