// The one shared memory, as the control plane sees it: typed views and atomic words (contract/memory.ts).
//
// 4 GiB of address space; the kernel gives pages when they are touched. A fresh engine costs a few MiB.

import { memoryBase } from '../sys/memory.ts';

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
    this.u8 = new Uint8Array(memory.buffer);
    this.u16 = new Uint16Array(memory.buffer);
    this.u32 = new Uint32Array(memory.buffer);
    this.i32 = new Int32Array(memory.buffer);
    this.f64 = new Float64Array(memory.buffer);
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
