// Thread of a guest: runs the fast driver (driver/index.ts) in a loop, writes kicks, sleeps when there is nothing to do.

import { workerData } from 'node:worker_threads';
import { eventfdSignal, eventfdTake } from '../sys/eventfd.ts';
import { POLLIN, pollRaw } from '../sys/fd.ts';
import { NativeBuffer } from '../sys/ffi.ts';
import * as L from './driver/layout.ts';
import type { ThreadData } from './thread.ts';

interface Driver {
  start(pair: number): void;
  poll(pair: number, nowMs: number): number;
  sleep(pair: number): number;
  wake(pair: number): void;
}

/** Polls without work before the thread sleeps. */
const IDLE_POLLS = 200;
/** A sender with a rate sleeps at most so long. */
const SEND_SLEEP_MS = 1;
const IDLE_SLEEP_MS = 1000;

async function run(data: ThreadData): Promise<void> {
  const { memory, module, pairs, kicks, calls, stopFd, stop, spin } = data;
  const view = new DataView(memory.buffer);
  const abort = (): never => {
    throw new Error('driver aborted');
  };
  const { instance } = await WebAssembly.instantiate(module as Uint8Array<ArrayBuffer>, {
    env: { memory, abort },
  });
  const driver = instance.exports as unknown as Driver;
  const fds = [stopFd, ...calls];
  const pollfds = new NativeBuffer(fds.length * 8);
  for (const [i, fd] of fds.entries()) {
    pollfds.view.setInt32(i * 8, fd, true);
    pollfds.view.setInt16(i * 8 + 4, POLLIN, true);
  }
  const kick = (): void => {
    for (let ring = 0; ring < pairs * 2; ring++) {
      const at = L.GUEST_RINGS + ring * L.GR_RECORD + L.GR_KICK;
      if (view.getUint32(at, true) === 0) continue;
      view.setUint32(at, 0, true);
      eventfdSignal(kicks[ring]!);
    }
  };
  const timeout = (): number => {
    for (let pair = 0; pair < pairs; pair++) {
      const mode = view.getUint32(L.GUEST_CONTROL + pair * L.GT_RECORD + L.GT_MODE, true);
      if ((mode & L.TRAFFIC_SEND) !== 0) return SEND_SLEEP_MS;
    }
    return IDLE_SLEEP_MS;
  };
  for (let pair = 0; pair < pairs; pair++) driver.start(pair);
  kick();
  let idle = 0;
  while (Atomics.load(stop, 0) === 0) {
    const now = performance.timeOrigin + performance.now();
    let work = 0;
    for (let pair = 0; pair < pairs; pair++) work += driver.poll(pair, now);
    kick();
    idle = work === 0 ? idle + 1 : 0;
    if (idle < IDLE_POLLS || spin) continue;
    let quiet = true;
    for (let pair = 0; pair < pairs; pair++) quiet = driver.sleep(pair) !== 0 && quiet;
    if (quiet && pollRaw(pollfds.address, fds.length, timeout()) > 0) {
      for (const fd of fds) eventfdTake(fd);
    }
    for (let pair = 0; pair < pairs; pair++) driver.wake(pair);
    // After a nap one look is enough to see whether it was worth waking up.
    idle = IDLE_POLLS - 1;
  }
}

await run(workerData as ThreadData);
