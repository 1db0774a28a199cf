// Pairs of ports without any service: the limit of each vhost implementation.

import { testpmdVhost } from '../peers/testpmd.ts';
import { xvio, xvioRelay } from '../peers/xvio.ts';
import type { Scenario } from '../types.ts';
import { forwarding } from './forwarding.ts';

export const relay: Scenario = {
  name: 'relay',
  title:
    'port paired with port: our relay, testpmd as vhost back-end, and the switch for comparison',
  run: (options) =>
    forwarding('relay', 'relay', [{ label: '64 B, 1 flow' }], options, {
      peers: [xvioRelay, testpmdVhost, xvio],
      baseline: 'testpmd-vhost',
    }),
};
