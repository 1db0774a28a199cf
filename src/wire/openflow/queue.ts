// Queues: statistics and configuration. OpenFlow 1.0.1 §5.3.4, §5.3.5, 1.2 §A.3.6, 1.4.1 §7.3.5.8-10.

import type { Reader, Writer } from './buffer.ts';
import type { BodyContext, Codecs } from './codec.ts';
import { putDuration, readDuration, readList } from './codec.ts';
import { port10To11, port11To10 } from './fieldAccess.ts';
import type { QueueDesc, QueueStats } from './messages.ts';
import { checkPort, putPortNumber, readPortNumber } from './port.ts';
import { putProp, readProps } from './prop.ts';
import { OFPP_ALL, OFPP_NONE, OfError } from './types.ts';

const ALL_QUEUES = 0xffffffff;
const MIN_RATE = 1;
const MAX_RATE = 2;

function readStats(r: Reader, v: number): QueueStats {
  if (v >= 5) r.skip(8);
  const port = readPortNumber(r, v);
  if (v === 1) r.skip(2);
  const queue = r.u32();
  const [txBytes, txPackets, txErrors] = [r.u64(), r.u64(), r.u64()];
  return { port, queue, txBytes, txPackets, txErrors, durationMs: v >= 4 ? readDuration(r) : 0 };
}

function putStats(w: Writer, s: QueueStats, v: number): void {
  if (v >= 5) w.u16(48).zeros(6);
  putPortNumber(w, s.port, v);
  if (v === 1) w.zeros(2);
  w.u32(s.queue).u64(s.txBytes).u64(s.txPackets).u64(s.txErrors);
  if (v >= 4) putDuration(w, s.durationMs);
}

function readDesc(all: Reader, v: number, replyPort: number): QueueDesc {
  const start = all.offset;
  let port = replyPort;
  let queue: number;
  let length: number;
  if (v >= 5) {
    port = readPortNumber(all, v);
    queue = all.u32();
    length = all.u16();
    all.skip(6);
  } else {
    queue = all.u32();
    if (v >= 3) port = readPortNumber(all, v);
    length = all.u16();
    all.skip(v >= 3 ? 6 : 2);
  }
  const head = all.offset - start;
  if (length < head || length - head > all.left) throw new OfError('OFPBRC_BAD_LEN');
  const body = all.sub(length - head);
  const desc: QueueDesc = { port, queue };
  for (const p of readProps(body)) {
    // Before OpenFlow 1.4 a property header has 8 bytes.
    if (v < 5) p.body.skip(4);
    if (p.type === MIN_RATE) desc.minRate = p.body.u16();
    else if (p.type === MAX_RATE) desc.maxRate = p.body.u16();
  }
  return desc;
}

function putDesc(w: Writer, d: QueueDesc, v: number): void {
  const start = w.length;
  let lengthAt: number;
  if (v >= 5) {
    w.u32(d.port).u32(d.queue);
    lengthAt = w.length;
    w.u16(0).zeros(6);
  } else {
    w.u32(d.queue);
    if (v >= 3) w.u32(d.port);
    lengthAt = w.length;
    w.u16(0).zeros(v >= 3 ? 6 : 2);
  }
  const rate = (type: number, value: number | undefined): void => {
    if (value === undefined) return;
    if (v >= 5) putProp(w, type, () => w.u16(value));
    else w.u16(type).u16(16).zeros(4).u16(value).zeros(6);
  };
  rate(MIN_RATE, d.minRate);
  rate(MAX_RATE, d.maxRate);
  w.patchLength(lengthAt, start);
}

function readDescRequest(r: Reader, ctx: BodyContext): { port: number; queue: number } {
  const v = ctx.version;
  if (v >= 5) return { port: checkPort(r.u32()), queue: r.u32() };
  const port = readPortNumber(r, v);
  r.skip(v === 1 ? 2 : 4);
  if (port >= 0xff00 && !(v > 1 && port === OFPP_NONE)) throw new OfError('OFPQOFC_BAD_PORT');
  return { port, queue: ALL_QUEUES };
}

export const queueCodecs: Codecs = {
  queue_stats_request: {
    decode: (r, ctx) => {
      let port = readPortNumber(r, ctx.version);
      if (ctx.version === 1) {
        r.skip(2);
        // OpenFlow 1.0 says OFPP_ALL where later versions say OFPP_ANY.
        if (port === OFPP_ALL) port = OFPP_NONE;
      }
      return { type: 'queue_stats_request', port, queue: r.u32() };
    },
    encode: (w, m, ctx) => {
      if (ctx.version === 1) w.u16(m.port === OFPP_NONE ? 0xfffc : port11To10(m.port)).zeros(2);
      else w.u32(m.port);
      w.u32(m.queue);
    },
  },
  queue_stats_reply: {
    decode: (r, ctx) => ({
      type: 'queue_stats_reply',
      queues: readList(r, () => readStats(r, ctx.version)),
    }),
    encode: (w, m, ctx) => {
      for (const s of m.queues) {
        putStats(w, s, ctx.version);
        ctx.mark();
      }
    },
  },
  queue_desc_request: {
    decode: (r, ctx) => ({ type: 'queue_desc_request', ...readDescRequest(r, ctx) }),
    encode: (w, m, ctx) => {
      putPortNumber(w, m.port, ctx.version);
      if (ctx.version >= 5) w.u32(m.queue);
      else w.zeros(ctx.version === 1 ? 2 : 4);
    },
  },
  queue_desc_reply: {
    decode: (r, ctx) => {
      const v = ctx.version;
      let port = OFPP_NONE;
      if (v < 5) {
        port = v === 1 ? port10To11(r.u16()) : checkPort(r.u32());
        r.skip(v === 1 ? 6 : 4);
      }
      return {
        type: 'queue_desc_reply',
        port,
        queues: readList(r, () => readDesc(r, v, port)),
      };
    },
    encode: (w, m, ctx) => {
      const v = ctx.version;
      if (v < 5) {
        putPortNumber(w, m.port, v);
        w.zeros(v === 1 ? 6 : 4);
      }
      for (const d of m.queues) {
        putDesc(w, d, v);
        // Before OpenFlow 1.4 the reply is no multipart message and cannot be split.
        if (v >= 5) ctx.mark();
      }
    },
  },
};
