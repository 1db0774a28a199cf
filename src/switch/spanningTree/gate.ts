// What a spanning tree protocol means for packets: which ports may forward, learn, and pass BPDUs. Translation asks.

import { ETH_TYPE_NONE, K_ETH_DST, K_ETH_TYPE } from '../../../contract/key.ts';
import { be16, be32 } from '../flow.ts';
import type { BridgePort } from '../types.ts';

/** State of a port that takes part. Immutable. */
export interface TreeGate {
  readonly protocol: 'STP' | 'RSTP';
  readonly state: string;
  readonly forwards: boolean;
  readonly learns: boolean;
  readonly forwardsBpdus: boolean;
  /** OFPPS10_STP_*: bits of the port's state in OpenFlow 1.0. */
  readonly portState: number;
}

/** The protocol that runs on a bridge. */
export interface BridgeTree {
  /** A BPDU has come in; `packet`: the frame. */
  receive(port: BridgePort, packet: Uint8Array): void;
}

const LISTEN = 0 << 8;
const LEARN = 1 << 8;
const FORWARD = 2 << 8;
const BLOCK = 3 << 8;

const stp = (
  state: string,
  forwards: boolean,
  learns: boolean,
  forwardsBpdus: boolean,
  portState: number,
): TreeGate => ({ protocol: 'STP', state, forwards, learns, forwardsBpdus, portState });

/** Disabled means that the port takes no part; as in Open vSwitch it forwards. */
const GATES: readonly TreeGate[] = [
  stp('disabled', true, false, true, 0),
  stp('blocking', false, false, false, BLOCK),
  stp('listening', false, false, true, LISTEN),
  stp('learning', false, true, true, LEARN),
  stp('forwarding', true, true, true, FORWARD),
  { ...stp('Discarding', false, false, true, LISTEN), protocol: 'RSTP' },
  { ...stp('Learning', false, true, true, LEARN), protocol: 'RSTP' },
  { ...stp('Forwarding', true, true, true, FORWARD), protocol: 'RSTP' },
];
const BY_STATE: ReadonlyMap<string, TreeGate> = new Map(GATES.map((gate) => [gate.state, gate]));

/** What a port in this state may do. */
export function treeGate(state: string): TreeGate | undefined {
  return BY_STATE.get(state);
}

/** To the bridge group address, and no Ethernet II frame. */
export function isBpdu(record: Uint8Array): boolean {
  return (
    be32(record, K_ETH_DST) === 0x0180c200 &&
    be16(record, K_ETH_DST + 4) === 0 &&
    be16(record, K_ETH_TYPE) === ETH_TYPE_NONE
  );
}
