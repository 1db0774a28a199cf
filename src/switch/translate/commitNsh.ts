// Network service headers in the program of a megaflow (commit.ts): a header that comes, goes, or gets other values.

import { ACT_POP_NSH, ACT_PUSH_NSH, ACT_SET_NSH } from '../../../contract/action.ts';
import {
  K_ARP_SHA,
  K_ETH_DST,
  K_ETH_TYPE,
  K_IPV6_SRC,
  K_MPLS_COUNT,
  K_MPLS_LSE,
  K_ND_OPTIONS_TYPE,
  K_ND_RESERVED,
  K_ND_TARGET,
  K_NSH,
  K_NSH_CONTEXT,
  K_NSH_FLAGS,
  K_NSH_MDTYPE,
  K_NSH_NP,
  K_NSH_TTL,
  K_NW_DST,
  K_PACKET_TYPE,
  NSH_KEY_BYTES,
} from '../../../contract/key.ts';
import {
  ETH_TYPE_NSH,
  NSH_BASE_BYTES,
  NSH_MD1_BYTES,
  PACKET_TYPE_NSH,
} from '../../../contract/tunnel.ts';
import { be16, be32, equal, putBe16 } from '../flow.ts';
import type { Xlate } from './context.ts';

/** Where the headers' fields are in the record, service headers apart. */
const HEADERS: readonly (readonly [from: number, to: number])[] = [
  [K_ETH_DST, K_NW_DST + 4],
  [K_MPLS_COUNT, K_MPLS_COUNT + 2],
  [K_IPV6_SRC, K_ARP_SHA],
  [K_ARP_SHA, K_ND_TARGET + 16],
  [K_ND_RESERVED, K_ND_OPTIONS_TYPE + 1],
  [K_MPLS_LSE, K_MPLS_LSE + 12],
];

export function clearHeaders(flow: Uint8Array): void {
  for (const [from, to] of HEADERS) flow.fill(0, from, to);
}

function headerOf(flow: Uint8Array, metadata: Uint8Array | undefined): Uint8Array {
  const isFixed = flow[K_NSH_MDTYPE] === 1;
  const bytes = isFixed ? NSH_MD1_BYTES : NSH_BASE_BYTES + (metadata?.length ?? 0);
  const header = new Uint8Array(bytes);
  putBe16(
    header,
    0,
    ((flow[K_NSH_FLAGS]! & 3) << 12) | ((flow[K_NSH_TTL]! & 63) << 6) | (bytes >> 2),
  );
  header.set(flow.subarray(K_NSH_MDTYPE, K_NSH_CONTEXT), 2);
  if (isFixed) header.set(flow.subarray(K_NSH_CONTEXT, K_NSH_CONTEXT + 16), NSH_BASE_BYTES);
  else if (metadata !== undefined) header.set(metadata, NSH_BASE_BYTES);
  return header;
}

/** The header that encap or decap has announced. False: it was no service header. */
export function commitNshHeader(x: Xlate): boolean {
  const { flow, base, program } = x;
  if (x.pendingEncap && be32(flow, K_PACKET_TYPE) === PACKET_TYPE_NSH) {
    const words = new Uint32Array(headerOf(flow, x.encapMetadata).buffer);
    program.push(ACT_PUSH_NSH | ((1 + words.length) << 16), ...words);
    x.encapMetadata = undefined;
    for (const [from, to] of [...HEADERS, [K_NSH, K_NSH + NSH_KEY_BYTES] as const]) {
      base.set(flow.subarray(from, to), from);
    }
  } else if (x.pendingDecap && be32(base, K_PACKET_TYPE) === PACKET_TYPE_NSH) {
    program.push(ACT_POP_NSH | (1 << 16));
    base.set(flow.subarray(K_ETH_DST, K_ETH_DST + 12), K_ETH_DST);
  } else {
    return false;
  }
  base.set(flow.subarray(K_PACKET_TYPE, K_PACKET_TYPE + 4), K_PACKET_TYPE);
  x.pendingEncap = false;
  x.pendingDecap = false;
  return true;
}

/** Other values. As Open vSwitch does it, the action writes all that translation has looked at, changed or not. */
export function commitNshFields(x: Xlate): void {
  const { flow, base, wildcards, program } = x;
  if (be16(flow, K_ETH_TYPE) !== ETH_TYPE_NSH || equal(flow, base, K_NSH, NSH_KEY_BYTES)) return;
  const fields = new Uint8Array(2 * NSH_KEY_BYTES);
  for (let i = 0; i < NSH_KEY_BYTES; i++) {
    const at = K_NSH + i;
    if (at === K_NSH_MDTYPE || at === K_NSH_NP) continue;
    if (at >= K_NSH_CONTEXT && flow[K_NSH_MDTYPE] !== 1) break;
    wildcards[at]! |= flow[at]! ^ base[at]!;
    fields[i] = flow[at]! & wildcards[at]!;
    fields[NSH_KEY_BYTES + i] = wildcards[at]!;
  }
  program.push(ACT_SET_NSH | (13 << 16), ...new Uint32Array(fields.buffer));
  base.set(flow.subarray(K_NSH, K_NSH + NSH_KEY_BYTES), K_NSH);
}
