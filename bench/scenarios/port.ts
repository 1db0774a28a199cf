// in_port → output: the least that a switch with OpenFlow does to a packet.

import type { Scenario } from '../types.ts';
import { FLOW_VARIANTS, forwarding, WITH_RELAY } from './forwarding.ts';

export const port: Scenario = {
  name: 'port',
  title: 'in_port to output',
  run: (options) => forwarding('port', 'port', FLOW_VARIANTS, options, WITH_RELAY),
};
