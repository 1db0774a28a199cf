// Rings against the model driver: whatever layout, features and cuts, every frame arrives whole, every buffer comes
// back in order, and nothing outside the guest's regions is read or written.

import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { OFFLOAD_CSUM } from '../../contract/port.ts';
import { Ports } from '../net/ports.ts';
import { type Buf, GuestMemory, Ring, vnetHeader } from '../net/ring.ts';

const ports = await Ports.load();

// Guest addresses are contiguous over both regions; in memory, they lie apart with canaries around.
const LOW = 0x40010000;
const HIGH = 0x40a00000;
const BYTES = 0x200000;
const GPA = 0x7_0000_0000n;
const CANARY = 0x10000;

function guest(): GuestMemory {
  return new GuestMemory(ports, [
    { gpa: GPA, bytes: BYTES, base: LOW },
    { gpa: GPA + BigInt(BYTES), bytes: BYTES, base: HIGH },
  ]);
}
function setCanaries(): void {
  for (const base of [LOW, HIGH]) {
    ports.bytes.fill(0xc5, base - CANARY, base);
    ports.bytes.fill(0xc5, base + BYTES, base + BYTES + CANARY);
  }
}
function checkCanaries(): void {
  for (const base of [LOW, HIGH]) {
    for (const from of [base - CANARY, base + BYTES]) {
      const area = ports.bytes.subarray(from, from + CANARY);
      assert.ok(
        area.every((byte) => byte === 0xc5),
        'wrote outside the guest',
      );
    }
  }
}

const ringOptions = fc.record({
  packed: fc.boolean(),
  sizeLog: fc.integer({ min: 4, max: 9 }),
  eventIdx: fc.boolean(),
  inOrder: fc.boolean(),
  header: fc.constantFrom<10 | 12>(10, 12),
  mergeable: fc.boolean(),
  start: fc.nat(0xffff),
  wrap: fc.boolean(),
});
type Options = typeof ringOptions extends fc.Arbitrary<infer T> ? T : never;

function makeRing(options: Options, dir: 0 | 1): Ring {
  // Packed rings need not be a power of two.
  const size = options.packed ? (1 << options.sizeLog) - 3 : 1 << options.sizeLog;
  const base = options.packed
    ? (options.start % size) | (options.wrap ? 0x8000 : 0)
    : options.start;
  return new Ring(ports, guest(), dir, 1, dir, GPA, {
    ...options,
    header: options.mergeable ? 12 : options.header,
    size,
    base,
    indirect: true,
    callFd: 77,
  });
}

/** Cuts `length` bytes into buffers of the given sizes at places of their own. */
function buffers(length: number, cuts: number[], place: { next: bigint }): Buf[] {
  const result: Buf[] = [];
  let left = length;
  for (let i = 0; left > 0; i++) {
    const part = i >= cuts.length || i >= 60 ? left : Math.min(left, cuts[i]!);
    if (part > 0) left -= part;
    result.push({ gpa: place.next, length: part });
    place.next += BigInt(part + 1);
  }
  return result;
}

function scatter(ring: Ring, chain: Buf[], data: Buffer): void {
  let done = 0;
  for (const buffer of chain) {
    ring.guest.write(buffer.gpa, data.subarray(done, done + buffer.length));
    done += buffer.length;
  }
}
function gather(ring: Ring, chain: Buf[], length: number): Buffer {
  const all = Buffer.concat(chain.map((buffer) => ring.guest.read(buffer.gpa, buffer.length)));
  return all.subarray(0, length);
}

const frames = fc.array(
  fc.record({
    length: fc.oneof(fc.integer({ min: 14, max: 300 }), fc.integer({ min: 14, max: 9000 })),
    seed: fc.nat(255),
    cuts: fc.array(fc.oneof(fc.nat(20), fc.nat(2000)), { maxLength: 9 }),
    indirect: fc.boolean(),
  }),
  { minLength: 1, maxLength: 60 },
);

function pattern(length: number, seed: number): Buffer {
  return Buffer.from(Array.from({ length }, (_, i) => (i * 31 + seed + (i >> 8)) & 0xff));
}

test('receive: frames cut in any way arrive whole, buffers come back in order', () => {
  fc.assert(
    fc.property(ringOptions, frames, fc.integer({ min: 1, max: 256 }), (options, list, burst) => {
      ports.reset();
      setCanaries();
      ports.port(1, {
        regions: [
          { gpa: GPA, bytes: BYTES, base: LOW },
          { gpa: GPA + BigInt(BYTES), bytes: BYTES, base: HIGH },
        ],
      });
      const ring = makeRing(options, 0);
      // Buffers begin below the border between the regions, so that some lie across it.
      const place = { next: GPA + BigInt(BYTES) - 40_000n };
      const waiting: { frame: Buffer; chain: Buf[] }[] = [];
      let returned = 0;
      const drain = () => {
        for (;;) {
          const n = ports.wasm.rxBurst(ring.q, ports.record(0), burst);
          if (n === 0) break;
          for (let i = 0; i < n; i++) {
            const { frame, chain } = waiting.shift()!;
            assert.deepEqual(ports.packet(i).frame, frame);
            void chain;
          }
          ports.wasm.rxDone(ring.q);
        }
        const used = ring.reap();
        returned += used.length;
        for (const element of used) assert.ok(element.length === 0 || options.inOrder);
        assert.equal(ring.outstanding.length, 0);
      };
      for (const item of list) {
        const frame = pattern(item.length, item.seed);
        const data = Buffer.concat([vnetHeader(ring.header), frame]);
        if (place.next > GPA + BigInt(2 * BYTES) - 20_000n) {
          drain();
          place.next = GPA + BigInt(BYTES) - 40_000n;
        }
        const chain = buffers(data.length, item.cuts, place);
        scatter(ring, chain, data);
        if (!ring.add(chain, item.indirect && ring.room > 0)) {
          drain();
          if (!ring.add(chain, item.indirect)) continue; // longer than the ring
        }
        waiting.push({ frame, chain });
      }
      drain();
      assert.equal(waiting.length, 0);
      assert.deepEqual(ports.drops(1), {});
      assert.equal(ports.counter(1, 0), returned);
      assert.equal(ring.broken, 0);
      checkCanaries();
    }),
    { numRuns: 150 },
  );
});

test('transmit: frames land whole in any buffers, num_buffers and lengths are right', () => {
  const chains = fc.array(
    fc.record({
      length: fc.oneof(fc.integer({ min: 26, max: 300 }), fc.integer({ min: 1500, max: 3000 })),
      cuts: fc.array(fc.nat(400), { maxLength: 6 }),
      indirect: fc.boolean(),
    }),
    { minLength: 1, maxLength: 60 },
  );
  fc.assert(
    fc.property(ringOptions, frames, chains, (options, list, room) => {
      ports.reset();
      setCanaries();
      ports.port(1, {
        offloads: OFFLOAD_CSUM,
        regions: [
          { gpa: GPA, bytes: BYTES, base: LOW },
          { gpa: GPA + BigInt(BYTES), bytes: BYTES, base: HIGH },
        ],
      });
      const ring = makeRing(options, 1);
      const place = { next: GPA + BigInt(BYTES) - 40_000n };
      for (const item of room) {
        ring.add(buffers(item.length, item.cuts, place), item.indirect && ring.room > 0);
      }
      // What must happen, chain by chain.
      const free = ring.outstanding.map((chain) =>
        chain.buffers.reduce((sum, buffer) => sum + buffer.length, 0),
      );
      const sent = list.slice(0, 256).map((item) => pattern(item.length, item.seed));
      const expected: { frame: Buffer; lengths: number[] }[] = [];
      const drops: Record<string, number> = {};
      for (const frame of sent) {
        const lengths: number[] = [];
        let left = frame.length + ring.header;
        while (left > 0 && lengths.length < free.length) {
          const part = Math.min(left, free[lengths.length]!);
          lengths.push(part);
          left -= part;
          if (!options.mergeable) break;
        }
        if (left > 0) {
          const reason = options.mergeable || free.length === 0 ? 'tx_ring_full' : 'tx_no_buffer';
          drops[reason] = (drops[reason] ?? 0) + 1;
        } else {
          free.splice(0, lengths.length);
          expected.push({ frame, lengths });
        }
      }
      sent.forEach((frame, i) => {
        ports.setPacket(i, frame, { headBytes: 14 + (i % 200), cuts: [100 + i, 777] });
      });
      ports.transmit(1, sent.length);
      const used = ring.reap();
      for (const { frame, lengths } of expected) {
        const parts = used.splice(0, lengths.length);
        assert.deepEqual(
          parts.map((part) => part.length),
          lengths,
        );
        const data = Buffer.concat(parts.map((part) => gather(ring, part.buffers, part.length)));
        assert.deepEqual(data.subarray(ring.header), frame);
        const header = vnetHeader(ring.header);
        if (ring.header === 12) header.writeUInt16LE(lengths.length, 10);
        assert.deepEqual(data.subarray(0, ring.header), header);
      }
      assert.equal(used.length, 0);
      assert.deepEqual(ports.drops(1), drops);
      assert.equal(ring.broken, 0);
      checkCanaries();
    }),
    { numRuns: 150 },
  );
});

test('fuzz: no descriptors, tables or indices make us leave the guest or loop', () => {
  const address = fc.oneof(
    fc.nat(2 * BYTES + 64).map((offset) => GPA - 32n + BigInt(offset)),
    fc.nat(0xfff).map((offset) => GPA + BigInt(offset)), // the ring itself
    fc.constantFrom(0n, 0xffff_ffff_ffff_fff0n, 0xffff_ffff_ffff_ffffn, 0x40000000n, BigInt(LOW)),
    fc.bigInt({ min: 0n, max: 0xffff_ffff_ffff_ffffn }),
  );
  const descriptor = fc.record({
    addr: address,
    len: fc.oneof(
      fc.nat(100),
      fc.nat(70000),
      fc.constantFrom(16, 32, 4096, 0xffffffff, 0x80000000, 65536 * 16, BYTES, 2 * BYTES),
    ),
    a: fc.oneof(fc.nat(7), fc.nat(0xffff)),
    b: fc.oneof(fc.nat(40), fc.nat(0xffff)),
  });
  const half = fc.record({
    descriptors: fc.array(descriptor, { minLength: 16, maxLength: 16 }),
    entries: fc.array(fc.oneof(fc.nat(20), fc.nat(0xffff)), { minLength: 16, maxLength: 16 }),
    moves: fc.array(fc.oneof(fc.nat(20), fc.nat(0xffff)), { minLength: 1, maxLength: 5 }),
    event: fc.nat(0xffff_ffff),
  });
  fc.assert(
    fc.property(ringOptions, half, fc.constantFrom<0 | 1>(0, 1), (options, fuzz, dir) => {
      ports.reset();
      setCanaries();
      ports.port(1, {
        regions: [
          { gpa: GPA, bytes: BYTES, base: LOW },
          { gpa: GPA + BigInt(BYTES), bytes: BYTES, base: HIGH },
        ],
      });
      const ring = makeRing({ ...options, sizeLog: 4, start: 0, wrap: true }, dir);
      fuzz.descriptors.forEach((d, i) => {
        if (i >= ring.size) return;
        // Half of the packed flags are made available, else nothing would happen.
        const b = ring.packed && i % 2 === 0 ? (d.b & 0x7f7f) | 0x80 : d.b;
        ring.desc(i, d.addr, d.len, d.a, b);
        const at = ring.guest.at(ring.tablesGpa) + i * 16;
        ring.descAt(at, d.addr, d.len, d.a, d.b);
      });
      fuzz.entries.forEach((id, i) => {
        if (!ring.packed) ring.setEntry(i, id);
      });
      const secret = Buffer.alloc(16, 0xc5);
      for (const move of fuzz.moves) {
        if (!ring.packed) ring.setIdx(move);
        else ports.setU32(ring.guest.at(ring.availGpa), fuzz.event);
        const before = performance.now();
        if (dir === 0) {
          const n = ports.wasm.rxBurst(ring.q, ports.record(0), 256);
          assert.ok(n >= 0 && n <= 256);
          for (let i = 0; i < n; i++) {
            const { frame } = ports.packet(i);
            assert.ok(frame.length >= 14 && frame.length <= 65557);
            assert.equal(frame.indexOf(secret), -1, "read another guest's memory");
          }
          if (n > 0) ports.wasm.rxDone(ring.q);
        } else {
          for (let i = 0; i < 20; i++) ports.setPacket(i, pattern(60 + i * 100, i));
          ports.transmit(1, 20);
        }
        ports.wasm.prepareSleep(ring.q);
        ports.wasm.wake(ring.q);
        assert.ok(performance.now() - before < 500, 'took too long');
      }
      checkCanaries();
    }),
    { numRuns: 400 },
  );
});
