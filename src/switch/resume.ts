// Packets that wait at a controller (controller(pause)): what they take along, and NXT_RESUME, which brings them back
// into the pipeline (ovs-actions(7), "controller"; Open vSwitch's nicira-ext.h, "NXT_RESUME").
//
// The switch keeps nothing of a paused packet: all that it needs travels in the continuation, and is checked when it
// comes back like anything else that a controller says. Only the bridge is named by a number of this run of the switch,
// so that continuations from before a restart are stale.

import { randomFillSync } from 'node:crypto';
import {
  F_ACTSET_OUTPUT,
  F_IN_PORT,
  F_METADATA,
  F_SKB_SPARE,
  F_TUN_METADATA,
  FLOW_SIZE,
  K_CT_IPV6_SRC,
  K_CT_LABEL,
  K_CT_MARK,
  K_CT_STATE,
  K_CT_ZONE,
  K_IN_PORT,
  K_PACKET_TYPE,
  K_PKT_MARK,
  K_TCP_FLAGS,
  K_TUN_ID,
  KEY_SIZE,
} from '../../contract/key.ts';
import { type Action, type Continuation, OfError, type PacketIn } from '../wire/openflow/types.ts';
import { checkBucketActions } from './checkActions.ts';
import type { Datapath } from './datapath.ts';
import { be16, be32, newRecord, putBe32 } from './flow.ts';
import { extractFlow } from './flowExtract.ts';
import { credit } from './megaflow.ts';
import { splitProgram } from './slowPath.ts';
import { clearConntrackFields } from './translate/ctFields.ts';
import { translate } from './translate/translate.ts';
import type { FrozenState, XlateBridge } from './translate/types.ts';

/** Names of bridges in continuations. */
export class BridgeIds<T extends XlateBridge> {
  readonly #ids = new Map<T, Uint8Array>();

  add(bridge: T): void {
    this.#ids.set(bridge, randomFillSync(new Uint8Array(16)));
  }

  remove(bridge: T): void {
    this.#ids.delete(bridge);
  }

  /** 16 bytes; zeros if the bridge is gone. */
  of(bridge: XlateBridge): Uint8Array {
    return this.#ids.get(bridge as T) ?? new Uint8Array(16);
  }

  find(id: Uint8Array): T | undefined {
    for (const [bridge, own] of this.#ids) {
      if (own.every((byte, i) => byte === id[i])) return bridge;
    }
    return undefined;
  }
}

/** What the packet takes along. */
export function continuationOf(state: FrozenState, bridge: Uint8Array, odpPort: number) {
  return {
    bridge,
    stack: state.stack.toReversed(),
    mirrors: state.mirrors ?? 0,
    conntracked: state.conntracked,
    actions: [...state.actions],
    actionSet: [...state.actionSet],
    odpPort,
  } satisfies Continuation;
}

/** Parts of a flow record that a controller may change, besides those that the packet itself has. */
const METADATA: readonly (readonly [start: number, end: number])[] = [
  [K_CT_STATE, K_CT_ZONE + 2],
  [K_CT_MARK, K_CT_MARK + 4],
  [K_CT_LABEL, K_PKT_MARK + 4],
  [K_PACKET_TYPE, K_PACKET_TYPE + 4],
  [K_TUN_ID, K_CT_IPV6_SRC],
  [K_CT_IPV6_SRC, KEY_SIZE],
  [F_METADATA, F_ACTSET_OUTPUT],
  [F_TUN_METADATA, F_SKB_SPARE],
];

/** Without actions a look-up would follow. */
const NOTHING: readonly Action[] = [{ type: 'note', data: new Uint8Array(0) }];

/** NXT_RESUME: the packet goes on where it was paused. Throws OfError. `vlanLimit`: headers to parse. */
export function resume(datapath: Datapath, packet: PacketIn, vlanLimit: number): void {
  const { continuation, data, match } = packet;
  const bridge = continuation && datapath.bridgeIds.find(continuation.bridge);
  if (bridge === undefined) throw new OfError('NXR_STALE');
  const { stack, mirrors, conntracked, actions, actionSet } = continuation!;
  checkBucketActions(actions.filter(({ type }) => type !== 'unroll_xlate'));
  checkBucketActions(actionSet);

  const flow = newRecord();
  for (const [start, end] of METADATA) flow.set(match.key.subarray(start, end), start);
  extractFlow(flow, data, vlanLimit);
  const ofport = be32(match.key, F_IN_PORT);
  putBe32(flow, F_IN_PORT, ofport);
  // Where it came in matters to whoever is asked about it later. The port may be gone by now.
  const { odpPort } = continuation!;
  const dpPort = datapath.ports.has(odpPort) ? odpPort : datapath.controllerPort();
  putBe32(flow, K_IN_PORT, dpPort);

  if (!conntracked) clearConntrackFields(flow);
  const metadata = new Uint8Array(FLOW_SIZE);
  metadata.set(flow);
  const key = flow.slice(0, KEY_SIZE);
  const { engine } = datapath;
  const out = translate({
    bridge,
    flow,
    frozen: {
      bridge,
      table: 0,
      conntracked,
      metadata,
      actionSet,
      actions: actions.length > 0 ? actions : NOTHING,
      stack: stack.toReversed(),
      mirrors,
    },
    packetIns: datapath.packetIns,
    tunnels: datapath.tunnels,
    features: datapath.features,
    recircs: datapath.recircs,
    timeoutPolicy: datapath.timeoutPolicy,
    learn: true,
  });
  credit(out.effects, 1, data.length, engine.nowMs(), be16(key, K_TCP_FLAGS));
  for (const program of splitProgram(out.program)) {
    engine.inject({ inPort: dpPort, frame: data, key, actions: program });
  }
  datapath.releaseIds(out.effects);
}
