// Transmit: the last of the five verbs. Packets leave to a port; what the port's peer cannot do, we do here.
//
//   packets -> port up? queue? -> truncated? too long? -> checksum or segments in software -> the queue's ring
//
// The records that the caller lists are never changed: they may be on their way to other ports too. A packet that
// has to be changed is copied (its head, not its payload) into a record of our own, one of IO_SEGMENTS.

import { PC_TX_CHECKSUMMED, PC_TX_SEGMENTED } from '../../contract/counters.ts';
import {
  DROP_NO_PORT,
  DROP_NONE,
  DROP_TX_GSO,
  DROP_TX_LINK_DOWN,
  DROP_TX_MTU,
  DROP_TX_NOT_READY,
  DROP_TX_RING_FULL,
} from '../../contract/drop.ts';
import {
  PKT_GSO_SIZE,
  PKT_GSO_TYPE,
  PKT_HEAD,
  PKT_HEAD_LEN,
  PKT_LEN,
  PKT_SEG_COUNT,
  PKT_SEGS,
  PKT_SIZE,
  PKT_TRUNC,
  PKT_VNET_FLAGS,
  PV_IO,
  VNET_GSO_ECN,
  VNET_GSO_TCPV4,
  VNET_GSO_TCPV6,
  VNET_GSO_UDP_L4,
  VNET_NEEDS_CSUM,
} from '../../contract/packet.ts';
import {
  OFFLOAD_CSUM,
  OFFLOAD_ECN,
  OFFLOAD_TSO4,
  OFFLOAD_TSO6,
  OFFLOAD_UFO,
  OFFLOAD_USO,
  PORT_NO_TX,
  PORT_UP,
  PT_FLAGS,
  PT_MTU,
  PT_OFFLOADS,
  PT_STATE,
  PT_TXQ,
  PT_TXQ_COUNT,
  portAddress,
  Q_BROKEN,
  Q_ENABLED,
  Q_KIND,
  Q_LOCK,
  QUEUE_FRAME,
  QUEUE_PACKED,
  QUEUE_SPLIT,
  QUEUE_XDP,
  queueAddress,
} from '../../contract/port.ts';
import { IO_LIST, IO_SEGMENTS } from '../../contract/virtqueue.ts';
import { countDrop } from '../drop.ts';
import { privateBase, worker } from '../worker.ts';
import { completeChecksum } from './checksum.ts';
import { copyBytes } from './copy.ts';
import { countBegin, countFrame, countOne, countTransmitted } from './count.ts';
import { frameTxBurst } from './frame.ts';
import { gsoBegin, gsoHeaderBytes, gsoNext } from './gso.ts';
import { heldFinish, heldFor, isHeld } from './held.ts';
import { kicksOff } from './notify.ts';
import { packedTransmit } from './packed.ts';
import { splitTransmit } from './split.ts';
import { windowOpen } from './window.ts';
import { xdpTxBurst } from './xdp.ts';

const LIST_MAX: u32 = 256;
const RECORDS: u32 = 128;
/** Tries before the holder of a queue's lock is taken for dead: the longest burst takes a fraction of it. */
const LOCK_TRIES: u32 = 50000000;

// The call at hand.
let port: u32 = 0;
let queue: u32 = 0;
let offloads: u32 = 0;
let listed: u32 = 0;
let recordsUsed: u32 = 0;

/** Sends `n` packets, whose record addresses are at `list`, out of a port. Every packet is sent or counted. */
export function txBurst(portNumber: u32, list: u32, n: i32): void {
  if (n <= 0) return;
  port = portNumber;
  const record = portAddress(portNumber);
  const flags = atomic.load<u32>(record + PT_FLAGS);
  const queues = atomic.load<u32>(record + PT_TXQ_COUNT);
  let reason: u32 = DROP_NONE;
  if (atomic.load<u32>(record + PT_STATE) === 0) reason = DROP_NO_PORT;
  else if ((flags & (PORT_UP | PORT_NO_TX)) !== PORT_UP) reason = DROP_TX_LINK_DOWN;
  else if (queues === 0) reason = DROP_TX_NOT_READY;
  if (reason === DROP_NONE) {
    queue = queueAddress(load<u32>(record + PT_TXQ + (worker % queues) * 4));
    const ready = load<u32>(queue, Q_ENABLED) !== 0 && load<u32>(queue, Q_BROKEN) === 0;
    if (!ready) reason = DROP_TX_NOT_READY;
    else if (!lock()) reason = DROP_TX_RING_FULL;
  }
  if (reason !== DROP_NONE) {
    countDrop(portNumber, reason, n);
    return;
  }
  heldFor(queues);
  offloads = load<u32>(record, PT_OFFLOADS);
  listed = 0;
  recordsUsed = 0;
  windowOpen(portNumber, record);
  const mtu = load<u32>(record, PT_MTU);
  const limit: u32 = mtu === 0 ? u32.MAX_VALUE : mtu + 14 + 8;
  let ready: u32 = 0;
  while (ready < <u32>n && isReady(load<u32>(list + ready * 4), limit)) ready++;
  if (ready === <u32>n && ready <= LIST_MAX) {
    hand(list, ready);
  } else {
    for (let i: u32 = 0; i < <u32>n; i++) {
      const packet = load<u32>(list + i * 4);
      if (i < ready || isReady(packet, limit)) enlist(packet);
      else send(packet, limit);
    }
    flush();
  }
  if (!isHeld(queue)) atomic.store<u32>(queue + Q_LOCK, 0);
}

/** Nothing has to be done to the packet. */
function isReady(packet: u32, limit: u32): bool {
  if (load<u32>(packet, PKT_TRUNC) !== 0 || load<u8>(packet, PKT_VNET_FLAGS) !== 0) return false;
  return load<u32>(packet, PKT_LEN) <= limit;
}

/** Several workers may share the queue. The lock holds the worker's number + 1, so that the engine can free it. */
function lock(): bool {
  if (isHeld(queue)) return true;
  for (let i: u32 = 0; i < LOCK_TRIES; i++) {
    if (atomic.cmpxchg<u32>(queue + Q_LOCK, 0, worker + 1) === 0) return true;
    // Who waits for a lock holds none, or two workers would wait for each other.
    if (i === 0) heldFinish(queue);
  }
  return false;
}

/** Lists a packet for the ring, after all that must be done to it. */
function send(packet: u32, limit: u32): void {
  const trunc = load<u32>(packet, PKT_TRUNC);
  const length = load<u32>(packet, PKT_LEN);
  const partial = (<u32>load<u8>(packet, PKT_VNET_FLAGS) & VNET_NEEDS_CSUM) !== 0;
  if (trunc !== 0 && trunc < length) {
    sendTruncated(packet, trunc, limit);
    return;
  }
  if (!partial) {
    if (length > limit) countDrop(port, DROP_TX_MTU);
    else enlist(packet);
    return;
  }
  const gso = <u32>load<u8>(packet, PKT_GSO_TYPE);
  if (gso !== 0) {
    if (gsoHeaderBytes(packet) + load<u16>(packet, PKT_GSO_SIZE) > limit) {
      countDrop(port, DROP_TX_MTU);
    } else if ((offloads & offloadFor(gso)) === offloadFor(gso)) {
      enlist(packet);
    } else {
      sendSegments(packet);
    }
    return;
  }
  if (length > limit) {
    countDrop(port, DROP_TX_MTU);
  } else if ((offloads & OFFLOAD_CSUM) !== 0) {
    enlist(packet);
  } else {
    const copy = copyRecord(packet);
    if (completeChecksum(copy)) {
      countOne(port, PC_TX_CHECKSUMMED, 1);
      enlist(copy);
    } else {
      countDrop(port, DROP_TX_GSO);
    }
  }
}

/** OFFLOAD_* bits that a peer must have for packets of this gso_type. */
function offloadFor(gso: u32): u32 {
  const ecn: u32 = (gso & VNET_GSO_ECN) !== 0 ? OFFLOAD_ECN : 0;
  const type = gso & ~VNET_GSO_ECN;
  if (type === VNET_GSO_TCPV4) return OFFLOAD_CSUM | OFFLOAD_TSO4 | ecn;
  if (type === VNET_GSO_TCPV6) return OFFLOAD_CSUM | OFFLOAD_TSO6 | ecn;
  if (type === VNET_GSO_UDP_L4) return OFFLOAD_CSUM | OFFLOAD_USO;
  return OFFLOAD_CSUM | OFFLOAD_UFO;
}

function sendSegments(packet: u32): void {
  const partialOk = (offloads & OFFLOAD_CSUM) !== 0;
  if (!gsoBegin(packet, partialOk)) {
    countDrop(port, DROP_TX_GSO);
    return;
  }
  countOne(port, PC_TX_SEGMENTED, 1);
  let segments: u32 = 0;
  for (;;) {
    const record = newRecord();
    if (!gsoNext(record)) break;
    recordsUsed++;
    segments++;
    enlist(record);
  }
  if (!partialOk) countOne(port, PC_TX_CHECKSUMMED, segments);
}

/** A mirror's or a controller's copy: cut after the checksum is final, because the receiver could not finish it. */
function sendTruncated(packet: u32, length: u32, limit: u32): void {
  if (length > limit) {
    countDrop(port, DROP_TX_MTU);
    return;
  }
  const copy = copyRecord(packet);
  const partial = (<u32>load<u8>(copy, PKT_VNET_FLAGS) & VNET_NEEDS_CSUM) !== 0;
  if (partial && load<u8>(copy, PKT_GSO_TYPE) === 0) completeChecksum(copy);
  store<u64>(copy, 0, PKT_VNET_FLAGS);
  store<u32>(copy, length, PKT_LEN);
  let left = length;
  const headBytes = min(left, load<u32>(copy, PKT_HEAD_LEN));
  store<u32>(copy, headBytes, PKT_HEAD_LEN);
  left -= headBytes;
  let segment = copy + PKT_SEGS;
  for (; left !== 0; segment += 8) {
    const bytes = min(left, load<u32>(segment, 4));
    store<u32>(segment, bytes, 4);
    left -= bytes;
  }
  store<u32>(copy, (segment - copy - PKT_SEGS) >> 3, PKT_SEG_COUNT);
  enlist(copy);
}

/** An unused record of IO_SEGMENTS; counted as used by the caller once it is filled. */
function newRecord(): u32 {
  if (recordsUsed === RECORDS) flush();
  return privateBase + (PV_IO + IO_SEGMENTS) + recordsUsed * PKT_SIZE;
}

/** A copy of the packet that shares its payload. */
function copyRecord(packet: u32): u32 {
  const copy = newRecord();
  recordsUsed++;
  const head = load<u32>(packet, PKT_HEAD);
  const to = copy + (head - packet);
  copyBytes(copy, packet, PKT_SEGS);
  copyBytes(copy + PKT_SEGS, packet + PKT_SEGS, load<u32>(packet, PKT_SEG_COUNT) * 8);
  copyBytes(to, head, load<u32>(packet, PKT_HEAD_LEN));
  store<u32>(copy, to, PKT_HEAD);
  return copy;
}

function enlist(packet: u32): void {
  store<u32>(privateBase + (PV_IO + IO_LIST) + listed * 4, packet);
  listed++;
  if (listed === LIST_MAX) flush();
}

/** Hands over what is listed. */
function flush(): void {
  const n = listed;
  const list = privateBase + (PV_IO + IO_LIST);
  listed = 0;
  recordsUsed = 0;
  if (n !== 0) hand(list, n);
}

/** Hands `n` packets to the ring. */
function hand(list: u32, n: u32): void {
  const kind = load<u32>(queue, Q_KIND);
  countBegin();
  if (kind === QUEUE_SPLIT || kind === QUEUE_PACKED) {
    kicksOff(queue);
    if (kind === QUEUE_SPLIT) splitTransmit(queue, list, n, offloads);
    else packedTransmit(queue, list, n, offloads);
  } else {
    let taken: i32 = 0;
    if (kind === QUEUE_FRAME) taken = frameTxBurst(queue, list, n);
    else if (kind === QUEUE_XDP) taken = xdpTxBurst(queue, list, n);
    for (let i: u32 = 0; i < <u32>taken; i++) {
      const packet = load<u32>(list + i * 4);
      countFrame(load<u32>(packet, PKT_HEAD), load<u32>(packet, PKT_LEN));
    }
    if (taken < <i32>n) countDrop(port, DROP_TX_RING_FULL, n - taken);
  }
  countTransmitted(queue, port);
}
