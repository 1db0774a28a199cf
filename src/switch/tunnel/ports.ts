// All tunnel ports of the datapath: which of them a received packet belongs to, which packets on their way to the host are a
// tunnel's, and the lists that operators see.
//
// Open vSwitch's order, most specific first: ports with a key before those whose key is left to flows, then fixed before
// flow-based remote addresses, then a local address that is fixed, any, left to flows.

import {
  K_ETH_TYPE,
  K_IN_PORT,
  K_IPV6_DST,
  K_NW_DST,
  K_NW_FRAG,
  K_NW_PROTO,
  K_PACKET_TYPE,
  K_TP_DST,
  K_TUN_ID,
} from '../../../contract/key.ts';
import type { TunnelPort } from '../../port/tunnel.ts';
import { TUNNEL_KINDS, type TunnelConfig } from '../../port/tunnelConfig.ts';
import { be16, be32, ETH_TYPE_IP, ETH_TYPE_IPV6 } from '../flow.ts';
import type { XlateBridge } from '../translate/types.ts';
import type { BridgePort } from '../types.ts';
import { ipProtocolOf } from './header.ts';
import { tunnelDestination, tunnelSource } from './record.ts';
import type { Underlay } from './types.ts';

/** Range of UDP source ports, as Open vSwitch has it. */
const SOURCE_PORT_MIN = 32768;
const SOURCE_PORT_MAX = 61000;

/** The tunnel behind a port, if it is one. */
export function tunnelOf(port: BridgePort): TunnelPort | undefined {
  const netdev = port.netdev as Partial<TunnelPort>;
  return netdev.tunnel === undefined ? undefined : (port.netdev as TunnelPort);
}

export interface TunnelEnd<B> {
  readonly bridge: B;
  readonly port: BridgePort;
}

/** A datapath port to which the host's packets of one protocol (and UDP port) belong. */
export interface Listener {
  readonly device: string;
  readonly port: number;
  readonly type: string;
  readonly encapsulation: number;
  readonly protocol: number;
  readonly udpPort: number;
  readonly payloadType: number;
  users: number;
}

const UNSET = '0'.repeat(32);

function keyOf(config: TunnelConfig, port: number): string {
  return [
    port,
    config.inKeyFlow ? 'flow' : config.inKey,
    config.remoteFlow ? 'flow' : config.remote.toHex(),
    config.localFlow ? 'flow' : config.local.toHex(),
    config.mode,
  ].join('/');
}

export class TunnelPorts<B extends XlateBridge = XlateBridge> {
  readonly #ends = new Map<BridgePort, B>();
  /** By what is matched; made when it is asked for. */
  #byMatch: Map<string, TunnelEnd<B>> | undefined;
  #listeners: Listener[] | undefined;
  readonly #underlay: () => Underlay | undefined;
  readonly #bridges: () => ReadonlyMap<string, B>;
  readonly #portOf: (name: string) => TunnelEnd<B> | undefined;
  sourcePortMin = SOURCE_PORT_MIN;
  sourcePortMax = SOURCE_PORT_MAX;

  /**
   * A dummy datapath calls the ports of tunnels by the first number in their names (vxlan_sys_4789, ip6gre_sys), which may be more
   * than a datapath port of ours can have: texts are translated.
   */
  namedNumbers = false;

  /** False: tunnels' packets are for a datapath that encapsulates by itself, which ours is not (dpFeatures.ts). */
  pushPop = true;

  /** Number of a datapath port as texts have it. */
  shown(port: number): number {
    if (!this.namedNumbers) return port;
    for (const end of this.#ends.keys()) {
      const netdev = tunnelOf(end)!;
      if (netdev.port === port) return Number(/\d+/.exec(netdev.device)?.[0] ?? port);
    }
    return port;
  }

  /** The reverse. */
  realNumber(shown: number): number {
    if (!this.namedNumbers) return shown;
    for (const end of this.#ends.keys()) {
      const { port } = tunnelOf(end)!;
      if (this.shown(port) === shown) return port;
    }
    return shown;
  }

  constructor(
    underlay: () => Underlay | undefined,
    bridges: () => ReadonlyMap<string, B>,
    portOf: (name: string) => TunnelEnd<B> | undefined,
  ) {
    this.#underlay = underlay;
    this.#bridges = bridges;
    this.#portOf = portOf;
  }

  get underlay(): Underlay | undefined {
    return this.#underlay();
  }

  /** The bridge that has the device of a route as a port, its own as a rule, and that port. */
  carrier(device: string): TunnelEnd<B> | undefined {
    return this.#portOf(device);
  }

  get size(): number {
    return this.#ends.size;
  }

  /** Word TP_SOURCE_PORTS of a push. */
  get sourcePorts(): number {
    const count = this.sourcePortMax - this.sourcePortMin;
    return (this.sourcePortMin | (count << 16)) >>> 0;
  }

  add(bridge: B, port: BridgePort): void {
    this.#ends.set(port, bridge);
    this.changed();
  }

  remove(port: BridgePort): void {
    if (this.#ends.delete(port)) this.changed();
  }

  /** Settings of some port changed. */
  changed(): void {
    this.#byMatch = undefined;
    this.#listeners = undefined;
  }

  /** The port that a packet has come in by. `flow` has the tunnel's fields and datapath port. */
  find(flow: Uint8Array): TunnelEnd<B> | undefined {
    this.#byMatch ??= this.#index();
    const port = be32(flow, K_IN_PORT);
    const id = new DataView(flow.buffer, flow.byteOffset).getBigUint64(K_TUN_ID);
    // Seen from the port, the packet's source is the remote end.
    const remote = tunnelSource(flow).toHex();
    const local = tunnelDestination(flow).toHex();
    const modes = [be32(flow, K_PACKET_TYPE) === 0 ? 'legacy_l2' : 'legacy_l3', 'ptap'];
    for (const key of [id, 'flow']) {
      for (const remoteKey of [remote, 'flow']) {
        for (const localKey of [local, UNSET, 'flow']) {
          for (const mode of modes) {
            const found = this.#byMatch.get([port, key, remoteKey, localKey, mode].join('/'));
            if (found !== undefined) return found;
          }
        }
      }
    }
    return undefined;
  }

  #index(): Map<string, TunnelEnd<B>> {
    const index = new Map<string, TunnelEnd<B>>();
    for (const [port, bridge] of this.#ends) {
      const netdev = tunnelOf(port)!;
      const key = keyOf(netdev.tunnel, netdev.port);
      if (!index.has(key)) index.set(key, { bridge, port });
    }
    return index;
  }

  /** The port that has the packets which a new tunnel would match, if any. */
  ownerOf({ tunnel, port }: TunnelPort): BridgePort | undefined {
    this.#byMatch ??= this.#index();
    return this.#byMatch.get(keyOf(tunnel, port))?.port;
  }

  get listeners(): readonly Listener[] {
    if (this.#listeners === undefined) {
      const byDevice = new Map<string, Listener>();
      for (const port of this.#ends.keys()) {
        const { device, port: number, tunnel } = tunnelOf(port)!;
        const { encapsulation } = TUNNEL_KINDS[tunnel.type]!;
        // Nothing is made of packets that come in for these.
        if (encapsulation === undefined) continue;
        const known = byDevice.get(device);
        if (known !== undefined) {
          known.users++;
          continue;
        }
        byDevice.set(device, {
          device,
          port: number,
          type: tunnel.type,
          encapsulation,
          protocol: ipProtocolOf(tunnel.type),
          udpPort: tunnel.dstPort,
          payloadType: tunnel.payloadType,
          users: 1,
        });
      }
      this.#listeners = [...byDevice.values()];
    }
    return this.#listeners;
  }

  /**
   * A packet on its way to the host by `device`: the datapath port of the tunnel that it belongs to. What was looked at is noted in
   * `wildcards`.
   */
  terminate(device: string, flow: Uint8Array, wildcards: Uint8Array): Listener | undefined {
    const { underlay } = this;
    if (underlay === undefined || this.#ends.size === 0) return undefined;
    if (underlay.addressesOf(device).length === 0) return undefined;
    const type = be16(flow, K_ETH_TYPE);
    if (type !== ETH_TYPE_IP && type !== ETH_TYPE_IPV6) return undefined;
    wildcards[K_NW_PROTO] = 0xff;
    const protocol = flow[K_NW_PROTO];
    const candidates = this.listeners.filter((listener) => listener.protocol === protocol);
    if (candidates.length === 0) return undefined;
    const [at, bytes] = type === ETH_TYPE_IP ? [K_NW_DST, 4] : [K_IPV6_DST, 16];
    wildcards.fill(0xff, at, at + bytes);
    const address = new Uint8Array(16);
    if (bytes === 4) address.fill(0xff, 10, 12);
    address.set(flow.subarray(at, at + bytes), 16 - bytes);
    if (underlay.isLocal(address) === undefined) return undefined;
    wildcards[K_NW_FRAG] = 3;
    if (flow[K_NW_FRAG] !== 0) return undefined; // the host puts the datagram together, and cannot use it
    if (candidates[0]!.udpPort === 0 && protocol !== 17) {
      const isIpv6 = type === ETH_TYPE_IPV6;
      return candidates.find((c) => c.type.startsWith('ip6') === isIpv6) ?? candidates[0];
    }
    wildcards.fill(0xff, K_TP_DST, K_TP_DST + 2);
    const port = be16(flow, K_TP_DST);
    return candidates.find((listener) => listener.udpPort === port);
  }

  /** tnl/ports/show. */
  showListeners(): string {
    const lines = this.listeners.map(
      ({ device, port, users }) => `${device} (${this.shown(port)}) ref_cnt=${users}\n`,
    );
    return `Listening ports:\n${lines.join('')}`;
  }

  /** tnl/ports/show -v: which packets of the host's are tunnels'. */
  showTermination(format: (address: Uint8Array) => string): string {
    let text = 'Listening ports:\n';
    for (const { device, port, protocol, udpPort } of this.listeners) {
      for (const { mac, address } of this.#hostAddresses()) {
        const name = format(address);
        const v6 = name.includes(':');
        const transport = udpPort === 0 ? '' : `,udp(dst=${udpPort})`;
        text +=
          `${device} (${this.shown(port)}) : eth(dst=${mac}),eth_type(0x${v6 ? '86dd' : '0800'}),` +
          `${v6 ? 'ipv6' : 'ipv4'}(dst=${name},proto=${protocol},frag=no)${transport}\n`;
      }
    }
    return text;
  }

  *#hostAddresses(): Generator<{ mac: string; address: Uint8Array }> {
    const { underlay } = this;
    if (underlay === undefined) return;
    for (const bridge of this.#bridges().values()) {
      for (const port of bridge.ports.values()) {
        for (const { address } of underlay.addressesOf(port.name)) {
          yield { mac: port.netdev.status().mac ?? '', address };
        }
      }
    }
  }

  /** ofproto/list-tunnels. */
  showTunnels(format: (address: Uint8Array) => string): string {
    const lines = [...this.#ends.keys()]
      .map((port) => ({ port, netdev: tunnelOf(port)! }))
      .sort((a, b) => (a.port.name < b.port.name ? -1 : 1))
      .map(({ port, netdev }) => tunnelLine(port.name, netdev, this.shown(netdev.port), format));
    return lines.join('');
  }
}

function tunnelLine(
  name: string,
  { tunnel }: TunnelPort,
  port: number,
  format: (address: Uint8Array) => string,
): string {
  const { local, remote } = tunnel;
  const ends = !tunnel.remoteFlow
    ? `${format(local)}->${format(remote)}`
    : tunnel.localFlow
      ? 'flow->flow'
      : `${format(local)}->flow`;
  const hex = (value: bigint): string => (value === 0n ? '0' : `0x${value.toString(16)}`);
  const key = tunnel.inKeyFlow ? 'flow' : hex(tunnel.inKey);
  let line = `port ${port}: ${name} (${tunnel.type}: ${ends}, key=${key}, ${tunnel.mode}, dp port=${port}`;
  if (
    tunnel.outKey !== tunnel.inKey ||
    tunnel.outKeyPresent !== tunnel.inKeyPresent ||
    tunnel.outKeyFlow !== tunnel.inKeyFlow
  ) {
    const outKey = !tunnel.outKeyPresent ? 'none' : tunnel.outKeyFlow ? 'flow' : hex(tunnel.outKey);
    line += `, out_key=${outKey}`;
  }
  line += tunnel.ttlInherit ? ', ttl=inherit' : `, ttl=${tunnel.ttl}`;
  if (tunnel.tosInherit) line += ', tos=inherit';
  else if (tunnel.tos !== 0) line += `, tos=0x${tunnel.tos.toString(16)}`;
  if (!tunnel.dontFragment) line += ', df=false';
  if (tunnel.csum) line += ', csum=true';
  return `${line})\n`;
}
