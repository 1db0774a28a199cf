// The line between a daemon and the one that takes over from it: messages with a body of any size and any number of
// descriptors, over a Unix stream socket.
//
//   message   u32 magic, u32 kind, u32 descriptors that come along, u32 1 = more of them follow in the next message
//
// The body is a file in memory, the first of the descriptors; so what is on the socket itself is always 16 bytes. The
// kernel passes at most 253 descriptors at a time: a message with more is sent in parts.

import { readFileSync, writeSync } from 'node:fs';
import { closeFd } from '../../sys/fd.ts';
import { memfdCreate } from '../../sys/memory.ts';
import { type Watcher, watchFd } from '../../sys/poll.ts';
import { FdMessenger } from '../../sys/unix.ts';

const HEADER = 16;
const MAGIC = 0x6f687678; // "xvho"
const PART = 200;

export interface HandOverMessage {
  readonly kind: number;
  readonly body: Uint8Array;
  /** The receiver's. */
  readonly fds: number[];
}

export class HandOverChannel implements Disposable {
  readonly #fd: number;
  readonly #watcher: Watcher;
  readonly #messenger = new FdMessenger(HEADER);
  readonly #messages: HandOverMessage[] = [];
  readonly #waiting: ((message: HandOverMessage | undefined) => void)[] = [];
  #fds: number[] = [];
  #closed = false;

  /** Owns the socket from now on. */
  constructor(fd: number) {
    this.#fd = fd;
    this.#watcher = watchFd(fd, { read: true }, () => this.#readable());
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** Sends a message; the descriptors stay open here. Throws SysError, or when the line is closed. */
  send(kind: number, body: Uint8Array, fds: readonly number[] = []): void {
    if (this.#closed) throw new Error('the other daemon is gone');
    const file = memfdCreate('xvio-hand-over', 0, false);
    try {
      for (let at = 0; at < body.length; ) at += writeSync(file, body, at, body.length - at, at);
      const all = [file, ...fds];
      for (let from = 0; from < all.length; from += PART) {
        const part = all.slice(from, from + PART);
        const more = from + PART < all.length ? 1 : 0;
        const header = new Uint8Array(Uint32Array.of(MAGIC, kind, part.length, more).buffer);
        if (this.#messenger.send(this.#fd, header, part) !== HEADER) {
          throw new Error('the other daemon does not read');
        }
      }
    } finally {
      closeFd(file);
    }
  }

  /** The next message; undefined when the line is closed. */
  next(): Promise<HandOverMessage | undefined> {
    const message = this.#messages.shift();
    if (message !== undefined || this.#closed) return Promise.resolve(message);
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  #readable(): void {
    try {
      for (;;) {
        const got = this.#messenger.receive(this.#fd, HEADER);
        if (got === undefined) return;
        this.#fds.push(...got.fds);
        if (got.data.length !== HEADER || got.truncated) break;
        const [magic, kind, count, more] = new Uint32Array(got.data.slice().buffer);
        if (magic !== MAGIC || count !== got.fds.length) break;
        if (more === 1) continue;
        const [file, ...fds] = this.#fds;
        this.#fds = [];
        if (file === undefined) break;
        this.#deliver({ kind: kind!, body: readFileSync(`/proc/self/fd/${file}`), fds });
        closeFd(file);
      }
    } catch {
      // Gone: as if it had been closed.
    }
    this.close();
  }

  #deliver(message: HandOverMessage): void {
    const waiting = this.#waiting.shift();
    if (waiting) waiting(message);
    else this.#messages.push(message);
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#watcher[Symbol.dispose]();
    closeFd(this.#fd);
    for (const fd of this.#fds) closeFd(fd);
    for (const { fds } of this.#messages.splice(0)) for (const fd of fds) closeFd(fd);
    for (const waiting of this.#waiting.splice(0)) waiting(undefined);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
