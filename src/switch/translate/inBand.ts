// In-band control (src/control/openflow/inBand.ts) in translation: a host that gets its own address by DHCP over the bridge
// sees the replies, whatever the flows of a controller say that it cannot reach without the address.

import { ACT_OUTPUT } from '../../../contract/action.ts';
import { K_ETH_TYPE, K_NW_PROTO, K_TP_DST, K_TP_SRC } from '../../../contract/key.ts';
import { OFPP_LOCAL } from '../../wire/openflow/types.ts';
import { be16, ETH_TYPE_IP, IPPROTO_UDP, isLaterFragment, or16 } from '../flow.ts';
import { inPort, portOf, type Xlate } from './context.ts';
import { outputToPort } from './output.ts';

const DHCP_SERVER_PORT = 67;
const DHCP_CLIENT_PORT = 68;

/** The flows have been applied; the local port gets the packet if it is a DHCP reply and has not gone there. */
export function deliverDhcp(x: Xlate): void {
  const { flow, wildcards } = x;
  if (be16(flow, K_ETH_TYPE) !== ETH_TYPE_IP) return;
  wildcards[K_NW_PROTO] = 0xff;
  if (flow[K_NW_PROTO] !== IPPROTO_UDP || isLaterFragment(flow)) return;
  if (!hasPort(x, K_TP_SRC, DHCP_SERVER_PORT) || !hasPort(x, K_TP_DST, DHCP_CLIENT_PORT)) return;
  const local = portOf(x, OFPP_LOCAL);
  if (local === undefined || inPort(x) === OFPP_LOCAL) return;
  for (let at = 0; at < x.program.length; at += x.program[at]! >>> 16) {
    if ((x.program[at]! & 0xffff) === ACT_OUTPUT && x.program[at + 1] === local.dpPort) return;
  }
  outputToPort(x, OFPP_LOCAL);
}

/** Is the port this one? Looks at all bits if it is, else at one that differs: other packets stay in large megaflows. */
function hasPort({ flow, wildcards }: Xlate, field: number, port: number): boolean {
  const difference = be16(flow, field) ^ port;
  or16(wildcards, field, difference === 0 ? 0xffff : 1 << (31 - Math.clz32(difference)));
  return difference === 0;
}
