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
import type { EngineMemory } from './memory.ts';
import { canBePlain, onlyOutput, writePlain } from './plainLine.ts';
import { Programs } from './programs.ts';
import { type Subtable, Subtables } from './subtables.ts';
import type { FlowId, FlowStats } from './types.ts';

/** The hash of the data plane, from the main thread's own instance of it: hashOf(key, subtable). */
export type HashOf = (key: number, subtable: number) => number;

interface Flow {
  subtable: Subtable;
  port: number;
  /** Bytes of the program outside of the record, 0 = inline. */
  programBytes: number;
}

export class FlowTable {
  private readonly memory: EngineMemory;
  private readonly grace: Grace;
  private readonly hashOf: HashOf;
  private readonly subtables: Subtables;
  private readonly programs: Programs;
  private readonly flows: (Flow | undefined)[] = [];
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
    const flow: Flow = { subtable, port, programBytes: 0 };
    const program = this.writeProgram(id, flow, actions, true);
    if (program === 0) {
      this.free.push(id);
      this.subtables.release(subtable);
      this.overflows++;
      return -1;
    }
    memory.set(record + FL_LINES, lines);
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
    this.flows[id] = flow;
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
    const flow = this.flow(id);
    const record = recordOf(id);
    const oldAddress = this.memory.get(record + FL_PROGRAM);
    const oldBytes = flow.programBytes;
    const oldWords = oldBytes > 0 ? oldBytes / 4 : FL_INLINE_WORDS;
    if (samePrefix(this.memory, oldAddress, actions, oldWords)) return;
    const program = this.writeProgram(id, flow, actions, false);
    if (program === 0) throw new Error('no room for action programs');
    this.memory.store(record + FL_PROGRAM, program);
    this.memory.store(record + FP_OUTPUT, onlyOutput(actions));
    if (oldBytes > 0) this.grace.after(() => this.programs.give(oldAddress, oldBytes));
  }

  delete(id: FlowId): Promise<FlowStats> {
    const flow = this.flow(id);
    const { memory } = this;
    const record = recordOf(id);
    memory.store(record + FL_STATE, 0);
    memory.store(record + FP_PORT, FP_NONE);
    let link = bucketOf(memory.get(record + FL_HASH));
    while (memory.get(link) !== record) link = memory.get(link) + FL_NEXT;
    memory.store(link, memory.get(record + FL_NEXT));
    this.flows[id] = undefined;
    this.live--;
    this.subtables.unuse(flow.subtable, flow.port);
    return new Promise((resolve) => {
      this.grace.after(() => {
        const stats = this.read(id);
        if (flow.programBytes > 0) {
          this.programs.give(memory.get(record + FL_PROGRAM), flow.programBytes);
        }
        this.free.push(id);
        resolve(stats);
      });
    });
  }

  stats(id: FlowId): FlowStats {
    this.flow(id);
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
  private writeKey(record: number, key: Uint8Array, { maskWords }: Subtable): number {
    const { u8, u32 } = this.memory;
    u8.set(key, record + FL_KEY);
    const first = (record + FL_KEY) / 4;
    let lines = 0;
    for (let i = 0; i < KEY_SIZE / 4; i++) {
      const word = u32[first + i]! & maskWords[i]!;
      u32[first + i] = word;
      if (word !== 0) lines |= 1 << (i >> 4);
    }
    return lines;
  }

  private flow(id: FlowId): Flow {
    const flow = this.flows[id];
    if (flow === undefined) throw new Error(`no megaflow ${id}`);
    return flow;
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
      const at = flowCountersAddress(worker, id);
      this.memory.f64.fill(0, at / 8, (at + FLOW_COUNTER_SIZE) / 8);
    }
  }

  /** Writes a program where no worker reads: into the fresh record, or into space of its own or of flows that do the same. */
  private writeProgram(id: FlowId, flow: Flow, actions: Uint32Array, fresh: boolean): number {
    const inline = fresh && actions.length <= FL_INLINE_WORDS;
    const address = inline ? recordOf(id) + FL_INLINE : this.programs.take(actions);
    if (address === 0) return 0;
    if (inline) this.memory.u32.set(actions, address / 4);
    flow.programBytes = inline ? 0 : actions.length * 4;
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
