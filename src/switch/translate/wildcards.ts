// The mask of a megaflow: what every translation looks at, and the clean-up at the end.

import {
  F_METADATA,
  F_TUN_METADATA,
  F_TUN_PRESENT,
  FLOW_SIZE,
  K_CT_IPV6_SRC,
  K_ETH_TYPE,
  K_IN_PORT,
  K_MPLS_COUNT,
  K_MPLS_LSE,
  K_NSH,
  K_NW_FRAG,
  K_NW_PROTO,
  K_PACKET_TYPE,
  K_RECIRC_ID,
  K_TP_DST,
  K_TP_SRC,
  K_TUN_DST,
  K_TUN_ID,
  K_TUN_IPV6_DST,
  K_TUN_OPTS,
  K_VLAN0_TCI,
  K_VLAN0_TPID,
  K_VLAN1_TCI,
  K_VLAN1_TPID,
  KEY_SIZE,
  NSH_KEY_BYTES,
  TUN_OPTS_MAX,
  VLAN_PRESENT,
} from '../../../contract/key.ts';
import { ETH_TYPE_NSH } from '../../../contract/tunnel.ts';
import { dlType } from '../../wire/openflow/prereq.ts';
import {
  be16,
  clearField,
  clearWords,
  ETH_TYPE_IP,
  ETH_TYPE_IPV6,
  exact,
  IPPROTO_ICMP,
  IPPROTO_ICMPV6,
  isIp,
  isLaterFragment,
  isZero,
} from '../flow.ts';
import { hasTunnel } from '../tunnel/record.ts';

const PRESENT_BYTE = VLAN_PRESENT >> 8;

/** Fields that are always looked at. */
export function initWildcards(wildcards: Uint8Array, flow: Uint8Array): void {
  exact(wildcards, K_PACKET_TYPE, 4);
  exact(wildcards, K_ETH_TYPE, 2);
  exact(wildcards, K_RECIRC_ID, 4);
  exact(wildcards, K_IN_PORT, 4);
  if (isIp(flow)) wildcards[K_NW_FRAG] = 3;
}

/**
 * Drops bits that say nothing. `original` is the flow as it came in, `words` the same memory as `wildcards`. Afterwards: what
 * ofproto/trace shows.
 */
export function finishWildcards(
  wildcards: Uint8Array,
  words: Int32Array,
  original: Uint8Array,
): void {
  clearWords(words, F_METADATA, F_TUN_METADATA);
  clearWords(words, hasTunnel(original) ? F_TUN_PRESENT : F_TUN_METADATA, FLOW_SIZE);
  const type = be16(original, K_ETH_TYPE);
  const protocol = original[K_NW_PROTO];
  if (
    (type === ETH_TYPE_IP && protocol === IPPROTO_ICMP) ||
    (type === ETH_TYPE_IPV6 && protocol === IPPROTO_ICMPV6)
  ) {
    // Type and code are 8 bits in 16-bit places. The bits taken away are zero in every ICMP packet, hence the protocol.
    if (wildcards[K_TP_SRC] !== 0 || wildcards[K_TP_DST] !== 0) wildcards[K_NW_PROTO] = 0xff;
    wildcards[K_TP_SRC] = 0;
    wildcards[K_TP_DST] = 0;
  }
  if (isLaterFragment(original)) clearField(wildcards, K_TP_SRC, K_TP_DST + 2 - K_TP_SRC);
  for (const tci of [K_VLAN0_TCI, K_VLAN1_TCI]) {
    const tpid = tci === K_VLAN0_TCI ? K_VLAN0_TPID : K_VLAN1_TPID;
    if ((original[tci]! & PRESENT_BYTE) === 0) {
      clearField(wildcards, tci, tpid + 2 - tci);
    } else if (be16(wildcards, tci) !== 0) {
      wildcards[tci]! |= PRESENT_BYTE;
    }
  }
  if (type !== 0x8847 && type !== 0x8848) {
    clearField(wildcards, K_MPLS_COUNT, 2);
    clearField(wildcards, K_MPLS_LSE, 12);
  }
  if (dlType(original) !== ETH_TYPE_NSH) clearField(wildcards, K_NSH, NSH_KEY_BYTES);
  if (isZero(original, K_TUN_DST, 4) && isZero(original, K_TUN_IPV6_DST, 16)) {
    clearWords(words, K_TUN_ID, K_CT_IPV6_SRC);
    clearWords(words, K_TUN_OPTS, K_TUN_OPTS + TUN_OPTS_MAX);
  }
}

/**
 * KEY_SIZE bytes of mask for the datapath, written to `mask`. In Open vSwitch's datapath flows the Ethernet type tells a tagged from an
 * untagged packet; our key keeps the inner type apart, so the presence of VLAN headers has to be matched by itself.
 */
export function datapathMask(
  wildcards: Uint8Array,
  original: Uint8Array,
  mask: Uint8Array = new Uint8Array(KEY_SIZE),
): Uint8Array {
  mask.set(wildcards.length === KEY_SIZE ? wildcards : wildcards.subarray(0, KEY_SIZE));
  mask[K_VLAN0_TCI]! |= PRESENT_BYTE;
  if ((original[K_VLAN0_TCI]! & PRESENT_BYTE) !== 0) {
    exact(mask, K_VLAN0_TPID, 2);
    mask[K_VLAN1_TCI]! |= PRESENT_BYTE;
    if ((original[K_VLAN1_TCI]! & PRESENT_BYTE) !== 0) exact(mask, K_VLAN1_TPID, 2);
  }
  return mask;
}
