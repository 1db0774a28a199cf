// TCP of the conntrack model: two ends, each with what it has sent, what it may send, its window and its state, after
// Open vSwitch's userspace conntrack. Numbers are plain; only comparisons know that sequence numbers wrap.

import { layers, word16 } from './ctFrames.ts';

interface End {
  low: number;
  high: number;
  window: number;
  scale: number | 'unknown' | undefined;
  state: number;
}

const [CLOSED, SYN_SENT, ESTABLISHED, CLOSING, FIN_WAIT_2, TIME_WAIT] = [0, 2, 4, 7, 9, 10];
const SLACK = 0xffff + 1500;

interface Segment {
  seq: number;
  ack: number;
  window: number;
  length: number;
  fin: boolean;
  syn: boolean;
  rst: boolean;
  acks: boolean;
  odd: boolean;
  scale: number | undefined;
}

function read(frame: Uint8Array): Segment {
  const l = layers(frame, 14)!;
  const at = l.l4;
  const view = new DataView(frame.buffer, frame.byteOffset);
  const header = (frame[at + 12]! >> 4) * 4;
  const flags = frame[at + 13]!;
  const [fin, syn, rst, psh, acks, urg] = [0, 1, 2, 3, 4, 5].map(
    (bit) => ((flags >> bit) & 1) === 1,
  );
  const odd = (syn ? rst! || fin! : !acks && !rst) || (!acks && (fin! || psh! || urg!));
  let scale: number | undefined;
  for (let option = at + 20; option + 3 <= at + header; ) {
    const kind = frame[option]!;
    if (kind === 0) break;
    if (kind === 3) scale = Math.min(frame[option + 2]!, 14);
    option += kind === 1 ? 1 : Math.max(frame[option + 1]!, 2);
  }
  return {
    seq: view.getUint32(at + 4),
    ack: view.getUint32(at + 8),
    window: word16(frame, at + 14),
    length: l.end - at - header,
    fin: fin!,
    syn: syn!,
    rst: rst!,
    acks: acks!,
    odd,
    scale,
  };
}

/** a - b in sequence space. */
function distance(a: number, b: number): number {
  return (a - b) | 0;
}

export class TcpModel {
  readonly ends: [End, End];

  static mayBegin(frame: Uint8Array): boolean {
    const s = read(frame);
    return !s.odd && !(s.syn && s.acks);
  }

  constructor(frame: Uint8Array) {
    const s = read(frame);
    const scale = s.syn ? s.scale : 'unknown';
    let window = Math.max(s.window, 1);
    if (typeof scale === 'number') window = Math.ceil(window / 2 ** scale);
    const high = (s.seq + s.length + 1 + Number(s.syn) + Number(s.fin)) >>> 0;
    this.ends = [
      { low: s.seq, high, window, scale, state: SYN_SENT },
      { low: 0, high: 1, window: 1, scale: s.syn ? undefined : 'unknown', state: CLOSED },
    ];
  }

  update(
    frame: Uint8Array,
    reply: boolean,
    liberal: boolean,
  ): { result: 'valid' | 'first' | 'invalid' | 'again'; timeout?: number } {
    const s = read(frame);
    const src = this.ends[reply ? 1 : 0];
    const dst = this.ends[reply ? 0 : 1];
    if (s.odd) return { result: 'invalid' };
    if (s.syn && !s.acks) {
      if (dst.state >= FIN_WAIT_2 && src.state >= FIN_WAIT_2) return { result: 'again' };
      if (src.state <= SYN_SENT) {
        src.state = SYN_SENT;
        return { result: 'first', timeout: 0 };
      }
    }
    let [srcScale, dstScale] = [0, 0];
    if (!s.syn && typeof src.scale === 'number' && typeof dst.scale === 'number') {
      [srcScale, dstScale] = [src.scale, dst.scale];
    } else if (!s.syn && src.scale === 'unknown' && dst.scale === 'unknown') {
      [srcScale, dstScale] = [14, 14];
    }
    let { seq, ack, window } = s;
    let end = (seq + s.length + Number(s.syn) + Number(s.fin)) >>> 0;
    let checkAck = true;
    if (src.state < SYN_SENT) {
      if (s.syn && typeof dst.scale === 'number') {
        src.scale = s.scale;
        if (s.scale !== undefined) {
          [srcScale, dstScale] = [s.scale, dst.scale];
          window = Math.ceil(window / 2 ** s.scale);
        } else {
          dst.window = (dst.window * 2 ** dst.scale) % 0x10000;
          dst.scale = undefined;
        }
      }
      src.low = seq;
      src.state = SYN_SENT;
      const high = (end + Math.max(1, dst.window * 2 ** dstScale)) >>> 0;
      if (src.high === 1 || distance(high, src.high) >= 0) {
        src.high = high;
        checkAck = false;
      }
      src.window = Math.max(src.window, window);
    }
    if (!s.acks || (ack === 0 && s.rst)) ack = dst.low;
    if (seq === end) seq = end = src.low;
    const skew = checkAck ? distance(dst.low, ack) : 0;
    const believed =
      liberal ||
      (distance(src.high, end) >= 0 &&
        distance(seq, src.low - dst.window * 2 ** dstScale) >= 0 &&
        skew >= -SLACK &&
        skew <= SLACK * 2 ** srcScale &&
        (!s.rst || Math.abs(distance(s.seq, src.low)) <= 1));
    if (!believed) {
      const loose = dst.state < SYN_SENT || dst.state >= FIN_WAIT_2 || src.state >= FIN_WAIT_2;
      const near = distance(src.high + SLACK, end) >= 0 && distance(seq, src.low - SLACK) >= 0;
      if (!loose || !near) return { result: 'invalid' };
    }
    src.window = Math.max(src.window, window);
    if (distance(end, src.low) > 0) src.low = end;
    const opened = window * 2 ** srcScale;
    if (distance(ack + opened, dst.high) >= 0) dst.high = (ack + Math.max(opened, 1)) >>> 0;
    if (s.fin && src.state < CLOSING) src.state = CLOSING;
    if (believed && s.acks) {
      if (dst.state === SYN_SENT) dst.state = ESTABLISHED;
      else if (dst.state === CLOSING) dst.state = FIN_WAIT_2;
    }
    if (s.rst) src.state = dst.state = TIME_WAIT;
    return believed ? { result: 'valid', timeout: this.timeout() } : { result: 'valid' };
  }

  private timeout(): number {
    const [later, sooner] = this.ends.map(({ state }) => state).sort((a, b) => b - a) as [
      number,
      number,
    ];
    if (sooner >= FIN_WAIT_2) return 5;
    if (sooner >= CLOSING) return 4;
    if (sooner < ESTABLISHED) return 1;
    return later >= CLOSING ? 3 : 2;
  }
}
