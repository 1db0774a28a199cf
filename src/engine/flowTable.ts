// The megaflow table's only writer (contract/table.ts has the layout and the rules of publication and removal).

import { ACTIONS_MAX_WORDS } from '../../contract/action.ts';
import { KEY_SIZE } from '../../contract/key.ts';
import { MAX_WORKERS } from '../../contract/memory.ts';
import { MAX_PORTS } from '../../contract/port.ts';
import {
  FC_BYTES,
  FC_PACKETS,
  FC_TCP_FLAGS,
  FC_USED_MS,
  FL_HASH,
  FL_INDEX,
  FL_INLINE,
  FL_INLINE_WORDS,
  FL_KEY,
  FL_LINES,
  FL_NEXT,
  FL_PROGRAM,
  FL_STATE,
  FL_SUBTABLE,
  FLOW_COUNTER_SIZE,
  FLOW_INDEX_BASE,
  FLOW_INDEX_BUCKETS,
  FLOW_RECORD_SIZE,
  FLOW_RECORDS_BASE,
  FLOWS_MAX,
  FP_BYTES,
  FP_MASK,
  FP_NONE,
  FP_OUTPUT,
  FP_PORT,
  flowCountersAddress,
  ST_PLAIN,
} from '../../contract/table.ts';
import type { Grace } from './grace.ts';
import { type EngineMemory, putWords } from './memory.ts';
import { canBePlain, onlyOutput, writePlain } from './plainLine.ts';
import { Programs } from './programs.ts';
import { type Subtable, Subtables } from './subtables.ts';
import type { FlowId, FlowStats } from './types.ts';

const LINE_WORDS = 16;

/** The hash of the data plane, from the main thread's own instance of it: hashOf(key, subtable). */
export type HashOf = (key: number, subtable: number) => number;

export class FlowTable {
  private readonly memory: EngineMemory;
  private readonly grace: Grace;
  private readonly hashOf: HashOf;
  private readonly subtables: Subtables;
  private readonly programs: Programs;
  /** Bytes of the programs outside of the records, 0 = inline. */
  private readonly programBytes = new Uint32Array(FLOWS_MAX);
  private readonly draft = new Uint8Array(KEY_SIZE);
  private readonly draftWords = new Uint32Array(this.draft.buffer);
  private readonly free: number[] = [];
  private next = 0;
  private live = 0;
  /** Highest worker number that has ever run: counters beyond it are zero. */
  workersSeen = 1;
  /** Flows that found no room, in record, mask or program. */
  overflows = 0;

  constructor(memory: EngineMemory, grace: Grace, hashOf: HashOf) {
    this.memory = memory;
    this.grace = grace;
    this.hashOf = hashOf;
    this.subtables = new Subtables(memory, grace);
    this.programs = new Programs(memory.u32);
  }

  get size(): number {
    return this.live;
  }

  get masks(): number {
    return this.subtables.size;
  }

  /** `keep`: a flow of the same key and mask keeps its program. */
  put(key: Uint8Array, mask: Uint8Array, actions: Uint32Array, keep = false): FlowId {
    const port = portOf(key);
    const fits = port < MAX_PORTS && actions.length <= ACTIONS_MAX_WORDS;
    const id = fits ? this.takeId() : -1;
    const subtable = id < 0 ? undefined : this.subtables.find(mask);
    if (subtable === undefined) {
      if (id >= 0) this.free.push(id);
      this.overflows++;
      return -1;
    }
    const { memory } = this;
    const { u32 } = memory;
    const { maskWords } = subtable;
    const record = recordOf(id);
    const first = (record + FL_KEY) / 4;
    const lines = this.writeKey(record, key, subtable);
    const hash = this.hashOf(record + FL_KEY, subtable.address) >>> 0;
    const existing = this.findSame(hash, subtable, record + FL_KEY);
    if (existing >= 0) {
      this.free.push(id);
      if (!keep) this.setActions(existing, actions);
      return existing;
    }
    const program = this.writeProgram(id, actions, true);
    if (program === 0) {
      this.free.push(id);
      this.subtables.release(subtable);
      this.overflows++;
      return -1;
    }
    memory.set(record + FL_HASH, hash);
    memory.set(record + FL_SUBTABLE, subtable.address);
    memory.set(record + FL_PROGRAM, program);
    memory.set(record + FL_INDEX, id);
    this.clearCounters(id);
    const bucket = bucketOf(hash);
    memory.set(record + FL_NEXT, memory.get(bucket));
    memory.set(record + FL_STATE, 1);
    writePlain(u32, (record + FP_BYTES) / 4, u32, first);
    memory.set(record + FP_MASK, subtable.address + ST_PLAIN);
    memory.set(record + FP_OUTPUT, onlyOutput(actions));
    const plain = canBePlain(u32, first, maskWords, lines);
    // Last, for a worker may remember the record from before.
    memory.store(record + FP_PORT, plain ? port : FP_NONE);
    memory.store(bucket, record);
    this.subtables.use(subtable, port);
    this.live++;
    return id;
  }

  /** The flow of this key and mask, -1 = there is none. Nothing is put. */
  find(key: Uint8Array, mask: Uint8Array): FlowId {
    const subtable = this.subtables.known(mask);
    // The hash is the data plane's own, of a key in its memory: a record that nobody uses lends its place.
    const id = subtable === undefined ? -1 : this.takeId();
    if (subtable === undefined || id < 0) return -1;
    const at = recordOf(id) + FL_KEY;
    this.writeKey(recordOf(id), key, subtable);
    const found = this.findSame(this.hashOf(at, subtable.address) >>> 0, subtable, at);
    this.free.push(id);
    return found;
  }

  setActions(id: FlowId, actions: Uint32Array): void {
    const record = this.liveRecord(id);
    const oldAddress = this.memory.get(record + FL_PROGRAM);
    const oldBytes = this.programBytes[id]!;
    const oldWords = oldBytes > 0 ? oldBytes / 4 : FL_INLINE_WORDS;
    if (samePrefix(this.memory, oldAddress, actions, oldWords)) return;
    const program = this.writeProgram(id, actions, false);
    if (program === 0) throw new Error('no room for action programs');
    this.memory.store(record + FL_PROGRAM, program);
    this.memory.store(record + FP_OUTPUT, onlyOutput(actions));
    if (oldBytes > 0) this.grace.after(() => this.programs.give(oldAddress, oldBytes));
  }

  delete(id: FlowId): Promise<FlowStats> {
    const record = this.liveRecord(id);
    const { memory } = this;
    const port = swapped(memory.get(record + FL_KEY));
    memory.store(record + FL_STATE, 0);
    memory.store(record + FP_PORT, FP_NONE);
    let link = bucketOf(memory.get(record + FL_HASH));
    while (memory.get(link) !== record) link = memory.get(link) + FL_NEXT;
    memory.store(link, memory.get(record + FL_NEXT));
    this.live--;
    this.subtables.unuse(this.subtables.at(memory.get(record + FL_SUBTABLE)), port);
    return new Promise((resolve) => {
      this.grace.after(() => {
        const stats = this.read(id);
        const bytes = this.programBytes[id]!;
        if (bytes > 0) this.programs.give(memory.get(record + FL_PROGRAM), bytes);
        this.free.push(id);
        resolve(stats);
      });
    });
  }

  stats(id: FlowId): FlowStats {
    this.liveRecord(id);
    return this.read(id);
  }

  /** Orders the port lists by the use of their subtables. To be called now and then. */
  sort(): void {
    this.subtables.sort();
  }

  private takeId(): FlowId {
    return this.free.pop() ?? (this.next < FLOWS_MAX ? this.next++ : -1);
  }

  /** The masked key, into a record that no worker reads. Gives the lines of it that are not zero. */
  private writeKey(
    record: number,
    key: Uint8Array,
    { maskWords, lines: masked }: Subtable,
  ): number {
    const { u32 } = this.memory;
    const { draftWords } = this;
    this.draft.set(key);
    let lines = 0;
    // What is zero in the mask, and was zero in the record's last key, costs no line of memory.
    for (let line = 0, left = masked | this.memory.get(record + FL_LINES); left !== 0; line++) {
      const first = line * LINE_WORDS;
      const to = (record + FL_KEY) / 4 + first;
      let any = 0;
      for (let i = 0; (left & 1) !== 0 && i < LINE_WORDS; i++) {
        const word = draftWords[first + i]! & maskWords[first + i]!;
        u32[to + i] = word;
        any |= word;
      }
      if (any !== 0) lines |= 1 << line;
      left >>>= 1;
    }
    this.memory.set(record + FL_LINES, lines);
    return lines;
  }

  private liveRecord(id: FlowId): number {
    const record = recordOf(id);
    const live = id >= 0 && id < this.next && this.memory.get(record + FL_STATE) === 1;
    if (!live) throw new Error(`no megaflow ${id}`);
    return record;
  }

  private read(id: FlowId): FlowStats {
    const stats: FlowStats = { packets: 0, bytes: 0, usedMs: 0, tcpFlags: 0 };
    for (let worker = 0; worker < this.workersSeen; worker++) {
      const at = flowCountersAddress(worker, id);
      stats.packets += this.memory.f64[(at + FC_PACKETS) / 8]!;
      stats.bytes += this.memory.f64[(at + FC_BYTES) / 8]!;
      stats.usedMs = Math.max(stats.usedMs, this.memory.f64[(at + FC_USED_MS) / 8]!);
      stats.tcpFlags |= this.memory.get(at + FC_TCP_FLAGS);
    }
    return stats;
  }

  private clearCounters(id: FlowId): void {
    for (let worker = 0; worker < Math.min(this.workersSeen, MAX_WORKERS); worker++) {
      const first = flowCountersAddress(worker, id) / 8;
      for (let i = 0; i < FLOW_COUNTER_SIZE / 8; i++) this.memory.f64[first + i] = 0;
    }
  }

  /** Writes a program where no worker reads: into the fresh record, or into space of its own or of flows that do the same. */
  private writeProgram(id: FlowId, actions: Uint32Array, fresh: boolean): number {
    const inline = fresh && actions.length <= FL_INLINE_WORDS;
    const address = inline ? recordOf(id) + FL_INLINE : this.programs.take(actions);
    if (address === 0) return 0;
    if (inline) putWords(this.memory.u32, address / 4, actions);
    this.programBytes[id] = inline ? 0 : actions.length * 4;
    return address;
  }

  private findSame(hash: number, subtable: Subtable, key: number): FlowId {
    const { memory } = this;
    let record = memory.get(bucketOf(hash));
    for (; record !== 0; record = memory.get(record + FL_NEXT)) {
      if (memory.get(record + FL_HASH) !== hash) continue;
      if (memory.get(record + FL_SUBTABLE) !== subtable.address) continue;
      let same = true;
      for (let i = 0; same && i < KEY_SIZE; i += 4) {
        same = memory.get(record + FL_KEY + i) === memory.get(key + i);
      }
      if (same) return memory.get(record + FL_INDEX);
    }
    return -1;
  }
}

function portOf(key: Uint8Array): number {
  return ((key[0]! << 24) | (key[1]! << 16) | (key[2]! << 8) | key[3]!) >>> 0;
}

/** A big-endian word of a key, as read in host order. */
function swapped(word: number): number {
  return ((word >>> 24) | ((word >>> 8) & 0xff00) | ((word & 0xff00) << 8) | (word << 24)) >>> 0;
}

function recordOf(id: FlowId): number {
  return FLOW_RECORDS_BASE + id * FLOW_RECORD_SIZE;
}

function bucketOf(hash: number): number {
  return FLOW_INDEX_BASE + ((hash & (FLOW_INDEX_BUCKETS - 1)) >>> 0) * 4;
}

function samePrefix(
  memory: EngineMemory,
  address: number,
  actions: Uint32Array,
  words: number,
): boolean {
  if (actions.length > words) return false;
  return actions.every((word, i) => memory.get(address + i * 4) === word);
}
