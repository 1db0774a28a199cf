// Interface types "tap" and "internal": a network device of our own, whose other end is the host's IP stack.
//
// Every bridge has one internal device with its own name (the local port). The device is persistent: as with ovs-vswitchd, it
// outlives the daemon (addresses and routes on it, too), and is removed with its port.

import { FRAME_TAP } from '../../contract/frame.ts';
import { PORT_UP } from '../../contract/port.ts';
import { closeFd } from '../sys/fd.ts';
import { SysError } from '../sys/ffi.ts';
import { forgetTap, openTap as openTun, tapAlive, tapName } from '../sys/tun.ts';
import { addFrameQueues, type FrameQueues } from './frameQueues.ts';
import { KernelLink, linkStatistics, openBusy, openError } from './kernelLink.ts';
import { KERNEL_OFFLOADS, setLinkUp } from './system.ts';
import type { Bequest, Netdev, NetdevConfig, NetdevContext, NetdevStatus } from './types.ts';

class TapDevice implements Netdev {
  readonly name: string;
  readonly type: string;
  readonly port: number;
  onChange: (() => void) | undefined;
  private readonly context: NetdevContext;
  private readonly link: KernelLink;
  private readonly fd: number;
  private readonly queues: FrameQueues;
  private config: NetdevConfig;
  /** The device was deleted under us: its descriptor is dead. */
  private dead = false;
  private detached: Promise<void> | undefined;

  constructor(config: NetdevConfig, context: NetdevContext, fd: number, link: KernelLink) {
    this.name = config.name;
    this.type = config.type;
    this.config = config;
    this.context = context;
    this.fd = fd;
    this.link = link;
    this.port = context.engine.addPort();
    try {
      this.queues = addFrameQueues(context.engine, this.port, fd, FRAME_TAP);
    } catch (thrown) {
      void context.engine.removePort(this.port);
      throw thrown;
    }
    this.apply();
    this.tellEngine();
    link.onChange = () => this.linkChanged();
  }

  /** MTU, and for internal devices the Ethernet address, as configured. */
  private apply(): void {
    const { mac, mtuRequest } = this.config;
    if (mtuRequest !== undefined && mtuRequest !== this.link.link?.mtu) {
      this.attempt(`set MTU to ${mtuRequest}`, () => this.link.setMtu(mtuRequest));
    }
    if (mac !== undefined && this.type === 'internal') {
      this.attempt(`set Ethernet address to ${mac}`, () => this.link.setMac(mac));
    }
  }

  private attempt(what: string, change: () => void): void {
    try {
      change();
    } catch (thrown) {
      const text = thrown instanceof SysError ? thrown.text : String(thrown);
      this.context.log.warn(`${this.name}: failed to ${what} (${text})`);
    }
  }

  private tellEngine(): void {
    const status = this.link.status();
    // Moved to another network namespace the device is out of sight, but works.
    const elsewhere = this.link.link === undefined && !this.dead;
    this.context.engine.setPort(this.port, {
      flags: status.adminUp || elsewhere ? PORT_UP : 0,
      mtu: status.mtu ?? 65535,
      offloads: KERNEL_OFFLOADS,
      usableTxQueues: this.dead ? 0 : 1,
    });
  }

  private linkChanged(): void {
    if (this.link.link === undefined && !this.dead && !tapAlive(this.fd)) {
      this.dead = true;
      this.detached = this.queues.close();
      this.context.log.warn(`${this.name}: the device was deleted`);
    }
    this.tellEngine();
    this.onChange?.();
  }

  status(): NetdevStatus {
    return this.link.status();
  }

  statistics(): Record<string, number> {
    const drops = this.context.engine.portCounters(this.port).drops;
    return linkStatistics(this.link.stats(), drops, true);
  }

  reconfigure(config: NetdevConfig): boolean {
    if (this.dead) return false; // open makes a new device
    this.config = config;
    this.apply();
    this.tellEngine();
    return true;
  }

  setAdminUp(up: boolean): void {
    setLinkUp(this.link, up, this.context);
    this.tellEngine();
  }

  /** The descriptor is all that reaches a device which was moved to another network namespace. */
  async handOver(): Promise<Bequest> {
    const { dead, fd } = this;
    await this.release(true);
    if (dead) closeFd(fd);
    return { json: '{}', fds: dead ? [] : [fd] };
  }

  async close(keep = false): Promise<void> {
    await this.release(keep);
    closeFd(this.fd);
  }

  private async release(keep: boolean): Promise<void> {
    this.link[Symbol.dispose]();
    await (this.detached ?? this.queues.close());
    if (!keep) forgetTap(this.fd);
    await this.context.engine.removePort(this.port);
  }
}

async function open(config: NetdevConfig, context: NetdevContext): Promise<Netdev> {
  const link = new KernelLink(context.engine, tapName(config.name));
  const existed = link.link !== undefined;
  const inherited = context.inherited?.get(config.name)?.fds[0];
  context.inherited?.delete(config.name);
  let fd = -1;
  try {
    fd = inherited ?? (await openBusy(() => openTun(link.name)));
    link.refresh();
    return new TapDevice(config, context, fd, link);
  } catch (thrown) {
    link[Symbol.dispose]();
    if (fd >= 0) {
      if (!existed) forgetTap(fd);
      closeFd(fd);
    }
    throw openError(config.name, thrown);
  }
}

/** Interface type "tap". */
export async function openTap(config: NetdevConfig, context: NetdevContext): Promise<Netdev> {
  return open({ ...config, type: 'tap' }, context);
}

/** Interface type "internal": as tap, and its Ethernet address is Interface.mac. */
export async function openInternal(config: NetdevConfig, context: NetdevContext): Promise<Netdev> {
  return open({ ...config, type: 'internal' }, context);
}
