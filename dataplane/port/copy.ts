// Copies between frames and guest buffers.
//
// Short copies (headers, small frames) run as 16-byte moves: the last one overlaps, so no byte beyond either end is
// read or written. Long ones go to memory.copy, whose call costs more than it saves below some two hundred bytes.

const LONG: u32 = 192;

/** Copies `length` bytes; the areas must not overlap. */
export function copyBytes(to: u32, from: u32, length: u32): void {
  if (length > LONG) {
    memory.copy(to, from, length);
    return;
  }
  if (length >= 16) {
    const last = length - 16;
    let at: u32 = 0;
    for (; at < last; at += 16) v128.store(to + at, v128.load(from + at));
    v128.store(to + last, v128.load(from + last));
    return;
  }
  if (length >= 8) {
    const last = length - 8;
    const high = load<u64>(from + last);
    store<u64>(to, load<u64>(from));
    store<u64>(to + last, high);
    return;
  }
  if (length >= 4) {
    const last = length - 4;
    const high = load<u32>(from + last);
    store<u32>(to, load<u32>(from));
    store<u32>(to + last, high);
    return;
  }
  for (let at: u32 = 0; at < length; at++) store<u8>(to + at, load<u8>(from + at));
}

/** The same for a frame or what of it is in the head: the small ones without a loop, whose end would have to be found. */
export function copyFrame(to: u32, from: u32, length: u32): void {
  if (length - 48 > 16) {
    copyBytes(to, from, length);
    return;
  }
  v128.store(to, v128.load(from));
  v128.store(to, v128.load(from, 16), 16);
  v128.store(to, v128.load(from, 32), 32);
  v128.store(to + length - 16, v128.load(from + length - 16));
}
