// encap and decap (ovs-actions(7)): headers of a packet type of their own (ONF EXT-382). An Ethernet header goes around a packet
// that has none, or off; MPLS labels go around the packet as it is, its Ethernet header included, and what is below the
// last of them is looked at again. So do service headers (nsh.ts).
//
// Actions change the flow record; commit.ts makes programs of it. `x.pendingEncap` tells it that a label is a header in
// front of all, not one between Ethernet and IP.

import { DROP_BAD_ACTION } from '../../../contract/drop.ts';
import {
  K_ETH_DST,
  K_ETH_TYPE,
  K_MPLS_COUNT,
  K_MPLS_LSE,
  K_NSH_NP,
  K_PACKET_TYPE,
  K_VLAN0_TCI,
  VLAN_PRESENT,
} from '../../../contract/key.ts';
import { ETH_TYPE_TEB, PACKET_TYPE_ETHERTYPE, PACKET_TYPE_NSH } from '../../../contract/tunnel.ts';
import { isMpls } from '../../wire/openflow/prereq.ts';
import type { EncapProperty } from '../../wire/openflow/types.ts';
import { be16, be32, exact, putBe16, putBe32 } from '../flow.ts';
import { SLOW_ACTION } from '../protocolPort.ts';
import { commit } from './commit.ts';
import { report, type Xlate } from './context.ts';
import { popMpls, pushMpls } from './mpls.ts';
import { encapNsh, nextProtocolOf, packetTypeOf } from './nsh.ts';

const isEtherType = (packetType: number): boolean => packetType >>> 16 === 1;

function refuse(x: Xlate, text: string): void {
  report(x, 'detail', text);
  x.error = 'Unsupported packet type';
  x.dropReason = DROP_BAD_ACTION;
}

function clearMacs(flow: Uint8Array): void {
  flow.fill(0, K_ETH_DST, K_ETH_DST + 12);
}

export function encap(x: Xlate, packetType: number, properties?: readonly EncapProperty[]): void {
  const { flow, base, wildcards } = x;
  commit(x);
  exact(wildcards, K_PACKET_TYPE, 4);
  const now = be32(flow, K_PACKET_TYPE);
  if (packetType === 0) {
    if (!isEtherType(now)) {
      refuse(x, 'Dropping packet as encap(ethernet) is not supported for packet type ethernet.');
      return;
    }
    putBe32(flow, K_PACKET_TYPE, 0);
    putBe16(flow, K_ETH_TYPE, now & 0xffff);
    clearMacs(flow);
    return;
  }
  if (packetType === PACKET_TYPE_NSH) {
    const inner = nextProtocolOf(now);
    if (inner === undefined) {
      const type = `(${now >>> 16},0x${(now & 0xffff).toString(16)})`;
      refuse(x, `Dropping packet as encap(nsh) is not supported for packet type ${type}`);
      return;
    }
    encapNsh(x, inner, properties ?? []);
    return;
  }
  if (now === 0 && isMpls(be16(flow, K_ETH_TYPE))) {
    // The labels below are payload now.
    for (const record of [flow, base]) {
      record.fill(0, K_MPLS_LSE, K_MPLS_LSE + 12);
      putBe16(record, K_MPLS_COUNT, 0);
    }
    putBe16(flow, K_ETH_TYPE, 0);
  }
  pushMpls(x, packetType & 0xffff, 'encap');
  if (x.error !== undefined) return;
  putBe32(flow, K_PACKET_TYPE, packetType);
  // So are the tags.
  for (const record of [flow, base]) record.fill(0, K_VLAN0_TCI, K_VLAN0_TCI + 8);
  clearMacs(flow);
  if (x.in.features?.get('add_mpls') === false) x.slow |= SLOW_ACTION;
  x.pendingEncap = true;
}

/** True: the packet has to be parsed again before the next action. */
export function decap(x: Xlate, packetType: number): boolean {
  const { flow, wildcards } = x;
  commit(x);
  exact(wildcards, K_PACKET_TYPE, 4);
  const now = be32(flow, K_PACKET_TYPE);
  if (now === 0) {
    if ((be16(flow, K_VLAN0_TCI) & VLAN_PRESENT) !== 0) {
      refuse(x, 'Dropping packet, cannot decap Ethernet if VLAN is present.');
      return false;
    }
    exact(wildcards, K_ETH_TYPE, 2);
    putBe32(flow, K_PACKET_TYPE, PACKET_TYPE_ETHERTYPE | be16(flow, K_ETH_TYPE));
    clearMacs(flow);
    return false;
  }
  if (now === PACKET_TYPE_NSH) {
    const inner = packetTypeOf(flow[K_NSH_NP]!);
    if (inner === undefined) {
      refuse(x, `Dropping packet as NSH next protocol ${flow[K_NSH_NP]} is not supported`);
      return false;
    }
    wildcards[K_NSH_NP] = 0xff;
    putBe32(flow, K_PACKET_TYPE, inner);
    x.pendingDecap = true;
    return true;
  }
  if (!isEtherType(now) || !isMpls(now & 0xffff)) {
    const type = `(${now >>> 16},0x${(now & 0xffff).toString(16)})`;
    refuse(x, `Dropping packet as the decap() does not support packet type ${type}`);
    return false;
  }
  const inner = isEtherType(packetType) ? packetType & 0xffff : ETH_TYPE_TEB;
  const count = be16(flow, K_MPLS_COUNT);
  popMpls(x, inner, 'decap');
  if (x.error !== undefined || count === 0) return false;
  putBe32(flow, K_PACKET_TYPE, isEtherType(packetType) ? packetType : 0);
  if (x.in.features?.get('add_mpls') === false) x.slow |= SLOW_ACTION;
  x.pendingDecap = true;
  return !isMpls(inner);
}
