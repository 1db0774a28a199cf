// A bond that balances connections, over the real data plane: the hash is the data plane's, and megaflows are few.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Bond, type BondSettings } from '../../src/switch/bond/bond.ts';
import type { SwitchBridge } from '../../src/switch/bridge.ts';
import type { BridgePort } from '../../src/switch/types.ts';
import { parseActions } from '../../src/wire/openflow/actionParse.ts';
import { parseMatch } from '../../src/wire/openflow/matchParse.ts';
import { ethernet, ipv4, MAC_A, MAC_B, tcp } from '../oracle/frames.ts';
import { FakeNetdev, makeRule, SwitchRig } from '../oracle/openflowRig.ts';

const SETTINGS: BondSettings = {
  name: 'bond0',
  mode: 'balance-tcp',
  upDelayMs: 0,
  downDelayMs: 0,
  basis: 0,
  rebalanceMs: 0,
  fallbackAb: false,
  primary: undefined,
  allMembersActive: false,
  activeMac: undefined,
};

/** A port with the number 1, and a bond of the ports 2 and 3 in VLAN `tag`. */
async function setUp(tag?: number): Promise<{
  rig: SwitchRig;
  bridge: SwitchBridge;
  first: BridgePort;
  bond: Bond;
}> {
  const rig = await SwitchRig.create({ debug: true });
  const bridge = rig.addBridge('br0');
  const config = tag === undefined ? {} : { vlanMode: 'access' as const, tag };
  const first = rig.addPort(bridge, 'p1', config, 1);
  const bundle = bridge.addBundle('bond0');
  for (const ofport of [2, 3]) {
    const netdev = new FakeNetdev(`p${ofport}`, rig.rig.addPort());
    bridge.addPort({ netdev, bundle, ofport });
  }
  const bond = new Bond(SETTINGS, () => {});
  bond.configure(SETTINGS, 0);
  for (const port of bundle.ports) bond.register(port);
  for (const member of bond.members) member.mayEnable = true;
  bond.run('negotiated', 0);
  bundle.bond = bond;
  bridge.tables[0]!.insert(makeRule(0, 1, parseMatch(''), parseActions('NORMAL')));
  bridge.flowsChanged();
  return { rig, bridge, first, bond };
}

const frame = (connection: number): Uint8Array =>
  ethernet(0x0800, ipv4(6, tcp(1000 + connection, 80, new Uint8Array(20))), {
    dst: MAC_B,
    src: MAC_A,
  });

test('connections spread over the members of a bond, on few megaflows', async () => {
  const { rig, bridge, first, bond } = await setUp(5);
  const members: number[] = [];
  let bytes = 0;
  for (let i = 0; i < 400; i++) {
    for (let again = 0; again < 2; again++) {
      rig.send(first, frame(i));
      const sent = rig.sent(bridge);
      assert.equal(sent.length, 1);
      const { port, frame: out } = sent[0]!;
      assert.equal(port.ofport, again === 0 ? port.ofport : members[i]);
      assert.deepEqual([...out.subarray(12, 16)], [0x81, 0, 0, 5], 'the bond is a trunk');
      members[i] = port.ofport;
      bytes += out.length;
    }
  }
  const share = members.filter((ofport) => ofport === 2).length;
  assert.ok(share > 100 && share < 300, `${share} of 400 connections on the first member`);
  // One that hashes, and at most one for each bucket.
  assert.ok(rig.datapath.megaflows.size <= 257, `${rig.datapath.megaflows.size} megaflows`);
  assert.ok(
    rig.datapath.handler.upcallCount <= 258,
    'most connections have met a megaflow at once',
  );
  rig.datapath.syncStats();
  const credited = bond.entries!.reduce((sum, entry) => sum + entry.txBytes, 0);
  assert.equal(credited, bytes, 'buckets know what they carry: rebalancing goes by it');
  rig.close();
});

test('when a member goes, its connections go on by the other, the rest stays', async () => {
  const { rig, bridge, first, bond } = await setUp();
  const where = (): number[] =>
    Array.from({ length: 100 }, (_, i) => {
      rig.send(first, frame(i));
      const sent = rig.sent(bridge);
      assert.equal(sent.length, 1);
      return sent[0]!.port.ofport;
    });
  const before = where();
  assert.deepEqual(new Set(before), new Set([2, 3]));
  bond.enable(bond.member('p2')!, false);
  bridge.flowsChanged();
  await rig.settled();
  assert.deepEqual(new Set(where()), new Set([3]));
  // Without any member there is nowhere to go.
  bond.enable(bond.member('p3')!, false);
  bridge.flowsChanged();
  await rig.settled();
  rig.send(first, frame(0));
  assert.deepEqual(rig.sent(bridge), []);
  rig.close();
});

test('a data plane that is said not to recirculate gets megaflows that match the connection', async () => {
  const { rig, bridge, first } = await setUp();
  rig.datapath.features.set('recirc', false);
  for (let i = 0; i < 20; i++) rig.send(first, frame(i));
  assert.equal(rig.sent(bridge).length, 20);
  assert.equal(rig.datapath.megaflows.size, 20);
  rig.close();
});

test('protected ports stay apart, also behind the hash', async () => {
  const { rig, bridge, first, bond } = await setUp();
  first.bundle.protected = true;
  bond.members[0]!.port.bundle.protected = true;
  rig.send(first, frame(0));
  assert.deepEqual(rig.sent(bridge), []);
  rig.close();
});
