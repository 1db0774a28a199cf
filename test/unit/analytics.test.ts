// Exporters without sockets and without a data plane: what NetFlow and sFlow do where counters are large, flows are idle, or
// datagrams are full.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  F_IN_PORT,
  FLOW_SIZE,
  K_NW_DST,
  K_NW_PROTO,
  K_NW_SRC,
  K_TP_SRC,
  KEY_SIZE,
} from '../../contract/key.ts';
import type { Upcall } from '../../src/engine/types.ts';
import { putBe16, putBe32 } from '../../src/switch/flow.ts';
import { NETFLOW_DROP, NetflowExporter, netflowKey } from '../../src/switch/netflow.ts';
import { SflowAgent, sflowProbability } from '../../src/switch/sflow.ts';
import { SFLOW_DATAGRAM_MAX } from '../../src/wire/sflow.ts';

function collector() {
  const sent: Buffer[] = [];
  const warnings: string[] = [];
  const clock = { nowMs: 1_000_000 };
  return { sent, warnings, clock, send: (bytes: Uint8Array) => void sent.push(Buffer.from(bytes)) };
}

function netflow(activeTimeoutS = 10) {
  const { sent, warnings, clock, send } = collector();
  const settings = { engineType: 1, engineId: 0x83, activeTimeoutS, addIdToInterface: true };
  const exporter = new NetflowExporter(settings, {
    send,
    nowMs: () => clock.nowMs,
    wallMs: () => 1_700_000_000_250,
    warn: (text) => warnings.push(text),
  });
  const flow = new Uint8Array(FLOW_SIZE);
  putBe32(flow, F_IN_PORT, 0x2ff);
  putBe32(flow, K_NW_SRC, 0x0a000001);
  putBe32(flow, K_NW_DST, 0x0a000002);
  flow[K_NW_PROTO] = 6;
  putBe16(flow, K_TP_SRC, 1234);
  const effect = { exporter, key: netflowKey(flow), output: 2 };
  /** [packets, bytes] of all records. */
  const counts = (): number[][] =>
    sent.flatMap((message) => {
      assert.equal(message.length, 24 + 48 * message.readUInt16BE(2));
      return Array.from({ length: message.readUInt16BE(2) }, (_, i) => [
        message.readUInt32BE(24 + 48 * i + 16),
        message.readUInt32BE(24 + 48 * i + 20),
      ]);
    });
  return { exporter, effect, sent, warnings, clock, counts };
}

test('NetFlow: counters of more than 32 bits become several records with the same sums', () => {
  const { exporter, effect, counts, sent } = netflow();
  const bytes = 3 * 2 ** 32 + 17;
  exporter.account(effect, 10_000_001, bytes, 1_000_100, 0x12);
  exporter.clear(effect);
  exporter.run();
  assert.ok(counts().length >= 4);
  assert.equal(
    counts().reduce((sum, [, octets]) => sum + octets!, 0),
    bytes,
  );
  assert.equal(
    counts().reduce((sum, [packets]) => sum + packets!, 0),
    10_000_001,
  );
  const [message] = sent;
  // Nine bits of the port behind seven of the engine's id.
  assert.equal(message!.readUInt16BE(24 + 12), (3 << 9) | 0xff);
  assert.equal(message!.readUInt32BE(12), 250_000_000);
  assert.equal(exporter.size, 0);
});

test('NetFlow: an impossible counter is a warning, not a flood', () => {
  const { exporter, effect, counts, warnings } = netflow();
  exporter.account(effect, 1, 2 ** 52, 1_000_100, 0);
  exporter.clear(effect);
  exporter.run();
  assert.deepEqual(counts(), []);
  assert.match(warnings.join(), /impossible byte counter/);
});

test('NetFlow: active flows are told again and again, idle ones are forgotten, another output ends a record', () => {
  const { exporter, effect, counts, clock } = netflow();
  exporter.account(effect, 1, 100, clock.nowMs, 0);
  exporter.run();
  assert.deepEqual(counts(), []);
  clock.nowMs += 11_000;
  exporter.account(effect, 2, 200, clock.nowMs, 0);
  exporter.run();
  assert.deepEqual(counts(), [[3, 300]]);
  exporter.account({ ...effect, output: NETFLOW_DROP }, 1, 60, clock.nowMs, 0);
  exporter.run();
  assert.equal(exporter.size, 1);
  for (let i = 0; i < 3; i++) {
    clock.nowMs += 11_000;
    exporter.run();
  }
  assert.deepEqual(counts(), [
    [3, 300],
    [1, 60],
  ]);
  assert.equal(exporter.size, 0);
});

test('sFlow: datagrams stay below their limit, and count on', () => {
  const { sent, clock, send } = collector();
  const agent = new SflowAgent(
    { agent: Uint8Array.of(10, 0, 0, 1), subAgent: 3, sampling: 7, pollingS: 0, headerBytes: 64 },
    {
      send,
      nowMs: () => clock.nowMs,
      input: () => ({ ifindex: 5, tunnelProtocol: 0, tunnelPort: 0 }),
      ports: () => new Map([[5, () => assert.fail('counters are off')]]),
      global: () => assert.fail('counters are off'),
    },
  );
  const upcall = {
    key: new Uint8Array(KEY_SIZE),
    data: new Uint8Array(200),
    packetLen: 1500,
  } as unknown as Upcall;
  const sample = { kind: 'sflow', vlanTci: 0, output: 6, tunnel: undefined, labels: [] } as const;
  for (let i = 0; i < 30; i++) agent.sample(sample, upcall);
  assert.ok(sent.length >= 2, 'full datagrams do not wait');
  agent.tick();
  let samples = 0;
  for (const [i, datagram] of sent.entries()) {
    assert.ok(datagram.length < SFLOW_DATAGRAM_MAX);
    assert.equal(datagram.readUInt32BE(12), 3);
    assert.equal(datagram.readUInt32BE(16), i + 1);
    samples += datagram.readUInt32BE(24);
  }
  assert.equal(samples, 30);
  // Pool of the first sample of the first datagram: sequence, source, rate, pool.
  assert.deepEqual(
    [36, 40, 44, 48].map((at) => sent[0]!.readUInt32BE(at)),
    [1, (2 << 24) | 1003, 7, 7],
  );
  agent.tick();
  assert.equal(samples, 30);
  assert.equal(sflowProbability(1), 0xffffffff);
  assert.equal(sflowProbability(2 ** 33), 1);
});
