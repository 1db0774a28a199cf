// Which tests of Open vSwitch's system-userspace suite (3.1.0) the real daemon passes, among those about connection
// tracking, NAT, fragments and helpers. Measured with
// `node test/interop/ovsTestsuite.ts --real 51-148` on Linux 6.18. Skipped, not being for a userspace datapath, or without
// the tftp module of Python: 65, 97, 98, 102, 106, 107, 114, 143. Failed by the real daemon: 78 (fragments that expire
// leave no trace), and for want of 802.1Q devices in this kernel 79, 80, 88, 89.

function range(first: number, last: number): number[] {
  return Array.from({ length: last - first + 1 }, (_, i) => first + i);
}

/** Passed by the real daemon. */
export const BASELINE: ReadonlySet<number> = new Set([
  ...range(51, 64),
  ...range(66, 77),
  ...range(81, 87),
  ...range(90, 96),
  ...[99, 100, 101, 103, 104, 105],
  ...range(108, 113),
  ...range(115, 142),
  ...range(144, 148),
]);
