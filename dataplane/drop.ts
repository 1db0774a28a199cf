// Counting drops: the one way in which a packet may disappear.

import { PC_DROPS, PORT_COUNTERS_SIZE } from '../contract/counters.ts';
import { portCountersBase } from './worker.ts';

/** Counts `n` packets dropped for `reason` (DROP_*) on a port. */
export function countDrop(port: u32, reason: u32, n: i32 = 1): void {
  const at = portCountersBase + port * PORT_COUNTERS_SIZE + PC_DROPS + reason * 8;
  store<f64>(at, load<f64>(at) + <f64>n);
}
