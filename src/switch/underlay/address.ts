// Addresses of the underlay: 16 bytes, IPv4 mapped. Text as Open vSwitch reads and writes it.

import {
  cidrBits,
  formatIpv4,
  formatIpv6,
  parseIpv4,
  parseIpv6,
} from '../../wire/openflow/address.ts';
import { mapped } from '../../wire/rtnetlinkRoute.ts';

export interface DeviceAddress {
  readonly address: Uint8Array;
  /** Of 128. */
  readonly prefixBits: number;
}

export interface Prefix extends DeviceAddress {
  readonly isIpv4: boolean;
}

export function isMapped(address: Uint8Array): boolean {
  for (let i = 0; i < 10; i++) if (address[i] !== 0) return false;
  return address[10] === 0xff && address[11] === 0xff;
}

export function isUnset(address: Uint8Array): boolean {
  return address.every((byte) => byte === 0);
}

/** The address as a key of maps. */
export function addressKey(address: Uint8Array): string {
  return String.fromCharCode(...address);
}

export function formatAddress(address: Uint8Array): string {
  return isMapped(address) ? formatIpv4(address.subarray(12)) : formatIpv6(address);
}

export function sameUnder(a: Uint8Array, b: Uint8Array, bits: number): boolean {
  for (let i = 0, left = bits; left > 0; i++, left -= 8) {
    const mask = left >= 8 ? 0xff : 0xff & (0xff << (8 - left));
    if (((a[i]! ^ b[i]!) & mask) !== 0) return false;
  }
  return true;
}

export function underPrefix(address: Uint8Array, bits: number): Uint8Array {
  const result = new Uint8Array(16);
  for (let i = 0, left = bits; left > 0; i++, left -= 8) {
    result[i] = address[i]! & (left >= 8 ? 0xff : 0xff & (0xff << (8 - left)));
  }
  return result;
}

export function parseAddress(text: string): Uint8Array | undefined {
  const bytes = parseIpv4(text) ?? parseIpv6(text);
  return bytes && mapped(bytes);
}

/** "a.b.c.d", "a.b.c.d/n", "a.b.c.d/mask", and the same of IPv6; undefined for anything else. */
export function parsePrefix(text: string): Prefix | undefined {
  const [host, bits, ...rest] = text.split('/');
  if (rest.length > 0) return undefined;
  const v4 = parseIpv4(host!);
  const bytes = v4 ?? parseIpv6(host!);
  if (bytes === undefined) return undefined;
  const width = 8 * bytes.length;
  let length = width;
  if (bits !== undefined) {
    const mask = v4 ? parseIpv4(bits) : parseIpv6(bits);
    if (/^[-+]?\d+$/.test(bits)) length = Number(bits);
    else length = mask === undefined ? -1 : cidrBits(mask);
    if (length < 0 || length > width) return undefined;
  }
  const isIpv4 = v4 !== undefined;
  return { address: mapped(bytes), prefixBits: length + (isIpv4 ? 96 : 0), isIpv4 };
}
