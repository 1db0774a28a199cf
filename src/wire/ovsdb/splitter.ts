// Finds the ends of JSON texts in a byte stream: OVSDB and unixctl (JSON-RPC 1.0, RFC 7047 §3.1)
// frame nothing.
//
// Brackets are counted outside of strings, each byte is looked at once. Limits keep a peer from
// filling the memory.

import { JsonError } from './json.ts';

/** Real OVSDB servers refuse deeper nesting. */
const MAX_DEPTH = 1000;
/** A schema has 30 KB, a busy database some MB: more than this is an attack or a mistake. */
export const MAX_MESSAGE_BYTES = 64 * 1024 * 1024;

const QUOTE = 0x22;
const BACKSLASH = 0x5c;

/** Cuts a byte stream into JSON texts: feed chunks, get the texts that they complete. */
export class JsonSplitter {
  #parts: Uint8Array[] = [];
  #bytes = 0;
  #depth = 0;
  #inString = false;
  #escaped = false;
  readonly #maxBytes: number;
  readonly #decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

  constructor(maxBytes = MAX_MESSAGE_BYTES) {
    this.#maxBytes = maxBytes;
  }

  /** True while a message has begun and not ended. */
  get pending(): boolean {
    return this.#depth > 0;
  }

  /** Texts of the messages that end in `chunk`. Throws JsonError on what cannot be a message. */
  push(chunk: Uint8Array): string[] {
    const texts: string[] = [];
    let start = 0;
    for (let i = 0; i < chunk.length; i++) {
      const byte = chunk[i]!;
      if (this.#inString) {
        if (this.#escaped) this.#escaped = false;
        else if (byte === BACKSLASH) this.#escaped = true;
        else if (byte === QUOTE) this.#inString = false;
      } else if (byte === 0x7b || byte === 0x5b) {
        if (this.#depth === 0) start = i;
        if (++this.#depth > MAX_DEPTH) {
          throw new JsonError(`input exceeds maximum nesting depth ${MAX_DEPTH}`);
        }
      } else if (this.#depth === 0) {
        if (byte !== 0x20 && byte !== 0x0a && byte !== 0x0d && byte !== 0x09)
          throw new JsonError('syntax error at beginning of input');
      } else if (byte === QUOTE) {
        this.#inString = true;
      } else if ((byte === 0x7d || byte === 0x5d) && --this.#depth === 0) {
        texts.push(this.#take(chunk.subarray(start, i + 1)));
      }
    }
    if (this.#depth > 0) this.#keep(chunk.subarray(start));
    return texts;
  }

  #keep(part: Uint8Array): void {
    this.#bytes += part.length;
    if (this.#bytes > this.#maxBytes) {
      throw new JsonError(`message is longer than ${this.#maxBytes} bytes`);
    }
    this.#parts.push(part.slice());
  }

  #take(last: Uint8Array): string {
    let bytes = last;
    if (this.#parts.length > 0) {
      bytes = Buffer.concat([...this.#parts, last]);
      this.#parts = [];
      this.#bytes = 0;
    }
    try {
      return this.#decoder.decode(bytes);
    } catch {
      throw new JsonError('not a valid UTF-8 string');
    }
  }
}
