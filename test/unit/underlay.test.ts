// The underlay of tunnels: longest prefix match against an obvious model, neighbours, solicitations, the codec.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import fc from 'fast-check';
import type { Datapath } from '../../src/switch/datapath.ts';
import { newRecord } from '../../src/switch/flow.ts';
import { extractFlow } from '../../src/switch/flowExtract.ts';
import type { Underlay } from '../../src/switch/tunnel/types.ts';
import type { BridgePort } from '../../src/switch/types.ts';
import {
  type DeviceAddress,
  formatAddress,
  parseAddress,
  parsePrefix,
  sameUnder,
} from '../../src/switch/underlay/address.ts';
import { NEIGHBOURS_MAX, Neighbours } from '../../src/switch/underlay/neighbours.ts';
import { formatRoute, Router } from '../../src/switch/underlay/router.ts';
import { composeSolicitation } from '../../src/switch/underlay/solicit.ts';
import { HostUnderlay } from '../../src/switch/underlay/underlay.ts';
import { RouteMonitor } from '../../src/sys/routeNetlink.ts';
import { parseActions } from '../../src/wire/openflow/actionParse.ts';
import { parseMatch } from '../../src/wire/openflow/matchParse.ts';
import { OFPP_LOCAL } from '../../src/wire/openflow/types.ts';
import { decodeAddress, decodeRoute } from '../../src/wire/rtnetlinkRoute.ts';
import { makeRule, SwitchRig } from '../oracle/openflowRig.ts';

const address = (text: string): Uint8Array => parseAddress(text)!;
const on = (text: string): DeviceAddress => parsePrefix(text)!;
const DEVICES: Record<string, DeviceAddress[]> = {
  br0: [on('10.0.0.1/8'), on('10.1.0.1/16'), on('2001:db8::1/64')],
};

const makeRouter = (): Router => new Router((device) => DEVICES[device] ?? []);

test('priorities: the machine itself, the user, the kernel; marks; a source that is ours', () => {
  const router = makeRouter();
  const add = (text: string, gateway?: string, mark = 0): boolean => {
    const { address: destination, prefixBits } = parsePrefix(text)!;
    const via = gateway === undefined ? undefined : address(gateway);
    return router.addUser({ mark, destination, prefixBits, device: 'br0', gateway: via });
  };
  router.addCached({ mark: 0, ...dest('10.1.2.0/24'), device: 'br0', gateway: undefined }, false);
  router.addCached({ mark: 0, ...dest('10.1.0.1/32'), device: 'br0', gateway: undefined }, true);
  assert.ok(add('10.1.0.0/16', '10.0.0.9'));
  assert.ok(add('10.1.0.0/16', '10.0.0.8', 5));
  assert.ok(!add('99.0.0.0/8'), 'no address to send from');
  const found = (to: string, mark = 0, source?: string): string => {
    const entry = router.lookup(
      address(to),
      mark,
      source === undefined ? undefined : address(source),
    );
    return entry === undefined ? 'none' : formatRoute(entry).trim();
  };
  // The user's /16 wins over the kernel's /24.
  assert.equal(found('10.1.2.3'), 'User: 10.1.0.0/16 dev br0 GW 10.0.0.9 SRC 10.1.0.1');
  assert.equal(found('10.1.2.3', 5), 'User: 10.1.0.0/16 MARK 5 dev br0 GW 10.0.0.8 SRC 10.1.0.1');
  assert.equal(found('10.1.0.1'), 'Cached: 10.1.0.1/32 dev br0 SRC 10.1.0.1 local');
  assert.equal(found('10.2.0.1'), 'none');
  assert.equal(found('10.1.2.3', 0, '10.1.0.1'), found('10.1.2.3'));
  assert.equal(found('10.1.2.3', 0, '10.1.0.2'), 'none');
  router.flushCached();
  assert.equal(found('10.1.0.1').startsWith('User'), true);
  const { destination, prefixBits } = dest('10.1.0.0/16');
  assert.ok(router.deleteUser(5, destination, prefixBits));
  assert.ok(!router.deleteUser(5, destination, prefixBits));
});

const dest = (text: string): { destination: Uint8Array; prefixBits: number } => {
  const { address: destination, prefixBits } = parsePrefix(text)!;
  return { destination, prefixBits };
};

test('longest prefix match agrees with looking at every route', () => {
  const byte = fc.constantFrom(0, 1, 128, 255);
  const ip = fc.tuple(byte, byte, byte).map(([b, c, d]) => Uint8Array.of(10, b, c, d));
  const route = fc.tuple(ip, fc.integer({ min: 8, max: 32 }));
  fc.assert(
    fc.property(fc.array(route, { maxLength: 20 }), ip, (routes, wanted) => {
      const router = makeRouter();
      const whole = (bytes: Uint8Array): Uint8Array => address(bytes.join('.'));
      for (const [bytes, bits] of routes) {
        const destination = whole(bytes);
        router.addCached(
          { mark: 0, destination, prefixBits: bits + 96, device: 'br0', gateway: undefined },
          false,
        );
      }
      const best = Math.max(
        -1,
        ...routes
          .filter(([bytes, bits]) => sameUnder(whole(bytes), whole(wanted), bits + 96))
          .map(([, bits]) => bits),
      );
      assert.equal((router.lookup(whole(wanted), 0)?.prefixBits ?? 95) - 96, best);
    }),
  );
});

test('neighbours: learned, refreshed when asked for, aged, flushed', () => {
  let nowMs = 0;
  let changes = 0;
  const neighbours = new Neighbours(
    () => nowMs,
    () => changes++,
  );
  const mac = Uint8Array.of(2, 0, 0, 0, 0, 9);
  neighbours.set('br0', address('10.0.0.9'), mac);
  neighbours.set('br0', address('10.0.0.9'), mac);
  assert.equal(changes, 1);
  nowMs = 800_000;
  assert.deepEqual(neighbours.lookup('br0', address('10.0.0.9')), mac);
  assert.equal(neighbours.lookup('br1', address('10.0.0.9')), undefined);
  nowMs = 1_600_000;
  neighbours.expire();
  assert.deepEqual(neighbours.lookup('br0', address('10.0.0.9')), mac);
  neighbours.agingSeconds = 1;
  nowMs += 1001;
  assert.match(neighbours.show(), /^10\.0\.0\.9 {38}02:00:00:00:00:09 {3}br0 STALE$/m);
  neighbours.expire();
  assert.equal(neighbours.size, 0);
  assert.equal(changes, 2);
});

test('neighbours: of too many, those in use stay', () => {
  let nowMs = 0;
  const neighbours = new Neighbours(
    () => nowMs,
    () => {},
  );
  const mac = Uint8Array.of(2, 0, 0, 0, 0, 9);
  neighbours.set('br0', address('10.0.0.9'), mac);
  for (let i = 0; i < 3 * NEIGHBOURS_MAX; i++) {
    nowMs++;
    neighbours.set('br0', address(`11.0.${i >> 8}.${i & 255}`), mac);
    if (i % 1000 === 0) assert.deepEqual(neighbours.lookup('br0', address('10.0.0.9')), mac);
  }
  assert.equal(neighbours.size, NEIGHBOURS_MAX);
  assert.deepEqual(neighbours.lookup('br0', address('10.0.0.9')), mac);
  assert.equal(neighbours.lookup('br0', address('11.0.0.0')), undefined, 'nobody asked');
});

const flowOf = (frame: Uint8Array): Uint8Array => {
  const flow = newRecord();
  extractFlow(flow, frame, 1);
  return flow;
};

test('ARP and neighbour discovery teach; questions do not', () => {
  const neighbours = new Neighbours(
    () => 0,
    () => {},
  );
  const mac = Uint8Array.of(2, 0, 0, 0, 0, 1);
  const question = composeSolicitation(mac, address('10.0.0.1'), address('10.0.0.2'));
  assert.equal(neighbours.snoop('br0', flowOf(question)), false);
  const answer = question.slice();
  answer[21] = 2;
  assert.equal(neighbours.snoop('br0', flowOf(answer)), true);
  assert.deepEqual(neighbours.lookup('br0', address('10.0.0.1')), mac);
  const announcement = composeSolicitation(mac, address('10.0.0.5'), address('10.0.0.5'));
  assert.equal(neighbours.snoop('br0', flowOf(announcement)), true);
  assert.deepEqual(neighbours.lookup('br0', address('10.0.0.5')), mac);

  const ask6 = composeSolicitation(mac, address('2001:db8::1'), address('2001:db8::2'));
  assert.equal(neighbours.snoop('br0', flowOf(ask6)), false);
  const tell6 = ask6.slice();
  tell6[54] = 136; // advertisement
  tell6[78] = 2; // target link-layer address
  assert.equal(neighbours.snoop('br0', flowOf(tell6)), true);
  assert.deepEqual(neighbours.lookup('br0', address('2001:db8::2')), mac);
});

test('each answer reaches the neighbours, whatever megaflow the one before it has left', async () => {
  const rig = await SwitchRig.create();
  const bridge = rig.addBridge('br0');
  const uplink = rig.addPort(bridge, 'p1', {}, 1);
  rig.addPort(bridge, 'br0', {}, OFPP_LOCAL);
  bridge.tables[0]!.insert(makeRule(0, 1, parseMatch(''), parseActions('LOCAL')));
  const neighbours = new Neighbours(
    () => 0,
    () => {},
  );
  const own = [address('10.0.0.1'), address('2001:db8::1')];
  rig.datapath.underlay = {
    change: 1,
    onChange: undefined,
    addressesOf: () => own.map((one) => ({ address: one })),
    snoop: (device: string, flow: Uint8Array) => neighbours.snoop(device, flow),
  } as unknown as Underlay;
  const tunnel = { type: 'vxlan', dstPort: 4789, payloadType: 0 };
  const netdev = { tunnel, device: 'vxlan_sys_4789', port: 99 };
  rig.datapath.tunnels.add(bridge, { name: 'vx0', netdev } as unknown as BridgePort);

  const mac = Uint8Array.of(2, 0, 0, 0, 0, 1);
  const other = Uint8Array.of(2, 0, 0, 0, 0, 2);
  const reply = composeSolicitation(mac, address('10.0.0.2'), address('10.0.0.1'));
  reply[21] = 2;
  const moved = reply.slice();
  moved.set(other, 22); // sender hardware address
  rig.send(uplink, reply);
  assert.deepEqual(neighbours.lookup('br0', address('10.0.0.2')), mac);
  rig.send(uplink, moved);
  assert.deepEqual(neighbours.lookup('br0', address('10.0.0.2')), other);

  const advert = composeSolicitation(mac, address('2001:db8::2'), address('2001:db8::2'));
  advert.set(own[1]!, 38);
  advert[54] = 136;
  advert[78] = 2;
  const ofAnother = advert.slice();
  ofAnother.set(address('2001:db8::3'), 62); // target
  const moved6 = advert.slice();
  moved6.set(other, 80); // target link-layer address
  rig.send(uplink, advert);
  assert.deepEqual(neighbours.lookup('br0', address('2001:db8::2')), mac);
  rig.send(uplink, ofAnother);
  assert.deepEqual(neighbours.lookup('br0', address('2001:db8::3')), mac);
  rig.send(uplink, moved6);
  assert.deepEqual(neighbours.lookup('br0', address('2001:db8::2')), other);
  rig.close();
});

test('tables that cannot be read are asked for again, not all the time', async () => {
  let reads = 0;
  const warnings: string[] = [];
  using underlay = new HostUnderlay({
    datapath: { engine: { nowMs: () => 0 } } as unknown as Datapath,
    readKernel: () => {
      reads++;
      throw new Error('no');
    },
    warn: (text) => warnings.push(text),
  });
  await setTimeout(300);
  assert.equal(reads, 1);
  await setTimeout(1000);
  assert.ok(reads >= 2, 'tried again');
  assert.equal(warnings.length, reads);
  assert.equal(underlay.addressesOf('br0').length, 0);
});

test('solicitations on the wire', () => {
  const mac = Uint8Array.of(2, 0, 0, 0, 0, 1);
  const arp = composeSolicitation(mac, address('10.0.0.1'), address('10.0.0.2'));
  const hex = Buffer.from(arp).toString('hex');
  assert.equal(
    hex,
    'ffffffffffff0200000000010806000108000604000102000000000' + '10a0000010000000000000a000002',
  );
  const ns = composeSolicitation(mac, address('fe80::1'), address('fe80::abcd:ef01'));
  assert.equal(Buffer.from(ns.subarray(0, 6)).toString('hex'), '3333ffcdef01');
  assert.equal(ns[21], 255);
  assert.equal(formatAddress(ns.subarray(38, 54)), 'ff02::1:ffcd:ef01');
  assert.deepEqual([...ns.subarray(78)], [1, 1, ...mac]);
});

test('prefixes from text', () => {
  assert.equal(parsePrefix('10.0.0.0/255.255.0.0')!.prefixBits, 112);
  assert.equal(parsePrefix('::/0')!.prefixBits, 0);
  for (const bad of [
    '10.0.0.0/33',
    '10.0.0/8',
    '10.0.0.0/255.0.255.0',
    '::/129',
    '1.2.3.4/8/9',
    '',
  ]) {
    assert.equal(parsePrefix(bad), undefined, bad);
  }
});

test('no message harms the codec, and the kernel answers', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 60 }), (bytes) => {
      for (const payload of [
        bytes,
        Uint8Array.of(2, 24, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0, ...bytes),
      ]) {
        const route = decodeRoute(payload);
        assert.ok(route === undefined || route.prefixBits <= 128);
        const found = decodeAddress(payload);
        assert.ok(found === undefined || found.address.length === 16);
      }
    }),
  );
  using monitor = new RouteMonitor(() => {});
  const { names, addresses } = monitor.read();
  const loopback = addresses.find((one) => formatAddress(one.address) === '127.0.0.1');
  assert.equal(loopback?.prefixBits, 104);
  assert.equal(names.get(loopback!.ifindex), 'lo');
});
