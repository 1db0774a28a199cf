// Where the headers of an offloaded frame are: the little parser that segmentation and checks of offload fields need.
//
// It reads only the head of the packet, which is private to us, and never past its end (hostile-guest case G29). The
// parser of the flow key (dataplane/parse.ts) is another one: it knows far more protocols, and does not see the
// result of actions.

/** Offset of the IP header. */
export let l3: u32 = 0;
/** Offset of the transport header. */
export let l4: u32 = 0;
/** Transport protocol (IANA number). */
export let protocol: u32 = 0;
/** 4 or 6. */
export let ipVersion: u32 = 0;
/** Offset of the byte that names the transport protocol (IPv6: in the last header before it). */
export let protocolAt: u32 = 0;

export const PROTOCOL_TCP: u32 = 6;
export const PROTOCOL_UDP: u32 = 17;

/** Reads a big-endian u16. */
export function load16(at: u32): u32 {
  return bswap<u16>(load<u16>(at));
}
/** Writes a big-endian u16. */
export function store16(at: u32, value: u32): void {
  store<u16>(at, bswap<u16>(<u16>value));
}

/**
 * Finds IP and transport header of the frame whose first `bytes` bytes are at `frame`. False if it is not an
 * unfragmented IP packet or the headers do not fit.
 */
export function locate(frame: u32, bytes: u32): bool {
  let at: u32 = 12;
  if (bytes < 14) return false;
  let type = load16(frame + at);
  while (type === 0x8100 || type === 0x88a8 || type === 0x9100) {
    at += 4;
    if (at + 2 > bytes) return false;
    type = load16(frame + at);
  }
  l3 = at + 2;
  if (type === 0x0800) return locateIpv4(frame, bytes);
  if (type === 0x86dd) return locateIpv6(frame, bytes);
  return false;
}

function locateIpv4(frame: u32, bytes: u32): bool {
  if (l3 + 20 > bytes) return false;
  const first = <u32>load<u8>(frame + l3);
  const length = (first & 15) * 4;
  if (first >> 4 !== 4 || length < 20 || l3 + length > bytes) return false;
  if ((load16(frame + l3 + 6) & 0x3fff) !== 0) return false; // a fragment
  ipVersion = 4;
  protocol = load<u8>(frame + l3, 9);
  protocolAt = l3 + 9;
  l4 = l3 + length;
  return true;
}

function locateIpv6(frame: u32, bytes: u32): bool {
  if (l3 + 40 > bytes || load<u8>(frame + l3) >> 4 !== 6) return false;
  ipVersion = 6;
  let next = <u32>load<u8>(frame + l3, 6);
  let at = l3 + 40;
  protocolAt = l3 + 6;
  // Hop-by-hop options, routing, destination options, authentication. Anything else is transport, or unsuitable.
  while (next === 0 || next === 43 || next === 60 || next === 51) {
    if (at + 8 > bytes) return false;
    const units = <u32>load<u8>(frame + at, 1);
    const length = next === 51 ? (units + 2) * 4 : (units + 1) * 8;
    next = load<u8>(frame + at);
    protocolAt = at;
    at += length;
    if (at > bytes) return false;
  }
  if (next === 44) return false; // a fragment
  protocol = next;
  l4 = at;
  return true;
}
