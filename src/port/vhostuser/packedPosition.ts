// Where the device side of a packed ring stands, read off the ring itself (virtio 1.2, 2.8).
//
// When a back-end dies, a split ring tells its successor where to go on: the used index. A packed ring has no such
// word, and QEMU, which cannot ask the dead, hands out a position of long ago. But as chains are given back in order,
// the flags tell, if every chain is one descriptor (drivers with indirect descriptors: Linux):
//
//         given back        with the device             given back, lap before
//    0 [ used, wrap w ... | available, wrap w ... next | used, wrap !w ... ] size
//                           ^ position
//
// So the position is the first available descriptor after a used one. If all are available (a full ring), or all
// are used (an empty one), it is where the wrap counter changes, or the beginning of the ring. A fresh ring (all zero)
// is "all used in lap 0": position 0 with wrap 1.

const NEXT = 1;
const AVAIL = 0x80;
const USED = 0x8000;
const WRAP = 0x8000;

/**
 * Position (index, wrap counter in bit 15) of the ring of `size` descriptors at `desc`. undefined: there are chains of
 * several descriptors, whose inner ones look like available ones, so nothing can be said.
 */
export function packedPosition(view: DataView, desc: number, size: number): number | undefined {
  let available = 0;
  let position = -1;
  let change = -1;
  const flagsAt = (slot: number) => view.getUint16(desc + slot * 16 + 14, true);
  const isAvailable = (flags: number) => ((flags & AVAIL) !== 0) !== ((flags & USED) !== 0);
  const wrapOf = (flags: number) => (flags & AVAIL) !== 0;
  let before = flagsAt(size - 1);
  const first = flagsAt(0);
  for (let slot = 0; slot < size; slot++) {
    const flags = flagsAt(slot);
    if ((flags & NEXT) !== 0) return undefined;
    if (isAvailable(flags)) {
      available++;
      if (!isAvailable(before)) position = slot | (wrapOf(flags) ? WRAP : 0);
    }
    if (change < 0 && slot > 0 && wrapOf(flags) !== wrapOf(first)) change = slot;
    before = flags;
  }
  if (position >= 0) return position;
  // Full: descriptors from the change on are of the lap before the first ones'. Empty: those before it are of this lap.
  if (available > 0) {
    if (change < 0) return wrapOf(first) ? WRAP : 0;
    return change | (wrapOf(first) ? 0 : WRAP);
  }
  if (change < 0) return wrapOf(first) ? 0 : WRAP;
  return change | (wrapOf(first) ? WRAP : 0);
}
