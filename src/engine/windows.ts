// Windows on guest memory: who may use which 2 MiB of the window space (contract/window.ts, contract/windowPool.ts).
//
// A region that fits is mapped whole, in one piece: translation is an addition then. What does not fit is mapped chunk
// by chunk when a worker first needs it (fault.ts), out of a pool of free chunks; this file keeps the pool filled by
// unmapping chunks that were not used lately, after every worker has let go of them. Rings are never unmapped under a
// worker: mapRange() gives them a mapping of their own.
//
//   WINDOW_BASE … 4 GiB:  | whole region | free | pinned | pool chunk | whole region | …
//
// Unmapped space is PROT_NONE: an access traps and costs the burst, never another guest's memory. Where a file has lost
// pages that are mapped, an access would be a SIGBUS: blank() puts empty memory there, and the owner is told
// (lostMemory.ts).

import { fstatSync } from 'node:fs';
import { constants } from 'node:os';
import { WINDOW_BASE } from '../../contract/memory.ts';
import { PT_REGION_COUNT, PT_REGIONS, portAddress } from '../../contract/port.ts';
import {
  CHUNK_SIZE,
  CHUNK_TOUCHED,
  chunkAddress,
  MAX_CHUNKS,
  MAX_REGIONS_PER_PORT,
  RG_BASE,
  RG_BYTES,
  RG_CHUNK,
  RG_GPA,
  RG_SKEW,
  regionAddress,
} from '../../contract/window.ts';
import {
  RS_BLOCK,
  RS_CHUNKS,
  RS_FD,
  regionSourceAddress,
  WINDOW_POOL,
  WINDOW_POOL_MAX,
  WP_CHUNKS,
  WP_COUNT,
} from '../../contract/windowPool.ts';
import { SysError } from '../sys/ffi.ts';
import { mapAnonymous, mapFixed, mapNone, PAGE_SIZE } from '../sys/memory.ts';
import { Arena } from './arena.ts';
import { lockPool, POOL_LOW, unlockPool } from './fault.ts';
import type { Grace } from './grace.ts';
import { FileSizes } from './lostMemory.ts';
import type { EngineMemory } from './memory.ts';
import type { MemoryLost, WindowRegion, Windows } from './types.ts';

const { ENOMEM } = constants.errno;

interface Region extends WindowRegion {
  base: number;
  chunk: number;
  readonly skew: number;
  readonly fd: number;
  /** In units of CHUNK_SIZE: where the region's first chunk begins in the file. */
  readonly block: number;
  readonly chunks: number;
  /** Its place in the window space if it is mapped whole. */
  window: number;
  /** Its records in the workers' table (windowPool.ts), by address. */
  sources: number[];
  watch: Disposable | undefined;
  readonly onLost: MemoryLost | undefined;
}

/** What mapRange() has made. */
interface Range {
  readonly window: number;
  readonly bytes: number;
  readonly onLost: MemoryLost | undefined;
  watch: Disposable | undefined;
}

/** Window space that whole regions leave for chunks on demand. */
const RESERVED_CHUNKS = 512;
const POOL_FULL = 512;
/** Most chunks on demand, so that small guests that come later find room next to guests of any size. */
const POOL_CHUNKS_MAX = 1280;

export class GuestWindows implements Windows {
  private readonly memory: EngineMemory;
  private readonly grace: Grace;
  private readonly space: Arena;
  private readonly chunkTable = new Arena(1, MAX_CHUNKS - 1);
  private readonly regions = new Set<Region>();
  private readonly ranges = new Map<number, Range>();
  private readonly files = new FileSizes();
  /** Window chunks that belong to the pool or to chunks mapped from it. */
  private readonly poolChunks = new Set<number>();
  private hand = 0;
  private evicting = false;

  constructor(memory: EngineMemory, grace: Grace) {
    this.memory = memory;
    this.grace = grace;
    const skew = Number((memory.base + BigInt(WINDOW_BASE)) % BigInt(CHUNK_SIZE));
    const base = WINDOW_BASE + (skew === 0 ? 0 : CHUNK_SIZE - skew);
    const bytes = Math.floor((0x100000000 - base) / CHUNK_SIZE) * CHUNK_SIZE;
    this.space = new Arena(base, bytes);
    mapNone(memory.base + BigInt(WINDOW_BASE), 0x100000000 - WINDOW_BASE);
  }

  mapRegion(fd: number, fileOffset: bigint, bytes: bigint, onLost?: MemoryLost): WindowRegion {
    const skew = Number(fileOffset % BigInt(CHUNK_SIZE));
    const block = Number(fileOffset / BigInt(CHUNK_SIZE));
    const chunks = Math.ceil((Number(bytes) + skew) / CHUNK_SIZE);
    const region: Region = {
      base: 0,
      chunk: 0,
      skew,
      fd,
      block,
      chunks,
      window: 0,
      sources: [],
      watch: undefined,
      onLost,
    };
    if (!this.mapWhole(region, Number(bytes))) {
      region.chunk = this.chunkTable.take(chunks, 1);
      if (region.chunk < 0) throw new Error('no room in the table of guest memory chunks');
      for (let i = 0; i < chunks; i++) this.memory.set(chunkAddress(region.chunk + i), 0);
    }
    this.regions.add(region);
    const end = fileOffset + bytes;
    region.watch = this.files.watch(fd, end, (size) =>
      this.loseRegion(region, `the memory file has shrunk to ${size} bytes, ${end} are in use`),
    );
    this.fillPool();
    return region;
  }

  private mapWhole(region: Region, bytes: number): boolean {
    const free = this.space.freeBytes() / CHUNK_SIZE;
    if (free - region.chunks < RESERVED_CHUNKS) return false;
    // Pages of a huge page file: the address has to be as far from a page as the place in the file is.
    const page = Math.max(blockSize(region.fd), CHUNK_SIZE);
    const start = BigInt(region.block) * BigInt(CHUNK_SIZE);
    const bias = Number(this.memory.base % BigInt(page)) + page - Number(start % BigInt(page));
    const window = this.space.take(region.chunks * CHUNK_SIZE, page, bias);
    if (window < 0) return false;
    this.mapSpace(window, region.fd, start, bytes + region.skew);
    region.window = window;
    region.base = window + region.skew;
    return true;
  }

  unmapRegion(handle: WindowRegion): void {
    const region = handle as Region;
    if (!this.regions.delete(region)) return;
    region.watch?.[Symbol.dispose]();
    if (region.base !== 0) {
      this.unmapSpace(region.window);
    } else {
      const windows: number[] = [];
      for (let chunk = region.chunk; chunk < region.chunk + region.chunks; chunk++) {
        const window = this.memory.get(chunkAddress(chunk));
        if (window !== 0) windows.push(window);
        this.memory.store(chunkAddress(chunk), 0);
      }
      this.refill(windows);
      this.chunkTable.give(region.chunk);
      if (!this.needsPool()) this.emptyPool();
    }
    this.fillPool();
  }

  mapRange(fd: number, fileOffset: bigint, bytes: number, onLost?: MemoryLost): number {
    const skew = Number(fileOffset % BigInt(CHUNK_SIZE));
    const length = Math.ceil((skew + bytes) / CHUNK_SIZE) * CHUNK_SIZE;
    const window = this.takeChunks(length);
    if (window < 0) throw new SysError('mmap', ENOMEM);
    this.mapSpace(window, fd, fileOffset - BigInt(skew), skew + bytes);
    const range: Range = { window, bytes: length, onLost, watch: undefined };
    this.ranges.set(window, range);
    const end = fileOffset + BigInt(bytes);
    range.watch = this.files.watch(fd, end, (size) =>
      this.loseRange(range, `the memory file has shrunk to ${size} bytes, ${end} are in use`),
    );
    return window + skew;
  }

  unmapRange(address: number): void {
    const skew = Number((this.memory.base + BigInt(address)) % BigInt(CHUNK_SIZE));
    this.ranges.get(address - skew)?.watch?.[Symbol.dispose]();
    this.ranges.delete(address - skew);
    this.unmapSpace(address - skew);
  }

  /** Compares the sizes of files that cannot be watched. To be called now and then. */
  checkFiles(): void {
    this.files.check();
  }

  /**
   * A worker waits at this memory offset, whose page has gone: empty memory there, and the owner is told. False if it
   * is nobody's window.
   */
  lostAt(offset: number): boolean {
    const why = 'a page of the memory file cannot be had';
    for (const range of this.ranges.values()) {
      if (offset < range.window || offset >= range.window + range.bytes) continue;
      this.loseRange(range, why);
      return true;
    }
    for (const region of this.regions) {
      if (!this.covers(region, offset)) continue;
      this.loseRegion(region, why);
      return true;
    }
    // A chunk that is being evicted stands in no table, but the worker may not have let go of it yet.
    for (const window of this.poolChunks) {
      if (offset < window || offset >= window + CHUNK_SIZE) continue;
      this.blank(window, CHUNK_SIZE);
      return true;
    }
    return false;
  }

  private covers(region: Region, offset: number): boolean {
    if (region.base !== 0) {
      return offset >= region.window && offset < region.window + region.chunks * CHUNK_SIZE;
    }
    for (let chunk = region.chunk; chunk < region.chunk + region.chunks; chunk++) {
      const window = this.memory.get(chunkAddress(chunk));
      if (window !== 0 && offset >= window && offset < window + CHUNK_SIZE) return true;
    }
    return false;
  }

  private loseRange(range: Range, why: string): void {
    range.watch?.[Symbol.dispose]();
    this.blank(range.window, range.bytes);
    range.onLost?.(why);
  }

  private loseRegion(region: Region, why: string): void {
    region.watch?.[Symbol.dispose]();
    if (region.base !== 0) this.blank(region.window, region.chunks * CHUNK_SIZE);
    else {
      lockPool(this.memory.i32);
      // Nothing of it is mapped any more, and what is mapped is empty.
      for (const source of region.sources) this.memory.set(source + RS_FD, -1);
      for (let chunk = region.chunk; chunk < region.chunk + region.chunks; chunk++) {
        const window = this.memory.get(chunkAddress(chunk));
        if (window !== 0) this.blank(window, CHUNK_SIZE);
      }
      unlockPool(this.memory.i32);
    }
    region.onLost?.(why);
  }

  private blank(window: number, bytes: number): void {
    mapAnonymous(this.memory.base + BigInt(window), bytes);
  }

  setRegions(
    port: number,
    regions: readonly { guestAddress: bigint; bytes: bigint; window: WindowRegion }[],
  ): void {
    if (regions.length > MAX_REGIONS_PER_PORT) {
      throw new Error(`${regions.length} memory regions, at most ${MAX_REGIONS_PER_PORT}`);
    }
    const first = port * MAX_REGIONS_PER_PORT;
    const { memory } = this;
    regions.forEach(({ guestAddress, bytes, window }, i) => {
      const region = window as Region;
      const at = regionAddress(first + i);
      setU64(memory, at + RG_GPA, guestAddress);
      setU64(memory, at + RG_BYTES, bytes);
      memory.set(at + RG_BASE, region.base);
      memory.set(at + RG_CHUNK, region.chunk);
      memory.set(at + RG_SKEW, region.skew);
      const source = regionSourceAddress(first + i);
      memory.set(source + RS_FD, region.fd);
      memory.set(source + RS_BLOCK, region.block);
      memory.set(source + RS_CHUNKS, region.base !== 0 ? 0 : region.chunks);
      if (!region.sources.includes(source)) region.sources.push(source);
    });
    memory.store(portAddress(port) + PT_REGIONS, first);
    memory.store(portAddress(port) + PT_REGION_COUNT, regions.length);
  }

  /** Maps `bytes` of a file over taken space; gives the space back if the file does not map. */
  private mapSpace(window: number, fd: number, start: bigint, bytes: number): void {
    try {
      const page = Math.max(blockSize(fd), PAGE_SIZE);
      mapFixed(this.memory.base + BigInt(window), fd, start, Math.ceil(bytes / page) * page);
    } catch (error) {
      this.unmapSpace(window);
      throw error;
    }
  }

  private takeChunks(bytes: number): number {
    return this.space.take(bytes, CHUNK_SIZE, Number(this.memory.base % BigInt(CHUNK_SIZE)));
  }

  private unmapSpace(window: number): void {
    const bytes = this.space.give(window);
    mapNone(this.memory.base + BigInt(window), bytes);
  }

  private needsPool(): boolean {
    for (const region of this.regions) if (region.base === 0) return true;
    return false;
  }

  // ---- the pool

  /** Window chunks free for faults. */
  poolSize(): number {
    return this.memory.load(WINDOW_POOL + WP_COUNT);
  }

  /** To be called now and then, and when a worker rings: fills the pool, by unmapping chunks if need be. */
  fillPool(): void {
    if (!this.needsPool()) return;
    const fresh: number[] = [];
    while (this.poolSize() + fresh.length < POOL_FULL && this.poolChunks.size < POOL_CHUNKS_MAX) {
      const window = this.takeChunks(CHUNK_SIZE);
      if (window < 0) break;
      this.poolChunks.add(window);
      fresh.push(window);
    }
    this.pushPool(fresh);
    // Where whole regions have left little, much of it has to be in use, or chunks would only come and go; but workers
    // that find none lose packets before this thread gets its turn.
    const low = Math.min(POOL_LOW, Math.floor(this.poolChunks.size * 0.4));
    const full = Math.min(POOL_FULL, Math.floor(this.poolChunks.size * 0.6));
    if (this.poolSize() < low) this.evict(full - this.poolSize());
  }

  /**
   * Takes chunks out of the chunk table that were not touched since the hand last passed (the clock algorithm), and
   * unmaps them when no worker can be using them.
   */
  private evict(wanted: number): void {
    if (this.evicting) return;
    const victims: number[] = [];
    const regions = [...this.regions].filter((region) => region.base === 0);
    const total = regions.reduce((sum, region) => sum + region.chunks, 0);
    for (let step = 0; step < total * 2 && victims.length < wanted; step++) {
      const chunk = chunkAt(regions, this.hand++ % total);
      if (this.memory.get(chunkAddress(chunk)) === 0) continue;
      if (this.memory.u8[CHUNK_TOUCHED + chunk] !== 0) {
        this.memory.u8[CHUNK_TOUCHED + chunk] = 0;
        continue;
      }
      victims.push(this.memory.get(chunkAddress(chunk)));
      this.memory.store(chunkAddress(chunk), 0);
    }
    if (victims.length === 0) return;
    this.evicting = true;
    this.grace.after(() => {
      this.evicting = false;
      this.refill(victims);
      if (!this.needsPool()) this.emptyPool();
    });
  }

  private refill(windows: readonly number[]): void {
    for (const window of windows) mapNone(this.memory.base + BigInt(window), CHUNK_SIZE);
    this.pushPool(windows);
  }

  private pushPool(windows: readonly number[]): void {
    if (windows.length === 0) return;
    const { memory } = this;
    lockPool(memory.i32);
    let count = memory.get(WINDOW_POOL + WP_COUNT);
    for (const window of windows) {
      if (count === WINDOW_POOL_MAX) break; // more than the window space has: cannot be
      memory.set(WINDOW_POOL + WP_CHUNKS + count * 4, window);
      count++;
    }
    memory.set(WINDOW_POOL + WP_COUNT, count);
    unlockPool(memory.i32);
  }

  private emptyPool(): void {
    // The victims are still to come back; a guest that comes before them will want all the others.
    if (this.evicting) return;
    lockPool(this.memory.i32);
    this.memory.set(WINDOW_POOL + WP_COUNT, 0);
    unlockPool(this.memory.i32);
    for (const window of this.poolChunks) this.space.give(window);
    this.poolChunks.clear();
  }
}

function chunkAt(regions: readonly Region[], index: number): number {
  let left = index;
  for (const region of regions) {
    if (left < region.chunks) return region.chunk + left;
    left -= region.chunks;
  }
  return regions[0]!.chunk;
}

/** Page size of the file: hugetlbfs tells it as the block size; others are used in ordinary pages. */
function blockSize(fd: number): number {
  const { blksize } = fstatSync(fd);
  return blksize >= CHUNK_SIZE ? blksize : PAGE_SIZE;
}

function setU64(memory: EngineMemory, address: number, value: bigint): void {
  memory.set(address, Number(value & 0xffffffffn));
  memory.set(address + 4, Number(value >> 32n));
}
