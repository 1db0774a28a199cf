// Packets with L4 checksums in the states that matter to offloads.

export interface L4Options {
  version?: 4 | 6;
  protocol: 'tcp' | 'udp';
  /** VLAN tags. */
  tags?: number;
  /** Bytes after the L4 header. */
  payload?: number;
  /** partial: the folded pseudo-header sum only, as the kernel leaves it to the device. */
  checksum?: 'partial' | 'full';
}

function fold(sum: number): number {
  let folded = sum;
  while (folded > 0xffff) folded = (folded & 0xffff) + Math.floor(folded / 0x10000);
  return folded;
}

/** Sum of big-endian 16-bit words, not folded. */
export function wordSum(bytes: Uint8Array): number {
  let sum = 0;
  for (let i = 0; i < bytes.length; i++) sum += bytes[i]! << (i % 2 === 0 ? 8 : 0);
  return sum;
}

/** Folded sum of a pseudo-header (RFC 793, RFC 8200 8.1), not inverted. */
export function pseudoSum(addresses: Uint8Array, protocol: number, length: number): number {
  return fold(wordSum(addresses) + protocol + (length & 0xffff) + (length >>> 16));
}

/** An Ethernet frame 10.0.0.1 -> 10.0.0.2 or fd00::1 -> fd00::2. */
export function l4Packet(options: L4Options): Buffer {
  const { version = 4, protocol, tags = 0, payload = 100, checksum = 'partial' } = options;
  const tcp = protocol === 'tcp';
  const l4 = Buffer.alloc((tcp ? 20 : 8) + payload);
  l4.writeUInt16BE(1234, 0);
  l4.writeUInt16BE(5678, 2);
  if (tcp) {
    l4.writeUInt32BE(1000, 4);
    l4[12] = 0x50;
    l4[13] = 0x18;
  } else l4.writeUInt16BE(l4.length, 4);
  for (let i = tcp ? 20 : 8; i < l4.length; i++) l4[i] = i * 5;

  const number = tcp ? 6 : 17;
  let ip: Buffer;
  let addresses: Buffer;
  if (version === 4) {
    addresses = Buffer.from([10, 0, 0, 1, 10, 0, 0, 2]);
    ip = Buffer.alloc(20);
    ip[0] = 0x45;
    ip.writeUInt16BE(20 + l4.length, 2);
    ip[8] = 64;
    ip[9] = number;
    addresses.copy(ip, 12);
    ip.writeUInt16BE(~fold(wordSum(ip)) & 0xffff, 10);
  } else {
    addresses = Buffer.alloc(32);
    addresses[0] = addresses[16] = 0xfd;
    addresses[15] = 1;
    addresses[31] = 2;
    ip = Buffer.alloc(40);
    ip[0] = 0x60;
    ip.writeUInt16BE(l4.length, 4);
    ip[6] = number;
    ip[7] = 64;
    addresses.copy(ip, 8);
  }
  const at = tcp ? 16 : 6;
  const pseudo = pseudoSum(addresses, number, l4.length);
  l4.writeUInt16BE(checksum === 'partial' ? pseudo : ~fold(pseudo + wordSum(l4)) & 0xffff, at);

  const ethernet = Buffer.from([2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]);
  const vlan = Buffer.concat(
    Array.from({ length: tags }, (_, i) => Buffer.from([0x81, 0, 0, i + 1])),
  );
  const type = Buffer.from(version === 4 ? [8, 0] : [0x86, 0xdd]);
  return Buffer.concat([ethernet, vlan, type, ip, l4]);
}
