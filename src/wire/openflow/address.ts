// Text of addresses as Open vSwitch writes and reads it: Ethernet, IPv4 with CIDR or netmask, IPv6 as inet_ntop(3) does
// (RFC 5952, and dotted quads in the embedded forms).

export function hex2(bytes: Uint8Array, separator = ':'): string {
  return Array.from(bytes, (b) => b.toString(16).padStart(2, '0')).join(separator);
}

export function formatIpv4(bytes: Uint8Array): string {
  return Array.from(bytes).join('.');
}

export function formatIpv6(bytes: Uint8Array): string {
  const words = Array.from({ length: 8 }, (_, i) => (bytes[2 * i]! << 8) | bytes[2 * i + 1]!);
  let best = -1;
  let bestLen = 1;
  for (let i = 0; i < 8; i++) {
    let n = 0;
    while (i + n < 8 && words[i + n] === 0) n++;
    if (n > bestLen) [best, bestLen] = [i, n];
    i += n;
  }
  // IPv4-compatible and IPv4-mapped addresses.
  if (best === 0 && (bestLen === 6 || (bestLen === 5 && words[5] === 0xffff)))
    return `${bestLen === 6 ? '::' : '::ffff:'}${formatIpv4(bytes.subarray(12))}`;
  const hex = words.map((w) => w.toString(16));
  if (best < 0) return hex.join(':');
  return `${hex.slice(0, best).join(':')}::${hex.slice(best + bestLen).join(':')}`;
}

/** Leading ones of a CIDR mask, -1 for any other mask. */
export function cidrBits(mask: Uint8Array): number {
  let bits = 0;
  let over = false;
  for (const byte of mask) {
    for (let i = 7; i >= 0; i--) {
      if ((byte & (1 << i)) === 0) over = true;
      else if (over) return -1;
      else bits++;
    }
  }
  return bits;
}

export function prefixMask(bits: number, bytes: number): Uint8Array {
  const mask = new Uint8Array(bytes);
  for (let i = 0; i < bits; i++) mask[i >> 3]! |= 0x80 >> (i & 7);
  return mask;
}

/** `address`, `address/bits` or `address/mask`. */
export function formatMasked(
  address: Uint8Array,
  mask: Uint8Array,
  format: (bytes: Uint8Array) => string,
): string {
  if (mask.every((b) => b === 0xff)) return format(address);
  const bits = format === hex2 ? -1 : cidrBits(mask);
  return `${format(address)}/${bits >= 0 ? bits : format(mask)}`;
}

export function parseMac(text: string): Uint8Array | undefined {
  if (!/^[0-9a-f]{1,2}(:[0-9a-f]{1,2}){5}$/i.test(text)) return undefined;
  return Uint8Array.from(text.split(':'), (b) => Number.parseInt(b, 16));
}

export function parseIpv4(text: string): Uint8Array | undefined {
  if (!/^\d{1,3}(\.\d{1,3}){3}$/.test(text)) return undefined;
  const bytes = text.split('.').map(Number);
  return bytes.some((b) => b > 255) ? undefined : Uint8Array.from(bytes);
}

export function parseIpv6(text: string): Uint8Array | undefined {
  const quad = /^(.*:)(\d+\.\d+\.\d+\.\d+)$/.exec(text);
  if (quad !== null) {
    const v4 = parseIpv4(quad[2]!);
    if (v4 === undefined) return undefined;
    const words = [(v4[0]! << 8) | v4[1]!, (v4[2]! << 8) | v4[3]!];
    text = quad[1]! + words.map((w) => w.toString(16)).join(':');
  }
  const halves = text.split('::');
  if (halves.length > 2) return undefined;
  const words = (half: string): string[] => (half === '' ? [] : half.split(':'));
  const head = words(halves[0]!);
  const tail = words(halves[1] ?? '');
  const gap = 8 - head.length - tail.length;
  if (halves.length === 2 ? gap < 1 : gap !== 0) return undefined;
  const all = [...head, ...Array<string>(gap).fill('0'), ...tail];
  const bytes = new Uint8Array(16);
  for (const [i, word] of all.entries()) {
    if (!/^[0-9a-f]{1,4}$/i.test(word)) return undefined;
    const value = Number.parseInt(word, 16);
    bytes[2 * i] = value >> 8;
    bytes[2 * i + 1] = value;
  }
  return bytes;
}
