// Which tests of Open vSwitch's system-userspace suite (3.1.0) the real daemon passes. Measured with
// `node test/interop/ovsTestsuite.ts --real 51-148 …` on Linux 6.18; of those that need what this kernel lacks, some of each kind.
//
// Skipped, not being for a userspace datapath, or without the tftp module of Python: 14-19, 25-29, 40-42, 65, 97, 98, 102, 106,
// 107, 114, 143, 149, 165, 166. Failed by the real daemon: 78 (fragments that expire leave no trace); for want of devices of this
// kernel 3, 4, 6, 7, 12, 79, 80, 88, 89, 153-157 (802.1Q), 20-24 (geneve), 10 (bonding), 163 (gre).

function range(first: number, last: number): number[] {
  return Array.from({ length: last - first + 1 }, (_, i) => first + i);
}

/** Connection tracking, NAT, fragments and helpers: passed by the real daemon, and by ours. */
export const CONNTRACK: readonly number[] = [
  ...range(51, 64),
  ...range(66, 77),
  ...range(81, 87),
  ...range(90, 96),
  ...[99, 100, 101, 103, 104, 105],
  ...range(108, 113),
  ...range(115, 142),
  ...range(144, 148),
];

/** The same of everything else: pings, tunnels, MPLS, truncation, QoS, IGMP, layer-3 tunnels, routes, NSH. */
export const OTHERS: readonly number[] = [
  ...[1, 2, 5, 8, 9, 11, 13],
  ...range(30, 39),
  ...range(43, 50),
  ...[150, 151, 152, 158, 159, 160, 161, 162, 164, 167, 168, 169, 170],
];

/** Those of the others that run each time: one of each kind. */
export const SAMPLE_OF_OTHERS: readonly number[] = [5, 11, 33, 39, 48, 50, 152, 160, 164, 168];

/** Passed by the real daemon. */
export const BASELINE: ReadonlySet<number> = new Set([...CONNTRACK, ...OTHERS]);
