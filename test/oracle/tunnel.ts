// Tunnel encapsulation, slowly and from the RFCs: the outer headers around a frame, with every length and checksum made from
// scratch. The data plane's push is compared with it, and its pop has to give the frame back.

import { be16, be32, bytes, checksum, onesSum } from './frames.ts';

export interface Encapsulation {
  type: 'vxlan' | 'geneve' | 'gre';
  version: 4 | 6;
  key: number;
  csum: boolean;
  /** GRE: the sequence number that is expected. */
  sequence: number | undefined;
  /** Geneve. */
  options: Uint8Array;
  tos: number;
}

const MACS = [0x02, 0, 0, 0, 0, 0x22, 0x02, 0, 0, 0, 0, 0x21];
const V4 = [172, 16, 0, 1, 172, 16, 0, 2];
const V6 = [...[0xfd, ...Array<number>(14).fill(0), 1], ...[0xfd, ...Array<number>(14).fill(0), 2]];
const UDP_PORT = { vxlan: 4789, geneve: 6081 };

function greHeader(e: Encapsulation, frame: Uint8Array): Uint8Array {
  const flags = (e.csum ? 0x8000 : 0) | 0x2000 | (e.sequence === undefined ? 0 : 0x1000);
  const make = (sum: number): Uint8Array =>
    bytes(
      be16(flags),
      be16(0x6558),
      e.csum ? [...be16(sum), 0, 0] : [],
      be32(e.key),
      e.sequence === undefined ? [] : be32(e.sequence),
    );
  return e.csum ? make(checksum(bytes(make(0), frame))) : make(0);
}

function udpPart(e: Encapsulation, frame: Uint8Array, sourcePort: number): Uint8Array {
  const header =
    e.type === 'vxlan'
      ? bytes(be32(0x08000000), be32((e.key << 8) >>> 0))
      : bytes(e.options.length / 4, 0, be16(0x6558), be32((e.key << 8) >>> 0), e.options);
  const length = 8 + header.length + frame.length;
  const port = UDP_PORT[e.type as 'vxlan' | 'geneve'];
  const make = (sum: number): Uint8Array =>
    bytes(be16(sourcePort), be16(port), be16(length), be16(sum), header);
  if (!e.csum && e.version === 4) return make(0);
  const pseudo = bytes(e.version === 4 ? V4 : V6, be32(length), be32(17));
  return make(checksum(pseudo, bytes(make(0), frame)) || 0xffff);
}

/** The whole frame on the underlay. */
export function encapsulate(e: Encapsulation, frame: Uint8Array, sourcePort: number): Uint8Array {
  const l4 = e.type === 'gre' ? greHeader(e, frame) : udpPart(e, frame, sourcePort);
  const protocol = e.type === 'gre' ? 47 : 17;
  const length = l4.length + frame.length;
  if (e.version === 6) {
    const ip = bytes(be32((0x60000000 | (e.tos << 20)) >>> 0), be16(length), protocol, 64, V6);
    return bytes(MACS, be16(0x86dd), ip, l4, frame);
  }
  const ip = (sum: number): Uint8Array =>
    bytes(0x45, e.tos, be16(20 + length), 0, 0, 0x40, 0, 64, protocol, be16(sum), V4);
  return bytes(MACS, be16(0x0800), ip(checksum(ip(0))), l4, frame);
}

/**
 * The header that a program brings: the encapsulation of nothing, without what depends on the packet. A UDP checksum that is to
 * be made is marked by ones; the IPv4 checksum is that of a header whose length is zero.
 */
export function template(e: Encapsulation): Uint8Array {
  const header = encapsulate(e, new Uint8Array(0), 0);
  const l4 = e.version === 4 ? 34 : 54;
  if (e.version === 4) {
    header.set([0, 0], 16);
    header.set([0, 0], 24);
    header.set(be16(checksum(header.subarray(14, 34))), 24);
  } else {
    header.set([0, 0], 18);
  }
  if (e.type === 'gre') {
    if (e.csum) header.set([0, 0], l4 + 4);
    if (e.sequence !== undefined) header.set([0, 0, 0, 0], header.length - 4);
  } else {
    header.set([0, 0], l4 + 4);
    header.set(e.csum || e.version === 6 ? [0xff, 0xff] : [0, 0], l4 + 6);
  }
  return header;
}

/** Is the sum over a finished datagram right? */
export function sumIsRight(pseudo: Uint8Array, datagram: Uint8Array): boolean {
  return onesSum(pseudo, datagram) === 0xffff;
}
