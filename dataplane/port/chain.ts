// Descriptors and chains: what split and packed rings have in common, in both directions.
//
// A walk adds the buffers of a chain to a collector: to the pieces of a received packet (receive.ts), or to the
// destination pieces of the packet to be delivered (deliver.ts). Each descriptor is read exactly once, into local
// variables; every index is checked before use; every loop has a bound (hostile-guest cases G5, G6, G11, G20 to G22).

import { DROP_NONE, DROP_RX_BAD_DESC, DROP_RX_TOO_LONG } from '../../contract/drop.ts';
import {
  DESC_F_INDIRECT,
  DESC_F_NEXT,
  DESC_F_WRITE,
  VF_INDIRECT_DESC,
  VQ_FEATURES,
} from '../../contract/virtqueue.ts';
import { destinationAdd, destinationComplete } from './deliver.ts';
import { CHAIN_STEPS, pieceAdd } from './receive.ts';
import { runAt, runBytes, runError } from './window.ts';

/** Flags of a descriptor whose second half is `word` (the same place in both layouts but 16 bits apart). */
export function splitFlags(word: u64): u32 {
  return <u32>(word >> 32) & 0xffff;
}
export function packedFlags(word: u64): u32 {
  return <u32>(word >> 48);
}

/** Adds the buffer of one descriptor. `write`: the chain is one for us to fill. */
export function addBuffer(write: bool, gpa: u64, length: u32, flags: u32): u32 {
  if (((flags & DESC_F_WRITE) !== 0) !== write) return DROP_RX_BAD_DESC;
  return write ? destinationAdd(gpa, length) : pieceAdd(gpa, length);
}

// The descriptor that loadDescriptor() read.
let address: u64 = 0;
let word: u64 = 0;

/** Reads a descriptor of an indirect table: it may lie across two runs of memory. */
function loadDescriptor(gpa: u64): bool {
  let at = runAt(gpa, 16);
  if (at === 0) return false;
  if (runBytes === 16) {
    address = load<u64>(at);
    word = load<u64>(at, 8);
    return true;
  }
  address = 0;
  word = 0;
  for (let i: u32 = 0; i < 16; i++) {
    at = runAt(gpa + i, 1);
    if (at === 0) return false;
    const byte = <u64>load<u8>(at);
    if (i < 8) address |= byte << (i * 8);
    else word |= byte << ((i - 8) * 8);
  }
  return true;
}

/**
 * Adds the buffers of an indirect table. Split: a chain by `next`, from entry 0. Packed: all entries in order.
 * The tables stay in guest memory: they are only read.
 */
export function addIndirect(
  q: u32,
  write: bool,
  packed: bool,
  table: u64,
  length: u32,
  flags: u32,
): u32 {
  if ((load<u32>(q, VQ_FEATURES) & VF_INDIRECT_DESC) === 0 || (flags & DESC_F_NEXT) !== 0) {
    return DROP_RX_BAD_DESC;
  }
  if (length === 0 || (length & 15) !== 0 || length > 65536 * 16 || table + length < table) {
    return DROP_RX_BAD_DESC;
  }
  const count = length >> 4;
  if (packed && count > CHAIN_STEPS) return DROP_RX_TOO_LONG;
  let index: u32 = 0;
  for (let step: u32 = 0; step < CHAIN_STEPS; step++) {
    if (!loadDescriptor(table + index * 16)) return runError;
    const entryFlags = packed ? packedFlags(word) : splitFlags(word);
    if ((entryFlags & DESC_F_INDIRECT) !== 0) return DROP_RX_BAD_DESC;
    const next = <u32>(word >> 48);
    const reason = addBuffer(write, address, <u32>word, entryFlags);
    if (reason !== DROP_NONE) return reason;
    if (write && destinationComplete()) return DROP_NONE;
    if (packed) {
      index++;
      if (index === count) return DROP_NONE;
      continue;
    }
    if ((entryFlags & DESC_F_NEXT) === 0) return DROP_NONE;
    if (next >= count) return DROP_RX_BAD_DESC;
    index = next;
  }
  return DROP_RX_BAD_DESC;
}
