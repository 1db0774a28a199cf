// What happens in the life of a virtual machine: its network card is plugged and unplugged, its driver is loaded again,
// queues come and go, it reboots, QEMU is killed in the middle of a packet. Each time the port follows; where a front-end goes for
// good, no descriptor is left behind in the switch.

import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import { qmp } from '../guest/qmp.ts';
import { Vm } from '../guest/vm.ts';
import { Sandbox } from './sandbox.ts';

let box: Sandbox;
let vm: Vm;
const IP = '10.9.0.1';
const host = '10.9.0.9';

const linkUp = (port: string) => box.vsctl('get', 'interface', port, 'link_state').trim() === 'up';
const fds = () => readdirSync(`/proc/${box.daemonPid}/fd`).length;

async function boot(): Promise<Vm> {
  const started = await Vm.start({
    name: 'vm',
    dir: box.dir,
    socket: box.path('vm.sock'),
    mac: '52:54:00:00:00:0a',
    ip: `${IP}/24`,
    queues: 2,
    cpus: 2,
    memoryMiB: 160,
    extra: [
      ...['-qmp', `unix:${box.path('vm.qmp')},server=on,wait=off`],
      ...['-action', 'reboot=reset'],
      ...['-device', 'pcie-root-port,id=slot1,chassis=1'],
    ],
  });
  await started.ready(180_000);
  await box.until(() => linkUp('vm'), 20_000, 'link');
  return started;
}

const ping = (from: Vm) => from.must(`ping -c 3 -W 5 ${host}`);

before(async () => {
  box = await Sandbox.start();
  box.vsctl('add-br', 'br0', '--', 'set', 'bridge', 'br0', 'datapath_type=netdev');
  for (const name of ['vm', 'second']) {
    box.vsctl(
      ...['add-port', 'br0', name, '--', 'set', 'interface', name, 'type=dpdkvhostuserclient'],
      `options:vhost-server-path=${box.path(`${name}.sock`)}`,
    );
  }
  box.must('ip', 'addr', 'add', `${host}/24`, 'dev', 'br0');
  box.must('ip', 'link', 'set', 'br0', 'up');
  vm = await boot();
});

after(async () => {
  await vm?.stop();
  await box?.stop();
});

describe('the life of a virtual machine', () => {
  it('a second card is plugged and unplugged, twice', async () => {
    await ping(vm);
    const before = fds();
    for (let round = 1; round <= 2; round++) {
      await qmp(
        box.path('vm.qmp'),
        {
          execute: 'chardev-add',
          arguments: {
            id: 'ch1',
            backend: {
              type: 'socket',
              data: {
                addr: { type: 'unix', data: { path: box.path('second.sock') } },
                server: true,
                wait: false,
              },
            },
          },
        },
        {
          execute: 'netdev_add',
          arguments: { type: 'vhost-user', id: 'net1', chardev: 'ch1', vhostforce: true },
        },
        {
          execute: 'device_add',
          arguments: {
            driver: 'virtio-net-pci',
            id: 'card1',
            bus: 'slot1',
            netdev: 'net1',
            mac: '52:54:00:00:00:0b',
            vectors: 0,
          },
        },
      );
      await vm.must('for i in $(seq 100); do [ -d /sys/class/net/eth1 ] && break; sleep 0.1; done');
      await vm.must('ip link set eth1 up; ip addr add 10.9.1.1/24 dev eth1');
      await box.until(() => linkUp('second'), 20_000, 'link of the second card');
      box.run('ip', 'addr', 'add', '10.9.1.9/24', 'dev', 'br0');
      await vm.must('ping -c 2 -W 5 10.9.1.9');
      await qmp(box.path('vm.qmp'), { execute: 'device_del', arguments: { id: 'card1' } });
      await vm.must('for i in $(seq 300); do [ -d /sys/class/net/eth1 ] || break; sleep 0.1; done');
      await box.until(() => !linkUp('second'), 20_000, 'end of the link');
      // The guest has let go; QEMU takes the card away a moment later.
      const cards = async (): Promise<string> => {
        const path = '/machine/peripheral';
        return JSON.stringify(
          await qmp(box.path('vm.qmp'), { execute: 'qom-list', arguments: { path } }),
        );
      };
      await box.until(async () => !(await cards()).includes('card1'), 20_000, 'end of the card');
      // Its socket goes with it.
      await qmp(box.path('vm.qmp'), { execute: 'netdev_del', arguments: { id: 'net1' } });
      await ping(vm);
    }
    await box.until(() => fds() <= before, 10_000, `descriptors: ${fds()}, ${before} before`);
  });

  it('queues come and go under traffic (ethtool -L)', async () => {
    const pinging = box.spawn('ping', ['-i', '0.05', '-w', '8', '-q', IP]);
    const done = new Promise<number | null>((resolve) => pinging.once('exit', resolve));
    for (const queues of [2, 1, 2, 1]) await vm.must(`ethtool -L eth0 combined ${queues}`);
    assert.equal(await done, 0);
    await ping(vm);
  });

  it('the driver is loaded again', async () => {
    const device = '/sys/bus/virtio/drivers/virtio_net';
    const id = /virtio\d+/.exec(
      await vm.must('basename $(readlink /sys/class/net/eth0/device)'),
    )?.[0];
    await vm.must(`echo ${id} > ${device}/unbind`);
    await box.until(() => !linkUp('vm'), 20_000, 'end of the link');
    await vm.must(
      `echo ${id} > ${device}/bind; sleep 1; ip link set eth0 up; ip addr add ${IP}/24 dev eth0`,
    );
    await box.until(() => linkUp('vm'), 20_000, 'link');
    await ping(vm);
  });

  it('it reboots', async () => {
    const resets = Number(box.vsctl('get', 'interface', 'vm', 'link_resets'));
    await qmp(box.path('vm.qmp'), { execute: 'system_reset' });
    await vm.booted(180_000);
    await box.until(() => linkUp('vm'), 20_000, 'link');
    await ping(vm);
    assert.ok(Number(box.vsctl('get', 'interface', 'vm', 'link_resets')) > resets);
    assert.equal(box.vsctl('get', 'interface', 'vm', 'error').trim(), '[]');
  });

  it('QEMU is killed in the middle of traffic, and started again', async () => {
    const before = fds();
    const flood = box.spawn('ping', ['-f', '-w', '4', '-q', IP]);
    const done = new Promise((resolve) => flood.once('exit', resolve));
    await vm.must('ping -c 20 -i 0.05 -q 10.9.0.9');
    await vm.stop(); // SIGKILL
    await box.until(() => !linkUp('vm'), 20_000, 'end of the link');
    await done;
    await box.until(() => fds() < before, 10_000, `descriptors: ${fds()}, ${before} before`);
    vm = await boot();
    await ping(vm);
    assert.equal(box.vsctl('get', 'interface', 'vm', 'error').trim(), '[]');
  });
});
