// Noticing that the file of a guest has shrunk under its mapping, before or after a worker has run into the hole.
//
// Where the file knows seals (memfd), shrinking is forbidden and that is all. Other files (tmpfs, hugetlbfs, a memfd made
// without seals) are watched: inotify tells of a truncation within a millisecond, a worker that has touched the hole
// waits for so long (src/sys/busError.ts). What has no event (a huge page pool that ran dry, files that we may not
// watch) is found by the rounds of housekeeping: sizes are compared, and a worker that has not polled since the last
// round is asked at which address it waits.

import { type FSWatcher, fstatSync, watch } from 'node:fs';
import { WK_POLLS, WK_STATE, WORKER_BASE, WORKER_SIZE } from '../../contract/memory.ts';
import { busErrorAddress } from '../sys/busError.ts';
import { addSeals, F_SEAL_SHRINK, getSeals } from '../sys/memory.ts';
import type { EngineMemory } from './memory.ts';

/** A file that changes all the time (somebody writes to it) is looked at as often as this, no more. */
const LOOK_AGAIN_MS = 20;
const RUNNING = 1;
/** Rounds of housekeeping (100 ms) without a poll after which a worker counts as stalled. */
const STALLED_ROUNDS = 50;

interface Watched {
  readonly fd: number;
  readonly bytes: bigint;
  readonly onShrunk: (sizeBytes: bigint) => void;
  watcher: FSWatcher | undefined;
  timer: NodeJS.Timeout | undefined;
  closed: boolean;
}

export class FileSizes {
  private readonly watched = new Set<Watched>();

  /**
   * Calls back, once and never synchronously, when the file has fewer than `bytes`. The descriptor must stay open until
   * the handle is disposed of.
   */
  watch(fd: number, bytes: bigint, onShrunk: (sizeBytes: bigint) => void): Disposable {
    try {
      addSeals(fd, F_SEAL_SHRINK);
    } catch {
      // knows no seals, or none can be added any more
    }
    const entry: Watched = {
      fd,
      bytes,
      onShrunk,
      watcher: undefined,
      timer: undefined,
      closed: (getSeals(fd) & F_SEAL_SHRINK) !== 0,
    };
    if (!entry.closed) {
      this.watched.add(entry);
      this.arm(entry);
      // It may have shrunk between the front-end's message and now.
      entry.timer = setTimeout(() => this.look(entry), 0).unref();
    }
    return { [Symbol.dispose]: () => this.end(entry) };
  }

  private arm(entry: Watched): void {
    try {
      const path = `/proc/self/fd/${entry.fd}`;
      entry.watcher = watch(path, { persistent: false }, () => this.changed(entry));
      entry.watcher.on('error', () => {});
    } catch {
      // No permission, or no inotify watches left: check() looks.
    }
  }

  private changed(entry: Watched): void {
    entry.watcher?.close();
    entry.watcher = undefined;
    this.look(entry);
    if (entry.closed) return;
    clearTimeout(entry.timer);
    entry.timer = setTimeout(() => {
      this.arm(entry);
      this.look(entry);
    }, LOOK_AGAIN_MS).unref();
  }

  private look(entry: Watched): void {
    if (entry.closed) return;
    const { size } = fstatSync(entry.fd, { bigint: true });
    if (size >= entry.bytes) return;
    this.end(entry);
    entry.onShrunk(size);
  }

  private end(entry: Watched): void {
    entry.closed = true;
    entry.watcher?.close();
    entry.watcher = undefined;
    clearTimeout(entry.timer);
    this.watched.delete(entry);
  }

  /** A round of housekeeping. */
  check(): void {
    for (const entry of [...this.watched]) this.look(entry);
  }
}

/** Finds workers that wait at an address that nothing is behind. */
export class StuckWorkers {
  private readonly memory: EngineMemory;
  private readonly polls = new Map<number, number>();
  /** Rounds in which a worker has not polled. */
  private readonly rounds = new Map<number, number>();

  constructor(memory: EngineMemory) {
    this.memory = memory;
  }

  /** Workers that have not polled for seconds, for whatever reason. */
  stalled(): number[] {
    return [...this.rounds].filter(([, rounds]) => rounds >= STALLED_ROUNDS).map(([id]) => id);
  }

  /** Offsets in the shared memory at which workers wait; `threads`: number and thread id of each worker. */
  *find(threads: Iterable<{ id: number; tid: number }>): Generator<number> {
    for (const { id, tid } of threads) {
      const record = WORKER_BASE + id * WORKER_SIZE;
      const polls = this.memory.f64[(record + WK_POLLS) >> 3]!;
      const stands =
        this.polls.get(id) === polls && this.memory.load(record + WK_STATE) === RUNNING;
      this.polls.set(id, polls);
      this.rounds.set(id, stands ? (this.rounds.get(id) ?? 0) + 1 : 0);
      if (!stands || tid === 0) continue;
      const address = busErrorAddress(tid);
      if (address === undefined) continue;
      const offset = address - this.memory.base;
      if (offset >= 0n && offset < 0x1_0000_0000n) yield Number(offset);
    }
  }
}
