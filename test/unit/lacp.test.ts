// LACP aggregators against each other, without sockets; bonds over fake devices: choice of members, delays, balancing.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { K_ETH_SRC } from '../../contract/key.ts';
import { LacpAggregator, type LacpSettings } from '../../src/protocol/lacp.ts';
import { Bond, type BondSettings, hashMac } from '../../src/switch/bond/bond.ts';
import { rebalance } from '../../src/switch/bond/rebalance.ts';
import { newRecord } from '../../src/switch/flow.ts';
import type { BridgePort } from '../../src/switch/types.ts';

const settings = (name: string, id: number, change: Partial<LacpSettings> = {}): LacpSettings => ({
  name,
  systemId: Uint8Array.of(2, 0, 0, 0, 0, id),
  systemPriority: 65534,
  active: true,
  fast: true,
  fallbackAb: false,
  ...change,
});

function aggregator(name: string, id: number, ports: string[], change: Partial<LacpSettings> = {}) {
  const lacp = new LacpAggregator<string>(settings(name, id, change), () => {});
  ports.forEach((port, i) => {
    lacp.register(port, { name: port, portId: i + 1, priority: 65535, key: 0 }, 0);
    lacp.mayEnable(port); // its carrier is up
  });
  return lacp;
}

type Lacp = ReturnType<typeof aggregator>;

/** `wires` pairs ports of a with ports of b. */
function pass(a: Lacp, b: Lacp, wires: [string, string][], fromMs: number, toMs: number): void {
  for (let nowMs = fromMs; nowMs < toMs; nowMs += 100) {
    for (const { port, pdu } of a.run(nowMs)) {
      const to = wires.find(([one]) => one === port)?.[1];
      if (to !== undefined) b.receive(to, pdu, nowMs);
    }
    for (const { port, pdu } of b.run(nowMs)) {
      const to = wires.find(([, one]) => one === port)?.[0];
      if (to !== undefined) a.receive(to, pdu, nowMs);
    }
  }
}

const WIRES: [string, string][] = [
  ['a1', 'b1'],
  ['a2', 'b2'],
];

test('two aggregators agree; a silent member expires, then is defaulted', () => {
  const a = aggregator('a', 1, ['a1', 'a2']);
  const b = aggregator('b', 2, ['b1', 'b2'], { active: false });
  pass(a, b, WIRES, 0, 2000);
  assert.ok(a.negotiated && b.negotiated);
  for (const port of ['a1', 'a2']) assert.ok(a.mayEnable(port) && a.isCurrent(port));
  assert.match(a.show(), /status: active negotiated/);
  assert.match(a.show(), /member: a2: current attached/);
  pass(a, b, WIRES.slice(0, 1), 2000, 6000);
  assert.match(a.show(), /member: a2: expired/);
  assert.equal(a.mayEnable('a2'), false);
  pass(a, b, WIRES.slice(0, 1), 6000, 10_000);
  assert.match(a.show(), /member: a2: defaulted detached/);
  assert.equal(a.isCurrent('a2'), false);
  assert.ok(a.mayEnable('a1'));
  assert.match(a.showStats(), /member: a2:[\s\S]*Link Expired: 1\n {2}Link Defaulted: 1\n/);
});

test('two passive aggregators say nothing', () => {
  const a = aggregator('a', 1, ['a1'], { active: false });
  assert.deepEqual(a.run(10_000), []);
  assert.equal(a.negotiated, false);
});

test('members that lead to another system are not attached', () => {
  const a = aggregator('a', 1, ['a1', 'a2']);
  const b = aggregator('b', 2, ['b1']);
  const c = aggregator('c', 3, ['c1']);
  for (let nowMs = 0; nowMs < 3000; nowMs += 100) {
    pass(a, b, [['a1', 'b1']], nowMs, nowMs + 100);
    for (const { pdu } of c.run(nowMs)) a.receive('a2', pdu, nowMs);
  }
  assert.equal(Number(a.mayEnable('a1')) + Number(a.mayEnable('a2')), 1);
});

test('a bond that is wired to itself is noticed', () => {
  const warnings: string[] = [];
  const a = new LacpAggregator<string>(settings('a', 1), (text) => warnings.push(text));
  for (const [i, port] of ['a1', 'a2'].entries()) {
    a.register(port, { name: port, portId: i + 1, priority: 65535, key: 0 }, 0);
    a.mayEnable(port);
  }
  for (let nowMs = 0; nowMs < 1000; nowMs += 100) {
    for (const { port, pdu } of a.run(nowMs)) a.receive(port === 'a1' ? 'a2' : 'a1', pdu, nowMs);
  }
  assert.ok(warnings.some((text) => text.includes('Loopback detected')));
  assert.equal(a.negotiated, false);
});

test('fallback to active-backup lets members without partner be used', () => {
  const a = aggregator('a', 1, ['a1'], { fallbackAb: true });
  for (let nowMs = 0; nowMs < 10_000; nowMs += 100) a.run(nowMs);
  assert.ok(a.mayEnable('a1'));
});

test('no bytes harm an aggregator', () => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ maxLength: 130 }), { maxLength: 20 }), (frames) => {
      const a = aggregator('a', 1, ['a1', 'a2']);
      frames.forEach((frame, i) => {
        const payload = i % 2 === 0 ? Uint8Array.of(1, 1, 1, 20, ...frame) : frame;
        a.receive('a1', payload, i * 10);
        a.run(i * 10);
      });
      assert.ok(a.show().startsWith('---- a ----'));
    }),
  );
});

// ---- bonds

interface FakePort {
  port: BridgePort;
  setLink(up: boolean): void;
}

function fakePort(name: string): FakePort {
  let linkUp = true;
  const index = Number(name.slice(1));
  const status = () => ({
    adminUp: true,
    linkUp,
    linkResets: 0,
    mac: `02:00:00:00:00:0${index}`,
    ifindex: 0,
    status: {},
  });
  const port = { name, ofport: index, mayEnable: true, netdev: { status } };
  return {
    port: port as unknown as BridgePort,
    setLink: (up) => {
      linkUp = up;
    },
  };
}

const bondSettings = (change: Partial<BondSettings>): BondSettings => ({
  name: 'bond0',
  mode: 'active-backup',
  upDelayMs: 0,
  downDelayMs: 0,
  basis: 0,
  rebalanceMs: 10_000,
  fallbackAb: false,
  primary: undefined,
  allMembersActive: false,
  activeMac: undefined,
  ...change,
});

function makeBond(change: Partial<BondSettings>, ports: FakePort[]): Bond {
  const bond = new Bond(bondSettings(change), () => {});
  bond.configure(bondSettings(change), 0);
  for (const { port } of ports) bond.register(port);
  for (const member of bond.members) member.mayEnable = true;
  bond.run('off', 0);
  return bond;
}

test('active-backup: the next member takes over after downdelay, the primary returns after updelay', () => {
  const ports = [fakePort('p1'), fakePort('p2')];
  const bond = makeBond({ primary: 'p1', upDelayMs: 500, downDelayMs: 300 }, ports);
  assert.equal(bond.active?.port.name, 'p1');
  assert.equal(bond.admits(ports[1]!.port, false), 'drop');
  ports[0]!.setLink(false);
  bond.run('off', 1000);
  assert.equal(bond.active?.port.name, 'p1');
  bond.run('off', 1300);
  assert.equal(bond.active?.port.name, 'p2');
  assert.equal(bond.activeMac, '02:00:00:00:00:02');
  assert.ok(bond.sendLearning);
  ports[0]!.setLink(true);
  bond.run('off', 2000);
  bond.run('off', 2400);
  assert.equal(bond.active?.port.name, 'p2');
  bond.run('off', 2500);
  assert.equal(bond.active?.port.name, 'p1');
});

test('a member that is the only one does not wait for updelay', () => {
  const ports = [fakePort('p1'), fakePort('p2')];
  for (const { setLink } of ports) setLink(false);
  const bond = makeBond({ upDelayMs: 5000 }, ports);
  assert.ok(bond.active === undefined || !bond.active.enabled);
  ports[1]!.setLink(true);
  bond.run('off', 100);
  assert.equal(bond.active?.port.name, 'p2');
});

test('balance-slb: an address keeps its member until the member goes; packets that loop back are told', () => {
  const ports = [fakePort('p1'), fakePort('p2')];
  const bond = makeBond({ mode: 'balance-slb' }, ports);
  const used = new Map<string, number>();
  for (let i = 0; i < 200; i++) {
    const flow = newRecord();
    flow.set([2, 1, 0, 0, 0, i], K_ETH_SRC);
    const mask = newRecord();
    const chosen = bond.choose(flow, mask, 7)!;
    assert.equal(chosen.port, bond.choose(flow, undefined, 7)!.port);
    assert.equal(mask[K_ETH_SRC], 0xff);
    used.set(chosen.port.name, (used.get(chosen.port.name) ?? 0) + 1);
  }
  assert.equal(used.size, 2);
  assert.equal(bond.admits(ports[0]!.port, false), 'drop-if-moved');
  ports[0]!.setLink(false);
  bond.run('off', 100);
  for (let i = 0; i < 200; i++) {
    const flow = newRecord();
    flow.set([2, 1, 0, 0, 0, i], K_ETH_SRC);
    assert.equal(bond.choose(flow, undefined, 7)!.port.name, 'p2');
  }
});

test('balance-tcp needs LACP', () => {
  const ports = [fakePort('p1'), fakePort('p2')];
  const bond = makeBond({ mode: 'balance-tcp' }, ports);
  assert.equal(bond.choose(newRecord(), undefined, 0), undefined);
  assert.equal(bond.admits(ports[0]!.port, false), 'drop');
  bond.run('negotiated', 10);
  assert.ok(bond.choose(newRecord(), undefined, 0));
  assert.equal(bond.admits(ports[0]!.port, true), 'accept');
});

test('load moves from a busy member to an idle one, and stays if it is even', () => {
  const ports = [fakePort('p1'), fakePort('p2')];
  const bond = makeBond({ mode: 'balance-slb' }, ports);
  const [p1, p2] = bond.members;
  for (let hash = 0; hash < 8; hash++) {
    bond.entries![hash]!.member = p1!;
    bond.entries![hash]!.txBytes = 1_000_000;
  }
  const moves = rebalance(bond.entries!, bond.members);
  assert.equal(moves.length, 4);
  assert.ok(moves.every(({ to }) => to === p2));
  bond.rebalance(20_000);
  assert.equal(bond.entries!.filter(({ member }) => member === p2).length, 4);
  assert.equal(bond.entries![0]!.txBytes, 500_000);
  assert.deepEqual(rebalance(bond.entries!, bond.members), []);
});

test('rebalancing never makes the spread worse', () => {
  const ports = [fakePort('p1'), fakePort('p2'), fakePort('p3')];
  const loads = fc.array(fc.tuple(fc.nat(2), fc.nat(5_000_000)), { minLength: 1, maxLength: 40 });
  fc.assert(
    fc.property(loads, (buckets) => {
      const bond = makeBond({ mode: 'balance-slb' }, ports);
      for (const [hash, [member, txBytes]] of buckets.entries()) {
        bond.entries![hash] = { member: bond.members[member]!, txBytes };
      }
      const most = (): number =>
        Math.max(
          ...bond.members.map((m) =>
            bond.entries!.reduce((sum, e) => sum + (e.member === m ? e.txBytes : 0), 0),
          ),
        );
      const before = most();
      for (const { hash, to } of rebalance(bond.entries!, bond.members)) {
        bond.entries![hash]!.member = to;
      }
      assert.ok(most() <= before);
    }),
  );
});

test('bond/hash is that of the switch', () => {
  const mac = Uint8Array.of(0, 1, 2, 3, 4, 5);
  assert.notEqual(hashMac(mac, 0, 0, 0), hashMac(mac, 0, 1, 0));
  assert.notEqual(hashMac(mac, 0, 0, 0), hashMac(mac, 0, 0, 1));
  assert.equal(hashMac(mac, 0, 5, 9), hashMac(Uint8Array.of(9, 9, ...mac), 2, 5, 9));
});
