// The ports of the data plane, alone: loads dataplane/port/harness.ts and lays out ports, queues, windows and packet
// records by hand, so that tests can play the guest (test/net/ring.ts) and the pipeline.

import { existsSync, globSync, readFileSync, statSync } from 'node:fs';
import path from 'node:path';
import {
  PC_DROPS,
  PC_INTERRUPTS,
  PORT_COUNTERS_SIZE,
  portCountersAddress,
} from '../../contract/counters.ts';
import {
  PORT_BASE,
  QUEUE_BASE,
  WK_CALL,
  WK_CALL_COUNT,
  WORKER_BASE,
} from '../../contract/memory.ts';
import { DROP_NAMES } from '../../contract/names.ts';
import {
  PKT_CSUM_OFFSET,
  PKT_CSUM_START,
  PKT_GSO_SIZE,
  PKT_GSO_TYPE,
  PKT_HEAD,
  PKT_HEAD_COPY,
  PKT_HEAD_LEN,
  PKT_HEAD_START,
  PKT_LEN,
  PKT_SEG_COUNT,
  PKT_SEGS,
  PKT_SIZE,
  PKT_TRUNC,
  PKT_VNET_FLAGS,
  PV_PACKETS,
  privateAddress,
} from '../../contract/packet.ts';
import {
  PORT_SIZE,
  PORT_UP,
  PT_FLAGS,
  PT_MTU,
  PT_OFFLOADS,
  PT_REGION_COUNT,
  PT_REGIONS,
  PT_STATE,
  PT_TXQ,
  PT_TXQ_COUNT,
  portAddress,
  Q_DIR,
  Q_ENABLED,
  Q_KIND,
  Q_PORT,
  QUEUE_SIZE,
  queueAddress,
} from '../../contract/port.ts';
import {
  CHUNK_SIZE,
  chunkAddress,
  MAX_REGIONS_PER_PORT,
  RG_BASE,
  RG_BYTES,
  RG_CHUNK,
  RG_GPA,
  RG_SKEW,
  regionAddress,
} from '../../contract/window.ts';
import { compile } from '../../scripts/build.ts';

const root = path.join(import.meta.dirname, '../..');

interface PortsExports {
  setWorker(id: number): void;
  setNow(ms: number): void;
  rxBurst(q: number, first: number, max: number): number;
  heldBegin(): void;
  rxDone(q: number): void;
  txBurst(port: number, list: number, n: number): void;
  prepareSleep(q: number): number;
  wake(q: number): void;
  sumPacket(packet: number, start: number): number;
  copyBytes(to: number, from: number, length: number): void;
  deepen(packet: number): void;
}

/** A region of guest memory: whole at `base`, or in chunks (`chunks`: memory offset of each, 0 = not mapped). */
export interface Region {
  gpa: bigint;
  bytes: number;
  base?: number;
  chunk?: number;
  skew?: number;
  chunks?: number[];
}

/** Offload fields of a packet record. */
export interface Offload {
  flags: number;
  gsoType: number;
  gsoSize: number;
  csumStart: number;
  csumOffset: number;
}

export interface Packet extends Offload {
  frame: Buffer;
  segments: number;
}

/** Path of the compiled module, brought up to date. */
export async function portsModule(): Promise<string> {
  const file = path.join(root, 'build/test-ports.wasm');
  const sources = ['contract/*.ts', 'dataplane/**/*.ts'].flatMap((pattern) =>
    globSync(pattern, { cwd: root }),
  );
  const newest = Math.max(...sources.map((name) => statSync(path.join(root, name)).mtimeMs));
  if (!existsSync(file) || statSync(file).mtimeMs < newest) {
    await compile('dataplane/port/harness.ts', file);
  }
  return file;
}

export class Ports {
  readonly memory: WebAssembly.Memory;
  readonly view: DataView;
  readonly bytes: Uint8Array;
  readonly wasm: PortsExports;
  /** Calls of the data plane for a chunk that is not mapped; returns its memory offset or 0. */
  fault: (port: number, chunk: number) => number = () => 0;

  private constructor(memory: WebAssembly.Memory, module: WebAssembly.Module) {
    this.memory = memory;
    this.view = new DataView(memory.buffer);
    this.bytes = new Uint8Array(memory.buffer);
    const host = { fault: (port: number, chunk: number) => this.fault(port, chunk >>> 0) };
    const instance = new WebAssembly.Instance(module, { env: { memory }, host });
    this.wasm = instance.exports as unknown as PortsExports;
    this.wasm.setWorker(0);
  }

  static async load(): Promise<Ports> {
    const module = new WebAssembly.Module(readFileSync(await portsModule()));
    const memory = new WebAssembly.Memory({ initial: 65536, maximum: 65536, shared: true });
    return new Ports(memory, module);
  }

  u32(at: number): number {
    return this.view.getUint32(at, true);
  }
  setU32(at: number, value: number): void {
    this.view.setUint32(at, value >>> 0, true);
  }

  /** Writes a port record; its regions are number port * 64 and following. */
  port(port: number, set: { mtu?: number; offloads?: number; flags?: number; regions?: Region[] }) {
    const at = portAddress(port);
    this.bytes.fill(0, at, at + PORT_SIZE);
    this.bytes.fill(
      0,
      portCountersAddress(0, port),
      portCountersAddress(0, port) + PORT_COUNTERS_SIZE,
    );
    this.setU32(at + PT_STATE, 1);
    this.setU32(at + PT_FLAGS, set.flags ?? PORT_UP);
    this.setU32(at + PT_MTU, set.mtu ?? 0);
    this.setU32(at + PT_OFFLOADS, set.offloads ?? 0);
    const regions = set.regions ?? [];
    this.setU32(at + PT_REGIONS, port * MAX_REGIONS_PER_PORT);
    this.setU32(at + PT_REGION_COUNT, regions.length);
    regions.forEach((region, i) => {
      const record = regionAddress(port * MAX_REGIONS_PER_PORT + i);
      this.view.setBigUint64(record + RG_GPA, region.gpa, true);
      this.view.setBigUint64(record + RG_BYTES, BigInt(region.bytes), true);
      this.setU32(record + RG_BASE, region.base ?? 0);
      this.setU32(record + RG_CHUNK, region.chunk ?? 0);
      this.setU32(record + RG_SKEW, region.skew ?? 0);
      region.chunks?.forEach((offset, n) => {
        if (offset % CHUNK_SIZE !== 0) throw new Error('chunks are aligned');
        this.setU32(chunkAddress((region.chunk ?? 0) + n), offset);
      });
    });
  }

  /** Writes the common part of a queue record, zeroes the rest; transmit queues are entered in the port. */
  queue(queue: number, set: { port: number; kind: number; dir: number; index?: number }): number {
    const at = queueAddress(queue);
    this.bytes.fill(0, at, at + QUEUE_SIZE);
    this.setU32(at + Q_KIND, set.kind);
    this.setU32(at + Q_PORT, set.port);
    this.setU32(at + Q_DIR, set.dir);
    this.setU32(at + Q_ENABLED, 1);
    if (set.dir === 1) {
      const port = portAddress(set.port);
      this.setU32(port + PT_TXQ + (set.index ?? 0) * 4, queue);
      this.setU32(port + PT_TXQ_COUNT, (set.index ?? 0) + 1);
    }
    return at;
  }

  /** Address of packet record `i` of worker 0. */
  record(i: number): number {
    return privateAddress(0) + PV_PACKETS + i * PKT_SIZE;
  }

  /** Reads back a packet as the pipeline sees it. */
  packet(i: number): Packet {
    const at = this.record(i);
    const head = this.u32(at + PKT_HEAD);
    const parts = [this.bytes.slice(head, head + this.u32(at + PKT_HEAD_LEN))];
    const segments = this.u32(at + PKT_SEG_COUNT);
    for (let s = 0; s < segments; s++) {
      const address = this.u32(at + PKT_SEGS + s * 8);
      parts.push(this.bytes.slice(address, address + this.u32(at + PKT_SEGS + s * 8 + 4)));
    }
    const frame = Buffer.concat(parts);
    if (frame.length !== this.u32(at + PKT_LEN)) throw new Error('PKT_LEN is not the sum of parts');
    return {
      frame,
      segments,
      flags: this.view.getUint8(at + PKT_VNET_FLAGS),
      gsoType: this.view.getUint8(at + PKT_GSO_TYPE),
      gsoSize: this.view.getUint16(at + PKT_GSO_SIZE, true),
      csumStart: this.view.getUint16(at + PKT_CSUM_START, true),
      csumOffset: this.view.getUint16(at + PKT_CSUM_OFFSET, true),
    };
  }

  /**
   * Makes packet record `i`: `headBytes` of the frame in the head, the rest cut into segments of the lengths in
   * `cuts` (the last one repeats), which lie apart from each other at `storage`.
   */
  setPacket(
    i: number,
    frame: Uint8Array,
    set: Partial<Offload> & { headBytes?: number; cuts?: number[]; trunc?: number } = {},
    storage = 0x24000000 + i * 0x40000,
  ): number {
    const at = this.record(i);
    const headBytes = Math.min(frame.length, set.headBytes ?? PKT_HEAD_COPY);
    this.bytes.fill(0, at, at + PKT_SIZE);
    this.setU32(at + PKT_HEAD, at + PKT_HEAD_START);
    this.setU32(at + PKT_HEAD_LEN, headBytes);
    this.setU32(at + PKT_LEN, frame.length);
    this.bytes.set(frame.subarray(0, headBytes), at + PKT_HEAD_START);
    const cuts = set.cuts ?? [frame.length];
    let segments = 0;
    let place = storage;
    for (let done = headBytes; done < frame.length; segments++) {
      const length = Math.min(cuts[Math.min(segments, cuts.length - 1)]!, frame.length - done);
      this.bytes.set(frame.subarray(done, done + length), place);
      this.setU32(at + PKT_SEGS + segments * 8, place);
      this.setU32(at + PKT_SEGS + segments * 8 + 4, length);
      done += length;
      place += length + 13;
    }
    this.setU32(at + PKT_SEG_COUNT, segments);
    this.view.setUint8(at + PKT_VNET_FLAGS, set.flags ?? 0);
    this.view.setUint8(at + PKT_GSO_TYPE, set.gsoType ?? 0);
    this.view.setUint16(at + PKT_GSO_SIZE, set.gsoSize ?? 0, true);
    this.view.setUint16(at + PKT_CSUM_START, set.csumStart ?? 0, true);
    this.view.setUint16(at + PKT_CSUM_OFFSET, set.csumOffset ?? 0, true);
    this.setU32(at + PKT_TRUNC, set.trunc ?? 0);
    return at;
  }

  /** Sends packet records 0 … n-1 to a port. */
  transmit(port: number, n: number): void {
    const list = 0x23ff0000;
    for (let i = 0; i < n; i++) this.setU32(list + i * 4, this.record(i));
    this.wasm.txBurst(port, list, n);
  }

  counter(port: number, offset: number): number {
    return this.view.getFloat64(portCountersAddress(0, port) + offset, true);
  }

  /** Drops of a port by name; reasons without drops are left out. */
  drops(port: number): Record<string, number> {
    const result: Record<string, number> = {};
    DROP_NAMES.forEach((name, i) => {
      const count = this.counter(port, PC_DROPS + i * 8);
      if (count !== 0) result[name] = count;
    });
    return result;
  }

  interrupts(port: number): number {
    return this.counter(port, PC_INTERRUPTS);
  }

  /** Takes the list of eventfds to be signalled. */
  calls(): number[] {
    const count = this.u32(WORKER_BASE + WK_CALL_COUNT);
    const fds = [];
    for (let i = 0; i < count; i++)
      fds.push(this.view.getInt32(WORKER_BASE + WK_CALL + i * 4, true));
    this.setU32(WORKER_BASE + WK_CALL_COUNT, 0);
    return fds;
  }

  /** Forgets all ports and queues. */
  reset(): void {
    this.bytes.fill(0, PORT_BASE, PORT_BASE + 16 * PORT_SIZE);
    this.bytes.fill(0, QUEUE_BASE, QUEUE_BASE + 64 * QUEUE_SIZE);
    this.calls();
    this.fault = () => 0;
    this.wasm.setNow(0);
  }
}
