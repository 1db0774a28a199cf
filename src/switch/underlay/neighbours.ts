// Neighbours of tunnels ("tnl/neigh"): which MAC address an IP address has behind a bridge. Taught by ARP replies,
// gratuitous ARP and neighbour advertisements that reach the bridge's own port, by tunnel packets, and by hand.
//
// An entry lives for 15 minutes (tnl/neigh/aging) after it was last asked for. Anybody on the network can tell of
// neighbours: of too many, the one goes that nobody has asked for the longest.

import {
  K_ARP_SHA,
  K_ARP_THA,
  K_ETH_DST,
  K_ETH_TYPE,
  K_ND_TARGET,
  K_NW_DST,
  K_NW_PROTO,
  K_NW_SRC,
  K_TP_DST,
  K_TP_SRC,
} from '../../../contract/key.ts';
import { hex2 } from '../../wire/openflow/address.ts';
import { mapped } from '../../wire/rtnetlinkRoute.ts';
import {
  be16,
  be32,
  ETH_TYPE_ARP,
  ETH_TYPE_IPV6,
  IPPROTO_ICMPV6,
  isZero,
  ND_ADVERT,
} from '../flow.ts';
import { addressKey, formatAddress } from './address.ts';

const AGING_DEFAULT_S = 900;
export const AGING_MAX_S = 3600;
export const NEIGHBOURS_MAX = 4096;
const ARP_REPLY = 2;
const ARP_REQUEST = 1;
const MAC_SIZE = 6;
const ADDRESS_COLUMN = 46;

interface Neighbour {
  readonly bridge: string;
  readonly address: Uint8Array;
  mac: Uint8Array;
  expiresMs: number;
}

const keyOf = (bridge: string, address: Uint8Array): string => `${addressKey(address)}${bridge}`;

/** ARP that tells an address: a reply, or one that the sender broadcasts about itself. */
function teachesArp(flow: Uint8Array): boolean {
  if (be16(flow, K_ETH_TYPE) !== ETH_TYPE_ARP || isZero(flow, K_ARP_SHA, MAC_SIZE)) return false;
  if (flow[K_NW_PROTO] === ARP_REPLY) return true;
  const isBroadcast = be32(flow, K_ETH_DST) === 0xffffffff && be16(flow, K_ETH_DST + 4) === 0xffff;
  const aboutItself = be32(flow, K_NW_SRC) === be32(flow, K_NW_DST);
  return isBroadcast && flow[K_NW_PROTO] === ARP_REQUEST && aboutItself;
}

function teachesNd(flow: Uint8Array): boolean {
  return (
    be16(flow, K_ETH_TYPE) === ETH_TYPE_IPV6 &&
    flow[K_NW_PROTO] === IPPROTO_ICMPV6 &&
    be16(flow, K_TP_SRC) === ND_ADVERT &&
    be16(flow, K_TP_DST) === 0 &&
    !isZero(flow, K_ARP_THA, MAC_SIZE)
  );
}

export class Neighbours {
  readonly #now: () => number;
  readonly #changed: () => void;
  /** The least recently used first. */
  readonly #entries = new Map<string, Neighbour>();
  #agingMs = AGING_DEFAULT_S * 1000;

  /** `changed` is called after an answer has changed. */
  constructor(now: () => number, changed: () => void) {
    this.#now = now;
    this.#changed = changed;
  }

  lookup(bridge: string, address: Uint8Array): Uint8Array | undefined {
    const key = keyOf(bridge, address);
    const entry = this.#entries.get(key);
    if (entry === undefined || entry.expiresMs <= this.#now()) return undefined;
    this.#use(key, entry);
    return entry.mac;
  }

  /** The entry is new, or of use: it lives as long as any. */
  #use(key: string, entry: Neighbour): void {
    entry.expiresMs = this.#now() + this.#agingMs;
    this.#entries.delete(key);
    this.#entries.set(key, entry);
  }

  set(bridge: string, address: Uint8Array, mac: Uint8Array): void {
    const key = keyOf(bridge, address);
    const old = this.#entries.get(key);
    if (old !== undefined && old.expiresMs > this.#now() && Buffer.compare(old.mac, mac) === 0) {
      this.#use(key, old);
      return;
    }
    this.#use(key, { bridge, address: address.slice(), mac: mac.slice(), expiresMs: 0 });
    if (this.#entries.size > NEIGHBOURS_MAX) {
      for (const oldest of this.#entries.keys()) {
        this.#entries.delete(oldest);
        break;
      }
    }
    this.#changed();
  }

  /** Learns from a packet (a record of contract/key.ts). True: it is of a kind that teaches. */
  snoop(bridge: string, flow: Uint8Array): boolean {
    if (teachesArp(flow)) {
      const address = mapped(flow.subarray(K_NW_SRC, K_NW_SRC + 4));
      this.set(bridge, address, flow.subarray(K_ARP_SHA, K_ARP_SHA + MAC_SIZE));
      return true;
    }
    if (teachesNd(flow)) {
      const address = flow.subarray(K_ND_TARGET, K_ND_TARGET + 16);
      this.set(bridge, address, flow.subarray(K_ARP_THA, K_ARP_THA + MAC_SIZE));
      return true;
    }
    return false;
  }

  /** Removes what is too old. */
  expire(): void {
    const now = this.#now();
    let any = false;
    for (const [key, entry] of this.#entries) {
      if (entry.expiresMs > now) continue;
      this.#entries.delete(key);
      any = true;
    }
    if (any) this.#changed();
  }

  /** Forgets all, or those of a bridge. */
  flush(bridge?: string): void {
    let any = false;
    for (const [key, entry] of this.#entries) {
      if (bridge !== undefined && entry.bridge !== bridge) continue;
      this.#entries.delete(key);
      any = true;
    }
    if (any) this.#changed();
  }

  get agingSeconds(): number {
    return this.#agingMs / 1000;
  }

  /** Entries that would live longer are shortened. */
  set agingSeconds(seconds: number) {
    this.#agingMs = seconds * 1000;
    const latestMs = this.#now() + this.#agingMs;
    for (const entry of this.#entries.values()) {
      entry.expiresMs = Math.min(entry.expiresMs, latestMs);
    }
  }

  get size(): number {
    return this.#entries.size;
  }

  /** tnl/neigh/show. */
  show(): string {
    const now = this.#now();
    let text = 'IP                                            MAC                 Bridge\n';
    text += `${'='.repeat(74)}\n`;
    for (const { bridge, address, mac, expiresMs } of this.#entries.values()) {
      const stale = expiresMs <= now ? ' STALE' : '';
      text += `${formatAddress(address).padEnd(ADDRESS_COLUMN)}${hex2(mac)}   ${bridge}${stale}\n`;
    }
    return text;
  }
}
