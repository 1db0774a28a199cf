// What remains of translations. Most megaflows do what others do: same rules, same tables, same program. They then share
// one Effects and one program, instead of two dozen objects each, which had been most of the garbage collector's work
// when thousands of flows come a second.
//
// A translation writes into records lent to it; keep() gives what is to stay: an equal one that was kept before, or a copy.
// Kept effects and programs are never changed. Numbers in them (packet-ins, recirculations) are still held by each
// megaflow, so equal lists may be one.

import type { Effects, TableEffect, XlateBridge } from './types.ts';

/** A power of two. Old results give way to new ones. */
const SLOTS = 64;
/** Stands for all lists in which nothing is. */
const NONE: never[] = [];

export function emptyEffects(bridge?: XlateBridge): Effects {
  return {
    rules: [],
    outers: [],
    tables: [],
    macs: [],
    groups: [],
    learns: [],
    fins: [],
    patches: [],
    tunnels: [],
    solicits: [],
    bridges: new Set(bridge === undefined ? [] : [bridge]),
    macQuestions: [],
    protocols: [],
    bonds: [],
    packetIns: [],
    recircs: [],
    mirrors: [],
    netflow: undefined,
  };
}

/** An empty list with room for a few. More than sixteen, and V8 would throw it away when the last one goes. */
function roomy<T>(): T[] {
  const list: T[] = new Array(8).fill(undefined);
  drain(list);
  return list;
}

/** Setting the length to zero would throw the room away. */
function drain(list: unknown[]): void {
  while (list.length > 0) list.pop();
}

/** Emptying a list that is empty costs as much as any other. */
function clear(effects: Effects, bridge: XlateBridge): void {
  drain(effects.rules);
  if (effects.outers.length > 0) effects.outers.length = 0;
  drain(effects.tables);
  if (effects.macs.length > 0) effects.macs.length = 0;
  if (effects.groups.length > 0) effects.groups.length = 0;
  if (effects.learns.length > 0) effects.learns.length = 0;
  if (effects.fins.length > 0) effects.fins.length = 0;
  if (effects.patches.length > 0) effects.patches.length = 0;
  if (effects.tunnels.length > 0) effects.tunnels.length = 0;
  if (effects.solicits.length > 0) effects.solicits.length = 0;
  if (effects.macQuestions.length > 0) effects.macQuestions.length = 0;
  if (effects.protocols.length > 0) effects.protocols.length = 0;
  if (effects.bonds.length > 0) effects.bonds.length = 0;
  if (effects.packetIns.length > 0) effects.packetIns.length = 0;
  if (effects.recircs.length > 0) effects.recircs.length = 0;
  if (effects.mirrors.length > 0) effects.mirrors.length = 0;
  effects.netflow = undefined;
  const { bridges } = effects;
  if (bridges.size === 1 && bridges.has(bridge)) return;
  bridges.clear();
  bridges.add(bridge);
}

function kept<T>(list: readonly T[]): T[] {
  return list.length === 0 ? NONE : list.slice();
}

function copyOf(effects: Effects): Effects {
  return {
    rules: kept(effects.rules),
    outers: kept(effects.outers),
    tables: kept(effects.tables),
    macs: kept(effects.macs),
    groups: kept(effects.groups),
    learns: kept(effects.learns),
    fins: kept(effects.fins),
    patches: kept(effects.patches),
    tunnels: kept(effects.tunnels),
    solicits: kept(effects.solicits),
    bridges: new Set(effects.bridges),
    macQuestions: kept(effects.macQuestions),
    protocols: kept(effects.protocols),
    bonds: kept(effects.bonds),
    packetIns: kept(effects.packetIns),
    recircs: kept(effects.recircs),
    mirrors: kept(effects.mirrors),
    netflow: effects.netflow,
  };
}

function sameItems<T>(a: readonly T[], b: readonly T[]): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

function sameTables(a: readonly TableEffect[], b: readonly TableEffect[]): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) {
    const one = a[i]!;
    const other = b[i]!;
    if (one.table !== other.table || one.rule !== other.rule) return false;
    if (one.matched !== other.matched || one.pristine !== other.pristine) return false;
  }
  return true;
}

function samePatches(a: Effects['patches'], b: Effects['patches']): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) {
    if (a[i]!.tx !== b[i]!.tx || a[i]!.rx !== b[i]!.rx) return false;
  }
  return true;
}

function sameTunnels(a: Effects['tunnels'], b: Effects['tunnels']): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) {
    if (a[i]!.netdev !== b[i]!.netdev || a[i]!.received !== b[i]!.received) return false;
  }
  return true;
}

/** `lent` is in `b`. */
function sameBridges(
  a: Effects['bridges'],
  b: Effects['bridges'],
  lent: XlateBridge | undefined,
): boolean {
  if (a.size !== b.size) return false;
  if (a.size === 1 && lent !== undefined) return a.has(lent);
  for (const bridge of a) if (!b.has(bridge)) return false;
  return true;
}

/** Effects that name what only some packets have are kept for each megaflow. */
function mayBeShared(effects: Effects): boolean {
  return (
    effects.macs.length === 0 &&
    effects.outers.length === 0 &&
    effects.groups.length === 0 &&
    effects.learns.length === 0 &&
    effects.fins.length === 0 &&
    effects.solicits.length === 0 &&
    effects.macQuestions.length === 0 &&
    effects.netflow === undefined
  );
}

function same(a: Effects, b: Effects, lent: XlateBridge | undefined): boolean {
  return (
    sameItems(a.rules, b.rules) &&
    sameTables(a.tables, b.tables) &&
    sameItems(a.packetIns, b.packetIns) &&
    sameItems(a.recircs, b.recircs) &&
    sameItems(a.protocols, b.protocols) &&
    sameItems(a.bonds, b.bonds) &&
    sameItems(a.mirrors, b.mirrors) &&
    samePatches(a.patches, b.patches) &&
    sameTunnels(a.tunnels, b.tunnels) &&
    sameBridges(a.bridges, b.bridges, lent)
  );
}

function sameWords(program: Uint32Array, words: readonly number[]): boolean {
  if (program.length !== words.length) return false;
  for (let i = 0; i < words.length; i++) if (program[i] !== words[i]! >>> 0) return false;
  return true;
}

/** One for each place that translates many flows, one after the other. */
export class ResultKeeper {
  readonly #lent: Effects = { ...emptyEffects(), rules: roomy(), tables: roomy() };
  #bridge: XlateBridge | undefined;
  readonly #effects = new Array<Effects | undefined>(SLOTS).fill(undefined);
  readonly #programs = new Array<Uint32Array | undefined>(SLOTS).fill(undefined);

  /** Effects for a translation to write into. */
  lend(bridge: XlateBridge): Effects {
    clear(this.#lent, bridge);
    this.#bridge = bridge;
    return this.#lent;
  }

  /** What lend() gave, as it stays. */
  keep(): Effects {
    const effects = this.#lent;
    if (!mayBeShared(effects)) return copyOf(effects);
    const { rules, recircs } = effects;
    const last = rules[rules.length - 1];
    const slot = ((last?.priority ?? 0) + 7 * rules.length + 31 * (recircs[0] ?? 0)) & (SLOTS - 1);
    const known = this.#effects[slot];
    if (known !== undefined && same(known, effects, this.#bridge)) return known;
    const copy = copyOf(effects);
    this.#effects[slot] = copy;
    return copy;
  }

  program(words: readonly number[]): Uint32Array {
    let slot = words.length;
    for (const word of words) slot = (Math.imul(slot, 31) + word) | 0;
    slot = (slot ^ (slot >>> 12)) & (SLOTS - 1);
    const known = this.#programs[slot];
    if (known !== undefined && sameWords(known, words)) return known;
    const program = new Uint32Array(words);
    this.#programs[slot] = program;
    return program;
  }
}
