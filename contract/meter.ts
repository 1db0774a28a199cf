// Meters: token buckets that all workers share. ACT_METER names one by its number; packets that find too few tokens in
// a band are dropped (DROP_METER) and counted there.
//
// A bucket holds thousandths of a packet (METER_PKTPS) or bits (kbit/s): rate x milliseconds is what flows in. Workers
// take the lock for a burst; the control plane takes it to change a meter.

import { METER_BASE } from './memory.ts';

export const METERS_MAX = 65536;
export const METER_SIZE = 512;
export const METER_BANDS_MAX = 8;

// Meter record
export const ME_LOCK = 0; // u32: 1 = held
export const ME_STATE = 4; // u32: 0 free (packets pass), 1 in use
export const ME_FLAGS = 8; // u32: METER_PKTPS, else kbit/s
export const ME_BAND_COUNT = 12; // u32
export const ME_USED_MS = 16; // f64 the engine's clock when the buckets were last filled
export const ME_PACKETS = 24; // f64 all packets that came
export const ME_BYTES = 32; // f64
export const ME_BANDS = 64; // METER_BANDS_MAX bands
export const METER_BAND_SIZE = 40;

// Band
export const MB_RATE = 0; // f64 tokens a millisecond
export const MB_BURST = 8; // f64 most tokens
export const MB_TOKENS = 16; // f64
export const MB_PACKETS = 24; // f64 packets dropped by this band
export const MB_BYTES = 32; // f64

export const METER_PKTPS = 2; // OFPMF_PKTPS

/** Address of meter `meter` (0 … METERS_MAX-1). */
export function meterAddress(meter: u32): u32 {
  return METER_BASE + meter * METER_SIZE;
}
