// Fills the messages of a long multipart reply. The reply is made in slices (statsHandlers.ts), but goes out in as few
// messages as if it had been made in one piece: each is filled until the next entry would not fit.
//
//   | header 8 | multipart header | entry | entry | …      entry = length (BE, 16 bits), …

const MAX_MESSAGE_BYTES = 0xffff;
/** Offset of the flags word, in all versions. */
const FLAGS_OFFSET = 10;
const FLAG_MORE = 1;

export class ReplyPacker {
  readonly #headerBytes: number;
  readonly #send: (bytes: Uint8Array) => void;
  #buffer = new Uint8Array(MAX_MESSAGE_BYTES);
  #length = 0;

  /** `headerBytes` come before the first entry; entries start with their length. */
  constructor(headerBytes: number, send: (bytes: Uint8Array) => void) {
    this.#headerBytes = headerBytes;
    this.#send = send;
  }

  /** Takes the entries of an encoded message. */
  add(message: Uint8Array): void {
    const view = new DataView(message.buffer, message.byteOffset, message.byteLength);
    if (this.#length === 0) this.#start(message);
    let offset = this.#headerBytes;
    while (offset < message.length) {
      const length = view.getUint16(offset);
      if (length === 0) throw new RangeError('entry without length');
      if (this.#length + length > MAX_MESSAGE_BYTES) {
        this.#flush(true);
        this.#start(message);
      }
      this.#buffer.set(message.subarray(offset, offset + length), this.#length);
      this.#length += length;
      offset += length;
    }
  }

  /** Sends what is left: the last message of the reply. */
  finish(): void {
    this.#flush(false);
  }

  #start(message: Uint8Array): void {
    this.#buffer.set(message.subarray(0, this.#headerBytes));
    this.#length = this.#headerBytes;
  }

  #flush(more: boolean): void {
    const view = new DataView(this.#buffer.buffer);
    view.setUint16(2, this.#length);
    view.setUint16(FLAGS_OFFSET, more ? FLAG_MORE : 0);
    // A copy: the socket keeps it until it is written.
    this.#send(this.#buffer.slice(0, this.#length));
    this.#length = 0;
  }
}

/** Bytes before the first entry of a flow statistics reply. */
export function flowStatsHeaderBytes(version: number, nxt: boolean): number {
  if (nxt) return 24;
  return version === 1 ? 12 : 16;
}
