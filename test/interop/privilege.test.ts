// Least privilege: what the daemon is allowed under --user, that everything which comes later still works, the sockets'
// owners, and the service manager's protocol with the unit file.

import assert from 'node:assert/strict';
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { Attacker } from '../../src/guest/attacker.ts';
import { Guest } from '../../src/guest/guest.ts';
import { memfdCreate, truncateFd } from '../../src/sys/memory.ts';
import { sdNotify } from '../../src/sys/sdNotify.ts';
import { lookupGroup, lookupUser } from '../../src/sys/user.ts';
import { ROOT, Sandbox } from './sandbox.ts';

const CAPABILITIES = { NET_ADMIN: 12, NET_RAW: 13, IPC_LOCK: 14, BPF: 39 };
const KEPT = Object.values(CAPABILITIES).reduce((mask, cap) => mask | (1n << BigInt(cap)), 0n);

function field(pid: number, name: string, task = pid): string {
  const status = readFileSync(`/proc/${pid}/task/${task}/status`, 'utf8');
  return new RegExp(`^${name}:\\s+(.*)`, 'm').exec(status)![1]!;
}

/** A front-end with memory that can shrink, on port vm0, once the guest before it has been let go. */
async function connected(box: Sandbox): Promise<Attacker> {
  let attacker: Attacker | undefined;
  await box.until(
    async () => {
      const bytes = 4 << 20;
      const next = new Attacker(box.path('vm0'), { fd: memfdCreate('x', bytes, false), bytes });
      try {
        await next.handshake();
        attacker = next;
      } catch {
        next[Symbol.dispose]();
      }
      return attacker !== undefined;
    },
    10_000,
    'handshake',
  );
  return attacker!;
}

const nobody = lookupUser('nobody:nogroup');

/** A daemon that gives up root. */
function startAsNobody(): Promise<Sandbox> {
  return Sandbox.start({
    args: ['--user=nobody:nogroup'],
    configure: (box) => {
      // As an administrator prepares it: run directory and database socket are the user's.
      chmodSync(box.dir, 0o755);
      for (const file of ['', 'db.sock']) chownSync(box.path(file), nobody.uid, nobody.gid);
    },
  });
}

describe('--user', () => {
  it('keeps four capabilities; taps, system ports, AF_XDP, guests and their faults still work', async () => {
    await using box = await startAsNobody();
    const pid = box.daemonPid;
    assert.equal(field(pid, 'Uid').split('\t')[1], String(nobody.uid));
    assert.equal(field(pid, 'Groups').trim(), String(nobody.gid));
    for (const set of ['CapEff', 'CapPrm', 'CapBnd']) {
      assert.equal(BigInt(`0x${field(pid, set)}`), KEPT, set);
    }
    assert.equal(field(pid, 'NoNewPrivs'), '1');
    // No other thread has more.
    for (const task of readdirSync(`/proc/${pid}/task`).map(Number)) {
      assert.equal(BigInt(`0x${field(pid, 'CapEff', task)}`) & ~KEPT, 0n, `thread ${task}`);
    }

    // All kinds of ports, after the change of user.
    box.must('ip', 'link', 'add', 'veth0', 'type', 'veth', 'peer', 'name', 'veth1');
    box.must('ip', 'link', 'add', 'veth2', 'type', 'veth', 'peer', 'name', 'veth3');
    for (const name of ['veth0', 'veth1', 'veth2', 'veth3'])
      box.must('ip', 'link', 'set', name, 'up');
    box.vsctl(
      ...['add-br', 'br0', '--', 'set', 'Bridge', 'br0', 'datapath_type=netdev'],
      ...['--', 'add-port', 'br0', 'int0', '--', 'set', 'Interface', 'int0', 'type=internal'],
      ...['--', 'add-port', 'br0', 'tap0', '--', 'set', 'Interface', 'tap0', 'type=tap'],
      ...['--', 'add-port', 'br0', 'veth0'],
      ...['--', 'add-port', 'br0', 'veth2', '--', 'set', 'Interface', 'veth2', 'type=afxdp'],
      ...['--', 'add-port', 'br0', 'vm0', '--', 'set', 'Interface', 'vm0', 'type=dpdkvhostuser'],
    );
    for (const name of ['int0', 'tap0', 'veth0', 'veth2', 'vm0']) {
      assert.equal(box.vsctl('get', 'Interface', name, 'error').trim(), '[]', name);
    }
    box.must('ip', 'addr', 'add', '10.1.0.1/24', 'dev', 'br0');
    box.must('ip', 'link', 'set', 'br0', 'up');
    for (const [i, name] of ['veth1', 'veth3'].entries()) {
      const peer = box.addNamespace(`p${i}`);
      box.must('ip', 'link', 'set', name, 'netns', peer);
      for (const words of [
        ['addr', 'add', `10.1.0.${i + 2}/24`, 'dev', name],
        ['link', 'set', name, 'up'],
      ]) {
        execFileSync('ip', ['-n', peer, ...words]);
      }
      const ping = spawnSync('ip', ['netns', 'exec', peer, 'ping', '-c3', '-W5', '10.1.0.1']);
      assert.equal(ping.status, 0, `${name}: ${ping.stdout}${ping.stderr}`);
    }
    const guest = new Guest({ path: box.path('vm0'), mode: 'client' });
    guest.open();
    await guest.connected();
    guest.close();

    // The daemon reads its own /proc where a worker waits for lost memory.
    using bad = await connected(box);
    truncateFd(bad.fd, 0);
    bad.kick(1);
    await box.until(() => bad.frontend.closed, 10_000, 'disconnection of the attacker');
    assert.match(box.logTail(200), /the memory file has shrunk to 0 bytes/);
    assert.equal(box.daemonPid, pid);

    // Nothing that it made survives it, without root's help.
    await box.stopDaemon();
    assert.deepEqual(
      readdirSync(box.dir).filter((name) => /vswitchd.*(pid|ctl)$|vm0/.test(name)),
      [],
    );
  });
});

describe('--user and --take-over', () => {
  it('the successor has the same few rights, and everything that the first one had', async () => {
    await using box = await startAsNobody();
    box.must('ip', 'link', 'add', 'veth0', 'type', 'veth', 'peer', 'name', 'veth1');
    for (const name of ['veth0', 'veth1']) box.must('ip', 'link', 'set', name, 'up');
    box.vsctl(
      ...['add-br', 'br0', '--', 'set', 'Bridge', 'br0', 'datapath_type=netdev'],
      ...['--', 'add-port', 'br0', 'tap0', '--', 'set', 'Interface', 'tap0', 'type=tap'],
      ...['--', 'add-port', 'br0', 'veth0'],
      ...['--', 'add-port', 'br0', 'vm0', '--', 'set', 'Interface', 'vm0', 'type=dpdkvhostuser'],
    );
    const peer = box.addNamespace('p');
    box.must('ip', 'link', 'set', 'veth1', 'netns', peer);
    const inPeer = (...words: string[]) => execFileSync('ip', ['-n', peer, ...words]);
    inPeer('addr', 'add', '10.1.0.2/24', 'dev', 'veth1');
    inPeer('link', 'set', 'veth1', 'up');
    box.must('ip', 'addr', 'add', '10.1.0.1/24', 'dev', 'br0');
    box.must('ip', 'link', 'set', 'br0', 'up');
    const ping = () => {
      const result = spawnSync('ip', ['netns', 'exec', peer, 'ping', '-c2', '-W5', '10.1.0.1']);
      assert.equal(result.status, 0, `${result.stdout}${result.stderr}`);
    };
    ping();
    const guest = new Guest({ path: box.path('vm0'), mode: 'client' });
    guest.open();
    try {
      await guest.connected();
      const first = box.daemonPid;
      for (let round = 0; round < 2; round++) {
        await box.takeOver();
        const pid = box.daemonPid;
        assert.notEqual(pid, first);
        assert.equal(field(pid, 'Uid').split('\t')[1], String(nobody.uid));
        for (const set of ['CapEff', 'CapPrm', 'CapBnd']) {
          assert.equal(BigInt(`0x${field(pid, set)}`), KEPT, set);
        }
        for (const name of ['tap0', 'veth0', 'vm0']) {
          assert.equal(box.vsctl('get', 'Interface', name, 'error').trim(), '[]', name);
        }
        ping();
        assert.equal(guest.connections, 1, 'the front-end noticed');
      }
    } finally {
      guest.close();
    }
    // The socket that was handed over still listens, and what comes later can be made.
    const next = new Guest({ path: box.path('vm0'), mode: 'client' });
    next.open();
    await next.connected();
    next.close();
    box.vsctl('add-port', 'br0', 'vm1', '--', 'set', 'Interface', 'vm1', 'type=dpdkvhostuser');
    assert.equal(statSync(box.path('vm1')).uid, nobody.uid);
    await box.stopDaemon();
    assert.deepEqual(
      readdirSync(box.dir).filter((name) => /vswitchd.*(pid|ctl)$|vm[01]/.test(name)),
      [],
    );
  });
});

describe('sockets', () => {
  it('get the owner, group and mode that other_config asks for; nonsense is named and changes nothing', async () => {
    await using box = await Sandbox.start();
    const add = (name: string, ...settings: string[]): ReturnType<typeof statSync> => {
      box.vsctl(
        ...['--may-exist', 'add-br', 'br0', '--', 'set', 'Bridge', 'br0', 'datapath_type=netdev'],
        ...['--', 'remove', 'Open_vSwitch', '.', 'other_config', 'vhost-sock-owner'],
        ...['--', 'remove', 'Open_vSwitch', '.', 'other_config', 'vhost-sock-perm'],
        ...(settings.length > 0 ? ['--', 'set', 'Open_vSwitch', '.', ...settings] : []),
        ...['--', 'add-port', 'br0', name, '--', 'set', 'Interface', name, 'type=dpdkvhostuser'],
      );
      return statSync(box.path(name));
    };
    const owner = (value: string): string => `other_config:vhost-sock-owner="${value}"`;
    const perm = (value: string): string => `other_config:vhost-sock-perm="${value}"`;
    const usual = add('p0')!;
    assert.deepEqual([usual.uid, usual.gid], [0, 0]);
    const both = add('p1', owner('nobody:nogroup'), perm('0660'))!;
    assert.deepEqual(
      [both.uid, both.gid, Number(both.mode) & 0o777],
      [lookupUser('nobody').uid, lookupGroup('nogroup'), 0o660],
    );
    const group = add('p2', owner(':nogroup'))!;
    assert.deepEqual([group.uid, group.gid], [0, lookupGroup('nogroup')]);
    assert.equal(Number(group.mode), Number(usual.mode));
    const wrong = add('p3', owner('nobody-at-all'), perm('rw'))!;
    assert.deepEqual([wrong.uid, wrong.gid, wrong.mode], [0, 0, usual.mode]);
    assert.equal(box.vsctl('get', 'Interface', 'p3', 'error').trim(), '[]');
    const log = readFileSync(box.logFile, 'utf8');
    assert.match(
      log,
      /WARN\|other_config:vhost-sock-owner=nobody-at-all: .*user nobody-at-all not found/,
    );
    assert.match(log, /WARN\|other_config:vhost-sock-perm=rw: .*not an octal mode/);
  });
});

/** Collects what a daemon says to a service manager. */
class FakeManager implements Disposable {
  readonly dir = mkdtempSync(join(tmpdir(), 'xv-sd-'));
  readonly socket = join(this.dir, 'notify');
  readonly messages: string[] = [];
  readonly #socat;

  constructor() {
    const words = ['-u', `UNIX-RECV:${this.socket}`, 'STDOUT'];
    this.#socat = spawn('socat', words, { stdio: ['ignore', 'pipe', 'inherit'] });
    this.#socat.stdout.on('data', (data) => this.messages.push(String(data)));
  }

  get text(): string {
    return this.messages.join('\n');
  }

  [Symbol.dispose](): void {
    this.#socat.kill('SIGKILL');
    rmSync(this.dir, { recursive: true, force: true });
  }
}

const count = (text: string, part: string): number => text.split(part).length - 1;
const isZombie = (pid: number): boolean =>
  /^State:\s*Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));

describe('systemd', () => {
  it('hears of readiness, of life while there is life, and of the end', async () => {
    using manager = new FakeManager();
    const { env } = process;
    await new Promise((resolve) => setTimeout(resolve, 300));
    Object.assign(env, { NOTIFY_SOCKET: manager.socket, WATCHDOG_USEC: '400000' });
    try {
      await using box = await Sandbox.start();
      const pid = box.daemonPid;
      await box.until(() => manager.text.includes('READY=1'), 10_000, 'READY=1');
      assert.match(manager.text, new RegExp(`READY=1\\nMAINPID=${pid}\\nSTATUS=switching`));
      const lives = (): number => manager.text.split('WATCHDOG=1').length - 1;
      const before = lives();
      await box.until(() => lives() >= before + 5, 10_000, 'signs of life');
      // A process that stands still gives none.
      process.kill(pid, 'SIGSTOP');
      await new Promise((resolve) => setTimeout(resolve, 300));
      const standing = lives();
      await new Promise((resolve) => setTimeout(resolve, 1000));
      assert.equal(lives(), standing);
      process.kill(pid, 'SIGCONT');
      await box.until(() => lives() > standing, 10_000, 'signs of life again');
      await box.stopDaemon();
      await box.until(() => manager.text.includes('STOPPING=1'), 20_000, 'STOPPING=1');
    } finally {
      delete env.NOTIFY_SOCKET;
      delete env.WATCHDOG_USEC;
    }
  });

  it('keeps its main process in sight when another takes over (ExecReload)', async () => {
    const unit = readFileSync(join(ROOT, 'packaging/systemd/xvio-vswitchd.service'), 'utf8');
    const line = (key: string): string[] =>
      new RegExp(`^${key}=(.*)$`, 'm').exec(unit)![1]!.split(' ');
    const [env, watchdog, ...reload] = line('ExecReload');
    const start = line('ExecStart');
    assert.deepEqual([env, reload], ['/usr/bin/env', [...start, '--take-over', '--detach']]);
    assert.equal(watchdog, `WATCHDOG_USEC=${Number(line('WatchdogSec')[0]) * 1e6}`);

    using manager = new FakeManager();
    await new Promise((resolve) => setTimeout(resolve, 300));
    process.env.NOTIFY_SOCKET = manager.socket;
    try {
      await using box = await Sandbox.start();
      const first = box.daemonPid;
      await box.until(() => manager.text.includes('READY=1'), 10_000, 'READY=1');
      const told = manager.messages.length;
      // As the unit says it, in this sandbox: the command ends when the other daemon serves.
      const words = reload
        .slice(1)
        .map((word) => word.replace(/^unix:.*/, `unix:${box.path('db.sock')}`));
      const command = box.spawn(join(ROOT, 'bin/ovs-vswitchd'), words);
      await box.until(() => command.exitCode !== null, 30_000, 'end of the reload');
      assert.equal(command.exitCode, 0);
      const second = box.daemonPid;
      try {
        assert.notEqual(second, first);
        assert.equal(existsSync(`/proc/${first}`) && !isZombie(first), false);
        assert.match(box.appctl('version'), /ovs-vswitchd/);
        // By the one that ends, and again by the other; no word of an end.
        await box.until(() => count(manager.text, `MAINPID=${second}`) === 2, 10_000, 'MAINPID');
        const said = manager.messages.slice(told).join('\n');
        assert.ok(said.indexOf(`MAINPID=${second}`) < said.indexOf('READY=1'), said);
        assert.ok(!said.includes('STOPPING=1'));
      } finally {
        box.appctl('exit');
      }
      await box.until(() => !existsSync(`/proc/${second}`) || isZombie(second), 10_000, 'end');
    } finally {
      delete process.env.NOTIFY_SOCKET;
    }
  });

  it('is told through abstract sockets, too; without one, or with nonsense, nobody is', async () => {
    const name = `xvio-sd-${process.pid}`;
    const socat = spawn('socat', ['-u', `ABSTRACT-RECV:${name}`, 'STDOUT']);
    let text = '';
    socat.stdout.on('data', (data) => {
      text += data;
    });
    try {
      const end = performance.now() + 10_000;
      while (!text.includes('STATUS=here') && performance.now() < end) {
        sdNotify(['WATCHDOG=1', 'STATUS=here'], `@${name}`);
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      assert.match(text, /^WATCHDOG=1\nSTATUS=here/);
    } finally {
      socat.kill('SIGKILL');
    }
    for (const nowhere of [undefined, '', 'relative', '/nowhere/at/all', `/${'x'.repeat(200)}`]) {
      assert.equal(sdNotify(['READY=1'], nowhere), false);
    }
  });

  it('finds nothing wrong with the unit', () => {
    const dir = mkdtempSync(join(tmpdir(), 'xv-unit-'));
    try {
      const unit = readFileSync(join(ROOT, 'packaging/systemd/xvio-vswitchd.service'), 'utf8');
      const here = join(dir, 'xvio-vswitchd.service');
      writeFileSync(here, unit.replaceAll('/opt/xvio', ROOT));
      const { status, stderr } = spawnSync('systemd-analyze', ['verify', '--man=no', here], {
        encoding: 'utf8',
      });
      // Units of packages that this machine lacks are named, too.
      const ours = stderr.split('\n').filter((line) => line.includes('xvio-vswitchd'));
      assert.deepEqual([ours, status], [[], 0]);
      // A just-in-time compiler writes what it runs.
      assert.doesNotMatch(unit, /^MemoryDenyWriteExecute=(yes|true)/m);
    } finally {
      rmSync(dir, { recursive: true });
    }
  });
});
