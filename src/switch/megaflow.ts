// What the control plane remembers of each megaflow in the data plane (Open vSwitch calls it a udpif key): key, mask,
// program, and the side effects that its packets have on OpenFlow statistics and MAC tables.

import { K_TP_SRC, KEY_SIZE } from '../../contract/key.ts';
import type { FlowId, FlowStats } from '../engine/types.ts';
import type { PatchPort } from '../port/patch.ts';
import { OfError } from '../wire/openflow/types.ts';
import type { KeyPair } from './keyPool.ts';
import type { MacTable } from './macLearning.ts';
import type { NetflowEffect } from './netflow.ts';
import type { Effects } from './translate/types.ts';
import type { BridgePort } from './types.ts';

/** Word of the transport ports, before those of the addresses. */
const FIRST_WORD = K_TP_SRC >> 2;

/** Nobody has translated it: the revalidator has to. */
export const UNVALIDATED = -1;

export interface Megaflow {
  readonly id: FlowId;
  /** Key of the first packet, unmasked: translating it again tells what has changed. KEY_SIZE bytes. */
  readonly key: Uint8Array;
  readonly mask: Uint8Array;
  /** The memory of both, given back when the megaflow is gone for good. */
  readonly pair: KeyPair;
  readonly createdMs: number;
  program: Uint32Array;
  effects: Effects;
  slow: boolean;
  /** Statistics already credited to rules. */
  packets: number;
  bytes: number;
  usedMs: number;
  /** Change number of the state that the program was made from, or UNVALIDATED. */
  validated: number;
  deleted: boolean;
}

/** Would a packet with this key (host words) meet the megaflow? */
export function meets({ pair }: Megaflow, keyWords: Int32Array): boolean {
  const own = pair.keyWords;
  const mask = pair.maskWords;
  // Ports and addresses tell most flows apart.
  for (let i = FIRST_WORD; i < KEY_SIZE / 4; i++) {
    if (((own[i]! ^ keyWords[i]!) & mask[i]!) !== 0) return false;
  }
  for (let i = 0; i < FIRST_WORD; i++) {
    if (((own[i]! ^ keyWords[i]!) & mask[i]!) !== 0) return false;
  }
  return true;
}

/**
 * All megaflows, by their number in the data plane's table, and by the MAC table answers that they depend on. There is no look-up
 * by key: the data plane's table has just done that when it gives the number of a megaflow that is there already.
 */
export class MegaflowTable {
  readonly #byId: (Megaflow | undefined)[] = [];
  #size = 0;
  readonly #byMac = new Map<MacTable, Map<string, Set<Megaflow>>>();

  get size(): number {
    return this.#size;
  }

  /** In the order of their numbers. Those that are added meanwhile may come or not. */
  *[Symbol.iterator](): Generator<Megaflow, void> {
    for (let id = 0; id < this.#byId.length; id++) {
      const flow = this.#byId[id];
      if (flow !== undefined) yield flow;
    }
  }

  has(id: FlowId): boolean {
    return this.#byId[id] !== undefined;
  }

  add(flow: Megaflow): void {
    this.#byId[flow.id] = flow;
    this.#size++;
    this.#depend(flow);
  }

  remove(flow: Megaflow): void {
    if (this.#byId[flow.id] !== flow) return;
    this.#byId[flow.id] = undefined;
    this.#size--;
    this.#forget(flow);
  }

  setEffects(flow: Megaflow, effects: Effects): void {
    this.#forget(flow);
    const told = flow.effects.netflow;
    flow.effects = effects;
    if (told !== undefined && !isSameNetflow(told, effects.netflow)) told.exporter.clear(told);
    this.#depend(flow);
  }

  /** Megaflows whose program used the answer of a MAC table; all that used any answer without `key`. */
  *dependingOn(macs: MacTable, key: string | undefined): Generator<Megaflow> {
    const byKey = this.#byMac.get(macs);
    if (byKey === undefined) return;
    if (key !== undefined) yield* byKey.get(key) ?? [];
    else for (const flows of byKey.values()) yield* flows;
  }

  #depend(flow: Megaflow): void {
    for (const { macs, key } of flow.effects.macQuestions) {
      let byKey = this.#byMac.get(macs);
      if (byKey === undefined) {
        byKey = new Map();
        this.#byMac.set(macs, byKey);
      }
      const flows = byKey.get(key);
      if (flows === undefined) byKey.set(key, new Set([flow]));
      else flows.add(flow);
    }
  }

  #forget(flow: Megaflow): void {
    for (const { macs, key } of flow.effects.macQuestions) {
      const byKey = this.#byMac.get(macs);
      const flows = byKey?.get(key);
      if (byKey === undefined || flows === undefined) continue;
      flows.delete(flow);
      if (flows.size === 0) byKey.delete(key);
      if (byKey.size === 0) this.#byMac.delete(macs);
    }
  }
}

/** Patch ports have no queues: what crosses them is counted here. */
function patchCounters(port: BridgePort): PatchPort['counters'] | undefined {
  return (port.netdev as Partial<PatchPort>).counters;
}

function isSameNetflow(a: NetflowEffect, b: NetflowEffect | undefined): boolean {
  return b?.exporter === a.exporter && b.key.id === a.key.id && b.output === a.output;
}

const TCP_FIN_RST = 0x5;

/** Credits packets to everything that they have touched. `tcpFlags`: all flags that were seen, in host order. */
export function credit(
  effects: Effects,
  packets: number,
  bytes: number,
  usedMs: number,
  tcpFlags: number,
): void {
  for (const rule of effects.rules) {
    rule.packets += packets;
    rule.bytes += bytes;
    if (usedMs > rule.usedMs) rule.usedMs = usedMs;
  }
  for (const { from, to, bytes: header } of effects.outers) {
    for (let i = from; i < to; i++) effects.rules[i]!.bytes += packets * header;
  }
  for (const { table, matched } of effects.tables) {
    table.lookups += packets;
    if (matched) table.matched += packets;
  }
  for (const { bridge, bundle, mac, vlan, gratuitousArp } of effects.macs) {
    // A bundle without ports has been removed: it must not be learned again.
    if (bundle.ports.length > 0) bridge.macs.update(mac, 0, vlan, bundle, gratuitousArp, usedMs);
  }
  const { netflow } = effects;
  if (netflow !== undefined) netflow.exporter.account(netflow, packets, bytes, usedMs, tcpFlags);
  for (const protocols of effects.protocols) protocols.accountRx();
  for (const entry of effects.bonds) entry.txBytes += bytes;
  for (const { flows, mod, limit } of effects.learns) {
    try {
      flows.learn(mod, limit);
    } catch (error) {
      if (!(error instanceof OfError)) throw error; // a full table: the next packets try again
    }
  }
  if ((tcpFlags & TCP_FIN_RST) !== 0) {
    for (const { flows, rule, idleTimeout, hardTimeout } of effects.fins) {
      flows.reduceTimeouts(rule, idleTimeout, hardTimeout);
    }
  }
  for (const { group, bucket } of effects.groups) {
    group.packets += packets;
    group.bytes += bytes;
    for (const one of bucket === undefined ? group.buckets : [bucket]) {
      one.packets += packets;
      one.bytes += bytes;
    }
  }
  for (const mirror of effects.mirrors) {
    mirror.packets += packets;
    mirror.bytes += bytes;
  }
  for (const { netdev, received } of effects.tunnels) {
    const { counters } = netdev;
    if (received) {
      counters.rxPackets += packets;
      counters.rxBytes += bytes;
    } else {
      counters.txPackets += packets;
      counters.txBytes += bytes;
    }
  }
  for (const { underlay, route } of effects.solicits) underlay.solicit(route.device, route);
  for (const { tx, rx } of effects.patches) {
    const from = patchCounters(tx);
    const to = patchCounters(rx);
    if (from === undefined || to === undefined) continue;
    from.txPackets += packets;
    from.txBytes += bytes;
    to.rxPackets += packets;
    to.rxBytes += bytes;
  }
}

/** Credits what the data plane has counted since the last time. */
export function creditStats(flow: Megaflow, stats: FlowStats): void {
  const packets = stats.packets - flow.packets;
  if (packets <= 0) return;
  const bytes = stats.bytes - flow.bytes;
  flow.packets = stats.packets;
  flow.bytes = stats.bytes;
  flow.usedMs = Math.max(flow.usedMs, stats.usedMs);
  credit(flow.effects, packets, bytes, stats.usedMs, stats.tcpFlags);
}
