// CFM maintenance points against each other, without sockets.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { type CfmConfig, CfmPoint, cfmConfigFrom, cfmFaultNames } from '../../src/protocol/cfm.ts';

const SOURCE = Uint8Array.of(2, 0, 0, 0, 0, 1);

function point(mpid: number, other: Record<string, string> = {}) {
  let rxPackets = 0;
  const config = cfmConfigFrom(mpid, { cfm_interval: '100', cfm_extended: 'true', ...other }, {})!;
  const log: string[] = [];
  const cfm = new CfmPoint({
    name: `p${mpid}`,
    random: () => 0.5,
    rxPackets: () => rxPackets,
    log: (_, text) => void log.push(text),
  });
  cfm.step({ type: 'configure', config }, 1000);
  const receive = (n: number): void => {
    rxPackets += n;
  };
  return { cfm, config, log, receive };
}

type Side = ReturnType<typeof point>;

/** `frame` behind its Ethernet type, without a VLAN tag. */
const behindEthernet = (frame: Uint8Array): Uint8Array => frame.subarray(14);

function pass(a: Side, b: Side, fromMs: number, toMs: number, wire = true): void {
  const carry = (from: Side, to: Side, nowMs: number): void => {
    if (from.cfm.shouldSend(nowMs)) {
      const frame = from.cfm.step({ type: 'transmit', source: SOURCE }, nowMs)!;
      const payload = behindEthernet(frame);
      if (wire) to.cfm.step({ type: 'message', payload, source: 'x' }, nowMs);
    }
    from.cfm.step({ type: 'tick' }, nowMs);
  };
  for (let nowMs = fromMs; nowMs < toMs; nowMs += 10) {
    carry(a, b, nowMs);
    carry(b, a, nowMs);
  }
}

const reconfigure = (side: Side, change: Partial<CfmConfig>, nowMs: number): void => {
  side.cfm.step({ type: 'configure', config: { ...side.config, ...change } }, nowMs);
};

test('two points hear each other; silence is a fault, RDI at the other end; flaps are counted', () => {
  const [a, b] = [point(1), point(2)];
  pass(a, b, 1000, 12_000);
  const { fault, remoteMpids, health, flapCount, remoteOpUp } = a.cfm.status();
  assert.deepEqual([fault, remoteMpids, flapCount, remoteOpUp], [0, [2n], 0, true]);
  assert.equal(health, 100);
  pass(a, b, 12_000, 13_000, false);
  assert.deepEqual(cfmFaultNames(a.cfm.status().fault), ['recv']);
  assert.equal(a.cfm.status().flapCount, 1);
  // One way only: b hears that a hears nothing.
  for (let nowMs = 13_000; nowMs < 15_000; nowMs += 10) {
    if (a.cfm.shouldSend(nowMs)) {
      const frame = a.cfm.step({ type: 'transmit', source: SOURCE }, nowMs)!;
      b.cfm.step({ type: 'message', payload: behindEthernet(frame), source: 'x' }, nowMs);
    }
    b.cfm.step({ type: 'tick' }, nowMs);
    a.cfm.step({ type: 'tick' }, nowMs);
  }
  assert.deepEqual(cfmFaultNames(b.cfm.status().fault), ['rdi']);
  pass(a, b, 15_000, 18_000);
  assert.equal(a.cfm.status().fault, 0);
  assert.equal(a.cfm.status().flapCount, 2);
});

test('the operational state travels', () => {
  const [a, b] = [point(1), point(2)];
  pass(a, b, 1000, 3000);
  reconfigure(a, { opUp: false }, 3000);
  pass(a, b, 3000, 5000);
  assert.equal(b.cfm.status().remoteOpUp, false);
  assert.match(b.cfm.show(5000), /remote_opstate: down\n/);
});

test('demand mode: data packets keep the remote point', () => {
  const [a, b] = [point(1, { cfm_demand: 'true' }), point(2, { cfm_demand: 'true' })];
  pass(a, b, 1000, 5000);
  for (let nowMs = 5000; nowMs < 9000; nowMs += 500) {
    a.receive(10);
    pass(a, b, nowMs, nowMs + 500, false);
  }
  assert.equal(a.cfm.status().fault, 0);
  pass(a, b, 9000, 13_000, false);
  assert.deepEqual(cfmFaultNames(a.cfm.status().fault), ['recv']);
});

test('a message of our own comes back: loopback', () => {
  const a = point(1);
  pass(a, a, 1000, 3000);
  assert.ok(cfmFaultNames(a.cfm.status().fault).includes('loopback'));
});

test('a foreign association is a fault; other bytes do no harm', () => {
  const a = point(1);
  const frame = point(2).cfm.step({ type: 'transmit', source: SOURCE }, 1000)!;
  const payload = behindEthernet(frame).slice();
  payload[12] = 0x58;
  a.cfm.step({ type: 'message', payload, source: 'x' }, 1000);
  a.cfm.step({ type: 'tick' }, 2000);
  assert.deepEqual(cfmFaultNames(a.cfm.status().fault), ['recv', 'maid']);
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 100 }), fc.nat(80), (bytes, cut) => {
      const mixed = Uint8Array.of(...behindEthernet(frame).subarray(0, cut), ...bytes);
      a.cfm.step({ type: 'message', payload: mixed, source: 'x' }, 3000);
      assert.ok(a.cfm.show(3000).startsWith('---- p1 ----'));
    }),
  );
});

test('at most 256 remote points', () => {
  const a = point(1);
  for (let mpid = 2; mpid < 400; mpid++) {
    const frame = point(mpid).cfm.step({ type: 'transmit', source: SOURCE }, 1000)!;
    a.cfm.step({ type: 'message', payload: behindEthernet(frame), source: 'x' }, 1000);
  }
  a.cfm.step({ type: 'tick' }, 2000);
  assert.equal(a.cfm.status().remoteMpids.length, 256);
  assert.ok(cfmFaultNames(a.cfm.status().fault).includes('overflow'));
});

test('frames: addresses, VLAN, interval', () => {
  const plain = point(5, { cfm_extended: 'false', cfm_interval: '1000' });
  const frame = plain.cfm.step({ type: 'transmit', source: SOURCE }, 1000)!;
  assert.deepEqual([...frame.subarray(0, 14)], [1, 0x80, 0xc2, 0, 0, 0x30, ...SOURCE, 0x89, 0x02]);
  assert.equal(frame[16], 4);
  assert.equal(frame[23], 5);
  const tagged = point(5, { cfm_ccm_vlan: '7', cfm_ccm_pcp: '3' });
  const withTag = tagged.cfm.step({ type: 'transmit', source: SOURCE }, 1000)!;
  assert.deepEqual([...withTag.subarray(12, 18)], [0x81, 0, 0x60, 7, 0x89, 0x02]);
});

test('settings that make no sense', () => {
  assert.equal(cfmConfigFrom(undefined, {}, {}), undefined);
  assert.equal(cfmConfigFrom(8192, {}, {}), undefined);
  assert.equal(cfmConfigFrom(0, { cfm_extended: 'true' }, {}), undefined);
  assert.equal(cfmConfigFrom(8192, { cfm_extended: 'true' }, {})!.mpid, 8192n);
  assert.equal(cfmConfigFrom(1, { cfm_interval: '-1' }, {})!.intervalMs, 1000);
  assert.equal(cfmConfigFrom(1, {}, { key: 'flow' })!.checkTunnelKey, true);
});
