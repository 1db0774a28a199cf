// A front-end without manners: raw memory of any kind, rings written by hand, messages as they come.
//
// The honest Guest (guest.ts) keeps its rings consistent; here nothing is checked. Memory is a mapping of a file that the
// caller chose (sealed or not, tmpfs, huge pages), guest physical address 0. For hostile tests and the fuzzer.
//
//   0x0000  nothing   0x10000 + ring * 0x8000: descriptors, +0x4000 driver area, +0x6000 device area   0x100000 buffers

import { eventfdCreate, eventfdSignal } from '../sys/eventfd.ts';
import { closeFd } from '../sys/fd.ts';
import { bytesAt } from '../sys/ffi.ts';
import { Mapping } from '../sys/memory.ts';
import { unixConnect } from '../sys/unix.ts';
import * as C from '../wire/vhostuser/codec.ts';
import {
  bits,
  has,
  OFFERED_PROTOCOL_FEATURES,
  VHOST_F_LOG_ALL,
  VIRTIO_F_RING_PACKED,
} from '../wire/vhostuser/features.ts';
import * as M from '../wire/vhostuser/messages.ts';
import { Frontend } from './frontend.ts';
import { guestFeatures, USER_BASE } from './guest.ts';

const RINGS = 0x10000;
const RING_BYTES = 0x8000;
const AVAIL = 0x4000;
const USED = 0x6000;
export const BUFFERS = 0x100000;
const BUFFER_BYTES = 2048;

export const DESC_NEXT = 1;
export const DESC_WRITE = 2;
export const DESC_INDIRECT = 4;

export interface RawDescriptor {
  address: bigint;
  length: number;
  flags: number;
  /** Split: next descriptor. Packed: buffer id. */
  next: number;
}

export interface AttackerOptions {
  /** Memory: owned from now on. */
  fd: number;
  bytes: number;
  /** Mapped here, and so within reach; default all. */
  mappedBytes?: number;
  features?: bigint;
  pairs?: number;
  /** At most 256. */
  queueSize?: number;
  /** A connection that a switch has made: owned from now on. Default: connects to `path`. */
  socket?: number;
}

export class Attacker implements Disposable {
  readonly frontend: Frontend;
  readonly fd: number;
  readonly bytes: number;
  readonly view: DataView;
  readonly memory: Uint8Array;
  readonly pairs: number;
  readonly size: number;
  readonly packed: boolean;
  readonly features: bigint;
  readonly kicks: number[] = [];
  readonly calls: number[] = [];
  readonly #mapping: Mapping;
  /** Free running index of the next chain, by ring. */
  readonly next: number[] = [];

  /** Connects to a switch that listens, unless there is a connection. Throws SysError. */
  constructor(path: string, options: AttackerOptions) {
    this.fd = options.fd;
    this.bytes = options.bytes;
    this.pairs = options.pairs ?? 1;
    this.size = options.queueSize ?? 256;
    this.features = options.features ?? guestFeatures();
    this.packed = has(this.features, VIRTIO_F_RING_PACKED);
    const length = options.mappedBytes ?? options.bytes;
    this.#mapping = new Mapping(this.fd, 0, length);
    this.memory = bytesAt(this.#mapping.address, length);
    this.view = new DataView(this.memory.buffer, this.memory.byteOffset, length);
    for (let ring = 0; ring < this.pairs * 2; ring++) {
      this.kicks.push(eventfdCreate());
      this.calls.push(eventfdCreate());
      this.next.push(0);
    }
    this.frontend = new Frontend(options.socket ?? unixConnect(path));
  }

  descriptors(ring: number): number {
    return RINGS + ring * RING_BYTES;
  }
  driverArea(ring: number): number {
    return this.descriptors(ring) + AVAIL;
  }
  deviceArea(ring: number): number {
    return this.descriptors(ring) + USED;
  }
  buffer(ring: number, slot: number): number {
    return BUFFERS + (ring * this.size + (slot % this.size)) * BUFFER_BYTES;
  }

  /** What an honest front-end says, up to rings that run. */
  async handshake(): Promise<void> {
    const { frontend } = this;
    await frontend.negotiateProtocol(OFFERED_PROTOCOL_FEATURES);
    await frontend.tell(M.SET_FEATURES, C.encodeU64(frontend.offered & this.features));
    await frontend.tell(M.SET_MEM_TABLE, C.encodeMemoryTable([this.region()]), [this.fd]);
    for (let ring = 0; ring < this.pairs * 2; ring++) await this.startRing(ring);
    for (let ring = 0; ring < this.pairs * 2; ring++) {
      await frontend.tell(M.SET_VRING_ENABLE, C.encodeVringState({ index: ring, num: 1 }));
    }
  }

  region(): C.MemoryRegion {
    return {
      guestAddress: 0n,
      size: BigInt(this.bytes),
      userAddress: USER_BASE,
      mmapOffset: 0n,
    };
  }

  ringAddresses(index: number, flags = 0): Uint8Array {
    return C.encodeVringAddr({
      index,
      flags,
      desc: USER_BASE + BigInt(this.descriptors(index)),
      avail: USER_BASE + BigInt(this.driverArea(index)),
      used: USER_BASE + BigInt(this.deviceArea(index)),
      logAddress: BigInt(this.deviceArea(index)),
    });
  }

  async startRing(index: number): Promise<void> {
    const { frontend } = this;
    const num = this.packed ? 0x80008000 : 0;
    await frontend.tell(M.SET_VRING_NUM, C.encodeVringState({ index, num: this.size }));
    await frontend.tell(M.SET_VRING_BASE, C.encodeVringState({ index, num }));
    await frontend.tell(M.SET_VRING_ADDR, this.ringAddresses(index));
    await frontend.tell(M.SET_VRING_CALL, C.encodeU64(BigInt(index)), [this.calls[index]!]);
    await frontend.tell(M.SET_VRING_KICK, C.encodeU64(BigInt(index)), [this.kicks[index]!]);
  }

  /** Turns on the dirty log, of the rings too, as at the beginning of a migration. The descriptor stays the caller's. */
  async logTo(fd: number, bytes: number): Promise<void> {
    const { frontend } = this;
    await frontend.ask(M.SET_LOG_BASE, C.encodeLogBase({ size: BigInt(bytes), offset: 0n }), [fd]);
    const features = (frontend.offered & this.features) | bits(VHOST_F_LOG_ALL);
    await frontend.tell(M.SET_FEATURES, C.encodeU64(features));
    for (let ring = 0; ring < this.pairs * 2; ring++) {
      await frontend.tell(M.SET_VRING_ADDR, this.ringAddresses(ring, M.VRING_ADDR_LOG));
    }
  }

  /** Writes a descriptor into a table (of the ring, or an indirect one). */
  put(table: number, slot: number, descriptor: RawDescriptor): void {
    const at = table + slot * 16;
    if (at + 16 > this.view.byteLength) return;
    this.view.setBigUint64(at, BigInt.asUintN(64, descriptor.address), true);
    this.view.setUint32(at + 8, descriptor.length, true);
    this.view.setUint16(at + 12, this.packed ? descriptor.next : descriptor.flags, true);
    this.view.setUint16(at + 14, this.packed ? descriptor.flags : descriptor.next, true);
  }

  /** Makes a chain available, descriptor by descriptor in the ring, whatever they say, and rings the bell. */
  offer(ring: number, chain: readonly RawDescriptor[], kick = true): void {
    const first = this.next[ring]!;
    const table = this.descriptors(ring);
    if (this.packed) {
      // The head last: it makes the others visible.
      for (let i = chain.length - 1; i >= 0; i--) {
        const index = first + i;
        const lap = (Math.floor(index / this.size) & 1) === 0 ? 0x80 : 0x8000;
        const descriptor = chain[i]!;
        this.put(table, index % this.size, { ...descriptor, flags: descriptor.flags | lap });
      }
    } else {
      chain.forEach((descriptor, i) => {
        this.put(table, (first + i) % this.size, descriptor);
      });
      const avail = this.driverArea(ring);
      const index = this.view.getUint16(avail + 2, true);
      this.view.setUint16(avail + 4 + (index % this.size) * 2, first % this.size, true);
      this.view.setUint16(avail + 2, (index + 1) & 0xffff, true);
    }
    this.next[ring] = first + chain.length;
    if (kick) this.kick(ring);
  }

  kick(ring: number): void {
    eventfdSignal(this.kicks[ring]!);
  }

  /** A frame as an honest guest would send it, or (even ring) a buffer for one. */
  honest(ring: number, frame?: Uint8Array): RawDescriptor {
    const slot = this.next[ring]!;
    const at = this.buffer(ring, slot);
    const write = ring % 2 === 0;
    if (frame !== undefined) {
      this.memory.fill(0, at, at + 12);
      this.memory.set(frame.subarray(0, BUFFER_BYTES - 12), at + 12);
    }
    const length = frame === undefined ? BUFFER_BYTES : Math.min(frame.length + 12, BUFFER_BYTES);
    const flags = write ? DESC_WRITE : 0;
    return { address: BigInt(at), length, flags, next: slot % this.size };
  }

  [Symbol.dispose](): void {
    this.frontend.close();
    for (const fd of [...this.kicks, ...this.calls, this.fd]) closeFd(fd);
    this.#mapping[Symbol.dispose]();
  }
}
