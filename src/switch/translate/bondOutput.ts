// Output to a bond that balances connections (balance-tcp) where the data plane computes the hash:
//
//   hash(hash_l4(basis)), recirc(id) ── looked up again by 8 bits of the hash ── the member of the hash's bucket
//
// So megaflows need not match addresses and ports for the sake of the bond: a bond has at most 256 of them behind the
// recirculation, however many connections there are. Each counts for its bucket, which is what rebalancing goes by.

import { ACT_HASH, HASH_L4 } from '../../../contract/action.ts';
import { DROP_NO_PORT } from '../../../contract/drop.ts';
import { F_IN_PORT, K_DP_HASH } from '../../../contract/key.ts';
import { OFPP_NONE } from '../../wire/openflow/types.ts';
import { be32, newRecord, putBe32 } from '../flow.ts';
import type { BridgePort, Bundle } from '../types.ts';
import { commit } from './commit.ts';
import { recirculateTo } from './conntrack.ts';
import type { Xlate } from './context.ts';
import { isBetweenProtected, noteOutput, outputToPort } from './output.ts';
import type { FrozenState, XlateBridge } from './types.ts';

/** Does output to this bundle go through a hash of the data plane? Not for a mirror that cuts packets. */
export function needsHash(x: Xlate, bundle: Bundle): boolean {
  return (
    bundle.bond?.usesDataPlaneHash === true &&
    x.mirrorSnaplen === 0 &&
    x.in.recircs !== undefined &&
    x.in.features?.get('recirc') !== false
  );
}

/** How packets of the bond go on with their hash: nothing of the pipeline matters any more. */
export function hashedState(bridge: XlateBridge, bundle: string, mirrors = 0): FrozenState {
  const metadata = newRecord();
  putBe32(metadata, F_IN_PORT, OFPP_NONE);
  const actions = [{ type: 'bond_output', bundle }] as const;
  const nothing = { table: 0, conntracked: false, actionSet: [], stack: [] };
  return { bridge, ...nothing, metadata, actions, mirrors };
}

/** Is this such a state? The flows and the bridge have had their say before. */
export function isHashed({ actions }: FrozenState): boolean {
  return actions[0]?.type === 'bond_output';
}

/** The flow has the VLAN tags of the output. `port`: some enabled member. */
export function hashAndRecirculate(x: Xlate, bundle: Bundle, port: BridgePort): void {
  // Behind the recirculation it is not known where the packet has come in.
  if (isBetweenProtected(x, port)) return;
  commit(x);
  x.program.push(ACT_HASH | (3 << 16), HASH_L4, bundle.bond!.settings.basis);
  if (recirculateTo(x, hashedState(x.bridge, bundle.name, x.mirrors)) !== 0) noteOutput(x, port);
}

/** The packet has come back. */
export function outputHashed(x: Xlate, name: string): void {
  const { bond } = [...x.bridge.bundles].find((one) => one.name === name) ?? {};
  x.wildcards[K_DP_HASH + 3] = 0xff;
  const hash = be32(x.flow, K_DP_HASH);
  const chosen = bond?.chooseByHash(hash) ?? bond?.choose(x.flow, x.wildcards, 0);
  if (chosen === undefined) {
    x.dropReason = DROP_NO_PORT;
    return;
  }
  if (chosen.entry !== undefined) x.effects.bonds.push(chosen.entry);
  outputToPort(x, chosen.port.ofport);
}
