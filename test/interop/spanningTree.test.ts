// A real ovs-vswitchd and ours, joined by two links: a loop, which STP on one pair of bridges and RSTP on another have to
// cut and, when a link goes, to heal. Root is the real daemon in one pair and ours in the other, so each has to agree with
// the other's idea of the tree. Both pairs at the same time: STP takes its time.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { test } from 'node:test';
import { Sandbox } from './sandbox.ts';

const WAIT_MS = 60_000;

interface Pair {
  bridge: string;
  protocol: 'stp' | 'rstp';
  /** Names of the links. */
  links: readonly [string, string];
  address: string;
}

const STP: Pair = { bridge: 'br-s', protocol: 'stp', links: ['s1', 's2'], address: '10.77.1' };
const RSTP: Pair = { bridge: 'br-r', protocol: 'rstp', links: ['r1', 'r2'], address: '10.77.2' };

function connect(real: Sandbox, ours: Sandbox, { links }: Pair): void {
  for (const link of links) {
    const [a, b] = [real.namespace!, ours.namespace!];
    const peer = ['type', 'veth', 'peer', 'name', link, 'netns', b];
    execFileSync('ip', ['link', 'add', link, 'netns', a, ...peer]);
    for (const ns of [a, b]) execFileSync('ip', ['-n', ns, 'link', 'set', link, 'up']);
  }
}

/** `priority`: the lower one becomes the root. */
function addBridge(box: Sandbox, pair: Pair, priority: number, host: number): void {
  const { bridge, protocol, links, address } = pair;
  const times = protocol === 'stp' ? ['stp-hello-time=1', 'stp-max-age=6'] : ['rstp-max-age=6'];
  box.vsctl(
    ...['add-br', bridge, '--', 'set', 'bridge', bridge, 'datapath_type=netdev'],
    ...[`${protocol}_enable=true`, `other_config:${protocol}-priority=${priority}`],
    ...[...times, `${protocol}-forward-delay=4`].map((text) => `other_config:${text}`),
    ...links.flatMap((link, i) => [
      ...['--', 'add-port', bridge, link],
      ...['--', 'set', 'port', link, `other_config:${protocol}-port-num=${i + 1}`],
    ]),
  );
  box.must('ip', 'addr', 'add', `${address}.${host}/24`, 'dev', bridge);
  box.must('ip', 'link', 'set', bridge, 'up');
}

/** "root forwarding" by link, as the table of stp/show and rstp/show has it. */
function portsOf(box: Sandbox, { bridge, protocol, links }: Pair): Record<string, string> {
  const lines = box.appctl(`${protocol}/show`, bridge).split('\n');
  const words = lines.map((line) => line.trim().split(/\s+/));
  return Object.fromEntries(
    words
      .filter(([name]) => links.includes(name!))
      .map(([name, role, state]) => [name, `${role} ${state}`.toLowerCase()]),
  );
}

async function settles(
  box: Sandbox,
  pair: Pair,
  wanted: Record<string, string>,
  what: string,
): Promise<void> {
  const isSo = (): boolean => {
    try {
      assert.deepEqual(portsOf(box, pair), wanted);
      return true;
    } catch {
      return false;
    }
  };
  await box.until(isSo, WAIT_MS, `${what}: ${JSON.stringify(portsOf(box, pair))}`);
}

const up = (a: string, b: string): Record<string, string> => ({
  [a]: 'designated forwarding',
  [b]: 'designated forwarding',
});

function rootId(box: Sandbox, { bridge, protocol }: Pair): string {
  const [column, key] =
    protocol === 'stp' ? ['status', 'stp_designated_root'] : ['rstp_status', 'rstp_root_id'];
  return box.vsctl('get', 'bridge', bridge, `${column}:${key}`).trim();
}

test('a loop of links between the real daemon and ours is cut and heals, with STP and with RSTP', async () => {
  await using real = await Sandbox.start({ daemon: 'real' });
  await using ours = await Sandbox.start();
  for (const pair of [STP, RSTP]) connect(real, ours, pair);
  addBridge(real, STP, 4096, 1);
  addBridge(ours, STP, 8192, 2);
  addBridge(real, RSTP, 8192, 1);
  addBridge(ours, RSTP, 4096, 2);

  // RSTP: ours is the root, the real daemon keeps the second link closed.
  await settles(ours, RSTP, up('r1', 'r2'), 'RSTP, root');
  await settles(real, RSTP, { r1: 'root forwarding', r2: 'alternate discarding' }, 'RSTP, real');
  // STP: the real daemon is the root.
  await settles(ours, STP, { s1: 'root forwarding', s2: 'alternate blocking' }, 'STP, ours');
  await settles(real, STP, up('s1', 's2'), 'STP, root');
  for (const pair of [STP, RSTP]) {
    await ours.until(() => rootId(ours, pair) === rootId(real, pair), WAIT_MS, 'the same root');
    // Six packets there and back, and none of them twice.
    const ping = real.must('ping', '-c', '3', '-i', '0.2', '-W', '5', `${pair.address}.2`);
    assert.match(ping, /3 received/);
    assert.doesNotMatch(ping, /DUP|duplicates/);
  }
  const show = (box: Sandbox, link: string): string =>
    /state: +(.*)/.exec(box.ofctl('show', STP.bridge).split(`(${link})`)[1]!)![1]!;
  assert.equal(show(ours, 's1'), show(real, 's1'));
  assert.equal(show(ours, 's1'), 'STP_FORWARD');
  assert.equal(show(ours, 's2'), 'STP_BLOCK');
  const status = (box: Sandbox, pair: Pair, link: string): string =>
    box.vsctl('get', 'port', link, pair === STP ? 'status' : 'rstp_status');
  assert.match(
    status(ours, STP, 's2'),
    /stp_port_id="32770".*stp_role=alternate.*stp_state=blocking/,
  );
  assert.match(status(ours, RSTP, 'r1'), /rstp_port_role=Designated.*rstp_port_state=Forwarding/);

  // The links in use go down.
  for (const link of ['s1', 'r1']) real.must('ip', 'link', 'set', link, 'down');
  await settles(real, RSTP, { r1: 'disabled discarding', r2: 'root forwarding' }, 'RSTP heals');
  await settles(ours, STP, { s2: 'root forwarding' }, 'STP heals');
  for (const { address } of [STP, RSTP]) {
    // Until both have forgotten the way over the link that is gone.
    const arrives = () => real.run('ping', '-c', '1', '-W', '1', `${address}.2`).status === 0;
    await real.until(arrives, WAIT_MS, 'packets over the other link');
    const ping = real.must('ping', '-c', '3', '-i', '0.2', '-W', '5', `${address}.2`);
    assert.match(ping, /3 received/);
    assert.doesNotMatch(ping, /DUP|duplicates/);
  }
});
