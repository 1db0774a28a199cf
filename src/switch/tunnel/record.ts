// The tunnel fields of a flow record: which they are, and the questions asked of them.

import {
  F_TUN_METADATA,
  F_TUN_PRESENT,
  K_CT_IPV6_SRC,
  K_TUN_DST,
  K_TUN_ID,
  K_TUN_IPV6_DST,
  K_TUN_IPV6_SRC,
  K_TUN_OPTS,
  K_TUN_OPTS_LEN,
  K_TUN_SRC,
  TUN_OPTS_MAX,
} from '../../../contract/key.ts';
import { be32, isZero } from '../flow.ts';

const PRESENT_BYTES = 8;

/** [start, end) of everything that says something of the tunnel. */
export const TUNNEL_RANGES: readonly (readonly [start: number, end: number])[] = [
  [K_TUN_ID, K_CT_IPV6_SRC],
  [K_TUN_OPTS, K_TUN_OPTS + TUN_OPTS_MAX],
  [F_TUN_METADATA, F_TUN_PRESENT + PRESENT_BYTES],
];

export function clearTunnel(record: Uint8Array): void {
  for (const [start, end] of TUNNEL_RANGES) record.fill(0, start, end);
}

export function copyTunnel(from: Uint8Array, to: Uint8Array): void {
  for (const [start, end] of TUNNEL_RANGES) to.set(from.subarray(start, end), start);
}

/** Has the flow come through a tunnel, or been given a tunnel's destination? */
export function hasTunnel(flow: Uint8Array): boolean {
  return be32(flow, K_TUN_DST) !== 0 || !isZero(flow, K_TUN_IPV6_DST, 16);
}

/** 16 bytes, IPv4 mapped; all zero: none. */
function address(flow: Uint8Array, v4: number, v6: number): Uint8Array {
  if (be32(flow, v4) === 0) return flow.slice(v6, v6 + 16);
  const bytes = new Uint8Array(16);
  bytes.fill(0xff, 10, 12);
  bytes.set(flow.subarray(v4, v4 + 4), 12);
  return bytes;
}

export function tunnelSource(flow: Uint8Array): Uint8Array {
  return address(flow, K_TUN_SRC, K_TUN_IPV6_SRC);
}

export function tunnelDestination(flow: Uint8Array): Uint8Array {
  return address(flow, K_TUN_DST, K_TUN_IPV6_DST);
}

function putAddress(flow: Uint8Array, v4: number, v6: number, bytes: Uint8Array): void {
  const isMapped = isZero(bytes, 0, 10) && bytes[10] === 0xff && bytes[11] === 0xff;
  flow.fill(0, v4, v4 + 4);
  flow.fill(0, v6, v6 + 16);
  if (isMapped) flow.set(bytes.subarray(12, 16), v4);
  else flow.set(bytes, v6);
}

export function putTunnelSource(flow: Uint8Array, bytes: Uint8Array): void {
  putAddress(flow, K_TUN_SRC, K_TUN_IPV6_SRC, bytes);
}

export function putTunnelDestination(flow: Uint8Array, bytes: Uint8Array): void {
  putAddress(flow, K_TUN_DST, K_TUN_IPV6_DST, bytes);
}

/** Did the packet bring Geneve options? */
export function hasOptions(flow: Uint8Array): boolean {
  return flow[K_TUN_OPTS_LEN] !== 0;
}
