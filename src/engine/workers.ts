// The worker threads: starting, stopping, ringing their bells, and bringing one back whose thread has died.

import { Worker } from 'node:worker_threads';
import {
  CACHE_BASE,
  CACHE_SIZE,
  INJECT_BASE,
  MAX_WORKERS,
  WK_STATE,
  WK_STOP,
  WORKER_BASE,
  WORKER_SIZE,
} from '../../contract/memory.ts';
import { INJECT_RING_SIZE, RING_HEAD, RING_TAIL } from '../../contract/ring.ts';
import { CACHE_BUCKET_SIZE, CACHE_BUCKETS } from '../../contract/table.ts';
import { eventfdCreate, eventfdSignal } from '../sys/eventfd.ts';
import { closeFd } from '../sys/fd.ts';
import type { EngineMemory } from './memory.ts';
import type { WorkerReport, WorkerSettings } from './worker.ts';

interface Running {
  readonly id: number;
  readonly core: number | undefined;
  readonly bellFd: number;
  /** Of the kernel; 0 = it has not told yet. */
  tid: number;
  thread: Worker;
  stopping: boolean;
  exited: Promise<void>;
}

export interface WorkersOptions {
  memory: EngineMemory;
  module: WebAssembly.Module;
  mainFd: number;
  originNs: bigint;
  log: (level: 'info' | 'warn' | 'err', text: string) => void;
  /** A worker has gone or come back: look at what it may have acknowledged. */
  onChange: () => void;
}

const RESTART_DELAY_MS = 100;

export class Workers {
  private readonly options: WorkersOptions;
  private readonly running = new Map<number, Running>();
  /** One more than the highest number ever used. */
  seen = 0;

  constructor(options: WorkersOptions) {
    this.options = options;
  }

  /** Numbers of the workers that hold generations back. */
  ids(): number[] {
    return [...this.running.keys()];
  }

  list(): { id: number; core: number | undefined }[] {
    return [...this.running.values()]
      .filter((worker) => !worker.stopping)
      .map(({ id, core }) => ({ id, core }));
  }

  /** Numbers of the kernel's threads of the workers. */
  threads(): { id: number; tid: number }[] {
    return [...this.running.values()].map(({ id, tid }) => ({ id, tid }));
  }

  /** Whether packets may be injected into this worker: it runs, and will go on. */
  takes(id: number): boolean {
    return this.running.get(id)?.stopping === false;
  }

  /** Starts a worker on a core (undefined = not pinned) and returns its number. */
  start(core: number | undefined): number {
    let id = 0;
    while (this.running.has(id)) id++;
    if (id >= MAX_WORKERS) throw new Error(`no more than ${MAX_WORKERS} workers`);
    const { memory } = this.options;
    const record = WORKER_BASE + id * WORKER_SIZE;
    memory.u8.fill(0, record, record + WORKER_SIZE);
    const cache = CACHE_BASE + id * CACHE_SIZE;
    memory.u8.fill(0, cache, cache + CACHE_BUCKETS * CACHE_BUCKET_SIZE);
    // What was injected into a worker of this number that has been stopped is lost with it.
    const ring = INJECT_BASE + id * INJECT_RING_SIZE;
    memory.store(ring + RING_TAIL, memory.get(ring + RING_HEAD));
    const bellFd = eventfdCreate();
    const worker: Running = {
      id,
      core,
      bellFd,
      tid: 0,
      thread: this.spawn(id, core, bellFd),
      stopping: false,
      exited: Promise.resolve(),
    };
    this.running.set(id, worker);
    this.seen = Math.max(this.seen, id + 1);
    this.watch(worker);
    return id;
  }

  private spawn(id: number, core: number | undefined, bellFd: number): Worker {
    const { memory, module, mainFd, originNs } = this.options;
    const settings: WorkerSettings = {
      memory: memory.memory,
      module,
      worker: id,
      core,
      bellFd,
      mainFd,
      originNs,
    };
    return new Worker(new URL('./worker.ts', import.meta.url), {
      workerData: settings,
      name: `xvio-pmd${id}`,
    });
  }

  private watch(worker: Running): void {
    const { log, memory, onChange } = this.options;
    const { id, thread } = worker;
    worker.tid = 0;
    thread.on('message', (report: WorkerReport) => {
      if (typeof report === 'number') worker.tid = report;
      else log(report.level, report.text);
    });
    thread.on('error', (error) =>
      log('err', `worker ${id} died: ${error instanceof Error ? error.stack : error}`),
    );
    worker.exited = new Promise((resolve) => {
      thread.once('exit', () => {
        memory.store(WORKER_BASE + id * WORKER_SIZE + WK_STATE, 0);
        worker.tid = 0;
        resolve();
        onChange();
        if (!worker.stopping) setTimeout(() => this.restart(worker), RESTART_DELAY_MS);
      });
    });
  }

  private restart(worker: Running): void {
    if (worker.stopping || this.running.get(worker.id) !== worker) return;
    this.options.log('warn', `worker ${worker.id} restarted`);
    worker.thread = this.spawn(worker.id, worker.core, worker.bellFd);
    this.watch(worker);
  }

  /** Wakes a worker that sleeps. */
  wake(id: number): void {
    const worker = this.running.get(id);
    if (worker === undefined) return;
    const state = this.options.memory.load(WORKER_BASE + id * WORKER_SIZE + WK_STATE);
    if (state === 2) eventfdSignal(worker.bellFd);
  }

  /** Stops a worker that has no queues any more; resolves when its thread has ended. */
  async stop(id: number): Promise<void> {
    const worker = this.running.get(id);
    if (worker === undefined) return;
    worker.stopping = true;
    this.options.memory.store(WORKER_BASE + id * WORKER_SIZE + WK_STOP, 1);
    eventfdSignal(worker.bellFd);
    await worker.exited;
    this.running.delete(id);
    closeFd(worker.bellFd);
    this.options.onChange();
  }
}
