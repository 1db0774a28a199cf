// A virtqueue as the driver of a guest sees it, split or packed (virtio 1.2, 2.7 and 2.8), for one-buffer chains.
//
// Buffer i belongs to descriptor i for good, and buffers are used strictly in order, so a ring is two free running
// indices: NEXT (to be made available) and DONE (to come back). The device is ours and completes in order.
//
// Atomic stores are sequentially consistent, so "publish, then ask whether the device sleeps" needs no further fence.

import {
  GR_AVAIL,
  GR_BUFFER_SIZE,
  GR_BUFFERS,
  GR_DESC,
  GR_DONE,
  GR_EVENT_IDX,
  GR_IN_ORDER,
  GR_KICK,
  GR_NEXT,
  GR_PACKED,
  GR_SIZE,
  GR_USED,
} from './layout.ts';

const F_WRITE: u32 = 2;
const F_AVAIL: u32 = 0x80;
const F_USED: u32 = 0x8000;

/** Address of the buffer of a free running index. */
export function bufferAt(r: u32, index: u32): u32 {
  const slot = index & (load<u32>(r, GR_SIZE) - 1);
  return load<u32>(r, GR_BUFFERS) + slot * load<u32>(r, GR_BUFFER_SIZE);
}

/** Buffers that are not with the device. */
export function freeCount(r: u32): u32 {
  return load<u32>(r, GR_SIZE) - (load<u32>(r, GR_NEXT) - load<u32>(r, GR_DONE));
}

// Wrap counter of the lap that a free running index is in: 1 in the first lap.
function wrapOf(r: u32, index: u32): u32 {
  return (index / load<u32>(r, GR_SIZE) + 1) & 1;
}

/** Writes the descriptor of buffer `index`; publish() makes it visible. `write`: the device fills it. */
export function fill(r: u32, index: u32, length: u32, write: bool): void {
  const slot = index & (load<u32>(r, GR_SIZE) - 1);
  const desc = load<u32>(r, GR_DESC) + slot * 16;
  store<u64>(desc, bufferAt(r, index));
  if (load<u32>(r, GR_PACKED) === 0) {
    store<u64>(desc, <u64>length | ((<u64>(write ? F_WRITE : 0)) << 32), 8);
    store<u16>(load<u32>(r, GR_AVAIL) + 4 + slot * 2, <u16>slot);
    return;
  }
  store<u32>(desc, length, 8);
  store<u16>(desc, <u16>slot, 12);
  // All but the first of a batch become visible with it: the device stops at the first that is not available.
  if (index !== load<u32>(r, GR_NEXT)) store<u16>(desc, packedFlags(r, index, write), 14);
}

function packedFlags(r: u32, index: u32, write: bool): u16 {
  return <u16>((wrapOf(r, index) !== 0 ? F_AVAIL : F_USED) | (write ? F_WRITE : 0));
}

/** Makes `n` filled buffers visible, and decides whether the device wants to be told (GR_KICK). */
export function publish(r: u32, n: u32, write: bool): void {
  if (n === 0) return;
  const before = load<u32>(r, GR_NEXT);
  const after = before + n;
  const used = load<u32>(r, GR_USED);
  const size = load<u32>(r, GR_SIZE);
  let wanted: bool;
  if (load<u32>(r, GR_PACKED) === 0) {
    atomic.store<u16>(load<u32>(r, GR_AVAIL) + 2, <u16>after);
    if (load<u32>(r, GR_EVENT_IDX) !== 0) {
      const event = <u32>atomic.load<u16>(used + 4 + size * 8);
      wanted = ((after - event - 1) & 0xffff) < n;
    } else wanted = (atomic.load<u16>(used) & 1) === 0;
  } else {
    const slot = before & (size - 1);
    atomic.store<u16>(load<u32>(r, GR_DESC) + slot * 16 + 14, packedFlags(r, before, write));
    const event = atomic.load<u32>(used);
    const flags = (event >> 16) & 3;
    wanted = flags !== 1;
    if (flags === 2) {
      let position = event & 0x7fff;
      if (event >> 15 !== wrapOf(r, after)) position -= size;
      wanted = (((after & (size - 1)) - position - 1) & 0xffff) < n;
    }
  }
  store<u32>(r, after, GR_NEXT);
  if (wanted) store<u32>(r, 1, GR_KICK);
}

/** Buffers that came back. takenLength() of one is valid until done() passes it. */
export function returned(r: u32): u32 {
  const done = load<u32>(r, GR_DONE);
  if (load<u32>(r, GR_PACKED) === 0) {
    return (<u32>atomic.load<u16>(load<u32>(r, GR_USED) + 2) - done) & 0xffff;
  }
  const size = load<u32>(r, GR_SIZE);
  const outstanding = load<u32>(r, GR_NEXT) - done;
  let n: u32 = 0;
  while (n < outstanding) {
    const desc = load<u32>(r, GR_DESC) + ((done + n) & (size - 1)) * 16;
    const flags = <u32>atomic.load<u16>(desc + 14);
    const wrap = wrapOf(r, done + n);
    if (((flags >> 7) & 1) !== wrap || flags >> 15 !== wrap) break;
    // In order: one used descriptor may stand for a batch, and names its last buffer.
    if (load<u32>(r, GR_IN_ORDER) !== 0) {
      n += ((<u32>load<u16>(desc, 12) - (done + n)) & (size - 1)) + 1;
    } else n++;
  }
  return min(n, outstanding);
}

/** Bytes that the device wrote into the buffer of a returned index, header included. */
export function takenLength(r: u32, index: u32): u32 {
  const slot = index & (load<u32>(r, GR_SIZE) - 1);
  return load<u32>(r, GR_PACKED) === 0
    ? load<u32>(load<u32>(r, GR_USED) + 8 + slot * 8)
    : load<u32>(load<u32>(r, GR_DESC) + slot * 16, 8);
}

export function done(r: u32, n: u32): void {
  store<u32>(r, load<u32>(r, GR_DONE) + n, GR_DONE);
}

/** Turns interrupts on or off. After turning them on, look at returned() once more. */
export function interrupts(r: u32, on: bool): void {
  const avail = load<u32>(r, GR_AVAIL);
  if (load<u32>(r, GR_PACKED) !== 0) {
    atomic.store<u16>(avail + 2, on ? 0 : 1);
  } else if (load<u32>(r, GR_EVENT_IDX) !== 0) {
    const event = load<u32>(r, GR_DONE) - (on ? 0 : 1);
    atomic.store<u16>(avail + 4 + load<u32>(r, GR_SIZE) * 2, <u16>event);
  } else atomic.store<u16>(avail, on ? 0 : 1);
}
