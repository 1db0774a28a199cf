// ovs-ofctl snoop and monitor, side by side with the real daemon: the same small controller talks to both switches, and
// what a snooper hears of it has to be the same.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Connmgr } from '../../src/control/openflow/connmgr.ts';
import { FakeBridge, flowMod, matchOf, output } from '../unit/fakeBridge.ts';
import { type OfClient, OfController } from '../unit/ofClient.ts';
import { normalize, OvsSide, startRealOvs } from './realOvs.ts';

const NO_LOG = { dbg() {}, info() {}, warn() {}, err() {} };

let real: OvsSide;
let ours: OvsSide;
let connmgr: Connmgr;
let bridge: FakeBridge;

before(async () => {
  real = await startRealOvs();
  await real.run('ovs-vsctl add-br br0 -- set-fail-mode br0 secure');
  ours = await OvsSide.create('ours');
  bridge = new FakeBridge();
  bridge.addPort(0xfffffffe, 'br0');
  connmgr = new Connmgr({ bridge, runDir: ours.dir, log: NO_LOG });
  await connmgr.configure({ controllers: [], failMode: 'secure' });
});

after(async () => {
  connmgr?.close();
  await ours?.[Symbol.asyncDispose]();
  await real?.[Symbol.asyncDispose]();
});

/** What `ovs-ofctl snoop` prints while the controller talks. */
async function snoop(side: OvsSide, controller: OfClient): Promise<string> {
  await side.run('ovs-ofctl snoop br0 --detach --no-chdir --pidfile=snoop.pid > snoop.txt 2>&1');
  await sleep(300);
  controller.send({ type: 'echo_request', data: new Uint8Array(0) });
  await controller.expect('echo_reply');
  await controller.errorOf({
    type: 'flow_mod',
    nxt: false,
    flowMod: flowMod({
      match: matchOf({ in_port: 1n }),
      actions: [output(2)],
      newCookie: 3n,
    }),
  });
  await controller.request({ type: 'get_config_request' }, 'get_config_reply');
  const printed = async () => (await side.run('cat snoop.txt')).stdout;
  await side.waitFor('snooped messages', async () => /GET_CONFIG_REPLY/.test(await printed()));
  await side.run('ovs-appctl -t "$PWD"/ovs-ofctl.$(cat snoop.pid).ctl exit');
  return normalize(await printed(), side.dir);
}

describe('snoop', () => {
  for (const version of [1, 4] as const) {
    it(`hears what a controller of wire version ${version} and the switch say`, async () => {
      using forReal = await OfController.listen(version);
      using forOurs = await OfController.listen(version);
      await real.run(`ovs-vsctl set-controller br0 ${forReal.target}`);
      await connmgr.configure({ controllers: [{ target: forOurs.target }], failMode: 'secure' });
      const expected = await snoop(real, await forReal.connection());
      const actual = await snoop(ours, await forOurs.connection());
      await real.run('ovs-vsctl del-controller br0');
      await connmgr.configure({ controllers: [], failMode: 'secure' });
      assert.match(expected, /BARRIER_REPLY/);
      assert.equal(actual, expected);
    });
  }
});

describe('monitor', () => {
  for (const format of ['nxt_packet_in', 'nxt_packet_in2', 'standard']) {
    it(`prints packet-ins in format ${format}`, async () => {
      await ours.run(
        `ovs-ofctl monitor br0 65534 -P ${format} --detach --no-chdir --pidfile=monitor.pid ` +
          '> monitor.txt 2>&1',
      );
      await ours.run('ovs-appctl -t "$PWD"/ovs-ofctl.$(cat monitor.pid).ctl ofctl/barrier');
      const frame =
        '50540000000150540000000208060001080006040001505400000002' + '0a0000010000000000000a000002';
      const data = Uint8Array.from(Buffer.from(frame, 'hex'));
      bridge.onPacketIn?.(
        {
          bufferId: 0xffffffff,
          totalLen: data.length,
          reason: 'action',
          table: 0,
          cookie: 0x1234n,
          match: matchOf({ in_port_oxm: 1n, reg3: 5n }),
          data,
        },
        0,
      );
      await ours.run('ovs-appctl -t "$PWD"/ovs-ofctl.$(cat monitor.pid).ctl ofctl/barrier');
      await ours.run('ovs-appctl -t "$PWD"/ovs-ofctl.$(cat monitor.pid).ctl exit');
      const { stdout } = await ours.run('cat monitor.txt');
      assert.match(stdout, /PACKET_IN/);
      assert.match(stdout, /in_port=1/);
      assert.match(stdout, /arp_spa=10\.0\.0\.1|arp.*10\.0\.0\.1/);
      if (format !== 'standard') {
        assert.match(stdout, /cookie=0x1234/);
        assert.match(stdout, /reg3=0x5/);
      }
    });
  }
});
