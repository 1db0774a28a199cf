// The real ovs-vswitchd with its userspace datapath and without DPDK: its ports are devices of the kernel, so it takes
// part where traffic comes from network namespaces, and in what concerns the control plane.

import { existsSync } from 'node:fs';
import { Sandbox, type SandboxOptions } from '../../test/interop/sandbox.ts';

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
