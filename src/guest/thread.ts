// The fast driver of a guest in a thread of its own: traffic that can saturate a switch, and its counters.
//
// The thread (worker.ts) shares the guest's memory; the traffic profile is written into the guest's control part, and
// counters are read from there, without messages.

import { readFileSync } from 'node:fs';
import path from 'node:path';
import { Worker } from 'node:worker_threads';
import { eventfdCreate, eventfdSignal } from '../sys/eventfd.ts';
import { closeFd } from '../sys/fd.ts';
import * as L from './driver/layout.ts';
import type { Guest } from './guest.ts';

/** What a queue pair does. */
export interface Traffic {
  /** Generate frames. */
  send: boolean;
  /** Send marked frames back instead of counting them. */
  echo?: boolean;
  sourceMac: string;
  destinationMac: string;
  sourceIp: string;
  destinationIp: string;
  /** Bytes of a frame without FCS, 60 … 1514. */
  frameBytes?: number;
  /** UDP source ports gone through. */
  flows?: number;
  /** Frames per millisecond; 0 = as many as the ring takes. */
  perMs?: number;
  /** Frames per burst, 1 … 256. */
  batch?: number;
}

export interface TrafficCounters {
  sent: number;
  /** Frames that the switch has taken off the ring. */
  taken: number;
  received: number;
  receivedBytes: number;
  /** Frames with a sequence number of a generator. */
  marked: number;
  lost: number;
  reordered: number;
  /** Frames that had come before. */
  twice: number;
  echoed: number;
  echoFull: number;
  /** Age of marked frames when they arrive (there and back again with an echo). */
  latencyMeanMs: number;
  latencyMaxMs: number;
}

export interface ThreadData {
  memory: WebAssembly.Memory;
  module: Uint8Array;
  pairs: number;
  kicks: readonly number[];
  calls: readonly number[];
  stopFd: number;
  /** [0] = 1: stop. */
  stop: Int32Array;
  spin: boolean;
}

const DEFAULT_BATCH = 64;
const MODULE = path.join(import.meta.dirname, '../../build/guest.wasm');

function macBytes(mac: string): number[] {
  return mac.split(':').map((part) => Number.parseInt(part, 16));
}
function ipBytes(ip: string): number[] {
  return ip.split('.').map(Number);
}

/** First 42 bytes of a generated frame: Ethernet, IPv4 with checksum, UDP without. */
export function frameTemplate(traffic: Traffic, frameBytes: number): Uint8Array {
  const bytes = new Uint8Array(L.PAYLOAD);
  const view = new DataView(bytes.buffer);
  bytes.set(macBytes(traffic.destinationMac), 0);
  bytes.set(macBytes(traffic.sourceMac), 6);
  view.setUint16(12, 0x0800);
  view.setUint16(14, 0x4500);
  view.setUint16(16, frameBytes - 14);
  view.setUint16(20, 0x4000); // don't fragment
  view.setUint8(22, 64);
  view.setUint8(23, 17);
  bytes.set(ipBytes(traffic.sourceIp), 26);
  bytes.set(ipBytes(traffic.destinationIp), 30);
  let sum = 0;
  for (let at = 14; at < 34; at += 2) sum += view.getUint16(at);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  view.setUint16(24, ~sum & 0xffff);
  view.setUint16(36, 9); // discard
  view.setUint16(38, frameBytes - 34);
  return bytes;
}

export class GuestThread {
  readonly #guest: Guest;
  readonly #worker: Worker;
  readonly #stop = new Int32Array(new SharedArrayBuffer(4));
  readonly #stopFd = eventfdCreate();
  readonly #exited: Promise<void>;

  /**
   * Starts driving the rings of a guest that has completed its first handshake. `spin`: never sleep (benchmarks).
   * Needs build/guest.wasm (scripts/build.ts).
   */
  constructor(guest: Guest, options: { spin?: boolean } = {}) {
    this.#guest = guest;
    for (let pair = 0; pair < guest.options.pairs; pair++) {
      guest.view.setUint32(this.#record(pair) + L.GT_BATCH, DEFAULT_BATCH, true);
    }
    const workerData: ThreadData = {
      memory: guest.memory,
      module: readFileSync(MODULE),
      pairs: guest.options.pairs,
      kicks: guest.kicks,
      calls: guest.calls,
      stopFd: this.#stopFd,
      stop: this.#stop,
      spin: options.spin ?? false,
    };
    this.#worker = new Worker(new URL('./worker.ts', import.meta.url), { workerData });
    this.#exited = new Promise((resolve, reject) => {
      this.#worker.once('error', reject);
      this.#worker.once('exit', () => resolve());
    });
    this.#exited.catch(() => {});
  }

  #record(pair: number): number {
    return L.GUEST_CONTROL + pair * L.GT_RECORD;
  }

  /** Sets what a pair does from now on. */
  setTraffic(pair: number, traffic: Traffic): void {
    const { view, bytes } = this.#guest;
    const at = this.#record(pair);
    const frameBytes = Math.min(Math.max(traffic.frameBytes ?? 60, L.FRAME_MIN), 1514);
    view.setUint32(at + L.GT_MODE, 0, true);
    bytes.set(frameTemplate(traffic, frameBytes), at + L.GT_TEMPLATE);
    view.setUint32(at + L.GT_FRAME_LEN, frameBytes, true);
    view.setUint32(at + L.GT_FLOWS, Math.max(traffic.flows ?? 1, 1), true);
    view.setUint32(
      at + L.GT_BATCH,
      Math.min(Math.max(traffic.batch ?? DEFAULT_BATCH, 1), 256),
      true,
    );
    view.setFloat64(at + L.GT_PER_MS, traffic.perMs ?? 0, true);
    view.setFloat64(at + L.GT_CREDIT, 0, true);
    view.setFloat64(at + L.GT_LAST, performance.timeOrigin + performance.now(), true);
    const mode = (traffic.send ? L.TRAFFIC_SEND : 0) | (traffic.echo ? L.TRAFFIC_ECHO : 0);
    view.setUint32(at + L.GT_MODE, mode, true);
    this.poke();
  }

  /** Stops generating; frames on their way still arrive and are counted. */
  stopSending(pair: number): void {
    const at = this.#record(pair) + L.GT_MODE;
    const { view } = this.#guest;
    view.setUint32(at, view.getUint32(at, true) & ~L.TRAFFIC_SEND, true);
  }

  /** From now on the sender of a pair stops when it has sent so many frames; 0 = it does not. Only ever raise it. */
  setLimit(pair: number, frames: number): void {
    this.#guest.view.setUint32(this.#record(pair) + L.GT_LIMIT, frames, true);
  }

  /** Wakes the thread. */
  poke(): void {
    eventfdSignal(this.#stopFd);
  }

  counters(pair: number): TrafficCounters {
    const at = this.#record(pair);
    const f64 = (offset: number) => this.#guest.view.getFloat64(at + offset, true);
    const count = f64(L.GT_RTT_COUNT);
    return {
      sent: f64(L.GT_SENT),
      taken: f64(L.GT_SENT_DONE),
      received: f64(L.GT_RECEIVED),
      receivedBytes: f64(L.GT_RECEIVED_BYTES),
      marked: f64(L.GT_OURS),
      lost: f64(L.GT_LOST),
      reordered: f64(L.GT_REORDERED),
      twice: f64(L.GT_TWICE),
      echoed: f64(L.GT_ECHOED),
      echoFull: f64(L.GT_ECHO_FULL),
      latencyMeanMs: count === 0 ? 0 : f64(L.GT_RTT_SUM) / count,
      latencyMaxMs: f64(L.GT_RTT_MAX),
    };
  }

  /** Ends the thread; the guest stays. Rejects if the thread failed. */
  async close(): Promise<void> {
    Atomics.store(this.#stop, 0, 1);
    this.poke();
    await this.#exited;
    closeFd(this.#stopFd);
  }
}
