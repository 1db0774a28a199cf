// Generations: when no worker can meet an old state any more.
//
//   main thread                         worker, between two bursts
//   unlink; generation++  ----------->  acknowledged = generation
//   wait until acknowledged             (asleep and nothing injected: holds nothing, counts as acknowledged)
//   reuse what was unlinked
//
// An acknowledgement also says that all packets have been run that were injected before the generation was raised:
// they bring programs of their own, which may be those of before.
//
// One generation serves everything that was asked for in the same turn of the event loop. The order "publish the
// generation, then look at the states" here, and "publish the state, then look at the generation" in the worker,
// excludes that both miss each other.

import {
  CONTROL_BASE,
  CTL_GENERATION,
  INJECT_BASE,
  WK_ACK,
  WK_STATE,
  WORKER_BASE,
  WORKER_SIZE,
} from '../../contract/memory.ts';
import { INJECT_RING_SIZE, RING_HEAD, RING_TAIL } from '../../contract/ring.ts';
import type { EngineMemory } from './memory.ts';

interface Waiting {
  generation: number;
  callbacks: (() => void)[];
}

export class Grace {
  private readonly memory: EngineMemory;
  /** Numbers of the workers that run. */
  private readonly workers: () => readonly number[];
  private readonly waiting: Waiting[] = [];
  private next: (() => void)[] = [];

  constructor(memory: EngineMemory, workers: () => readonly number[]) {
    this.memory = memory;
    this.workers = workers;
  }

  /** Calls back when every worker has seen what is published now. Never synchronously. */
  after(callback: () => void): void {
    this.next.push(callback);
    if (this.next.length === 1) queueMicrotask(() => this.raise());
  }

  /** The generation, once it is acknowledged. */
  quiesce(): Promise<number> {
    return new Promise((resolve) => {
      this.after(() => resolve(this.memory.load(CONTROL_BASE + CTL_GENERATION)));
    });
  }

  private raise(): void {
    const callbacks = this.next;
    this.next = [];
    const generation = (this.memory.load(CONTROL_BASE + CTL_GENERATION) + 1) >>> 0;
    this.memory.store(CONTROL_BASE + CTL_GENERATION, generation);
    this.waiting.push({ generation, callbacks });
    this.check();
  }

  /** To be called when a worker has acknowledged, fallen asleep or gone. */
  check(): void {
    while (this.waiting.length > 0 && this.acknowledged(this.waiting[0]!.generation)) {
      for (const callback of this.waiting.shift()!.callbacks) callback();
    }
  }

  private acknowledged(generation: number): boolean {
    return this.workers().every((worker) => {
      const record = WORKER_BASE + worker * WORKER_SIZE;
      // What it has acknowledged counts even if it sleeps by now, with younger injections on their way: it would not
      // ring again for them.
      if (((this.memory.load(record + WK_ACK) - generation) | 0) >= 0) return true;
      return this.memory.load(record + WK_STATE) !== 1 && this.nothingInjected(worker);
    });
  }

  /** A worker that sleeps or starts takes injected packets up as soon as it has woken. */
  private nothingInjected(worker: number): boolean {
    const ring = INJECT_BASE + worker * INJECT_RING_SIZE;
    return this.memory.load(ring + RING_TAIL) === this.memory.load(ring + RING_HEAD);
  }
}
