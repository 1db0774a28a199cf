// A guest that sends and then is silent: the driver's side of one transmit ring with the two moments told apart between which
// a device may fall asleep: the buffers are visible (publish), and the driver asks whether the device wants to be told (kick).
// Writes ring and queue record by hand into the memory of a data plane (virtio 1.2, 2.7.7, 2.7.10, 2.8.10).

import {
  PORT_UP,
  PT_FLAGS,
  PT_REGION_COUNT,
  PT_REGIONS,
  portAddress,
} from '../../contract/port.ts';
import {
  DESC_F_AVAIL,
  DESC_F_USED,
  EVENT_DISABLE,
  USED_F_NO_NOTIFY,
  VF_EVENT_IDX,
  VFH_RING_PACKED,
  VFH_VERSION_1,
  VQ_AVAIL,
  VQ_CALL_FD,
  VQ_DESC,
  VQ_FEATURES,
  VQ_FEATURES_HIGH,
  VQ_HEADER,
  VQ_LAST_AVAIL,
  VQ_LAST_USED,
  VQ_SIZE,
  VQ_USED,
} from '../../contract/virtqueue.ts';
import {
  MAX_REGIONS_PER_PORT,
  RG_BASE,
  RG_BYTES,
  RG_GPA,
  regionAddress,
} from '../../contract/window.ts';
import { eventfdSignal } from '../../src/sys/eventfd.ts';

export type RingKind = 'split' | 'split, event index' | 'packed';
export const RING_KINDS: readonly RingKind[] = ['split', 'split, event index', 'packed'];

const SIZE = 64;
const FRAME_BYTES = 60;
const BUFFER_BYTES = 256;
/** Ring areas and buffers: what a guest needs of the memory. */
export const GUEST_BYTES = 0x8000;
const AVAIL = 0x1000;
const USED = 0x2000;
const BUFFERS = 0x3000;

export class KickingGuest {
  readonly #u16: Uint16Array;
  readonly #base: number;
  readonly #kind: RingKind;
  readonly #kickFd: number;
  /** Free running: made visible, asked for, given back. */
  sent = 0;
  #asked = 0;
  back = 0;

  /** `base`: GUEST_BYTES of zeroes. `q`: address of the queue's record, whose common part is written. */
  constructor(
    memory: WebAssembly.Memory,
    base: number,
    kind: RingKind,
    q: number,
    port: number,
    kickFd: number,
  ) {
    this.#u16 = new Uint16Array(memory.buffer);
    this.#base = base;
    this.#kind = kind;
    this.#kickFd = kickFd;
    const view = new DataView(memory.buffer);
    const set = (at: number, value: number): void => view.setUint32(at, value, true);
    const region = regionAddress(port * MAX_REGIONS_PER_PORT);
    view.setBigUint64(region + RG_GPA, 0n, true);
    view.setBigUint64(region + RG_BYTES, BigInt(GUEST_BYTES), true);
    set(region + RG_BASE, base);
    set(portAddress(port) + PT_REGIONS, port * MAX_REGIONS_PER_PORT);
    set(portAddress(port) + PT_REGION_COUNT, 1);
    set(portAddress(port) + PT_FLAGS, PORT_UP);
    const packed = kind === 'packed';
    for (let i = 0; i < SIZE; i++) {
      view.setBigUint64(base + i * 16, BigInt(BUFFERS + i * BUFFER_BYTES), true);
      set(base + i * 16 + 8, FRAME_BYTES + 12);
      if (packed) view.setUint16(base + i * 16 + 12, i, true);
      else view.setUint16(base + AVAIL + 4 + i * 2, i, true);
    }
    set(q + VQ_SIZE, SIZE);
    set(q + VQ_DESC, base);
    set(q + VQ_AVAIL, base + AVAIL);
    set(q + VQ_USED, base + USED);
    set(q + VQ_HEADER, 12);
    set(q + VQ_FEATURES, kind === 'split, event index' ? VF_EVENT_IDX : 0);
    set(q + VQ_FEATURES_HIGH, VFH_VERSION_1 | (packed ? VFH_RING_PACKED : 0));
    set(q + VQ_LAST_AVAIL, packed ? 0x8000 : 0);
    set(q + VQ_LAST_USED, packed ? 0x8000 : 0);
    view.setInt32(q + VQ_CALL_FD, -1, true);
  }

  /** Makes `n` frames visible. */
  publish(n: number): void {
    if (this.#kind === 'packed') {
      // The first one last: the device stops at one that is not available.
      for (let i = this.sent + n - 1; i >= this.sent; i--) {
        const flags = lap(i) === 1 ? DESC_F_AVAIL : DESC_F_USED;
        Atomics.store(this.#u16, (this.#base + (i % SIZE) * 16 + 14) >> 1, flags);
      }
    } else Atomics.store(this.#u16, (this.#base + AVAIL + 2) >> 1, (this.sent + n) & 0xffff);
    this.sent += n;
  }

  /** As a device that polls has left the ring (flags). */
  silence(): void {
    Atomics.store(this.#u16, (this.#base + USED) >> 1, USED_F_NO_NOTIFY);
  }

  /** Tells the device, if it wants to be told, of what has become visible since the last time. */
  kick(): void {
    const n = this.sent - this.#asked;
    this.#asked = this.sent;
    if (n > 0 && this.#wanted(n)) eventfdSignal(this.#kickFd);
  }

  #wanted(n: number): boolean {
    const used = (this.#base + USED) >> 1;
    if (this.#kind === 'packed') return Atomics.load(this.#u16, used + 1) !== EVENT_DISABLE;
    if (this.#kind === 'split') return (Atomics.load(this.#u16, used) & USED_F_NO_NOTIFY) === 0;
    const event = Atomics.load(this.#u16, used + 2 + SIZE * 4);
    return ((this.sent - event - 1) & 0xffff) < n;
  }

  /** Frames that the device has not given back. */
  pending(): number {
    if (this.#kind === 'packed') {
      for (; this.back < this.sent; this.back++) {
        const at = (this.#base + (this.back % SIZE) * 16 + 14) >> 1;
        const flags = Atomics.load(this.#u16, at) & (DESC_F_AVAIL | DESC_F_USED);
        if (flags !== (lap(this.back) === 1 ? DESC_F_AVAIL | DESC_F_USED : 0)) break;
      }
    } else {
      const index = Atomics.load(this.#u16, (this.#base + USED + 2) >> 1);
      this.back += (index - this.back) & 0xffff;
    }
    return this.sent - this.back;
  }
}

function lap(index: number): number {
  return (Math.floor(index / SIZE) + 1) & 1;
}
