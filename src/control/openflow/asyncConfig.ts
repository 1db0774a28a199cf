// Which asynchronous messages a controller gets (1.5.1 §6.1.1 "Asynchronous messages", §7.3.10): one mask of reasons
// for each type of message, for the role it has. Reasons are bits 1 << OFPR_*, OFPPR_*, OFPRR_*.

import type { AsyncMasks } from '../../wire/openflow/messages.ts';
import type { FlowRemoved, PacketInReason } from '../../wire/openflow/types.ts';

export type AsyncConfig = [primary: AsyncMasks, secondary: AsyncMasks];

/** OFPR_* numbers; the two kinds of misses are ours, refined from OFPR_NO_MATCH. */
const PACKET_IN_BIT: Readonly<Record<PacketInReason, number>> = {
  no_match: 1 << 0,
  action: 1 << 1,
  invalid_ttl: 1 << 2,
  action_set: 1 << 3,
  group: 1 << 4,
  packet_out: 1 << 5,
  explicit_miss: 1 << 6,
  implicit_miss: 1 << 7,
};
/** Reasons into which OpenFlow 1.4 split "action". */
const ACTION14 = PACKET_IN_BIT.action_set | PACKET_IN_BIT.group | PACKET_IN_BIT.packet_out;

const FLOW_REMOVED_BIT: Readonly<Record<FlowRemoved['reason'], number>> = {
  idle_timeout: 1 << 0,
  hard_timeout: 1 << 1,
  delete: 1 << 2,
  group_delete: 1 << 3,
  meter_delete: 1 << 4,
  eviction: 1 << 5,
};

const PORT_STATUS_BIT = { add: 1 << 0, delete: 1 << 1, modify: 1 << 2 };
const ALL_PORT_STATUS = 0x7;

export function packetInBit(reason: PacketInReason): number {
  return PACKET_IN_BIT[reason];
}

export function flowRemovedBit(reason: FlowRemoved['reason']): number {
  return FLOW_REMOVED_BIT[reason];
}

export function portStatusBit(reason: keyof typeof PORT_STATUS_BIT): number {
  return PORT_STATUS_BIT[reason];
}

/** OFPTR_VACANCY_*. */
const TABLE_STATUS_BIT = { down: 1 << 3, up: 1 << 4 };

export function tableStatusBit(reason: keyof typeof TABLE_STATUS_BIT): number {
  return TABLE_STATUS_BIT[reason];
}

const REQUEST_FORWARD_BIT = { group_mod: 1 << 0, meter_mod: 1 << 1 };

export function requestForwardBit(type: keyof typeof REQUEST_FORWARD_BIT): number {
  return REQUEST_FORWARD_BIT[type];
}

/** Nothing: before the version is known, and with Controller.enable_async_messages=false. */
export function noAsync(): AsyncConfig {
  return [noMasks(), noMasks()];
}

/** What a controller gets that has not asked for anything else. */
export function defaultAsync(version: number): AsyncConfig {
  const primary = noMasks();
  primary.packetIn =
    PACKET_IN_BIT.no_match | PACKET_IN_BIT.action | ACTION14 | PACKET_IN_BIT.explicit_miss;
  // Before OpenFlow 1.3 a packet that matched no flow went to the controller.
  if (version <= 3) primary.packetIn |= PACKET_IN_BIT.implicit_miss;
  primary.portStatus = ALL_PORT_STATUS;
  const { idle_timeout, hard_timeout, group_delete, meter_delete, eviction } = FLOW_REMOVED_BIT;
  primary.flowRemoved = idle_timeout | hard_timeout | FLOW_REMOVED_BIT.delete;
  if (version >= 4) primary.flowRemoved |= group_delete;
  if (version >= 5) primary.flowRemoved |= meter_delete | eviction;
  const secondary = noMasks();
  secondary.portStatus = ALL_PORT_STATUS;
  return [primary, secondary];
}

/**
 * The configuration after a set-async message. The message of OpenFlow 1.3 and its Nicira original replace all
 * three masks, so they name all of them; later ones change only what they name.
 */
export function changeAsync(
  old: AsyncConfig,
  masks: [Partial<AsyncMasks>, Partial<AsyncMasks>],
  version: number,
): AsyncConfig {
  const config: AsyncConfig = [
    { ...old[0], ...defined(masks[0]) },
    { ...old[1], ...defined(masks[1]) },
  ];
  for (const role of config) {
    if (version < 5 && role.packetIn & PACKET_IN_BIT.action) role.packetIn |= ACTION14;
    if (role.packetIn & PACKET_IN_BIT.no_match) {
      role.packetIn |= PACKET_IN_BIT.explicit_miss;
      if (version <= 3) role.packetIn |= PACKET_IN_BIT.implicit_miss;
    }
  }
  return config;
}

function defined(masks: Partial<AsyncMasks>): Partial<AsyncMasks> {
  return Object.fromEntries(Object.entries(masks).filter(([, mask]) => mask !== undefined));
}

function noMasks(): AsyncMasks {
  return {
    packetIn: 0,
    portStatus: 0,
    flowRemoved: 0,
    roleStatus: 0,
    tableStatus: 0,
    requestForward: 0,
  };
}
