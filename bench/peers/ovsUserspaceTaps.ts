// The real ovs-vswitchd with its userspace datapath and without DPDK, with guests: it has no vhost-user ports, so its ports are taps, and
// tapBackend.ts carries frames between them and the guests. One process more on the way than with the others: for what its
// control plane does (upcalls), not for rates of packets.

import { execFileSync } from 'node:child_process';
import { Sandbox } from '../../test/interop/sandbox.ts';
import type { Peer, Setup, Testbed } from '../types.ts';
import { OvsTestbed } from './ovs.ts';
import { ovsUserspaceMissing, startOvsUserspace } from './ovsUserspace.ts';
import { addTapGuests } from './tapBackend.ts';
import { xvioOptions } from './xvio.ts';

const NAME = 'ovs-userspace-taps';

const ip = (...args: string[]): void => {
  execFileSync('ip', args, { stdio: ['ignore', 'ignore', 'pipe'] });
};

/** Adds the taps to br0 of the real daemon, as ports 1, 2, … */
function addTaps(front: Sandbox, real: Sandbox, taps: readonly string[]): void {
  const [from, to] = [front.namespace!, real.namespace!];
  real.vsctl('set', 'Open_vSwitch', '.', 'other_config:max-idle=3600000');
  const bridge = ['datapath_type=netdev', 'fail_mode=secure'];
  real.vsctl('add-br', 'br0', '--', 'set', 'bridge', 'br0', ...bridge);
  for (const [i, tap] of taps.entries()) {
    ip('-n', from, 'link', 'set', tap, 'netns', to);
    ip('-n', to, 'link', 'set', tap, 'up');
    const request = `ofport_request=${i + 1}`;
    real.vsctl('add-port', 'br0', tap, '--', 'set', 'interface', tap, request);
  }
  real.appctl('upcall/set-flow-limit', '200000');
}

export const ovsUserspaceTaps: Peer = {
  name: NAME,
  wirings: ['none'],
  missing: ovsUserspaceMissing,
  async start(setup: Setup): Promise<Testbed> {
    const options = { ...xvioOptions(setup), name: NAME, namesDrops: false };
    const front = await Sandbox.start(options.sandbox);
    let real: Sandbox | undefined;
    try {
      real = await startOvsUserspace(false);
      const pairs = addTapGuests(front, setup);
      addTaps(
        front,
        real,
        pairs.map(({ tap }) => tap),
      );
      const sockets = pairs.map(({ guest }) => front.path(guest));
      const backend = new OvsTestbed(options, front, sockets);
      const daemon = real;
      return {
        name: NAME,
        sockets,
        pids: [daemon.daemonPid, front.daemonPid],
        ready: () => backend.ready(),
        // Upcalls are the work of several threads of the real one.
        threads: () => backend.threads(),
        ofctl: (...args) => daemon.ofctl(...args),
        appctl: (...args) => daemon.appctl(...args),
        async [Symbol.asyncDispose]() {
          await daemon.stop();
          await backend[Symbol.asyncDispose]();
        },
      };
    } catch (error) {
      await real?.stop();
      await front.stop();
      throw error;
    }
  },
};
