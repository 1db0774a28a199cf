// ACT_TUNNEL_POP: strips the outer headers of packets that have arrived for a tunnel port (contract/tunnel.ts), and writes what
// they say into the tunnel fields of a fresh flow key. The caller has the packet looked up again.
//
// Everything is checked before anything is believed: lengths against the frame, versions, flags, the IPv4 header's
// checksum, the checksum of UDP or GRE if there is one (unless the packet has never been on a wire: a partial checksum).
// Nothing is read beyond the head. ECN (RFC 6040) and which tunnel port it was are translation's business.

import {
  DROP_NONE,
  DROP_TUNNEL_CHECKSUM,
  DROP_TUNNEL_HEADER,
  DROP_TUNNEL_OPTIONS,
  DROP_TUNNEL_PROTOCOL,
  DROP_TX_GSO,
} from '../../contract/drop.ts';
import {
  K_IN_PORT,
  K_PACKET_TYPE,
  K_TUN_DST,
  K_TUN_ERSPAN,
  K_TUN_FLAGS,
  K_TUN_GBP_FLAGS,
  K_TUN_GBP_ID,
  K_TUN_GTPU_FLAGS,
  K_TUN_GTPU_MSGTYPE,
  K_TUN_ID,
  K_TUN_IPV6_DST,
  K_TUN_IPV6_SRC,
  K_TUN_OPTS,
  K_TUN_OPTS_LEN,
  K_TUN_SRC,
  K_TUN_TOS,
  K_TUN_TP_SRC,
  K_TUN_TTL,
  TUN_CSUM,
  TUN_KEY,
  TUN_OAM,
  TUN_OPTS_MAX,
} from '../../contract/key.ts';
import {
  PKT_CSUM_START,
  PKT_GSO_TYPE,
  PKT_HEAD,
  PKT_HEAD_LEN,
  PKT_IN_PORT,
  PKT_KEY,
  PKT_L3,
  PKT_L4,
  PKT_LEN,
  PKT_VNET_FLAGS,
  VNET_DATA_VALID,
  VNET_NEEDS_CSUM,
} from '../../contract/packet.ts';
import {
  ERSPAN_HWID,
  ERSPAN_INDEX,
  ERSPAN_SESSION,
  ERSPAN1_BYTES,
  ERSPAN2_BYTES,
  ETH_TYPE_ERSPAN1,
  ETH_TYPE_ERSPAN2,
  ETH_TYPE_TEB,
  GPE_ETHERNET,
  GPE_IPV4,
  GPE_IPV6,
  GPE_NSH,
  GRE_CSUM,
  GRE_KEY,
  GRE_SEQ,
  GTPU_MESSAGE_GPDU,
  PACKET_TYPE_ETHERTYPE,
  PACKET_TYPE_NSH,
  TUNNEL_BAREUDP,
  TUNNEL_ERSPAN,
  TUNNEL_GENEVE,
  TUNNEL_GRE,
  TUNNEL_GTPU,
  TUNNEL_IP6ERSPAN,
  TUNNEL_IP6GRE,
  TUNNEL_VXLAN,
  VXLAN_GBP,
  VXLAN_GPE,
  VXLAN_GPE_OAM,
  VXLAN_GPE_VERSION,
  VXLAN_I,
} from '../../contract/tunnel.ts';
import { LINE2, LINE3, LINE5, LINE6, markLines } from '../key.ts';
import { clearKey } from '../parse.ts';
import { fold, sumBytes, sumPacket } from '../port/checksum.ts';
import { copyBytes } from '../port/copy.ts';
import { load16 } from '../port/headers.ts';
import { cut, refill, shrink } from './head.ts';

const ETH_TYPE_MIN: u32 = 0x600;
const ETH_IPV4: u32 = 0x0800;
const ETH_IPV6: u32 = 0x86dd;
const ETH_MPLS: u32 = 0x8847;

// What the outer headers have said, until all of them are known to be good.
let bytes: u32 = 0; // of outer headers
let flags: u32 = 0;
let tunnelId: u64 = 0;
let packetType: u32 = 0;
let options: u32 = 0; // address
let optionBytes: u32 = 0;
let group: u32 = 0; // VXLAN-GBP: id | flags << 16
let gtpu: u32 = 0; // flags | message type << 8
let mirrored: u32 = 0; // K_TUN_ERSPAN

/** DROP_NONE, or why the packet has to be dropped. */
export function popTunnel(pkt: u32, operands: u32): u32 {
  const port = load<u32>(operands);
  const type = load<u32>(operands, 4);
  const l3: u32 = load<u16>(pkt + PKT_L3);
  const l4: u32 = load<u16>(pkt + PKT_L4);
  if (l3 === 0xffff || l4 === 0xffff || l4 < l3 + 20) return DROP_TUNNEL_HEADER;
  const head = load<u32>(pkt + PKT_HEAD);
  const headBytes = load<u32>(pkt + PKT_HEAD_LEN);
  const ip = head + l3;
  const version = <u32>load<u8>(ip) >> 4;
  let end: u32 = 0; // of the IP packet, in the frame
  if (version === 4) {
    if (l4 !== l3 + 20) return DROP_TUNNEL_HEADER; // options: as in Open vSwitch
    if (headerSum(ip) !== 0xffff) return DROP_TUNNEL_CHECKSUM;
    end = l3 + load16(ip + 2);
  } else if (version === 6 && l4 >= l3 + 40) {
    end = l3 + 40 + load16(ip + 4);
  } else {
    return DROP_TUNNEL_HEADER;
  }
  if (end > load<u32>(pkt + PKT_LEN) || end < l4 + 4) return DROP_TUNNEL_HEADER;
  // Padding of short frames is not part of what is inside, but for a mirrored frame, as in Open vSwitch.
  if (type === TUNNEL_ERSPAN || type === TUNNEL_IP6ERSPAN) end = load<u32>(pkt + PKT_LEN);
  else if (end < load<u32>(pkt + PKT_LEN)) cut(pkt, end);
  const reach = min<u32>(end, headBytes) - min<u32>(l4, headBytes); // bytes from L4 on that can be read
  flags = 0;
  tunnelId = 0;
  packetType = 0;
  optionBytes = 0;
  group = 0;
  gtpu = 0;
  mirrored = 0;
  const at = head + l4;
  let source: u32 = 0;
  let reason: u32 = DROP_NONE;
  if (type === TUNNEL_GRE || type === TUNNEL_IP6GRE) {
    reason = gre(pkt, l4, at, reach);
  } else if (type === TUNNEL_ERSPAN || type === TUNNEL_IP6ERSPAN) {
    reason = erspan(l4, at, reach);
  } else {
    if (reach < 8 || load16(at + 4) < 8 || load16(at + 4) > end - l4) return DROP_TUNNEL_HEADER;
    if (load<u16>(at, 6) !== 0) {
      flags = TUN_CSUM;
      if (!isTrusted(pkt) && !udpChecksumOk(pkt, ip, l4, end, version)) {
        return DROP_TUNNEL_CHECKSUM;
      }
    }
    source = load<u16>(at);
    bytes = l4 + 8;
    if (type === TUNNEL_VXLAN) reason = vxlan(at + 8, reach - 8);
    else if (type === TUNNEL_GENEVE) reason = geneve(at + 8, reach - 8);
    else if (type === TUNNEL_GTPU) reason = gtpUser(at + 8, reach - 8, end - l4 - 8);
    else if (type === TUNNEL_BAREUDP) reason = bare(at + 8, reach - 8, load<u32>(operands, 8));
    else reason = DROP_TUNNEL_PROTOCOL;
  }
  if (reason !== DROP_NONE) return reason;
  if (bytes > headBytes || bytes > end) return DROP_TUNNEL_HEADER;
  if (packetType === 0 && end - bytes < 14) return DROP_TUNNEL_HEADER;
  if (load<u8>(pkt + PKT_GSO_TYPE) !== 0 && load<u16>(pkt + PKT_CSUM_START) < bytes) {
    return DROP_TX_GSO; // what would have to be segmented is the outer packet
  }
  const key = load<u32>(pkt + PKT_KEY);
  clearKey(key);
  store<u32>(key + K_IN_PORT, bswap<u32>(port));
  store<u64>(key + K_TUN_ID, bswap<u64>(tunnelId));
  if (version === 4) {
    store<u32>(key + K_TUN_SRC, load<u32>(ip, 12));
    store<u32>(key + K_TUN_DST, load<u32>(ip, 16));
    store<u8>(key + K_TUN_TOS, load<u8>(ip, 1));
    store<u8>(key + K_TUN_TTL, load<u8>(ip, 8));
  } else {
    v128.store(key + K_TUN_IPV6_SRC, v128.load(ip, 8));
    v128.store(key + K_TUN_IPV6_DST, v128.load(ip, 24));
    store<u8>(key + K_TUN_TOS, <u8>(load16(ip) >> 4));
    store<u8>(key + K_TUN_TTL, load<u8>(ip, 7));
  }
  store<u16>(key + K_TUN_FLAGS, bswap<u16>(<u16>flags));
  store<u16>(key + K_TUN_TP_SRC, <u16>source);
  let lines: u32 = LINE3;
  if (group !== 0) {
    store<u16>(key + K_TUN_GBP_ID, bswap<u16>(<u16>group));
    store<u8>(key + K_TUN_GBP_FLAGS, <u8>(group >> 16));
  }
  if (gtpu !== 0) {
    store<u8>(key + K_TUN_GTPU_FLAGS, <u8>gtpu);
    store<u8>(key + K_TUN_GTPU_MSGTYPE, <u8>(gtpu >> 8));
  }
  if (mirrored !== 0) store<u32>(key + K_TUN_ERSPAN, bswap<u32>(mirrored));
  if (optionBytes !== 0) {
    store<u8>(key + K_TUN_OPTS_LEN, <u8>optionBytes);
    copyBytes(key + K_TUN_OPTS, options, optionBytes);
    lines |= optionBytes > 64 ? LINE5 | LINE6 : LINE5;
  }
  if (packetType !== 0) {
    store<u32>(key + K_PACKET_TYPE, bswap<u32>(packetType));
    lines |= LINE2;
  }
  markLines(key, lines);
  shrink(pkt, bytes);
  refill(pkt);
  store<u32>(pkt + PKT_IN_PORT, port);
  return DROP_NONE;
}

/** Folded sum of an IPv4 header without options. */
function headerSum(ip: u32): u32 {
  const a = load<u64>(ip);
  const b = load<u64>(ip, 8);
  const low = (a & 0xffffffff) + (b & 0xffffffff);
  return fold(low + (a >> 32) + (b >> 32) + load<u32>(ip, 16));
}

/** A packet from this host, whose outer checksum nobody has completed, or that was checked on the way in. */
function isTrusted(pkt: u32): bool {
  return (load<u8>(pkt + PKT_VNET_FLAGS) & (VNET_NEEDS_CSUM | VNET_DATA_VALID)) !== 0;
}

function udpChecksumOk(pkt: u32, ip: u32, l4: u32, end: u32, version: u32): bool {
  const addresses = version === 4 ? sumBytes(ip + 12, 8) : sumBytes(ip + 8, 32);
  const pseudo = addresses + <u64>bswap<u16>(<u16>(end - l4)) + <u64>(17 << 8);
  return fold(pseudo + <u64>sumPacket(pkt, l4)) === 0xffff;
}

/** | flags 16 | protocol 16 | [checksum 16, 0 16] | [key 32] | [sequence 32] | */
function gre(pkt: u32, l4: u32, at: u32, reach: u32): u32 {
  if (reach < 4) return DROP_TUNNEL_HEADER;
  const bits = load16(at);
  if ((bits & ~(GRE_CSUM | GRE_KEY | GRE_SEQ)) !== 0) return DROP_TUNNEL_PROTOCOL;
  let size: u32 = 4;
  if (bits & GRE_CSUM) {
    if (!isTrusted(pkt) && sumPacket(pkt, l4) !== 0xffff) return DROP_TUNNEL_CHECKSUM;
    flags |= TUN_CSUM;
    size += 4;
  }
  if (bits & GRE_KEY) {
    if (reach < size + 4) return DROP_TUNNEL_HEADER;
    tunnelId = bswap<u32>(load<u32>(at + size));
    flags |= TUN_KEY;
    size += 4;
  }
  if (bits & GRE_SEQ) size += 4;
  if (reach < size) return DROP_TUNNEL_HEADER;
  const protocol = load16(at + 2);
  if (protocol !== ETH_TYPE_TEB) {
    if (protocol < ETH_TYPE_MIN) return DROP_TUNNEL_PROTOCOL;
    packetType = PACKET_TYPE_ETHERTYPE | protocol;
  }
  bytes = l4 + size;
  return DROP_NONE;
}

/** GRE with a sequence number, or without its flag: the place is there. */
function erspan(l4: u32, at: u32, reach: u32): u32 {
  if (reach < <u32>ERSPAN1_BYTES) return DROP_TUNNEL_HEADER;
  const protocol = load16(at + 2);
  if (protocol !== ETH_TYPE_ERSPAN1 && protocol !== ETH_TYPE_ERSPAN2) return DROP_TUNNEL_PROTOCOL;
  if ((load16(at) & ~GRE_SEQ) !== 0) return DROP_TUNNEL_PROTOCOL;
  const version = <u32>load<u8>(at, 8) >> 4;
  let size: u32 = ERSPAN1_BYTES;
  mirrored = version << 28;
  if (version === 1) {
    mirrored |= (bswap<u32>(load<u32>(at, 12)) & ERSPAN_INDEX) << 8;
  } else if (version === 2) {
    size = ERSPAN2_BYTES;
    if (reach < size) return DROP_TUNNEL_HEADER;
    const bits = load16(at + 18);
    mirrored |= ((bits >> 4) & ERSPAN_HWID) | (((bits >> 3) & 1) << 6);
  } else {
    return DROP_TUNNEL_HEADER;
  }
  tunnelId = load16(at + 10) & ERSPAN_SESSION;
  flags |= TUN_KEY;
  bytes = l4 + size;
  return DROP_NONE;
}

/** | flags 8 … | group 16, or GPE next protocol | VNI 24 | 0 | */
function vxlan(at: u32, reach: u32): u32 {
  if (reach < 8) return DROP_TUNNEL_HEADER;
  let bits = bswap<u32>(load<u32>(at));
  const vni = bswap<u32>(load<u32>(at, 4));
  if (bits & VXLAN_GPE) {
    const next = bits & 0xff;
    if ((bits & (VXLAN_GPE_OAM | VXLAN_GPE_VERSION)) !== 0) return DROP_TUNNEL_HEADER;
    if (next === GPE_IPV4) packetType = PACKET_TYPE_ETHERTYPE | ETH_IPV4;
    else if (next === GPE_IPV6) packetType = PACKET_TYPE_ETHERTYPE | ETH_IPV6;
    else if (next === GPE_NSH) packetType = PACKET_TYPE_NSH;
    else if (next !== GPE_ETHERNET) return DROP_TUNNEL_PROTOCOL;
    bits &= ~(VXLAN_GPE | 0xff);
  } else if (bits & VXLAN_GBP) {
    group = (bits & 0xffff) | (bits & 0xff0000);
    bits &= VXLAN_I;
  }
  if (bits !== VXLAN_I || (vni & 0xff) !== 0) return DROP_TUNNEL_HEADER;
  tunnelId = vni >> 8;
  flags |= TUN_KEY;
  bytes += 8;
  return DROP_NONE;
}

/** | version 2, options 6 | O, C, reserved 6 | protocol 16 | VNI 24 | reserved 8 | options … | */
function geneve(at: u32, reach: u32): u32 {
  if (reach < 8) return DROP_TUNNEL_HEADER;
  const first: u32 = load<u8>(at);
  if (first >> 6 !== 0) return DROP_TUNNEL_HEADER;
  if (load16(at + 2) !== ETH_TYPE_TEB) return DROP_TUNNEL_PROTOCOL;
  optionBytes = (first & 63) << 2;
  if (optionBytes > <u32>TUN_OPTS_MAX) return DROP_TUNNEL_OPTIONS;
  if (optionBytes > reach - 8) return DROP_TUNNEL_HEADER;
  options = at + 8;
  let left = optionBytes;
  let option = options;
  while (left !== 0) {
    const size: u32 = 4 + ((<u32>load<u8>(option, 3) & 31) << 2);
    if (size > left) return DROP_TUNNEL_HEADER;
    option += size;
    left -= size;
  }
  if (load<u8>(at, 1) & 0x80) flags |= TUN_OAM;
  tunnelId = bswap<u32>(load<u32>(at, 4)) >> 8;
  flags |= TUN_KEY;
  bytes += 8 + optionBytes;
  return DROP_NONE;
}

/** | flags 8 | message 8 | length 16 | TEID 32 | [sequence 16, N-PDU 8, next extension 8] | */
function gtpUser(at: u32, reach: u32, room: u32): u32 {
  if (reach < 12) return DROP_TUNNEL_HEADER; // with the first bytes of what is inside
  const first: u32 = load<u8>(at);
  const message: u32 = load<u8>(at, 1);
  if (first >> 5 !== 1 || (first & 0x10) === 0) return DROP_TUNNEL_HEADER;
  if (load16(at + 2) > room - 8) return DROP_TUNNEL_HEADER;
  if (message !== GTPU_MESSAGE_GPDU) return DROP_TUNNEL_PROTOCOL;
  let size: u32 = 8;
  if ((first & 7) !== 0) {
    size += 4;
    if (reach < size + 4 || load<u8>(at, 11) !== 0) return DROP_TUNNEL_PROTOCOL;
  }
  const version = <u32>load<u8>(at + size) >> 4;
  if (version === 4) packetType = PACKET_TYPE_ETHERTYPE | ETH_IPV4;
  else if (version === 6) packetType = PACKET_TYPE_ETHERTYPE | ETH_IPV6;
  else return DROP_TUNNEL_PROTOCOL;
  gtpu = first | (message << 8);
  tunnelId = bswap<u32>(load<u32>(at, 4));
  flags |= TUN_KEY;
  bytes += size;
  return DROP_NONE;
}

/** Nothing between UDP and the packet: the port has said what it is. IPv4 and IPv6 can be told apart. */
function bare(at: u32, reach: u32, ethertype: u32): u32 {
  if (reach < 4) return DROP_TUNNEL_HEADER;
  let type = ethertype;
  if (type === ETH_IPV4 && <u32>load<u8>(at) >> 4 === 6) type = ETH_IPV6;
  packetType = PACKET_TYPE_ETHERTYPE | (type === 0 ? ETH_MPLS : type);
  return DROP_NONE;
}
