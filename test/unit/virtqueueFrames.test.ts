// Frames into and out of virtqueues: heads, the transmit path, port state, limits, counters, a full ring.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import {
  PC_RX_BROADCAST,
  PC_RX_BYTES,
  PC_RX_MULTICAST,
  PC_RX_PACKETS,
  PC_RX_SIZES,
  PC_TX_BYTES,
  PC_TX_PACKETS,
  PC_TX_RETRIES,
  PC_TX_SIZES,
} from '../../contract/counters.ts';
import {
  PKT_HEAD_LEN,
  VNET_DATA_VALID,
  VNET_GSO_TCPV4,
  VNET_NEEDS_CSUM,
} from '../../contract/packet.ts';
import {
  OFFLOAD_CSUM,
  PORT_NO_TX,
  PORT_UP,
  PT_TX_RETRIES,
  PT_TXQ,
  PT_TXQ_COUNT,
  portAddress,
  Q_ENABLED,
  Q_LOCK,
  Q_NOT_PLAIN,
} from '../../contract/port.ts';
import {
  DESC_F_AVAIL,
  DESC_F_WRITE,
  VF_CSUM,
  VF_LOG_ALL,
  VQ_FEATURES,
  VQ_LAST_USED,
  VQ_LOG,
} from '../../contract/virtqueue.ts';
import { GuestMemory, Ring, vnetHeader } from '../net/ring.ts';
import {
  BASE,
  BYTES,
  DATA,
  frame,
  GPA,
  give,
  ports,
  receive,
  send,
  setUp,
} from '../net/ringRig.ts';

describe('heads', () => {
  /** Of a frame just received; whatever the guest writes into its buffer now must not be seen in it. */
  const headBytes = () => ports.u32(ports.record(0) + PKT_HEAD_LEN);
  test('a long frame is read once, however deep somebody looks', () => {
    for (const packed of [false, true]) {
      for (const length of [60, 128, 129, 255, 256, 257, 320, 1514]) {
        const ring = setUp(0, { packed });
        const scribble = (from: number): void => {
          ring.guest.write(DATA + BigInt(ring.header + from), Buffer.alloc(2000 - from, 0xff));
        };
        give(ring, frame(length));
        assert.equal(ports.wasm.rxBurst(ring.q, ports.record(0), 1), 1);
        assert.equal(headBytes(), length > 128 ? 64 : length);
        assert.ok(ports.packet(0).frame.equals(frame(length)));
        const first = ports.packet(0).frame.subarray(0, headBytes());
        ports.wasm.deepen(ports.record(0));
        const deep = Math.min(length, 256);
        assert.equal(headBytes(), deep);
        assert.ok(ports.packet(0).frame.equals(frame(length)));
        scribble(0);
        ports.wasm.deepen(ports.record(0));
        const changed = ports.packet(0).frame;
        assert.ok(changed.subarray(0, deep).equals(frame(length).subarray(0, deep)));
        assert.ok(changed.subarray(deep).every((byte) => byte === 0xff));
        assert.ok(first.equals(frame(length).subarray(0, first.length)));
        ports.wasm.rxDone(ring.q);
      }
    }
  });
  test('with offloads, and where packets are going to be parsed, the head is deep at once', () => {
    const checksum = { flags: VNET_NEEDS_CSUM, csumStart: 34, csumOffset: 6 };
    for (const parsed of [false, true]) {
      const ring = setUp(0, { features: VF_CSUM });
      ports.setU32(ring.q + Q_NOT_PLAIN, parsed ? 1 : 0);
      const data = Buffer.concat([vnetHeader(ring.header, parsed ? {} : checksum), frame(400)]);
      ring.guest.write(DATA, data);
      assert.ok(ring.add([{ gpa: DATA, length: data.length }]));
      assert.equal(ports.wasm.rxBurst(ring.q, ports.record(0), 1), 1);
      assert.equal(headBytes(), 256);
      assert.ok(ports.packet(0).frame.equals(frame(400)));
      ports.wasm.rxDone(ring.q);
    }
  });
});

describe('transmit', () => {
  const room = (ring: Ring, n = 1) => {
    for (let i = 0; i < n; i++) ring.add([{ gpa: DATA + BigInt(i * 0x11000), length: 0x11000 }]);
  };
  test('port state', () => {
    for (const [flags, reason] of [
      [0, 'tx_link_down'],
      [PORT_UP | PORT_NO_TX, 'tx_link_down'],
    ] as const) {
      room(setUp(1, {}, { flags }));
      send(frame(60), frame(60));
      assert.deepEqual(ports.drops(1), { [reason]: 2 });
    }
    const ring = setUp(1, {});
    room(ring);
    ports.setU32(ring.q + Q_ENABLED, 0);
    send(frame(60));
    ports.setU32(portAddress(1) + PT_TXQ_COUNT, 0);
    send(frame(60));
    assert.deepEqual(ports.drops(1), { tx_not_ready: 2 });
    ports.setU32(portAddress(1), 0);
    send(frame(60));
    assert.deepEqual(ports.drops(1), { tx_not_ready: 2, no_such_port: 1 });
  });
  for (const packed of [false, true]) {
    test(`${packed ? 'packed' : 'split'}: of buffers that are not delivered no more than eight bytes are written, and none if that is logged`, () => {
      const STEP = 0x1000n;
      const SIZE = 2048;
      const SHORT = 4;
      const BAD_INDEX = 5;
      const READ_ONLY = 6;
      for (const logged of [false, true]) {
        const ring = setUp(1, { packed });
        if (logged) {
          ports.setU32(ring.q + VQ_FEATURES, ports.u32(ring.q + VQ_FEATURES) | VF_LOG_ALL);
          ports.setU32(ring.q + VQ_LOG, 0x25000000);
        }
        const at = (i: number) => DATA + BigInt(i) * STEP;
        for (let i = 0; i < 10; i++) ring.guest.write(at(i), Buffer.alloc(SIZE, 0xee));
        for (let i = 0; i < 8; i++) {
          ring.add([{ gpa: at(i), length: i === SHORT ? ring.header + 13 : SIZE }]);
        }
        const descriptors = Array.from({ length: 64 }, (_, i) => ring.descGpa + BigInt(i * 16));
        const readOnly = descriptors.find(
          (d) => ring.guest.read(d, 8).readBigUInt64LE() === at(READ_ONLY),
        )!;
        const flags = readOnly + (packed ? 14n : 12n);
        const word = ring.guest.read(flags, 2);
        word.writeUInt16LE(word.readUInt16LE() & ~DESC_F_WRITE);
        ring.guest.write(flags, word);
        if (!packed) {
          // An index that is none; its lower bits are those of a descriptor that nobody has offered.
          const [unused, entry] = [Buffer.alloc(16), Buffer.alloc(2)];
          unused.writeBigUInt64LE(at(9));
          unused.writeUInt32LE(SIZE, 8);
          unused.writeUInt16LE(DESC_F_WRITE, 12);
          ring.guest.write(ring.descGpa + 30n * 16n, unused);
          entry.writeUInt16LE(64 + 30);
          ring.guest.write(ring.availGpa + 4n + BigInt(BAD_INDEX * 2), entry);
        }
        send(...Array.from({ length: 12 }, () => frame(60)));
        assert.equal(ring.reap().length, SHORT);
        for (let i = SHORT; i < 10; i++) {
          const before = Buffer.alloc(SIZE, 0xee);
          // In packed rings nobody knows what is behind a chain that is not one writable buffer.
          const odd = i === SHORT || i === READ_ONLY || (i === BAD_INDEX && !packed);
          const asked = !logged && !odd && i < (packed ? READ_ONLY : 8);
          if (asked) before.fill(0, ring.header, ring.header + 8);
          assert.ok(ring.guest.read(at(i), SIZE).equals(before), `buffer ${i}`);
        }
      }
    });
  }
  test('MTU: two VLAN tags fit, more does not; a GSO packet counts by its segments', () => {
    const ring = setUp(1, {}, { mtu: 1500, offloads: OFFLOAD_CSUM });
    room(ring, 10);
    send(frame(1522));
    send(frame(1523));
    assert.deepEqual(ports.drops(1), { tx_mtu_exceeded: 1 });
    const tcp = Buffer.alloc(4054);
    tcp.writeUInt16BE(0x0800, 12);
    tcp[14] = 0x45;
    tcp[23] = 6;
    tcp[46] = 0x50;
    const gso = { flags: VNET_NEEDS_CSUM, gsoType: VNET_GSO_TCPV4, csumStart: 34, csumOffset: 16 };
    ports.setPacket(0, tcp, { ...gso, gsoSize: 1468 });
    ports.transmit(1, 1);
    assert.deepEqual(ports.drops(1), { tx_mtu_exceeded: 1 });
    ports.setPacket(0, tcp, { ...gso, gsoSize: 1469 });
    ports.transmit(1, 1);
    assert.deepEqual(ports.drops(1), { tx_mtu_exceeded: 2 });
    assert.equal(ring.reap().length, 1 + 3);
  });
  test('headers that do not allow segmentation', () => {
    const ring = setUp(1, {});
    room(ring, 10);
    ports.setPacket(0, frame(4000), {
      flags: VNET_NEEDS_CSUM,
      gsoType: VNET_GSO_TCPV4,
      gsoSize: 1000,
      csumStart: 34,
      csumOffset: 16,
    });
    ports.transmit(1, 1);
    assert.deepEqual(ports.drops(1), { tx_gso_impossible: 1 });
    assert.equal(ring.reap().length, 0);
  });
  test('DATA_VALID reaches a peer with GUEST_CSUM only', () => {
    for (const offloads of [0, OFFLOAD_CSUM]) {
      const ring = setUp(1, {}, { offloads });
      room(ring);
      ports.setPacket(0, frame(60), { flags: VNET_DATA_VALID });
      ports.transmit(1, 1);
      assert.equal(ring.guest.read(DATA, 1)[0], offloads ? VNET_DATA_VALID : 0);
    }
  });
  test('truncated for this output, whole for the next', () => {
    const ring = setUp(1, {});
    room(ring, 3);
    for (const trunc of [100, 700, 0]) {
      ports.setPacket(0, frame(1000), { trunc, cuts: [300] });
      ports.transmit(1, 1);
    }
    const got = ring
      .reap()
      .map((used) => ring.guest.read(used.buffers[0]!.gpa + 12n, used.length - 12));
    assert.deepEqual(got, [
      frame(1000).subarray(0, 100),
      frame(1000).subarray(0, 700),
      frame(1000),
    ]);
  });
  test('every length, in the head as a whole or with a segment behind it, and no byte more', () => {
    for (const packed of [false, true]) {
      for (let length = 14; length <= 300; length++) {
        for (const headBytes of [256, Math.min(length, 14 + (length % 50))]) {
          const ring = setUp(1, { packed });
          room(ring);
          ring.guest.write(DATA, Buffer.alloc(400, 0x55));
          ports.setPacket(0, frame(length), { headBytes });
          ports.transmit(1, 1);
          const [used] = ring.reap();
          assert.equal(used?.length, 12 + length);
          const got = ring.guest.read(DATA + 12n, 388);
          const wanted = Buffer.concat([frame(length), Buffer.alloc(388 - length, 0x55)]);
          assert.ok(got.equals(wanted), `${length} bytes, ${headBytes} in the head`);
        }
      }
    }
  });
  test('a worker uses the queue of its number modulo the usable ones, and leaves it unlocked', () => {
    const rings = [0, 1, 2].map((i) => {
      if (i === 0) setUp(1, {});
      const guest = new GuestMemory(ports, [{ gpa: GPA, bytes: BYTES, base: BASE }]);
      const ring = new Ring(ports, guest, 5 + i, 1, 1, GPA + BigInt(i * 0x20000), { size: 16 });
      ports.setU32(portAddress(1) + PT_TXQ + i * 4, 5 + i);
      room(ring, 4);
      return ring;
    });
    ports.setU32(portAddress(1) + PT_TXQ_COUNT, 3);
    ports.wasm.setWorker(4);
    send(frame(60));
    ports.wasm.setWorker(0);
    assert.deepEqual(
      rings.map((ring) => ring.reap().length),
      [0, 1, 0],
    );
    assert.equal(ports.u32(rings[1]!.q + Q_LOCK), 0);
  });
  test('nothing but what the ring holds: the rest is dropped by name', () => {
    const ring = setUp(1, { size: 64 });
    room(ring, 20);
    for (let i = 0; i < 256; i++) ports.setPacket(i, frame(60));
    ports.transmit(1, 256);
    assert.equal(ring.reap().length, 20);
    assert.deepEqual(ports.drops(1), { tx_ring_full: 236 });
  });
});

test('a disabled receive ring: buffers are taken and thrown away', () => {
  const ring = setUp(0, {});
  ports.setU32(ring.q + Q_ENABLED, 0);
  for (let i = 0; i < 5; i++) give(ring, frame(60));
  assert.equal(receive(ring), 0);
  assert.deepEqual(ports.drops(1), { rx_disabled: 5 });
  assert.equal(ring.reap().length, 5);
});

test('counters', () => {
  const lengths = [14, 64, 65, 127, 128, 255, 256, 511, 512, 1023, 1024, 1522, 1523, 9000];
  const histogram = [2, 2, 2, 2, 2, 2, 2];
  const ring = setUp(0, {});
  for (const [i, length] of lengths.entries()) {
    const data = Buffer.concat([vnetHeader(12), frame(length)]);
    if (i === 1) data.fill(0xff, 12, 18);
    if (i === 2) data[12] = 1;
    const gpa = DATA + BigInt(i * 0x4000);
    ring.guest.write(gpa, data);
    ring.add([{ gpa, length: data.length }]);
  }
  assert.equal(receive(ring), lengths.length);
  const total = lengths.reduce((sum, length) => sum + length, 0);
  const sizes = (base: number) => histogram.map((_, i) => ports.counter(1, base + i * 8));
  assert.equal(ports.counter(1, PC_RX_PACKETS), lengths.length);
  assert.equal(ports.counter(1, PC_RX_BYTES), total);
  assert.equal(ports.counter(1, PC_RX_MULTICAST), 1);
  assert.equal(ports.counter(1, PC_RX_BROADCAST), 1);
  assert.deepEqual(sizes(PC_RX_SIZES), histogram);

  const tx = setUp(1, {});
  for (let i = 0; i < 20; i++) tx.add([{ gpa: DATA + BigInt(i * 0x4000), length: 0x4000 }]);
  send(...lengths.map(frame));
  assert.equal(ports.counter(1, PC_TX_PACKETS), lengths.length);
  assert.equal(ports.counter(1, PC_TX_BYTES), total);
  assert.deepEqual(sizes(PC_TX_SIZES), histogram);
});

test('a burst is bounded by max, and goes on where it ended', () => {
  for (const packed of [false, true]) {
    const ring = setUp(0, { packed });
    for (let i = 0; i < 50; i++) give(ring, frame(60));
    assert.deepEqual([receive(ring, 32), receive(ring, 32), receive(ring, 32)], [32, 18, 0]);
    assert.equal(ring.reap().length, 50);
  }
});

describe('a full ring', () => {
  // Nobody else runs while we transmit. So that buffers come meanwhile, each lies where the frame that is written into
  // it makes the next one available.
  const FRAMES = 20;

  function splitRing(): Ring {
    const ring = setUp(1, {});
    const at = ring.availGpa - 24n; // header 12, frame 12 + flags + index
    for (let i = 0; i < FRAMES; i++) {
      ring.desc(i, at, 28, DESC_F_WRITE, 0);
      ring.setEntry(i, i);
    }
    ring.setIdx(1);
    return ring;
  }
  const nextIndex = (i: number): Buffer => {
    const data = frame(16);
    data.writeUInt16LE(0, 12);
    data.writeUInt16LE(i + 2, 14);
    return data;
  };

  function packedRing(): Ring {
    const ring = setUp(1, { packed: true });
    const first = nextDescriptor(ring, -1);
    ring.guest.write(ring.descGpa, first);
    return ring;
  }
  /** Descriptor i + 1, whose buffer begins in itself and ends with the descriptor behind it. */
  const nextDescriptor = (ring: Ring, i: number): Buffer => {
    const data = Buffer.alloc(16);
    data.writeBigUInt64LE(ring.descGpa + BigInt((i + 2) * 16 - 12));
    data.writeUInt32LE(28, 8);
    data.writeUInt16LE(i + 1, 12);
    data.writeUInt16LE(DESC_F_AVAIL | DESC_F_WRITE, 14);
    return data;
  };

  for (const packed of [false, true]) {
    for (const retries of [0, 1, 8, 32]) {
      test(`is looked at again ${retries} times at most, ${packed ? 'packed' : 'split'}`, () => {
        const ring = packed ? packedRing() : splitRing();
        ports.setU32(portAddress(1) + PT_TX_RETRIES, retries);
        const frames = Array.from({ length: FRAMES }, (_, i) =>
          packed ? nextDescriptor(ring, i) : nextIndex(i),
        );
        // In three parts each: frames in one or two are written as soon as they have their buffers.
        frames.forEach((each, i) => {
          ports.setPacket(i, each, { headBytes: 8, cuts: [4] });
        });
        ports.transmit(1, FRAMES);
        const sent = Math.min(FRAMES, retries + 1);
        assert.equal(ports.counter(1, PC_TX_PACKETS), sent);
        assert.equal(ports.counter(1, PC_TX_RETRIES), sent - 1);
        assert.deepEqual(ports.drops(1), sent < FRAMES ? { tx_ring_full: FRAMES - sent } : {});
        assert.equal(ports.u32(ring.q + VQ_LAST_USED) & 0x7fff, sent);
        assert.equal(ring.broken, 0);
      });
    }
    test(`whose guest takes nothing costs one look a burst, ${packed ? 'packed' : 'split'}`, () => {
      const ring = setUp(1, { packed });
      ports.setU32(portAddress(1) + PT_TX_RETRIES, 8);
      for (let i = 0; i < 3; i++) assert.ok(ring.add([{ gpa: DATA, length: 2000 }]));
      send(...Array.from({ length: 50 }, () => frame(60)));
      assert.equal(ports.counter(1, PC_TX_PACKETS), 3);
      assert.equal(ports.counter(1, PC_TX_RETRIES), 1);
      assert.deepEqual(ports.drops(1), { tx_ring_full: 47 });
      send(...Array.from({ length: 50 }, () => frame(60)));
      assert.equal(ports.counter(1, PC_TX_RETRIES), 1);
      assert.deepEqual(ports.drops(1), { tx_ring_full: 97 });
    });
  }
});
