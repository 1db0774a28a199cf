// The one shared memory, as the control plane sees it: typed views and atomic words (contract/memory.ts).
//
// 4 GiB of address space; the kernel gives pages when they are touched. A fresh engine costs a few MiB.

import {
  FLOW_TABLE_BASE,
  MAX_WORKERS,
  METER_BASE,
  PRIVATE_BASE,
  PRIVATE_SIZE,
} from '../../contract/memory.ts';
import { adviseHuge, lockOnFault, memoryBase } from '../sys/memory.ts';

/**
 * Where packets of many flows touch a line here and a line there, so that each would need an entry of the TLB of its own: from
 * where to where. Not connections, of which workers touch a page for the first time: what the kernel may do to find
 * 2 MiB in one piece would be a pause for all packets of a worker, again and again.
 */
const HUGE_RANGES: readonly (readonly [number, number])[] = [
  [PRIVATE_BASE, PRIVATE_BASE + MAX_WORKERS * PRIVATE_SIZE],
  // Megaflows, their counters and the caches of them are neighbours.
  [FLOW_TABLE_BASE, METER_BASE],
];

export class EngineMemory {
  readonly memory: WebAssembly.Memory;
  readonly base: bigint;
  readonly u8: Uint8Array;
  readonly u16: Uint16Array;
  readonly u32: Uint32Array;
  readonly i32: Int32Array;
  readonly f64: Float64Array;

  constructor(
    memory = new WebAssembly.Memory({ initial: 0x10000, maximum: 0x10000, shared: true }),
  ) {
    this.memory = memory;
    this.base = memoryBase(memory);
    for (const [from, to] of HUGE_RANGES) adviseHuge(this.base + BigInt(from), to - from);
    this.u8 = new Uint8Array(memory.buffer);
    this.u16 = new Uint16Array(memory.buffer);
    this.u32 = new Uint32Array(memory.buffer);
    this.i32 = new Int32Array(memory.buffer);
    this.f64 = new Float64Array(memory.buffer);
  }

  /**
   * What is used of it stays in memory (no swap). To be called again after a file has been mapped into it. Throws SysError.
   */
  lock(): void {
    lockOnFault(this.base, this.u8.length);
  }

  /** Reads a word that another thread may be writing. */
  load(address: number): number {
    return Atomics.load(this.u32, address >>> 2);
  }

  /** Publishes a word: everything written before is visible to whoever reads it. */
  store(address: number, value: number): void {
    Atomics.store(this.u32, address >>> 2, value);
  }

  get(address: number): number {
    return this.u32[address >>> 2]!;
  }

  set(address: number, value: number): void {
    this.u32[address >>> 2] = value;
  }
}

/** Like out.set(words, at), which costs as much as thirty words. */
export function putWords(out: Uint32Array, at: number, words: Uint32Array): void {
  if (words.length > 32) out.set(words, at);
  else for (let i = 0; i < words.length; i++) out[at + i] = words[i]!;
}
