// An engine for tests of kernel ports alone: arena, ports and queues as the real one lays them out, but no workers. The test
// calls breathe(), which does for one thread what a worker does, and forwards each port's packets to one other port.

import { readFileSync } from 'node:fs';
import { PC_DROPS, portCountersAddress } from '../../contract/counters.ts';
import { DROP_COUNT } from '../../contract/drop.ts';
import {
  ARENA_BASE,
  ARENA_SIZE,
  WK_FLUSH,
  WK_FLUSH_COUNT,
  WORKER_BASE,
} from '../../contract/memory.ts';
import {
  PKT_CSUM_OFFSET,
  PKT_CSUM_START,
  PKT_GSO_SIZE,
  PKT_GSO_TYPE,
  PKT_HEAD,
  PKT_HEAD_LEN,
  PKT_LEN,
  PKT_SEG_COUNT,
  PKT_SEGS,
  PKT_SIZE,
  PKT_VNET_FLAGS,
  PV_LOOKUP,
  privateAddress,
} from '../../contract/packet.ts';
import {
  PT_FLAGS,
  PT_MTU,
  PT_OFFLOADS,
  PT_STATE,
  PT_TXQ,
  PT_TXQ_COUNT,
  portAddress,
  Q_DIR,
  Q_ENABLED,
  Q_INDEX,
  Q_KIND,
  Q_PORT,
  Q_WAIT_FD,
  queueAddress,
} from '../../contract/port.ts';
import { Arena } from '../../src/engine/arena.ts';
import { HostIo } from '../../src/engine/hostio.ts';
import type { Engine, PortCounters, QueueSpec } from '../../src/engine/types.ts';
import { memoryBase } from '../../src/sys/memory.ts';
import { portsModule } from './ports.ts';

interface Exports {
  setWorker(id: number): void;
  rxBurst(q: number, first: number, max: number): number;
  rxDone(q: number): void;
  txBurst(port: number, list: number, n: number): void;
}

/** What a packet record says. */
export interface SeenPacket {
  inPort: number;
  frame: Buffer;
  needsCsum: boolean;
  csumStart: number;
  csumOffset: number;
  gsoType: number;
  gsoSize: number;
}

interface FakePort {
  rx: number[];
  tx: number[];
  usableTxQueues: number;
}

export class FakeEngine {
  readonly memory: WebAssembly.Memory;
  readonly base: bigint;
  readonly view: DataView;
  readonly bytes: Uint8Array;
  readonly ports = new Map<number, FakePort>();
  /** Looks at each received packet before it is forwarded. */
  inspect: ((packet: SeenPacket) => void) | undefined;
  /** Input port to output port. */
  readonly wires = new Map<number, number>();
  readonly host: HostIo;
  readonly wasm: Exports;
  private nextQueue = 0;
  private readonly arena = new Arena(ARENA_BASE, ARENA_SIZE);
  private readonly queuePorts = new Map<number, [port: number, direction: 'rx' | 'tx']>();

  static async load(): Promise<FakeEngine> {
    return new FakeEngine(new WebAssembly.Module(readFileSync(await portsModule())));
  }

  private constructor(module: WebAssembly.Module) {
    this.memory = new WebAssembly.Memory({ initial: 65536, maximum: 65536, shared: true });
    this.base = memoryBase(this.memory);
    this.view = new DataView(this.memory.buffer);
    this.bytes = new Uint8Array(this.memory.buffer);
    this.host = new HostIo(this.memory, 0, { lowNs: 0 });
    const imports = { env: { memory: this.memory }, host: { fault: () => 0 } };
    this.wasm = new WebAssembly.Instance(module, imports).exports as unknown as Exports;
    this.wasm.setWorker(0);
  }

  asEngine(): Engine {
    return this as unknown as Engine;
  }

  u32(at: number): number {
    return this.view.getUint32(at, true);
  }

  setU32(at: number, value: number): void {
    this.view.setUint32(at, value >>> 0, true);
  }

  addPort(): number {
    let port = 1;
    while (this.ports.has(port)) port++;
    this.ports.set(port, { rx: [], tx: [], usableTxQueues: 0 });
    this.setU32(portAddress(port) + PT_STATE, 1);
    return port;
  }

  async removePort(port: number): Promise<void> {
    this.ports.delete(port);
    this.setU32(portAddress(port) + PT_STATE, 0);
  }

  setPort(port: number, set: Parameters<Engine['setPort']>[1]): void {
    const at = portAddress(port);
    if (set.mtu !== undefined) this.setU32(at + PT_MTU, set.mtu);
    if (set.flags !== undefined) this.setU32(at + PT_FLAGS, set.flags);
    if (set.offloads !== undefined) this.setU32(at + PT_OFFLOADS, set.offloads);
    if (set.usableTxQueues !== undefined) this.ports.get(port)!.usableTxQueues = set.usableTxQueues;
    this.listTxQueues(port);
  }

  private listTxQueues(port: number): void {
    const { tx, usableTxQueues } = this.ports.get(port)!;
    const at = portAddress(port);
    tx.forEach((queue, i) => {
      this.setU32(at + PT_TXQ + i * 4, queue);
    });
    this.setU32(at + PT_TXQ_COUNT, Math.min(tx.length, usableTxQueues));
  }

  addQueue(port: number, spec: QueueSpec): number {
    const queue = this.nextQueue++;
    const q = queueAddress(queue);
    this.setU32(q + Q_KIND, spec.kind);
    this.setU32(q + Q_PORT, port);
    this.setU32(q + Q_INDEX, spec.index);
    this.setU32(q + Q_DIR, spec.direction === 'tx' ? 1 : 0);
    this.setU32(q + Q_ENABLED, 1);
    this.setU32(q + Q_WAIT_FD, spec.waitFd);
    this.queuePorts.set(queue, [port, spec.direction]);
    return queue;
  }

  attachQueue(queue: number): void {
    const [port, direction] = this.queuePorts.get(queue)!;
    this.ports.get(port)![direction].push(queue);
    this.listTxQueues(port);
  }

  async detachQueue(queue: number): Promise<void> {
    const [port, direction] = this.queuePorts.get(queue)!;
    const list = this.ports.get(port)![direction];
    if (list.includes(queue)) list.splice(list.indexOf(queue), 1);
    this.listTxQueues(port);
  }

  removeQueue(queue: number): void {
    this.setU32(queueAddress(queue) + Q_KIND, 0);
  }

  allocArena(bytes: number, align: number): number {
    const at = this.arena.take(bytes, align);
    if (at < 0) throw new Error('arena exhausted');
    return at;
  }

  freeArena(address: number): void {
    this.arena.give(address);
  }

  arenaFree(): number {
    return this.arena.freeBytes() / ARENA_SIZE;
  }

  portCounters(port: number): PortCounters {
    const at = portCountersAddress(0, port) + PC_DROPS;
    const drops = Array.from({ length: DROP_COUNT }, (_, i) =>
      this.view.getFloat64(at + i * 8, true),
    );
    return { drops } as PortCounters;
  }

  /** One round over all receive queues. Returns the number of packets. */
  breathe(): number {
    const { wasm } = this;
    const records = privateAddress(0);
    const list = records + PV_LOOKUP;
    let total = 0;
    for (const [port, { rx }] of this.ports) {
      for (const queue of rx) {
        const q = queueAddress(queue);
        this.host.rxFrames(queue);
        const n = wasm.rxBurst(q, records, 256);
        if (n === 0) continue;
        for (let i = 0; i < n; i++) {
          this.setU32(list + i * 4, records + i * PKT_SIZE);
          this.inspect?.(this.packet(records + i * PKT_SIZE, port));
        }
        const out = this.wires.get(port);
        if (out !== undefined) wasm.txBurst(out, list, n);
        wasm.rxDone(q);
        total += n;
      }
    }
    this.flush();
    return total;
  }

  /** One receive burst of the queue record `q`, put into the transmit ring of `to`; no system call. */
  forwardOnly(q: number, to: number): void {
    const records = privateAddress(0);
    const list = records + PV_LOOKUP;
    const n = this.wasm.rxBurst(q, records, 256);
    for (let i = 0; i < n; i++) this.setU32(list + i * 4, records + i * PKT_SIZE);
    this.wasm.txBurst(to, list, n);
    this.wasm.rxDone(q);
    this.setU32(WORKER_BASE + WK_FLUSH_COUNT, 0);
  }

  /** Makes the system calls that the data plane has asked for. */
  flush(): void {
    const count = this.u32(WORKER_BASE + WK_FLUSH_COUNT);
    for (let i = 0; i < count; i++) this.host.flush(this.u32(WORKER_BASE + WK_FLUSH + i * 4));
    this.setU32(WORKER_BASE + WK_FLUSH_COUNT, 0);
  }

  /** Reads a packet record. */
  packet(record: number, inPort = 0): SeenPacket {
    const { view, bytes } = this;
    const head = this.u32(record + PKT_HEAD);
    const parts = [bytes.slice(head, head + this.u32(record + PKT_HEAD_LEN))];
    for (let s = 0; s < this.u32(record + PKT_SEG_COUNT); s++) {
      const at = this.u32(record + PKT_SEGS + s * 8);
      parts.push(bytes.slice(at, at + this.u32(record + PKT_SEGS + s * 8 + 4)));
    }
    const frame = Buffer.concat(parts);
    if (frame.length !== this.u32(record + PKT_LEN)) throw new Error('PKT_LEN is not the sum');
    return {
      inPort,
      frame,
      needsCsum: (bytes[record + PKT_VNET_FLAGS]! & 1) !== 0,
      csumStart: view.getUint16(record + PKT_CSUM_START, true),
      csumOffset: view.getUint16(record + PKT_CSUM_OFFSET, true),
      gsoType: bytes[record + PKT_GSO_TYPE]!,
      gsoSize: view.getUint16(record + PKT_GSO_SIZE, true),
    };
  }
}
