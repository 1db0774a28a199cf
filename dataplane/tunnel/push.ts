// ACT_TUNNEL_PUSH: puts the outer headers of a tunnel (contract/tunnel.ts) in front of packets.
//
// The program brings the header as it is for all packets of the flow; filled in here are the IP length (and the IPv4 header's
// checksum by it), UDP length, source port and checksum, GRE checksum and sequence number. The source port is a hash of
// the inner addresses and ports, so that the underlay spreads flows over paths and keeps each in order.
//
// A packet whose checksum is partial keeps it so (its csum_start moves), unless the outer header has a checksum of its
// own, which covers everything. A packet that is to be segmented is segmented first: each segment gets outer headers.

import { DROP_NONE, DROP_TUNNEL_HEADROOM, DROP_TX_GSO } from '../../contract/drop.ts';
import {
  K_ETH_DST,
  K_ETH_TYPE,
  K_IPV6_SRC,
  K_NW_FRAG,
  K_NW_PROTO,
  K_NW_SRC,
  K_TP_SRC,
} from '../../contract/key.ts';
import {
  KEY_STRIDE,
  PKT_GSO_SIZE,
  PKT_GSO_TYPE,
  PKT_HEAD,
  PKT_IN_PORT,
  PKT_KEY,
  PKT_L3,
  PKT_L4,
  PKT_LEN,
  PKT_SEGS,
  PKT_TRUNC,
  PKT_VNET_FLAGS,
  VNET_NEEDS_CSUM,
} from '../../contract/packet.ts';
import { PT_TUNNEL_SEQUENCE, portAddress } from '../../contract/port.ts';
import {
  ETH_TYPE_ERSPAN2,
  GRE_CSUM,
  GRE_KEY,
  GRE_SEQ,
  TP_HEADER,
  TP_PORT,
  TP_SOURCE_PORTS,
  TP_TYPE,
  TUNNEL_ERSPAN,
  TUNNEL_GRE,
  TUNNEL_GTPU,
  TUNNEL_IP6ERSPAN,
  TUNNEL_IP6GRE,
} from '../../contract/tunnel.ts';
import { freeRecords, keyOf, release, takeRecord } from '../batch.ts';
import { countDrop } from '../drop.ts';
import { completeChecksum, fold, sumBytes, sumPacket } from '../port/checksum.ts';
import { copyBytes } from '../port/copy.ts';
import { gsoBegin, gsoHeaderBytes, gsoNext } from '../port/gso.ts';
import { load16, store16 } from '../port/headers.ts';
import { S_SEGMENTS, SEGMENTS_LIST } from '../scratch.ts';
import { nowMs, privateBase } from '../worker.ts';
import { cut, grow } from './head.ts';

const BE_IPV4: u32 = 0x0008;
const BE_IPV6: u32 = 0xdd86;
const ETH: u32 = 14;
const PROTO_UDP: u32 = 17;

/** Does any of the packets have to be segmented before it can be encapsulated? */
export function anySegmented(list: u32, n: i32): bool {
  for (let i = 0; i < n; i++) {
    const pkt = load<u32>(list + (i << 2));
    if (isSegmented(pkt)) return true;
  }
  return false;
}

/** A truncated packet is not. */
export function isSegmented(pkt: u32): bool {
  return load<u8>(pkt + PKT_GSO_TYPE) !== 0 && load<u32>(pkt + PKT_TRUNC) === 0;
}

/** Encapsulates the packets; those that cannot be are dropped and leave the list. Returns how many are left. */
export function pushTunnel(operands: u32, list: u32, n: i32): i32 {
  let kept = 0;
  for (let i = 0; i < n; i++) {
    const pkt = load<u32>(list + (i << 2));
    const reason = push(pkt, operands);
    if (reason === DROP_NONE) {
      store<u32>(list + (kept << 2), pkt);
      kept++;
    } else {
      countDrop(load<u32>(pkt + PKT_IN_PORT), reason);
      release(pkt);
    }
  }
  return kept;
}

/**
 * Cuts a packet into segments, whose list is at segmentList() then, and releases it. Returns how many there are; 0: it
 * was dropped. No batch is transmitted on the way, since that uses the same machinery.
 */
export function segment(pkt: u32, operands: u32): i32 {
  const header = gsoHeaderBytes(pkt);
  const size: u32 = load<u16>(pkt + PKT_GSO_SIZE);
  const length = load<u32>(pkt + PKT_LEN);
  const expected: u32 = size === 0 || length <= header ? 0 : (length - header + size - 1) / size;
  // UDP fragments are cut at multiples of eight bytes: a few more.
  const room: u32 = expected + expected / 8 + 2;
  let count = 0;
  if (expected !== 0 && room <= <u32>SEGMENTS_LIST && freeRecords(room)) {
    if (gsoBegin(pkt, !hasChecksum(operands))) {
      const list = privateBase + S_SEGMENTS;
      while (count < <i32>SEGMENTS_LIST) {
        const record = takeRecord();
        if (record === 0) break;
        memory.copy(record, pkt, PKT_SEGS);
        store<u32>(record + PKT_KEY, keyOf(record));
        if (!gsoNext(record, HEADROOM)) {
          release(record);
          break;
        }
        copyKey(record, pkt);
        store<u32>(list + (count << 2), record);
        count++;
      }
    }
  }
  if (count === 0) countDrop(load<u32>(pkt + PKT_IN_PORT), DROP_TX_GSO);
  release(pkt);
  return count;
}

export function segmentList(): u32 {
  return privateBase + S_SEGMENTS;
}

/** Bytes left in front of a segment for outer headers. */
const HEADROOM: u32 = 128;

function copyKey(record: u32, pkt: u32): void {
  memory.copy(load<u32>(record + PKT_KEY), load<u32>(pkt + PKT_KEY), KEY_STRIDE);
}

/** Has the outer header a checksum over the whole packet? */
function hasChecksum(operands: u32): bool {
  const header = operands + TP_HEADER * 4;
  const type = load<u32>(operands + TP_TYPE * 4) & 0xffff;
  const l4 = header + l4Offset(header);
  if (isGre(type)) return (load16(l4) & GRE_CSUM) !== 0;
  if (type === TUNNEL_GTPU) return true; // as in Open vSwitch
  return load<u16>(l4, 6) !== 0;
}

function isErspan(type: u32): bool {
  return type === TUNNEL_ERSPAN || type === TUNNEL_IP6ERSPAN;
}

/** ERSPAN, too, is in GRE. */
function isGre(type: u32): bool {
  return type === TUNNEL_GRE || type === TUNNEL_IP6GRE || isErspan(type);
}

function l4Offset(header: u32): u32 {
  return <u32>load<u16>(header, 12) === BE_IPV6 ? ETH + 40 : ETH + 20;
}

/** Encapsulates a packet that is not to be segmented. DROP_NONE, or why it has to be dropped. */
export function push(pkt: u32, operands: u32): u32 {
  const typeAndSize = load<u32>(operands + TP_TYPE * 4);
  const type = typeAndSize & 0xffff;
  const size = typeAndSize >> 16;
  const header = operands + TP_HEADER * 4;
  const hash = flowHash(load<u32>(pkt + PKT_KEY));
  if (load<u32>(pkt + PKT_TRUNC) !== 0) truncate(pkt);
  const inner = load<u32>(pkt + PKT_LEN);
  const l4 = l4Offset(header);
  const checksummed = hasChecksum(operands);
  if (load<u8>(pkt + PKT_VNET_FLAGS) & VNET_NEEDS_CSUM) {
    if (checksummed && !completeChecksum(pkt)) return DROP_TX_GSO;
  } else {
    store<u64>(pkt + PKT_VNET_FLAGS, 0);
  }
  const total = inner + size - ETH; // bytes of the IP packet
  if (total - (l4 === ETH + 40 ? 40 : 0) > 0xffff || !grow(pkt, size)) return DROP_TUNNEL_HEADROOM;
  const head = load<u32>(pkt + PKT_HEAD);
  copyBytes(head, header, size);
  store<u16>(pkt + PKT_L3, <u16>ETH);
  store<u16>(pkt + PKT_L4, <u16>l4);
  const ip = head + ETH;
  if (l4 === ETH + 20) {
    store16(ip + 2, total);
    // The template's checksum is that of a header whose length is zero.
    const sum = (<u32>load<u16>(ip, 10) ^ 0xffff) + <u32>load<u16>(ip, 2);
    store<u16>(ip, <u16>~fold(sum), 10);
  } else {
    store16(ip + 4, total - 40);
  }
  const at = head + l4;
  const l4Bytes = total + ETH - l4;
  if (isGre(type)) {
    const flags = load16(at);
    if (flags & GRE_SEQ) {
      const before: u32 = ((flags & GRE_CSUM) !== 0 ? 4 : 0) + ((flags & GRE_KEY) !== 0 ? 4 : 0);
      const port = portAddress(load<u32>(operands + TP_PORT * 4));
      const sequence = atomic.add<u32>(port + PT_TUNNEL_SEQUENCE, 1);
      store<u32>(at + 4 + before, bswap<u32>(sequence));
    }
    if (isErspan(type) && load16(at + 2) === ETH_TYPE_ERSPAN2) {
      // In units of 100 us, as Linux has it.
      store<u32>(at, bswap<u32>(<u32>(<u64>(nowMs * 10))), 12);
    }
    if (checksummed) store<u16>(at, <u16>~sumPacket(pkt, l4), 4);
    return DROP_NONE;
  }
  const ports = load<u32>(operands + TP_SOURCE_PORTS * 4);
  const source = (ports & 0xffff) + <u32>((<u64>hash * (ports >> 16)) >> 32);
  store16(at, source);
  store16(at + 4, l4Bytes);
  if (type === TUNNEL_GTPU) store16(at + 10, gtpuLength(at, inner));
  if (checksummed) {
    store<u16>(at, 0, 6);
    const addresses = l4 === ETH + 20 ? sumBytes(ip + 12, 8) : sumBytes(ip + 8, 32);
    const pseudo = addresses + <u64>bswap<u16>(<u16>l4Bytes) + <u64>(PROTO_UDP << 8);
    const value = ~fold(pseudo + <u64>sumPacket(pkt, l4)) & 0xffff;
    store<u16>(at, <u16>(value === 0 ? 0xffff : value), 6);
  }
  return DROP_NONE;
}

/** GTP-U's length counts what follows its first eight bytes. */
function gtpuLength(udp: u32, inner: u32): u32 {
  return inner + ((<u32>load<u8>(udp, 8) & 7) !== 0 ? 4 : 0);
}

/** An output of limited length carries the first bytes of the packet as it is, checksum completed. */
function truncate(pkt: u32): void {
  const length = load<u32>(pkt + PKT_TRUNC);
  store<u32>(pkt + PKT_TRUNC, 0);
  if (length >= load<u32>(pkt + PKT_LEN)) return;
  if (load<u8>(pkt + PKT_VNET_FLAGS) & VNET_NEEDS_CSUM) completeChecksum(pkt);
  store<u64>(pkt + PKT_VNET_FLAGS, 0);
  cut(pkt, length);
}

/** The same for all packets of a connection in one direction, and for all fragments of a datagram. */
function flowHash(key: u32): u32 {
  const type: u32 = load<u16>(key + K_ETH_TYPE);
  let h: u64 = 0;
  if (type === BE_IPV4) {
    h = load<u64>(key + K_NW_SRC) * 0x9e3779b97f4a7c15;
  } else if (type === BE_IPV6) {
    h = load<u64>(key + K_IPV6_SRC) * 0x9e3779b97f4a7c15;
    h = (rotl<u64>(h, 23) ^ load<u64>(key + K_IPV6_SRC, 8)) * 0xbf58476d1ce4e5b9;
    h = (rotl<u64>(h, 29) ^ load<u64>(key + K_IPV6_SRC, 16)) * 0x94d049bb133111eb;
    h = (rotl<u64>(h, 31) ^ load<u64>(key + K_IPV6_SRC, 24)) * 0xd6e8feb86659fd93;
  } else {
    h = load<u64>(key + K_ETH_DST) * 0x9e3779b97f4a7c15;
    h = (rotl<u64>(h, 23) ^ load<u32>(key + K_ETH_DST, 8)) * 0xbf58476d1ce4e5b9;
    return <u32>(((h ^ (h >> 32)) * 0xd6e8feb86659fd93) >> 32);
  }
  const ports: u64 = load<u8>(key + K_NW_FRAG) === 0 ? <u64>load<u32>(key + K_TP_SRC) : 0;
  h = (rotl<u64>(h, 27) ^ ports ^ ((<u64>load<u8>(key + K_NW_PROTO)) << 32)) * 0xbf58476d1ce4e5b9;
  return <u32>(((h ^ (h >> 32)) * 0xd6e8feb86659fd93) >> 32);
}
