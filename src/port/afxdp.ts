// Interface types "afxdp" and "afxdp-nonpmd": a network device through AF_XDP sockets, one for each receive queue.
//
// options (as ovs-vswitchd's): n_rxq (1), xdp-mode (best-effort: native-with-zerocopy, else native, else generic) and
// use-need-wakeup (true). Per queue, in the arena: UMEM of 4096 frames of 4 KiB (half for each direction) and four rings.
// Both types are polled by the same workers; the difference matters only to ovs-vswitchd's threads.

import { PORT_UP, Q_SPECIFIC, QUEUE_SIZE, QUEUE_XDP, queueAddress } from '../../contract/port.ts';
import {
  XQ_AUX,
  XQ_AUX_CONSUMER,
  XQ_AUX_FLAGS,
  XQ_AUX_PRODUCER,
  XQ_AUX_SIZE,
  XQ_CONSUMER,
  XQ_FD,
  XQ_FLAGS,
  XQ_FRAME_SIZE,
  XQ_FREE,
  XQ_FREE_COUNT,
  XQ_INFER,
  XQ_PRODUCER,
  XQ_RING,
  XQ_RING_SIZE,
  XQ_UMEM,
  XQ_UMEM_SIZE,
} from '../../contract/xdp.ts';
import type { Engine } from '../engine/types.ts';
import {
  attachXskProgram,
  XDP_FLAGS_DRV_MODE,
  XDP_FLAGS_SKB_MODE,
  type XdpAttachment,
  xskMapSet,
} from '../sys/bpf.ts';
import { EBUSY, SysError } from '../sys/ffi.ts';
import { PAGE_SIZE } from '../sys/memory.ts';
import {
  bindXsk,
  openXsk,
  ringBytes,
  XDP_COPY,
  XDP_USE_NEED_WAKEUP,
  XDP_USE_SG,
  XDP_ZEROCOPY,
  XSK_STATISTICS,
  type Xsk,
  type XskRing,
  xskStatistics,
} from '../sys/xsk.ts';
import { type KernelLink, linkStatistics, openBusy, openError } from './kernelLink.ts';
import { existingLink, setLinkUp } from './system.ts';
import {
  type Netdev,
  type NetdevConfig,
  type NetdevContext,
  NetdevError,
  type NetdevStatus,
} from './types.ts';

const ENTRIES = 2048;
const FRAME_BYTES = 4096;
const UMEM_BYTES = 2 * ENTRIES * FRAME_BYTES;
/** Longest L3 packet that a frame of the UMEM takes on transmit. */
const MAX_MTU = FRAME_BYTES - 16 - 14 - 8;
const MAX_QUEUES = 16;

interface Mode {
  name: string;
  attach: number;
  bind: number;
}

const MODES: readonly Mode[] = [
  { name: 'native-with-zerocopy', attach: XDP_FLAGS_DRV_MODE, bind: XDP_ZEROCOPY },
  { name: 'native', attach: XDP_FLAGS_DRV_MODE, bind: XDP_COPY },
  { name: 'generic', attach: XDP_FLAGS_SKB_MODE, bind: XDP_COPY },
];

interface Options {
  queues: number;
  modes: readonly Mode[];
  needWakeup: boolean;
}

/** Throws NetdevError with ovs-vswitchd's words for values that it refuses. */
function parseOptions(config: NetdevConfig): Options {
  const refuse = (): never => {
    throw new NetdevError(`${config.name}: could not set configuration (Invalid argument)`);
  };
  const text = config.options.n_rxq ?? '1';
  const queues = Number(text);
  if (!/^\d+$/.test(text) || queues < 1 || queues > MAX_QUEUES) refuse();
  const wanted = config.options['xdp-mode'] ?? 'best-effort';
  const modes = wanted === 'best-effort' ? MODES : MODES.filter((mode) => mode.name === wanted);
  if (modes.length === 0) refuse();
  return { queues, modes, needWakeup: config.options['use-need-wakeup'] !== 'false' };
}

/** One socket with its two queue records and its memory. */
interface Channel {
  xsk: Xsk;
  queues: number[];
  arena: number;
}

/** The program on the device and all sockets: replaced as a whole. */
class Attachment {
  readonly mode: Mode;
  private readonly engine: Engine;
  private readonly channels: Channel[] = [];
  private program: XdpAttachment | undefined;
  /** Whether a socket was bound to a queue of the device. */
  private bound = false;

  /**
   * Tries the modes in order. Throws the SysError of the last one, unless that is "busy" with what an attempt before it
   * has just let go, which takes the kernel a moment.
   */
  static open(engine: Engine, port: number, link: KernelLink, options: Options): Attachment {
    let failure: unknown;
    let letGo = false;
    for (const mode of options.modes) {
      // frames of several buffers (kernel 6.6) where socket and driver can
      for (const sg of [XDP_USE_SG, 0]) {
        const attachment = new Attachment(engine, mode);
        try {
          attachment.start(port, link, options, sg);
          return attachment;
        } catch (thrown) {
          attachment.release();
          if (!(thrown instanceof SysError)) throw thrown;
          if (!letGo || thrown.errno !== EBUSY) failure = thrown;
          letGo ||= attachment.bound;
        }
      }
    }
    throw failure;
  }

  private constructor(engine: Engine, mode: Mode) {
    this.engine = engine;
    this.mode = mode;
  }

  private start(port: number, link: KernelLink, options: Options, sg: number): void {
    const ifindex = link.link!.index;
    this.program = attachXskProgram(ifindex, MAX_QUEUES, this.mode.attach);
    for (let index = 0; index < options.queues; index++) {
      const channel = this.openChannel();
      const flags = this.mode.bind | sg | (options.needWakeup ? XDP_USE_NEED_WAKEUP : 0);
      this.fill(channel);
      bindXsk(channel.xsk.fd, ifindex, index, flags);
      this.bound = true;
      xskMapSet(this.program.map, index, channel.xsk.fd);
      this.addQueues(channel, port, index, !link.onBus);
    }
    for (const { queues } of this.channels) {
      for (const queue of queues) this.engine.attachQueue(queue);
    }
  }

  private openChannel(): Channel {
    const rings = ringBytes(ENTRIES);
    const arena = this.engine.allocArena(UMEM_BYTES + rings + ENTRIES * 4, PAGE_SIZE);
    try {
      const xsk = openXsk({
        base: this.engine.base,
        umem: arena,
        umemBytes: UMEM_BYTES,
        frameBytes: FRAME_BYTES,
        ringArea: arena + UMEM_BYTES,
        entries: ENTRIES,
      });
      const channel = { xsk, queues: [], arena };
      this.channels.push(channel);
      return channel;
    } catch (thrown) {
      this.engine.freeArena(arena);
      throw thrown;
    }
  }

  /** Gives the kernel the receive half of the frames. */
  private fill({ xsk }: Channel): void {
    const view = new DataView(this.engine.memory.buffer);
    const { fill } = xsk.rings;
    for (let i = 0; i < ENTRIES; i++) {
      view.setBigUint64(fill.entries + i * 8, BigInt(i * FRAME_BYTES), true);
    }
    Atomics.store(new Uint32Array(this.engine.memory.buffer), fill.producer >> 2, ENTRIES);
  }

  private addQueues(channel: Channel, port: number, index: number, infer: boolean): void {
    const { engine } = this;
    const { xsk, arena } = channel;
    const view = new DataView(engine.memory.buffer);
    const rx = engine.addQueue(port, { direction: 'rx', index, kind: QUEUE_XDP, waitFd: xsk.fd });
    channel.queues.push(rx);
    const tx = engine.addQueue(port, { direction: 'tx', index, kind: QUEUE_XDP, waitFd: -1 });
    channel.queues.push(tx);
    const put = (queue: number, ring: XskRing, aux: XskRing): number => {
      const q = queueAddress(queue);
      new Uint8Array(engine.memory.buffer, q + Q_SPECIFIC, QUEUE_SIZE - Q_SPECIFIC).fill(0);
      const words: readonly [offset: number, value: number][] = [
        [XQ_FD, xsk.fd],
        [XQ_UMEM, arena],
        [XQ_UMEM_SIZE, UMEM_BYTES],
        [XQ_FRAME_SIZE, FRAME_BYTES],
        [XQ_RING, ring.entries],
        [XQ_RING_SIZE, ring.size],
        [XQ_PRODUCER, ring.producer],
        [XQ_CONSUMER, ring.consumer],
        [XQ_FLAGS, ring.flags],
        [XQ_AUX, aux.entries],
        [XQ_AUX_SIZE, aux.size],
        [XQ_AUX_PRODUCER, aux.producer],
        [XQ_AUX_CONSUMER, aux.consumer],
        [XQ_AUX_FLAGS, aux.flags],
      ];
      for (const [offset, value] of words) view.setUint32(q + offset, value, true);
      return q;
    };
    const rxRecord = put(rx, xsk.rings.rx, xsk.rings.fill);
    view.setUint32(rxRecord + XQ_INFER, infer ? 1 : 0, true);
    const txRecord = put(tx, xsk.rings.tx, xsk.rings.completion);
    const free = arena + UMEM_BYTES + ringBytes(ENTRIES);
    view.setUint32(txRecord + XQ_FREE, free, true);
    view.setUint32(txRecord + XQ_FREE_COUNT, ENTRIES, true);
    for (let i = 0; i < ENTRIES; i++) {
      view.setUint32(free + i * 4, (ENTRIES + i) * FRAME_BYTES, true);
    }
  }

  /** Counters of the sockets by ovs-vswitchd's names. */
  statistics(): Record<string, number> {
    const result: Record<string, number> = {};
    this.channels.forEach(({ xsk }, index) => {
      xskStatistics(xsk.fd).forEach((value, i) => {
        result[`xsk_queue_${index}_${XSK_STATISTICS[i]}`] = value;
      });
    });
    return result;
  }

  get queueCount(): number {
    return this.channels.length;
  }

  async close(): Promise<void> {
    // No new frames first, then wait until no worker is in the rings.
    this.program?.[Symbol.dispose]();
    this.program = undefined;
    const queues = this.channels.flatMap((channel) => channel.queues);
    await Promise.all(queues.map((queue) => this.engine.detachQueue(queue)));
    this.release();
  }

  private release(): void {
    this.program?.[Symbol.dispose]();
    this.program = undefined;
    for (const { xsk, queues, arena } of this.channels.splice(0)) {
      for (const queue of queues) this.engine.removeQueue(queue);
      xsk.close();
      this.engine.freeArena(arena);
    }
  }
}

class AfxdpDevice implements Netdev {
  readonly name: string;
  readonly type: string;
  readonly port: number;
  onChange: (() => void) | undefined;
  private readonly context: NetdevContext;
  private readonly link: KernelLink;
  private readonly optionsText: string;
  private readonly options: Options;
  private attachment: Attachment | undefined;
  private work: Promise<void> = Promise.resolve();
  private closing = false;
  private config: NetdevConfig;

  constructor(config: NetdevConfig, context: NetdevContext, link: KernelLink, options: Options) {
    this.name = config.name;
    this.type = config.type;
    this.config = config;
    this.context = context;
    this.link = link;
    this.options = options;
    this.optionsText = JSON.stringify(options);
    this.port = context.engine.addPort();
    try {
      this.applyMtu(); // before the program: a driver may refuse to change it afterwards
      this.attachment = Attachment.open(context.engine, this.port, link, options);
    } catch (thrown) {
      void context.engine.removePort(this.port);
      throw thrown;
    }
    context.log.info(`${this.name}: AF_XDP in mode ${this.attachment.mode.name}`);
    this.tellEngine();
    link.onChange = (reborn) => this.linkChanged(reborn);
  }

  private tellEngine(): void {
    const status = this.link.status();
    this.context.engine.setPort(this.port, {
      flags: status.adminUp ? PORT_UP : 0,
      mtu: Math.min(status.mtu ?? 1500, MAX_MTU),
      offloads: 0, // nobody behind the rings finishes checksums or segments
      usableTxQueues: this.attachment?.queueCount ?? 0,
    });
  }

  private linkChanged(reborn: boolean): void {
    this.tellEngine();
    if (reborn) {
      this.work = this.work.then(async () => {
        const old = this.attachment;
        this.attachment = undefined;
        this.tellEngine();
        await old?.close();
        if (this.closing || this.link.link === undefined) return;
        try {
          this.applyMtu();
          this.attachment = Attachment.open(
            this.context.engine,
            this.port,
            this.link,
            this.options,
          );
          this.tellEngine();
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
    } catch (thrown) {
      const text = thrown instanceof SysError ? thrown.text : String(thrown);
      this.context.log.warn(`${this.name}: failed to set MTU to ${mtu} (${text})`);
    }
  }

  status(): NetdevStatus {
    const status = this.link.status();
    const mode = this.attachment?.mode.name;
    if (mode === undefined) return status;
    return { ...status, status: { ...status.status, 'xdp-mode': mode } };
  }

  statistics(): Record<string, number> {
    const drops = this.context.engine.portCounters(this.port).drops;
    const statistics = linkStatistics(this.link.stats(), drops, false);
    return { ...statistics, ...this.attachment?.statistics() };
  }

  reconfigure(config: NetdevConfig): boolean {
    if (!this.sameOptions(config)) return false;
    this.config = config;
    this.applyMtu();
    this.tellEngine();
    return true;
  }

  private sameOptions(config: NetdevConfig): boolean {
    try {
      return JSON.stringify(parseOptions(config)) === this.optionsText;
    } catch {
      return false; // opening again says what is wrong with them
    }
  }

  setAdminUp(up: boolean): void {
    setLinkUp(this.link, up, this.context);
    this.tellEngine();
  }

  async close(): Promise<void> {
    this.closing = true;
    this.link[Symbol.dispose]();
    this.work = this.work.then(() => this.attachment?.close());
    await this.work;
    await this.context.engine.removePort(this.port);
  }
}

export async function openAfxdp(config: NetdevConfig, context: NetdevContext): Promise<Netdev> {
  const link = existingLink(config, context);
  try {
    const options = parseOptions(config);
    return await openBusy(() => new AfxdpDevice(config, context, link, options));
  } catch (thrown) {
    link[Symbol.dispose]();
    throw thrown instanceof NetdevError ? thrown : openError(config.name, thrown);
  }
}
