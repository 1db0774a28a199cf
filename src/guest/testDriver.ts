// The slow driver of a guest: frame by frame, in TypeScript, any layout of descriptors. For tests.
//
// Works on the rings of a Guest (split or packed). Slots of a ring are used in order; a chain takes as many slots as it
// has buffers, or one with an indirect table. For hostile cases, put() writes any descriptor and expose() makes it
// available, without asking whether that makes sense.

import { eventfdSignal } from '../sys/eventfd.ts';
import * as L from './driver/layout.ts';
import type { Guest } from './guest.ts';

export interface VnetHeader {
  flags: number;
  gsoType: number;
  hdrLen: number;
  gsoSize: number;
  csumStart: number;
  csumOffset: number;
}

export interface GuestFrame {
  header: VnetHeader & { numBuffers: number };
  frame: Uint8Array;
}

export interface Descriptor {
  address: number | bigint;
  length: number;
  /** F_* without AVAIL and USED. */
  flags: number;
  next?: number;
}

export interface UsedChain {
  id: number;
  length: number;
  index: number;
}

export const F_NEXT = 1;
export const F_WRITE = 2;
export const F_INDIRECT = 4;
const F_AVAIL = 0x80;
const F_USED = 0x8000;

/** One ring: position, descriptors, availability. */
export class TestRing {
  readonly guest: Guest;
  readonly index: number;
  readonly record: number;
  readonly #chains: { head: number; slots: number }[] = [];
  readonly #reaped: UsedChain[] = [];
  #taken = 0;

  constructor(guest: Guest, index: number) {
    this.guest = guest;
    this.index = index;
    this.record = guest.ringRecord(index);
    guest.positions.set(index, () => {
      this.#reap();
      return this.get(L.GR_DONE);
    });
  }

  get(field: number): number {
    return this.guest.view.getUint32(this.record + field, true);
  }
  set(field: number, value: number): void {
    this.guest.view.setUint32(this.record + field, value, true);
  }
  get size(): number {
    return this.get(L.GR_SIZE);
  }
  get packed(): boolean {
    return this.get(L.GR_PACKED) !== 0;
  }
  get free(): number {
    return this.size - (this.get(L.GR_NEXT) - this.get(L.GR_DONE));
  }
  /** Buffer that belongs to a free running index. */
  buffer(index: number): number {
    return this.get(L.GR_BUFFERS) + (index % this.size) * this.get(L.GR_BUFFER_SIZE);
  }

  #wrap(index: number): boolean {
    return (Math.floor(index / this.size) & 1) === 0;
  }

  /** Writes descriptor `slot` (split), or the one of free running index `slot` (packed, not available yet). */
  put(slot: number, descriptor: Descriptor): void {
    const { view } = this.guest;
    const at = this.get(L.GR_DESC) + (slot % this.size) * 16;
    view.setBigUint64(at, BigInt(descriptor.address), true);
    view.setUint32(at + 8, descriptor.length, true);
    if (this.packed) {
      view.setUint16(at + 12, (descriptor.next ?? slot) % this.size, true);
      // AVAIL is set by expose().
      view.setUint16(at + 14, descriptor.flags | (this.#wrap(slot) ? F_USED : F_AVAIL), true);
    } else {
      view.setUint16(at + 12, descriptor.flags, true);
      view.setUint16(at + 14, descriptor.next ?? 0, true);
    }
  }

  /** Makes a chain of `slots` descriptors from free running index NEXT on available, and rings the bell. */
  expose(slots: number, head = this.get(L.GR_NEXT) % this.size): void {
    const { view } = this.guest;
    const next = this.get(L.GR_NEXT);
    if (this.packed) {
      for (let i = slots - 1; i >= 0; i--) {
        const at = this.get(L.GR_DESC) + ((next + i) % this.size) * 16 + 14;
        const flags = view.getUint16(at, true) & ~(F_AVAIL | F_USED);
        view.setUint16(at, flags | (this.#wrap(next + i) ? F_AVAIL : F_USED), true);
      }
    } else {
      const avail = this.get(L.GR_AVAIL);
      const index = view.getUint16(avail + 2, true);
      view.setUint16(avail + 4 + (index % this.size) * 2, head, true);
      view.setUint16(avail + 2, (index + 1) & 0xffff, true);
    }
    this.set(L.GR_NEXT, next + slots);
    this.#chains.push({ head, slots });
    eventfdSignal(this.guest.kicks[this.index]!);
  }

  /** Adds a chain of buffers; returns its head slot. */
  add(buffers: readonly { address: number; length: number; write: boolean }[]): number {
    const next = this.get(L.GR_NEXT);
    if (buffers.length > this.free) throw new Error('ring full');
    buffers.forEach(({ address, length, write }, i) => {
      const last = i === buffers.length - 1;
      this.put(this.packed ? next + i : (next + i) % this.size, {
        address,
        length,
        flags: (write ? F_WRITE : 0) | (last ? 0 : F_NEXT),
        next: this.packed ? next % this.size : last ? 0 : (next + i + 1) % this.size,
      });
    });
    this.expose(buffers.length);
    return next % this.size;
  }

  /** Chains that the device has given back and takeUsed() has not been asked for. */
  pending(): number {
    this.#reap();
    return this.#reaped.length;
  }

  /** Chains that the device has given back: head slot, bytes written, free running index of its first slot. */
  *takeUsed(): Generator<UsedChain> {
    this.#reap();
    while (this.#reaped.length > 0) yield this.#reaped.shift()!;
  }

  #reap(): void {
    for (;;) {
      const used = this.#nextUsed();
      if (used === undefined) return;
      // In order, one used element may stand for all chains up to the one that it names.
      const inOrder = this.get(L.GR_IN_ORDER) !== 0;
      while (this.#chains.length > 0) {
        const { head, slots } = this.#chains.shift()!;
        const index = this.get(L.GR_DONE);
        this.set(L.GR_DONE, index + slots);
        this.#reaped.push({ id: head, length: head === used.id ? used.length : 0, index });
        if (head === used.id || (inOrder && !this.packed)) break;
        if (!inOrder) throw new Error(`used id ${used.id}, expected ${head}`);
      }
    }
  }

  #nextUsed(): { id: number; length: number } | undefined {
    const { view } = this.guest;
    if (this.#chains.length === 0) return undefined;
    if (this.packed) {
      const done = this.get(L.GR_DONE);
      const at = this.get(L.GR_DESC) + (done % this.size) * 16;
      const flags = view.getUint16(at + 14, true);
      const wrap = this.#wrap(done);
      if (((flags & F_AVAIL) !== 0) !== wrap || ((flags & F_USED) !== 0) !== wrap) return undefined;
      return { id: view.getUint16(at + 12, true), length: view.getUint32(at + 8, true) };
    }
    const used = this.get(L.GR_USED);
    if (view.getUint16(used + 2, true) === (this.#taken & 0xffff)) return undefined;
    const at = used + 4 + (this.#taken++ % this.size) * 8;
    return { id: view.getUint32(at, true), length: view.getUint32(at + 4, true) };
  }
}

/** Sends and receives frames on one pair of rings. */
export class TestDriver {
  readonly guest: Guest;
  readonly rx: TestRing;
  readonly tx: TestRing;
  readonly #headerBytes: number;
  #partial: { header: GuestFrame['header']; parts: Uint8Array[]; left: number } | undefined;

  constructor(guest: Guest, pair = 0) {
    this.guest = guest;
    this.rx = new TestRing(guest, pair * 2);
    this.tx = new TestRing(guest, pair * 2 + 1);
    this.#headerBytes = this.tx.get(L.GR_HEADER);
    this.fillReceiveRing();
  }

  /** Gives every free receive buffer to the device. */
  fillReceiveRing(): void {
    while (this.rx.free > 0) {
      const address = this.rx.buffer(this.rx.get(L.GR_NEXT));
      this.rx.add([{ address, length: this.rx.get(L.GR_BUFFER_SIZE), write: true }]);
    }
  }

  /**
   * Sends a frame. `cuts`: lengths of the first buffers, header included (the rest follows in as many as it needs);
   * `indirect`: through a table. Returns false if the ring is full.
   */
  send(
    frame: Uint8Array,
    more: { header?: Partial<VnetHeader>; cuts?: readonly number[]; indirect?: boolean } = {},
  ): boolean {
    for (const _ of this.tx.takeUsed());
    const data = new Uint8Array(this.#headerBytes + frame.length);
    const view = new DataView(data.buffer);
    const { header = {} } = more;
    data[0] = header.flags ?? 0;
    data[1] = header.gsoType ?? 0;
    view.setUint16(2, header.hdrLen ?? 0, true);
    view.setUint16(4, header.gsoSize ?? 0, true);
    view.setUint16(6, header.csumStart ?? 0, true);
    view.setUint16(8, header.csumOffset ?? 0, true);
    data.set(frame, this.#headerBytes);
    const room = this.tx.get(L.GR_BUFFER_SIZE);
    const lengths = [...(more.cuts ?? [])];
    let left = data.length - lengths.reduce((a, b) => a + b, 0);
    while (left > 0) {
      lengths.push(Math.min(left, room));
      left -= lengths.at(-1)!;
    }
    if (lengths.length + (more.indirect ? 1 : 0) > this.tx.free) return false;
    const first = this.tx.get(L.GR_NEXT);
    let from = 0;
    const buffers = lengths.map((length, i) => {
      const address = this.tx.buffer(first + i);
      this.guest.bytes.set(data.subarray(from, from + length), address);
      from += length;
      return { address, length, write: false };
    });
    if (!more.indirect) {
      this.tx.add(buffers);
      return true;
    }
    const table = this.tx.buffer(first + lengths.length);
    buffers.forEach(({ address, length }, i) => {
      const at = table + i * 16;
      const last = i === buffers.length - 1;
      const flags = this.tx.packed || last ? 0 : F_NEXT;
      this.guest.view.setBigUint64(at, BigInt(address), true);
      this.guest.view.setUint32(at + 8, length, true);
      this.guest.view.setUint16(at + 12, this.tx.packed ? 0 : flags, true);
      this.guest.view.setUint16(at + 14, this.tx.packed ? flags : last ? 0 : i + 1, true);
    });
    this.tx.put(this.tx.packed ? first : first % this.tx.size, {
      address: table,
      length: buffers.length * 16,
      flags: F_INDIRECT,
    });
    this.tx.expose(1);
    return true;
  }

  /** Frames received since the last call, whole; buffers go back to the device. */
  receive(): GuestFrame[] {
    const frames: GuestFrame[] = [];
    for (const { index, length } of this.rx.takeUsed()) {
      const address = this.rx.buffer(index);
      const data = this.guest.bytes.slice(address, address + length);
      if (this.#partial === undefined) {
        const view = new DataView(data.buffer);
        const header = {
          flags: data[0]!,
          gsoType: data[1]!,
          hdrLen: view.getUint16(2, true),
          gsoSize: view.getUint16(4, true),
          csumStart: view.getUint16(6, true),
          csumOffset: view.getUint16(8, true),
          numBuffers: this.#headerBytes >= 12 ? view.getUint16(10, true) : 1,
        };
        const left = Math.max(header.numBuffers, 1);
        this.#partial = { header, parts: [data.subarray(this.#headerBytes)], left };
      } else this.#partial.parts.push(data);
      if (--this.#partial.left === 0) {
        frames.push({ header: this.#partial.header, frame: Buffer.concat(this.#partial.parts) });
        this.#partial = undefined;
      }
    }
    this.fillReceiveRing();
    return frames;
  }

  /** Waits until `count` frames have come, or the time is up; returns what came. */
  async expect(count: number, timeoutMs = 20_000): Promise<GuestFrame[]> {
    const frames: GuestFrame[] = [];
    const deadline = performance.now() + timeoutMs;
    for (;;) {
      frames.push(...this.receive());
      if (frames.length >= count || performance.now() > deadline) return frames;
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  }
}
