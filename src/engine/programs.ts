// Space for the action programs that do not fit into their flow's record: size classes of powers of two, cut from the
// ACTIONS region one after the other, each with a list of free pieces.

import { ACTIONS_BASE, ACTIONS_SIZE } from '../../contract/memory.ts';

const SMALLEST = 64; // bytes

export class Programs {
  private top = ACTIONS_BASE;
  private readonly free: number[][] = [];

  /** Address for `bytes` bytes; 0 = no room. */
  take(bytes: number): number {
    const size = sizeClass(bytes);
    const reused = this.free[size]?.pop();
    if (reused !== undefined) return reused;
    const length = SMALLEST << size;
    if (this.top + length > ACTIONS_BASE + ACTIONS_SIZE) return 0;
    const address = this.top;
    this.top += length;
    return address;
  }

  /** Only after a grace period. */
  give(address: number, bytes: number): void {
    const size = sizeClass(bytes);
    this.free[size] ??= [];
    this.free[size].push(address);
  }
}

function sizeClass(bytes: number): number {
  return Math.max(0, Math.ceil(Math.log2(bytes / SMALLEST)));
}
