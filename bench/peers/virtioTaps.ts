// Plain virtio: each guest has a tap, and a bridge of the Linux kernel joins the taps. The back-end of the guests' rings is a
// process in user space that does nothing but move frames between rings and taps, as QEMU's own does where the kernel has no
// vhost-net: here a worker of xvio, with a bridge of two ports for each guest.

import { Sandbox } from '../../test/interop/sandbox.ts';
import type { Peer, Setup, Testbed } from '../types.ts';
import { createLinuxBridge, linuxBridgeMissing } from './linuxBridge.ts';
import { OvsTestbed } from './ovs.ts';
import { xvioOptions } from './xvio.ts';

const NAME = 'linux-bridge-taps';

export const virtioTaps: Peer = {
  name: NAME,
  wirings: ['l2', 'port'],
  missing: linuxBridgeMissing,
  async start(setup: Setup): Promise<Testbed> {
    const options = { ...xvioOptions(setup), name: NAME };
    const box = await Sandbox.start(options.sandbox);
    try {
      const linux = createLinuxBridge('lbr', box.namespace!);
      const guests = Array.from({ length: setup.ports }, (_, i) => `vm${i}`);
      for (const [i, guest] of guests.entries()) {
        const [bridge, tap] = [`brv${i}`, `tap${i}`];
        const mtu = setup.mtu ? [`mtu_request=${setup.mtu}`] : [];
        box.vsctl(
          ...['add-br', bridge, '--', 'set', 'bridge', bridge, 'datapath_type=netdev'],
          ...['--', 'add-port', bridge, tap, '--', 'set', 'interface', tap, 'type=tap', ...mtu],
          ...['--', 'add-port', bridge, guest, '--', 'set', 'interface', guest],
          ...['type=dpdkvhostuserclient', `options:vhost-server-path=${box.path(guest)}`, ...mtu],
        );
        // The back-end has no opinion of its own on where frames go.
        box.ofctl('del-flows', bridge);
        box.ofctl('add-flow', bridge, `in_port=${tap},actions=${guest}`);
        box.ofctl('add-flow', bridge, `in_port=${guest},actions=${tap}`);
        linux.add(tap);
      }
      const sockets = guests.map((guest) => box.path(guest));
      return new OvsTestbed(options, box, sockets);
    } catch (error) {
      await box.stop();
      throw error;
    }
  },
};
