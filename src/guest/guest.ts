// One of our own guests: memory, rings, doorbells, and a vhost-user front-end that gives them to a switch.
//
// It plays the part of QEMU for the demonstration (npm start), for tests and for benchmarks. Who fills the rings is
// left open: thread.ts runs the fast driver, TestDriver (testDriver.ts) is the slow one for odd and hostile cases. The guest
// survives its switch: when the connection goes, it waits for the next one and goes on with the same rings.

import { rmSync } from 'node:fs';
import { eventfdCreate, eventfdSignal } from '../sys/eventfd.ts';
import { closeFd } from '../sys/fd.ts';
import { mapAnonymous, mapFixed, memfdCreate, memoryBase } from '../sys/memory.ts';
import { type Watcher, watchFd } from '../sys/poll.ts';
import { unixAccept, unixConnect, unixListen } from '../sys/unix.ts';
import * as C from '../wire/vhostuser/codec.ts';
import {
  bits,
  has,
  OFFERED_FEATURES,
  OFFERED_PROTOCOL_FEATURES,
  PROTOCOL_F_NET_MTU,
  PROTOCOL_F_STATUS,
  VHOST_USER_F_PROTOCOL_FEATURES,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
  VIRTIO_NET_F_MRG_RXBUF,
  VIRTIO_RING_F_EVENT_IDX,
} from '../wire/vhostuser/features.ts';
import * as M from '../wire/vhostuser/messages.ts';
import * as L from './driver/layout.ts';
import { Frontend } from './frontend.ts';

export interface GuestOptions {
  /** Socket of the switch ('client') or of the guest ('server', for ports of type dpdkvhostuserclient). */
  path: string;
  mode: 'client' | 'server';
  pairs?: number;
  queueSize?: number;
  /** Virtio features to take if they are offered; default: see guestFeatures. */
  features?: bigint;
  protocolFeatures?: bigint;
  /** Bytes of each packet buffer. */
  bufferBytes?: number;
  /** Distance of the first buffer from a page: 52 makes frames behind a 12-byte header begin at a cache line. */
  bufferSkewBytes?: number;
  memoryBytes?: number;
  mtu?: number;
}

const ADDRESS_PAGES = 65536;
/** Where the memory is in the front-end's (imaginary) address space. */
export const USER_BASE = 0x7f4200000000n;
const RETRY_MS = 100;

const BASE_FEATURES = bits(
  VIRTIO_F_VERSION_1,
  VHOST_USER_F_PROTOCOL_FEATURES,
  28, // indirect descriptors
  22, // several queues
);

/** Features of a guest without offloads, with the given ring variant. */
export function guestFeatures(
  variant: {
    packed?: boolean;
    inOrder?: boolean;
    mergeable?: boolean;
    eventIdx?: boolean;
    /** Checksum and segmentation in both directions. */
    offloads?: boolean;
  } = {},
): bigint {
  let features = BASE_FEATURES;
  if (variant.packed) features |= bits(VIRTIO_F_RING_PACKED);
  if (variant.inOrder) features |= bits(VIRTIO_F_IN_ORDER);
  if (variant.mergeable ?? true) features |= bits(VIRTIO_NET_F_MRG_RXBUF);
  if (variant.eventIdx) features |= bits(VIRTIO_RING_F_EVENT_IDX);
  if (variant.offloads) features |= bits(0, 1, 7, 8, 9, 10, 11, 12, 13, 14);
  return features;
}

export class Guest {
  readonly memory: WebAssembly.Memory;
  readonly view: DataView;
  readonly bytes: Uint8Array;
  readonly options: Required<Omit<GuestOptions, 'mtu'>> & { mtu: number };
  /** Doorbells of each ring: we write kicks, the switch writes calls. */
  readonly kicks: number[] = [];
  readonly calls: number[] = [];
  readonly memfd: number;
  /** Where packed rings go on after a reconnection, by ring: for drivers that make chains of several descriptors. */
  readonly positions = new Map<number, () => number>();
  /** Taken features, 0 before the first handshake. */
  features = 0n;
  frontend: Frontend | undefined;
  /** Handshakes completed. */
  connections = 0;
  /** Called after every handshake and when a connection goes. */
  onChange: (() => void) | undefined;
  /** Waited for before a handshake begins: guests that come back one after the other. */
  beforeHandshake: (() => Promise<void>) | undefined;
  #listener: { fd: number; watcher: Watcher } | undefined;
  #timer: NodeJS.Timeout | undefined;
  #closed = false;
  #departed = false;
  #lastError: Error | undefined;

  constructor(options: GuestOptions) {
    this.options = {
      pairs: 1,
      queueSize: 256,
      features: guestFeatures(),
      protocolFeatures: OFFERED_PROTOCOL_FEATURES,
      bufferBytes: 2048,
      bufferSkewBytes: 0,
      memoryBytes: 64 << 20,
      mtu: 0,
      ...options,
    };
    this.memory = new WebAssembly.Memory({
      initial: ADDRESS_PAGES,
      maximum: ADDRESS_PAGES,
      shared: true,
    });
    const { memoryBytes, pairs } = this.options;
    this.memfd = memfdCreate('xvio-guest', memoryBytes);
    mapFixed(memoryBase(this.memory), this.memfd, 0, memoryBytes);
    this.view = new DataView(this.memory.buffer);
    this.bytes = new Uint8Array(this.memory.buffer);
    for (let ring = 0; ring < pairs * 2; ring++) {
      this.kicks.push(eventfdCreate());
      this.calls.push(eventfdCreate());
    }
    if (this.#layOut(this.options.features) > memoryBytes) {
      throw new RangeError('rings and buffers do not fit into the guest memory');
    }
  }

  ringRecord(ring: number): number {
    return L.GUEST_RINGS + ring * L.GR_RECORD;
  }

  /** Writes the records of all rings; returns the first address behind the last buffer. */
  #layOut(features: bigint): number {
    const { pairs, queueSize, bufferBytes, bufferSkewBytes } = this.options;
    let free = L.GUEST_DYNAMIC;
    const take = (bytes: number): number => {
      const address = free;
      free = (free + bytes + 4095) & ~4095;
      return address;
    };
    for (let ring = 0; ring < pairs * 2; ring++) {
      const r = this.ringRecord(ring);
      this.bytes.fill(0, r, r + L.GR_RECORD);
      const set = (offset: number, value: number) => this.view.setUint32(r + offset, value, true);
      set(L.GR_SIZE, queueSize);
      set(L.GR_PACKED, has(features, VIRTIO_F_RING_PACKED) ? 1 : 0);
      set(L.GR_IN_ORDER, has(features, VIRTIO_F_IN_ORDER) ? 1 : 0);
      set(L.GR_EVENT_IDX, has(features, VIRTIO_RING_F_EVENT_IDX) ? 1 : 0);
      const long = has(features, VIRTIO_F_VERSION_1) || has(features, VIRTIO_NET_F_MRG_RXBUF);
      set(L.GR_HEADER, long ? 12 : 10);
      set(L.GR_DESC, take(16 * queueSize));
      set(L.GR_AVAIL, take(6 + 2 * queueSize));
      set(L.GR_USED, take(6 + 8 * queueSize));
      set(L.GR_BUFFER_SIZE, bufferBytes);
      set(L.GR_BUFFERS, take(queueSize * bufferBytes + bufferSkewBytes) + bufferSkewBytes);
      this.bytes.fill(
        0,
        this.view.getUint32(r + L.GR_DESC, true),
        this.view.getUint32(r + L.GR_BUFFERS, true),
      );
    }
    return free;
  }

  /** Begins to listen or to connect. Throws SysError if it cannot listen. */
  open(): void {
    if (this.options.mode === 'client') {
      this.#connect();
      return;
    }
    const fd = unixListen(this.options.path);
    const watcher = watchFd(fd, { read: true }, () => {
      const socket = unixAccept(fd);
      if (socket < 0) return;
      if (this.frontend || this.#departed) closeFd(socket);
      else void this.#handshake(socket);
    });
    this.#listener = { fd, watcher };
  }

  #connect(): void {
    if (this.#closed || this.#departed) return;
    try {
      void this.#handshake(unixConnect(this.options.path));
    } catch (thrown) {
      this.#lastError = thrown as Error;
      this.#timer = setTimeout(() => this.#connect(), RETRY_MS);
    }
  }

  async #handshake(socket: number): Promise<void> {
    const frontend = new Frontend(socket);
    this.frontend = frontend;
    frontend.onClose(() => {
      this.frontend = undefined;
      this.onChange?.();
      if (this.#closed || this.options.mode === 'server') return;
      this.#timer = setTimeout(() => this.#connect(), RETRY_MS);
    });
    try {
      await this.beforeHandshake?.();
      await this.negotiate(frontend);
      this.#arrived = undefined; // from now on the rings say themselves where they are
      this.connections++;
      this.onChange?.();
    } catch (thrown) {
      this.#lastError = thrown as Error;
      frontend.close();
    }
  }

  /** The whole handshake, up to rings that run. */
  async negotiate(frontend: Frontend): Promise<void> {
    const { features: wanted, protocolFeatures, memoryBytes, mtu, pairs } = this.options;
    await frontend.negotiateProtocol(protocolFeatures);
    const features = frontend.offered & wanted & OFFERED_FEATURES;
    if (pairs > frontend.maxPairs)
      throw new Error(`the switch does at most ${frontend.maxPairs} pairs`);
    if (this.features === 0n) {
      this.#layOut(features);
      this.features = features;
    } else if (features !== this.features) throw new Error('the switch offers other features now');
    const status = has(frontend.protocolFeatures, PROTOCOL_F_STATUS);
    await frontend.tell(M.SET_FEATURES, C.encodeU64(features));
    if (status) await frontend.tell(M.SET_STATUS, C.encodeU64(11n));
    if (mtu > 0 && has(frontend.protocolFeatures, PROTOCOL_F_NET_MTU)) {
      await frontend.tell(M.NET_SET_MTU, C.encodeU64(BigInt(mtu)));
    }
    const region = {
      guestAddress: 0n,
      size: BigInt(memoryBytes),
      userAddress: USER_BASE,
      mmapOffset: 0n,
    };
    await frontend.tell(M.SET_MEM_TABLE, C.encodeMemoryTable([region]), [this.memfd]);
    for (let ring = 0; ring < pairs * 2; ring++) await this.startRing(frontend, ring);
    if (has(features, VHOST_USER_F_PROTOCOL_FEATURES)) {
      for (let ring = 0; ring < pairs * 2; ring++) await this.enableRing(ring, true, frontend);
    }
    if (status) {
      const all =
        M.STATUS_ACKNOWLEDGE | M.STATUS_DRIVER | M.STATUS_DRIVER_OK | M.STATUS_FEATURES_OK;
      await frontend.tell(M.SET_STATUS, C.encodeU64(BigInt(all)));
    }
    // Whatever we made available while nobody was there: ring the bell once.
    for (const kick of this.kicks) eventfdSignal(kick);
  }

  /** Real address of byte 0 of the memory. */
  get base(): bigint {
    return memoryBase(this.memory);
  }

  /** Lays the rings out for these features, empty. */
  prepare(features: bigint): void {
    this.#layOut(features);
  }

  /** This guest has been migrated to here: the memory is filled, and the rings go on at these indices. */
  arrive(features: bigint, bases: ReadonlyMap<number, number>): void {
    this.features = features;
    this.#arrived = bases;
  }
  #arrived: ReadonlyMap<number, number> | undefined;

  /**
   * This guest has been migrated from here: its rings never start again, whatever becomes of the connection. What is left
   * in them is the other place's to send, or it would be sent twice.
   */
  depart(): void {
    this.#departed = true;
  }

  /**
   * Where ring `ring` goes on: where it stopped on the host from which the guest came, or, as a front-end tells it after
   * its switch died, at the first buffer not given back.
   */
  ringBase(ring: number): number {
    const arrived = this.#arrived?.get(ring);
    if (arrived !== undefined) return arrived;
    const r = this.ringRecord(ring);
    const size = this.view.getUint32(r + L.GR_SIZE, true);
    if (!has(this.features, VIRTIO_F_RING_PACKED)) {
      return this.view.getUint16(this.view.getUint32(r + L.GR_USED, true) + 2, true);
    }
    const done = this.positions.get(ring)?.() ?? this.#packedPosition(r);
    const half = (done % size) | (((Math.floor(done / size) + 1) & 1) << 15);
    return (half | (half << 16)) >>> 0;
  }

  /** Free running index of the first descriptor of a packed ring that the device has not given back (fast driver). */
  #packedPosition(record: number): number {
    const field = (offset: number) => this.view.getUint32(record + offset, true);
    const [size, desc, next] = [field(L.GR_SIZE), field(L.GR_DESC), field(L.GR_NEXT)];
    let at = field(L.GR_DONE);
    while (at !== next) {
      const wrap = (Math.floor(at / size) + 1) & 1;
      const descriptor = desc + (at % size) * 16;
      const flags = this.view.getUint16(descriptor + 14, true);
      if (((flags >> 7) & 1) !== wrap || flags >> 15 !== wrap) break;
      const last = this.view.getUint16(descriptor + 12, true);
      at += field(L.GR_IN_ORDER) !== 0 ? ((last - (at % size) + size) % size) + 1 : 1;
    }
    return at;
  }

  /** First address behind everything that is used. */
  get end(): number {
    const r = this.ringRecord(this.options.pairs * 2 - 1);
    const { queueSize, bufferBytes } = this.options;
    return this.view.getUint32(r + L.GR_BUFFERS, true) + queueSize * bufferBytes;
  }

  #ringAddresses(index: number, logged: boolean): Uint8Array {
    const r = this.ringRecord(index);
    const at = (offset: number) => BigInt(this.view.getUint32(r + offset, true));
    return C.encodeVringAddr({
      index,
      flags: logged ? M.VRING_ADDR_LOG : 0,
      desc: USER_BASE + at(L.GR_DESC),
      avail: USER_BASE + at(L.GR_AVAIL),
      used: USER_BASE + at(L.GR_USED),
      logAddress: at(L.GR_USED),
    });
  }

  /** Turns logging of the rings themselves on or off, as QEMU does at the beginning and end of a migration. */
  async setLogging(on: boolean): Promise<void> {
    for (let ring = 0; ring < this.options.pairs * 2; ring++) {
      await this.frontend?.tell(M.SET_VRING_ADDR, this.#ringAddresses(ring, on));
    }
  }

  async startRing(frontend: Frontend, index: number): Promise<void> {
    const { queueSize } = this.options;
    await frontend.tell(M.SET_VRING_NUM, C.encodeVringState({ index, num: queueSize }));
    await frontend.tell(M.SET_VRING_BASE, C.encodeVringState({ index, num: this.ringBase(index) }));
    await frontend.tell(M.SET_VRING_ADDR, this.#ringAddresses(index, false));
    const word = C.encodeU64(BigInt(index));
    await frontend.tell(M.SET_VRING_CALL, word, [this.calls[index]!]);
    await frontend.tell(M.SET_VRING_KICK, word, [this.kicks[index]!]);
  }

  async enableRing(index: number, on: boolean, frontend = this.frontend): Promise<void> {
    await frontend?.tell(M.SET_VRING_ENABLE, C.encodeVringState({ index, num: on ? 1 : 0 }));
  }

  /** Resolves when handshake number `count` is complete (of all since the start). Rejects after the time. */
  async connected(count = 1, timeoutMs = 10_000): Promise<void> {
    const deadline = performance.now() + timeoutMs;
    while (this.connections < count) {
      if (performance.now() > deadline) {
        throw new Error(
          `no switch at ${this.options.path}: ${this.#lastError?.message ?? 'timeout'}`,
        );
      }
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#timer);
    if (this.#listener) {
      this.#listener.watcher[Symbol.dispose]();
      closeFd(this.#listener.fd);
      rmSync(this.options.path, { force: true });
    }
    this.frontend?.close();
    for (const fd of [...this.kicks, ...this.calls, this.memfd]) closeFd(fd);
    mapAnonymous(memoryBase(this.memory), this.options.memoryBytes);
  }
}
