// In-band control beside the real daemon: the same hidden flows for the same controllers, and a bridge in secure mode whose
// controller is reached through the bridge itself gets its connection without a flow of anybody else.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Sandbox } from './sandbox.ts';

const WAIT_MS = 30_000;
/** Says hello in OpenFlow 1.0, and adds no flow. */
const CONTROLLER = `require('node:net').createServer((socket) => {
  socket.on('error', () => {}).resume().write(Buffer.from('0100000800000001', 'hex'));
}).listen(6653)`;

/** Flows with their priorities, without counters. */
function hidden(box: Sandbox): string[] {
  const lines = box.appctl('bridge/dump-flows', 'br0').split('\n');
  const flows = lines.filter((line) => line.includes('priority=1800'));
  return flows.map((line) => line.replace(/^.*(?=priority=)/, '')).sort();
}

function configure(box: Sandbox): void {
  box.vsctl(
    ...['add-br', 'br0', '--', 'set', 'bridge', 'br0', 'datapath_type=netdev', 'fail_mode=secure'],
    ...['other_config:hwaddr=02:00:00:00:00:01', '--'],
    ...['set-controller', 'br0', 'tcp:10.9.0.1:6654', 'ssl:10.9.0.2', 'ptcp:0:127.0.0.1', '--'],
    ...['set-manager', 'tcp:10.9.0.3'],
  );
  box.must('ip', 'addr', 'add', '10.9.0.9/24', 'dev', 'br0');
  box.must('ip', 'link', 'set', 'br0', 'up');
  const neighbour = ['10.9.0.1', 'lladdr', '02:00:00:00:00:aa', 'dev', 'br0'];
  box.must('ip', 'neigh', 'replace', ...neighbour, 'nud', 'permanent');
}

test('hidden flows as those of the real daemon: controllers, managers, queue, and off', async () => {
  await using real = await Sandbox.start({ daemon: 'real' });
  await using ours = await Sandbox.start();
  for (const box of [real, ours]) configure(box);
  const same = async (count: number, what: string): Promise<void> => {
    const ready = (): boolean => hidden(real).length === count && hidden(ours).length === count;
    await ours.until(
      ready,
      WAIT_MS,
      `${what}: ${hidden(real).join('\n')}\n--\n${hidden(ours).join('\n')}`,
    );
    assert.deepEqual(hidden(ours), hidden(real), what);
  };
  // Three for the local port, two for the next hop that is known, four for each of three remotes.
  await same(17, 'all');
  for (const box of [real, ours]) box.vsctl('set', 'bridge', 'br0', 'other_config:in-band-queue=7');
  await ours.until(
    () => hidden(ours).every((f) => f.includes('set_queue:7')),
    WAIT_MS,
    'the queue',
  );
  await same(17, 'queue');
  assert.equal(
    ours.ofctl('dump-flows', 'br0').split('\n').length,
    real.ofctl('dump-flows', 'br0').split('\n').length,
  );
  for (const box of [real, ours]) {
    const find = ['--bare', '--columns=_uuid', 'find', 'controller'];
    const row = box.vsctl(...find, 'target="tcp:10.9.0.1:6654"').trim();
    box.vsctl('set', 'controller', row, 'connection_mode=out-of-band');
  }
  await same(11, 'one controller out of band');
  for (const box of [real, ours]) {
    box.vsctl('set', 'bridge', 'br0', 'other_config:disable-in-band=true');
  }
  await same(0, 'disabled');
});

test('a controller behind the bridge is reached in secure mode, without any flow', async () => {
  await using box = await Sandbox.start();
  const ns = box.addNamespace('c');
  const peer = ['type', 'veth', 'peer', 'name', 'eth0', 'netns', ns];
  box.must('ip', 'link', 'add', 'c0', ...peer);
  box.must('ip', 'link', 'set', 'c0', 'up');
  for (const args of [
    ['link', 'set', 'eth0', 'up'],
    ['addr', 'add', '10.9.1.1/24', 'dev', 'eth0'],
  ]) {
    box.must('ip', '-n', ns, ...args);
  }
  box.vsctl(
    ...['add-br', 'br0', '--', 'set', 'bridge', 'br0', 'datapath_type=netdev', 'fail_mode=secure'],
    ...['--', 'add-port', 'br0', 'c0'],
  );
  box.must('ip', 'addr', 'add', '10.9.1.9/24', 'dev', 'br0');
  box.must('ip', 'link', 'set', 'br0', 'up');
  const ping = (): number => box.run('ping', '-c', '1', '-W', '1', '10.9.1.1').status;
  assert.notEqual(ping(), 0);
  const controller = box.spawn('ip', ['netns', 'exec', ns, process.execPath, '-e', CONTROLLER]);
  try {
    box.vsctl('set-controller', 'br0', 'tcp:10.9.1.1:6653');
    const connected = (): boolean =>
      box.vsctl('get', 'controller', 'br0', 'is_connected').trim() === 'true';
    await box.until(connected, WAIT_MS, 'connection to the controller');
    box.vsctl('set', 'controller', 'br0', 'connection_mode=out-of-band');
    await box.until(() => hidden(box).length === 0, WAIT_MS, 'end of in-band control');
  } finally {
    controller.kill('SIGKILL');
  }
});
