// Part of scenario `tcp`: segments of 64 KiB from guest to guest, as two virtual machines with segmentation offload send
// them. Nothing has to be cut or summed up on the way: what counts is how often the payload is copied.

import { ovsDpdk } from '../peers/ovsDpdk.ts';
import { virtioTaps } from '../peers/virtioTaps.ts';
import { xvio, xvioOf } from '../peers/xvio.ts';
import { acquaint, play, trialOf } from '../rounds.ts';
import type { Measurement, Options } from '../types.ts';

const STREAM = { from: 0, to: 1, frameBytes: 14 + 65_000, gsoBytes: 1448, batch: 64 } as const;

export function guestSegments(options: Options): Promise<Measurement> {
  return play(
    {
      scenario: 'tcp',
      variant: 'guest to guest, segments of 65 000 bytes',
      unit: 'bit/s',
      peers: [xvio, ovsDpdk, virtioTaps, ...options.compare.map(xvioOf)],
      setup: () => ({ wiring: 'port', ports: 2, offloads: true }),
      prepare: (contestant) => acquaint(contestant, [{ ...STREAM, perSecond: 1000 }], options),
      measure: async (contestant) => {
        const { counts, details } = await trialOf(contestant, [STREAM], options);
        const value = (counts.receivedBytes * 8 * 1000) / counts.elapsedMs;
        return {
          value,
          details: { ...details, packetsPerSecond: (counts.received * 1000) / counts.elapsedMs },
        };
      },
    },
    { ...options, queueSize: Math.min(options.queueSize, 256) },
  );
}
