// Gives a kernel device its two queues in the data plane: lays out the rings of contract/frame.ts in the arena.
//
//   arena   receive: mmsghdr[n] iovec[n] control[n] slots[n]          a slot takes a frame of 64 KiB
//           transmit: mmsghdr[m] iovec[m] offsets[m] byte ring
//
// Addresses are what is scarce, memory is committed as it is used: the first ports get room for large bursts; where there
// are many, later ones make do with smaller bursts (SIZES), so that more than 500 fit.

import {
  CONTROL_SIZE,
  FQ_CONTROL,
  FQ_DATA,
  FQ_DATA_SIZE,
  FQ_ENTRIES,
  FQ_EPOCH,
  FQ_FD,
  FQ_IOVS,
  FQ_MSGS,
  FQ_OFFSETS,
  FQ_REAL,
  FQ_STYLE,
  FQ_VNET,
  FRAME_MAX,
  FRAME_PACKET,
  FRAME_SLOT_HEAD,
  IOV_SIZE,
  MMSG_CONTROL,
  MMSG_CONTROLLEN,
  MMSG_IOV,
  MMSG_IOVLEN,
  MMSG_SIZE,
} from '../../contract/frame.ts';
import { Q_SPECIFIC, QUEUE_FRAME, QUEUE_SIZE, queueAddress } from '../../contract/port.ts';
import type { Engine } from '../engine/types.ts';
import { PACKET_VNET_SIZE } from '../sys/packetSocket.ts';
import { TAP_VNET_SIZE } from '../sys/tun.ts';

const SLOT_SIZE = FRAME_SLOT_HEAD + FRAME_MAX;

interface Sizes {
  /** Powers of two. */
  readonly rxEntries: number;
  readonly txEntries: number;
  readonly txBytes: number;
}

/** What a port gets while at least this share of the arena is free: 4.2, 2.1, 0.5 MiB. */
const SIZES: readonly (readonly [share: number, sizes: Sizes])[] = [
  [7 / 8, { rxEntries: 32, txEntries: 1024, txBytes: 2 << 20 }],
  [3 / 4, { rxEntries: 16, txEntries: 512, txBytes: 1 << 20 }],
  [0, { rxEntries: 4, txEntries: 256, txBytes: 256 << 10 }],
];

let epoch = 0;

/** One receive and one transmit queue on one descriptor, which stays the caller's. */
export interface FrameQueues {
  /** Takes the queues from the workers and frees them; then the descriptor may be closed. */
  close(): Promise<void>;
}

/** `style`: FRAME_TAP or FRAME_PACKET. Throws when queues or arena are used up. */
export function addFrameQueues(
  engine: Engine,
  port: number,
  fd: number,
  style: number,
): FrameQueues {
  const vnet = style === FRAME_PACKET ? PACKET_VNET_SIZE : TAP_VNET_SIZE;
  const free = engine.arenaFree();
  const [, sizes] = SIZES.find(([share]) => free >= share)!;
  const rxBytes = sizes.rxEntries * (MMSG_SIZE + IOV_SIZE + CONTROL_SIZE + SLOT_SIZE);
  const txBytes = sizes.txEntries * (MMSG_SIZE + IOV_SIZE + 4) + sizes.txBytes;
  const rxArena = engine.allocArena(rxBytes, 4096);
  let txArena: number;
  try {
    txArena = engine.allocArena(txBytes, 4096);
  } catch (thrown) {
    engine.freeArena(rxArena);
    throw thrown;
  }
  const queues: number[] = [];
  const release = (): void => {
    for (const queue of queues) engine.removeQueue(queue);
    engine.freeArena(rxArena);
    engine.freeArena(txArena);
  };
  try {
    const rx = { direction: 'rx', index: 0, kind: QUEUE_FRAME, waitFd: fd } as const;
    const tx = { direction: 'tx', index: 0, kind: QUEUE_FRAME, waitFd: -1 } as const;
    queues.push(engine.addQueue(port, rx));
    layOut(engine, queues[0]!, rxArena, { fd, style, vnet, sizes, receive: true });
    queues.push(engine.addQueue(port, tx));
    layOut(engine, queues[1]!, txArena, { fd, style, vnet, sizes, receive: false });
    for (const queue of queues) engine.attachQueue(queue);
  } catch (thrown) {
    release();
    throw thrown;
  }
  return {
    close: async () => {
      await Promise.all(queues.map((queue) => engine.detachQueue(queue)));
      release();
    },
  };
}

interface Layout {
  fd: number;
  style: number;
  vnet: number;
  sizes: Sizes;
  receive: boolean;
}

/** Writes the queue record and the structures that never change. */
function layOut(engine: Engine, queue: number, arena: number, layout: Layout): void {
  const { receive, vnet, sizes } = layout;
  const view = new DataView(engine.memory.buffer);
  const entries = receive ? sizes.rxEntries : sizes.txEntries;
  const messages = arena;
  const iovs = messages + entries * MMSG_SIZE;
  const third = iovs + entries * IOV_SIZE; // receive: control buffers; transmit: offsets
  const data = third + entries * (receive ? CONTROL_SIZE : 4);
  const withControl = receive && layout.style === FRAME_PACKET;
  new Uint8Array(engine.memory.buffer, arena, data - arena).fill(0);

  for (let i = 0; i < entries; i++) {
    const message = messages + i * MMSG_SIZE;
    const iov = iovs + i * IOV_SIZE;
    view.setBigUint64(message + MMSG_IOV, engine.base + BigInt(iov), true);
    view.setBigUint64(message + MMSG_IOVLEN, 1n, true);
    if (receive) {
      const start = data + i * SLOT_SIZE + FRAME_SLOT_HEAD - vnet;
      view.setBigUint64(iov, engine.base + BigInt(start), true);
      view.setBigUint64(iov + 8, BigInt(vnet + FRAME_MAX), true);
    }
    if (withControl) {
      const control = engine.base + BigInt(third + i * CONTROL_SIZE);
      view.setBigUint64(message + MMSG_CONTROL, control, true);
      view.setBigUint64(message + MMSG_CONTROLLEN, BigInt(CONTROL_SIZE), true);
    }
  }

  const q = queueAddress(queue);
  new Uint8Array(engine.memory.buffer, q + Q_SPECIFIC, QUEUE_SIZE - Q_SPECIFIC).fill(0);
  view.setInt32(q + FQ_FD, layout.fd, true);
  view.setUint32(q + FQ_STYLE, layout.style, true);
  view.setUint32(q + FQ_ENTRIES, entries, true);
  view.setUint32(q + FQ_MSGS, messages, true);
  view.setUint32(q + FQ_IOVS, iovs, true);
  view.setUint32(q + FQ_CONTROL, withControl ? third : 0, true);
  view.setUint32(q + FQ_OFFSETS, receive ? 0 : third, true);
  view.setUint32(q + FQ_DATA, data, true);
  view.setUint32(q + FQ_DATA_SIZE, receive ? SLOT_SIZE : sizes.txBytes, true);
  view.setUint32(q + FQ_VNET, vnet, true);
  view.setBigUint64(q + FQ_REAL, engine.base, true);
  view.setUint32(q + FQ_EPOCH, ++epoch, true);
}
