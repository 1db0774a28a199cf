// Which buckets of a bond should move to another member: from the most loaded to the least, as long as that brings the
// two closer together by a tenth of what would be ideal (Open vSwitch: Documentation/topics/bonding.rst). Pure.

import type { BondEntry, BondMember } from './bond.ts';

/** Less difference than about 3 %, or 100 kB in an interval, is not worth moving anything. */
const WORTH_BYTES = 100_000;

interface Load {
  member: BondMember;
  bytes: number;
  /** Numbers of its buckets that carry anything, the heaviest first. */
  hashes: number[];
}

export interface Move {
  hash: number;
  to: BondMember;
  /** For the log. */
  text: string;
}

/** Buckets to move from a member to one that carries `toBytes`. */
function choose(from: Load, toBytes: number, entries: readonly BondEntry[]): number[] {
  // A single bucket would only move the load as a whole.
  if (from.hashes.length <= 1) return [];
  const idealDelta = Math.floor((from.bytes + toBytes) / 2) - toBytes;
  const threshold = Math.floor(idealDelta / 10);
  const chosen: number[] = [];
  let delta = 0;
  for (const hash of from.hashes) {
    const { txBytes } = entries[hash]!;
    if (delta + txBytes <= idealDelta) {
      chosen.push(hash);
      delta += txBytes;
    }
    if (idealDelta - delta < threshold) break;
  }
  if (chosen.length === 0) {
    const lightest = from.hashes.at(-1)!;
    chosen.push(lightest);
    delta = entries[lightest]!.txBytes;
  }
  const newLow = Math.min(from.bytes - delta, toBytes + delta);
  return newLow > toBytes && newLow - toBytes >= threshold ? chosen : [];
}

export function rebalance(entries: readonly BondEntry[], enabled: readonly BondMember[]): Move[] {
  const loads: Load[] = enabled.map((member) => ({ member, bytes: 0, hashes: [] }));
  const sorted = entries
    .map((entry, hash) => ({ ...entry, hash }))
    .filter(({ txBytes }) => txBytes > 0)
    .sort((a, b) => b.txBytes - a.txBytes);
  for (const { member, txBytes, hash } of sorted) {
    const load = loads.find((one) => one.member === member);
    if (load === undefined) continue;
    load.bytes += txBytes;
    load.hashes.push(hash);
  }
  const moves: Move[] = [];
  for (let left = [...loads]; left.length > 1; ) {
    left.sort((a, b) => b.bytes - a.bytes);
    const from = left[0]!;
    const to = left.at(-1)!;
    const overload = from.bytes - to.bytes;
    if (overload < Math.floor(to.bytes / 32) || overload < WORTH_BYTES) break;
    const chosen = choose(from, to.bytes, entries);
    if (chosen.length === 0) {
      left = left.slice(1);
      continue;
    }
    for (const hash of chosen) {
      const { txBytes } = entries[hash]!;
      from.bytes -= txBytes;
      to.bytes += txBytes;
      // It moves once in a run.
      from.hashes = from.hashes.filter((one) => one !== hash);
      const kb = (bytes: number): string => `${Math.floor(bytes / 1024)}kB`;
      const names = `from ${from.member.port.name} to ${to.member.port.name}`;
      const now = `(now carrying ${kb(from.bytes)} and ${kb(to.bytes)} load, respectively)`;
      const text = `shift ${kb(txBytes)} of load (with hash ${hash}) ${names} ${now}`;
      moves.push({ hash, to: to.member, text });
    }
  }
  return moves;
}
