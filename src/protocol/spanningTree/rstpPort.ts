// The variables of the rapid spanning tree protocol: IEEE 802.1D-2004 §17.17 (timers), §17.18 (bridge) and §17.19
// (ports), under the names that they have there; priority vectors (§17.6).

import type { Bpdu } from './bpdu.ts';

/** §17.13, §17.14; seconds. */
export const MIGRATE_TIME_S = 3;
export const HELLO_TIME_S = 2;

export type RstpRole = 'Root' | 'Designated' | 'Alternate' | 'Backup' | 'Disabled';
export type InfoIs = 'Disabled' | 'Aged' | 'Mine' | 'Received';

export interface PriorityVector {
  root: bigint;
  cost: number;
  bridge: bigint;
  /** Of the designated port. */
  port: number;
  /** Of the port of this bridge. */
  bridgePort: number;
}

/** Seconds. */
export interface RstpTimes {
  messageAge: number;
  maxAge: number;
  helloTime: number;
  forwardDelay: number;
}

export interface RstpSettings {
  bridgeId: bigint;
  maxAgeS: number;
  forwardDelayS: number;
  transmitHoldCount: number;
  /** 0: behave as the protocol of 1998; 2: rapid. */
  forceVersion: number;
}

export interface RstpPortSettings {
  name: string;
  /** 1 … 4095. */
  number: number;
  priority: number;
  pathCost: number;
  adminEdge: boolean;
  autoEdge: boolean;
  pointToPoint: boolean;
  /** Administrative Bridge Port state. */
  adminEnabled: boolean;
}

export interface RstpPort<P> {
  readonly key: P;
  settings: RstpPortSettings;
  linkUp: boolean;
  portEnabled: boolean;
  portId: number;

  // Timers, in ticks of one second.
  edgeDelayWhile: number;
  fdWhile: number;
  helloWhen: number;
  mdelayWhile: number;
  rbWhile: number;
  rcvdInfoWhile: number;
  rrWhile: number;
  tcWhile: number;

  agree: boolean;
  agreed: boolean;
  operEdge: boolean;
  disputed: boolean;
  fdbFlush: boolean;
  forward: boolean;
  forwarding: boolean;
  infoIs: InfoIs;
  learn: boolean;
  learning: boolean;
  mcheck: boolean;
  newInfo: boolean;
  proposed: boolean;
  proposing: boolean;
  rcvdBPDU: boolean;
  rcvdMsg: boolean;
  rcvdRSTP: boolean;
  rcvdSTP: boolean;
  rcvdTc: boolean;
  rcvdTcAck: boolean;
  rcvdTcn: boolean;
  reRoot: boolean;
  reselect: boolean;
  role: RstpRole;
  selected: boolean;
  selectedRole: RstpRole;
  sendRSTP: boolean;
  sync: boolean;
  synced: boolean;
  tcAck: boolean;
  tcProp: boolean;
  txCount: number;
  updtInfo: boolean;

  portPriority: PriorityVector;
  portTimes: RstpTimes;
  designatedPriority: PriorityVector;
  designatedTimes: RstpTimes;
  /** The message that rcvdBPDU or rcvdMsg stands for. */
  received: Bpdu | undefined;
  msgPriority: PriorityVector;
  msgTimes: RstpTimes;

  // Where the machines stand.
  migration: 'CHECKING' | 'SELECTING_STP' | 'SENSING';
  information: 'DISABLED' | 'AGED' | 'CURRENT';
  topology: 'INACTIVE' | 'LEARNING' | 'ACTIVE';
  /** Has left DISABLE_PORT or BLOCK_PORT: learning and forwarding have stopped. */
  settled: boolean;

  framesSent: number;
  framesReceived: number;
  errorCount: number;
  /** When it was added or enabled last. */
  sinceMs: number;
}

/** The bridge's own variables. */
export interface RstpBridge<P> {
  settings: RstpSettings;
  bridgeTimes: RstpTimes;
  rootPriority: PriorityVector;
  rootTimes: RstpTimes;
  rootPort: RstpPort<P> | undefined;
  readonly ports: Map<P, RstpPort<P>>;
}

export function bridgeVector(bridge: bigint): PriorityVector {
  return { root: bridge, cost: 0, bridge, port: 0, bridgePort: 0 };
}

/** Negative: `a` is better (§17.6: lower is). */
export function compareVectors(a: PriorityVector, b: PriorityVector): number {
  if (a.root !== b.root) return a.root < b.root ? -1 : 1;
  if (a.cost !== b.cost) return a.cost - b.cost;
  if (a.bridge !== b.bridge) return a.bridge < b.bridge ? -1 : 1;
  if (a.port !== b.port) return a.port - b.port;
  return a.bridgePort - b.bridgePort;
}

/** The same, of what goes over the wire: without the receiving port. */
export function compareMessages(a: PriorityVector, b: PriorityVector): number {
  return compareVectors({ ...a, bridgePort: 0 }, { ...b, bridgePort: 0 });
}

const ADDRESS = (1n << 48n) - 1n;
const PORT_NUMBER = 0x0fff;

export function sameAddress(a: bigint, b: bigint): boolean {
  return (a & ADDRESS) === (b & ADDRESS);
}

/** From the same designated port of the same bridge? Priorities may have changed. */
export function sameSender(a: PriorityVector, b: PriorityVector): boolean {
  return sameAddress(a.bridge, b.bridge) && (a.port & PORT_NUMBER) === (b.port & PORT_NUMBER);
}

export function sameTimes(a: RstpTimes, b: RstpTimes): boolean {
  return (
    a.messageAge === b.messageAge &&
    a.maxAge === b.maxAge &&
    a.helloTime === b.helloTime &&
    a.forwardDelay === b.forwardDelay
  );
}

export function portIdOf({ priority, number }: RstpPortSettings): number {
  return ((priority & 0xf0) << 8) | (number & PORT_NUMBER);
}

/** A port as BEGIN leaves it (initial states of all machines). */
export function newPort<P>(
  key: P,
  settings: RstpPortSettings,
  bridge: RstpBridge<P>,
  nowMs: number,
): RstpPort<P> {
  const vector = bridgeVector(bridge.settings.bridgeId);
  const { bridgeTimes: times } = bridge;
  return {
    key,
    settings,
    linkUp: false,
    portEnabled: false,
    portId: portIdOf(settings),
    edgeDelayWhile: MIGRATE_TIME_S,
    fdWhile: times.maxAge,
    helloWhen: HELLO_TIME_S,
    mdelayWhile: MIGRATE_TIME_S,
    rbWhile: 0,
    rcvdInfoWhile: 0,
    rrWhile: times.forwardDelay,
    tcWhile: 0,
    agree: false,
    agreed: false,
    operEdge: settings.adminEdge,
    disputed: false,
    fdbFlush: true,
    forward: false,
    forwarding: false,
    infoIs: 'Disabled',
    learn: false,
    learning: false,
    mcheck: false,
    newInfo: true,
    proposed: false,
    proposing: false,
    rcvdBPDU: false,
    rcvdMsg: false,
    rcvdRSTP: false,
    rcvdSTP: false,
    rcvdTc: false,
    rcvdTcAck: false,
    rcvdTcn: false,
    reRoot: true,
    reselect: true,
    role: 'Disabled',
    selected: false,
    selectedRole: 'Disabled',
    sendRSTP: bridge.settings.forceVersion >= 2,
    sync: true,
    synced: false,
    tcAck: false,
    tcProp: false,
    txCount: 0,
    updtInfo: false,
    portPriority: vector,
    portTimes: times,
    designatedPriority: vector,
    designatedTimes: times,
    received: undefined,
    msgPriority: vector,
    msgTimes: times,
    migration: 'CHECKING',
    information: 'DISABLED',
    topology: 'INACTIVE',
    settled: false,
    framesSent: 0,
    framesReceived: 0,
    errorCount: 0,
    sinceMs: nowMs,
  };
}
