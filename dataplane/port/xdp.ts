// AF_XDP queues (linux/if_xdp.h): packets between the rings of a socket and packet records, without a system call on
// the way in, and one for a whole burst on the way out (or none, if the driver polls).
//
// XDP has no offload description. Devices in software (veth, tun) hand over frames of the local kernel whose checksum is
// still that of the pseudo-header, and in generic mode frames larger than the MTU. Both are recognised (unfinished.ts) and
// become ordinary packets with PKT_VNET_FLAGS and PKT_GSO_*. On transmit the caller has finished checksums and segmented
// (the port offers no OFFLOAD_*).

import {
  DROP_RX_BAD_DESC,
  DROP_RX_DISABLED,
  DROP_RX_RUNT,
  DROP_RX_TOO_LONG,
} from '../../contract/drop.ts';
import { FRAME_MAX } from '../../contract/frame.ts';
import { PKT_LEN, PKT_SEG_COUNT, PKT_SEG_MAX, PKT_SEGS, PKT_SIZE } from '../../contract/packet.ts';
import { PT_MTU, portAddress, Q_ENABLED, Q_PORT } from '../../contract/port.ts';
import {
  XDP_PKT_CONTD,
  XDP_RING_NEED_WAKEUP,
  XQ_AUX,
  XQ_AUX_CONSUMER,
  XQ_AUX_FLAGS,
  XQ_AUX_PRODUCER,
  XQ_AUX_SIZE,
  XQ_CONSUMER,
  XQ_FLAGS,
  XQ_FRAME_SIZE,
  XQ_FREE,
  XQ_FREE_COUNT,
  XQ_INFER,
  XQ_PRODUCER,
  XQ_RING,
  XQ_RING_SIZE,
  XQ_TAKEN,
  XQ_UMEM,
  XQ_UMEM_SIZE,
} from '../../contract/xdp.ts';
import { countDrop } from '../drop.ts';
import { flushLater } from '../worker.ts';
import { beginPacket, copyOut, queueNumber } from './frame.ts';
import { inferOffload } from './unfinished.ts';

const ETH_HEADER: u32 = 14;

/**
 * Fills up to `max` packet records from `first` on (PKT_SIZE apart) and returns how many. Their payload stays in the
 * UMEM until xdpRxDone. Bad frames are counted as drops of the queue's port.
 */
export function xdpRxBurst(q: u32, first: u32, max: i32): i32 {
  const producer = atomic.load<u32>(load<u32>(q + XQ_PRODUCER));
  const consumer = load<u32>(load<u32>(q + XQ_CONSUMER));
  let at = consumer + load<u32>(q + XQ_TAKEN);
  if (at === producer) return 0;
  const ring = load<u32>(q + XQ_RING);
  const mask = load<u32>(q + XQ_RING_SIZE) - 1;
  const umem = load<u32>(q + XQ_UMEM);
  const umemSize = load<u32>(q + XQ_UMEM_SIZE);
  const frameSize = load<u32>(q + XQ_FRAME_SIZE);
  const port = load<u32>(q + Q_PORT);
  const queue = queueNumber(q);
  const infer = load<u32>(q + XQ_INFER) !== 0;
  const mtu = load<u32>(portAddress(port) + PT_MTU);
  const enabled = load<u32>(q + Q_ENABLED) !== 0;
  let record = first;
  let count: i32 = 0;
  while (at !== producer && count < max) {
    // one packet: its first descriptor and all that continue it
    let reason: u32 = enabled ? 0 : DROP_RX_DISABLED;
    let begun = false;
    let complete = false;
    let next = at;
    while (next !== producer) {
      const descriptor = ring + (next & mask) * 16;
      const address = load<u64>(descriptor);
      const length = load<u32>(descriptor + 8);
      next++;
      // within one frame: our own kernel wrote this, but an index into memory is always looked at
      if (
        length > frameSize ||
        address >= <u64>umemSize ||
        (address & (frameSize - 1)) + length > <u64>frameSize
      ) {
        reason = DROP_RX_BAD_DESC;
      } else if (!begun) {
        beginPacket(record, umem + <u32>address, length, port, queue);
        begun = true;
      } else if (!addSegment(record, umem + <u32>address, length)) {
        reason = DROP_RX_TOO_LONG;
      }
      if (!(load<u32>(descriptor + 12) & XDP_PKT_CONTD)) {
        complete = true;
        break;
      }
    }
    if (!complete) break; // the kernel publishes a packet's descriptors at once; if not, they come later
    at = next;
    if (reason === 0 && load<u32>(record + PKT_LEN) < ETH_HEADER) reason = DROP_RX_RUNT;
    if (reason === 0 && infer) reason = inferOffload(record, mtu);
    if (reason !== 0) {
      countDrop(port, reason);
    } else {
      record += PKT_SIZE;
      count++;
    }
  }
  store<u32>(q + XQ_TAKEN, at - consumer);
  return count;
}

function addSegment(record: u32, address: u32, length: u32): bool {
  const segments = load<u32>(record + PKT_SEG_COUNT);
  const total = load<u32>(record + PKT_LEN) + length;
  if (segments >= <u32>PKT_SEG_MAX || total > <u32>FRAME_MAX) return false;
  store<u32>(record + PKT_SEGS + segments * 8, address);
  store<u32>(record + PKT_SEGS + segments * 8 + 4, length);
  store<u32>(record + PKT_SEG_COUNT, segments + 1);
  store<u32>(record + PKT_LEN, total);
  return true;
}

/** All packets of the burst have been copied out: their frames go back to the kernel. */
export function xdpRxDone(q: u32): void {
  const taken = load<u32>(q + XQ_TAKEN);
  if (taken !== 0) {
    const consumerAt = load<u32>(q + XQ_CONSUMER);
    const consumer = load<u32>(consumerAt);
    const ring = load<u32>(q + XQ_RING);
    const mask = load<u32>(q + XQ_RING_SIZE) - 1;
    const fill = load<u32>(q + XQ_AUX);
    const fillMask = load<u32>(q + XQ_AUX_SIZE) - 1;
    const fillProducerAt = load<u32>(q + XQ_AUX_PRODUCER);
    const fillProducer = load<u32>(fillProducerAt);
    const frameMask = ~(<u64>load<u32>(q + XQ_FRAME_SIZE) - 1);
    // The fill ring is as large as the number of frames: there is always room for what came out of it.
    for (let i: u32 = 0; i < taken; i++) {
      const address = load<u64>(ring + ((consumer + i) & mask) * 16);
      store<u64>(fill + ((fillProducer + i) & fillMask) * 8, address & frameMask);
    }
    atomic.store<u32>(consumerAt, consumer + taken);
    atomic.store<u32>(fillProducerAt, fillProducer + taken);
    store<u32>(q + XQ_TAKEN, 0);
    if (load<u32>(load<u32>(q + XQ_AUX_FLAGS)) & XDP_RING_NEED_WAKEUP) flushLater(queueNumber(q));
  }
}

/** Takes back the frames that the kernel has sent. */
function reap(q: u32): void {
  const producer = atomic.load<u32>(load<u32>(q + XQ_AUX_PRODUCER));
  const consumerAt = load<u32>(q + XQ_AUX_CONSUMER);
  let consumer = load<u32>(consumerAt);
  if (consumer === producer) return;
  const ring = load<u32>(q + XQ_AUX);
  const mask = load<u32>(q + XQ_AUX_SIZE) - 1;
  const free = load<u32>(q + XQ_FREE);
  let count = load<u32>(q + XQ_FREE_COUNT);
  const capacity = load<u32>(q + XQ_RING_SIZE);
  for (; consumer !== producer && count < capacity; consumer++, count++) {
    store<u32>(free + count * 4, <u32>load<u64>(ring + (consumer & mask) * 8));
  }
  store<u32>(q + XQ_FREE_COUNT, count);
  atomic.store<u32>(consumerAt, consumer);
}

/**
 * Copies packets into frames of the UMEM and puts them on the tx ring. `list`: u32 addresses of packet records, each
 * at most as long as a frame (the MTU of the port takes care of that). Returns how many were taken, from the first on.
 * The caller holds Q_LOCK if the queue is shared.
 */
export function xdpTxBurst(q: u32, list: u32, n: i32): i32 {
  reap(q);
  const free = load<u32>(q + XQ_FREE);
  let count = load<u32>(q + XQ_FREE_COUNT);
  const umem = load<u32>(q + XQ_UMEM);
  const frameSize = load<u32>(q + XQ_FRAME_SIZE);
  const ring = load<u32>(q + XQ_RING);
  const mask = load<u32>(q + XQ_RING_SIZE) - 1;
  const producerAt = load<u32>(q + XQ_PRODUCER);
  let producer = load<u32>(producerAt);
  let taken: i32 = 0;
  // There are as many frames as ring entries, so a free frame means a free entry.
  for (; taken < n && count > 0; taken++) {
    const packet = load<u32>(list + ((<u32>taken) << 2));
    const length = load<u32>(packet + PKT_LEN);
    if (length > frameSize - 16) break;
    count--;
    const offset = load<u32>(free + count * 4);
    copyOut(packet, umem + offset, length);
    const descriptor = ring + (producer & mask) * 16;
    store<u64>(descriptor, offset);
    store<u64>(descriptor + 8, length);
    producer++;
  }
  if (taken > 0) {
    store<u32>(q + XQ_FREE_COUNT, count);
    atomic.store<u32>(producerAt, producer);
    if (load<u32>(load<u32>(q + XQ_FLAGS)) & XDP_RING_NEED_WAKEUP) flushLater(queueNumber(q));
  }
  return taken;
}
