// The meters of a bridge (OpenFlow 1.3 §5.7, §7.3.4.4): numbers of the controller's, each with a meter of the data plane.
// The virtual meters "controller" and "slowpath" limit what goes to controllers and to the control plane.

import type { MeterRecords } from '../engine/meters.ts';
import type { MeterBand, MeterConfig, MeterStats } from '../wire/openflow/messages.ts';
import {
  OFPM_ALL,
  OFPM_CONTROLLER,
  OFPM_MAX,
  OFPM_SLOWPATH,
  OFPMBT_DROP,
  OFPMF_BURST,
  OFPMF_KBPS,
  OFPMF_PKTPS,
  OFPMF_STATS,
} from '../wire/openflow/meter.ts';
import { OfError } from '../wire/openflow/types.ts';

/** All that the data plane knows. */
const FLAGS = OFPMF_KBPS | OFPMF_PKTPS | OFPMF_BURST | OFPMF_STATS;
export const MAX_BANDS = 8;

export interface Meter {
  readonly id: number;
  /** Number in the data plane. */
  readonly number: number;
  readonly createdMs: number;
  flags: number;
  bands: readonly MeterBand[];
}

export interface MeterTableOptions {
  records: MeterRecords;
  nowMs: () => number;
  /** Resolves when no packet can meet a state older than the call. */
  settled: () => Promise<void>;
}

export class MeterTable {
  readonly #options: MeterTableOptions;
  readonly #meters = new Map<number, Meter>();

  constructor(options: MeterTableOptions) {
    this.#options = options;
  }

  get(id: number): Meter | undefined {
    return this.#meters.get(id);
  }

  has(id: number): boolean {
    return this.#meters.has(id);
  }

  /** One meter or, for OFPM_ALL, all of them. Throws OFPMMFC_UNKNOWN_METER. */
  select(id: number): Meter[] {
    if (id === OFPM_ALL) return [...this.#meters.values()];
    const meter = this.#meters.get(id);
    if (meter === undefined) throw new OfError('OFPMMFC_UNKNOWN_METER');
    return [meter];
  }

  /** All meters. */
  all(): Iterable<Meter> {
    return this.#meters.values();
  }

  /** Throws OfError. */
  add(config: MeterConfig): void {
    const { meterId: id } = config;
    checkConfig(config);
    if (this.#meters.has(id)) throw new OfError('OFPMMFC_METER_EXISTS');
    checkBands(config);
    const number = this.#options.records.allocate();
    if (number < 0) throw new OfError('OFPMMFC_OUT_OF_METERS');
    const createdMs = this.#options.nowMs();
    const meter: Meter = { id, number, createdMs, flags: config.flags, bands: [] };
    this.#configure(meter, config);
    this.#meters.set(id, meter);
  }

  /** Throws OfError. The counters start anew. */
  modify(config: MeterConfig): void {
    checkConfig(config);
    const meter = this.#meters.get(config.meterId);
    if (meter === undefined) throw new OfError('OFPMMFC_UNKNOWN_METER');
    checkBands(config);
    this.#configure(meter, config);
  }

  /** Takes a meter away; call after the flows that use it have been removed. */
  remove(meter: Meter): void {
    if (!this.#meters.delete(meter.id)) return;
    const { records, settled } = this.#options;
    void settled().then(() => records.free(meter.number));
  }

  stats(meter: Meter, flowCount: number): MeterStats {
    const { records, nowMs } = this.#options;
    const { packets, bytes, bands } = records.counters(meter.number);
    return {
      meterId: meter.id,
      flowCount,
      packets: BigInt(packets),
      bytes: BigInt(bytes),
      durationMs: Math.max(0, nowMs() - meter.createdMs),
      bands: bands.map((band) => ({ packets: BigInt(band.packets), bytes: BigInt(band.bytes) })),
    };
  }

  #configure(meter: Meter, { flags, bands }: MeterConfig): void {
    meter.flags = flags;
    // Without a burst size, a second's worth.
    meter.bands = bands.map((band) => ({ ...band, burstSize: band.burstSize || band.rate }));
    this.#options.records.set(
      meter.number,
      (flags & OFPMF_PKTPS) !== 0,
      meter.bands.map(({ rate, burstSize }) => ({ rate, burst: burstSize })),
      this.#options.nowMs(),
    );
  }
}

function checkConfig({ meterId, bands }: MeterConfig): void {
  const virtual = meterId === OFPM_SLOWPATH || meterId === OFPM_CONTROLLER;
  if (meterId === 0 || (meterId > OFPM_MAX && !virtual)) throw new OfError('OFPMMFC_INVALID_METER');
  if (bands.length > MAX_BANDS) throw new OfError('OFPMMFC_OUT_OF_BANDS');
}

/** What the data plane cannot do. */
function checkBands({ flags, bands }: MeterConfig): void {
  if ((flags & ~FLAGS) !== 0) throw new OfError('OFPMMFC_BAD_FLAGS');
  if (bands.some(({ type }) => type !== OFPMBT_DROP)) throw new OfError('OFPMMFC_BAD_BAND');
  if (bands.some(({ rate }) => rate === 0)) throw new OfError('OFPMMFC_BAD_RATE');
}
