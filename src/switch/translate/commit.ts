// Lazy header changes: actions change only the flow record; before a packet leaves, `commit` compares it with what the
// program so far has made of the packet, and appends set, push and pop actions for the difference.
//
// A set action carries value and mask of one header. Its mask is the bits of the changed fields that translation has
// looked at or written: they are all in the megaflow's mask too, so one program fits every packet of the megaflow.

import {
  ACT_ADD_MPLS,
  ACT_POP_ETH,
  ACT_POP_MPLS,
  ACT_POP_VLAN,
  ACT_PUSH_ETH,
  ACT_PUSH_MPLS,
  ACT_PUSH_VLAN,
  ACT_SET_ARP,
  ACT_SET_ETH,
  ACT_SET_IPV4,
  ACT_SET_IPV6,
  ACT_SET_META,
  ACT_SET_MPLS,
  ACT_SET_ND,
  ACT_SET_TP,
} from '../../../contract/action.ts';
import {
  K_ARP_SHA,
  K_ARP_THA,
  K_ETH_DST,
  K_ETH_SRC,
  K_ETH_TYPE,
  K_IPV6_DST,
  K_IPV6_LABEL,
  K_IPV6_SRC,
  K_MPLS_COUNT,
  K_MPLS_LSE,
  K_ND_TARGET,
  K_NW_DST,
  K_NW_PROTO,
  K_NW_SRC,
  K_NW_TOS,
  K_NW_TTL,
  K_PACKET_TYPE,
  K_PKT_MARK,
  K_PRIORITY,
  K_TP_DST,
  K_TP_SRC,
  K_VLAN0_TCI,
  K_VLAN1_TCI,
  VLAN_PRESENT,
} from '../../../contract/key.ts';
import { ETH_TYPE_MPLS, isMpls } from '../../wire/openflow/prereq.ts';
import {
  be16,
  be32,
  ETH_TYPE_ARP,
  ETH_TYPE_IP,
  ETH_TYPE_IPV6,
  equal,
  exact,
  IPPROTO_ICMP,
  IPPROTO_ICMPV6,
  IPPROTO_SCTP,
  IPPROTO_TCP,
  IPPROTO_UDP,
  isIp,
  isLaterFragment,
} from '../flow.ts';
import { commitNshFields, commitNshHeader } from './commitNsh.ts';
import type { Xlate } from './context.ts';

/** Place of a field in the record and in the action's value. */
interface Part {
  readonly offset: number;
  readonly bytes: number;
  readonly at: number;
}

/** One header: its action, words of value, and parts. The mask follows the value. */
interface Header {
  readonly op: number;
  readonly words: number;
  readonly parts: readonly Part[];
}

const ETHERNET: Header = {
  op: ACT_SET_ETH,
  words: 3,
  parts: [
    { offset: K_ETH_DST, bytes: 6, at: 0 },
    { offset: K_ETH_SRC, bytes: 6, at: 6 },
  ],
};
const IPV4: Header = {
  op: ACT_SET_IPV4,
  words: 3,
  parts: [
    { offset: K_NW_SRC, bytes: 4, at: 0 },
    { offset: K_NW_DST, bytes: 4, at: 4 },
    { offset: K_NW_TOS, bytes: 1, at: 8 },
    { offset: K_NW_TTL, bytes: 1, at: 9 },
  ],
};
const IPV6: Header = {
  op: ACT_SET_IPV6,
  words: 10,
  parts: [
    { offset: K_IPV6_SRC, bytes: 16, at: 0 },
    { offset: K_IPV6_DST, bytes: 16, at: 16 },
    { offset: K_IPV6_LABEL, bytes: 4, at: 32 },
    { offset: K_NW_TOS, bytes: 1, at: 36 },
    { offset: K_NW_TTL, bytes: 1, at: 37 },
  ],
};
const TRANSPORT: Header = {
  op: ACT_SET_TP,
  words: 1,
  parts: [
    { offset: K_TP_SRC, bytes: 2, at: 0 },
    { offset: K_TP_DST, bytes: 2, at: 2 },
  ],
};
const ARP: Header = {
  op: ACT_SET_ARP,
  words: 6,
  parts: [
    { offset: K_NW_SRC, bytes: 4, at: 0 },
    { offset: K_NW_DST, bytes: 4, at: 4 },
    { offset: K_ARP_SHA, bytes: 6, at: 8 },
    { offset: K_ARP_THA, bytes: 6, at: 14 },
    { offset: K_NW_PROTO, bytes: 1, at: 21 }, // the opcode's low byte; the high one is 0 in packets that have one
  ],
};
const ND: Header = {
  op: ACT_SET_ND,
  words: 7,
  parts: [
    { offset: K_ND_TARGET, bytes: 16, at: 0 },
    { offset: K_ARP_SHA, bytes: 6, at: 16 },
    { offset: K_ARP_THA, bytes: 6, at: 22 },
  ],
};

function commitHeader(x: Xlate, header: Header): void {
  const { flow, base, wildcards } = x;
  let changed = false;
  for (const { offset, bytes } of header.parts) {
    if (!equal(flow, base, offset, bytes)) changed = true;
  }
  if (!changed) return;
  const value = new Uint8Array(header.words * 4);
  const mask = new Uint8Array(header.words * 4);
  for (const { offset, bytes, at } of header.parts) {
    if (equal(flow, base, offset, bytes)) continue;
    for (let i = 0; i < bytes; i++) {
      wildcards[offset + i]! |= flow[offset + i]! ^ base[offset + i]!;
      mask[at + i] = wildcards[offset + i]!;
      value[at + i] = flow[offset + i]! & wildcards[offset + i]!;
      base[offset + i] = flow[offset + i]!;
    }
  }
  if (header === ARP && mask[21] === 0xff) mask[20] = 0xff;
  x.program.push(
    header.op | ((1 + 2 * header.words) << 16),
    ...new Uint32Array(value.buffer),
    ...new Uint32Array(mask.buffer),
  );
}

function commitNetwork(x: Xlate): void {
  // Without a protocol number there was no (intact) L3 header.
  if (x.flow[K_NW_PROTO] === 0) return;
  switch (be16(x.base, K_ETH_TYPE)) {
    case ETH_TYPE_IP:
      commitHeader(x, IPV4);
      break;
    case ETH_TYPE_IPV6:
      commitHeader(x, IPV6);
      if (x.base[K_NW_PROTO] === IPPROTO_ICMPV6) commitHeader(x, ND);
      break;
    case ETH_TYPE_ARP:
      commitHeader(x, ARP);
      break;
  }
}

function commitTransport(x: Xlate): void {
  const protocol = x.flow[K_NW_PROTO];
  if (protocol === 0 || !isIp(x.base) || isLaterFragment(x.base)) return;
  const icmp = be16(x.base, K_ETH_TYPE) === ETH_TYPE_IP ? IPPROTO_ICMP : IPPROTO_ICMPV6;
  if (
    protocol === IPPROTO_TCP ||
    protocol === IPPROTO_UDP ||
    protocol === IPPROTO_SCTP ||
    protocol === icmp
  ) {
    commitHeader(x, TRANSPORT);
  }
}

const VLAN_OFFSETS = [K_VLAN0_TCI, K_VLAN1_TCI];

export function countVlans(flow: Uint8Array): number {
  let count = 0;
  while (count < 2 && (flow[VLAN_OFFSETS[count]!]! & (VLAN_PRESENT >> 8)) !== 0) count++;
  return count;
}

/** Pops what differs from the outermost header inwards, then pushes what the flow has instead. */
function commitVlans(x: Xlate): void {
  const { flow, base, wildcards } = x;
  if (equal(flow, base, K_VLAN0_TCI, 8)) return;
  // What is popped and what stays depends on the headers as they came.
  exact(wildcards, K_VLAN0_TCI, 8);
  let old = countVlans(base) - 1;
  let wanted = countVlans(flow) - 1;
  while (old >= 0 && wanted >= 0) {
    const a = VLAN_OFFSETS[old]!;
    const b = VLAN_OFFSETS[wanted]!;
    if (be16(base, a) !== be16(flow, b) || be16(base, a + 2) !== be16(flow, b + 2)) break;
    old--;
    wanted--;
  }
  for (; old >= 0; old--) x.program.push(ACT_POP_VLAN | (1 << 16));
  for (; wanted >= 0; wanted--) {
    const at = VLAN_OFFSETS[wanted]!;
    const tci = be16(flow, at) & ~VLAN_PRESENT;
    x.program.push(ACT_PUSH_VLAN | (2 << 16), (be16(flow, at + 2) | (tci << 16)) >>> 0);
  }
  for (let i = K_VLAN0_TCI; i < K_VLAN1_TCI + 4; i++) base[i] = flow[i]!;
}

function commitMeta(x: Xlate, offset: number): void {
  const { flow, base, wildcards } = x;
  if (equal(flow, base, offset, 4)) return;
  const words = new Uint32Array(2);
  const bytes = new Uint8Array(words.buffer);
  for (let i = 0; i < 4; i++) {
    wildcards[offset + i]! |= flow[offset + i]! ^ base[offset + i]!;
    bytes[i] = flow[offset + i]! & wildcards[offset + i]!;
    bytes[4 + i] = wildcards[offset + i]!;
    base[offset + i] = flow[offset + i]!;
  }
  x.program.push(ACT_SET_META | (4 << 16), offset, words[0]!, words[1]!);
}

/** The Ethernet header comes or goes: packets of layer-3 tunnels have none. */
function commitPacketType(x: Xlate): void {
  const { flow, base } = x;
  const had = be32(base, K_PACKET_TYPE);
  const wanted = be32(flow, K_PACKET_TYPE);
  if (had === wanted) return;
  if (x.pendingEncap || x.pendingDecap) {
    // The label that comes or goes says it all.
  } else if (wanted === 0) {
    x.program.push(
      ACT_PUSH_ETH | (4 << 16),
      ...new Uint32Array(flow.slice(K_ETH_DST, K_ETH_DST + 12).buffer),
    );
    base.set(flow.subarray(K_ETH_DST, K_ETH_DST + 12), K_ETH_DST);
  } else if (had === 0) {
    // Tags are part of the header that goes.
    base.fill(0, K_VLAN0_TCI, K_VLAN1_TCI + 4);
    x.program.push(ACT_POP_ETH | (1 << 16));
  }
  base.set(flow.subarray(K_PACKET_TYPE, K_PACKET_TYPE + 4), K_PACKET_TYPE);
}

/** The label stack: what differs is popped from the outermost entry inwards, then what the flow has instead is pushed. */
function commitMpls(x: Xlate): void {
  const { flow, base, wildcards, program } = x;
  let had = be16(base, K_MPLS_COUNT);
  const wanted = be16(flow, K_MPLS_COUNT);
  if (had === wanted && equal(flow, base, K_MPLS_LSE, 12)) return;
  // Entries are outermost first: the common ones are the innermost.
  const entry = (record: Uint8Array, count: number, fromBottom: number): number =>
    be32(record, K_MPLS_LSE + 4 * (count - 1 - fromBottom));
  let common = 0;
  while (
    common < had &&
    common < wanted &&
    entry(base, had, common) === entry(flow, wanted, common)
  ) {
    common++;
  }
  // What was compared: the innermost ones.
  const compared = Math.min(had, wanted);
  exact(wildcards, K_MPLS_LSE + 4 * (had - compared), 4 * compared);
  // The outermost of as many is rewritten in place.
  const rewrite = common < had && common < wanted;
  const keep = rewrite ? common + 1 : common;
  for (; had > keep; had--) {
    const last = isMpls(be16(flow, K_ETH_TYPE)) || had === 1;
    const below = last ? be16(flow, K_ETH_TYPE) : ETH_TYPE_MPLS;
    program.push(ACT_POP_MPLS | (2 << 16), below);
  }
  if (rewrite) {
    const now = entry(flow, wanted, common);
    const was = entry(base, be16(base, K_MPLS_COUNT), common);
    if (now !== was) program.push(ACT_SET_MPLS | (3 << 16), now, 0xffffffff);
  }
  for (let pushed = keep; pushed < wanted; pushed++) {
    const op = x.pendingEncap ? ACT_ADD_MPLS : ACT_PUSH_MPLS;
    program.push(op | (3 << 16), entry(flow, wanted, pushed), be16(flow, K_ETH_TYPE));
  }
  base.set(flow.subarray(K_MPLS_LSE, K_MPLS_LSE + 12), K_MPLS_LSE);
  base.set(flow.subarray(K_MPLS_COUNT, K_MPLS_COUNT + 2), K_MPLS_COUNT);
  base.set(flow.subarray(K_ETH_TYPE, K_ETH_TYPE + 2), K_ETH_TYPE);
}

/** Appends the actions that turn the packet as it is now into the flow as the OpenFlow actions want it. */
export function commit(x: Xlate): void {
  if (x.pendingEncap || x.pendingDecap) commitNshHeader(x);
  commitPacketType(x);
  if (x.pendingEncap || x.pendingDecap) {
    commitMpls(x);
    // The addresses that the flow has now are those of no header yet, or of one that nobody has seen.
    x.base.set(x.flow.subarray(K_ETH_DST, K_ETH_DST + 12), K_ETH_DST);
    x.pendingEncap = false;
    x.pendingDecap = false;
  }
  if (be32(x.base, K_PACKET_TYPE) === 0) commitHeader(x, ETHERNET);
  // What was below labels can be written only when they are gone.
  if (isMpls(be16(x.base, K_ETH_TYPE)) && !isMpls(be16(x.flow, K_ETH_TYPE))) commitMpls(x);
  commitNshFields(x);
  commitNetwork(x);
  commitTransport(x);
  commitMpls(x);
  commitVlans(x);
  commitMeta(x, K_PRIORITY);
  commitMeta(x, K_PKT_MARK);
}
