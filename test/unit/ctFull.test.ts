// A full table of connections: memory stays within what is stated (ARCHITECTURE.md), what is refused is counted, and
// those that are there go on. By default with few connections; all three millions of them:
//
//   CT_CONNECTIONS=3000000 node --test test/unit/ctFull.test.ts

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { ACT_END, ACT_USERSPACE, UPCALL_CONTROLLER } from '../../contract/action.ts';
import { CN_SIZE, CS_EST, CS_INV, CS_NEW, CS_RPL, CS_TRK } from '../../contract/ct.ts';
import { CtRig, ctAction } from '../oracle/ctRig.ts';
import { ethernet, IP4_A, IP4_B, ipv4, udp } from '../oracle/frames.ts';
import { Rig } from '../oracle/rig.ts';

const CONNECTIONS = Number(process.env.CT_CONNECTIONS ?? 100_000);
const BURST = 128;
/** Behind these the interpreter has compiled what runs here. */
const WARM_UP = 8 * BURST;
/** The index, whose pages are all in use soon. */
const INDEX_BYTES = 32 * 2 ** 20;
/** The interpreter's own ups and downs. */
const SLACK_BYTES = 24 * 2 ** 20;

const residentBytes = (): number =>
  Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync('/proc/self/status', 'utf8'))![1]) * 1024;

/** The n-th connection's first packet, without a checksum of UDP; `reply`: the answer. */
function packet(n: number, reply = false): Uint8Array {
  const [from, to] = reply ? [IP4_B, IP4_A] : [IP4_A, IP4_B];
  const frame =
    frames.get(reply) ??
    ethernet(0x0800, ipv4(17, udp(0, 0, new Uint8Array(4)), { src: from, dst: to }));
  frames.set(reply, frame);
  const view = new DataView(frame.buffer, frame.byteOffset);
  view.setUint16(reply ? 36 : 34, 1 + (n % 65_535));
  view.setUint16(reply ? 34 : 36, 1 + Math.floor(n / 65_535));
  view.setUint16(40, 0);
  return frame;
}
const frames = new Map<boolean, Uint8Array>();

test(`${CONNECTIONS} connections, and more that want to be`, async () => {
  const ct = await CtRig.create(false);
  const { rig, input } = ct;
  const table = rig.conntrack;
  table.setMax(CONNECTIONS);
  const { key, mask } = Rig.matchPort(input);
  rig.flows.put(key, mask, Uint32Array.from([...ctAction({ commit: true }), ACT_END | (1 << 16)]));

  const fill = (from: number, to: number): void => {
    for (let n = from; n < to; ) {
      for (const end = Math.min(to, n + BURST); n < end; n++) rig.send(input, packet(n));
      rig.poll();
    }
  };
  // What a worker has anyway, connections or not, comes in huge pages.
  fill(0, WARM_UP);
  const before = residentBytes();
  fill(WARM_UP, CONNECTIONS);
  assert.equal(table.count(), CONNECTIONS);
  assert.equal(table.counters().refused_full, 0);
  const grown = residentBytes() - before;
  const stated = CONNECTIONS * CN_SIZE + INDEX_BYTES + SLACK_BYTES;
  assert.ok(grown < stated, `${grown} bytes for ${CONNECTIONS} connections, ${stated} stated`);

  fill(CONNECTIONS, CONNECTIONS + 20_000);
  assert.equal(table.count(), CONNECTIONS, 'no more than the limit');
  assert.equal(table.counters().refused_full, 20_000);
  assert.ok(residentBytes() - before < stated, 'what is refused costs nothing');

  // Those that are there go on, in both directions; those that are not are no replies of anything.
  const program = [ACT_USERSPACE | (4 << 16), UPCALL_CONTROLLER, 0, 0xffff, ACT_END | (1 << 16)];
  rig.flows.put(key, mask, Uint32Array.from([...ctAction({}), ...program]));
  const stateOf = (frame: Uint8Array): number => ct.track(frame, {}).state;
  for (let i = 0; i < 500; i++) {
    const n = Math.floor((i * CONNECTIONS) / 500);
    assert.equal(stateOf(packet(n, true)), CS_TRK | CS_EST | CS_RPL, `connection ${n}`);
    assert.equal(stateOf(packet(n)), CS_TRK | CS_EST, `connection ${n}`);
  }
  assert.equal(stateOf(packet(CONNECTIONS + 5)) & (CS_NEW | CS_INV), CS_NEW);

  // What is flushed makes room.
  table.flush();
  assert.equal(table.count(), 0);
  rig.flows.put(key, mask, Uint32Array.from([...ctAction({ commit: true }), ACT_END | (1 << 16)]));
  fill(CONNECTIONS, CONNECTIONS + 1000);
  assert.equal(table.count(), 1000);
  if (process.env.CT_CONNECTIONS !== undefined) {
    console.log(`${(grown / CONNECTIONS).toFixed(1)} bytes a connection`);
  }
});
