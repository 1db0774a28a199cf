// Meters in the data plane's memory (contract/meter.ts): the only code of the control plane that writes them. A number
// is reused only when no worker can meet a program that names it: the caller frees it after quiescence.

import {
  MB_BURST,
  MB_BYTES,
  MB_PACKETS,
  MB_RATE,
  MB_TOKENS,
  ME_BAND_COUNT,
  ME_BANDS,
  ME_BYTES,
  ME_FLAGS,
  ME_LOCK,
  ME_PACKETS,
  ME_STATE,
  ME_USED_MS,
  METER_BAND_SIZE,
  METER_BANDS_MAX,
  METER_PKTPS,
  METERS_MAX,
  meterAddress,
} from '../../contract/meter.ts';

export interface MeterBandSpec {
  /** kbit/s or packets a second. */
  rate: number;
  /** kbit or packets. */
  burst: number;
}

export interface MeterCounters {
  packets: number;
  bytes: number;
  /** What each band has dropped. */
  bands: { packets: number; bytes: number }[];
}

export class MeterRecords {
  readonly #view: DataView;
  readonly #words: Int32Array;
  readonly #freed: number[] = [];
  #next = 0;

  constructor(memory: WebAssembly.Memory) {
    this.#view = new DataView(memory.buffer);
    this.#words = new Int32Array(memory.buffer);
  }

  /** A number for a meter; packets pass it until it is set. -1 = all are in use. */
  allocate(): number {
    const freed = this.#freed.pop();
    if (freed !== undefined) return freed;
    return this.#next < METERS_MAX ? this.#next++ : -1;
  }

  /** Configures a meter: full buckets, counters at zero. At most METER_BANDS_MAX bands. */
  set(meter: number, pktps: boolean, bands: readonly MeterBandSpec[], nowMs: number): void {
    if (bands.length > METER_BANDS_MAX) throw new RangeError(`a meter with ${bands.length} bands`);
    const at = meterAddress(meter);
    const view = this.#view;
    const f64 = (offset: number, value: number): void => view.setFloat64(offset, value, true);
    this.#lock(at);
    view.setUint32(at + ME_FLAGS, pktps ? METER_PKTPS : 0, true);
    view.setUint32(at + ME_BAND_COUNT, bands.length, true);
    f64(at + ME_USED_MS, nowMs);
    f64(at + ME_PACKETS, 0);
    f64(at + ME_BYTES, 0);
    bands.forEach(({ rate, burst }, i) => {
      const band = at + ME_BANDS + i * METER_BAND_SIZE;
      f64(band + MB_RATE, rate);
      f64(band + MB_BURST, burst * 1000);
      f64(band + MB_TOKENS, burst * 1000);
      f64(band + MB_PACKETS, 0);
      f64(band + MB_BYTES, 0);
    });
    view.setUint32(at + ME_STATE, 1, true);
    this.#unlock(at);
  }

  counters(meter: number): MeterCounters {
    const at = meterAddress(meter);
    const f64 = (offset: number): number => this.#view.getFloat64(offset, true);
    const count = this.#view.getUint32(at + ME_BAND_COUNT, true);
    return {
      packets: f64(at + ME_PACKETS),
      bytes: f64(at + ME_BYTES),
      bands: Array.from({ length: count }, (_, i) => {
        const band = at + ME_BANDS + i * METER_BAND_SIZE;
        return { packets: f64(band + MB_PACKETS), bytes: f64(band + MB_BYTES) };
      }),
    };
  }

  /** Gives a number back; no program names it any more. */
  free(meter: number): void {
    this.#view.setUint32(meterAddress(meter) + ME_STATE, 0, true);
    this.#freed.push(meter);
  }

  /** Workers hold the lock for a burst at most. */
  #lock(at: number): void {
    const word = (at + ME_LOCK) >>> 2;
    while (Atomics.compareExchange(this.#words, word, 0, 1) !== 0);
  }

  #unlock(at: number): void {
    Atomics.store(this.#words, (at + ME_LOCK) >>> 2, 0);
  }
}
