// A daemon takes over from another under traffic (ovs-vswitchd --take-over): guests and tools notice nothing but a pause
// of some milliseconds; flows, groups, meters, counters, connections and learned addresses are as before.

import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import * as L from '../../src/guest/driver/layout.ts';
import { Guest, guestFeatures } from '../../src/guest/guest.ts';
import { GuestThread } from '../../src/guest/thread.ts';
import { HandOverChannel } from '../../src/main/handover/channel.ts';
import { Heir } from '../../src/main/handover/heir.ts';
import { HELLO, handOverPath, pack } from '../../src/main/handover/messages.ts';
import { closeFd } from '../../src/sys/fd.ts';
import { unixConnect } from '../../src/sys/unix.ts';
import { BlockedTimes, missing } from './blocked.ts';
import { ROOT, Sandbox } from './sandbox.ts';
import { hasBuffers, trafficOf, until } from './vhostHarness.ts';

const PER_MS = 5;
const ROUNDS = 3;
/** Lost packets ÷ rate, and what is allowed where others are using the processors, too. */
const BLOCKED_MAX_MS = 50;
const BUSY_MAX_MS = Number(process.env.XVIO_BLOCKED_MAX_MS ?? 1500);

const traffic = (from: number, to: number) => ({
  ...trafficOf(from, to),
  flows: 20,
  perMs: PER_MS,
});

let box: Sandbox;
let guests: Guest[] = [];
let threads: GuestThread[] = [];

/** What must be the same before and after; counters and times are left out. */
function shown(): Record<string, string> {
  const still = (text: string) =>
    text
      .replace(/duration=[\d.]+s|(?:n_packets|n_bytes|idle_age|hard_age)=\d+|xid=0x[0-9a-f]+/g, '*')
      .split('\n')
      .sort()
      .join('\n');
  return {
    flows: still(box.ofctl('-O', 'OpenFlow15', 'dump-flows', 'br0')),
    groups: still(box.ofctl('-O', 'OpenFlow15', 'dump-groups', 'br0')),
    meters: still(box.ofctl('-O', 'OpenFlow15', 'dump-meters', 'br0')),
    config: still(box.ofctl('show', 'br0')).replace(/state: .*/g, ''),
    frags: box.ofctl('get-frags', 'br0'),
    tlvs: still(box.ofctl('dump-tlv-map', 'br0')),
    fdb: box
      .appctl('fdb/show', 'br0')
      .replace(/ +\d+$/gm, '')
      .split('\n')
      .sort()
      .join('\n'),
    ports: box.vsctl('--columns=name,ofport,mac_in_use,error', 'list', 'interface'),
    bridge: box.vsctl('get', 'bridge', 'br0', 'datapath_id'),
  };
}

function packetsOf(match: RegExp): number {
  const line = box
    .ofctl('dump-flows', 'br0')
    .split('\n')
    .find((text) => match.test(text));
  return Number(/n_packets=(\d+)/.exec(line ?? '')?.[1] ?? -1);
}

before(async () => {
  box = await Sandbox.start();
  box.vsctl('add-br', 'br0', '--', 'set', 'bridge', 'br0', 'datapath_type=netdev');
  for (const name of ['a', 'b']) {
    box.vsctl(
      ...['add-port', 'br0', name, '--', 'set', 'interface', name, 'type=dpdkvhostuserclient'],
      `options:vhost-server-path=${box.path(`${name}.sock`)}`,
    );
  }
  // One more in the other mode: its listening socket goes along.
  box.vsctl('add-port', 'br0', 'c', '--', 'set', 'interface', 'c', 'type=dpdkvhostuser');
  const common = { queueSize: 4096, memoryBytes: 96 << 20 };
  guests = [
    new Guest({ ...common, pairs: 2, path: box.path('a.sock'), mode: 'server' }),
    new Guest({
      ...common,
      path: box.path('b.sock'),
      mode: 'server',
      features: guestFeatures({ packed: true, inOrder: true }),
    }),
    new Guest({ path: box.path('c'), mode: 'client' }),
  ];
  for (const guest of guests) guest.open();
  await Promise.all(guests.map((guest) => guest.connected()));
  threads = guests.map((guest) => new GuestThread(guest));
  for (const guest of guests) await hasBuffers(guest);
});

after(async () => {
  for (const thread of threads) await thread.close();
  for (const guest of guests) guest.close();
  await box?.stop();
});

describe('taking over', () => {
  it('keeps the OpenFlow state, connections and addresses, and guests do not notice', async (t) => {
    box.ofctl('mod-port', 'br0', 'c', 'no-flood');
    box.ofctl('set-frags', 'br0', 'nx-match');
    box.ofctl('add-tlv-map', 'br0', '{class=0xffff,type=1,len=4}->tun_metadata0');
    box.ofctl(
      '-O',
      'OpenFlow15',
      'add-group',
      'br0',
      'group_id=7,type=select,bucket=output:a,bucket=output:b',
    );
    box.ofctl('-O', 'OpenFlow15', 'add-meter', 'br0', 'meter=3,pktps,band=type=drop,rate=1000000');
    for (const flow of [
      'table=0,priority=50,udp,cookie=0x1234,actions=ct(commit,zone=5,table=1)',
      'table=0,priority=40,arp,actions=group:7',
      'table=1,priority=10,idle_timeout=600,actions=meter:3,NORMAL',
      'table=2,tun_metadata0=5,hard_timeout=900,importance=9,actions=learn(table=3,NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[])',
    ]) {
      box.ofctl('-O', 'OpenFlow15', 'add-flow', 'br0', flow);
    }
    threads[0]!.setTraffic(0, traffic(1, 2));
    threads[1]!.setTraffic(0, traffic(2, 1));
    await until(
      () => threads.slice(0, 2).every((thread) => thread.counters(0).marked > 1000),
      'traffic',
    );
    const before = shown();
    const counted = packetsOf(/cookie=0x1234/);
    assert.ok(counted > 0);
    const connections = box.appctl('dpctl/dump-conntrack').split('\n').length;
    assert.ok(connections > 20);

    // What the machine does to packets without our help.
    const worst = () => threads.slice(0, 2).map((thread) => thread.counters(0).latencyMaxMs);
    const forget = () => {
      for (const guest of guests) guest.view.setFloat64(L.GUEST_CONTROL + L.GT_RTT_MAX, 0, true);
    };
    forget();
    await sleep(1000);
    const quiet = worst();
    const delays: number[] = [];
    const [a, b] = [threads[0]!, threads[1]!];
    const gaps = () => [
      a.counters(0).sent - b.counters(0).marked,
      b.counters(0).sent - a.counters(0).marked - a.counters(1).marked,
    ];
    const blocked = new BlockedTimes();
    for (let round = 0; round < ROUNDS; round++) {
      forget();
      const known = await missing(gaps);
      blocked.begin();
      await box.takeOver();
      await sleep(300);
      const lost = (await missing(gaps)).map((n, way) => Math.max(0, n - known[way]!));
      t.diagnostic(blocked.end(Math.max(...lost) / PER_MS));
      delays.push(...worst());
      assert.deepEqual(shown(), before);
      assert.ok(packetsOf(/cookie=0x1234/) >= counted, 'counters go on');
      assert.ok(box.appctl('dpctl/dump-conntrack').split('\n').length >= connections);
    }
    t.diagnostic(`without: ${quiet.map((ms) => ms.toFixed(1)).join(', ')} ms`);
    t.diagnostic(
      `longest time a packet waited: ${delays.map((ms) => ms.toFixed(1)).join(', ')} ms`,
    );
    t.diagnostic(
      box
        .logTail(400)
        .split('\n')
        .filter((line) => /hand-over: (done|ports|megaflows)/.test(line))
        .join('\n'),
    );
    t.diagnostic(blocked.check(BLOCKED_MAX_MS, BUSY_MAX_MS));
    for (const ms of delays) assert.ok(ms < BUSY_MAX_MS, `a packet waited ${ms} ms`);

    for (const thread of threads.slice(0, 2)) thread.stopSending(0);
    await until(() => a.counters(0).taken === a.counters(0).sent, 'the rest of a');
    await until(() => b.counters(0).taken === b.counters(0).sent, 'the rest of b');
    await sleep(300);
    const lost = gaps();
    t.diagnostic(
      `lost in ${ROUNDS} rounds: ${lost.join(' and ')} packets of ${PER_MS} a millisecond`,
    );
    t.diagnostic(
      box
        .appctl('coverage/show')
        .split('\n')
        .filter((line) => /^drop_|^upcall/.test(line))
        .map((line) => line.replace(/ .*total:/, ''))
        .join(', '),
    );
    const twice = [a.counters(0).twice, a.counters(1).twice, b.counters(0).twice];
    assert.deepEqual(twice, [0, 0, 0], 'delivered twice');
    for (const packets of lost) {
      assert.ok(packets >= 0 && packets / PER_MS / ROUNDS < BUSY_MAX_MS, `${packets} lost`);
    }
    assert.deepEqual(
      guests.map((guest) => guest.connections),
      [1, 1, 1],
      'front-ends noticed',
    );
    assert.equal(box.vsctl('get', 'interface', 'c', 'link_state').trim(), 'up');
  });

  it('is given up when the successor dies with everything in its hands: the old daemon goes on', async (t) => {
    const [a, b] = [threads[0]!, threads[1]!];
    a.setTraffic(0, traffic(1, 2));
    b.setTraffic(0, traffic(2, 1));
    box.vsctl('set', 'interface', 'c', 'bfd:enable=true');
    const sessions = () => box.appctl('bfd/show').match(/^---- .* ----$/gm);
    assert.deepEqual(sessions(), ['---- c ----']);
    const before = shown();
    const pid = box.daemonPid;
    const received = b.counters(0).marked;
    const heir = await Heir.ask(handOverPath(box.dir));
    const goods = await heir.take();
    assert.ok(goods);
    assert.deepEqual([...goods.devices.keys()].sort(), ['a', 'b', 'br0', 'c']);
    for (const { fds } of goods.devices.values()) for (const fd of fds) closeFd(fd);
    closeFd(goods.conntrackFd);
    heir[Symbol.dispose]();
    await until(() => b.counters(0).marked > received + 1000, 'traffic goes on');
    assert.equal(box.daemonPid, pid);
    assert.deepEqual(shown(), before);
    assert.deepEqual(
      guests.map((guest) => guest.connections),
      [1, 1, 1],
      'front-ends noticed',
    );
    assert.deepEqual([a.counters(0).twice, b.counters(0).twice], [0, 0], 'delivered twice');
    assert.deepEqual(sessions(), ['---- c ----'], 'of the bridge that was let go');
    t.diagnostic(box.logTail(3).split('\n')[0] ?? '');
    // And it can still be taken over from.
    await box.takeOver();
    assert.deepEqual(shown(), before);
    for (const thread of [a, b]) thread.stopSending(0);
  });

  it('is refused to a process that speaks another format', async () => {
    const channel = new HandOverChannel(unixConnect(handOverPath(box.dir)));
    channel.send(HELLO, pack({ format: 999, pid: process.pid }));
    assert.equal(await channel.next(), undefined);
    assert.equal(box.vsctl('get', 'interface', 'a', 'link_state').trim(), 'up');
  });

  it('starts as usual when nobody is there', async () => {
    await box.stopDaemon();
    await box.startDaemon(['--take-over']);
    await box.until(
      () => box.vsctl('get', 'interface', 'a', 'link_state').trim() === 'up',
      20000,
      'link',
    );
  });
});

describe('taking over with an empty database', () => {
  const emptied = (it: Sandbox): void => {
    const remove = JSON.stringify([
      'Open_vSwitch',
      { op: 'delete', table: 'Open_vSwitch', where: [] },
    ]);
    it.must('ovsdb-client', 'transact', `unix:${it.path('db.sock')}`, remove);
  };

  it('is done where nothing is configured; the configuration comes later', async () => {
    await using sandbox = await Sandbox.start({ configure: emptied });
    await sandbox.takeOver();
    sandbox.must('ovs-vsctl', '--no-wait', 'init');
    sandbox.vsctl('add-br', 'br0', '--', 'set', 'bridge', 'br0', 'datapath_type=netdev');
    assert.match(sandbox.appctl('dpif/show'), /br0/);
    await sandbox.takeOver();
    assert.match(sandbox.appctl('dpif/show'), /br0/);
  });

  it('is given up when the daemon that runs has bridges, which go on', async () => {
    await using sandbox = await Sandbox.start();
    sandbox.vsctl('add-br', 'br0', '--', 'set', 'bridge', 'br0', 'datapath_type=netdev');
    emptied(sandbox);
    const pid = sandbox.daemonPid;
    for (const detach of [[], ['--detach', '--monitor']]) {
      const words = [`unix:${sandbox.path('db.sock')}`, '--pidfile', '--take-over=1', ...detach];
      const result = sandbox.run(join(ROOT, 'bin', 'ovs-vswitchd'), ...words);
      assert.equal(result.status, 1, result.stderr);
      assert.match(
        result.stderr,
        /ovs-vswitchd: not taking over: the database has given no configuration for 1 s; the running/,
      );
      assert.equal(sandbox.daemonPid, pid);
      assert.match(sandbox.appctl('dpif/show'), /br0/);
    }
  });
});
