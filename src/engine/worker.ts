// A worker thread: its own instance of the data plane over the shared memory, and the host loop around it.
//
// A trap in the data plane costs the burst in which it happened, not the worker: the thread makes a new instance,
// gives the packets in hand back to their owner, and goes on. A queue that does it again and again is marked broken,
// which takes its port out of service (EngineOptions.onBrokenQueue).

import { parentPort, workerData } from 'node:worker_threads';
import { DROP_RX_BAD_DESC } from '../../contract/drop.ts';
import {
  INJECT_BASE,
  WK_CALL_COUNT,
  WK_CURRENT_RXQ,
  WK_FLUSH_COUNT,
  WK_STATE,
  WORKER_BASE,
  WORKER_SIZE,
} from '../../contract/memory.ts';
import { MAX_QUEUES, Q_BROKEN, Q_LOCK, queueAddress } from '../../contract/port.ts';
import {
  IN_LENGTH,
  INJECT_RING_SIZE,
  RING_DATA,
  RING_DATA_SIZE,
  RING_HEAD,
  RING_TAIL,
} from '../../contract/ring.ts';
import { acceptBusErrors } from '../sys/busError.ts';
import { SteadyClock } from '../sys/clock.ts';
import { eventfdSignal } from '../sys/eventfd.ts';
import { getTid, setThreadAffinity, setThreadName, setThreadSlice } from '../sys/process.ts';
import { dataPlaneImports } from './dataPlane.ts';
import { createFault } from './fault.ts';
import { HostIo } from './hostio.ts';
import { type DataPlane, HostLoop } from './hostLoop.ts';

export interface WorkerSettings {
  memory: WebAssembly.Memory;
  module: WebAssembly.Module;
  worker: number;
  core: number | undefined;
  bellFd: number;
  mainFd: number;
  /** process.hrtime() at the zero of the engine's clock. */
  originNs: bigint;
}

export interface WorkerMessage {
  level: 'warn' | 'err';
  text: string;
}
/** What a worker tells the main thread (a few times in its life): first of all, the number of its thread. */
export type WorkerReport = number | WorkerMessage;

/** Traps of one queue within TRAP_WINDOW_MS after which it is given up. */
const TRAPS_MAX = 3;
const TRAP_WINDOW_MS = 10_000;
const NO_QUEUE = 0xffffffff;
/** The shortest that there is: packets wait for a worker that was woken, and with the usual 3 ms somebody else might go on. */
const SLICE_NS = 100_000;

function main(settings: WorkerSettings): void {
  const { memory, module, worker, core, bellFd, mainFd, originNs } = settings;
  const words = new Int32Array(memory.buffer);
  const record = (WORKER_BASE + worker * WORKER_SIZE) >> 2;
  const report = (level: WorkerMessage['level'], text: string): void =>
    parentPort?.postMessage({ level, text } satisfies WorkerReport);
  parentPort?.postMessage(getTid() satisfies WorkerReport);
  acceptBusErrors();

  setThreadName(`xvio-pmd${worker}`);
  if (core !== undefined) {
    try {
      setThreadAffinity([core]);
    } catch (error) {
      report('warn', `worker ${worker}: core ${core}: ${(error as Error).message}`);
    }
  }

  try {
    setThreadSlice(SLICE_NS);
  } catch {
    // Under a real-time policy there is none, a container may forbid it: then packets wait a little longer behind others.
  }

  const clock = new SteadyClock(originNs);

  const fault = createFault(memory, () => eventfdSignal(mainFd));
  const instantiate = (): DataPlane =>
    new WebAssembly.Instance(module, dataPlaneImports(memory, fault))
      .exports as unknown as DataPlane;

  const io = new HostIo(memory, worker, clock);
  const loop = new HostLoop({ words, worker, bellFd, mainFd, io, clock });
  const traps = new Map<number, number[]>();
  for (;;) {
    const dataPlane = instantiate();
    dataPlane.start(worker, clock.readWhole(), clock.lowNs);
    try {
      loop.run(dataPlane);
      break;
    } catch (error) {
      if (!(error instanceof WebAssembly.RuntimeError)) throw error;
      recover(error);
    }
  }
  Atomics.store(words, record + (WK_STATE >> 2), 0);
  eventfdSignal(mainFd);

  function recover(error: Error): void {
    const queue = words[record + (WK_CURRENT_RXQ >> 2)]! >>> 0;
    // The lists may have been written only in part.
    words[record + (WK_CALL_COUNT >> 2)] = 0;
    words[record + (WK_FLUSH_COUNT >> 2)] = 0;
    // Transmit queues may have been locked (the lock holds the worker's number + 1).
    for (let q = 0; q < MAX_QUEUES; q++) {
      Atomics.compareExchange(words, (queueAddress(q) + Q_LOCK) >> 2, worker + 1, 0);
    }
    const where = queue === NO_QUEUE ? 'an injected packet' : `receive queue ${queue}`;
    report('err', `worker ${worker}: data plane trapped on ${where}: ${error.stack}`);
    if (queue === NO_QUEUE) {
      skipInjection();
      return;
    }
    let broken = false;
    try {
      const dataPlane = instantiate();
      dataPlane.start(worker, clock.readWhole(), clock.lowNs);
      dataPlane.abandon(queue);
    } catch {
      broken = true;
    }
    const now = clock.readWhole();
    const since = now - TRAP_WINDOW_MS * 1e6;
    const recent = (traps.get(queue) ?? []).filter((at) => at > since);
    recent.push(now);
    traps.set(queue, recent);
    if (broken || recent.length >= TRAPS_MAX) {
      Atomics.store(words, (queueAddress(queue) + Q_BROKEN) >> 2, DROP_RX_BAD_DESC);
    }
  }

  function skipInjection(): void {
    const ring = INJECT_BASE + worker * INJECT_RING_SIZE;
    const tail = words[(ring + RING_TAIL) >> 2]!;
    if (tail === Atomics.load(words, (ring + RING_HEAD) >> 2)) return;
    const at = ring + RING_DATA + (tail & (RING_DATA_SIZE - 1));
    Atomics.store(words, (ring + RING_TAIL) >> 2, (tail + words[(at + IN_LENGTH) >> 2]!) | 0);
  }
}

main(workerData as WorkerSettings);
