// A network device that the switch can attach: what every file in src/port offers.
//
// Opening never throws for a reason that the operator can cause: it throws NetdevError with the text that ovs-vsctl
// shows ("could not open network device NAME (No such device)").

import type { Engine } from '../engine/types.ts';

export class NetdevError extends Error {}

export interface NetdevConfig {
  name: string;
  /** Interface.type; '' and 'system' are the same. */
  type: string;
  options: Readonly<Record<string, string>>;
  otherConfig: Readonly<Record<string, string>>;
  mtuRequest?: number;
  /** Interface.mac: Ethernet address to set, if the device can. */
  mac?: string;
  /** The guest's Ethernet address, if the orchestrator has told it (external_ids:attached-mac). */
  attachedMac?: string;
}

export interface NetdevStatus {
  adminUp: boolean;
  linkUp: boolean;
  linkResets: number;
  /** undefined = column empty. */
  mac?: string;
  mtu?: number;
  ifindex: number;
  /** bit/s */
  linkSpeed?: number;
  duplex?: 'full' | 'half';
  /** Interface.status. */
  status: Readonly<Record<string, string>>;
  /** A fault of the peer that the port survives as a port (Interface.error while it lasts). */
  error?: string;
}

/** What a device leaves to the next daemon when it hands over (src/main/handover): JSON and open descriptors. */
export interface Bequest {
  readonly json: string;
  readonly fds: readonly number[];
}

export interface Netdev {
  readonly name: string;
  readonly type: string;
  /** Datapath port number, -1 for devices that are no datapath port (patch). */
  readonly port: number;
  status(): NetdevStatus;
  /** Interface.statistics as names and numbers. */
  statistics(): Record<string, number>;
  /** Queues that OpenFlow may name on this device; absent = none. */
  readonly queueIds?: readonly number[];
  /** Applies what can change while open; returns false when the device has to be closed and opened again. */
  reconfigure(config: NetdevConfig): boolean;
  setAdminUp(up: boolean): void;
  /** Called after every change of status(). One listener. */
  onChange: (() => void) | undefined;
  /** EngineOptions.onBrokenQueue for a queue of this port: the peer loses its connection, the port stays. */
  brokenQueue?(queue: number, reason: number): void;
  /** Leaves the system as it was found. `keep`: a kernel device of ours (tap) survives, as the real daemon leaves it on exit. */
  close(keep?: boolean): Promise<void>;
  /**
   * Closes like close(true), but leaves to another process what it needs to go on unnoticed. The descriptors belong to
   * the caller then. Absent: the device is closed here and opened there.
   */
  handOver?(): Promise<Bequest>;
}

export interface NetdevContext {
  engine: Engine;
  /** Directory for server sockets (dpdkvhostuser), by default OVS_RUNDIR. */
  vhostSockDir: string;
  /** Owner and mode of server sockets made from now on (other_config:vhost-sock-owner, vhost-sock-perm). */
  vhostSockAccess?: { readonly owner?: string | undefined; readonly perm?: string | undefined };
  /** Open_vSwitch.other_config:vhost-features: what guests are offered (src/wire/vhostuser/features.ts). */
  vhostFeatures?: string | undefined;
  /** A dummy datapath calls ports of tunnels by the numbers in their names: they take no low ones from others. */
  numberedTunnels?: boolean;
  /** Left by a predecessor, by name of the interface: openers take theirs, and own its descriptors from then on. */
  inherited?: Map<string, Bequest>;
  /** What to do when all devices are there: inherited guests go on, and find a switch that answers. */
  whenReady?: (() => void)[];
  log: {
    info(text: string): void;
    warn(text: string): void;
    err(text: string): void;
    dbg(text: string): void;
  };
}

/** Opens a device of one type. Throws NetdevError. */
export type NetdevOpener = (config: NetdevConfig, context: NetdevContext) => Promise<Netdev>;
