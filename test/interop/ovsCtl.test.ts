// The operator's way: Debian's own ovs-ctl (ovs-ctl(8)), which its systemd units call, finds a link to this ovs-vswitchd, as
// update-alternatives makes it.
// Its command line has --monitor, --detach and --mlockall, all by default: a daemon whose memory cannot be locked is none.

import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import type { Guest } from '../../src/guest/guest.ts';
import { TestDriver } from '../../src/guest/testDriver.ts';
import { ROOT, Sandbox } from './sandbox.ts';
import { numberedFrame, plugGuests } from './sandboxGuests.ts';

const OVS_CTL = '/usr/share/openvswitch/scripts/ovs-ctl';
/** Of a daemon with a bridge, two guests and some thousand flows; all that is reserved are gigabytes. */
const RESIDENT_MAX_KB = 500_000;
const FLOWS = 20_000;

let box: Sandbox;
let guests: Guest[] = [];
let drivers: TestDriver[] = [];

/**
 * Runs ovs-ctl. In its own mount namespace the kernel's module of Open vSwitch seems to be loaded: ovs-ctl insists on it, nobody
 * here needs it.
 */
function ctl(...words: string[]): string {
  const script = 'mount --bind "$1" /sys/module && shift && exec "$@"';
  const options = [
    '--no-record-hostname',
    '--system-id=random',
    `--db-file=${box.path('conf.db')}`,
  ];
  return box.must(
    ...(['unshare', '-m', 'sh', '-c', script, 'sh', box.path('modules')] as const),
    ...['env', `PATH=${box.path('sbin')}:${process.env.PATH}`, OVS_CTL, ...options, ...words],
  );
}

const status = (pid: number, field: string): number =>
  Number(
    new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(
      readFileSync(`/proc/${pid}/status`, 'utf8'),
    )![1],
  );

let sent = 0;
async function passes(): Promise<void> {
  const [sender, receiver] = drivers;
  const arrives = async () => {
    sender!.send(numberedFrame(sent++));
    return (await receiver!.expect(1, 200)).length > 0;
  };
  await box.until(arrives, 20_000, 'frame');
}

before(() => {
  box = Sandbox.empty();
  for (const name of ['modules', 'modules/openvswitch', 'openvswitch', 'sbin']) {
    mkdirSync(box.path(name));
  }
  symlinkSync(join(ROOT, 'bin', 'ovs-vswitchd'), box.path('sbin/ovs-vswitchd'));
});

after(async () => {
  for (const guest of guests) guest.close();
  try {
    // Whichever of the two daemons is there.
    if (existsSync(box.path('ovsdb-server.pid'))) ctl('stop');
  } finally {
    await box.stop();
  }
});

describe('ovs-ctl', () => {
  it('start: monitored, memory locked, but only what is used', async () => {
    ctl('start');
    assert.match(ctl('status'), /ovsdb-server is running.*\novs-vswitchd is running with pid \d+/);
    const pid = box.daemonPid;
    const monitor = Number(/^PPid:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]);
    const title = readFileSync(`/proc/${monitor}/cmdline`, 'utf8');
    assert.match(title, new RegExp(`^ovs-vswitchd: monitoring pid ${pid} \\(healthy\\)`));
    assert.doesNotMatch(readFileSync(box.logFile, 'utf8'), /mlockall failed/);
    assert.ok(status(pid, 'VmLck') > 0);
    assert.ok(status(pid, 'VmRSS') < RESIDENT_MAX_KB, `${status(pid, 'VmRSS')} kB`);
  });

  it('guests talk, and V8 can still give memory back', async () => {
    box.vsctl('add-br', 'br0', '--', 'set', 'bridge', 'br0', 'datapath_type=netdev');
    guests = await plugGuests(box, 'br0', ['a', 'b']);
    drivers = guests.map((guest) => new TestDriver(guest));
    const lines = Array.from(
      { length: FLOWS },
      (_, i) => `priority=9,udp,nw_src=10.1.${i >> 8}.${i & 255},actions=drop`,
    );
    writeFileSync(box.path('flows.txt'), `${lines.join('\n')}\n`);
    for (let round = 0; round < 3; round++) {
      box.ofctl('--bundle', 'add-flows', 'br0', box.path('flows.txt'));
      box.ofctl('del-flows', 'br0', 'udp');
    }
    await passes();
    const pid = box.daemonPid;
    assert.ok(status(pid, 'VmRSS') < RESIDENT_MAX_KB, `${status(pid, 'VmRSS')} kB`);
  });

  it('restart: flows are saved and restored', async () => {
    box.ofctl('add-flow', 'br0', 'priority=77,in_port=a,cookie=0x77,actions=output:b');
    const pid = box.daemonPid;
    ctl('restart');
    assert.notEqual(box.daemonPid, pid);
    assert.match(box.ofctl('dump-flows', 'br0'), /cookie=0x77,.*priority=77/);
    await Promise.all(guests.map((guest) => guest.connected(2)));
    await passes();
  });

  it('stop: nothing is left', async () => {
    const pid = box.daemonPid;
    ctl('stop');
    await box.until(() => !existsSync(`/proc/${pid}`), 10_000, 'end of the daemon');
    assert.ok(!existsSync(box.path('ovs-vswitchd.pid')));
  });
});
