// The fields of connection tracking in a flow record: ct_state, ct_zone, ct_mark, ct_label and the original tuple
// (ovs-fields(7), "Connection Tracking Fields").

import {
  K_CT_IPV6_DST,
  K_CT_IPV6_SRC,
  K_CT_LABEL,
  K_CT_MARK,
  K_CT_NW_DST,
  K_CT_NW_PROTO,
  K_CT_NW_SRC,
  K_CT_STATE,
  K_CT_TP_DST,
  K_CT_TP_SRC,
  K_CT_ZONE,
  K_ETH_TYPE,
  K_IPV6_DST,
  K_IPV6_SRC,
  K_NW_DST,
  K_NW_PROTO,
  K_NW_SRC,
  K_PKT_MARK,
  K_TP_DST,
  K_TP_SRC,
} from '../../../contract/key.ts';
import { be16, be32, ETH_TYPE_IP, isIp } from '../flow.ts';
import type { Xlate } from './context.ts';

/** Bits of ct_state of which a tracked packet has at least one unless it is invalid: new, est, rpl. */
const VALID_STATES = 0x0b;

/** Sets the packet to the untracked state. */
export function clearConntrackFields(flow: Uint8Array): void {
  flow.fill(0, K_CT_STATE, K_CT_ZONE + 2);
  flow.fill(0, K_CT_MARK, K_CT_MARK + 4);
  flow.fill(0, K_CT_LABEL, K_PKT_MARK);
  flow.fill(0, K_CT_IPV6_SRC, K_CT_IPV6_DST + 16);
}

/** The rest of the translation sees an untracked packet. */
export function clearConntrack(x: Xlate): void {
  x.conntracked = false;
  clearConntrackFields(x.flow);
}

/** Does the packet belong to a connection, so that it has an original tuple? Notes what was looked at. */
export function conntrackValid(flow: Uint8Array, wildcards: Uint8Array): boolean {
  wildcards[K_CT_STATE + 3]! |= VALID_STATES;
  return (flow[K_CT_STATE + 3]! & VALID_STATES) !== 0;
}

/** Pairs of fields: the packet's and the original tuple's, bytes. */
type Pair = readonly [own: number, original: number, bytes: number];
const COMMON: readonly Pair[] = [
  [K_NW_PROTO, K_CT_NW_PROTO, 1],
  [K_TP_SRC, K_CT_TP_SRC, 2],
  [K_TP_DST, K_CT_TP_DST, 2],
];
const IPV4: readonly Pair[] = [...COMMON, [K_NW_SRC, K_CT_NW_SRC, 4], [K_NW_DST, K_CT_NW_DST, 4]];
const IPV6: readonly Pair[] = [
  ...COMMON,
  [K_IPV6_SRC, K_CT_IPV6_SRC, 16],
  [K_IPV6_DST, K_CT_IPV6_DST, 16],
];

function swap(record: Uint8Array, pairs: readonly Pair[]): void {
  for (const [own, original, bytes] of pairs) {
    for (let i = 0; i < bytes; i++) {
      const byte = record[own + i]!;
      record[own + i] = record[original + i]!;
      record[original + i] = byte;
    }
  }
}

/** Has the packet an original tuple to look up (resubmit with "ct")? */
export function hasOriginalTuple(x: Xlate): boolean {
  if (!isIp(x.flow)) return false;
  // A rule that has looked at the state knows; otherwise the protocol itself has to be matched.
  if (be32(x.wildcards, K_CT_STATE) === 0) x.wildcards[K_CT_NW_PROTO] = 0xff;
  return x.flow[K_CT_NW_PROTO] !== 0;
}

/** Exchanges the packet's addresses, protocol and ports for those of the original tuple, or back; the mask's too. */
export function swapWithOriginalTuple(x: Xlate): void {
  const pairs = be16(x.flow, K_ETH_TYPE) === ETH_TYPE_IP ? IPV4 : IPV6;
  swap(x.flow, pairs);
  swap(x.wildcards, pairs);
}
