// The underlay of native tunnels (src/switch/tunnel/types.ts): the router, the neighbours, and what keeps them current.
//
//   kernel ── rtnetlink ──> read again a little later ──> Router ──┐
//   ovs/route/add, del ────────────────────────────────> Router ──┼──> `change` grows, megaflows are looked at again
//   ARP, ND at the bridges' own ports ──────────────> Neighbours ──┘

import { K_ETH_SRC, K_ETH_TYPE, K_IPV6_SRC, K_NW_SRC } from '../../../contract/key.ts';
import type { KernelNetwork } from '../../sys/routeNetlink.ts';
import { OFPP_TABLE } from '../../wire/openflow/types.ts';
import { parseMac } from '../../wire/rtnetlink.ts';
import { mapped } from '../../wire/rtnetlinkRoute.ts';
import type { Datapath } from '../datapath.ts';
import { be16, ETH_TYPE_IP } from '../flow.ts';
import type { TunnelRoute, Underlay } from '../tunnel/types.ts';
import { addressKey, type DeviceAddress, isMapped } from './address.ts';
import { Neighbours } from './neighbours.ts';
import { formatRoute, isCached, Router } from './router.ts';
import { composeSolicitation } from './solicit.ts';

/** Notifications come in swarms: they are waited for. Long tables are read less often. */
const SETTLE_MS = 20;
const READ_SHARE = 10;
/** After a failure. */
const RETRY_MS = 1000;
const SOLICIT_INTERVAL_MS = 1000;
const EXPIRE_INTERVAL_MS = 1000;
const SOLICITATIONS_MAX = 4096;

export interface HostUnderlayOptions {
  datapath: Datapath;
  /** Reads the kernel's tables; absent: no routes but the user's. */
  readKernel?: (() => KernelNetwork) | undefined;
  /** Addresses of devices that the kernel does not know (dummies); undefined: not such a device. */
  ownAddresses?: ((device: string) => readonly DeviceAddress[] | undefined) | undefined;
  /** Device of ours that has this address. */
  ownDeviceOf?: ((address: Uint8Array) => string | undefined) | undefined;
  warn: (text: string) => void;
}

export class HostUnderlay implements Underlay, Disposable {
  change = 1;
  onChange: (() => void) | undefined;
  readonly router: Router;
  readonly neighbours: Neighbours;
  readonly #options: HostUnderlayOptions;
  #addresses = new Map<string, DeviceAddress[]>();
  /** Device of an address. */
  #owners = new Map<string, string>();
  /** Text of what came from the kernel, to see whether it changed. */
  #kernelState = '';
  #readTimer: NodeJS.Timeout | undefined;
  #expireTimer: NodeJS.Timeout | undefined;
  #lastReadMs = 0;
  readonly #solicited = new Map<string, number>();

  constructor(options: HostUnderlayOptions) {
    this.#options = options;
    const { engine } = options.datapath;
    this.router = new Router((device) => this.addressesOf(device));
    this.neighbours = new Neighbours(
      () => engine.nowMs(),
      () => {
        this.#keepExpiring();
        this.changed();
      },
    );
    this.readKernel();
  }

  addressesOf(device: string): readonly DeviceAddress[] {
    return this.#options.ownAddresses?.(device) ?? this.#addresses.get(device) ?? [];
  }

  /** Something that answers depend on is different now. */
  changed(): void {
    this.change++;
    this.onChange?.();
  }

  /** The kernel has told of a change. */
  kernelChanged(): void {
    this.#readAfter(Math.max(SETTLE_MS, READ_SHARE * this.#lastReadMs));
  }

  #readAfter(delayMs: number): void {
    if (this.#readTimer !== undefined) return;
    this.#readTimer = setTimeout(() => {
      this.#readTimer = undefined;
      this.readKernel();
    }, delayMs);
    this.#readTimer.unref();
  }

  /** Takes over the kernel's addresses and routes as they are now. */
  readKernel(): void {
    const { readKernel, warn } = this.#options;
    if (readKernel === undefined) return;
    const start = performance.now();
    let network: KernelNetwork;
    try {
      network = readKernel();
    } catch (error) {
      warn(`failed to read the kernel's routes (${(error as Error).message})`);
      this.#readAfter(RETRY_MS);
      return;
    }
    this.#takeAddresses(network);
    this.router.flushCached();
    for (const { destination, prefixBits, local, ifindex, gateway, mark } of network.routes) {
      const device = network.names.get(ifindex);
      if (device === undefined) continue;
      this.router.addCached({ mark, destination, prefixBits, device, gateway }, local);
    }
    this.#lastReadMs = performance.now() - start;
    const state = [...this.router].filter(isCached).map(formatRoute).join('');
    if (state === this.#kernelState) return;
    this.#kernelState = state;
    this.changed();
  }

  #takeAddresses({ names, addresses }: KernelNetwork): void {
    this.#addresses = new Map();
    this.#owners = new Map();
    for (const { ifindex, address, prefixBits } of addresses) {
      const device = names.get(ifindex);
      if (device === undefined) continue;
      const list = this.#addresses.get(device) ?? [];
      list.push({ address, prefixBits });
      this.#addresses.set(device, list);
      this.#owners.set(addressKey(address), device);
    }
  }

  // ---- Underlay

  route(destination: Uint8Array, packetMark: number, source?: Uint8Array): TunnelRoute | undefined {
    const entry = this.router.lookup(destination, packetMark, source);
    if (entry === undefined) return undefined;
    const { device, gateway } = entry;
    return { device, source: entry.source, nextHop: gateway ?? destination };
  }

  neighbour(bridge: string, address: Uint8Array): Uint8Array | undefined {
    return this.neighbours.lookup(bridge, address);
  }

  snoop(bridge: string, flow: Uint8Array): boolean {
    return this.neighbours.snoop(bridge, flow);
  }

  heard(bridge: string, flow: Uint8Array): void {
    const v4 = be16(flow, K_ETH_TYPE) === ETH_TYPE_IP;
    const at = v4 ? K_NW_SRC : K_IPV6_SRC;
    const address = mapped(flow.slice(at, at + (v4 ? 4 : 16)));
    this.neighbours.set(bridge, address, flow.slice(K_ETH_SRC, K_ETH_SRC + 6));
  }

  forget(bridge: string): void {
    this.neighbours.flush(bridge);
  }

  isLocal(address: Uint8Array): string | undefined {
    return this.#options.ownDeviceOf?.(address) ?? this.#owners.get(addressKey(address));
  }

  solicit(device: string, route: TunnelRoute, atOnce = false): void {
    if (isMapped(route.source) !== isMapped(route.nextHop)) return;
    const { datapath } = this.#options;
    const key = `${addressKey(route.nextHop)}${device}`;
    const now = datapath.engine.nowMs();
    const lastMs = this.#solicited.get(key);
    if (lastMs !== undefined && now - lastMs < SOLICIT_INTERVAL_MS) return;
    if (this.#solicited.size >= SOLICITATIONS_MAX) this.#solicited.clear();
    this.#solicited.set(key, now);
    if (atOnce) this.#send(device, route);
    else setImmediate(() => this.#send(device, route));
  }

  /** The packet leaves as if the host had sent it by the device: the flows of its bridge decide. */
  #send(device: string, { source, nextHop }: TunnelRoute): void {
    const carrier = this.#options.datapath.portNamed(device);
    const mac = parseMac(carrier?.port.netdev.status().mac ?? '');
    if (carrier === undefined || mac === undefined) return;
    const frame = composeSolicitation(mac, this.#askingAddress(device, source, nextHop), nextHop);
    carrier.bridge.packetOut(
      carrier.port.ofport,
      undefined,
      [{ type: 'output', port: OFPP_TABLE, maxLen: 0 }],
      frame,
    );
  }

  /**
   * Who asks. A tunnel's own address may be another device's (an address of the host, reached by several links): the answer to
   * it would be for nobody on this bridge, and taught to nobody. Open vSwitch asks so, and never hears of the neighbour.
   */
  #askingAddress(device: string, source: Uint8Array, nextHop: Uint8Array): Uint8Array {
    const key = addressKey(source);
    if (this.addressesOf(device).some(({ address }) => addressKey(address) === key)) return source;
    const onLink = this.router.lookup(nextHop, 0);
    return onLink?.device === device ? onLink.source : source;
  }

  /** While there are neighbours, the old ones go. */
  #keepExpiring(): void {
    if (this.#expireTimer !== undefined || this.neighbours.size === 0) return;
    this.#expireTimer = setTimeout(() => {
      this.#expireTimer = undefined;
      this.neighbours.expire();
      this.#keepExpiring();
    }, EXPIRE_INTERVAL_MS);
    this.#expireTimer.unref();
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#readTimer);
    clearTimeout(this.#expireTimer);
    this.onChange = undefined;
  }
}
