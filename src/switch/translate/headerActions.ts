// Actions that change the packet's headers and metadata: fields, VLAN tags, TTL (ovs-actions(7), "Field Modification
// Actions"). Those of MPLS labels are in mpls.ts.

import { DROP_TTL } from '../../../contract/drop.ts';
import {
  F_METADATA,
  K_ETH_TYPE,
  K_NW_PROTO,
  K_NW_TTL,
  K_TP_DST,
  K_TP_SRC,
  K_VLAN0_TCI,
  K_VLAN0_TPID,
  K_VLAN1_TCI,
  VLAN_PRESENT,
} from '../../../contract/key.ts';
import type { Action } from '../../wire/openflow/types.ts';
import {
  be16,
  ETH_TYPE_IP,
  ETH_TYPE_VLAN,
  exact,
  isIp,
  isLaterFragment,
  or16,
  putBe16,
} from '../flow.ts';
import { clearPresent } from '../tunnel/metadata.ts';
import { countVlans } from './commit.ts';
import { report, type Xlate } from './context.ts';
import {
  applyWrite,
  coverL3Prerequisite,
  fieldWriteOf,
  prerequisiteMet,
  resolved,
} from './fieldOps.ts';
import { sendToController } from './output.ts';

export const VLAN_VID = 0x0fff;
export const VLAN_PCP = 0xe000;

/** True when translation of this action list ends. */
export function decrementTtl(x: Xlate, controllerIds: readonly number[]): boolean {
  // Looked at for every packet, as Open vSwitch has it, so that the megaflows are the same.
  x.wildcards[K_NW_TTL] = 0xff;
  x.wildcards[K_NW_PROTO] = 0xff;
  if (!isIp(x.flow)) return false;
  if (x.flow[K_NW_TTL]! > 1) {
    x.flow[K_NW_TTL]!--;
    return false;
  }
  for (const id of controllerIds) sendToController(x, 0xffff, 'invalid_ttl', id, undefined);
  const version = be16(x.flow, K_ETH_TYPE) === ETH_TYPE_IP ? 4 : 6;
  report(x, 'warn', `IPv${version} decrement TTL exception`);
  x.dropReason = DROP_TTL;
  return true;
}

export function setVlan(x: Xlate, bits: number, value: number, pushIfNeeded: boolean): void {
  const { flow, wildcards } = x;
  or16(wildcards, K_VLAN0_TCI, bits | VLAN_PRESENT);
  const tci = be16(flow, K_VLAN0_TCI);
  if ((tci & VLAN_PRESENT) === 0 && !pushIfNeeded) return;
  if (be16(flow, K_VLAN0_TPID) === 0) putBe16(flow, K_VLAN0_TPID, ETH_TYPE_VLAN);
  putBe16(flow, K_VLAN0_TCI, (tci & ~bits) | (value & bits) | VLAN_PRESENT);
}

export function popVlan(x: Xlate): void {
  const { flow, wildcards } = x;
  const count = countVlans(flow);
  if (count > 1) flow.copyWithin(K_VLAN0_TCI, K_VLAN1_TCI, K_VLAN1_TCI + 4);
  if (count > 0) {
    // A later action may write the same tag again: then nothing is committed, which is right for this tag alone.
    exact(wildcards, K_VLAN0_TCI, 8);
    const last = count > 1 ? K_VLAN1_TCI : K_VLAN0_TCI;
    flow.fill(0, last, last + 4);
  }
}

export function pushVlan(x: Xlate, ethertype: number): void {
  const { flow, wildcards } = x;
  if (countVlans(flow) > 0) exact(wildcards, K_VLAN0_TCI, 8);
  flow.copyWithin(K_VLAN1_TCI, K_VLAN0_TCI, K_VLAN0_TCI + 4);
  putBe16(flow, K_VLAN0_TPID, ethertype);
  putBe16(flow, K_VLAN0_TCI, VLAN_PRESENT);
}

/** OpenFlow 1.0's mod_tp_src and mod_tp_dst write the ports of any transport protocol. */
export function setTransportPort(x: Xlate, offset: number, value: Uint8Array): void {
  if (!isIp(x.flow) || isLaterFragment(x.flow)) return;
  x.wildcards[K_NW_PROTO] = 0xff;
  exact(x.wildcards, offset, 2);
  putBe16(x.flow, offset, be16(value, value.length - 2));
}

export function setField(x: Xlate, action: Action & { type: 'set_field' | 'load' }): void {
  if (action.type === 'set_field' && action.legacy === 'mod_tp_src') {
    setTransportPort(x, K_TP_SRC, action.value);
    return;
  }
  if (action.type === 'set_field' && action.legacy === 'mod_tp_dst') {
    setTransportPort(x, K_TP_DST, action.value);
    return;
  }
  const write = fieldWriteOf(action, x.bridge.tlvs);
  if (!prerequisiteMet(write.field, x.flow, x.wildcards)) {
    if (action.type === 'load' || action.legacy === undefined) {
      report(x, 'warn', `unmet prerequisites for ${write.field.name}, set_field ignored`);
    }
    return;
  }
  coverL3Prerequisite(write.field, x.flow, x.wildcards);
  applyWrite(write, x.flow, x.wildcards);
}

/** delete_field: the packet goes on without this option of its tunnel. */
export function deleteField(x: Xlate, name: string): void {
  const f = resolved(name, x.bridge.tlvs ?? []);
  if (f.tlvIndex === undefined) return;
  x.flow.fill(0, f.offset, f.offset + f.size);
  clearPresent(x.flow, f.tlvIndex);
}

export function writeMetadata(x: Xlate, metadata: bigint, mask: bigint): void {
  for (let i = 7; i >= 0; i--) {
    const bits = Number(mask & 0xffn);
    x.flow[F_METADATA + i] = (x.flow[F_METADATA + i]! & ~bits) | (Number(metadata & 0xffn) & bits);
    mask >>= 8n;
    metadata >>= 8n;
  }
}
