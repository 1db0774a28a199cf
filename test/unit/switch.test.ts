// The switch as a whole, over the real data plane: learning, VLANs, patch ports, controllers, statistics, and the
// promise that after settled() no packet meets the old state.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  DROP_CONTROLLER_RATE,
  DROP_NO_LEARNED_PORT,
  DROP_RESERVED_MAC,
  DROP_RESUBMIT_LIMIT,
  DROP_UPCALL_NO_FLOW,
  DROP_VLAN_FILTER,
} from '../../contract/drop.ts';
import { FLOW_SIZE } from '../../contract/key.ts';
import type { SwitchBridge } from '../../src/switch/bridge.ts';
import type { Rule } from '../../src/switch/types.ts';
import { parseActions } from '../../src/wire/openflow/actionParse.ts';
import { parseMatch } from '../../src/wire/openflow/matchParse.ts';
import {
  OFPP_CONTROLLER,
  OFPP_LOCAL,
  OFPP_NONE,
  type PacketIn,
} from '../../src/wire/openflow/types.ts';
import { arp, ethernet, IP4_B, ipv4, MAC_A, MAC_B, tcp } from '../oracle/frames.ts';
import { FakeNetdev, makeRule, SwitchRig } from '../oracle/openflowRig.ts';

const BROADCAST = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff];

function frame(dst = MAC_B, src = MAC_A, tags: [number, number][] = [], port = 80): Uint8Array {
  return ethernet(0x0800, ipv4(6, tcp(1000, port, new Uint8Array(6))), { dst, src, tags });
}

function addFlow(
  bridge: SwitchBridge,
  match: string,
  actions: string,
  options: { table?: number; priority?: number; cookie?: bigint } = {},
): Rule {
  const { table = 0, priority = 32768, cookie = 0n } = options;
  const rule = makeRule(table, priority, parseMatch(match), parseActions(actions), cookie);
  bridge.tables[table]!.insert(rule);
  bridge.flowsChanged();
  return rule;
}

/** Where packets went: "ofport:tags". */
function went(rig: SwitchRig, bridge: SwitchBridge): string[] {
  return rig
    .sent(bridge)
    .map(({ port, frame }) => {
      const tags: string[] = [];
      for (let at = 12; frame[at] === 0x81 || frame[at] === 0x88; at += 4) {
        if (frame[at + 1] !== 0 && frame[at + 1] !== 0xa8) break;
        tags.push(String(((frame[at + 2]! & 15) << 8) | frame[at + 3]!));
      }
      return `${port.ofport}${tags.length > 0 ? `:${tags.join('.')}` : ''}`;
    })
    .sort();
}

async function normalSwitch(count = 3): Promise<{ rig: SwitchRig; bridge: SwitchBridge }> {
  const rig = await SwitchRig.create();
  const bridge = rig.addBridge('br0');
  for (let i = 1; i <= count; i++) rig.addPort(bridge, `p${i}`, {}, i);
  addFlow(bridge, '', 'normal', { priority: 0 });
  return { rig, bridge };
}

test('NORMAL floods, learns, forwards, and follows moves', async () => {
  const { rig, bridge } = await normalSwitch();
  const [p1, p2, p3] = [1, 2, 3].map((n) => bridge.ports.get(n)!);
  rig.send(p1!, frame(MAC_B, MAC_A));
  assert.deepEqual(went(rig, bridge), ['2', '3']);
  rig.send(p2!, frame(MAC_A, MAC_B));
  assert.deepEqual(went(rig, bridge), ['1']);
  await rig.settled();
  rig.send(p1!, frame(MAC_B, MAC_A));
  assert.deepEqual(went(rig, bridge), ['2'], 'the megaflow that flooded has been translated again');
  rig.send(p3!, frame(MAC_A, MAC_B));
  await rig.settled();
  went(rig, bridge);
  rig.send(p1!, frame(MAC_B, MAC_A));
  assert.deepEqual(went(rig, bridge), ['3'], 'B has moved to port 3');
  assert.equal(bridge.macs.totalMoved, 1);
  rig.send(p3!, frame(MAC_B, [2, 0, 0, 0, 0, 7]));
  assert.deepEqual(went(rig, bridge), []);
  assert.equal(rig.rig.counters(p3!.dpPort).drops[DROP_NO_LEARNED_PORT], 1);
  rig.close();
});

test('learned addresses age, megaflows go idle, statistics stay', async () => {
  const { rig, bridge } = await normalSwitch();
  const [p1, p2] = [1, 2].map((n) => bridge.ports.get(n)!);
  rig.send(p2!, frame(MAC_A, MAC_B));
  rig.send(p1!, frame(), frame());
  await rig.settled();
  rig.send(p1!, frame());
  went(rig, bridge);
  bridge.syncStats();
  const rule = [...bridge.tables[0]!][0]!;
  assert.equal(rule.packets, 4);
  assert.equal(rule.bytes, 4 * frame().length);
  assert.equal(rig.datapath.megaflows.size, 2);
  rig.clock.nowMs += 11_000;
  const done = rig.datapath.revalidator.wait();
  await done;
  await rig.rig.settle();
  assert.equal(rig.datapath.megaflows.size, 0);
  bridge.syncStats();
  assert.equal(rule.packets, 4);
  assert.equal(bridge.macs.size, 2);
  rig.clock.nowMs += 300_000;
  await rig.datapath.revalidator.wait();
  assert.equal(bridge.macs.size, 0);
  assert.equal(bridge.macs.totalExpired, 2);
  rig.close();
});

test('VLAN modes', async () => {
  const rig = await SwitchRig.create({ vlanLimit: 2 });
  const bridge = rig.addBridge('br0');
  const trunk = rig.addPort(bridge, 'trunk', {}, 1);
  const access = rig.addPort(bridge, 'access', { vlanMode: 'access', tag: 10 }, 2);
  const some = rig.addPort(bridge, 'some', { trunks: new Set([10, 20]) }, 3);
  const untagged = { vlanMode: 'native-untagged', tag: 10, trunks: new Set([20]) } as const;
  const native = rig.addPort(bridge, 'native', untagged, 4);
  const tagged = { vlanMode: 'native-tagged', tag: 10 } as const;
  rig.addPort(bridge, 'tagged', tagged, 5);
  const tunnel = { vlanMode: 'dot1q-tunnel', tag: 20 } as const;
  const qinq = rig.addPort(bridge, 'qinq', tunnel, 6);
  addFlow(bridge, '', 'normal');
  const send = (port: typeof trunk, ...vids: number[]): string[] => {
    const tags = vids.map((vid) => [0x8100, vid] as [number, number]);
    rig.send(port, frame(BROADCAST, [2, 0, 0, 0, port.ofport, vids.length], tags));
    return went(rig, bridge);
  };
  assert.deepEqual(send(access), ['1:10', '3:10', '4', '5:10']);
  assert.deepEqual(send(access, 10), [], 'tagged packets are not for access ports');
  assert.equal(rig.rig.counters(access.dpPort).drops[DROP_VLAN_FILTER], 1);
  assert.deepEqual(send(trunk, 10), ['2', '3:10', '4', '5:10']);
  assert.deepEqual(send(trunk), [], 'native ports have no VLAN 0');
  assert.deepEqual(send(native), ['1:10', '2', '3:10', '5:10']);
  assert.deepEqual(send(native, 20), ['1:20', '3:20', '5:20', '6']);
  assert.deepEqual(send(native, 30), []);
  assert.deepEqual(send(qinq, 7), ['1:20.7', '3:20.7', '4:20.7', '5:20.7']);
  assert.deepEqual(send(some, 20), ['1:20', '4:20', '5:20', '6']);
  bridge.setFloodVlans(new Set([10]));
  await rig.settled();
  assert.deepEqual(send(access), ['1:10', '3:10', '4', '5:10']);
  assert.equal([...bridge.macs].filter((entry) => entry.vlan === 10).length, 0);
  rig.close();
});

test('a tag stripped and written anew: the megaflow of the tag that was the same decides for no other', async () => {
  const rig = await SwitchRig.create();
  const bridge = rig.addBridge('br0');
  const [p1] = [1, 2].map((n) => rig.addPort(bridge, `p${n}`, {}, n));
  addFlow(bridge, '', 'strip_vlan,mod_vlan_vid:2,output:2');
  for (const tci of [0x0002, 0xa002]) {
    rig.send(p1!, frame(MAC_B, MAC_A, [[0x8100, tci]]));
    const [sent] = rig.sent(bridge);
    assert.equal(Buffer.from(sent!.frame.subarray(14, 16)).toString('hex'), '0002');
  }
  rig.close();
});

test('reserved addresses, protected ports, port configuration', async () => {
  const { rig, bridge } = await normalSwitch();
  const [p1, p2, p3] = [1, 2, 3].map((n) => bridge.ports.get(n)!);
  rig.send(p1!, frame([1, 0x80, 0xc2, 0, 0, 0]));
  assert.deepEqual(went(rig, bridge), []);
  assert.equal(rig.rig.counters(p1!.dpPort).drops[DROP_RESERVED_MAC], 1);
  bridge.forwardBpdu = true;
  await rig.settled();
  rig.send(p1!, frame([1, 0x80, 0xc2, 0, 0, 0]));
  assert.deepEqual(went(rig, bridge), ['2', '3']);
  bridge.setBundle(p1!.bundle, { protected: true });
  bridge.setBundle(p2!.bundle, { protected: true });
  await rig.settled();
  rig.send(p1!, frame(BROADCAST));
  assert.deepEqual(went(rig, bridge), ['3']);
  p3!.desc = { ...p3!.desc, config: 32 }; // OFPPC_NO_FWD
  bridge.flowsChanged();
  await rig.settled();
  rig.send(p1!, frame(BROADCAST));
  assert.deepEqual(went(rig, bridge), []);
  p1!.desc = { ...p1!.desc, config: 4 }; // OFPPC_NO_RECV
  p3!.desc = { ...p3!.desc, config: 0 };
  bridge.flowsChanged();
  await rig.settled();
  rig.send(p1!, frame(BROADCAST));
  assert.deepEqual(went(rig, bridge), []);
  rig.close();
});

test('a change reaches every packet sent after settled()', async () => {
  const { rig, bridge } = await normalSwitch();
  const p1 = bridge.ports.get(1)!;
  rig.send(p1, frame());
  assert.deepEqual(went(rig, bridge), ['2', '3']);
  const drop = addFlow(bridge, 'tcp,tcp_dst=80', 'drop', { priority: 9 });
  await bridge.settled();
  rig.send(p1, frame(), frame(MAC_B, MAC_A, [], 81));
  assert.deepEqual(went(rig, bridge), ['2', '3'], 'only the packet to port 81');
  bridge.syncStats();
  assert.equal(drop.packets, 1);
  bridge.tables[0]!.remove(drop);
  bridge.flowsChanged();
  await bridge.settled();
  rig.send(p1, frame());
  assert.deepEqual(went(rig, bridge), ['2', '3']);
  rig.close();
});

test('patch ports: two bridges, one megaflow, statistics in both', async () => {
  const rig = await SwitchRig.create();
  const br0 = rig.addBridge('br0');
  const br1 = rig.addBridge('br1');
  const in0 = rig.addPort(br0, 'a', {}, 1);
  rig.addPort(br1, 'b', {}, 1);
  const [end0, end1] = rig.patch(br0, br1);
  const first = addFlow(
    br0,
    '',
    `load:9->NXM_NX_REG0[],mod_dl_src:02:00:00:00:00:77,output:${end0.ofport},mod_dl_dst:02:00:00:00:00:88,in_port`,
  );
  const second = addFlow(br1, 'reg0=0', 'mod_nw_tos:40,output:1');
  rig.send(in0, frame(), frame());
  const [inB] = rig.sent(br1);
  assert.equal(inB!.frame[11], 0x77);
  assert.equal(inB!.frame[15], 40);
  const back = rig.sent(br0);
  assert.equal(back.length, 2);
  assert.equal(back[0]!.frame[5], 0x88);
  assert.equal(back[0]!.frame[15], 0, 'what the other bridge did is undone');
  rig.send(in0, frame());
  br0.syncStats();
  assert.deepEqual([first.packets, second.packets], [3, 3]);
  assert.deepEqual(Object.values((end0.netdev as unknown as { counters: object }).counters), [
    0,
    0,
    3,
    3 * frame().length,
  ]);
  assert.deepEqual(Object.values((end1.netdev as unknown as { counters: object }).counters), [
    3,
    3 * frame().length,
    0,
    0,
  ]);
  br1.removePort(end1);
  await rig.settled();
  rig.sent(br1);
  rig.send(in0, frame());
  assert.deepEqual(rig.sent(br1), []);
  rig.close();
});

test('packet-ins: reasons, metadata, truncation, misses', async () => {
  const rig = await SwitchRig.create();
  const bridge = rig.addBridge('br0');
  const p1 = rig.addPort(bridge, 'p1', {}, 1);
  const seen: [PacketIn, number][] = [];
  bridge.onPacketIn = (packet, id) => seen.push([packet, id]);
  addFlow(bridge, 'tcp,tcp_dst=80', 'load:5->NXM_NX_REG2[],resubmit(,3)', { cookie: 1n });
  addFlow(
    bridge,
    'reg2=5',
    'mod_dl_dst:02:00:00:00:00:44,controller(max_len=20,id=7,userdata=01.02)',
    { table: 3, cookie: 0x99n },
  );
  addFlow(bridge, 'tcp,tcp_dst=81', 'dec_ttl(3,4)');
  rig.send(p1, frame());
  const [packet, id] = seen.pop()!;
  assert.equal(id, 7);
  assert.deepEqual(
    [packet.reason, packet.table, packet.cookie, packet.totalLen, packet.data.length],
    ['action', 3, 0x99n, frame().length, 20],
  );
  assert.equal(packet.data[5], 0x44);
  assert.deepEqual([...packet.userdata!], [1, 2]);
  assert.deepEqual(packet.match, {
    key: parseMatch('in_port=1,reg2=5').key,
    mask: parseMatch('in_port=1,reg2=5').mask,
  });
  const dying = ethernet(0x0800, ipv4(6, tcp(1, 81, new Uint8Array(0)), { ttl: 1 }));
  rig.send(p1, dying);
  assert.deepEqual(
    seen.splice(0).map(([p, n]) => `${p.reason} ${n}`),
    ['invalid_ttl 3', 'invalid_ttl 4'],
  );
  rig.send(p1, frame(MAC_B, MAC_A, [], 82));
  assert.equal(seen.length, 0);
  assert.equal(rig.rig.counters(p1.dpPort).drops[DROP_UPCALL_NO_FLOW], 1);
  bridge.wantsPacketInOnMiss = true;
  bridge.flowsChanged();
  await rig.settled();
  rig.send(p1, frame(MAC_B, MAC_A, [], 82));
  assert.deepEqual(
    seen.splice(0).map(([p]) => p.reason),
    ['implicit_miss'],
  );
  p1.desc = { ...p1.desc, config: 64 }; // OFPPC_NO_PACKET_IN
  bridge.flowsChanged();
  await rig.settled();
  rig.close();
});

test('packet-out', async () => {
  const { rig, bridge } = await normalSwitch();
  const out = (inPort: number, actions: string): string[] => {
    bridge.packetOut(inPort, undefined, parseActions(actions), frame());
    rig.run();
    return went(rig, bridge);
  };
  assert.deepEqual(out(OFPP_NONE, 'output:2'), ['2']);
  assert.deepEqual(out(1, 'output:1,output:3'), ['3']);
  assert.deepEqual(out(1, 'in_port'), ['1']);
  assert.deepEqual(out(OFPP_CONTROLLER, 'all'), ['1', '2', '3']);
  assert.deepEqual(out(OFPP_NONE, 'table'), ['1', '2', '3']);
  assert.deepEqual(out(OFPP_LOCAL, 'mod_vlan_vid:5,output:2'), ['2:5']);
  bridge.syncStats();
  assert.equal([...bridge.tables[0]!][0]!.packets, 1);
  const refuse = (inPort: number, actions: string, code: string): void =>
    assert.throws(() => out(inPort, actions), { code });
  refuse(0xff40, 'output:1', 'OFPBRC_BAD_PORT');
  refuse(1, 'group:1', 'OFPBAC_BAD_OUT_GROUP');
  refuse(1, 'push_vlan:0x8100,push_vlan:0x8100,push_vlan:0x8100', 'OFPBAC_BAD_TAG');
  bridge.packetOut(1, undefined, parseActions('output:2'), new Uint8Array(3));
  rig.run();
  went(rig, bridge);
  rig.close();
});

test('endless resubmits are cut off, under a name', async () => {
  const rig = await SwitchRig.create();
  const bridge = rig.addBridge('br0');
  const p1 = rig.addPort(bridge, 'p1', {}, 1);
  rig.addPort(bridge, 'p2', {}, 2);
  addFlow(bridge, '', 'output:2,resubmit(,0)');
  rig.send(p1, frame());
  assert.deepEqual(rig.sent(bridge), []);
  assert.equal(rig.rig.counters(p1.dpPort).drops[DROP_RESUBMIT_LIMIT], 1);
  rig.close();
});

test('fragments: normal hides ports, drop refuses, nx-match shows', async () => {
  const rig = await SwitchRig.create();
  const bridge = rig.addBridge('br0');
  const p1 = rig.addPort(bridge, 'p1', {}, 1);
  rig.addPort(bridge, 'p2', {}, 2);
  addFlow(bridge, 'tcp,tcp_dst=80', 'output:2');
  const first = ethernet(0x0800, ipv4(6, tcp(1000, 80, new Uint8Array(6)), { fragment: 0x2000 }));
  const sends = async (mode: number): Promise<number> => {
    bridge.fragHandling = mode;
    bridge.flowsChanged();
    await rig.settled();
    rig.send(p1, first);
    return rig.sent(bridge).length;
  };
  assert.equal(await sends(0), 0);
  assert.equal(await sends(1), 0);
  assert.equal(await sends(3), 1);
  rig.close();
});

test('gratuitous ARP is learned, a removed port is forgotten', async () => {
  const { rig, bridge } = await normalSwitch();
  const [p1, p2] = [1, 2].map((n) => bridge.ports.get(n)!);
  const announce = ethernet(0x0806, arp(1, MAC_B, IP4_B, BROADCAST, IP4_B), {
    dst: BROADCAST,
    src: MAC_B,
  });
  rig.send(p2!, announce);
  assert.deepEqual(went(rig, bridge), ['1', '3']);
  rig.send(p1!, frame(MAC_B, MAC_A));
  assert.deepEqual(went(rig, bridge), ['2']);
  bridge.removePort(p2!);
  await rig.settled();
  rig.send(p1!, frame(MAC_B, MAC_A));
  assert.deepEqual(went(rig, bridge), ['3']);
  assert.equal(rig.datapath.ports.has(p2!.dpPort), false);
  rig.close();
});

test('the flow limit keeps packets flowing without megaflows', async () => {
  const { rig, bridge } = await normalSwitch();
  rig.datapath.revalidator.flowLimit = 3;
  const p1 = bridge.ports.get(1)!;
  for (let i = 0; i < 6; i++) rig.send(p1, frame([2, 0, 0, 0, 1, i]));
  assert.equal(rig.sent(bridge).length, 12);
  assert.equal(rig.datapath.megaflows.size, 3);
  assert.equal(rig.datapath.handler.notInstalled, 3);
  await rig.datapath.purge();
  assert.equal(rig.datapath.megaflows.size, 0);
  bridge.syncStats();
  assert.equal([...bridge.tables[0]!][0]!.packets, 6);
  rig.close();
});

test('at the flow limit a packet whose megaflow is there does not count as one that found no room', async () => {
  const { rig, bridge } = await normalSwitch();
  const p1 = bridge.ports.get(1)!;
  // More flows than are compared before translation, and all packets miss before the first is handled.
  const FLOWS = 12;
  rig.datapath.revalidator.flowLimit = FLOWS;
  const frames = Array.from({ length: FLOWS }, (_, i) => frame([2, 0, 0, 0, 1, i]));
  rig.send(p1, ...frames, ...frames);
  assert.equal(rig.datapath.megaflows.size, FLOWS);
  assert.equal(rig.datapath.handler.upcallCount, 2 * FLOWS, 'all missed');
  assert.equal(rig.datapath.handler.notInstalled, 0);
  rig.send(p1, frame([2, 0, 0, 0, 2, 0]));
  assert.equal(rig.datapath.handler.notInstalled, 1);
  rig.close();
});

test('hidden rules live in table 254', async () => {
  const { rig, bridge } = await normalSwitch();
  const hidden = [...bridge.tables[254]!];
  assert.equal(hidden.length, 4);
  assert.ok(hidden.every((rule) => rule.hidden && rule.match.mask.length === FLOW_SIZE));
  rig.close();
});

test('changes that never end do not hold back a barrier', async () => {
  const { rig, bridge } = await normalSwitch();
  const p1 = bridge.ports.get(1)!;
  for (let i = 0; i < 300; i++) rig.send(p1, frame([2, 0, 0, 0, 2, i]));
  rig.sent(bridge);
  let busy = true;
  const storm = (): void => {
    bridge.flowsChanged();
    bridge.macs.update(Uint8Array.of(2, 0, 0, 0, 2, 1), 0, 0, p1.bundle, false);
    if (busy) setImmediate(storm);
  };
  storm();
  await bridge.settled();
  busy = false;
  await bridge.settled();
  rig.close();
});

test('what the control plane loses is counted', async () => {
  const { rig, bridge } = await normalSwitch();
  addFlow(bridge, 'tcp', 'controller', { priority: 9 });
  rig.send(bridge.ports.get(1)!, frame());
  assert.equal(rig.datapath.controlDrops()[DROP_CONTROLLER_RATE], 1, 'nobody listens');
  rig.close();
});

test('a bond sends by its first member that is up', async () => {
  const { rig, bridge } = await normalSwitch(1);
  const p1 = bridge.ports.get(1)!;
  const b1 = rig.addPort(bridge, 'b1', {}, 2);
  const b2 = bridge.addPort({
    netdev: new FakeNetdev('b2', rig.rig.addPort()),
    bundle: b1.bundle,
    ofport: 3,
  });
  rig.send(p1, frame(BROADCAST));
  assert.deepEqual(went(rig, bridge), ['2']);
  rig.send(b2, frame(MAC_A, MAC_B));
  assert.deepEqual(went(rig, bridge), [], 'the backup member takes nothing in');
  (b1.netdev as FakeNetdev).state = { ...b1.netdev.status(), linkUp: false };
  assert.equal(bridge.refreshPort(b1), true);
  assert.equal(bridge.refreshPort(b1), false);
  await rig.settled();
  rig.send(p1, frame(BROADCAST));
  assert.deepEqual(went(rig, bridge), ['3']);
  rig.send(b2, frame(MAC_A, MAC_B));
  assert.deepEqual(went(rig, bridge), ['1']);
  rig.close();
});

test('a loop of patch ports ends', async () => {
  const rig = await SwitchRig.create();
  const br0 = rig.addBridge('br0');
  const br1 = rig.addBridge('br1');
  const p1 = rig.addPort(br0, 'p1', {}, 1);
  const q1 = rig.addPort(br1, 'q1', {}, 1);
  for (const bridge of [br0, br1]) addFlow(bridge, '', 'normal');
  for (let i = 0; i < 3; i++) rig.patch(br0, br1);
  rig.send(p1, frame(BROADCAST));
  assert.ok(rig.sent(br1).length > 0);
  assert.ok(rig.rig.counters(q1.dpPort).txPackets > 0);
  rig.close();
});

test('packets that missed before their megaflow was there keep their order, and each counts once', async () => {
  const rig = await SwitchRig.create();
  const bridge = rig.addBridge('br0');
  const [p1] = [1, 2].map((n) => rig.addPort(bridge, `p${n}`, {}, n));
  const one = addFlow(bridge, 'tcp,tp_dst=80', 'output:2');
  const other = addFlow(bridge, 'tcp,tp_dst=81', 'output:2');
  const frames = Array.from({ length: 240 }, (_, i) => {
    const data = frame(MAC_B, MAC_A, [], i % 3 === 0 ? 81 : 80);
    data[data.length - 1] = i & 0xff;
    data[data.length - 2] = i >> 8;
    return data;
  });
  rig.send(p1!, ...frames);
  assert.equal(rig.datapath.megaflows.size, 2);
  assert.equal(rig.datapath.handler.upcallCount, 240, 'all missed');
  const order = rig.sent(bridge).map(({ frame }) => (frame.at(-2)! << 8) | frame.at(-1)!);
  assert.deepEqual(order, [...Array(240).keys()]);
  bridge.syncStats();
  assert.deepEqual([one.packets, other.packets], [160, 80]);
  rig.close();
});
