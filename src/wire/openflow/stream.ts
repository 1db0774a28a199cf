// Cuts a byte stream into OpenFlow messages by the length in their headers. Bytes come in as they arrive; messages go
// out whole. A length below that of the header means that the peer has lost the thread: there is no way to find the next
// message, the connection has to be closed.

import { HEADER_LEN } from './message.ts';
import { OfError } from './types.ts';

export class MessageSplitter {
  #chunks: Uint8Array[] = [];
  #length = 0;

  /** Bytes that wait for the rest of their message. */
  get buffered(): number {
    return this.#length;
  }

  push(chunk: Uint8Array): void {
    if (chunk.length === 0) return;
    this.#chunks.push(chunk);
    this.#length += chunk.length;
  }

  /** The next whole message, undefined when more bytes are needed. Throws OfError on a length below 8. */
  next(): Uint8Array | undefined {
    if (this.#length < HEADER_LEN) return undefined;
    const length = (this.#byte(2) << 8) | this.#byte(3);
    if (length < HEADER_LEN) throw new OfError('OFPBRC_BAD_LEN', `message length ${length}`);
    if (this.#length < length) return undefined;
    return this.#take(length);
  }

  *[Symbol.iterator](): Generator<Uint8Array> {
    for (let m = this.next(); m !== undefined; m = this.next()) yield m;
  }

  #byte(at: number): number {
    for (const chunk of this.#chunks) {
      if (at < chunk.length) return chunk[at]!;
      at -= chunk.length;
    }
    return 0;
  }

  #take(n: number): Uint8Array {
    this.#length -= n;
    const first = this.#chunks[0]!;
    if (first.length >= n) {
      if (first.length === n) this.#chunks.shift();
      else this.#chunks[0] = first.subarray(n);
      return first.subarray(0, n);
    }
    const out = new Uint8Array(n);
    let at = 0;
    while (at < n) {
      const chunk = this.#chunks[0]!;
      const part = Math.min(chunk.length, n - at);
      out.set(chunk.subarray(0, part), at);
      at += part;
      if (part === chunk.length) this.#chunks.shift();
      else this.#chunks[0] = chunk.subarray(part);
    }
    return out;
  }
}
