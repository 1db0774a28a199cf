// Reading and writing fields and subfields of a flow record (FLOW_SIZE bytes, contract/key.ts): what matches, moves,
// loads and set_field actions do with a field of fields.ts. Values are numbers (up to 32 bits), bigints, or bytes as
// in a TLV (big-endian, Field.bytes long).

import { F_TUN_METADATA, K_VLAN0_TCI, K_VLAN0_TPID, VLAN_PRESENT } from '../../../contract/key.ts';
import type { Field } from './fields.ts';
import { fieldByName } from './fields.ts';
import type { TlvMapping } from './messages.ts';
import type { Match, Subfield } from './types.ts';
import { OfError } from './types.ts';

/** Up to 32 bits of a slot: numbers are much cheaper than bigints, and most fields are small. */
function partGet(record: Uint8Array, offset: number, size: number): number {
  let value = 0;
  for (let i = 0; i < size; i++) value = (value << 8) | record[offset + i]!;
  return value >>> 0;
}

function partPut(record: Uint8Array, offset: number, size: number, value: number): void {
  for (let i = size - 1; i >= 0; i--) {
    record[offset + i] = value;
    value >>>= 8;
  }
}

function slotGet(record: Uint8Array, offset: number, size: number): bigint {
  const head = size & 3;
  let value = BigInt(partGet(record, offset, head === 0 && size > 0 ? 4 : head));
  for (let i = head === 0 ? 4 : head; i < size; i += 4) {
    value = (value << 32n) | BigInt(partGet(record, offset + i, 4));
  }
  return value;
}

function slotPut(record: Uint8Array, offset: number, size: number, value: bigint): void {
  let end = size;
  for (; end > 4; end -= 4) {
    partPut(record, offset + end - 4, 4, Number(value & 0xffffffffn));
    value >>= 32n;
  }
  partPut(record, offset, end, Number(value & 0xffffffffn));
}

const ONES: readonly bigint[] = Array.from({ length: 129 }, (_, bits) => (1n << BigInt(bits)) - 1n);
/** `bits` one-bits; fields of more than 128 bits are options of tunnels. */
const ones = (bits: number): bigint => ONES[bits] ?? (1n << BigInt(bits)) - 1n;

/** OpenFlow 1.0 port number (16 bits) as 32-bit number: 0xff00 and above are the reserved ports. */
export function port10To11(port: number): number {
  return port >= 0xff00 ? (port + 0xffff0000) >>> 0 : port;
}

/** Reverse of port10To11. Ports that OpenFlow 1.0 cannot name become OFPP_NONE. */
export function port11To10(port: number): number {
  if (port < 0xff00) return port;
  return port >= 0xffffff00 ? port & 0xffff : 0xffff;
}

/** Value of the field, valueBits wide. */
export function getField(record: Uint8Array, f: Field): bigint {
  const slot = slotGet(record, f.offset, f.size);
  if (f.format === 'port10') return BigInt(port11To10(Number(slot)));
  return (slot >> BigInt(f.shift)) & ones(f.valueBits);
}

/** Value as in a TLV. */
export function getFieldBytes(record: Uint8Array, f: Field): Uint8Array {
  if (f.shift === 0 && f.size === f.bytes && f.valueBits === 8 * f.bytes)
    return record.slice(f.offset, f.offset + f.size);
  return toBytes(getField(record, f), f.bytes);
}

export function toBytes(value: bigint, bytes: number): Uint8Array {
  const out = new Uint8Array(bytes);
  slotPut(out, 0, bytes, value);
  return out;
}

export function fromBytes(bytes: Uint8Array): bigint {
  return slotGet(bytes, 0, bytes.length);
}

/**
 * Writes the field of a flow, as a set_field action does. Setting a VLAN id or priority makes the header present,
 * and gives it the TPID 0x8100 if it had none.
 */
export function setField(record: Uint8Array, f: Field, value: bigint): void {
  const width = ones(f.valueBits);
  if (f.format === 'port10') {
    slotPut(record, f.offset, 4, BigInt(port10To11(Number(value & 0xffffn))));
    return;
  }
  let mask = (f.widen ? ones(8 * f.size) : width << BigInt(f.shift)) | BigInt(f.present);
  // The TOS byte is set without its ECN bits.
  if (f.name === 'nw_tos') mask = 0xfcn;
  const bits = ((value & width) << BigInt(f.shift)) | BigInt(f.present);
  const slot = slotGet(record, f.offset, f.size);
  slotPut(record, f.offset, f.size, (slot & ~mask) | (bits & mask));
  if (f.offset === K_VLAN0_TCI) fixVlanTpid(record);
}

function fixVlanTpid(record: Uint8Array): void {
  const present = record[K_VLAN0_TCI]! & (VLAN_PRESENT >> 8);
  if (present === 0) {
    record[K_VLAN0_TPID] = 0;
    record[K_VLAN0_TPID + 1] = 0;
  } else if (record[K_VLAN0_TPID] === 0 && record[K_VLAN0_TPID + 1] === 0) {
    record[K_VLAN0_TPID] = 0x81;
  }
}

/** Writes only the bits of `mask` (both as in a TLV). */
export function setFieldMasked(
  record: Uint8Array,
  f: Field,
  value: Uint8Array,
  mask: Uint8Array,
): void {
  const m = fromBytes(mask);
  setField(record, f, (getField(record, f) & ~m) | (fromBytes(value) & m));
}

/** Or-s into a mask record every bit that reading the field looks at. */
export function coverField(wildcards: Uint8Array, f: Field): void {
  const mask =
    f.format === 'port10' || f.widen
      ? ones(8 * f.size)
      : (ones(f.valueBits) << BigInt(f.shift)) | BigInt(f.present);
  slotPut(wildcards, f.offset, f.size, slotGet(wildcards, f.offset, f.size) | mask);
}

/** Bits [offset, offset + bits) of a field. */
export function getSubfield(record: Uint8Array, s: Subfield, f = fieldByName(s.field)): bigint {
  return (getField(record, f) >> BigInt(s.offset)) & ones(s.bits);
}

export function setSubfield(
  record: Uint8Array,
  s: Subfield,
  value: bigint,
  f = fieldByName(s.field),
): void {
  const mask = ones(s.bits) << BigInt(s.offset);
  const bits = (value << BigInt(s.offset)) & mask;
  setField(record, f, (getField(record, f) & ~mask) | bits);
}

/** Fields that are a number of at most 32 bits with nothing else to it. */
function isSmall(f: Field): boolean {
  return f.size <= 4 && f.present === 0 && !f.widen && f.format !== 'port10' && f.name !== 'nw_tos';
}

/** Moves a subfield to another of as many bits; between small fields without bigints. */
export function moveBits(
  record: Uint8Array,
  src: Subfield,
  dst: Subfield,
  from: Field,
  to: Field,
): void {
  if (!isSmall(from) || !isSmall(to) || to.offset === K_VLAN0_TCI) {
    setSubfield(record, dst, getSubfield(record, src, from), to);
    return;
  }
  const ones = src.bits >= 32 ? 0xffffffff : 2 ** src.bits - 1;
  const value =
    ((partGet(record, from.offset, from.size) >>> (src.offset + from.shift)) & ones) >>> 0;
  const shift = dst.offset + to.shift;
  const slot = partGet(record, to.offset, to.size);
  partPut(record, to.offset, to.size, (slot & ~(ones << shift)) | (value << shift));
}

/** Or-s into a mask record the bits that reading the subfield looks at. */
export function coverSubfield(wildcards: Uint8Array, s: Subfield, f = fieldByName(s.field)): void {
  if (f.format === 'port10' || f.widen) {
    coverField(wildcards, f);
    return;
  }
  const mask = ones(s.bits) << BigInt(s.offset + f.shift);
  slotPut(wildcards, f.offset, f.size, slotGet(wildcards, f.offset, f.size) | mask);
}

// ---- matches

const SLAB_RECORDS = 64;
let slab = new ArrayBuffer(0);
let slabUsed = 0;

/** A zeroed record. Many share one buffer: buffers of their own would cost more than what is in them. */
function newRecord(bytes: number): Uint8Array {
  if (slabUsed + bytes > slab.byteLength) {
    slab = new ArrayBuffer(SLAB_RECORDS * bytes);
    slabUsed = 0;
  }
  const record = new Uint8Array(slab, slabUsed, bytes);
  slabUsed += (bytes + 7) & ~7;
  return record;
}

/** Match on nothing: every packet. */
export function emptyMatch(flowSize: number): { key: Uint8Array; mask: Uint8Array } {
  return { key: newRecord(flowSize), mask: newRecord(flowSize) };
}

/**
 * Adds `field = value/mask` to a match (both bigints as in a TLV). Matching a VLAN id or priority asks for a VLAN
 * header; an ICMP type covers the 16 bits of its place.
 */
export function matchField(match: Match, f: Field, value: bigint, mask?: bigint): void {
  let m: bigint;
  let v: bigint;
  const full = ones(f.valueBits);
  if (f.format === 'port10') {
    m = 0xffffffffn;
    v = BigInt(port10To11(Number(value & 0xffffn)));
  } else {
    m = (mask ?? full) & full;
    if (f.masksItself && mask !== undefined) m &= value;
    v = (value & m) << BigInt(f.shift);
    m <<= BigInt(f.shift);
    if (f.name === 'nw_tos') m &= 0xfcn;
    if (f.widen && m !== 0n) m = ones(8 * f.size);
    if (m !== 0n) {
      m |= BigInt(f.present);
      v |= BigInt(f.present);
    }
    v &= m;
  }
  const oldMask = slotGet(match.mask, f.offset, f.size);
  const oldKey = slotGet(match.key, f.offset, f.size);
  slotPut(match.mask, f.offset, f.size, oldMask | m);
  slotPut(match.key, f.offset, f.size, (oldKey & ~m) | v);
}

/** Mask of the field in a match, as in a TLV (0n = not matched). */
export function matchMask(match: Match, f: Field): bigint {
  const slot = slotGet(match.mask, f.offset, f.size);
  if (f.format === 'port10') return slot === 0n ? 0n : 0xffffn;
  return (slot >> BigInt(f.shift)) & ones(f.valueBits);
}

export function fieldIsMatched(match: Match, f: Field): boolean {
  for (let i = 0; i < f.size; i++)
    if (match.mask[f.offset + i] !== 0) return matchMask(match, f) !== 0n;
  return false;
}

// ---- tunnel metadata

/** Bytes of tunnel metadata, TLV table: options in the order of their index, each rounded up to 4 bytes. */
export function tunMetadataOffset(tlvs: readonly TlvMapping[], index: number): number {
  let offset = 0;
  for (const t of tlvs) {
    if (t.index === index && t.offset !== undefined) return F_TUN_METADATA + t.offset;
    if (t.index < index) offset += (t.optionLen + 3) & ~3;
  }
  return F_TUN_METADATA + offset;
}

/**
 * The field itself; tun_metadataN with the place and length of its option. Without a mapping
 * (NXT_TLV_TABLE_MOD) Open vSwitch answers NXFMFC_INVALID_TLV_FIELD.
 */
export function resolveField(f: Field, tlvs: readonly TlvMapping[] = []): Field {
  if (f.tlvIndex === undefined) return f;
  const t = tlvs.find((m) => m.index === f.tlvIndex);
  if (t === undefined) throw new OfError('NXFMFC_INVALID_TLV_FIELD', `${f.name} is not mapped`);
  const bits = 8 * t.optionLen;
  return {
    ...f,
    offset: tunMetadataOffset(tlvs, t.index),
    size: t.optionLen,
    bytes: t.optionLen,
    bits,
    valueBits: bits,
  };
}
