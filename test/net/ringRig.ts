// One port with one ring in a guest's memory, and a frame in it or out of it: for tests of virtqueues without tables and workers.

import assert from 'node:assert/strict';
import { Ports } from './ports.ts';
import { GuestMemory, Ring, type RingOptions, vnetHeader } from './ring.ts';

export const ports = await Ports.load();
export const BYTES = 0x400000;
export const BASE = 0x40200000;
export const GPA = 0x1_0000_0000n;
export const DATA = GPA + 0x100000n;
export const FD = 42;

export function setUp(
  dir: 0 | 1,
  options: RingOptions,
  port: Parameters<Ports['port']>[1] = {},
): Ring {
  ports.reset();
  const regions = [{ gpa: GPA, bytes: BYTES, base: BASE }];
  ports.port(1, { regions, ...port });
  const guest = new GuestMemory(ports, regions);
  return new Ring(ports, guest, 5, 1, dir, GPA, { size: 64, callFd: FD, ...options });
}
export function give(ring: Ring, frame: Buffer): void {
  const data = Buffer.concat([vnetHeader(ring.header), frame]);
  ring.guest.write(DATA, data);
  assert.ok(ring.add([{ gpa: DATA, length: data.length }]));
}
export function receive(ring: Ring, max = 256): number {
  const n = ports.wasm.rxBurst(ring.q, ports.record(0), max);
  if (n > 0) ports.wasm.rxDone(ring.q);
  return n;
}
export function send(...frames: Buffer[]): void {
  frames.forEach((frame, i) => {
    ports.setPacket(i, frame);
  });
  ports.transmit(1, frames.length);
}
export const frame = (length: number) =>
  Buffer.from(Array.from({ length }, (_, i) => (i * 3 + 2) & 0xfe));
