// The real ovs-vswitchd with its userspace datapath and without DPDK: its ports are devices of the kernel, so it takes
// part where traffic comes from network namespaces, and in what concerns the control plane.

import { existsSync } from 'node:fs';
import { Sandbox, type SandboxOptions } from '../../test/interop/sandbox.ts';
import type { Peer, Setup, Testbed } from '../types.ts';
import { startOvs } from './ovs.ts';

const BINARY = '/usr/lib/openvswitch-switch/ovs-vswitchd';

export function ovsUserspaceMissing(): string | undefined {
  return existsSync(BINARY) ? undefined : 'apt-get install openvswitch-switch';
}

/** With segmentation offload through the switch (userspace-tso-enable), its best configuration for TCP. */
export function startOvsUserspace(tso: boolean): Promise<Sandbox> {
  const options: SandboxOptions = { daemon: 'real' };
  if (tso) {
    options.configure = (box) =>
      box.must(
        'ovs-vsctl',
        '--no-wait',
        'set',
        'Open_vSwitch',
        '.',
        'other_config:userspace-tso-enable=true',
      );
  }
  return Sandbox.start(options);
}

/**
 * As a peer of scenarios that look at the control plane alone: it has no vhost-user ports (and so no guests, and no forwarding
 * thread), whatever the setup says.
 */
export const ovsUserspace: Peer = {
  name: 'ovs-userspace',
  wirings: ['none'],
  missing: ovsUserspaceMissing,
  start(setup: Setup): Promise<Testbed> {
    const options = { name: 'ovs-userspace', sandbox: { daemon: 'real' } as const };
    return startOvs(
      { ...options, threadName: /^pmd-c/, cycleNs: 1 },
      { ...setup, wiring: 'none', ports: 0 },
    );
  },
};
