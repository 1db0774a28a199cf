// ARP requests (RFC 826) and neighbour solicitations (RFC 4861 §4.3), as frames.

import {
  K_ARP_SHA,
  K_ETH_DST,
  K_ETH_SRC,
  K_ETH_TYPE,
  K_IPV6_DST,
  K_IPV6_SRC,
  K_ND_TARGET,
  K_NW_DST,
  K_NW_PROTO,
  K_NW_SRC,
  K_NW_TTL,
  K_TP_SRC,
} from '../../../contract/key.ts';
import { composeFrame } from '../composeFrame.ts';
import {
  ETH_TYPE_ARP,
  ETH_TYPE_IPV6,
  IPPROTO_ICMPV6,
  ND_SOLICIT,
  newRecord,
  putBe16,
} from '../flow.ts';
import { isMapped } from './address.ts';

const ARP_REQUEST = 1;
const HOP_LIMIT = 255;

/** Asks who has `target`. Addresses of 16 bytes, both IPv4 (mapped) or both IPv6. */
export function composeSolicitation(
  mac: Uint8Array,
  source: Uint8Array,
  target: Uint8Array,
): Uint8Array {
  const flow = newRecord();
  flow.set(mac, K_ETH_SRC);
  flow.set(mac, K_ARP_SHA);
  if (isMapped(target)) {
    flow.fill(0xff, K_ETH_DST, K_ETH_DST + 6);
    putBe16(flow, K_ETH_TYPE, ETH_TYPE_ARP);
    flow[K_NW_PROTO] = ARP_REQUEST;
    flow.set(source.subarray(12, 16), K_NW_SRC);
    flow.set(target.subarray(12, 16), K_NW_DST);
    return composeFrame(flow, new Uint8Array(0));
  }
  // The solicited-node multicast address ff02::1:ffXX:XXXX, and its Ethernet address 33:33:ff:XX:XX:XX.
  const low = target.subarray(13, 16);
  const group = Uint8Array.of(0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, ...low);
  flow.set([0x33, 0x33, 0xff, ...low], K_ETH_DST);
  putBe16(flow, K_ETH_TYPE, ETH_TYPE_IPV6);
  flow[K_NW_PROTO] = IPPROTO_ICMPV6;
  flow[K_NW_TTL] = HOP_LIMIT;
  flow.set(source, K_IPV6_SRC);
  flow.set(group, K_IPV6_DST);
  putBe16(flow, K_TP_SRC, ND_SOLICIT);
  flow.set(target, K_ND_TARGET);
  return composeFrame(flow, new Uint8Array(0));
}
