// The kernel's monotonic clock for threads that read it in every turn of a loop, without a single allocation.
//
// Any number that is no small integer costs 16 bytes on the heap, wherever code that has not been compiled yet hands it on: a
// worker that polls makes a megabyte of them every few milliseconds, and the scavenge that follows stops it for 70 to 140 µs.
// So outside WebAssembly only the low half of uv_hrtime() (nanoseconds, the same clock) is looked at: 32 bits, a small
// integer, from a C function without arguments (those with some cost memory, too: src/sys/ffi.ts). Whoever needs the time adds
// up what has passed, in a module (dataplane/worker.ts). Half a number overflows after 4.3 s, in which a process may
// have been stopped, so the whole time is read now and then.

import { c, check, NativeBuffer } from './ffi.ts';

const CLOCK_MONOTONIC = 1;
const NS_PER_S = 1_000_000_000;
/** The whole time is read every 2^27 ns: 134 ms. */
const ERA_BITS = 27;

export class SteadyClock {
  /** The low half of the time, signed, at the last look. Differences modulo 2^32 are nanoseconds. */
  lowNs = 0;
  private era = 0;
  private readonly spec = new NativeBuffer(16);
  /** seconds, their upper half, nanoseconds */
  private readonly words = new Uint32Array(this.spec.buffer);
  private readonly originS: number;
  private readonly originNs: number;

  /** `origin`: process.hrtime.bigint() at the zero of this clock. */
  constructor(origin: bigint) {
    this.originS = Number(origin / BigInt(NS_PER_S));
    this.originNs = Number(origin % BigInt(NS_PER_S));
  }

  /** Reads the low half. 50 ns. True: the whole time should be read as well. */
  look(): boolean {
    const low = c.uv_hrtime();
    this.lowNs = low;
    return low >>> ERA_BITS !== this.era;
  }

  /** Nanoseconds since the origin, at lowNs. A sum of looks since an earlier reading is never ahead of it. */
  readWhole(): number {
    check(c.clock_gettime(CLOCK_MONOTONIC, this.spec.address), 'clock_gettime');
    // In this order what passes between the calls is left out until next time: the clock never goes back.
    this.look();
    this.era = this.lowNs >>> ERA_BITS;
    const { words } = this;
    return (words[0]! - this.originS) * NS_PER_S + (words[2]! - this.originNs);
  }
}
