// The other end of an OpenFlow connection, for tests: a controller or ovs-ofctl in miniature, on our own codec.

import { createServer, connect as netConnect, type Server, type Socket } from 'node:net';
import { MessageSplitter } from '../../src/control/openflow/framing.ts';
import { decode, encode } from '../../src/wire/openflow/message.ts';
import type { Message, MessageType } from '../../src/wire/openflow/messages.ts';
import type { OfVersion } from '../../src/wire/openflow/types.ts';

const TIMEOUT_MS = 30_000;

export interface Received {
  xid: number;
  message: Message;
  bytes: Uint8Array;
}

export class OfClient implements Disposable {
  readonly socket: Socket;
  readonly version: OfVersion;
  readonly received: Received[] = [];
  closed = false;
  /** False: what cannot be decoded (an error that quotes nonsense) is left out instead of thrown. */
  strict = true;
  #wake: (() => void)[] = [];
  #xid = 1000;

  constructor(socket: Socket, version: OfVersion) {
    this.socket = socket;
    this.version = version;
    const splitter = new MessageSplitter();
    socket.on('data', (chunk: Uint8Array) => {
      splitter.push(chunk, (bytes) => {
        try {
          const { xid, message } = decode(bytes);
          this.received.push({ xid, message, bytes });
        } catch (error) {
          if (this.strict) throw error;
        }
      });
      this.#notify();
    });
    socket.on('error', () => {});
    socket.on('close', () => {
      this.closed = true;
      this.#notify();
    });
  }

  /** Connects to a socket path and says hello. */
  static async connect(path: string, version: OfVersion): Promise<OfClient> {
    const socket = netConnect({ path });
    await new Promise((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', reject);
    });
    const client = new OfClient(socket, version);
    client.send({ type: 'hello' });
    await client.expect('hello');
    return client;
  }

  send(message: Message): number {
    const xid = ++this.#xid;
    // What a bundle-add holds has the number of the message that holds it.
    const numbered = message.type === 'bundle_add' ? { ...message, xid } : message;
    for (const part of encode(this.version, xid, numbered)) this.socket.write(part);
    return xid;
  }

  /** The next message of this type; what came before it is thrown away. */
  async expect<T extends MessageType>(type: T): Promise<Extract<Message, { type: T }>> {
    return (await this.next((message) => message.type === type)) as Extract<Message, { type: T }>;
  }

  async next(wanted: (message: Message) => boolean): Promise<Message> {
    const deadlineMs = performance.now() + TIMEOUT_MS;
    for (;;) {
      const i = this.received.findIndex(({ message }) => wanted(message));
      if (i >= 0) return this.received.splice(0, i + 1)[i].message;
      const leftMs = deadlineMs - performance.now();
      if (this.closed || leftMs <= 0) {
        const types = this.received.map(({ message }) => JSON.stringify(message.type));
        throw new Error(`${this.closed ? 'closed' : 'timeout'}; there is: ${types}`);
      }
      await this.#news(leftMs);
    }
  }

  async request<T extends MessageType>(
    message: Message,
    reply: T,
  ): Promise<Extract<Message, { type: T }>> {
    this.send(message);
    return this.expect(reply);
  }

  /** Code of the error that answers the message; 'no error' if a barrier is answered instead. */
  async errorOf(message: Message): Promise<string> {
    this.send(message);
    this.send({ type: 'barrier_request' });
    const answer = await this.next(({ type }) => type === 'error' || type === 'barrier_reply');
    if (answer.type !== 'error') return 'no error';
    await this.expect('barrier_reply');
    return answer.code;
  }

  async untilClosed(): Promise<void> {
    const deadlineMs = performance.now() + TIMEOUT_MS;
    while (!this.closed) {
      if (performance.now() > deadlineMs) throw new Error('the connection stays open');
      await this.#news(100);
    }
  }

  [Symbol.dispose](): void {
    this.socket.destroy();
  }

  #news(timeoutMs: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, timeoutMs);
      this.#wake.push(() => {
        clearTimeout(timer);
        resolve();
      });
    });
  }

  #notify(): void {
    for (const wake of this.#wake.splice(0)) wake();
  }
}

/** A controller that listens (on 127.0.0.1, or at a socket path) and says hello to each switch. */
export class OfController implements Disposable {
  readonly server: Server;
  readonly switches: OfClient[] = [];
  port = 0;
  readonly #version: OfVersion;

  constructor(version: OfVersion) {
    this.#version = version;
    this.server = createServer((socket) => {
      const client = new OfClient(socket, version);
      client.send({ type: 'hello' });
      this.switches.push(client);
    });
  }

  static async listen(version: OfVersion, port = 0): Promise<OfController> {
    const controller = new OfController(version);
    await new Promise<void>((resolve) => controller.server.listen(port, '127.0.0.1', resolve));
    controller.port = (controller.server.address() as { port: number }).port;
    return controller;
  }

  /** A controller at a Unix domain socket. */
  static async listenAt(path: string, version: OfVersion): Promise<OfController> {
    const controller = new OfController(version);
    await new Promise<void>((resolve) => controller.server.listen({ path }, resolve));
    return controller;
  }

  get target(): string {
    return `tcp:127.0.0.1:${this.port}`;
  }

  /** The n-th connection of a switch, after its hello. */
  async connection(n = 0): Promise<OfClient> {
    const deadlineMs = performance.now() + TIMEOUT_MS;
    while (this.switches[n] === undefined) {
      if (performance.now() > deadlineMs) throw new Error('no switch has connected');
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    await this.switches[n].expect('hello');
    return this.switches[n];
  }

  get version(): OfVersion {
    return this.#version;
  }

  [Symbol.dispose](): void {
    this.server.close();
    for (const client of this.switches) client[Symbol.dispose]();
  }
}
