// Counting drops: the one way in which a packet may disappear.

import { PC_DROPS, PORT_COUNTERS_SIZE } from '../contract/counters.ts';
import { MAX_PORTS } from '../contract/port.ts';
import { portCountersBase } from './worker.ts';

/**
 * Counts `n` packets dropped for `reason` (DROP_*) on a port. What the control plane injects may have no input port:
 * that counts on port 0.
 */
export function countDrop(port: u32, reason: u32, n: i32 = 1): void {
  if (port >= <u32>MAX_PORTS) port = 0;
  const at = portCountersBase + port * PORT_COUNTERS_SIZE + PC_DROPS + reason * 8;
  store<f64>(at, load<f64>(at) + <f64>n);
}
