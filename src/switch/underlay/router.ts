// The routing table of native tunnelling, as Open vSwitch keeps it ("ovs/route"): routes copied from the kernel, and
// routes that the user adds, of which those of the user win, and addresses of the machine itself win over all.
//
// Priorities: a copied route has its prefix length, the user's 32 more, a local address 64 more. A route is for packets
// with exactly its mark. The source address is chosen when a route is inserted: the device's address on the network of
// the destination, else on that of the gateway; a route without one is not taken.

import {
  addressKey,
  type DeviceAddress,
  formatAddress,
  isMapped,
  isUnset,
  sameUnder,
  underPrefix,
} from './address.ts';

const USER_PRIORITY = 32;
const LOCAL_PRIORITY = 64;

export interface RouteEntry {
  readonly mark: number;
  readonly priority: number;
  readonly destination: Uint8Array;
  readonly prefixBits: number;
  readonly local: boolean;
  readonly device: string;
  readonly gateway: Uint8Array | undefined;
  readonly source: Uint8Array;
}

export interface NewRoute {
  mark: number;
  destination: Uint8Array;
  prefixBits: number;
  device: string;
  gateway: Uint8Array | undefined;
}

/** Routes of one mark, priority and prefix length. */
interface Level {
  readonly priority: number;
  readonly prefixBits: number;
  readonly routes: Map<string, RouteEntry>;
}

/** The address to send from: that with the longest prefix among those that share it with the destination. */
export function chooseSource(
  destination: Uint8Array,
  addresses: readonly DeviceAddress[],
): Uint8Array | undefined {
  const isIpv4 = isMapped(destination);
  let best: DeviceAddress | undefined;
  for (const one of addresses) {
    if (isIpv4 && !isMapped(one.address)) continue;
    if (!sameUnder(destination, one.address, one.prefixBits)) continue;
    if (best === undefined || one.prefixBits > best.prefixBits) best = one;
  }
  return best?.address;
}

export class Router {
  readonly #addressesOf: (device: string) => readonly DeviceAddress[];
  /** Levels of a mark, the highest priority first. */
  readonly #marks = new Map<number, Level[]>();

  constructor(addressesOf: (device: string) => readonly DeviceAddress[]) {
    this.#addressesOf = addressesOf;
  }

  /** A route of the user. False: the device has no address to send from. */
  addUser(route: NewRoute): boolean {
    return this.#insert(route, route.prefixBits + USER_PRIORITY, false);
  }

  /** A route of the kernel; one without a source address is left out. */
  addCached(route: NewRoute, local: boolean): void {
    this.#insert(route, route.prefixBits + (local ? LOCAL_PRIORITY : 0), local);
  }

  deleteUser(mark: number, destination: Uint8Array, prefixBits: number): boolean {
    const level = this.#level(mark, prefixBits + USER_PRIORITY, prefixBits);
    return level?.routes.delete(addressKey(underPrefix(destination, prefixBits))) ?? false;
  }

  /** Forgets the kernel's routes. */
  flushCached(): void {
    for (const levels of this.#marks.values()) {
      for (const { routes } of levels) {
        for (const [key, entry] of routes) if (isCached(entry)) routes.delete(key);
      }
    }
  }

  /**
   * Route for a destination. `source`: an address to send from that was given; it must be the machine's own, and the
   * answer keeps it.
   */
  lookup(destination: Uint8Array, mark: number, source?: Uint8Array): RouteEntry | undefined {
    const given = source !== undefined && !isUnset(source);
    if (given && this.#find(source, mark)?.local !== true) return undefined;
    const entry = this.#find(destination, mark);
    return entry !== undefined && given ? { ...entry, source } : entry;
  }

  *[Symbol.iterator](): Iterator<RouteEntry> {
    const all = [...this.#marks.values()].flat().sort((a, b) => b.priority - a.priority);
    for (const { routes } of all) yield* routes.values();
  }

  #find(destination: Uint8Array, mark: number): RouteEntry | undefined {
    for (const { prefixBits, routes } of this.#marks.get(mark) ?? []) {
      const entry = routes.get(addressKey(underPrefix(destination, prefixBits)));
      if (entry !== undefined) return entry;
    }
    return undefined;
  }

  #level(mark: number, priority: number, prefixBits: number): Level | undefined {
    const levels = this.#marks.get(mark);
    return levels?.find((l) => l.priority === priority && l.prefixBits === prefixBits);
  }

  #insert(route: NewRoute, priority: number, local: boolean): boolean {
    const { mark, prefixBits, device, gateway } = route;
    const addresses = this.#addressesOf(device);
    const source =
      chooseSource(route.destination, addresses) ??
      (gateway === undefined ? undefined : chooseSource(gateway, addresses));
    if (source === undefined) return false;
    const destination = underPrefix(route.destination, prefixBits);
    let level = this.#level(mark, priority, prefixBits);
    if (level === undefined) {
      level = { priority, prefixBits, routes: new Map() };
      const levels = this.#marks.get(mark) ?? [];
      levels.push(level);
      levels.sort((a, b) => b.priority - a.priority);
      this.#marks.set(mark, levels);
    }
    level.routes.set(addressKey(destination), {
      mark,
      priority,
      destination,
      prefixBits,
      local,
      device,
      gateway,
      source,
    });
    return true;
  }
}

export function isCached(entry: RouteEntry): boolean {
  return entry.local || entry.priority === entry.prefixBits;
}

/** One line of ovs/route/show. */
export function formatRoute(entry: RouteEntry): string {
  const bits = entry.prefixBits - (isMapped(entry.destination) ? 96 : 0);
  const parts = [
    `${isCached(entry) ? 'Cached' : 'User'}: ${formatAddress(entry.destination)}/${bits}`,
    ...(entry.mark === 0 ? [] : [`MARK ${entry.mark}`]),
    `dev ${entry.device}`,
    ...(entry.gateway === undefined ? [] : [`GW ${formatAddress(entry.gateway)}`]),
    `SRC ${formatAddress(entry.source)}`,
    ...(entry.local ? ['local'] : []),
  ];
  return `${parts.join(' ')}\n`;
}
