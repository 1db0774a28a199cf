// BFD, CFM and LACP against the real ovs-vswitchd over veth pairs, and the kernel's routes beside the real daemon's view.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { Sandbox } from './sandbox.ts';

const WAIT_MS = 60_000;

let real: Sandbox;
let ours: Sandbox;

const ip = (...args: string[]): string => execFileSync('ip', args, { encoding: 'utf8' });

/** Waits until a command of both says what it should. */
async function until(what: string, condition: () => boolean): Promise<void> {
  await ours.until(condition, WAIT_MS, what);
}

const column = (box: Sandbox, name: string, columns: string): string =>
  box.vsctl('--bare', `--columns=${columns}`, 'list', 'Interface', name).trim();

before(async () => {
  [real, ours] = await Promise.all(
    (['real', 'xvio'] as const).map((daemon) => Sandbox.start({ daemon })),
  );
  for (const name of ['v0', 'v1']) {
    const ends = [real.namespace!, ours.namespace!];
    ip(
      'link',
      'add',
      name,
      'netns',
      ends[0]!,
      'type',
      'veth',
      'peer',
      'name',
      name,
      'netns',
      ends[1]!,
    );
    // The hosts' own stacks must not answer ARP on the bonds' members.
    for (const namespace of ends) ip('-n', namespace, 'link', 'set', name, 'up', 'arp', 'off');
  }
  for (const box of [real, ours]) {
    box.vsctl('add-br', 'br0', '--', 'set', 'bridge', 'br0', 'datapath_type=netdev');
  }
});

after(async () => {
  await Promise.all([real?.stop(), ours?.stop()]);
});

test('BFD: both see each other up, and ours notices when the peer stops', async () => {
  for (const box of [real, ours]) {
    const bfd = ['bfd:enable=true', 'bfd:min_rx=500', 'bfd:min_tx=200'];
    box.vsctl('add-port', 'br0', 'v0', '--', 'set', 'Interface', 'v0', ...bfd);
  }
  const bfd = (box: Sandbox, key: string): string =>
    box.vsctl('--if-exists', 'get', 'Interface', 'v0', `bfd_status:${key}`).trim();
  const isUp = (box: Sandbox): boolean =>
    bfd(box, 'state') === 'up' && bfd(box, 'remote_state') === 'up';
  await until('both up', () => isUp(real) && isUp(ours));
  for (const box of [real, ours]) assert.equal(bfd(box, 'forwarding'), '"true"');
  const shape = (box: Sandbox): string =>
    box
      .appctl('bfd/show', 'v0')
      .replace(/now [+-]\d+ms/g, 'now')
      .replace(/0x[0-9a-f]+/g, '0x');
  await until('the same words', () => shape(ours) === shape(real));
  const flows = ours.appctl('dpctl/dump-flows');
  assert.match(flows, /actions:userspace\(pid=0,slow_path\(bfd\)\)/);
  const isLive = (): boolean =>
    / 1\(v0\):[\s\S]*?state: +LIVE/.test(ours.ofctl('-O', 'OpenFlow13', 'dump-ports-desc', 'br0'));
  assert.ok(isLive());

  real.vsctl('set', 'Interface', 'v0', 'bfd:enable=false');
  await until('the peer is missed', () => bfd(ours, 'state') === 'down');
  assert.equal(bfd(ours, 'diagnostic'), '"Control Detection Time Expired"');
  assert.ok(!isLive());
  assert.equal(ours.vsctl('get', 'Interface', 'v0', 'link_state').trim(), 'up');
  ours.vsctl('clear', 'Interface', 'v0', 'bfd');
  await until('nothing is left', () => column(ours, 'v0', 'bfd_status') === '');
  assert.ok(isLive());
});

test('CFM: remote maintenance points, faults and recovery', async () => {
  for (const [box, mpid] of [
    [real, 10],
    [ours, 20],
  ] as const) {
    const other = ['other_config:cfm_interval=100', 'other_config:cfm_extended=true'];
    box.vsctl('set', 'Interface', 'v0', `cfm_mpid=${mpid}`, ...other);
  }
  await until('both hear each other', () => {
    const [a, b] = [real, ours].map((box) => column(box, 'v0', 'cfm_remote_mpids'));
    return a === '20' && b === '10';
  });
  await until('no fault', () =>
    [real, ours].every((box) => column(box, 'v0', 'cfm_fault') === 'false'),
  );
  assert.match(ours.appctl('cfm/show', 'v0'), /MPID 20: extended\n[\s\S]*Remote MPID 10\n/);
  real.vsctl('set', 'Interface', 'v0', 'other_config:cfm_opstate=down');
  await until('remote down', () => column(ours, 'v0', 'cfm_remote_opstate') === 'down');
  real.vsctl('clear', 'Interface', 'v0', 'cfm_mpid');
  await until('fault', () => column(ours, 'v0', 'cfm_fault_status') === 'recv');
  ours.vsctl('clear', 'Interface', 'v0', 'cfm_mpid');
  await until('nothing is left', () => column(ours, 'v0', 'cfm_fault') === '');
});

test('LACP: a balance-tcp bond carries traffic, also after a link has gone', async () => {
  for (const [box, address] of [
    [real, '10.9.0.1/24'],
    [ours, '10.9.0.2/24'],
  ] as const) {
    box.vsctl(
      ...['del-port', 'br0', 'v0', '--', 'add-bond', 'br0', 'bond0', 'v0', 'v1'],
      ...['bond_mode=balance-tcp', 'lacp=active', 'other-config:lacp-time=fast'],
    );
    ip('-n', box.namespace!, 'addr', 'add', address, 'dev', 'br0');
    ip('-n', box.namespace!, 'link', 'set', 'br0', 'up');
  }
  const enabled = (box: Sandbox): number =>
    [...box.appctl('bond/show', 'bond0').matchAll(/^member v\d: enabled$/gm)].length;
  await until('negotiated', () => enabled(real) === 2 && enabled(ours) === 2);
  for (const box of [real, ours]) {
    assert.match(box.appctl('lacp/show', 'bond0'), /status: active negotiated/);
    // The database hears of it a moment later.
    await until('lacp_current', () => column(box, 'v0', 'lacp_current') === 'true');
    await until('the active member', () => {
      const mac = box.vsctl('get', 'Port', 'bond0', 'bond_active_slave').trim();
      return /^"?([0-9a-f]{2}:){5}[0-9a-f]{2}"?$/.test(mac);
    });
  }
  const ping = (): boolean =>
    ours.run('ping', '-c', '3', '-i', '0.2', '-W', '1', '10.9.0.1').status === 0;
  await until('ping over the bond', ping);
  // The data plane chooses the member by its hash, as the real one.
  assert.match(
    ours.appctl('bond/show', 'bond0'),
    /^bond may use recirculation: yes, Recirc-ID : \d+$/m,
  );
  assert.match(ours.appctl('dpctl/dump-flows'), /actions:.*hash\(l4\(0\)\),recirc\(0x/);
  // A partner that talks nonsense fills no log.
  const nonsense =
    "import socket; s = socket.socket(17, 3); s.bind(('v0', 0));" +
    "[s.send(bytes.fromhex('0180c2000002 020000000001 8809') + bytes(100)) for _ in range(200)]";
  real.run('python3', '-c', nonsense);
  const bad = (): number =>
    Math.max(
      ...[...ours.appctl('lacp/show-stats', 'bond0').matchAll(/RX Bad PDUs: (\d+)/g)].map(
        ([, count]) => Number(count),
      ),
    );
  await until('bad LACPDUs', () => bad() >= 50);
  const complaints = readFileSync(ours.logFile, 'utf8').match(/unparsable LACP PDU/g) ?? [];
  assert.ok(complaints.length >= 1 && complaints.length <= 10, `${complaints.length} messages`);
  ip('-n', real.namespace!, 'link', 'set', 'v1', 'down');
  await until('one member is left', () => enabled(ours) === 1 && enabled(real) === 1);
  await until('ping over one member', ping);
  assert.match(ours.appctl('bond/show', 'bond0'), /member v1: disabled/);
  for (const box of [real, ours]) box.vsctl('del-port', 'br0', 'bond0');
});

test('routes of the kernel, as the real daemon shows them, and changes', async () => {
  const routes = (box: Sandbox): string =>
    box
      .appctl('ovs/route/show')
      .split('\n')
      .filter((line) => /10\.9\.|172\.31\.|2001:db8:/.test(line))
      .sort()
      .join('\n');
  for (const box of [real, ours]) {
    const at = ['-n', box.namespace!];
    ip(...at, 'link', 'set', 'br0', 'up');
    ip(...at, 'addr', 'flush', 'dev', 'br0');
    ip(...at, 'addr', 'add', '10.9.0.7/24', 'dev', 'br0');
    ip(...at, 'addr', 'add', '2001:db8:9::7/64', 'dev', 'br0', 'nodad');
    ip(...at, 'route', 'add', '172.31.0.0/16', 'via', '10.9.0.254');
    ip(...at, 'route', 'add', '2001:db8:a::/48', 'via', '2001:db8:9::fe');
  }
  await until(
    'the same routes',
    () => routes(ours) === routes(real) && /172\.31/.test(routes(ours)),
  );
  assert.match(routes(ours), /Cached: 172\.31\.0\.0\/16 dev br0 GW 10\.9\.0\.254 SRC 10\.9\.0\.7/);
  for (const box of [real, ours]) {
    box.appctl('ovs/route/add', '172.31.5.0/24', 'br0', '10.9.0.253');
    box.appctl('ovs/route/add', '172.31.5.0/24', 'br0', '10.9.0.252', 'pkt_mark=7');
  }
  assert.equal(routes(ours), routes(real));
  for (const words of [
    ['172.31.5.1'],
    ['172.31.5.1', 'pkt_mark=7'],
    ['172.31.6.1'],
    ['10.9.0.7'],
    ['2001:db8:a::1'],
  ]) {
    assert.equal(
      ours.appctl('ovs/route/lookup', ...words),
      real.appctl('ovs/route/lookup', ...words),
    );
  }
  for (const words of [
    ['add', '1.2.3.4.5/8', 'br0'],
    ['add', '99.0.0.0/8', 'br0', 'x'],
    ['add', '99.0.0.0/8', 'nodev'],
    ['del', '99.0.0.0/8'],
    ['lookup', '99.0.0.0/8'],
    ['lookup', '9.9.9.9', 'pkt_mark=z'],
  ]) {
    const [a, b] = [ours, real].map((box) =>
      box.run('ovs-appctl', `ovs/route/${words[0]}`, ...words.slice(1)),
    );
    assert.deepEqual(a, b, words.join(' '));
  }
  for (const box of [real, ours]) ip('-n', box.namespace!, 'route', 'del', '172.31.0.0/16');
  await until('the route has gone', () => !routes(ours).includes('Cached: 172.31'));
  await until('the same routes', () => routes(ours) === routes(real));
});

test('neighbours set by hand: show, aging, flush, errors', () => {
  for (const box of [real, ours]) {
    box.appctl('tnl/neigh/set', 'br0', '10.9.0.9', '02:00:00:00:00:09');
    box.appctl('tnl/arp/set', 'br0', '2001:db8:9::9', '02:00:00:00:00:0a');
  }
  const both = (...words: string[]): void => {
    const [a, b] = [ours, real].map((box) => {
      const { stdout, stderr, status } = box.run('ovs-appctl', ...words);
      return { stdout: stdout.split('\n').sort().join('\n'), stderr, status };
    });
    assert.deepEqual(a, b, words.join(' '));
  };
  both('tnl/neigh/show');
  both('tnl/arp/show');
  both('tnl/neigh/aging');
  both('tnl/neigh/aging', '30');
  both('tnl/neigh/aging');
  both('tnl/neigh/aging', '3601');
  both('tnl/neigh/aging', '0');
  both('tnl/neigh/set', 'br0', '1.2.3', '02:00:00:00:00:09');
  both('tnl/neigh/set', 'br0', '1.2.3.4', 'x');
  both('tnl/neigh/flush');
  both('tnl/neigh/show');
});

test('BFD over a VXLAN tunnel whose outer packets both switches resolve themselves', async () => {
  const addresses = ['10.9.0.1', '10.9.0.2'] as const;
  for (const [i, box] of [real, ours].entries()) {
    box.vsctl('--may-exist', 'add-port', 'br0', 'v0');
    ip('-n', box.namespace!, 'addr', 'flush', 'dev', 'br0');
    ip('-n', box.namespace!, 'addr', 'add', `${addresses[i]}/24`, 'dev', 'br0');
  }
  await until('the peer', () => ours.run('ping', '-c', '1', '-W', '1', addresses[0]).status === 0);
  for (const [i, box] of [real, ours].entries()) {
    box.vsctl(
      ...['add-br', 'br-int', '--', 'set', 'bridge', 'br-int', 'datapath_type=netdev'],
      ...['--', 'add-port', 'br-int', 'tun0', '--', 'set', 'Interface', 'tun0', 'type=vxlan'],
      ...[`options:remote_ip=${addresses[1 - i]}`, 'options:key=flow'],
      ...['bfd:enable=true', 'bfd:check_tnl_key=true', 'bfd:min_rx=500'],
    );
  }
  const state = (box: Sandbox): string => column(box, 'tun0', 'bfd_status');
  await until('up at both ends', () =>
    [real, ours].every(
      (box) => / state=up/.test(` ${state(box)}`) && /remote_state=up/.test(state(box)),
    ),
  );
  assert.match(ours.appctl('tnl/neigh/show'), /10\.9\.0\.1 .*br0/);
  real.vsctl('set', 'Interface', 'tun0', 'bfd:enable=false');
  await until('the peer is missed', () => / state=down/.test(` ${state(ours)}`));
});
