// Protocols that a port speaks itself (BFD, CFM, LACP): packets that the switch consumes instead of forwarding them.
// Translation asks; the megaflow of such packets says "slow path", so that each comes to the main thread.

import { K_ETH_DST } from '../../contract/key.ts';
import { exact } from './flow.ts';
import { isBpdu } from './spanningTree/gate.ts';
import type { Xlate } from './translate/context.ts';
import type { BridgePort } from './types.ts';

/** Cookie of UPCALL_SLOW: bits of the reason, as Open vSwitch numbers them. */
export const SLOW_CFM = 1;
export const SLOW_BFD = 2;
export const SLOW_LACP = 4;
export const SLOW_STP = 8;
export const SLOW_LLDP = 16;
export const SLOW_ACTION = 32;

const REASONS: readonly [name: string, why: string][] = [
  ['cfm', 'Consists of CFM packets'],
  ['bfd', 'Consists of BFD packets'],
  ['lacp', 'Consists of LACP packets'],
  ['stp', 'Consists of STP packets'],
  ['lldp', 'Consists of LLDP packets'],
  ['action', 'Uses action(s) not supported by datapath'],
];

/** "bfd", as slow_path(…) in datapath flows. */
export function slowNames(reasons: number): string {
  return REASONS.filter((_, bit) => (reasons & (1 << bit)) !== 0)
    .map(([name]) => name)
    .join(',');
}

/** Lines of ofproto/trace. */
export function slowText(reasons: number): string {
  const why = REASONS.filter((_, bit) => (reasons & (1 << bit)) !== 0).map(([, text]) => text);
  return `\nThis flow is handled by the userspace slow path because it:${why
    .map((text) => `\n  - ${text}.`)
    .join('')}`;
}

export interface ProtocolPort {
  /** SLOW_* of the protocol that takes the packet, 0: none. Notes in `mask` what it looked at. */
  claims(flow: Uint8Array, mask: Uint8Array): number;
  /** A packet of a protocol that claimed it. */
  receive(reason: number, flow: Uint8Array, packet: Uint8Array): void;
  /** Other packets have come in. */
  accountRx(): void;
}

/** Several protocols on one port; the first that claims a packet gets it. */
export function combineProtocols(parts: readonly ProtocolPort[]): ProtocolPort | undefined {
  if (parts.length <= 1) return parts[0];
  return {
    claims: (flow, mask) => {
      for (const part of parts) {
        const reason = part.claims(flow, mask);
        if (reason !== 0) return reason;
      }
      return 0;
    },
    receive: (reason, flow, packet) => {
      for (const part of parts) part.receive(reason, flow, packet);
    },
    accountRx: () => {
      for (const part of parts) part.accountRx();
    },
  };
}

/** True: the packet has come in for the port itself, and goes no further. */
export function processSpecial(x: Xlate, port: BridgePort | undefined): boolean {
  if (port === undefined) return false;
  const { protocols } = port;
  const reason = protocols?.claims(x.flow, x.wildcards) ?? 0;
  if (reason !== 0) {
    if (x.in.packet !== undefined) protocols!.receive(reason, x.flow, x.in.packet);
    x.slow |= reason;
    return true;
  }
  const { tree } = x.bridge;
  if (tree !== undefined) {
    exact(x.wildcards, K_ETH_DST, 6);
    if (isBpdu(x.flow)) {
      if (x.in.packet !== undefined) tree.receive(port, x.in.packet);
      x.slow |= SLOW_STP;
      return true;
    }
  }
  if (protocols !== undefined) x.effects.protocols.push(protocols);
  return false;
}
