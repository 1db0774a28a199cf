// Thirty seconds of npm run soak.

import assert from 'node:assert/strict';
import { it } from 'node:test';
import { judge, type Sample, soak } from './soak.ts';

it('everything at once: no loss without a name, memory and descriptors flat', async (t) => {
  const { samples, ...result } = await soak({ seed: Date.now() % 0x7fffffff, seconds: 30 });
  t.diagnostic(JSON.stringify({ first: samples[0], last: samples.at(-1), ...result }));
  assert.ok(result.innocentFrames > 10_000, `${result.innocentFrames} innocent frames`);
  assert.ok(result.migrations >= 3, `${result.migrations} migrations`);
  assert.ok(result.migratedFrames > 1000, `${result.migratedFrames} frames of the migrating guest`);
  assert.ok(result.flowMods > 1000 && result.ports >= 5 && result.fuzz.sessions > 20);
});

it('growth is found, noise is not', () => {
  const samples = (rss: (second: number) => number): Sample[] =>
    Array.from({ length: 600 }, (_, second) => ({
      second,
      rssMiB: rss(second),
      fds: 70,
      maps: 300,
    }));
  assert.deepEqual(judge(samples((second) => 100 + (second % 7) * 5)), []);
  assert.deepEqual(judge(samples((second) => 100 + second / 2)), ['rssMiB grew from 250 to 350']);
});
