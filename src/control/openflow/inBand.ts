// In-band control: a controller that is reached over the bridge which it controls must be reachable before it has said
// anything, and whatever it says. While one is configured so, rules of the switch's own, above all that a controller can
// write, let pass what the connection needs: DHCP and ARP of the local port, ARP of the next hop and of the controller, and
// TCP with it. (Open vSwitch's design documentation, "In-Band Control"; ovs-vswitchd.conf.db(5), Controller.connection_mode.)

import { isIPv4 } from 'node:net';
import {
  F_IN_PORT,
  FLOW_SIZE,
  K_ETH_DST,
  K_ETH_SRC,
  K_ETH_TYPE,
  K_NW_DST,
  K_NW_PROTO,
  K_NW_SRC,
  K_TP_DST,
  K_TP_SRC,
} from '../../../contract/key.ts';
import type { FlowTables } from '../../switch/flowMods.ts';
import type { Rule } from '../../switch/types.ts';
import { neighbourMac, nextHop } from '../../sys/neighbours.ts';
import { parseMac } from '../../wire/openflow/address.ts';
import { type Action, type Match, OFPP_LOCAL } from '../../wire/openflow/types.ts';
import { NORMAL_ACTIONS } from './failOpen.ts';

const CHECK_INTERVAL_MS = 1000;
/** The next hop's address is asked for again: every second while it is unknown, else every tenth. */
const REFRESH_TICKS = 10;
/** Of the first kind of rule; each kind has its own. */
const FIRST_PRIORITY = 180_000;
const [IP, ARP] = [
  [8, 0],
  [8, 6],
];
const [TCP, UDP] = [6, 17];
const [REQUEST, REPLY] = [1, 2];
const DHCP_CLIENT = [0, 68];
const DHCP_SERVER = [0, 67];

/** A controller (or manager) by IPv4 address. */
export interface InBandRemote {
  readonly host: string;
  readonly port: number;
}

export interface InBandSettings {
  remotes: readonly InBandRemote[];
  /** other_config:in-band-queue. */
  queue: number | undefined;
}

type Field = readonly [offset: number, value: ArrayLike<number>];

function matchOf(fields: readonly Field[]): Match {
  const match: Match = { key: new Uint8Array(FLOW_SIZE), mask: new Uint8Array(FLOW_SIZE) };
  for (const [offset, value] of fields) {
    match.key.set(value, offset);
    match.mask.fill(0xff, offset, offset + value.length);
  }
  return match;
}

interface Hop {
  mac: Uint8Array | undefined;
  ticks: number;
}

export class InBand {
  readonly #tables: FlowTables;
  readonly #localMac: () => string | undefined;
  readonly #timer: NodeJS.Timeout;
  readonly #hops = new Map<string, Hop>();
  readonly #rules = new Map<string, Rule>();
  #settings: InBandSettings = { remotes: [], queue: undefined };

  constructor(tables: FlowTables, localMac: () => string | undefined) {
    this.#tables = tables;
    this.#localMac = localMac;
    this.#timer = setInterval(() => this.run(), CHECK_INTERVAL_MS);
    this.#timer.unref();
  }

  configure(settings: InBandSettings): void {
    if (settings.queue !== this.#settings.queue) this.#removeAll();
    this.#settings = settings;
    const hosts = new Set(settings.remotes.map(({ host }) => host));
    for (const host of this.#hops.keys()) if (!hosts.has(host)) this.#hops.delete(host);
    this.run();
  }

  /** Somebody has flushed all flows: ours are needed still. */
  flushed(): void {
    this.#rules.clear();
    this.run();
  }

  /** Brings the rules up to date with addresses. Called every second. */
  run(): void {
    const wanted = this.#wanted();
    const stale = [...this.#rules].filter(([key]) => !wanted.has(key));
    for (const [key] of stale) this.#rules.delete(key);
    this.#tables.remove(
      stale.map(([, rule]) => rule),
      'delete',
    );
    const { queue } = this.#settings;
    const actions: readonly Action[] =
      queue === undefined ? NORMAL_ACTIONS : [{ type: 'set_queue', queue }, ...NORMAL_ACTIONS];
    for (const [key, { match, priority }] of wanted) {
      if (this.#rules.has(key)) continue;
      this.#rules.set(key, this.#tables.addOwn({ match, priority, actions }));
    }
  }

  #wanted(): Map<string, { match: Match; priority: number }> {
    const wanted = new Map<string, { match: Match; priority: number }>();
    const add = (kind: number, fields: readonly Field[]): void => {
      const key = `${kind} ${JSON.stringify(fields.map(([at, value]) => [at, Array.from(value)]))}`;
      wanted.set(key, { match: matchOf(fields), priority: FIRST_PRIORITY + kind });
    };
    const arp = (operation: number, field: Field): readonly Field[] => [
      [K_ETH_TYPE, ARP],
      [K_NW_PROTO, [operation]],
      field,
    ];
    const local = parseMac(this.#localMac() ?? '');
    const { remotes } = this.#settings;
    if (remotes.length > 0 && local?.some((byte) => byte !== 0)) {
      add(0, [
        [F_IN_PORT, [0, 1, 2, 3].map((i) => (OFPP_LOCAL >>> (24 - 8 * i)) & 0xff)],
        [K_ETH_TYPE, IP],
        [K_ETH_SRC, local],
        [K_NW_PROTO, [UDP]],
        [K_TP_SRC, DHCP_CLIENT],
        [K_TP_DST, DHCP_SERVER],
      ]);
      add(1, arp(REPLY, [K_ETH_DST, local]));
      add(2, arp(REQUEST, [K_ETH_SRC, local]));
    }
    for (const { host, port } of remotes) {
      const hop = this.#hopMac(host);
      if (hop !== undefined) {
        add(3, arp(REPLY, [K_ETH_DST, hop]));
        add(4, arp(REQUEST, [K_ETH_SRC, hop]));
      }
      const address = host.split('.').map(Number);
      const portBytes = [port >> 8, port & 0xff];
      add(5, arp(REPLY, [K_NW_DST, address]));
      add(6, arp(REQUEST, [K_NW_SRC, address]));
      const tcp: readonly Field[] = [
        [K_ETH_TYPE, IP],
        [K_NW_PROTO, [TCP]],
      ];
      add(7, [...tcp, [K_NW_DST, address], [K_TP_DST, portBytes]]);
      add(8, [...tcp, [K_NW_SRC, address], [K_TP_SRC, portBytes]]);
    }
    return wanted;
  }

  #hopMac(host: string): Uint8Array | undefined {
    const known = this.#hops.get(host);
    if (known?.mac !== undefined && known.ticks-- > 0) return known.mac;
    const hop = nextHop(Uint8Array.from(host.split('.').map(Number)));
    const text = hop && neighbourMac(hop.address, hop.device);
    // Asked for again by the kernel just now, perhaps: the one that was known will do.
    const mac = (text === undefined ? undefined : parseMac(text)) ?? known?.mac;
    this.#hops.set(host, { mac, ticks: REFRESH_TICKS });
    return mac;
  }

  #removeAll(): void {
    this.#tables.remove(this.#rules.values(), 'delete');
    this.#rules.clear();
  }

  close(): void {
    clearInterval(this.#timer);
    this.#removeAll();
  }
}

/** The remote of a target ("tcp:10.0.0.1:6653"); undefined: not one that connects to an IPv4 address. */
export function inBandRemote(
  target: { kind: string; host?: string; port?: number } | undefined,
): InBandRemote | undefined {
  if (target === undefined || (target.kind !== 'tcp' && target.kind !== 'ssl')) return undefined;
  const { host, port } = target;
  return host !== undefined && port !== undefined && isIPv4(host) ? { host, port } : undefined;
}
