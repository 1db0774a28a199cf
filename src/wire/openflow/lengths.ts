// Lengths of message bodies that can be: a fixed part, then a multiple of a unit. Open vSwitch looks at the length
// before anything in the body, so a request of the wrong length is OFPBRC_BAD_LEN whatever else is wrong with it.
// Only messages that a switch receives are here.

import type { Kind } from './codec.ts';
import type { MessageType } from './messages.ts';

/** [fixed bytes, unit]; unit 0: exactly so many, 1: any number more. */
type Length = readonly [fixed: number, unit: number];

/** Messages whose layout is the same in all versions. */
const LENGTHS: { readonly [T in MessageType]?: Length } = {
  set_config: [4, 0],
  set_flow_format: [4, 0],
  flow_mod_table_id: [8, 0],
  set_packet_in_format: [4, 0],
  set_controller_id: [8, 0],
  tlv_table_mod: [8, 8],
  resume: [0, 8],
  ct_flush_zone: [8, 0],
  ct_flush: [8, 8],
  bundle_control: [8, 8],
  bundle_add: [8, 1],
  port_stats_request: [8, 0],
  queue_stats_request: [8, 0],
  ipfix_bridge_request: [0, 0],
  ipfix_flow_request: [0, 0],
  flow_monitor_request: [0, 8],
  flow_monitor_cancel: [4, 0],
  group_stats_request: [8, 0],
  meter_stats_request: [8, 0],
  meter_config_request: [8, 0],
  meter_mod: [8, 8],
  table_features_request: [0, 8],
};

function lengthOf(type: MessageType, version: number, kind: Kind): Length | undefined {
  const nx = kind === 'nx' || kind === 'nx_request';
  switch (type) {
    case 'flow_mod':
      return nx ? [32, 8] : version === 1 ? [64, 8] : [40, 8];
    case 'flow_stats_request':
    case 'aggregate_request':
      return nx ? [8, 8] : version === 1 ? [44, 0] : [32, 8];
    case 'packet_out':
      return version === 1 || version >= 6 ? [8, 1] : [16, 1];
    case 'port_mod':
      return version === 1 ? [24, 0] : version < 5 ? [32, 0] : [24, 8];
    case 'table_mod':
      return version < 5 ? [8, 0] : [8, 8];
    case 'group_mod':
      return nx || version >= 6 ? [16, 8] : [8, 8];
    case 'queue_desc_request':
      return version === 1 ? [4, 0] : [8, 0];
    case 'role_request':
      return nx ? [4, 0] : [16, 0];
    case 'set_async':
      return undefined;
    default:
      return LENGTHS[type];
  }
}

export function lengthFits(
  type: MessageType,
  version: number,
  kind: Kind,
  length: number,
): boolean {
  const known = lengthOf(type, version, kind);
  if (known === undefined) return true;
  const [fixed, unit] = known;
  if (unit === 0) return length === fixed;
  return length >= fixed && (length - fixed) % unit === 0;
}
