// What sFlow tells of the way out: the tunnel into which a program puts its packets, and the label stack that they have then.

import {
  ACT_CLONE,
  ACT_POP_MPLS,
  ACT_PUSH_MPLS,
  ACT_SET_MPLS,
  ACT_TUNNEL_POP,
  ACT_TUNNEL_PUSH,
} from '../../../contract/action.ts';
import { K_ETH_TYPE, K_MPLS_LSE } from '../../../contract/key.ts';
import {
  GRE_CSUM,
  GRE_KEY,
  TP_HEADER,
  TP_TYPE,
  TUNNEL_GENEVE,
  TUNNEL_GRE,
  TUNNEL_VXLAN,
} from '../../../contract/tunnel.ts';
import { be16, be32, ETH_TYPE_IP } from '../flow.ts';
import type { SflowTunnel } from './types.ts';

const LABELS_MAX = 3;
const BOTTOM = 0x100;
const ETH_LEN = 14;
const IP_LEN = 20;

interface Egress {
  readonly tunnel: SflowTunnel | undefined;
  readonly labels: readonly number[];
}

interface State {
  tunnel: SflowTunnel | undefined;
  /** Tunnels put around each other. */
  depth: number;
  /** Something that sFlow cannot say. */
  unknownTunnel: boolean;
  /** The outermost last. */
  labels: number[];
  unknownLabels: boolean;
}

/** `program` may lack its end; `flow`: the packet as it has come in. */
export function egressOf(program: readonly number[], flow: Uint8Array): Egress {
  const state: State = {
    tunnel: undefined,
    depth: 0,
    unknownTunnel: false,
    labels: receivedLabels(flow).reverse(),
    unknownLabels: false,
  };
  read(program, state);
  const { tunnel, labels } = state;
  const known = !state.unknownTunnel && state.depth === 1;
  const last = labels.length - 1;
  return {
    tunnel: known ? tunnel : undefined,
    labels: state.unknownLabels
      ? []
      : labels.reverse().map((entry, i) => ((entry & ~BOTTOM) | (i === last ? BOTTOM : 0)) >>> 0),
  };
}

function receivedLabels(flow: Uint8Array): number[] {
  const labels: number[] = [];
  const type = be16(flow, K_ETH_TYPE);
  if (type !== 0x8847 && type !== 0x8848) return labels;
  while (labels.length < LABELS_MAX) {
    const entry = be32(flow, K_MPLS_LSE + 4 * labels.length);
    labels.push(entry);
    if ((entry & BOTTOM) !== 0) break;
  }
  return labels;
}

function read(program: readonly number[], state: State): void {
  for (let at = 0; at < program.length; at += program[at]! >>> 16) {
    const end = at + (program[at]! >>> 16);
    if (end === at) return;
    switch (program[at]! & 0xffff) {
      case ACT_CLONE:
        read(program.slice(at + 2, end), state);
        break;
      case ACT_TUNNEL_POP:
        state.unknownTunnel = true;
        break;
      case ACT_TUNNEL_PUSH:
        if (++state.depth > 1) state.unknownTunnel = true;
        else state.tunnel = tunnelOf(program.slice(at + 1, end));
        break;
      case ACT_PUSH_MPLS:
        if (state.labels.length >= LABELS_MAX) state.unknownLabels = true;
        else state.labels.push(program[at + 1]!);
        break;
      case ACT_POP_MPLS:
        if (state.labels.pop() === undefined) state.unknownLabels = true;
        break;
      case ACT_SET_MPLS: {
        const entry = state.labels.pop();
        const [value, mask] = [program[at + 1]!, program[at + 2]!];
        if (entry !== undefined) state.labels.push(((entry & ~mask) | (value & mask)) >>> 0);
        break;
      }
    }
  }
}

/** sFlow knows tunnels of IPv4. */
function tunnelOf(operands: readonly number[]): SflowTunnel | undefined {
  const type = operands[TP_TYPE]! & 0xffff;
  const header = new Uint8Array(Uint32Array.from(operands.slice(TP_HEADER)).buffer);
  if (be16(header, 12) !== ETH_TYPE_IP) return undefined;
  const l4 = ETH_LEN + IP_LEN;
  const udp = type === TUNNEL_VXLAN || type === TUNNEL_GENEVE;
  return {
    protocol: header[ETH_LEN + 9]!,
    tos: header[ETH_LEN + 1]!,
    source: be32(header, ETH_LEN + 12),
    destination: be32(header, ETH_LEN + 16),
    sourcePort: udp ? be16(header, l4) : 0,
    destinationPort: udp ? be16(header, l4 + 2) : 0,
    vni: udp ? be32(header, l4 + 12) >>> 8 : type === TUNNEL_GRE ? greKey(header, l4) : 0,
  };
}

function greKey(header: Uint8Array, at: number): number {
  const flags = be16(header, at);
  if ((flags & GRE_KEY) === 0) return 0;
  return be32(header, at + 4 + ((flags & GRE_CSUM) !== 0 ? 4 : 0));
}
