// Descriptions of packet-ins that megaflows ask for. A megaflow's program can carry only a number (the cookie of
// ACT_USERSPACE); here the number leads to bridge, reason, cookie of the rule and pipeline state.

import { isZero } from './flow.ts';
import { IdPool, ObjectNumbers } from './idPool.ts';
import type { PacketInSpec, PacketInStore } from './translate/types.ts';

export const PACKET_INS_MAX = 65_536;

export class PacketIns implements PacketInStore {
  readonly #pool: IdPool<PacketInSpec>;
  readonly #bridges = new ObjectNumbers();

  constructor(now: () => number) {
    this.#pool = new IdPool(now, PACKET_INS_MAX);
  }

  get size(): number {
    return this.#pool.size;
  }

  /** The caller is a user of the number until it releases it. 0 = too many. */
  add(spec: PacketInSpec): number {
    const { reason, table, cookie, controllerId, maxLen, userdata, metadata } = spec;
    const bridge = this.#bridges.of(spec.bridge);
    const rest = isZero(metadata, 0, metadata.length) ? '' : metadata.toHex();
    const key = `${bridge}/${reason}/${table}/${cookie}/${controllerId}/${maxLen}/${userdata?.toHex() ?? '-'}/${rest}`;
    return this.#pool.add(key, spec);
  }

  get(id: number): PacketInSpec | undefined {
    return this.#pool.get(id);
  }

  release(ids: readonly number[]): void {
    this.#pool.release(ids);
  }

  sweep(): void {
    this.#pool.sweep();
  }
}
