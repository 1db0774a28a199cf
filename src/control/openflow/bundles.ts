// Bundles (1.5.1 §6.9, §7.3.9; ONF extension 230 for 1.3): messages that a controller collects and commits together.
// All or nothing: every flow-mod goes into one transaction of the flow tables, and the first error undoes them all.
// Used by Neutron, ovn-controller and `ovs-ofctl --bundle`.

import { checkFlowMod } from '../../switch/flowModsRules.ts';
import { discardFlow, type PreparedFlow, prepareFlow } from '../../switch/preparedFlow.ts';
import type { BundleControlType, Message } from '../../wire/openflow/messages.ts';
import { get32 } from '../../wire/openflow/prereq.ts';
import { OfError } from '../../wire/openflow/types.ts';
import type { OfSwitch } from './context.ts';
import { checkBuckets, plainChange } from './groupHandlers.ts';
import type { Ofconn, Request } from './ofconn.ts';
import { applyPortMod, checkPortMod } from './portHandlers.ts';

const OFPBF_ATOMIC = 1;
/** Bytes of a buffer that holds the starts of many messages. */
const STORE_CHUNK = 4096;
const EXPIRY_INTERVAL_MS = 1000;
/** A bundle holds the memory of its messages until it is committed: about a million flows. */
const MAX_BYTES = 256 << 20;
const QUOTE_BYTES = 512;
/** In the header of a message. */
const XID_OFFSET = 4;
const DISCARD_SLICE_MS = 5;
const LATE_ERRORS: ReadonlySet<string> = new Set(['OFPBAC_BAD_OUT_GROUP', 'OFPMMFC_INVALID_METER']);

type Bundlable = Extract<Message, { type: 'flow_mod' | 'port_mod' | 'packet_out' | 'group_mod' }>;

/** A flow whose place is held until the commit, or the message to be carried out then. */
type Entry = PreparedFlow | Bundlable;

interface Bundle {
  flags: number;
  closed: boolean;
  /** Messages since it was last looked whether it is in use: none, one, or more. The clock is asked for the first alone. */
  uses: 0 | 1 | 2;
  /** When the first of them came, or the last before. */
  usedMs: number;
  /** Start of the message that made it. */
  head: Uint8Array;
  entries: Entry[];
  /** Of each entry: where the start of its bundle-add message is among `heads`. It has the xid, and errors quote it. */
  headsAt: number[];
  heads: ByteStore;
  /** Of all messages, as received. */
  bytes: number;
}

/** The bundles of one connection. */
export class BundleSet {
  readonly #switch: OfSwitch;
  readonly #conn: Ofconn;
  readonly #bundles = new Map<number, Bundle>();
  #timer: NodeJS.Timeout | undefined;

  constructor(ofSwitch: OfSwitch, conn: Ofconn) {
    this.#switch = ofSwitch;
    this.#conn = conn;
  }

  close(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
    for (const id of [...this.#bundles.keys()]) this.#drop(id);
  }

  control(request: Request, bundleId: number, control: BundleControlType, flags: number): void {
    let reply: BundleControlType;
    switch (control) {
      case 'open_request':
        if (this.#drop(bundleId)) throw new OfError('OFPBFC_BAD_ID');
        this.#open(bundleId, flags, request);
        reply = 'open_reply';
        break;
      case 'close_request': {
        const bundle = this.#writable(bundleId, flags);
        bundle.closed = true;
        noteUse(bundle);
        reply = 'close_reply';
        break;
      }
      case 'commit_request':
        this.#commit(bundleId, flags);
        reply = 'commit_reply';
        break;
      case 'discard_request':
        if (!this.#drop(bundleId)) throw new OfError('OFPBFC_BAD_ID');
        reply = 'discard_reply';
        break;
      default:
        throw new OfError('OFPBFC_BAD_TYPE');
    }
    this.#conn.reply({ type: 'bundle_control', bundleId, control: reply, flags: 0 }, request);
  }

  add(request: Request, message: Extract<Message, { type: 'bundle_add' }>): void {
    const inner = message.message;
    let mayPrepare = false;
    switch (inner.type) {
      case 'flow_mod': {
        checkFlowMod(inner.flowMod);
        const { command, actions, match, table } = inner.flowMod;
        if (!command.startsWith('delete')) {
          try {
            this.#switch.checkActions(actions, match, table === 0xff ? 0 : table, request.version);
            mayPrepare = true;
          } catch (error) {
            // Groups and meters may come with the bundle itself: commit looks again.
            if (!(error instanceof OfError) || !LATE_ERRORS.has(error.code)) throw error;
          }
        }
        break;
      }
      case 'port_mod':
      case 'packet_out':
      case 'group_mod':
        break;
      default:
        throw new OfError('OFPBFC_MSG_UNSUP');
    }
    if (!this.#bundles.has(message.bundleId)) this.#open(message.bundleId, message.flags, request);
    const bundle = this.#writable(message.bundleId, message.flags);
    bundle.bytes += request.bytes.length;
    if (bundle.bytes > MAX_BYTES) {
      this.#drop(message.bundleId);
      throw new OfError('OFPBFC_MSG_TOO_MANY');
    }
    noteUse(bundle);
    const prepared =
      mayPrepare && inner.type === 'flow_mod'
        ? prepareFlow(this.#switch.bridge, inner.flowMod)
        : undefined;
    bundle.headsAt.push(bundle.heads.add(request.bytes, QUOTE_BYTES));
    bundle.entries.push(prepared ?? (inner as Bundlable));
  }

  #open(bundleId: number, flags: number, request: Request): void {
    this.#bundles.set(bundleId, {
      flags,
      closed: false,
      uses: 0,
      usedMs: performance.now(),
      head: head(request),
      entries: [],
      headsAt: [],
      heads: new ByteStore(),
      bytes: 0,
    });
    if (this.#timer === undefined) {
      this.#timer = setInterval(() => this.#expire(), EXPIRY_INTERVAL_MS);
      this.#timer.unref();
    }
  }

  /** A mistake ends the bundle. */
  #writable(bundleId: number, flags: number): Bundle {
    const bundle = this.#bundles.get(bundleId);
    if (bundle === undefined) throw new OfError('OFPBFC_BAD_ID');
    if (bundle.closed) {
      this.#drop(bundleId);
      throw new OfError('OFPBFC_BUNDLE_CLOSED');
    }
    if (bundle.flags !== flags) {
      this.#drop(bundleId);
      throw new OfError('OFPBFC_BAD_FLAGS');
    }
    return bundle;
  }

  #commit(bundleId: number, flags: number): void {
    const bundle = this.#bundles.get(bundleId);
    if (bundle === undefined) throw new OfError('OFPBFC_BAD_ID');
    if (bundle.flags !== flags) {
      this.#drop(bundleId);
      throw new OfError('OFPBFC_BAD_FLAGS');
    }
    // Gone whatever the outcome.
    this.#bundles.delete(bundleId);
    const { version } = this.#conn;
    const transaction = this.#switch.tables.begin();
    /** What cannot be undone runs after everything has been found good. */
    const later: (() => void)[] = [];
    const undo: (() => void)[] = [];
    for (let i = 0; i < bundle.entries.length; i++) {
      const what = bundle.entries[i]!;
      const headAt = bundle.headsAt[i]!;
      const xid = bundle.heads.u32(headAt, XID_OFFSET);
      try {
        if ('rule' in what) {
          transaction.addPrepared(what, { connection: this.#conn, xid, version });
          continue;
        }
        const message = what;
        switch (message.type) {
          case 'flow_mod':
            transaction.apply(message.flowMod, { connection: this.#conn, xid, version });
            break;
          case 'port_mod': {
            // Port changes reach the outside at once: not atomic.
            if (flags & OFPBF_ATOMIC) throw new OfError('OFPBFC_MSG_FAILED');
            checkPortMod(this.#switch, message.portMod);
            later.push(() => applyPortMod(this.#switch, message.portMod, this.#conn));
            break;
          }
          case 'packet_out': {
            const { inPort, match, actions, data } = message.packetOut;
            // It meets the tables as the messages before it have made them.
            const { bridge } = this.#switch;
            const prepared = bridge.preparePacketOut?.(inPort, match, actions, data, version) ?? {
              send: () => bridge.packetOut(inPort, match, actions, data, version),
              discard: () => {},
            };
            later.push(() => prepared.send());
            undo.push(() => prepared.discard());
            break;
          }
          case 'group_mod': {
            checkBuckets(this.#switch, message);
            const change = plainChange(this.#switch, message);
            transaction.applyGroup(message, { connection: this.#conn, xid, version });
            later.push(() => this.#switch.groupModified(change, xid, this.#conn));
            break;
          }
        }
      } catch (error) {
        transaction.rollback();
        for (const drop of undo) drop();
        void this.#discard(bundle);
        if (!(error instanceof OfError)) throw error;
        this.#conn.sendError(error.code, bundle.heads.get(headAt));
        throw new OfError('OFPBFC_MSG_FAILED');
      }
    }
    transaction.commit();
    for (const what of bundle.entries) {
      if ('rule' in what) this.#conn.flowMods.note('add');
      else countFlowMod(this.#conn, what);
    }
    for (const run of later) run();
  }

  /** Forgets a bundle that was not committed. False: there is none. */
  #drop(bundleId: number): boolean {
    const bundle = this.#bundles.get(bundleId);
    if (bundle === undefined) return false;
    this.#bundles.delete(bundleId);
    void this.#discard(bundle);
    return true;
  }

  /** Gives up the places of its flows, in slices: nobody sees them. */
  async #discard({ entries }: Bundle): Promise<void> {
    let sliceEndMs = performance.now() + DISCARD_SLICE_MS;
    for (const what of entries) {
      if (!('rule' in what)) continue;
      discardFlow(this.#switch.bridge, what);
      if (performance.now() < sliceEndMs) continue;
      await new Promise((resolve) => setImmediate(resolve));
      sliceEndMs = performance.now() + DISCARD_SLICE_MS;
    }
  }

  #expire(): void {
    const nowMs = performance.now();
    for (const [id, bundle] of this.#bundles) {
      // The last of several came within an interval of the first.
      if (bundle.uses === 2) bundle.usedMs = Math.min(nowMs, bundle.usedMs + EXPIRY_INTERVAL_MS);
      bundle.uses = 0;
      if (bundle.usedMs > nowMs - this.#switch.bundleIdleTimeoutMs) continue;
      this.#drop(id);
      this.#conn.sendError('OFPBFC_TIMEOUT', bundle.head);
    }
    if (this.#bundles.size === 0) {
      clearInterval(this.#timer);
      this.#timer = undefined;
    }
  }
}

function noteUse(bundle: Bundle): void {
  if (bundle.uses === 0) {
    bundle.uses = 1;
    bundle.usedMs = performance.now();
  } else {
    bundle.uses = 2;
  }
}

export function countFlowMod(conn: Ofconn, message: Message): void {
  if (message.type !== 'flow_mod') return;
  const { command } = message.flowMod;
  const kind = command === 'add' ? 'add' : command.startsWith('modify') ? 'modify' : 'delete';
  conn.flowMods.note(kind);
}

/** Many short pieces of bytes, in few buffers. */
class ByteStore {
  readonly #chunks: Uint8Array[] = [];
  #used = STORE_CHUNK;

  /** Keeps a copy of the first `max` bytes; gives their place. */
  add(bytes: Uint8Array, max: number): number {
    const length = Math.min(bytes.length, max);
    if (this.#used + 2 + length > STORE_CHUNK) {
      this.#chunks.push(new Uint8Array(STORE_CHUNK));
      this.#used = 0;
    }
    const chunk = this.#chunks[this.#chunks.length - 1]!;
    const at = this.#used;
    chunk[at] = length >> 8;
    chunk[at + 1] = length;
    chunk.set(length === bytes.length ? bytes : bytes.subarray(0, length), at + 2);
    this.#used += 2 + length;
    return (this.#chunks.length - 1) * STORE_CHUNK + at;
  }

  /** A number in network byte order, `offset` bytes from the start of a piece. */
  u32(place: number, offset: number): number {
    const chunk = this.#chunks[Math.floor(place / STORE_CHUNK)]!;
    return get32(chunk, (place % STORE_CHUNK) + 2 + offset);
  }

  get(place: number): Uint8Array {
    const chunk = this.#chunks[Math.floor(place / STORE_CHUNK)]!;
    const at = place % STORE_CHUNK;
    return chunk.slice(at + 2, at + 2 + ((chunk[at]! << 8) | chunk[at + 1]!));
  }
}

/** Enough of the message for the error that may have to quote it. */
function head(request: Request): Uint8Array {
  return request.bytes.slice(0, QUOTE_BYTES);
}
