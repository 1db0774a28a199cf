// Kernel ports on the real engine: a worker thread polls them, sleeps when they are silent, and survives their removal.
// Needs root, iproute2, ping. Network namespaces of its own.

import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { ACT_END, ACT_OUTPUT } from '../../contract/action.ts';
import { FQ_WATCH, WATCH_SET } from '../../contract/frame.ts';
import { queueAddress } from '../../contract/port.ts';
import { build } from '../../scripts/build.ts';
import { createEngine, type DataPlaneEngine } from '../../src/engine/engine.ts';
import { openAfxdp } from '../../src/port/afxdp.ts';
import { openSystem } from '../../src/port/system.ts';
import { openInternal } from '../../src/port/tap.ts';
import type { Netdev, NetdevContext, NetdevOpener } from '../../src/port/types.ts';
import { newNetworkNamespace, processCpuNs } from '../../src/sys/process.ts';
import { Rig } from '../oracle/rig.ts';

const PEER = `xvio-ke-${process.pid}`;
const ip = (...args: string[]): string => execFileSync('ip', args, { encoding: 'utf8' });
const logged: string[] = [];
let engine: DataPlaneEngine;
let context: NetdevContext;

before(async () => {
  await build();
  newNetworkNamespace();
  ip('netns', 'add', PEER);
  const note = (text: string): void => {
    logged.push(text);
  };
  engine = createEngine({ onUpcall: () => {}, log: (level, text) => note(`${level} ${text}`) });
  context = {
    engine,
    vhostSockDir: '/nonexistent',
    log: { info: note, warn: note, err: note, dbg: note },
  };
});
after(async () => {
  await engine.close();
  ip('netns', 'del', PEER);
});

function connect(a: Netdev, b: Netdev): void {
  for (const [from, to] of [
    [a, b],
    [b, a],
  ] as const) {
    const { key, mask } = Rig.matchPort(from.port);
    engine.putFlow(key, mask, Uint32Array.of(ACT_OUTPUT | (2 << 16), to.port, ACT_END | (1 << 16)));
  }
}

function addVeth(): void {
  ip('link', 'add', 'v0', 'type', 'veth', 'peer', 'name', 'v1', 'netns', PEER);
  ip('link', 'set', 'v0', 'up');
  ip('-n', PEER, 'addr', 'add', '10.9.0.2/24', 'dev', 'v1');
  ip('-n', PEER, 'link', 'set', 'v1', 'up');
}

async function ping(): Promise<void> {
  const end = performance.now() + 30_000;
  for (;;) {
    const child = spawn('timeout', ['20', 'ping', '-c', '5', '-i', '0.1', '-W', '2', '10.9.0.2']);
    let output = '';
    child.stdout.on('data', (data) => (output += data));
    const status = await new Promise((resolve) => child.on('exit', resolve));
    if (status === 0) return;
    if (performance.now() > end) assert.fail(output);
  }
}

async function until(what: string, condition: () => boolean): Promise<void> {
  const end = performance.now() + 30_000;
  while (!condition()) {
    if (performance.now() > end) assert.fail(`timeout: ${what}`);
    await sleep(20);
  }
}

const openers: [name: string, open: NetdevOpener][] = [
  ['system', openSystem],
  ['afxdp', openAfxdp],
];
for (const [type, open] of openers) {
  test(`${type}: traffic, an idle worker sleeps, the device comes and goes under it`, async () => {
    addVeth();
    const config = { type, options: {}, otherConfig: {} };
    const device = await open({ ...config, name: 'v0' }, context);
    const tap = await openInternal({ ...config, name: 'br0' }, context);
    connect(device, tap);
    ip('addr', 'add', '10.9.0.1/24', 'dev', 'br0');
    ip('link', 'set', 'br0', 'up');
    await ping();

    await sleep(300);
    // Of a few seconds one: the process does other things now and then, and slow machines take longer for them.
    const spent: number[] = [];
    while (spent.length < 5 && !spent.some((seconds) => seconds < 0.05)) {
      const before = processCpuNs();
      await sleep(1000);
      spent.push((processCpuNs() - before) / 1e9);
    }
    assert.ok(
      spent.some((seconds) => seconds < 0.05),
      `idle: ${spent.join(', ')}`,
    );

    ip('link', 'del', 'v0');
    await until('device gone', () => device.status().ifindex === 0);
    addVeth();
    await until('device back', () => device.status().linkUp);
    ip('neigh', 'flush', 'all');
    await sleep(100);
    await ping();
    await device.close();
    await tap.close();
    ip('link', 'del', 'v0');
    assert.deepEqual(
      logged.filter((line) => /crash|trap|error/i.test(line)),
      [],
    );
  });
}

test('devices that are silent under a worker that polls are watched, heard, and may go', async () => {
  addVeth();
  const config = { options: {}, otherConfig: {} };
  const device = await openSystem({ ...config, type: 'system', name: 'v0' }, context);
  const tap = await openInternal({ ...config, type: 'internal', name: 'br0' }, context);
  connect(device, tap);
  ip('addr', 'add', '10.9.0.1/24', 'dev', 'br0');
  ip('link', 'set', 'br0', 'up');
  const view = new DataView(engine.memory.buffer);
  const queues = engine
    .workerStats()
    .flatMap((worker) => worker.queues.map(({ queue }) => queueAddress(queue)));
  assert.ok(queues.length >= 2);
  const watched = (): boolean =>
    queues.every((q) => view.getUint32(q + FQ_WATCH, true) === WATCH_SET);
  engine.setPatience(1e9);
  try {
    for (const gone of [false, true]) {
      await until('watched', watched);
      if (gone) {
        ip('link', 'del', 'v0');
        await until('device gone', () => device.status().ifindex === 0);
        addVeth();
        await until('device back', () => device.status().linkUp);
        ip('neigh', 'flush', 'all');
      }
      await ping();
    }
  } finally {
    engine.setPatience(100);
  }
  await device.close();
  await tap.close();
  ip('link', 'del', 'v0');
});

test('changes of a device are heard after more changes than the netlink socket can hold', async () => {
  const config = { options: {}, otherConfig: {} };
  const tap = await openInternal({ ...config, type: 'internal', name: 't0' }, context);
  for (const round of [1, 2]) {
    // Nothing is read meanwhile: the command blocks this thread.
    const lines = Array.from({ length: 1000 }, (_, i) => `link set t0 mtu ${1000 + i}\n`);
    execFileSync('ip', ['-batch', '-'], { input: lines.join('') });
    await until('last mtu', () => tap.status().mtu === 1999);
    ip('link', 'set', 't0', 'mtu', String(1400 + round));
    await until('new mtu', () => tap.status().mtu === 1400 + round);
  }
  await tap.close();
});

test('five hundred taps: the last one takes traffic as the first does', async () => {
  addVeth();
  const config = { options: {}, otherConfig: {} };
  const device = await openSystem({ ...config, type: 'system', name: 'v0' }, context);
  const taps: Netdev[] = [];
  for (let i = 0; i < 500; i++) {
    taps.push(await openInternal({ ...config, type: 'internal', name: `t${i}` }, context));
  }
  for (const i of [0, 499]) {
    connect(device, taps[i]!);
    ip('addr', 'add', '10.9.0.1/24', 'dev', `t${i}`);
    ip('link', 'set', `t${i}`, 'up');
    await until('tap up', () => taps[i]!.status().linkUp);
    await ping();
    ip('link', 'set', `t${i}`, 'down');
    ip('addr', 'del', '10.9.0.1/24', 'dev', `t${i}`);
    ip('-n', PEER, 'neigh', 'flush', 'all');
  }
  await Promise.all(taps.map((tap) => tap.close()));
  await device.close();
  ip('link', 'del', 'v0');
  assert.equal(engine.arenaFree(), 1);
});
