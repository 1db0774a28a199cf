// Frames longer than the shortest: a mix (7 x 64, 4 x 570, 1 x 1518 bytes with FCS), 1500-byte and 9000-byte packets.

import type { Scenario } from '../types.ts';
import { forwarding, WITH_RELAY } from './forwarding.ts';

const size = (name: string, bytes: number, mtu?: number): Scenario => ({
  name,
  title: `frames of ${bytes} bytes`,
  run: (options) =>
    forwarding(
      name,
      'port',
      [
        {
          label: `${bytes} B, 1 000 flows`,
          frameBytes: bytes,
          flows: 1000,
          ...(mtu ? { mtu } : {}),
        },
      ],
      options,
    ),
});

/** MTU 1500 and 9000: whole Ethernet frames without FCS. */
export const size1500 = size('1500', 1514);
export const size9000 = size('9000', 9014, 9000);

export const imix: Scenario = {
  name: 'imix',
  title: 'a mix of 64, 570 and 1518 bytes (7:4:1)',
  run: (options) =>
    forwarding(
      'imix',
      'port',
      [{ label: 'IMIX, 1 000 flows', imix: true, flows: 1000 }],
      options,
      WITH_RELAY,
    ),
};
