// QEMU's vhost-user front-end and Linux's virtio-net driver against the ports alone (no control plane): negotiation of
// split and packed rings, both modes, several queues, a switch that goes away and comes back, a guest that reboots its
// driver.

import assert from 'node:assert/strict';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import type { Netdev } from '../../src/port/types.ts';
import { has } from '../../src/wire/vhostuser/features.ts';
import { incoming, qmp } from '../guest/qmp.ts';
import { Vm, type VmOptions } from '../guest/vm.ts';
import { createTestSwitch, type TestSwitch, until } from './vhostHarness.ts';

async function boot(
  sw: TestSwitch,
  number: number,
  mode: 'client' | 'server',
  more: Partial<VmOptions> = {},
): Promise<Vm> {
  const name = `vm${number}`;
  return Vm.start({
    name,
    dir: sw.directory,
    socket: join(sw.directory, mode === 'client' ? name : `${name}.sock`),
    mode,
    mac: `02:00:00:00:00:0${number}`,
    ip: `10.9.0.${number}/24`,
    ...more,
  });
}

const features = (port: Netdev) => BigInt(port.status().status.features!);

function assertHealthy(sw: TestSwitch, ...ports: Netdev[]): void {
  for (const port of ports) {
    const { error, linkUp } = port.status();
    assert.deepEqual({ error, linkUp }, { error: undefined, linkUp: true }, sw.log.join('\n'));
  }
}

describe('QEMU guests', () => {
  for (const packed of [false, true]) {
    it(`ping each other over ${packed ? 'packed' : 'split'} rings, one in each mode`, async () => {
      await using sw = createTestSwitch();
      const a = await sw.addServer('vm1');
      const b = await sw.addClient('vm2');
      sw.forward(a, b);
      sw.forward(b, a);
      const device = `host_mtu=1500${packed ? ',packed=on' : ''}`;
      await using vm1 = await boot(sw, 1, 'client', { device, queues: 2 });
      await using vm2 = await boot(sw, 2, 'server', { device, queues: 2 });
      await Promise.all([vm1.ready(), vm2.ready()]);
      await until(
        () => a.status().linkUp && b.status().linkUp,
        () => sw.log.join('\n'),
      );
      await vm1.must('ping -c 3 -W 3 10.9.0.2');
      await vm1.must('ping -c 3 -W 3 -s 1400 10.9.0.2');
      assertHealthy(sw, a, b);
      for (const port of [a, b]) {
        assert.equal(has(features(port), 34), packed);
        assert.ok(has(features(port), 15) && has(features(port), 29) && has(features(port), 32));
        assert.equal(port.status().status.num_of_vrings, '4');
        assert.equal(port.status().status.vring_0_size, '1024');
        assert.equal(port.status().status.mtu, '1500');
      }

      // The driver goes away and comes back: rings stop, and start anew.
      const before = a.status().linkResets;
      const driver = '/sys/bus/virtio/drivers/virtio_net';
      await vm1.must(`echo virtio0 > ${driver}/unbind`);
      await until(() => !a.status().linkUp, 'link down');
      await vm1.must(
        `echo virtio0 > ${driver}/bind; sleep 1; ip link set eth0 up; ip addr add 10.9.0.1/24 dev eth0 || true`,
      );
      await until(
        () => a.status().linkUp,
        () => sw.log.slice(-40).join('\n'),
      );
      assert.ok(a.status().linkResets >= before + 2);
      await vm1.must('ping -c 2 -W 3 10.9.0.2');
      assert.equal(a.status().error, undefined);

      // The switch forgets its ports, and has them again: the guest notices nothing but a pause.
      await b.close();
      const again = await sw.addClient('vm2');
      sw.forward(a, again);
      sw.forward(again, a);
      await until(
        () => again.status().linkUp,
        () => sw.log.slice(-40).join('\n'),
      );
      await vm1.must('ping -c 2 -W 3 10.9.0.2');
      assertHealthy(sw, a, again);
    });
  }
});

describe('memory', () => {
  it('is plugged under a running guest', async () => {
    await using sw = createTestSwitch();
    const a = await sw.addServer('vm1');
    const b = await sw.addServer('vm2');
    sw.forward(a, b);
    sw.forward(b, a);
    const monitor = join(sw.directory, 'vm1.qmp');
    await using vm1 = await boot(sw, 1, 'client', {
      extra: ['-qmp', `unix:${monitor},server=on,wait=off`, '-m', '192,slots=4,maxmem=1G'],
    });
    await using vm2 = await boot(sw, 2, 'client');
    await Promise.all([vm1.ready(), vm2.ready()]);
    const pinging = vm2.must('ping -c 30 -i 0.1 -W 2 10.9.0.1 | tail -3', 60_000);
    for (const id of ['one', 'two']) {
      await qmp(
        monitor,
        {
          execute: 'object-add',
          arguments: { 'qom-type': 'memory-backend-memfd', id: `mem${id}`, size: 1 << 27 },
        },
        { execute: 'device_add', arguments: { driver: 'pc-dimm', id, memdev: `mem${id}` } },
      );
    }
    await until(
      () => sw.log.filter((line) => line === 'vm1: ADD_MEM_REG').length >= 3,
      () => sw.log.slice(-30).join('\n'),
    );
    const lost = /(\d+)% packet loss/.exec(await pinging);
    assert.ok(lost !== null && Number(lost[1]) < 10, `ping: ${lost?.[0]}`);
    await vm1.must('ping -c 2 -W 3 10.9.0.2');
    assertHealthy(sw, a, b);
  });
});

describe('live migration', () => {
  for (const packed of [false, true]) {
    it(`takes a pinged guest from port to port (${packed ? 'packed' : 'split'} rings)`, async () => {
      await using sw = createTestSwitch();
      const source = await sw.addServer('vm1');
      const peer = await sw.addServer('vm2');
      const destination = await sw.addServer('vm1b');
      for (const port of [source, destination]) sw.forward(port, peer);
      sw.forward(peer, source);
      const device = packed ? { device: 'packed=on' } : {};
      const monitor = (name: string) => join(sw.directory, `${name}.qmp`);
      const extra = (name: string) => ['-qmp', `unix:${monitor(name)},server=on,wait=off`];
      const uri = `unix:${join(sw.directory, 'migrate')}`;
      await using vm1 = await boot(sw, 1, 'client', { ...device, extra: extra('vm1') });
      await using vm2 = await boot(sw, 2, 'client');
      await using vm1b = await boot(sw, 1, 'client', {
        ...device,
        name: 'vm1b',
        socket: join(sw.directory, 'vm1b'),
        extra: [...extra('vm1b'), '-incoming', uri],
      });
      await Promise.all([vm1.ready(), vm2.ready()]);
      await vm2.must('ping -c 1 -W 3 10.9.0.1');
      const pinging = vm2.must('ping -c 60 -i 0.2 -W 2 10.9.0.1 | tail -3', 60_000);

      await incoming(monitor('vm1b'));
      await qmp(monitor('vm1'), { execute: 'migrate', arguments: { uri } });
      let status: unknown;
      const deadline = performance.now() + 60_000;
      do {
        await new Promise((resolve) => setTimeout(resolve, 50));
        ({ status } = await qmp(monitor('vm1'), { execute: 'query-migrate' }));
        assert.notEqual(status, 'failed', sw.log.slice(-60).join('\n'));
        assert.ok(performance.now() < deadline, `migration is ${status}`);
      } while (status !== 'completed');
      assert.ok(vm1.running, 'the source died');
      sw.forward(peer, destination);
      await until(
        () => destination.status().linkUp,
        () => sw.log.slice(-60).join('\n'),
      );

      const lost = /(\d+)% packet loss/.exec(await pinging);
      assert.ok(lost !== null && Number(lost[1]) < 25, `ping: ${lost?.[0]}`);
      await vm1b.must('ping -c 3 -W 3 10.9.0.2');
      for (const port of [source, destination, peer]) assert.equal(port.status().error, undefined);
      // The whole guest was under migration with the log on.
      assert.ok(sw.log.includes('vm1: SET_LOG_BASE'));
    });
  }
});
