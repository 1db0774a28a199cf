// Cuts the byte stream of a vhost-user socket into messages, with the file descriptors that belong to each.
//
// A message may come in several reads and several messages in one read. The kernel hands descriptors over with the
// first byte that they were sent with, and never joins the data of two descriptor-carrying sends in one recvmsg(2):
// so when the reader asks for no more bytes than `wanted()` at a time, descriptors always belong to the message
// whose bytes came along. Descriptors of a message that is refused are handed back for closing.

import { decodeHeader } from './codec.ts';
import {
  FLAG_REPLY,
  FLAG_VERSION,
  FLAG_VERSION_MASK,
  HEADER_SIZE,
  MESSAGES,
  PAYLOAD_MAX,
} from './messages.ts';

export interface RawMessage {
  readonly request: number;
  readonly flags: number;
  readonly payload: Uint8Array;
  readonly fds: readonly number[];
}

/** Descriptors that one message may carry at most; more are an attack on our descriptor table. */
const FDS_MAX = 8;

/** The stream cannot be understood any more: close the connection. */
export class FramingError extends Error {}

/** One direction of one connection. `direction` says whose messages are read: of a front-end, or replies to one. */
export class Splitter {
  #buffer = new Uint8Array(HEADER_SIZE + PAYLOAD_MAX);
  #length = 0;
  #fds: number[] = [];
  readonly #expectReplies: boolean;

  constructor(reads: 'requests' | 'replies' = 'requests') {
    this.#expectReplies = reads === 'replies';
  }

  /** Bytes that the next read may return at most, so that it never reaches into the message after this one. */
  wanted(): number {
    return this.#length < HEADER_SIZE
      ? HEADER_SIZE - this.#length
      : HEADER_SIZE + this.#header().size - this.#length;
  }

  #header() {
    return decodeHeader(this.#buffer);
  }

  /**
   * Takes what one read returned (never more than `wanted()` bytes of it belong to the current message; a longer
   * chunk is cut). Returns the messages that are complete now. Throws FramingError; then call `abandon()`.
   */
  push(bytes: Uint8Array, fds: readonly number[] = []): RawMessage[] {
    this.#fds.push(...fds);
    if (this.#fds.length > FDS_MAX) throw new FramingError(`more than ${FDS_MAX} file descriptors`);
    const messages: RawMessage[] = [];
    let from = 0;
    while (from < bytes.length) {
      const take = Math.min(this.wanted(), bytes.length - from);
      this.#buffer.set(bytes.subarray(from, from + take), this.#length);
      this.#length += take;
      from += take;
      if (this.#length < HEADER_SIZE) break;
      const header = this.#header();
      if (this.#length === HEADER_SIZE) this.#checkHeader(header);
      if (this.#length === HEADER_SIZE + header.size) {
        messages.push({
          request: header.request,
          flags: header.flags,
          payload: this.#buffer.slice(HEADER_SIZE, this.#length),
          fds: this.#fds,
        });
        this.#length = 0;
        this.#fds = [];
      }
    }
    return messages;
  }

  #checkHeader(header: { request: number; flags: number; size: number }): void {
    const name = MESSAGES.get(header.request)?.name ?? `request ${header.request}`;
    if ((header.flags & FLAG_VERSION_MASK) !== FLAG_VERSION) {
      throw new FramingError(`${name}: version ${header.flags & FLAG_VERSION_MASK}`);
    }
    if (((header.flags & FLAG_REPLY) !== 0) !== this.#expectReplies) {
      throw new FramingError(`${name}: ${this.#expectReplies ? 'not a' : 'unexpected'} reply`);
    }
    if (header.size > PAYLOAD_MAX) {
      throw new FramingError(`${name}: payload of ${header.size} bytes`);
    }
  }

  /** True in the middle of a message: an end of the stream here is a truncated message. */
  get partial(): boolean {
    return this.#length > 0;
  }

  /** Hands back descriptors that belong to no complete message, for closing. */
  abandon(): number[] {
    const fds = this.#fds;
    this.#fds = [];
    this.#length = 0;
    return fds;
  }
}
