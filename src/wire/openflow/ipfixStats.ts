// Statistics of IPFIX exporters: NXST_IPFIX_BRIDGE (3) and NXST_IPFIX_FLOW (4) of Nicira's extensions. 88 bytes each:
// ten counters of 8 bytes in the order of IpfixStats, then 4 bytes id of the collector set, 4 bytes of zero.

import type { Reader, Writer } from './buffer.ts';
import { type Codecs, empty, readList } from './codec.ts';

const COUNTERS = [
  'totalFlows',
  'currentFlows',
  'packets',
  'ipv4Packets',
  'ipv6Packets',
  'errorPackets',
  'ipv4ErrorPackets',
  'ipv6ErrorPackets',
  'txPackets',
  'txErrors',
] as const;

export interface IpfixStats extends Record<(typeof COUNTERS)[number], number> {
  /** 0 for the exporter of a bridge. */
  collectorSetId: number;
}

export function zeroIpfixStats(): IpfixStats {
  const counters = Object.fromEntries(COUNTERS.map((name) => [name, 0]));
  return { ...(counters as Record<(typeof COUNTERS)[number], number>), collectorSetId: 0 };
}

function readStats(r: Reader): IpfixStats {
  const stats = zeroIpfixStats();
  for (const name of COUNTERS) stats[name] = Number(r.u64());
  stats.collectorSetId = r.u32();
  r.skip(4);
  return stats;
}

function putStats(w: Writer, stats: IpfixStats): void {
  for (const name of COUNTERS) w.u64(BigInt(stats[name]));
  w.u32(stats.collectorSetId).zeros(4);
}

export const ipfixStatsCodecs: Codecs = {
  ipfix_bridge_request: empty({ type: 'ipfix_bridge_request' }),
  ipfix_flow_request: empty({ type: 'ipfix_flow_request' }),
  ipfix_bridge_reply: {
    decode: (r) => ({ type: 'ipfix_bridge_reply', stats: readStats(r) }),
    encode: (w, m) => putStats(w, m.stats),
  },
  ipfix_flow_reply: {
    decode: (r) => ({ type: 'ipfix_flow_reply', stats: readList(r, readStats) }),
    encode: (w, m, ctx) => {
      for (const stats of m.stats) {
        putStats(w, stats);
        ctx.mark();
      }
    },
  },
};
