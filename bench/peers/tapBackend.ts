// The back-end of guests whose network is a tap of the kernel: a process in user space that does nothing but move frames between rings and
// taps, as QEMU's own does where the kernel has no vhost-net. Here a worker of xvio, with a bridge of two ports for each guest.

import type { Sandbox } from '../../test/interop/sandbox.ts';
import type { Setup } from '../types.ts';

/** Sets up guests `vm0`, … of the sandbox's daemon with taps `tap0`, …; returns the names of both. */
export function addTapGuests(box: Sandbox, setup: Setup): { guest: string; tap: string }[] {
  const pairs = Array.from({ length: setup.ports }, (_, i) => ({
    guest: `vm${i}`,
    tap: `tap${i}`,
  }));
  for (const [i, { guest, tap }] of pairs.entries()) {
    const bridge = `brv${i}`;
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
  }
  return pairs;
}
