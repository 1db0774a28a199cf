// Network service headers (RFC 8300, ovs-actions(7)): encap(nsh), dec_nsh_ttl, and which packet is inside.
//
// Actions change the flow record; commitNsh.ts makes programs of it.

import { DROP_TTL } from '../../../contract/drop.ts';
import {
  K_ETH_TYPE,
  K_NSH,
  K_NSH_MDTYPE,
  K_NSH_NP,
  K_NSH_PATH,
  K_NSH_TTL,
  K_PACKET_TYPE,
  NSH_KEY_BYTES,
} from '../../../contract/key.ts';
import {
  ETH_TYPE_NSH,
  NSH_BASE_BYTES,
  NSH_ETHERNET,
  NSH_IPV4,
  NSH_IPV6,
  NSH_MAX_BYTES,
  NSH_NSH,
  PACKET_TYPE_ETHERTYPE,
  PACKET_TYPE_NSH,
} from '../../../contract/tunnel.ts';
import type { EncapProperty } from '../../wire/openflow/types.ts';
import { be16, ETH_TYPE_IP, ETH_TYPE_IPV6, putBe16, putBe32 } from '../flow.ts';
import { clearHeaders } from './commitNsh.ts';
import { report, type Xlate } from './context.ts';
import { sendToController } from './output.ts';

const FIRST_TTL = 63;
const FIRST_INDEX = 255;

const INSIDE: readonly (readonly [protocol: number, packetType: number])[] = [
  [NSH_ETHERNET, 0],
  [NSH_IPV4, PACKET_TYPE_ETHERTYPE | ETH_TYPE_IP],
  [NSH_IPV6, PACKET_TYPE_ETHERTYPE | ETH_TYPE_IPV6],
  [NSH_NSH, PACKET_TYPE_NSH],
];

/** What a header says of such a packet inside. */
export function nextProtocolOf(packetType: number): number | undefined {
  return INSIDE.find(([, type]) => type === packetType)?.[0];
}

export function packetTypeOf(nextProtocol: number): number | undefined {
  return INSIDE.find(([protocol]) => protocol === nextProtocol)?.[1];
}

/** A header around the packet as it is, whose own headers are payload from here on. */
export function encapNsh(
  x: Xlate,
  nextProtocol: number,
  properties: readonly EncapProperty[],
): void {
  const { flow } = x;
  let mdType = 1;
  for (const property of properties) if (property.kind === 'md_type') mdType = property.mdType;
  clearHeaders(flow);
  putBe32(flow, K_PACKET_TYPE, PACKET_TYPE_NSH);
  putBe16(flow, K_ETH_TYPE, ETH_TYPE_NSH);
  flow.fill(0, K_NSH, K_NSH + NSH_KEY_BYTES);
  flow[K_NSH_TTL] = FIRST_TTL;
  flow[K_NSH_MDTYPE] = mdType;
  flow[K_NSH_NP] = nextProtocol;
  putBe32(flow, K_NSH_PATH, FIRST_INDEX);
  x.encapMetadata = mdType === 2 ? metadataOf(properties) : undefined;
  x.pendingEncap = true;
}

/** | class 16 | type 8 | length 8 | value, padded to words | of each TLV; none at all if they do not fit. */
function metadataOf(properties: readonly EncapProperty[]): Uint8Array {
  const bytes: number[] = [];
  for (const property of properties) {
    if (property.kind !== 'tlv') continue;
    const { tlvClass, tlvType, value } = property;
    bytes.push(tlvClass >> 8, tlvClass & 0xff, tlvType, value.length, ...value);
    while (bytes.length % 4 !== 0) bytes.push(0);
  }
  return Uint8Array.from(bytes.length > NSH_MAX_BYTES - NSH_BASE_BYTES ? [] : bytes);
}

/** True when translation of this action list ends. */
export function decrementNshTtl(x: Xlate): boolean {
  const { flow, wildcards } = x;
  if (be16(flow, K_ETH_TYPE) === ETH_TYPE_NSH) {
    wildcards[K_NSH_TTL] = 0xff;
    if (flow[K_NSH_TTL]! > 1) {
      flow[K_NSH_TTL]!--;
      return false;
    }
    sendToController(x, 0xffff, 'invalid_ttl', 0, undefined);
  }
  report(x, 'warn', 'NSH decrement TTL exception');
  x.dropReason = DROP_TTL;
  return true;
}
