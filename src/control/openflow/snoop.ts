// RUNDIR/BRIDGE.snoop: whoever connects gets a copy of what the most important controller and the switch say to each
// other (ovs-ofctl snoop). Without a controller connection there is nothing to hear, and the attempt is turned down.

import { chmod } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { encode } from '../../wire/openflow/message.ts';
import { FramingError, MessageSplitter } from './framing.ts';
import type { Rconn } from './rconn.ts';
import { type Log, rmQuietly, SOCKET_MODE, shortPath } from './vconn.ts';

const OFPT_HELLO = 0;
const HELLO_TIMEOUT_MS = 5000;

export class Snoop {
  readonly #path: string;
  readonly #choose: () => Rconn | undefined;
  readonly #log: Log;
  readonly #waiting = new Set<Socket>();
  readonly #server: Server;

  /** `choose` names the connection that a new snooper hears. */
  constructor(path: string, choose: () => Rconn | undefined, log: Log) {
    this.#path = path;
    this.#choose = choose;
    this.#log = log;
    this.#server = createServer((socket) => this.#accept(socket));
    this.#server.on('error', (error) =>
      log.err(`failed to listen on punix:${path}: ${error.message}`),
    );
  }

  async start(): Promise<void> {
    rmQuietly(this.#path);
    using short = shortPath(this.#path);
    await new Promise<void>((resolve) => {
      this.#server.once('error', () => resolve());
      this.#server.listen({ path: short.path }, resolve);
    });
    if (this.#server.listening) await chmod(this.#path, SOCKET_MODE);
  }

  close(): void {
    this.#server.close();
    rmQuietly(this.#path);
    for (const socket of this.#waiting) socket.destroy();
  }

  #accept(socket: Socket): void {
    socket.on('error', () => socket.destroy());
    if (this.#choose() === undefined) {
      this.#log.info('no controller connection to snoop');
      socket.destroy();
      return;
    }
    // Hellos are exchanged as on any OpenFlow connection; then we only talk.
    this.#waiting.add(socket);
    socket.on('close', () => this.#waiting.delete(socket));
    socket.setTimeout(HELLO_TIMEOUT_MS, () => socket.destroy());
    for (const part of encode(6, 1, { type: 'hello' })) socket.write(part);
    const splitter = new MessageSplitter();
    socket.on('data', (chunk: Uint8Array) => {
      if (!this.#waiting.has(socket)) return;
      try {
        splitter.push(chunk, (bytes) => this.#hello(socket, bytes));
      } catch (error) {
        if (!(error instanceof FramingError)) throw error;
        socket.destroy();
      }
    });
  }

  #hello(socket: Socket, bytes: Uint8Array): void {
    if (!this.#waiting.delete(socket)) return;
    const rconn = this.#choose();
    if (bytes[1] !== OFPT_HELLO || rconn === undefined) {
      socket.destroy();
      return;
    }
    socket.setTimeout(0);
    rconn.addSnooper(socket);
  }
}
