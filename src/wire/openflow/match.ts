// Matches on the wire: NXM and OXM lists (OpenFlow 1.2 and later, and the Nicira messages) and the choice between
// the three structures. The fixed structures of OpenFlow 1.0 and 1.1 are in legacyMatch.ts.
//
// OpenFlow 1.5.1 §7.2.3, §7.5.5 (error codes OFPBMC_*).

import {
  FLOW_SIZE,
  K_NW_PROTO,
  K_NW_TOS,
  K_TP_DST,
  K_TP_SRC,
  K_VLAN0_TCI,
} from '../../../contract/key.ts';
import { Reader, type Writer } from './buffer.ts';
import {
  emptyMatch,
  fieldIsMatched,
  fromBytes,
  getField,
  matchField,
  matchMask,
  resolveField,
  toBytes,
} from './fieldAccess.ts';
import type { Field, Prereq } from './fields.ts';
import { FIELDS, fieldByName, fieldByOxm, oxmIdFor } from './fields.ts';
import { pullOfp11Match, putOfp11Match } from './legacyMatch.ts';
import { type MatchEntry, putByPlan, wireValue } from './matchPlan.ts';
import type { CodecContext } from './oxm.ts';
import { COOKIE_CLASS, COOKIE_NUMBER, readOxmEntry, writeOxmEntry } from './oxm.ts';
import { PackedMatch } from './packedMatch.ts';
import { dlType, get16, isArp, isIcmp6, isIp, prereqOk } from './prereq.ts';
import type { Match } from './types.ts';
import { OfError } from './types.ts';

export interface PulledMatch {
  match: Match;
  cookie: bigint;
  cookieMask: bigint;
}

export interface PullOptions {
  /** Unknown fields and missing prerequisites are forgiven: for messages that a switch sends. */
  loose?: boolean;
  /** NXM_NX_COOKIE may appear. */
  allowCookie?: boolean;
  /** Packet-outs of OpenFlow 1.5: only metadata, registers, tunnel and input port. */
  pipelineOnly?: boolean;
  /** A match on nothing, to be filled: records that the caller lends. Default: new ones. */
  into?: Match | undefined;
}

const ALL_ONES = (1n << 64n) - 1n;

/** Reads the entries of `r` to its end. */
export function pullOxmList(r: Reader, ctx: CodecContext, options: PullOptions = {}): PulledMatch {
  const match = options.into ?? emptyMatch(FLOW_SIZE);
  let cookie = 0n;
  let cookieMask = 0n;
  while (r.left > 0) {
    if (pullPlainEntry(r, match, options)) continue;
    const e = readOxmEntry(r, ctx);
    if (e.isCookie) {
      if (!options.allowCookie) throw new OfError('OFPBMC_BAD_FIELD');
      if (cookieMask !== 0n) throw new OfError('OFPBMC_DUP_FIELD');
      cookie = fromBytes(e.value);
      cookieMask = e.mask === undefined ? ALL_ONES : fromBytes(e.mask);
      continue;
    }
    const f = e.field;
    if (f === undefined) {
      if (options.loose) continue;
      throw new OfError('OFPBMC_BAD_FIELD');
    }
    pullField(match, f, e.value, e.mask, options);
  }
  return { match, cookie, cookieMask };
}

/** Fields whose bytes in the record are those on the wire, and of which every value can be. */
const PLAIN: ReadonlySet<Field> = new Set(
  FIELDS.filter(
    (f) =>
      f.shift === 0 &&
      f.size === f.bytes &&
      f.valueBits === 8 * f.bytes &&
      !f.widen &&
      f.present === 0 &&
      f.tlvIndex === undefined &&
      !['port10', 'port11', 'packet_type'].includes(f.format) &&
      f.name !== 'nw_tos',
  ),
);
const IN_PORT_OXM = fieldByName('in_port_oxm');

/**
 * The short way for an entry in good order of a plain field, as nearly all of a flow-mod are: byte by byte, nothing
 * allocated. False: nothing is read, and the long way decides what the entry is.
 */
function pullPlainEntry(r: Reader, match: Match, options: PullOptions): boolean {
  const { bytes, offset } = r;
  if (r.left < 5) return false;
  const oxmClass = (bytes[offset]! << 8) | bytes[offset + 1]!;
  if (oxmClass === 0xffff) return false;
  const masked = (bytes[offset + 2]! & 1) !== 0;
  const f = fieldByOxm(oxmClass, bytes[offset + 2]! >> 1, 0);
  if (f === undefined || options.pipelineOnly === true) return false;
  const payload = bytes[offset + 3]!;
  const width = f.bytes;
  if (payload !== (masked ? 2 * width : width) || r.left - 4 < payload) return false;
  const from = offset + 4;
  if (f === IN_PORT_OXM) {
    // Numbers between the ports and the reserved ones are for the long way to refuse.
    if (masked || bytes[from] !== 0 || bytes[from + 1] !== 0 || bytes[from + 2] === 0xff) {
      return false;
    }
  } else if (!PLAIN.has(f) || (masked && !f.maskable)) {
    return false;
  }
  const { key, mask } = match;
  if (options.loose !== true && !prereqOk(f.prereq, key, mask)) return false;
  const at = f.offset;
  for (let i = 0; i < width; i++) {
    if (mask[at + i] !== 0) return false;
    if (masked && (bytes[from + i]! & ~bytes[from + width + i]!) !== 0) return false;
  }
  for (let i = 0; i < width; i++) {
    key[at + i] = bytes[from + i]!;
    mask[at + i] = masked ? bytes[from + width + i]! : 0xff;
  }
  r.offset = from + payload;
  return true;
}

function pullField(
  match: Match,
  f: Field,
  value: Uint8Array,
  mask: Uint8Array | undefined,
  options: PullOptions,
): void {
  if (mask !== undefined && !f.maskable) {
    if (!mask.every((b) => b === 0xff) && !mask.every((b) => b === 0))
      throw new OfError('OFPBMC_BAD_MASK', `field ${f.name} cannot be masked`);
  }
  const v = fromBytes(value);
  if (!isValueValid(f, v)) throw new OfError('OFPBMC_BAD_VALUE', `bad value for ${f.name}`);
  if (!options.loose && !prereqOk(f.prereq, match.key, match.mask))
    throw new OfError('OFPBMC_BAD_PREREQ', `${f.name} lacks its prerequisites`);
  if (fieldIsMatched(match, f)) throw new OfError('OFPBMC_DUP_FIELD', `${f.name} appears twice`);
  if (options.pipelineOnly && !isPipelineField(f)) throw new OfError('OFPBRC_PIPELINE_FIELDS_ONLY');
  // Every packet here is an Ethernet frame: that need not be matched.
  if (f.name === 'packet_type' && v === 0n) return;
  matchField(match, f, v, mask === undefined ? undefined : fromBytes(mask));
}

/** Open vSwitch's idea of a value that can exist. */
export function isValueValid(f: Field, value: bigint): boolean {
  if (f.name === 'nw_tos') return (value & 3n) === 0n;
  // Port numbers between the 16-bit ranges do not exist.
  if (f.format === 'port11') return value < 0xff00n || value >= 0xffffff00n;
  return f.valueBits >= 8 * f.bytes || value >> BigInt(f.valueBits) === 0n;
}

export function isPipelineField(f: Field): boolean {
  return (
    f.name.startsWith('tun_') ||
    f.name === 'metadata' ||
    f.name === 'in_port' ||
    f.name === 'in_port_oxm' ||
    f.name === 'packet_type' ||
    /^x{0,2}reg\d/.test(f.name)
  );
}

// ---- writing

const BEFORE_L3 = ['packet_type', 'dp_hash', 'recirc_id', 'conj_id'];
const REST = [
  'tun_id',
  'tun_flags',
  'tun_src',
  'tun_dst',
  'tun_ipv6_src',
  'tun_ipv6_dst',
  'tun_gbp_id',
  'tun_gbp_flags',
  'tun_erspan_idx',
  'tun_erspan_ver',
  'tun_erspan_dir',
  'tun_erspan_hwid',
  'tun_gtpu_flags',
  'tun_gtpu_msgtype',
];
const NSH = [
  'nsh_flags',
  'nsh_ttl',
  'nsh_mdtype',
  'nsh_np',
  'nsh_spi',
  'nsh_si',
  'nsh_c1',
  'nsh_c2',
  'nsh_c3',
  'nsh_c4',
];
const AFTER_REGS = [
  'pkt_mark',
  'ct_state',
  'ct_zone',
  'ct_mark',
  'ct_label',
  'ct_nw_src',
  'ct_ipv6_src',
  'ct_nw_dst',
  'ct_ipv6_dst',
  'ct_nw_proto',
  'ct_tp_src',
  'ct_tp_dst',
  'metadata',
];

const TUN_METADATA: readonly Field[] = FIELDS.filter((f) => f.tlvIndex !== undefined);

/** The fields of a match in the order in which Open vSwitch sends them (prerequisites first). */
function orderedFields(key: Uint8Array, oxm: boolean, version: number): string[] {
  const type = dlType(key);
  const names = [...BEFORE_L3, oxm ? 'in_port_oxm' : 'in_port', 'actset_output'];
  names.push('eth_src', 'eth_dst', 'eth_type');
  if (oxm) names.push('vlan_vid', 'vlan_pcp');
  else names.push('vlan_tci');
  names.push('mpls_tc', 'mpls_bos', 'mpls_ttl', 'mpls_label');
  if (isIp(type)) {
    names.push('ip_src', 'ip_dst', 'ipv6_src', 'ipv6_dst', 'ip_frag');
    names.push(oxm ? 'ip_dscp' : 'nw_tos', 'nw_ecn', 'nw_ttl', 'ipv6_label', 'nw_proto');
    names.push(...transportFields(key));
  } else if (isArp(type)) {
    names.push('arp_op', 'arp_spa', 'arp_tpa', 'arp_sha', 'arp_tha');
  }
  names.push(...REST, 'tun_metadata', ...NSH);
  const wide = version >= 6;
  for (let i = 0; i < (wide ? 8 : 16); i++) names.push(wide ? `xreg${i}` : `reg${i}`);
  names.push(...AFTER_REGS);
  return names;
}

function transportFields(key: Uint8Array): string[] {
  switch (key[K_NW_PROTO]) {
    case 6:
      return ['tcp_src', 'tcp_dst', 'tcp_flags'];
    case 17:
      return ['udp_src', 'udp_dst'];
    case 132:
      return ['sctp_src', 'sctp_dst'];
    case 1:
      return ['icmp_type', 'icmp_code'];
    case 58: {
      if (!isIcmp6(key)) return [];
      const names = ['icmpv6_type', 'icmpv6_code'];
      const type = get16(key, K_TP_SRC);
      if (get16(key, K_TP_DST) !== 0 || (type !== 135 && type !== 136)) return names;
      names.push('nd_reserved', 'nd_target', 'nd_options_type');
      names.push(type === 135 ? 'nd_sll' : 'nd_tll');
      return names;
    }
    default:
      return [];
  }
}

const SHOWN_ANYWAY = new Set<Prereq>(['tcp', 'udp', 'sctp', 'ct']);

/** Writes the match as a list of entries. Version 0 or 1: NXM, without a header. */
export function putOxmList(w: Writer, match: Match, ctx: CodecContext, version: number): void {
  const entriesOf = (one: Match) => matchEntries(one, ctx.tlvs, version);
  if (match instanceof PackedMatch && putByPlan(w, match, version, entriesOf)) return;
  for (const { field, value, mask } of entriesOf(match)) {
    // Options of tunnels have no standard number.
    const id = field.tlvIndex === undefined ? version : 0;
    writeOxmEntry(w, field, id, value, mask);
  }
}

/** What is shown of a match, in this order. */
function* matchEntries(
  match: Match,
  tlvs: CodecContext['tlvs'],
  version: number,
): Generator<MatchEntry> {
  const { key } = match;
  for (const name of orderedFields(key, version >= 3, version)) {
    if (name === 'tun_metadata') {
      yield* tunMetadataEntries(match, tlvs);
      continue;
    }
    const f = fieldByName(name);
    const mask = matchMask(match, f);
    if (mask === 0n) continue;
    if (f.name === 'vlan_pcp' && (get16(key, K_VLAN0_TCI) & 0x1fff) === 0) continue;
    if ((f.name === 'nw_tos' || f.name === 'ip_dscp') && (match.mask[K_NW_TOS]! & 0xfc) === 0)
      continue;
    if (oxmIdFor(f, version) === undefined) continue;
    // Ports of later fragments are a contradiction, but what was asked for is shown.
    if (!SHOWN_ANYWAY.has(f.prereq) && !prereqOk(f.prereq, key, match.mask)) continue;
    const exact = !f.maskable || mask === (1n << BigInt(f.valueBits)) - 1n;
    yield {
      field: f,
      value: toBytes(wireValue(key, f), f.bytes),
      mask: exact ? undefined : toBytes(mask, f.bytes),
    };
  }
}

function* tunMetadataEntries(match: Match, tlvs: CodecContext['tlvs']): Generator<MatchEntry> {
  const { key } = match;
  for (const t of tlvs ?? []) {
    const field = resolveField(TUN_METADATA[t.index]!, tlvs);
    const mask = matchMask(match, field);
    if (mask === 0n) continue;
    const value = toBytes(getField(key, field), field.bytes);
    yield { field, value, mask: toBytes(mask, field.bytes) };
  }
}

export function putCookie(w: Writer, cookie: bigint, cookieMask: bigint): void {
  if (cookieMask === 0n) return;
  const masked = cookieMask !== ALL_ONES;
  w.u16(COOKIE_CLASS)
    .u8((COOKIE_NUMBER << 1) | (masked ? 1 : 0))
    .u8(masked ? 16 : 8);
  w.u64(cookie & cookieMask);
  if (masked) w.u64(cookieMask);
}

// ---- the match of a message

const OFPMT_STANDARD = 0;
const OFPMT_OXM = 1;

/** ofp_match of OpenFlow 1.1 and later (either type), padded to 8 bytes. */
export function pullMatch(r: Reader, ctx: CodecContext, options: PullOptions = {}): Match {
  if (r.left < 4) throw new OfError('OFPBMC_BAD_LEN');
  const start = r.offset;
  const type = r.u16();
  const length = r.u16();
  if (type === OFPMT_STANDARD) {
    if (options.pipelineOnly) throw new OfError('OFPBMC_BAD_TYPE');
    if (length !== 88 || r.end - start < 88) throw new OfError('OFPBMC_BAD_LEN');
    return pullOfp11Match(r);
  }
  if (type !== OFPMT_OXM) throw new OfError('OFPBMC_BAD_TYPE');
  const padded = (length + 7) & ~7;
  if (length < 4 || padded > r.end - start) throw new OfError('OFPBMC_BAD_LEN');
  const list = new Reader(r.bytes, 'OFPBMC_BAD_LEN', r.offset, start + length);
  r.offset = start + padded;
  return pullOxmList(list, ctx, options).match;
}

export function putMatch(w: Writer, match: Match, ctx: CodecContext): void {
  if (ctx.version === 2) {
    putOfp11Match(w, match);
    return;
  }
  const start = w.length;
  w.u16(OFPMT_OXM).u16(0);
  putOxmList(w, match, ctx, ctx.version);
  w.patchLength(start + 2, start).pad8(start);
}

/** nx_match: a list of `length` bytes, padded to 8. */
export function pullNxMatch(
  r: Reader,
  length: number,
  ctx: CodecContext,
  options: PullOptions = {},
): PulledMatch {
  const padded = (length + 7) & ~7;
  if (padded > r.left) throw new OfError('OFPBMC_BAD_LEN');
  const list = new Reader(r.bytes, 'OFPBMC_BAD_LEN', r.offset, r.offset + length);
  r.skip(padded);
  return pullOxmList(list, ctx, options);
}

/** Returns the length without padding. */
export function putNxMatch(
  w: Writer,
  match: Match,
  ctx: CodecContext,
  cookie = 0n,
  cookieMask = 0n,
): number {
  const start = w.length;
  putOxmList(w, match, ctx, 0);
  putCookie(w, cookie, cookieMask);
  const length = w.length - start;
  w.pad8(start);
  return length;
}
