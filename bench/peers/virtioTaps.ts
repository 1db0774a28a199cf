// Plain virtio: each guest has a tap (tapBackend.ts), and a bridge of the Linux kernel joins the taps.

import { Sandbox } from '../../test/interop/sandbox.ts';
import type { Peer, Setup, Testbed } from '../types.ts';
import { createLinuxBridge, linuxBridgeMissing } from './linuxBridge.ts';
import { OvsTestbed } from './ovs.ts';
import { addTapGuests } from './tapBackend.ts';
import { xvioOptions } from './xvio.ts';

const NAME = 'linux-bridge-taps';

export const virtioTaps: Peer = {
  name: NAME,
  wirings: ['l2', 'port'],
  missing: linuxBridgeMissing,
  async start(setup: Setup): Promise<Testbed> {
    // What the kernel drops, the back-end has no name for.
    const options = { ...xvioOptions(setup), name: NAME, namesDrops: false };
    const box = await Sandbox.start(options.sandbox);
    try {
      const linux = createLinuxBridge('lbr', box.namespace!);
      const pairs = addTapGuests(box, setup);
      for (const { tap } of pairs) linux.add(tap);
      const sockets = pairs.map(({ guest }) => box.path(guest));
      return new OvsTestbed(options, box, sockets);
    } catch (error) {
      await box.stop();
      throw error;
    }
  },
};
