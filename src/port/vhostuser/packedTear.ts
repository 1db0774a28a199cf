// A packed ring whose back-end died in the middle of giving buffers back (virtio 1.2, 2.8).
//
// Used descriptors of a burst are written from the last one to the first (dataplane/port/packed.ts), before which the driver
// looks at none of them. So after a death in between there are used ones behind available ones:
//
//        given back       lead            rest of the burst        with the device          given back, lap before
//    [ used, lap w ... | available, w | used, w ............... | available, w ... next | used, lap !w ... ]
//                       ^ position
//
// Nobody but us will touch the burst: the driver waits for the first of `lead`. What it was decides:
//
//   buffers that the guest sends    the burst was done with, in full: the lead becomes used, too
//   buffers that it receives in     none of it has been seen, and its sender still has it all: the rest becomes available again.
//                                   Its lengths are overwritten; they are those of the other buffers, if these are all alike,
//                                   else what was written stands (a buffer that seems smaller than it is)
//
// If the driver receives into indirect tables, these cannot be made available again, since nothing says how long they are. Then the
// burst is given back, the lead as empty packets, which drivers drop. All of this if every chain is one descriptor.

const NEXT = 1;
const WRITE = 2;
const INDIRECT = 4;
const AVAIL = 0x80;
const USED = 0x8000;
const LENGTH = 8;
const FLAGS = 14;

export interface Tear {
  /** First descriptor that is not given back: index, lap in bit 15. */
  readonly position: number;
  /** Available descriptors before the used ones, and how many of these there are. */
  readonly lead: number;
  readonly rest: number;
}

export interface Mend {
  /** Bytes to write into the ring, in this order. */
  readonly writes: readonly { offset: number; bytes: Uint8Array }[];
  /** Where the ring goes on. */
  readonly position: number;
}

const isAvailable = (flags: number) => ((flags & AVAIL) !== 0) !== ((flags & USED) !== 0);
const lapOf = (flags: number) => (flags & AVAIL) !== 0;

function tearFrom(view: DataView, size: number, first: number): Tear | undefined {
  const lap = lapOf(view.getUint16(first * 16 + FLAGS, true));
  let [lead, rest, phase] = [0, 0, 0];
  for (let k = 0; k < size; k++) {
    const flags = view.getUint16(((first + k) % size) * 16 + FLAGS, true);
    const ofThisLap = lapOf(flags) === (first + k < size ? lap : !lap);
    if (isAvailable(flags)) {
      if (!ofThisLap || phase === 3) return undefined;
      if (phase === 0) lead++;
      else phase = 2;
    } else if (ofThisLap) {
      if (phase > 1) return undefined;
      phase = 1;
      rest++;
    } else phase = 3;
  }
  return rest === 0 ? undefined : { position: first | (lap ? 0x8000 : 0), lead, rest };
}

/** The tear of a ring of `size` descriptors; undefined if it has none, or chains of several descriptors. */
export function findTear(view: DataView, size: number): Tear | undefined {
  const flagsAt = (slot: number) => view.getUint16(((slot + size) % size) * 16 + FLAGS, true);
  let found: Tear | undefined;
  for (let slot = 0; slot < size; slot++) {
    const flags = flagsAt(slot);
    if ((flags & NEXT) !== 0) return undefined;
    const before = flagsAt(slot - 1);
    // In the middle of a run of available ones no position can be.
    if (!isAvailable(flags) || (slot > 0 && isAvailable(before) && lapOf(before) === lapOf(flags)))
      continue;
    const tear = tearFrom(view, size, slot);
    if (tear && found) return undefined;
    found ??= tear;
  }
  return found;
}

/** What mends it. `receives`: the guest receives into these buffers. */
export function mendTear(view: DataView, size: number, tear: Tear, receives: boolean): Mend {
  const first = tear.position & 0x7fff;
  const lap = (tear.position & 0x8000) !== 0;
  const slotAt = (k: number) => (first + k) % size;
  const lapAt = (k: number) => (first + k < size ? lap : !lap);
  const field = (k: number, offset: number, value: number, wide: boolean) => {
    const bytes = new Uint8Array(wide ? 4 : 2);
    if (wide) new DataView(bytes.buffer).setUint32(0, value, true);
    else new DataView(bytes.buffer).setUint16(0, value, true);
    return { offset: slotAt(k) * 16 + offset, bytes };
  };
  const writes: Mend['writes'][number][] = [];
  const { lead, rest } = tear;
  const indirect = (view.getUint16(first * 16 + FLAGS, true) & INDIRECT) !== 0;
  if (receives && !indirect) {
    const length = commonLength(view, size, tear);
    for (let k = lead; k < lead + rest; k++) {
      if (length !== undefined) writes.push(field(k, LENGTH, length, true));
      writes.push(field(k, FLAGS, (lapAt(k) ? AVAIL : USED) | WRITE, false));
    }
    return { writes, position: tear.position };
  }
  for (let k = lead - 1; k >= 0; k--) {
    writes.push(field(k, LENGTH, 0, true), field(k, FLAGS, lapAt(k) ? AVAIL | USED : 0, false));
  }
  const end = lead + rest;
  const position = slotAt(end) | ((end === size ? !lap : lapAt(end)) ? 0x8000 : 0);
  return { writes, position };
}

/** The length of all available buffers, if it is the same. */
function commonLength(view: DataView, size: number, tear: Tear): number | undefined {
  const first = tear.position & 0x7fff;
  const length = view.getUint32(first * 16 + LENGTH, true);
  for (let k = 0; k < size; k++) {
    const at = ((first + k) % size) * 16;
    const flags = view.getUint16(at + FLAGS, true);
    if (isAvailable(flags) && view.getUint32(at + LENGTH, true) !== length) return undefined;
  }
  return length;
}
