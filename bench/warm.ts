// Steady traffic at the speed of ordinary threads, before latencies are measured: a switch whose code is compiled while it
// runs gets it compiled now. In trials its compiler's threads would have no core, and between them the peer is stopped.

import type { Stream } from './generator/generator.ts';
import type { Contestant } from './rounds.ts';
import type { Options } from './types.ts';

const PER_SECOND = 300_000;
const TRIALS = 4;

export async function warm(
  { generator }: Contestant,
  stream: Stream,
  { durationMs }: Pick<Options, 'durationMs'>,
): Promise<void> {
  generator.setStreams([{ ...stream, perSecond: PER_SECOND }]);
  for (let i = 0; i < TRIALS; i++) {
    await generator.trial({ durationMs: 2 * durationMs, drainMs: 20 });
  }
}
