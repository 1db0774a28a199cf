// What helps to find out what the switch does: the debugging actions of --enable-dummy, what is said of select groups, and
// events of MAC tables. And the action set as a field, which people look at with such flows.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { GroupTable } from '../../src/switch/groups.ts';
import { MacTable } from '../../src/switch/macLearning.ts';
import type { Bundle } from '../../src/switch/types.ts';
import { parseActions } from '../../src/wire/openflow/actionParse.ts';
import { formatActions } from '../../src/wire/openflow/actionText.ts';
import { OFPGC_ADD, OFPGT_SELECT } from '../../src/wire/openflow/group.ts';
import { parseMatch } from '../../src/wire/openflow/matchParse.ts';
import { decode, encode } from '../../src/wire/openflow/message.ts';
import { type Action, OFPP_NONE, OfError } from '../../src/wire/openflow/types.ts';
import { ethernet, MAC_A, MAC_B } from '../oracle/frames.ts';
import { makeRule, SwitchRig } from '../oracle/openflowRig.ts';
import { flowMod } from './fakeBridge.ts';

const bucket = (id: number, weight: number) => ({
  id,
  weight,
  watchPort: OFPP_NONE,
  watchGroup: 0xffffffff,
  actions: parseActions(`output:${id + 1}`),
});

test('debugging actions are known with --enable-dummy only', () => {
  const actions: Action[] = [{ type: 'debug_slow' }, { type: 'debug_recirc' }];
  const [bytes] = encode(1, 1, { type: 'flow_mod', nxt: false, flowMod: flowMod({ actions }) });
  assert.throws(
    () => decode(bytes!),
    (error) => error instanceof OfError && error.code === 'OFPBAC_BAD_VENDOR_TYPE',
  );
  const { message } = decode(bytes!, { debugActions: true });
  assert.ok(message.type === 'flow_mod');
  assert.equal(formatActions(message.flowMod.actions), 'debug_slow,debug_recirc');
});

test('a packet goes on behind debug_recirc, and is handled one by one behind debug_slow', async () => {
  const rig = await SwitchRig.create({ debug: true });
  const bridge = rig.addBridge('br0');
  const ports = [1, 2, 3].map((n) => rig.addPort(bridge, `p${n}`, {}, n));
  const recirc: Action = { type: 'debug_recirc' };
  const actions = [...parseActions('output:2'), recirc, ...parseActions('output:3')];
  const add = (match: string, list: Action[]): void => {
    bridge.tables[0]!.insert(makeRule(0, 1, parseMatch(match), list));
    bridge.flowsChanged();
  };
  add('in_port=1', actions);
  add('in_port=2', [{ type: 'debug_slow' }, ...parseActions('output:1')]);
  const frame = ethernet(0x1234, new Uint8Array(50), { src: MAC_A, dst: MAC_B });
  const went = (): number[] => rig.sent(bridge).map(({ port }) => port.ofport);
  const { handler } = rig.datapath;
  for (const upcalls of [2, 2]) {
    rig.send(ports[0]!, frame);
    assert.deepEqual(went(), [2, 3]);
    assert.equal(handler.upcallCount, upcalls, 'the second packet meets both megaflows');
  }
  for (const upcalls of [3, 4]) {
    rig.send(ports[1]!, frame);
    assert.deepEqual(went(), [1]);
    assert.equal(handler.upcallCount, upcalls, 'each packet comes to the main thread');
  }
  rig.close();
});

test('an action set with a group has no actset_output', async () => {
  const rig = await SwitchRig.create({ debug: true });
  const bridge = rig.addBridge('br0');
  const [first] = [1, 2, 3, 4].map((n) => rig.addPort(bridge, `p${n}`, {}, n));
  bridge.groups.apply({
    command: OFPGC_ADD,
    group: 5,
    groupType: OFPGT_SELECT,
    commandBucket: 0xffffffff,
    buckets: [bucket(3, 1)],
  });
  const add = (table: number, priority: number, match: string, actions: string): void => {
    bridge.tables[table]!.insert(
      makeRule(table, priority, parseMatch(match), parseActions(actions)),
    );
  };
  add(0, 1, 'in_port=1', 'write_actions(output:3,group:5),goto_table:1');
  add(1, 1, '', 'write_actions(output:2),goto_table:2');
  add(2, 2, 'actset_output=2', 'output:3');
  add(2, 1, 'actset_output=unset', 'output:2');
  bridge.flowsChanged();
  rig.send(first!, ethernet(0x1234, new Uint8Array(50), { src: MAC_A, dst: MAC_B }));
  const went = rig.sent(bridge).map(({ port }) => port.ofport);
  assert.deepEqual(went, [2, 4]);
  rig.close();
});

test('a select group says how it is going to choose', () => {
  const said: string[] = [];
  let wanted = true;
  const groups = new GroupTable(() => 0, { dbg: (text) => said.push(text), isDbg: () => wanted });
  const add = (group: number, groupType: number, weights: number[]): string[] => {
    groups.apply({
      command: OFPGC_ADD,
      group,
      groupType,
      commandBucket: 0xffffffff,
      buckets: weights.map((weight, id) => bucket(id, weight)),
    });
    return said.splice(0);
  };
  assert.deepEqual(add(7, OFPGT_SELECT, [1, 3]), [
    'Constructing select group 7',
    'No selection method specified. Trying dp_hash.',
    '  Minimum weight: 1, total weight: 4',
    '  Using 16 hash values:',
    '  Bucket 0: weight=1, target=4.00 hits=4',
    '  Bucket 1: weight=3, target=12.00 hits=12',
    'Use dp_hash with 16 hash values using algorithm 1.',
  ]);
  assert.equal(add(8, OFPGT_SELECT, [1, 1000])[3], '  Too many hash values required: 1024');
  assert.equal(groups.get(8)!.selector.by, 'default');
  assert.equal(add(9, OFPGT_SELECT, [])[2], "  Don't apply dp_hash method without buckets.");
  assert.deepEqual(add(10, 0, [0, 0]), [], 'groups that do not choose say nothing');
  wanted = false;
  assert.deepEqual(add(11, OFPGT_SELECT, [1, 3]), [], 'nor does anybody when nobody listens');
});

test('MAC tables count what happens to addresses, whatever is cleared', () => {
  let now = 0;
  const table = new MacTable(() => now);
  const [one, two] = ['one', 'two'].map((name) => ({ name, ports: [{}] }) as unknown as Bundle);
  const mac = (n: number): Uint8Array => Uint8Array.of(2, 0, 0, 0, 0, n);
  table.addStatic(mac(1), 0, one!);
  for (const bundle of [one!, two!]) table.update(mac(1), 0, 0, bundle, false);
  for (const bundle of [one!, two!]) table.update(mac(2), 0, 0, bundle, false);
  table.update(mac(3), 0, 0, one!, false);
  table.forget(mac(3), 0);
  assert.equal(table.lookup(mac(3), 0, 0), undefined);
  table.clearStats();
  now = 300_000;
  table.expire();
  const expected = { learned: 2, expired: 1, evicted: 0, moved: 1, staticNoneMove: 1 };
  assert.deepEqual(table.events, expected);
});
