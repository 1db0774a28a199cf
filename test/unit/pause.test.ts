// controller(pause) and NXT_RESUME through the whole switch without sockets: what packets do behind a pause, and that
// nothing a controller puts into a continuation does harm.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { F_REGS } from '../../contract/key.ts';
import type { SwitchBridge } from '../../src/switch/bridge.ts';
import { putBe32 } from '../../src/switch/flow.ts';
import { wholeFrame } from '../../src/switch/packetIns.ts';
import { parseActions } from '../../src/wire/openflow/actionParse.ts';
import { parseMatch } from '../../src/wire/openflow/matchParse.ts';
import { OfError, type PacketIn } from '../../src/wire/openflow/types.ts';
import { ethernet, IP4_A, IP4_B, ipv4, udp } from '../oracle/frames.ts';
import { makeRule, SwitchRig } from '../oracle/openflowRig.ts';
import { actionsFor, bytes, u8, u32, u64 } from '../property/openflowArbitraries.ts';

const FRAME = ethernet(
  0x0800,
  ipv4(17, udp(1000, 53, new Uint8Array(4)), { src: IP4_A, dst: IP4_B }),
);

async function net(...lines: string[]) {
  const rig = await SwitchRig.create();
  const bridge = rig.addBridge('br0');
  for (let i = 1; i <= 3; i++) rig.addPort(bridge, `p${i}`, {}, i);
  const paused: PacketIn[] = [];
  bridge.onPacketIn = (packet) => void paused.push(packet);
  for (const line of lines) addFlow(bridge, line);
  const sent = (): string => {
    rig.run();
    return rig
      .sent(bridge)
      .map(({ port }) => String(port.ofport))
      .sort()
      .join();
  };
  return { rig, bridge, paused, sent };
}

function addFlow(bridge: SwitchBridge, line: string): void {
  const [, table = '0', match = '', text = ''] = /^(?:table=(\d+),?)?(\S*) *actions=(.*)$/.exec(
    line,
  )!;
  const rule = makeRule(Number(table), 100, parseMatch(match), parseActions(text));
  bridge.tables[rule.table]!.insert(rule);
  bridge.flowsChanged();
}

test('a packet waits, and goes on with what the controller has changed', async () => {
  const n = await net(
    'in_port=1 actions=load:5->NXM_NX_REG1[],resubmit(,1),output:3',
    'table=1 actions=controller(pause),resubmit(,2)',
    'table=2,reg1=6 actions=output:2',
  );
  n.rig.send(n.bridge.ports.get(1)!, FRAME);
  assert.equal(n.sent(), '');
  const [packet] = n.paused;
  assert.ok(packet?.continuation);
  const changed = { ...packet, match: { key: packet.match.key.slice(), mask: packet.match.mask } };
  putBe32(changed.match.key, F_REGS + 4, 6);
  n.bridge.resume(changed);
  assert.equal(n.sent(), '2,3');
  n.bridge.resume(packet);
  assert.equal(n.sent(), '3', 'as often as the controller likes, each time as it says');
  n.rig.close();
});

test('a continuation of a bridge that is gone is stale', async () => {
  const n = await net('in_port=1 actions=controller(pause),output:2');
  n.rig.send(n.bridge.ports.get(1)!, FRAME);
  n.sent();
  const packet = n.paused[0]!;
  const stale = { name: 'Error', code: 'NXR_STALE' };
  const { continuation, ...without } = packet;
  assert.throws(() => n.bridge.resume(without), stale);
  const bridge = continuation!.bridge.map((byte) => byte ^ 1);
  assert.throws(
    () => n.bridge.resume({ ...packet, continuation: { ...continuation!, bridge } }),
    stale,
  );
  n.rig.close();
});

test('whatever a continuation says, it is obeyed or refused', async () => {
  const n = await net('in_port=1 actions=controller(pause),output:2', 'table=1 actions=output:3');
  n.rig.send(n.bridge.ports.get(1)!, FRAME);
  n.sent();
  const packet = n.paused[0]!;
  const unroll = fc.record({ type: fc.constant('unroll_xlate' as const), table: u8, cookie: u64 });
  fc.assert(
    fc.property(
      fc.record({
        stack: fc.array(bytes(0, 128), { maxLength: 4 }),
        mirrors: u32,
        conntracked: fc.boolean(),
        actions: fc.tuple(unroll, actionsFor(4)).map(([first, rest]) => [first, ...rest]),
        actionSet: actionsFor(4),
        odpPort: u32,
      }),
      bytes(0, 200),
      (fields, data) => {
        const continuation = { ...packet.continuation!, ...fields };
        try {
          n.bridge.resume({ ...packet, data, continuation });
        } catch (error) {
          assert.ok(error instanceof OfError, (error as Error).stack ?? String(error));
        }
        n.rig.run();
      },
    ),
    { numRuns: 300 },
  );
  n.sent();
  n.bridge.resume(packet);
  assert.equal(n.sent(), '2', 'and the switch is as before');
  n.rig.close();
});

test('controllers get whole checksums', () => {
  const frame = FRAME.slice();
  // As a guest leaves it: the sum of the pseudo header, to be completed from byte 34 on, at offset 6.
  const vnet = new Uint8Array(8);
  const fields = new DataView(vnet.buffer);
  vnet[0] = 1;
  fields.setUint16(4, 34, true);
  fields.setUint16(6, 6, true);
  const pseudo = (source: Uint8Array): number => {
    let sum = 17 + (source.length - 34);
    for (let at = 26; at < 34; at += 2) sum += (source[at]! << 8) | source[at + 1]!;
    while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
    return sum;
  };
  new DataView(frame.buffer, frame.byteOffset).setUint16(40, pseudo(frame));
  assert.deepEqual(wholeFrame(frame, vnet), FRAME);
  assert.deepEqual(wholeFrame(FRAME, new Uint8Array(8)), FRAME);
  fields.setUint16(4, 60_000, true);
  assert.deepEqual(wholeFrame(frame, vnet), frame, 'outside of the frame');
});
