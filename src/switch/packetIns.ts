// Descriptions of packet-ins that megaflows ask for. A megaflow's program can carry only a number (the cookie of
// ACT_USERSPACE); here the number leads to bridge, reason, cookie of the rule and pipeline state.
//
// Equal descriptions share a number, so that translating a megaflow again gives the same program. A number outlives
// its last user for a while: upcalls that carry it may still be in a ring.

import { isZero } from './flow.ts';
import type { PacketInSpec, PacketInStore, XlateBridge } from './translate/types.ts';

const LINGER_MS = 5000;
export const PACKET_INS_MAX = 65_536;

interface Slot {
  readonly spec: PacketInSpec;
  readonly key: string;
  users: number;
  freeAtMs: number;
}

export class PacketIns implements PacketInStore {
  readonly #now: () => number;
  readonly #slots = new Map<number, Slot>();
  readonly #byKey = new Map<string, number>();
  readonly #bridges = new WeakMap<XlateBridge, number>();
  /** Numbers without users, in the order in which they lost them. */
  readonly #lingering = new Set<number>();
  #bridgeCount = 0;
  #last = 0;

  constructor(now: () => number) {
    this.#now = now;
  }

  get size(): number {
    return this.#slots.size;
  }

  /** The caller is a user of the number until it releases it. 0 = too many. */
  add(spec: PacketInSpec): number {
    const key = this.#key(spec);
    const known = this.#byKey.get(key);
    if (known !== undefined) {
      const slot = this.#slots.get(known)!;
      if (slot.users++ === 0) this.#lingering.delete(known);
      return known;
    }
    if (this.#slots.size >= PACKET_INS_MAX) this.sweep();
    if (this.#slots.size >= PACKET_INS_MAX) return 0;
    do {
      this.#last = (this.#last % 0xffffffff) + 1;
    } while (this.#slots.has(this.#last));
    this.#slots.set(this.#last, { spec, key, users: 1, freeAtMs: 0 });
    this.#byKey.set(key, this.#last);
    return this.#last;
  }

  get(id: number): PacketInSpec | undefined {
    return this.#slots.get(id)?.spec;
  }

  release(ids: readonly number[]): void {
    for (const id of ids) {
      const slot = this.#slots.get(id);
      if (slot === undefined || --slot.users > 0) continue;
      slot.freeAtMs = this.#now() + LINGER_MS;
      this.#lingering.add(id);
    }
    if (ids.length > 0) this.sweep();
  }

  /** Forgets numbers that nobody has used for long enough. */
  sweep(): void {
    const now = this.#now();
    for (const id of this.#lingering) {
      const slot = this.#slots.get(id)!;
      if (slot.freeAtMs > now) return;
      this.#lingering.delete(id);
      this.#slots.delete(id);
      this.#byKey.delete(slot.key);
    }
  }

  #key(spec: PacketInSpec): string {
    let bridge = this.#bridges.get(spec.bridge);
    if (bridge === undefined) {
      bridge = ++this.#bridgeCount;
      this.#bridges.set(spec.bridge, bridge);
    }
    const { reason, table, cookie, controllerId, maxLen, userdata, metadata } = spec;
    const rest = isZero(metadata, 0, metadata.length) ? '' : metadata.toHex();
    return `${bridge}/${reason}/${table}/${cookie}/${controllerId}/${maxLen}/${userdata?.toHex() ?? '-'}/${rest}`;
  }
}
