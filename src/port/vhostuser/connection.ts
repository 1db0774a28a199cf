// One connection with a front-end: socket in, judged messages through, answers out.
//
// Messages are handled strictly one after the other; while one takes its time (workers have to let go of a ring), the
// socket is not read. A refused message is answered with a nack if the front-end asked for an answer, else the
// connection is closed; either way every descriptor that came along is closed, and nothing of the message stays.
// At the end the data plane is taken away from the guest before `onClose` is called.

import { fstatSync, readlinkSync } from 'node:fs';
import { closeFd, setNonBlocking } from '../../sys/fd.ts';
import { memfdCreate } from '../../sys/memory.ts';
import { type Watcher, watchFd } from '../../sys/poll.ts';
import { FdMessenger } from '../../sys/unix.ts';
import {
  encodeInflight,
  encodeReply,
  encodeU64,
  encodeVringState,
} from '../../wire/vhostuser/codec.ts';
import { FLAG_NEED_REPLY, requestName } from '../../wire/vhostuser/messages.ts';
import { type RawMessage, Splitter } from '../../wire/vhostuser/splitter.ts';
import { type Answer, step } from './backend.ts';
import type { StoppedConnection } from './bequest.ts';
import type { VhostDevice } from './device.ts';
import {
  type BackendOptions,
  type BackendState,
  type FdInfo,
  heldFds,
  initialState,
} from './state.ts';

const EVENTFD = 'anon_inode:[eventfd]';

/** What kind of descriptor did the front-end send us? Makes doorbells non-blocking. Throws if it is none at all. */
export function inspectFd(fd: number): FdInfo {
  const stat = fstatSync(fd, { bigint: true });
  if (stat.isFile()) {
    return { fd, kind: 'file', size: stat.size, id: `${stat.dev}:${stat.ino}` };
  }
  const target = readlinkSync(`/proc/self/fd/${fd}`);
  // A full counter of a blocking eventfd would stop the worker that rings it.
  if (target === EVENTFD) setNonBlocking(fd);
  return {
    fd,
    kind: target === EVENTFD ? 'eventfd' : 'other',
    size: 0n,
    id: target,
  };
}

/** The front-end has died or left: no fault of its protocol. */
function isGone(thrown: unknown): boolean {
  const { code } = thrown as { code?: string };
  return code === 'ECONNRESET' || code === 'EPIPE';
}

export interface ConnectionHooks {
  /** After each message that changed something. */
  changed(before: BackendState, after: BackendState): void;
  /** SEND_RARP: announce this address. */
  rarp(mac: Uint8Array): void;
  /** The connection is gone and so is everything of it. `fault`: what the front-end did wrong, undefined = it went. */
  closed(fault: string | undefined): void;
  debug(text: string): void;
  /** Something of ours failed that should not have. */
  failed(text: string): void;
}

/** Messages handled in one turn of the event loop. */
const TURN = 32;

export class Connection {
  #state: BackendState;
  readonly #fd: number;
  readonly #device: VhostDevice;
  readonly #hooks: ConnectionHooks;
  readonly #messenger = new FdMessenger(1024);
  readonly #splitter = new Splitter();
  readonly #watcher: Watcher;
  #busy: Promise<void> | undefined;
  #closing: Promise<void> | undefined;

  constructor(fd: number, device: VhostDevice, options: BackendOptions, hooks: ConnectionHooks) {
    this.#fd = fd;
    this.#device = device;
    this.#hooks = hooks;
    this.#state = initialState(options);
    this.#watcher = watchFd(fd, { read: true }, () => this.#readable());
  }

  get state(): BackendState {
    return this.#state;
  }

  /**
   * Takes up a connection that another process has stopped (handOver). Nothing is read, neither messages nor packets of
   * the guest, until the returned function is called: by then all other guests can be reached.
   */
  inherit(state: BackendState): () => void {
    const before = this.#state;
    this.#state = state; // owns the descriptors, whatever comes
    this.#watcher.want({});
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#busy = this.#device
      .apply(before, state, promise)
      .then((applied) => {
        this.#state = applied;
        if (!this.#closing) this.#hooks.changed(before, applied);
      })
      .catch((thrown: Error) => void this.close(thrown.message))
      .finally(() => {
        this.#busy = undefined;
        if (!this.#closing) this.#watcher.want({ read: true });
      });
    this.#go = resolve;
    return resolve;
  }
  /** Ends the wait of inherit(). */
  #go: (() => void) | undefined;

  /**
   * Stops between two messages, rings and all, and leaves everything to the caller: the front-end must not notice.
   * undefined if that cannot be (the connection is closing, or stands in the middle of a message): then it is closed.
   */
  async handOver(): Promise<StoppedConnection | undefined> {
    if (this.#closing) return undefined;
    this.#watcher.want({});
    const stopping = Promise.withResolvers<void>();
    this.#closing = stopping.promise;
    this.#go?.();
    await this.#busy;
    if (this.#splitter.partial) {
      await this.#close('truncated message');
      stopping.resolve();
      return undefined;
    }
    this.#watcher[Symbol.dispose]();
    this.#state = await this.#device.handOver(this.#state);
    stopping.resolve();
    return { fd: this.#fd, state: this.#state };
  }

  #readable(): void {
    if (this.#busy || this.#closing) return;
    this.#watcher.want({});
    this.#busy = this.#pump().finally(() => {
      this.#busy = undefined;
      if (!this.#closing) this.#watcher.want({ read: true });
    });
  }

  async #pump(): Promise<void> {
    for (let handled = 0; handled < TURN && !this.#closing; ) {
      let messages: RawMessage[];
      try {
        const got = this.#messenger.receive(this.#fd, this.#splitter.wanted());
        if (got === undefined) return;
        if (got.data.length === 0) {
          for (const fd of got.fds) closeFd(fd);
          void this.close(this.#splitter.partial ? 'truncated message' : undefined);
          return;
        }
        messages = this.#splitter.push(got.data, got.fds);
        if (got.truncated) {
          for (const { fds } of messages) for (const fd of fds) closeFd(fd);
          throw new Error('more file descriptors than fit');
        }
      } catch (thrown) {
        void this.close(isGone(thrown) ? undefined : (thrown as Error).message);
        return;
      }
      for (const message of messages) {
        await this.#handle(message);
        handled++;
      }
    }
  }

  async #handle(raw: RawMessage): Promise<void> {
    const fds: FdInfo[] = [];
    const before = this.#state;
    let fault: string | undefined;
    let disconnect = false;
    try {
      for (const fd of raw.fds) fds.push(inspectFd(fd));
      const outcome = step(before, { ...raw, fds });
      this.#hooks.debug(`${requestName(raw.request)}${outcome.ok ? '' : ` refused`}`);
      if (outcome.ok) {
        if (outcome.state !== before) {
          this.#state = await this.#device.apply(before, outcome.state);
        }
        this.#answer(raw, outcome.answer);
        if (outcome.rarp) this.#hooks.rarp(outcome.rarp);
      } else {
        fault = outcome.reason;
        disconnect = outcome.disconnect || (raw.flags & FLAG_NEED_REPLY) === 0;
        if (!disconnect) this.#send(raw.request, encodeU64(1n));
      }
    } catch (thrown) {
      fault = isGone(thrown)
        ? undefined
        : `${requestName(raw.request)}: ${(thrown as Error).message}`;
      disconnect = true;
    }
    // Whatever came or was held and is in the state no more has no owner.
    const held = heldFds(this.#state);
    for (const fd of new Set([...heldFds(before), ...raw.fds])) if (!held.has(fd)) closeFd(fd);
    if (disconnect) void this.close(fault);
    else if (this.#state !== before) this.#hooks.changed(before, this.#state);
  }

  #answer(raw: RawMessage, answer: Answer): void {
    const { request } = raw;
    switch (answer.kind) {
      case 'ack':
        if ((raw.flags & FLAG_NEED_REPLY) !== 0) this.#send(request, encodeU64(0n));
        return;
      case 'data':
        this.#send(request, answer.payload);
        return;
      case 'vringBase': {
        const { index } = answer;
        this.#send(request, encodeVringState({ index, num: this.#state.rings[index]!.base }));
        return;
      }
      case 'inflight': {
        // The front-end keeps the region; our descriptor of it is closed at once.
        const fd = memfdCreate('vhost-inflight', Number(answer.size));
        try {
          this.#send(request, encodeInflight({ ...answer, offset: 0n }), [fd]);
        } finally {
          closeFd(fd);
        }
      }
    }
  }

  #send(request: number, payload: Uint8Array, fds: readonly number[] = []): void {
    const bytes = encodeReply(request, payload);
    if (this.#messenger.send(this.#fd, bytes, fds) !== bytes.length) {
      throw new Error('the front-end does not read its answers');
    }
  }

  /** Ends the connection; resolves when the data plane has let go of the guest and every descriptor is closed. */
  close(fault?: string): Promise<void> {
    this.#closing ??= this.#close(fault);
    return this.#closing;
  }

  async #close(fault: string | undefined): Promise<void> {
    this.#watcher[Symbol.dispose]();
    for (const fd of this.#splitter.abandon()) closeFd(fd);
    await Promise.resolve(); // a message in work sees #closing, and ends
    this.#go?.();
    await this.#busy;
    try {
      await this.#device.reset(this.#state);
    } catch (thrown) {
      // Nothing that a front-end can cause; whatever it is, the port must be able to go on.
      this.#hooks.failed((thrown as Error).message);
    }
    for (const fd of heldFds(this.#state)) closeFd(fd);
    this.#state = initialState(this.#state.options);
    closeFd(this.#fd);
    this.#hooks.closed(fault);
  }
}
