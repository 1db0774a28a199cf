// Virtqueues and transmit path: notifications, in-order batches, dirty log, windows in chunks, port state, limits.

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
import { MAX_CALLS, WK_CALL, WK_CALL_COUNT, WORKER_BASE } from '../../contract/memory.ts';
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
  AVAIL_F_NO_INTERRUPT,
  DESC_F_AVAIL,
  DESC_F_WRITE,
  EVENT_DESC,
  EVENT_DISABLE,
  NOTIFY_OFF,
  VF_CSUM,
  VF_LOG_ALL,
  VQ_CALL_FD,
  VQ_CALL_PENDING,
  VQ_FEATURES,
  VQ_LAST_AVAIL,
  VQ_LAST_USED,
  VQ_LOG,
  VQ_LOG_BYTES,
  VQ_LOG_RING,
  VQ_NOTIFY,
} from '../../contract/virtqueue.ts';
import { CHUNK_SIZE, CHUNK_TOUCHED, chunkAddress } from '../../contract/window.ts';
import { Ports, type Region } from '../net/ports.ts';
import { GuestMemory, Ring, type RingOptions, vnetHeader } from '../net/ring.ts';

const ports = await Ports.load();
const BYTES = 0x400000;
const BASE = 0x40200000;
const GPA = 0x1_0000_0000n;
const DATA = GPA + 0x100000n;
const FD = 42;

function setUp(dir: 0 | 1, options: RingOptions, port: Parameters<Ports['port']>[1] = {}): Ring {
  ports.reset();
  const regions = [{ gpa: GPA, bytes: BYTES, base: BASE }];
  ports.port(1, { regions, ...port });
  const guest = new GuestMemory(ports, regions);
  return new Ring(ports, guest, 5, 1, dir, GPA, { size: 64, callFd: FD, ...options });
}
function give(ring: Ring, frame: Buffer): void {
  const data = Buffer.concat([vnetHeader(ring.header), frame]);
  ring.guest.write(DATA, data);
  assert.ok(ring.add([{ gpa: DATA, length: data.length }]));
}
function receive(ring: Ring, max = 256): number {
  const n = ports.wasm.rxBurst(ring.q, ports.record(0), max);
  if (n > 0) ports.wasm.rxDone(ring.q);
  return n;
}
function send(...frames: Buffer[]): void {
  frames.forEach((frame, i) => {
    ports.setPacket(i, frame);
  });
  ports.transmit(1, frames.length);
}
const frame = (length: number) => Buffer.from(Array.from({ length }, (_, i) => (i * 3 + 2) & 0xfe));

describe('interrupts', () => {
  test('split, flags', () => {
    const ring = setUp(0, {});
    give(ring, frame(60));
    receive(ring);
    assert.deepEqual(ports.calls(), [FD]);
    ports.view.setUint16(ring.guest.at(ring.availGpa), AVAIL_F_NO_INTERRUPT, true);
    give(ring, frame(60));
    receive(ring);
    assert.deepEqual(ports.calls(), []);
    assert.equal(ports.interrupts(1), 1);
  });
  test('split, event index: when the used index passes it, G24 wherever it is', () => {
    const ring = setUp(0, { eventIdx: true, base: 0xfffe });
    const event = ring.guest.at(ring.availGpa) + 4 + 64 * 2;
    for (const [value, wanted] of [
      [0xfffe, true],
      [1, false], // used: 0xffff -> 0
      [0, true], // 0 -> 1
      [0x7777, false],
    ] as const) {
      ports.view.setUint16(event, value, true);
      give(ring, frame(60));
      receive(ring);
      assert.deepEqual(ports.calls(), wanted ? [FD] : []);
    }
  });
  test('packed: enable, disable, descriptor event, G24', () => {
    const ring = setUp(0, { packed: true, eventIdx: true });
    const area = ring.guest.at(ring.availGpa);
    for (const [offset, flags, wanted] of [
      [0, 0, true],
      [0, EVENT_DISABLE, false],
      [0x8000 | 2, EVENT_DESC, true], // position 2 -> 3
      [0x8000 | 2, EVENT_DESC, false], // 3 -> 4: passed before
      [4, EVENT_DESC, false], // the other lap
      [0xffff, EVENT_DESC, false],
    ] as const) {
      ports.view.setUint16(area, offset, true);
      ports.view.setUint16(area + 2, flags, true);
      give(ring, frame(60));
      receive(ring);
      assert.deepEqual(ports.calls(), wanted ? [FD] : [], `${offset} ${flags}`);
    }
  });
  test('packed: descriptor event across the end of the ring', () => {
    const ring = setUp(0, { packed: true, eventIdx: true, base: 0x8000 | 62 });
    const area = ring.guest.at(ring.availGpa);
    ports.setU32(area, 1 | (EVENT_DESC << 16)); // position 1 of the next lap
    for (let i = 0; i < 3; i++) give(ring, frame(60));
    receive(ring);
    assert.deepEqual(ports.calls(), []);
    give(ring, frame(60));
    receive(ring);
    assert.deepEqual(ports.calls(), [FD]);
  });
  test('no eventfd: nothing is asked for; one owed is delivered with the next burst', () => {
    const ring = setUp(0, { callFd: -1 });
    give(ring, frame(60));
    receive(ring);
    assert.deepEqual(ports.calls(), []);
    ports.setU32(ring.q + VQ_CALL_FD, FD);
    ports.setU32(ring.q + VQ_CALL_PENDING, 1);
    ports.view.setUint16(ring.guest.at(ring.availGpa), AVAIL_F_NO_INTERRUPT, true);
    give(ring, frame(60));
    receive(ring);
    assert.deepEqual(ports.calls(), [FD]);
    assert.equal(ports.u32(ring.q + VQ_CALL_PENDING), 0);
  });
  test('G32 list of doorbells full: owed, and delivered before sleep', () => {
    const ring = setUp(0, {});
    ports.setU32(WORKER_BASE + WK_CALL_COUNT, MAX_CALLS);
    for (let i = 0; i < MAX_CALLS; i++) ports.setU32(WORKER_BASE + WK_CALL + i * 4, 1000 + i);
    give(ring, frame(60));
    receive(ring);
    assert.equal(ports.u32(WORKER_BASE + WK_CALL_COUNT), MAX_CALLS);
    ports.calls();
    assert.equal(ports.wasm.prepareSleep(ring.q), 1);
    assert.deepEqual(ports.calls(), [FD]);
  });
  test('one interrupt for a burst', () => {
    const ring = setUp(1, {});
    for (let i = 0; i < 10; i++) ring.add([{ gpa: DATA + BigInt(i * 2000), length: 2000 }]);
    send(...Array.from({ length: 10 }, () => frame(60)));
    assert.deepEqual(ports.calls(), [FD]);
    assert.equal(ports.interrupts(1), 1);
  });
});

describe('kicks', () => {
  for (const packed of [false, true]) {
    for (const eventIdx of [false, true]) {
      test(`${packed ? 'packed' : 'split'}${eventIdx ? ', event index' : ''}`, () => {
        const ring = setUp(0, { packed, eventIdx });
        const used = ring.guest.at(ring.usedGpa);
        /** Would the driver kick after adding one entry at `position`? */
        const kicks = (position: number) => {
          if (packed) return ports.view.getUint16(used + 2, true) === 0;
          if (!eventIdx) return (ports.view.getUint16(used, true) & 1) === 0;
          return ports.view.getUint16(used + 4 + 64 * 8, true) === position;
        };
        give(ring, frame(60));
        assert.equal(receive(ring), 1);
        assert.equal(kicks(1), false, 'silent while polled');
        assert.equal(ports.wasm.prepareSleep(ring.q), 1, 'empty');
        assert.equal(kicks(1), true, 'speaks while we sleep');
        ports.wasm.wake(ring.q);
        assert.equal(kicks(1), false, 'silent again');
        give(ring, frame(60));
        assert.equal(ports.wasm.prepareSleep(ring.q), 0, 'an entry came in between');
        assert.equal(receive(ring), 1);
        assert.equal(ports.wasm.prepareSleep(ring.q), 1);
        assert.equal(kicks(2), true);
      });
    }
  }
  test('a queue that we fill never wants kicks', () => {
    const ring = setUp(1, {});
    ring.add([{ gpa: DATA, length: 2000 }]);
    send(frame(60));
    assert.equal(ports.view.getUint16(ring.guest.at(ring.usedGpa), true) & 1, 1);
    assert.equal(ports.wasm.prepareSleep(ring.q), 1);
    assert.equal(ports.view.getUint16(ring.guest.at(ring.usedGpa), true) & 1, 1);
  });
});

describe('in order', () => {
  test('split: one used element for a burst, in the place of the first', () => {
    const ring = setUp(0, { inOrder: true, base: 60 });
    const used = ring.guest.at(ring.usedGpa);
    ports.bytes.fill(0xee, used + 4, used + 4 + 64 * 8);
    for (let i = 0; i < 8; i++) give(ring, frame(60));
    receive(ring);
    assert.equal(ring.usedIdx, 68);
    assert.equal(ports.u32(used + 4 + 60 * 8), ring.outstanding[7]!.id);
    assert.equal(ports.u32(used + 4 + 61 * 8), 0xeeeeeeee);
    assert.equal(ring.reap().length, 8);
  });
  test('packed: one used descriptor for a burst, across the end of the ring', () => {
    const ring = setUp(0, { packed: true, inOrder: true, base: 0x8000 | 60 });
    for (let i = 0; i < 8; i++) give(ring, frame(60));
    const second = ports.view.getUint16(ring.guest.at(ring.descGpa) + 61 * 16 + 14, true);
    receive(ring);
    assert.equal(ports.view.getUint16(ring.guest.at(ring.descGpa) + 61 * 16 + 14, true), second);
    assert.equal(ports.u32(ring.q + VQ_LAST_USED), 4);
    assert.equal(ports.u32(ring.q + VQ_LAST_AVAIL), 4);
    assert.equal(ring.reap().length, 8);
  });
});

describe('dirty log', () => {
  const LOG = 0x25000000;
  const dirty = (ring: Ring) => {
    const pages = new Set<bigint>();
    const bytes = ports.u32(ring.q + VQ_LOG_BYTES);
    for (let i = 0; i < bytes * 8; i++) {
      if (ports.bytes[LOG + (i >> 3)]! & (1 << (i & 7))) pages.add(BigInt(i));
    }
    return pages;
  };
  const startLog = (ring: Ring, bytes: number) => {
    ports.bytes.fill(0, LOG, LOG + 0x100000);
    ports.setU32(ring.q + VQ_LOG, LOG);
    ports.setU32(ring.q + VQ_LOG_BYTES, bytes);
    ports.setU32(ring.q + VQ_LOG_RING, 1);
    ports.setU32(ring.q + VQ_FEATURES, ports.u32(ring.q + VQ_FEATURES) | VF_LOG_ALL);
  };
  const page = (gpa: bigint) => gpa >> 12n;
  for (const packed of [false, true]) {
    test(`${packed ? 'packed' : 'split'}: payload, header and ring; not what is only read`, () => {
      let ring = setUp(1, { packed, mergeable: true });
      startLog(ring, 0x80000 / 4 + 100);
      ring.add([{ gpa: DATA + 4090n, length: 100 }]); // header across two pages
      ring.add([{ gpa: DATA + 0x5000n, length: 0x8000 }]); // written only in part
      send(frame(100 - 12 + 5000));
      const ringPages = packed ? [page(ring.descGpa), page(ring.usedGpa)] : [page(ring.usedGpa)];
      const want = [page(DATA), page(DATA) + 1n, page(DATA) + 5n, page(DATA) + 6n, ...ringPages];
      assert.deepEqual(dirty(ring), new Set(want.sort((a, b) => Number(a - b))));

      ring = setUp(0, { packed });
      startLog(ring, 0x80000 / 4 + 100);
      give(ring, frame(60));
      receive(ring);
      assert.deepEqual(
        [...dirty(ring)].filter((p) => p >= page(DATA)),
        [],
      );
      assert.ok(dirty(ring).has(packed ? page(ring.descGpa) : page(ring.usedGpa)));
    });
  }
  test('split: the page of the used index, when the element is on another one', () => {
    const ring = setUp(1, { size: 1024, base: 1000 });
    startLog(ring, 0x80000 / 4 + 100);
    ports.setU32(ring.q + VQ_NOTIFY, NOTIFY_OFF);
    ring.add([{ gpa: DATA, length: 2000 }]);
    send(frame(60));
    const first = page(ring.usedGpa);
    assert.deepEqual(dirty(ring), new Set([first, first + 1n, page(DATA)]));
  });
  test('G30 pages beyond the log are not logged; without LOG_ALL nothing is', () => {
    let ring = setUp(1, {});
    startLog(ring, 16);
    ring.add([{ gpa: DATA, length: 2000 }]);
    send(frame(60));
    assert.ok(ports.bytes.subarray(LOG, LOG + 0x100000).every((byte) => byte === 0));
    ring = setUp(1, {});
    startLog(ring, 0x40000);
    ports.setU32(ring.q + VQ_FEATURES, 0);
    ring.add([{ gpa: DATA, length: 2000 }]);
    send(frame(60));
    assert.equal(dirty(ring).size, 0);
    assert.equal(ring.reap().length, 1);
  });
});

describe('windows in chunks', () => {
  // The guest's second region: 5 MiB, beginning 64 KiB into its first chunk; chunks scattered in memory.
  const SKEW = 0x10000;
  const CHUNKED = 0x2_0000_0000n;
  const places = [0x50000000, 0x48000000, 0x60000000];
  const region: Region = {
    gpa: CHUNKED,
    bytes: 0x500000,
    chunk: 100,
    skew: SKEW,
    chunks: [0, 0, 0],
  };
  const at = (offset: number) => {
    const place = offset + SKEW;
    return places[Math.floor(place / CHUNK_SIZE)]! + (place % CHUNK_SIZE);
  };
  function chunked(packed = false): Ring {
    const ring = setUp(0, { packed });
    ports.port(1, { regions: [{ gpa: GPA, bytes: BYTES, base: BASE }, region] });
    ports.bytes.fill(0, CHUNK_TOUCHED, CHUNK_TOUCHED + 1000);
    return ring;
  }
  function put(offset: number, data: Buffer): void {
    data.forEach((byte, i) => {
      ports.bytes[at(offset + i)] = byte;
    });
  }
  test('chunks are mapped when a packet needs them, pieces end at their borders', () => {
    const ring = chunked();
    const faults: number[] = [];
    ports.fault = (port, chunk) => {
      assert.equal(port, 1);
      faults.push(chunk);
      ports.setU32(chunkAddress(chunk), places[chunk - 100]!);
      return places[chunk - 100]!;
    };
    const data = Buffer.concat([vnetHeader(12), frame(3000)]);
    const border = CHUNK_SIZE - SKEW; // offset in the region where chunk 1 begins
    for (const offset of [
      0,
      border - 1000,
      border + 5000,
      border + CHUNK_SIZE - 6,
      border + CHUNK_SIZE + 5000,
    ]) {
      put(offset, data);
      ring.add([{ gpa: CHUNKED + BigInt(offset), length: data.length }]);
    }
    assert.equal(receive(ring), 5);
    for (let i = 0; i < 5; i++) assert.deepEqual(ports.packet(i).frame, frame(3000));
    assert.deepEqual(faults, [100, 101, 102]);
    assert.deepEqual(
      [...ports.bytes.subarray(CHUNK_TOUCHED + 99, CHUNK_TOUCHED + 104)],
      [0, 1, 1, 1, 0],
    );
  });
  test('no window space: the queue waits, goes on where it stopped, and drops after a while', () => {
    for (const packed of [false, true]) {
      const ring = chunked(packed);
      const data = Buffer.concat([vnetHeader(12), frame(60)]);
      put(0, data);
      give(ring, frame(200));
      for (let i = 0; i < 2; i++) ring.add([{ gpa: CHUNKED, length: data.length }]);
      assert.equal(receive(ring), 1);
      ports.wasm.setNow(40);
      assert.equal(receive(ring), 0);
      assert.equal(ports.wasm.prepareSleep(ring.q), 0, 'not asleep while packets wait');
      assert.equal(ring.reap().length, 1);
      assert.deepEqual(ports.drops(1), {});
      ports.fault = () => places[0]!;
      assert.equal(receive(ring, 1), 1);
      assert.deepEqual(ports.packet(0).frame, frame(60));
      ports.fault = () => 0;
      ports.wasm.setNow(80); // a new wait
      assert.equal(receive(ring), 0);
      ports.wasm.setNow(131);
      assert.equal(receive(ring), 0);
      assert.deepEqual(ports.drops(1), { window_space_exhausted: 1 });
      assert.equal(ring.reap().length, 2);
    }
  });
  test('no window space for a receive buffer: a drop with its own name', () => {
    chunked();
    const tx = setUp(1, { mergeable: true });
    ports.port(1, { regions: [{ gpa: GPA, bytes: BYTES, base: BASE }, region] });
    ports.setU32(portAddress(1) + PT_TXQ, 5);
    ports.setU32(portAddress(1) + PT_TXQ_COUNT, 1);
    tx.add([{ gpa: CHUNKED, length: 2000 }]);
    send(frame(60));
    assert.deepEqual(ports.drops(1), { window_space_exhausted: 1 });
    assert.equal(tx.reap().length, 0, 'the buffer is kept for better times');
  });
  test('bytes of the chunk before and behind the region are out of reach', () => {
    const ring = chunked();
    ports.fault = () => places[0]!;
    ring.add([{ gpa: CHUNKED - 1n, length: 100 }]);
    ring.add([{ gpa: CHUNKED + 0x500000n - 99n, length: 100 }]);
    assert.equal(receive(ring), 0);
    assert.deepEqual(ports.drops(1), { rx_bad_descriptor: 2 });
  });
});

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

test('largest rings', () => {
  for (const packed of [false, true]) {
    const ring = setUp(0, { packed, size: 32768, base: packed ? 0x8000 | 32000 : 65000 });
    let got = 0;
    for (let i = 0; i < 2000; i++) give(ring, frame(60));
    for (let n = receive(ring); n > 0; n = receive(ring)) got += n;
    assert.equal(got, 2000);
    assert.equal(ring.reap().length, 2000);
    assert.equal(ring.broken, 0);
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
