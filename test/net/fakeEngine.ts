// An engine for tests of kernel ports alone: arena, ports and queues as the real one lays them out, but no workers. The test
// calls breathe(), which does for one thread what a worker does, and forwards each port's packets to one other port.

import { PC_DROPS, portCountersAddress } from '../../contract/counters.ts';
import { DROP_COUNT } from '../../contract/drop.ts';
import {
  ARENA_BASE,
  ARENA_SIZE,
  WK_FLUSH,
  WK_FLUSH_COUNT,
  WORKER_BASE,
} from '../../contract/memory.ts';
import { PKT_LEN, PKT_SIZE, PV_IO, privateAddress } from '../../contract/packet.ts';
import {
  PT_MTU,
  portAddress,
  Q_DIR,
  Q_ENABLED,
  Q_INDEX,
  Q_KIND,
  Q_PORT,
  Q_WAIT_FD,
  QUEUE_XDP,
  queueAddress,
} from '../../contract/port.ts';
import { HostIo } from '../../src/engine/hostio.ts';
import type { Engine, PortCounters, QueueSpec } from '../../src/engine/types.ts';
import { memoryBase } from '../../src/sys/memory.ts';

type Burst = (q: number, at: number, n: number) => number;
export interface KernelPortExports {
  setWorker(id: number): void;
  frameRxBurst: Burst;
  frameRxDone(q: number): void;
  frameTxBurst: Burst;
  xdpRxBurst: Burst;
  xdpRxDone(q: number): void;
  xdpTxBurst: Burst;
}

interface FakePort {
  rx: number[];
  tx: number[];
  flags: number;
  usableTxQueues: number;
  mtu: number;
  offloads: number;
}

export type Inspect = (record: number, inPort: number) => void;

export class FakeEngine {
  readonly memory = new WebAssembly.Memory({ initial: 65536, maximum: 65536, shared: true });
  readonly base = memoryBase(this.memory);
  readonly view = new DataView(this.memory.buffer);
  readonly ports = new Map<number, FakePort>();
  readonly wasm: KernelPortExports;
  /** Looked at before a packet is forwarded. */
  inspect: Inspect | undefined;
  /** Input port to output port. */
  readonly wires = new Map<number, number>();
  private readonly host = new HostIo(this.memory, 0);
  private nextQueue = 0;
  private nextArena = ARENA_BASE;
  private readonly queuePorts = new Map<number, [port: number, direction: 'rx' | 'tx']>();

  constructor(module: WebAssembly.Module) {
    const env = { memory: this.memory, abort: () => {} };
    this.wasm = new WebAssembly.Instance(module, { env }).exports as unknown as KernelPortExports;
    this.wasm.setWorker(0);
  }

  asEngine(): Engine {
    return this as unknown as Engine;
  }

  addPort(): number {
    let port = 1;
    while (this.ports.has(port)) port++;
    this.ports.set(port, { rx: [], tx: [], flags: 0, usableTxQueues: 0, mtu: 0, offloads: 0 });
    return port;
  }

  async removePort(port: number): Promise<void> {
    this.ports.delete(port);
  }

  setPort(port: number, set: Partial<FakePort>): void {
    Object.assign(this.ports.get(port)!, set);
    if (set.mtu !== undefined) this.view.setUint32(portAddress(port) + PT_MTU, set.mtu, true);
  }

  addQueue(port: number, spec: QueueSpec): number {
    const queue = this.nextQueue++;
    const q = queueAddress(queue);
    this.view.setUint32(q + Q_KIND, spec.kind, true);
    this.view.setUint32(q + Q_PORT, port, true);
    this.view.setUint32(q + Q_INDEX, spec.index, true);
    this.view.setUint32(q + Q_DIR, spec.direction === 'tx' ? 1 : 0, true);
    this.view.setUint32(q + Q_ENABLED, 1, true);
    this.view.setInt32(q + Q_WAIT_FD, spec.waitFd, true);
    this.queuePorts.set(queue, [port, spec.direction]);
    return queue;
  }

  attachQueue(queue: number): void {
    const [port, direction] = this.queuePorts.get(queue)!;
    this.ports.get(port)![direction].push(queue);
  }

  async detachQueue(queue: number): Promise<void> {
    const [port, direction] = this.queuePorts.get(queue)!;
    const list = this.ports.get(port)![direction];
    if (list.includes(queue)) list.splice(list.indexOf(queue), 1);
  }

  removeQueue(queue: number): void {
    this.view.setUint32(queueAddress(queue) + Q_KIND, 0, true);
  }

  allocArena(bytes: number, align: number): number {
    const at = Math.ceil(this.nextArena / align) * align;
    if (at + bytes > ARENA_BASE + ARENA_SIZE) throw new Error('arena exhausted');
    this.nextArena = at + bytes;
    return at;
  }

  freeArena(): void {}

  portCounters(port: number): PortCounters {
    const at = portCountersAddress(0, port) + PC_DROPS;
    const drops = Array.from({ length: DROP_COUNT }, (_, i) =>
      this.view.getFloat64(at + i * 8, true),
    );
    return { drops } as PortCounters;
  }

  /** One round over all receive queues. Returns the number of packets. */
  breathe(): number {
    const { wasm, view } = this;
    const records = privateAddress(0);
    const list = records + PV_IO;
    let total = 0;
    for (const [port, { rx }] of this.ports) {
      for (const queue of rx) {
        const q = queueAddress(queue);
        const xdp = view.getUint32(q + Q_KIND, true) === QUEUE_XDP;
        this.host.rxFrames(queue);
        const n = xdp ? wasm.xdpRxBurst(q, records, 256) : wasm.frameRxBurst(q, records, 256);
        for (let i = 0; i < n; i++) {
          view.setUint32(list + i * 4, records + i * PKT_SIZE, true);
          this.inspect?.(records + i * PKT_SIZE, port);
        }
        this.forward(port, list, n);
        if (xdp) wasm.xdpRxDone(q);
        else wasm.frameRxDone(q);
        total += n;
      }
    }
    const flush = WORKER_BASE + WK_FLUSH_COUNT;
    const count = view.getUint32(flush, true);
    for (let i = 0; i < count; i++)
      this.host.flush(view.getUint32(WORKER_BASE + WK_FLUSH + i * 4, true));
    view.setUint32(flush, 0, true);
    return total;
  }

  private forward(port: number, list: number, n: number): void {
    const out = this.ports.get(this.wires.get(port) ?? -1);
    const queue = out?.tx[0];
    if (n === 0 || queue === undefined || out!.usableTxQueues === 0) return;
    const q = queueAddress(queue);
    if (this.view.getUint32(q + Q_KIND, true) === QUEUE_XDP) this.wasm.xdpTxBurst(q, list, n);
    else this.wasm.frameTxBurst(q, list, n);
  }

  lengthOf(record: number): number {
    return this.view.getUint32(record + PKT_LEN, true);
  }
}
