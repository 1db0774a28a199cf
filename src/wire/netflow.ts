// NetFlow version 5 messages, as Cisco defines them and Open vSwitch sends them. A pure codec.
//
//   header (24 bytes)   0 u16 version   2 u16 records   4 uptime in ms   8 seconds   12 nanoseconds   16 sequence
//                       20 u8 engine type   21 u8 engine id   22 u16 sampling, 0
//   record (48 bytes)   0 source   4 destination   8 next hop   12 u16 input   14 u16 output   16 packets   20 bytes
//                       24 first, 28 last packet (uptime in ms)   32 u16 source port   34 u16 destination port   36 u8 0
//                       37 u8 TCP flags   38 u8 protocol   39 u8 TOS   40 AS numbers, masks: 0

import { Writer } from './openflow/buffer.ts';

const VERSION = 5;
/** Records that fit one message. */
export const NETFLOW_RECORDS_MAX = 30;

export interface NetflowHeader {
  uptimeMs: number;
  /** Wall clock. */
  nowMs: number;
  sequence: number;
  engineType: number;
  engineId: number;
}

export interface NetflowRecord {
  source: number;
  destination: number;
  input: number;
  output: number;
  packets: number;
  bytes: number;
  firstMs: number;
  lastMs: number;
  sourcePort: number;
  destinationPort: number;
  tcpFlags: number;
  protocol: number;
  tos: number;
}

export function netflowMessage(
  header: NetflowHeader,
  records: readonly NetflowRecord[],
): Uint8Array {
  const w = new Writer();
  w.u16(VERSION)
    .u16(records.length)
    .u32(Math.trunc(header.uptimeMs) >>> 0);
  const seconds = Math.floor(header.nowMs / 1000);
  w.u32(seconds >>> 0).u32(Math.floor((header.nowMs - 1000 * seconds) * 1e6) >>> 0);
  w.u32(header.sequence).u8(header.engineType).u8(header.engineId).u16(0);
  for (const record of records) {
    w.u32(record.source).u32(record.destination).u32(0).u16(record.input).u16(record.output);
    w.u32(record.packets).u32(record.bytes);
    w.u32(Math.trunc(record.firstMs) >>> 0).u32(Math.trunc(record.lastMs) >>> 0);
    w.u16(record.sourcePort).u16(record.destinationPort).u8(0);
    w.u8(record.tcpFlags & 0xff)
      .u8(record.protocol)
      .u8(record.tos)
      .zeros(8);
  }
  return w.finish();
}
