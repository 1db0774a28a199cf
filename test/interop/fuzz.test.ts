// Two minutes of two fuzzers at once in CI, with a seed of its own each time (npm run fuzz is for hours): guests that mutate
// their rings and messages on one bridge, two innocent guests with checked traffic on the other.

import assert from 'node:assert/strict';
import { it } from 'node:test';
import { OTHERS_MAX } from './blocked.ts';
import { fuzz } from './fuzzArena.ts';
import { SLOW_MS } from './innocents.ts';

const SECONDS = 120;
const GROWTH_MIB = 64;
/** Of a burst of the innocents, on a machine that does nothing else. */
const SLOWEST_MAX_MS = 2000;

it('fuzzing guests harm nobody but themselves', async (t) => {
  const seed = Date.now() % 0x7fffffff;
  const result = await fuzz({ seed, seconds: SECONDS });
  t.diagnostic(JSON.stringify(result));
  // It did try: most sessions reach running rings, and packets of all kinds pass or are dropped by name.
  assert.ok(result.sessions > SECONDS, `${result.sessions} sessions`);
  assert.ok(result.handshakes > result.sessions / 3, `${result.handshakes} handshakes`);
  assert.ok(result.rings > 1000 * SECONDS, `${result.rings} mutations of rings`);
  assert.ok(result.messages > result.sessions, `${result.messages} messages`);
  const { server } = result;
  assert.ok(server.sessions > 10, `${server.sessions} sessions as a server`);
  assert.ok(server.handshakes > server.sessions / 3, `${server.handshakes} handshakes as a server`);
  assert.ok(server.rings > 1000, `${server.rings} mutations of rings as a server`);
  assert.ok(result.truncations > 0, 'no file was truncated');
  const { rx_packets = 0, rx_errors = 0, tx_packets = 0, tx_dropped = 0 } = result.drops;
  assert.ok(rx_packets > 0 && rx_errors > 0 && tx_packets > 0 && tx_dropped > 0);
  assert.ok(result.innocentFrames > 1000 * SECONDS, `${result.innocentFrames} innocent frames`);
  // What they exchanged came in time: one burst of a thousand may have had to wait for a worker in a hole, and for another.
  if (result.others < OTHERS_MAX) {
    const { bursts, slowBursts, slowestMs } = result;
    assert.ok(slowBursts <= bursts / 1000, `${slowBursts} of ${bursts} took over ${SLOW_MS} ms`);
    assert.ok(slowestMs < SLOWEST_MAX_MS, `a burst of the innocents took ${slowestMs} ms`);
  }
  const { before, after } = result.rssMiB;
  assert.ok(after < before + GROWTH_MIB, `memory grew from ${before} to ${after} MiB`);
});
