// Attacks by ring memory: the grammar of the G cases of docs/hostile-guests.md, cases chosen and filled by a seed.
//
// Each step leaves the ring in any state. Steps that a good back-end answers by giving the ring up are rarer than those
// that it answers by dropping a packet, or every session would end at once.

import {
  type Attacker,
  BUFFERS,
  DESC_INDIRECT,
  DESC_NEXT,
  DESC_WRITE,
  type RawDescriptor,
} from '../attacker.ts';
import { fuzzFrame } from './frames.ts';
import type { Random } from './random.ts';

const FLAGS = [0, 1, 2, 3, 4, 5, 6, 7];
const TOCTOU_ROUNDS = 400;

type Step = (attacker: Attacker, random: Random, ring: number) => void;

function rawDescriptor({ bytes, size }: Attacker, random: Random): RawDescriptor {
  return {
    address: random.address(bytes),
    length: random.length(),
    flags: random.once(8) ? random.u32() & 0xffff : random.pick(FLAGS),
    next: random.once(4) ? random.u32() & 0xffff : random.below(size),
  };
}

/** A frame (or a buffer for one) that an honest driver could have offered. */
const honest: Step = (attacker, random, ring) => {
  const frame = ring % 2 === 1 ? fuzzFrame(random) : undefined;
  attacker.offer(ring, [attacker.honest(ring, frame)], random.once(4));
};

/** G13 … G15: offload fields. */
const offload: Step = (attacker, random, ring) => {
  if (ring % 2 === 0) return honest(attacker, random, ring);
  const descriptor = attacker.honest(ring, fuzzFrame(random));
  const at = Number(descriptor.address);
  const { view } = attacker;
  view.setUint8(at, random.pick([0, 1, 1, 2, 3, 255]));
  view.setUint8(at + 1, random.pick([0, 1, 3, 4, 5, 0x81, 7, 255]));
  for (const field of [2, 4, 6, 8, 10]) {
    const value = random.pick([0, 1, 14, 34, 54, 66, 1448, 65535, random.u32() & 0xffff]);
    view.setUint16(at + field, value, true);
  }
  attacker.offer(ring, [descriptor], random.once(4));
};

/** G2, G9, G16, G19: legal or nearly legal chains of many pieces. */
const pieces: Step = (attacker, random, ring) => {
  const count = 1 + random.below(random.once(4) ? attacker.size : 12);
  const write = ring % 2 === 0 ? DESC_WRITE : 0;
  const first = attacker.next[ring]!;
  const chain = Array.from({ length: count }, (_, i) => ({
    address: BigInt(BUFFERS + random.below(attacker.view.byteLength - BUFFERS - 70000)),
    length: random.pick([0, 1, 4, 12, 40, 60, 1514, 9000, 65535]),
    flags: write | (i < count - 1 ? DESC_NEXT : 0),
    next: (first + i + 1) % attacker.size,
  }));
  attacker.offer(ring, chain, random.once(2));
};

/** G1, G4 … G7, G20: chains of arbitrary descriptors. */
const nonsense: Step = (attacker, random, ring) => {
  const count = 1 + random.below(5);
  attacker.offer(
    ring,
    Array.from({ length: count }, () => rawDescriptor(attacker, random)),
    random.once(2),
  );
};

/** G3, G21, G22: indirect tables. */
const indirect: Step = (attacker, random, ring) => {
  const entries = 1 + random.below(20);
  const table = attacker.buffer(ring, attacker.next[ring]!);
  const sane = random.once(2);
  for (let i = 0; i < entries; i++) {
    const descriptor = rawDescriptor(attacker, random);
    if (sane) {
      descriptor.address = BigInt(BUFFERS + random.below(0x10000));
      descriptor.length = random.below(2000);
      descriptor.flags = (ring % 2 === 0 ? DESC_WRITE : 0) | (i < entries - 1 ? DESC_NEXT : 0);
      descriptor.next = i + 1;
    }
    attacker.put(table, i, descriptor);
  }
  const length = random.once(3) ? random.length() : entries * 16;
  const address = random.once(5) ? random.address(attacker.bytes) : BigInt(table);
  const flags = DESC_INDIRECT | (random.once(6) ? random.below(4) : 0);
  attacker.offer(ring, [{ address, length, flags, next: attacker.next[ring]! % attacker.size }]);
};

/** G11, G12: descriptors and headers that change while they are read. */
const race: Step = (attacker, random, ring) => {
  const slot = attacker.next[ring]! % attacker.size;
  const descriptor = attacker.honest(ring, ring % 2 === 1 ? fuzzFrame(random) : undefined);
  attacker.offer(ring, [descriptor]);
  const at = attacker.descriptors(ring) + slot * 16;
  const header = Number(descriptor.address);
  for (let i = 0; i < TOCTOU_ROUNDS; i++) {
    attacker.view.setUint32(at + 8, i & 1 ? 0xffffffff : descriptor.length, true);
    attacker.view.setUint32(at + 4, i & 2 ? 0xffffffff : 0, true);
    attacker.view.setUint32(header, i & 1 ? 0x01010101 : 0, true);
    attacker.view.setUint32(header + 4, i * 0x01000193, true);
  }
  attacker.put(attacker.descriptors(ring), slot, descriptor);
};

/** G24: event indices and flags of the driver area. */
const events: Step = (attacker, random, ring) => {
  const { view, size } = attacker;
  const avail = attacker.driverArea(ring);
  view.setUint16(avail + (attacker.packed ? random.pick([0, 2]) : 0), random.u32() & 0xffff, true);
  view.setUint16(avail + 4 + size * 2, random.u32() & 0xffff, true);
};

/** G32. */
const kickStorm: Step = (attacker, random, ring) => {
  for (let i = random.below(200); i > 0; i--) attacker.kick(ring);
};

/** G8: the index jumps; G7: an entry beyond the ring. These end the ring. */
const jump: Step = (attacker, random, ring) => {
  const { view, size } = attacker;
  const avail = attacker.driverArea(ring);
  if (random.once(2)) {
    const index = view.getUint16(avail + 2, true);
    view.setUint16(avail + 2, index + random.pick([-1, 1, size, size + 1, 0x8000]), true);
  } else view.setUint16(avail + 4 + random.below(size) * 2, random.u32() & 0xffff, true);
  attacker.kick(ring);
};

/** G23, G25, G26: any bytes of the ring, or all of them zero. */
const scribble: Step = (attacker, random, ring) => {
  const from = attacker.descriptors(ring);
  if (random.once(4)) attacker.memory.fill(random.pick([0, 0, 255]), from, from + 0x8000);
  else {
    for (let i = random.below(40); i > 0; i--) {
      attacker.memory[from + random.below(0x8000)] = random.u32();
    }
  }
  attacker.kick(ring);
};

const GENTLE: readonly Step[] = [
  honest,
  honest,
  honest,
  offload,
  offload,
  pieces,
  nonsense,
  indirect,
  race,
  events,
  kickStorm,
];
const FATAL: readonly Step[] = [jump, scribble];

/** One mutation of one ring. */
export function fuzzRing(attacker: Attacker, random: Random): void {
  const ring = random.below(attacker.pairs * 2);
  const steps = random.once(60) ? FATAL : GENTLE;
  random.pick(steps)(attacker, random, ring);
}
