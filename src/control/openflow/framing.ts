// Cuts the bytes of a connection into OpenFlow messages by the length in their headers (1.5.1 §7.1).
//
//   0        1        2                 4                                   8
//   | version|  type  | length (BE)     | xid                               | body …

export const HEADER_BYTES = 8;

/** A header that cannot be: nothing after it can be understood either. */
export class FramingError extends Error {}

/** Reassembles messages. Holds at most one unfinished message, so at most 64 KiB plus a chunk. */
export class MessageSplitter {
  #pending: Uint8Array[] = [];
  #pendingBytes = 0;
  /** Length of the message at the front, 0 = header not complete. */
  #wantedBytes = 0;

  /** Bytes of an unfinished message that wait for more. */
  get pendingBytes(): number {
    return this.#pendingBytes;
  }

  /** Calls back for each message that the chunk completes. Messages may share the chunk's memory. Throws FramingError. */
  push(chunk: Uint8Array, message: (bytes: Uint8Array) => void): void {
    this.#pending.push(chunk);
    this.#pendingBytes += chunk.length;
    // Cheap way out for a message that arrives in many small pieces.
    if (this.#pendingBytes < Math.max(HEADER_BYTES, this.#wantedBytes)) return;
    const bytes = this.#pending.length === 1 ? chunk : concat(this.#pending, this.#pendingBytes);
    let start = 0;
    this.#wantedBytes = 0;
    while (bytes.length - start >= HEADER_BYTES) {
      const length = (bytes[start + 2] << 8) | bytes[start + 3];
      if (length < HEADER_BYTES) {
        throw new FramingError(`received too-short ofp_header (${length} bytes)`);
      }
      if (bytes.length - start < length) {
        this.#wantedBytes = length;
        break;
      }
      // Plain bytes: to make a Buffer of each takes longer.
      message(new Uint8Array(bytes.buffer, bytes.byteOffset + start, length));
      start += length;
    }
    const rest = bytes.subarray(start);
    this.#pending = rest.length === 0 ? [] : [rest];
    this.#pendingBytes = rest.length;
  }
}

function concat(parts: readonly Uint8Array[], length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  let offset = 0;
  for (const part of parts) {
    bytes.set(part, offset);
    offset += part.length;
  }
  return bytes;
}
