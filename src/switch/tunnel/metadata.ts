// Geneve options and the fields tun_metadata0 … 63: a bridge's table (NXT_TLV_TABLE_MOD) says which option a field is, and where
// in F_TUN_METADATA its value lies. The data plane knows options only as they came, in K_TUN_OPTS.
//
//   received   options ── expandOptions ──> fields            mask of fields ── coverOptions ──> mask of options
//   sent       fields that are present ── composeOptions ──> options
//
// A mask that looks at any field matches the geometry of all options (class, type, length), so that a field lies at the same
// place in every packet of the megaflow, and an option that is missing is missing in all of them.

import {
  F_TUN_METADATA,
  F_TUN_PRESENT,
  K_TUN_OPTS,
  K_TUN_OPTS_LEN,
  TUN_OPTS_MAX,
} from '../../../contract/key.ts';
import type { TlvMapping } from '../../wire/openflow/messages.ts';
import { be16, exact, isZero, putBe16 } from '../flow.ts';

const METADATA_BYTES = 256;

interface Option {
  /** Offset in K_TUN_OPTS. */
  readonly at: number;
  readonly mapping: TlvMapping | undefined;
  /** Bytes of value. */
  readonly bytes: number;
}

/** The options of a flow, in order. */
function* optionsOf(flow: Uint8Array, tlvs: readonly TlvMapping[]): Generator<Option> {
  const end = flow[K_TUN_OPTS_LEN]!;
  for (let at = 0; at + 4 <= end; ) {
    const from = K_TUN_OPTS + at;
    const bytes = 4 * (flow[from + 3]! & 31);
    if (at + 4 + bytes > end) return;
    const optionClass = be16(flow, from);
    const optionType = flow[from + 2]!;
    const mapping = tlvs.find(
      (t) => t.optionClass === optionClass && t.optionType === optionType && t.optionLen === bytes,
    );
    yield { at, mapping, bytes };
    at += 4 + bytes;
  }
}

/** Says that a flow has the field (which may be zero). */
export function setPresent(flow: Uint8Array, index: number): void {
  flow[F_TUN_PRESENT + (index >> 3)]! |= 1 << (index & 7);
}

/** Says that a flow does not have the field. */
export function clearPresent(flow: Uint8Array, index: number): void {
  flow[F_TUN_PRESENT + (index >> 3)]! &= ~(1 << (index & 7));
}

export function isPresent(flow: Uint8Array, index: number): boolean {
  return (flow[F_TUN_PRESENT + (index >> 3)]! & (1 << (index & 7))) !== 0;
}

/** Fills the fields from the options. */
export function expandOptions(flow: Uint8Array, tlvs: readonly TlvMapping[]): void {
  for (const { at, mapping, bytes } of optionsOf(flow, tlvs)) {
    if (mapping?.offset === undefined) continue;
    const from = K_TUN_OPTS + at + 4;
    flow.copyWithin(F_TUN_METADATA + mapping.offset, from, from + bytes);
    setPresent(flow, mapping.index);
  }
}

/** All fields are looked at: their values go on in something that all packets of the megaflow share. */
export function coverFields(wildcards: Uint8Array, tlvs: readonly TlvMapping[]): void {
  for (const { offset, optionLen } of tlvs) {
    if (offset !== undefined) exact(wildcards, F_TUN_METADATA + offset, optionLen);
  }
}

/** Makes the mask of the options from that of the fields. `flow` is the one that came in. */
export function coverOptions(
  wildcards: Uint8Array,
  flow: Uint8Array,
  tlvs: readonly TlvMapping[],
): void {
  if (isZero(wildcards, F_TUN_METADATA, METADATA_BYTES)) return;
  wildcards[K_TUN_OPTS_LEN] = 0xff;
  for (const { at, mapping, bytes } of optionsOf(flow, tlvs)) {
    const to = K_TUN_OPTS + at;
    wildcards.fill(0xff, to, to + 4);
    if (mapping?.offset === undefined) continue;
    const from = F_TUN_METADATA + mapping.offset;
    for (let i = 0; i < bytes; i++) wildcards[to + 4 + i]! |= wildcards[from + i]!;
  }
}

/** The options that a packet with these fields gets; undefined when they are too long for a header. */
export function composeOptions(
  flow: Uint8Array,
  tlvs: readonly TlvMapping[],
): Uint8Array | undefined {
  const out = new Uint8Array(TUN_OPTS_MAX);
  let length = 0;
  for (const { index, optionClass, optionType, optionLen, offset } of tlvs) {
    if (offset === undefined || !isPresent(flow, index)) continue;
    if (length + 4 + optionLen > TUN_OPTS_MAX) return undefined;
    putBe16(out, length, optionClass);
    out[length + 2] = optionType;
    out[length + 3] = optionLen / 4;
    const from = F_TUN_METADATA + offset;
    out.set(flow.subarray(from, from + optionLen), length + 4);
    length += 4 + optionLen;
  }
  return out.subarray(0, length);
}
