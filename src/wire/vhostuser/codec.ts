// Bytes of vhost-user messages: header and payloads, both ways (vhost-user specification, "Message Specification").
//
//   0        4        8        12
//   +--------+--------+--------+----------------+      flags: bits 0-1 version (1), 2 REPLY, 3 NEED_REPLY
//   | request| flags  | size   | payload        |      everything little-endian
//   +--------+--------+--------+----------------+
//
// Addresses and sizes of 64 bits are bigint. Decoders expect payloads whose size has been checked against the table
// of messages.ts; they do not judge values.

import { FLAG_REPLY, FLAG_VERSION, HEADER_SIZE, REGION_SIZE } from './messages.ts';

export interface Header {
  readonly request: number;
  readonly flags: number;
  /** Bytes of payload. */
  readonly size: number;
}

/** A region of guest memory as the front-end describes it. */
export interface MemoryRegion {
  readonly guestAddress: bigint;
  readonly size: bigint;
  /** Address in the front-end's own address space: rings are given by it. */
  readonly userAddress: bigint;
  /** Offset of the region's first byte in the file that comes along. */
  readonly mmapOffset: bigint;
}

export interface VringState {
  readonly index: number;
  readonly num: number;
}

export interface VringAddr {
  readonly index: number;
  readonly flags: number;
  /** User addresses of the front-end. */
  readonly desc: bigint;
  readonly used: bigint;
  readonly avail: bigint;
  /** Guest physical address of the used ring, for the dirty log. */
  readonly logAddress: bigint;
}

export interface LogBase {
  readonly size: bigint;
  readonly offset: bigint;
}

export interface Inflight {
  readonly size: bigint;
  readonly offset: bigint;
  readonly numQueues: number;
  readonly queueSize: number;
}

export interface DeviceStateTransfer {
  /** 0 = save (we write), 1 = load (we read). */
  readonly direction: number;
  /** 0 = the device is stopped. */
  readonly phase: number;
}

function view(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

export function decodeHeader(bytes: Uint8Array): Header {
  const v = view(bytes);
  return {
    request: v.getUint32(0, true),
    flags: v.getUint32(4, true),
    size: v.getUint32(8, true),
  };
}

/** A whole message. `flags` is or-ed to the version. */
export function encodeMessage(request: number, flags: number, payload: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(HEADER_SIZE + payload.length);
  const v = view(bytes);
  v.setUint32(0, request, true);
  v.setUint32(4, FLAG_VERSION | flags, true);
  v.setUint32(8, payload.length, true);
  bytes.set(payload, HEADER_SIZE);
  return bytes;
}

/** The answer to `request`: flags are exactly version and REPLY, which QEMU insists on. */
export function encodeReply(request: number, payload: Uint8Array): Uint8Array {
  return encodeMessage(request, FLAG_REPLY, payload);
}

export function decodeU64(payload: Uint8Array): bigint {
  return view(payload).getBigUint64(0, true);
}

export function encodeU64(value: bigint): Uint8Array {
  const bytes = new Uint8Array(8);
  view(bytes).setBigUint64(0, value, true);
  return bytes;
}

export function decodeVringState(payload: Uint8Array): VringState {
  const v = view(payload);
  return { index: v.getUint32(0, true), num: v.getUint32(4, true) };
}

export function encodeVringState(state: VringState): Uint8Array {
  const bytes = new Uint8Array(8);
  view(bytes).setUint32(0, state.index, true);
  view(bytes).setUint32(4, state.num, true);
  return bytes;
}

export function decodeVringAddr(payload: Uint8Array): VringAddr {
  const v = view(payload);
  return {
    index: v.getUint32(0, true),
    flags: v.getUint32(4, true),
    desc: v.getBigUint64(8, true),
    used: v.getBigUint64(16, true),
    avail: v.getBigUint64(24, true),
    logAddress: v.getBigUint64(32, true),
  };
}

export function encodeVringAddr(addr: VringAddr): Uint8Array {
  const bytes = new Uint8Array(40);
  const v = view(bytes);
  v.setUint32(0, addr.index, true);
  v.setUint32(4, addr.flags, true);
  v.setBigUint64(8, addr.desc, true);
  v.setBigUint64(16, addr.used, true);
  v.setBigUint64(24, addr.avail, true);
  v.setBigUint64(32, addr.logAddress, true);
  return bytes;
}

function readRegion(v: DataView, offset: number): MemoryRegion {
  return {
    guestAddress: v.getBigUint64(offset, true),
    size: v.getBigUint64(offset + 8, true),
    userAddress: v.getBigUint64(offset + 16, true),
    mmapOffset: v.getBigUint64(offset + 24, true),
  };
}

function writeRegion(v: DataView, offset: number, region: MemoryRegion): void {
  v.setBigUint64(offset, region.guestAddress, true);
  v.setBigUint64(offset + 8, region.size, true);
  v.setBigUint64(offset + 16, region.userAddress, true);
  v.setBigUint64(offset + 24, region.mmapOffset, true);
}

/** Number of regions that a SET_MEM_TABLE payload claims, unchecked. */
export function memoryTableCount(payload: Uint8Array): number {
  return view(payload).getUint32(0, true);
}

/** undefined when the count does not agree with the size. */
export function decodeMemoryTable(payload: Uint8Array): MemoryRegion[] | undefined {
  const count = memoryTableCount(payload);
  if (payload.length !== 8 + count * REGION_SIZE) return undefined;
  const v = view(payload);
  return Array.from({ length: count }, (_, i) => readRegion(v, 8 + i * REGION_SIZE));
}

export function encodeMemoryTable(regions: readonly MemoryRegion[]): Uint8Array {
  const bytes = new Uint8Array(8 + regions.length * REGION_SIZE);
  const v = view(bytes);
  v.setUint32(0, regions.length, true);
  regions.forEach((region, i) => {
    writeRegion(v, 8 + i * REGION_SIZE, region);
  });
  return bytes;
}

/** Payload of ADD_MEM_REG and REM_MEM_REG. */
export function decodeMemReg(payload: Uint8Array): MemoryRegion {
  return readRegion(view(payload), 8);
}

export function encodeMemReg(region: MemoryRegion): Uint8Array {
  const bytes = new Uint8Array(8 + REGION_SIZE);
  writeRegion(view(bytes), 8, region);
  return bytes;
}

export function decodeLogBase(payload: Uint8Array): LogBase {
  const v = view(payload);
  return { size: v.getBigUint64(0, true), offset: v.getBigUint64(8, true) };
}

export function encodeLogBase(log: LogBase): Uint8Array {
  const bytes = new Uint8Array(16);
  view(bytes).setBigUint64(0, log.size, true);
  view(bytes).setBigUint64(8, log.offset, true);
  return bytes;
}

export function decodeInflight(payload: Uint8Array): Inflight {
  const v = view(payload);
  return {
    size: v.getBigUint64(0, true),
    offset: v.getBigUint64(8, true),
    numQueues: v.getUint16(16, true),
    queueSize: v.getUint16(18, true),
  };
}

/** 24 bytes, the size of the C structure that QEMU, DPDK and rust-vmm send. */
export function encodeInflight(inflight: Inflight): Uint8Array {
  const bytes = new Uint8Array(24);
  const v = view(bytes);
  v.setBigUint64(0, inflight.size, true);
  v.setBigUint64(8, inflight.offset, true);
  v.setUint16(16, inflight.numQueues, true);
  v.setUint16(18, inflight.queueSize, true);
  return bytes;
}

export function decodeDeviceStateTransfer(payload: Uint8Array): DeviceStateTransfer {
  const v = view(payload);
  return { direction: v.getUint32(0, true), phase: v.getUint32(4, true) };
}
