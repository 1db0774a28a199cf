// The daemon that serves, towards the one that takes over (messages.ts): offers its state, keeps serving until the other
// is ready, lets go of everything at once, and ends. If the other dies in between, it takes everything up again.

import { chmodSync, rmSync } from 'node:fs';
import type { Bequest } from '../../port/types.ts';
import { closeFd } from '../../sys/fd.ts';
import { watchListener } from '../../sys/listener.ts';
import { unixListen } from '../../sys/unix.ts';
import { HandOverChannel } from './channel.ts';
import * as M from './messages.ts';
import type { Ledger } from './savedBridge.ts';

/** What the daemon does for the hand-over. */
export interface DonorHooks {
  state(): M.State;
  /** Changes with the tables; cheap. */
  revision(): string;
  conntrackFd(): number;
  /** Stops all queues; nothing is forwarded when it resolves. */
  release(): Promise<Map<string, Bequest>>;
  /** After release(). */
  ledger(): Ledger[];
  /** The other one, process `pid`, has it all: this process ends. */
  done(pid: number): void;
  /** The other one is gone: takes up again what was released. */
  resume(devices: Map<string, Bequest>, state: M.State, ledger: Ledger[]): Promise<void>;
  log: { info(text: string): void; warn(text: string): void; err(text: string): void };
}

const ROUNDS_MAX = 20;
/** The successor has to say that it has taken everything within this time. */
const TAKEN_TIMEOUT_MS = 10_000;

export class Donor implements Disposable {
  readonly #hooks: DonorHooks;
  readonly #path: string;
  readonly #fd: number;
  readonly #watcher: Disposable;
  #channel: HandOverChannel | undefined;
  #closed = false;
  #given = false;

  /** Listens at `path`, for processes of the same user. Throws SysError. */
  constructor(path: string, hooks: DonorHooks) {
    this.#hooks = hooks;
    this.#path = path;
    this.#fd = unixListen(path);
    chmodSync(path, 0o600);
    this.#watcher = watchListener(
      this.#fd,
      (connection) => this.#accept(connection),
      (text) => hooks.log.warn(`hand-over: ${text}`),
    );
  }

  #accept(fd: number): void {
    if (this.#channel) {
      closeFd(fd);
      return;
    }
    const channel = new HandOverChannel(fd);
    this.#channel = channel;
    this.#serve(channel)
      .catch((thrown: Error) => this.#hooks.log.err(`hand-over: ${thrown.stack}`))
      .finally(() => {
        channel.close();
        this.#channel = undefined;
      });
  }

  async #serve(channel: HandOverChannel): Promise<void> {
    const { log, revision } = this.#hooks;
    const hello = await channel.next();
    if (hello?.kind !== M.HELLO) return;
    const { format, pid } = M.unpack<M.Hello>(hello.body);
    if (format !== M.FORMAT) {
      log.warn(`hand-over: process ${pid} speaks format ${format}, this one ${M.FORMAT}`);
      return;
    }
    log.info(`hand-over: process ${pid} wants to take over`);
    for (let round = 0; round < ROUNDS_MAX; round++) {
      const state = this.#hooks.state();
      channel.send(M.STATE, M.pack(state));
      const ready = await channel.next();
      if (ready?.kind !== M.READY) {
        log.warn('hand-over: the other process is gone before it was ready');
        return;
      }
      const known = M.unpack<M.Ready>(ready.body).revision;
      if (known === revision()) {
        await this.#give(channel, state, pid);
        return;
      }
    }
    log.warn('hand-over: the flow tables change faster than they can be handed over');
  }

  async #give(channel: HandOverChannel, state: M.State, pid: number): Promise<void> {
    const { log } = this.#hooks;
    const startMs = performance.now();
    const devices = await this.#hooks.release();
    let ledger: Ledger[] | undefined;
    try {
      const fds = [this.#hooks.conntrackFd()];
      const list: M.Goods['devices'] = [];
      for (const [name, { json, fds: own }] of devices) {
        list.push({ name, json, fds: own.length });
        fds.push(...own);
      }
      channel.send(M.GOODS, M.pack({ devices: list } satisfies M.Goods), fds);
      const releasedMs = performance.now() - startMs;
      ledger = this.#hooks.ledger();
      channel.send(M.LEDGER, M.pack({ bridges: ledger } satisfies M.LedgerMessage));
      const timer = setTimeout(() => channel.close(), TAKEN_TIMEOUT_MS);
      const taken = await channel.next();
      clearTimeout(timer);
      if (taken?.kind === M.TAKEN) {
        log.info(
          `hand-over: done; released in ${releasedMs.toFixed(1)} ms, ` +
            `taken after ${(performance.now() - startMs).toFixed(1)} ms`,
        );
        for (const { fds: own } of devices.values()) for (const fd of own) closeFd(fd);
        this.#given = true;
        this.#hooks.done(pid);
        // The line stays open until the process ends: that is what the other one waits for.
        return await new Promise(() => {});
      }
    } catch (thrown) {
      log.err(`hand-over: ${(thrown as Error).message}`);
    }
    log.warn('hand-over: the other process is gone: going on here');
    await this.#hooks.resume(devices, state, ledger ?? this.#hooks.ledger());
  }

  [Symbol.dispose](): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#watcher[Symbol.dispose]();
    closeFd(this.#fd);
    // The file may be the successor's by now, but not before this process has ended.
    rmSync(this.#path, { force: true });
    if (!this.#given) this.#channel?.close();
  }
}
