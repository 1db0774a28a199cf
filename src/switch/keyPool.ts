// Keys and masks of megaflows, taken from slabs and given back: thousands come and go a second, and a buffer for each would be
// the garbage collector's work.

import { KEY_SIZE } from '../../contract/key.ts';

const SLAB_PAIRS = 128;

/** Room for one megaflow's key and mask, as bytes and as host words of the same memory. */
export interface KeyPair {
  /** KEY_SIZE bytes each. */
  readonly key: Uint8Array;
  readonly mask: Uint8Array;
  readonly keyWords: Int32Array;
  readonly maskWords: Int32Array;
}

export class KeyPool {
  readonly #free: KeyPair[] = [];

  /** What it holds is left from its last use. */
  take(): KeyPair {
    return this.#free.pop() ?? this.#slab();
  }

  give(pair: KeyPair): void {
    this.#free.push(pair);
  }

  #slab(): KeyPair {
    const buffer = new ArrayBuffer(SLAB_PAIRS * 2 * KEY_SIZE);
    for (let i = 0; i < SLAB_PAIRS; i++) {
      const at = i * 2 * KEY_SIZE;
      this.#free.push({
        key: new Uint8Array(buffer, at, KEY_SIZE),
        mask: new Uint8Array(buffer, at + KEY_SIZE, KEY_SIZE),
        keyWords: new Int32Array(buffer, at, KEY_SIZE / 4),
        maskWords: new Int32Array(buffer, at + KEY_SIZE, KEY_SIZE / 4),
      });
    }
    return this.#free.pop()!;
  }
}
