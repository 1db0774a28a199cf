// Which worker polls which receive queue (in Open vSwitch: rxq scheduling). Automatic queues go to the worker with the
// fewest; a queue with an affinity goes to the worker of that core, if there is one.
//
// A queue is polled by one worker at a time: it leaves one list, every worker acknowledges, then it enters another.

import {
  MAX_QUEUES_PER_WORKER,
  WK_RXQ,
  WK_RXQ_COUNT,
  WORKER_BASE,
  WORKER_SIZE,
} from '../../contract/memory.ts';
import type { Grace } from './grace.ts';
import type { EngineMemory } from './memory.ts';
import type { Ports } from './ports.ts';

export interface RxWorker {
  id: number;
  core: number | undefined;
}

export class RxScheduler {
  private readonly memory: EngineMemory;
  private readonly grace: Grace;
  private readonly ports: Ports;
  private readonly wake: (worker: number) => void;
  /** Attached queue -> worker; -1 = none yet. */
  private readonly assigned = new Map<number, number>();
  private readonly affinity = new Map<string, number>();
  private workers: readonly RxWorker[] = [];
  /** other_config:pmd-rxq-isolate: a core with pinned queues polls no others. */
  private isolate = true;

  constructor(memory: EngineMemory, grace: Grace, ports: Ports, wake: (worker: number) => void) {
    this.memory = memory;
    this.grace = grace;
    this.ports = ports;
    this.wake = wake;
  }

  attach(queue: number): void {
    if (this.assigned.has(queue)) return;
    this.assigned.set(queue, -1);
    this.publishPort(queue);
    this.place(queue);
  }

  detach(queue: number): void {
    const worker = this.assigned.get(queue);
    if (worker === undefined) return;
    this.assigned.delete(queue);
    this.publishPort(queue);
    if (worker < 0) return;
    this.publish(worker);
    this.wake(worker); // or it would hold the queue's descriptor open in poll(2)
  }

  isAttached(queue: number): boolean {
    return this.assigned.has(queue);
  }

  attached(): Iterable<number> {
    return this.assigned.keys();
  }

  queuesOf(worker: number): number[] {
    return [...this.assigned].filter(([, owner]) => owner === worker).map(([queue]) => queue);
  }

  /** Worker that polls the first receive queue of a port, so that packets of a port stay with one worker. */
  workerOfPort(port: number): number {
    for (const [queue, worker] of this.assigned) {
      if (worker >= 0 && this.ports.portOf(queue) === port) return worker;
    }
    return this.workers[0]?.id ?? 0;
  }

  setAffinity(port: number, index: number, core: number | undefined): void {
    const name = `${port}:${index}`;
    if (this.affinity.get(name) === core) return;
    if (core === undefined) this.affinity.delete(name);
    else this.affinity.set(name, core);
    this.moveAll();
  }

  setIsolation(isolate: boolean): void {
    if (this.isolate === isolate) return;
    this.isolate = isolate;
    this.moveAll();
  }

  /** A core with pinned queues leaves the others to the rest. */
  isIsolated({ core }: RxWorker): boolean {
    if (!this.isolate || core === undefined) return false;
    for (const queue of this.assigned.keys()) if (this.pinOf(queue) === core) return true;
    return false;
  }

  private pinOf(queue: number): number | undefined {
    return this.affinity.get(`${this.ports.portOf(queue)}:${this.ports.indexOf(queue)}`);
  }

  private moveAll(): void {
    for (const queue of [...this.assigned.keys()]) void this.move(queue);
  }

  /** These workers run from now on. Resolves when no other worker has a queue any more. */
  async setWorkers(workers: readonly RxWorker[]): Promise<void> {
    this.workers = workers;
    const moves: Promise<void>[] = [];
    for (const [queue, worker] of this.assigned) {
      if (worker < 0) this.place(queue);
      else if (this.choose(queue, worker) !== worker) moves.push(this.move(queue));
    }
    await Promise.all(moves);
  }

  private async move(queue: number): Promise<void> {
    const old = this.assigned.get(queue);
    if (old === undefined || this.choose(queue, old) === old) return;
    this.assigned.set(queue, -1);
    if (old >= 0) {
      this.publish(old);
      await this.grace.quiesce();
    }
    if (this.assigned.get(queue) === -1) this.place(queue);
  }

  private place(queue: number): void {
    const worker = this.choose(queue, -1);
    if (worker < 0) return;
    this.assigned.set(queue, worker);
    this.publish(worker);
    this.wake(worker);
  }

  /** `current` keeps its queue unless it is gone or has over one queue more than the least loaded worker. */
  private choose(queue: number, current: number): number {
    const core = this.pinOf(queue);
    if (core !== undefined) {
      const pinned = this.workers.find((worker) => worker.core === core);
      if (pinned !== undefined) return pinned.id;
    }
    let best = -1;
    let fewest = MAX_QUEUES_PER_WORKER;
    const open = this.workers.filter((worker) => !this.isIsolated(worker));
    // Better a shared core than a queue that nobody polls.
    const candidates = open.length > 0 ? open : this.workers;
    for (const { id } of candidates) {
      const count = this.queuesOf(id).length;
      if (count < fewest) {
        best = id;
        fewest = count;
      }
    }
    const stays = candidates.some(({ id }) => id === current);
    return stays && this.queuesOf(current).length <= fewest + 1 ? current : best;
  }

  private publishPort(queue: number): void {
    const port = this.ports.portOf(queue);
    const queues = [...this.assigned.keys()].filter((other) => this.ports.portOf(other) === port);
    queues.sort((a, b) => this.ports.indexOf(a) - this.ports.indexOf(b));
    this.ports.setList(port, 'rx', queues);
  }

  private publish(worker: number): void {
    const record = WORKER_BASE + worker * WORKER_SIZE;
    const queues = this.queuesOf(worker);
    const shrinks = queues.length < this.memory.get(record + WK_RXQ_COUNT);
    if (shrinks) this.memory.store(record + WK_RXQ_COUNT, queues.length);
    queues.forEach((queue, i) => {
      this.memory.store(record + WK_RXQ + i * 4, queue);
    });
    if (!shrinks) this.memory.store(record + WK_RXQ_COUNT, queues.length);
    // The host loop looks at its list again when the generation changes.
    this.grace.after(() => {});
    // A worker that was on its way to sleep may have seen neither, if the list is as long as before: nobody rings for a
    // generation. This comes behind it.
    queueMicrotask(() => this.wake(worker));
  }
}
