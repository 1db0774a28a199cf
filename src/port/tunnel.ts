// Tunnel ports: interfaces without a device of their own. All tunnels of a kind (and UDP port) share one port of the datapath,
// vxlan_sys_4789 say, which has no queues: packets get there by being popped, and leave it by being pushed (contract/tunnel.ts).
// Which interface a packet belongs to is decided by the control plane (src/switch/tunnel).

import { randomBytes } from 'node:crypto';
import { MAX_PORTS } from '../../contract/port.ts';
import type { Engine } from '../engine/types.ts';
import type { PatchCounters } from './patch.ts';
import { parseTunnelConfig, type TunnelConfig, tunnelDevice } from './tunnelConfig.ts';
import {
  type Netdev,
  type NetdevConfig,
  type NetdevContext,
  NetdevError,
  type NetdevOpener,
  type NetdevStatus,
} from './types.ts';

/** A datapath port that tunnels share. */
export interface SharedPort {
  readonly name: string;
  readonly port: number;
  readonly tunnels: Set<TunnelPort>;
}

const shared = new WeakMap<Engine, Map<string, SharedPort>>();

function portsOf(engine: Engine): Map<string, SharedPort> {
  let ports = shared.get(engine);
  if (ports === undefined) {
    ports = new Map();
    shared.set(engine, ports);
  }
  return ports;
}

/** A high number that no other tunnel's port has. */
function highPort(engine: Engine): number {
  const used = new Set([...portsOf(engine).values()].map(({ port }) => port));
  let port = MAX_PORTS - 1;
  while (used.has(port)) port--;
  return port;
}

function acquire({ engine, numberedTunnels }: NetdevContext, name: string): SharedPort {
  const ports = portsOf(engine);
  let entry = ports.get(name);
  if (entry === undefined) {
    const high = numberedTunnels === true && /\d$/.test(name);
    entry = { name, port: engine.addPort(high ? highPort(engine) : undefined), tunnels: new Set() };
    ports.set(name, entry);
  }
  return entry;
}

/** Whether a VXLAN header has a policy is a matter of the UDP port: all tunnels that share it have to agree. */
function checkPolicy(engine: Engine, name: string, tunnel: TunnelConfig, own?: TunnelPort): void {
  for (const other of portsOf(engine).get(tunnelDevice(tunnel))?.tunnels ?? []) {
    if (other === own || other.tunnel.gbp === tunnel.gbp) continue;
    const text = "VXLAN-GBP, and non-VXLAN-GBP tunnels can't be configured on the same dst_port";
    throw new NetdevError(`${name}: ${text}`);
  }
}

function release(engine: Engine, entry: SharedPort, tunnel: TunnelPort): Promise<void> {
  entry.tunnels.delete(tunnel);
  if (entry.tunnels.size > 0) return Promise.resolve();
  portsOf(engine).delete(entry.name);
  return engine.removePort(entry.port);
}

export class TunnelPort implements Netdev {
  readonly name: string;
  readonly type: string;
  readonly port: number;
  readonly counters: PatchCounters = { rxPackets: 0, rxBytes: 0, txPackets: 0, txBytes: 0 };
  onChange: (() => void) | undefined;
  tunnel: TunnelConfig;
  /** Name of the datapath's port. */
  readonly device: string;
  /** Tells by which interface of the host the tunnel leaves. Set by the composition root. */
  egress: (() => { name: string; up: boolean } | undefined) | undefined;
  readonly #context: NetdevContext;
  readonly #shared: SharedPort;
  #adminUp = true;
  #mac: string;

  constructor(config: NetdevConfig, tunnel: TunnelConfig, context: NetdevContext) {
    this.name = config.name;
    this.type = config.type;
    this.tunnel = tunnel;
    this.device = tunnelDevice(tunnel);
    this.#context = context;
    checkPolicy(context.engine, this.name, tunnel);
    this.#shared = acquire(context, this.device);
    this.#shared.tunnels.add(this);
    this.port = this.#shared.port;
    const mac = randomBytes(6);
    mac[0] = (mac[0]! & 0xfc) | 0x02; // local, unicast
    this.#mac = config.mac ?? mac.toString('hex').replace(/(..)(?=.)/g, '$1:');
  }

  status(): NetdevStatus {
    const egress = this.egress?.();
    const status: Record<string, string> = {};
    if (egress !== undefined) {
      status.tunnel_egress_iface = egress.name;
      status.tunnel_egress_iface_carrier = egress.up ? 'up' : 'down';
    }
    return {
      adminUp: this.#adminUp,
      linkUp: true,
      linkResets: 0,
      mac: this.#mac,
      ifindex: 0,
      status,
    };
  }

  statistics(): Record<string, number> {
    const { rxPackets, rxBytes, txPackets, txBytes } = this.counters;
    return { rx_bytes: rxBytes, rx_packets: rxPackets, tx_bytes: txBytes, tx_packets: txPackets };
  }

  reconfigure(config: NetdevConfig): boolean {
    const tunnel = parse(config, this.#context);
    if (tunnelDevice(tunnel) !== this.device) return false;
    checkPolicy(this.#context.engine, this.name, tunnel, this);
    const same = JSON.stringify(plain(this.tunnel)) === JSON.stringify(plain(tunnel));
    this.tunnel = tunnel;
    if (config.mac !== undefined) this.#mac = config.mac;
    if (!same) this.onChange?.();
    return true;
  }

  setAdminUp(up: boolean): void {
    this.#adminUp = up;
    this.onChange?.();
  }

  close(): Promise<void> {
    return release(this.#context.engine, this.#shared, this);
  }
}

const plain = (config: TunnelConfig): unknown => ({
  ...config,
  remote: config.remote.toHex(),
  local: config.local.toHex(),
  inKey: String(config.inKey),
  outKey: String(config.outKey),
});

function parse({ name, type, options }: NetdevConfig, context: NetdevContext): TunnelConfig {
  return parseTunnelConfig(name, type, options, (text) => context.log.warn(text));
}

/** Opens a tunnel port of any type in TUNNEL_KINDS. */
export const openTunnel: NetdevOpener = (config, context) =>
  Promise.resolve().then(() => new TunnelPort(config, parse(config, context), context));
