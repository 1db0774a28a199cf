// What a real ovn-controller said to a real switch, said again to xvio: the answers must be those that it got, and the
// tables those that the real switch dumped afterwards (test/data/ovn-controller/README.md). One field or action that
// is refused here is an endless loop of reconnections there.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { gunzipSync } from 'node:zlib';
import { MessageSplitter } from '../../src/control/openflow/framing.ts';
import { ROOT, Sandbox } from './sandbox.ts';

const DATA = join(ROOT, 'test', 'data', 'ovn-controller');
const QUIET_MS = 1000;
const OFPT_ERROR = 1;
const OFPT_ECHO_REPLY = 3;
const OFPT_EXPERIMENTER = 4;
const OFPT_GET_CONFIG_REPLY = 8;
const OFPT_MULTIPART_REPLY = 19;
const OFPT_BARRIER_REPLY = 21;
const OFPT_BUNDLE_CONTROL = 33;
const NXT_PACKET_IN2 = 30;

let box: Sandbox;

before(async () => {
  box = await Sandbox.start();
  box.vsctl(
    ...['add-br', 'br-int', '--', 'set', 'bridge', 'br-int', 'datapath_type=netdev'],
    ...['fail_mode=secure'],
  );
});

after(() => box?.stop());

const packed = (name: string): Buffer => gunzipSync(readFileSync(join(DATA, `${name}.gz`)));
const lines = (text: string): string[] => text.split('\n').filter((line) => line !== '');

/** Writes a whole recorded connection and collects what comes back until `done` or silence. */
async function play(name: string, done: (replies: Buffer[]) => boolean): Promise<Buffer[]> {
  const socket = connect({ path: box.path('br-int.mgmt') });
  const replies: Buffer[] = [];
  const splitter = new MessageSplitter();
  let lastMs = performance.now();
  socket.on('data', (chunk: Uint8Array) => {
    lastMs = performance.now();
    splitter.push(chunk, (bytes) => replies.push(Buffer.from(bytes)));
  });
  socket.write(packed(name));
  const limitMs = performance.now() + 60_000;
  while (!done(replies) || performance.now() - lastMs < QUIET_MS) {
    assert.ok(performance.now() < limitMs, `${name}: ${replies.length} replies, then silence`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  socket.destroy();
  return replies;
}

const type = (bytes: Buffer): number => bytes[1]!;
const ofType = (replies: readonly Buffer[], wanted: number): Buffer[] =>
  replies.filter((bytes) => type(bytes) === wanted);
const describe = (bytes: Buffer): string => `type ${type(bytes)}: ${bytes.toString('hex')}`;
const errors = (replies: readonly Buffer[]): string[] => ofType(replies, OFPT_ERROR).map(describe);

test('features: meters are there', async () => {
  const replies = await play('of.0.c2s', (got) => ofType(got, OFPT_MULTIPART_REPLY).length >= 2);
  assert.deepEqual(errors(replies), []);
  for (const reply of ofType(replies, OFPT_MULTIPART_REPLY)) {
    assert.ok(reply.readUInt32BE(16) > 0, 'max_meter');
    assert.equal(reply.readUInt32BE(20), 2, 'band types');
  }
});

test('ofctrl: the answers, byte for byte', async () => {
  const replies = await play('of.1.c2s', (got) => ofType(got, OFPT_BARRIER_REPLY).length >= 2);
  assert.deepEqual(errors(replies), []);
  // HELLO's number is the switch's own choice; echoes answer probes that the recording does not ask for.
  const answers = replies.slice(1).filter((bytes) => type(bytes) !== OFPT_ECHO_REPLY);
  assert.deepEqual(
    answers.map((bytes) => bytes.toString('hex')),
    [
      // NXT_TLV_TABLE_REPLY: 256 bytes, 64 fields, no mapping; ovn-controller's own is added after it.
      '0604002000000004000023200000001a00000100004000000000000000000000',
      '0615000800000008',
      '06210010000000120000000000010000',
      '062100100000042f0000000000050000',
      '0615000800000430',
    ],
  );
  assert.deepEqual(
    answers.map(type).filter((t) => t === OFPT_EXPERIMENTER || t === OFPT_BUNDLE_CONTROL).length,
    3,
  );
});

test('the tables are those of the real switch', () => {
  const dump = box.ofctl(
    ...['-O', 'OpenFlow15', '--no-stats', '--no-names', '--sort', 'dump-flows', 'br-int'],
  );
  const expected = lines(packed('flows.txt').toString());
  const actual = lines(dump).sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
  const missing = expected.filter((line) => !actual.includes(line));
  const surplus = actual.filter((line) => !expected.includes(line));
  assert.deepEqual({ missing, surplus }, { missing: [], surplus: [] });
  assert.equal(actual.length, 1041);
  const groups = lines(box.ofctl('-O', 'OpenFlow15', 'dump-groups', 'br-int')).slice(1);
  assert.deepEqual(
    groups.sort(),
    lines(readFileSync(join(DATA, 'groups.txt'), 'utf8')).sort(),
    'groups',
  );
  const meters = lines(box.ofctl('-O', 'OpenFlow15', 'dump-meters', 'br-int')).slice(1);
  assert.deepEqual(meters, lines(readFileSync(join(DATA, 'meters.txt'), 'utf8')), 'meters');
  const map = box.ofctl('-O', 'OpenFlow15', 'dump-tlv-map', 'br-int');
  assert.match(map, /0x102\s+0x80\s+4\s+tun_metadata0/);
});

test('pinctrl: packets that it injects come back as packet-ins', async () => {
  const packetIns = (got: readonly Buffer[]): Buffer[] =>
    ofType(got, OFPT_EXPERIMENTER).filter((bytes) => bytes.readUInt32BE(12) === NXT_PACKET_IN2);
  // With the flows there the real switch sends two of 224 bytes: an IGMP query, back to the controller.
  const replies = await play('of.2.c2s', (got) => packetIns(got).length >= 2);
  assert.deepEqual(errors(replies), []);
  const [config] = ofType(replies, OFPT_GET_CONFIG_REPLY);
  assert.equal(config?.readUInt16BE(10), 0, 'miss_send_len');
  assert.deepEqual(
    packetIns(replies).map((bytes) => bytes.length),
    [224, 224],
  );
});
