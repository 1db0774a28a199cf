// The numbers of all messages in all versions. OpenFlow 1.0.1 §5.1, 1.5.1 §7.1; Nicira's experimenter messages.
// The first route of a message type that exists in a version is the one that encode() takes, unless the message asks
// for the Nicira form.

import type { Kind } from './codec.ts';
import type { MessageType } from './messages.ts';

export interface Route {
  type: MessageType;
  kind: Kind;
  number: number;
  /** First and last wire version. */
  from: number;
  to: number;
}

const ROWS: readonly (readonly [MessageType, Kind, number, number, number])[] = [
  ['hello', 'of', 0, 1, 6],
  ['error', 'of', 1, 1, 6],
  ['echo_request', 'of', 2, 1, 6],
  ['echo_reply', 'of', 3, 1, 6],
  ['features_request', 'of', 5, 1, 6],
  ['features_reply', 'of', 6, 1, 6],
  ['get_config_request', 'of', 7, 1, 6],
  ['get_config_reply', 'of', 8, 1, 6],
  ['set_config', 'of', 9, 1, 6],
  ['packet_in', 'of', 10, 1, 6],
  ['packet_in', 'nx', 17, 1, 6],
  ['packet_in', 'nx', 30, 1, 6],
  ['flow_removed', 'of', 11, 1, 6],
  ['flow_removed', 'nx', 14, 1, 6],
  ['port_status', 'of', 12, 1, 6],
  ['packet_out', 'of', 13, 1, 6],
  ['flow_mod', 'of', 14, 1, 6],
  ['flow_mod', 'nx', 13, 1, 6],
  ['group_mod', 'of', 15, 2, 6],
  ['group_mod', 'nx', 31, 1, 1],
  ['port_mod', 'of', 15, 1, 1],
  ['port_mod', 'of', 16, 2, 6],
  ['table_mod', 'of', 17, 2, 6],
  ['barrier_request', 'of', 18, 1, 1],
  ['barrier_request', 'of', 20, 2, 6],
  ['barrier_reply', 'of', 19, 1, 1],
  ['barrier_reply', 'of', 21, 2, 6],
  ['queue_desc_request', 'of', 20, 1, 1],
  ['queue_desc_request', 'of', 22, 2, 4],
  ['queue_desc_request', 'request', 15, 5, 6],
  ['queue_desc_reply', 'of', 21, 1, 1],
  ['queue_desc_reply', 'of', 23, 2, 4],
  ['queue_desc_reply', 'reply', 15, 5, 6],
  ['role_request', 'of', 24, 3, 6],
  ['role_request', 'nx', 10, 1, 6],
  ['role_reply', 'of', 25, 3, 6],
  ['role_reply', 'nx', 11, 1, 6],
  ['get_async_request', 'of', 26, 4, 6],
  ['get_async_reply', 'of', 27, 4, 6],
  ['set_async', 'of', 28, 4, 6],
  ['set_async', 'nx', 19, 1, 6],
  ['set_async', 'nx', 27, 1, 4],
  ['meter_mod', 'of', 29, 4, 6],
  ['role_status', 'of', 30, 5, 6],
  ['table_status', 'of', 31, 5, 6],
  ['role_status', 'onf', 1911, 4, 4],
  ['requestforward', 'of', 32, 5, 6],
  ['requestforward', 'onf', 2350, 4, 4],
  ['requestforward', 'nx', 132, 1, 3],
  ['bundle_control', 'of', 33, 5, 6],
  ['bundle_control', 'onf', 2300, 4, 4],
  ['bundle_add', 'of', 34, 5, 6],
  ['bundle_add', 'onf', 2301, 4, 4],
  // ---- multipart
  ['desc_request', 'request', 0, 1, 6],
  ['desc_reply', 'reply', 0, 1, 6],
  ['flow_stats_request', 'request', 1, 1, 6],
  ['flow_stats_request', 'nx_request', 0, 1, 1],
  ['flow_stats_reply', 'reply', 1, 1, 6],
  ['flow_stats_reply', 'nx_reply', 0, 1, 1],
  ['aggregate_request', 'request', 2, 1, 6],
  ['aggregate_request', 'nx_request', 1, 1, 1],
  ['aggregate_reply', 'reply', 2, 1, 6],
  ['aggregate_reply', 'nx_reply', 1, 1, 1],
  ['table_stats_request', 'request', 3, 1, 6],
  ['table_stats_reply', 'reply', 3, 1, 6],
  ['port_stats_request', 'request', 4, 1, 6],
  ['port_stats_reply', 'reply', 4, 1, 6],
  ['queue_stats_request', 'request', 5, 1, 6],
  ['queue_stats_reply', 'reply', 5, 1, 6],
  ['group_stats_request', 'request', 6, 2, 6],
  ['group_stats_request', 'nx_request', 7, 1, 1],
  ['group_stats_reply', 'reply', 6, 2, 6],
  ['group_stats_reply', 'nx_reply', 7, 1, 1],
  ['group_desc_request', 'request', 7, 2, 6],
  ['group_desc_request', 'nx_request', 8, 1, 1],
  ['group_desc_reply', 'reply', 7, 2, 6],
  ['group_desc_reply', 'nx_reply', 8, 1, 1],
  ['group_features_request', 'request', 8, 3, 6],
  ['group_features_request', 'nx_request', 9, 1, 2],
  ['group_features_reply', 'reply', 8, 3, 6],
  ['group_features_reply', 'nx_reply', 9, 1, 2],
  ['meter_stats_request', 'request', 9, 4, 6],
  ['meter_stats_reply', 'reply', 9, 4, 6],
  ['meter_config_request', 'request', 10, 4, 6],
  ['meter_config_reply', 'reply', 10, 4, 6],
  ['meter_features_request', 'request', 11, 4, 6],
  ['meter_features_reply', 'reply', 11, 4, 6],
  ['table_features_request', 'request', 12, 4, 6],
  ['table_features_reply', 'reply', 12, 4, 6],
  ['port_desc_request', 'request', 13, 1, 6],
  ['port_desc_reply', 'reply', 13, 1, 6],
  ['table_desc_request', 'request', 14, 5, 6],
  ['table_desc_reply', 'reply', 14, 5, 6],
  ['flow_monitor_request', 'request', 16, 5, 6],
  ['flow_monitor_request', 'onf_request', 1870, 4, 4],
  ['flow_monitor_request', 'nx_request', 2, 1, 3],
  ['flow_monitor_reply', 'reply', 16, 5, 6],
  ['flow_monitor_reply', 'onf_reply', 1870, 4, 4],
  ['flow_monitor_reply', 'nx_reply', 2, 1, 3],
  ['ipfix_bridge_request', 'nx_request', 3, 1, 6],
  ['ipfix_bridge_reply', 'nx_reply', 3, 1, 6],
  ['ipfix_flow_request', 'nx_request', 4, 1, 6],
  ['ipfix_flow_reply', 'nx_reply', 4, 1, 6],
  // ---- Nicira and ONF
  ['flow_monitor_cancel', 'onf', 1870, 4, 4],
  ['flow_monitor_cancel', 'nx', 21, 1, 3],
  ['flow_monitor_paused', 'onf', 1871, 4, 4],
  ['flow_monitor_paused', 'nx', 22, 1, 3],
  ['flow_monitor_resumed', 'onf', 1872, 4, 4],
  ['flow_monitor_resumed', 'nx', 23, 1, 3],
  ['set_flow_format', 'nx', 12, 1, 1],
  ['flow_mod_table_id', 'nx', 15, 1, 1],
  ['set_packet_in_format', 'nx', 16, 1, 6],
  ['flow_age', 'nx', 18, 1, 1],
  ['set_controller_id', 'nx', 20, 1, 6],
  ['tlv_table_mod', 'nx', 24, 1, 6],
  ['tlv_table_request', 'nx', 25, 1, 6],
  ['tlv_table_reply', 'nx', 26, 1, 6],
  ['resume', 'nx', 28, 1, 6],
  ['ct_flush_zone', 'nx', 29, 1, 6],
  ['ct_flush', 'nx', 32, 1, 6],
  // Events of a flow monitor reply from OpenFlow 1.4 on: written only, read as part of the reply.
  ['flow_monitor_paused', 'reply', 16, 5, 6],
  ['flow_monitor_resumed', 'reply', 16, 5, 6],
];

export const ROUTES: readonly Route[] = ROWS.map(([type, kind, number, from, to]) => ({
  type,
  kind,
  number,
  from,
  to,
}));

/** By kind, then by number and version. */
const byNumber = new Map<Kind, Map<number, Route>>();
const byType = new Map<MessageType, Route[]>();
for (const route of ROUTES) {
  for (let v = route.from; v <= route.to; v++) {
    const routes = byNumber.get(route.kind) ?? new Map<number, Route>();
    byNumber.set(route.kind, routes);
    const key = route.number * 8 + v;
    if (!routes.has(key)) routes.set(key, route);
  }
  const list = byType.get(route.type);
  if (list === undefined) byType.set(route.type, [route]);
  else list.push(route);
}

export function routeByNumber(version: number, kind: Kind, number: number): Route | undefined {
  return byNumber.get(kind)?.get(number * 8 + version);
}

/** Route for writing a message type in a version. */
export function routeForType(
  type: MessageType,
  version: number,
  nicira: boolean,
  number?: number,
): Route | undefined {
  const routes = (byType.get(type) ?? []).filter((r) => version >= r.from && version <= r.to);
  if (!nicira) return routes[0];
  return routes.find(
    (r) => r.kind.startsWith('nx') && (number === undefined || r.number === number),
  );
}
