// rtnetlink messages about routes and addresses (rtnetlink(7), linux/rtnetlink.h, linux/if_addr.h): a pure codec.
//
//   rtmsg      0 u8 family   1 u8 destination bits   2 u8 source bits   3 u8 tos   4 u8 table   5 u8 protocol
//              6 u8 scope    7 u8 type               8 u32 flags                                    (12 bytes)
//   ifaddrmsg  0 u8 family   1 u8 prefix bits        2 u8 flags         3 u8 scope 4 u32 ifindex     (8 bytes)
//
// Addresses become 16 bytes, IPv4 mapped (::ffff:a.b.c.d), and prefix lengths count in these 128 bits.

import { attributes, NLM_F_DUMP, NLM_F_REQUEST } from './rtnetlink.ts';

export const RTM_NEWADDR = 20;
export const RTM_GETADDR = 22;
export const RTM_NEWROUTE = 24;
export const RTM_GETROUTE = 26;

const AF_INET = 2;
const AF_INET6 = 10;
const RT_SCOPE_NOWHERE = 255;
const RTN_UNICAST = 1;
const RTN_LOCAL = 2;
const RTA_DST = 1;
const RTA_OIF = 4;
const RTA_GATEWAY = 5;
const RTA_MARK = 16;
const IFA_ADDRESS = 1;
const IFA_LOCAL = 2;

export interface KernelRoute {
  destination: Uint8Array;
  /** Of 128. */
  prefixBits: number;
  /** The address is one of the machine's own. */
  local: boolean;
  ifindex: number;
  gateway: Uint8Array | undefined;
  /** Packets with this mark take the route. */
  mark: number;
}

export interface KernelAddress {
  ifindex: number;
  address: Uint8Array;
  /** Of 128. */
  prefixBits: number;
}

/** A dump request for all families. */
export function encodeDumpRequest(type: number, sequence: number): Uint8Array {
  const bytes = new Uint8Array(28);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, bytes.length, true);
  view.setUint16(4, type, true);
  view.setUint16(6, NLM_F_REQUEST | NLM_F_DUMP, true);
  view.setUint32(8, sequence, true);
  return bytes;
}

/** 4 or 16 bytes → 16. */
export function mapped(bytes: Uint8Array): Uint8Array {
  const result = new Uint8Array(16);
  if (bytes.length === 4) {
    result[10] = 0xff;
    result[11] = 0xff;
    result.set(bytes, 12);
  } else {
    result.set(bytes.subarray(0, 16));
  }
  return result;
}

const hostU32 = (bytes: Uint8Array): number =>
  bytes.length < 4 ? 0 : new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);

/** Route of an RTM_NEWROUTE payload; undefined for kinds of routes by which nothing is sent from here. */
export function decodeRoute(payload: Uint8Array): KernelRoute | undefined {
  if (payload.length < 12) return undefined;
  const [family, bits] = payload as unknown as [number, number];
  const length = family === AF_INET ? 4 : family === AF_INET6 ? 16 : 0;
  const type = payload[7];
  if (length === 0 || payload[6] === RT_SCOPE_NOWHERE || bits > 8 * length) return undefined;
  if (type !== RTN_UNICAST && type !== RTN_LOCAL) return undefined;
  const route: KernelRoute = {
    destination: mapped(new Uint8Array(length)),
    prefixBits: bits + (length === 4 ? 96 : 0),
    local: type === RTN_LOCAL,
    ifindex: 0,
    gateway: undefined,
    mark: 0,
  };
  for (const [kind, value] of attributes(payload.subarray(12))) {
    if (kind === RTA_DST && value.length === length) route.destination = mapped(value);
    else if (kind === RTA_GATEWAY && value.length === length) route.gateway = mapped(value);
    else if (kind === RTA_OIF) route.ifindex = hostU32(value);
    else if (kind === RTA_MARK) route.mark = hostU32(value);
  }
  return route;
}

/** Address of an RTM_NEWADDR payload. */
export function decodeAddress(payload: Uint8Array): KernelAddress | undefined {
  if (payload.length < 8) return undefined;
  const [family, bits] = payload as unknown as [number, number];
  const length = family === AF_INET ? 4 : family === AF_INET6 ? 16 : 0;
  if (length === 0 || bits > 8 * length) return undefined;
  let address: Uint8Array | undefined;
  let own: Uint8Array | undefined;
  for (const [kind, value] of attributes(payload.subarray(8))) {
    if (value.length !== length) continue;
    if (kind === IFA_LOCAL) own = mapped(value);
    else if (kind === IFA_ADDRESS) address = mapped(value);
  }
  // On a point-to-point device IFA_ADDRESS is the other end.
  const found = own ?? address;
  if (found === undefined) return undefined;
  return {
    ifindex: hostU32(payload.subarray(4, 8)),
    address: found,
    prefixBits: bits + (length === 4 ? 96 : 0),
  };
}
