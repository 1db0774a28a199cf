// `npm start` as a new user runs it: the embedded database, two guests with traffic, the ordinary tools, Ctrl-C.

import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { ROOT } from './sandbox.ts';

const dir = mkdtempSync(join(tmpdir(), 'xvio-start-'));
const rundir = join(dir, 'run');
const namespace = `xvs${process.pid}`;

interface Started {
  child: ChildProcess;
  text: () => string;
  exited: Promise<number | null>;
}

function start(): Started {
  const args = ['start', '--', '--rundir', rundir, '--db', join(dir, 'conf.db')];
  const child = spawn('ip', ['netns', 'exec', namespace, 'npm', ...args], {
    cwd: ROOT,
    detached: true, // a process group of its own: Ctrl-C goes to the group
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let text = '';
  for (const stream of [child.stdout!, child.stderr!]) {
    stream.on('data', (chunk: Buffer) => {
      text += chunk.toString();
    });
  }
  const exited = new Promise<number | null>((resolve) => child.once('exit', resolve));
  return { child, text: () => text, exited };
}

async function until(
  condition: () => boolean,
  what: () => string,
  timeoutMs = 60000,
): Promise<void> {
  const end = Date.now() + timeoutMs;
  while (!condition()) {
    assert.ok(Date.now() < end, what());
    await sleep(100);
  }
}

const tool = (command: string, ...args: string[]) =>
  spawnSync(command, args, {
    encoding: 'utf8',
    timeout: 20000,
    env: { ...process.env, OVS_RUNDIR: rundir },
  });

async function interrupt(started: Started): Promise<void> {
  process.kill(-started.child.pid!, 'SIGINT');
  await started.exited;
  await until(
    () => !existsSync(rundir),
    () => `left: ${readdirSync(rundir).join(' ')}`,
    10000,
  );
}

let running: Started;

before(async () => {
  spawnSync('ip', ['netns', 'add', namespace]);
  running = start();
  await until(
    () => /vm1 \(1\) .*up +[\d.]+ kpps/.test(running.text()),
    () => running.text(),
  );
});

after(() => {
  try {
    process.kill(-running.child.pid!, 'SIGKILL');
  } catch {
    // ended, as it should
  }
  spawnSync('ip', ['netns', 'delete', namespace]);
  rmSync(dir, { recursive: true, force: true });
});

test('two guests exchange traffic', () => {
  assert.match(running.text(), /vm1 \(1\) +dpdkvhostuserclient +up +[\d.]+ kpps/);
  assert.match(running.text(), /vm2 \(2\) +dpdkvhostuser +up +[\d.]+ kpps/);
});

test('the ordinary tools work, without further arguments', () => {
  const show = tool('ovs-vsctl', 'show');
  assert.equal(show.status, 0, show.stderr);
  assert.match(show.stdout, /Bridge br0/);
  assert.match(tool('ovs-ofctl', 'dump-flows', 'br0').stdout, /priority=0 actions=NORMAL/);
  assert.match(tool('ovs-appctl', 'version').stdout, /^ovs-vswitchd \(Open vSwitch\)/);
  assert.match(tool('ovs-appctl', 'dpctl/dump-flows').stdout, /in_port\(\d+\).*packets:\d+/);
  assert.equal(tool('ovs-vsctl', 'set', 'bridge', 'br0', 'other_config:kept=yes').status, 0);
});

test('a flow that drops stops the traffic, and the table names the reason', async () => {
  assert.equal(
    tool('ovs-ofctl', 'add-flow', 'br0', 'priority=9,in_port=vm1,actions=drop').status,
    0,
  );
  await until(
    () => /vm1: flow_drop/.test(running.text()),
    () => running.text(),
    10000,
  );
});

test('Ctrl-C leaves nothing but the database; the next start knows the configuration', async () => {
  await interrupt(running);
  running = start();
  await until(
    () => existsSync(join(rundir, 'db.sock')),
    () => running.text(),
  );
  assert.equal(tool('ovs-vsctl', 'get', 'bridge', 'br0', 'other_config:kept').stdout.trim(), 'yes');
  await interrupt(running);
});
