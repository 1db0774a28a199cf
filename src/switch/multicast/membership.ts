// What hosts and routers say of multicast groups: IGMPv1 to v3 (RFC 1112, 2236, 3376) and MLDv1, v2 (RFC 2710, 3810),
// read from a whole frame. Nothing in a message is believed before its checksum has been.

import {
  be16,
  be32,
  ETH_TYPE_IP,
  ETH_TYPE_IPV6,
  IPPROTO_ICMPV6,
  IPPROTO_IGMP,
  isVlanType,
} from '../flow.ts';

const IGMP_QUERY = 0x11;
const IGMP_V1_REPORT = 0x12;
const IGMP_V2_REPORT = 0x16;
const IGMP_LEAVE = 0x17;
const IGMP_V3_REPORT = 0x22;
export const MLD_QUERY = 130;
const MLD_REPORT = 131;
const MLD_DONE = 132;
const MLD_V2_REPORT = 143;

const MODE_IS_INCLUDE = 1;
const CHANGE_TO_INCLUDE = 3;
const BLOCK_OLD_SOURCES = 6;
/** Extension headers of IPv6 in front of MLD: hop-by-hop, routing, destination options. */
const EXTENSIONS: ReadonlySet<number> = new Set([0, 43, 60]);

export interface Change {
  join: boolean;
  /** 16 bytes; IPv4 as ::ffff:a.b.c.d. */
  group: Uint8Array;
}

export interface Membership {
  /** A router asks; false also for queries whose sender has no address. */
  querier: boolean;
  changes: Change[];
}

export function isIgmpReport(type: number): boolean {
  return [IGMP_V1_REPORT, IGMP_V2_REPORT, IGMP_LEAVE, IGMP_V3_REPORT].includes(type);
}

export function isMld(type: number): boolean {
  return [MLD_QUERY, MLD_REPORT, MLD_DONE, MLD_V2_REPORT].includes(type);
}

export function mapped(ipv4: Uint8Array, offset: number): Uint8Array {
  const address = new Uint8Array(16);
  address.fill(0xff, 10, 12);
  address.set(ipv4.subarray(offset, offset + 4), 12);
  return address;
}

/** Sum of 16-bit words, folded: 0xffff where a checksum is part of it and right. */
function sum16(bytes: Uint8Array, start: number): number {
  let sum = start;
  for (let i = 0; i + 1 < bytes.length; i += 2) sum += be16(bytes, i);
  if ((bytes.length & 1) !== 0) sum += bytes[bytes.length - 1]! << 8;
  while (sum > 0xffff) sum = (sum & 0xffff) + Math.floor(sum / 0x10000);
  return sum;
}

/** Group records of both protocols' reports of the newest version. An empty list of included sources is a leave. */
function records(message: Uint8Array, addressBytes: 4 | 16): Change[] {
  const changes: Change[] = [];
  const headerBytes = 4 + addressBytes;
  let at = 8;
  for (let left = be16(message, 6); left > 0 && at + headerBytes <= message.length; left--) {
    const type = message[at]!;
    const sources = be16(message, at + 2);
    const group =
      addressBytes === 4 ? mapped(message, at + 4) : message.slice(at + 4, at + 4 + addressBytes);
    const leaves = sources === 0 && (type === MODE_IS_INCLUDE || type === CHANGE_TO_INCLUDE);
    if (type >= MODE_IS_INCLUDE && type <= BLOCK_OLD_SOURCES)
      changes.push({ join: !leaves, group });
    // Auxiliary data is counted in words of four bytes (RFC 3376 §4.2.6).
    at += headerBytes + sources * addressBytes + message[at + 1]! * 4;
  }
  return changes;
}

function readIgmp(packet: Uint8Array): Membership | undefined {
  const headerBytes = (packet[0]! & 15) * 4;
  const message = packet.subarray(headerBytes, be16(packet, 2));
  if (headerBytes < 20 || message.length < 8 || sum16(message, 0) !== 0xffff) return undefined;
  const change = (join: boolean): Change[] => [{ join, group: mapped(message, 4) }];
  switch (message[0]) {
    case IGMP_QUERY:
      return { querier: be32(packet, 12) !== 0, changes: [] };
    case IGMP_V1_REPORT:
    case IGMP_V2_REPORT:
      return { querier: false, changes: change(true) };
    case IGMP_LEAVE:
      return { querier: false, changes: change(false) };
    case IGMP_V3_REPORT:
      return { querier: false, changes: records(message, 4) };
    default:
      return undefined;
  }
}

function readMld(packet: Uint8Array): Membership | undefined {
  let proto = packet[6]!;
  let at = 40;
  const end = Math.min(packet.length, 40 + be16(packet, 4));
  while (EXTENSIONS.has(proto) && at + 8 <= end) {
    proto = packet[at]!;
    at += (packet[at + 1]! + 1) * 8;
  }
  const message = packet.subarray(at, end);
  if (proto !== IPPROTO_ICMPV6 || message.length < 8) return undefined;
  // The pseudo-header: addresses, length, next header.
  const pseudo = sum16(packet.subarray(8, 40), message.length + IPPROTO_ICMPV6);
  if (sum16(message, pseudo) !== 0xffff) return undefined;
  const type = message[0]!;
  if (type === MLD_QUERY) {
    return { querier: packet.subarray(8, 24).some((byte) => byte !== 0), changes: [] };
  }
  if (type === MLD_V2_REPORT) return { querier: false, changes: records(message, 16) };
  if ((type !== MLD_REPORT && type !== MLD_DONE) || message.length < 24) return undefined;
  const group = message.slice(8, 24);
  return { querier: false, changes: [{ join: type === MLD_REPORT, group }] };
}

/** Undefined: not such a message, or a damaged one. */
export function readMembership(frame: Uint8Array): Membership | undefined {
  let at = 12;
  while (at + 4 < frame.length && isVlanType(be16(frame, at))) at += 4;
  if (at + 2 > frame.length) return undefined;
  const type = be16(frame, at);
  const packet = frame.subarray(at + 2);
  if (type === ETH_TYPE_IP && packet.length >= 20 && packet[9] === IPPROTO_IGMP) {
    return readIgmp(packet);
  }
  return type === ETH_TYPE_IPV6 && packet.length >= 40 ? readMld(packet) : undefined;
}
