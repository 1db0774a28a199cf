// The actions ct and ct_clear (ovs-actions(7)), and the way back into the pipeline after a recirculation.
//
// ct becomes ACT_CT, which tracks the packet; with a table, ACT_RECIRC forks the pipeline: the packet that comes back
// is looked up there with its ct fields set, while the rest of this action list goes on with an untracked packet.

import {
  ACT_CT,
  ACT_CT_WORDS,
  ACT_RECIRC,
  CT_ALG_FTP,
  CT_ALG_TFTP,
  CT_CLEAR,
  CT_COMMIT,
  CT_FORCE,
  CT_HAS_LABEL,
  CT_HAS_MARK,
  CT_NAT,
  CT_NAT_DST,
  CT_NAT_HASH,
  CT_NAT_PERSISTENT,
  CT_NAT_RANDOM,
  CT_NAT_SRC,
  CT_NAT_V6,
} from '../../../contract/action.ts';
import { DROP_RECIRC_LIMIT } from '../../../contract/drop.ts';
import {
  K_CT_LABEL,
  K_CT_MARK,
  K_CT_ZONE,
  K_ETH_TYPE,
  K_RECIRC_ID,
} from '../../../contract/key.ts';
import { fieldByName } from '../../wire/openflow/fields.ts';
import type { Action } from '../../wire/openflow/types.ts';
import { be16, ETH_TYPE_IP, isZero, putBe16, putBe32 } from '../flow.ts';
import { freezeMetadata } from '../recirc.ts';
import { commit } from './commit.ts';
import { report, type Xlate } from './context.ts';
import { clearConntrack, clearConntrackFields } from './ctFields.ts';
import { applyWrite, coverSubfield, fieldWriteOf, moveSubfield, readSubfield } from './fieldOps.ts';
import { coverReceived } from './tunnel.ts';
import type { FrozenState } from './types.ts';

type Ct = Action & { type: 'ct' };
type Nat = Action & { type: 'nat' };

/** Flags of the ct action as the wire has them. */
const WIRE_COMMIT = 1;
const WIRE_FORCE = 2;
const NO_TABLE = 255;
const PORT_FTP = 21;
const PORT_TFTP = 69;

/** Flags of the nat action on the wire, and those of ACT_CT. */
const NAT_FLAGS: readonly (readonly [wire: number, flag: number])[] = [
  [1, CT_NAT_SRC],
  [2, CT_NAT_DST],
  [4, CT_NAT_PERSISTENT],
  [8, CT_NAT_HASH],
  [16, CT_NAT_RANDOM],
];

/** Word offsets in ACT_CT. */
const W_FLAGS = 1;
const W_ZONE = 2;
const W_POLICY = 3;
const W_MARK = 4;
const W_LABEL = 6;
const W_NAT_MIN = 14;
const W_NAT_MAX = 18;
const W_NAT_PORTS = 22;

/** Runs the actions of exec(…), which write mark and label only, and gives the masks of what they have written. */
function executeNested(
  x: Xlate,
  actions: readonly Action[],
): { mark: Uint8Array; label: Uint8Array } {
  const { flow, wildcards } = x;
  const old = {
    mark: wildcards.slice(K_CT_MARK, K_CT_MARK + 4),
    label: wildcards.slice(K_CT_LABEL, K_CT_LABEL + 16),
  };
  wildcards.fill(0, K_CT_MARK, K_CT_MARK + 4);
  wildcards.fill(0, K_CT_LABEL, K_CT_LABEL + 16);
  const read = new Uint8Array(wildcards.length);
  if (actions.length === 0) report(x, 'action', 'drop'); // so does Open vSwitch
  for (const action of actions) {
    if (x.trace !== undefined) report(x, 'action', x.in.text!.actions([action]));
    if (action.type === 'set_field' || action.type === 'load') {
      applyWrite(fieldWriteOf(action), flow, wildcards);
    } else if (action.type === 'move') {
      coverSubfield(action.src, fieldByName(action.src.field), read);
      moveSubfield(action.src, action.dst, flow, wildcards);
      if (x.trace !== undefined) report(x, 'detail', x.in.text!.subfield(action.dst, flow));
    }
  }
  const written = {
    mark: wildcards.slice(K_CT_MARK, K_CT_MARK + 4),
    label: wildcards.slice(K_CT_LABEL, K_CT_LABEL + 16),
  };
  wildcards.set(old.mark, K_CT_MARK);
  wildcards.set(old.label, K_CT_LABEL);
  // What a move reads of mark and label themselves, the megaflow has to match.
  for (let i = 0; i < read.length; i++) wildcards[i]! |= read[i]!;
  return written;
}

function putNat(x: Xlate, bytes: Uint8Array, nat: Nat): number {
  let flags = CT_NAT;
  // An address of the other family says nothing about this packet.
  const ipv4 = be16(x.flow, K_ETH_TYPE) === ETH_TYPE_IP;
  if (nat.addressMin !== undefined && (nat.addressMin.length === 4) !== ipv4) return flags;
  for (const [wire, flag] of NAT_FLAGS) if ((nat.flags & wire) !== 0) flags |= flag;
  if (nat.addressMin !== undefined) {
    if (nat.addressMin.length === 16) flags |= CT_NAT_V6;
    bytes.set(nat.addressMin, 4 * W_NAT_MIN);
    bytes.set(nat.addressMax ?? nat.addressMin, 4 * W_NAT_MAX);
  }
  return flags;
}

function natPorts(nat: Nat): number {
  if (nat.portMin === 0) return 0;
  return (nat.portMin | (Math.max(nat.portMax, nat.portMin) << 16)) >>> 0;
}

/** The ct action. */
export function trackConnection(x: Xlate, action: Ct): void {
  const zone =
    typeof action.zone === 'number'
      ? action.zone
      : Number(readSubfield(action.zone, x.flow, x.wildcards));
  commit(x);
  const masks = executeNested(x, action.actions);
  const nat = action.actions.findLast((a) => a.type === 'nat');

  const words = new Uint32Array(ACT_CT_WORDS);
  const bytes = new Uint8Array(words.buffer);
  let flags = 0;
  if ((action.flags & WIRE_COMMIT) !== 0) {
    flags |= CT_COMMIT;
    if ((action.flags & WIRE_FORCE) !== 0) flags |= CT_FORCE;
    words[W_POLICY] = x.in.timeoutPolicy?.(zone) ?? 0;
  }
  if (!isZero(masks.mark, 0, 4)) {
    flags |= CT_HAS_MARK;
    putMasked(bytes, 4 * W_MARK, x.flow, K_CT_MARK, masks.mark);
  }
  if (!isZero(masks.label, 0, 16)) {
    flags |= CT_HAS_LABEL;
    putMasked(bytes, 4 * W_LABEL, x.flow, K_CT_LABEL, masks.label);
  }
  if (action.alg === PORT_FTP) flags |= CT_ALG_FTP;
  else if (action.alg === PORT_TFTP) flags |= CT_ALG_TFTP;
  else if (action.alg !== 0) report(x, 'error', `cannot serialize ct_helper ${action.alg}`);
  if (nat !== undefined) {
    flags |= putNat(x, bytes, nat);
    words[W_NAT_PORTS] = natPorts(nat);
  }
  words[0] = ACT_CT | (ACT_CT_WORDS << 16);
  words[W_FLAGS] = flags;
  words[W_ZONE] = zone;
  x.program.push(...words);

  if (action.table !== NO_TABLE) {
    x.conntracked = true;
    fork(x, action.table, zone, nat);
  }
  clearConntrack(x);
  report(
    x,
    'detail',
    'Sets the packet to an untracked state, and clears all the conntrack fields.',
  );
}

/** Value and mask, one after the other. */
function putMasked(
  bytes: Uint8Array,
  at: number,
  flow: Uint8Array,
  offset: number,
  mask: Uint8Array,
): void {
  for (let i = 0; i < mask.length; i++) bytes[at + i] = flow[offset + i]! & mask[i]!;
  bytes.set(mask, at + mask.length);
}

/** Appends a recirculation that goes on in `table` with the pipeline as it is. 0 = failed. */
export function recirculate(x: Xlate, table: number, actions: readonly Action[] = []): number {
  coverReceived(x);
  return recirculateTo(x, {
    bridge: x.bridge,
    table,
    conntracked: x.conntracked,
    metadata: freezeMetadata(x.flow),
    actionSet: [...x.actionSet],
    actions,
    stack: [...x.stack],
    mirrors: x.mirrors,
  });
}

/** Appends a recirculation that goes on with this state. 0 = failed. */
export function recirculateTo(x: Xlate, state: FrozenState): number {
  const id = x.in.recircs?.add(state) ?? 0;
  if (id === 0) {
    report(x, 'error', 'Failed to allocate recirculation id');
    x.error = 'No recirculation context';
    x.dropReason = DROP_RECIRC_LIMIT;
    return 0;
  }
  x.effects.recircs.push(id);
  x.program.push(ACT_RECIRC | (2 << 16), id);
  return id;
}

function fork(x: Xlate, table: number, zone: number, nat: Nat | undefined): void {
  const id = recirculate(x, table);
  if (id === 0 || x.in.recircTraces === undefined) return;
  const flow = x.flow.slice();
  putBe32(flow, K_RECIRC_ID, id);
  putBe16(flow, K_CT_ZONE, zone);
  x.in.recircTraces.push({ id, conntrack: true, flow, nat });
  report(
    x,
    'detail',
    'A clone of the packet is forked to recirculate. ' +
      `The forked pipeline will be resumed at table ${table}.`,
  );
}

/** The ct_clear action: the packet was never tracked. */
export function clearTracking(x: Xlate): void {
  if (!x.conntracked) return;
  clearConntrack(x);
  const words = new Uint32Array(ACT_CT_WORDS);
  words[0] = ACT_CT | (ACT_CT_WORDS << 16);
  words[W_FLAGS] = CT_CLEAR;
  x.program.push(...words);
}

/** The translation goes on where it was frozen; the flow's metadata have been restored already (Datapath.flowOf). */
export function thaw(x: Xlate, frozen: FrozenState): void {
  const trace = x.trace;
  x.trace = report(x, 'thaw', 'thaw');
  report(x, 'thaw', `Resuming from table ${frozen.table}`);
  x.table = frozen.table;
  x.conntracked = frozen.conntracked;
  if (!frozen.conntracked) clearConntrackFields(x.flow);
  if (frozen.actionSet.length > 0) {
    if (x.trace !== undefined) {
      report(x, 'thaw', `Restoring action set: ${x.in.text!.actions(frozen.actionSet)}`);
    }
    x.actionSet.push(...frozen.actionSet);
  }
  x.stack.push(...frozen.stack);
  x.mirrors = frozen.mirrors ?? 0;
  if (frozen.actions.length > 0 && x.trace !== undefined) {
    report(x, 'thaw', `Restoring actions: ${x.in.text!.actions(frozen.actions)}`);
  }
  x.trace = trace;
}
