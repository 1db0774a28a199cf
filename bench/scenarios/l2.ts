// NORMAL: the switch has learned the addresses of both guests.

import type { Scenario } from '../types.ts';
import { FLOW_VARIANTS, forwarding, WITH_RELAY } from './forwarding.ts';

export const l2: Scenario = {
  name: 'l2',
  title: 'MAC learning (NORMAL)',
  run: (options) => forwarding('l2', 'l2', FLOW_VARIANTS, options, WITH_RELAY),
};
