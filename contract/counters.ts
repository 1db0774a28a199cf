// Counters of ports: one record per worker and port, written by that worker alone, summed by the reader.

import { PORT_COUNTERS_BASE } from './memory.ts';
import { MAX_PORTS } from './port.ts';

export const PORT_COUNTERS_SIZE = 1024;

// all f64
export const PC_RX_PACKETS = 0;
export const PC_RX_BYTES = 8;
export const PC_TX_PACKETS = 16;
export const PC_TX_BYTES = 24;
export const PC_RX_MULTICAST = 32;
export const PC_TX_MULTICAST = 40;
export const PC_RX_BROADCAST = 48;
export const PC_TX_BROADCAST = 56;
export const PC_RX_GSO = 64; // packets received larger than a segment
export const PC_TX_SEGMENTED = 72; // GSO packets that were segmented here
export const PC_TX_CHECKSUMMED = 80; // partial checksums completed here
export const PC_INTERRUPTS = 88; // notifications sent to the peer
// size histograms: <=64, 65-127, 128-255, 256-511, 512-1023, 1024-1522, >1522
export const PC_RX_SIZES = 96; // 7 x f64
export const PC_TX_SIZES = 152; // 7 x f64
export const PC_TX_RETRIES = 208; // times that a full ring of a guest was looked at again
/** Drops by reason: DROP_COUNT x f64. For receive and policy reasons the port is the input port, for transmit reasons the output port. */
export const PC_DROPS = 256;
/** Bytes dropped are not counted. */

/** Address of the counters of `port` written by `worker`. */
export function portCountersAddress(worker: u32, port: u32): u32 {
  return PORT_COUNTERS_BASE + (worker * MAX_PORTS + port) * PORT_COUNTERS_SIZE;
}
