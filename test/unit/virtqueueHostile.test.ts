// A guest that attacks, case by case; the numbers are those of the project's list of hostile-guest cases. Each case
// runs on split and packed rings: the packet is dropped under a name, the next good one passes, nobody else notices.
// (Chains cut in all legal ways, and random nonsense, are in test/property/virtqueue.test.ts.)

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { VNET_GSO_TCPV4, VNET_NEEDS_CSUM } from '../../contract/packet.ts';
import { OFFLOAD_CSUM } from '../../contract/port.ts';
import {
  DESC_F_INDIRECT,
  DESC_F_NEXT,
  DESC_F_WRITE,
  VF_CSUM,
  VF_HOST_TSO4,
  VQ_LAST_AVAIL,
  VQ_SIZE,
} from '../../contract/virtqueue.ts';
import { Ports } from '../net/ports.ts';
import { type Buf, GuestMemory, Ring, type RingOptions, vnetHeader } from '../net/ring.ts';

const ports = await Ports.load();
const BYTES = 0x400000;
const BASE = 0x40200000;
const OTHER = 0x40c00000;
const GPA = 0x1_0000_0000n;
const HIGH = GPA + BigInt(BYTES); // the second region: contiguous in the guest, elsewhere in memory
const DATA = GPA + 0x100000n;
const OUTSIDE = HIGH + BigInt(BYTES);
const FRAME = Buffer.from(Array.from({ length: 60 }, (_, i) => i));

const regions = [
  { gpa: GPA, bytes: BYTES, base: BASE },
  { gpa: HIGH, bytes: BYTES, base: OTHER },
];

function setUp(dir: 0 | 1, options: RingOptions): Ring {
  ports.reset();
  ports.port(1, { regions, offloads: OFFLOAD_CSUM });
  const guest = new GuestMemory(ports, regions);
  return new Ring(ports, guest, 5, 1, dir, GPA, { size: 64, ...options });
}

/** A raw chain: each entry is a descriptor without NEXT and ring flags, which are added. */
interface Raw {
  gpa: bigint;
  length: number;
  flags?: number;
}
function offer(ring: Ring, chain: Raw[], start = 0): void {
  chain.forEach((d, i) => {
    const more = i < chain.length - 1 ? DESC_F_NEXT : 0;
    const flags = (d.flags ?? 0) | more;
    if (ring.packed) ring.desc(start + i, d.gpa, d.length, 9, flags | ring.availFlags());
    else ring.desc(start + i, d.gpa, d.length, flags, start + i + 1);
  });
  if (!ring.packed) ring.offer(start);
}
function good(ring: Ring, frame = FRAME, header = vnetHeader(12)): Buf[] {
  const data = Buffer.concat([header, frame]);
  ring.guest.write(DATA, data);
  return [{ gpa: DATA, length: data.length }];
}
function receive(ring: Ring): number {
  const n = ports.wasm.rxBurst(ring.q, ports.record(0), 256);
  if (n > 0) ports.wasm.rxDone(ring.q);
  return n;
}
/** After a bad chain of `descriptors` at 0, a good packet must pass. */
function stillWorks(ring: Ring, descriptors: number): void {
  const [buffer] = good(ring);
  if (ring.packed) {
    ring.desc(descriptors, buffer!.gpa, buffer!.length, 3, ring.availFlags());
  } else {
    ring.desc(40, buffer!.gpa, buffer!.length, 0, 0);
    ring.offer(40);
  }
  assert.equal(receive(ring), 1);
  assert.deepEqual(ports.packet(0).frame, FRAME);
  assert.equal(ring.broken, 0);
  if (!ring.packed) assert.equal(ring.usedIdx, 2);
}

for (const packed of [false, true]) {
  describe(`${packed ? 'packed' : 'split'}: guest transmits`, () => {
    const bad: [string, Raw[], string][] = [
      ['G1 outside', [{ gpa: OUTSIDE, length: 80 }], 'rx_bad_descriptor'],
      ['G1 before', [{ gpa: GPA - 4n, length: 80 }], 'rx_bad_descriptor'],
      ['G1 null', [{ gpa: 0n, length: 80 }], 'rx_bad_descriptor'],
      ['G1 straddling the end', [{ gpa: OUTSIDE - 40n, length: 80 }], 'rx_bad_descriptor'],
      ['G1 memory offset as address', [{ gpa: BigInt(BASE), length: 80 }], 'rx_bad_descriptor'],
      ['G4 wraps 2^64', [{ gpa: 0xffff_ffff_ffff_fff0n, length: 80 }], 'rx_bad_descriptor'],
      ['G10 header only', [{ gpa: DATA, length: 12 }], 'rx_runt'],
      ['G10 less than the header', [{ gpa: DATA, length: 11 }], 'rx_runt'],
      ['G27 short frame', [{ gpa: DATA, length: 25 }], 'rx_runt'],
      ['G27 empty', [{ gpa: DATA, length: 0 }], 'rx_runt'],
      ['G5 empty with bad address', [{ gpa: 1n, length: 0 }], 'rx_runt'],
      ['G16 over 64 KiB', [{ gpa: DATA, length: 65570 }], 'rx_too_long'],
      ['G16 4 GiB', [{ gpa: DATA, length: 0xffffffff }], 'rx_too_long'],
      [
        'G16 over 64 KiB in two',
        [
          { gpa: DATA, length: 40000 },
          { gpa: DATA, length: 40000 },
        ],
        'rx_too_long',
      ],
      [
        'G16 more than 64 segments',
        Array.from({ length: 39 }, (_, i) => ({ gpa: HIGH - 10n - BigInt(i), length: 100 })),
        'rx_too_long',
      ],
      [
        'G20 write-only buffer',
        [{ gpa: DATA, length: 80, flags: DESC_F_WRITE }],
        'rx_bad_descriptor',
      ],
      [
        'G21 indirect not negotiated',
        [{ gpa: DATA, length: 16, flags: DESC_F_INDIRECT }],
        'rx_bad_descriptor',
      ],
    ];
    for (const [name, chain, reason] of bad) {
      test(name, () => {
        const ring = setUp(0, { packed });
        offer(ring, chain);
        assert.equal(receive(ring), 0);
        assert.deepEqual(ports.drops(1), { [reason]: 1 });
        stillWorks(ring, chain.length);
      });
    }

    const badTables: [
      string,
      { gpa: bigint; length: number; table?: Raw[]; flags?: number },
      string,
    ][] = [
      ['G3 table outside', { gpa: OUTSIDE, length: 16 }, 'rx_bad_descriptor'],
      ['G3 table straddles the end', { gpa: OUTSIDE - 8n, length: 16 }, 'rx_bad_descriptor'],
      ['G21 length 0', { gpa: DATA, length: 0 }, 'rx_bad_descriptor'],
      ['G21 length not a multiple', { gpa: DATA, length: 17 }, 'rx_bad_descriptor'],
      ['G21 length too big', { gpa: DATA, length: 65537 * 16 }, 'rx_bad_descriptor'],
      [
        'G21 nested',
        {
          gpa: DATA,
          length: 16,
          table: [{ gpa: DATA, length: 16, flags: DESC_F_INDIRECT }],
        },
        'rx_bad_descriptor',
      ],
      [
        'G20 write-only in the table',
        { gpa: DATA, length: 16, table: [{ gpa: DATA, length: 80, flags: DESC_F_WRITE }] },
        'rx_bad_descriptor',
      ],
    ];
    for (const [name, d, reason] of badTables) {
      test(name, () => {
        const ring = setUp(0, { packed, indirect: true });
        d.table?.forEach((entry, i) => {
          const at = ring.guest.at(d.gpa) + i * 16;
          const flags = entry.flags ?? 0;
          ring.descAt(at, entry.gpa, entry.length, packed ? 0 : flags, packed ? flags : 0);
        });
        offer(ring, [{ gpa: d.gpa, length: d.length, flags: DESC_F_INDIRECT }]);
        assert.equal(receive(ring), 0);
        assert.deepEqual(ports.drops(1), { [reason]: 1 });
        stillWorks(ring, 1);
      });
    }

    test('G21 INDIRECT with NEXT', () => {
      const ring = setUp(0, { packed, indirect: true });
      offer(ring, [
        { gpa: DATA, length: 16, flags: DESC_F_INDIRECT },
        { gpa: DATA, length: 80 },
      ]);
      assert.equal(receive(ring), 0);
      assert.deepEqual(ports.drops(1), { rx_bad_descriptor: 1 });
      stillWorks(ring, 2);
    });

    test('G3 table across two regions is read piecewise', () => {
      const ring = setUp(0, { packed, indirect: true });
      const [buffer] = good(ring);
      const raw = Buffer.alloc(16);
      raw.writeBigUInt64LE(buffer!.gpa, 0);
      raw.writeUInt32LE(buffer!.length, 8);
      ring.guest.write(HIGH - 5n, raw);
      offer(ring, [{ gpa: HIGH - 5n, length: 16, flags: DESC_F_INDIRECT }]);
      assert.equal(receive(ring), 1);
      assert.deepEqual(ports.packet(0).frame, FRAME);
    });

    test('G2 G9 header and frame in pieces, across regions', () => {
      const ring = setUp(0, { packed });
      const data = Buffer.concat([vnetHeader(12), FRAME]);
      const at = HIGH - 30n;
      ring.guest.write(at, data);
      const cuts = [1, 0, 2, 3, 1, 20, 45];
      let done = 0n;
      offer(
        ring,
        cuts.map((length) => {
          const gpa = length === 0 ? 3n : at + done; // an empty buffer may point anywhere
          done += BigInt(length);
          return { gpa, length };
        }),
      );
      assert.equal(receive(ring), 1);
      assert.deepEqual(ports.packet(0).frame, FRAME);
      assert.deepEqual(ports.drops(1), {});
    });

    test('G12 the head is ours: changes after the burst do not reach the parser', () => {
      const ring = setUp(0, { packed });
      offer(ring, good(ring));
      assert.equal(ports.wasm.rxBurst(ring.q, ports.record(0), 256), 1);
      ring.guest.write(DATA, Buffer.alloc(72, 0xff));
      assert.deepEqual(ports.packet(0).frame, FRAME);
      ports.wasm.rxDone(ring.q);
    });

    const tcp = Buffer.alloc(2054);
    tcp.set(FRAME.subarray(0, 12));
    tcp.writeUInt16BE(0x0800, 12);
    tcp[14] = 0x45;
    tcp.writeUInt16BE(2040, 16);
    tcp[23] = 6;
    tcp[46] = 0x50;
    const fine = {
      flags: VNET_NEEDS_CSUM,
      gsoType: VNET_GSO_TCPV4,
      gsoSize: 500,
      hdrLen: 54,
      csumStart: 34,
      csumOffset: 16,
    };
    const vnet: [string, Partial<typeof fine>, ((frame: Buffer) => void)?][] = [
      ['G13 csum_start beyond the frame', { gsoType: 0, csumStart: 3000 }],
      ['G13 csum_offset beyond the frame', { gsoType: 0, csumOffset: 0xffff }],
      ['G13 field in the last byte of the head', { gsoType: 0, csumStart: 239 }],
      ['G13 csum_start in the Ethernet header', { gsoType: 0, csumStart: 4 }],
      ['G14 gso_size 0', { gsoSize: 0 }],
      ['G14 gso_size over length', { gsoSize: 2055 }],
      ['G14 unknown gso_type', { gsoType: 7 }],
      ['G14 UDP_L4 was not offered', { gsoType: 5 }],
      ['G14 UFO was not negotiated', { gsoType: 3 }],
      ['G14 without NEEDS_CSUM', { flags: 0 }],
      ['G14 hdr_len over length', { hdrLen: 2055 }],
      ['G14 hdr_len 0', { hdrLen: 0 }],
      ['G14 hdr_len 65535', { hdrLen: 0xffff }],
      ['G15 TCP header longer than the head', {}, (f) => f.set([0xf0, 0x4f], 46)],
      ['G15 csum_start is not the TCP header', { csumStart: 40 }],
      ['G15 wrong csum_offset', { csumOffset: 6 }],
      ['G29 IP header length lies', {}, (f) => f.fill(0x4f, 14, 15)],
      ['G29 a fragment', {}, (f) => f.fill(0x20, 20, 21)],
      ['G29 not IPv4', {}, (f) => f.fill(0x60, 14, 15)],
      ['G29 not TCP', {}, (f) => f.fill(17, 23, 24)],
      ['G29 VLAN tags without end', {}, (f) => f.fill(Buffer.from([0x81, 0]), 12, 2000)],
    ];
    for (const [name, change, spoil] of vnet) {
      test(name, () => {
        const ring = setUp(0, { packed, features: VF_CSUM | VF_HOST_TSO4 });
        const frame = Buffer.from(tcp);
        spoil?.(frame);
        if (name.startsWith('G15 TCP header longer')) {
          // 255 bytes of tags and options push the TCP header's end out of the head
          frame.set(Buffer.concat([frame.subarray(0, 12), Buffer.alloc(200)]), 0);
          for (let i = 12; i < 196; i += 4) frame.writeUInt32BE(0x81000001, i);
          frame.writeUInt16BE(0x0800, 196);
          frame.set([0x45], 198);
          frame.fill(0, 199, 218);
          frame[207] = 6;
          frame.fill(0, 218, 250);
          frame[230] = 0xf0;
          offer(ring, good(ring, frame, vnetHeader(12, { ...fine, csumStart: 218 })));
        } else {
          offer(ring, good(ring, frame, vnetHeader(12, { ...fine, ...change })));
        }
        assert.equal(receive(ring), 0);
        assert.deepEqual(ports.drops(1), { rx_bad_vnet_header: 1 });
        stillWorks(ring, 1);
      });
    }
    test('the same header, unspoilt, passes; and without negotiation it is ignored', () => {
      let ring = setUp(0, { packed, features: VF_CSUM | VF_HOST_TSO4 });
      offer(ring, good(ring, tcp, vnetHeader(12, fine)));
      assert.equal(receive(ring), 1);
      const packet = ports.packet(0);
      assert.equal(packet.gsoType, VNET_GSO_TCPV4);
      assert.equal(packet.gsoSize, 500);
      assert.equal(packet.csumStart, 34);
      ring = setUp(0, { packed });
      offer(ring, good(ring, tcp, vnetHeader(12, { ...fine, gsoType: 0x77 })));
      assert.equal(receive(ring), 1);
      assert.equal(ports.packet(0).flags, 0);
      assert.equal(ports.packet(0).gsoType, 0);
    });

    test('G31 a queue without ring is left alone', () => {
      const ring = setUp(0, { packed });
      offer(ring, good(ring));
      ports.setU32(ring.q + VQ_SIZE, 0);
      assert.equal(receive(ring), 0);
      assert.equal(ports.wasm.prepareSleep(ring.q), 1);
      assert.equal(ring.broken, 0);
    });
  });

  describe(`${packed ? 'packed' : 'split'}: guest receives`, () => {
    const send = (frame = FRAME) => {
      ports.setPacket(0, frame);
      ports.transmit(1, 1);
    };
    const W = DESC_F_WRITE;
    const bad: [string, Raw[], string][] = [
      ['G1 outside', [{ gpa: OUTSIDE, length: 2000, flags: W }], 'tx_bad_descriptor'],
      ['G1 straddling', [{ gpa: OUTSIDE - 50n, length: 2000, flags: W }], 'tx_bad_descriptor'],
      ['G4 wraps', [{ gpa: 0xffff_ffff_ffff_fff0n, length: 2000, flags: W }], 'tx_bad_descriptor'],
      ['G20 read-only buffer', [{ gpa: DATA, length: 2000 }], 'tx_bad_descriptor'],
      ['G17 runt', [{ gpa: DATA, length: 11, flags: W }], 'tx_bad_descriptor'],
      ['G17 empty', [{ gpa: DATA, length: 0, flags: W }], 'tx_bad_descriptor'],
    ];
    for (const mergeable of [false, true]) {
      for (const [name, chain, reason] of bad) {
        test(`${name}${mergeable ? ', mergeable' : ''}`, () => {
          const ring = setUp(1, { packed, mergeable });
          offer(ring, chain);
          send();
          assert.deepEqual(ports.drops(1), { [reason]: 1 });
          // The chain went back empty, the next one is used.
          if (packed) {
            ring.desc(1, DATA, 2000, 3, W | ring.availFlags());
          } else {
            ring.desc(40, DATA, 2000, W, 0);
            ring.offer(40);
          }
          send();
          assert.deepEqual(ports.drops(1), { [reason]: 1 });
          assert.deepEqual(ring.guest.read(DATA + 12n, 60), FRAME);
          assert.equal(ring.broken, 0);
        });
      }
    }
    test('G18 G33 too small without mergeable buffers: dropped, the buffer stays', () => {
      const ring = setUp(1, { packed });
      ring.add([{ gpa: DATA, length: 100 }]);
      for (let i = 0; i < 5; i++) send(Buffer.alloc(500));
      assert.deepEqual(ports.drops(1), { tx_no_buffer: 5 });
      assert.equal(ring.reap().length, 0);
      send();
      assert.deepEqual(
        ring.reap().map((used) => used.length),
        [72],
      );
    });
    test('G19 mergeable: all or nothing, exact boundaries', () => {
      const ring = setUp(1, { packed, mergeable: true });
      ring.add([{ gpa: DATA, length: 36 }]);
      ring.add([{ gpa: DATA + 100n, length: 36 }]);
      send(Buffer.alloc(61));
      assert.deepEqual(ports.drops(1), { tx_ring_full: 1 });
      assert.equal(ring.reap().length, 0);
      send();
      assert.deepEqual(
        ring.reap().map((used) => used.length),
        [36, 36],
      );
      assert.equal(ring.guest.read(DATA, 12).readUInt16LE(10), 2);
    });
    test('G19 a bad chain in the middle: those before it go back too', () => {
      const ring = setUp(1, { packed, mergeable: true });
      ring.add([{ gpa: DATA, length: 36 }]);
      ring.add([{ gpa: OUTSIDE, length: 36 }]);
      ring.add([{ gpa: DATA + 100n, length: 2000 }]);
      send();
      assert.deepEqual(ports.drops(1), { tx_bad_descriptor: 1 });
      assert.deepEqual(
        ring.reap().map((used) => used.length),
        [0, 0],
      );
      send();
      assert.equal(ring.reap()[0]!.length, 72);
    });
    test('nothing offered', () => {
      setUp(1, { packed });
      send();
      assert.deepEqual(ports.drops(1), { tx_ring_full: 1 });
    });
  });
}

describe('split only', () => {
  test('G7 avail entry beyond the table, on the ring that we fill', () => {
    for (const mergeable of [false, true]) {
      const ring = setUp(1, { mergeable });
      ring.add([{ gpa: DATA, length: 2000 }]);
      ring.add([{ gpa: DATA, length: 2000 }]);
      ring.setEntry(1, 64); // 64 & 63 would be descriptor 0
      for (let i = 0; i < 2; i++) ports.setPacket(i, FRAME);
      ports.transmit(1, 2);
      assert.deepEqual(ports.drops(1), { tx_bad_descriptor: 1 });
      assert.equal(ring.usedIdx, 1);
    }
  });
  for (const [name, next] of [
    ['next beyond the table', 64],
    ['self-loop', 0],
    ['2-cycle', 1],
  ] as const) {
    for (const length of [80, 0]) {
      test(`G6 ${name}, length ${length}`, () => {
        const ring = setUp(0, {});
        ring.desc(0, DATA, length, DESC_F_NEXT, next);
        ring.desc(1, DATA, length, DESC_F_NEXT, 0);
        ring.offer(0);
        assert.equal(receive(ring), 0);
        const drops = ports.drops(1);
        assert.equal((drops.rx_bad_descriptor ?? 0) + (drops.rx_too_long ?? 0), 1);
        stillWorks(ring, 1);
      });
    }
  }
  test('G6 G21 loops and bad indices in an indirect table', () => {
    for (const next of [0, 1, 2, 0xffff]) {
      const ring = setUp(0, { indirect: true });
      ring.descAt(ring.guest.at(DATA), DATA, 0, DESC_F_NEXT, next);
      ring.descAt(ring.guest.at(DATA) + 16, DATA, 0, DESC_F_NEXT, 0);
      offer(ring, [{ gpa: DATA, length: 32, flags: DESC_F_INDIRECT }]);
      assert.equal(receive(ring), 0);
      assert.deepEqual(ports.drops(1), { rx_bad_descriptor: 1 });
    }
  });
  test('descriptors, then an indirect table (virtio 1.2, 2.7.5.3.2)', () => {
    const ring = setUp(0, { indirect: true });
    ring.guest.write(DATA, Buffer.concat([vnetHeader(12), FRAME]));
    ring.descAt(ring.guest.at(DATA) + 1024, DATA + 12n, 60, 0, 0);
    offer(ring, [
      { gpa: DATA, length: 12 },
      { gpa: DATA + 1024n, length: 16, flags: DESC_F_INDIRECT },
    ]);
    assert.equal(receive(ring), 1);
    assert.deepEqual(ports.packet(0).frame, FRAME);
  });
  test('G7 avail entry beyond the table', () => {
    const ring = setUp(0, {});
    ring.offer(64);
    ring.offer(0xffff);
    ring.add(good(ring));
    assert.equal(receive(ring), 1);
    assert.deepEqual(ports.drops(1), { rx_bad_descriptor: 2 });
    assert.equal(ring.usedIdx, 1);
    assert.equal(receive(ring), 0);
  });
  for (const jump of [65, 1000, 0x8000, 0xffff]) {
    test(`G8 avail index jumps by ${jump}`, () => {
      for (const dir of [0, 1] as const) {
        const ring = setUp(dir, { base: 7 });
        ring.setIdx(7 + jump);
        if (dir === 0) assert.equal(receive(ring), 0);
        else {
          ports.setPacket(0, FRAME);
          ports.transmit(1, 1);
        }
        assert.notEqual(ring.broken, 0);
        assert.equal(receive(ring), 0);
        assert.equal(ring.usedIdx, 7);
      }
    });
  }
  test('G26 rings zeroed by a reset: quiet, not broken', () => {
    const ring = setUp(0, { base: 300 });
    ports.bytes.fill(0, ring.guest.at(GPA), ring.guest.at(ring.tablesGpa - 1n) + 1);
    assert.equal(receive(ring), 0);
    assert.equal(ring.broken, 0);
    assert.deepEqual(ports.drops(1), {});
  });
  test('misaligned areas break the queue instead of trapping', () => {
    for (const offset of [84, 88]) {
      const ring = setUp(0, {});
      ports.setU32(ring.q + offset, ports.u32(ring.q + offset) + 1);
      assert.equal(receive(ring), 0);
      assert.notEqual(ring.broken, 0);
    }
  });
});

describe('packed only', () => {
  test('G23 a chain into descriptors that have been taken and not given back', () => {
    for (const dir of [0, 1] as const) {
      const ring = setUp(dir, { packed: true });
      const flags = (dir ? DESC_F_WRITE : 0) | ring.availFlags();
      ring.desc(0, DATA, 2000, 1, flags);
      for (let i = 1; i < 64; i++) ring.desc(i, DATA, 0, 1, DESC_F_NEXT | flags);
      if (dir === 0) {
        assert.equal(receive(ring), 1);
      } else {
        for (let i = 0; i < 2; i++) ports.setPacket(i, FRAME);
        ports.transmit(1, 2);
        assert.deepEqual(ports.drops(1), { tx_bad_descriptor: 1 });
      }
      assert.notEqual(ring.broken, 0);
    }
  });
  test('G23 a chain as long as the ring without end', () => {
    for (const dir of [0, 1] as const) {
      const ring = setUp(dir, { packed: true });
      for (let i = 0; i < 64; i++) {
        ring.desc(i, DATA, 0, 1, DESC_F_NEXT | (dir ? DESC_F_WRITE : 0) | ring.availFlags());
      }
      if (dir === 0) assert.equal(receive(ring), 0);
      else {
        ports.setPacket(0, FRAME);
        ports.transmit(1, 1);
      }
      assert.notEqual(ring.broken, 0);
    }
  });
  test('G23 a chain across the end of the ring; id beyond its size is given back as it is', () => {
    const ring = setUp(0, { packed: true, base: 0x8000 | 63 });
    ring.guest.write(DATA, Buffer.concat([vnetHeader(12), FRAME]));
    ring.desc(0, DATA + 12n, 60, 0xfff0, 0x8000); // next lap: USED set, AVAIL clear
    ring.desc(63, DATA, 12, 5, DESC_F_NEXT | 0x80);
    assert.equal(receive(ring), 1);
    const at = ring.guest.at(GPA) + 63 * 16;
    assert.equal(ports.view.getUint16(at + 12, true), 0xfff0);
    assert.equal(ports.view.getUint16(at + 14, true), 0x8080);
    assert.equal(ports.u32(ring.q + VQ_LAST_AVAIL), 1);
  });
  test('G26 rings zeroed by a reset', () => {
    for (const base of [0x8005, 0x0005]) {
      const ring = setUp(0, { packed: true, base });
      ports.bytes.fill(0, ring.guest.at(GPA), ring.guest.at(ring.tablesGpa - 1n) + 1);
      assert.equal(receive(ring), 0);
      assert.equal(ring.broken, 0);
    }
  });
});

test('G4 a buffer or table that wraps from the end of guest memory to its beginning', () => {
  const top = [
    { gpa: 0n, bytes: BYTES, base: BASE },
    { gpa: 0x1_0000_0000_0000_0000n - 0x200000n, bytes: 0x200000, base: OTHER },
  ];
  const last = 0xffff_ffff_ffff_fff8n;
  for (const packed of [false, true]) {
    for (const [dir, indirect] of [
      [0, false],
      [0, true],
      [1, false],
      [1, true],
    ] as const) {
      ports.reset();
      ports.port(1, { regions: top });
      const guest = new GuestMemory(ports, top);
      // The ring lies behind address 0, where the wrapped part of the table or buffer would be.
      const ring = new Ring(ports, guest, 5, 1, dir, 0x1000n, { size: 64, packed, indirect });
      const write = dir ? DESC_F_WRITE : 0;
      // A table whose entry, read across the wrap, would be a good descriptor.
      ports.view.setBigUint64(guest.at(last), 0x100000n, true);
      ports.setU32(guest.at(0n), 2000);
      ports.view.setUint16(guest.at(4n), packed ? 0 : write, true);
      ports.view.setUint16(guest.at(6n), packed ? write : 0, true);
      if (indirect) offer(ring, [{ gpa: last, length: 16, flags: DESC_F_INDIRECT }]);
      else offer(ring, [{ gpa: last, length: 2000, flags: write }]);
      if (dir === 0) {
        assert.equal(receive(ring), 0);
        assert.deepEqual(ports.drops(1), { rx_bad_descriptor: 1 });
      } else {
        ports.setPacket(0, FRAME);
        ports.transmit(1, 1);
        assert.deepEqual(ports.drops(1), { tx_bad_descriptor: 1 });
      }
    }
  }
});

test('a translation is never used for another guest', () => {
  const mine = [{ gpa: GPA, bytes: BYTES, base: BASE }];
  const theirs = [{ gpa: GPA, bytes: BYTES, base: OTHER }];
  for (const packed of [false, true]) {
    ports.reset();
    ports.port(1, { regions: mine });
    ports.port(2, { regions: theirs });
    const a = new Ring(ports, new GuestMemory(ports, mine), 5, 1, 0, GPA, { size: 64, packed });
    const b = new Ring(ports, new GuestMemory(ports, theirs), 6, 2, 0, GPA, { size: 64, packed });
    const other = Buffer.alloc(60, 0x77);
    a.add(good(a));
    b.add(good(b, other));
    assert.equal(receive(a), 1);
    assert.deepEqual(ports.packet(0).frame, FRAME);
    assert.equal(receive(b), 1);
    assert.deepEqual(ports.packet(0).frame, other);
  }
});

describe('absurdly small receive buffers', () => {
  /** Mergeable chains of `pieces` one-byte buffers after a first one of 12 bytes for the header. */
  function crumbs(ring: Ring, chains: number, pieces: number): void {
    let gpa = DATA;
    for (let i = 0; i < chains; i++) {
      const buffers: Buf[] = [];
      for (let p = 0; p < pieces; p++, gpa += 16n) {
        buffers.push({ gpa, length: i === 0 && p === 0 ? 12 : 1 });
      }
      assert.ok(ring.add(buffers));
    }
  }
  for (const packed of [false, true]) {
    const name = packed ? 'packed' : 'split';
    test(`${name}: more pieces or chains than a packet may take`, () => {
      let ring = setUp(1, { packed, mergeable: true, size: 16384 });
      crumbs(ring, 20, 100);
      ports.setPacket(0, Buffer.alloc(1500));
      ports.transmit(1, 1);
      assert.deepEqual(ports.drops(1), { tx_no_buffer: 1 });
      assert.deepEqual(
        ring.reap().map((used) => used.length),
        Array(11).fill(0),
      );
      ring = setUp(1, { packed, mergeable: true, size: 16384 });
      crumbs(ring, 2000, 1);
      ports.setPacket(0, Buffer.alloc(1500));
      ports.transmit(1, 1);
      assert.deepEqual(ports.drops(1), { tx_bad_descriptor: 1 });
    });
    test(`${name}: many packets in many pieces, more than one plan holds`, () => {
      for (const [packets, chains, pieces] of [
        [12, 9, 100],
        [20, 300, 1],
      ] as const) {
        const ring = setUp(1, { packed, mergeable: true, size: 16384 });
        const length = chains * pieces - 1;
        const frames: Buffer[] = [];
        for (let i = 0; i < packets; i++) {
          let gpa = DATA + BigInt(i * 0x10000);
          for (let c = 0; c < chains; c++) {
            const buffers: Buf[] = [];
            for (let p = 0; p < pieces; p++, gpa += 16n) {
              buffers.push({ gpa, length: c === 0 && p === 0 ? 12 : 1 });
            }
            assert.ok(ring.add(buffers));
          }
          frames.push(Buffer.from(Array.from({ length }, (_, n) => (n * 3 + i) & 0xff)));
          // Cut for this output, so that the records of our own are in use while the plan is.
          ports.setPacket(i, Buffer.concat([frames[i]!, FRAME]), { trunc: length });
        }
        ports.transmit(1, packets);
        assert.deepEqual(ports.drops(1), {});
        const used = ring.reap();
        assert.equal(used.length, packets * chains);
        for (const [i, frame] of frames.entries()) {
          const buffers = used.slice(i * chains, (i + 1) * chains).flatMap((u) => u.buffers);
          const data = Buffer.concat(buffers.map((x) => ring.guest.read(x.gpa, x.length)));
          assert.deepEqual(data.subarray(12), frame);
        }
      }
    });
  }
});
