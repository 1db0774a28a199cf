// The kernel's monotonic clock for threads that read it in every turn of a loop, without a single allocation.
//
// performance.now() gives a new number on the heap (16 bytes) with each call that the compiler does not inline: a worker that
// polls makes a megabyte of them every few milliseconds, and the scavenge that follows stops it for 70 to 140 µs. A number
// of 32 bits needs no memory: tick() asks for the low half of uv_hrtime() (nanoseconds, the same clock) and adds what has
// passed since; the sums are in a Float64Array. Half a number overflows after 4.3 s, in which a process may have been stopped, so the
// whole time is read now and then.

import { c, check, NativeBuffer } from './ffi.ts';

const CLOCK_MONOTONIC = 1;
/** Ticks after which the whole time is read: a part of a second in any loop. */
const EXACT_TICKS = 4096;
const NS_PER_S = 1_000_000_000;

export class SteadyClock {
  /** [0]: nanoseconds since the origin at the last tick. The same array for ever: whoever needs the time often keeps it. */
  readonly time = new Float64Array(1);
  /** [0]: the time that was read as a whole; [1]: what has passed since. */
  private readonly sums = new Float64Array(2);
  private readonly spec = new NativeBuffer(16);
  /** seconds, their upper half, nanoseconds */
  private readonly words = new Uint32Array(this.spec.buffer);
  private readonly originS: number;
  private readonly originNs: number;
  private low = 0;
  private left = 0;

  /** `origin`: process.hrtime.bigint() at the zero of this clock. */
  constructor(origin: bigint) {
    this.originS = Number(origin / BigInt(NS_PER_S));
    this.originNs = Number(origin % BigInt(NS_PER_S));
    this.readWhole();
  }

  /** Reads the clock. 50 ns. */
  tick(): void {
    if (--this.left <= 0) {
      this.readWhole();
      return;
    }
    const low = c.uv_hrtime();
    const { sums } = this;
    sums[1]! += (low - this.low) >>> 0;
    this.low = low;
    this.time[0] = sums[0]! + sums[1]!;
  }

  /** After a time that may have been longer than four seconds. */
  readWhole(): void {
    this.left = EXACT_TICKS;
    check(c.clock_gettime(CLOCK_MONOTONIC, this.spec.address), 'clock_gettime');
    // In this order what passes between the calls is left out until next time: the clock never goes back.
    this.low = c.uv_hrtime();
    const { sums, words } = this;
    sums[0] = (words[0]! - this.originS) * NS_PER_S + (words[2]! - this.originNs);
    sums[1] = 0;
    this.time[0] = sums[0]!;
  }
}
