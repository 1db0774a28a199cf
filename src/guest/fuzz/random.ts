// Random numbers that come again with the same seed (mulberry32), and the values that break programs.

export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  u32(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(this.#state ^ (this.#state >>> 15), this.#state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (t ^ (t >>> 14)) >>> 0;
  }

  /** 0 … n-1. */
  below(n: number): number {
    return this.u32() % n;
  }

  /** True one time in `n`. */
  once(n: number): boolean {
    return this.below(n) === 0;
  }

  pick<T>(from: readonly T[]): T {
    return from[this.below(from.length)]!;
  }

  bytes(length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    for (let i = 0; i < length; i++) bytes[i] = this.u32();
    return bytes;
  }

  u64(): bigint {
    return (BigInt(this.u32()) << 32n) | BigInt(this.u32());
  }

  /** A length: mostly near something that matters. */
  length(): number {
    return this.once(4) ? this.u32() : this.pick(LENGTHS) >>> 0;
  }

  /** An address: inside, at the edges, outside, or wrapping, of memory of `size` bytes. */
  address(size: number): bigint {
    const end = BigInt(size);
    switch (this.below(8)) {
      case 0:
        return 0n;
      case 1:
        return end - BigInt(this.below(64));
      case 2:
        return end + BigInt(this.below(4096));
      case 3:
        return (1n << 64n) - BigInt(this.below(4096));
      case 4:
        return this.u64();
      case 5:
        return BigInt(this.pick([0x7fffffff, 0x80000000, 0xffffffff, 0x70000000]));
      default:
        return BigInt(this.below(size));
    }
  }
}

const LENGTHS = [
  0, 1, 9, 10, 11, 12, 13, 14, 15, 16, 17, 25, 26, 59, 60, 64, 72, 256, 267, 268, 269, 1514, 1526,
  2048, 4096, 9000, 65535, 65536, 65547, 65548, 65562, 0x100000, 0x7fffffff, 0x80000000, 0xffffffff,
];
