// Frames for the parser: well-formed ones of each kind, then some bytes of them changed.

import type { Random } from './random.ts';

const MAC_A = [0x02, 0, 0, 0, 0xfa, 1];
const MACS = [
  MAC_A,
  [0x02, 0, 0, 0, 0xfa, 2],
  [255, 255, 255, 255, 255, 255],
  [1, 0x80, 0xc2, 0, 0, 0],
];
const ETHERTYPES = [
  0x0800, 0x86dd, 0x0806, 0x8100, 0x88a8, 0x8847, 0x8848, 0x894f, 0x8809, 0x88cc, 0, 60,
];
const PROTOCOLS = [1, 2, 6, 17, 47, 58, 132, 0, 43, 44, 50, 51, 59, 60, 255];

/** A frame of 0 … 1600 bytes. */
export function fuzzFrame(random: Random): Uint8Array {
  const bytes = random.once(8) ? random.below(80) : 60 + random.below(random.once(4) ? 1540 : 200);
  const frame = random.bytes(Math.max(bytes, 120));
  const view = new DataView(frame.buffer);
  frame.set(random.pick(MACS), 0);
  // Mostly few senders; now and then a new one, for the learning table.
  frame.set(random.once(4) ? [2, ...random.bytes(5)] : random.pick(MACS), 6);
  let at = 12;
  while (random.once(3) && at < 40) {
    view.setUint16(at, random.pick([0x8100, 0x88a8]));
    at += 4;
  }
  const type = random.pick(ETHERTYPES);
  view.setUint16(at, type);
  at += 2;
  if (type === 0x0800) ipv4(random, frame, view, at);
  else if (type === 0x86dd) ipv6(random, frame, view, at);
  else if (type === 0x0806) frame.set([0, 1, 8, 0, 6, 4, 0, random.below(4)], at);
  const spoil = random.once(2) ? random.below(6) : 0;
  for (let i = 0; i < spoil; i++) frame[random.below(at + 60)] = random.u32();
  return frame.subarray(0, bytes);
}

function ipv4(random: Random, frame: Uint8Array, view: DataView, at: number): void {
  frame[at] = random.once(6) ? random.u32() : 0x45;
  view.setUint16(at + 2, random.once(4) ? random.u32() & 0xffff : frame.length - at);
  view.setUint16(at + 6, random.once(5) ? random.u32() & 0xffff : 0);
  frame[at + 9] = random.pick(PROTOCOLS);
  transport(random, frame, at + 20);
}

function ipv6(random: Random, frame: Uint8Array, view: DataView, at: number): void {
  frame[at] = 0x60;
  view.setUint16(at + 4, random.once(4) ? random.u32() & 0xffff : frame.length - at - 40);
  frame[at + 6] = random.pick(PROTOCOLS);
  let next = at + 40;
  // A walk of extension headers whose lengths need not be true.
  for (let i = random.below(4); i > 0 && next + 8 < frame.length; i--) {
    frame[next] = random.pick(PROTOCOLS);
    frame[next + 1] = random.once(3) ? random.u32() : 0;
    next += 8;
  }
  transport(random, frame, next);
}

function transport(random: Random, frame: Uint8Array, at: number): void {
  if (at + 14 >= frame.length) return;
  frame[at + 12] = random.once(4) ? random.u32() : 0x50;
}
