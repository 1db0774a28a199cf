// Space for the action programs that do not fit into their flow's record: size classes of powers of two, cut from the
// ACTIONS region one after the other, each with a list of free pieces.
//
// Flows with the same program share it, as thousands of megaflows into the same tunnel do: then its header is in the
// workers' caches once, not thousands of times. A program is never changed once it is written.

import { ACTIONS_BASE, ACTIONS_SIZE } from '../../contract/memory.ts';

const SMALLEST = 64; // bytes
/** Longer programs are not compared with others. */
const SHARED_MAX_WORDS = 256;

interface Shared {
  content: string;
  users: number;
}

export class Programs {
  private readonly u32: Uint32Array;
  private top = ACTIONS_BASE;
  private readonly free: number[][] = [];
  private readonly addresses = new Map<string, number>();
  private readonly shared = new Map<number, Shared>();

  /** `u32`: the memory, in words. */
  constructor(u32: Uint32Array) {
    this.u32 = u32;
  }

  /** Address of a program of these words, for one more user; 0 = no room. */
  take(words: Uint32Array): number {
    if (words.length > SHARED_MAX_WORDS) return this.write(words);
    const content = Buffer.from(words.buffer, words.byteOffset, words.byteLength).toString(
      'latin1',
    );
    const known = this.addresses.get(content);
    if (known !== undefined) {
      this.shared.get(known)!.users++;
      return known;
    }
    const address = this.write(words);
    if (address !== 0) {
      this.addresses.set(content, address);
      this.shared.set(address, { content, users: 1 });
    }
    return address;
  }

  /** One user less. Only after a grace period. */
  give(address: number, bytes: number): void {
    const shared = this.shared.get(address);
    if (shared !== undefined) {
      if (--shared.users > 0) return;
      this.shared.delete(address);
      this.addresses.delete(shared.content);
    }
    const size = sizeClass(bytes);
    this.free[size] ??= [];
    this.free[size].push(address);
  }

  private write(words: Uint32Array): number {
    const address = this.room(words.byteLength);
    if (address !== 0) this.u32.set(words, address / 4);
    return address;
  }

  private room(bytes: number): number {
    const size = sizeClass(bytes);
    const reused = this.free[size]?.pop();
    if (reused !== undefined) return reused;
    const length = SMALLEST << size;
    if (this.top + length > ACTIONS_BASE + ACTIONS_SIZE) return 0;
    const address = this.top;
    this.top += length;
    return address;
  }
}

function sizeClass(bytes: number): number {
  return Math.max(0, Math.ceil(Math.log2(bytes / SMALLEST)));
}
