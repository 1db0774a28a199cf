// The host loop of a worker with one queue whose device has nothing, in the caller's thread: what a turn costs in memory.
// `node <flags of V8> test/net/silentLoop.ts <milliseconds>` runs it once, in a fresh process, and prints what it found. The
// heap has to have room for all of that (--min-semi-space-size=64).

import { getHeapSpaceStatistics } from 'node:v8';
import { Worker } from 'node:worker_threads';
import { FQ_ENTRIES, FQ_EPOCH, FQ_FD, FQ_STYLE, FRAME_TAP } from '../../contract/frame.ts';
import {
  CONTROL_BASE,
  CTL_PATIENCE_US,
  WK_ACK,
  WK_POLLS,
  WK_RXQ,
  WK_RXQ_COUNT,
  WK_STOP,
  WORKER_BASE,
} from '../../contract/memory.ts';
import { Q_KIND, QUEUE_FRAME, queueAddress } from '../../contract/port.ts';
import { dataPlaneImports, loadDataPlane } from '../../src/engine/dataPlane.ts';
import { HostIo } from '../../src/engine/hostio.ts';
import { type DataPlane, HostLoop } from '../../src/engine/hostLoop.ts';
import { SteadyClock } from '../../src/sys/clock.ts';
import { eventfdCreate } from '../../src/sys/eventfd.ts';
import { closeFd } from '../../src/sys/fd.ts';

export interface Turns {
  turns: number;
  /** Growth of the young generation. (The sum of all that was allocated has compiled code in it, and unused rests.) */
  bytes: number;
}

function youngBytes(): number {
  return getHeapSpaceStatistics().find((space) => space.space_name === 'new_space')!
    .space_used_size;
}

export class SilentLoop {
  private readonly memory = new WebAssembly.Memory({
    initial: 65536,
    maximum: 65536,
    shared: true,
  });
  private readonly words = new Int32Array(this.memory.buffer);
  private readonly stats = new Float64Array(this.memory.buffer);
  private readonly fds = [eventfdCreate(), eventfdCreate(), eventfdCreate()] as const;
  private readonly dataPlane: DataPlane;
  private readonly loop: HostLoop;
  private readonly stopper: Worker;

  /** Each run ends after so long. */
  constructor(runMs: number) {
    const { memory, words } = this;
    const [silentFd, bellFd, mainFd] = this.fds;
    // Reads say "try again". The generation is another one, so that the loop looks at its queues.
    const queue = queueAddress(1);
    this.set(queue + Q_KIND, QUEUE_FRAME);
    this.set(queue + FQ_FD, silentFd);
    this.set(queue + FQ_STYLE, FRAME_TAP);
    this.set(queue + FQ_ENTRIES, 64);
    this.set(queue + FQ_EPOCH, 1);
    this.set(WORKER_BASE + WK_RXQ_COUNT, 1);
    this.set(WORKER_BASE + WK_RXQ, 1);
    this.set(WORKER_BASE + WK_ACK, 7);
    this.set(CONTROL_BASE, 7);
    this.set(CONTROL_BASE + CTL_PATIENCE_US, 1e9);
    const imports = dataPlaneImports(memory, () => 0);
    const { exports } = new WebAssembly.Instance(loadDataPlane(), imports);
    this.dataPlane = exports as unknown as DataPlane;
    const clock = new SteadyClock(process.hrtime.bigint());
    const io = new HostIo(memory, 0, clock);
    this.loop = new HostLoop({ words, worker: 0, bellFd, mainFd, io, clock });
    this.dataPlane.start(0, clock.readWhole(), clock.lowNs);
    this.stopper = new Worker(
      `const { workerData: { memory, at, runMs } } = require('node:worker_threads');
       const words = new Int32Array(memory.buffer);
       setInterval(() => Atomics.store(words, at, 1), runMs);`,
      { eval: true, workerData: { memory, at: (WORKER_BASE + WK_STOP) >> 2, runMs } },
    );
  }

  private set(address: number, value: number): void {
    this.words[address >> 2] = value;
  }

  run(): Turns {
    this.set(WORKER_BASE + WK_STOP, 0);
    const polls = this.stats[(WORKER_BASE + WK_POLLS) >> 3]!;
    const before = youngBytes();
    this.loop.run(this.dataPlane);
    const bytes = youngBytes() - before;
    return { turns: this.stats[(WORKER_BASE + WK_POLLS) >> 3]! - polls, bytes };
  }

  async close(): Promise<void> {
    await this.stopper.terminate();
    for (const fd of this.fds) closeFd(fd);
  }
}

if (process.argv[1] === import.meta.filename) {
  const loop = new SilentLoop(Number(process.argv[2]));
  console.log(JSON.stringify(loop.run()));
  await loop.close();
}
