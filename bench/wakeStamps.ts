// Loaded into each thread of a daemon (--import) by bench/firstPacketStages.ts: notes when a worker woke, when its first breath
// behind that began and ended, and what it had done before. What it writes, it writes when the worker is about to sleep again.

import { appendFileSync } from 'node:fs';
import type { DataPlane } from '../src/engine/hostLoop.ts';
import { c } from '../src/sys/ffi.ts';
import { wrapDataPlane } from './preload.ts';

/** Of one time that a worker woke and found packets; nanoseconds of process.hrtime. */
export interface WakeStamps {
  /** poll(2) has returned. */
  wokenNs: number;
  /** wakeUp(): the clock is read. */
  knownNs: number;
  /** poll(): the breath that has met the first packet. */
  breathNs: number;
  breathEndNs: number;
}

export const STAMPS_FILE = 'XVIO_BENCH_STAMPS';

const now = (): number => Number(process.hrtime.bigint());

function stamped(plane: DataPlane, file: string): DataPlane {
  const poll = c.poll;
  let wokenNs = 0;
  const noted = (...args: Parameters<typeof poll>): number => {
    const result = poll(...args);
    wokenNs = now();
    return result;
  };
  Object.assign(c, { poll: noted });
  let awake = false;
  let stamps: WakeStamps | undefined;
  return {
    ...plane,
    poll(lowNs) {
      if (!awake) return plane.poll(lowNs);
      const breathNs = now();
      const packets = plane.poll(lowNs);
      if (packets > 0 && stamps) {
        stamps.breathNs = breathNs;
        stamps.breathEndNs = now();
        awake = false;
      }
      return packets;
    },
    sleep() {
      if (stamps && stamps.breathNs > 0) appendFileSync(file, `${JSON.stringify(stamps)}\n`);
      stamps = undefined;
      awake = false;
      return plane.sleep();
    },
    wakeUp(lowNs) {
      stamps = { wokenNs, knownNs: now(), breathNs: 0, breathEndNs: 0 };
      awake = true;
      plane.wakeUp(lowNs);
    },
  };
}

wrapDataPlane(STAMPS_FILE, stamped);
