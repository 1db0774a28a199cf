// Frames for tests: builders with right checksums and lengths, checksums from scratch, and fast-check arbitraries of
// valid, odd and broken frames.

import fc from 'fast-check';

export function bytes(...parts: (number | readonly number[] | Uint8Array)[]): Uint8Array {
  return Uint8Array.from(parts.flatMap((part) => (typeof part === 'number' ? [part] : [...part])));
}

export function be16(value: number): number[] {
  return [(value >> 8) & 0xff, value & 0xff];
}

export function be32(value: number): number[] {
  return [...be16(value >>> 16), ...be16(value & 0xffff)];
}

/** Ones' complement sum of the bytes as 16-bit words, folded, not inverted (RFC 1071). */
export function onesSum(...parts: Uint8Array[]): number {
  let sum = 0;
  for (const part of parts) {
    for (let i = 0; i < part.length; i += 2) sum += (part[i]! << 8) | (part[i + 1] ?? 0);
  }
  while (sum > 0xffff) sum = (sum & 0xffff) + Math.floor(sum / 0x10000);
  return sum;
}

export function checksum(...parts: Uint8Array[]): number {
  return ~onesSum(...parts) & 0xffff;
}

/** CRC32C, bit by bit (RFC 9260, appendix A). */
export function crc32c(data: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of data) {
    crc ^= byte;
    for (let i = 0; i < 8; i++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  }
  return ~crc >>> 0;
}

export interface IpOptions {
  src?: readonly number[];
  dst?: readonly number[];
  tos?: number;
  ttl?: number;
  label?: number;
  /** IPv4: options, a multiple of 4 bytes. */
  options?: readonly number[];
  /** Flags and offset word of IPv4; offset and flags word of an IPv6 fragment header (which is added then). */
  fragment?: number;
  /** IPv6: extension headers, each [its type, its bytes without the next-header byte]. */
  extensions?: readonly (readonly [number, readonly number[]])[];
  /** Leave only the pseudo-header sum, as offloading drivers do. */
  partial?: boolean;
  /** UDP without checksum. */
  noChecksum?: boolean;
}

export const MAC_A = [0x02, 0, 0, 0, 0, 0x0a];
export const MAC_B = [0x02, 0, 0, 0, 0, 0x0b];
export const IP4_A = [10, 0, 0, 1];
export const IP4_B = [10, 0, 0, 2];
export const IP6_A = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
export const IP6_B = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

export function ethernet(
  type: number,
  payload: Uint8Array,
  options: {
    src?: readonly number[];
    dst?: readonly number[];
    tags?: readonly [number, number][];
  } = {},
): Uint8Array {
  const tags = (options.tags ?? []).flatMap(([tpid, tci]) => [...be16(tpid), ...be16(tci)]);
  return bytes(options.dst ?? MAC_B, options.src ?? MAC_A, tags, be16(type), payload);
}

/** Fills in the transport checksum of `segment` for this pseudo header. */
function seal(
  proto: number,
  segment: Uint8Array,
  pseudo: Uint8Array,
  options: IpOptions,
): Uint8Array {
  const offset = { 6: 16, 17: 6, 58: 2 }[proto];
  const out = segment.slice();
  // A random payload may have anything where the checksum belongs.
  if (proto === 132 && out.length >= 12) out.fill(0, 8, 12);
  else if (proto === 1 || proto === 2) out.fill(0, 2, 4);
  else if (offset !== undefined) out.fill(0, offset, offset + 2);
  if ((proto === 1 || proto === 2) && out.length >= 4) {
    out.set(be16(checksum(out)), 2);
  } else if (proto === 132 && out.length >= 12) {
    const crc = crc32c(out);
    out.set([crc & 0xff, (crc >> 8) & 0xff, (crc >> 16) & 0xff, crc >>> 24], 8);
  } else if (offset !== undefined && out.length >= offset + 2) {
    if (proto === 17 && options.noChecksum) return out;
    const sum = options.partial ? onesSum(pseudo) : checksum(pseudo, out);
    out.set(be16(proto === 17 && sum === 0 && !options.partial ? 0xffff : sum), offset);
  }
  return out;
}

export function pseudo4(
  src: readonly number[],
  dst: readonly number[],
  proto: number,
  length: number,
): Uint8Array {
  return bytes(src, dst, 0, proto, be16(length));
}

export function pseudo6(
  src: readonly number[],
  dst: readonly number[],
  proto: number,
  length: number,
): Uint8Array {
  return bytes(src, dst, be32(length), 0, 0, 0, proto);
}

export function ipv4(proto: number, segment: Uint8Array, options: IpOptions = {}): Uint8Array {
  const { src = IP4_A, dst = IP4_B, tos = 0, ttl = 64, fragment = 0 } = options;
  const extra = options.options ?? [];
  const sealed =
    (fragment & 0x1fff) !== 0
      ? segment
      : seal(proto, segment, pseudo4(src, dst, proto, segment.length), options);
  const header = bytes(
    0x40 | (5 + extra.length / 4),
    tos,
    be16(20 + extra.length + sealed.length),
    [0x12, 0x34],
    be16(fragment),
    ttl,
    proto,
    [0, 0],
    src,
    dst,
    extra,
  );
  header.set(be16(checksum(header)), 10);
  return bytes(header, sealed);
}

export function ipv6(proto: number, segment: Uint8Array, options: IpOptions = {}): Uint8Array {
  const { src = IP6_A, dst = IP6_B, tos = 0, ttl = 64, label = 0 } = options;
  const extensions = [...(options.extensions ?? [])];
  if (options.fragment !== undefined)
    extensions.push([44, [0, ...be16(options.fragment), 1, 2, 3, 4]]);
  const chain = [...extensions.map(([type]) => type), proto];
  const headers = extensions.flatMap(([, body], i) => [chain[i + 1]!, ...body]);
  const isLater = ((options.fragment ?? 0) & 0xfff8) !== 0;
  const sealed = isLater
    ? segment
    : seal(proto, segment, pseudo6(src, dst, proto, segment.length), options);
  return bytes(
    be32(((6 << 28) | (tos << 20) | label) >>> 0),
    be16(headers.length + sealed.length),
    chain[0]!,
    ttl,
    src,
    dst,
    headers,
    sealed,
  );
}

export function tcp(src: number, dst: number, payload: Uint8Array, flags = 0x18): Uint8Array {
  return bytes(
    be16(src),
    be16(dst),
    be32(1),
    be32(2),
    0x50,
    flags,
    be16(1000),
    [0, 0, 0, 0],
    payload,
  );
}

export function udp(src: number, dst: number, payload: Uint8Array): Uint8Array {
  return bytes(be16(src), be16(dst), be16(8 + payload.length), [0, 0], payload);
}

export function sctp(src: number, dst: number, payload: Uint8Array): Uint8Array {
  return bytes(be16(src), be16(dst), be32(7), [0, 0, 0, 0], payload);
}

export function icmp(type: number, code: number, rest: Uint8Array): Uint8Array {
  return bytes(type, code, [0, 0], rest);
}

export function arp(
  op: number,
  sha: number[],
  spa: number[],
  tha: number[],
  tpa: number[],
): Uint8Array {
  return bytes(be16(1), be16(0x0800), 6, 4, be16(op), sha, spa, tha, tpa);
}

/** Neighbour solicitation (135) or advertisement (136); options are [type, address]. */
export function neighbour(
  type: number,
  target: readonly number[],
  options: [number, number[]][] = [],
): Uint8Array {
  const body = options.flatMap(([kind, mac]) => [kind, 1, ...mac]);
  return icmp(type, 0, bytes(be32(0x60000000), target, body));
}

// ---- arbitraries

const byteArray = (length: number): fc.Arbitrary<number[]> =>
  fc.array(fc.nat(255), { minLength: length, maxLength: length });
const payload = fc.uint8Array({ maxLength: 600 });
const port = fc.oneof(fc.constantFrom(0, 53, 80, 4789, 65535), fc.nat(65535));

const ipOptions: fc.Arbitrary<IpOptions> = fc.record(
  {
    tos: fc.nat(255),
    ttl: fc.nat(255),
    label: fc.nat(0xfffff),
    options: fc.constantFrom<number[]>([], [1, 1, 1, 0], [7, 7, 4, 0, 0, 0, 0, 0]),
    noChecksum: fc.boolean(),
  },
  { requiredKeys: [] },
);
const extensions = fc.array(
  fc.constantFrom<readonly [number, readonly number[]]>(
    [0, [0, 1, 4, 0, 0, 0, 0]],
    [43, [0, 0, 0, 0, 0, 0, 0]],
    [43, [2, 0, 1, 0, 0, 0, 0, ...IP6_A]],
    [60, [1, 1, 12, ...new Array<number>(12).fill(0)]],
    [51, [4, ...new Array<number>(22).fill(9)]],
    [60, [31, ...new Array<number>(254).fill(0)]], // pushes the transport header out of the head
  ),
  { maxLength: 3 },
);
const fragment4 = fc.constantFrom(0, 0, 0, 0x4000, 0x2000, 0x2010, 0x0020);
const fragment6 = fc.constantFrom(undefined, undefined, undefined, 0, 1, 0x10, 0x11);

const segment = fc.oneof(
  fc.tuple(port, port, payload, fc.nat(255)).map(([s, d, p, f]) => [6, tcp(s, d, p, f)] as const),
  fc.tuple(port, port, payload).map(([s, d, p]) => [17, udp(s, d, p)] as const),
  fc.tuple(port, port, payload).map(([s, d, p]) => [132, sctp(s, d, p)] as const),
  fc.tuple(fc.nat(255), payload).map(([proto, p]) => [proto, p] as const),
);
const icmp4 = fc
  .tuple(fc.constantFrom(1, 2), fc.nat(255), fc.nat(255), payload)
  .map(([proto, t, c, p]) => [proto, icmp(t, c, p)] as const);
const icmp6 = fc.oneof(
  fc.tuple(fc.nat(255), fc.nat(255), payload).map(([t, c, p]) => [58, icmp(t, c, p)] as const),
  fc
    .tuple(
      fc.constantFrom(135, 136),
      byteArray(16),
      fc.array(fc.tuple(fc.constantFrom(1, 2, 3), byteArray(6)), { maxLength: 3 }),
    )
    .map(([t, target, options]) => [58, neighbour(t, target, options)] as const),
);

/** Transport headers cut short within an intact IP packet, or with a TCP header length that is too much. */
const short = (
  whole: fc.Arbitrary<readonly [number, Uint8Array]>,
): fc.Arbitrary<readonly [number, Uint8Array]> =>
  fc.tuple(whole, fc.integer({ min: 0, max: 27 })).map(([[proto, data], length]) => {
    const cut = data.slice(0, length);
    if (proto === 6 && length > 19) cut[12] = length % 2 === 0 ? 0xf0 : 0x40;
    return [proto, cut] as const;
  });
const mostlyWhole = (
  whole: fc.Arbitrary<readonly [number, Uint8Array]>,
): fc.Arbitrary<readonly [number, Uint8Array]> =>
  fc.oneof({ weight: 7, arbitrary: whole }, { weight: 1, arbitrary: short(whole) });

const packet4 = fc
  .tuple(mostlyWhole(fc.oneof(segment, icmp4)), ipOptions, fragment4, byteArray(4), byteArray(4))
  .map(([[proto, data], o, fragment, src, dst]) => ipv4(proto, data, { ...o, fragment, src, dst }));
const packet6 = fc
  .tuple(
    mostlyWhole(fc.oneof(segment, icmp6)),
    ipOptions,
    fragment6,
    extensions,
    byteArray(16),
    byteArray(16),
  )
  .map(([[proto, data], o, fragment, ext, src, dst]) =>
    ipv6(proto, data, { ...o, fragment, extensions: ext, src, dst }),
  );
const arpPacket = fc
  .tuple(fc.nat(300), byteArray(6), byteArray(4), byteArray(6), byteArray(4))
  .map(([op, sha, spa, tha, tpa]) => arp(op, sha, spa, tha, tpa));
const snap = fc
  .tuple(fc.constantFrom(0x0800, 0x0003, 0x0806), payload, fc.boolean())
  .map(([type, p, isSnap]) => bytes(0xaa, 0xaa, 3, isSnap ? [0, 0, 0] : [0, 0, 1], be16(type), p));
const mpls = fc.tuple(fc.array(fc.nat(0xffffffff), { maxLength: 5 }), payload).map(([labels, p]) =>
  bytes(
    labels.flatMap((label) => be32(label)),
    p,
  ),
);

/** [Ethernet type or length, what follows]. */
const body: fc.Arbitrary<readonly [number, Uint8Array]> = fc.oneof(
  { weight: 4, arbitrary: packet4.map((p) => [0x0800, p] as const) },
  { weight: 4, arbitrary: packet6.map((p) => [0x86dd, p] as const) },
  { weight: 1, arbitrary: arpPacket.map((p) => [0x0806, p] as const) },
  { weight: 1, arbitrary: arpPacket.map((p) => [0x8035, p] as const) },
  { weight: 1, arbitrary: snap.map((p) => [p.length, p] as const) },
  { weight: 1, arbitrary: mpls.map((p) => [0x8847, p] as const) },
  { weight: 1, arbitrary: fc.tuple(fc.nat(65535), payload) },
);
const tags = fc.array(
  fc
    .tuple(fc.constantFrom(0x8100, 0x88a8), fc.nat(65535))
    .map(([p, t]): [number, number] => [p, t]),
  { maxLength: 3 },
);

/** Frames whose lengths and checksums are right, with 0 to 3 VLAN tags and perhaps padding. */
export const validFrame: fc.Arbitrary<Uint8Array> = fc
  .tuple(body, tags, byteArray(6), byteArray(6), fc.constantFrom(0, 0, 1, 18))
  .map(([[type, data], t, src, dst, padding]) =>
    bytes(ethernet(type, data, { src, dst, tags: t }), new Uint8Array(padding)),
  );

/** Any frame: valid, cut, lengthened, with bytes overwritten. At least an Ethernet header long. */
export const anyFrame: fc.Arbitrary<Uint8Array> = fc
  .tuple(
    validFrame,
    fc.array(fc.tuple(fc.nat(120), fc.nat(255)), { maxLength: 3 }),
    fc.option(fc.nat(700), { nil: undefined, freq: 2 }),
    fc.boolean(),
  )
  .map(([frame, changes, cut, mutate]) => {
    const out = frame.slice();
    if (mutate) for (const [at, value] of changes) if (at < out.length) out[at] = value;
    return cut === undefined ? out : out.slice(0, Math.max(14, cut));
  });
