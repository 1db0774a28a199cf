// Virtqueues: notifications, in-order batches, dirty log, windows in chunks, largest rings.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { MAX_CALLS, WK_CALL, WK_CALL_COUNT, WORKER_BASE } from '../../contract/memory.ts';
import { PT_TXQ, PT_TXQ_COUNT, portAddress } from '../../contract/port.ts';
import {
  AVAIL_F_NO_INTERRUPT,
  EVENT_DESC,
  EVENT_DISABLE,
  NOTIFY_OFF,
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
import type { Region } from '../net/ports.ts';
import { type Ring, vnetHeader } from '../net/ring.ts';
import {
  BASE,
  BYTES,
  DATA,
  FD,
  frame,
  GPA,
  give,
  ports,
  receive,
  send,
  setUp,
} from '../net/ringRig.ts';

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
