// Lists of actions that flows share: a hundred thousand flows have a few dozen lists. Those that came in the same bytes are
// decoded once and are one object from then on, which also makes comparing them free. Lists are never changed.
//
// A cache: what is in it may be forgotten at any time, and then comes twice.

import type { Reader } from './buffer.ts';
import type { Action } from './types.ts';

const LISTS_MAX = 4096;
/** Longer lists are rarely those of many flows. */
const BYTES_MAX = 256;

interface Known {
  readonly kind: number;
  readonly bytes: Uint8Array;
  readonly actions: Action[];
  readonly next: Known | undefined;
}

export class ActionLists {
  readonly #known = new Map<number, Known>();
  #count = 0;

  /** The list that the rest of `r` says; `kind`: whatever else its meaning depends on. `read` decodes it. */
  find(r: Reader, kind: number, read: () => Action[]): Action[] {
    const { bytes, offset, left } = r;
    if (left > BYTES_MAX) return read();
    let hash = kind;
    for (let i = offset; i < r.end; i++) hash = (Math.imul(hash, 31) + bytes[i]!) & 0x3fffffff;
    const first = this.#known.get(hash);
    for (let known = first; known !== undefined; known = known.next) {
      if (known.kind !== kind || !agrees(known.bytes, bytes, offset, left)) continue;
      r.offset = r.end;
      return known.actions;
    }
    const own = Uint8Array.from(bytes.subarray(offset, r.end));
    const actions = read();
    if (++this.#count > LISTS_MAX) {
      this.#known.clear();
      this.#count = 1;
    }
    this.#known.set(hash, { kind, bytes: own, actions, next: this.#known.get(hash) });
    return actions;
  }
}

function agrees(own: Uint8Array, bytes: Uint8Array, offset: number, length: number): boolean {
  if (own.length !== length) return false;
  for (let i = 0; i < length; i++) if (own[i] !== bytes[offset + i]) return false;
  return true;
}
