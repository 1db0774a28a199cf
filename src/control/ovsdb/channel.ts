// One JSON-RPC connection, for server and client alike: texts in, texts out, and the inactivity
// probe.
//
// A side that hears nothing for the probe interval sends an "echo" request; if nothing comes within
// another interval, the connection is dead (ovsdb-server(7), "Echo"). Whoever gets an echo request
// answers with its params.

import type { Duplex } from 'node:stream';
import { type Json, JsonError, jsonEqual, parseJson } from '../../wire/ovsdb/json.ts';
import { formatRpc, parseRpc, type RpcMessage } from '../../wire/ovsdb/rpc.ts';
import { JsonSplitter } from '../../wire/ovsdb/splitter.ts';
import { errorText } from './log.ts';

export interface ChannelOptions {
  /** Milliseconds of silence before a probe; 0 = never. */
  probeIntervalMs: number;
  /**
   * A message that is not part of the probing. Called in order, not while the peer does not read
   * (see `backlogged`).
   */
  onMessage: (message: RpcMessage) => void;
  /** Once, when the connection has ended for whatever reason. */
  onClose: (reason: string) => void;
  /** The peer has read what was sent. */
  onDrain?: () => void;
}

const PROBE_ID = 'echo';
/** How long messages of one connection are taken up in one turn of the event loop. */
const SLICE_MS = 2;

export class Channel {
  readonly #stream: Duplex;
  readonly #options: ChannelOptions;
  readonly #splitter = new JsonSplitter();
  readonly #inbox: string[] = [];
  #probeTimer: NodeJS.Timeout | undefined;
  #probing = false;
  #handling = false;
  #closed = false;

  constructor(stream: Duplex, options: ChannelOptions) {
    this.#stream = stream;
    this.#options = options;
    stream.on('data', (chunk: Buffer) => this.#receive(chunk));
    stream.on('end', () => this.close('connection closed by peer'));
    stream.on('close', () => this.close('connection closed'));
    stream.on('error', (error) => this.close(errorText(error)));
    stream.on('drain', () => {
      if (this.#closed) return;
      this.#options.onDrain?.();
      this.#handle();
    });
    this.#arm();
  }

  /** The peer does not read: what can wait should, and its requests are not taken up. */
  get backlogged(): boolean {
    return this.#stream.writableNeedDrain;
  }

  send(message: RpcMessage): void {
    if (!this.#closed) this.#stream.write(formatRpc(message));
  }

  request(id: Json, method: string, params: readonly Json[]): void {
    this.send({ kind: 'request', id, method, params });
  }

  notify(method: string, params: readonly Json[]): void {
    this.send({ kind: 'notification', method, params });
  }

  close(reason: string): void {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#probeTimer);
    this.#inbox.length = 0;
    this.#stream.destroy();
    this.#options.onClose(reason);
  }

  #receive(chunk: Buffer): void {
    if (this.#closed) return;
    this.#arm();
    try {
      this.#inbox.push(...this.#splitter.push(chunk));
    } catch (error) {
      // What came before is still answered, like any complete message.
      this.#handle();
      this.close(`error parsing stream: ${(error as Error).message}`);
      return;
    }
    this.#handle();
  }

  /** Takes up messages until the peer has too much to read. */
  #handle(): void {
    if (this.#handling) return;
    this.#handling = true;
    const until = performance.now() + SLICE_MS;
    let rest = false;
    try {
      while (!this.#closed && this.#inbox.length > 0 && !this.backlogged) {
        this.#handleText(this.#inbox.shift()!);
        // One busy client must not keep the others, and the rest of the daemon, waiting.
        rest = this.#inbox.length > 0 && performance.now() > until;
        if (rest) break;
      }
    } finally {
      this.#handling = false;
    }
    if (this.#closed) return;
    if (rest) setImmediate(() => this.#handle());
    if (this.#inbox.length > 0) this.#stream.pause();
    else if (this.#stream.isPaused()) this.#stream.resume();
  }

  #handleText(text: string): void {
    let message: RpcMessage;
    try {
      message = parseRpc(parseJson(text));
    } catch (error) {
      if (!(error instanceof JsonError)) throw error;
      this.close(`received bad JSON-RPC message: ${error.message}`);
      return;
    }
    if (message.kind === 'request' && message.method === 'echo') {
      this.send({ kind: 'reply', id: message.id, result: message.params });
    } else if (message.kind === 'reply' && jsonEqual(message.id, PROBE_ID)) {
      // Any data proves that the peer lives: see #receive.
    } else {
      this.#options.onMessage(message);
    }
  }

  #arm(): void {
    clearTimeout(this.#probeTimer);
    this.#probing = false;
    const { probeIntervalMs } = this.#options;
    if (probeIntervalMs <= 0) return;
    this.#probeTimer = setTimeout(() => this.#probe(), probeIntervalMs);
    this.#probeTimer.unref();
  }

  #probe(): void {
    if (this.#probing) {
      const seconds = this.#options.probeIntervalMs / 1000;
      this.close(`no response to inactivity probe after ${seconds} seconds, disconnecting`);
      return;
    }
    this.request(PROBE_ID, 'echo', []);
    this.#probing = true;
    this.#probeTimer?.refresh();
  }
}
