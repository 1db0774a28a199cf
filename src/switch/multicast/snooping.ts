// Multicast snooping of one bridge (RFC 4541): which bundles want which group, and where routers are; Open vSwitch calls it
// mdb. What is heard here decides where NORMAL sends multicast packets (forward.ts).

import type { Bundle } from '../types.ts';
import type { Membership } from './membership.ts';

const ROUTER_IDLE_MS = 180_000;

export interface SnoopingSettings {
  agingMs: number;
  maxEntries: number;
  /** Groups that nobody has asked for go to all ports, not only to routers. */
  floodUnregistered: boolean;
  /** mcast-snooping-flood: everything goes there. */
  floodPorts: ReadonlySet<string>;
  /** mcast-snooping-flood-reports. */
  reportPorts: ReadonlySet<string>;
}

export interface Group {
  readonly vlan: number;
  readonly address: Uint8Array;
  /** When each bundle's wish ends, the oldest wish first. */
  readonly members: Map<Bundle, number>;
}

export interface Router {
  readonly vlan: number;
  readonly bundle: Bundle;
  expiresMs: number;
}

const keyOf = (address: Uint8Array, vlan: number): string => String.fromCharCode(vlan, ...address);

export class McastSnooping {
  readonly #now: () => number;
  #settings: SnoopingSettings;
  /** Least recently used first. */
  readonly #groups = new Map<string, Group>();
  #routers: Router[] = [];
  /** Called when packets may have to go elsewhere. */
  readonly #onChange: () => void;

  constructor(settings: SnoopingSettings, now: () => number, onChange: () => void) {
    this.#settings = settings;
    this.#now = now;
    this.#onChange = onChange;
  }

  get settings(): SnoopingSettings {
    return this.#settings;
  }

  configure(settings: SnoopingSettings): void {
    const difference = settings.agingMs - this.#settings.agingMs;
    const names = (s: SnoopingSettings): string =>
      JSON.stringify([s.floodUnregistered, [...s.floodPorts].sort(), [...s.reportPorts].sort()]);
    const same = names(settings) === names(this.#settings);
    this.#settings = settings;
    for (const { members } of this.#groups.values()) {
      for (const [bundle, ms] of members) members.set(bundle, ms + difference);
    }
    this.#shrink();
    if (!same) this.#onChange();
  }

  get isEmpty(): boolean {
    return this.#groups.size === 0 && this.#routers.length === 0;
  }

  get groups(): Iterable<Group> {
    return this.#groups.values();
  }

  get routers(): readonly Router[] {
    return this.#routers;
  }

  lookup(address: Uint8Array, vlan: number): Group | undefined {
    return this.#groups.get(keyOf(address, vlan));
  }

  /** Seconds since a member was heard. */
  ageSeconds(expiresMs: number): number {
    return this.#age(expiresMs, this.#settings.agingMs);
  }

  routerAgeSeconds({ expiresMs }: Router): number {
    return this.#age(expiresMs, ROUTER_IDLE_MS);
  }

  #age(expiresMs: number, idleMs: number): number {
    return Math.max(0, Math.floor((this.#now() - expiresMs + idleMs) / 1000));
  }

  /** A message has come in. True if it changed something. */
  hear({ querier, changes }: Membership, vlan: number, bundle: Bundle): boolean {
    // Everything goes there anyhow; learned, it would go there twice.
    if (this.#settings.floodPorts.has(bundle.name)) return false;
    let changed = querier && this.#addRouter(vlan, bundle);
    for (const { join, group } of changes) {
      if (join ? this.#join(group, vlan, bundle) : this.#leave(group, vlan, bundle)) changed = true;
    }
    if (changed) this.#onChange();
    return changed;
  }

  #addRouter(vlan: number, bundle: Bundle): boolean {
    const at = this.#routers.findIndex((r) => r.vlan === vlan && r.bundle === bundle);
    if (at >= 0) this.#routers.splice(at, 1);
    this.#routers.push({ vlan, bundle, expiresMs: this.#now() + ROUTER_IDLE_MS });
    return at < 0;
  }

  #join(address: Uint8Array, vlan: number, bundle: Bundle): boolean {
    if (this.#routers.some((r) => r.vlan === vlan && r.bundle === bundle)) return false;
    const key = keyOf(address, vlan);
    const group = this.#groups.get(key) ?? { vlan, address, members: new Map() };
    const isNew = !group.members.has(bundle);
    // Most recently used last: groups, and members of a group.
    this.#groups.delete(key);
    this.#groups.set(key, group);
    group.members.delete(bundle);
    group.members.set(bundle, this.#now() + this.#settings.agingMs);
    this.#shrink();
    return isNew;
  }

  #leave(address: Uint8Array, vlan: number, bundle: Bundle): boolean {
    // There may be more hosts behind such a port: their wishes expire.
    if (this.#settings.reportPorts.has(bundle.name)) return false;
    const key = keyOf(address, vlan);
    const members = this.#groups.get(key)?.members;
    if (!members?.delete(bundle)) return false;
    if (members.size === 0) this.#groups.delete(key);
    return true;
  }

  #shrink(): void {
    for (const key of this.#groups.keys()) {
      if (this.#groups.size <= this.#settings.maxEntries) return;
      this.#groups.delete(key);
    }
  }

  /** About once a second. */
  expire(): void {
    const now = this.#now();
    let changed = false;
    for (const [key, { members }] of this.#groups) {
      for (const [bundle, expiresMs] of members) {
        if (expiresMs > now) break;
        members.delete(bundle);
        changed = true;
      }
      if (members.size === 0) this.#groups.delete(key);
    }
    const routers = this.#routers.filter(({ expiresMs }) => expiresMs > now);
    if (routers.length !== this.#routers.length) changed = true;
    this.#routers = routers;
    if (changed) this.#onChange();
  }

  /** mdb/flush */
  flush(): void {
    if (this.isEmpty) return;
    this.#groups.clear();
    this.#routers = [];
    this.#onChange();
  }

  /** The bundle is gone, or in other VLANs. */
  flushBundle(bundle: Bundle): void {
    let changed = false;
    for (const [key, { members }] of this.#groups) {
      if (members.delete(bundle)) changed = true;
      if (members.size === 0) this.#groups.delete(key);
    }
    const routers = this.#routers.filter((router) => router.bundle !== bundle);
    if (routers.length !== this.#routers.length) changed = true;
    this.#routers = routers;
    if (changed) this.#onChange();
  }
}
