// Thread of the generator: drives the rings of several guests on one core, for the time of one trial, without ever
// giving the core away. It takes the time itself, so that a main thread that gets no core does not matter.

import { readFileSync } from 'node:fs';
import { parentPort, workerData } from 'node:worker_threads';
import {
  GR_KICK,
  GR_RECORD,
  GT_OURS,
  GUEST_CONTROL,
  GUEST_RINGS,
} from '../../src/guest/driver/layout.ts';
import { SteadyClock } from '../../src/sys/clock.ts';
import { eventfdSignal } from '../../src/sys/eventfd.ts';
import { setRealtime, setThreadAffinity } from '../../src/sys/process.ts';

export interface GeneratorData {
  guests: { memory: WebAssembly.Memory; kicks: readonly number[] }[];
  module: Uint8Array;
  core: number;
}

export interface Trial {
  durationMs: number;
  /** Traffic runs before the counters are reset. */
  warmUpMs: number;
  /** After the end, to let packets on their way arrive. */
  drainMs: number;
  /** Threads of the switch that run ahead of other processes during the trial, as this one does. */
  boost: readonly number[];
  /** Whether this thread does, too (default). */
  boostGenerator?: boolean;
  /** Threads whose time on a core is counted, from the end of the warm-up to the end of the trial. */
  watch?: readonly number[];
}

/** When, of process.hrtime, in nanoseconds. */
export interface FirstPacket {
  /** It is about to be made. */
  madeNs: number;
  /** It is in the ring. */
  sentNs: number;
  /** The switch has been told. */
  kickedNs: number;
  /** It is in the other guest's ring. */
  seenNs: number;
  error?: string;
}

export interface TrialResult {
  elapsedMs: number;
  /** Longest time between two looks at the rings: what the machine took away from us. */
  longestGapMs: number;
  /** Of the threads that were watched, together. */
  watchedNs: number;
  /** Frames that have arrived in all trials so far, and in their warm-ups. */
  receivedInAll: number;
  error?: string;
}

interface Driver {
  tick(lowNs: number): void;
  start(pair: number): void;
  prepare(pair: number): number;
  reset(pair: number): void;
  send(pair: number): number;
  receive(pair: number): number;
}

const PRIORITY = 10;
const NOTHING: TrialResult = { elapsedMs: 0, longestGapMs: 0, watchedNs: 0, receivedInAll: 0 };
const { guests, module, core } = workerData as GeneratorData;
const drivers: Driver[] = [];
const words = guests.map(({ memory }) => new Uint32Array(memory.buffer));
const received = guests.map(({ memory }) => new Float64Array(memory.buffer, GUEST_CONTROL, 32));
/** Of those counted before the last reset. */
let receivedBefore = 0;
const clock = new SteadyClock(process.hrtime.bigint());

// Like a worker of the switch, this thread must not allocate while it spins: no iterators, no numbers but small integers. Times
// are the low half of the clock in units of 64 ns, without a sign; differences are taken modulo TIME_MASK + 1.
const TIME_SHIFT = 6;
const TIME_MASK = 0x3ffffff;
const UNITS_PER_MS = 1e6 / 64;

/** Tells all drivers the time, and returns it. */
function look(): number {
  clock.look();
  for (let i = 0; i < drivers.length; i++) drivers[i]!.tick(clock.lowNs);
  return clock.lowNs >>> TIME_SHIFT;
}

function kick(): void {
  for (let i = 0; i < guests.length; i++) {
    const { kicks } = guests[i]!;
    const own = words[i]!;
    for (let ring = 0; ring < kicks.length; ring++) {
      const at = (GUEST_RINGS + ring * GR_RECORD + GR_KICK) >> 2;
      if (own[at] === 0) continue;
      own[at] = 0;
      eventfdSignal(kicks[ring]!);
    }
  }
}

/** Looks at all rings for a time. Returns the longest time between two looks. */
function spin(durationMs: number, sending: boolean): number {
  let last = look();
  const end = Math.round(durationMs * UNITS_PER_MS);
  let elapsed = 0;
  let longest = 0;
  const n = drivers.length;
  for (;;) {
    const now = look();
    const passed = (now - last) & TIME_MASK;
    last = now;
    if (passed > longest) longest = passed;
    elapsed += passed;
    if (elapsed >= end) return longest / UNITS_PER_MS;
    for (let i = 0; i < n; i++) drivers[i]!.receive(0);
    if (sending) for (let i = 0; i < n; i++) drivers[i]!.send(0);
    kick();
  }
}

/** Since the last reset. */
const receivedNow = (): number =>
  received.reduce((sum, counters) => sum + counters[GT_OURS >> 3]!, 0);

/** Nanoseconds on a core so far (schedstat). A thread is found by its own number, whatever its process. */
function usedNs(tids: readonly number[]): number {
  return tids.reduce((sum, tid) => {
    try {
      return sum + Number(readFileSync(`/proc/${tid}/schedstat`, 'utf8').split(' ')[0]);
    } catch {
      return sum; // The thread has ended.
    }
  }, 0);
}

function trial({
  durationMs,
  warmUpMs,
  drainMs,
  boost,
  boostGenerator = true,
  watch = [],
}: Trial): TrialResult {
  const boosted: number[] = [];
  try {
    for (const tid of boostGenerator ? [...boost, 0] : boost) {
      try {
        if (boost.length > 0) setRealtime(tid, PRIORITY);
        boosted.push(tid);
      } catch {
        // Without the right to do so the trial is noisier, not wrong.
      }
    }
    for (const driver of drivers) {
      const until = performance.now() + 20_000;
      while (driver.prepare(0) === 0) {
        if (performance.now() > until) return { ...NOTHING, error: 'the switch keeps packets' };
        look();
        for (const other of drivers) other.receive(0);
      }
    }
    spin(warmUpMs, true);
    receivedBefore += receivedNow();
    for (const driver of drivers) driver.reset(0);
    const usedBefore = usedNs(watch);
    const from = performance.now();
    const longestGapMs = spin(durationMs, true);
    const elapsedMs = performance.now() - from;
    const watchedNs = usedNs(watch) - usedBefore;
    const drainGapMs = drainMs > 0 ? spin(drainMs, false) : 0;
    const receivedInAll = receivedBefore + receivedNow();
    return {
      elapsedMs,
      longestGapMs: Math.max(longestGapMs, drainGapMs),
      watchedNs,
      receivedInAll,
    };
  } finally {
    if (boost.length > 0) for (const tid of boosted) setRealtime(tid, 0);
  }
}

const FIRST_PACKET_MS = 1000;

/** Sends one packet, as soon as the rate of a stream allows one, and waits for it. */
function firstPacket(): FirstPacket {
  for (const driver of drivers) driver.reset(0);
  const now = () => Number(process.hrtime.bigint());
  const stamps: FirstPacket = { madeNs: now(), sentNs: 0, kickedNs: 0, seenNs: 0 };
  const until = stamps.madeNs + FIRST_PACKET_MS * 1e6;
  while (stamps.sentNs === 0) {
    look();
    stamps.madeNs = now();
    for (const driver of drivers) {
      if (driver.send(0) > 0) stamps.sentNs = now();
    }
    if (stamps.madeNs > until) return { ...stamps, error: 'nothing to send' };
  }
  kick();
  stamps.kickedNs = now();
  while (receivedNow() === 0) {
    look();
    for (const driver of drivers) driver.receive(0);
    stamps.seenNs = now();
    if (stamps.seenNs > until) return { ...stamps, error: 'it has not arrived' };
  }
  return stamps;
}

async function main(): Promise<void> {
  setThreadAffinity([core]);
  const abort = (): never => {
    throw new Error('driver aborted');
  };
  for (const { memory } of guests) {
    const { instance } = await WebAssembly.instantiate(module as Uint8Array<ArrayBuffer>, {
      env: { memory, abort },
    });
    const driver = instance.exports as unknown as Driver;
    drivers.push(driver);
    driver.start(0);
  }
  kick();
  parentPort!.on('message', (message: Trial | 'first packet' | 'stop') => {
    if (message === 'stop') {
      parentPort!.close();
      return;
    }
    try {
      parentPort!.postMessage(message === 'first packet' ? firstPacket() : trial(message));
    } catch (error) {
      parentPort!.postMessage({ ...NOTHING, error: String(error) });
    }
  });
  parentPort!.postMessage('ready');
}

await main();
