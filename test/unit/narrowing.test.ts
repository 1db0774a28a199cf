// Known flows while flow tables change: a busy megaflow that has become too wide is replaced by a narrower one, which is there
// before the old one goes. Its packets never miss; those of others that the old one covered do, once.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { SwitchBridge } from '../../src/switch/bridge.ts';
import type { BridgePort, Rule } from '../../src/switch/types.ts';
import { parseActions } from '../../src/wire/openflow/actionParse.ts';
import { parseMatch } from '../../src/wire/openflow/matchParse.ts';
import { ethernet, IP4_A, IP4_B, ipv4, udp } from '../oracle/frames.ts';
import { makeRule, SwitchRig } from '../oracle/openflowRig.ts';

const frame = (port: number): Uint8Array =>
  ethernet(0x0800, ipv4(17, udp(1000, port, new Uint8Array(18)), { src: IP4_A, dst: IP4_B }));

function addFlow(bridge: SwitchBridge, priority: number, match: string, actions: string): Rule {
  const rule = makeRule(0, priority, parseMatch(match), parseActions(actions));
  bridge.tables[0]!.insert(rule);
  bridge.flowsChanged();
  return rule;
}

class Net {
  readonly rig: SwitchRig;
  readonly bridge: SwitchBridge;
  readonly p1: BridgePort;
  readonly base: Rule;

  static async create(): Promise<Net> {
    return new Net(await SwitchRig.create());
  }

  private constructor(rig: SwitchRig) {
    this.rig = rig;
    this.bridge = rig.addBridge('br0');
    for (let i = 1; i <= 3; i++) rig.addPort(this.bridge, `p${i}`, {}, i);
    this.p1 = this.bridge.ports.get(1)!;
    this.base = addFlow(this.bridge, 1, 'in_port=1', 'output:2');
  }

  send(...frames: Uint8Array[]): string {
    this.rig.send(this.p1, ...frames);
    return this.rig
      .sent(this.bridge)
      .map(({ port }) => port.ofport)
      .join('');
  }

  get upcalls(): number {
    return this.rig.datapath.handler.upcallCount;
  }

  /** Calls `look` whenever the data plane's table is about to change, and when it has changed. Returns the end of that. */
  watch(look: () => void): () => void {
    const { engine } = this.rig.datapath;
    const { putFlow, deleteFlow } = engine;
    engine.putFlow = (...args) => {
      look();
      const id = putFlow(...args);
      look();
      return id;
    };
    engine.deleteFlow = (id) => {
      look();
      const gone = deleteFlow(id);
      look();
      return gone;
    };
    return () => Object.assign(engine, { putFlow, deleteFlow });
  }
}

test('a busy flow never misses while its megaflow is narrowed again and again', async () => {
  const net = await Net.create();
  const { rig, bridge, base } = net;
  const burst = (port: number, count: number, wanted: string): void => {
    for (let i = 0; i < count; i++) assert.equal(net.send(frame(port)), wanted);
  };
  burst(80, 40, '2');
  assert.equal(net.upcalls, 1);
  let looks = 0;
  const unwatch = net.watch(() => {
    looks++;
    burst(80, 1, '2');
  });
  const others: Rule[] = [];
  for (const match of [
    'ip,nw_tos=32',
    'udp,nw_src=10.128.0.0/9',
    'udp,tp_dst=53',
    'udp,tp_src=7',
  ]) {
    others.push(addFlow(bridge, 2, `in_port=1,${match}`, 'output:3'));
    await rig.settled();
    burst(80, 40, '2');
  }
  unwatch();
  assert.ok(looks >= 4 * 3, `${looks} changes of the table`);
  assert.equal(net.upcalls, 1, 'only the very first packet missed');
  assert.equal(rig.datapath.megaflows.size, 1);
  burst(53, 1, '3');
  assert.equal(net.upcalls, 2, 'others that the wide one covered miss, and fare as the tables say');
  // And back: a megaflow narrower than it has to be stays.
  for (const rule of others.splice(0)) {
    bridge.tables[0]!.remove(rule);
    bridge.flowsChanged();
    await rig.settled();
    burst(80, 1, '2');
  }
  assert.equal(net.upcalls, 2);
  burst(53, 1, '2');
  rig.datapath.syncStats();
  assert.equal(base.packets, 40 + looks + 4 * 40 + 4 + 1, 'each packet is counted once');
  rig.close();
});

test('at the flow limit a busy flow is narrowed all the same', async () => {
  const net = await Net.create();
  for (let i = 0; i < 40; i++) net.send(frame(80));
  net.rig.datapath.revalidator.setFlowLimit(1);
  addFlow(net.bridge, 2, 'in_port=1,udp,tp_dst=53', 'output:3');
  await net.rig.settled();
  assert.equal(net.send(frame(80)), '2');
  assert.equal(net.upcalls, 1);
  assert.equal(net.rig.datapath.handler.notInstalled, 0);
  net.rig.close();
});

test('a megaflow with few packets just goes', async () => {
  const net = await Net.create();
  net.send(frame(80));
  addFlow(net.bridge, 2, 'in_port=1,udp,tp_dst=53', 'output:3');
  await net.rig.settled();
  assert.equal(net.rig.datapath.megaflows.size, 0);
  assert.equal(net.send(frame(80)), '2');
  assert.equal(net.upcalls, 2);
  net.rig.close();
});
