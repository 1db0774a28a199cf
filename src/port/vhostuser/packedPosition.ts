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
// So the position is where the USED flag changes: an available descriptor has that of the lap before, like one that was given
// back then. If it does not change, it is the beginning of the ring. (A fresh ring, all zero: position 0 with wrap 1.)
//
// The AVAIL flag is not asked: a driver that runs meanwhile may have written all of a batch but its first flags, and there
// are two places where available descriptors begin.

const NEXT = 1;
const USED = 0x8000;
const WRAP = 0x8000;

/**
 * Position (index, wrap counter in bit 15) of the ring of `size` descriptors at `desc`. undefined: there are chains of
 * several descriptors, whose inner ones look like available ones, or it is no ring in order, so nothing can be said.
 */
export function packedPosition(view: DataView, desc: number, size: number): number | undefined {
  const flagsAt = (slot: number) => view.getUint16(desc + slot * 16 + 14, true);
  const first = flagsAt(0) & USED;
  let change = 0;
  for (let slot = 0; slot < size; slot++) {
    const flags = flagsAt(slot);
    if ((flags & NEXT) !== 0) return undefined;
    const changed = (flags & USED) !== first;
    if (changed && change === 0) change = slot;
    else if (!changed && change !== 0) return undefined;
  }
  if (change === 0) return first !== 0 ? 0 : WRAP;
  return change | (first !== 0 ? WRAP : 0);
}
