// Cursor over the bytes of an OpenFlow message, and its counterpart for writing. Everything on the wire is big-endian.
// Reading beyond the end throws OfError with the code the reader was made with (OFPBRC_BAD_LEN for messages,
// OFPBMC_BAD_LEN inside a match, OFPBAC_BAD_LEN inside an action …), so that decoders need no length checks of their own.

import { OfError } from './types.ts';

const ALL_ONES = 0xffffffffffffffffn;

export class Reader {
  readonly bytes: Uint8Array;
  #view: DataView | undefined;
  readonly end: number;
  readonly shortCode: string;
  offset: number;

  /** Reads bytes[offset, end). */
  constructor(bytes: Uint8Array, shortCode = 'OFPBRC_BAD_LEN', offset = 0, end = bytes.length) {
    this.bytes = bytes;
    this.shortCode = shortCode;
    this.offset = offset;
    this.end = end;
  }

  /** Of all bytes. Made when it is asked for: most readers of parts never need it. */
  get view(): DataView {
    const { bytes } = this;
    this.#view ??= new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    return this.#view;
  }

  get left(): number {
    return this.end - this.offset;
  }

  /** Moves on by n bytes, returns where they start. */
  take(n: number): number {
    const at = this.offset;
    if (n < 0 || n > this.end - at) throw new OfError(this.shortCode);
    this.offset = at + n;
    return at;
  }

  u8(): number {
    return this.bytes[this.take(1)]!;
  }

  u16(): number {
    const at = this.take(2);
    return (this.bytes[at]! << 8) | this.bytes[at + 1]!;
  }

  u32(): number {
    return this.#u32At(this.take(4));
  }

  u64(): bigint {
    const at = this.take(8);
    const high = this.#u32At(at);
    const low = this.#u32At(at + 4);
    // The usual values without a bigint of their own: they would stay as long as a flow.
    if (high === 0 && low === 0) return 0n;
    if (high === 0xffffffff && low === 0xffffffff) return ALL_ONES;
    return (BigInt(high) << 32n) | BigInt(low);
  }

  #u32At(at: number): number {
    const { bytes } = this;
    return (
      ((bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!) >>> 0
    );
  }

  skip(n: number): void {
    this.take(n);
  }

  /** A copy; slice() of a Buffer would be none, and would keep all that has come with it. */
  copy(n: number): Uint8Array {
    const at = this.take(n);
    const copy = new Uint8Array(n);
    for (let i = 0; i < n; i++) copy[i] = this.bytes[at + i]!;
    return copy;
  }

  rest(): Uint8Array {
    return this.copy(this.left);
  }

  /** A reader of the next n bytes, which this one skips. */
  sub(n: number, shortCode = this.shortCode): Reader {
    const at = this.take(n);
    return new Reader(this.bytes, shortCode, at, at + n);
  }

  /** NUL-padded text of n bytes. */
  text(n: number): string {
    const at = this.take(n);
    let end = at;
    while (end < at + n && this.bytes[end] !== 0) end++;
    return Buffer.from(this.bytes.buffer, this.bytes.byteOffset + at, end - at).toString('utf8');
  }

  /** True when the rest is all zeros; consumes it. */
  restIsZero(): boolean {
    const at = this.offset;
    this.offset = this.end;
    for (let i = at; i < this.end; i++) if (this.bytes[i] !== 0) return false;
    return true;
  }

  /** Skips n bytes which have to be zero. */
  mustBeZero(n: number, code: string): void {
    const at = this.take(n);
    for (let i = at; i < at + n; i++) if (this.bytes[i] !== 0) throw new OfError(code);
  }
}

export class Writer {
  #bytes = new Uint8Array(256);
  #view = new DataView(this.#bytes.buffer);
  length = 0;

  #grow(n: number): number {
    const at = this.length;
    this.length = at + n;
    if (this.length > this.#bytes.length) {
      const bigger = new Uint8Array(Math.max(2 * this.#bytes.length, this.length));
      bigger.set(this.#bytes.subarray(0, at));
      this.#bytes = bigger;
      this.#view = new DataView(bigger.buffer);
    }
    return at;
  }

  u8(value: number): this {
    const at = this.#grow(1);
    this.#bytes[at] = value;
    return this;
  }

  u16(value: number): this {
    const at = this.#grow(2);
    this.#view.setUint16(at, value);
    return this;
  }

  u32(value: number): this {
    const at = this.#grow(4);
    this.#view.setUint32(at, value);
    return this;
  }

  u64(value: bigint): this {
    const at = this.#grow(8);
    this.#view.setBigUint64(at, value);
    return this;
  }

  put(bytes: Uint8Array): this {
    const at = this.#grow(bytes.length);
    this.#bytes.set(bytes, at);
    return this;
  }

  /** Writes over what is at `at`: bytes of `from` from `offset` on. */
  copyTo(at: number, from: Uint8Array, offset: number, count: number): void {
    const bytes = this.#bytes;
    for (let i = 0; i < count; i++) bytes[at + i] = from[offset + i]!;
  }

  zeros(n: number): this {
    const at = this.#grow(n);
    this.#bytes.fill(0, at, at + n);
    return this;
  }

  /** Text, cut and padded with NULs to n bytes; the last byte is always NUL. */
  text(value: string, n: number): this {
    const bytes = Buffer.from(value, 'utf8').subarray(0, n - 1);
    return this.put(bytes).zeros(n - bytes.length);
  }

  /** Zeros up to a multiple of 8 bytes after `start`. */
  pad8(start: number): this {
    return this.zeros(-(this.length - start) & 7);
  }

  /** Writes the length of what has been written since `start` at `at`. */
  patchLength(at: number, start: number): this {
    return this.patch16(at, this.length - start);
  }

  patch16(at: number, value: number): this {
    if (value > 0xffff) throw new RangeError('OpenFlow structure over 64 KiB');
    this.#view.setUint16(at, value);
    return this;
  }

  patch32(at: number, value: number): this {
    this.#view.setUint32(at, value);
    return this;
  }

  /** Forgets what was written from `length` on. */
  truncate(length: number): void {
    this.length = length;
  }

  /** A copy of what was written. */
  finish(start = 0): Uint8Array {
    return this.#bytes.slice(start, this.length);
  }
}
