// Reading and writing header fields during translation, with the bookkeeping of what was looked at.
//
// set_field and load are compiled once per action into bytes of the record (value, mask), so that translating a flow
// needs no big integers and no look-up of names.

import { K_ETH_TYPE, K_NW_PROTO, K_VLAN0_TCI, K_VLAN0_TPID } from '../../../contract/key.ts';
import { ETH_TYPE_NSH } from '../../../contract/tunnel.ts';
import {
  fromBytes,
  getSubfield,
  moveBits,
  port10To11,
  resolveField,
} from '../../wire/openflow/fieldAccess.ts';
import { type Field, fieldByName } from '../../wire/openflow/fields.ts';
import type { TlvMapping } from '../../wire/openflow/messages.ts';
import { dlType } from '../../wire/openflow/prereq.ts';
import type { Action, Subfield } from '../../wire/openflow/types.ts';
import {
  be16,
  ETH_TYPE_ARP,
  ETH_TYPE_IP,
  ETH_TYPE_IPV6,
  ETH_TYPE_RARP,
  IPPROTO_SCTP,
  IPPROTO_TCP,
  IPPROTO_UDP,
  isIcmpv4,
  isIcmpv6,
  isIp,
  isIpProtocol,
  isLaterFragment,
  isVlanTagged,
  ND_ADVERT,
  ND_SOLICIT,
  neighborDiscoveryType,
} from '../flow.ts';
import { setPresent } from '../tunnel/metadata.ts';
import { conntrackValid } from './ctFields.ts';

/** Has the packet the header that the field lives in? Notes what was looked at. */
export function prerequisiteMet(f: Field, flow: Uint8Array, wildcards: Uint8Array): boolean {
  const type = be16(flow, K_ETH_TYPE);
  switch (f.prereq) {
    case 'none':
    case 'ethernet':
      return true;
    case 'vlan':
      return isVlanTagged(flow, wildcards);
    case 'arp':
      return type === ETH_TYPE_ARP || type === ETH_TYPE_RARP;
    case 'ipv4':
      return type === ETH_TYPE_IP;
    case 'ipv6':
      return type === ETH_TYPE_IPV6;
    case 'ip':
      return isIp(flow);
    case 'tcp':
      return isIpProtocol(flow, wildcards, IPPROTO_TCP) && !isLaterFragment(flow);
    case 'udp':
      return isIpProtocol(flow, wildcards, IPPROTO_UDP) && !isLaterFragment(flow);
    case 'sctp':
      return isIpProtocol(flow, wildcards, IPPROTO_SCTP) && !isLaterFragment(flow);
    case 'icmp4':
      return isIcmpv4(flow, wildcards);
    case 'icmp6':
      return isIcmpv6(flow, wildcards);
    case 'nd':
      return neighborDiscoveryType(flow, wildcards) !== 0;
    case 'nd_solicit':
      return neighborDiscoveryType(flow, wildcards) === ND_SOLICIT;
    case 'nd_advert':
      return neighborDiscoveryType(flow, wildcards) === ND_ADVERT;
    case 'ct':
      return conntrackValid(flow, wildcards);
    case 'nsh':
      return dlType(flow) === ETH_TYPE_NSH;
    case 'mpls':
      return type === 0x8847 || type === 0x8848;
    default:
      return false;
  }
}

/** Writing an L3 field depends on the header being intact, which a protocol number of 0 denies (commit.ts). */
export function coverL3Prerequisite(f: Field, flow: Uint8Array, wildcards: Uint8Array): void {
  const inHeader =
    f.prereq === 'ipv4' || f.prereq === 'ipv6' || f.prereq === 'ip' || f.prereq === 'arp';
  if (inHeader && (isIp(flow) || be16(flow, K_ETH_TYPE) === ETH_TYPE_ARP)) {
    wildcards[K_NW_PROTO] = 0xff;
  }
}

/** A write of constant bits into the record. */
export interface FieldWrite {
  readonly field: Field;
  readonly offset: number;
  readonly value: Uint8Array;
  readonly mask: Uint8Array;
}

/** The field; tun_metadataN as the bridge's table has it. */
export function resolved(name: string, tlvs: readonly TlvMapping[]): Field {
  const f = fieldByName(name);
  return f.tlvIndex === undefined ? f : resolveField(f, tlvs);
}

const compiled = new WeakMap<Action, FieldWrite>();

function ones(bits: number): bigint {
  return (1n << BigInt(bits)) - 1n;
}

function slotBytes(value: bigint, size: number): Uint8Array {
  const bytes = new Uint8Array(size);
  for (let i = size - 1; i >= 0; i--) {
    bytes[i] = Number(value & 0xffn);
    value >>= 8n;
  }
  return bytes;
}

function compile(f: Field, value: bigint, mask: bigint): FieldWrite {
  let slotValue = (value & mask) << BigInt(f.shift);
  let slotMask = (mask & ones(f.valueBits)) << BigInt(f.shift);
  if (f.format === 'port10') {
    slotMask = 0xffffffffn;
    slotValue = BigInt(port10To11(Number(value & 0xffffn)));
  } else {
    if (f.name === 'nw_tos') slotMask &= 0xfcn;
    if (f.widen && slotMask !== 0n) slotMask = ones(8 * f.size);
    if (slotMask !== 0n) {
      slotMask |= BigInt(f.present);
      slotValue |= BigInt(f.present);
    }
  }
  return {
    field: f,
    offset: f.offset,
    value: slotBytes(slotValue & slotMask, f.size),
    mask: slotBytes(slotMask, f.size),
  };
}

/** The write that a set_field or load action does. */
export function fieldWriteOf(
  action: Action & { type: 'set_field' | 'load' },
  tlvs: readonly TlvMapping[] = [],
): FieldWrite {
  let write = compiled.get(action);
  if (write === undefined) {
    if (action.type === 'set_field') {
      const f = resolved(action.field, tlvs);
      write = compile(f, fromBytes(action.value), fromBytes(action.mask));
    } else {
      const f = resolved(action.dst.field, tlvs);
      const shift = BigInt(action.dst.offset);
      write = compile(f, action.value << shift, ones(action.dst.bits) << shift);
    }
    compiled.set(action, write);
  }
  return write;
}

export function applyWrite(write: FieldWrite, flow: Uint8Array, wildcards: Uint8Array): void {
  const { offset, value, mask } = write;
  for (let i = 0; i < mask.length; i++) {
    flow[offset + i] = (flow[offset + i]! & ~mask[i]!) | value[i]!;
    wildcards[offset + i]! |= mask[i]!;
  }
  if (offset === K_VLAN0_TCI) fixVlanTpid(flow);
  if (write.field.tlvIndex !== undefined) setPresent(flow, write.field.tlvIndex);
}

/** A VLAN header that appeared by a write to its TCI gets the usual TPID; one that vanished loses it. */
export function fixVlanTpid(flow: Uint8Array): void {
  if ((flow[K_VLAN0_TCI]! & 0x10) === 0) {
    flow.fill(0, K_VLAN0_TPID, K_VLAN0_TPID + 2);
  } else if (flow[K_VLAN0_TPID] === 0 && flow[K_VLAN0_TPID + 1] === 0) {
    flow[K_VLAN0_TPID] = 0x81;
  }
}

const covers = new WeakMap<Subfield, Uint8Array>();

/** Notes the bits of a subfield as looked at. */
export function coverSubfield(s: Subfield, f: Field, wildcards: Uint8Array): void {
  let bytes = covers.get(s);
  if (bytes === undefined) {
    const whole = f.format === 'port10' || f.widen;
    const bits = whole
      ? ones(8 * f.size)
      : (ones(s.bits) << BigInt(s.offset + f.shift)) | BigInt(f.present);
    bytes = slotBytes(bits, f.size);
    covers.set(s, bytes);
  }
  for (let i = 0; i < bytes.length; i++) wildcards[f.offset + i]! |= bytes[i]!;
}

/** Notes the bits of a field that a mask (as in a TLV) names as looked at. */
export function coverMasked(f: Field, mask: Uint8Array, wildcards: Uint8Array): void {
  const bits = (fromBytes(mask) << BigInt(f.shift)) | BigInt(f.present);
  const bytes = slotBytes(bits, f.size);
  for (let i = 0; i < f.size; i++) wildcards[f.offset + i]! |= bytes[i]!;
}

/** Copies bits from one field to another. Does nothing when the packet lacks one of them. */
export function moveSubfield(
  src: Subfield,
  dst: Subfield,
  flow: Uint8Array,
  wildcards: Uint8Array,
  tlvs: readonly TlvMapping[] = [],
): void {
  const from = resolved(src.field, tlvs);
  const to = resolved(dst.field, tlvs);
  if (!prerequisiteMet(to, flow, wildcards) || !prerequisiteMet(from, flow, wildcards)) return;
  coverL3Prerequisite(to, flow, wildcards);
  coverSubfield(src, from, wildcards);
  coverSubfield(dst, to, wildcards);
  moveBits(flow, src, dst, from, to);
  if (to.tlvIndex !== undefined) setPresent(flow, to.tlvIndex);
}

/** Reads a subfield; its bits count as looked at. */
export function readSubfield(
  s: Subfield,
  flow: Uint8Array,
  wildcards: Uint8Array,
  tlvs: readonly TlvMapping[] = [],
): bigint {
  const f = resolved(s.field, tlvs);
  coverSubfield(s, f, wildcards);
  return getSubfield(flow, s, f);
}
