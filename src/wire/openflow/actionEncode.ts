// Actions to the wire: standard ones of each version where the version has one, Nicira's otherwise (nxActionEncode.ts).
// What a version cannot say at all (push_vlan in OpenFlow 1.0, meter before 1.3) is left out, as Open vSwitch does.

import type { Writer } from './buffer.ts';
import { fromBytes, port11To10, resolveField, toBytes } from './fieldAccess.ts';
import type { Field } from './fields.ts';
import { fieldByName } from './fields.ts';
import { encodeNxAction, putNx, regLoad } from './nxActionEncode.ts';
import type { CodecContext } from './oxm.ts';
import { hasNxmHeader, writeOxmEntry, writeOxmHeader } from './oxm.ts';
import type { Action, Subfield } from './types.ts';

/** Field of an action; tun_metadataN as the TLV table has it. */
export function actionField(name: string, ctx: CodecContext): Field {
  return resolveField(fieldByName(name), ctx.tlvs);
}

export function encodeActions(w: Writer, actions: readonly Action[], ctx: CodecContext): void {
  for (const a of actions) encodeAction(w, a, ctx);
}

/** A standard action: header, payload, padding. */
export function putAction(w: Writer, type: number, fill: (w: Writer) => void): void {
  const start = w.length;
  w.u16(type).u16(0);
  fill(w);
  // The shortest action has 8 bytes.
  w.zeros(Math.max(0, 8 - (w.length - start)));
  w.pad8(start).patchLength(start + 2, start);
}

function encodeAction(w: Writer, a: Action, ctx: CodecContext): void {
  const v = ctx.version;
  switch (a.type) {
    case 'output':
      putOutput(w, a.port, a.maxLen, v);
      return;
    case 'enqueue':
      if (v === 1) {
        putAction(w, 11, () => w.u16(port11To10(a.port)).zeros(6).u32(a.queue));
        return;
      }
      putAction(w, 21, () => w.u32(a.queue));
      putOutput(w, a.port, 0xffff, v);
      putNx(w, 5, () => undefined);
      return;
    case 'set_vlan_vid':
      if (v > 1 && a.pushIfNeeded && !a.flowHasVlan) putAction(w, 17, () => w.u16(0x8100));
      if (v < 3) putAction(w, 1, () => w.u16(a.vid));
      else setFieldExact(w, 'vlan_vid', BigInt(a.vid | 0x1000), v);
      return;
    case 'set_vlan_pcp':
      if (v > 1 && a.pushIfNeeded && !a.flowHasVlan) putAction(w, 17, () => w.u16(0x8100));
      if (v < 3) putAction(w, 2, () => w.u8(a.pcp));
      else setFieldExact(w, 'vlan_pcp', BigInt(a.pcp), v);
      return;
    case 'strip_vlan':
      putAction(w, v === 1 ? 3 : 18, () => undefined);
      return;
    case 'push_vlan':
      if (v > 1) putAction(w, 17, () => w.u16(a.ethertype));
      return;
    case 'set_field':
      encodeSetField(w, a, ctx);
      return;
    case 'load':
      encodeLoad(w, a, ctx);
      return;
    case 'move':
      encodeMove(w, a, ctx);
      return;
    case 'set_queue':
      if (v === 1) putNx(w, 4, () => w.zeros(2).u32(a.queue));
      else putAction(w, 21, () => w.u32(a.queue));
      return;
    case 'group':
      if (v === 1) putNx(w, 40, () => w.zeros(2).u32(a.group));
      else putAction(w, 22, () => w.u32(a.group));
      return;
    case 'dec_ttl':
      encodeDecTtl(w, a, v);
      return;
    case 'dec_mpls_ttl':
      if (v === 1) putNx(w, 26, () => undefined);
      else putAction(w, 16, () => undefined);
      return;
    case 'push_mpls':
      if (v === 1) putNx(w, 23, () => w.u16(a.ethertype));
      else putAction(w, 19, () => w.u16(a.ethertype));
      return;
    case 'pop_mpls':
      if (v === 1) putNx(w, 24, () => w.u16(a.ethertype));
      else putAction(w, 20, () => w.u16(a.ethertype));
      return;
    case 'meter':
      if (v >= 6) putAction(w, 29, () => w.u32(a.meterId));
      return;
    case 'write_metadata':
      putNx(w, 22, () => w.zeros(6).u64(a.metadata).u64(a.mask));
      return;
    case 'goto_table':
      // OpenFlow 1.0 has no instructions.
      putNx(w, 14, () => w.u16(0xfff8).u8(a.table).zeros(3));
      return;
    case 'clear_actions':
    case 'write_actions':
      return;
    default:
      encodeNxAction(w, a, ctx);
  }
}

function putOutput(w: Writer, port: number, maxLen: number, version: number): void {
  if (version === 1) putAction(w, 0, () => w.u16(port11To10(port)).u16(maxLen));
  else putAction(w, 0, () => w.u32(port).u16(maxLen).zeros(6));
}

function encodeDecTtl(w: Writer, a: Action & { type: 'dec_ttl' }, version: number): void {
  const plain = !a.explicitIds && a.controllerIds.length === 1 && a.controllerIds[0] === 0;
  if (!plain) {
    putNx(w, 21, () => {
      w.u16(a.controllerIds.length).zeros(4);
      for (const id of a.controllerIds) w.u16(id);
    });
  } else if (version === 1) putNx(w, 18, () => undefined);
  else putAction(w, 24, () => undefined);
}

function encodeMove(w: Writer, a: Action & { type: 'move' }, ctx: CodecContext): void {
  const src = actionField(a.src.field, ctx);
  const dst = actionField(a.dst.field, ctx);
  if (ctx.version >= 6) {
    putAction(w, 28, () => {
      w.u16(a.dst.bits).u16(a.src.offset).u16(a.dst.offset).zeros(2);
      writeOxmHeader(w, src, ctx.version, false);
      writeOxmHeader(w, dst, ctx.version, false);
    });
    return;
  }
  putNx(w, 6, () => {
    w.u16(a.dst.bits).u16(a.src.offset).u16(a.dst.offset);
    writeOxmHeader(w, src, 0, false);
    writeOxmHeader(w, dst, 0, false);
  });
}

/** `bits` low bits of value at the subfield's place, and the mask that covers it: both as in a TLV. */
function place(dst: Subfield, value: bigint, f: Field): [Uint8Array, Uint8Array] {
  const mask = (1n << BigInt(dst.bits)) - 1n;
  const offset = BigInt(dst.offset);
  const whole = dst.offset === 0 && dst.bits === f.bits && f.bits === 8 * f.bytes;
  return [
    toBytes((value & mask) << offset, f.bytes),
    whole ? new Uint8Array(f.bytes).fill(0xff) : toBytes(mask << offset, f.bytes),
  ];
}

function encodeLoad(w: Writer, a: Action & { type: 'load' }, ctx: CodecContext): void {
  const f = actionField(a.dst.field, ctx);
  if (ctx.version < 6 && hasNxmHeader(f) && f.tlvIndex === undefined) {
    if (a.dst.bits <= 64) {
      regLoad(w, f, a.dst, a.value);
      return;
    }
    // What learn made of a wide field.
    const [wide, wideMask] = place(a.dst, a.value, f);
    loadSegments(w, f, fromBytes(wide), fromBytes(wideMask));
    return;
  }
  const [value, mask] = place(a.dst, a.value, f);
  if (ctx.version >= 6) putAction(w, 25, () => writeOxmEntry(w, f, ctx.version, value, mask));
  else putNx(w, 33, () => writeOxmEntry(w, f, 0, value, mask));
}

function setFieldExact(w: Writer, name: string, value: bigint, version: number): void {
  const f = fieldByName(name);
  putAction(w, 25, () => writeOxmEntry(w, f, version, toBytes(value, f.bytes)));
}

function encodeSetField(w: Writer, a: Action & { type: 'set_field' }, ctx: CodecContext): void {
  const v = ctx.version;
  const f = actionField(a.field, ctx);
  const exact = a.mask.every((b) => b === 0xff);
  if (a.legacy !== undefined && exact && putLegacy(w, a.legacy, f, a.value, v)) return;
  if (v >= 6 || (v >= 3 && exact && !a.load2)) {
    putAction(w, 25, () => writeOxmEntry(w, f, v, a.value, a.mask));
    return;
  }
  if (v < 3 && exact && !a.load2 && putOld(w, a, f, v)) return;
  if (a.load2 || !hasNxmHeader(f) || f.tlvIndex !== undefined) {
    putNx(w, 33, () => writeOxmEntry(w, f, 0, a.value, a.mask));
    return;
  }
  loadSegments(w, f, fromBytes(a.value), fromBytes(a.mask));
}

/** One reg_load for each run of ones in the mask, of at most 64 bits. */
function loadSegments(w: Writer, f: Field, value: bigint, mask: bigint): void {
  let offset = 0;
  while (offset < f.bits) {
    if (((mask >> BigInt(offset)) & 1n) === 0n) {
      offset++;
      continue;
    }
    let bits = 1;
    while (bits < 64 && offset + bits < f.bits && ((mask >> BigInt(offset + bits)) & 1n) === 1n)
      bits++;
    const part = (value >> BigInt(offset)) & ((1n << BigInt(bits)) - 1n);
    regLoad(w, f, { field: f.name, offset, bits }, part);
    offset += bits;
  }
}

/** Action numbers of OpenFlow 1.0 and 1.1, width of the argument. */
const LEGACY: Readonly<Record<string, [of10: number, of11: number, bytes: number]>> = {
  mod_dl_src: [4, 3, 6],
  mod_dl_dst: [5, 4, 6],
  mod_nw_src: [6, 5, 4],
  mod_nw_dst: [7, 6, 4],
  mod_nw_tos: [8, 7, 1],
  mod_nw_ecn: [-1, 8, 1],
  mod_tp_src: [9, 9, 2],
  mod_tp_dst: [10, 10, 2],
  set_mpls_label: [-1, 13, 4],
  set_mpls_tc: [-1, 14, 1],
};

/** The old actions in their own clothes; false = say it as a set_field. */
function putLegacy(w: Writer, name: string, f: Field, value: Uint8Array, v: number): boolean {
  const number = fromBytes(value);
  switch (name) {
    case 'mod_nw_ttl':
      if (v > 1) putAction(w, 23, () => w.put(value));
      return v > 1;
    case 'set_mpls_ttl':
      if (v > 1) putAction(w, 15, () => w.put(value));
      else putNx(w, 25, () => w.put(value));
      return true;
    case 'set_tunnel':
    case 'set_tunnel64':
      if (v >= 3) return false;
      if (name === 'set_tunnel' && number < 1n << 32n)
        putNx(w, 2, () => w.zeros(2).u32(Number(number)));
      else putNx(w, 9, () => w.zeros(6).u64(number));
      return true;
  }
  if (v >= 3) return false;
  if (v === 1 && name === 'set_mpls_label') {
    putNx(w, 30, () => w.zeros(2).put(value));
    return true;
  }
  if (v === 1 && name === 'set_mpls_tc') {
    putNx(w, 31, () => w.put(value));
    return true;
  }
  const entry = LEGACY[name];
  const type = entry?.[v === 1 ? 0 : 1] ?? -1;
  if (entry === undefined || type < 0) return false;
  const bytes = name === 'mod_nw_tos' ? Uint8Array.of(Number(number) << 2) : value;
  if (bytes.length !== entry[2] || f.bytes !== value.length) return false;
  putAction(w, type, () => w.put(bytes).zeros(bytes.length === 6 ? 6 : 0));
  return true;
}

const OLD_NAMES: Readonly<Record<string, string>> = {
  eth_src: 'mod_dl_src',
  eth_dst: 'mod_dl_dst',
  ip_src: 'mod_nw_src',
  ip_dst: 'mod_nw_dst',
  ip_dscp: 'mod_nw_tos',
  tcp_src: 'mod_tp_src',
  udp_src: 'mod_tp_src',
  tcp_dst: 'mod_tp_dst',
  udp_dst: 'mod_tp_dst',
};

/** A set_field for OpenFlow 1.0 and 1.1, where they have an action of their own for the field. */
function putOld(w: Writer, a: Action & { type: 'set_field' }, f: Field, v: number): boolean {
  const legacy = OLD_NAMES[a.field];
  if (legacy !== undefined) return putLegacy(w, legacy, f, a.value, v);
  const value = Number(fromBytes(a.value.subarray(0, 4)));
  switch (a.field) {
    case 'nw_tos':
      putAction(w, v === 1 ? 8 : 7, () => w.u8(value));
      return true;
    case 'nw_ecn':
      if (v > 1) putAction(w, 8, () => w.u8(value));
      return v > 1;
    case 'vlan_vid':
      putAction(w, 1, () => w.u16(value & 0xfff));
      return true;
    case 'vlan_pcp':
      putAction(w, 2, () => w.u8(value));
      return true;
    case 'vlan_tci':
      if ((value & 0x1000) === 0) {
        putAction(w, v === 1 ? 3 : 18, () => undefined);
        return true;
      }
      if (v > 1 && !a.flowHasVlan) putAction(w, 17, () => w.u16(0x8100));
      putAction(w, 1, () => w.u16(value & 0xfff));
      putAction(w, 2, () => w.u8(value >> 13));
      return true;
    default:
      return false;
  }
}
