// Hashing and comparing under a mask: the primitives of the megaflow table (contract/table.ts). The main thread calls
// flowHash in its own instance of this module, so that the hash is written once.

import {
  FL_KEY,
  FL_LINES,
  FL_SUBTABLE,
  ST_BLOCK,
  ST_BLOCKS,
  ST_MASK,
  ST_SEED,
} from '../../contract/table.ts';
import { KEY_LINES } from '../key.ts';

/** Hash of `key` under the mask of `subtable`: only the blocks where the mask is not zero. */
export function flowHash(key: u32, subtable: u32): u32 {
  let h: u64 = load<u32>(subtable + ST_SEED);
  const blocks = load<u32>(subtable + ST_BLOCKS);
  for (let i: u32 = 0; i < blocks; i++) {
    const offset: u32 = load<u16>(subtable + ST_BLOCK + i * 2);
    const mask = subtable + ST_MASK + offset;
    const a = load<u64>(key + offset) & load<u64>(mask);
    const b = load<u64>(key + offset, 8) & load<u64>(mask, 8);
    h = (rotl<u64>(h, 23) ^ a) * 0x9e3779b97f4a7c15;
    h = (rotl<u64>(h, 29) ^ b) * 0xbf58476d1ce4e5b9;
  }
  h = (h ^ (h >> 32)) * 0xd6e8feb86659fd93;
  return <u32>(h ^ (h >> 32));
}

/**
 * Whether `key` under the flow's mask is the flow's key. The first line counts always; of the others, those of which the
 * packet has nothing (KEY_LINES) must be zero in the flow's key, and need not be looked at.
 */
export function flowMatches(key: u32, flow: u32): bool {
  const lines = load<u32>(key + KEY_LINES);
  if ((load<u32>(flow + FL_LINES) & ~(lines | 1)) !== 0) return false;
  const subtable = load<u32>(flow + FL_SUBTABLE);
  const first = v128.or(
    v128.or(differs(key, subtable, flow, 0), differs(key, subtable, flow, 16)),
    v128.or(differs(key, subtable, flow, 32), differs(key, subtable, flow, 48)),
  );
  if (v128.any_true(first)) return false;
  return lines === 0 || laterLinesMatch(key, subtable, flow);
}

function differs(key: u32, subtable: u32, flow: u32, offset: u32): v128 {
  const masked = v128.and(v128.load(key + offset), v128.load(subtable + offset, ST_MASK));
  return v128.xor(masked, v128.load(flow + offset, FL_KEY));
}

function laterLinesMatch(key: u32, subtable: u32, flow: u32): bool {
  const blocks = load<u32>(subtable + ST_BLOCKS);
  let difference = i64x2.splat(0);
  for (let i: u32 = 0; i < blocks; i++) {
    const offset: u32 = load<u16>(subtable + ST_BLOCK + i * 2);
    if (offset >= 64) difference = v128.or(difference, differs(key, subtable, flow, offset));
  }
  return !v128.any_true(difference);
}
