// The process contract of ovs-vswitchd: what scripts, ovs-ctl and ovs-appctl see of the daemon.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { ROOT, Sandbox } from './sandbox.ts';

const DAEMON = join(ROOT, 'bin', 'ovs-vswitchd');

const daemon = (...args: string[]) => spawnSync(DAEMON, args, { encoding: 'utf8', timeout: 20000 });

test('version and help', () => {
  assert.equal(daemon('-V').stdout, 'ovs-vswitchd (Open vSwitch) 3.1.0\n');
  const help = daemon('--help');
  assert.equal(help.status, 0);
  assert.match(help.stdout, /usage: ovs-vswitchd \[OPTIONS\] \[DATABASE\]/);
});

test('bad command lines', () => {
  const fails = (text: RegExp, ...args: string[]): void => {
    const r = daemon(...args);
    assert.equal(r.status, 1);
    assert.match(r.stderr, text);
  };
  fails(/unrecognized option '--foo'/, '--foo');
  fails(/at most one non-option argument accepted; use --help for usage/, 'a', 'b');
  fails(/processing "foo:bar": no destination, level, or module "foo"/, '-vfoo:bar');
  fails(/--dpdk option to ovs-vswitchd is removed/, '--dpdk');
});

test('pid file, lock, control socket, log', async () => {
  await using box = await Sandbox.start();
  assert.equal(box.appctl('version'), 'ovs-vswitchd (Open vSwitch) 3.1.0\n');
  const pid = box.daemonPid;
  assert.equal(readFileSync(`/proc/${pid}/comm`, 'utf8').trim(), 'ovs-vswitchd');
  assert.equal(statSync(box.path(`ovs-vswitchd.${pid}.ctl`)).mode & 0o777, 0o750);
  assert.match(
    readFileSync(box.logFile, 'utf8'),
    /^\d{4}-\d\d-\d\dT[\d:.]+Z\|00001\|vlog\|INFO\|opened log file/,
  );

  const second = box.run(DAEMON, `unix:${box.path('db.sock')}`, '--pidfile');
  assert.equal(second.status, 1);
  assert.match(second.stderr, new RegExp(`already running as pid ${pid}, aborting`));

  const unknown = box.run('ovs-appctl', 'foo');
  assert.equal(unknown.status, 2);
  assert.match(
    unknown.stderr,
    /^"foo" is not a valid command \(use "list-commands" to see a list of valid commands\)/,
  );
  assert.match(
    box.run('ovs-appctl', 'version', 'x').stderr,
    /"version" command takes at most 0 arguments/,
  );
  assert.match(
    box.appctl('list-commands'),
    /^ {2}vlog\/set {15} \{spec \| PATTERN:destination:pattern\}$/m,
  );
});

test('logging commands', async () => {
  await using box = await Sandbox.start();
  box.appctl('vlog/set', 'connmgr:file:dbg');
  assert.match(box.appctl('vlog/list'), /^connmgr +OFF +INFO +DBG$/m);
  assert.match(
    box.run('ovs-appctl', 'vlog/set', 'nonsense').stderr,
    /no destination, level, or module "nonsense"/,
  );
  const size = statSync(box.logFile).size;
  assert.equal(spawnSync('mv', [box.logFile, `${box.logFile}.1`]).status, 0);
  box.appctl('vlog/reopen');
  assert.ok(existsSync(box.logFile));
  assert.ok(statSync(`${box.logFile}.1`).size >= size);
});

test('exit answers and leaves no files; taps stay, except with --cleanup', async () => {
  await using box = await Sandbox.start();
  box.vsctl('add-br', 'br0', '--', 'set', 'bridge', 'br0', 'datapath_type=netdev');
  const files = (): string[] =>
    readdirSync(box.dir).filter((f) => /vswitchd.*(pid|ctl)$|\.(mgmt|snoop)$/.test(f));
  assert.ok(files().length >= 4, files().join());
  box.appctl('exit');
  await box.until(() => files().length === 0, 20_000, 'clean run directory');
  assert.equal(box.run('ip', 'link', 'show', 'br0').status, 0);
  await sleep(200);
  await box.startDaemon();
  await box.until(() => existsSync(box.path('br0.mgmt')), 20_000, 'bridge');
  box.appctl('exit', '--cleanup');
  await box.until(() => files().length === 0, 20_000, 'clean run directory');
  assert.notEqual(box.run('ip', 'link', 'show', 'br0').status, 0);
});

test('SIGTERM removes the files, too', async () => {
  await using box = await Sandbox.start();
  await box.stopDaemon('SIGTERM');
  assert.deepEqual(
    readdirSync(box.dir).filter((f) => f.startsWith('ovs-vswitchd') && !f.endsWith('.log')),
    [],
  );
});

/** Starts a monitored daemon in the place of the sandbox's own, and crashes it once; resolves when the next one serves. */
async function crashed(box: Sandbox): Promise<void> {
  await box.stopDaemon();
  box.vsctl('--no-wait', 'add-br', 'br9', '--', 'set', 'bridge', 'br9', 'datapath_type=netdev');
  const r = box.run(
    DAEMON,
    ...[
      `unix:${box.path('db.sock')}`,
      '--pidfile',
      '--detach',
      '--monitor',
      '--no-chdir',
      '--log-file',
      '-vconsole:off',
    ],
  );
  assert.equal(r.status, 0, r.stderr);
  assert.equal(box.vsctl('--no-wait', 'get', 'interface', 'br9', 'ofport').trim(), '65534');
  const first = box.daemonPid;
  process.kill(first, 'SIGSEGV');
  await box.until(
    () =>
      existsSync(box.path('ovs-vswitchd.pid')) &&
      box.daemonPid !== first &&
      box.run('ovs-appctl', 'version').status === 0,
    15000,
    'second daemon',
  );
}

test('--detach returns when the configuration is in force; --monitor starts a crashed daemon again', async () => {
  await using box = await Sandbox.start();
  await crashed(box);
  box.appctl('exit', '--cleanup');
  await box.until(() => !existsSync(box.path('ovs-vswitchd.pid')), 20_000, 'end');
});

test('a monitor that waits before it starts the next daemon can be ended', async () => {
  await using box = await Sandbox.start();
  await crashed(box);
  const pid = box.daemonPid;
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const monitor = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]);
  // So soon after the first crash it does wait.
  process.kill(pid, 'SIGSEGV');
  await box.until(() => !existsSync(`/proc/${pid}`), 20_000, 'end of the second daemon');
  process.kill(monitor, 'SIGTERM');
  await box.until(() => !existsSync(`/proc/${monitor}`), 20_000, 'end of the monitor');
});

test('--user gives up root but keeps what devices need', async () => {
  await using box = await Sandbox.start();
  await box.stopDaemon();
  // Once more if a file goes while it walks.
  let owner = spawnSync('chown', ['-R', 'nobody:nogroup', box.dir], { encoding: 'utf8' });
  if (owner.status !== 0) {
    owner = spawnSync('chown', ['-R', 'nobody:nogroup', box.dir], { encoding: 'utf8' });
  }
  assert.equal(owner.status, 0, owner.stderr);
  const child = box.spawn(DAEMON, [
    ...[`unix:${box.path('db.sock')}`, '--pidfile', '--user=nobody:nogroup', '--log-file'],
    '-vconsole:off',
  ]);
  try {
    const running = () => child.exitCode === null && child.signalCode === null;
    await box.until(
      () => !running() || existsSync(box.path('ovs-vswitchd.pid')),
      30_000,
      'pid file',
    );
    assert.ok(running(), `the daemon ended: ${child.exitCode}\n${box.logTail()}`);
    const status = () => readFileSync(`/proc/${child.pid}/status`, 'utf8');
    await box.until(
      () => !running() || /^Uid:\t65534\t65534/m.test(status()),
      30_000,
      'change of user',
    );
    assert.ok(running(), `the daemon ended: ${child.exitCode}\n${box.logTail()}`);
    box.vsctl('add-br', 'br0', '--', 'set', 'bridge', 'br0', 'datapath_type=netdev');
    const columns = box.vsctl('get', 'interface', 'br0', 'ofport', 'error').trim();
    assert.equal(columns, '65534\n[]', box.logTail());
  } finally {
    child.kill('SIGTERM');
  }
  const bad = daemon('--user=nonesuch', '-vconsole:off', '--unixctl=none');
  assert.equal(bad.status, 1);
  assert.match(bad.stderr, /user nonesuch not found/);
});

test('a second vswitchd on the same database stands by until the first is gone', async () => {
  await using box = await Sandbox.start();
  box.vsctl('add-br', 'br0', '--', 'set', 'bridge', 'br0', 'datapath_type=netdev');
  const other = box.spawn(DAEMON, [
    ...[`unix:${box.path('db.sock')}`, `--unixctl=${box.path('second.ctl')}`],
    ...[`--log-file=${box.path('second.log')}`, '-vconsole:off'],
  ]);
  try {
    await box.until(
      () =>
        existsSync(box.path('second.log')) &&
        /another ovs-vswitchd process is running/.test(
          readFileSync(box.path('second.log'), 'utf8'),
        ),
      10000,
      'notice of the lock',
    );
    await box.stopDaemon();
    await box.until(
      () => /added interface br0/.test(readFileSync(box.path('second.log'), 'utf8')),
      10000,
      'take-over',
    );
    box.vsctl('add-br', 'br1', '--', 'set', 'bridge', 'br1', 'datapath_type=netdev');
  } finally {
    other.kill('SIGTERM');
  }
});

test('columns of a bridge without effect, and bad names, are told once, not with every change', async () => {
  await using box = await Sandbox.start();
  const bridge = ['add-br', 'br0', '--', 'set', 'bridge', 'br0', 'datapath_type=netdev'];
  const autoAttach = ['--', '--id=@a', 'create', 'AutoAttach', 'system_name=x'];
  box.vsctl(...bridge, 'auto_attach=@a', ...autoAttach);
  box.vsctl('--no-wait', 'add-br', 'a/b');
  for (let i = 0; i < 20; i++) box.vsctl('set', 'bridge', 'br0', `other_config:x=${i}`);
  const count = (text: string): number =>
    readFileSync(box.logFile, 'utf8').split(`|${text}`).length - 1;
  assert.equal(count('bridge br0: auto_attach is not supported, and has no effect'), 1);
  assert.equal(count('bridge br0: stp_enable'), 0);
  assert.equal(count('ignoring bridge with invalid name "a/b"'), 5);
  box.vsctl('clear', 'bridge', 'br0', 'auto_attach');
  box.vsctl('set', 'bridge', 'br0', 'auto_attach=@a', ...autoAttach);
  assert.equal(count('bridge br0: auto_attach is not supported, and has no effect'), 2);
});
