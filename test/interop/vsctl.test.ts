// ovs-vsctl side by side: the same commands against xvio and against the real ovs-vswitchd, each in its own namespace
// with its own ovsdb-server; exit status, output, and the rows in the database have to be the same.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Sandbox } from './sandbox.ts';

let xvio: Sandbox;
let real: Sandbox;

before(async () => {
  [xvio, real] = await Promise.all([
    Sandbox.start({ daemon: 'xvio' }),
    Sandbox.start({ daemon: 'real' }),
  ]);
  for (const box of [xvio, real]) {
    for (const n of [0, 1, 2]) {
      box.must('ip', 'link', 'add', `v${n}`, 'type', 'veth', 'peer', 'name', `p${n}`);
      box.must('ip', 'link', 'set', `p${n}`, 'up');
    }
  }
});

after(async () => {
  await xvio?.stop();
  await real?.stop();
});

/** Rows come in the order of their random uuids: blocks are compared as sets of lines. */
const unordered = (text: string): string => text.split('\n').sort().join('\n');

/** Takes out what differs by nature: uuids, random addresses, paths of the sandbox, kernel indices. */
function normalize(box: Sandbox, text: string): string {
  return text
    .replaceAll(box.dir, 'DIR')
    .replace(/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/g, 'UUID')
    .replace(/\b([0-9a-f]{2}:){5}[0-9a-f]{2}\b/g, 'MAC')
    .replace(/"0000[0-9a-f]{12}"/g, '"DPID"');
}

function both(...args: string[]): void {
  const results = [xvio, real].map((box) => {
    const r = box.run('ovs-vsctl', '--timeout=20', ...args);
    const show = args[0] === 'show' || args.includes('list');
    const stdout = normalize(box, r.stdout);
    return { ...r, stdout: show ? unordered(stdout) : stdout, stderr: normalize(box, r.stderr) };
  });
  assert.deepEqual(results[0], results[1], `ovs-vsctl ${args.join(' ')}`);
}

const BRIDGE = ['--', 'set', 'bridge'] as const;

test('bridges', () => {
  both('add-br', 'br0', ...BRIDGE, 'br0', 'datapath_type=netdev');
  both('--may-exist', 'add-br', 'br0');
  both('add-br', 'br0');
  both(
    'add-br',
    'br1',
    ...BRIDGE,
    'br1',
    'datapath_type=netdev',
    'other_config:hwaddr=02:00:00:00:00:01',
  );
  both('list-br');
  both('br-exists', 'br1');
  both('br-exists', 'nope');
  both('get', 'bridge', 'br1', 'datapath_id', 'datapath_version', 'status');
  both('get', 'interface', 'br1', 'mac_in_use', 'ofport', 'type', 'mtu', 'error');
});

test('ports', () => {
  both('add-port', 'br0', 'v0');
  both('add-port', 'br0', 'v1', '--', 'set', 'interface', 'v1', 'ofport_request=7');
  both('get', 'interface', 'v0', 'ofport', 'error', 'admin_state', 'link_state', 'mtu', 'duplex');
  both('get', 'interface', 'v1', 'ofport', 'link_speed', 'status', 'link_resets');
  both('list-ports', 'br0');
  both('list-ifaces', 'br0');
  both('iface-to-br', 'v0');
  both('port-to-br', 'v1');
  both('add-port', 'br1', 'v0');
  both('--if-exists', 'del-port', 'br0', 'nope');
  both('del-port', 'br0', 'nope');
  both('del-port', 'br0', 'v1');
  both('add-port', 'br0', 'v1');
  both('get', 'interface', 'v1', 'ofport');
});

test('devices that are not there, types that nobody has', () => {
  both('add-port', 'br0', 'nonex0');
  both('get', 'interface', 'nonex0', 'ofport', 'error');
  both('add-port', 'br0', 'odd0', '--', 'set', 'interface', 'odd0', 'type=nonsense');
  both('get', 'interface', 'odd0', 'ofport', 'error');
  both('add-port', 'br0', 'pa0', '--', 'set', 'interface', 'pa0', 'type=patch');
  both('get', 'interface', 'pa0', 'ofport');
  both('del-port', 'nonex0');
  both('del-port', 'odd0');
  both('del-port', 'pa0');
});

test('a device that comes later is taken up', async () => {
  both('add-port', 'br0', 'late0');
  for (const box of [xvio, real]) {
    box.must('ip', 'link', 'add', 'late0', 'type', 'veth', 'peer', 'name', 'late1');
    await box.until(
      () => Number(box.vsctl('get', 'interface', 'late0', 'ofport')) > 0,
      10000,
      'ofport of late0',
    );
  }
  both('get', 'interface', 'late0', 'error');
  both('del-port', 'late0');
});

test('patch ports', () => {
  both(
    ...['add-port', 'br0', 'pa', '--', 'set', 'interface', 'pa', 'type=patch', 'options:peer=pb'],
    ...[
      '--',
      'add-port',
      'br1',
      'pb',
      '--',
      'set',
      'interface',
      'pb',
      'type=patch',
      'options:peer=pa',
    ],
  );
  both(
    '--columns=type,options,admin_state,link_state,error,ifindex,mtu',
    'list',
    'interface',
    'pa',
    'pb',
  );
});

test('internal ports, mtu_request, VLANs', () => {
  both('add-port', 'br0', 'int0', 'tag=10', '--', 'set', 'interface', 'int0', 'type=internal');
  both('get', 'port', 'int0', 'tag', 'vlan_mode', 'trunks');
  both('get', 'interface', 'int0', 'type', 'status', 'mtu', 'admin_state');
  both('set', 'interface', 'int0', 'mtu_request=1400');
  both('get', 'interface', 'int0', 'mtu', 'mtu_request');
  both('set', 'port', 'int0', 'trunks=1,2,3', 'vlan_mode=trunk');
  both('set', 'port', 'int0', 'tag=5000');
});

test('controllers, fail mode, managers', () => {
  both('set-controller', 'br0', 'tcp:127.0.0.1:16653');
  both('get-controller', 'br0');
  both('set-fail-mode', 'br0', 'secure');
  both('get-fail-mode', 'br0');
  both('del-fail-mode', 'br0');
  both('del-controller', 'br0');
  both('set', 'bridge', 'br0', 'protocols=OpenFlow10,OpenFlow13');
  both('get', 'bridge', 'br0', 'protocols');
  both('clear', 'bridge', 'br0', 'protocols');
});

test('flow tables: limit, name, prefixes', () => {
  both(
    ...[
      '--id=@t',
      'create',
      'Flow_Table',
      'name=limited',
      'flow_limit=1',
      'overflow_policy=refuse',
    ],
    ...['prefixes=ip_src', '--', 'set', 'bridge', 'br0', 'flow_tables:5=@t'],
  );
  const results = [xvio, real].map((box) => {
    box.ofctl('add-flow', 'br0', 'table=5,priority=1,actions=drop');
    const full = box.run('ovs-ofctl', 'add-flow', 'br0', 'table=5,priority=2,actions=drop');
    assert.match(full.stderr, /OFPFMFC_TABLE_FULL/);
    const names = box.run(
      'ovs-ofctl',
      '-O',
      'OpenFlow15',
      '--names',
      'dump-flows',
      'br0',
      'table=limited',
    );
    return names.stdout.replace(/duration=[\d.]+s/g, '').replace(/xid=0x\w+/, '');
  });
  assert.equal(results[0], results[1]);
  both('clear', 'bridge', 'br0', 'flow_tables');
});

test('bridge/dump-flows shows hidden flows, too', () => {
  const lines = [xvio, real].map((box) =>
    box
      .appctl('bridge/dump-flows', 'br0')
      .replace(/duration=\d+s/g, 'duration=0s')
      .split('\n')
      .sort(),
  );
  assert.deepEqual(lines[0], lines[1]);
  assert.match(xvio.appctl('bridge/dump-flows', 'br0'), /table_id=254/);
});

test('a bridge of a datapath type that does not exist is not made', () => {
  const br = 'brx';
  for (const box of [xvio, real]) {
    const made = box.run(
      'ovs-vsctl',
      ...['add-br', br, '--', 'set', 'bridge', br, 'datapath_type=bogus'],
    );
    assert.match(made.stderr, /Error detected while setting up 'brx'/);
    assert.equal(box.vsctl('get', 'interface', br, 'ofport').trim(), '[]');
    assert.match(box.run('ovs-ofctl', 'show', br).stderr, /brx is not a bridge/);
    box.vsctl('set', 'bridge', br, 'datapath_type=netdev');
    assert.equal(box.vsctl('get', 'interface', br, 'ofport').trim(), '65534');
    box.vsctl('del-br', br);
  }
});

test('show and whole tables', () => {
  both('show');
  const columns =
    'name,ofport,type,admin_state,link_state,mtu,duplex,link_speed,error,status,options';
  both(`--columns=${columns}`, 'list', 'interface', 'v0', 'v1', 'int0', 'br0', 'br1');
  both(
    '--columns=name,tag,trunks,vlan_mode,status,statistics,bond_active_slave',
    'list',
    'port',
    'v0',
    'int0',
  );
  both(
    '--columns=name,datapath_type,datapath_version,status,rstp_status,fail_mode',
    'list',
    'bridge',
    'br0',
    'br1',
  );
  both('get', 'open_vswitch', '.', 'datapath_types', 'next_cfg', 'cur_cfg');
});

test('bad input', () => {
  both('set', 'interface', 'v0', 'nonsense=1');
  both('set', 'bridge', 'nope', 'fail_mode=secure');
  both('set', 'bridge', 'br0', 'fail_mode=nonsense');
  both('nonsense');
  both('list', 'nonsense');
});

test('removal', async () => {
  both('del-port', 'br0', 'v0');
  both('del-br', 'br1');
  both('list-br');
  both('del-br', 'br0');
  both('--if-exists', 'del-br', 'br0');
  both('del-br', 'br0');
  both('show');
  for (const box of [xvio, real]) {
    const gone = (name: string) => () => box.run('ip', 'link', 'show', name).status !== 0;
    await box.until(gone('br0'), 2000, 'end of the tap of the bridge');
    await box.until(gone('int0'), 2000, 'end of the tap of the port');
    assert.equal(box.run('ip', 'link', 'show', 'v0').status, 0, 'the veth is not ours');
  }
});
