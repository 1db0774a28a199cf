// MPLS actions (RFC 3032, ovs-actions(7)): push_mpls, pop_mpls, dec_mpls_ttl, and the recirculation that what is below the
// stack needs before anything can look at it.
//
// The key has up to three entries, the outermost first. Actions change the flow record; commit.ts makes programs of it.

import { DROP_BAD_ACTION, DROP_TTL } from '../../../contract/drop.ts';
import {
  K_ARP_SHA,
  K_DP_HASH,
  K_ETH_TYPE,
  K_IPV6_SRC,
  K_MPLS_COUNT,
  K_MPLS_LSE,
  K_ND_OPTIONS_TYPE,
  K_ND_RESERVED,
  K_ND_TARGET,
  K_NW_DST,
  K_NW_PROTO,
  K_NW_TOS,
  K_NW_TTL,
} from '../../../contract/key.ts';
import { fieldByName } from '../../wire/openflow/fields.ts';
import { OFPGT_SELECT } from '../../wire/openflow/group.ts';
import { isMpls } from '../../wire/openflow/prereq.ts';
import type { Action } from '../../wire/openflow/types.ts';
import { be16, be32, ETH_TYPE_IPV6, exact, isIp, putBe16, putBe32 } from '../flow.ts';
import { commit } from './commit.ts';
import { report, type Xlate } from './context.ts';
import { sendToController } from './output.ts';

const MAX_LABELS = 3;
const BOTTOM = 0x100;
const EXPLICIT_NULL_V6 = 2;
const DEFAULT_TTL = 64;
const DSCP = 0xfc;

/** Labels of the flow; how many there are counts as looked at. */
function countLabels(x: Xlate): number {
  if (!isMpls(be16(x.flow, K_ETH_TYPE))) return 0;
  exact(x.wildcards, K_MPLS_COUNT, 2);
  const count = be16(x.flow, K_MPLS_COUNT);
  for (let i = 0; i < count; i++) x.wildcards[K_MPLS_LSE + 4 * i + 2]! |= BOTTOM >> 8;
  return count;
}

const TOO_MANY = {
  push: "an MPLS push action can't be performed as it would have",
  pop: "an MPLS pop action can't be performed as it has",
  encap: "an encap MPLS action can't be performed as it would have",
  decap: "an MPLS decap can't be performed as it has",
};

function tooMany(x: Xlate, verb: keyof typeof TOO_MANY): void {
  if (x.in.learn) {
    const text = `dropping packet on which ${TOO_MANY[verb]} more MPLS LSEs than the ${MAX_LABELS} supported.`;
    // With labels that encap has put around it the packet has no text that Open vSwitch would know: not for the log.
    report(x, verb === 'encap' ? 'info' : 'error', text);
  }
  x.error = 'Too many MPLS labels';
  x.dropReason = DROP_BAD_ACTION;
}

/** First entry of a stack: what the packet below says of itself, if it is asked (`inherits`). */
function firstEntry(x: Xlate, inherits: boolean): number {
  const { flow, wildcards } = x;
  const label = be16(flow, K_ETH_TYPE) === ETH_TYPE_IPV6 ? EXPLICIT_NULL_V6 : 0;
  let tc = 0;
  let ttl = DEFAULT_TTL;
  if (inherits && isIp(flow)) {
    wildcards[K_NW_TOS]! |= DSCP;
    wildcards[K_NW_TTL] = 0xff;
    tc = (flow[K_NW_TOS]! >> 2) & 7;
    ttl = flow[K_NW_TTL]! || DEFAULT_TTL;
  }
  return ((label << 12) | (tc << 9) | BOTTOM | ttl) >>> 0;
}

export function pushMpls(x: Xlate, ethertype: number, verb: 'push' | 'encap' = 'push'): void {
  const { flow, wildcards } = x;
  const count = countLabels(x);
  if (count >= MAX_LABELS) {
    tooMany(x, verb);
    return;
  }
  if (count === 0) {
    commit(x);
    putBe32(flow, K_MPLS_LSE, firstEntry(x, verb === 'push'));
    // The packet below is opaque now.
    flow.fill(0, K_NW_PROTO, K_NW_DST + 4);
    flow.fill(0, K_DP_HASH, K_DP_HASH + 4);
    flow.fill(0, K_IPV6_SRC, K_ND_TARGET + 16);
    flow.fill(0, K_ARP_SHA, K_ARP_SHA + 12);
    flow.fill(0, K_ND_RESERVED, K_ND_OPTIONS_TYPE + 1);
  } else {
    exact(wildcards, K_MPLS_LSE, 4 * count);
    flow.copyWithin(K_MPLS_LSE + 4, K_MPLS_LSE, K_MPLS_LSE + 4 * count);
    putBe32(flow, K_MPLS_LSE, (be32(flow, K_MPLS_LSE) & ~BOTTOM) >>> 0);
  }
  putBe16(flow, K_MPLS_COUNT, count + 1);
  putBe16(flow, K_ETH_TYPE, ethertype);
}

export function popMpls(x: Xlate, ethertype: number, verb: 'pop' | 'decap' = 'pop'): void {
  const { flow, wildcards } = x;
  const count = countLabels(x);
  if (count === 0) return;
  const last = K_MPLS_LSE + 4 * (count - 1);
  if (count === MAX_LABELS && (be32(flow, last) & BOTTOM) === 0) {
    tooMany(x, verb);
    return;
  }
  exact(wildcards, K_MPLS_LSE + 4, 4 * (count - 1));
  flow.copyWithin(K_MPLS_LSE, K_MPLS_LSE + 4, last + 4);
  flow.fill(0, last, last + 4);
  putBe16(flow, K_MPLS_COUNT, count - 1);
  putBe16(flow, K_ETH_TYPE, ethertype);
  if (!isMpls(ethertype)) x.wasMpls = true;
}

/** True when translation of this action list ends. */
export function decrementMplsTtl(x: Xlate): boolean {
  const { flow, wildcards } = x;
  if (!isMpls(be16(flow, K_ETH_TYPE))) return false;
  wildcards[K_MPLS_LSE + 3] = 0xff;
  if (flow[K_MPLS_LSE + 3]! > 1) {
    flow[K_MPLS_LSE + 3]!--;
    return false;
  }
  sendToController(x, 0xffff, 'invalid_ttl', 0, undefined);
  report(x, 'warn', 'MPLS decrement TTL exception');
  x.dropReason = DROP_TTL;
  return true;
}

/** Actions that do not mind that the packet below a popped stack has not been parsed. */
const OPAQUE: ReadonlySet<Action['type']> = new Set([
  'output',
  'output_trunc',
  'enqueue',
  'output_reg',
  'set_vlan_vid',
  'set_vlan_pcp',
  'set_queue',
]);
const L2_PREREQUISITES = ['none', 'ethernet', 'vlan', 'mpls'];

/** Does the action want to look into a packet whose label stack has been popped? Then the packet has to be parsed again first. */
export function wantsParsed(x: Xlate, action: Action): boolean {
  if (!x.wasMpls) return false;
  // Choosing a bucket takes a hash of the packet.
  if (action.type === 'group') return x.bridge.groups?.get(action.group)?.type === OFPGT_SELECT;
  if (OPAQUE.has(action.type)) return false;
  if (action.type === 'set_field') {
    return !L2_PREREQUISITES.includes(fieldByName(action.field).prereq);
  }
  return true;
}
