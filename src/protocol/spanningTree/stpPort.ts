// What the spanning tree of IEEE 802.1D-1998 knows of a port (§8.5.5), what management may wish (§8.10.2), and how the
// priority vectors of two messages compare (§8.6.2, §8.6.8): whatever needs no other port. The algorithm is in stp.ts.

import type { TreeMessage } from './bpdu.ts';

export type StpState = 'disabled' | 'blocking' | 'listening' | 'learning' | 'forwarding';
export type StpRole = 'root' | 'designated' | 'alternate' | 'disabled';

export interface StpSettings {
  bridgeId: bigint;
  helloTimeMs: number;
  maxAgeMs: number;
  forwardDelayMs: number;
}

export interface StpPortSettings {
  name: string;
  /** 1 … 255. */
  number: number;
  priority: number;
  pathCost: number;
}

export interface StpTimes {
  maxAgeMs: number;
  helloTimeMs: number;
  forwardDelayMs: number;
}

/** A port with the parameters and timers of §8.5.5 and §8.5.6. */
export class StpPort {
  settings: StpPortSettings;
  state: StpState = 'disabled';
  designatedRoot = 0n;
  designatedCost = 0;
  designatedBridge = 0n;
  designatedPort = 0;
  topologyChangeAck = false;
  configPending = false;
  /** Timers: when they were started; undefined: not running. */
  messageAgeFromMs: number | undefined;
  forwardDelayFromMs: number | undefined;
  holdFromMs: number | undefined;
  txCount = 0;
  rxCount = 0;
  errorCount = 0;

  constructor(settings: StpPortSettings) {
    this.settings = settings;
  }

  get id(): number {
    return ((this.settings.priority & 0xff) << 8) | this.settings.number;
  }
}

export const clamp = (x: number, min: number, max: number): number =>
  Math.min(Math.max(x, min), max);

/** §8.10.2: what the wishes of management become. */
export function bridgeTimes(settings: StpSettings): StpTimes {
  const helloTimeMs = clamp(settings.helloTimeMs, 1000, 10_000);
  const maxAgeMs = clamp(settings.maxAgeMs, Math.max(2 * (helloTimeMs + 1000), 6000), 40_000);
  const forwardDelayMs = clamp(settings.forwardDelayMs, maxAgeMs / 2 + 1000, 30_000);
  return { helloTimeMs, maxAgeMs, forwardDelayMs };
}

/** §8.6.2.2: is what the message says better than what the port holds? */
export function supersedes(message: TreeMessage, port: StpPort, bridgeId: bigint): boolean {
  if (message.rootId !== port.designatedRoot) return message.rootId < port.designatedRoot;
  if (message.rootPathCost !== port.designatedCost) {
    return message.rootPathCost < port.designatedCost;
  }
  if (message.bridgeId !== port.designatedBridge) return message.bridgeId < port.designatedBridge;
  return message.bridgeId !== bridgeId || message.portId <= port.designatedPort;
}

/** §8.6.8: is `a` the better way to the root? */
export function isBetterRoot(a: StpPort, b: StpPort): boolean {
  if (a.designatedRoot !== b.designatedRoot) return a.designatedRoot < b.designatedRoot;
  const costA = a.designatedCost + a.settings.pathCost;
  const costB = b.designatedCost + b.settings.pathCost;
  if (costA !== costB) return costA < costB;
  if (a.designatedBridge !== b.designatedBridge) return a.designatedBridge < b.designatedBridge;
  if (a.designatedPort !== b.designatedPort) return a.designatedPort < b.designatedPort;
  return a.id < b.id;
}
