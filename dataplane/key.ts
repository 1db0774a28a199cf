// Working state of a flow key in a worker's private memory, and its hash.
//
// Behind the KEY_SIZE bytes of a key, still inside its stride, stands a bit for each line of the key beyond the
// first that is not all zero. So a key is cleared, hashed and compared at the cost of the packet's class, not of its
// size: two lines less for IPv4 than for IPv6, three less without tunnel and connection tracking.

import { KEY_SIZE } from '../contract/key.ts';

/** u32: bit n = line n (64 bytes) may hold something, n = 1 … 6. */
export const KEY_LINES: u32 = KEY_SIZE;
export const LINE1: u32 = 2;
export const LINE2: u32 = 4;
export const LINE3: u32 = 8;
export const LINE4: u32 = 16;
export const LINE5: u32 = 32;
export const LINE6: u32 = 64;
/** Others mean something else (dataplane/ct/metadata.ts). */
const ALL_LINES: u32 = 127;

export function clearLine(at: u32): void {
  const zero = i64x2.splat(0);
  v128.store(at, zero);
  v128.store(at, zero, 16);
  v128.store(at, zero, 32);
  v128.store(at, zero, 48);
}

export function markLines(key: u32, lines: u32): void {
  store<u32>(key + KEY_LINES, load<u32>(key + KEY_LINES) | lines);
}

/** Copies the lines of a key that may hold something, and returns them: bit n = line n, the first is always one of them. */
export function copyLines(to: u32, key: u32): u32 {
  const lines: u32 = (load<u32>(key + KEY_LINES) & ALL_LINES) | 1;
  for (let left = lines; left !== 0; left &= left - 1) {
    const line = ctz<u32>(left) << 6;
    v128.store(to + line, v128.load(key + line));
    v128.store(to + line, v128.load(key + line, 16), 16);
    v128.store(to + line, v128.load(key + line, 32), 32);
    v128.store(to + line, v128.load(key + line, 48), 48);
  }
  return lines;
}

/** Finds out which lines are in use after a key was filled from outside. */
export function scanLines(key: u32): void {
  let lines: u32 = 0;
  for (let line: u32 = 1; line < <u32>KEY_SIZE / 64; line++) {
    const at = key + line * 64;
    const any = v128.or(
      v128.or(v128.load(at), v128.load(at, 16)),
      v128.or(v128.load(at, 32), v128.load(at, 48)),
    );
    if (v128.any_true(any)) lines |= 1 << line;
  }
  store<u32>(key + KEY_LINES, lines);
}

/** Eight independent products and a sum: no multiplication waits for another. */
function hashLine(at: u32): u64 {
  const a =
    (load<u64>(at) ^ 0x9e3779b97f4a7c15) * 0xbf58476d1ce4e5b9 +
    (load<u64>(at, 8) ^ 0xc2b2ae3d27d4eb4f) * 0x94d049bb133111eb;
  const b =
    (load<u64>(at, 16) ^ 0x165667b19e3779f9) * 0xd6e8feb86659fd93 +
    (load<u64>(at, 24) ^ 0x27d4eb2f165667c5) * 0xff51afd7ed558ccd;
  const c =
    (load<u64>(at, 32) ^ 0x85ebca77c2b2ae63) * 0xc4ceb9fe1a85ec53 +
    (load<u64>(at, 40) ^ 0xd6e8feb86659fd93) * 0x9fb21c651e98df25;
  const d =
    (load<u64>(at, 48) ^ 0xa0761d6478bd642f) * 0xe7037ed1a0b428db +
    (load<u64>(at, 56) ^ 0x8ebc6af09c88c6e3) * 0x589965cc75374cc3;
  return (a ^ (b >> 29)) + (c ^ (d >> 31)) + b + d;
}

/** Hash of the first 32 bytes. */
export function hashSimple(at: u32): u32 {
  const a =
    (load<u64>(at) ^ 0x9e3779b97f4a7c15) * 0xbf58476d1ce4e5b9 +
    (load<u64>(at, 8) ^ 0xc2b2ae3d27d4eb4f) * 0x94d049bb133111eb;
  const b =
    (load<u64>(at, 16) ^ 0x165667b19e3779f9) * 0xd6e8feb86659fd93 +
    (load<u64>(at, 24) ^ 0x27d4eb2f165667c5) * 0xff51afd7ed558ccd;
  let h = a ^ (b >> 29);
  h = (h + b) ^ (a >> 32);
  h *= 0xd6e8feb86659fd93;
  return <u32>(h ^ (h >> 32));
}

/** Hash of the whole key, for the microflow cache and for spreading. */
export function keyHash(key: u32): u32 {
  let h = hashLine(key);
  const lines = load<u32>(key + KEY_LINES);
  if (lines !== 0) {
    if (lines & LINE1) h = (h ^ (h >> 32)) * 0x9e3779b97f4a7c15 + hashLine(key + 64);
    if (lines & LINE2) h = (h ^ (h >> 32)) * 0x9e3779b97f4a7c15 + hashLine(key + 128);
    if (lines & LINE3) h = (h ^ (h >> 32)) * 0x9e3779b97f4a7c15 + hashLine(key + 192);
    if (lines & LINE4) h = (h ^ (h >> 32)) * 0x9e3779b97f4a7c15 + hashLine(key + 256);
    if (lines & (LINE5 | LINE6)) {
      h = (h ^ (h >> 32)) * 0x9e3779b97f4a7c15 + hashLine(key + 320);
      if (lines & LINE6) h = (h ^ (h >> 32)) * 0x9e3779b97f4a7c15 + hashLine(key + 384);
    }
  }
  h = (h ^ (h >> 32)) * 0xd6e8feb86659fd93;
  return <u32>(h ^ (h >> 32));
}
