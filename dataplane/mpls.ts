// MPLS label stacks (RFC 3032), and Ethernet headers that come and go with layer-3 tunnels.
//
//   | dst 6 | src 6 | [tags] | type 2 | label stack entries 4 … | what is below |
//
// The stack starts at PKT_L3; the Ethernet type stands in the two bytes before it, unless the packet has no Ethernet
// header: then its type is in the key (K_PACKET_TYPE) alone.

import { K_ETH_TYPE, K_PACKET_TYPE } from '../contract/key.ts';
import { PKT_HEAD, PKT_HEAD_LEN, PKT_KEY, PKT_L3, PKT_L4 } from '../contract/packet.ts';
import { ETH_TYPE_TEB, PACKET_TYPE_ETHERTYPE } from '../contract/tunnel.ts';
import { LINE2, markLines } from './key.ts';
import { grow, shrink } from './tunnel/head.ts';

const NONE: u32 = 0xffff;

function setType(pkt: u32, ethertype: u32): void {
  const key = load<u32>(pkt + PKT_KEY);
  const l3: u32 = load<u16>(pkt + PKT_L3);
  if (load<u32>(key + K_PACKET_TYPE) !== 0) {
    // Below the last label may be a frame again.
    const type: u32 = ethertype === ETH_TYPE_TEB ? 0 : PACKET_TYPE_ETHERTYPE | ethertype;
    store<u32>(key + K_PACKET_TYPE, bswap<u32>(type));
    markLines(key, LINE2);
  } else if (l3 >= 2) {
    store<u16>(load<u32>(pkt + PKT_HEAD) + l3 - 2, bswap<u16>(<u16>ethertype));
  }
  store<u16>(key + K_ETH_TYPE, bswap<u16>(<u16>ethertype));
}

/** Moves the `bytes` bytes in front of L3 by `by`, after the head has grown or before it shrinks. */
function place(pkt: u32, from: u32, to: u32, bytes: u32): void {
  const head = load<u32>(pkt + PKT_HEAD);
  memory.copy(head + to, head + from, bytes);
}

export function pushMpls(pkt: u32, operands: u32): bool {
  const l3: u32 = load<u16>(pkt + PKT_L3);
  const l4: u32 = load<u16>(pkt + PKT_L4);
  if (l3 === NONE || l3 > load<u32>(pkt + PKT_HEAD_LEN) || !grow(pkt, 4)) return false;
  place(pkt, 4, 0, l3);
  store<u32>(load<u32>(pkt + PKT_HEAD) + l3, bswap<u32>(load<u32>(operands)));
  store<u16>(pkt + PKT_L3, <u16>l3);
  if (l4 !== NONE) store<u16>(pkt + PKT_L4, <u16>(l4 + 4));
  setType(pkt, load<u32>(operands, 4));
  return true;
}

/** A label in front of the whole packet, which is no Ethernet frame any more. */
export function addMpls(pkt: u32, operands: u32): bool {
  const l4: u32 = load<u16>(pkt + PKT_L4);
  if (!grow(pkt, 4)) return false;
  store<u32>(load<u32>(pkt + PKT_HEAD), bswap<u32>(load<u32>(operands)));
  store<u16>(pkt + PKT_L3, 0);
  store<u16>(pkt + PKT_L4, <u16>(l4 === NONE ? NONE : l4 + 4));
  const key = load<u32>(pkt + PKT_KEY);
  const type = load<u32>(operands, 4);
  store<u32>(key + K_PACKET_TYPE, bswap<u32>(PACKET_TYPE_ETHERTYPE | type));
  markLines(key, LINE2);
  store<u16>(key + K_ETH_TYPE, bswap<u16>(<u16>type));
  return true;
}

/** A packet without a whole entry stays as it is. */
export function popMpls(pkt: u32, operands: u32): bool {
  const l3: u32 = load<u16>(pkt + PKT_L3);
  const l4: u32 = load<u16>(pkt + PKT_L4);
  if (l3 === NONE || !isMpls(pkt)) return false;
  if (l3 + 4 > load<u32>(pkt + PKT_HEAD_LEN)) return true;
  place(pkt, 0, 4, l3);
  shrink(pkt, 4);
  store<u16>(pkt + PKT_L3, <u16>l3);
  store<u16>(pkt + PKT_L4, <u16>(l4 === NONE ? NONE : l4 - 4));
  setType(pkt, load<u32>(operands));
  return true;
}

export function setMpls(pkt: u32, operands: u32): bool {
  const l3: u32 = load<u16>(pkt + PKT_L3);
  if (l3 === NONE || !isMpls(pkt)) return false;
  if (l3 + 4 > load<u32>(pkt + PKT_HEAD_LEN)) return true;
  const at = load<u32>(pkt + PKT_HEAD) + l3;
  const mask = load<u32>(operands, 4);
  const entry = bswap<u32>(load<u32>(at));
  store<u32>(at, bswap<u32>((entry & ~mask) | (load<u32>(operands) & mask)));
  return true;
}

function isMpls(pkt: u32): bool {
  const type: u32 = load<u16>(load<u32>(pkt + PKT_KEY) + K_ETH_TYPE);
  return type === 0x4788 || type === 0x4888;
}

/** An Ethernet header for a packet that has none. */
export function pushEth(pkt: u32, operands: u32): bool {
  const key = load<u32>(pkt + PKT_KEY);
  const type = bswap<u32>(load<u32>(key + K_PACKET_TYPE)) & 0xffff;
  const l4: u32 = load<u16>(pkt + PKT_L4);
  if (load<u32>(key + K_PACKET_TYPE) === 0 || !grow(pkt, 14)) return false;
  const head = load<u32>(pkt + PKT_HEAD);
  memory.copy(head, operands, 12);
  store<u16>(head, bswap<u16>(<u16>type), 12);
  store<u16>(pkt + PKT_L3, 14);
  store<u16>(pkt + PKT_L4, <u16>(l4 === NONE ? NONE : l4 + 14));
  store<u32>(key + K_PACKET_TYPE, 0);
  return true;
}

/** Takes the Ethernet header off, tags and all; the type behind them goes into the packet's. */
export function popEth(pkt: u32): bool {
  const key = load<u32>(pkt + PKT_KEY);
  const l3: u32 = load<u16>(pkt + PKT_L3);
  const l4: u32 = load<u16>(pkt + PKT_L4);
  if (load<u32>(key + K_PACKET_TYPE) !== 0) return true;
  if (l3 === NONE || l3 < 14 || l3 > load<u32>(pkt + PKT_HEAD_LEN)) return false;
  const type: u32 = bswap<u16>(load<u16>(load<u32>(pkt + PKT_HEAD) + l3 - 2));
  shrink(pkt, l3);
  store<u16>(pkt + PKT_L3, 0);
  store<u16>(pkt + PKT_L4, <u16>(l4 === NONE ? NONE : l4 - l3));
  store<u32>(key + K_PACKET_TYPE, bswap<u32>(PACKET_TYPE_ETHERTYPE | type));
  markLines(key, LINE2);
  return true;
}
