// Live migration of one of our own guests, as QEMU plays it: dirty log on while the rings run, rounds of copying what
// the log names, rings stopped one by one, the last pages, and the other switch goes on at the same indices.
//
// (vhost-user specification, "Migration"; order of messages as QEMU 7.2.) What the switch writes is known from its log
// alone. What the driver writes, a hypervisor knows from page tables; here it is known where a driver writes at all, and
// those pages go once it has stopped (copyDriverPages).
//
//   begin()  traffic runs   sync() … sync()   [driver stops]  copyDriverPages()  sync() …  complete()
//                                                          cancel() at any moment before

import { closeFd } from '../sys/fd.ts';
import { mapAnonymous, mapFixed, memfdCreate } from '../sys/memory.ts';
import * as C from '../wire/vhostuser/codec.ts';
import { bits, has, PROTOCOL_F_STATUS, VHOST_F_LOG_ALL } from '../wire/vhostuser/features.ts';
import * as M from '../wire/vhostuser/messages.ts';
import * as L from './driver/layout.ts';
import type { Frontend } from './frontend.ts';
import type { Guest } from './guest.ts';

const PAGE = 4096;
/** Where the log lies in the address space of the source: behind any memory that a guest of ours has. */
const LOG_AT = 0xf0000000;

export class LiveMigration implements Disposable {
  readonly #source: Guest;
  readonly #destination: Guest;
  readonly #frontend: Frontend;
  readonly #logBytes: number;
  readonly #words: BigInt64Array;
  #fd = -1;
  /** Pages copied since begin(), the first pass not counted. */
  pagesCopied = 0;

  /** Both guests have the same options but for their socket; the destination is not open yet. */
  constructor(source: Guest, destination: Guest) {
    const { frontend } = source;
    if (frontend === undefined) throw new Error('the source has no switch');
    if (source.options.memoryBytes !== destination.options.memoryBytes) {
      throw new Error('source and destination differ in memory');
    }
    this.#source = source;
    this.#destination = destination;
    this.#frontend = frontend;
    // Whole pages of log, so that it can be mapped.
    const needed = Math.ceil(source.options.memoryBytes / PAGE / 8);
    this.#logBytes = Math.ceil(needed / PAGE) * PAGE;
    this.#words = new BigInt64Array(source.memory.buffer, LOG_AT, this.#logBytes / 8);
  }

  /** Turns the log on, under traffic, and copies everything once. */
  async begin(): Promise<void> {
    const { options, features } = this.#source;
    this.#fd = memfdCreate('vhost-log', this.#logBytes);
    mapFixed(this.#source.base + BigInt(LOG_AT), this.#fd, 0, this.#logBytes);
    const base = C.encodeLogBase({ size: BigInt(this.#logBytes), offset: 0n });
    for (let pair = 0; pair < options.pairs; pair++) {
      await this.#frontend.ask(M.SET_LOG_BASE, base, [this.#fd]);
      await this.#frontend.tell(M.SET_FEATURES, C.encodeU64(features | bits(VHOST_F_LOG_ALL)));
    }
    await this.#source.setLogging(true);
    this.#copy(0, options.memoryBytes);
  }

  #copy(at: number, bytes: number): void {
    this.#destination.bytes.set(this.#source.bytes.subarray(at, at + bytes), at);
  }

  /** One round: takes the bits of the log and copies their pages. Returns how many. */
  sync(): number {
    let pages = 0;
    for (let i = 0; i < this.#words.length; i++) {
      if (this.#words[i] === 0n) continue;
      let word = BigInt.asUintN(64, Atomics.exchange(this.#words, i, 0n));
      for (let bit = 0; word !== 0n; bit++, word >>= 1n) {
        if ((word & 1n) === 0n) continue;
        const at = (i * 64 + bit) * PAGE;
        if (at >= this.#source.options.memoryBytes) continue;
        this.#copy(at, PAGE);
        pages++;
      }
    }
    this.pagesCopied += pages;
    return pages;
  }

  /** Copies the pages that the driver writes, once it has stopped. */
  copyDriverPages(): void {
    this.#copy(0, L.GUEST_DYNAMIC);
    const { view, options } = this.#source;
    for (let ring = 0; ring < options.pairs * 2; ring++) {
      const r = this.#source.ringRecord(ring);
      const desc = view.getUint32(r + L.GR_DESC, true);
      const used = view.getUint32(r + L.GR_USED, true);
      this.#copy(desc, used - desc);
      // Packed: the driver's area is one of the three as well. Transmit: the driver fills the buffers.
      if (ring % 2 === 0) continue;
      const buffers = view.getUint32(r + L.GR_BUFFERS, true);
      this.#copy(buffers, options.queueSize * options.bufferBytes);
    }
  }

  async #stopRings(): Promise<Map<number, number>> {
    const { pairs } = this.#source.options;
    const bases = new Map<number, number>();
    for (let ring = 0; ring < pairs * 2; ring++) {
      if (ring === pairs * 2 - 2 && has(this.#frontend.protocolFeatures, PROTOCOL_F_STATUS)) {
        await this.#frontend.tell(M.SET_STATUS, C.encodeU64(0n));
      }
      const asked = C.encodeVringState({ index: ring, num: 0 });
      const { payload } = await this.#frontend.ask(M.GET_VRING_BASE, asked);
      bases.set(ring, C.decodeVringState(payload).num);
    }
    return bases;
  }

  /**
   * The driver has stopped: stops the rings, copies the rest, and leaves the destination ready to be opened. From now
   * on the memories of both are equal, and nobody writes to either.
   */
  async complete(): Promise<void> {
    const bases = await this.#stopRings();
    this.sync();
    this.#source.depart();
    this.#destination.arrive(this.#source.features, bases);
  }

  /** Gives up: the source goes on as if nothing had been. */
  async cancel(): Promise<void> {
    const { features, options } = this.#source;
    for (let pair = 0; pair < options.pairs; pair++) {
      await this.#frontend.tell(M.SET_FEATURES, C.encodeU64(features));
    }
    await this.#source.setLogging(false);
    this[Symbol.dispose]();
  }

  /** First address at which the memories differ, -1 if nowhere. */
  difference(): number {
    const { memoryBytes } = this.#source.options;
    for (let at = 0; at < memoryBytes; at += PAGE) {
      const here = Buffer.from(this.#source.memory.buffer, at, PAGE);
      const there = Buffer.from(this.#destination.memory.buffer, at, PAGE);
      if (here.equals(there)) continue;
      return at + here.findIndex((byte, i) => byte !== there[i]);
    }
    return -1;
  }

  [Symbol.dispose](): void {
    if (this.#fd < 0) return;
    mapAnonymous(this.#source.base + BigInt(LOG_AT), this.#logBytes);
    closeFd(this.#fd);
    this.#fd = -1;
  }
}
