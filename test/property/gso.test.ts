// Segmentation and checksums in software against an obvious oracle: cut the payload, rebuild every header from scratch,
// add up every checksum from scratch.

import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { PC_TX_CHECKSUMMED, PC_TX_PACKETS, PC_TX_SEGMENTED } from '../../contract/counters.ts';
import {
  VNET_GSO_ECN,
  VNET_GSO_TCPV4,
  VNET_GSO_TCPV6,
  VNET_GSO_UDP,
  VNET_NEEDS_CSUM,
} from '../../contract/packet.ts';
import { OFFLOAD_CSUM, OFFLOAD_TSO4, OFFLOAD_TSO6, OFFLOAD_UFO } from '../../contract/port.ts';
import { Ports } from '../net/ports.ts';
import { GuestMemory, Ring } from '../net/ring.ts';

const ports = await Ports.load();
const GPA = 0n;
const BASE = 0x40200000;
const BYTES = 0x1000000;

/** RFC 1071, word by word. */
function sum(data: Buffer): number {
  let total = 0;
  for (let i = 0; i < data.length; i += 2) {
    total += data[i]! * 256 + (i + 1 < data.length ? data[i + 1]! : 0);
  }
  while (total > 0xffff) total = (total & 0xffff) + Math.floor(total / 65536);
  return total;
}

interface Shape {
  v6: boolean;
  tcp: boolean;
  tags: number;
  options: number;
  extensions: number;
  tcpOptions: number;
  payload: number;
  seed: number;
}
const shape = fc.record({
  v6: fc.boolean(),
  tcp: fc.boolean(),
  tags: fc.nat(2),
  options: fc.nat(10),
  extensions: fc.nat(2),
  tcpOptions: fc.nat(10),
  payload: fc.oneof(fc.nat(3000), fc.nat(64000)),
  seed: fc.nat(0xffff),
});

interface Built {
  frame: Buffer;
  l3: number;
  l4: number;
  headerEnd: number;
  field: number; // offset of the checksum field
  pseudo(length: number): Buffer;
}

/** A frame with correct lengths; the checksum field holds the sum of the pseudo-header. */
function build(s: Shape): Built {
  const eth = Buffer.from('0202030405060a0b0c0d0e0f', 'hex');
  const tags = Array.from({ length: s.tags }, (_, i) => Buffer.from([0x81, 0, 0x20, 10 + i]));
  const type = Buffer.from(s.v6 ? [0x86, 0xdd] : [0x08, 0x00]);
  const payload = Buffer.from(Array.from({ length: s.payload }, (_, i) => (i * 7 + s.seed) & 0xff));
  let l4: Buffer;
  if (s.tcp) {
    l4 = Buffer.alloc(20 + s.tcpOptions * 4, 1);
    l4.writeUInt16BE(s.seed, 0);
    l4.writeUInt16BE(80, 2);
    l4.writeUInt32BE(0xfffff000 + (s.seed & 0xfff), 4); // the sequence number wraps
    l4.writeUInt32BE(0x1234567, 8);
    l4.writeUInt16BE(((5 + s.tcpOptions) << 12) | (s.seed & 0x1ff), 12);
    l4.writeUInt16BE(0, 16);
  } else {
    l4 = Buffer.alloc(8);
    l4.writeUInt16BE(s.seed, 0);
    l4.writeUInt16BE(53, 2);
    l4.writeUInt16BE(8 + s.payload, 4);
  }
  const protocol = s.tcp ? 6 : 17;
  let ip: Buffer;
  let addresses: Buffer;
  if (s.v6) {
    const extensions = Array.from({ length: s.extensions }, (_, i) => {
      const header = Buffer.alloc(8 + i * 8);
      header[0] = i === s.extensions - 1 ? protocol : 60;
      header[1] = i;
      return header;
    });
    const fixed = Buffer.alloc(40);
    fixed[0] = 0x60;
    const rest =
      extensions.reduce((total, header) => total + header.length, 0) + l4.length + s.payload;
    fixed.writeUInt16BE(rest, 4);
    fixed[6] = s.extensions > 0 ? 0 : protocol;
    fixed[7] = 64;
    for (let i = 8; i < 40; i++) fixed[i] = i * 5;
    ip = Buffer.concat([fixed, ...extensions]);
    addresses = fixed.subarray(8, 40);
  } else {
    ip = Buffer.alloc(20 + s.options * 4, 1);
    ip[0] = 0x45 + s.options;
    ip[1] = 0;
    ip.writeUInt16BE(ip.length + l4.length + s.payload, 2);
    ip.writeUInt16BE(0xfffe, 4); // the identification wraps
    ip.writeUInt16BE(0x4000, 6);
    ip[8] = 64;
    ip[9] = protocol;
    ip.writeUInt32BE(0x0a000001, 12);
    ip.writeUInt32BE(0x0a0000ff, 16);
    ip.writeUInt16BE(0, 10);
    ip.writeUInt16BE(~sum(ip) & 0xffff, 10);
    addresses = ip.subarray(12, 20);
  }
  const pseudo = (length: number) => {
    const tail = Buffer.alloc(8);
    tail.writeUInt32BE(length, 0);
    tail[7] = protocol;
    return Buffer.concat([addresses, tail]);
  };
  const before = Buffer.concat([eth, ...tags, type]);
  const field = before.length + ip.length + (s.tcp ? 16 : 6);
  const frame = Buffer.concat([before, ip, l4, payload]);
  frame.writeUInt16BE(sum(pseudo(l4.length + s.payload)), field);
  const start = before.length + ip.length;
  return { frame, l3: before.length, l4: start, headerEnd: start + l4.length, field, pseudo };
}

/** The frame with its final checksum. */
function finished(s: Shape, built: Built): Buffer {
  const frame = Buffer.from(built.frame);
  frame.writeUInt16BE(0, built.field);
  const l4 = frame.subarray(built.l4);
  const value = ~sum(Buffer.concat([built.pseudo(l4.length), l4])) & 0xffff;
  frame.writeUInt16BE(value === 0 && !s.tcp ? 0xffff : value, built.field);
  return frame;
}

function fixIpv4(frame: Buffer, l3: number): void {
  frame.writeUInt16BE(frame.length - l3, l3 + 2);
  const header = frame.subarray(l3, l3 + (frame[l3]! & 15) * 4);
  header.writeUInt16BE(0, 10);
  header.writeUInt16BE(~sum(header) & 0xffff, 10);
}

function tcpSegments(s: Shape, built: Built, mss: number): Buffer[] {
  const { frame, l3, l4, headerEnd } = built;
  const result: Buffer[] = [];
  for (let at = 0; at < s.payload; at += mss) {
    const data = frame.subarray(headerEnd + at, Math.min(headerEnd + at + mss, frame.length));
    const segment = Buffer.concat([frame.subarray(0, headerEnd), data]);
    const last = at + mss >= s.payload;
    if (s.v6) segment.writeUInt16BE(segment.length - l3 - 40, l3 + 4);
    else {
      segment.writeUInt16BE((frame.readUInt16BE(l3 + 4) + result.length) & 0xffff, l3 + 4);
      fixIpv4(segment, l3);
    }
    segment.writeUInt32BE((frame.readUInt32BE(l4 + 4) + at) >>> 0, l4 + 4);
    if (!last) segment[l4 + 13]! &= ~0x09;
    if (at > 0) segment[l4 + 13]! &= ~0x80;
    segment.writeUInt16BE(sum(built.pseudo(segment.length - l4)), built.field);
    result.push(segment);
  }
  return result;
}

/** Gives the fragments back together as one datagram (RFC 791, RFC 8200). */
function reassemble(s: Shape, built: Built, fragments: Buffer[], size: number): Buffer {
  const { l3, l4 } = built;
  const parts: Buffer[] = [];
  let offset = 0;
  const ids = new Set<number>();
  fragments.forEach((fragment, i) => {
    const more = i < fragments.length - 1;
    let data: Buffer;
    if (s.v6) {
      const header = fragment.subarray(l4, l4 + 8);
      assert.equal(header[0], 17);
      assert.equal(header.readUInt16BE(2), offset | (more ? 1 : 0));
      ids.add(header.readUInt32BE(4));
      assert.equal(fragment.readUInt16BE(l3 + 4), fragment.length - l3 - 40);
      data = fragment.subarray(l4 + 8);
    } else {
      assert.equal(fragment.readUInt16BE(l3 + 6), (offset / 8) | (more ? 0x2000 : 0));
      ids.add(fragment.readUInt16BE(l3 + 4));
      assert.equal(fragment.readUInt16BE(l3 + 2), fragment.length - l3);
      assert.equal(sum(fragment.subarray(l3, l4)), 0xffff);
      data = fragment.subarray(l4);
    }
    if (more) assert.equal(data.length, size & ~7);
    offset += data.length;
    parts.push(data);
  });
  assert.equal(ids.size, 1);
  return Buffer.concat(parts);
}

/** A guest with large mergeable buffers; returns what it received. */
function deliver(offloads: number, send: () => void): { frame: Buffer; header: Buffer }[] {
  ports.reset();
  ports.port(2, { offloads, regions: [{ gpa: GPA, bytes: BYTES, base: BASE }] });
  const guest = new GuestMemory(ports, [{ gpa: GPA, bytes: BYTES, base: BASE }]);
  const ring = new Ring(ports, guest, 3, 2, 1, 0n, { size: 1024, indirect: false });
  for (let i = 0; i < 200; i++) {
    ring.add([{ gpa: BigInt(0x100000 + i * 0x11000), length: 0x11000 }]);
  }
  send();
  return ring.reap().map(({ buffers, length }) => {
    const data = guest.read(buffers[0]!.gpa, length);
    return { header: data.subarray(0, 12), frame: data.subarray(12) };
  });
}

const layout = fc.record({
  headBytes: fc.integer({ min: 200, max: 256 }),
  cuts: fc.array(fc.integer({ min: 1, max: 4000 }), { minLength: 1, maxLength: 40 }),
});

function spread(cuts: number[]): number[] {
  return [...cuts, 70000];
}

test('a partial checksum is completed for a peer that cannot', () => {
  fc.assert(
    fc.property(shape, layout, (s, { headBytes, cuts }) => {
      const built = build(s);
      const got = deliver(0, () => {
        ports.setPacket(0, built.frame, {
          headBytes,
          cuts: spread(cuts),
          flags: VNET_NEEDS_CSUM,
          csumStart: built.l4,
          csumOffset: s.tcp ? 16 : 6,
        });
        ports.transmit(2, 1);
      });
      assert.equal(got.length, 1);
      assert.deepEqual(got[0]!.frame, finished(s, built));
      assert.equal(got[0]!.header[0], 0);
      assert.equal(ports.counter(2, PC_TX_CHECKSUMMED), 1);
    }),
    { numRuns: 100 },
  );
});

test('a partial checksum passes through to a peer that can', () => {
  fc.assert(
    fc.property(shape, layout, (s, { headBytes, cuts }) => {
      const built = build(s);
      const got = deliver(OFFLOAD_CSUM, () => {
        ports.setPacket(0, built.frame, {
          headBytes,
          cuts: spread(cuts),
          flags: VNET_NEEDS_CSUM,
          csumStart: built.l4,
          csumOffset: s.tcp ? 16 : 6,
        });
        ports.transmit(2, 1);
      });
      assert.deepEqual(got[0]!.frame, built.frame);
      assert.equal(got[0]!.header[0], VNET_NEEDS_CSUM);
      assert.equal(got[0]!.header.readUInt16LE(6), built.l4);
      assert.equal(got[0]!.header.readUInt16LE(8), s.tcp ? 16 : 6);
    }),
    { numRuns: 30 },
  );
});

test('TCP segmentation', () => {
  fc.assert(
    fc.property(
      shape,
      layout,
      fc.integer({ min: 536, max: 9000 }),
      fc.boolean(),
      fc.boolean(),
      (anyShape, { headBytes, cuts }, mss, partial, ecn) => {
        const s = { ...anyShape, tcp: true, payload: anyShape.payload + 1 };
        const built = build(s);
        const got = deliver(partial ? OFFLOAD_CSUM : 0, () => {
          ports.setPacket(0, built.frame, {
            headBytes,
            cuts: spread(cuts),
            flags: VNET_NEEDS_CSUM,
            gsoType: (s.v6 ? VNET_GSO_TCPV6 : VNET_GSO_TCPV4) | (ecn ? VNET_GSO_ECN : 0),
            gsoSize: mss,
            csumStart: built.l4,
            csumOffset: 16,
          });
          ports.transmit(2, 1);
        });
        const expected = tcpSegments(s, built, mss);
        assert.deepEqual(ports.drops(2), {});
        assert.equal(got.length, expected.length);
        expected.forEach((segment, i) => {
          const { frame, header } = got[i]!;
          assert.equal(header[0], partial ? VNET_NEEDS_CSUM : 0);
          assert.equal(header[1], 0);
          if (!partial) {
            const l4 = frame.subarray(built.l4);
            assert.equal(sum(Buffer.concat([built.pseudo(l4.length), l4])), 0xffff);
            frame.writeUInt16BE(segment.readUInt16BE(built.field), built.field);
          }
          assert.deepEqual(frame, segment);
        });
        assert.equal(ports.counter(2, PC_TX_SEGMENTED), 1);
        assert.equal(ports.counter(2, PC_TX_PACKETS), expected.length);
      },
    ),
    { numRuns: 150 },
  );
});

test('UDP fragmentation', () => {
  fc.assert(
    fc.property(
      shape,
      layout,
      fc.integer({ min: 512, max: 9000 }),
      (anyShape, { headBytes, cuts }, size) => {
        const s = { ...anyShape, tcp: false, payload: anyShape.payload + 1 };
        const built = build(s);
        const got = deliver(OFFLOAD_CSUM | OFFLOAD_TSO4 | OFFLOAD_TSO6, () => {
          ports.setPacket(0, built.frame, {
            headBytes,
            cuts: spread(cuts),
            flags: VNET_NEEDS_CSUM,
            gsoType: VNET_GSO_UDP,
            gsoSize: size,
            csumStart: built.l4,
            csumOffset: 6,
          });
          ports.transmit(2, 1);
        });
        assert.deepEqual(ports.drops(2), {});
        const datagram = reassemble(
          s,
          built,
          got.map(({ frame }) => frame),
          size,
        );
        assert.deepEqual(datagram, finished(s, built).subarray(built.l4));
        for (const { header } of got) assert.deepEqual(header.subarray(0, 10), Buffer.alloc(10));
      },
    ),
    { numRuns: 100 },
  );
});

test('a GSO packet crosses whole to a peer that takes it', () => {
  const s = {
    v6: false,
    tcp: true,
    tags: 1,
    options: 0,
    extensions: 0,
    tcpOptions: 3,
    payload: 60000,
    seed: 5,
  };
  const built = build(s);
  const got = deliver(OFFLOAD_CSUM | OFFLOAD_TSO4 | OFFLOAD_UFO, () => {
    ports.setPacket(0, built.frame, {
      flags: VNET_NEEDS_CSUM,
      gsoType: VNET_GSO_TCPV4,
      gsoSize: 1448,
      csumStart: built.l4,
      csumOffset: 16,
      cuts: [16000],
    });
    ports.transmit(2, 1);
  });
  assert.equal(got.length, 1);
  const { frame, header } = got[0]!;
  assert.deepEqual(frame, built.frame);
  assert.equal(header[1], VNET_GSO_TCPV4);
  assert.equal(header.readUInt16LE(2), built.headerEnd);
  assert.equal(header.readUInt16LE(4), 1448);
});

test('sumPacket is the sum, whatever the pieces', () => {
  fc.assert(
    fc.property(
      fc.uint8Array({ minLength: 300, maxLength: 5000 }),
      fc.integer({ min: 0, max: 100 }),
      fc.integer({ min: 100, max: 256 }),
      fc.array(fc.integer({ min: 1, max: 300 }), { minLength: 1, maxLength: 30 }),
      (data, start, headBytes, cuts) => {
        const at = ports.setPacket(0, data, { headBytes, cuts: spread(cuts) });
        const word = ports.wasm.sumPacket(at, start);
        const swapped = ((word & 0xff) << 8) | (word >> 8);
        assert.equal(swapped % 0xffff, sum(Buffer.from(data.subarray(start))) % 0xffff);
      },
    ),
  );
});

test('copyBytes copies exactly', () => {
  fc.assert(
    fc.property(fc.nat(600), fc.nat(15), fc.nat(15), (length, a, b) => {
      const from = 0x24000000 + a;
      const to = 0x24010000 + b;
      const data = Buffer.from(Array.from({ length }, (_, i) => (i * 13 + 1) & 0xff));
      ports.bytes.fill(0xaa, to - 16, to + length + 16);
      ports.bytes.set(data, from);
      ports.wasm.copyBytes(to, from, length);
      assert.deepEqual(Buffer.from(ports.bytes.slice(to, to + length)), data);
      assert.ok(ports.bytes.subarray(to - 16, to).every((byte) => byte === 0xaa));
      assert.ok(ports.bytes.subarray(to + length, to + length + 16).every((byte) => byte === 0xaa));
    }),
  );
});
