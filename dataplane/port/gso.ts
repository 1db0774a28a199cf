// Segmentation in software: a GSO packet to a peer without that offload leaves as several packets.
//
//   TCP    each segment repeats the headers; sequence number, IP length and identification advance; FIN and PSH only
//          on the last, CWR only on the first (RFC 3168, 6.1.2)
//   UDP    ("USO") each segment is a datagram with headers of its own; length and checksum are set
//          ("UFO") the datagram becomes IP fragments (RFC 791, 3.2; RFC 8200, 4.5), its checksum is completed first
//
// gsoBegin() reads the headers, then each gsoNext() writes the next segment into a record of its own: headers copied,
// payload as segments that point to where the original's payload is.

import {
  PKT_CSUM_OFFSET,
  PKT_CSUM_START,
  PKT_GSO_SIZE,
  PKT_GSO_TYPE,
  PKT_HEAD,
  PKT_HEAD_LEN,
  PKT_HEADROOM,
  PKT_LEN,
  PKT_SEG_COUNT,
  PKT_SEGS,
  PKT_VNET_FLAGS,
  VNET_GSO_ECN,
  VNET_GSO_TCPV4,
  VNET_GSO_TCPV6,
  VNET_GSO_UDP,
  VNET_GSO_UDP_L4,
  VNET_NEEDS_CSUM,
} from '../../contract/packet.ts';
import { worker } from '../worker.ts';
import { adjustSum, completeChecksum, ipv4Checksum, sumPacket } from './checksum.ts';
import { copyBytes } from './copy.ts';
import {
  ipVersion,
  l3,
  l4,
  load16,
  locate,
  PROTOCOL_TCP,
  PROTOCOL_UDP,
  protocol,
  protocolAt,
  store16,
} from './headers.ts';

/** Segments of one packet at most: 64 KiB in segments of TCP's smallest sensible size. */
const SEGMENTS_MAX: u32 = 1500;

const FIN_PSH: u32 = 0x09;
const CWR: u32 = 0x80;
const MORE_FRAGMENTS: u32 = 0x2000;
const FRAGMENT_HEADER: u32 = 8;

// The packet being segmented.
let packet: u32 = 0;
let udp: bool = false; // one datagram in fragments
let datagrams: bool = false; // many datagrams
let partial: bool = false; // leave checksums to the peer
let version: u32 = 0;
let ip: u32 = 0; // offsets in the frame
let transport: u32 = 0;
let nextHeaderAt: u32 = 0;
let headerBytes: u32 = 0; // repeated in each segment
let payload: u32 = 0; // bytes in each segment but the last
let done: u32 = 0; // payload bytes already sent
let rest: u32 = 0; // payload bytes to go
let number: u32 = 0; // of the next segment
let checksum: u32 = 0; // of the datagram (UDP)
let identification: u32 = 0; // IPv6 fragments

// Where the next payload byte is: in the head, or in a segment of the packet.
let source: u32 = 0;
let sourceLeft: u32 = 0;
let inHead: bool = false;
let segment: u32 = 0;

let lastIdentification: u32 = 0;

/** Offset of the payload of a GSO packet, as the header lengths say (UFO: of the UDP header). */
export function gsoHeaderBytes(record: u32): u32 {
  const start = <u32>load<u16>(record, PKT_CSUM_START);
  const type = <u32>load<u8>(record, PKT_GSO_TYPE);
  if (type === VNET_GSO_UDP) return start;
  if (type === VNET_GSO_UDP_L4) return start + 8;
  if (start + 20 > load<u32>(record, PKT_HEAD_LEN)) return start;
  return start + <u32>(load<u8>(load<u32>(record, PKT_HEAD) + start, 12) >> 4) * 4;
}

/** Starts on a packet; `partialOk`: the peer completes checksums. False if it cannot be segmented. */
export function gsoBegin(record: u32, partialOk: bool): bool {
  const frame = load<u32>(record, PKT_HEAD);
  const headBytes = load<u32>(record, PKT_HEAD_LEN);
  const type = <u32>load<u8>(record, PKT_GSO_TYPE) & ~VNET_GSO_ECN;
  const start = <u32>load<u16>(record, PKT_CSUM_START);
  if (!locate(frame, headBytes) || l4 !== start) return false;
  packet = record;
  udp = type === VNET_GSO_UDP;
  datagrams = type === VNET_GSO_UDP_L4;
  partial = partialOk;
  version = ipVersion;
  ip = l3;
  transport = l4;
  nextHeaderAt = protocolAt;
  payload = load<u16>(record, PKT_GSO_SIZE);
  if (udp) {
    if (protocol !== PROTOCOL_UDP || l4 + 8 > headBytes) return false;
    headerBytes = l4;
    payload &= ~7;
    const value = ~sumPacket(record, start) & 0xffff;
    checksum = value === 0 ? 0xffff : value;
    // Distinct for each datagram of this worker, and between workers.
    lastIdentification++;
    identification = (lastIdentification << 4) | (worker & 15);
  } else if (datagrams) {
    if (protocol !== PROTOCOL_UDP || l4 + 8 > headBytes) return false;
    headerBytes = l4 + 8;
  } else {
    if (protocol !== PROTOCOL_TCP || l4 + 20 > headBytes) return false;
    if (version !== <u32>(type === VNET_GSO_TCPV4 ? 4 : type === VNET_GSO_TCPV6 ? 6 : 0))
      return false;
    headerBytes = gsoHeaderBytes(record);
    if (headerBytes < l4 + 20 || headerBytes > headBytes) return false;
  }
  const length = load<u32>(record, PKT_LEN);
  if (payload === 0 || length <= headerBytes) return false;
  rest = length - headerBytes;
  if (rest > payload * SEGMENTS_MAX) return false;
  done = 0;
  number = 0;
  inHead = true;
  source = frame + headerBytes;
  sourceLeft = headBytes - headerBytes;
  segment = record + PKT_SEGS;
  return true;
}

/** Writes the next segment into `record`, with `headroom` bytes in front of it; false if there is none left. */
export function gsoNext(record: u32, headroom: u32 = 0): bool {
  if (rest === 0) return false;
  const bytes = min(payload, rest);
  const extra = udp && version === 6 ? FRAGMENT_HEADER : 0;
  const head = record + PKT_HEADROOM + headroom;
  const header = headerBytes + extra;
  copyBytes(head, load<u32>(packet, PKT_HEAD), headerBytes);
  store<u32>(record, head, PKT_HEAD);
  store<u64>(record, 0, PKT_VNET_FLAGS);
  store<u32>(record, header + bytes, PKT_LEN);
  takePayload(record, head + header, header, bytes);
  rest -= bytes;
  if (udp) fragment(head, bytes);
  else if (datagrams) datagram(record, head, bytes);
  else tcpSegment(record, head, bytes);
  done += bytes;
  number++;
  return true;
}

/** Moves `bytes` of payload: what is in the head of the original by copy, the rest as segments. */
function takePayload(record: u32, to: u32, header: u32, bytes: u32): void {
  let wanted = bytes;
  let headBytes = header;
  let entry = record + PKT_SEGS;
  const end = packet + PKT_SEGS + load<u32>(packet, PKT_SEG_COUNT) * 8;
  while (wanted !== 0) {
    if (sourceLeft === 0) {
      if (segment === end) break; // lengths disagree: cannot be, and must not run on
      inHead = false;
      source = load<u32>(segment);
      sourceLeft = load<u32>(segment, 4);
      segment += 8;
      continue;
    }
    const part = min(wanted, sourceLeft);
    if (inHead) {
      copyBytes(to, source, part);
      headBytes += part;
    } else {
      store<u32>(entry, source);
      store<u32>(entry, part, 4);
      entry += 8;
    }
    source += part;
    sourceLeft -= part;
    wanted -= part;
  }
  store<u32>(record, headBytes, PKT_HEAD_LEN);
  store<u32>(record, (entry - record - PKT_SEGS) >> 3, PKT_SEG_COUNT);
}

function datagram(record: u32, head: u32, bytes: u32): void {
  const at = head + transport;
  ipLength(head, headerBytes + bytes, number);
  store16(at + 4, 8 + bytes);
  finishSum(record, at, 6, 8 + bytes);
}

function tcpSegment(record: u32, head: u32, bytes: u32): void {
  const at = head + transport;
  const l4Bytes = headerBytes - transport + bytes;
  ipLength(head, headerBytes + bytes, number);
  store<u32>(at, bswap<u32>(bswap<u32>(load<u32>(at, 4)) + done), 4);
  let flags = <u32>load<u8>(at, 13);
  if (rest !== 0) flags &= ~FIN_PSH;
  if (number !== 0) flags &= ~CWR;
  store<u8>(at, <u8>flags, 13);
  finishSum(record, at, 16, l4Bytes);
}

/** Corrects the checksum `offset` bytes into the L4 header for a segment of `l4Bytes`; completes it unless the peer does. */
function finishSum(record: u32, at: u32, offset: u32, l4Bytes: u32): void {
  // The partial checksum covers the length of the segment, as a 16-bit word of the pseudo-header.
  const whole = load<u32>(packet, PKT_LEN) - transport;
  const sum = adjustSum(load<u16>(at + offset), bswap<u16>(<u16>whole), bswap<u16>(<u16>l4Bytes));
  store<u16>(at + offset, <u16>sum);
  store<u8>(record, VNET_NEEDS_CSUM, PKT_VNET_FLAGS);
  store<u16>(record, <u16>transport, PKT_CSUM_START);
  store<u16>(record, <u16>offset, PKT_CSUM_OFFSET);
  if (!partial) completeChecksum(record);
}

function fragment(head: u32, bytes: u32): void {
  const more = rest !== 0;
  if (version === 4) {
    store16(head + ip + 6, (done >> 3) | (more ? MORE_FRAGMENTS : 0));
    ipLength(head, headerBytes + bytes, 0);
    if (number === 0) store<u16>(head + transport, <u16>checksum, 6);
    return;
  }
  // | next header | reserved | offset in units of 8 bytes, 2 bits reserved, more | identification |
  const at = head + transport;
  store<u8>(head + nextHeaderAt, 44);
  store<u8>(at, <u8>PROTOCOL_UDP);
  store<u8>(at, 0, 1);
  store16(at + 2, done | <u32>(more ? 1 : 0));
  store<u32>(at, bswap<u32>(identification), 4);
  ipLength(head, headerBytes + FRAGMENT_HEADER + bytes, 0);
  if (number === 0) store<u16>(at + FRAGMENT_HEADER, <u16>checksum, 6);
}

/** Sets the length field of the IP header for a frame of `length` bytes, and advances an IPv4 identification. */
function ipLength(head: u32, length: u32, advance: u32): void {
  const at = head + ip;
  if (version === 6) {
    store16(at + 4, length - ip - 40);
    return;
  }
  store16(at + 2, length - ip);
  if (advance !== 0) store16(at + 4, load16(at + 4) + advance);
  ipv4Checksum(at, (<u32>load<u8>(at) & 15) * 4);
}
