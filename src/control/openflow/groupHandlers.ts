// Groups by OpenFlow: group mod, statistics, descriptions, features (1.5.1 §7.3.4.3, §7.3.5.9-11; Nicira's messages for
// OpenFlow 1.0).

import { groupsOf } from '../../switch/flowModsActions.ts';
import { OFPGC_ADD, OFPGC_ADD_OR_MOD, OFPGC_MODIFY } from '../../wire/openflow/group.ts';
import type { GroupMod, Message } from '../../wire/openflow/messages.ts';
import type { OfSwitch } from './context.ts';
import type { HandlerTable } from './handlers.ts';
import { rejectSecondary } from './ofconn.ts';

type GroupModMessage = Extract<Message, { type: 'group_mod' }>;

const TYPES = 0xf;
/** OFPGFC_SELECT_WEIGHT | SELECT_LIVENESS | CHAINING. */
const CAPABILITIES = 0x7;
const MAX_GROUPS = 0xffffff00;
/** Actions of each version by their numbers: those that Open vSwitch says it has. */
const ACTIONS: Readonly<Record<number, number>> = {
  1: 0xfff,
  2: 0x1ffffff & ~0x1800,
  3: 0x3fff801,
  4: 0x7ff9801,
  5: 0x7ff9801,
  6: 0x37ff9801,
};

export const groupHandlers: HandlerTable = {
  group_mod(ofSwitch, { conn, xid, version }, message) {
    rejectSecondary(conn);
    checkBuckets(ofSwitch, message);
    const change = plainChange(ofSwitch, message);
    ofSwitch.tables.applyGroup(message, { connection: conn, xid, version });
    ofSwitch.groupModified(change, xid, conn);
  },

  group_stats_request({ bridge }, request, { group, nxt }) {
    bridge.syncStats();
    const references = new Map<number, number>();
    for (const table of bridge.tables) {
      for (const rule of table) {
        for (const id of new Set(groupsOf(rule.actions))) {
          references.set(id, (references.get(id) ?? 0) + 1);
        }
      }
    }
    const now = bridge.nowMs();
    const groups = bridge.groups
      .select(group)
      .map((one) => one.stats(references.get(one.id) ?? 0, now));
    request.conn.reply({ type: 'group_stats_reply', nxt, groups }, request);
  },

  group_desc_request({ bridge }, request, { group, nxt }) {
    const groups = bridge.groups.select(group).map((one) => one.describe());
    request.conn.reply({ type: 'group_desc_reply', nxt, groups }, request);
  },

  group_features_request(_ofSwitch, request, { nxt }) {
    const actions = ACTIONS[request.version] ?? 0;
    const features = {
      types: TYPES,
      capabilities: CAPABILITIES,
      maxGroups: [MAX_GROUPS, MAX_GROUPS, MAX_GROUPS, MAX_GROUPS],
      actions: [actions, actions, actions, actions],
    };
    request.conn.reply({ type: 'group_features_reply', nxt, features }, request);
  },
};

/** "Add or modify" as the one of them that it is now: others do not know whether the group was there. */
export function plainChange({ bridge }: OfSwitch, message: GroupModMessage): GroupModMessage {
  if (message.command !== OFPGC_ADD_OR_MOD) return message;
  return { ...message, command: bridge.groups.has(message.group) ? OFPGC_MODIFY : OFPGC_ADD };
}

/** Buckets may only have actions that this switch can execute; whether they fit packets shows when they come. */
export function checkBuckets(ofSwitch: OfSwitch, { buckets }: GroupMod): void {
  for (const { actions } of buckets) ofSwitch.checkBucket(actions);
}
