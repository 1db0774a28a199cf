// Devices that have had nothing for long while their worker was busy with other queues: the main thread's event loop waits for
// them, so that the worker need not ask again and again by a system call that takes as long as a dozen packets.
//
//   FQ_WATCH   WATCH_NONE --worker, after long silence--> WATCH_WANTED --main--> WATCH_SET --main, readable--> WATCH_NONE
//                   ^----------- worker, if frames came all the same -------------'
//                                                        WATCH_WANTED --main, cannot be watched--> WATCH_NEVER
//
// The event loop is level-triggered: what came before it was asked to wait is reported at once, so nobody misses anything. A main
// thread that is busy is no excuse either: the worker still asks, though seldom (src/engine/hostio.ts). A worker that sleeps waits
// for its devices by itself.

import {
  FQ_FD,
  FQ_WATCH,
  WATCH_NEVER,
  WATCH_NONE,
  WATCH_SET,
  WATCH_WANTED,
} from '../../contract/frame.ts';
import { CONTROL_BASE, CTL_WATCHES_WANTED } from '../../contract/memory.ts';
import { Q_KIND, QUEUE_FRAME, queueAddress } from '../../contract/port.ts';
import { type Watcher, watchFd } from '../sys/poll.ts';
import type { EngineMemory } from './memory.ts';

export class SilentDevices {
  readonly #memory: EngineMemory;
  readonly #watchers = new Map<number, Watcher>();

  constructor(memory: EngineMemory) {
    this.#memory = memory;
  }

  /** Now and then: does a worker want any of these receive queues watched? */
  look(attached: Iterable<number>): void {
    const words = this.#memory.i32;
    if (Atomics.exchange(words, (CONTROL_BASE + CTL_WATCHES_WANTED) >> 2, 0) === 0) return;
    for (const queue of attached) {
      const record = queueAddress(queue);
      if (this.#memory.get(record + Q_KIND) !== QUEUE_FRAME) continue;
      const word = (record + FQ_WATCH) >> 2;
      const before = Atomics.compareExchange(words, word, WATCH_WANTED, WATCH_SET);
      if (before === WATCH_WANTED && !this.#watch(queue)) Atomics.store(words, word, WATCH_NEVER);
    }
  }

  #watch(queue: number): boolean {
    try {
      const watcher = this.#watchers.get(queue);
      if (watcher) watcher.want({ read: true });
      else {
        const fd = this.#memory.get(queueAddress(queue) + FQ_FD);
        this.#watchers.set(
          queue,
          watchFd(fd, { read: true }, ({ error }) => this.#ready(queue, error)),
        );
      }
      return true;
    } catch {
      this.forget(queue);
      return false;
    }
  }

  /** Whatever it has, it is the worker's again. */
  #ready(queue: number, error: number): void {
    const word = (queueAddress(queue) + FQ_WATCH) >> 2;
    const next = error === 0 ? WATCH_NONE : WATCH_NEVER;
    Atomics.compareExchange(this.#memory.i32, word, WATCH_SET, next);
    // Readable until the worker has read it: who goes on waiting would be called again and again.
    if (error === 0) this.#watchers.get(queue)?.want({});
    else this.forget(queue);
  }

  /** To be called before the descriptor of a queue may be closed. */
  forget(queue: number): void {
    // It may be attached again as it is.
    const word = (queueAddress(queue) + FQ_WATCH) >> 2;
    if (this.#memory.get(queueAddress(queue) + Q_KIND) === QUEUE_FRAME) {
      Atomics.compareExchange(this.#memory.i32, word, WATCH_SET, WATCH_NONE);
    }
    this.#watchers.get(queue)?.[Symbol.dispose]();
    this.#watchers.delete(queue);
  }

  close(): void {
    for (const queue of [...this.#watchers.keys()]) this.forget(queue);
  }
}
