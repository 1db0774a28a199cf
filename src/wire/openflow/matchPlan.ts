// How a packed match is written as an OXM or NXM list, found out once for all matches of its mask: a dump of a hundred thousand
// flows asks for the same few lists of fields again and again, with other values.
//
//   template  | head | 00 00 | head | 00 00 00 00 | ff ff ff 00 | …      values are put into the gaps
//
// Which fields are shown depends on the mask, and on the values of a few fields: Ethernet type and IP protocol belong to what a
// plan is kept under; masks with the others (VLAN, packet type, ICMPv6, options of tunnels) have no plan.

import {
  F_TUN_METADATA,
  FLOW_SIZE,
  K_ETH_TYPE,
  K_NW_PROTO,
  K_PACKET_TYPE,
  K_VLAN0_TCI,
} from '../../../contract/key.ts';
import { Writer } from './buffer.ts';
import { getField, toBytes } from './fieldAccess.ts';
import type { Field } from './fields.ts';
import { writeOxmEntry } from './oxm.ts';
import type { MatchShape, PackedMatch } from './packedMatch.ts';
import { get16, IPPROTO_ICMPV6 } from './prereq.ts';
import type { Match } from './types.ts';

/** An entry of the list. */
export interface MatchEntry {
  field: Field;
  value: Uint8Array;
  mask: Uint8Array | undefined;
}

interface Gap {
  readonly field: Field;
  /** Where the value goes, from the start of the list. */
  readonly at: number;
  /** The value is as it is in the record. */
  readonly plain: boolean;
}

interface Plan {
  readonly template: Uint8Array;
  readonly gaps: readonly Gap[];
}

const TUN_METADATA_BYTES = 256;
const keyWords = new Int32Array(FLOW_SIZE / 4);
/** Key of the match that is being written. */
const key = new Uint8Array(keyWords.buffer);
const plans = new WeakMap<MatchShape, Map<number, Plan>>();
/** The plan used last: flows with the same mask come one after the other. */
let recent: { shape: MatchShape; kind: number; plan: Plan } | undefined;

function isPlannable({ mask }: MatchShape): boolean {
  if (get16(mask, K_VLAN0_TCI) !== 0) return false;
  for (let i = 0; i < 4; i++) if (mask[K_PACKET_TYPE + i] !== 0) return false;
  for (let i = 0; i < TUN_METADATA_BYTES; i++) if (mask[F_TUN_METADATA + i] !== 0) return false;
  return true;
}

/** Is the value on the wire what is in the record? */
function isPlain(f: Field): boolean {
  return (
    f.shift === 0 &&
    f.size === f.bytes &&
    f.valueBits === 8 * f.bytes &&
    f.format !== 'port10' &&
    f.name !== 'nw_tos'
  );
}

function makePlan(entries: Iterable<MatchEntry>, version: number): Plan {
  const w = new Writer();
  const gaps: Gap[] = [];
  for (const { field, value, mask } of entries) {
    writeOxmEntry(w, field, version, value, mask);
    const masked = mask?.some((byte) => byte !== 0xff) ?? false;
    const at = w.length - value.length * (masked ? 2 : 1);
    gaps.push({ field, at, plain: isPlain(field) });
  }
  return { template: w.finish(), gaps };
}

/**
 * Writes the list of a match; `entriesOf` says what it is made of. False: nothing is written, this match has to be looked at by
 * itself.
 */
export function putByPlan(
  w: Writer,
  match: PackedMatch,
  version: number,
  entriesOf: (match: Match) => Iterable<MatchEntry>,
): boolean {
  const { shape, values, at } = match;
  const { words } = shape;
  keyWords.fill(0);
  for (let i = 0; i < words.length; i++) keyWords[words[i]!] = values[at + i]!;
  const protocol = key[K_NW_PROTO]!;
  if (protocol === IPPROTO_ICMPV6) return false;
  const kind = (version << 24) | (get16(key, K_ETH_TYPE) << 8) | protocol;
  if (recent === undefined || recent.shape !== shape || recent.kind !== kind) {
    let known = plans.get(shape);
    if (known === undefined) {
      if (!isPlannable(shape)) return false;
      known = new Map();
      plans.set(shape, known);
    }
    let plan = known.get(kind);
    if (plan === undefined) {
      plan = makePlan(entriesOf({ key, mask: shape.mask }), version);
      known.set(kind, plan);
    }
    recent = { shape, kind, plan };
  }
  const { template, gaps } = recent.plan;
  const start = w.length;
  w.put(template);
  for (const { field, at: gap, plain } of gaps) {
    if (plain) w.copyTo(start + gap, key, field.offset, field.bytes);
    else w.copyTo(start + gap, toBytes(wireValue(key, field), field.bytes), 0, field.bytes);
  }
  return true;
}

/** Value of a field as a list has it. */
export function wireValue(record: Uint8Array, f: Field): bigint {
  const value = getField(record, f);
  return f.name === 'nw_tos' ? value & 0xfcn : value;
}
