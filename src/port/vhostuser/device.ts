// Applies the state of the back-end to the engine: queue records, windows, what the port can do.
//
// One change at a time: map what is new, take rings away from the workers, exchange the memory, give rings back, then
// release what nobody uses any more. A ring that stops leaves its indices, for GET_VRING_BASE and for the next start.

import {
  OFFLOAD_CSUM,
  OFFLOAD_ECN,
  OFFLOAD_TSO4,
  OFFLOAD_TSO6,
  OFFLOAD_UFO,
  Q_ENABLED,
  QUEUE_PACKED,
  QUEUE_SPLIT,
  queueAddress,
} from '../../../contract/port.ts';
import * as VQ from '../../../contract/virtqueue.ts';
import type { Engine, MemoryLost } from '../../engine/types.ts';
import { readMapped, writeMapped } from '../../sys/busError.ts';
import {
  has,
  VHOST_F_LOG_ALL,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_VERSION_1,
  VIRTIO_NET_F_GUEST_CSUM,
  VIRTIO_NET_F_GUEST_ECN,
  VIRTIO_NET_F_GUEST_TSO4,
  VIRTIO_NET_F_GUEST_TSO6,
  VIRTIO_NET_F_GUEST_UFO,
  VIRTIO_NET_F_MRG_RXBUF,
} from '../../wire/vhostuser/features.ts';
import { withBases } from './backend.ts';
import { GuestMemory } from './guestMemory.ts';
import { writeInflightHeader } from './inflight.ts';
import { packedPosition } from './packedPosition.ts';
import { findTear, mendTear } from './packedTear.ts';
import { isAttached, plan } from './plan.ts';
import { locateRing } from './regions.ts';
import { type BackendState, initialState, isEnabled, isPacked } from './state.ts';

/** What a guest takes from us, by the features that it took. */
const PORT_OFFLOADS: readonly (readonly [feature: number, offload: number])[] = [
  [VIRTIO_NET_F_GUEST_CSUM, OFFLOAD_CSUM],
  [VIRTIO_NET_F_GUEST_TSO4, OFFLOAD_TSO4],
  [VIRTIO_NET_F_GUEST_TSO6, OFFLOAD_TSO6],
  [VIRTIO_NET_F_GUEST_ECN, OFFLOAD_ECN],
  [VIRTIO_NET_F_GUEST_UFO, OFFLOAD_UFO],
];

interface AttachedRing {
  queue: number;
  packed: boolean;
  num: number;
  unpin: (() => void)[];
}

export class VhostDevice {
  readonly #engine: Engine;
  readonly #port: number;
  readonly #memory: GuestMemory;
  readonly #view: DataView;
  readonly #attached = new Map<number, AttachedRing>();
  readonly #log: (text: string) => void;

  /** After handOver(): resolves when nothing of the guest is here any more. */
  left: Promise<void> | undefined;

  constructor(engine: Engine, port: number, log: (text: string) => void, onLost: MemoryLost) {
    this.#engine = engine;
    this.#port = port;
    this.#memory = new GuestMemory(engine, port, onLost);
    this.#view = new DataView(engine.memory.buffer);
    this.#log = log;
  }

  /** Ring of an engine's queue number, -1 if it is none of ours. */
  ringOf(queue: number): number {
    for (const [index, ring] of this.#attached) if (ring.queue === queue) return index;
    return -1;
  }

  /** The attached rings with their queue numbers. */
  *queues(): Iterable<{ ring: number; queue: number }> {
    for (const [ring, { queue }] of this.#attached) yield { ring, queue };
  }

  /**
   * Makes the engine do what `after` says. Resolves with `after`, completed by the indices of rings that stopped, when
   * no worker can use anything of `before` any more. Throws SysError before anything has changed, or later, and then
   * the connection has to be closed. `go`: rings that start receive nothing before it resolves; they can be sent to.
   */
  async apply(
    before: BackendState,
    after: BackendState,
    go?: Promise<void>,
  ): Promise<BackendState> {
    const steps = plan(before, after);
    if (steps.memory) this.#memory.prepare(after.regions);
    try {
      if (steps.log) this.#memory.setLog(after.log);
    } catch (thrown) {
      this.#memory.abandon();
      throw thrown;
    }
    const bases = await this.#stop(steps.stop);
    const next = withBases(after, bases);
    for (const [index, base] of bases) {
      writeInflightHeader(next, index, next.rings[index]!.num, base);
    }
    if (steps.memory) this.#memory.commit(next.regions);
    const waiting: number[] | undefined = go === undefined ? undefined : [];
    for (const index of steps.start) this.#start(next, index, waiting);
    if (waiting) {
      if (steps.port) this.#describePort(next);
      await go;
      for (const queue of waiting) this.#engine.attachQueue(queue);
    }
    if (steps.update.length > 0) await this.#update(next, steps.update, steps.log);
    if (steps.port && !waiting) this.#describePort(next);
    // Whatever changed under running rings must have been seen before the answer, and before anything is released.
    if (steps.update.length > 0 || steps.memory || steps.log) await this.#engine.quiesce();
    this.#memory.finish();
    return next;
  }

  /** Takes everything away. */
  async reset(state: BackendState): Promise<void> {
    const bases = await this.#stop([...this.#attached.keys()]);
    for (const [index, base] of bases) {
      writeInflightHeader(state, index, state.rings[index]!.num, base);
    }
    this.#memory.abandon();
    this.#memory.setLog(undefined);
    this.#memory.commit([]);
    this.#describePort(initialState(state.options));
    this.#memory.finish();
  }

  /** As reset(), but for good: resolves with the state that another process takes up. */
  async handOver(state: BackendState): Promise<BackendState> {
    const stopped = withBases(state, await this.#stop([...this.#attached.keys()]));
    // The other process waits for the descriptors, nobody for the memory.
    this.left = new Promise<void>((resolve) => {
      setImmediate(resolve);
    }).then(() => this.reset(stopped));
    return stopped;
  }

  async #stop(indices: readonly number[]): Promise<Map<number, number>> {
    const bases = new Map<number, number>();
    await Promise.all(
      indices.map(async (index) => {
        const ring = this.#attached.get(index);
        if (ring === undefined) return;
        await this.#engine.detachQueue(ring.queue);
        const q = queueAddress(ring.queue);
        const avail = this.#view.getUint32(q + VQ.VQ_LAST_AVAIL, true) & 0xffff;
        const used = this.#view.getUint32(q + VQ.VQ_LAST_USED, true) & 0xffff;
        bases.set(index, ring.packed ? (avail | (used << 16)) >>> 0 : avail);
        this.#engine.removeQueue(ring.queue);
        for (const unpin of ring.unpin) unpin();
        this.#attached.delete(index);
      }),
    );
    return bases;
  }

  /** `waiting`: gets receive queues that are not to be polled yet. */
  #start(state: BackendState, index: number, waiting?: number[]): void {
    const ring = state.rings[index]!;
    const where = locateRing(state, ring);
    if (typeof where === 'string') throw new Error(`ring ${index}: ${where}`);
    const packed = isPacked(state);
    const unpin: (() => void)[] = [];
    const pin = (location: (typeof where)['desc']): number => {
      const pinned = this.#memory.pin(state.regions, location);
      unpin.push(pinned.unpin);
      return pinned.address;
    };
    try {
      const [desc, avail, used] = [pin(where.desc), pin(where.avail), pin(where.used)];
      const queue = this.#engine.addQueue(this.#port, {
        direction: index % 2 === 1 ? 'rx' : 'tx',
        index: index >> 1,
        kind: packed ? QUEUE_PACKED : QUEUE_SPLIT,
        waitFd: ring.kick,
      });
      const q = queueAddress(queue);
      const set = (offset: number, value: number) => this.#view.setUint32(q + offset, value, true);
      set(VQ.VQ_SIZE, ring.num);
      set(VQ.VQ_DESC, desc);
      set(VQ.VQ_AVAIL, avail);
      set(VQ.VQ_USED, used);
      const features = state.features ?? 0n;
      const long = has(features, VIRTIO_F_VERSION_1) || has(features, VIRTIO_NET_F_MRG_RXBUF);
      set(VQ.VQ_HEADER, long ? 12 : 10);
      const [lastAvail, lastUsed] = this.#position(state, index, desc, used);
      set(VQ.VQ_LAST_AVAIL, lastAvail);
      set(VQ.VQ_LAST_USED, lastUsed);
      set(VQ.VQ_NOTIFY, VQ.NOTIFY_UNKNOWN);
      set(VQ.VQ_CALL_PENDING, 1);
      set(VQ.VQ_BURST, 0);
      set(VQ.VQ_HELD, 0);
      const descRegion = state.regions[where.desc.region]!;
      const descAddress = descRegion.guestAddress + where.desc.offset;
      this.#view.setBigUint64(q + VQ.VQ_DESC_GPA, descAddress, true);
      this.#attached.set(index, { queue, packed, num: ring.num, unpin });
      this.#writeLive(state, index, queue);
      writeInflightHeader(state, index, ring.num, lastUsed);
      if (waiting && index % 2 === 1) waiting.push(queue);
      else this.#engine.attachQueue(queue);
    } catch (thrown) {
      if (!this.#attached.has(index)) for (const undo of unpin) undo();
      throw thrown;
    }
  }

  /**
   * Where the ring goes on. We give chains back in the order in which we take them, so the used index of the ring says
   * where to go on, too; if it differs from what the front-end says (its back-end died with packets in hand), it is right.
   * Packed rings: the used half of the base is the avail half (DPDK does not send it at all). If the flags of the
   * descriptors contradict it, they say where to go on.
   */
  #position(state: BackendState, index: number, desc: number, used: number): [number, number] {
    const { base, num } = state.rings[index]!;
    if (isPacked(state)) {
      const told = base & 0xffff;
      // In order, skipped descriptors keep the flags of available ones.
      const inOrder = has(state.features ?? 0n, VIRTIO_F_IN_ORDER);
      const ring = this.#guest(desc, num * 16);
      const position = packedPosition(ring, 0, num);
      // A ring that stands where the front-end says is not torn: there is nothing to mend when nobody has died.
      const mended =
        position === told || (inOrder && index % 2 === 1)
          ? undefined
          : this.#mend(index, desc, ring, num);
      const found = mended ?? (inOrder ? told : (position ?? told));
      if (found !== told) {
        this.#log(`ring ${index}: base ${told}, but the ring stands at ${found}: going on there`);
      }
      return [found, found];
    }
    const usedIndex = this.#guest(used + 2, 2).getUint16(0, true);
    if (usedIndex !== base) {
      this.#log(`ring ${index}: base ${base}, but the used index is ${usedIndex}: going on there`);
    }
    return [usedIndex, usedIndex];
  }

  /** Finishes or undoes what a back-end that died had begun in a packed ring; where the ring goes on then. */
  #mend(index: number, desc: number, ring: DataView, num: number): number | undefined {
    const tear = findTear(ring, num);
    if (tear === undefined) return undefined;
    const { writes, position } = mendTear(ring, num, tear, index % 2 === 0);
    const { lead, rest } = tear;
    this.#log(`ring ${index}: ${rest} used descriptors behind ${lead} that are not: mended`);
    const base = this.#engine.base + BigInt(desc);
    for (const { offset, bytes } of writes) writeMapped(base + BigInt(offset), bytes);
    return position;
  }

  /** A copy of guest memory. Throws SysError if its file has lost it: a plain load would be a SIGBUS of this thread. */
  #guest(address: number, bytes: number): DataView {
    return readMapped(this.#engine.base + BigInt(address), bytes);
  }

  /** The words that may change while the ring runs. */
  #writeLive(state: BackendState, index: number, queue: number): void {
    const ring = state.rings[index]!;
    const q = queueAddress(queue);
    const set = (offset: number, value: number) => this.#view.setUint32(q + offset, value, true);
    const features = state.features ?? 0n;
    const logged = has(features, VHOST_F_LOG_ALL) && state.log !== undefined;
    this.#view.setInt32(q + VQ.VQ_CALL_FD, ring.call, true);
    set(Q_ENABLED, isEnabled(state, ring) ? 1 : 0);
    // Also if it is not to be written to: a worker may be about to set a bit that it has just been asked for.
    set(VQ.VQ_LOG, this.#memory.logAddress);
    set(VQ.VQ_LOG_BYTES, this.#memory.logBytes);
    set(VQ.VQ_LOG_RING, ring.addresses?.logged ? 1 : 0);
    this.#view.setBigUint64(q + VQ.VQ_USED_GPA, ring.addresses?.logAddress ?? 0n, true);
    set(VQ.VQ_FEATURES_HIGH, Number(features >> 32n));
    set(VQ.VQ_FEATURES, Number(features & 0xffffffffn) & ~(logged ? 0 : VQ.VF_LOG_ALL));
  }

  async #update(state: BackendState, indices: readonly number[], log: boolean): Promise<void> {
    if (log) await this.#moveLog(indices);
    for (const index of indices) this.#writeLive(state, index, this.#attached.get(index)!.queue);
  }

  /**
   * The log moves. The front-end reads the old one once more after our answer, so workers go on writing to either, but none
   * may find a log that is shorter than it believes: first the smaller size, then the address, then the size.
   */
  async #moveLog(indices: readonly number[]): Promise<void> {
    const { logAddress, logBytes } = this.#memory;
    const queues = indices.map((index) => queueAddress(this.#attached.get(index)!.queue));
    const get = (q: number, offset: number) => this.#view.getUint32(q + offset, true);
    const set = (q: number, offset: number, value: number) =>
      this.#view.setUint32(q + offset, value, true);
    for (const q of queues) {
      set(q, VQ.VQ_LOG_BYTES, Math.min(get(q, VQ.VQ_LOG_BYTES), logBytes));
      if (logAddress === 0) set(q, VQ.VQ_FEATURES, get(q, VQ.VQ_FEATURES) & ~VQ.VF_LOG_ALL);
    }
    await this.#engine.quiesce();
    for (const q of queues) if (get(q, VQ.VQ_LOG) !== 0) set(q, VQ.VQ_LOG, logAddress);
    await this.#engine.quiesce();
  }

  #describePort(state: BackendState): void {
    let offloads = 0;
    for (const [feature, offload] of PORT_OFFLOADS) {
      if (has(state.features ?? 0n, feature)) offloads |= offload;
    }
    let usableTxQueues = 0;
    for (let i = 0; i < state.rings.length; i += 2) if (isAttached(state, i)) usableTxQueues++;
    this.#engine.setPort(this.#port, { offloads, usableTxQueues });
  }
}
