// The data plane in the test's own thread: ports made of frame queues whose device is the test, a flow table, and
// poll() by hand. The real module, the real tables; no worker, no system call, nothing random.

import {
  FQ_DATA,
  FQ_DATA_SIZE,
  FQ_ENTRIES,
  FQ_HEAD,
  FQ_IOVS,
  FQ_MSGS,
  FQ_OFFSETS,
  FQ_TAIL,
  FQ_VNET,
  FRAME_MAX,
  FRAME_SLOT_HEAD,
  IOV_SIZE,
  MMSG_LEN,
  MMSG_SIZE,
} from '../../contract/frame.ts';
import { KEY_SIZE } from '../../contract/key.ts';
import {
  ARENA_BASE,
  ARENA_SIZE,
  CONTROL_BASE,
  CTL_CACHE_INSERT_INV_PROB,
  CTL_GENERATION,
  CTL_UPCALLS_ENABLED,
  CTL_VLAN_LIMIT,
  WK_ACK,
  WK_CALL_COUNT,
  WK_FLUSH_COUNT,
  WK_RXQ,
  WK_RXQ_COUNT,
  WORKER_BASE,
} from '../../contract/memory.ts';
import { QUEUE_FRAME, queueAddress } from '../../contract/port.ts';
import { build } from '../../scripts/build.ts';
import { Arena } from '../../src/engine/arena.ts';
import { ConntrackTable } from '../../src/engine/conntrack.ts';
import { dataPlaneImports, loadDataPlane } from '../../src/engine/dataPlane.ts';
import { FlowTable } from '../../src/engine/flowTable.ts';
import { Grace } from '../../src/engine/grace.ts';
import type { DataPlane } from '../../src/engine/hostLoop.ts';
import { EngineMemory } from '../../src/engine/memory.ts';
import { type PortSettings, Ports } from '../../src/engine/ports.ts';
import { InjectRing, UpcallRing } from '../../src/engine/rings.ts';
import type { Injection, PortCounters, Upcall } from '../../src/engine/types.ts';

const RX_ENTRIES = 512;
const TX_ENTRIES = 1024;
const TX_BYTES = 2 << 20;
const SLOT = FRAME_SLOT_HEAD + FRAME_MAX;
const VNET = 12;

/** A frame and its virtio-net header (flags, gso_type, hdr_len, gso_size, csum_start, csum_offset), as a tap has it. */
export interface WireFrame {
  frame: Uint8Array;
  flags?: number;
  gsoType?: number;
  gsoSize?: number;
  csumStart?: number;
  csumOffset?: number;
}

export interface RigOptions {
  debug?: boolean;
  vlanLimit?: number;
}

export class Rig {
  readonly memory = new EngineMemory();
  readonly ports: Ports;
  readonly grace: Grace;
  readonly flows: FlowTable;
  readonly conntrack: ConntrackTable;
  dataPlane: DataPlane;
  private readonly module: WebAssembly.Module;
  nowNs = 1e6;
  private readonly arena = new Arena(ARENA_BASE, ARENA_SIZE);
  private readonly upcallRing: UpcallRing;
  private readonly injectRing: InjectRing;
  private readonly queues = new Map<number, { rx: number; tx: number }>();

  /** Builds the module first if it is older than its sources. */
  static async create(options: RigOptions = {}): Promise<Rig> {
    await build();
    return new Rig(options);
  }

  private constructor({ debug = true, vlanLimit = 1 }: RigOptions) {
    this.module = loadDataPlane(debug);
    this.dataPlane = this.instantiate();
    this.ports = new Ports(this.memory);
    this.grace = new Grace(this.memory, () => [0]);
    this.flows = new FlowTable(this.memory, this.grace, (key, subtable) =>
      this.dataPlane.hashOf(key, subtable),
    );
    this.upcallRing = new UpcallRing(this.memory, 0);
    this.injectRing = new InjectRing(this.memory, 0);
    this.set(CTL_VLAN_LIMIT, vlanLimit);
    this.set(CTL_CACHE_INSERT_INV_PROB, 1);
    this.set(CTL_UPCALLS_ENABLED, 1);
    this.dataPlane.start(0, 0, 0);
    this.conntrack = new ConntrackTable(this.memory, this.instantiate(), () => this.nowNs / 1e6);
  }

  private instantiate(): DataPlane {
    const imports = dataPlaneImports(this.memory.memory, () => 0);
    return new WebAssembly.Instance(this.module, imports).exports as unknown as DataPlane;
  }

  /** As after a trap: a new instance over what the old one has left. */
  restart(): void {
    this.dataPlane = this.instantiate();
    this.dataPlane.start(0, this.nowNs, 0);
  }

  set(control: number, value: number): void {
    this.memory.store(CONTROL_BASE + control, value);
  }

  /** `sends: false`: a port without a receive ring, which is large. */
  addPort(settings: PortSettings & { sends?: boolean } = {}): number {
    const port = this.ports.add(undefined);
    this.ports.set(port, { offloads: 0x1f, mtu: 65535, ...settings });
    const common = { index: 0, kind: QUEUE_FRAME, waitFd: -1 } as const;
    const tx = this.ports.addQueue(port, { direction: 'tx', ...common });
    this.layOut(tx, TX_ENTRIES, TX_BYTES, TX_BYTES);
    this.ports.setTxQueue(port, tx, true);
    let rx = -1;
    if (settings.sends !== false) {
      rx = this.ports.addQueue(port, { direction: 'rx', ...common });
      this.layOut(rx, RX_ENTRIES, SLOT, RX_ENTRIES * SLOT);
    }
    this.queues.set(port, { rx, tx });
    const polled = [...this.queues.values()].filter((queues) => queues.rx >= 0);
    polled.forEach((queues, i) => {
      this.memory.set(WORKER_BASE + WK_RXQ + i * 4, queues.rx);
    });
    this.memory.store(WORKER_BASE + WK_RXQ_COUNT, polled.length);
    return port;
  }

  private layOut(queue: number, entries: number, dataSize: number, bytes: number): void {
    const q = queueAddress(queue);
    const take = (size: number): number => {
      const address = this.arena.take(size, 64);
      if (address < 0) throw new Error('arena full');
      return address;
    };
    this.memory.set(q + FQ_ENTRIES, entries);
    this.memory.set(q + FQ_MSGS, take(entries * MMSG_SIZE));
    this.memory.set(q + FQ_IOVS, take(entries * IOV_SIZE));
    this.memory.set(q + FQ_OFFSETS, take(entries * 4));
    this.memory.set(q + FQ_DATA, take(bytes));
    this.memory.set(q + FQ_DATA_SIZE, dataSize);
    this.memory.set(q + FQ_VNET, VNET);
  }

  /** Puts a frame into the receive ring of a port. */
  send(port: number, wire: WireFrame | Uint8Array): void {
    const w: WireFrame = wire instanceof Uint8Array ? { frame: wire } : wire;
    const { memory } = this;
    const q = queueAddress(this.queues.get(port)!.rx);
    const head = memory.get(q + FQ_HEAD);
    if (((head - memory.get(q + FQ_TAIL)) | 0) >= RX_ENTRIES) throw new Error('receive ring full');
    const entry = head & (RX_ENTRIES - 1);
    const slot = memory.get(q + FQ_DATA) + entry * SLOT + FRAME_SLOT_HEAD;
    const vnet = new DataView(memory.memory.buffer, slot - VNET, VNET);
    vnet.setUint8(0, w.flags ?? 0);
    vnet.setUint8(1, w.gsoType ?? 0);
    vnet.setUint16(2, 0, true);
    vnet.setUint16(4, w.gsoSize ?? 0, true);
    vnet.setUint16(6, w.csumStart ?? 0, true);
    vnet.setUint16(8, w.csumOffset ?? 0, true);
    memory.u8.set(w.frame, slot);
    memory.set(memory.get(q + FQ_MSGS) + entry * MMSG_SIZE + MMSG_LEN, VNET + w.frame.length);
    memory.store(q + FQ_HEAD, (head + 1) >>> 0);
  }

  /** One breath, a microsecond later. Returns the number of packets. */
  poll(): number {
    this.nowNs += 1000;
    this.dataPlane.setTime(this.nowNs, 0);
    const packets = Math.max(this.dataPlane.poll(0), 0);
    this.memory.set(WORKER_BASE + WK_CALL_COUNT, 0);
    this.memory.set(WORKER_BASE + WK_FLUSH_COUNT, 0);
    return packets;
  }

  /** Lets grace periods end. */
  async settle(): Promise<void> {
    for (let i = 0; i < 4; i++) {
      await Promise.resolve();
      this.poll();
      this.grace.check();
    }
    const generation = this.memory.load(CONTROL_BASE + CTL_GENERATION);
    if (this.memory.load(WORKER_BASE + WK_ACK) !== generation) throw new Error('not acknowledged');
  }

  /** Takes what a port has sent. */
  sent(port: number): Required<WireFrame>[] {
    const { memory } = this;
    const q = queueAddress(this.queues.get(port)!.tx);
    const out: Required<WireFrame>[] = [];
    const head = memory.get(q + FQ_HEAD);
    let tail = memory.get(q + FQ_TAIL);
    for (; tail !== head; tail = (tail + 1) >>> 0) {
      const entry = tail & (TX_ENTRIES - 1);
      const at = memory.get(q + FQ_DATA) + memory.get(memory.get(q + FQ_OFFSETS) + entry * 4);
      const length = memory.get(memory.get(q + FQ_IOVS) + entry * IOV_SIZE + 8);
      const vnet = new DataView(memory.memory.buffer, at, VNET);
      out.push({
        frame: memory.u8.slice(at + VNET, at + length),
        flags: vnet.getUint8(0),
        gsoType: vnet.getUint8(1),
        gsoSize: vnet.getUint16(4, true),
        csumStart: vnet.getUint16(6, true),
        csumOffset: vnet.getUint16(8, true),
      });
    }
    memory.store(q + FQ_TAIL, head);
    return out;
  }

  /** Takes the upcalls, with copies of their bytes. */
  upcalls(): Upcall[] {
    const out: Upcall[] = [];
    this.upcallRing.drain(Number.POSITIVE_INFINITY, (upcall) => {
      out.push({
        ...upcall,
        key: upcall.key.slice(),
        data: upcall.data.slice(),
        vnet: upcall.vnet.slice(),
      });
    });
    return out;
  }

  inject(injection: Injection): boolean {
    return this.injectRing.push(injection);
  }

  counters(port: number): PortCounters {
    return this.ports.counters(port);
  }

  /** A key and mask that match everything from a port, in this recirculation. */
  static matchPort(port: number, recircId = 0): { key: Uint8Array; mask: Uint8Array } {
    const key = new Uint8Array(KEY_SIZE);
    const view = new DataView(key.buffer);
    view.setUint32(0, port);
    view.setUint32(4, recircId);
    return { key, mask: new Uint8Array(KEY_SIZE).fill(0xff, 0, 8) };
  }
}
