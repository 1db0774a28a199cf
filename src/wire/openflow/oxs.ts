// OXS: the statistics of OpenFlow 1.5 as type-length-value triples, OpenFlow 1.5.1 §7.2.4. Class 0x8002; a header like
// that of OXM without mask.

import type { Writer } from './buffer.ts';
import { Reader } from './buffer.ts';
import { putDuration, readDuration } from './codec.ts';
import { OfError } from './types.ts';

const CLASS = 0x8002;
const DURATION = 0;
const IDLE_TIME = 1;
const FLOW_COUNT = 3;
const PACKET_COUNT = 4;
const BYTE_COUNT = 5;

export interface Oxs {
  durationMs?: number;
  idleMs?: number;
  flows?: number;
  packets?: bigint;
  bytes?: bigint;
}

export function readOxs(r: Reader): Oxs {
  const start = r.offset;
  r.skip(2);
  const length = r.u16();
  const padded = (length + 7) & ~7;
  if (length < 4 || padded > r.end - start) throw new OfError('OFPBRC_BAD_LEN');
  const list = new Reader(r.bytes, 'OFPBRC_BAD_LEN', r.offset, start + length);
  r.offset = start + padded;
  const s: Oxs = {};
  while (list.left > 0) {
    const oxsClass = list.u16();
    const field = list.u8() >> 1;
    const body = list.sub(list.u8());
    if (oxsClass !== CLASS) continue;
    if (field === DURATION) s.durationMs = readDuration(body);
    else if (field === IDLE_TIME) s.idleMs = readDuration(body);
    else if (field === FLOW_COUNT) s.flows = body.u32();
    else if (field === PACKET_COUNT) s.packets = body.u64();
    else if (field === BYTE_COUNT) s.bytes = body.u64();
  }
  return s;
}

export function putOxs(w: Writer, s: Oxs): void {
  const start = w.length;
  w.u16(0).u16(0);
  const head = (field: number, length: number): void => {
    w.u16(CLASS)
      .u8(field << 1)
      .u8(length);
  };
  if (s.durationMs !== undefined) {
    head(DURATION, 8);
    putDuration(w, s.durationMs);
  }
  if (s.idleMs !== undefined) {
    head(IDLE_TIME, 8);
    putDuration(w, s.idleMs);
  }
  if (s.flows !== undefined) {
    head(FLOW_COUNT, 4);
    w.u32(s.flows);
  }
  if (s.packets !== undefined) {
    head(PACKET_COUNT, 8);
    w.u64(s.packets);
  }
  if (s.bytes !== undefined) {
    head(BYTE_COUNT, 8);
    w.u64(s.bytes);
  }
  w.patchLength(start + 2, start).pad8(start);
}
