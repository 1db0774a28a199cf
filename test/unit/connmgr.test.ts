// The OpenFlow front-end over real sockets: negotiation, order of messages, roles, asynchronous messages, misbehaving
// peers, and what is shown of controllers in the database. The bridge is a stand-in (fakeBridge.ts).

import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { FLOW_SIZE } from '../../contract/key.ts';
import { Connmgr, type ConnmgrConfig } from '../../src/control/openflow/connmgr.ts';
import { FailOpen } from '../../src/control/openflow/failOpen.ts';
import { encode } from '../../src/wire/openflow/message.ts';
import type { Message } from '../../src/wire/openflow/messages.ts';
import type { OfVersion, PacketIn } from '../../src/wire/openflow/types.ts';
import { FakeBridge, flowMod, matchOf, output, portDesc } from './fakeBridge.ts';
import { OfClient, OfController } from './ofClient.ts';

const ALL = 0xffffffff;

let dir: string;
let bridge: FakeBridge;
let connmgr: Connmgr;
let log: string[];
const open: Disposable[] = [];

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'xvio-connmgr-'));
  bridge = new FakeBridge();
  bridge.addPort(1, 'p1');
  bridge.addPort(2, 'p2');
  log = [];
  const note = (text: string) => void log.push(text);
  connmgr = new Connmgr({
    bridge,
    runDir: dir,
    log: { dbg: () => {}, info: note, warn: note, err: note },
  });
  await configure({});
});

afterEach(() => {
  for (const resource of open.splice(0)) resource[Symbol.dispose]();
  connmgr.close();
  rmSync(dir, { recursive: true, force: true });
});

function configure(config: Partial<ConnmgrConfig>): Promise<void> {
  return connmgr.configure({ controllers: [], failMode: 'secure', ...config });
}

async function client(version: OfVersion): Promise<OfClient> {
  const made = await OfClient.connect(join(dir, 'br0.mgmt'), version);
  open.push(made);
  return made;
}

async function controller(version: OfVersion, port = 0): Promise<OfController> {
  const made = await OfController.listen(version, port);
  open.push(made);
  return made;
}

function packetIn(change: Partial<PacketIn> = {}): PacketIn {
  return {
    bufferId: ALL,
    totalLen: 60,
    reason: 'action',
    table: 0,
    cookie: 5n,
    match: matchOf({ in_port_oxm: 1n }),
    data: new Uint8Array(60),
    ...change,
  };
}

const flowMods = (change: Parameters<typeof flowMod>[0]) =>
  ({ type: 'flow_mod', nxt: false, flowMod: flowMod(change) }) as const;

describe('sockets', () => {
  it('are made with the modes of the real daemon and removed', () => {
    for (const name of ['br0.mgmt', 'br0.snoop']) {
      assert.equal(statSync(join(dir, name)).mode & 0o777, 0o750);
    }
    connmgr.close();
    assert.equal(existsSync(join(dir, 'br0.mgmt')), false);
    assert.equal(existsSync(join(dir, 'br0.snoop')), false);
  });

  it('may have paths longer than sun_path', async () => {
    const long = join(dir, 'd'.repeat(100));
    const { mkdirSync } = await import('node:fs');
    mkdirSync(long);
    const other = new Connmgr({
      bridge: new FakeBridge('br1'),
      runDir: long,
      log: { dbg() {}, info() {}, warn() {}, err() {} },
    });
    await other.configure({ controllers: [], failMode: 'secure' });
    assert.ok(existsSync(join(long, 'br1.mgmt')));
    other.close();
    assert.equal(existsSync(join(long, 'br1.mgmt')), false);
  });

  it('elsewhere are refused', async () => {
    await configure({
      controllers: [{ target: 'punix:/tmp/evil' }, { target: 'unix:/tmp/x/y' }, { target: 'x:y' }],
    });
    assert.equal(existsSync('/tmp/evil'), false);
    assert.ok(log.some((line) => line.includes('possibility of overwriting local files')));
    assert.ok(log.some((line) => line.includes('possibility for remote exploit')));
    assert.ok(log.some((line) => line.includes('unsupported controller "x:y"')));
  });

  it('of services listen where they are told', async () => {
    await configure({ controllers: [{ target: 'ptcp:0:127.0.0.1' }] });
    const address = connmgr.listenAddress('ptcp:0:127.0.0.1');
    assert.match(address ?? '', /^tcp:127\.0\.0\.1:\d+$/);
    assert.equal(connmgr.status().size, 0, 'services have no status');
  });
});

describe('negotiation', () => {
  for (const version of [1, 2, 3, 4, 5, 6] as const) {
    it(`agrees on wire version ${version}`, async () => {
      const peer = await client(version);
      const reply = await peer.request({ type: 'features_request' }, 'features_reply');
      assert.equal(reply.features.datapathId, bridge.datapathId);
      assert.equal(reply.features.nTables, 254);
      assert.equal(reply.features.nBuffers, 0);
    });
  }

  it('lets nobody fill the log with errors', async () => {
    const lines: string[] = [];
    const limits = new Set<unknown>();
    const { log } = connmgr;
    log.info = (text, limit) => {
      lines.push(text);
      limits.add(limit);
    };
    const peer = await client(4);
    for (let i = 0; i < 3; i++) peer.socket.write(Uint8Array.of(4, 99, 0, 8, 0, 0, 0, i));
    for (let i = 0; i < 3; i++) await peer.expect('error');
    assert.equal(lines.filter((line) => line.includes('error reply')).length, 3);
    assert.equal(limits.size, 1, 'one limit for all');
    assert.ok(!limits.has(undefined));
  });

  it('says why when there is no common version', async () => {
    await configure({ versions: 1 << 4 });
    const peer = await client(1);
    const error = await peer.expect('error');
    assert.equal(error.code, 'OFPHFC_INCOMPATIBLE');
    assert.equal(
      Buffer.from(error.data).toString(),
      'We support version 0x04, you support version 0x01, no common versions.',
    );
    await peer.untilClosed();
  });

  it('changes of protocols end old connections', async () => {
    const peer = await client(1);
    await configure({ versions: 1 << 4 });
    await peer.untilClosed();
  });
});

describe('order', () => {
  it('a barrier waits for the data plane, and what follows waits for the barrier', async () => {
    const peer = await client(4);
    let release = () => {};
    bridge.settledDelay = new Promise((resolve) => {
      release = resolve;
    });
    peer.send(flowMods({}));
    peer.send({ type: 'barrier_request' });
    peer.send({ type: 'get_config_request' });
    peer.send({ type: 'echo_request', data: Uint8Array.of(1, 2) });
    const echo = await peer.expect('echo_reply');
    assert.deepEqual([...echo.data], [1, 2]);
    assert.equal(bridge.tables[0].size, 1);
    assert.equal(peer.received.length, 0);
    const other = await client(4);
    await other.request({ type: 'get_config_request' }, 'get_config_reply');
    release();
    await peer.expect('barrier_reply');
    await peer.expect('get_config_reply');
  });

  it('a long dump delays nobody, however slowly it is read', async () => {
    for (let i = 0; i < 20_000; i++) {
      connmgr.tables.apply(flowMod({ priority: i, match: matchOf({ eth_type: 0x800n }) }));
    }
    const slow = await client(4);
    slow.socket.pause();
    const request = {
      table: 0xff,
      match: matchOf({}),
      cookie: 0n,
      cookieMask: 0n,
      outPort: ALL,
      outGroup: ALL,
    };
    slow.send({
      type: 'flow_stats_request',
      nxt: false,
      request: { aggregate: false, ...request },
    });
    const quick = await client(4);
    // Processor time: a loaded machine may make us wait.
    const started = process.cpuUsage();
    for (let i = 0; i < 20; i++) {
      await quick.request({ type: 'echo_request', data: new Uint8Array(0) }, 'echo_reply');
    }
    const { user, system } = process.cpuUsage(started);
    assert.ok(user + system < 1_500_000, `${user + system} us`);
    slow.socket.resume();
    let flows = 0;
    for (;;) {
      const reply = await slow.expect('flow_stats_reply');
      flows += reply.entries.length;
      if (flows >= 20_000) break;
    }
    assert.equal(flows, 20_000);
    await slow.request({ type: 'barrier_request' }, 'barrier_reply');
  });
});

describe('peers that misbehave', () => {
  async function raw(bytes: Uint8Array): Promise<OfClient> {
    const peer = await client(4);
    peer.socket.write(bytes);
    return peer;
  }

  it('lose their connection for a length that cannot be', async () => {
    const other = await client(4);
    await (await raw(Uint8Array.of(4, 2, 0, 3, 0, 0, 0, 0))).untilClosed();
    await other.request({ type: 'barrier_request' }, 'barrier_reply');
  });

  it('keep it after a message of another version, which is refused', async () => {
    const peer = await raw(Uint8Array.of(1, 5, 0, 8, 0, 0, 0, 9));
    assert.equal((await peer.expect('error')).code, 'OFPBRC_BAD_VERSION');
    await peer.request({ type: 'barrier_request' }, 'barrier_reply');
  });

  it('get an error for messages that nobody knows', async () => {
    const peer = await raw(Uint8Array.of(4, 99, 0, 8, 0, 0, 0, 9));
    assert.equal((await peer.expect('error')).code, 'OFPBRC_BAD_TYPE');
    await peer.request({ type: 'barrier_request' }, 'barrier_reply');
  });

  it('do not get in without a hello', async () => {
    const socket = connect({ path: join(dir, 'br0.mgmt') });
    const peer = new OfClient(socket, 4);
    open.push(peer);
    peer.send({ type: 'features_request' });
    await peer.untilClosed();
  });

  it('survive random bytes', async () => {
    const other = await client(4);
    for (let round = 0; round < 30; round++) {
      const peer = await client(6);
      const length = 8 + Math.floor(Math.random() * 200);
      const bytes = new Uint8Array(length).map(() => Math.floor(Math.random() * 256));
      bytes[0] = 6;
      bytes[1] = Math.floor(Math.random() * 36);
      bytes[2] = 0;
      bytes[3] = length;
      peer.socket.end(bytes);
      await sleep(1);
    }
    await other.request({ type: 'barrier_request' }, 'barrier_reply');
    assert.deepEqual(
      log.filter((line) => line.includes('    at ')),
      [],
      'no message may provoke a fault of ours',
    );
  });
});

describe('roles', () => {
  it('there is one primary; a stale generation is refused', async () => {
    const a = await client(5);
    const b = await client(5);
    const ask = (peer: OfClient, role: 'primary' | 'secondary' | 'other', generationId: bigint) =>
      peer.request({ type: 'role_request', role, generationId, nxt: false }, 'role_reply');
    assert.equal((await ask(a, 'primary', 5n)).role, 'primary');
    assert.equal((await ask(b, 'primary', 6n)).role, 'primary');
    const status = await a.expect('role_status');
    assert.equal(status.role, 'secondary');
    assert.equal(status.generationId, 6n);
    const stale = { type: 'role_request', role: 'primary', generationId: 5n, nxt: false } as const;
    assert.equal(await a.errorOf(stale), 'OFPRRFC_STALE');
    assert.equal(await a.errorOf(flowMods({})), 'OFPBRC_IS_SECONDARY');
    assert.equal(await b.errorOf(flowMods({})), 'no error');
  });
});

describe('asynchronous messages', () => {
  it('go to a service only when it has asked', async () => {
    const peer = await client(4);
    const quiet = await client(4);
    peer.send({ type: 'set_config', flags: 0, missSendLen: 128 });
    await peer.request({ type: 'barrier_request' }, 'barrier_reply');
    bridge.addPort(3, 'p3');
    connmgr.portsChanged();
    const added = await peer.expect('port_status');
    assert.deepEqual([added.reason, added.port.name, added.port.state], ['add', 'p3', 0]);
    const live = await peer.expect('port_status');
    assert.deepEqual([live.reason, live.port.state], ['modify', 4]);
    const port = bridge.ports.get(3)!;
    port.desc = { ...portDesc(3, 'p3'), state: 1 };
    connmgr.portsChanged();
    assert.equal((await peer.expect('port_status')).reason, 'modify');
    bridge.ports.delete(3);
    connmgr.portsChanged();
    assert.equal((await peer.expect('port_status')).reason, 'delete');
    await quiet.request({ type: 'barrier_request' }, 'barrier_reply');
    assert.equal(quiet.received.length, 0);
  });

  it('a port-mod is told to others, and to its author from OpenFlow 1.5 on', async () => {
    const old = await client(4);
    const recent = await client(6);
    for (const peer of [old, recent]) peer.send({ type: 'set_config', flags: 0, missSendLen: 9 });
    await recent.request({ type: 'barrier_request' }, 'barrier_reply');
    const portMod = (mask: number) =>
      ({
        type: 'port_mod',
        portMod: { port: 1, hwAddr: portDesc(1, 'p1').hwAddr, config: mask, mask, advertise: 0 },
      }) as const;
    assert.equal(await old.errorOf(portMod(32)), 'no error');
    assert.equal((await recent.expect('port_status')).port.config, 32);
    recent.send(portMod(1));
    assert.equal((await recent.expect('port_status')).port.config, 33);
    assert.equal((await old.expect('port_status')).port.config, 33);
    assert.equal(bridge.ports.get(1)?.netdev.status().adminUp, false);
    const bad = portMod(1);
    assert.equal(
      await old.errorOf({ ...bad, portMod: { ...bad.portMod, hwAddr: new Uint8Array(6) } }),
      'OFPPMFC_BAD_HW_ADDR',
    );
    assert.equal(
      await old.errorOf({ ...bad, portMod: { ...bad.portMod, port: 77 } }),
      'OFPPMFC_BAD_PORT',
    );
  });

  it('flow-removed has the reason and the counters', async () => {
    const peer = await client(4);
    peer.send({ type: 'set_config', flags: 0, missSendLen: 128 });
    const flags = { ...flowMod({}).flags, sendFlowRem: true };
    peer.send(flowMods({ flags, newCookie: 7n, priority: 9 }));
    await peer.request({ type: 'barrier_request' }, 'barrier_reply');
    const [rule] = bridge.tables[0];
    rule.packets = 3;
    rule.bytes = 180;
    peer.send(flowMods({ command: 'delete' }));
    const { flowRemoved } = await peer.expect('flow_removed');
    assert.equal(flowRemoved.reason, 'delete');
    assert.equal(flowRemoved.cookie, 7n);
    assert.equal(flowRemoved.packets, 3n);
    assert.equal(flowRemoved.bytes, 180n);
    assert.equal(flowRemoved.priority, 9);
  });

  it('vacancy events tell of a table that fills, and that has room again', async () => {
    const peer = await client(5);
    peer.send({ type: 'set_async', masks: [{ tableStatus: 0x18 }, {}] });
    connmgr.tables.configureTable(1, { flowLimit: 10 });
    const mod = (vacancy: { downPercent: number; upPercent: number } | undefined) =>
      ({
        type: 'table_mod',
        table: 1,
        config: vacancy === undefined ? 0 : 8,
        evictionFlags: undefined,
        vacancy,
      }) as const;
    assert.equal(await peer.errorOf(mod({ downPercent: 20, upPercent: 10 })), 'OFPBPC_BAD_VALUE');
    assert.equal(await peer.errorOf({ ...mod(undefined), evictionFlags: 1 }), 'OFPTMFC_BAD_CONFIG');
    assert.equal(await peer.errorOf(mod({ downPercent: 20, upPercent: 80 })), 'no error');
    const add = (priority: number) => peer.send(flowMods({ table: 1, priority }));
    // Two events for a walk to full, to half, to full and to empty: the half crosses no threshold.
    for (let i = 1; i <= 10; i++) add(i);
    const down = await peer.expect('table_status');
    assert.equal(down.reason, 'down');
    assert.deepEqual(down.desc.vacancy, { downPercent: 20, upPercent: 80, nowPercent: 10 });
    const remove = (priority: number) =>
      peer.send(flowMods({ command: 'delete_strict', table: 1, priority }));
    for (let i = 1; i <= 5; i++) remove(i);
    for (let i = 1; i <= 5; i++) add(i);
    for (let i = 1; i <= 10; i++) remove(i);
    const up = await peer.expect('table_status');
    assert.equal(up.reason, 'up');
    assert.deepEqual(up.desc.vacancy, { downPercent: 20, upPercent: 80, nowPercent: 90 });
    assert.equal(await peer.errorOf(mod(undefined)), 'no error');
    const { tables } = await peer.request({ type: 'table_desc_request' }, 'table_desc_reply');
    assert.equal(tables[1]?.vacancy, undefined);
    assert.equal(peer.received.length, 0);
  });

  it('packet-ins come in the format that was asked for, to the right controller', async () => {
    const standard = await client(1);
    const extended = await client(1);
    for (const peer of [standard, extended]) {
      peer.send({ type: 'set_config', flags: 0, missSendLen: 0xffff });
    }
    extended.send({ type: 'set_packet_in_format', format: 'nxt_packet_in2' });
    extended.send({ type: 'set_controller_id', controllerId: 7 });
    await standard.request({ type: 'barrier_request' }, 'barrier_reply');
    await extended.request({ type: 'barrier_request' }, 'barrier_reply');
    bridge.onPacketIn?.(packetIn({ cookie: 1n }), 0);
    bridge.onPacketIn?.(packetIn({ cookie: 2n }), 7);
    const first = await standard.expect('packet_in');
    assert.equal(first.format, 'standard');
    assert.equal(first.packetIn.data.length, 60);
    const second = await extended.expect('packet_in');
    assert.equal(second.format, 'nxt_packet_in2');
    assert.equal(second.packetIn.cookie, 2n);
    assert.equal(standard.received.length, 0);
  });

  it('who wants misses is told to the bridge', async () => {
    assert.equal(bridge.wantsPacketInOnMiss, false);
    const peer = await client(1);
    await peer.request({ type: 'barrier_request' }, 'barrier_reply');
    assert.equal(bridge.wantsPacketInOnMiss, true);
    peer.socket.destroy();
    for (let i = 0; i < 50 && bridge.wantsPacketInOnMiss; i++) await sleep(10);
    assert.equal(bridge.wantsPacketInOnMiss, false);
  });

  it('a controller that does not read loses packet-ins, not the switch its memory', async () => {
    const peer = await client(4);
    peer.send({ type: 'set_config', flags: 0, missSendLen: 0xffff });
    await peer.request({ type: 'barrier_request' }, 'barrier_reply');
    peer.socket.pause();
    const big = packetIn({ data: new Uint8Array(9000), totalLen: 9000 });
    for (let i = 0; i < 2000; i++) bridge.onPacketIn?.(big, 0);
    assert.ok(connmgr.packetInsDropped >= 1800, `${connmgr.packetInsDropped}`);
  });
});

describe('bundles', () => {
  const control = (type: 'open' | 'close' | 'commit' | 'discard', flags = 3, bundleId = 1) =>
    ({ type: 'bundle_control', bundleId, control: `${type}_request`, flags }) as const;
  const add = (peer: OfClient, change: Parameters<typeof flowMod>[0], flags = 3) => {
    const inner = flowMods(change);
    return peer.errorOf({ type: 'bundle_add', bundleId: 1, flags, xid: 0, message: inner });
  };

  it('are all or nothing', async () => {
    const peer = await client(5);
    await peer.request(control('open'), 'bundle_control');
    assert.equal(await add(peer, { priority: 1 }), 'no error');
    const flags = { ...flowMod({}).flags, checkOverlap: true };
    assert.equal(
      await add(peer, { priority: 1, match: matchOf({ in_port: 1n }), flags }),
      'no error',
    );
    assert.equal(bridge.tables[0].size, 0);
    peer.send(control('commit'));
    assert.equal((await peer.expect('error')).code, 'OFPFMFC_OVERLAP');
    assert.equal((await peer.expect('error')).code, 'OFPBFC_MSG_FAILED');
    assert.equal(bridge.tables[0].size, 0);
    assert.equal(await peer.errorOf(control('commit')), 'OFPBFC_BAD_ID');
  });

  it('are opened, closed and discarded by the rules', async () => {
    const peer = await client(5);
    await peer.request(control('open'), 'bundle_control');
    assert.equal(await peer.errorOf(control('open')), 'OFPBFC_BAD_ID');
    assert.equal(await peer.errorOf(control('discard')), 'OFPBFC_BAD_ID');
    // An add opens a bundle, too.
    assert.equal(await add(peer, {}), 'no error');
    await peer.request(control('close'), 'bundle_control');
    assert.equal(await add(peer, {}), 'OFPBFC_BUNDLE_CLOSED');
    assert.equal(await add(peer, {}), 'no error');
    assert.equal(await add(peer, {}, 1), 'OFPBFC_BAD_FLAGS');
    const inner = { type: 'bundle_add', bundleId: 1, flags: 3, xid: 0 } as const;
    assert.equal(
      await peer.errorOf({ ...inner, message: { type: 'echo_request', data: new Uint8Array() } }),
      'OFPBFC_MSG_UNSUP',
    );
  });
});

describe('controllers', () => {
  it('are connected to, and their state is shown', async () => {
    const one = await controller(4);
    await configure({ controllers: [{ target: one.target }] });
    const peer = await one.connection();
    await peer.request({ type: 'features_request' }, 'features_reply');
    const status = connmgr.status().get(one.target);
    assert.equal(status?.isConnected, true);
    assert.equal(status?.role, 'other');
    assert.equal(status?.status.state, 'ACTIVE');
    assert.equal(status?.status.sec_since_connect, '0');
    peer.socket.destroy();
    for (let i = 0; i < 100 && connmgr.status().get(one.target)?.isConnected; i++) await sleep(5);
    const after = connmgr.status().get(one.target);
    assert.equal(after?.isConnected, false);
    assert.equal(after?.role, undefined);
    assert.equal(after?.status.state, 'BACKOFF');
    assert.equal(after?.status.last_error, 'End of file');
    // One second later it tries again.
    await (await one.connection(1)).request({ type: 'barrier_request' }, 'barrier_reply');
  });

  it('that are not there are refused connections', async () => {
    await configure({ controllers: [{ target: 'tcp:127.0.0.1:1' }] });
    for (let i = 0; i < 100; i++) {
      if (connmgr.status().get('tcp:127.0.0.1:1')?.status.last_error !== undefined) break;
      await sleep(5);
    }
    const status = connmgr.status().get('tcp:127.0.0.1:1')?.status;
    assert.equal(status?.last_error, 'Connection refused');
    assert.equal(status?.state, 'BACKOFF');
  });

  it('take over from the bridge’s own flow, and give it back', async () => {
    await configure({ failMode: 'standalone' });
    assert.equal([...bridge.tables[0]][0]?.priority, 0);
    const one = await controller(4);
    await configure({ failMode: 'standalone', controllers: [{ target: one.target }] });
    assert.equal(bridge.tables[0].size, 0);
    await configure({ failMode: 'standalone' });
    assert.equal(bridge.tables[0].size, 1);
    await configure({ failMode: 'secure' });
    assert.equal(bridge.tables[0].size, 0);
  });

  it('get misses and port-status without asking', async () => {
    const one = await controller(1);
    await configure({ controllers: [{ target: one.target }] });
    const peer = await one.connection();
    await peer.request({ type: 'barrier_request' }, 'barrier_reply');
    bridge.onPacketIn?.(packetIn({ reason: 'no_match' }), 0);
    assert.equal((await peer.expect('packet_in')).packetIn.reason, 'no_match');
  });

  it('can be limited in packet-ins', async () => {
    const one = await controller(4);
    await configure({ controllers: [{ target: one.target, rateLimit: 100, burstLimit: 25 }] });
    const peer = await one.connection();
    await peer.request({ type: 'barrier_request' }, 'barrier_reply');
    for (let i = 0; i < 100; i++) bridge.onPacketIn?.(packetIn(), 0);
    const { status } = connmgr.status().get(one.target)!;
    assert.equal(status['packet-in-action-bypassed'], '25');
    assert.equal(status['packet-in-action-backlog'], '25');
    assert.equal(status['packet-in-action-dropped'], '50');
    assert.equal(status['packet-in-miss-dropped'], '0');
  });
});

describe('fail-open', () => {
  it('starts after three probe intervals and ends when a controller is back', () => {
    let gone = 0;
    const failOpen = new FailOpen(
      connmgr.tables,
      { failureDurationMs: () => gone, maxProbeMs: () => 5000 },
      { dbg() {}, info() {}, warn() {}, err() {} },
    );
    connmgr.tables.apply(flowMod({ actions: [output(1)] }));
    gone = 14_999;
    failOpen.run();
    assert.equal(failOpen.active, false);
    gone = 15_000;
    failOpen.run();
    assert.equal(failOpen.active, true);
    const [rule] = bridge.tables[0];
    assert.equal(bridge.tables[0].size, 1);
    assert.ok(rule.priority > 0xffff);
    connmgr.flush();
    failOpen.flushed();
    assert.equal(bridge.tables[0].size, 1);
    failOpen.recover();
    assert.equal(bridge.tables[0].size, 0);
    failOpen.close();
  });
});

describe('flow monitors', () => {
  const monitor = (id: number): Message => ({
    type: 'flow_monitor_request',
    requests: [
      {
        id,
        command: 'add',
        flags: {
          initial: true,
          add: true,
          delete: true,
          modify: true,
          actions: true,
          own: false,
        },
        noAbbrev: false,
        onlyOwn: false,
        outPort: ALL,
        outGroup: ALL,
        table: 0xff,
        match: matchOf({}),
      },
    ],
  });

  it('hear of others’ changes in full and of their own in short', async () => {
    connmgr.tables.apply(flowMod({ actions: [output(1)] }));
    const peer = await client(5);
    const initial = await peer.request(monitor(3), 'flow_monitor_reply');
    assert.deepEqual(
      initial.updates.map(({ event }) => event),
      ['initial'],
    );
    connmgr.tables.apply(flowMod({ priority: 2 }));
    const added = (await peer.expect('flow_monitor_reply')).updates[0];
    assert.equal(added.event, 'added');
    const xid = peer.send(flowMods({ command: 'delete' }));
    const own = (await peer.expect('flow_monitor_reply')).updates;
    assert.deepEqual(own, [{ event: 'abbrev', xid }]);
    assert.equal(await peer.errorOf(monitor(3)), 'OFPMOFC_MONITOR_EXISTS');
  });

  it('can be cancelled', async () => {
    const peer = await client(1);
    await peer.request(monitor(3), 'flow_monitor_reply');
    assert.equal(await peer.errorOf({ type: 'flow_monitor_cancel', id: 3 }), 'no error');
    assert.equal(
      await peer.errorOf({ type: 'flow_monitor_cancel', id: 3 }),
      'OFPMOFC_UNKNOWN_MONITOR',
    );
  });
});

describe('rows of the Flow_Table table', () => {
  it('limit and name tables', async () => {
    const peer = await client(4);
    const rows = new Map([[1, { name: 'lim', flowLimit: 1 }]]);
    await configure({ flowTables: rows });
    assert.equal(await peer.errorOf(flowMods({ table: 1, priority: 1 })), 'no error');
    assert.equal(await peer.errorOf(flowMods({ table: 1, priority: 2 })), 'OFPFMFC_TABLE_FULL');
    const { tables } = await peer.request(
      { type: 'table_features_request', setsFeatures: false },
      'table_features_reply',
    );
    assert.deepEqual([tables[1].name, tables[1].maxEntries], ['lim', 1]);
    await configure({});
    assert.equal(await peer.errorOf(flowMods({ table: 1, priority: 2 })), 'no error');
    assert.equal(connmgr.tables.config[1].name, '');
  });
});

describe('messages', () => {
  it('of a switch are refused', async () => {
    const peer = await client(4);
    for (const part of encode(4, 1, { type: 'barrier_reply' })) peer.socket.write(part);
    assert.equal((await peer.expect('error')).code, 'OFPBRC_BAD_TYPE');
  });

  it('with matches of the whole record survive the way through codec and tables', async () => {
    const peer = await client(6);
    const match = matchOf({ in_port_oxm: 3n, eth_type: 0x86ddn, ipv6_src: 1n << 100n, reg5: 7n });
    assert.equal(await peer.errorOf(flowMods({ match })), 'no error');
    const [rule] = bridge.tables[0];
    const { key, mask } = rule.match;
    assert.equal(key.length, FLOW_SIZE);
    assert.deepEqual({ key, mask }, { ...match });
  });
});
