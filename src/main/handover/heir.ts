// The daemon that takes over, towards the one that still serves (messages.ts).

import type { Bequest } from '../../port/types.ts';
import { closeFd } from '../../sys/fd.ts';
import { unixConnect } from '../../sys/unix.ts';
import { HandOverChannel, type HandOverMessage } from './channel.ts';
import * as M from './messages.ts';
import type { Ledger } from './savedBridge.ts';

export interface InheritedGoods {
  devices: Map<string, Bequest>;
  /** Table of connections; the receiver's. -1 if its layout is another one. */
  conntrackFd: number;
}

export class Heir implements Disposable {
  readonly #channel: HandOverChannel;
  /** The latest. */
  state: M.State;

  private constructor(channel: HandOverChannel, state: M.State) {
    this.#channel = channel;
    this.state = state;
  }

  /** Asks the daemon that listens at `path` for its state. Throws SysError if there is none, Error if it refuses. */
  static async ask(path: string): Promise<Heir> {
    const channel = new HandOverChannel(unixConnect(path));
    channel.send(M.HELLO, M.pack({ format: M.FORMAT, pid: process.pid } satisfies M.Hello));
    const answer = await channel.next();
    if (answer?.kind !== M.STATE) {
      channel.close();
      throw new Error('the running daemon does not hand over');
    }
    return new Heir(channel, M.unpack<M.State>(answer.body));
  }

  async #expect(...kinds: readonly number[]): Promise<HandOverMessage> {
    const message = await this.#channel.next();
    if (message === undefined || !kinds.includes(message.kind)) {
      throw new Error('the running daemon has ended before it handed over');
    }
    return message;
  }

  /**
   * Says that the state is in place. Resolves with the devices, which the other has let go of, or with undefined: the
   * state is another one now.
   */
  async take(): Promise<InheritedGoods | undefined> {
    this.#channel.send(M.READY, M.pack({ revision: this.state.revision } satisfies M.Ready));
    const message = await this.#expect(M.STATE, M.GOODS);
    if (message.kind === M.STATE) {
      this.state = M.unpack<M.State>(message.body);
      return undefined;
    }
    const goods = M.unpack<M.Goods>(message.body);
    const [conntrackFd, ...fds] = message.fds;
    const devices = new Map<string, Bequest>();
    let at = 0;
    for (const { name, json, fds: count } of goods.devices) {
      devices.set(name, { json, fds: fds.slice(at, at + count) });
      at += count;
    }
    if (this.state.conntrackLayout === M.conntrackLayout()) {
      return { devices, conntrackFd: conntrackFd! };
    }
    closeFd(conntrackFd!);
    return { devices, conntrackFd: -1 };
  }

  async ledger(): Promise<Ledger[]> {
    return M.unpack<M.LedgerMessage>((await this.#expect(M.LEDGER)).body).bridges;
  }

  /** Everything is here: the other one may go. Resolves when it is gone. */
  async taken(): Promise<void> {
    this.#channel.send(M.TAKEN, new Uint8Array(0));
    await this.#channel.next();
  }

  [Symbol.dispose](): void {
    this.#channel.close();
  }
}
