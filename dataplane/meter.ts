// Meters (contract/meter.ts): a burst takes its tokens at once, one packet after the other in the order in which they
// came. Of the bands that a packet exceeds, the one with the highest rate drops it (OpenFlow 1.3 §5.7).

import { DROP_METER } from '../contract/drop.ts';
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
  METER_PKTPS,
  METERS_MAX,
  meterAddress,
} from '../contract/meter.ts';
import { PKT_IN_PORT, PKT_LEN } from '../contract/packet.ts';
import { release } from './batch.ts';
import { countDrop } from './drop.ts';
import { nowMs } from './worker.ts';

/** Takes tokens for the packets of the list; those that find none leave it. Returns how many remain. */
export function meterAll(id: u32, list: u32, n: i32): i32 {
  if (id >= <u32>METERS_MAX) return n;
  const meter = meterAddress(id);
  if (load<u32>(meter + ME_STATE) === 0) return n;
  while (atomic.cmpxchg<u32>(meter + ME_LOCK, 0, 1) !== 0) {}
  fill(meter);
  const packets = (load<u32>(meter + ME_FLAGS) & METER_PKTPS) !== 0;
  let kept = 0;
  let bytes: f64 = 0;
  for (let i = 0; i < n; i++) {
    const pkt = load<u32>(list + (i << 2));
    const size = <f64>load<u32>(pkt + PKT_LEN);
    bytes += size;
    const band = take(meter, packets ? 1000 : size * 8);
    if (band === 0) {
      store<u32>(list + (kept << 2), pkt);
      kept++;
      continue;
    }
    store<f64>(band + MB_PACKETS, load<f64>(band + MB_PACKETS) + 1);
    store<f64>(band + MB_BYTES, load<f64>(band + MB_BYTES) + size);
    countDrop(load<u32>(pkt + PKT_IN_PORT), DROP_METER);
    release(pkt);
  }
  store<f64>(meter + ME_PACKETS, load<f64>(meter + ME_PACKETS) + <f64>n);
  store<f64>(meter + ME_BYTES, load<f64>(meter + ME_BYTES) + bytes);
  atomic.store<u32>(meter + ME_LOCK, 0);
  return kept;
}

/** Lets flow in what has come since the last time. Clocks of workers differ a little: never backwards. */
function fill(meter: u32): void {
  const elapsed = nowMs - load<f64>(meter + ME_USED_MS);
  if (elapsed <= 0) return;
  store<f64>(meter + ME_USED_MS, nowMs);
  const bands = load<u32>(meter + ME_BAND_COUNT);
  for (let i: u32 = 0; i < bands; i++) {
    const band = meter + ME_BANDS + i * METER_BAND_SIZE;
    const tokens = load<f64>(band + MB_TOKENS) + elapsed * load<f64>(band + MB_RATE);
    store<f64>(band + MB_TOKENS, min(tokens, load<f64>(band + MB_BURST)));
  }
}

/** Takes tokens from every band that has enough; the band that drops the packet, or 0. */
function take(meter: u32, tokens: f64): u32 {
  const bands = load<u32>(meter + ME_BAND_COUNT);
  let exceeded: u32 = 0;
  let rate: f64 = 0;
  for (let i: u32 = 0; i < bands; i++) {
    const band = meter + ME_BANDS + i * METER_BAND_SIZE;
    const left = load<f64>(band + MB_TOKENS) - tokens;
    if (left >= 0) {
      store<f64>(band + MB_TOKENS, left);
    } else if (load<f64>(band + MB_RATE) > rate) {
      rate = load<f64>(band + MB_RATE);
      exceeded = band;
    }
  }
  return exceeded;
}
