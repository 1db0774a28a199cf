// What a breath gives to guests becomes visible together with the chains in which it came (dataplane/port/held.ts).

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { CONTROL_BASE, CTL_WORKERS } from '../../contract/memory.ts';
import { PT_TX_RETRIES, portAddress, Q_LOCK } from '../../contract/port.ts';
import { HELD_MAX, VQ_HELD } from '../../contract/virtqueue.ts';
import { Ports } from '../net/ports.ts';
import { GuestMemory, Ring, vnetHeader } from '../net/ring.ts';

const ports = await Ports.load();
const GPA = 0x1_0000_0000n;
const DATA = GPA + 0x100000n;
const BYTES = 0x200000;

/** Ring `number` of port `number` in memory of its own. */
function ring(number: number, dir: 0 | 1, packed: boolean, base = 0): Ring {
  const regions = [{ gpa: GPA, bytes: BYTES, base: 0x40200000 + number * BYTES }];
  ports.port(number, { regions });
  const guest = new GuestMemory(ports, regions);
  return new Ring(ports, guest, number, number, dir, GPA, {
    size: 64,
    callFd: 40 + number,
    packed,
    base,
  });
}

const frameOf = (n: number): Buffer => Buffer.alloc(60 + (n % 40), n & 0xff);

function give(from: Ring, n: number): void {
  for (let i = 0; i < n; i++) {
    const data = Buffer.concat([vnetHeader(from.header), frameOf(i)]);
    const gpa = DATA + BigInt(i * 2048);
    from.guest.write(gpa, data);
    assert.ok(from.add([{ gpa, length: data.length }]));
  }
}

function post(to: Ring, n: number): void {
  for (let i = 0; i < n; i++) {
    assert.ok(to.add([{ gpa: DATA + BigInt(i * 2048), length: 1526 }]));
  }
}

const lockOf = (of: Ring): number => ports.u32(of.q + Q_LOCK);

describe('used entries that wait', () => {
  for (const packed of [false, true]) {
    for (const base of packed ? [0x8000, 0x8000 | 60, 61] : [0, 0xfffd]) {
      test(`${packed ? 'packed' : 'split'} from ${base}: both rings in one go, one interrupt`, () => {
        ports.reset();
        const from = ring(1, 0, packed, base);
        const to = [ring(2, 1, packed, base), ring(3, 1, !packed)];
        for (let round = 0; round < 10; round++) {
          give(from, 10);
          for (const one of to) post(one, 12);
          const n = ports.wasm.rxBurst(from.q, ports.record(0), 256);
          assert.equal(n, 10);
          ports.wasm.heldBegin();
          // Twice to each, in turn.
          for (const count of [4, 7]) for (const port of [2, 3]) ports.transmit(port, count);
          for (const one of to) {
            assert.deepEqual(one.reap(), []);
            assert.equal(lockOf(one), 1);
          }
          assert.deepEqual(ports.calls(), []);
          ports.wasm.rxDone(from.q);
          assert.equal(from.reap().length, 10);
          for (const one of to) {
            const lengths = one.reap().map(({ length }) => length);
            const expected = [...Array(4).keys(), ...Array(7).keys()];
            assert.deepEqual(
              lengths,
              expected.map((i) => one.header + frameOf(i).length),
            );
            assert.equal(lockOf(one), 0);
            assert.equal(ports.u32(one.q + VQ_HELD), 0);
            // The last of the twelve, so that each round begins at an empty ring.
            ports.transmit(one === to[0] ? 2 : 3, 1);
            assert.equal(one.reap().length, 1);
          }
          assert.deepEqual([...new Set(ports.calls())].sort(), [41, 42, 43]);
        }
      });
    }
  }

  test('outside of a burst, and in a queue that workers share, nothing waits', () => {
    ports.reset();
    const [from, to] = [ring(1, 0, false), ring(2, 1, true)];
    post(to, 8);
    give(from, 2);
    ports.setPacket(0, frameOf(0));
    ports.transmit(2, 1);
    assert.equal(to.reap().length, 1);
    ports.setU32(CONTROL_BASE + CTL_WORKERS, 2);
    ports.wasm.rxBurst(from.q, ports.record(0), 256);
    ports.wasm.heldBegin();
    ports.transmit(2, 2);
    assert.equal(to.reap().length, 2);
    assert.equal(lockOf(to), 0);
    ports.wasm.rxDone(from.q);
    ports.setU32(CONTROL_BASE + CTL_WORKERS, 1);
    // Over, and nothing is left of it.
    ports.transmit(2, 1);
    assert.equal(to.reap().length, 1);
  });

  test('who looks again at a full ring has shown first what there is', () => {
    ports.reset();
    const [from, to] = [ring(1, 0, false), ring(2, 1, false)];
    ports.setU32(portAddress(2) + PT_TX_RETRIES, 3);
    post(to, 3);
    give(from, 5);
    ports.wasm.rxBurst(from.q, ports.record(0), 256);
    ports.wasm.heldBegin();
    ports.transmit(2, 5);
    assert.equal(to.reap().length, 3);
    assert.deepEqual(ports.drops(2), { tx_ring_full: 2 });
    assert.equal(lockOf(to), 0);
    ports.wasm.rxDone(from.q);
    assert.equal(from.reap().length, 5);
  });

  test('a list that is full: the others are visible at once', () => {
    ports.reset();
    const from = ring(1, 0, false);
    give(from, 1);
    const regions = [{ gpa: GPA, bytes: BYTES, base: 0x40200000 }];
    const to = Array.from({ length: HELD_MAX + 3 }, (_, i) => {
      ports.port(10 + i, { regions });
      const guest = new GuestMemory(ports, regions);
      const at = GPA + 0x40000n + BigInt(i * 0x2000);
      const one = new Ring(ports, guest, 10 + i, 10 + i, 1, at, { size: 4 });
      post(one, 1);
      return one;
    });
    ports.wasm.rxBurst(from.q, ports.record(0), 256);
    ports.wasm.heldBegin();
    for (const i of to.keys()) ports.transmit(10 + i, 1);
    const visible = to.map((one) => one.usedIdx & 0xffff);
    assert.deepEqual(
      visible,
      to.map((_, i) => (i < HELD_MAX ? 0 : 1)),
    );
    ports.wasm.rxDone(from.q);
    assert.ok(to.every((one) => one.usedIdx === 1 && lockOf(one) === 0));
  });
});
