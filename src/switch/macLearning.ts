// MAC learning of one bridge: (VLAN, address) → bundle, with ageing, a size limit and fair eviction (an address of the
// bundle that has learned most goes first), as ovs-vswitchd does for the NORMAL action.
//
// `onChange` names each (VLAN, address) whose answer changed, so that only the megaflows that asked for it are
// translated again.

import { be16, be32 } from './flow.ts';
import type { Bundle } from './types.ts';

/** A gratuitous ARP from a single port wins over reflections that come back over a bond, for this long. */
const GRATUITOUS_ARP_LOCK_MS = 5000;
export const STATIC_AGE = -1;

export interface MacEntry {
  readonly id: number;
  readonly mac: Uint8Array;
  readonly vlan: number;
  bundle: Bundle;
  /** Time of death; 0 for static entries. */
  expiresMs: number;
  isStatic: boolean;
  garpLockUntilMs: number;
}

/** Map key of (VLAN, address): 60 bits do not fit a number, four UTF-16 units hold them. */
export function macKey(mac: Uint8Array, offset: number, vlan: number): string {
  return String.fromCharCode(vlan, be16(mac, offset), be16(mac, offset + 2), be16(mac, offset + 4));
}

export function isMulticast(mac: Uint8Array, offset = 0): boolean {
  return (mac[offset]! & 1) !== 0;
}

/** What has happened in MAC tables since the start; fdb/stats-clear does not touch it. */
export interface MacEvents {
  learned: number;
  expired: number;
  evicted: number;
  moved: number;
  /** Packets from a static address that came in elsewhere. */
  staticNoneMove: number;
}

export const newMacEvents = (): MacEvents => ({
  learned: 0,
  expired: 0,
  evicted: 0,
  moved: 0,
  staticNoneMove: 0,
});

export class MacTable {
  readonly #now: () => number;
  readonly #entries = new Map<string, MacEntry>();
  readonly #perBundle = new Map<Bundle, number>();
  #nextId = 1;
  #agingMs = 300_000;
  maxEntries = 8192;
  /** VLANs that are flooded instead of learned. */
  floodVlans: ReadonlySet<number> = new Set();
  totalLearned = 0;
  totalExpired = 0;
  totalEvicted = 0;
  totalMoved = 0;
  events = newMacEvents();
  /** Called with the key (macKey) of each answer that changed; undefined = all. */
  onChange: ((key: string | undefined) => void) | undefined;

  constructor(now: () => number) {
    this.#now = now;
  }

  get size(): number {
    return this.#entries.size;
  }

  get staticCount(): number {
    let count = 0;
    for (const entry of this.#entries.values()) if (entry.isStatic) count++;
    return count;
  }

  get agingMs(): number {
    return this.#agingMs;
  }

  /** mac-aging-time; entries keep the age that they have. */
  set agingMs(ms: number) {
    const difference = ms - this.#agingMs;
    this.#agingMs = ms;
    for (const entry of this.#entries.values()) if (!entry.isStatic) entry.expiresMs += difference;
  }

  /** Seconds since the last packet from the address; STATIC_AGE for a static entry. */
  ageSeconds(entry: MacEntry): number {
    if (entry.isStatic) return STATIC_AGE;
    return Math.max(0, Math.floor((this.#now() - (entry.expiresMs - this.#agingMs)) / 1000));
  }

  /** Where packets to the address at `mac[offset…]` go. */
  lookup(mac: Uint8Array, offset: number, vlan: number): MacEntry | undefined {
    if (isMulticast(mac, offset) || this.floodVlans.has(vlan)) return undefined;
    const entry = this.#entries.get(macKey(mac, offset, vlan));
    if (entry === undefined || (!entry.isStatic && entry.expiresMs <= this.#now()))
      return undefined;
    return entry;
  }

  /** A packet from the address came in on `bundle`. True if the table changed its answer. */
  update(
    mac: Uint8Array,
    offset: number,
    vlan: number,
    bundle: Bundle,
    gratuitousArp: boolean,
    usedMs = this.#now(),
  ): boolean {
    if (isMulticast(mac, offset) || this.floodVlans.has(vlan)) return false;
    const key = macKey(mac, offset, vlan);
    let entry = this.#entries.get(key);
    if (entry?.isStatic) {
      if (entry.bundle !== bundle) this.events.staticNoneMove++;
      return false;
    }
    const isBond = bundle.ports.length > 1;
    const now = this.#now();
    if (entry === undefined) {
      if (usedMs + this.#agingMs <= now) return false;
      entry = this.#add(key, mac.slice(offset, offset + 6), vlan, bundle, false);
      entry.expiresMs = usedMs + this.#agingMs;
      if (gratuitousArp && !isBond) entry.garpLockUntilMs = now + GRATUITOUS_ARP_LOCK_MS;
      this.totalLearned++;
      this.events.learned++;
      this.onChange?.(key);
      return true;
    }
    const wasExpired = entry.expiresMs <= now;
    const expiresMs = Math.max(entry.expiresMs, usedMs + this.#agingMs);
    if (expiresMs !== entry.expiresMs) {
      entry.expiresMs = expiresMs;
      // Most recently used last: that is the order of fdb/show and of eviction.
      this.#entries.delete(key);
      this.#entries.set(key, entry);
    }
    if (gratuitousArp) {
      if (!isBond) entry.garpLockUntilMs = now + GRATUITOUS_ARP_LOCK_MS;
      else if (entry.garpLockUntilMs > now) return false;
    }
    if (entry.bundle === bundle) {
      if (wasExpired) this.onChange?.(key);
      return wasExpired;
    }
    this.#count(entry.bundle, -1);
    entry.bundle = bundle;
    this.#count(bundle, 1);
    this.totalMoved++;
    this.events.moved++;
    this.onChange?.(key);
    return true;
  }

  /** fdb/add. False when the VLAN or address cannot be learned. */
  addStatic(mac: Uint8Array, vlan: number, bundle: Bundle): boolean {
    if (isMulticast(mac) || this.floodVlans.has(vlan)) return false;
    const key = macKey(mac, 0, vlan);
    this.#remove(key);
    this.#add(key, mac.slice(0, 6), vlan, bundle, true);
    this.onChange?.(key);
    return true;
  }

  /** fdb/del. False when there is no such static entry. */
  removeStatic(mac: Uint8Array, vlan: number): boolean {
    const key = macKey(mac, 0, vlan);
    if (!this.#entries.get(key)?.isStatic) return false;
    this.#remove(key);
    this.onChange?.(key);
    return true;
  }

  /** fdb/flush: static entries stay. */
  flush(): void {
    for (const [key, entry] of this.#entries) {
      if (entry.isStatic) continue;
      this.#remove(key);
      this.onChange?.(key);
    }
  }

  /** Forgets what was learned on a bundle, static entries too (the port is gone). */
  flushBundle(bundle: Bundle): void {
    for (const [key, entry] of this.#entries) {
      if (entry.bundle !== bundle) continue;
      this.#remove(key);
      this.onChange?.(key);
    }
  }

  /** Forgets an address as if it had grown too old. */
  forget(mac: Uint8Array, vlan: number): void {
    const key = macKey(mac, 0, vlan);
    if (!this.#entries.has(key)) return;
    this.#remove(key);
    this.onChange?.(key);
  }

  /** Forgets what was learned on a bundle: the way there may have changed. */
  flushLearned(bundle: Bundle): void {
    for (const [key, entry] of this.#entries) {
      if (entry.bundle !== bundle || entry.isStatic) continue;
      this.#remove(key);
      this.onChange?.(key);
    }
  }

  /** Removes what is older than the ageing time; call about once a second. */
  expire(): void {
    const now = this.#now();
    for (const [key, entry] of this.#entries) {
      if (entry.isStatic || entry.expiresMs > now) continue;
      this.#remove(key);
      this.totalExpired++;
      this.events.expired++;
      this.onChange?.(key);
    }
  }

  /** Applies a new maxEntries. */
  shrink(): void {
    while (this.#entries.size > this.maxEntries && this.#evict());
  }

  clearStats(): void {
    this.totalLearned = 0;
    this.totalExpired = 0;
    this.totalEvicted = 0;
    this.totalMoved = 0;
  }

  /** Least recently used first. */
  [Symbol.iterator](): Iterator<MacEntry> {
    return this.#entries.values();
  }

  #add(key: string, mac: Uint8Array, vlan: number, bundle: Bundle, isStatic: boolean): MacEntry {
    if (this.#entries.size >= this.maxEntries) this.#evict();
    const entry: MacEntry = {
      id: this.#nextId++,
      mac,
      vlan,
      bundle,
      isStatic,
      expiresMs: 0,
      garpLockUntilMs: 0,
    };
    this.#entries.set(key, entry);
    this.#count(bundle, 1);
    return entry;
  }

  #evict(): boolean {
    let greedy: Bundle | undefined;
    let most = 0;
    for (const [bundle, count] of this.#perBundle) {
      if (count > most) {
        most = count;
        greedy = bundle;
      }
    }
    for (const [key, entry] of this.#entries) {
      if (entry.bundle !== greedy || entry.isStatic) continue;
      this.#remove(key);
      this.totalEvicted++;
      this.events.evicted++;
      this.onChange?.(key);
      return true;
    }
    return false;
  }

  #remove(key: string): void {
    const entry = this.#entries.get(key);
    if (entry === undefined) return;
    this.#entries.delete(key);
    this.#count(entry.bundle, -1);
  }

  #count(bundle: Bundle, change: number): void {
    const count = (this.#perBundle.get(bundle) ?? 0) + change;
    if (count > 0) this.#perBundle.set(bundle, count);
    else this.#perBundle.delete(bundle);
  }
}

/** Link protocols that a bridge must not forward: 01:80:c2:00:00:0x, Extreme's and Cisco's discovery and CFM. */
export function isReservedAddress(record: Uint8Array, offset: number): boolean {
  const high = be32(record, offset);
  const low = be16(record, offset + 4);
  if (high === 0x0180c200) return (low & 0xfff0) === 0;
  if (high === 0x00e02b00) return low === 0 || low === 4 || low === 6;
  if (high === 0x01000c00) return low === 0;
  if (high === 0x01000ccc) return low === 0xcccc || low === 0xcccd || (low & 0xfff8) === 0xccc0;
  return high === 0x01000ccd && low === 0xcdcd;
}
