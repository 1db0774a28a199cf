// Dirty log of a live migration: one bit for every 4 KiB page of guest memory that we write.
//
// Order matters (vhost-user, "Migration"): the data, then the bit, then the used index that lets the driver see the
// data, and then the bit of that index, too: a bit that comes before its data may be taken, and the page copied, in
// between, and then nobody copies it again. Bits are set at once, with an atomic or, because the front-end exchanges words of the log with zero at any
// moment. Pages beyond the end of the log are not logged (hostile-guest case G30: never a write outside).

import {
  VF_LOG_ALL,
  VQ_FEATURES,
  VQ_LOG,
  VQ_LOG_BYTES,
  VQ_LOG_RING,
  VQ_USED_GPA,
} from '../../contract/virtqueue.ts';

/** Is the front-end migrating? */
export function isLogging(q: u32): bool {
  return (atomic.load<u32>(q + VQ_FEATURES) & VF_LOG_ALL) !== 0 && load<u32>(q, VQ_LOG) !== 0;
}

/** Marks the pages of guest addresses [gpa, gpa + bytes). */
export function logBytes(q: u32, gpa: u64, bytes: u32): void {
  if (bytes === 0) return;
  const log = load<u32>(q, VQ_LOG);
  const size = <u64>load<u32>(q, VQ_LOG_BYTES);
  const last = (gpa + bytes - 1) >> 12;
  for (let page = gpa >> 12; page <= last; page++) {
    if (page >> 3 >= size) return;
    atomic.or<u8>(log + <u32>(page >> 3), <u8>((<u32>1) << (<u32>page & 7)));
  }
}

/** Marks bytes of the device's area of the ring, from `offset` on, if the front-end wants the ring logged. */
export function logUsed(q: u32, offset: u32, bytes: u32): void {
  if (load<u32>(q, VQ_LOG_RING) !== 0) logBytes(q, load<u64>(q, VQ_USED_GPA) + offset, bytes);
}
