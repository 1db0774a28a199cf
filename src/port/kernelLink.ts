// What all ports on kernel network devices share: the device as netlink and ethtool see it, as columns of Interface.
//
// The columns are those of ovs-vswitchd on the same device. When the device vanishes while it is a port, the port stays
// (same ofport) with admin_state and link_state down, ifindex 0 and no mac, mtu, status; it revives when a device of that
// name appears again.

import { setTimeout as sleep } from 'node:timers/promises';
import * as DROP from '../../contract/drop.ts';
import { DROP_NAMES } from '../../contract/names.ts';
import type { Engine } from '../engine/types.ts';
import { type DriverInfo, driverInfo, type LinkSettings, linkSettings } from '../sys/ethtool.ts';
import { EBUSY, SysError } from '../sys/ffi.ts';
import { LinkMonitor } from '../sys/netlink.ts';
import { IFF_UP, type Link, type LinkStats, parseMac } from '../wire/rtnetlink.ts';
import { NetdevError, type NetdevStatus } from './types.ts';

const monitors = new WeakMap<Engine, { monitor: LinkMonitor; users: number }>();

/** The link monitor of an engine's ports: made for the first user, gone with the last. */
export function useLinkMonitor(engine: Engine): { monitor: LinkMonitor } & Disposable {
  let shared = monitors.get(engine);
  if (shared === undefined) {
    shared = { monitor: new LinkMonitor(), users: 0 };
    monitors.set(engine, shared);
  }
  const kept = shared;
  kept.users++;
  let released = false;
  return {
    monitor: kept.monitor,
    [Symbol.dispose]: () => {
      if (released) return;
      released = true;
      if (--kept.users > 0) return;
      monitors.delete(engine);
      kept.monitor[Symbol.dispose]();
    },
  };
}

/** The words of ovs-vswitchd for a device that cannot be opened. */
export function openError(name: string, thrown: unknown): NetdevError {
  const text = thrown instanceof SysError ? thrown.text : (thrown as Error).message;
  return new NetdevError(`could not open network device ${name} (${text})`);
}

/**
 * Opens what another descriptor may still hold for a moment: a worker that sleeps in poll(2) keeps a closed descriptor's
 * device alive until it has woken. EBUSY is believed after a third of a second.
 */
export async function openBusy<T>(open: () => T): Promise<T> {
  for (let attempt = 0; ; attempt++) {
    try {
      return open();
    } catch (thrown) {
      if (attempt === 10 || !(thrown instanceof SysError) || thrown.errno !== EBUSY) throw thrown;
      await sleep(30);
    }
  }
}

/** A device followed by name. */
export class KernelLink implements Disposable {
  readonly name: string;
  link: Link | undefined;
  private readonly shared: ReturnType<typeof useLinkMonitor>;
  private readonly subscription: Disposable;
  private driver: DriverInfo | undefined;
  private settings: LinkSettings | undefined;
  private resets = 0;
  /** Called when the device has changed; `reborn` = vanished or made anew (another ifindex). */
  onChange: ((reborn: boolean) => void) | undefined;

  constructor(engine: Engine, name: string) {
    this.name = name;
    this.shared = useLinkMonitor(engine);
    this.subscription = this.shared.monitor.watch(name, (link) => this.changed(link));
    try {
      this.refresh();
    } catch (thrown) {
      this[Symbol.dispose]();
      throw openError(name, thrown);
    }
  }

  /** Looks again, without waiting for the kernel to tell. */
  refresh(): void {
    this.link = this.shared.monitor.route.getLink(this.name);
    this.lookAtDriver();
  }

  private lookAtDriver(): void {
    this.driver = this.link && driverInfo(this.name);
    this.settings = this.link && linkSettings(this.name);
  }

  private changed(link: Link | undefined): void {
    const before = this.link;
    if (linkUp(before) !== linkUp(link)) this.resets++;
    this.link = link;
    this.lookAtDriver();
    this.onChange?.(before?.index !== link?.index);
  }

  get driverName(): string {
    return this.driver?.driver ?? '';
  }

  /** True for devices on a bus, whose frames come from a real wire. */
  get onBus(): boolean {
    return (this.driver?.bus ?? '') !== '' && this.driverName !== 'virtio_net';
  }

  status(): NetdevStatus {
    const link = this.link;
    if (link === undefined) {
      const nothing = { adminUp: false, linkUp: false, ifindex: 0, status: {} };
      return { ...nothing, linkResets: this.resets };
    }
    const status: Record<string, string> = {};
    if (this.driver !== undefined) {
      status.driver_name = this.driver.driver;
      status.driver_version = this.driver.version;
      status.firmware_version = this.driver.firmware;
    }
    return {
      adminUp: (link.flags & IFF_UP) !== 0,
      linkUp: linkUp(link),
      linkResets: this.resets,
      mac: link.mac || undefined,
      mtu: link.mtu,
      ifindex: link.index,
      linkSpeed: this.settings?.speed,
      duplex: this.settings?.duplex,
      status,
    };
  }

  /** Counters of the device now; undefined if it is gone. */
  stats(): LinkStats | undefined {
    if (this.link === undefined) return undefined;
    return this.shared.monitor.route.getLink(this.link.index)?.stats;
  }

  /** Each setter throws SysError. The new value arrives by notification, and at once here. */
  setMtu(mtu: number): void {
    this.set({ mtu });
  }

  setMac(mac: string): void {
    const bytes = parseMac(mac);
    if (bytes !== undefined && this.link?.mac !== mac.toLowerCase()) this.set({ mac: bytes });
  }

  setAdminUp(up: boolean): void {
    this.set({ set: up ? IFF_UP : 0, change: IFF_UP });
  }

  private set(change: Parameters<LinkMonitor['route']['setLink']>[1]): void {
    if (this.link === undefined) return;
    this.shared.monitor.route.setLink(this.link.index, change);
    const now = this.shared.monitor.route.getLink(this.link.index);
    if (now !== undefined && now.name === this.name) this.link = now;
  }

  [Symbol.dispose](): void {
    this.onChange = undefined;
    this.subscription[Symbol.dispose]();
    this.shared[Symbol.dispose]();
  }
}

function linkUp(link: Link | undefined): boolean {
  return link !== undefined && (link.flags & IFF_UP) !== 0 && link.carrier;
}

/** Drops at the port itself, that the device's own counters cannot know. */
const RX_DROPS: ReadonlySet<number> = new Set([
  DROP.DROP_RX_RUNT,
  DROP.DROP_RX_TOO_LONG,
  DROP.DROP_RX_BAD_DESC,
  DROP.DROP_RX_BAD_VNET,
]);
const TX_DROPS: ReadonlySet<number> = new Set([
  DROP.DROP_TX_RING_FULL,
  DROP.DROP_TX_NOT_READY,
  DROP.DROP_TX_MTU,
  DROP.DROP_TX_GSO,
  DROP.DROP_TX_LINK_DOWN,
]);

/**
 * Interface.statistics of a kernel device: the device's own counters with the drops at our end of it, then the data plane's named drops that are not
 * zero. `swapped`: our side of a tap is the other end of the kernel's device.
 */
export function linkStatistics(
  stats: LinkStats | undefined,
  drops: readonly number[],
  swapped: boolean,
): Record<string, number> {
  if (stats === undefined) return {};
  const rx = swapped ? 'tx' : 'rx';
  const tx = swapped ? 'rx' : 'tx';
  const result: Record<string, number> = {
    rx_packets: stats[`${rx}Packets`],
    tx_packets: stats[`${tx}Packets`],
    rx_bytes: stats[`${rx}Bytes`],
    tx_bytes: stats[`${tx}Bytes`],
    rx_dropped: stats[`${rx}Dropped`],
    tx_dropped: stats[`${tx}Dropped`],
    rx_errors: stats[`${rx}Errors`],
    tx_errors: stats[`${tx}Errors`],
    rx_frame_err: swapped ? 0 : stats.rxFrameErrors,
    rx_over_err: swapped ? 0 : stats.rxOverErrors,
    rx_crc_err: swapped ? 0 : stats.rxCrcErrors,
    rx_missed_errors: swapped ? 0 : stats.rxMissedErrors,
    rx_multicast_packets: swapped ? 0 : stats.multicast,
    collisions: stats.collisions,
  };
  drops.forEach((count, reason) => {
    if (RX_DROPS.has(reason)) result.rx_dropped! += count;
    if (TX_DROPS.has(reason)) result.tx_dropped! += count;
    const name = DROP_NAMES[reason];
    if (count > 0 && name !== undefined) result[`xvio_drop_${name}`] = count;
  });
  return result;
}
