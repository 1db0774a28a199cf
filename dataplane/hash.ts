// ACT_HASH: a hash of a packet's addresses and ports into its key (K_DP_HASH), for select groups. Never 0, which means
// that no hash was computed. Murmur's mixing (public domain).

import { HASH_L4_SYMMETRIC } from '../contract/action.ts';
import {
  FRAG_LATER,
  K_DP_HASH,
  K_ETH_DST,
  K_ETH_SRC,
  K_ETH_TYPE,
  K_IPV6_DST,
  K_IPV6_SRC,
  K_NW_DST,
  K_NW_FRAG,
  K_NW_PROTO,
  K_NW_SRC,
  K_TP_DST,
  K_TP_SRC,
  K_VLAN0_TCI,
  K_VLAN1_TCI,
} from '../contract/key.ts';

const BE_IP: u32 = 0x0008;
const BE_IPV6: u32 = 0xdd86;
const BE_VID: u32 = 0xff0f;
const PROTO_TCP: u32 = 6;
const PROTO_UDP: u32 = 17;
const PROTO_SCTP: u32 = 132;

function mixIn(hash: u32, word: u32): u32 {
  return rotl<u32>(hash ^ (rotl<u32>(word * 0xcc9e2d51, 15) * 0x1b873593), 13) * 5 + 0xe6546b64;
}

function finish(hash: u32): u32 {
  hash = (hash ^ (hash >> 16)) * 0x85ebca6b;
  hash = (hash ^ (hash >> 13)) * 0xc2b2ae35;
  return hash ^ (hash >> 16);
}

/** Both addresses: mixed, or (symmetric) xored first. */
function addresses(key: u32, hash: u32, symmetric: bool, a: u32, b: u32, bytes: u32): u32 {
  for (let i: u32 = 0; i < bytes; i += 4) {
    const src = load<u32>(key + a + i);
    const dst = load<u32>(key + b + i);
    hash = symmetric ? mixIn(hash, src ^ dst) : mixIn(mixIn(hash, src), dst);
  }
  return hash;
}

/** Hashes what `from` says of the packet, in the way of `algorithm` (HASH_*), into `key`. */
export function hashPacket(from: u32, key: u32, algorithm: u32, basis: u32): void {
  const symmetric = algorithm === HASH_L4_SYMMETRIC;
  const type: u32 = load<u16>(from + K_ETH_TYPE);
  let hash = basis;
  if (symmetric) {
    for (let i: u32 = 0; i < 6; i += 2) {
      hash = mixIn(hash, load<u16>(from + K_ETH_SRC + i) ^ load<u16>(from + K_ETH_DST + i));
    }
    const vlans = load<u16>(from + K_VLAN0_TCI) ^ load<u16>(from + K_VLAN1_TCI);
    hash = mixIn(hash, (type << 16) | (vlans & BE_VID));
  }
  if (type === BE_IP) {
    hash = addresses(from, hash, symmetric, K_NW_SRC, K_NW_DST, 4);
  } else if (type === BE_IPV6) {
    hash = addresses(from, hash, symmetric, K_IPV6_SRC, K_IPV6_DST, 16);
  }
  if (type === BE_IP || type === BE_IPV6) {
    const protocol: u32 = load<u8>(from + K_NW_PROTO);
    hash = mixIn(hash, protocol);
    const later = (load<u8>(from + K_NW_FRAG) & FRAG_LATER) !== 0;
    const src: u32 = load<u16>(from + K_TP_SRC);
    const dst: u32 = load<u16>(from + K_TP_DST);
    // UDP's ports need not be the same in both directions.
    if (symmetric) {
      if (protocol === PROTO_TCP || protocol === PROTO_SCTP) hash = mixIn(hash, src ^ dst);
    } else if (
      !later &&
      (protocol === PROTO_TCP || protocol === PROTO_UDP || protocol === PROTO_SCTP)
    ) {
      hash = mixIn(hash, (src << 16) | dst);
    }
  }
  hash = finish(hash);
  store<u32>(key + K_DP_HASH, hash === 0 ? 1 : hash);
}
