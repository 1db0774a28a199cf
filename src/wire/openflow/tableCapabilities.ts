// What a table of this switch can match, do and set, in the words of each version: bit maps in the table statistics of
// OpenFlow 1.1 and 1.2, properties in the table features of 1.3 and later (OpenFlow 1.3.5 §7.3.5.5). All tables can do
// the same, hit or miss.

import type { Writer } from './buffer.ts';
import type { Field } from './fields.ts';
import { FIELDS, oxmIdFor } from './fields.ts';
import type { TableFeatures } from './messages.ts';
import { writeOxmHeader } from './oxm.ts';
import { putProp } from './prop.ts';

// Property types; a miss entry's is one more.
const INSTRUCTIONS = 0;
const NEXT_TABLES = 2;
const WRITE_ACTIONS = 4;
const APPLY_ACTIONS = 6;
const MATCH = 8;
const WILDCARDS = 10;
const WRITE_SETFIELD = 12;
const APPLY_SETFIELD = 14;

/** Bit n = OFPIT n. */
const INSTRUCTION_BITS = 0x3c;
const GOTO_BIT = 0x02;
const METER_BIT = 0x40;
/** Last table of the 254 that controllers see. */
const LAST_TABLE = 253;

/** Bit n = OFPAT n: set actions of OpenFlow 1.1, then what 1.2 kept. */
const ACTIONS11 = 0x01ffe7ff;
const ACTIONS12 = 0x03ff8001;

/** Fields of ofp11_match: all of OFPFW11_*. */
const FIELDS11 = 0xfbff;

/** tun_metadata is offered only by name of a mapping; some fields have no TLV in the version. */
function hasOxm(f: Field, version: number): boolean {
  return oxmIdFor(f, version) !== undefined;
}

/** Fields of connection tracking marks can be set only inside of ct. */
function settable(f: Field): boolean {
  return f.writable;
}

/** From the last table there is nowhere to go. */
function instructions(version: number, isLast: boolean): number {
  const meter = version === 4 || version === 5 ? METER_BIT : 0;
  return INSTRUCTION_BITS | meter | (isLast ? 0 : GOTO_BIT);
}

export function putTableStats11(w: Writer, table: number): void {
  w.u32(FIELDS11)
    .u32(FIELDS11)
    .u32(instructions(2, table >= LAST_TABLE));
  w.u32(ACTIONS11).u32(ACTIONS11).u32(0);
}

/** Bit n = OFPXMT n of the basic class. */
function basicBitmap(include: (f: Field) => boolean): bigint {
  let bits = 0n;
  for (const f of FIELDS) {
    const id = f.oxm.find((i) => i.oxmClass === 0x8000 && i.since <= 3);
    if (id !== undefined && include(f)) bits |= 1n << BigInt(id.number);
  }
  return bits;
}

export function putTableStats12(w: Writer, table: number): void {
  const match = basicBitmap(() => true);
  const wildcard = basicBitmap(() => true);
  const set = basicBitmap(settable);
  w.u64(match).u64(wildcard).u32(ACTIONS12).u32(ACTIONS12).u64(set).u64(set);
  w.u64(0xffffffffffffffffn).u64(0xffffffffffffffffn);
  w.u32(instructions(3, table >= LAST_TABLE)).u32(0);
}

function putFields(
  w: Writer,
  type: number,
  version: number,
  include: (f: Field) => boolean,
  masks: boolean,
): void {
  putProp(w, type, () => {
    for (const f of FIELDS)
      if (hasOxm(f, version) && include(f)) writeOxmHeader(w, f, version, masks && f.maskable);
  });
}

export function putTableProperties(w: Writer, f: TableFeatures, version: number): void {
  const bits = instructions(version, f.table + 1 >= f.nTables);
  for (const miss of [0, 1]) {
    putProp(w, INSTRUCTIONS + miss, () => putBits(w, bits));
    putProp(w, NEXT_TABLES + miss, () => {
      for (let t = f.table + 1; t < f.nTables; t++) w.u8(t);
    });
    for (const [actions, set] of [
      [WRITE_ACTIONS, WRITE_SETFIELD],
      [APPLY_ACTIONS, APPLY_SETFIELD],
    ] as const) {
      putProp(w, actions + miss, () => putBits(w, ACTIONS12));
      putFields(w, set + miss, version, settable, false);
    }
  }
  putFields(w, MATCH, version, () => true, true);
  putFields(w, WILDCARDS, version, () => true, false);
}

/** A list of types, each with its length, and nothing behind. */
function putBits(w: Writer, bits: number): void {
  for (let i = 0; i < 32; i++) if ((bits & (1 << i)) !== 0) w.u16(i).u16(4);
}
