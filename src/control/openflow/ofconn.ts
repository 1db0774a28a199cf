// State of one OpenFlow connection as the switch sees it: role, formats, asynchronous masks, bundles, monitors; and
// the queue between its socket and the handlers. Messages of one connection are handled strictly in order, one at a
// time; a handler that takes long (a barrier, a long statistics reply) holds up only its own connection, and even
// that one still gets its echo requests answered.

import type { RateLimit } from '../../observe/vlog.ts';
import type { ActionLists } from '../../wire/openflow/actionLists.ts';
import { decode, encode } from '../../wire/openflow/message.ts';
import type {
  AsyncMasks,
  Message,
  MessageType,
  PacketInFormat,
  Role,
  TableFeatures,
  TlvMapping,
} from '../../wire/openflow/messages.ts';
import { OfError, type OfVersion } from '../../wire/openflow/types.ts';
import { type AsyncConfig, defaultAsync, noAsync } from './asyncConfig.ts';
import type { BundleSet } from './bundles.ts';
import { FlowModLog } from './flowModLog.ts';
import type { FlowMonitors } from './monitors.ts';
import type { Rconn } from './rconn.ts';
import type { Log } from './vconn.ts';

/** miss_send_len before a controller sets it; connections of services start with 0: no asynchronous messages. */
export const DEFAULT_MISS_SEND_LEN = 128;
/** Requests of a connection that may wait for one that is being handled. */
const QUEUE_HIGH_BYTES = 1 << 20;
/** Longest time that one connection keeps the event loop. */
const SLICE_MS = 8;

/** Messages of a bundle between two looks at the clock. */
const MESSAGES_A_LOOK = 16;

const OFPT_ERROR = 1;
const OFPT_ECHO_REQUEST = 2;
const OFPT_ECHO_REPLY = 3;
const OFPT_BUNDLE_ADD = 34;
/** Bytes of a request that fit into the error that answers it; the specification asks for at least 64. */
const ERROR_DATA_BYTES = 0xffff - 32;

/** One message on its way through a handler. */
export interface Request {
  readonly conn: Ofconn;
  readonly xid: number;
  readonly version: OfVersion;
  /** The whole message, for errors that quote it. */
  readonly bytes: Uint8Array;
}

/** Throws OfError; resolves when the next message of the connection may be handled. */
export type Handler = (request: Request, message: Message) => void | Promise<void>;

export interface OfconnOptions {
  /** 'primary': a controller; 'service': ovs-ofctl and others that come and go. */
  type: 'primary' | 'service';
  enableAsync: boolean;
  handle: Handler;
  bundles: (conn: Ofconn) => BundleSet;
  monitors: (conn: Ofconn) => FlowMonitors;
  log: Log;
  /** Of the messages about errors: who sends nonsense does not fill the log. */
  errorLimit: RateLimit;
  nowMs: () => number;
  /** What tun_metadataN means on this bridge. */
  tlvs: () => readonly TlvMapping[];
  /** The actions of the test suite are known. */
  debugActions?: boolean;
  /** Lists of actions that the bridge's flows share. */
  actionLists: ActionLists;
}

export class Ofconn {
  readonly rconn: Rconn;
  readonly type: 'primary' | 'service';
  readonly version: OfVersion;
  readonly bundles: BundleSet;
  readonly monitors: FlowMonitors;
  role: Exclude<Role, 'nochange'> = 'other';
  missSendLen: number;
  controllerId = 0;
  packetInFormat: PacketInFormat = 'standard';
  /** OpenFlow 1.0: NXT_SET_FLOW_FORMAT asked for NXM. */
  nxm = false;
  /** NXT_FLOW_MOD_TABLE_ID. */
  tableId = false;
  async: AsyncConfig;
  /** Parts of a table features request that has not come to its end. */
  tableFeatures: TableFeatures[] = [];
  readonly flowMods: FlowModLog;
  readonly #options: OfconnOptions;
  #queue: Uint8Array[] = [];
  #queueBytes = 0;
  #busy = false;
  #closed = false;

  /** For a connection that has agreed on a version. */
  constructor(rconn: Rconn, options: OfconnOptions) {
    if (rconn.version === undefined) throw new Error('the connection has no version yet');
    this.rconn = rconn;
    this.type = options.type;
    this.version = rconn.version;
    this.missSendLen = options.type === 'primary' ? DEFAULT_MISS_SEND_LEN : 0;
    this.async = options.enableAsync ? defaultAsync(this.version) : noAsync();
    this.#options = options;
    this.flowMods = new FlowModLog(
      (text) => options.log.info(`${rconn.name}: ${text}`),
      options.nowMs,
    );
    this.bundles = options.bundles(this);
    this.monitors = options.monitors(this);
  }

  get closed(): boolean {
    return this.#closed;
  }

  get tlvs(): readonly TlvMapping[] {
    return this.#options.tlvs();
  }

  /** The rconn's bytes come in here. */
  receive(bytes: Uint8Array): void {
    if (this.#closed) return;
    const type = bytes[1];
    if (bytes[0] !== this.version && type !== OFPT_ERROR && type !== 0) {
      this.#options.log.err(
        `${this.rconn.name}: received OpenFlow version 0x${bytes[0].toString(16).padStart(2, '0')} ` +
          `!= expected ${this.version.toString(16).padStart(2, '0')}`,
      );
      // As if it had not arrived: the connection stays.
      this.sendError('OFPBRC_BAD_VERSION', bytes);
      return;
    }
    if (type === OFPT_ECHO_REPLY) return;
    if (type === OFPT_ECHO_REQUEST && this.#busy) {
      this.#echo(bytes);
      return;
    }
    // A view of the chunk that the socket has read, which is nobody else's.
    this.#queue.push(bytes);
    this.#queueBytes += bytes.length;
    if (this.#queueBytes > QUEUE_HIGH_BYTES) this.rconn.pause();
    if (!this.#busy) void this.#run();
  }

  reply(message: Message, request: Request): void {
    if (!this.#closed) this.rconn.sendMessage(message, { xid: request.xid, tlvs: this.tlvs });
  }

  /** Part of a reply that is encoded already. */
  sendBytes(bytes: Uint8Array): void {
    if (!this.#closed) this.rconn.send(bytes);
  }

  /** `xid` 0 is for messages that answer nothing. */
  sendUpdate(message: Message, done?: () => void): void {
    if (!this.#closed) this.rconn.sendMessage(message, { xid: 0, tlvs: this.tlvs, done });
  }

  send(message: Message, done?: () => void): void {
    if (!this.#closed) this.rconn.sendMessage(message, { tlvs: this.tlvs, done });
  }

  /** OFPT_ERROR about `request`, which it quotes. */
  sendError(code: string, request: Uint8Array, type?: MessageType): void {
    const view = new DataView(request.buffer, request.byteOffset, request.byteLength);
    const data = request.subarray(0, ERROR_DATA_BYTES);
    this.#options.log.info(
      `${this.rconn.name}: sending ${code} error reply to ${messageName(type)} message`,
      this.#options.errorLimit,
    );
    // A peer that speaks another version than agreed is told so in its own.
    const theirs = code === 'OFPBRC_BAD_VERSION' && request[0]! >= 1 && request[0]! <= 6;
    const version = theirs ? (request[0] as OfVersion) : this.version;
    for (const part of encode(version, view.getUint32(4), { type: 'error', code, data })) {
      this.rconn.send(part);
    }
  }

  /** Whether a message of this type and reason goes to this controller now. */
  wantsAsync(type: keyof AsyncMasks, bit: number): boolean {
    if (this.#closed || !this.rconn.connected) return false;
    if (this.type === 'service' && this.missSendLen === 0) return false;
    return (this.async[this.role === 'secondary' ? 1 : 0][type] & bit) !== 0;
  }

  /** OpenFlow 1.0 … 1.2 controllers get the packets that match no flow. */
  get wantsPacketInOnMiss(): boolean {
    return this.controllerId === 0 && this.version < 4;
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#queue = [];
    this.#queueBytes = 0;
    this.bundles.close();
    this.monitors.close();
    this.flowMods.flush();
  }

  async #run(): Promise<void> {
    // Synchronous up to the first handler that waits, so that what arrives together is handled together.
    this.#busy = true;
    let sliceEndMs = performance.now() + SLICE_MS;
    let sinceClock = 0;
    try {
      for (let i = 0; i < this.#queue.length && !this.#closed; i++) {
        const bytes = this.#queue[i];
        this.#queueBytes -= bytes.length;
        const waiting = this.#handle(bytes);
        if (waiting !== undefined) await waiting;
        if (i >= 1024) {
          this.#queue.splice(0, i + 1);
          i = -1;
        }
        // Flows of a bundle come in thousands and are soon done: for each of them the clock would be a good part of the work.
        if (bytes[1] === OFPT_BUNDLE_ADD && ++sinceClock < MESSAGES_A_LOOK) continue;
        sinceClock = 0;
        if (performance.now() > sliceEndMs) {
          await new Promise((resolve) => setImmediate(resolve));
          sliceEndMs = performance.now() + SLICE_MS;
        }
        if (this.rconn.paused && this.#queueBytes < QUEUE_HIGH_BYTES / 2) this.rconn.resume();
      }
    } finally {
      this.#queue = [];
      this.#queueBytes = 0;
      this.#busy = false;
      if (this.rconn.paused) this.rconn.resume();
    }
  }

  /** A promise only if the handler has to wait. */
  #handle(bytes: Uint8Array): Promise<void> | undefined {
    let type: MessageType | undefined;
    try {
      if (bytes[1] === OFPT_ECHO_REQUEST) {
        this.#echo(bytes);
        return undefined;
      }
      const { xid, version, message } = decode(bytes, {
        tableId: this.tableId,
        tlvs: this.tlvs,
        packed: true,
        debugActions: this.#options.debugActions === true,
        actionLists: this.#options.actionLists,
      });
      type = message.type;
      const request: Request = { conn: this, xid, version, bytes };
      const waiting = this.#options.handle(request, message);
      return waiting?.catch((error) => this.#failed(error, bytes, type));
    } catch (error) {
      this.#failed(error, bytes, type);
      return undefined;
    }
  }

  #failed(error: unknown, bytes: Uint8Array, type: MessageType | undefined): void {
    if (this.#closed) return;
    if (error instanceof OfError) {
      this.sendError(error.code, bytes, type);
      return;
    }
    // A fault of ours, provoked by this message: its sender hears of it, nobody else does.
    this.#options.log.err(`${this.rconn.name}: ${(error as Error)?.stack ?? error}`);
    this.sendError('OFPBRC_EPERM', bytes, type);
  }

  #echo(bytes: Uint8Array): void {
    const reply = bytes.slice();
    reply[1] = OFPT_ECHO_REPLY;
    this.rconn.send(reply);
  }
}

/** OFPT_FLOW_MOD, OFPST_PORT_STATS_REQUEST …: names for people. */
function messageName(type: MessageType | undefined): string {
  if (type === undefined) return 'invalid';
  const prefix = /_(stats|desc|features)_request$|^aggregate|^desc/.test(type) ? 'OFPST' : 'OFPT';
  return `${prefix}_${type.toUpperCase()}`;
}

/** Changes are not for controllers in the secondary role. */
export function rejectSecondary(conn: Ofconn): void {
  if (conn.role === 'secondary') throw new OfError('OFPBRC_IS_SECONDARY');
}
