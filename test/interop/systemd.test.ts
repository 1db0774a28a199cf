// The packaged unit under systemd itself, as process 1 of namespaces of its own (systemdHost.sh): it is ready when the switch
// is, a reload hands over, a crash and a daemon that stands still end in a new one; guests keep or find their connection.

import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Guest } from '../../src/guest/guest.ts';
import { TestDriver } from '../../src/guest/testDriver.ts';
import { ROOT } from './sandbox.ts';

const UNIT = 'xvio-vswitchd.service';
const PATIENCE_MS = 60_000;

async function until(what: string, condition: () => boolean): Promise<void> {
  const endMs = Date.now() + PATIENCE_MS;
  while (!condition()) {
    assert.ok(Date.now() < endMs, `not in ${PATIENCE_MS} ms: ${what}`);
    await sleep(100);
  }
}

/** The process below `pid` that has become systemd; 0 while there is none. */
function systemdBelow(pid: number): number {
  try {
    while (pid > 0) {
      const [name, children] = ['comm', 'children'].map((file) =>
        readFileSync(`/proc/${pid}/task/${pid}/${file}`, 'utf8'),
      );
      if (name === 'systemd\n') return pid;
      pid = Number(children!.split(' ')[0]);
    }
  } catch (thrown) {
    // It has ended meanwhile.
    if ((thrown as NodeJS.ErrnoException).code !== 'ENOENT') throw thrown;
  }
  return 0;
}

/** systemd with xvio's unit. */
class Host implements AsyncDisposable {
  readonly #folder = mkdtempSync(join(tmpdir(), 'xv-systemd-'));
  readonly #child;
  #systemd = 0;
  output = '';

  constructor() {
    const script = join(ROOT, 'test/interop/systemdHost.sh');
    const words = ['--mount', 'sh', script, ROOT, this.#folder, 'outside'];
    this.#child = spawn('unshare', words, { stdio: ['ignore', 'pipe', 'pipe'] });
    for (const stream of [this.#child.stdout, this.#child.stderr]) {
      stream.on('data', (data) => {
        this.output += data;
      });
    }
  }

  async start(): Promise<void> {
    await until('systemd', () => {
      assert.equal(this.#child.exitCode, null, this.output);
      this.#systemd = systemdBelow(this.#child.pid!);
      return this.#systemd > 0;
    });
    await until(`${UNIT} active`, () => this.property('ActiveState') === 'active');
  }

  run(command: string, ...words: string[]): string {
    const enter = ['-t', String(this.#systemd), '-m', '-p', '-n', '-C', command, ...words];
    return execFileSync('nsenter', enter, {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: PATIENCE_MS,
    });
  }

  property(name: string): string {
    try {
      return this.run('systemctl', 'show', UNIT, '--value', '-p', name).trim();
    } catch (thrown) {
      // systemd itself is starting.
      if (/connect to bus|Connection refused/i.test((thrown as Error).message)) return '';
      throw thrown;
    }
  }

  /** A path of the host, for processes outside. */
  path(inside: string): string {
    return `/proc/${this.#systemd}/root${inside}`;
  }

  log(): string {
    const path = this.path('/var/log/openvswitch/ovs-vswitchd.log');
    return existsSync(path) ? readFileSync(path, 'utf8') : '';
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const ended = this.#child.exitCode === null ? once(this.#child, 'exit') : undefined;
    if (this.#systemd > 0) process.kill(this.#systemd, 'SIGKILL');
    else this.#child.kill('SIGKILL');
    await ended;
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

function frame(number: number): Uint8Array {
  const bytes = new Uint8Array(100);
  bytes.set([2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5, number]);
  return bytes;
}

it('the unit: ready, reloaded, killed, standing still', async (t) => {
  await using host = new Host();
  const guests: Guest[] = [];
  try {
    await host.start();
    assert.equal(host.property('StatusText'), 'switching');
    // The unit's filter of system calls and its limits let it.
    assert.doesNotMatch(host.log(), /mlockall failed/);

    // Nothing is said about a unit without fault. Exposure: 0 (nothing is possible) to 10.
    const unit = `/run/units/${UNIT}`;
    assert.equal(host.run('systemd-analyze', 'verify', '--man=no', unit), '');
    const security = host.run('systemd-analyze', 'security', '--offline=1', '--no-pager', unit);
    const exposure = Number(/Overall exposure level for \S+: (\S+)/.exec(security)![1]);
    t.diagnostic(`exposure ${exposure}`);
    assert.ok(exposure < 5, security);

    const names = ['g0', 'g1'];
    host.run(
      ...(['ovs-vsctl', '--timeout=60', 'add-br', 'br0'] as const),
      ...['--', 'set', 'Bridge', 'br0', 'datapath_type=netdev'],
      ...names.flatMap((name) => [
        ...['--', 'add-port', 'br0', name, '--', 'set', 'Interface', name],
        ...['type=dpdkvhostuserclient', `options:vhost-server-path=/run/openvswitch/${name}`],
      ]),
    );
    for (const name of names) {
      const path = host.path(`/run/openvswitch/${name}`);
      const guest = new Guest({ path, mode: 'server', memoryBytes: 8 << 20 });
      guests.push(guest);
      guest.open();
    }
    await Promise.all(guests.map((guest) => guest.connected(1, PATIENCE_MS)));
    const [from, to] = guests.map((guest) => new TestDriver(guest)) as [TestDriver, TestDriver];
    let number = 0;
    /** A frame crosses; the first one may have been too early. */
    const crosses = async (): Promise<void> => {
      for (;;) {
        assert.ok(from.send(frame(++number)));
        for (const got of await to.expect(1, 1000)) if (got.frame[14] === number) return;
        assert.ok(number < 200, 'no frame crosses');
      }
    };
    await crosses();

    // A reload: another process, the same connection.
    const first = host.property('MainPID');
    host.run('systemctl', 'reload', UNIT);
    const second = host.property('MainPID');
    assert.notEqual(second, first);
    assert.deepEqual([host.property('ActiveState'), host.property('NRestarts')], ['active', '0']);
    assert.match(host.log(), new RegExp(`hand-over: process ${second} wants to take over`));
    assert.equal(host.run('cat', '/run/openvswitch/ovs-vswitchd.pid').trim(), second);
    await crosses();
    assert.deepEqual(
      guests.map((guest) => guest.connections),
      [1, 1],
    );

    // A crash.
    const restarted = async (times: number, before: string): Promise<void> => {
      await until(`restart ${times}`, () => Number(host.property('NRestarts')) >= times);
      await until('ready again', () => host.property('ActiveState') === 'active');
      assert.notEqual(host.property('MainPID'), before);
    };
    host.run('systemctl', 'kill', '--kill-whom=main', '--signal=KILL', UNIT);
    await restarted(1, second);
    await Promise.all(guests.map((guest) => guest.connected(2, PATIENCE_MS)));
    await crosses();

    // One that stands still. The packaged 20 s are too long for a test; a start tells the daemon of six.
    const dropIn = '/run/units/xvio-vswitchd.service.d';
    host.run('mkdir', dropIn);
    const settings = [
      '[Service]',
      'WatchdogSec=6',
      "ExecStopPost=/bin/sh -c 'echo $SERVICE_RESULT >> /run/openvswitch/results'",
    ];
    writeFileSync(host.path(`${dropIn}/watchdog.conf`), `${settings.join('\n')}\n`);
    host.run('systemctl', 'daemon-reload');
    host.run('systemctl', 'restart', UNIT);
    await Promise.all(guests.map((guest) => guest.connected(3, PATIENCE_MS)));
    const [third, restarts] = [host.property('MainPID'), Number(host.property('NRestarts'))];
    host.run('systemctl', 'kill', '--kill-whom=main', '--signal=STOP', UNIT);
    await restarted(restarts + 1, third);
    const results = readFileSync(host.path('/run/openvswitch/results'), 'utf8');
    assert.deepEqual(results.split('\n'), ['success', 'watchdog', '']);
    await Promise.all(guests.map((guest) => guest.connected(4, PATIENCE_MS)));
    await crosses();

    host.run('systemctl', 'stop', UNIT);
    assert.deepEqual(
      [host.property('ActiveState'), host.property('Result')],
      ['inactive', 'success'],
    );
  } catch (thrown) {
    throw new Error(`${(thrown as Error).message}\n${host.output}\n${host.log()}`, {
      cause: thrown,
    });
  } finally {
    for (const guest of guests) guest.close();
  }
});
