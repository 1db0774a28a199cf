// Masks of the megaflow table, and for each input port the list of masks that its flows have (contract/table.ts).
//
// A port list is written in place while it grows. Anything else (an entry less, another order) is written into the
// port's other copy, which is published with one store; the old copy may be written again after a grace period.

import {
  K_CT_LABEL,
  K_CT_MARK,
  K_CT_STATE,
  K_MPLS_COUNT,
  K_ND_RESERVED,
  K_NSH,
  K_NW_PROTO,
  K_NW_TOS,
  K_PACKET_TYPE,
  KEY_SIZE,
  NSH_KEY_BYTES,
} from '../../contract/key.ts';
import { MAX_WORKERS } from '../../contract/memory.ts';
import { PT_MASKS, PT_MASKS_COUNT, PT_SIMPLE, portAddress } from '../../contract/port.ts';
import {
  PORT_LIST_SIZE,
  PORT_LISTS_BASE,
  ST_BLOCK,
  ST_BLOCKS,
  ST_INDEX,
  ST_MASK,
  ST_PLAIN,
  ST_SEED,
  ST_SIMPLE,
  SUBTABLE_HITS_BASE,
  SUBTABLE_SIZE,
  SUBTABLES_BASE,
  SUBTABLES_MAX,
} from '../../contract/table.ts';
import type { Grace } from './grace.ts';
import type { EngineMemory } from './memory.ts';
import { writePlain } from './plainLine.ts';

/**
 * What dataplane/simple.ts knows of a packet just received: ports, Ethernet, VLAN tags and whether it is a fragment. And
 * metadata, which are zero.
 */
const SIMPLE_BYTES: readonly boolean[] = Array.from({ length: KEY_SIZE }, (_, i) => {
  const within = (from: number, to: number) => i >= from && i < to;
  return (
    (within(0, K_NW_TOS) && i !== K_NW_PROTO) ||
    within(K_CT_STATE, K_MPLS_COUNT) ||
    within(K_CT_MARK, 64) ||
    within(K_CT_LABEL, K_ND_RESERVED) ||
    within(K_PACKET_TYPE, K_NSH) ||
    within(K_NSH + NSH_KEY_BYTES, KEY_SIZE)
  );
});

export interface Subtable {
  readonly index: number;
  readonly address: number;
  /** KEY_SIZE bytes, in_port and recirc_id always all ones. */
  readonly mask: Uint8Array;
  /** The same memory, as host words. */
  readonly maskWords: Uint32Array;
  readonly name: string;
  /** Bit n = line n (64 bytes) of the mask is not all zero. */
  readonly lines: number;
  /** Looks at no more than the Ethernet header and the fragment bits (dataplane/simple.ts). */
  readonly simple: boolean;
  /** Flows by input port. */
  readonly ports: Map<number, number>;
  hitsBefore: number;
  hits: number;
}

interface PortList {
  /** In the order of the published copy. */
  order: Subtable[];
  copy: 0 | 1;
  /** The other copy may still be read. */
  busy: boolean;
  dirty: boolean;
}

export class Subtables {
  private readonly memory: EngineMemory;
  private readonly grace: Grace;
  private readonly byMask = new Map<string, Subtable>();
  private readonly byIndex: Subtable[] = [];
  private readonly lists = new Map<number, PortList>();
  private readonly free: number[] = [];
  private next = 0;
  private readonly masked = new Uint8Array(KEY_SIZE);
  private readonly maskedWords = new Uint32Array(this.masked.buffer);
  private lastFound: Subtable | undefined;

  constructor(memory: EngineMemory, grace: Grace) {
    this.memory = memory;
    this.grace = grace;
  }

  get size(): number {
    return this.byMask.size;
  }

  /** The subtable at an address that a megaflow names. */
  at(address: number): Subtable {
    return this.byIndex[(address - SUBTABLES_BASE) / SUBTABLE_SIZE]!;
  }

  /** The subtable of a mask, made if need be; undefined when there is no room for another mask. */
  find(mask: Uint8Array): Subtable | undefined {
    const found = this.known(mask);
    if (found !== undefined) return found;
    const name = this.maskedName();
    // The last number stays unused, so that a port list of all subtables has room for its end.
    const index = this.free.pop() ?? (this.next < SUBTABLES_MAX - 1 ? this.next++ : -1);
    if (index < 0) return undefined;
    const subtable = this.write(index, this.masked.slice(), name);
    this.byMask.set(name, subtable);
    this.byIndex[index] = subtable;
    return subtable;
  }

  /** The subtable of a mask, if flows have it. */
  known(mask: Uint8Array): Subtable | undefined {
    this.masked.set(mask.length === KEY_SIZE ? mask : mask.subarray(0, KEY_SIZE));
    this.maskedWords[0] = 0xffffffff;
    this.maskedWords[1] = 0xffffffff;
    // Misses come in runs with the same mask, and its name costs more than the comparison.
    const last = this.lastFound;
    if (last !== undefined && this.isMasked(last)) return last;
    const found = this.byMask.get(this.maskedName());
    if (found !== undefined) this.lastFound = found;
    return found;
  }

  private maskedName(): string {
    return Buffer.from(this.masked.buffer).toString('latin1');
  }

  private isMasked({ maskWords }: Subtable): boolean {
    for (let i = 0; i < KEY_SIZE / 4; i++) if (maskWords[i] !== this.maskedWords[i]) return false;
    return true;
  }

  private write(index: number, mask: Uint8Array, name: string): Subtable {
    const { memory } = this;
    const address = SUBTABLES_BASE + index * SUBTABLE_SIZE;
    memory.set(address + ST_INDEX, index);
    memory.set(address + ST_SEED, Math.imul(index + 1, 0x9e3779b1) >>> 0);
    memory.u8.set(mask, address + ST_MASK);
    let blocks = 0;
    for (let offset = 0; offset < KEY_SIZE; offset += 16) {
      if (mask.subarray(offset, offset + 16).every((byte) => byte === 0)) continue;
      memory.u16[(address + ST_BLOCK) / 2 + blocks] = offset;
      blocks++;
    }
    memory.set(address + ST_BLOCKS, blocks);
    const simple = mask.every((byte, i) => byte === 0 || SIMPLE_BYTES[i]);
    memory.set(address + ST_SIMPLE, simple ? 1 : 0);
    const hits = this.sumHits(index);
    const maskWords = new Uint32Array(mask.buffer, mask.byteOffset, KEY_SIZE / 4);
    writePlain(memory.u32, (address + ST_PLAIN) / 4, maskWords, 0);
    let lines = 0;
    for (let i = 0; i < maskWords.length; i++) if (maskWords[i] !== 0) lines |= 1 << (i >> 4);
    const ports = new Map<number, number>();
    return {
      index,
      address,
      mask,
      maskWords,
      name,
      lines,
      simple,
      ports,
      hitsBefore: hits,
      hits: 0,
    };
  }

  /** A flow of `port` is in the subtable. */
  use(subtable: Subtable, port: number): void {
    const flows = subtable.ports.get(port) ?? 0;
    subtable.ports.set(port, flows + 1);
    if (flows > 0) return;
    let list = this.lists.get(port);
    if (list === undefined) {
      list = { order: [], copy: 0, busy: false, dirty: false };
      this.lists.set(port, list);
    }
    if (list.order.includes(subtable)) return; // left from before, its removal is still to come
    if (!subtable.simple) this.memory.store(portAddress(port) + PT_SIMPLE, 0);
    const at = copyAddress(port, list.copy) + list.order.length * 4;
    this.memory.set(at + 4, 0);
    this.memory.store(at, subtable.address);
    list.order.push(subtable);
    this.memory.store(portAddress(port) + PT_MASKS, copyAddress(port, list.copy));
    this.memory.set(portAddress(port) + PT_MASKS_COUNT, list.order.length);
    if (list.order.length === 1) this.hint(port, list);
  }

  /** A worker that takes the hint meets no subtable that is not simple, but for a moment. */
  private hint(port: number, { order }: PortList): void {
    const simple = order.length > 0 && order.every((subtable) => subtable.simple);
    this.memory.store(portAddress(port) + PT_SIMPLE, simple ? 1 : 0);
  }

  /** A flow of `port` left it. */
  unuse(subtable: Subtable, port: number): void {
    const flows = subtable.ports.get(port)! - 1;
    if (flows > 0) {
      subtable.ports.set(port, flows);
      return;
    }
    subtable.ports.delete(port);
    this.rewrite(port, this.lists.get(port)!);
    this.release(subtable);
  }

  /** Forgets the mask if it has no flows, once it stands in no port list and no worker can be reading it. */
  release(subtable: Subtable): void {
    if (subtable.ports.size > 0 || this.byMask.get(subtable.name) !== subtable) return;
    this.byMask.delete(subtable.name);
    if (this.lastFound === subtable) this.lastFound = undefined;
    this.reuseLater(subtable);
  }

  private reuseLater(subtable: Subtable): void {
    this.grace.after(() => {
      const listed = [...this.lists.values()].some((list) => list.order.includes(subtable));
      if (listed) this.reuseLater(subtable);
      else this.grace.after(() => this.free.push(subtable.index));
    });
  }

  /** Publishes the list anew without subtables that the port does not use, now or when its other copy is free. */
  private rewrite(
    port: number,
    list: PortList,
    compare?: (a: Subtable, b: Subtable) => number,
  ): void {
    if (list.busy) {
      list.dirty = true;
      return;
    }
    const order = list.order.filter((subtable) => subtable.ports.has(port));
    if (compare !== undefined) order.sort(compare);
    if (order.length === list.order.length && order.every((s, i) => s === list.order[i])) return;
    list.copy = list.copy === 0 ? 1 : 0;
    list.order = order;
    list.dirty = false;
    const at = copyAddress(port, list.copy);
    for (let i = 0; i < order.length; i++) this.memory.set(at + i * 4, order[i]!.address);
    this.memory.set(at + order.length * 4, 0);
    this.memory.store(portAddress(port) + PT_MASKS, at);
    this.memory.set(portAddress(port) + PT_MASKS_COUNT, order.length);
    this.hint(port, list);
    list.busy = true;
    this.grace.after(() => {
      list.busy = false;
      if (list.dirty) this.rewrite(port, list);
    });
  }

  /** Most used first, by the hits since the last call. */
  sort(): void {
    for (const subtable of this.byMask.values()) {
      const hits = this.sumHits(subtable.index);
      subtable.hits = (hits - subtable.hitsBefore) >>> 0;
      subtable.hitsBefore = hits;
    }
    for (const [port, list] of this.lists) {
      if (list.order.length > 1) this.rewrite(port, list, (a, b) => b.hits - a.hits);
    }
  }

  private sumHits(index: number): number {
    let sum = 0;
    for (let worker = 0; worker < MAX_WORKERS; worker++) {
      sum += this.memory.get(SUBTABLE_HITS_BASE + (worker * SUBTABLES_MAX + index) * 4);
    }
    return sum >>> 0;
  }
}

function copyAddress(port: number, copy: 0 | 1): number {
  return PORT_LISTS_BASE + (port * 2 + copy) * PORT_LIST_SIZE;
}
