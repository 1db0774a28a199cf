// The driver's side of a virtqueue, slow and obvious (virtio 1.2, 2.7 and 2.8): the model against which the rings of
// the data plane are tested. It plays a well-behaved guest; hostile tests write descriptors with its raw methods.

import { Q_BROKEN, QUEUE_PACKED, QUEUE_SPLIT } from '../../contract/port.ts';
import {
  DESC_F_AVAIL,
  DESC_F_INDIRECT,
  DESC_F_NEXT,
  DESC_F_USED,
  DESC_F_WRITE,
  VF_EVENT_IDX,
  VF_INDIRECT_DESC,
  VF_MRG_RXBUF,
  VFH_IN_ORDER,
  VFH_RING_PACKED,
  VFH_VERSION_1,
  VQ_AVAIL,
  VQ_CALL_FD,
  VQ_DESC,
  VQ_DESC_GPA,
  VQ_FEATURES,
  VQ_FEATURES_HIGH,
  VQ_HEADER,
  VQ_LAST_AVAIL,
  VQ_LAST_USED,
  VQ_SIZE,
  VQ_USED,
  VQ_USED_GPA,
} from '../../contract/virtqueue.ts';
import type { Ports } from './ports.ts';

/** Guest physical memory made of regions that lie somewhere in the shared memory. */
export class GuestMemory {
  readonly ports: Ports;
  readonly regions: { gpa: bigint; bytes: number; base: number }[];

  constructor(ports: Ports, regions: { gpa: bigint; bytes: number; base: number }[]) {
    this.ports = ports;
    this.regions = regions;
  }
  /** Memory offset of a guest address. */
  at(gpa: bigint): number {
    for (const region of this.regions) {
      const offset = gpa - region.gpa;
      if (offset >= 0n && offset < BigInt(region.bytes)) return region.base + Number(offset);
    }
    throw new Error(`not guest memory: ${gpa.toString(16)}`);
  }
  write(gpa: bigint, data: Uint8Array): void {
    for (let i = 0; i < data.length; i++) this.ports.bytes[this.at(gpa + BigInt(i))] = data[i]!;
  }
  read(gpa: bigint, length: number): Buffer {
    const data = Buffer.alloc(length);
    for (let i = 0; i < length; i++) data[i] = this.ports.bytes[this.at(gpa + BigInt(i))]!;
    return data;
  }
}

export interface Buf {
  gpa: bigint;
  length: number;
}
export interface RingOptions {
  packed?: boolean;
  size?: number;
  indirect?: boolean;
  eventIdx?: boolean;
  inOrder?: boolean;
  mergeable?: boolean;
  /** Bytes of the virtio-net header. */
  header?: 10 | 12;
  /** More bits of VQ_FEATURES. */
  features?: number;
  /** Initial position: avail index (split), or index with wrap bit 15 (packed). */
  base?: number;
  callFd?: number;
}

interface Outstanding {
  id: number;
  descriptors: number;
  buffers: Buf[];
}

/** One queue. `gpa` must be 4 KiB aligned with room for the ring: 16 x size + 8 x size + 4 KiB, and tables behind. */
export class Ring {
  readonly ports: Ports;
  readonly guest: GuestMemory;
  readonly q: number;
  readonly packed: boolean;
  readonly size: number;
  readonly header: number;
  readonly options: RingOptions;
  readonly write: boolean;
  readonly descGpa: bigint;
  readonly availGpa: bigint;
  readonly usedGpa: bigint;
  readonly tablesGpa: bigint;
  /** Chains given to the device, in order. */
  outstanding: Outstanding[] = [];
  private freeDescriptors: number[] = [];
  private nextAvail: number;
  private nextUsed: number;
  private availWrap = 1;
  private usedWrap = 1;
  private freeCount: number;
  private nextId = 0;

  constructor(
    ports: Ports,
    guest: GuestMemory,
    queue: number,
    port: number,
    dir: 0 | 1,
    gpa: bigint,
    options: RingOptions = {},
  ) {
    this.ports = ports;
    this.guest = guest;
    this.options = options;
    this.packed = options.packed ?? false;
    this.size = options.size ?? 256;
    this.header = options.header ?? 12;
    this.write = dir === 1;
    this.descGpa = gpa;
    this.availGpa = gpa + BigInt(this.size * 16);
    this.usedGpa = (this.availGpa + BigInt(this.size * 2 + 6 + 4095)) & ~4095n;
    this.tablesGpa = (this.usedGpa + BigInt(this.size * 8 + 6 + 4095)) & ~4095n;
    const at = guest.at(gpa);
    ports.bytes.fill(0, at, guest.at(this.tablesGpa - 1n) + 1);
    this.q = ports.queue(queue, { port, kind: this.packed ? QUEUE_PACKED : QUEUE_SPLIT, dir });
    let features = options.features ?? 0;
    if (options.indirect) features |= VF_INDIRECT_DESC;
    if (options.eventIdx) features |= VF_EVENT_IDX;
    if (options.mergeable) features |= VF_MRG_RXBUF;
    let high = this.header === 12 ? VFH_VERSION_1 : 0;
    if (this.packed) high |= VFH_RING_PACKED;
    if (options.inOrder) high |= VFH_IN_ORDER;
    const base = options.base ?? (this.packed ? 0x8000 : 0);
    const words: [number, number][] = [
      [VQ_SIZE, this.size],
      [VQ_FEATURES, features],
      [VQ_FEATURES_HIGH, high],
      [VQ_HEADER, this.header],
      [VQ_DESC, at],
      [VQ_AVAIL, guest.at(this.availGpa)],
      [VQ_USED, guest.at(this.usedGpa)],
      [VQ_CALL_FD, options.callFd ?? -1],
      [VQ_LAST_AVAIL, base],
      [VQ_LAST_USED, base],
    ];
    for (const [offset, value] of words) ports.setU32(this.q + offset, value);
    ports.view.setBigUint64(this.q + VQ_USED_GPA, this.usedGpa, true);
    ports.view.setBigUint64(this.q + VQ_DESC_GPA, this.descGpa, true);
    this.nextAvail = this.packed ? base & 0x7fff : base;
    this.nextUsed = this.nextAvail;
    this.availWrap = this.usedWrap = this.packed ? base >> 15 : 1;
    if (this.packed) {
      // As the device left them: used in this lap before the position, in the lap before from there on.
      for (let i = 0; i < this.size; i++) {
        const lap = i < this.nextAvail ? this.availWrap : this.availWrap ^ 1;
        this.desc(i, 0n, 0, 0, lap === 1 ? DESC_F_AVAIL | DESC_F_USED : 0);
      }
    }
    this.freeCount = this.size;
    // Free descriptors in an odd order unless the device was promised order.
    for (let i = 0; i < this.size; i++) this.freeDescriptors.push((i * 7) % this.size);
    if (this.size % 7 === 0 || options.inOrder) {
      this.freeDescriptors = Array.from({ length: this.size }, (_, i) => i);
    }
    if (!this.packed) {
      this.setIdx(base);
      ports.view.setUint16(guest.at(this.usedGpa) + 2, base, true);
    }
  }

  // ---- raw access
  desc(i: number, addr: bigint, len: number, a: number, b: number): void {
    this.descAt(this.guest.at(this.descGpa) + i * 16, addr, len, a, b);
  }
  descAt(at: number, addr: bigint, len: number, a: number, b: number): void {
    this.ports.view.setBigUint64(at, addr, true);
    this.ports.setU32(at + 8, len);
    this.ports.view.setUint16(at + 12, a, true);
    this.ports.view.setUint16(at + 14, b, true);
  }
  setIdx(index: number): void {
    this.ports.view.setUint16(this.guest.at(this.availGpa) + 2, index & 0xffff, true);
  }
  setEntry(index: number, id: number): void {
    this.ports.view.setUint16(this.guest.at(this.availGpa) + 4 + (index % this.size) * 2, id, true);
  }
  get usedIdx(): number {
    return this.ports.view.getUint16(this.guest.at(this.usedGpa) + 2, true);
  }
  get broken(): number {
    return this.ports.u32(this.q + Q_BROKEN);
  }
  /** Split: makes descriptor `id` available as it is. */
  offer(id: number): void {
    this.setEntry(this.nextAvail, id);
    this.nextAvail = (this.nextAvail + 1) & 0xffff;
    this.setIdx(this.nextAvail);
  }
  /** Flags of an available (packed) descriptor in this lap. */
  availFlags(): number {
    return this.availWrap ? DESC_F_AVAIL : DESC_F_USED;
  }

  // ---- the driver
  get room(): number {
    return this.freeCount;
  }

  /** Makes a chain available; `indirect` puts it into a table. False if there are not enough descriptors. */
  add(buffers: Buf[], indirect = false): boolean {
    const count = indirect ? 1 : buffers.length;
    if (count > this.freeCount) return false;
    this.freeCount -= count;
    if (this.packed) this.addPacked(buffers, indirect, count);
    else this.addSplit(buffers, indirect, count);
    return true;
  }

  private writeFlag(): number {
    return this.write ? DESC_F_WRITE : 0;
  }

  private table(slot: number, buffers: Buf[]): bigint {
    const gpa = this.tablesGpa + BigInt(slot * 80 * 16);
    buffers.forEach((buffer, i) => {
      const last = i === buffers.length - 1;
      const flags = this.writeFlag() | (last || this.packed ? 0 : DESC_F_NEXT);
      const raw = Buffer.alloc(16);
      raw.writeBigUInt64LE(buffer.gpa, 0);
      raw.writeUInt32LE(buffer.length, 8);
      raw.writeUInt16LE(this.packed ? 0 : flags, 12);
      raw.writeUInt16LE(this.packed ? flags : last ? 0 : i + 1, 14);
      this.guest.write(gpa + BigInt(i * 16), raw);
    });
    return gpa;
  }

  private addSplit(buffers: Buf[], indirect: boolean, count: number): void {
    const ids = this.freeDescriptors.splice(0, count);
    if (indirect) {
      const gpa = this.table(ids[0]!, buffers);
      this.desc(ids[0]!, gpa, buffers.length * 16, DESC_F_INDIRECT, 0);
    } else {
      buffers.forEach((buffer, i) => {
        const more = i < buffers.length - 1;
        const flags = this.writeFlag() | (more ? DESC_F_NEXT : 0);
        this.desc(ids[i]!, buffer.gpa, buffer.length, flags, more ? ids[i + 1]! : 0);
      });
    }
    this.outstanding.push({ id: ids[0]!, descriptors: count, buffers });
    for (const id of ids) this.freeDescriptors.push(id); // given back in the same order: the test never overtakes
    this.offer(ids[0]!);
  }

  private addPacked(buffers: Buf[], indirect: boolean, count: number): void {
    const id = this.nextId;
    this.nextId = (this.nextId + 1) % this.size;
    const entries = indirect
      ? [{ gpa: this.table(this.nextAvail, buffers), length: buffers.length * 16 }]
      : buffers;
    const writes: (() => void)[] = [];
    entries.forEach((entry, i) => {
      const more = i < entries.length - 1;
      const flags =
        this.availFlags() |
        (indirect ? DESC_F_INDIRECT : this.writeFlag() | (more ? DESC_F_NEXT : 0));
      const index = this.nextAvail;
      writes.push(() => this.desc(index, entry.gpa, entry.length, more ? 0xeeee : id, flags));
      this.nextAvail++;
      if (this.nextAvail === this.size) {
        this.nextAvail = 0;
        this.availWrap ^= 1;
      }
    });
    for (const write of writes.reverse()) write(); // the head last
    this.outstanding.push({ id, descriptors: count, buffers });
  }

  /** Takes what the device has used, in order; checks ids. */
  reap(): { buffers: Buf[]; length: number }[] {
    const result: { buffers: Buf[]; length: number }[] = [];
    for (;;) {
      const used = this.packed ? this.peekPacked() : this.peekSplit();
      if (!used) return result;
      // In order, an element may stand for several chains: up to the one it names.
      let last = this.outstanding.findIndex((chain) => chain.id === used.id);
      if (last < 0) throw new Error(`used id ${used.id} was not given`);
      if (last > 0 && !this.options.inOrder) throw new Error('used out of order');
      for (; last >= 0; last--) {
        const chain = this.outstanding.shift()!;
        this.freeCount += chain.descriptors;
        const total = chain.buffers.reduce((sum, buffer) => sum + buffer.length, 0);
        result.push({ buffers: chain.buffers, length: last === 0 ? used.length : total });
        this.advanceUsed(chain.descriptors);
      }
    }
  }

  private peekSplit(): { id: number; length: number } | undefined {
    if (this.usedIdx === this.nextUsed) return undefined;
    const at = this.guest.at(this.usedGpa) + 4 + (this.nextUsed % this.size) * 8;
    return { id: this.ports.u32(at), length: this.ports.u32(at + 4) };
  }

  private peekPacked(): { id: number; length: number } | undefined {
    const at = this.guest.at(this.descGpa) + this.nextUsed * 16;
    const flags = this.ports.view.getUint16(at + 14, true);
    const avail = (flags & DESC_F_AVAIL) !== 0 ? 1 : 0;
    const used = (flags & DESC_F_USED) !== 0 ? 1 : 0;
    if (avail !== used || used !== this.usedWrap) return undefined;
    return { id: this.ports.view.getUint16(at + 12, true), length: this.ports.u32(at + 8) };
  }

  private advanceUsed(descriptors: number): void {
    if (!this.packed) {
      this.nextUsed = (this.nextUsed + 1) & 0xffff;
      return;
    }
    this.nextUsed += descriptors;
    if (this.nextUsed >= this.size) {
      this.nextUsed -= this.size;
      this.usedWrap ^= 1;
    }
  }
}

/** A virtio-net header of 10 or 12 bytes. */
export function vnetHeader(
  bytes: number,
  set: {
    flags?: number;
    gsoType?: number;
    hdrLen?: number;
    gsoSize?: number;
    csumStart?: number;
    csumOffset?: number;
  } = {},
): Buffer {
  const header = Buffer.alloc(bytes);
  header[0] = set.flags ?? 0;
  header[1] = set.gsoType ?? 0;
  header.writeUInt16LE(set.hdrLen ?? 0, 2);
  header.writeUInt16LE(set.gsoSize ?? 0, 4);
  header.writeUInt16LE(set.csumStart ?? 0, 6);
  header.writeUInt16LE(set.csumOffset ?? 0, 8);
  return header;
}
