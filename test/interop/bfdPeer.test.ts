// BFD with an implementation that has nothing in common with Open vSwitch's: FRRouting's bfdd (RFC 5880, RFC 5881), in a
// namespace of its own behind a veth. What the two agree on, what each shows of the other, and what a failover group makes
// of it.

import assert from 'node:assert/strict';
import type { ChildProcess } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { Sandbox } from './sandbox.ts';

const WAIT_MS = 60_000;
const FRR = '/usr/lib/frr';
const OURS = '10.44.0.1';
const PEER = '10.44.0.2';
const PEER_MAC = '02:00:00:00:00:02';
/** Where Open vSwitch's BFD packets come from and where it wants its peer's. */
const BFD_MAC = '00:23:20:00:00:01';

interface BfdPeer {
  status: string;
  diagnostic: string;
  'remote-diagnostic': string;
  'remote-transmit-interval': number;
  'remote-receive-interval': number;
  'remote-detect-multiplier': number;
}

let box: Sandbox;
let namespace: string;
let dir: string;
let zebra: ChildProcess;
let bfdd: ChildProcess;

function startFrr(name: 'zebra' | 'bfdd', ...args: string[]): ChildProcess {
  return box.spawn('ip', [
    ...['netns', 'exec', namespace, `${FRR}/${name}`, '-z', `${dir}/zserv`],
    ...['--vty_socket', dir, '-i', `${dir}/${name}.pid`, '-f', `${dir}/${name}.conf`, ...args],
  ]);
}

async function startBfdd(): Promise<void> {
  rmSync(`${dir}/bfdd.vty`, { force: true });
  bfdd = startFrr('bfdd', '--bfdctl', `${dir}/bfdd.sock`);
  await box.until(() => existsSync(`${dir}/bfdd.vty`), WAIT_MS, 'bfdd');
}

/** Ends one of FRR's daemons, which does not say goodbye to its peers. */
async function kill(daemon: ChildProcess): Promise<void> {
  if (daemon.exitCode !== null || daemon.signalCode !== null) return;
  const gone = new Promise((resolve) => daemon.once('exit', resolve));
  daemon.kill('SIGKILL');
  await gone;
}

const vtysh = (...commands: string[]): string =>
  box.must('vtysh', '--vty_socket', dir, '-d', 'bfdd', ...commands.flatMap((text) => ['-c', text]));

/** Settings of the session, while it runs. */
function configure(...lines: string[]): void {
  const session = `peer ${OURS} local-address ${PEER} interface v0`;
  vtysh('configure terminal', 'bfd', session, ...lines);
}

const theirs = (): BfdPeer =>
  (JSON.parse(vtysh('show bfd peers json')) as [BfdPeer | undefined])[0] ??
  ({ status: 'none' } as BfdPeer);

const ours = (key: string): string =>
  box
    .vsctl('--if-exists', 'get', 'Interface', 'v0', `bfd_status:${key}`)
    .trim()
    .replaceAll('"', '');

const shown = (label: string): string =>
  new RegExp(`^ *${label}: (.*)$`, 'm').exec(box.appctl('bfd/show', 'v0'))?.[1] ?? '';

/** Datapath actions of a packet that the failover group gets. */
const failover = (): string =>
  /Datapath actions: (.*)/.exec(box.appctl('ofproto/trace', 'br0', 'in_port=LOCAL'))?.[1] ?? '';

const dpPort = (name: string): string =>
  new RegExp(`^ +${name} \\d+/(\\d+):`, 'm').exec(box.appctl('dpif/show'))?.[1] ?? '';

const bothUp = (): boolean => ours('state') === 'up' && theirs().status === 'up';

before(async () => {
  box = await Sandbox.start({ daemon: 'xvio' });
  namespace = box.addNamespace('f');
  dir = box.path('frr');
  mkdirSync(dir);
  chmodSync(box.dir, 0o755); // FRR's daemons run as a user of their own
  box.must('chown', 'frr:frr', dir);
  box.must('ip', 'link', 'add', 'v0', 'type', 'veth', 'peer', 'name', 'v0', 'netns', namespace);
  box.must('ip', 'link', 'set', 'v0', 'up');
  const peer = (...args: string[]) => box.must('ip', '-n', namespace, ...args);
  peer('link', 'set', 'v0', 'up', 'address', PEER_MAC);
  peer('addr', 'add', `${PEER}/24`, 'dev', 'v0');
  peer('neigh', 'replace', OURS, 'lladdr', BFD_MAC, 'dev', 'v0', 'nud', 'permanent');
  box.must('ip', 'netns', 'exec', namespace, 'ethtool', '-K', 'v0', 'tx', 'off');
  writeFileSync(`${dir}/zebra.conf`, '');
  writeFileSync(
    `${dir}/bfdd.conf`,
    `bfd\n peer ${OURS} local-address ${PEER} interface v0\n  transmit-interval 300\n` +
      '  receive-interval 400\n  detect-multiplier 4\n  no shutdown\n',
  );
  zebra = startFrr('zebra');
  await box.until(() => existsSync(`${dir}/zserv`), WAIT_MS, 'zebra');
  await startBfdd();
  box.vsctl(
    ...['add-br', 'br0', '--', 'set', 'bridge', 'br0', 'datapath_type=netdev'],
    ...['--', 'add-port', 'br0', 'v0', '--', 'set', 'Interface', 'v0', 'ofport_request=1'],
    ...['bfd:enable=true', `bfd:bfd_src_ip=${OURS}`, `bfd:bfd_dst_ip=${PEER}`],
    ...[`bfd:bfd_local_dst_mac=${PEER_MAC}`, 'bfd:min_rx=200', 'bfd:min_tx=250'],
    ...['--', 'add-port', 'br0', 'w0'],
    ...['--', 'set', 'Interface', 'w0', 'type=internal', 'ofport_request=2'],
  );
  box.must('ip', 'link', 'set', 'w0', 'up');
  const buckets = 'bucket=watch_port:1,output:1,bucket=watch_port:2,output:2';
  box.ofctl('-O', 'OpenFlow13', 'add-group', 'br0', `group_id=1,type=ff,${buckets}`);
  box.ofctl('-O', 'OpenFlow13', 'add-flow', 'br0', 'priority=9,in_port=LOCAL,actions=group:1');
});

after(async () => {
  for (const daemon of [bfdd, zebra]) if (daemon !== undefined) await kill(daemon);
  await box?.stop();
});

test('up: each sends as often as the slower of the two wants, and shows the other', async () => {
  await box.until(bothUp, WAIT_MS, 'session');
  // We: tx max(250, 400), rx max(200, 300); they give up after three of ours, we after four of theirs.
  await box.until(() => shown('TX Interval') === 'Approx 400ms', WAIT_MS, 'agreement');
  assert.equal(shown('RX Interval'), 'Approx 300ms');
  assert.equal(shown('Remote Detect Multiplier'), '4');
  assert.equal(shown('Remote Minimum TX Interval'), '300ms');
  assert.equal(shown('Remote Minimum RX Interval'), '400ms');
  const peer = theirs();
  assert.equal(peer['remote-transmit-interval'], 250);
  assert.equal(peer['remote-receive-interval'], 200);
  assert.equal(peer['remote-detect-multiplier'], 3);
  assert.equal(ours('flap_count'), '1');
  assert.equal(ours('forwarding'), 'true');
  assert.equal(failover(), dpPort('v0'));
});

test('intervals change in a running session by polls, from either side, and nothing flaps', async () => {
  configure('transmit-interval 500', 'receive-interval 600');
  await box.until(() => shown('TX Interval') === 'Approx 600ms', WAIT_MS, 'their new interval');
  await box.until(() => shown('RX Interval') === 'Approx 500ms', WAIT_MS, 'their new interval');
  box.vsctl('set', 'Interface', 'v0', 'bfd:min_rx=700', 'bfd:min_tx=800', 'bfd:mult=5');
  await box.until(
    () => {
      const peer = theirs();
      return (
        peer['remote-receive-interval'] === 700 &&
        peer['remote-transmit-interval'] === 800 &&
        peer['remote-detect-multiplier'] === 5
      );
    },
    WAIT_MS,
    'our new intervals',
  );
  assert.ok(bothUp());
  assert.equal(ours('flap_count'), '1');
  box.vsctl('set', 'Interface', 'v0', 'bfd:min_rx=200', 'bfd:min_tx=250', 'bfd:mult=3');
  configure('transmit-interval 300', 'receive-interval 400');
  await box.until(() => shown('TX Interval') === 'Approx 400ms', WAIT_MS, 'the first intervals');
});

test('cpath_down is a diagnostic that the peer shows, and no end of the session', async () => {
  box.vsctl('set', 'Interface', 'v0', 'bfd:cpath_down=true');
  const diagnostic = (): string => theirs()['remote-diagnostic'];
  await box.until(() => /concatenated path down/i.test(diagnostic()), WAIT_MS, 'the diagnostic');
  assert.ok(bothUp());
  box.vsctl('remove', 'Interface', 'v0', 'bfd', 'cpath_down');
  await box.until(() => diagnostic() === 'ok', WAIT_MS, 'end of the diagnostic');
});

test('the peer is shut down by its operator: the group fails over, and back', async () => {
  configure('shutdown');
  await box.until(() => ours('state') === 'down', WAIT_MS, 'down');
  // bfdd goes on to "down" at once.
  assert.match(ours('remote_state'), /^(admin_)?down$/);
  assert.equal(ours('diagnostic'), 'Neighbor Signaled Session Down');
  assert.equal(ours('forwarding'), 'false');
  assert.equal(failover(), dpPort('w0'));
  configure('no shutdown');
  await box.until(bothUp, WAIT_MS, 'session');
  await box.until(() => failover() === dpPort('v0'), WAIT_MS, 'the way back');
  assert.equal(ours('flap_count'), '3');
});

test('the peer dies: noticed by its silence; the next one starts anew', async () => {
  await kill(bfdd);
  await box.until(() => ours('state') === 'down', WAIT_MS, 'down');
  assert.equal(ours('diagnostic'), 'Control Detection Time Expired');
  await box.until(() => failover() === dpPort('w0'), WAIT_MS, 'the other bucket');
  await startBfdd();
  await box.until(bothUp, WAIT_MS, 'session');
  await box.until(() => ours('flap_count') === '5', WAIT_MS, 'count of changes');
  await box.until(() => failover() === dpPort('v0'), WAIT_MS, 'the way back');
});

test('we leave: the peer is told', async () => {
  box.vsctl('clear', 'Interface', 'v0', 'bfd');
  await box.until(() => theirs().status === 'down', WAIT_MS, 'down there');
  assert.equal(box.vsctl('get', 'Interface', 'v0', 'bfd_status').trim(), '{}');
  await box.until(() => failover() === dpPort('v0'), WAIT_MS, 'a port without BFD');
});
