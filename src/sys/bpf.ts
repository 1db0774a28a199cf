// The XDP program that hands a device's frames to AF_XDP sockets, loaded and attached with bpf(2) (linux/bpf.h).
//
//   r2 = ctx->rx_queue_index
//   r1 = the map of sockets            (two instruction slots)
//   r3 = XDP_PASS                      (no socket on that queue: to the kernel's stack)
//   call bpf_redirect_map
//   exit
//
// Attached by a bpf_link: it goes with its descriptor, however the process ends.

import { closeFd } from './fd.ts';
import { c, cString, EINVAL, errno, NativeBuffer, SysError } from './ffi.ts';

const SYS_BPF = process.arch === 'arm64' ? 280n : 321n;
const BPF_MAP_CREATE = 0;
const BPF_MAP_UPDATE_ELEM = 2;
const BPF_PROG_LOAD = 5;
const BPF_LINK_CREATE = 28;
const BPF_MAP_TYPE_XSKMAP = 17;
const BPF_PROG_TYPE_XDP = 6;
const BPF_XDP = 37;
const BPF_F_XDP_HAS_FRAGS = 1 << 5;
const XDP_PASS = 2;
const ATTR_BYTES = 128;
const LOG_BYTES = 4096;

export const XDP_FLAGS_SKB_MODE = 2;
export const XDP_FLAGS_DRV_MODE = 4;

function bpf(command: number, attr: NativeBuffer, what: string): number {
  const size = BigInt(ATTR_BYTES);
  const result = Number(c.syscall(SYS_BPF, BigInt(command), attr.address, size, 0n, 0n, 0n));
  if (result < 0) throw new SysError(what, errno());
  return result;
}

/** A map from receive queue to AF_XDP socket. */
export function xskMapCreate(entries: number): number {
  const attr = new NativeBuffer(ATTR_BYTES);
  [BPF_MAP_TYPE_XSKMAP, 4, 4, entries].forEach((value, i) => {
    attr.view.setUint32(i * 4, value, true);
  });
  return bpf(BPF_MAP_CREATE, attr, 'BPF_MAP_CREATE');
}

/** Frames of receive queue `queue` go to the (bound) socket from now on. */
export function xskMapSet(map: number, queue: number, socket: number): void {
  const pair = new NativeBuffer(8);
  pair.view.setUint32(0, queue, true);
  pair.view.setInt32(4, socket, true);
  const attr = new NativeBuffer(ATTR_BYTES);
  attr.view.setUint32(0, map, true);
  attr.view.setBigUint64(8, pair.address, true);
  attr.view.setBigUint64(16, pair.address + 4n, true);
  bpf(BPF_MAP_UPDATE_ELEM, attr, 'BPF_MAP_UPDATE_ELEM');
}

/** The program as bytes: op u8, dst | src << 4 u8, offset i16, immediate i32. Exported for its test. */
export function xdpProgram(map: number): Uint8Array {
  const code = new Uint8Array(48);
  const view = new DataView(code.buffer);
  const put = (
    slot: number,
    op: number,
    registers: number,
    offset: number,
    value: number,
  ): void => {
    view.setUint8(slot * 8, op);
    view.setUint8(slot * 8 + 1, registers);
    view.setInt16(slot * 8 + 2, offset, true);
    view.setInt32(slot * 8 + 4, value, true);
  };
  put(0, 0x61, 0x12, 16, 0); // r2 = *(u32 *)(r1 + 16)
  put(1, 0x18, 0x11, 0, map); // r1 = map (pseudo map fd), 64-bit immediate ...
  put(2, 0, 0, 0, 0); // ... second half
  put(3, 0xb7, 0x03, 0, XDP_PASS); // r3 = XDP_PASS
  put(4, 0x85, 0, 0, 51); // call bpf_redirect_map
  put(5, 0x95, 0, 0, 0); // exit
  return code;
}

function load(map: number, flags: number): number {
  const program = xdpProgram(map);
  const code = new NativeBuffer(program.length);
  code.bytes.set(program);
  const license = cString('Dual MIT/GPL');
  const log = new NativeBuffer(LOG_BYTES);
  const attr = new NativeBuffer(ATTR_BYTES);
  attr.view.setUint32(0, BPF_PROG_TYPE_XDP, true);
  attr.view.setUint32(4, program.length / 8, true);
  attr.view.setBigUint64(8, code.address, true);
  attr.view.setBigUint64(16, license.address, true);
  attr.view.setUint32(24, 1, true);
  attr.view.setUint32(28, LOG_BYTES, true);
  attr.view.setBigUint64(32, log.address, true);
  attr.view.setUint32(44, flags, true);
  attr.bytes.set(Buffer.from('xvio_xsk'), 48);
  return bpf(BPF_PROG_LOAD, attr, 'BPF_PROG_LOAD');
}

/** Loads the program for a map of sockets. It accepts frames of several buffers where the kernel (5.18) can. */
export function loadXdpProgram(map: number): number {
  try {
    return load(map, BPF_F_XDP_HAS_FRAGS);
  } catch (thrown) {
    if (!(thrown instanceof SysError) || thrown.errno !== EINVAL) throw thrown;
    return load(map, 0);
  }
}

/**
 * Attaches a program to a device in XDP_FLAGS_SKB_MODE (generic) or XDP_FLAGS_DRV_MODE (native). Closing the result
 * detaches it. Throws SysError: EOPNOTSUPP (the driver has no XDP), EBUSY (another program is there).
 */
export function attachXdp(program: number, ifindex: number, mode: number): number {
  const attr = new NativeBuffer(ATTR_BYTES);
  [program, ifindex, BPF_XDP, mode].forEach((value, i) => {
    attr.view.setUint32(i * 4, value, true);
  });
  return bpf(BPF_LINK_CREATE, attr, 'BPF_LINK_CREATE');
}

/** Program, map and link of one device. */
export interface XdpAttachment extends Disposable {
  readonly map: number;
}

/** Map, program and attachment in one go. */
export function attachXskProgram(ifindex: number, queues: number, mode: number): XdpAttachment {
  const fds: number[] = [];
  const close = (): void => {
    for (const fd of fds.splice(0).reverse()) closeFd(fd);
  };
  try {
    const map = xskMapCreate(queues);
    fds.push(map);
    const program = loadXdpProgram(map);
    fds.push(program);
    fds.push(attachXdp(program, ifindex, mode));
    return { map, [Symbol.dispose]: close };
  } catch (thrown) {
    close();
    throw thrown;
  }
}
