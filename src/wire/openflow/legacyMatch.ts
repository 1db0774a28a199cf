// The fixed match structures: ofp_match of OpenFlow 1.0 (40 bytes, one wildcard bit per field, CIDR masks) and of
// OpenFlow 1.1 (88 bytes, bitwise masks for addresses and metadata). Also the normalisation that Open vSwitch applies
// to matches of OpenFlow 1.0: fields whose prerequisites are missing are ignored, not refused (OpenFlow 1.0.1 §3.4).
//
//    0         4      6        12       18    20  21   22    24  25  26    28     32     36  38  40
//    +---------+------+--------+--------+-----+---+----+-----+---+---+-----+------+------+---+---+
//    |wildcards|inport| dl_src | dl_dst |vlan |pcp|pad |type |tos|pro|pad  |nw_src|nw_dst|tps|tpd|
//    +---------+------+--------+--------+-----+---+----+-----+---+---+-----+------+------+---+---+

import {
  F_IN_PORT,
  F_METADATA,
  FLOW_SIZE,
  K_ARP_SHA,
  K_ARP_THA,
  K_ETH_DST,
  K_ETH_SRC,
  K_ETH_TYPE,
  K_IPV6_DST,
  K_IPV6_LABEL,
  K_IPV6_SRC,
  K_MPLS_LSE,
  K_ND_TARGET,
  K_NW_DST,
  K_NW_PROTO,
  K_NW_SRC,
  K_NW_TOS,
  K_NW_TTL,
  K_PACKET_TYPE,
  K_TP_DST,
  K_TP_SRC,
  K_VLAN0_TCI,
  VLAN_PRESENT,
} from '../../../contract/key.ts';
import type { Reader, Writer } from './buffer.ts';
import { emptyMatch, port10To11, port11To10 } from './fieldAccess.ts';
import { wordsOf } from './packedMatch.ts';
import * as pre from './prereq.ts';
import { get16, get32, put16, put32 } from './prereq.ts';
import type { Match } from './types.ts';
import { OfError } from './types.ts';

const W_IN_PORT = 1 << 0;
const W_DL_VLAN = 1 << 1;
const W_DL_SRC = 1 << 2;
const W_DL_DST = 1 << 3;
const W_DL_TYPE = 1 << 4;
const W_NW_PROTO = 1 << 5;
const W_TP_SRC = 1 << 6;
const W_TP_DST = 1 << 7;
const NW_SRC_SHIFT = 8;
const NW_DST_SHIFT = 14;
const W_DL_VLAN_PCP = 1 << 20;
const W_NW_TOS = 1 << 21;

const VID = 0x0fff;
const PCP = 0xe000;
const VLAN_NONE = 0xffff;

/** 0 = exact, n = the n low bits do not matter, 32 and more = wildcard. */
function wildcardBitsToMask(bits: number): number {
  bits &= 0x3f;
  return bits < 32 ? (0xffffffff << bits) >>> 0 : 0;
}

function maskToWildcardBits(mask: number): number {
  return mask === 0 ? 32 : 31 - Math.clz32((mask & -mask) >>> 0);
}

function maskMac(mask: Uint8Array, offset: number): void {
  mask.fill(0xff, offset, offset + 6);
}

/** key &= mask, of records as emptyMatch() makes them: aligned. */
function zeroWildcarded(match: Match): void {
  const [key, mask] = [wordsOf(match.key), wordsOf(match.mask)];
  for (let i = 0; i < key.length; i++) key[i]! &= mask[i]!;
}

export function pullOfp10Match(r: Reader): Match {
  const { key, mask } = emptyMatch(FLOW_SIZE);
  const w = r.u32();
  const inPort = r.u16();
  key.set(r.copy(6), K_ETH_SRC);
  key.set(r.copy(6), K_ETH_DST);
  const vlan = r.u16();
  const pcp = r.u8();
  r.skip(1);
  put16(key, K_ETH_TYPE, r.u16());
  key[K_NW_TOS] = r.u8() & 0xfc;
  key[K_NW_PROTO] = r.u8();
  r.skip(2);
  put32(key, K_NW_SRC, r.u32());
  put32(key, K_NW_DST, r.u32());
  put16(key, K_TP_SRC, r.u16());
  put16(key, K_TP_DST, r.u16());
  put32(key, F_IN_PORT, port10To11(inPort));

  if (!(w & W_IN_PORT)) put32(mask, F_IN_PORT, 0xffffffff);
  if (!(w & W_DL_SRC)) maskMac(mask, K_ETH_SRC);
  if (!(w & W_DL_DST)) maskMac(mask, K_ETH_DST);
  if (!(w & W_DL_TYPE)) put16(mask, K_ETH_TYPE, 0xffff);
  if (!(w & W_NW_TOS)) mask[K_NW_TOS] = 0xfc;
  if (!(w & W_NW_PROTO)) mask[K_NW_PROTO] = 0xff;
  put32(mask, K_NW_SRC, wildcardBitsToMask(w >>> NW_SRC_SHIFT));
  put32(mask, K_NW_DST, wildcardBitsToMask(w >>> NW_DST_SHIFT));
  if (!(w & W_TP_SRC)) put16(mask, K_TP_SRC, 0xffff);
  if (!(w & W_TP_DST)) put16(mask, K_TP_DST, 0xffff);
  if (!(w & W_DL_VLAN) && vlan === VLAN_NONE) {
    // "No VLAN header", whatever the priority says.
    put16(mask, K_VLAN0_TCI, 0xffff);
  } else {
    let tciMask = 0;
    if (!(w & W_DL_VLAN)) tciMask |= VID | VLAN_PRESENT;
    if (!(w & W_DL_VLAN_PCP)) tciMask |= PCP | VLAN_PRESENT;
    put16(key, K_VLAN0_TCI, (vlan & VID) | ((pcp << 13) & PCP) | VLAN_PRESENT);
    put16(mask, K_VLAN0_TCI, tciMask);
  }
  const match = { key, mask };
  zeroWildcarded(match);
  return match;
}

export function putOfp10Match(out: Writer, match: Match): void {
  const { key, mask } = match;
  let w = 0;
  if (get32(mask, F_IN_PORT) === 0) w |= W_IN_PORT;
  if (get16(mask, K_ETH_TYPE) === 0) w |= W_DL_TYPE;
  if (mask[K_NW_PROTO] === 0) w |= W_NW_PROTO;
  if ((mask[K_NW_TOS]! & 0xfc) === 0) w |= W_NW_TOS;
  if (get16(mask, K_TP_SRC) === 0) w |= W_TP_SRC;
  if (get16(mask, K_TP_DST) === 0) w |= W_TP_DST;
  if (mask.subarray(K_ETH_SRC, K_ETH_SRC + 6).every((b) => b === 0)) w |= W_DL_SRC;
  if (mask.subarray(K_ETH_DST, K_ETH_DST + 6).every((b) => b === 0)) w |= W_DL_DST;
  w |= maskToWildcardBits(get32(mask, K_NW_SRC)) << NW_SRC_SHIFT;
  w |= maskToWildcardBits(get32(mask, K_NW_DST)) << NW_DST_SHIFT;
  const tci = get16(key, K_VLAN0_TCI);
  const tciMask = get16(mask, K_VLAN0_TCI);
  let vlan = 0;
  let pcp = 0;
  if (tciMask === 0) {
    w |= W_DL_VLAN | W_DL_VLAN_PCP;
  } else if ((tciMask & VLAN_PRESENT) !== 0 && (tci & VLAN_PRESENT) === 0) {
    vlan = VLAN_NONE;
    w |= W_DL_VLAN_PCP;
  } else {
    if ((tciMask & VID) === 0) w |= W_DL_VLAN;
    else vlan = tci & VID;
    if ((tciMask & PCP) === 0) w |= W_DL_VLAN_PCP;
    else pcp = tci >> 13;
  }
  out.u32(w >>> 0).u16(port11To10(get32(key, F_IN_PORT)));
  out.put(key.subarray(K_ETH_SRC, K_ETH_SRC + 6)).put(key.subarray(K_ETH_DST, K_ETH_DST + 6));
  out.u16(vlan).u8(pcp).zeros(1);
  out.u16(get16(key, K_ETH_TYPE));
  out.u8(key[K_NW_TOS]! & 0xfc);
  out.u8(key[K_NW_PROTO]!).zeros(2);
  out.u32(get32(key, K_NW_SRC)).u32(get32(key, K_NW_DST));
  out.u16(get16(key, K_TP_SRC)).u16(get16(key, K_TP_DST));
}

/** True when the match can be said in OpenFlow 1.0 without loss. */
export function fitsOfp10Match(match: Match): boolean {
  const w = new Uint8Array(FLOW_SIZE);
  put32(w, F_IN_PORT, 0xffffffff);
  maskMac(w, K_ETH_SRC);
  maskMac(w, K_ETH_DST);
  put16(w, K_ETH_TYPE, 0xffff);
  put16(w, K_VLAN0_TCI, 0xffff);
  w[K_NW_TOS] = 0xfc;
  w[K_NW_PROTO] = 0xff;
  put32(w, K_NW_SRC, 0xffffffff);
  put32(w, K_NW_DST, 0xffffffff);
  put16(w, K_TP_SRC, 0xffff);
  put16(w, K_TP_DST, 0xffff);
  const { key, mask } = match;
  for (let i = 0; i < FLOW_SIZE; i++) if ((mask[i]! & ~w[i]!) !== 0) return false;
  const wholeOrNone = (offset: number, size: number): boolean => {
    const part = mask.subarray(offset, offset + size);
    return part.every((b) => b === 0) || part.every((b) => b === 0xff);
  };
  if (!wholeOrNone(K_ETH_SRC, 6) || !wholeOrNone(K_ETH_DST, 6)) return false;
  if (!wholeOrNone(K_TP_SRC, 2) || !wholeOrNone(K_TP_DST, 2)) return false;
  for (const offset of [K_NW_SRC, K_NW_DST]) {
    const inverse = ~get32(mask, offset) >>> 0;
    if ((inverse & (inverse + 1)) !== 0) return false;
  }
  const tci = get16(key, K_VLAN0_TCI);
  const m = get16(mask, K_VLAN0_TCI);
  if (m === 0) return true;
  if ((m & VLAN_PRESENT) === 0) return false;
  if ((tci & VLAN_PRESENT) === 0) return m === 0xffff && tci === 0;
  const vid = m & VID;
  const pcp = m & PCP;
  return (vid === 0 || vid === VID) && (pcp === 0 || pcp === PCP) && (vid !== 0 || pcp !== 0);
}

// ---- OpenFlow 1.1

const W11_IN_PORT = 1 << 0;
const W11_DL_VLAN = 1 << 1;
const W11_DL_VLAN_PCP = 1 << 2;
const W11_DL_TYPE = 1 << 3;
const W11_NW_TOS = 1 << 4;
const W11_NW_PROTO = 1 << 5;
const W11_TP_SRC = 1 << 6;
const W11_TP_DST = 1 << 7;
const W11_MPLS_LABEL = 1 << 8;
const W11_MPLS_TC = 1 << 9;
const VID11_ANY = 0xfffe;
const VID11_NONE = 0xffff;

/** `r` is behind type and length. */
export function pullOfp11Match(r: Reader): Match {
  const match = emptyMatch(FLOW_SIZE);
  const { key, mask } = match;
  const inPort = r.u32();
  const w = r.u32();
  const inverted = (offset: number, size: number): void => {
    key.set(r.copy(size), offset);
    const bits = r.copy(size);
    for (let i = 0; i < size; i++) mask[offset + i] = ~bits[i]! & 0xff;
  };
  inverted(K_ETH_SRC, 6);
  inverted(K_ETH_DST, 6);
  const vlan = r.u16();
  const pcp = r.u8();
  r.skip(1);
  const type = r.u16();
  const tos = r.u8();
  const proto = r.u8();
  const nw = [r.u32(), r.u32(), r.u32(), r.u32()] as const;
  const tpSrc = r.u16();
  const tpDst = r.u16();
  const label = r.u32();
  const tc = r.u8();
  r.skip(3);
  inverted(F_METADATA, 8);

  if (!(w & W11_IN_PORT)) {
    if (inPort >= 0xff00 && inPort < 0xffffff00) throw new OfError('OFPBMC_BAD_VALUE');
    put32(key, F_IN_PORT, inPort);
    put32(mask, F_IN_PORT, 0xffffffff);
  }
  if (!(w & W11_DL_VLAN)) pullVlan11(match, vlan, w & W11_DL_VLAN_PCP ? undefined : pcp);
  if (!(w & W11_DL_TYPE)) {
    put16(key, K_ETH_TYPE, type);
    put16(mask, K_ETH_TYPE, 0xffff);
  }
  const dlType = w & W11_DL_TYPE ? 0 : type;
  const ipv4 = dlType === pre.ETH_TYPE_IP;
  if (ipv4 && !(w & W11_NW_TOS)) {
    if (tos & 3) throw new OfError('OFPBMC_BAD_VALUE');
    key[K_NW_TOS] = tos;
    mask[K_NW_TOS] = 0xfc;
  }
  if (ipv4 || pre.isArp(dlType)) {
    if (!(w & W11_NW_PROTO)) {
      key[K_NW_PROTO] = proto;
      mask[K_NW_PROTO] = 0xff;
    }
    put32(key, K_NW_SRC, nw[0]);
    put32(mask, K_NW_SRC, ~nw[1]);
    put32(key, K_NW_DST, nw[2]);
    put32(mask, K_NW_DST, ~nw[3]);
  }
  if (ipv4) pullPorts11(match, w, w & W11_NW_PROTO ? 0 : proto, tpSrc, tpDst);
  if (pre.isMpls(dlType)) {
    let lse = 0;
    let lseMask = 0;
    if (!(w & W11_MPLS_LABEL)) {
      lse |= label << 12;
      lseMask |= 0xfffff000;
    }
    if (!(w & W11_MPLS_TC)) {
      lse |= (tc & 7) << 9;
      lseMask |= 0xe00;
    }
    put32(key, K_MPLS_LSE, lse);
    put32(mask, K_MPLS_LSE, lseMask);
  }
  zeroWildcarded(match);
  return match;
}

function pullVlan11(match: Match, vlan: number, pcp: number | undefined): void {
  if (vlan === VID11_NONE) {
    put16(match.mask, K_VLAN0_TCI, 0xffff);
    return;
  }
  let tci = VLAN_PRESENT;
  let tciMask = VLAN_PRESENT;
  if (vlan !== VID11_ANY) {
    if (vlan > VID) throw new OfError('OFPBMC_BAD_VALUE');
    tci |= vlan;
    tciMask |= VID;
  }
  if (pcp !== undefined) {
    if (pcp > 7) throw new OfError('OFPBMC_BAD_VALUE');
    tci |= pcp << 13;
    tciMask |= PCP;
  }
  put16(match.key, K_VLAN0_TCI, tci);
  put16(match.mask, K_VLAN0_TCI, tciMask);
}

function pullPorts11(match: Match, w: number, proto: number, src: number, dst: number): void {
  if ((w & W11_TP_SRC) !== 0 && (w & W11_TP_DST) !== 0) return;
  if (proto === pre.IPPROTO_ICMP) {
    if (!(w & W11_TP_SRC) && src > 0xff) throw new OfError('OFPBMC_BAD_FIELD');
    if (!(w & W11_TP_DST) && dst > 0xff) throw new OfError('OFPBMC_BAD_FIELD');
  } else if (proto !== pre.IPPROTO_TCP && proto !== pre.IPPROTO_UDP && proto !== pre.IPPROTO_SCTP) {
    return; // ignored, says OpenFlow 1.1 §A.2.3
  }
  if (!(w & W11_TP_SRC)) {
    put16(match.key, K_TP_SRC, src);
    put16(match.mask, K_TP_SRC, 0xffff);
  }
  if (!(w & W11_TP_DST)) {
    put16(match.key, K_TP_DST, dst);
    put16(match.mask, K_TP_DST, 0xffff);
  }
}

export function putOfp11Match(out: Writer, match: Match): void {
  const { key, mask } = match;
  let w = 0;
  if (get32(mask, F_IN_PORT) === 0) w |= W11_IN_PORT;
  if (get16(mask, K_ETH_TYPE) === 0) w |= W11_DL_TYPE;
  if ((mask[K_NW_TOS]! & 0xfc) === 0) w |= W11_NW_TOS;
  if (mask[K_NW_PROTO] === 0) w |= W11_NW_PROTO;
  if (get16(mask, K_TP_SRC) === 0) w |= W11_TP_SRC;
  if (get16(mask, K_TP_DST) === 0) w |= W11_TP_DST;
  const lseMask = get32(mask, K_MPLS_LSE);
  if (lseMask >>> 12 === 0) w |= W11_MPLS_LABEL;
  if ((lseMask & 0xe00) === 0) w |= W11_MPLS_TC;
  const tci = get16(key, K_VLAN0_TCI);
  const tciMask = get16(mask, K_VLAN0_TCI);
  let vlan = 0;
  if ((tciMask & VLAN_PRESENT) === 0) w |= W11_DL_VLAN | W11_DL_VLAN_PCP;
  else if ((tci & VLAN_PRESENT) === 0) {
    vlan = VID11_NONE;
    w |= W11_DL_VLAN_PCP;
  } else {
    vlan = (tciMask & VID) === 0 ? VID11_ANY : tci & VID;
    if ((tciMask & PCP) === 0) w |= W11_DL_VLAN_PCP;
  }
  const inverted = (offset: number, size: number): void => {
    out.put(key.subarray(offset, offset + size));
    out.put(mask.slice(offset, offset + size).map((b) => ~b));
  };
  out.u16(0).u16(88).u32(get32(key, F_IN_PORT)).u32(w);
  inverted(K_ETH_SRC, 6);
  inverted(K_ETH_DST, 6);
  out
    .u16(vlan)
    .u8(w & W11_DL_VLAN_PCP ? 0 : tci >> 13)
    .zeros(1);
  out
    .u16(get16(key, K_ETH_TYPE))
    .u8(key[K_NW_TOS]! & 0xfc)
    .u8(key[K_NW_PROTO]!);
  inverted(K_NW_SRC, 4);
  inverted(K_NW_DST, 4);
  out.u16(get16(key, K_TP_SRC)).u16(get16(key, K_TP_DST));
  const lse = get32(key, K_MPLS_LSE);
  out
    .u32(lse >>> 12)
    .u8((lse >>> 9) & 7)
    .zeros(3);
  inverted(F_METADATA, 8);
}

// ---- normalisation

/** Forgets what the match says about fields that packets of this kind do not have. In place. */
export function normalizeMatch(match: Match): void {
  const { key, mask } = match;
  const clear = (offset: number, size: number): void => {
    mask.fill(0, offset, offset + size);
    key.fill(0, offset, offset + size);
  };
  const type = pre.dlType(key);
  const ethernet = get32(key, K_PACKET_TYPE) === 0;
  const ip = pre.isIp(type);
  const arp = pre.isArp(type);
  const proto = key[K_NW_PROTO]!;
  const ports =
    ip &&
    (proto === pre.IPPROTO_TCP ||
      proto === pre.IPPROTO_UDP ||
      proto === pre.IPPROTO_SCTP ||
      (type === pre.ETH_TYPE_IP && proto === pre.IPPROTO_ICMP) ||
      pre.isIcmp6(key));
  const icmpType = pre.isIcmp6(key) ? get16(key, K_TP_SRC) : 0;
  if (!ethernet) clear(K_ETH_DST, 12);
  if (type !== pre.ETH_TYPE_IP && !arp) {
    clear(K_NW_SRC, 4);
    clear(K_NW_DST, 4);
  }
  if (!ports) {
    clear(K_TP_SRC, 2);
    clear(K_TP_DST, 2);
  }
  if (!ip && !arp) clear(K_NW_PROTO, 1);
  if (!ip) {
    clear(K_NW_TOS, 1);
    clear(K_NW_TTL, 1);
  }
  if (!arp && icmpType !== pre.ND_NEIGHBOR_SOLICIT) clear(K_ARP_SHA, 6);
  if (!arp && icmpType !== pre.ND_NEIGHBOR_ADVERT) clear(K_ARP_THA, 6);
  if (type !== pre.ETH_TYPE_IPV6) {
    clear(K_IPV6_SRC, 16);
    clear(K_IPV6_DST, 16);
    clear(K_IPV6_LABEL, 4);
  }
  if (icmpType !== pre.ND_NEIGHBOR_SOLICIT && icmpType !== pre.ND_NEIGHBOR_ADVERT)
    clear(K_ND_TARGET, 16);
  if (!pre.isMpls(type)) clear(K_MPLS_LSE, 12);
}
