// Kernel queues without a kernel: the test writes received frames into the slots of a frame queue or the rings of an AF_XDP
// queue, and reads what the data plane has put into transmit rings.

import {
  FQ_CONTROL,
  FQ_DATA,
  FQ_DATA_SIZE,
  FQ_ENTRIES,
  FQ_HEAD,
  FQ_IOVS,
  FQ_MSGS,
  FQ_TAIL,
  FQ_VNET,
  FRAME_PACKET,
  FRAME_SLOT_HEAD,
  FRAME_TAP,
  IOV_SIZE,
  MMSG_CONTROLLEN,
  MMSG_FLAGS,
  MMSG_LEN,
  MMSG_SIZE,
} from '../../contract/frame.ts';
import { privateAddress } from '../../contract/packet.ts';
import { PORT_UP, QUEUE_XDP, queueAddress } from '../../contract/port.ts';
import {
  XQ_AUX,
  XQ_AUX_CONSUMER,
  XQ_AUX_FLAGS,
  XQ_AUX_PRODUCER,
  XQ_AUX_SIZE,
  XQ_CONSUMER,
  XQ_FLAGS,
  XQ_FRAME_SIZE,
  XQ_INFER,
  XQ_PRODUCER,
  XQ_RING,
  XQ_RING_SIZE,
  XQ_UMEM,
  XQ_UMEM_SIZE,
} from '../../contract/xdp.ts';
import { addFrameQueues, type FrameQueues } from '../../src/port/frameQueues.ts';
import { KERNEL_OFFLOADS } from '../../src/port/system.ts';
import type { FakeEngine, SeenPacket } from './fakeEngine.ts';

export interface VnetFields {
  flags?: number;
  gsoType?: number;
  gsoSize?: number;
  csumStart?: number;
  csumOffset?: number;
}

/** A port with frame queues whose descriptor is nothing. */
export class FramePort {
  readonly port: number;
  private readonly engine: FakeEngine;
  private readonly rxRecord: number;
  private readonly txRecord: number;
  private readonly queues: FrameQueues;

  constructor(engine: FakeEngine, style: 'tap' | 'packet', mtu = 1500) {
    this.engine = engine;
    this.port = engine.addPort();
    const number = style === 'tap' ? FRAME_TAP : FRAME_PACKET;
    this.queues = addFrameQueues(engine.asEngine(), this.port, -1, number);
    const offloads = KERNEL_OFFLOADS;
    engine.setPort(this.port, { flags: PORT_UP, mtu, offloads, usableTxQueues: 1 });
    const { rx, tx } = engine.ports.get(this.port)!;
    this.rxRecord = queueAddress(rx[0]!);
    this.txRecord = queueAddress(tx[0]!);
  }

  get rx(): number {
    return this.rxRecord;
  }

  /** Gives queues and arena back. */
  close(): Promise<void> {
    return this.queues.close();
  }

  /** As if the kernel had delivered a frame. `vlan`: a tag that it has taken out of the frame. */
  deliver(
    frame: Uint8Array,
    vnet: VnetFields = {},
    more: { vlan?: { tpid: number; tci: number }; truncated?: boolean } = {},
  ): void {
    const { engine, rxRecord: q } = this;
    const head = engine.u32(q + FQ_HEAD);
    const entry = head & (engine.u32(q + FQ_ENTRIES) - 1);
    const size = engine.u32(q + FQ_VNET);
    const start = engine.u32(q + FQ_DATA) + entry * engine.u32(q + FQ_DATA_SIZE) + FRAME_SLOT_HEAD;
    const at = start - size;
    engine.bytes.fill(0, at, start);
    engine.bytes[at] = vnet.flags ?? 0;
    engine.bytes[at + 1] = vnet.gsoType ?? 0;
    engine.view.setUint16(at + 4, vnet.gsoSize ?? 0, true);
    engine.view.setUint16(at + 6, vnet.csumStart ?? 0, true);
    engine.view.setUint16(at + 8, vnet.csumOffset ?? 0, true);
    engine.bytes.set(frame, start);
    const message = engine.u32(q + FQ_MSGS) + entry * MMSG_SIZE;
    engine.setU32(message + MMSG_LEN, frame.length + size);
    engine.setU32(message + MMSG_FLAGS, more.truncated ? 0x20 : 0);
    if (more.vlan !== undefined) {
      // struct cmsghdr and struct tpacket_auxdata
      const control = engine.u32(q + FQ_CONTROL) + entry * 64;
      engine.view.setBigUint64(control, 36n, true);
      engine.setU32(control + 8, 263);
      engine.setU32(control + 12, 8);
      engine.setU32(control + 16, 0x50); // VLAN_VALID, VLAN_TPID_VALID
      engine.view.setUint16(control + 32, more.vlan.tci, true);
      engine.view.setUint16(control + 34, more.vlan.tpid, true);
      engine.view.setBigUint64(message + MMSG_CONTROLLEN, 40n, true);
    } else if (engine.u32(q + FQ_CONTROL) !== 0) {
      engine.view.setBigUint64(message + MMSG_CONTROLLEN, 0n, true);
    }
    engine.setU32(q + FQ_HEAD, head + 1);
  }

  /** The last `count` frames that were put into the transmit ring, sent or not. */
  lastWritten(count: number): Buffer[] {
    const { engine, txRecord: q } = this;
    const tail = engine.u32(q + FQ_TAIL);
    engine.setU32(q + FQ_TAIL, engine.u32(q + FQ_HEAD) - count);
    const frames = this.sent();
    engine.setU32(q + FQ_TAIL, tail);
    return frames;
  }

  /** Takes up to `max` frames off the transmit ring, as the host loop would: 12 or 10 bytes of header, then the frame. */
  sent(max = Number.POSITIVE_INFINITY): Buffer[] {
    const { engine, txRecord: q } = this;
    const mask = engine.u32(q + FQ_ENTRIES) - 1;
    const data = engine.u32(q + FQ_DATA);
    const frames: Buffer[] = [];
    let tail = engine.u32(q + FQ_TAIL);
    while (tail !== engine.u32(q + FQ_HEAD) && frames.length < max) {
      const iov = engine.u32(q + FQ_IOVS) + (tail & mask) * IOV_SIZE;
      const at = Number(engine.view.getBigUint64(iov, true) - engine.base);
      const length = Number(engine.view.getBigUint64(iov + 8, true));
      if (at < data || at + length > data + engine.u32(q + FQ_DATA_SIZE)) {
        throw new Error('iovec outside the byte ring');
      }
      frames.push(Buffer.from(engine.bytes.slice(at, at + length)));
      tail = (tail + 1) >>> 0;
    }
    engine.setU32(q + FQ_TAIL, tail);
    return frames;
  }
}

/** An AF_XDP receive queue with hand-made rings. */
export class XdpRing {
  readonly port: number;
  readonly q: number;
  private readonly engine: FakeEngine;
  private readonly area: number;
  private next = 0;

  static readonly ENTRIES = 64;
  static readonly FRAME = 4096;

  constructor(engine: FakeEngine, mtu = 1500, infer = true) {
    this.engine = engine;
    this.port = engine.addPort();
    engine.setPort(this.port, { flags: PORT_UP, mtu, offloads: 0, usableTxQueues: 0 });
    const queue = engine.addQueue(this.port, {
      direction: 'rx',
      index: 0,
      kind: QUEUE_XDP,
      waitFd: -1,
    });
    this.q = queueAddress(queue);
    const { ENTRIES, FRAME } = XdpRing;
    this.area = engine.allocArena(ENTRIES * FRAME + 4096 * 3, 4096);
    const rings = this.area + ENTRIES * FRAME;
    const words: [number, number][] = [
      [XQ_UMEM, this.area],
      [XQ_UMEM_SIZE, ENTRIES * FRAME],
      [XQ_FRAME_SIZE, FRAME],
      [XQ_RING, rings],
      [XQ_RING_SIZE, ENTRIES],
      [XQ_AUX, rings + 4096],
      [XQ_AUX_SIZE, ENTRIES],
      [XQ_PRODUCER, rings + 8192],
      [XQ_CONSUMER, rings + 8192 + 64],
      [XQ_FLAGS, rings + 8192 + 128],
      [XQ_AUX_PRODUCER, rings + 8192 + 192],
      [XQ_AUX_CONSUMER, rings + 8192 + 256],
      [XQ_AUX_FLAGS, rings + 8192 + 320],
      [XQ_INFER, infer ? 1 : 0],
    ];
    for (const [offset, value] of words) engine.setU32(this.q + offset, value);
    engine.attachQueue(queue);
  }

  /** As if the kernel had received a packet, in frames of at most `piece` bytes after 256 of headroom. */
  deliver(packet: Uint8Array, piece = XdpRing.FRAME - 256): void {
    for (let from = 0; from < packet.length; from += piece) {
      const part = packet.subarray(from, from + piece);
      this.describe(
        (this.next % XdpRing.ENTRIES) * XdpRing.FRAME + 256,
        part.length,
        from + piece < packet.length ? 1 : 0,
        part,
      );
    }
  }

  /** One descriptor, whatever it says. */
  describe(address: number, length: number, options: number, data?: Uint8Array): void {
    const { engine } = this;
    if (data !== undefined) engine.bytes.set(data, this.area + address);
    const producer = engine.u32(this.q + XQ_PRODUCER);
    const at = engine.u32(this.q + XQ_RING) + (engine.u32(producer) & (XdpRing.ENTRIES - 1)) * 16;
    engine.view.setBigUint64(at, BigInt(address), true);
    engine.setU32(at + 8, length);
    engine.setU32(at + 12, options);
    engine.setU32(producer, engine.u32(producer) + 1);
    this.next++;
  }

  /** UMEM addresses given back to the fill ring so far. */
  refilled(): number[] {
    const { engine } = this;
    const count = engine.u32(engine.u32(this.q + XQ_AUX_PRODUCER));
    const ring = engine.u32(this.q + XQ_AUX);
    return Array.from({ length: Math.min(count, XdpRing.ENTRIES) }, (_, i) =>
      Number(engine.view.getBigUint64(ring + i * 8, true)),
    );
  }
}

/** One receive burst of a queue, finished at once. */
export function receive(engine: FakeEngine, q: number): SeenPacket[] {
  const records = privateAddress(0);
  const n = engine.wasm.rxBurst(q, records, 256);
  const packets = Array.from({ length: n }, (_, i) => engine.packet(records + i * 1024));
  if (n > 0) engine.wasm.rxDone(q);
  return packets;
}
