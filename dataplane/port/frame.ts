// Frame queues: packets of kernel devices (tap, AF_PACKET) between the slots of contract/frame.ts and packet records.
//
// The system calls are made by the host loop (src/engine/hostio.ts). The virtio-net header that the kernel puts before
// each frame says whether its checksum is unfinished and whether it is larger than a segment (virtio 1.2, 5.1.6): such
// packets pass through as they are. AF_PACKET delivers the outer VLAN tag beside the frame (PACKET_AUXDATA, packet(7)):
// it is put back here.

import {
  DROP_RX_BAD_VNET,
  DROP_RX_DISABLED,
  DROP_RX_RUNT,
  DROP_RX_TOO_LONG,
} from '../../contract/drop.ts';
import {
  CONTROL_SIZE,
  FQ_BYTE_HEAD,
  FQ_CONTROL,
  FQ_DATA,
  FQ_DATA_SIZE,
  FQ_ENTRIES,
  FQ_HEAD,
  FQ_IOVS,
  FQ_MSGS,
  FQ_OFFSETS,
  FQ_REAL,
  FQ_TAIL,
  FQ_TAKEN,
  FQ_VNET,
  FRAME_MAX,
  FRAME_SLOT_HEAD,
  IOV_SIZE,
  MMSG_CONTROLLEN,
  MMSG_FLAGS,
  MMSG_LEN,
  MMSG_SIZE,
} from '../../contract/frame.ts';
import { QUEUE_BASE } from '../../contract/memory.ts';
import {
  PKT_CSUM_OFFSET,
  PKT_CSUM_START,
  PKT_FLOW,
  PKT_GSO_SIZE,
  PKT_GSO_TYPE,
  PKT_HASH,
  PKT_HEAD,
  PKT_HEAD_COPY,
  PKT_HEAD_LEN,
  PKT_HEAD_START,
  PKT_IN_PORT,
  PKT_L3,
  PKT_L4,
  PKT_LEN,
  PKT_MARK,
  PKT_OUT_PORT,
  PKT_RXQ,
  PKT_SEG_COUNT,
  PKT_SEGS,
  PKT_SIZE,
  PKT_TRUNC,
  PKT_VNET_FLAGS,
  VNET_DATA_VALID,
  VNET_GSO_ECN,
  VNET_GSO_TCPV4,
  VNET_GSO_TCPV6,
  VNET_GSO_UDP,
  VNET_GSO_UDP_L4,
  VNET_NEEDS_CSUM,
} from '../../contract/packet.ts';
import { Q_ENABLED, Q_PORT, QUEUE_SIZE } from '../../contract/port.ts';
import { countDrop } from '../drop.ts';
import { flushLater } from '../worker.ts';
import { copyBytes } from './copy.ts';

const MSG_TRUNC: i32 = 0x20;
const ETH_HEADER: u32 = 14;
// struct cmsghdr with struct tpacket_auxdata: length of the whole, and where the fields are
const AUXDATA_LEVEL_TYPE: u64 = ((<u64>8) << 32) | 263; // SOL_PACKET, PACKET_AUXDATA
const AUXDATA_LENGTH: u64 = 36;
const AUX_STATUS: u32 = 16;
const AUX_TCI: u32 = 32;
const AUX_TPID: u32 = 34;
const TP_STATUS_VLAN_VALID: u32 = 1 << 4;
const TP_STATUS_VLAN_TPID_VALID: u32 = 1 << 6;
const ETH_P_8021Q: u16 = 0x8100;

/** Number of the queue whose record is at `q`. */
export function queueNumber(q: u32): u32 {
  return (q - QUEUE_BASE) / QUEUE_SIZE;
}

/** Copies the head of a frame into the record and describes the rest: all fields but the offload ones are set. */
export function beginPacket(record: u32, frame: u32, length: u32, port: u32, queue: u32): void {
  const head = record + PKT_HEAD_START;
  const copied = min<u32>(length, PKT_HEAD_COPY);
  for (let i: u32 = 0; i < copied; i += 16) {
    v128.store(head + i, v128.load(frame + i)); // slots end far enough behind the frame
  }
  store<u32>(record + PKT_HEAD, head);
  store<u32>(record + PKT_HEAD_LEN, copied);
  store<u32>(record + PKT_LEN, length);
  if (length > copied) {
    store<u32>(record + PKT_SEG_COUNT, 1);
    store<u32>(record + PKT_SEGS, frame + copied);
    store<u32>(record + PKT_SEGS + 4, length - copied);
  } else {
    store<u32>(record + PKT_SEG_COUNT, 0);
  }
  store<u64>(record + PKT_VNET_FLAGS, 0);
  store<u32>(record + PKT_IN_PORT, port);
  store<u32>(record + PKT_RXQ, queue);
  store<u32>(record + PKT_HASH, 0);
  store<u32>(record + PKT_FLOW, 0);
  store<u16>(record + PKT_L3, 0xffff);
  store<u16>(record + PKT_L4, 0xffff);
  store<u32>(record + PKT_TRUNC, 0);
  store<u32>(record + PKT_OUT_PORT, 0);
  store<u32>(record + PKT_MARK, 0);
}

/** Copies a whole packet, head and segments, to `at`. */
export function copyOut(packet: u32, at: u32, length: u32): void {
  const headLength = min<u32>(load<u32>(packet + PKT_HEAD_LEN), length);
  copyBytes(at, load<u32>(packet + PKT_HEAD), headLength);
  at += headLength;
  let left = length - headLength;
  const segments = load<u32>(packet + PKT_SEG_COUNT);
  for (let s: u32 = 0; s < segments && left > 0; s++) {
    const part = min<u32>(load<u32>(packet + PKT_SEGS + s * 8 + 4), left);
    copyBytes(at, load<u32>(packet + PKT_SEGS + s * 8), part);
    at += part;
    left -= part;
  }
}

/** Takes over the kernel's virtio-net header. False = it does not fit the frame. */
function takeVnet(record: u32, vnet: u32, length: u32): bool {
  const flags = load<u8>(vnet);
  const gsoType = load<u8>(vnet + 1);
  if (flags === 0 && gsoType === 0) return true;
  const gsoSize = load<u16>(vnet + 4);
  const start = load<u16>(vnet + 6);
  const offset = load<u16>(vnet + 8);
  if (flags & VNET_NEEDS_CSUM) {
    // in the head: every later stage can complete it there
    const head = min<u32>(length, PKT_HEAD_COPY);
    if (start < ETH_HEADER || <u32>start + <u32>offset + 2 > head) return false;
    store<u16>(record + PKT_CSUM_START, start);
    store<u16>(record + PKT_CSUM_OFFSET, offset);
  }
  store<u8>(record + PKT_VNET_FLAGS, flags & (VNET_NEEDS_CSUM | VNET_DATA_VALID));
  if (gsoType === 0) return true;
  const kind = <u32>gsoType & ~VNET_GSO_ECN;
  const tcp = kind === VNET_GSO_TCPV4 || kind === VNET_GSO_TCPV6;
  if (!tcp && gsoType !== VNET_GSO_UDP && gsoType !== VNET_GSO_UDP_L4) return false;
  if (gsoSize === 0 || !(flags & VNET_NEEDS_CSUM)) return false;
  store<u8>(record + PKT_GSO_TYPE, gsoType);
  store<u16>(record + PKT_GSO_SIZE, gsoSize);
  return true;
}

/** Puts the VLAN tag back that the kernel took out of the frame. */
function restoreVlan(record: u32, control: u32): void {
  if (load<u64>(control) < AUXDATA_LENGTH || load<u64>(control + 8) !== AUXDATA_LEVEL_TYPE) return;
  const status = load<u32>(control + AUX_STATUS);
  if (!(status & TP_STATUS_VLAN_VALID)) return;
  const tpid = status & TP_STATUS_VLAN_TPID_VALID ? load<u16>(control + AUX_TPID) : ETH_P_8021Q;
  const head = load<u32>(record + PKT_HEAD) - 4;
  store<u64>(head, load<u64>(head + 4));
  store<u32>(head + 8, load<u32>(head + 12));
  store<u16>(head + 12, bswap<u16>(tpid));
  store<u16>(head + 14, bswap<u16>(load<u16>(control + AUX_TCI)));
  store<u32>(record + PKT_HEAD, head);
  store<u32>(record + PKT_HEAD_LEN, load<u32>(record + PKT_HEAD_LEN) + 4);
  store<u32>(record + PKT_LEN, load<u32>(record + PKT_LEN) + 4);
  if (load<u8>(record + PKT_VNET_FLAGS) & VNET_NEEDS_CSUM) {
    store<u16>(record + PKT_CSUM_START, load<u16>(record + PKT_CSUM_START) + 4);
  }
}

/**
 * Fills up to `max` packet records from `first` on (PKT_SIZE apart) and returns how many. Their payload stays in the
 * slots until frameRxDone. Bad frames are counted as drops of the queue's port.
 */
export function frameRxBurst(q: u32, first: u32, max: i32): i32 {
  const head = atomic.load<u32>(q + FQ_HEAD);
  let taken = load<u32>(q + FQ_TAKEN);
  if (taken === head) return 0;
  const mask = load<u32>(q + FQ_ENTRIES) - 1;
  const slots = load<u32>(q + FQ_DATA);
  const slotSize = load<u32>(q + FQ_DATA_SIZE);
  const vnetSize = load<u32>(q + FQ_VNET);
  const messages = load<u32>(q + FQ_MSGS);
  const controls = load<u32>(q + FQ_CONTROL);
  const port = load<u32>(q + Q_PORT);
  const queue = queueNumber(q);
  const enabled = load<u32>(q + Q_ENABLED) !== 0;
  let record = first;
  let count: i32 = 0;
  while (taken !== head && count < max) {
    const entry = taken & mask;
    taken++;
    const message = messages + entry * MMSG_SIZE;
    const total = load<u32>(message + MMSG_LEN);
    const slot = slots + entry * slotSize;
    if (!enabled) {
      countDrop(port, DROP_RX_DISABLED);
    } else if (total < vnetSize + ETH_HEADER) {
      countDrop(port, DROP_RX_RUNT);
    } else if (load<i32>(message + MMSG_FLAGS) & MSG_TRUNC || total - vnetSize > <u32>FRAME_MAX) {
      countDrop(port, DROP_RX_TOO_LONG);
    } else {
      const length = total - vnetSize;
      beginPacket(record, slot + FRAME_SLOT_HEAD, length, port, queue);
      if (takeVnet(record, slot + FRAME_SLOT_HEAD - vnetSize, length)) {
        if (controls !== 0 && load<u64>(message + MMSG_CONTROLLEN) >= AUXDATA_LENGTH) {
          restoreVlan(record, controls + entry * CONTROL_SIZE);
        }
        record += PKT_SIZE;
        count++;
      } else {
        countDrop(port, DROP_RX_BAD_VNET);
      }
    }
  }
  store<u32>(q + FQ_TAKEN, taken);
  return count;
}

/** All packets of the burst have been copied out: their slots may be filled again. */
export function frameRxDone(q: u32): void {
  const taken = load<u32>(q + FQ_TAKEN);
  let tail = load<u32>(q + FQ_TAIL);
  if (tail === taken) return;
  if (load<u32>(q + FQ_CONTROL) !== 0) {
    // the kernel has put the length that it used where it looks for the room that there is
    const mask = load<u32>(q + FQ_ENTRIES) - 1;
    const messages = load<u32>(q + FQ_MSGS);
    for (; tail !== taken; tail++) {
      store<u64>(messages + (tail & mask) * MMSG_SIZE + MMSG_CONTROLLEN, CONTROL_SIZE);
    }
  }
  atomic.store<u32>(q + FQ_TAIL, taken);
}

/** Room for `need` bytes in the byte ring: its offset, or -1. */
function reserve(q: u32, need: u32, head: u32): i32 {
  const tail = atomic.load<u32>(q + FQ_TAIL);
  const size = load<u32>(q + FQ_DATA_SIZE);
  if (head === tail) return need <= size ? 0 : -1; // all sent: start at the front, where the cache is warm
  if (head - tail >= load<u32>(q + FQ_ENTRIES)) return -1;
  const at = load<u32>(q + FQ_BYTE_HEAD);
  const oldest = load<u32>(
    load<u32>(q + FQ_OFFSETS) + (tail & (load<u32>(q + FQ_ENTRIES) - 1)) * 4,
  );
  if (at > oldest) {
    if (at + need <= size) return at;
    return need < oldest ? 0 : -1; // strictly less: a full ring must not look like an empty one
  }
  return at + need < oldest ? at : -1;
}

/** Writes the virtio-net header that lets the kernel finish checksum and segmentation. */
function putVnet(at: u32, size: u32, packet: u32): void {
  const flags = load<u8>(packet + PKT_VNET_FLAGS) & VNET_NEEDS_CSUM;
  const gsoType = load<u8>(packet + PKT_GSO_TYPE);
  store<u64>(at, 0);
  store<u16>(at + 8, 0);
  if (size === 12) store<u16>(at + 10, 0);
  if (flags === 0) return;
  const start = load<u16>(packet + PKT_CSUM_START);
  store<u8>(at, flags);
  store<u16>(at + 6, start);
  store<u16>(at + 8, load<u16>(packet + PKT_CSUM_OFFSET));
  if (gsoType === 0) return;
  store<u8>(at + 1, gsoType);
  store<u16>(at + 4, load<u16>(packet + PKT_GSO_SIZE));
  let l4: u32 = 8;
  const udp = gsoType === VNET_GSO_UDP || gsoType === VNET_GSO_UDP_L4;
  if (!udp && <u32>start + 13 <= load<u32>(packet + PKT_HEAD_LEN)) {
    l4 = <u32>(load<u8>(load<u32>(packet + PKT_HEAD) + start + 12) >> 4) * 4;
  }
  store<u16>(at + 2, <u16>(<u32>start + l4));
}

/**
 * Copies packets into the ring and asks for the system call. `list`: u32 addresses of packet records. Returns how many
 * were taken, from the first on; for the others there was no room. The caller holds Q_LOCK if the queue is shared.
 */
export function frameTxBurst(q: u32, list: u32, n: i32): i32 {
  const mask = load<u32>(q + FQ_ENTRIES) - 1;
  const data = load<u32>(q + FQ_DATA);
  const vnetSize = load<u32>(q + FQ_VNET);
  const real = load<u64>(q + FQ_REAL);
  const offsets = load<u32>(q + FQ_OFFSETS);
  const iovs = load<u32>(q + FQ_IOVS);
  let head = load<u32>(q + FQ_HEAD);
  let taken: i32 = 0;
  for (; taken < n; taken++) {
    const packet = load<u32>(list + ((<u32>taken) << 2));
    const length = load<u32>(packet + PKT_LEN);
    const need = (vnetSize + length + 15) & ~15;
    const offset = reserve(q, need, head);
    if (offset < 0) break;
    const start = data + <u32>offset;
    putVnet(start, vnetSize, packet);
    copyOut(packet, start + vnetSize, length);
    const entry = head & mask;
    store<u32>(offsets + entry * 4, offset);
    store<u64>(iovs + entry * IOV_SIZE, real + start);
    store<u64>(iovs + entry * IOV_SIZE + 8, vnetSize + length);
    store<u32>(q + FQ_BYTE_HEAD, <u32>offset + need);
    head++;
    atomic.store<u32>(q + FQ_HEAD, head);
  }
  if (taken > 0) flushLater(queueNumber(q));
  return taken;
}
