// Spanning trees beside the property tests: the wire format, messages that make no sense, timers, text, and what
// configuration becomes.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  type Bpdu,
  bpduFrame,
  bpduOf,
  decodeBpdu,
  encodeBpdu,
} from '../../src/protocol/spanningTree/bpdu.ts';
import { Rstp } from '../../src/protocol/spanningTree/rstp.ts';
import { Stp } from '../../src/protocol/spanningTree/stp.ts';

const ID = 0x8000_0200_0000_0001n;

const message = fc.record({
  rootId: fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
  rootPathCost: fc.nat(0xffffffff),
  bridgeId: fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
  portId: fc.nat(0xffff),
  messageAgeMs: fc.nat(40).map((s) => s * 1000),
  maxAgeMs: fc.nat(40).map((s) => s * 1000),
  helloTimeMs: fc.nat(10).map((s) => s * 1000),
  forwardDelayMs: fc.nat(30).map((s) => s * 1000),
  topologyChange: fc.boolean(),
  topologyChangeAck: fc.constant(false),
  role: fc.constantFrom(
    'unknown' as const,
    'alternate-backup' as const,
    'root' as const,
    'designated' as const,
  ),
  proposal: fc.boolean(),
  agreement: fc.boolean(),
  learning: fc.boolean(),
  forwarding: fc.boolean(),
});

test('a rapid message comes out of a frame as it went in, padding or not', () => {
  fc.assert(
    fc.property(message, fc.nat(40), (m, padding) => {
      const bpdu: Bpdu = { type: 'rst', message: { ...m } };
      const frame = bpduFrame(Uint8Array.of(2, 0, 0, 0, 0, 1), encodeBpdu(bpdu));
      const padded = new Uint8Array(frame.length + padding).fill(0xee);
      padded.set(frame);
      assert.deepEqual(decodeBpdu(bpduOf(padded)), bpdu);
    }),
  );
});

test('a configuration message has 35 bytes, with the fields where IEEE 802.1D-1998 §9.3.1 has them', () => {
  const bytes = encodeBpdu({
    type: 'config',
    message: {
      rootId: 0x1000_0011_2233_4455n,
      rootPathCost: 19,
      bridgeId: ID,
      portId: 0x8002,
      messageAgeMs: 1000,
      maxAgeMs: 20_000,
      helloTimeMs: 2000,
      forwardDelayMs: 15_000,
      topologyChange: true,
      topologyChangeAck: true,
      role: 'unknown',
      proposal: false,
      agreement: false,
      learning: false,
      forwarding: false,
    },
  });
  assert.equal(
    Buffer.from(bytes).toString('hex'),
    [
      ...['0000', '00', '00', '81', '1000001122334455', '00000013', '8000020000000001'],
      ...['8002', '0100', '1400', '0200', '0f00'],
    ].join(''),
  );
});

type Sent = { port: string; bpdu: Bpdu | string };

function events(sent: Sent[], log: string[] = []) {
  return {
    send: (port: string, bytes: Uint8Array) => sent.push({ port, bpdu: decodeBpdu(bytes) }),
    flush: () => log.push('flush'),
    info: (text: string) => log.push(text),
    warn: (text: string) => log.push(text),
  };
}

const STP_SETTINGS = { bridgeId: ID, helloTimeMs: 2000, maxAgeMs: 20_000, forwardDelayMs: 15_000 };
const STP_PORT = { name: 'p1', number: 1, priority: 128, pathCost: 2 };
const RSTP_SETTINGS = {
  bridgeId: ID,
  maxAgeS: 20,
  forwardDelayS: 15,
  transmitHoldCount: 6,
  forceVersion: 2,
};
const RSTP_PORT = {
  ...STP_PORT,
  adminEdge: false,
  autoEdge: true,
  pointToPoint: true,
  adminEnabled: true,
};

test('STP: alone, a port listens, learns and forwards after twice the forward delay, with a hello every two seconds', () => {
  const sent: Sent[] = [];
  const stp = new Stp<string>('br0', STP_SETTINGS, events(sent), 0);
  stp.setPort('p1', STP_PORT, true, 0);
  const states: string[] = [];
  for (let ms = 0; ms <= 30_000; ms += 500) {
    stp.tick(ms);
    if (states.at(-1) !== stp.state('p1')) states.push(stp.state('p1'));
    if (ms === 14_500) assert.equal(stp.state('p1'), 'listening');
  }
  assert.deepEqual(states, ['listening', 'learning', 'forwarding']);
  assert.equal(sent.length, 15);
  assert.match(stp.show(), /^ {2}p1 {9}designated forwarding 2 {5}128\.1$/m);
  assert.match(stp.show(), /This bridge is the root/);
});

test('STP: times that a root must not ask for are brought into their ranges', () => {
  const sent: Sent[] = [];
  const stp = new Stp<string>('br0', STP_SETTINGS, events(sent), 0);
  stp.setPort('p1', STP_PORT, true, 0);
  const bad = fc.sample(message, 1)[0]!;
  const root = { ...bad, rootId: 1n, rootPathCost: 0, bridgeId: 1n, portId: 1, messageAgeMs: 0 };
  const config: Bpdu = {
    type: 'config',
    message: { ...root, maxAgeMs: 10, helloTimeMs: 0, forwardDelayMs: 0, role: 'unknown' },
  };
  stp.receive('p1', encodeBpdu(config), 0);
  assert.equal(stp.designatedRoot, 1n);
  stp.tick(3900);
  assert.equal(stp.state('p1'), 'listening');
  assert.ok(stp.wakeMs() >= 4000);
});

test('RSTP: a port nobody answers on is an edge after three seconds, and forwards', () => {
  const sent: Sent[] = [];
  const rstp = new Rstp<string>('br0', RSTP_SETTINGS, events(sent), 0);
  rstp.setPort('p1', RSTP_PORT, true, 0);
  for (let ms = 1000; ms <= 4000; ms += 1000) rstp.tick(ms);
  assert.equal(rstp.state('p1'), 'Forwarding');
  rstp.setPort('p1', RSTP_PORT, false, 5000);
  assert.equal(rstp.state('p1'), 'Discarding');
  assert.equal(rstp.portStatus('p1', 9000)?.role, 'Disabled');
});

test('RSTP: no more messages in a second than the hold count, however many are due', () => {
  const sent: Sent[] = [];
  const rstp = new Rstp<string>('br0', RSTP_SETTINGS, events(sent), 0);
  rstp.setPort('p1', RSTP_PORT, true, 0);
  const start = sent.length;
  const claim = fc.sample(message, 1)[0]!;
  for (let i = 0; i < 100; i++) {
    const better = {
      ...claim,
      rootId: BigInt(1000 - i),
      bridgeId: 7n,
      role: 'designated' as const,
      proposal: true,
    };
    const times = { messageAgeMs: 0, maxAgeMs: 20_000, helloTimeMs: 2000, forwardDelayMs: 15_000 };
    rstp.receive('p1', encodeBpdu({ type: 'rst', message: { ...better, ...times } }));
  }
  assert.ok(sent.length - start <= 6);
});

test('RSTP: falls back to the protocol of 1998 for a neighbour that knows no other', () => {
  const sent: Sent[] = [];
  const rstp = new Rstp<string>('br0', RSTP_SETTINGS, events(sent), 0);
  rstp.setPort('p1', RSTP_PORT, true, 0);
  for (let ms = 1000; ms <= 4000; ms += 1000) rstp.tick(ms);
  rstp.receive('p1', encodeBpdu({ type: 'tcn' }));
  sent.length = 0;
  for (let ms = 5000; ms <= 8000; ms += 1000) rstp.tick(ms);
  assert.ok(sent.length > 0);
  assert.ok(sent.every(({ bpdu }) => typeof bpdu === 'object' && bpdu.type === 'config'));
});

test('whatever comes in, both go on, and count what they could not read', () => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ maxLength: 40 }), { maxLength: 20 }), (frames) => {
      const stp = new Stp<string>('br0', STP_SETTINGS, events([]), 0);
      const rstp = new Rstp<string>('br0', RSTP_SETTINGS, events([]), 0);
      stp.setPort('p1', STP_PORT, true, 0);
      rstp.setPort('p1', RSTP_PORT, true, 0);
      for (const [i, frame] of frames.entries()) {
        // Most would fail at the protocol number.
        const bytes = frame.slice();
        bytes.fill(0, 0, 2);
        stp.receive('p1', bytes, i * 500);
        rstp.receive('p1', bytes);
        stp.tick(i * 500);
        rstp.tick(i * 500);
      }
      for (const status of [stp.portStatus('p1')!, rstp.portStatus('p1', 0)!]) {
        assert.equal(status.rxCount + status.errorCount, frames.length);
      }
    }),
  );
});
