// Interface type "system": any network device of the kernel (NIC, VF, veth, bond …) through an AF_PACKET socket.
//
// The kernel goes on using the device, too: a device that is a port should carry no addresses of the host. Frames come with
// the kernel's offload description and leave with ours, so unfinished checksums and GSO packets cross as they are.

import { FRAME_PACKET } from '../../contract/frame.ts';
import {
  OFFLOAD_CSUM,
  OFFLOAD_ECN,
  OFFLOAD_TSO4,
  OFFLOAD_TSO6,
  OFFLOAD_UFO,
  OFFLOAD_USO,
  PORT_UP,
} from '../../contract/port.ts';
import { closeFd } from '../sys/fd.ts';
import { SysError } from '../sys/ffi.ts';
import { openPacketSocket, packetDrops } from '../sys/packetSocket.ts';
import { IFF_LOOPBACK } from '../wire/rtnetlink.ts';
import { addFrameQueues, type FrameQueues } from './frameQueues.ts';
import { KernelLink, linkStatistics, openError } from './kernelLink.ts';
import {
  type Netdev,
  type NetdevConfig,
  type NetdevContext,
  NetdevError,
  type NetdevStatus,
} from './types.ts';

/** The kernel finishes everything, in hardware or in software. */
export const KERNEL_OFFLOADS =
  OFFLOAD_CSUM | OFFLOAD_TSO4 | OFFLOAD_TSO6 | OFFLOAD_ECN | OFFLOAD_UFO | OFFLOAD_USO;

/** The device as it is now in the data plane; replaced when the device is made anew. */
interface Attachment {
  fd: number;
  queues: FrameQueues;
}

class SystemDevice implements Netdev {
  readonly name: string;
  readonly type = 'system';
  readonly port: number;
  onChange: (() => void) | undefined;
  private readonly context: NetdevContext;
  private readonly link: KernelLink;
  private attachment: Attachment | undefined;
  /** Attaching and detaching happen one after the other. */
  private work: Promise<void> = Promise.resolve();
  private closing = false;
  private kernelDrops = 0;
  private config: NetdevConfig;

  constructor(config: NetdevConfig, context: NetdevContext, link: KernelLink) {
    this.name = config.name;
    this.config = config;
    this.context = context;
    this.link = link;
    this.port = context.engine.addPort();
    try {
      this.attach();
    } catch (thrown) {
      void context.engine.removePort(this.port);
      throw thrown;
    }
    this.applyMtu();
    link.onChange = (reborn) => this.linkChanged(reborn);
  }

  private attach(): void {
    const { engine } = this.context;
    const fd = openPacketSocket(this.link.link!.index);
    try {
      const queues = addFrameQueues(engine, this.port, fd, FRAME_PACKET);
      this.attachment = { fd, queues };
    } catch (thrown) {
      closeFd(fd);
      throw thrown;
    }
    this.tellEngine();
  }

  private async detach(): Promise<void> {
    const old = this.attachment;
    if (old === undefined) return;
    this.attachment = undefined;
    this.tellEngine();
    await old.queues.close();
    this.kernelDrops += packetDrops(old.fd);
    closeFd(old.fd);
  }

  private tellEngine(): void {
    const status = this.link.status();
    this.context.engine.setPort(this.port, {
      flags: status.adminUp ? PORT_UP : 0,
      mtu: status.mtu ?? 1500,
      offloads: KERNEL_OFFLOADS,
      usableTxQueues: this.attachment === undefined ? 0 : 1,
    });
  }

  private linkChanged(reborn: boolean): void {
    this.tellEngine();
    if (reborn) {
      this.work = this.work.then(async () => {
        await this.detach();
        if (this.closing || this.link.link === undefined) return;
        try {
          this.attach();
          this.applyMtu();
        } catch (thrown) {
          this.context.log.warn(openError(this.name, thrown).message);
        }
        this.onChange?.();
      });
    }
    this.onChange?.();
  }

  private applyMtu(): void {
    const mtu = this.config.mtuRequest;
    if (mtu === undefined || mtu === this.link.link?.mtu) return;
    try {
      this.link.setMtu(mtu);
      this.tellEngine();
    } catch (thrown) {
      const text = thrown instanceof SysError ? thrown.text : String(thrown);
      this.context.log.warn(`${this.name}: failed to set MTU to ${mtu} (${text})`);
    }
  }

  status(): NetdevStatus {
    return this.link.status();
  }

  statistics(): Record<string, number> {
    const drops = this.context.engine.portCounters(this.port).drops;
    const statistics = linkStatistics(this.link.stats(), drops, false);
    if (this.attachment !== undefined) this.kernelDrops += packetDrops(this.attachment.fd);
    if (statistics.rx_dropped !== undefined) statistics.rx_dropped += this.kernelDrops;
    return statistics;
  }

  reconfigure(config: NetdevConfig): boolean {
    this.config = config;
    this.applyMtu();
    return true;
  }

  setAdminUp(up: boolean): void {
    setLinkUp(this.link, up, this.context);
    this.tellEngine();
  }

  async close(): Promise<void> {
    this.closing = true;
    this.link[Symbol.dispose]();
    this.work = this.work.then(() => this.detach());
    await this.work;
    await this.context.engine.removePort(this.port);
  }
}

/** Sets admin up or down; a refusal is logged, and status() tells what is. */
export function setLinkUp(link: KernelLink, up: boolean, context: NetdevContext): void {
  try {
    link.setAdminUp(up);
  } catch (thrown) {
    const text = thrown instanceof SysError ? thrown.text : String(thrown);
    context.log.warn(`${link.name}: failed to set device ${up ? 'up' : 'down'} (${text})`);
  }
}

/** Opens the KernelLink of an existing device that may be a port. Throws NetdevError. */
export function existingLink(config: NetdevConfig, context: NetdevContext): KernelLink {
  const link = new KernelLink(context.engine, config.name);
  const flags = link.link?.flags;
  if (flags !== undefined && (flags & IFF_LOOPBACK) === 0) return link;
  link[Symbol.dispose]();
  throw new NetdevError(
    flags === undefined
      ? `could not open network device ${config.name} (No such device)`
      : `could not add network device ${config.name} to ofproto (Invalid argument)`,
  );
}

export async function openSystem(config: NetdevConfig, context: NetdevContext): Promise<Netdev> {
  const link = existingLink(config, context);
  try {
    return new SystemDevice(config, context, link);
  } catch (thrown) {
    link[Symbol.dispose]();
    throw thrown instanceof NetdevError ? thrown : openError(config.name, thrown);
  }
}
