// NetFlow's part of translation: megaflows of IPv4 match whatever tells flows apart, and credit their packets to one flow.

import {
  K_ETH_TYPE,
  K_NW_DST,
  K_NW_PROTO,
  K_NW_SRC,
  K_NW_TOS,
  K_TP_SRC,
} from '../../../contract/key.ts';
import { be16, ETH_TYPE_IP, exact } from '../flow.ts';
import { netflowKey } from '../netflow.ts';
import type { Xlate } from './context.ts';

const DSCP = 0xfc;

export function coverNetflow(wildcards: Uint8Array, flow: Uint8Array): void {
  if (be16(flow, K_ETH_TYPE) !== ETH_TYPE_IP) return;
  exact(wildcards, K_NW_SRC, 4);
  exact(wildcards, K_NW_DST, 4);
  exact(wildcards, K_TP_SRC, 4);
  wildcards[K_NW_PROTO] = 0xff;
  wildcards[K_NW_TOS]! |= DSCP;
}

/** As in Open vSwitch, the record is of the packet as the actions have left it. */
export function noteNetflow(x: Xlate): void {
  const { netflow } = x.in.bridge;
  if (netflow === undefined || be16(x.flow, K_ETH_TYPE) !== ETH_TYPE_IP) return;
  x.effects.netflow = { exporter: netflow, key: netflowKey(x.flow), output: x.netflowOutput };
}
