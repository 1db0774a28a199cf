// Columns about spanning trees → settings: defaults, numbers of ports, what makes no sense.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { BridgeIntent, PortIntent } from '../../src/main/intent.ts';
import { treeConfig } from '../../src/main/spanningTree.ts';
import type { BridgePort } from '../../src/switch/types.ts';

type Config = Record<string, string>;

/** A bridge with these ports; `numbers`: what ports have already. */
function configure(
  protocol: 'stp' | 'rstp',
  ports: Record<string, Config>,
  options: { bridge?: Config; numbers?: Record<string, number>; speed?: number } = {},
) {
  const errors: string[] = [];
  const intent = {
    name: 'br0',
    stp: protocol === 'stp',
    rstp: protocol === 'rstp',
    otherConfig: options.bridge ?? {},
    ports: Object.entries(ports).map(([name, otherConfig]) => ({
      name,
      bond: { otherConfig },
      interfaces: name.startsWith('bond') ? [{}, {}] : [{ name }],
    })),
  } as unknown as BridgeIntent;
  const netdev = { status: () => ({ linkSpeed: options.speed }) };
  const config = treeConfig({
    intent,
    mac: '02:00:00:00:00:01',
    portOf: ({ name }: PortIntent) => ({ name, netdev }) as unknown as BridgePort,
    numberOf: ({ name }) => options.numbers?.[name],
    error: (text) => errors.push(text),
  });
  const settings = [...(config?.ports.values() ?? [])];
  const numbers = Object.fromEntries(settings.map(({ name, number }) => [name, number]));
  return { config, settings, numbers, errors };
}

test('STP: defaults, and numbers that ports keep', () => {
  const { config, settings, numbers } = configure('stp', { a: {}, b: {} });
  assert.deepEqual(config?.settings, {
    bridgeId: 0x8000_0200_0000_0001n,
    helloTimeMs: 2000,
    maxAgeMs: 20_000,
    forwardDelayMs: 15_000,
  });
  assert.deepEqual(settings[0], { name: 'a', number: 1, priority: 128, pathCost: 2 });
  assert.deepEqual(numbers, { a: 1, b: 2 });
  const later = configure('stp', { '0': {}, b: {}, c: {} }, { numbers: { b: 2 } });
  assert.deepEqual(later.numbers, { '0': 1, b: 2, c: 3 });
});

test('STP: wrong and double numbers, some numbers and some not, bonds', () => {
  const given = configure('stp', {
    a: { 'stp-port-num': '7' },
    b: { 'stp-port-num': '7' },
    c: { 'stp-port-num': '256' },
    d: { 'stp-enable': 'false' },
    bond0: {},
  });
  assert.deepEqual(given.numbers, { a: 7 });
  assert.deepEqual(given.errors, [
    'port bond0: cannot enable STP on bonds, disabling',
    'port b: duplicate stp-port-num 7, disabling',
    'port c: invalid stp-port-num',
  ]);
  const mixed = configure('stp', { a: { 'stp-port-num': '7' }, b: {} });
  assert.equal(mixed.config, undefined);
  assert.match(mixed.errors[0]!, /must manually configure all STP port IDs or none/);
});

test('costs follow the speed of the link', () => {
  const cost = (protocol: 'stp' | 'rstp', speed: number): number =>
    configure(protocol, { a: {} }, { speed }).settings[0]!.pathCost;
  assert.deepEqual(
    [10e6, 100e6, 1e9, 10e9, 25e9].map((bps) => cost('stp', bps)),
    [100, 19, 4, 2, 2],
  );
  assert.deepEqual(
    [10e6, 100e6, 1e9, 10e9, 25e9, 100e9].map((bps) => cost('rstp', bps)),
    [2_000_000, 200_000, 20_000, 2000, 2000, 200],
  );
});

test('RSTP: settings out of range are the defaults, priorities go in steps', () => {
  const bridge = {
    'rstp-priority': '20481',
    'rstp-max-age': '41',
    'rstp-forward-delay': '4',
    'rstp-transmit-hold-count': '0',
    'rstp-force-protocol-version': '0',
    'rstp-address': 'nonsense',
  };
  const port = {
    'rstp-port-priority': '33',
    'rstp-path-cost': '7',
    'rstp-port-admin-edge': 'true',
  };
  const { config, settings, errors } = configure('rstp', { a: port }, { bridge });
  assert.deepEqual(config?.settings, {
    bridgeId: 0x5000_0200_0000_0001n,
    maxAgeS: 20,
    forwardDelayS: 4,
    transmitHoldCount: 6,
    forceVersion: 0,
  });
  assert.deepEqual(settings[0], {
    name: 'a',
    number: 1,
    priority: 32,
    pathCost: 7,
    adminEdge: true,
    autoEdge: true,
    pointToPoint: true,
    adminEnabled: true,
  });
  assert.deepEqual(errors, ['bridge br0: invalid rstp-address, defaulting to 02:00:00:00:00:01']);
});

test('RSTP: a number that is taken gives way', () => {
  const ports = { a: {}, b: { 'rstp-port-num': '1' }, c: { 'rstp-port-num': '1' } };
  assert.deepEqual(configure('rstp', ports).numbers, { a: 3, b: 1, c: 2 });
});
