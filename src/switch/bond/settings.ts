// Settings of a bond and of LACP from a Port row and its interfaces (ovs-vswitchd.conf.db(5), "Bonding Configuration",
// "LACP"). Pure; values that make no sense are the defaults, with a warning where the real daemon gives one.

import type { LacpMemberSettings, LacpSettings } from '../../protocol/lacp.ts';
import { boolOf, intOf, type StringMap } from '../../protocol/text.ts';
import { parseMac } from '../../wire/openflow/address.ts';
import type { BondMode, BondSettings } from './bond.ts';

/** Columns of a Port row. */
export interface BondRow {
  name: string;
  bondMode: string | undefined;
  lacp: string | undefined;
  upDelayMs: number;
  downDelayMs: number;
  activeMac: string | undefined;
  otherConfig: StringMap;
}

const MODES: readonly string[] = ['active-backup', 'balance-slb', 'balance-tcp'];
const REBALANCE_DEFAULT_MS = 10_000;
const REBALANCE_MIN_MS = 1000;
const U16_MAX = 0xffff;

export function bondSettings(row: BondRow, warn: (text: string) => void): BondSettings {
  const { name, bondMode, otherConfig } = row;
  let mode: BondMode = 'active-backup';
  if (bondMode !== undefined && MODES.includes(bondMode)) mode = bondMode as BondMode;
  else if (bondMode !== undefined) {
    warn(`port ${name}: unknown bond_mode ${bondMode}, defaulting to ${mode}`);
  }
  const rebalanceMs = intOf(otherConfig, 'bond-rebalance-interval', REBALANCE_DEFAULT_MS);
  const fallbackAb = boolOf(otherConfig, 'lacp-fallback-ab', false);
  return {
    name,
    mode,
    upDelayMs: Math.max(0, row.upDelayMs),
    downDelayMs: Math.max(0, row.downDelayMs),
    basis: intOf(otherConfig, 'bond-hash-basis', 0) >>> 0,
    rebalanceMs: rebalanceMs === 0 ? 0 : Math.max(REBALANCE_MIN_MS, rebalanceMs),
    fallbackAb,
    primary: mode === 'active-backup' || fallbackAb ? otherConfig['bond-primary'] : undefined,
    allMembersActive: boolOf(otherConfig, 'all-members-active', false),
    activeMac: row.activeMac,
  };
}

/** Undefined: no LACP. `members`: interfaces of the port. */
export function lacpSettings(
  row: BondRow,
  bridgeMac: Uint8Array,
  members: number,
  warn: (text: string) => void,
): LacpSettings | undefined {
  const { name, lacp, otherConfig } = row;
  if (lacp === undefined || lacp === 'off') return undefined;
  if (lacp !== 'active' && lacp !== 'passive') {
    warn(`port ${name}: unknown LACP mode ${lacp}`);
    return undefined;
  }
  const given = otherConfig['lacp-system-id'];
  const systemId = given === undefined ? bridgeMac : parseMac(given);
  if (systemId === undefined) {
    warn(`port ${name}: LACP system ID (${given}) must be an Ethernet address.`);
    return undefined;
  }
  if (systemId.every((byte) => byte === 0)) {
    warn(`port ${name}: Invalid zero LACP system ID.`);
    return undefined;
  }
  const priority = intOf(otherConfig, 'lacp-system-priority', 0);
  // Links that can be bonded are preferred.
  const fallback = U16_MAX - (members > 1 ? 1 : 0);
  return {
    name,
    systemId,
    systemPriority: priority > 0 && priority <= U16_MAX ? priority : fallback,
    active: lacp === 'active',
    fast: otherConfig['lacp-time']?.toLowerCase() === 'fast',
    fallbackAb: boolOf(otherConfig, 'lacp-fallback-ab', false),
  };
}

/** From Interface.other_config. */
export function lacpMemberSettings(
  name: string,
  ofport: number,
  otherConfig: StringMap,
): LacpMemberSettings {
  const portId = intOf(otherConfig, 'lacp-port-id', 0);
  const priority = intOf(otherConfig, 'lacp-port-priority', 0);
  const key = intOf(otherConfig, 'lacp-aggregation-key', 0);
  return {
    name,
    portId: portId > 0 && portId <= U16_MAX ? portId : ofport & U16_MAX,
    priority: priority > 0 && priority <= U16_MAX ? priority : U16_MAX,
    key: key >= 0 && key <= U16_MAX ? key : 0,
  };
}
