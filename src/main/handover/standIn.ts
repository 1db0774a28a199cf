// A device that is still with the predecessor, for the rehearsal: translation needs ports, but not what is behind them.

import type { Netdev } from '../../port/types.ts';

/** Up, and nothing else. `port`: -1 for patch ports. */
export function standIn(name: string, type: string, port: number): Netdev {
  return {
    name,
    type,
    port,
    status: () => ({ adminUp: true, linkUp: true, linkResets: 0, ifindex: 0, status: {} }),
    statistics: () => ({}),
    reconfigure: () => true,
    setAdminUp: () => {},
    onChange: undefined,
    close: () => Promise.resolve(),
  };
}
