// The front-end side of one vhost-user connection: what QEMU does for a guest, for guests of our own.
//
// Sends requests, matches answers, and negotiates. It knows nothing of rings (guest.ts). Tests also use it to send what
// no honest front-end would.

import { closeFd } from '../sys/fd.ts';
import { type Watcher, watchFd } from '../sys/poll.ts';
import { FdMessenger } from '../sys/unix.ts';
import * as C from '../wire/vhostuser/codec.ts';
import {
  has,
  PROTOCOL_F_MQ,
  PROTOCOL_F_REPLY_ACK,
  VHOST_USER_F_PROTOCOL_FEATURES,
} from '../wire/vhostuser/features.ts';
import * as M from '../wire/vhostuser/messages.ts';
import { Splitter } from '../wire/vhostuser/splitter.ts';

/** The back-end answered a request with a failure. */
export class NackError extends Error {}

export interface Answered {
  readonly payload: Uint8Array;
  readonly fds: readonly number[];
}

interface Waiting {
  request: number;
  resolve: (answer: Answered) => void;
  reject: (error: Error) => void;
}

const EMPTY = new Uint8Array(0);

export class Frontend {
  readonly #fd: number;
  readonly #watcher: Watcher;
  readonly #messenger = new FdMessenger(4096);
  readonly #splitter = new Splitter('replies');
  readonly #waiting: Waiting[] = [];
  readonly #onClose: (() => void)[] = [];
  #closed = false;
  /** Offered by the back-end. */
  offered = 0n;
  protocolFeatures = 0n;
  /** Queue pairs that the back-end can do. */
  maxPairs = 1;

  /** Owns the socket from now on. */
  constructor(fd: number) {
    this.#fd = fd;
    this.#watcher = watchFd(fd, { read: true }, () => this.#readable());
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** Calls back once when the connection is gone, at once if it is already. */
  onClose(callback: () => void): void {
    if (this.#closed) callback();
    else this.#onClose.push(callback);
  }

  #readable(): void {
    try {
      for (;;) {
        const got = this.#messenger.receive(this.#fd, this.#splitter.wanted());
        if (got === undefined) return;
        if (got.data.length === 0) {
          this.close();
          return;
        }
        for (const message of this.#splitter.push(got.data, got.fds)) {
          const waiting = this.#waiting.shift();
          if (waiting?.request === message.request) waiting.resolve(message);
          else {
            for (const fd of message.fds) closeFd(fd);
            waiting?.reject(new Error(`answer to another request (${message.request})`));
          }
        }
      }
    } catch {
      this.close();
    }
  }

  /** Puts bytes on the socket as they are. */
  sendRaw(bytes: Uint8Array, fds: readonly number[] = []): void {
    if (this.#closed) throw new Error('connection closed');
    if (this.#messenger.send(this.#fd, bytes, fds) !== bytes.length) {
      throw new Error('the back-end does not read');
    }
  }

  /** Sends a request that has an answer of its own, and waits for it. Rejects when the connection closes. */
  ask(
    request: number,
    payload: Uint8Array = EMPTY,
    fds: readonly number[] = [],
    flags = 0,
  ): Promise<Answered> {
    const answer = this.#expect(request);
    this.sendRaw(C.encodeMessage(request, flags, payload), fds);
    return answer;
  }

  /**
   * Sends a request without an answer of its own. With REPLY_ACK negotiated it is acknowledged; a refusal rejects with
   * NackError.
   */
  async tell(
    request: number,
    payload: Uint8Array = EMPTY,
    fds: readonly number[] = [],
  ): Promise<void> {
    if (!has(this.protocolFeatures, PROTOCOL_F_REPLY_ACK)) {
      this.sendRaw(C.encodeMessage(request, 0, payload), fds);
      return;
    }
    const answer = this.#expect(request);
    this.sendRaw(C.encodeMessage(request, M.FLAG_NEED_REPLY, payload), fds);
    const { payload: result } = await answer;
    if (C.decodeU64(result) !== 0n) throw new NackError(`${M.requestName(request)} refused`);
  }

  #expect(request: number): Promise<Answered> {
    const answer = new Promise<Answered>((resolve, reject) => {
      this.#waiting.push({ request, resolve, reject });
    });
    // If the request cannot even be sent, nobody waits for the answer.
    answer.catch(() => {});
    return answer;
  }

  async askU64(request: number): Promise<bigint> {
    return C.decodeU64((await this.ask(request)).payload);
  }

  /** First part of the handshake: what can the back-end do? `wanted` protocol features are taken if offered. */
  async negotiateProtocol(wanted: bigint): Promise<void> {
    this.offered = await this.askU64(M.GET_FEATURES);
    if (has(this.offered, VHOST_USER_F_PROTOCOL_FEATURES)) {
      const offered = await this.askU64(M.GET_PROTOCOL_FEATURES);
      const features = offered & wanted;
      await this.tell(M.SET_PROTOCOL_FEATURES, C.encodeU64(features));
      this.protocolFeatures = features;
      if (has(features, PROTOCOL_F_MQ)) this.maxPairs = Number(await this.askU64(M.GET_QUEUE_NUM));
    }
    await this.tell(M.SET_OWNER);
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#watcher[Symbol.dispose]();
    for (const fd of this.#splitter.abandon()) closeFd(fd);
    closeFd(this.#fd);
    for (const { reject, request } of this.#waiting.splice(0)) {
      reject(new Error(`connection closed before the answer to ${M.requestName(request)}`));
    }
    for (const callback of this.#onClose.splice(0)) callback();
  }
}
