// Parts of the switch by themselves: MAC table, packet-in numbers, upcall fairness, long programs, text, checks.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import fc from 'fast-check';
import { ACT_DROP, ACT_END, ACT_OUTPUT, ACT_PUSH_VLAN, ACT_TRUNC } from '../../contract/action.ts';
import { FLOW_SIZE, KEY_SIZE } from '../../contract/key.ts';
import type { Upcall } from '../../src/engine/types.ts';
import { checkActions } from '../../src/switch/checkActions.ts';
import { composeFrame, countingPayload } from '../../src/switch/composeFrame.ts';
import { extractFlow } from '../../src/switch/flowExtract.ts';
import { IdPool } from '../../src/switch/idPool.ts';
import { isReservedAddress, MacTable } from '../../src/switch/macLearning.ts';
import { parseOdpFlow } from '../../src/switch/odpParse.ts';
import { formatOdpFlow } from '../../src/switch/odpText.ts';
import { PacketIns } from '../../src/switch/packetIns.ts';
import { slowPathProgram, splitProgram } from '../../src/switch/slowPath.ts';
import type { PacketInSpec, XlateBridge } from '../../src/switch/translate/types.ts';
import type { Bundle } from '../../src/switch/types.ts';
import { UpcallQueue } from '../../src/switch/upcallQueue.ts';
import { parseActions } from '../../src/wire/openflow/actionParse.ts';
import { parseMatch } from '../../src/wire/openflow/matchParse.ts';
import type { Action, OfVersion } from '../../src/wire/openflow/types.ts';
import { worldFrame } from '../oracle/openflowArbitraries.ts';

const bundle = (name: string, ports = 1): Bundle =>
  ({ name, ports: new Array(ports).fill({}) }) as unknown as Bundle;
const mac = (n: number): Uint8Array => Uint8Array.of(2, 0, 0, 0, n >> 8, n);

test('MAC table: fair eviction, static entries, flood VLANs', () => {
  let now = 0;
  const table = new MacTable(() => now);
  const changes: (string | undefined)[] = [];
  table.onChange = (key) => changes.push(key);
  table.maxEntries = 10;
  const [greedy, modest] = [bundle('greedy'), bundle('modest')];
  table.update(mac(1), 0, 0, modest, false);
  assert.ok(table.addStatic(mac(2), 0, greedy));
  for (let i = 10; i < 40; i++) table.update(mac(i), 0, 0, greedy, false);
  assert.equal(table.size, 10);
  assert.equal(table.totalEvicted, 22);
  assert.equal(table.lookup(mac(1), 0, 0)!.bundle, modest, 'the modest port keeps its address');
  assert.ok(table.lookup(mac(2), 0, 0)!.isStatic);
  assert.equal(table.update(mac(2), 0, 0, modest, false), false, 'static entries do not move');
  assert.equal(table.update(Uint8Array.of(1, 0, 0, 0, 0, 1), 0, 0, modest, false), false);
  table.floodVlans = new Set([7]);
  assert.equal(table.update(mac(3), 0, 7, modest, false), false);
  assert.equal(changes.length, 2 + 30 + 22);
  now = 299_999;
  assert.equal(table.ageSeconds(table.lookup(mac(1), 0, 0)!), 299);
  now = 300_000;
  assert.equal(table.lookup(mac(1), 0, 0), undefined);
  table.expire();
  assert.equal(table.size, 1);
  assert.equal(table.removeStatic(mac(2), 0), true);
  assert.equal(table.removeStatic(mac(2), 0), false);
});

test('MAC table: gratuitous ARP is not undone by reflections over a bond', () => {
  const table = new MacTable(() => 0);
  const [port, bond] = [bundle('port'), bundle('bond', 2)];
  table.update(mac(1), 0, 0, port, true);
  assert.equal(table.update(mac(1), 0, 0, bond, true), false);
  assert.equal(table.lookup(mac(1), 0, 0)!.bundle, port);
});

test('reserved addresses', () => {
  const reserved = (text: string): boolean =>
    isReservedAddress(
      Uint8Array.from(text.split(':'), (byte) => Number.parseInt(byte, 16)),
      0,
    );
  assert.ok(reserved('01:80:c2:00:00:0e'));
  assert.ok(reserved('01:00:0c:cc:cc:cc'));
  assert.ok(reserved('01:00:0c:cc:cc:c5'));
  assert.ok(!reserved('01:80:c2:00:00:10'));
  assert.ok(!reserved('01:00:0c:cc:cc:c8'));
});

test('packet-in numbers are shared, and outlive their users for a while', () => {
  let now = 0;
  const store = new PacketIns(() => now);
  const spec = (cookie: bigint): PacketInSpec => ({
    bridge: {} as XlateBridge,
    reason: 'action',
    table: 0,
    cookie,
    controllerId: 0,
    maxLen: 128,
    userdata: undefined,
    conntracked: false,
    metadata: new Uint8Array(FLOW_SIZE),
  });
  const one = spec(1n);
  const id = store.add(one);
  assert.equal(store.add(one), id);
  assert.notEqual(store.add({ ...one, cookie: 2n }), id);
  store.release([id, id]);
  assert.equal(store.get(id), one);
  now += 10_000;
  store.sweep();
  assert.equal(store.get(id), undefined);
  assert.equal(store.size, 1);
});

test('upcalls: a port that floods loses its own', async () => {
  const handled: number[] = [];
  const queue = new UpcallQueue((upcall) => handled.push(upcall.inPort), 4);
  const upcall = (inPort: number, bytes = 60): Upcall => ({
    worker: 0,
    reason: 0,
    cookie: 0,
    inPort,
    key: new Uint8Array(KEY_SIZE),
    data: new Uint8Array(bytes),
    packetLen: bytes,
    vnet: new Uint8Array(8),
    hash: 0,
  });
  for (let i = 0; i < 100; i++) queue.push(upcall(1));
  assert.equal(handled.length, 100, 'a port that is alone has no budget');
  handled.length = 0;
  await turn();
  queue.push(upcall(2));
  for (let i = 0; i < 2000; i++) queue.push(upcall(1));
  queue.push(upcall(2));
  assert.deepEqual(handled, [2, 1, 1, 1, 1, 2], 'the quiet port is served at once');
  assert.equal(queue.dropped.get(1), 2000 - 4 - 1024);
  for (let i = 0; i < 50 && handled.length < 4 + 1024 + 2; i++) await turn();
  assert.equal(handled.length, 4 + 1024 + 2);
  queue.push(upcall(1));
  assert.equal(handled.length, 4 + 1024 + 3, 'and the flood is forgotten');
  // Big frames: no more than 16 MiB of them wait, and when those are handled there is room again.
  for (let round = 1; round <= 2; round++) {
    await turn();
    handled.length = 0;
    const droppedBefore = queue.dropped.get(1)!;
    queue.push(upcall(2));
    for (let i = 0; i < 1000; i++) queue.push(upcall(1, 65536));
    assert.equal(queue.dropped.get(1)! - droppedBefore, 1000 - 4 - 256);
    for (let i = 0; i < 50 && queue.busy; i++) await turn();
    assert.equal(handled.length, 1 + 4 + 256);
  }
  queue.close();
});

test('long programs are run in pieces that do the same', () => {
  const words: number[] = [];
  for (let i = 0; i < 100; i++) {
    if (i % 10 === 0) words.push(ACT_PUSH_VLAN | (2 << 16), 0x8100);
    if (i % 7 === 0) words.push(ACT_TRUNC | (2 << 16), 64);
    words.push(ACT_OUTPUT | (2 << 16), i);
  }
  const program = Uint32Array.of(...words, ACT_END | (1 << 16));
  /** Each output with the number of tags and the truncation that it sees. */
  const run = (p: Uint32Array): string[] => {
    const out: string[] = [];
    let tags = 0;
    let trunc = 0;
    for (let at = 0; (p[at]! & 0xffff) !== ACT_END; at += p[at]! >>> 16) {
      const op = p[at]! & 0xffff;
      if (op === ACT_PUSH_VLAN) tags++;
      if (op === ACT_TRUNC) trunc = p[at + 1]!;
      if (op === ACT_OUTPUT) {
        out.push(`${p[at + 1]} ${tags} ${trunc}`);
        trunc = 0;
      }
    }
    return out;
  };
  assert.deepEqual(splitProgram(program), [program]);
  for (const max of [40, 64, 100]) {
    const pieces = splitProgram(program, max);
    assert.ok(pieces.length > 1 && pieces.every((piece) => piece.length <= max));
    assert.deepEqual(pieces.flatMap(run), run(program));
  }
  assert.equal(splitProgram(program, 16)[0]![0]! & 0xffff, ACT_DROP);
  assert.equal(slowPathProgram().length, 5);
});

test('text of datapath flows is read back', () => {
  fc.assert(
    fc.property(worldFrame, (frame) => {
      const key = new Uint8Array(FLOW_SIZE);
      extractFlow(key, frame, 2);
      const text = formatOdpFlow(key, new Uint8Array(FLOW_SIZE).fill(0xff), false);
      const parsed = parseOdpFlow(text);
      // Flags of neighbour advertisements have no name in this text.
      key.fill(0, 168, 176);
      assert.equal(
        Buffer.from(parsed).toString('hex'),
        Buffer.from(key.subarray(0, KEY_SIZE)).toString('hex'),
        text,
      );
    }),
    { numRuns: 500 },
  );
  for (const bad of [
    'in_port=1',
    'eth(src=zz)',
    'ipv4(src=1.2.3)',
    'nonsense(1)',
    'eth(',
    'tcp(src=70000)',
  ]) {
    assert.throws(() => parseOdpFlow(bad), SyntaxError);
  }
});

test('generated frames have the headers they were made from', () => {
  fc.assert(
    fc.property(worldFrame, (frame) => {
      const flow = new Uint8Array(FLOW_SIZE);
      extractFlow(flow, frame, 2);
      const again = new Uint8Array(FLOW_SIZE);
      extractFlow(again, composeFrame(flow, countingPayload(64)), 2);
      flow.fill(0, 168, 176);
      again.fill(0, 168, 176);
      flow.fill(0, 38, 40); // TCP flags of the builder
      again.fill(0, 38, 40);
      assert.deepEqual(again, flow);
    }),
    { numRuns: 500 },
  );
});

test('actions that do not fit are refused with the right error', () => {
  const check = (
    actions: string | Action[],
    match: string,
    table = 0,
    version?: OfVersion,
  ): string => {
    try {
      const list = typeof actions === 'string' ? parseActions(actions) : actions;
      checkActions(list, parseMatch(match), table, version);
      return 'ok';
    } catch (error) {
      return (error as { code?: string }).code ?? String(error);
    }
  };
  assert.equal(check('output:1,normal,flood,all,local,in_port,controller,table', ''), 'ok');
  assert.equal(check([{ type: 'output', port: 0xff10, maxLen: 0 }], ''), 'OFPBAC_BAD_OUT_PORT');
  assert.equal(check([{ type: 'output', port: 0xffffffff, maxLen: 0 }], ''), 'OFPBAC_BAD_OUT_PORT');
  assert.equal(check('set_field:1.2.3.4->ip_src', ''), 'OFPBAC_MATCH_INCONSISTENT');
  assert.equal(check('set_field:1.2.3.4->ip_src', 'ip'), 'ok');
  assert.equal(check('mod_nw_src:1.2.3.4', ''), 'ok');
  assert.equal(check('mod_nw_src:1.2.3.4', '', 0, 4), 'OFPBAC_MATCH_INCONSISTENT');
  assert.equal(check('set_field:5->vlan_vid', ''), 'OFPBAC_MATCH_INCONSISTENT');
  assert.equal(check('push_vlan:0x8100,set_field:4101->vlan_vid', ''), 'ok');
  assert.equal(check('push_vlan:0x8100,push_vlan:0x88a8,push_vlan:0x8100', ''), 'OFPBAC_BAD_TAG');
  assert.equal(
    check('move:NXM_OF_TCP_SRC[]->NXM_NX_REG0[0..15]', 'ip'),
    'OFPBAC_MATCH_INCONSISTENT',
  );
  assert.equal(check('goto_table:3', '', 3), 'OFPBIC_BAD_TABLE_ID');
  assert.equal(check('goto_table:4', '', 3), 'ok');
  assert.equal(check('meter:1,output:1', ''), 'OFPMMFC_INVALID_METER');
  assert.equal(check('group:1', ''), 'OFPBAC_BAD_OUT_GROUP');
  assert.equal(check('push_mpls:0x8847,dec_mpls_ttl,pop_mpls:0x800', ''), 'ok');
  assert.equal(check([{ type: 'delete_field', field: 'tun_metadata0' }], ''), 'ok');
  assert.equal(check('decap(),encap(mpls),encap(ethernet),output:1', 'ip'), 'ok');
  assert.equal(check('decap(),set_field:1.2.3.4->ip_src', 'ip', 0, 4), 'ok');
  assert.equal(check('encap(mpls),mod_nw_src:1.2.3.4', 'ip', 0, 4), 'OFPBAC_MATCH_INCONSISTENT');
  assert.equal(
    check('decap(),decap(),mod_nw_src:1.2.3.4', 'mpls', 0, 4),
    'OFPBAC_MATCH_INCONSISTENT',
  );
  assert.equal(
    check([{ type: 'write_actions', actions: [{ type: 'group', group: 1 }] }], ''),
    'OFPBAC_BAD_OUT_GROUP',
  );
});

test('numbers of a trace are not given to packets, but mean something for a while', () => {
  let nowMs = 0;
  const pool = new IdPool<string>(() => nowMs, 10);
  const used = pool.add('used', 'u');
  const mark = pool.mark();
  const traced = [pool.add('used', 'u'), pool.add('traced', 't')];
  assert.equal(traced[0], used);
  pool.forget(traced, mark);
  assert.equal(pool.add('used', 'u'), used);
  assert.equal(pool.get(traced[1]!), 't');
  const fresh = pool.add('traced', 't');
  assert.notEqual(fresh, traced[1]);
  nowMs = 60_000;
  pool.sweep();
  assert.equal(pool.get(traced[1]!), undefined);
  // The sweep of the old number leaves the new one findable.
  assert.equal(pool.add('traced', 't'), fresh);
});
