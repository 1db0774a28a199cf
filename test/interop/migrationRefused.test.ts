// A guest that has taken more than the destination offers is refused there, by QEMU's own message, and goes on where it is:
// what options:xvio-features is for. Here: packed rings, which xvio offers and the other host's card has not.

import assert from 'node:assert/strict';
import { it } from 'node:test';
import { incoming, migrate, qmp } from '../guest/qmp.ts';
import { Vm } from '../guest/vm.ts';
import { BridgeHost } from './bridgeHost.ts';
import { linkSandboxes, Sandbox } from './sandbox.ts';

const MAC = '52:54:00:00:00:0b';

it('a guest with features that the destination lacks is refused there, and goes on', async (t) => {
  await using box = await Sandbox.start();
  await using host = new BridgeHost();
  linkSandboxes(box, host, 'cable');
  host.addPort('cable');
  host.addTap('vm');
  box.vsctl(
    ...['add-br', 'br0', '--', 'set', 'bridge', 'br0', 'datapath_type=netdev'],
    ...['--', 'add-port', 'br0', 'cable', '--', 'add-port', 'br0', 'vm'],
    ...['--', 'set', 'interface', 'vm', 'type=dpdkvhostuserclient'],
    `options:vhost-server-path=${box.path('vm.sock')}`,
  );
  box.must('ip', 'addr', 'add', '10.9.0.9/24', 'dev', 'br0');
  box.must('ip', 'link', 'set', 'br0', 'up');
  const common = { mac: MAC, ip: '10.9.0.1/24', memoryMiB: 128 };
  const qmpAt = (path: string) => ['-qmp', `unix:${path},server=on,wait=off`];
  const uri = `unix:${host.path('incoming')}`;
  await using here = await Vm.start({
    ...common,
    ...{ name: 'here', dir: box.dir, socket: box.path('vm.sock'), device: 'packed=on' },
    extra: qmpAt(box.path('here.qmp')),
  });
  await here.ready();
  await here.must('ping -c 2 -W 5 10.9.0.9');
  await using there = await Vm.start({
    ...common,
    ...{ name: 'there', dir: host.dir, socket: '', device: 'packed=off' },
    tap: { name: 'vm', namespace: host.namespace },
    extra: [...qmpAt(host.path('there.qmp')), '-incoming', uri],
  });
  await incoming(host.path('there.qmp'));
  // So that the source hears of it; where this is off, libvirt tells it.
  const returnPath = { capabilities: [{ capability: 'return-path', state: true }] };
  for (const monitor of [box.path('here.qmp'), host.path('there.qmp')]) {
    await qmp(monitor, { execute: 'migrate-set-capabilities', arguments: returnPath });
  }
  await assert.rejects(migrate(box.path('here.qmp'), uri), /"failed"/);
  await box.until(() => !there.running, 20_000, 'end of the QEMU that refused');
  const refusal = /Features (0x\w+) unsupported\. Allowed features: (0x\w+)/.exec(there.errors);
  assert.ok(refusal, there.errors);
  t.diagnostic(refusal[0]);
  const features = () =>
    box.vsctl('--if-exists', 'get', 'interface', 'vm', 'status:features').trim();
  // The source's QEMU takes its queues up again.
  await box.until(() => features() !== '', 20_000, 'status of the guest that goes on');
  const offered = BigInt(JSON.parse(features()) as string);
  assert.notEqual(offered & (1n << 34n), 0n, 'the guest has taken packed rings');
  await here.must('ping -c 2 -W 5 10.9.0.9');
});
