// Pipelines that stop in the middle of actions. controller(pause): the packet goes to a controller, and NXT_RESUME starts
// the pipeline behind the action again (ovs-actions(7), "controller"; resume.ts). A group that chooses by the data plane's
// hash: the packet is recirculated, and comes back to the action.
//
// A stop deep inside of resubmits ends all action lists on the way out, each of which leaves here what it had still to
// do: the rest runs in one list when the packet comes back. Where translation handles a copy of the packet (clone, a
// bucket, a bridge behind a patch port, a branch of check_pkt_larger) the way out ends: only the copy waits.

import { ACT_HASH, ACT_USERSPACE, UPCALL_CONTROLLER } from '../../../contract/action.ts';
import { DROP_CONTROLLER_RATE } from '../../../contract/drop.ts';
import type { Action } from '../../wire/openflow/types.ts';
import { OFPP_IN_PORT } from '../../wire/openflow/types.ts';
import { freezeMetadata } from '../recirc.ts';
import { commit } from './commit.ts';
import { recirculate } from './conntrack.ts';
import { report, type Xlate } from './context.ts';
import { REASONS, snapshot } from './output.ts';
import { executeActionSet } from './tables.ts';
import { coverReceived } from './tunnel.ts';

/** Actions whose packet-ins name table and cookie of their rule. */
const NAMING: ReadonlySet<Action['type']> = new Set([
  'output',
  'output_reg',
  'output_trunc',
  'group',
  'controller',
  'dec_mpls_ttl',
  'dec_nsh_ttl',
  'dec_ttl',
]);

/** The action controller(pause). */
export function pause(x: Xlate, action: Action & { type: 'controller' }): void {
  x.freezing = { for: 'controller', action };
  x.exit = true;
}

/** A group needs the data plane's hash of the packet. */
export function awaitHash(x: Xlate, algorithm: number, basis: number): void {
  x.freezing = { for: 'hash', algorithm, basis };
  x.exit = true;
}

/** A label stack has been popped, and something wants to look at what was below. */
export function awaitParse(x: Xlate): void {
  x.freezing = { for: 'parse' };
  x.exit = true;
}

/** Notes whose actions follow, unless the ones before were the same rule's. */
function noteRule(x: Xlate): void {
  const last = x.frozenActions.findLast((action) => action.type === 'unroll_xlate');
  if (last?.table === x.table && last.cookie === x.cookie) return;
  x.frozenActions.push({ type: 'unroll_xlate', table: x.table, cookie: x.cookie });
}

/** Keeps what an action list has not run. Instructions become the actions that do the same. */
export function keepForLater(x: Xlate, actions: readonly Action[]): void {
  for (const action of actions) {
    switch (action.type) {
      case 'note':
      case 'conjunction':
        break;
      case 'goto_table':
        x.frozenActions.push({ type: 'resubmit', inPort: OFPP_IN_PORT, table: action.table });
        break;
      case 'write_metadata':
        x.frozenActions.push({
          type: 'set_field',
          field: 'metadata',
          value: bytesOf(action.metadata),
          mask: bytesOf(action.mask),
        });
        break;
      default:
        // A resubmit without a table means that of its rule.
        if (NAMING.has(action.type) || (action.type === 'resubmit' && action.table === 255)) {
          noteRule(x);
        }
        x.frozenActions.push(action);
    }
  }
}

function bytesOf(value: bigint): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, value);
  return bytes;
}

/** The end of the way for a packet, or a copy of it: its action set, or the controller that it waits for. */
export function finish(x: Xlate): void {
  if (x.error === undefined && x.freezing === undefined) executeActionSet(x);
  finishFreezing(x);
}

/** The same for a bucket, which has no action set of its own. */
export function finishFreezing(x: Xlate): void {
  const { freezing } = x;
  if (x.error !== undefined || freezing === undefined) x.freezing = undefined;
  else if (freezing.for === 'controller') sendPaused(x, freezing.action);
  else if (freezing.for === 'parse') recirculateForParse(x);
  else recirculateForHash(x, freezing.algorithm, freezing.basis);
}

function recirculateForHash(x: Xlate, algorithm: number, basis: number): void {
  commit(x);
  x.program.push(ACT_HASH | (3 << 16), algorithm, basis);
  recirculate(x, 0, x.frozenActions);
  x.freezing = undefined;
  x.frozenActions = [];
}

/** ofproto/trace does not follow: what the packet is below the labels is not known here. */
function recirculateForParse(x: Xlate): void {
  commit(x);
  x.wasMpls = false;
  // An empty list would mean table 0.
  if (x.frozenActions.length === 0) noteRule(x);
  recirculate(x, 0, x.frozenActions);
  x.freezing = undefined;
  x.frozenActions = [];
}

function sendPaused(x: Xlate, action: Action & { type: 'controller' }): void {
  commit(x);
  // ofproto/trace without a packet sends none, and Open vSwitch shows no action then.
  if (x.trace !== undefined && !x.in.learn) return;
  coverReceived(x);
  const id = x.in.packetIns.add({
    bridge: x.bridge,
    reason: REASONS[action.reason] ?? 'action',
    table: 0,
    cookie: x.cookie,
    controllerId: action.controllerId,
    maxLen: action.maxLen,
    userdata: action.userdata,
    metadata: snapshot(x.flow),
    conntracked: x.conntracked,
    paused: {
      bridge: x.bridge,
      table: 0,
      conntracked: x.conntracked,
      metadata: freezeMetadata(x.flow),
      actionSet: [...x.actionSet],
      actions: x.frozenActions,
      stack: [...x.stack],
      mirrors: x.mirrors,
    },
  });
  x.freezing = undefined;
  x.frozenActions = [];
  if (id === 0) {
    report(x, 'error', 'Failed to allocate recirculation id');
    x.error = 'No recirculation context';
    x.dropReason = DROP_CONTROLLER_RATE;
    return;
  }
  x.effects.packetIns.push(id);
  // The packet waits whole, whatever max_len says.
  x.program.push(ACT_USERSPACE | (4 << 16), UPCALL_CONTROLLER, id, 0xffff);
}
