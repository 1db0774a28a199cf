// The window: translation of guest physical addresses, THE SECURITY BOUNDARY of the data plane (contract/window.ts).
//
// Every address that a guest writes into a descriptor passes through runAt(), piece by piece: the piece must lie in
// one of the port's regions, and what comes back is an address and the number of contiguous bytes that may be
// touched from there. The caller advances by that number and asks again, so a buffer that spans two regions or two
// chunks is taken piecewise (hostile-guest cases G1 to G4).
//
// One entry is remembered, for one burst of one port: windowOpen() forgets it, because the control plane may move
// chunks between two bursts.

import { DROP_NO_WINDOW, DROP_NONE, DROP_RX_BAD_DESC } from '../../contract/drop.ts';
import { PT_REGION_COUNT, PT_REGIONS } from '../../contract/port.ts';
import {
  CHUNK_SHIFT,
  CHUNK_SIZE,
  CHUNK_TOUCHED,
  chunkAddress,
  MAX_CHUNKS,
  MAX_REGIONS_PER_PORT,
  REGION_SIZE,
  RG_BASE,
  RG_BYTES,
  RG_CHUNK,
  RG_GPA,
  RG_SKEW,
  regionAddress,
} from '../../contract/window.ts';
import { fault } from '../host.ts';

let port: u32 = 0;
let regions: u32 = 0;
let regionCount: u32 = 0;
// The remembered run: guest addresses [start, start + bytes) are at memory offset base.
let start: u64 = 0;
let bytes: u64 = 0;
let base: u32 = 0;

/** Bytes that may be touched from the address that runAt() returned; not 0 if it was successful. */
export let runBytes: u32 = 0;
/** Why runAt() returned 0: DROP_RX_BAD_DESC (outside the guest's memory) or DROP_NO_WINDOW. */
export let runError: u32 = DROP_NONE;

/** Starts a burst on the guest memory of the port with this number and port record. */
export function windowOpen(portNumber: u32, record: u32): void {
  port = portNumber;
  regions = regionAddress(load<u32>(record, PT_REGIONS));
  regionCount = min<u32>(load<u32>(record, PT_REGION_COUNT), MAX_REGIONS_PER_PORT);
  bytes = 0;
}

/**
 * Memory offset of the guest byte at `gpa`, 0 if it is not guest memory. `wanted` (not 0) limits runBytes. The
 * caller has checked that gpa + wanted does not wrap.
 */
export function runAt(gpa: u64, wanted: u32): u32 {
  if (gpa - start >= bytes && !find(gpa)) return 0;
  const offset = gpa - start;
  const left = bytes - offset;
  runBytes = left < <u64>wanted ? <u32>left : wanted;
  return base + <u32>offset;
}

/** The fast case of runAt(): all of [gpa, gpa + wanted) lies in the remembered run. 0 if not: ask otherRun(). */
export function wholeRun(gpa: u64, wanted: u32): u32 {
  const offset = gpa - start;
  return offset < bytes && bytes - offset >= <u64>wanted ? base + <u32>offset : 0;
}

/** The same for the first packet of a burst, and wherever buffers lie in several runs. 0 if [gpa, gpa + wanted) lies in no single one: ask runAt(). */
export function otherRun(gpa: u64, wanted: u32): u32 {
  if (gpa - start < bytes || !find(gpa)) return 0;
  return wholeRun(gpa, wanted);
}

function find(gpa: u64): bool {
  let region = regions;
  for (let i: u32 = 0; i < regionCount; i++, region += REGION_SIZE) {
    const from = load<u64>(region, RG_GPA);
    const size = load<u64>(region, RG_BYTES);
    const offset = gpa - from;
    if (offset >= size) continue;
    const whole = load<u32>(region, RG_BASE);
    if (whole !== 0) {
      start = from;
      bytes = size;
      base = whole;
      return true;
    }
    return findChunk(region, from, size, offset);
  }
  bytes = 0;
  runError = DROP_RX_BAD_DESC;
  return false;
}

/** Remembers the part of the region that lies in the chunk of byte `offset` of the region. */
function findChunk(region: u32, from: u64, size: u64, offset: u64): bool {
  const skew = <u64>load<u32>(region, RG_SKEW);
  const index = (offset + skew) >> CHUNK_SHIFT;
  const chunk = <u64>load<u32>(region, RG_CHUNK) + index;
  bytes = 0;
  runError = DROP_NO_WINDOW;
  if (chunk >= <u64>MAX_CHUNKS) return false;
  let mapped = atomic.load<u32>(chunkAddress(<u32>chunk));
  if (mapped === 0) mapped = fault(port, <u32>chunk);
  if (mapped === 0) return false;
  store<u8>(CHUNK_TOUCHED + <u32>chunk, 1);
  // The chunk covers bytes [low, high) of the region; the first one begins inside the chunk, at the skew.
  const begin = index << CHUNK_SHIFT;
  const low = begin > skew ? begin - skew : 0;
  const high = min<u64>(begin + <u64>CHUNK_SIZE - skew, size);
  start = from + low;
  bytes = high - low;
  base = mapped + <u32>(low + skew - begin);
  return true;
}
