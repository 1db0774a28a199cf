// Rate limits of a port in the data plane: what may come in (Interface.ingress_policing_*), and what each queue may send
// (tables QoS and Queue of ovs-vswitchd.conf.db(5)). Limits are meters that translation puts before everything, or before
// an output; a packet over the limit is dropped under the name of meters.

import type { MeterRecords } from '../engine/meters.ts';

/** A token bucket. */
export interface Limit {
  /** kbit/s, or packets a second. */
  rate: number;
  /** kbit or packets. */
  burst: number;
  pktps: boolean;
}

export interface QueueCounters {
  txPackets: number;
  txBytes: number;
  txErrors: number;
}

interface Bucket {
  readonly limit: Limit;
  readonly meter: number;
  readonly createdMs: number;
}

export interface PolicersOptions {
  records: MeterRecords;
  nowMs: () => number;
  /** Resolves when no packet can meet a state older than the call. */
  settled: () => Promise<void>;
}

const sameLimit = (a: Limit, b: Limit): boolean =>
  a.rate === b.rate && a.burst === b.burst && a.pktps === b.pktps;

/** The limits of one port. */
export class Policers {
  readonly #options: PolicersOptions;
  #input: Bucket[] = [];
  #queues = new Map<number, Bucket>();

  constructor(options: PolicersOptions) {
    this.#options = options;
  }

  /** Meters that every packet passes on its way in. */
  get input(): number[] {
    return this.#input.map(({ meter }) => meter);
  }

  /** Meter of a queue; queues that are not configured share number 0. */
  output(queue: number): number | undefined {
    return (this.#queues.get(queue) ?? this.#queues.get(0))?.meter;
  }

  get queueIds(): number[] {
    return [...this.#queues.keys()].sort((a, b) => a - b);
  }

  /** What the queue has let through, and what not. */
  counters(queue: number): QueueCounters | undefined {
    const bucket = this.#queues.get(queue);
    if (bucket === undefined) return undefined;
    const { packets, bytes, bands } = this.#options.records.counters(bucket.meter);
    const dropped = bands[0] ?? { packets: 0, bytes: 0 };
    return {
      txPackets: packets - dropped.packets,
      txBytes: bytes - dropped.bytes,
      txErrors: dropped.packets,
    };
  }

  durationMs(queue: number): number {
    const bucket = this.#queues.get(queue);
    return bucket === undefined ? 0 : this.#options.nowMs() - bucket.createdMs;
  }

  /** Makes the limits these; buckets that stay as they are keep their tokens. True if translation has to look again. */
  configure(input: readonly Limit[], queues: ReadonlyMap<number, Limit>): boolean {
    const before = this.#meters();
    const next: Bucket[] = [];
    for (const [i, limit] of input.entries()) {
      const bucket = this.#renew(this.#input[i], limit);
      if (bucket !== undefined) next.push(bucket);
    }
    for (const old of this.#input.slice(input.length)) this.#free(old);
    const byQueue = new Map<number, Bucket>();
    for (const [queue, limit] of queues) {
      const bucket = this.#renew(this.#queues.get(queue), limit);
      if (bucket !== undefined) byQueue.set(queue, bucket);
    }
    for (const [queue, old] of this.#queues) if (!queues.has(queue)) this.#free(old);
    this.#input = next;
    this.#queues = byQueue;
    return this.#meters() !== before;
  }

  /** What translation sees, as text. */
  #meters(): string {
    return JSON.stringify([this.input, this.queueIds.map((queue) => [queue, this.output(queue)])]);
  }

  /** The bucket with this limit, or one instead of it. Undefined: all meters are in use, so nothing limits. */
  #renew(old: Bucket | undefined, limit: Limit): Bucket | undefined {
    if (old !== undefined && sameLimit(old.limit, limit)) return old;
    if (old !== undefined) this.#free(old);
    const { records, nowMs } = this.#options;
    const meter = records.allocate();
    if (meter < 0) return undefined;
    records.set(meter, limit.pktps, [limit], nowMs());
    return { limit, meter, createdMs: nowMs() };
  }

  #free({ meter }: Bucket): void {
    const { records, settled } = this.#options;
    // The caller first says that there was a change: until that has settled, packets meet the meter.
    queueMicrotask(() => void settled().then(() => records.free(meter)));
  }
}
