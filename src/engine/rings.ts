// The control plane's ends of the rings to and from a worker (contract/ring.ts).

import { KEY_SIZE } from '../../contract/key.ts';
import { INJECT_BASE, UPCALL_BASE } from '../../contract/memory.ts';
import { MAX_PORTS } from '../../contract/port.ts';
import {
  IN_ACTIONS,
  IN_DATA_LEN,
  IN_IN_PORT,
  IN_KEY_META,
  IN_LENGTH,
  IN_PROGRAM,
  IN_TYPE,
  IN_VNET,
  INJECT_EXECUTE,
  INJECT_LOOKUP,
  INJECT_RING_SIZE,
  RING_DATA,
  RING_DATA_SIZE,
  RING_FILLER,
  RING_HEAD,
  RING_TAIL,
  UC_COOKIE,
  UC_DATA,
  UC_DATA_LEN,
  UC_HASH,
  UC_IN_PORT,
  UC_KEY,
  UC_LENGTH,
  UC_LINES,
  UC_PACKET_LEN,
  UC_TYPE,
  UC_VNET,
  UPCALL_HANDLED,
  UPCALL_RING_SIZE,
} from '../../contract/ring.ts';
import { type EngineMemory, putWords } from './memory.ts';
import type { Injection, Upcall } from './types.ts';

/** Nothing to say about offloads: a view of its own for each packet would cost more than the rest of its record. */
const NO_VNET = new Uint8Array(8);

const LINE = 64;
/** Frames up to here are copied, which costs less than a view of their own. A multiple of four. */
const SHORT_FRAME = 256;
/** Bytes that have been read, and of which the worker hears later: an atomic store for each record would cost as much as reading it. */
const READ_BYTES = 16 * 1024;

/** Consumer of the upcalls of one worker. */
export class UpcallRing {
  private readonly memory: EngineMemory;
  private readonly worker: number;
  private readonly ring: number;
  private readonly keyWords = new Uint32Array(KEY_SIZE / 4);
  private readonly key = new Uint8Array(this.keyWords.buffer);
  /** Those of it that are not zero: bit n = line n. */
  private keyLines = 0;
  private readonly frameWords = new Uint32Array(SHORT_FRAME / 4);
  /** Views of it, by length. */
  private readonly frames: Uint8Array[] = [];

  constructor(memory: EngineMemory, worker: number) {
    this.memory = memory;
    this.worker = worker;
    this.ring = UPCALL_BASE + worker * UPCALL_RING_SIZE;
  }

  get empty(): boolean {
    return this.memory.load(this.ring + RING_HEAD) === this.memory.get(this.ring + RING_TAIL);
  }

  /** Hands up to `max` upcalls to the callback; returns how many. The views are valid during the callback only. */
  drain(max: number, callback: (upcall: Upcall) => void): number {
    const { memory } = this;
    const head = memory.load(this.ring + RING_HEAD);
    let tail = memory.get(this.ring + RING_TAIL);
    let told = tail;
    let count = 0;
    try {
      while (tail !== head && count < max) {
        const at = this.ring + RING_DATA + (tail & (RING_DATA_SIZE - 1));
        const length = memory.get(at + UC_LENGTH);
        tail = (tail + length) >>> 0;
        if (memory.get(at + UC_TYPE) === RING_FILLER) continue;
        const inPort = memory.get(at + UC_IN_PORT);
        count++;
        try {
          callback(this.read(at));
        } finally {
          // Published with the tail.
          const handled = this.ring + UPCALL_HANDLED + (inPort & (MAX_PORTS - 1)) * 4;
          memory.set(handled, (memory.get(handled) + length) >>> 0);
        }
        if ((tail - told) >>> 0 < READ_BYTES) continue;
        memory.store(this.ring + RING_TAIL, tail);
        told = tail;
      }
    } finally {
      memory.store(this.ring + RING_TAIL, tail);
    }
    return count;
  }

  private read(at: number): Upcall {
    const { memory } = this;
    this.readKey(at + UC_KEY, memory.get(at + UC_LINES));
    return {
      worker: this.worker,
      reason: memory.get(at + UC_TYPE),
      cookie: memory.get(at + UC_COOKIE),
      inPort: memory.get(at + UC_IN_PORT),
      key: this.key,
      data: this.frame(at + UC_DATA, memory.get(at + UC_DATA_LEN)),
      packetLen: memory.get(at + UC_PACKET_LEN),
      vnet: this.vnet(at + UC_VNET),
      hash: memory.get(at + UC_HASH),
    };
  }

  /** Only what the worker has written, and what an earlier key has left. */
  private readKey(at: number, lines: number): void {
    const { keyWords } = this;
    const { u32 } = this.memory;
    for (let line = 0, left = lines | this.keyLines; left !== 0; line++, left >>>= 1) {
      if ((left & 1) === 0) continue;
      const isWritten = (lines & (1 << line)) !== 0;
      const to = line * (LINE / 4);
      const from = at / 4 + to;
      for (let i = 0; i < LINE / 4; i++) keyWords[to + i] = isWritten ? u32[from + i]! : 0;
    }
    this.keyLines = lines;
  }

  private frame(at: number, length: number): Uint8Array {
    const { u8, u32 } = this.memory;
    if (length > SHORT_FRAME) return u8.subarray(at, at + length);
    // The record's end is rounded up, so there are whole words.
    for (let i = 0; i < length; i += 4) this.frameWords[i >> 2] = u32[(at + i) >>> 2]!;
    this.frames[length] ??= new Uint8Array(this.frameWords.buffer, 0, length);
    return this.frames[length];
  }

  private vnet(at: number): Uint8Array {
    const { memory } = this;
    if ((memory.get(at) | memory.get(at + 4)) === 0) return NO_VNET;
    return memory.u8.subarray(at, at + 8);
  }
}

/** The first `length` bytes, without another view if that is all. */
function first(bytes: Uint8Array, length: number): Uint8Array {
  return bytes.length <= length ? bytes : bytes.subarray(0, length);
}

/** Producer of the injections of one worker. */
export class InjectRing {
  private readonly memory: EngineMemory;
  private readonly ring: number;

  constructor(memory: EngineMemory, worker: number) {
    this.memory = memory;
    this.ring = INJECT_BASE + worker * INJECT_RING_SIZE;
  }

  /** False: no room. */
  push(injection: Injection): boolean {
    const { memory } = this;
    const { frame, actions } = injection;
    const words = actions?.length ?? 0;
    const programBytes = (words * 4 + 15) & ~15;
    const size = (IN_PROGRAM + programBytes + frame.length + 15) & ~15;
    const at = this.reserve(size);
    if (at < 0) return false;
    memory.set(at + IN_TYPE, actions === undefined ? INJECT_LOOKUP : INJECT_EXECUTE);
    memory.set(at + IN_ACTIONS, words);
    memory.set(at + IN_IN_PORT, injection.inPort);
    memory.set(at + IN_DATA_LEN, frame.length);
    memory.set(at + IN_VNET, 0);
    memory.set(at + IN_VNET + 4, 0);
    const { vnet } = injection;
    if (vnet !== undefined && vnet !== NO_VNET) memory.u8.set(first(vnet, 8), at + IN_VNET);
    if (injection.key === undefined)
      memory.u8.fill(0, at + IN_KEY_META, at + IN_KEY_META + KEY_SIZE);
    else memory.u8.set(first(injection.key, KEY_SIZE), at + IN_KEY_META);
    if (actions !== undefined) putWords(memory.u32, (at + IN_PROGRAM) / 4, actions);
    memory.u8.set(frame, at + IN_PROGRAM + programBytes);
    memory.store(this.ring + RING_HEAD, (memory.get(this.ring + RING_HEAD) + size) >>> 0);
    return true;
  }

  private reserve(size: number): number {
    const { memory } = this;
    let head = memory.get(this.ring + RING_HEAD);
    const used = (head - memory.load(this.ring + RING_TAIL)) >>> 0;
    const toEnd = RING_DATA_SIZE - (head & (RING_DATA_SIZE - 1));
    const filler = toEnd < size ? toEnd : 0;
    if (used + size + filler > RING_DATA_SIZE) return -1;
    if (filler > 0) {
      const at = this.ring + RING_DATA + (head & (RING_DATA_SIZE - 1));
      memory.set(at + IN_LENGTH, filler);
      memory.set(at + IN_TYPE, RING_FILLER);
      head = (head + filler) >>> 0;
      memory.store(this.ring + RING_HEAD, head);
    }
    const at = this.ring + RING_DATA + (head & (RING_DATA_SIZE - 1));
    memory.set(at + IN_LENGTH, size);
    return at;
  }
}
