// Connections that go silent, peers that cannot keep up, and what the bridge does while its controllers are gone.

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Connmgr } from '../../src/control/openflow/connmgr.ts';
import { Rconn } from '../../src/control/openflow/rconn.ts';
import { parseTarget } from '../../src/control/openflow/vconn.ts';
import { ALL_VERSIONS } from '../../src/control/openflow/versions.ts';
import { FakeBridge, flowMod, matchOf, output } from './fakeBridge.ts';
import { OfClient, OfController } from './ofClient.ts';

let dir: string;
const log: string[] = [];
const note = (text: string) => void log.push(text);
const LOG = { dbg: () => {}, info: note, warn: note, err: note };

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'xvio-rconn-'));
  log.length = 0;
});

afterEach(() => rmSync(dir, { recursive: true, force: true }));

function rconn(probeMs: number, maxBackoffMs = 1000): Rconn & Disposable {
  const made = new Rconn({
    name: 'br0<->test',
    versions: ALL_VERSIONS,
    probeMs,
    maxBackoffMs,
    log: LOG,
    nowMs: () => performance.now(),
    onConnected: () => {},
    onMessage: () => {},
    onDisconnected: () => {},
  });
  return Object.assign(made, { [Symbol.dispose]: () => made.close() });
}

const target = (text: string) => parseTarget(text, '/')!;
const context = () => ({ runDir: dir, ssl: undefined, log: LOG });

async function until(what: string, ready: () => boolean, timeoutMs = 5000): Promise<void> {
  const deadlineMs = performance.now() + timeoutMs;
  while (!ready()) {
    if (performance.now() > deadlineMs) throw new Error(`timeout: ${what}`);
    await sleep(5);
  }
}

describe('inactivity probe', () => {
  it('is an echo request, and its answer is enough', async () => {
    using controller = await OfController.listen(4);
    using conn = rconn(100);
    conn.connect(target(controller.target), context());
    const peer = await controller.connection();
    for (let i = 0; i < 2; i++) {
      const { data } = await peer.expect('echo_request');
      assert.equal(conn.state, 'IDLE');
      peer.send({ type: 'echo_reply', data });
      await until('ACTIVE', () => conn.state === 'ACTIVE');
    }
    assert.equal(conn.connected, true);
  });

  it('can be turned off: then silence means nothing', async () => {
    using controller = await OfController.listen(4);
    using conn = rconn(0);
    conn.connect(target(controller.target), context());
    const peer = await controller.connection();
    await sleep(1300);
    assert.equal(conn.state, 'ACTIVE', 'the timer of the connection attempt is gone');
    assert.equal(peer.closed, false);
  });

  it('without an answer ends the connection', async () => {
    using controller = await OfController.listen(4);
    using conn = rconn(100);
    conn.connect(target(controller.target), context());
    const peer = await controller.connection();
    await peer.expect('echo_request');
    await peer.untilClosed();
    assert.equal(conn.lastError, 'Connection timed out');
    assert.ok(log.some((line) => line.includes('no response to inactivity probe after')));
    // And it starts anew.
    await controller.connection(1);
  });
});

describe('reconnection', () => {
  it('waits longer and longer, and says so no more than it has to', async () => {
    const server = createServer((socket: Socket) => socket.destroy());
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as { port: number };
    server.close();
    using conn = rconn(0, 2000);
    conn.connect(target(`tcp:127.0.0.1:${port}`), context());
    await until('three attempts', () => log.filter((l) => l.includes('connecting')).length >= 2);
    await until('backoff', () =>
      log.some((line) => line.endsWith('background but suppressing further logging')),
    );
    assert.ok(log.includes('br0<->test: connection failed (Connection refused)'));
    assert.equal(conn.state, 'BACKOFF');
  });

  it('gives up on a peer that says nothing', async () => {
    const sockets: Socket[] = [];
    const server = createServer((socket) => sockets.push(socket));
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as { port: number };
    using conn = rconn(0);
    conn.connect(target(`tcp:127.0.0.1:${port}`), context());
    await until('timeout', () => conn.lastError === 'Connection timed out');
    assert.equal(conn.version, undefined);
    server.close();
    for (const socket of sockets) socket.destroy();
  });
});

describe('fail-open', () => {
  it('lets the bridge switch by itself while the controller is gone', async () => {
    const bridge = new FakeBridge();
    bridge.clockMs = 0;
    const connmgr = new Connmgr({ bridge, runDir: dir, log: LOG });
    const first = await OfController.listen(4);
    const { port } = first;
    try {
      await connmgr.configure({
        failMode: 'standalone',
        controllers: [{ target: first.target, maxBackoffMs: 1000 }],
      });
      const peer = await first.connection();
      peer.send({ type: 'flow_mod', nxt: false, flowMod: flowMod({ actions: [output(1)] }) });
      await peer.request({ type: 'barrier_request' }, 'barrier_reply');
      first[Symbol.dispose]();
      await until('disconnection', () => !connmgr.status().get(first.target)?.isConnected);
      const own = () => [...bridge.tables[0]].some(({ priority }) => priority > 0xffff);
      bridge.clockMs = 14_000;
      await sleep(1100);
      assert.equal(own(), false, 'not before three probe intervals');
      bridge.clockMs = 16_000;
      await until('fail-open', own);
      assert.equal(bridge.tables[0].size, 1, 'the controller’s flows are gone');
      using back = await OfController.listen(4, port);
      const again = await back.connection();
      await again.request({ type: 'features_request' }, 'features_reply');
      assert.equal(own(), true, 'looking around is not taking over');
      await again.request({ type: 'barrier_request' }, 'barrier_reply');
      assert.equal(own(), false);
    } finally {
      connmgr.close();
    }
  });
});

describe('a monitor that does not read', () => {
  it('is paused, and told what it has missed', async () => {
    const bridge = new FakeBridge();
    const connmgr = new Connmgr({ bridge, runDir: dir, log: LOG });
    await connmgr.configure({ failMode: 'secure', controllers: [] });
    const peer = await OfClient.connect(join(dir, 'br0.mgmt'), 1);
    try {
      peer.send({
        type: 'flow_monitor_request',
        requests: [
          {
            id: 1,
            command: 'add',
            flags: {
              initial: true,
              add: true,
              delete: true,
              modify: true,
              actions: true,
              own: true,
            },
            noAbbrev: false,
            onlyOwn: true,
            outPort: 0xffffffff,
            outGroup: 0xffffffff,
            table: 0xff,
            match: matchOf({}),
          },
        ],
      });
      await peer.expect('flow_monitor_reply');
      peer.socket.pause();
      const count = 12_000;
      for (let i = 0; i < count; i++) {
        connmgr.tables.apply(flowMod({ priority: i, actions: [output(1)] }));
      }
      peer.socket.resume();
      const events = { added: 0, paused: 0 };
      for (;;) {
        const message = await peer.next(() => true);
        if (message.type === 'flow_monitor_reply') events.added += message.updates.length;
        if (message.type === 'flow_monitor_paused') events.paused++;
        if (message.type === 'flow_monitor_resumed') break;
      }
      assert.equal(events.paused, 1);
      assert.equal(events.added, count, 'each flow is told once');
      connmgr.tables.apply(flowMod({ command: 'delete', table: 0 }));
      let removed = 0;
      while (removed < count) removed += (await peer.expect('flow_monitor_reply')).updates.length;
      assert.equal(removed, count);
    } finally {
      peer[Symbol.dispose]();
      connmgr.close();
    }
  });
});
