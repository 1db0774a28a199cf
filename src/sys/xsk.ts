// AF_XDP sockets (linux/if_xdp.h, kernel Documentation/networking/af_xdp.rst): UMEM and rings inside the shared memory.
//
// The UMEM is a range of the arena, registered with the socket. The four rings belong to the kernel and are mapped over
// page-aligned ranges of the arena (MAP_FIXED), so that the data plane reads and writes them like its own memory.

import { closeFd } from './fd.ts';
import { c, check, NativeBuffer } from './ffi.ts';
import { mapAnonymous, mapFixed, PAGE_SIZE } from './memory.ts';

const AF_XDP = 44;
const SOCK_RAW = 3;
const SOCK_CLOEXEC = 0x80000;
const SOL_XDP = 283;
const XDP_MMAP_OFFSETS = 1;
const XDP_RX_RING = 2;
const XDP_TX_RING = 3;
const XDP_UMEM_REG = 4;
const XDP_UMEM_FILL_RING = 5;
const XDP_UMEM_COMPLETION_RING = 6;
const XDP_STATISTICS = 7;
export const XDP_COPY = 2;
export const XDP_ZEROCOPY = 4;
export const XDP_USE_NEED_WAKEUP = 8;
export const XDP_USE_SG = 16;

const RINGS = ['rx', 'tx', 'fill', 'completion'] as const;
type RingName = (typeof RINGS)[number];
const RING_OPTION = {
  rx: XDP_RX_RING,
  tx: XDP_TX_RING,
  fill: XDP_UMEM_FILL_RING,
  completion: XDP_UMEM_COMPLETION_RING,
};
const RING_PAGE_OFFSET = { rx: 0n, tx: 0x80000000n, fill: 0x100000000n, completion: 0x180000000n };
const ENTRY_BYTES = { rx: 16, tx: 16, fill: 8, completion: 8 };
/** Producer, consumer and flags come before the entries, in their own cache lines. */
const RING_HEADER_ROOM = PAGE_SIZE;

/** Memory offsets of the parts of a mapped ring. */
export interface XskRing {
  producer: number;
  consumer: number;
  flags: number;
  entries: number;
  size: number;
}

export interface Xsk {
  readonly fd: number;
  readonly rings: Readonly<Record<RingName, XskRing>>;
  /** Detaches the rings from the memory and closes the socket. */
  close(): void;
}

export interface XskLayout {
  /** Real address of byte 0 of the memory. */
  base: bigint;
  /** Range of the memory for the UMEM, page-aligned. */
  umem: number;
  umemBytes: number;
  frameBytes: number;
  /** Range of ringBytes(entries) for the rings, page-aligned. */
  ringArea: number;
  /** Entries of each ring, a power of two. */
  entries: number;
}

function ringLength(name: RingName, entries: number): number {
  const bytes = RING_HEADER_ROOM + entries * ENTRY_BYTES[name];
  return Math.ceil(bytes / PAGE_SIZE) * PAGE_SIZE;
}

/** Bytes of memory that the four rings take. */
export function ringBytes(entries: number): number {
  return RINGS.reduce((sum, name) => sum + ringLength(name, entries), 0);
}

function setOption(
  fd: number,
  option: number,
  buffer: NativeBuffer,
  length: number,
  what: string,
): void {
  check(c.setsockopt(fd, SOL_XDP, option, buffer.address, length), what);
}

/** Makes a socket with UMEM and rings; not bound yet. Throws SysError. */
export function openXsk(layout: XskLayout): Xsk {
  const { base, entries } = layout;
  const fd = check(c.socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0), 'socket AF_XDP');
  const mapped: [at: number, length: number][] = [];
  const close = (): void => {
    for (const [at, length] of mapped.splice(0)) mapAnonymous(base + BigInt(at), length);
    closeFd(fd);
  };
  try {
    const umem = new NativeBuffer(32); // struct xdp_umem_reg: u64 addr, u64 len, u32 chunk_size, u32 headroom, flags
    umem.view.setBigUint64(0, base + BigInt(layout.umem), true);
    umem.view.setBigUint64(8, BigInt(layout.umemBytes), true);
    umem.view.setUint32(16, layout.frameBytes, true);
    setOption(fd, XDP_UMEM_REG, umem, 32, 'XDP_UMEM_REG');
    const count = new NativeBuffer(4);
    count.view.setUint32(0, entries, true);
    for (const name of RINGS) setOption(fd, RING_OPTION[name], count, 4, `XDP ${name} ring`);

    const offsets = new NativeBuffer(128); // rx, tx, fill, completion: u64 producer, consumer, desc, flags each
    const length = new NativeBuffer(4);
    length.view.setUint32(0, 128, true);
    const got = c.getsockopt(fd, SOL_XDP, XDP_MMAP_OFFSETS, offsets.address, length.address);
    check(got, 'XDP_MMAP_OFFSETS');
    const rings = {} as Record<RingName, XskRing>;
    let at = layout.ringArea;
    RINGS.forEach((name, i) => {
      const offset = (word: number): number =>
        Number(offsets.view.getBigUint64(i * 32 + word * 8, true));
      const bytes = ringLength(name, entries);
      const used = offset(2) + entries * ENTRY_BYTES[name];
      if (used > bytes) throw new Error(`XDP ${name} ring does not fit its place`);
      const pages = Math.ceil(used / PAGE_SIZE) * PAGE_SIZE;
      mapFixed(base + BigInt(at), fd, RING_PAGE_OFFSET[name], pages, { populate: true });
      mapped.push([at, pages]);
      rings[name] = {
        producer: at + offset(0),
        consumer: at + offset(1),
        entries: at + offset(2),
        flags: at + offset(3),
        size: entries,
      };
      at += bytes;
    });
    return { fd, rings, close };
  } catch (thrown) {
    close();
    throw thrown;
  }
}

/** Binds to one queue of a device. Throws SysError: EOPNOTSUPP (mode), EBUSY (queue taken), EINVAL (no such queue). */
export function bindXsk(fd: number, ifindex: number, queue: number, flags: number): void {
  const address = new NativeBuffer(16); // struct sockaddr_xdp
  address.view.setUint16(0, AF_XDP, true);
  address.view.setUint16(2, flags, true);
  address.view.setUint32(4, ifindex, true);
  address.view.setUint32(8, queue, true);
  check(c.bind(fd, address.address, 16), 'bind AF_XDP');
}

/** struct xdp_statistics, in its order. */
export const XSK_STATISTICS = [
  'rx_dropped',
  'rx_invalid_descs',
  'tx_invalid_descs',
  'rx_ring_full',
  'rx_fill_ring_empty_descs',
  'tx_ring_empty_descs',
] as const;

/** Counters of a socket since it was made, in the order of XSK_STATISTICS. */
export function xskStatistics(fd: number): number[] {
  const buffer = new NativeBuffer(48);
  const length = new NativeBuffer(4);
  length.view.setUint32(0, 48, true);
  c.getsockopt(fd, SOL_XDP, XDP_STATISTICS, buffer.address, length.address);
  return XSK_STATISTICS.map((_, i) => Number(buffer.view.getBigUint64(i * 8, true)));
}
