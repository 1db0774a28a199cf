// The guest memory of one port: windows on the front-end's files, and contiguous addresses for rings and the log.
//
// The table changes in two steps, so that a failure changes nothing: prepare() maps what is new, then, with the workers
// out of the way, commit() makes it the table and finish() unmaps what is gone.

import type { Engine, MemoryLost, WindowRegion } from '../../engine/types.ts';
import type { Location } from './regions.ts';
import type { DirtyLog, Region } from './state.ts';

export class GuestMemory {
  readonly #engine: Engine;
  readonly #port: number;
  readonly #onLost: MemoryLost;
  #windows = new Map<Region, WindowRegion>();
  #prepared = new Map<Region, WindowRegion>();
  #logAddress = 0;
  #log: DirtyLog | undefined;
  #garbage: (() => void)[] = [];

  /** `onLost`: pages of the guest's files have gone; what is mapped there now is empty. */
  constructor(engine: Engine, port: number, onLost: MemoryLost) {
    this.#engine = engine;
    this.#port = port;
    this.#onLost = onLost;
  }

  /** Maps the regions that are not mapped yet. Throws SysError, and then has changed nothing. */
  prepare(regions: readonly Region[]): void {
    try {
      for (const region of regions) {
        if (this.#windows.has(region)) continue;
        const window = this.#engine.windows.mapRegion(
          region.file.fd,
          region.mmapOffset,
          region.size,
          this.#onLost,
        );
        this.#prepared.set(region, window);
      }
    } catch (thrown) {
      this.abandon();
      throw thrown;
    }
  }

  /** Undoes prepare(). */
  abandon(): void {
    for (const window of this.#prepared.values()) this.#engine.windows.unmapRegion(window);
    this.#prepared.clear();
  }

  /** Puts the prepared table in force. Rings must be stopped unless it only grows at the end. */
  commit(regions: readonly Region[]): void {
    const windows = new Map<Region, WindowRegion>();
    for (const region of regions) {
      windows.set(region, this.#windows.get(region) ?? this.#prepared.get(region)!);
    }
    for (const [region, window] of this.#windows) {
      if (!windows.has(region)) this.#garbage.push(() => this.#engine.windows.unmapRegion(window));
    }
    this.#prepared.clear();
    this.#windows = windows;
    this.#engine.windows.setRegions(
      this.#port,
      [...windows].map(([region, window]) => ({
        guestAddress: region.guestAddress,
        bytes: region.size,
        window,
      })),
    );
  }

  /** Maps another dirty log, or none. The old one goes with finish(). Throws SysError and keeps the old one. */
  setLog(log: DirtyLog | undefined): void {
    if (log === this.#log) return;
    const address =
      log === undefined
        ? 0
        : this.#engine.windows.mapRange(log.file.fd, log.offset, Number(log.size), this.#onLost);
    const old = this.#logAddress;
    if (old !== 0) this.#garbage.push(() => this.#engine.windows.unmapRange(old));
    this.#log = log;
    this.#logAddress = address;
  }

  /** Memory offset of the log, 0 = none. */
  get logAddress(): number {
    return this.#logAddress;
  }
  get logBytes(): number {
    return Number(this.#log?.size ?? 0n);
  }

  /** Unmaps what commit() and setLog() took out of use: only after the workers have let go. */
  finish(): void {
    for (const drop of this.#garbage) drop();
    this.#garbage = [];
  }

  /**
   * A contiguous address of a piece of guest memory, for good: inside the window if its region is mapped whole, else
   * a mapping of its own. Throws SysError.
   */
  pin(regions: readonly Region[], where: Location): { address: number; unpin: () => void } {
    const region = regions[where.region]!;
    const window = this.#windows.get(region)!;
    if (window.base !== 0) {
      return { address: window.base + Number(where.offset), unpin: () => {} };
    }
    const address = this.#engine.windows.mapRange(
      region.file.fd,
      region.mmapOffset + where.offset,
      Number(where.size),
      this.#onLost,
    );
    return { address, unpin: () => this.#engine.windows.unmapRange(address) };
  }
}
