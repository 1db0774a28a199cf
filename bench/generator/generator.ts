// Our saturating generator: guests (src/guest) with the driver saturate.ts, all in one thread on one core. One guest
// sends and another receives what the switch makes of it, or both do both.

import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { Worker } from 'node:worker_threads';
import * as L from '../../src/guest/driver/layout.ts';
import { Guest, guestFeatures } from '../../src/guest/guest.ts';
import { frameTemplate } from '../../src/guest/thread.ts';
import type { Options } from '../types.ts';
import { VXLAN_BYTES, vxlanHeaders, type Wire } from './wire.ts';
import type { FirstPacket, GeneratorData, Trial, TrialResult } from './worker.ts';

const MODULE = path.join(import.meta.dirname, '../../build/saturate.wasm');
/** Not a power of two: or all buffers would compete for few sets of the caches. */
const BUFFER_BYTES = 2240;
/** As drivers have it: the frame begins at a cache line, the virtio-net header stands before it. */
const BUFFER_SKEW_BYTES = 52;
const JUMBO_BUFFER_BYTES = 9216 + 64;
const GSO_BUFFER_BYTES = (64 << 10) + 192;

const SPREADS = {
  port: L.SPREAD_PORT,
  address: L.SPREAD_ADDRESS,
  bits: L.SPREAD_BITS,
  connection: L.SPREAD_CONNECTION,
  reply: L.SPREAD_REPLY,
} as const;

const NOTHING = new Uint8Array(0);

export interface Stream {
  from: number;
  to: number;
  frameBytes?: number;
  /** 1 … 64 000; connections and their replies: up to 4 million. */
  flows?: number;
  /**
   * In what flows differ (driver/layout.ts): the port; address and port; single bits of addresses and ports; address,
   * then port, for many connections, and the answers to those.
   */
  spread?: keyof typeof SPREADS;
  /** Not in a tunnel. */
  imix?: boolean;
  /** Not in a tunnel. Frames are TCP, too long for the wire, with segments of so many bytes. */
  gsoBytes?: number;
  /** 0 = as many as the ring takes. */
  perSecond?: number;
  batch?: number;
}

export interface TrialCounts {
  elapsedMs: number;
  longestGapMs: number;
  /** CPU time of the threads that were watched. */
  watchedNs: number;
  sent: number;
  received: number;
  receivedBytes: number;
  lost: number;
  reordered: number;
  /** Of all receivers together, buckets of driver/layout.ts. */
  histogram: Float64Array;
  latencyMaxMs: number;
  /** Of each guest as a receiver. */
  each: { received: number; latencyMaxMs: number }[];
}

export const macOf = (guest: number): string => `52:54:00:00:01:${(guest + 16).toString(16)}`;
export const ipOf = (guest: number): string => `10.${guest + 1}.0.0`;

export class Generator implements AsyncDisposable {
  readonly guests: Guest[];
  #receivedInAll = 0;
  #worker: Worker | undefined;
  #waiting: ((result: TrialResult) => void) | undefined;
  #failed: Error | undefined;
  readonly #core: number;
  #wire: Wire | undefined;

  /** Guests listen at `sockets` from now on. */
  constructor(sockets: readonly string[], options: Options, mtu = 1500, offloads = false) {
    this.#core = options.generatorCore;
    const bufferBytes = offloads
      ? GSO_BUFFER_BYTES
      : mtu > 1500
        ? JUMBO_BUFFER_BYTES
        : BUFFER_BYTES;
    const ring = options.queueSize * (bufferBytes + 64) + (64 << 10);
    this.guests = sockets.map(
      (path) =>
        new Guest({
          path,
          mode: 'server',
          queueSize: options.queueSize,
          bufferBytes,
          bufferSkewBytes: BUFFER_SKEW_BYTES,
          memoryBytes: Math.ceil((2 * ring + (2 << 20)) / (2 << 20)) * (2 << 20),
          features: guestFeatures({ packed: options.packed, inOrder: options.inOrder, offloads }),
        }),
    );
    for (const guest of this.guests) guest.open();
  }

  /** Waits for the switch to connect to all of them and begins to drive the rings. */
  async start(): Promise<void> {
    await Promise.all(this.guests.map((guest) => guest.connected(1, 30_000)));
    const workerData: GeneratorData = {
      guests: this.guests.map(({ memory, kicks }) => ({ memory, kicks })),
      module: readFileSync(MODULE),
      core: this.#core,
    };
    const worker = new Worker(new URL('./worker.ts', import.meta.url), { workerData });
    this.#worker = worker;
    await once(worker, 'message');
    worker.on('message', (result: TrialResult) => this.#waiting?.(result));
    worker.once('error', (error) => {
      this.#failed = error as Error;
      this.#waiting?.({
        ...{ elapsedMs: 0, longestGapMs: 0, watchedNs: 0, receivedInAll: 0 },
        error: String(error),
      });
    });
  }

  /** From the next streams on, one of the guests sends and receives frames in a tunnel. */
  setWire(wire: Wire): void {
    this.#wire = wire;
  }

  setStreams(streams: readonly Stream[]): void {
    for (const { view } of this.guests) {
      view.setUint32(L.GUEST_CONTROL + L.GT_MODE, 0, true);
      // Whoever receives looks for the mark where the senders put it.
      view.setUint32(L.GUEST_CONTROL + L.GT_GSO_SIZE, streams[0]?.gsoBytes ?? 0, true);
    }
    if (this.#wire) {
      const { view } = this.guests[this.#wire.guest]!;
      view.setUint32(L.GUEST_CONTROL + L.GT_OUTER, VXLAN_BYTES, true);
    }
    for (const stream of streams) {
      const { view, bytes } = this.guests[stream.from]!;
      const at = L.GUEST_CONTROL;
      const frameBytes = stream.frameBytes ?? 60;
      const outer =
        this.#wire?.guest === stream.from ? vxlanHeaders(this.#wire, frameBytes) : NOTHING;
      const template = frameTemplate(
        {
          send: true,
          sourceMac: macOf(stream.from),
          destinationMac: macOf(stream.to),
          sourceIp: ipOf(stream.from),
          destinationIp: ipOf(stream.to),
        },
        frameBytes,
      );
      template[34] = 4; // source port 1024, if there is one flow
      if (stream.gsoBytes) makeTcp(template);
      bytes.set(outer, at + L.GT_TEMPLATE);
      bytes.set(template, at + L.GT_TEMPLATE + outer.length);
      if (stream.gsoBytes) bytes.set(TCP_REST, at + L.GT_TEMPLATE + L.PAYLOAD);
      view.setUint32(at + L.GT_FRAME_LEN, outer.length + frameBytes, true);
      view.setUint32(at + L.GT_FLOWS, stream.flows ?? 1, true);
      view.setUint32(at + L.GT_SPREAD, SPREADS[stream.spread ?? 'port'], true);
      view.setUint32(at + L.GT_IMIX, stream.imix ? 1 : 0, true);
      view.setUint32(at + L.GT_GSO_SIZE, stream.gsoBytes ?? 0, true);
      view.setFloat64(at + L.GT_PER_MS, (stream.perSecond ?? 0) / 1000, true);
      view.setFloat64(at + L.GT_CREDIT, 0, true);
      view.setUint32(at + L.GT_MODE, L.TRAFFIC_SEND, true);
    }
    for (const guest of this.guests) {
      const batch = streams[0]?.batch ?? 256;
      guest.view.setUint32(L.GUEST_CONTROL + L.GT_BATCH, batch, true);
    }
  }

  /** Runs traffic; resolves with what the guests counted after the warm-up. Throws if the switch kept packets. */
  async trial(options: Partial<Trial> & { durationMs: number }): Promise<TrialCounts> {
    const result = await new Promise<TrialResult>((resolve) => {
      if (this.#failed) throw this.#failed;
      this.#waiting = resolve;
      this.#worker!.postMessage({ warmUpMs: 20, drainMs: 5, boost: [], ...options });
    });
    if (result.error) throw new Error(result.error);
    this.#receivedInAll = result.receivedInAll;
    const counts: TrialCounts = {
      elapsedMs: result.elapsedMs,
      longestGapMs: result.longestGapMs,
      watchedNs: result.watchedNs,
      sent: 0,
      received: 0,
      receivedBytes: 0,
      lost: 0,
      reordered: 0,
      histogram: new Float64Array(L.HISTOGRAM_BUCKETS),
      latencyMaxMs: 0,
      each: [],
    };
    for (const { view } of this.guests) {
      const f64 = (offset: number) => view.getFloat64(L.GUEST_CONTROL + offset, true);
      counts.sent += f64(L.GT_SENT);
      counts.received += f64(L.GT_OURS);
      counts.receivedBytes += f64(L.GT_RECEIVED_BYTES);
      // A frame that comes late was taken for lost before.
      counts.lost += Math.max(f64(L.GT_LOST) - f64(L.GT_REORDERED), 0);
      counts.reordered += f64(L.GT_REORDERED);
      counts.latencyMaxMs = Math.max(counts.latencyMaxMs, f64(L.GT_RTT_MAX));
      counts.each.push({ received: f64(L.GT_OURS), latencyMaxMs: f64(L.GT_RTT_MAX) });
      for (let i = 0; i < L.HISTOGRAM_BUCKETS; i++) {
        counts.histogram[i]! += view.getUint32(L.GUEST_HISTOGRAMS + i * 4, true);
      }
    }
    return counts;
  }

  /** Sends one packet of the streams, alone, and says when what happened to it. Throws if it does not arrive. */
  async firstPacket(): Promise<FirstPacket> {
    const first = once(this.#worker!, 'message') as Promise<[FirstPacket]>;
    this.#waiting = undefined;
    this.#worker!.postMessage('first packet');
    const [stamps] = await first;
    if (stamps.error) throw new Error(stamps.error);
    return stamps;
  }

  /** Frames sent since the beginning that have not arrived, warm-ups and all: once nothing is sent any more. */
  async missing(): Promise<number> {
    this.setStreams([]);
    await this.trial({ durationMs: 20, warmUpMs: 0, drainMs: 20 });
    // They are numbered without a gap.
    const sent = this.guests.reduce(
      (sum, { view }) => sum + view.getUint32(L.GUEST_CONTROL + L.GT_SEQUENCE, true),
      0,
    );
    return Math.max(sent - this.#receivedInAll, 0);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#worker) {
      const exited = once(this.#worker, 'exit');
      this.#worker.postMessage('stop');
      await exited;
    }
    for (const guest of this.guests) guest.close();
  }
}

/** The rest of a TCP header behind source, destination and sequence number: 20 bytes, ACK, a window. */
const TCP_REST = Uint8Array.of(0, 0, 0, 0, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0);

/** Makes TCP of a template for UDP: protocol, IPv4 checksum. The TCP checksum is left to the offload. */
function makeTcp(template: Uint8Array): void {
  const view = new DataView(template.buffer);
  const udp = view.getUint8(23);
  view.setUint8(23, 6);
  const sum = (~view.getUint16(24) & 0xffff) + 6 - udp;
  view.setUint16(24, ~((sum & 0xffff) + (sum >> 16)) & 0xffff);
  view.setUint32(38, 1);
}

/** Upper end, in microseconds, of the bucket in which the given share of the packets lies. */
export function percentileUs(histogram: Float64Array, share: number): number {
  let total = 0;
  for (const n of histogram) total += n;
  let seen = 0;
  for (let i = 0; i < histogram.length; i++) {
    seen += histogram[i]!;
    if (seen >= total * share && seen > 0) return bucketEnd(i) / 16;
  }
  return 0;
}

/** Upper end of a bucket of the histogram. */
export const bucketUs = (bucket: number): number => bucketEnd(bucket) / 16;

function bucketEnd(bucket: number): number {
  if (bucket < 8) return bucket + 1;
  const octave = (bucket >> 3) + 2;
  return (8 + (bucket & 7) + 1) * 2 ** (octave - 3);
}
