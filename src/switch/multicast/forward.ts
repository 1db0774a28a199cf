// The part of NORMAL that multicast IP packets take where snooping is enabled (RFC 4541 §2.1): reports go to routers only,
// queries and what is local to a link everywhere, data to whom asked for it and to routers.

import {
  K_ETH_DST,
  K_ETH_TYPE,
  K_IPV6_DST,
  K_NW_DST,
  K_NW_PROTO,
  K_TP_SRC,
} from '../../../contract/key.ts';
import { be16, be32, ETH_TYPE_IP, ETH_TYPE_IPV6, exact, IPPROTO_IGMP, isIcmpv6 } from '../flow.ts';
import { SLOW_ACTION } from '../protocolPort.ts';
import { report, type Xlate } from '../translate/context.ts';
import type { Bundle } from '../types.ts';
import { isIgmpReport, isMld, MLD_QUERY, mapped, readMembership } from './membership.ts';
import type { Group, McastSnooping } from './snooping.ts';

const ALL_NODES = Uint8Array.of(0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1);

/** How NORMAL puts packets out. */
export interface NormalOutput {
  flood: () => void;
  to: (bundle: Bundle) => void;
}

/** Does snooping decide where this packet goes? The wildcards have the Ethernet addresses already. */
export function isSnooped({ flow, bridge }: Xlate): boolean {
  if (bridge.snooping === undefined || (flow[K_ETH_DST]! & 1) === 0) return false;
  if (be32(flow, K_ETH_DST) === 0xffffffff && be16(flow, K_ETH_DST + 4) === 0xffff) return false;
  const type = be16(flow, K_ETH_TYPE);
  return type === ETH_TYPE_IP || type === ETH_TYPE_IPV6;
}

/** Bundles that the packet goes to, each once. */
class Outputs {
  readonly #bundles = new Set<Bundle>();
  readonly #x: Xlate;
  readonly #from: Bundle | undefined;

  constructor(x: Xlate, from: Bundle | undefined) {
    this.#x = x;
    this.#from = from;
  }

  #add(bundle: Bundle, what: string): void {
    if (bundle === this.#from) {
      report(this.#x, 'detail', `${what} is input port, dropping`);
    } else {
      report(this.#x, 'detail', `forwarding to ${what}`);
      this.#bundles.add(bundle);
    }
  }

  members(group: Group): void {
    for (const bundle of group.members.keys()) this.#add(bundle, 'mcast group port');
  }

  routers({ routers }: McastSnooping, vlan: number): void {
    for (const router of routers) {
      if (router.vlan !== vlan) {
        report(this.#x, 'detail', 'mcast router is on another vlan, dropping');
      } else {
        this.#add(router.bundle, 'mcast router port');
      }
    }
  }

  floodPorts({ settings: { floodPorts } }: McastSnooping): void {
    for (const bundle of this.#x.bridge.bundles) {
      if (floodPorts.has(bundle.name)) this.#add(bundle, 'mcast flood port');
    }
  }

  /** Where the operator wants to have reports. */
  reportPorts({ settings: { reportPorts } }: McastSnooping): void {
    for (const bundle of this.#x.bridge.bundles) {
      if (!reportPorts.has(bundle.name)) continue;
      if (bundle === this.#from) {
        report(this.#x, 'detail', 'mcast port is input port, dropping the Report');
      } else {
        report(this.#x, 'detail', 'forwarding report to mcast flagged port');
        this.#bundles.add(bundle);
      }
    }
  }

  send(to: (bundle: Bundle) => void): void {
    for (const bundle of this.#bundles) to(bundle);
  }
}

/** Type of a message about groups; undefined: the packet is none. */
function messageType({ flow, wildcards }: Xlate): { reports: boolean; text: string } | undefined {
  const type = flow[K_TP_SRC + 1]!;
  if (be16(flow, K_ETH_TYPE) === ETH_TYPE_IP) {
    wildcards[K_NW_PROTO] = 0xff;
    if (flow[K_NW_PROTO] !== IPPROTO_IGMP) return undefined;
    return { reports: isIgmpReport(type), text: 'multicast traffic, flooding' };
  }
  if (!isIcmpv6(flow, wildcards)) return undefined;
  exact(wildcards, K_TP_SRC, 2);
  if (be16(flow, K_TP_SRC) > 0xff || !isMld(type)) return undefined;
  return { reports: type !== MLD_QUERY, text: 'MLD query, flooding' };
}

/** Learns from the message if it is at hand. */
function learn(x: Xlate, snooping: McastSnooping, from: Bundle | undefined, vlan: number): void {
  const { learn: mayLearn, packet } = x.in;
  if (!mayLearn || packet === undefined || from === undefined) return;
  const membership = readMembership(packet);
  if (membership === undefined) {
    report(
      x,
      'detail',
      `multicast snooping received a message that is damaged on port ${from.name} in VLAN ${vlan}`,
    );
    return;
  }
  snooping.hear(membership, vlan, from);
}

function isLocal({ flow, wildcards }: Xlate): boolean {
  if (be16(flow, K_ETH_TYPE) === ETH_TYPE_IP) {
    exact(wildcards, K_NW_DST, 4);
    return be32(flow, K_NW_DST) >>> 8 === 0xe00000;
  }
  exact(wildcards, K_IPV6_DST, 16);
  return ALL_NODES.every((byte, i) => flow[K_IPV6_DST + i] === byte);
}

export function translateMulticast(
  x: Xlate,
  from: Bundle | undefined,
  vlan: number,
  output: NormalOutput,
): void {
  const snooping = x.bridge.snooping!;
  const outputs = new Outputs(x, from);
  const message = messageType(x);
  if (message !== undefined) {
    // Each has to be seen, or wishes would expire that are renewed.
    x.slow |= SLOW_ACTION;
    learn(x, snooping, from, vlan);
    if (!message.reports) {
      report(x, 'detail', message.text);
      output.flood();
      return;
    }
    outputs.routers(snooping, vlan);
    outputs.reportPorts(snooping);
    outputs.send(output.to);
    return;
  }
  if (isLocal(x)) {
    report(x, 'detail', 'RFC4541: section 2.1.2, item 2, flooding');
    output.flood();
    return;
  }
  const isIpv4 = be16(x.flow, K_ETH_TYPE) === ETH_TYPE_IP;
  const address = isIpv4 ? mapped(x.flow, K_NW_DST) : x.flow.slice(K_IPV6_DST, K_IPV6_DST + 16);
  const group = snooping.lookup(address, vlan);
  if (group === undefined && snooping.settings.floodUnregistered) {
    report(x, 'detail', 'unregistered multicast, flooding');
    output.flood();
    return;
  }
  if (group !== undefined) outputs.members(group);
  if (group === undefined) outputs.routers(snooping, vlan);
  outputs.floodPorts(snooping);
  if (group !== undefined) outputs.routers(snooping, vlan);
  outputs.send(output.to);
}
