// One OpenFlow connection that either keeps itself up (to a controller: reconnects with backoff) or ends when its
// peer leaves (accepted from a listener). Says hello, agrees on a version, watches for silence with echo requests,
// and hands out whole messages. The states and their times are what ovs-vswitchd shows in Controller.status.
//
//   BACKOFF --timer--> CONNECTING --hello--> ACTIVE --silence--> IDLE --silence--> BACKOFF
//                          |                   ^ `--any message--- |
//                          `--error--> BACKOFF |___________________|
//
// Timing as in Open vSwitch: backoff 1 s, doubled up to max_backoff; a probe after `probeMs` of silence, and the
// connection is given up when there is no answer for as long again.

import type { Socket } from 'node:net';
import { type DebugLog, rateLimit } from '../../observe/vlog.ts';
import { decode, encode } from '../../wire/openflow/message.ts';
import type { Message, TlvMapping } from '../../wire/openflow/messages.ts';
import { messageText } from '../../wire/openflow/messageText.ts';
import type { OfVersion } from '../../wire/openflow/types.ts';
import { FramingError, MessageSplitter } from './framing.ts';
import { connectEvent, connectStream, type Log, type StreamContext, type Target } from './vconn.ts';
import {
  commonVersion,
  formatVersions,
  highestVersion,
  needsBitmap,
  versionsUpTo,
} from './versions.ts';

export type RconnState = 'VOID' | 'BACKOFF' | 'CONNECTING' | 'ACTIVE' | 'IDLE' | 'DISCONNECTED';

/** Before a peer has read this much of what we sent, no more of its requests are read. */
const OUTPUT_HIGH_BYTES = 1 << 20;
/** A peer that lets this much pile up (asynchronous messages) is cut off. */
const OUTPUT_MAX_BYTES = 64 << 20;
const MIN_BACKOFF_MS = 1000;
/** After so long a controller counts as having admitted us, whatever it said. */
const ADMITTED_AFTER_MS = 30_000;
/** A peer that connects and says nothing does not stay. */
const HELLO_TIMEOUT_MS = 5000;

const OFPT_HELLO = 0;

export interface RconnOptions {
  /** For the log: "br0<->tcp:10.0.0.1:6653". */
  name: string;
  /** Bitmap, see versions.ts. */
  versions: number;
  /** 0 = no probes. */
  probeMs: number;
  maxBackoffMs: number;
  log: Log;
  /** Of what is said over the connection (module vconn). */
  messageLog?: DebugLog | undefined;
  nowMs: () => number;
  /** Version agreed; messages may be sent. */
  onConnected: (rconn: Rconn) => void;
  onMessage: (bytes: Uint8Array) => void;
  /** The connection is gone; a reliable one tries again by itself. */
  onDisconnected: (rconn: Rconn) => void;
}

export interface SendOptions {
  /** Default: a new one. */
  xid?: number | undefined;
  /** Called when the message has been written. */
  done?: (() => void) | undefined;
  /** What tun_metadataN means. */
  tlvs?: readonly TlvMapping[] | undefined;
}

export class Rconn {
  readonly name: string;
  readonly #options: RconnOptions;
  #target: Target | undefined;
  #streamContext: StreamContext | undefined;
  #socket: Socket | undefined;
  #splitter = new MessageSplitter();
  #state: RconnState = 'VOID';
  #stateEnteredMs: number;
  #timer: NodeJS.Timeout | undefined;
  #backoffMs = 0;
  #backoffDeadlineMs = Number.NEGATIVE_INFINITY;
  #lastActivityMs = 0;
  #lastAdmittedMs: number;
  #probablyAdmitted = false;
  #paused = false;
  #nextXid = 1;
  readonly #snoopers = new Set<Socket>();
  readonly #messageLimit = rateLimit(600);
  version: OfVersion | undefined;
  lastConnectedMs: number | undefined;
  lastDisconnectedMs: number | undefined;
  lastError: string | undefined;
  probeMs: number;
  maxBackoffMs: number;

  constructor(options: RconnOptions) {
    this.name = options.name;
    this.#options = options;
    this.probeMs = options.probeMs;
    this.maxBackoffMs = options.maxBackoffMs;
    this.#stateEnteredMs = options.nowMs();
    this.#lastAdmittedMs = this.#stateEnteredMs;
  }

  get state(): RconnState {
    return this.#state;
  }

  get connected(): boolean {
    return this.#state === 'ACTIVE' || this.#state === 'IDLE';
  }

  /** A connected controller that is believed to have accepted us. */
  get admitted(): boolean {
    return (
      this.connected &&
      (this.#probablyAdmitted ||
        this.#options.nowMs() - (this.lastConnectedMs ?? 0) >= ADMITTED_AFTER_MS)
    );
  }

  /** Milliseconds without an admitted controller. */
  failureDurationMs(): number {
    return this.admitted ? 0 : this.#options.nowMs() - this.#lastAdmittedMs;
  }

  /** Connects and keeps connecting. */
  connect(target: Target, context: StreamContext): void {
    this.#target = target;
    this.#streamContext = context;
    this.#reconnect();
  }

  /** Takes over an accepted connection. */
  accept(socket: Socket): void {
    this.#socket = socket;
    this.#enter('CONNECTING');
    this.#attach(socket);
    this.#opened();
  }

  /** Drops the connection; a reliable one is made again at once. */
  reconnect(): void {
    if (!this.connected && this.#state !== 'CONNECTING') return;
    this.#options.log.info(`${this.name}: disconnecting`);
    this.#disconnect(undefined);
  }

  close(): void {
    clearTimeout(this.#timer);
    const wasConnected = this.connected;
    this.#closeSocket();
    for (const snooper of this.#snoopers) snooper.destroy();
    this.#snoopers.clear();
    this.#target = undefined;
    this.#enter('VOID');
    if (wasConnected) this.#options.onDisconnected(this);
  }

  /** Bytes that the peer has not taken yet. */
  get outputBytes(): number {
    return this.#socket?.writableLength ?? 0;
  }

  newXid(): number {
    this.#nextXid = (this.#nextXid + 1) >>> 0;
    return this.#nextXid;
  }

  /** Notes a message that came or went in the log, if somebody wants to see them. */
  #note(what: string, bytes: Uint8Array): void {
    const { messageLog } = this.#options;
    if (!messageLog?.isDbg()) return;
    messageLog.dbg(`${this.#vconnName}: ${what}: ${messageText(bytes)}`, this.#messageLimit);
  }

  /** Without the bridge. */
  get #vconnName(): string {
    return this.name.slice(this.name.indexOf('<->') + 3);
  }

  /** Sends now or drops: there is nobody to tell when the connection is gone. `done` is called when written. */
  send(bytes: Uint8Array, done?: () => void): void {
    const socket = this.#socket;
    if (socket === undefined || !socket.writable) return;
    for (const snooper of this.#snoopers) snoop(snooper, bytes);
    socket.write(bytes, done);
    this.#note('sent (Success)', bytes);
    this.#lastActivityMs = this.#options.nowMs();
    if (socket.writableLength > OUTPUT_MAX_BYTES) {
      this.#options.log.warn(`${this.name}: peer does not read, dropping the connection`);
      this.#disconnect('No buffer space available');
    } else if (socket.writableLength > OUTPUT_HIGH_BYTES) {
      this.pause();
    }
  }

  sendMessage(message: Message, options: SendOptions = {}): void {
    if (this.version === undefined) return;
    const { xid = this.newXid(), done, tlvs } = options;
    const parts = encode(this.version, xid, message, tlvs === undefined ? {} : { tlvs });
    parts.forEach((part, i) => {
      this.send(part, i === parts.length - 1 ? done : undefined);
    });
  }

  /** Resolves when little enough waits to be sent, or the connection is gone. For long replies in slices. */
  async writable(): Promise<void> {
    const socket = this.#socket;
    if (socket === undefined || socket.writableLength <= OUTPUT_HIGH_BYTES) return;
    await new Promise<void>((resolve) => {
      const done = () => {
        socket.removeListener('drain', done);
        socket.removeListener('close', done);
        resolve();
      };
      socket.on('drain', done);
      socket.on('close', done);
    });
  }

  /** Stops reading (the peer sends faster than it is served, or does not read replies). */
  pause(): void {
    this.#paused = true;
    this.#socket?.pause();
  }

  /** Reads on, unless output is still in the way: then when it has drained. */
  resume(): void {
    const socket = this.#socket;
    if (!this.#paused || socket === undefined) return;
    if (socket.writableLength > OUTPUT_HIGH_BYTES) return;
    this.#paused = false;
    socket.resume();
  }

  get paused(): boolean {
    return this.#paused;
  }

  /** A copy of everything that is said goes to `socket` (ovs-ofctl snoop). */
  addSnooper(socket: Socket): void {
    this.#snoopers.add(socket);
    const gone = () => this.#snoopers.delete(socket);
    socket.on('close', gone);
    socket.on('error', gone);
    socket.resume();
  }

  /** The peer did something that only a controller does that has accepted us (see fail-open). */
  noteAdmitted(): void {
    this.#probablyAdmitted = true;
    this.#lastAdmittedMs = this.#options.nowMs();
  }

  #reconnect(): void {
    if (this.#target === undefined || this.#streamContext === undefined) return;
    if (this.#logsAttempts()) this.#options.log.info(`${this.name}: connecting...`);
    let socket: Socket;
    try {
      socket = connectStream(this.#target, this.#streamContext);
    } catch (error) {
      const text = errorText(error as NodeJS.ErrnoException);
      if (text !== (error as Error).message) this.#options.log.err((error as Error).message);
      this.#options.log.warn(`${this.name}: connection failed (${text})`);
      this.#backoffDeadlineMs = Number.POSITIVE_INFINITY;
      this.#disconnect(text);
      return;
    }
    this.#socket = socket;
    this.#backoffDeadlineMs = this.#options.nowMs() + this.#backoffMs;
    this.#enter('CONNECTING');
    this.#attach(socket);
    socket.once(connectEvent(this.#target), () => {
      if (this.#socket === socket) this.#opened();
    });
    this.#schedule(Math.max(MIN_BACKOFF_MS, this.#backoffMs), () => {
      if (this.#logsAttempts()) this.#options.log.info(`${this.name}: connection timed out`);
      this.#backoffDeadlineMs = Number.POSITIVE_INFINITY;
      this.#disconnect('Connection timed out');
    });
  }

  #attach(socket: Socket): void {
    this.#splitter = new MessageSplitter();
    this.#paused = false;
    this.version = undefined;
    socket.on('data', (chunk: Uint8Array) => {
      if (this.#socket === socket) this.#received(chunk);
    });
    socket.on('drain', () => {
      if (this.#socket === socket) this.resume();
    });
    socket.on('error', (error: NodeJS.ErrnoException) => {
      if (this.#socket !== socket) return;
      const text = errorText(error);
      if (this.#state === 'CONNECTING') {
        if (this.#logsAttempts()) {
          if (error.syscall === 'getaddrinfo') {
            const { hostname } = error as NodeJS.ErrnoException & { hostname?: string };
            this.#options.log.warn(`${hostname}: failed to resolve`);
          }
          this.#options.log.info(`${this.name}: connection failed (${text})`);
        }
      } else {
        this.#options.log.warn(`${this.name}: connection dropped (${text})`);
      }
      this.#disconnect(text);
    });
    socket.on('close', () => {
      if (this.#socket !== socket) return;
      if (this.#splitter.pendingBytes > 0) {
        this.#options.log.err(`${this.name}: connection dropped mid-packet`);
        this.#disconnect('Protocol error');
        return;
      }
      const log = this.#options.log;
      if (this.connected) {
        const text = `${this.name}: connection closed by peer`;
        if (this.#reliable) log.info(text);
        else log.dbg(text);
      }
      this.#disconnect(this.connected ? 'End of file' : 'Connection reset by peer');
    });
  }

  /** The stream is there: our hello goes out, theirs is awaited. */
  #opened(): void {
    const bitmap = this.#options.versions;
    const hello: Message = needsBitmap(bitmap) ? { type: 'hello', bitmap } : { type: 'hello' };
    const version = highestVersion(bitmap) as OfVersion;
    for (const part of encode(version, this.newXid(), hello)) this.send(part);
    if (!this.#reliable) {
      this.#schedule(HELLO_TIMEOUT_MS, () => this.#disconnect('Connection timed out'));
    }
  }

  #received(chunk: Uint8Array): void {
    try {
      this.#splitter.push(chunk, (bytes) => {
        if (this.#socket === undefined) return;
        this.#note('received', bytes);
        if (this.version === undefined) this.#receivedHello(bytes);
        else this.#receivedMessage(bytes);
      });
    } catch (error) {
      if (!(error instanceof FramingError)) throw error;
      this.#options.log.err(`${this.name}: ${error.message}`);
      this.#disconnect('Protocol error');
    }
  }

  #receivedHello(bytes: Uint8Array): void {
    const { log, versions } = this.#options;
    if (bytes[1] !== OFPT_HELLO) {
      log.warn(`${this.name}: received message while expecting hello`);
      this.#disconnect('Protocol error');
      return;
    }
    const theirs = helloVersions(bytes);
    const version = commonVersion(versions, theirs);
    if (version === undefined) {
      const ours = formatVersions(versions);
      log.warn(
        `${this.name}: version negotiation failed (we support ${ours}, ` +
          `peer supports ${formatVersions(theirs)})`,
      );
      const text = `We support ${ours}, you support ${formatVersions(theirs)}, no common versions.`;
      const answer = Math.min(6, Math.max(1, highestVersion(theirs))) as OfVersion;
      const error: Message = {
        type: 'error',
        code: 'OFPHFC_INCOMPATIBLE',
        data: new TextEncoder().encode(text),
      };
      const xid = new DataView(bytes.buffer, bytes.byteOffset).getUint32(4);
      for (const part of encode(answer, xid, error)) this.send(part);
      this.#disconnect('Protocol error', true);
      return;
    }
    const { messageLog } = this.#options;
    if (messageLog?.isDbg()) {
      messageLog.dbg(
        `${this.#vconnName}: negotiated OpenFlow version 0x${version.toString(16).padStart(2, '0')} ` +
          `(we support ${formatVersions(versions)}, peer supports ${formatVersions(theirs)})`,
      );
    }
    this.version = version;
    this.#probablyAdmitted = false;
    this.#enter('ACTIVE');
    this.lastConnectedMs = this.#stateEnteredMs;
    this.#lastActivityMs = this.#stateEnteredMs;
    const text = `${this.name}: connected`;
    if (this.#reliable) log.info(text);
    else log.dbg(text);
    this.#armProbe();
    this.#options.onConnected(this);
  }

  #receivedMessage(bytes: Uint8Array): void {
    for (const snooper of this.#snoopers) snoop(snooper, bytes);
    this.#lastActivityMs = this.#options.nowMs();
    if (this.#probablyAdmitted) this.#lastAdmittedMs = this.#lastActivityMs;
    if (this.#state === 'IDLE') {
      this.#enter('ACTIVE');
      this.#armProbe();
    }
    this.#options.onMessage(bytes);
  }

  #armProbe(): void {
    // The timer of the state before must not fire in this one.
    clearTimeout(this.#timer);
    if (this.probeMs === 0) return;
    const silentMs = this.#options.nowMs() - this.#lastActivityMs;
    this.#schedule(Math.max(1, this.probeMs - silentMs), () => {
      // Timers fire for the time that was set when they were armed; traffic has moved it since.
      if (this.#options.nowMs() - this.#lastActivityMs < this.probeMs) {
        this.#armProbe();
        return;
      }
      this.#enter('IDLE');
      this.#schedule(this.probeMs, () => {
        const seconds = Math.floor((this.#options.nowMs() - this.#stateEnteredMs) / 1000);
        this.#options.log.err(
          `${this.name}: no response to inactivity probe after ${seconds} seconds, disconnecting`,
        );
        this.#disconnect('Connection timed out');
      });
      // Open vSwitch's have no number either: the answer to one is as good as to another.
      this.sendMessage({ type: 'echo_request', data: new Uint8Array(0) }, { xid: 0 });
    });
  }

  /** `flush`: what was sent last (an error) still goes out. */
  #disconnect(error: string | undefined, flush = false): void {
    const { log, nowMs, onDisconnected } = this.#options;
    const wasConnected = this.connected;
    const now = nowMs();
    this.lastError = error;
    this.#closeSocket(flush);
    if (!this.#reliable) {
      this.lastDisconnectedMs = now;
      this.#enter('DISCONNECTED');
      clearTimeout(this.#timer);
      onDisconnected(this);
      return;
    }
    if (wasConnected || this.#state === 'CONNECTING') this.lastDisconnectedMs = now;
    if (now >= this.#backoffDeadlineMs) {
      this.#backoffMs = MIN_BACKOFF_MS;
    } else if (this.#backoffMs < this.maxBackoffMs / 2) {
      this.#backoffMs = Math.max(MIN_BACKOFF_MS, 2 * this.#backoffMs);
      log.info(`${this.name}: waiting ${this.#backoffMs / 1000} seconds before reconnect`);
    } else {
      if (this.#logsAttempts()) {
        log.info(
          `${this.name}: continuing to retry connections in the background ` +
            'but suppressing further logging',
        );
      }
      this.#backoffMs = this.maxBackoffMs;
    }
    this.#backoffDeadlineMs = now + this.#backoffMs;
    this.#enter('BACKOFF');
    this.#schedule(this.#backoffMs, () => this.#reconnect());
    if (wasConnected) onDisconnected(this);
  }

  get #reliable(): boolean {
    return this.#target !== undefined;
  }

  /** Attempts are logged until the backoff has reached its maximum. */
  #logsAttempts(): boolean {
    return this.#backoffMs < this.maxBackoffMs;
  }

  #closeSocket(flush = false): void {
    const socket = this.#socket;
    this.#socket = undefined;
    if (socket === undefined) return;
    if (flush) {
      socket.destroySoon();
      socket.setTimeout(1000, () => socket.destroy());
    } else {
      socket.destroy();
    }
  }

  #enter(state: RconnState): void {
    this.#state = state;
    this.#stateEnteredMs = this.#options.nowMs();
  }

  #schedule(delayMs: number, run: () => void): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(run, delayMs);
    this.#timer.unref();
  }
}

/** Versions of a peer's hello. What it holds beyond what we understand does not matter (1.5.1 §7.5.1). */
function helloVersions(bytes: Uint8Array): number {
  try {
    const { message } = decode(bytes);
    if (message.type === 'hello' && message.bitmap !== undefined) return message.bitmap;
  } catch {
    // Elements of a future version: the header says enough.
  }
  return versionsUpTo(bytes[0]);
}

function snoop(socket: Socket, bytes: Uint8Array): void {
  // A snooper that does not keep up misses messages; it never holds up the connection.
  if (socket.writable && socket.writableLength < OUTPUT_HIGH_BYTES) socket.write(bytes);
}

const ERRNO_TEXT: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'Connection refused',
  ECONNRESET: 'Connection reset by peer',
  EPIPE: 'Broken pipe',
  ENOENT: 'No such file or directory',
  EACCES: 'Permission denied',
  ETIMEDOUT: 'Connection timed out',
  EHOSTUNREACH: 'No route to host',
  ENETUNREACH: 'Network is unreachable',
  EADDRINUSE: 'Address already in use',
  EADDRNOTAVAIL: 'Cannot assign requested address',
  EPROTO: 'Protocol error',
  ENOPROTOOPT: 'Protocol not available',
  // A name that cannot be resolved: Open vSwitch then tries to connect to no address of no family.
  ENOTFOUND: 'Address family not supported by protocol',
  EAI_AGAIN: 'Address family not supported by protocol',
};

/** Text of a socket error as strerror(3) gives it. */
export function errorText(error: NodeJS.ErrnoException): string {
  return ERRNO_TEXT[error.code ?? ''] ?? error.message;
}
