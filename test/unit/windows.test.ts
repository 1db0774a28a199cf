// Windows on guest memory: whole regions, chunks on demand for guests larger than the window space, eviction.

import assert from 'node:assert/strict';
import { readSync } from 'node:fs';
import { test } from 'node:test';
import {
  CONTROL_BASE,
  CTL_GENERATION,
  WINDOW_BASE,
  WK_ACK,
  WK_STATE,
  WORKER_BASE,
} from '../../contract/memory.ts';
import { PT_REGION_COUNT, PT_REGIONS, portAddress } from '../../contract/port.ts';
import {
  CHUNK_SIZE,
  CHUNK_TOUCHED,
  chunkAddress,
  RG_BASE,
  RG_BYTES,
  RG_CHUNK,
  RG_GPA,
  RG_SKEW,
  regionAddress,
} from '../../contract/window.ts';
import { createFault } from '../../src/engine/fault.ts';
import { Grace } from '../../src/engine/grace.ts';
import { EngineMemory } from '../../src/engine/memory.ts';
import { GuestWindows } from '../../src/engine/windows.ts';
import { closeFd } from '../../src/sys/fd.ts';
import { memfdCreate } from '../../src/sys/memory.ts';

const GIB = 2 ** 30;

function setUp(): { memory: EngineMemory; windows: GuestWindows } {
  const memory = new EngineMemory();
  return { memory, windows: new GuestWindows(memory, new Grace(memory, () => [])) };
}

function inFile(fd: number, offset: number): number {
  const byte = new Uint8Array(1);
  readSync(fd, byte, 0, 1, offset);
  return byte[0]!;
}

test('a small guest is mapped whole, aligned for huge pages', () => {
  const { memory, windows } = setUp();
  const fd = memfdCreate('guest', 64 << 20);
  const region = windows.mapRegion(fd, 0x1000n, BigInt((64 << 20) - 0x1000));
  assert.ok(region.base >= WINDOW_BASE);
  assert.equal((memory.base + BigInt(region.base)) % BigInt(CHUNK_SIZE), 0x1000n);
  memory.u8[region.base + 5] = 99;
  assert.equal(inFile(fd, 0x1000 + 5), 99);
  windows.setRegions(3, [{ guestAddress: 0x100000000n, bytes: 0x1234n, window: region }]);
  const port = portAddress(3);
  assert.equal(memory.get(port + PT_REGION_COUNT), 1);
  const at = regionAddress(memory.get(port + PT_REGIONS));
  assert.equal(memory.get(at + RG_GPA), 0);
  assert.equal(memory.get(at + RG_GPA + 4), 1);
  assert.equal(memory.get(at + RG_BYTES), 0x1234);
  assert.equal(memory.get(at + RG_BASE), region.base);
  windows.setRegions(3, []);
  windows.unmapRegion(region);
  const again = windows.mapRegion(fd, 0x1000n, 4096n);
  assert.equal(again.base, region.base, 'the space was given back');
  closeFd(fd);
});

test('a file that cannot be mapped leaves nothing behind', () => {
  const { windows } = setUp();
  const before = windows.mapRange(memfdCreate('a', 4096), 0n, 4096);
  windows.unmapRange(before);
  assert.throws(() => windows.mapRegion(0x7fff, 0n, 4096n), /EBADF|Bad file descriptor/);
  assert.throws(() => windows.mapRange(0x7fff, 0n, 4096), /EBADF|Bad file descriptor/);
  const fd = memfdCreate('b', 4096);
  assert.equal(windows.mapRange(fd, 0n, 4096), before);
  closeFd(fd);
});

test('a worker that waits for a lost page of a chunk being evicted goes on', async () => {
  const memory = new EngineMemory();
  const windows = new GuestWindows(memory, new Grace(memory, () => [0]));
  memory.store(WORKER_BASE + WK_STATE, 1); // a worker that never acknowledges
  const fd = memfdCreate('large', 12 * GIB);
  const bytes = BigInt(12 * GIB);
  const region = windows.mapRegion(fd, 0n, bytes);
  windows.setRegions(1, [{ guestAddress: 0n, bytes, window: region }]);
  const fault = createFault(memory.memory, () => {});
  const mapped: number[] = [];
  for (let at = fault(1, region.chunk); at !== 0; at = fault(1, region.chunk + mapped.length)) {
    mapped.push(at >>> 0);
    windows.fillPool();
  }
  const victim = mapped.find((_, i) => memory.get(chunkAddress(region.chunk + i)) === 0)!;
  memory.u8[victim + 5] = 1;
  assert.equal(windows.lostAt(victim + 5), true);
  assert.equal(memory.u8[victim + 5], 0);
  assert.equal(windows.lostAt(WINDOW_BASE - 1), false);
  await new Promise((resolve) => setImmediate(resolve));
  closeFd(fd);
});

test('a large guest that leaves while chunks are being evicted leaves all of them to the next one', async () => {
  const memory = new EngineMemory();
  const grace = new Grace(memory, () => [0]);
  const windows = new GuestWindows(memory, grace);
  const acknowledge = async (): Promise<void> => {
    await new Promise((resolve) => setImmediate(resolve));
    memory.store(WORKER_BASE + WK_ACK, memory.load(CONTROL_BASE + CTL_GENERATION));
    grace.check();
  };
  memory.store(WORKER_BASE + WK_STATE, 1);
  const fd = memfdCreate('large', 12 * GIB);
  const guest = { guestAddress: 0n, bytes: BigInt(12 * GIB) };
  const region = windows.mapRegion(fd, 0n, guest.bytes);
  windows.setRegions(1, [{ ...guest, window: region }]);
  const fault = createFault(memory.memory, () => {});
  let mapped = 0;
  for (; fault(1, region.chunk + mapped) !== 0; mapped++) windows.fillPool();
  windows.setRegions(1, []);
  windows.unmapRegion(region);
  windows.mapRegion(fd, 0n, guest.bytes);
  await acknowledge();
  windows.fillPool();
  assert.ok(windows.poolSize() >= mapped, `${windows.poolSize()} of ${mapped} chunks`);
  closeFd(fd);
});

test('a guest of 12 GiB: every byte is reached, a chunk at a time', async () => {
  const { memory, windows } = setUp();
  const fd = memfdCreate('large', 12 * GIB);
  const skewed = 0x5000n;
  const region = windows.mapRegion(fd, skewed, BigInt(12 * GIB) - skewed);
  assert.equal(region.base, 0);
  assert.ok(region.chunk > 0);
  assert.equal(region.skew, 0x5000);
  const ring = windows.mapRange(fd, 5n * BigInt(GIB) + 0x3000n, 0x4000);
  memory.u8[ring] = 7;
  assert.equal(inFile(fd, 5 * GIB + 0x3000), 7);
  windows.setRegions(1, [{ guestAddress: 0n, bytes: BigInt(12 * GIB) - skewed, window: region }]);
  const at = regionAddress(memory.get(portAddress(1) + PT_REGIONS));
  assert.equal(memory.get(at + RG_CHUNK), region.chunk);
  assert.equal(memory.get(at + RG_SKEW), 0x5000);

  let rung = 0;
  const fault = createFault(memory.memory, () => rung++);
  assert.equal(fault(1, region.chunk + 12 * 512), 0, 'behind the end of the region');
  assert.equal(fault(2, region.chunk), 0, 'not that port');
  let evicted = 0;
  for (let chunk = 0; chunk < 12 * 512; chunk++) {
    const entry = chunkAddress(region.chunk + chunk);
    const window = fault(1, region.chunk + chunk) >>> 0;
    assert.notEqual(window, 0, `chunk ${chunk}`);
    assert.equal(memory.get(entry), window);
    memory.u8[CHUNK_TOUCHED + region.chunk + chunk] = 1;
    if (chunk % 16 === 0) {
      memory.u8[window + 0x6000] = chunk / 16;
      assert.equal(inFile(fd, chunk * CHUNK_SIZE + 0x6000), (chunk / 16) & 0xff);
    }
    if (rung > 0) {
      rung = 0;
      evicted++;
      windows.fillPool();
      await new Promise((resolve) => setImmediate(resolve));
      windows.fillPool();
    }
  }
  assert.ok(evicted > 3, 'chunks were evicted');
  // What was evicted comes back with what was written.
  let back = 0;
  for (let chunk = 0; chunk < 512; chunk += 16) {
    if (memory.get(chunkAddress(region.chunk + chunk)) !== 0) continue;
    const window = fault(1, region.chunk + chunk) >>> 0;
    assert.equal(memory.u8[window + 0x6000], (chunk / 16) & 0xff);
    back++;
  }
  assert.ok(back > 0);
  windows.setRegions(1, []);
  windows.unmapRegion(region);
  assert.equal(windows.poolSize(), 0);
  windows.unmapRange(ring);
  closeFd(fd);
});

test('faults with an empty pool fail, and are counted, until chunks come back', () => {
  const { memory, windows } = setUp();
  const fd = memfdCreate('large', 12 * GIB);
  const region = windows.mapRegion(fd, 0n, BigInt(12 * GIB));
  windows.setRegions(1, [{ guestAddress: 0n, bytes: BigInt(12 * GIB), window: region }]);
  const fault = createFault(memory.memory, () => {});
  let chunk = 0;
  while (fault(1, region.chunk + chunk) !== 0) chunk++;
  assert.ok(chunk > 100);
  windows.fillPool();
  assert.notEqual(fault(1, region.chunk + chunk), 0);
  closeFd(fd);
});
