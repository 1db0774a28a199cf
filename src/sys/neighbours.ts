// The kernel's way to an IPv4 address: next hop by /proc/net/route, its Ethernet address by /proc/net/arp (proc(5)).

import { readFileSync } from 'node:fs';

const RTF_UP = 1;
const ATF_COM = 2;

function lines(path: string): string[][] {
  try {
    const rows = readFileSync(path, 'utf8').split('\n').slice(1);
    return rows.map((row) => row.trim().split(/\s+/));
  } catch {
    // A kernel without IPv4.
    return [];
  }
}

/** Addresses in /proc/net/route are hexadecimal in the machine's byte order, which is little-endian here. */
function fromHex(text: string): number {
  const value = Number.parseInt(text, 16) >>> 0;
  return Buffer.from([value, value >>> 8, value >>> 16, value >>> 24]).readUInt32BE();
}

/** Of `address`, 4 bytes; the address itself where it is on a link. Undefined: no route. */
export function nextHop(address: Uint8Array): { address: Uint8Array; device: string } | undefined {
  const wanted = Buffer.from(address).readUInt32BE();
  let best: { mask: number; gateway: number; device: string } | undefined;
  for (const [device, destination, gateway, flags, , , , mask] of lines('/proc/net/route')) {
    if (mask === undefined || (Number.parseInt(flags!, 16) & RTF_UP) === 0) continue;
    const bits = fromHex(mask);
    if ((wanted & bits) >>> 0 !== fromHex(destination!)) continue;
    if (best !== undefined && best.mask >= bits) continue;
    best = { mask: bits, gateway: fromHex(gateway!), device: device! };
  }
  if (best === undefined) return undefined;
  const hop = Buffer.alloc(4);
  hop.writeUInt32BE(best.gateway === 0 ? wanted : best.gateway);
  return { address: hop, device: best.device };
}

/** Ethernet address of a neighbour, "02:00:…", if the kernel knows it. */
export function neighbourMac(address: Uint8Array, device: string): string | undefined {
  const text = address.join('.');
  for (const [ip, , flags, mac, , name] of lines('/proc/net/arp')) {
    if (ip !== text || name !== device) continue;
    if ((Number.parseInt(flags!, 16) & ATF_COM) !== 0) return mac;
  }
  return undefined;
}
